//! The contract of wit/ as Rust types, and its translation into the types that the pure modules use.

use std::fmt;

use dingtalk_binding::error::{
    AnswerError, HandlerError, InvokeCause, InvokeError, Outcome, PropertyError, ReceiveError, Refusal, Rejection,
    RejectionClass, SecurityCheck,
};

use crate::clock::Arrival;

#[allow(missing_docs, unreachable_pub, reason = "generated from wit/, where the documentation is")]
mod generated {
    wasmtime::component::bindgen!({
        path: ["../wit", "../wit/component"],
        world: "dingtalk:component/binding",
        imports: { "dingtalk:binding/handler.handle": async | trappable, default: trappable },
        exports: { default: async },
        with: {
            "wasi:http": wasmtime_wasi_http::p2::bindings::http,
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        },
    });
}

pub use dingtalk_binding::contract::{InvokeRequest as Request, InvokeResponse as Response, Reply};

pub(super) use generated::dingtalk::binding::{handler, types as wit};
pub(super) use generated::{Binding, BindingIndices};

/// One HTTP request from DingTalk, as it arrived. Its `Debug` output shows sizes alone.
#[derive(Clone)]
pub struct Callback {
    /// Every header in order, repeated ones included.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// When it arrived: the time by which it is verified.
    pub arrived: Arrival,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "callback with {} headers, {} bytes", self.headers.len(), self.body.len())
    }
}

impl From<Callback> for wit::Callback {
    fn from(callback: Callback) -> Self {
        let Callback { headers, body, .. } = callback;
        Self { headers, body }
    }
}

impl From<wit::Reply> for Reply {
    fn from(reply: wit::Reply) -> Self {
        let wit::Reply { status, content_type, body } = reply;
        Self { status, content_type, body }
    }
}

impl From<Request> for wit::InvokeRequest {
    fn from(request: Request) -> Self {
        let Request { operation, data, metadata } = request;
        Self { operation, data, metadata }
    }
}

impl From<wit::InvokeResponse> for Response {
    fn from(response: wit::InvokeResponse) -> Self {
        let wit::InvokeResponse { data, metadata } = response;
        Self { data, metadata }
    }
}

impl From<wit::PropertyError> for PropertyError {
    fn from(error: wit::PropertyError) -> Self {
        let wit::PropertyError { property, reason } = error;
        Self { property, reason }
    }
}

impl From<wit::InvokeError> for InvokeError {
    fn from(error: wit::InvokeError) -> Self {
        let wit::InvokeError { cause, outcome } = error;
        let cause = match cause {
            wit::InvokeCause::NotInitialized => InvokeCause::NotInitialized,
            wit::InvokeCause::UnsupportedOperation(supported) => InvokeCause::UnsupportedOperation(supported),
            wit::InvokeCause::InvalidMessage(reason) => InvokeCause::InvalidMessage(reason),
            wit::InvokeCause::InvalidSessionWebhook(reason) => InvokeCause::InvalidSessionWebhook(reason),
            wit::InvokeCause::ExpiredSessionWebhook => InvokeCause::ExpiredSessionWebhook,
            wit::InvokeCause::Unreachable(reason) => InvokeCause::Unreachable(reason),
            wit::InvokeCause::UnexpectedAnswer(answer) => InvokeCause::UnexpectedAnswer(answer.into()),
            wit::InvokeCause::Rejected(rejection) => InvokeCause::Rejected(rejection.into()),
            wit::InvokeCause::NotReading(id) => InvokeCause::NotReading(id),
            wit::InvokeCause::HandlerFailed(reason) => InvokeCause::HandlerFailed(reason),
        };
        let outcome = match outcome {
            wit::Outcome::NotSent => Outcome::NotSent,
            wit::Outcome::Unknown => Outcome::Unknown,
        };
        Self { cause, outcome }
    }
}

impl From<wit::ReceiveError> for ReceiveError {
    fn from(error: wit::ReceiveError) -> Self {
        match error {
            wit::ReceiveError::NotInitialized => Self::NotInitialized,
            wit::ReceiveError::Refused(refusal) => Self::Refused(refusal.into()),
            wit::ReceiveError::NotReading(id) => Self::NotReading(id),
            wit::ReceiveError::HandlerFailed(reason) => Self::HandlerFailed(reason),
        }
    }
}

impl From<HandlerError> for wit::HandlerError {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::Failed(reason) => Self::Failed(reason),
            HandlerError::NotReading => Self::NotReading,
            HandlerError::Reused => Self::Reused,
        }
    }
}

impl From<wit::Refusal> for Refusal {
    fn from(refusal: wit::Refusal) -> Self {
        match refusal {
            wit::Refusal::Unverifiable => Self::Unverifiable,
            wit::Refusal::Unsigned => Self::Unsigned,
            wit::Refusal::Ambiguous => Self::Ambiguous,
            wit::Refusal::BadTimestamp => Self::BadTimestamp,
            wit::Refusal::Expired => Self::Expired,
            wit::Refusal::BadSignature => Self::BadSignature,
            wit::Refusal::Reused => Self::Reused,
            wit::Refusal::WrongRobot => Self::WrongRobot,
            wit::Refusal::TooLarge(cap) => Self::TooLarge(cap),
            wit::Refusal::WrongContentType => Self::WrongContentType,
            wit::Refusal::Malformed(reason) => Self::Malformed(reason),
        }
    }
}

impl From<wit::AnswerError> for AnswerError {
    fn from(error: wit::AnswerError) -> Self {
        match error {
            wit::AnswerError::Status(status) => Self::Status(status),
            wit::AnswerError::Html => Self::Html,
            wit::AnswerError::Truncated => Self::Truncated,
            wit::AnswerError::Oversized(cap) => Self::Oversized(cap),
            wit::AnswerError::Malformed(what) => Self::Malformed(what),
            wit::AnswerError::MissingErrcode => Self::MissingErrcode,
            wit::AnswerError::Throttled(wait) => Self::Throttled(wait),
        }
    }
}

impl From<wit::Rejection> for Rejection {
    fn from(rejection: wit::Rejection) -> Self {
        let wit::Rejection { errcode, errmsg, class, check, retry_after } = rejection;
        Self {
            errcode,
            errmsg,
            class: match class {
                wit::RejectionClass::Configuration => RejectionClass::Configuration,
                wit::RejectionClass::Content => RejectionClass::Content,
                wit::RejectionClass::RateLimited => RejectionClass::RateLimited,
                wit::RejectionClass::Quota => RejectionClass::Quota,
                wit::RejectionClass::Busy => RejectionClass::Busy,
                wit::RejectionClass::Unknown => RejectionClass::Unknown,
            },
            check: check.map(|check| match check {
                wit::SecurityCheck::Keyword => SecurityCheck::Keyword,
                wit::SecurityCheck::Signature => SecurityCheck::Signature,
                wit::SecurityCheck::Timestamp => SecurityCheck::Timestamp,
                wit::SecurityCheck::IpAddress => SecurityCheck::IpAddress,
            }),
            retry_after,
        }
    }
}
