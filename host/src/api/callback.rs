//! `POST /v1.0/bindings/{name}/callback`: where DingTalk points.
//!
//! The only route that strangers may reach. What can be refused without the sandbox is refused first, and what
//! fails verification is answered alike, whatever failed: the log has the reason, the sender does not.

use std::time::Duration;

use dingtalk_binding::callback::MAX_BODY;
use dingtalk_binding::error::{ReceiveError, Refusal};
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::reply::{self, Reply};
use super::server::Seat;
use super::{Api, bindings};
use crate::event::TRACE;
use crate::ingress::body::{self, Unread};
use crate::input::CallbackError;
use crate::sandbox::{CallError, Callback};

/// DingTalk sends at most 128 KiB at once; who takes longer holds a connection for nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The daprd-like code of an answer that is no reply.
const CODE: &str = "ERR_CALLBACK";

impl Api {
    pub(super) async fn callback(&self, name: &str, request: Request<Incoming>, seat: &Seat) -> Reply {
        if request.method() != Method::POST {
            let mut reply = failed(StatusCode::METHOD_NOT_ALLOWED, "callbacks are sent with POST");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return reply;
        }
        let arrived = self.input.bindings().arrival();
        let (parts, body) = request.into_parts();
        let body = match body::read(&parts.headers, body, MAX_BODY, BODY_TIMEOUT, &seat.port.budget).await {
            Ok(body) => body,
            Err(Unread::Busy) => return later(StatusCode::SERVICE_UNAVAILABLE, "too many long bodies at once"),
            Err(Unread::TooLong) => return too_large(),
            Err(Unread::Incomplete) => return failed(StatusCode::BAD_REQUEST, "the body is not complete"),
            Err(Unread::TooSlow) => {
                return failed(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
            }
        };
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let (body, _share) = body;
        let callback = Callback { headers: headers.collect(), body, arrived };
        let _call = self.call(seat);
        match self.input.receive(name, callback, trace(&parts.headers)).await {
            Ok(answer) => {
                tracing::debug!(binding = name, "callback answered");
                let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut reply = reply::json(status, answer.body);
                if let Ok(content_type) = HeaderValue::try_from(answer.content_type) {
                    reply.headers_mut().insert(CONTENT_TYPE, content_type);
                }
                reply
            }
            Err(error) => self.refuse(name, &error),
        }
    }

    fn refuse(&self, name: &str, error: &CallbackError) -> Reply {
        let error = match error {
            CallbackError::NotFound(_) => return failed(StatusCode::NOT_FOUND, &error.to_string()),
            CallbackError::Call(error) => error,
        };
        let refusal = match error {
            CallError::Binding(ReceiveError::Refused(refusal)) => refusal,
            CallError::Overloaded(_) => {
                if let Some(more) = self.quiet.count(&format!("overloaded {name}")) {
                    tracing::warn!(binding = name, more, "too many callbacks at once");
                }
                return later(StatusCode::SERVICE_UNAVAILABLE, "too many callbacks at once");
            }
            // Not acknowledged, so that DingTalk sends it again. Which part was not ready concerns nobody outside.
            CallError::Binding(ReceiveError::HandlerFailed(_) | ReceiveError::NotReading(_)) => {
                // Each reason is news to the operator, and only what is verified comes as far as this.
                if let Some(more) = self.quiet.count(&format!("untaken {name} {error}")) {
                    tracing::warn!(binding = name, %error, more, "callback not acknowledged");
                }
                return later(StatusCode::SERVICE_UNAVAILABLE, "the message was not taken; send it again");
            }
            CallError::Binding(ReceiveError::NotInitialized) | CallError::Init(_) | CallError::Stopped { .. } => {
                if let Some(more) = self.quiet.count(&format!("failed {name}")) {
                    tracing::error!(binding = name, %error, more, "callback not acknowledged");
                }
                return failed(StatusCode::INTERNAL_SERVER_ERROR, "the message was not taken");
            }
        };
        if let Some(more) = self.quiet.count(&format!("refused {name}")) {
            tracing::warn!(binding = name, %refusal, more, "callback refused");
        }
        match refusal {
            Refusal::TooLarge(_) => too_large(),
            Refusal::WrongContentType => failed(StatusCode::UNSUPPORTED_MEDIA_TYPE, "callbacks are application/json"),
            Refusal::Malformed(reason) => failed(StatusCode::BAD_REQUEST, &format!("the body is no message: {reason}")),
            Refusal::Unsigned => failed(StatusCode::UNAUTHORIZED, "callback refused"),
            _ => failed(StatusCode::FORBIDDEN, "callback refused"),
        }
    }
}

fn too_large() -> Reply {
    failed(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {MAX_BODY} bytes"))
}

fn failed(status: StatusCode, message: &str) -> Reply {
    reply::error(status, CODE, message, &[])
}

fn later(status: StatusCode, message: &str) -> Reply {
    let mut reply = failed(status, message);
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}

/// The sender's trace, where there is one that can be handed on.
fn trace(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut trace = Vec::new();
    // A trace that cannot be read is no reason to lose a message.
    let _ = bindings::add_trace(headers, &mut trace);
    if !trace.iter().any(|(name, value)| name == TRACE[0] && is_traceparent(value)) {
        trace.clear();
    }
    trace
}

/// W3C trace context, section 3.2: version, trace, parent and flags, in lower case; neither id is zero.
fn is_traceparent(value: &str) -> bool {
    let mut parts = value.split('-');
    let mut part = |length| {
        let part = parts.next().filter(|part| part.len() == length);
        part.filter(|part| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let (version, trace, parent, flags) = (part(2), part(32), part(16), part(2));
    let is_id = |part: Option<&str>| part.is_some_and(|part| part.bytes().any(|b| b != b'0'));
    // Later versions may have more parts.
    let complete = version.is_some_and(|version| version != "ff" && (version != "00" || parts.next().is_none()));
    complete && is_id(trace) && is_id(parent) && flags.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_without_a_parent_is_none() {
        let mut headers = HeaderMap::new();
        headers.append("tracestate", "a=1".parse().unwrap());
        assert_eq!(trace(&headers), []);
        headers.append("traceparent", TRACEPARENT.parse().unwrap());
        assert_eq!(trace(&headers).len(), 2);
        // Two are none.
        headers.append("traceparent", TRACEPARENT.parse().unwrap());
        assert_eq!(trace(&headers), []);
    }

    /// The example of the W3C's text.
    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn parents_as_w3c_writes_them() {
        assert!(is_traceparent(TRACEPARENT));
        assert!(is_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like"));
        for wrong in [
            "",
            "00-1-2-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(wrong), "{wrong}");
        }
    }
}
