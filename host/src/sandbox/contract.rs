//! The contract of wit/ as Rust types, and its translation into the types that the pure modules use.

use std::time::Duration;

use dingtalk_binding::error::{AnswerError, Error, Outcome, Rejection, RejectionClass, SecurityCheck};

#[allow(missing_docs, unreachable_pub, reason = "generated from wit/, where the documentation is")]
mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "binding",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "wasi:http": wasmtime_wasi_http::p2::bindings::http,
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        },
    });
}

pub(super) use generated::dingtalk::binding::types as wit;
pub(super) use generated::{Binding, BindingPre};

/// One call of an operation.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// "create" or "get".
    pub operation: String,
    /// The operation's input.
    pub data: Vec<u8>,
    /// Options of this call.
    pub metadata: Vec<(String, String)>,
}

/// The outcome of an operation that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The operation's output.
    pub data: Option<Vec<u8>>,
    /// What the binding says about it.
    pub metadata: Vec<(String, String)>,
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

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        match error {
            wit::Error::NotInitialized => Self::NotInitialized,
            wit::Error::Configuration(wit::PropertyError { property, reason }) => {
                Self::Configuration { property, reason }
            }
            wit::Error::UnsupportedOperation(supported) => Self::UnsupportedOperation(supported),
            wit::Error::InvalidMessage(reason) => Self::InvalidMessage(reason),
            wit::Error::Unreachable(wit::TransportError { reason, outcome }) => Self::Unreachable {
                reason,
                outcome: match outcome {
                    wit::Outcome::NotSent => Outcome::NotSent,
                    wit::Outcome::Unknown => Outcome::Unknown,
                },
            },
            wit::Error::UnexpectedAnswer(answer) => Self::UnexpectedAnswer(answer.into()),
            wit::Error::Rejected(rejection) => Self::Rejected(rejection.into()),
            wit::Error::NotReading(id) => Self::NotReading(id),
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
            wit::AnswerError::Throttled(wait) => Self::Throttled(Duration::from_millis(wait)),
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
            retry_after: retry_after.map(Duration::from_millis),
        }
    }
}
