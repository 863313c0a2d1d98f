//! `POST /v1.0/bindings/{name}/callback`: where DingTalk points, and what it is answered.
//!
//! The only route that strangers may reach: what fails verification is answered alike, whatever failed. The log has
//! the reason, the sender does not.

use dingtalk_binding::callback::MAX_BODY;
use dingtalk_binding::contract::Reply;
use dingtalk_binding::error::{ReceiveError, Refusal};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};

use crate::answer::{self, Answer};

/// The daprd-like code of an answer that is no reply.
const CODE: &str = "ERR_CALLBACK";

/// Refuses whatever is no POST.
pub fn check(method: &Method) -> Result<(), Answer> {
    if method == Method::POST {
        return Ok(());
    }
    let mut answer = failed(StatusCode::METHOD_NOT_ALLOWED, "callbacks are sent with POST");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    Err(answer)
}

/// The binding's reply, as it is.
pub fn replied(reply: Reply) -> Answer {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = answer::json(status, reply.body);
    if let Ok(content_type) = HeaderValue::try_from(reply.content_type) {
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    answer
}

/// What the sender learns of a failure.
pub fn refused(error: &ReceiveError) -> Answer {
    let refusal = match error {
        ReceiveError::Refused(refusal) => refusal,
        // Not acknowledged, so that DingTalk sends it again. Which part was not ready concerns nobody outside.
        ReceiveError::HandlerFailed(_) | ReceiveError::NotReading(_) => {
            return busy("the message was not taken; send it again");
        }
        ReceiveError::NotInitialized => return broken(),
    };
    match refusal {
        Refusal::TooLarge(_) => too_large(),
        Refusal::WrongContentType => failed(StatusCode::UNSUPPORTED_MEDIA_TYPE, "callbacks are application/json"),
        Refusal::Malformed(reason) => failed(StatusCode::BAD_REQUEST, &format!("the body is no message: {reason}")),
        Refusal::Unsigned => failed(StatusCode::UNAUTHORIZED, "callback refused"),
        _ => failed(StatusCode::FORBIDDEN, "callback refused"),
    }
}

/// No binding of this name has an input side.
pub fn not_found(name: &str) -> Answer {
    failed(StatusCode::NOT_FOUND, &format!("couldn't find input binding {name}"))
}

/// We are at fault, and only whoever runs us learns why.
pub fn broken() -> Answer {
    failed(StatusCode::INTERNAL_SERVER_ERROR, "the message was not taken")
}

/// There is no room now, and there will be.
pub fn busy(message: &str) -> Answer {
    let mut answer = failed(StatusCode::SERVICE_UNAVAILABLE, message);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// The body is longer than DingTalk's can be.
pub fn too_large() -> Answer {
    failed(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {MAX_BODY} bytes"))
}

/// The body ended early.
pub fn incomplete() -> Answer {
    failed(StatusCode::BAD_REQUEST, "the body is not complete")
}

/// The sender took too long.
pub fn too_slow() -> Answer {
    failed(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")
}

fn failed(status: StatusCode, message: &str) -> Answer {
    answer::error(status, CODE, message, &[])
}
