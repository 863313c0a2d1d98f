//! The component's exports: translates between WIT and the modules of this library, nothing else.

use std::cell::RefCell;

use crate::error::{AnswerError, Error, Outcome, Rejection, RejectionClass, SecurityCheck};
use crate::operation::{self, OPERATIONS};
use crate::settings::Settings;
use crate::transport;

#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "generated from wit/, where the documentation is"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "binding",
        with: {
            "wasi:clocks/monotonic-clock@0.2.12": wasi::clocks::monotonic_clock,
            "wasi:clocks/wall-clock@0.2.12": wasi::clocks::wall_clock,
            "wasi:http/outgoing-handler@0.2.12": wasi::http::outgoing_handler,
            "wasi:http/types@0.2.12": wasi::http::types,
            "wasi:io/error@0.2.12": wasi::io::error,
            "wasi:io/poll@0.2.12": wasi::io::poll,
            "wasi:io/streams@0.2.12": wasi::io::streams,
        },
    });

    export!(Component with_types_in self);
    use super::Component;
}

use bindings::dingtalk::binding::types as wit;
use bindings::exports::dingtalk::binding::{init, invoke};

struct Component;

thread_local! {
    /// This instance's binding. A component has one thread.
    static SETTINGS: RefCell<Option<Settings>> = const { RefCell::new(None) };
}

fn pairs(metadata: &wit::Metadata) -> impl Iterator<Item = (&str, &str)> {
    metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

impl init::Guest for Component {
    fn init(properties: wit::Metadata) -> Result<(), wit::Error> {
        SETTINGS.with_borrow_mut(|settings| {
            *settings = None;
            *settings = Some(Settings::parse(pairs(&properties))?);
            Ok(())
        })
    }
}

impl invoke::Guest for Component {
    fn operations() -> Vec<String> {
        OPERATIONS.map(str::to_owned).to_vec()
    }

    fn invoke(request: wit::InvokeRequest) -> Result<wit::InvokeResponse, wit::Error> {
        SETTINGS.with_borrow(|settings| {
            let settings = settings.as_ref().ok_or(wit::Error::NotInitialized)?;
            let wit::InvokeRequest { operation, data, metadata } = request;
            let post = operation::prepare(settings, &operation, &data, pairs(&metadata), transport::now())?;
            let answer = transport::post(&post)?;
            let metadata = operation::conclude(settings, &post, &answer)?;
            Ok(wit::InvokeResponse { data: None, metadata })
        })
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<Error> for wit::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::NotInitialized => Self::NotInitialized,
            Error::Configuration { property, reason } => Self::Configuration(wit::PropertyError { property, reason }),
            Error::UnsupportedOperation(supported) => Self::UnsupportedOperation(supported),
            Error::InvalidMessage(reason) => Self::InvalidMessage(reason),
            Error::Unreachable { reason, outcome } => Self::Unreachable(wit::TransportError {
                reason,
                outcome: match outcome {
                    Outcome::NotSent => wit::Outcome::NotSent,
                    Outcome::Unknown => wit::Outcome::Unknown,
                },
            }),
            Error::UnexpectedAnswer(answer) => Self::UnexpectedAnswer(answer.into()),
            Error::Rejected(rejection) => Self::Rejected(rejection.into()),
            Error::NotReading(id) => Self::NotReading(id),
        }
    }
}

impl From<AnswerError> for wit::AnswerError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Status(status) => Self::Status(status),
            AnswerError::Html => Self::Html,
            AnswerError::Truncated => Self::Truncated,
            AnswerError::Oversized(cap) => Self::Oversized(cap),
            AnswerError::Malformed(what) => Self::Malformed(what),
            AnswerError::MissingErrcode => Self::MissingErrcode,
            AnswerError::Throttled(wait) => Self::Throttled(millis(wait)),
        }
    }
}

impl From<Rejection> for wit::Rejection {
    fn from(rejection: Rejection) -> Self {
        let Rejection { errcode, errmsg, class, check, retry_after } = rejection;
        Self {
            errcode,
            errmsg,
            class: match class {
                RejectionClass::Configuration => wit::RejectionClass::Configuration,
                RejectionClass::Content => wit::RejectionClass::Content,
                RejectionClass::RateLimited => wit::RejectionClass::RateLimited,
                RejectionClass::Quota => wit::RejectionClass::Quota,
                RejectionClass::Busy => wit::RejectionClass::Busy,
                RejectionClass::Unknown => wit::RejectionClass::Unknown,
            },
            check: check.map(|check| match check {
                SecurityCheck::Keyword => wit::SecurityCheck::Keyword,
                SecurityCheck::Signature => wit::SecurityCheck::Signature,
                SecurityCheck::Timestamp => wit::SecurityCheck::Timestamp,
                SecurityCheck::IpAddress => wit::SecurityCheck::IpAddress,
            }),
            retry_after: retry_after.map(millis),
        }
    }
}
