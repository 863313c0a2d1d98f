//! The component's exports: translates between WIT and the modules of this library, nothing else.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use spin::Mutex;

use crate::callback;
use crate::error::{AnswerError, Error, Outcome, Refusal, Rejection, RejectionClass, SecurityCheck};
use crate::json;
use crate::operation::{self, OPERATIONS};
use crate::reply;
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

use bindings::dingtalk::binding::{handler, types as wit};
use bindings::exports::dingtalk::binding::{init, invoke, read};

struct Component;

/// This instance's binding.
struct Binding {
    settings: Settings,
    /// Between `read` and `close`.
    reading: bool,
}

/// Never waited for: an instance has one thread, and is not entered again before it has returned.
static BINDING: Mutex<Option<Binding>> = Mutex::new(None);

fn with<T>(call: impl FnOnce(&Binding) -> Result<T, wit::Error>) -> Result<T, wit::Error> {
    call(BINDING.lock().as_ref().ok_or(wit::Error::NotInitialized)?)
}

fn pairs(metadata: &wit::Metadata) -> impl Iterator<Item = (&str, &str)> + Clone {
    metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

impl init::Guest for Component {
    fn init(properties: wit::Metadata) -> Result<(), wit::Error> {
        let mut binding = BINDING.lock();
        *binding = None;
        *binding = Some(Binding { settings: Settings::parse(pairs(&properties))?, reading: false });
        Ok(())
    }
}

impl invoke::Guest for Component {
    fn operations() -> Vec<String> {
        OPERATIONS.map(str::to_owned).to_vec()
    }

    fn invoke(request: wit::InvokeRequest) -> Result<wit::InvokeResponse, wit::Error> {
        with(|Binding { settings, reading }| {
            let wit::InvokeRequest { operation, data, metadata } = request;
            let start = transport::now();
            match operation::prepare(settings, &operation, &data, pairs(&metadata), start)? {
                Some(post) => {
                    let answer = transport::post(&post, start)?;
                    let metadata = operation::conclude(settings, &post, &answer)?;
                    Ok(wit::InvokeResponse { data: None, metadata })
                }
                None if !reading => Err(Error::NotReading(settings.id.clone()).into()),
                None => {
                    let data = handler::handle(&wit::Event { data, metadata })?;
                    Ok(wit::InvokeResponse { data, metadata: Vec::new() })
                }
            }
        })
    }
}

impl read::Guest for Component {
    fn read() -> Result<(), wit::Error> {
        set_reading(true)
    }

    fn close() {
        // Nothing was reading if there is no binding.
        let _ = set_reading(false);
    }

    fn receive(callback: wit::Callback) -> Result<wit::Reply, wit::Error> {
        with(|Binding { settings, reading }| {
            let wit::Callback { headers, mut body } = callback;
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            let metadata = callback::accept(&settings.callbacks, headers, &body, transport::now())
                .map_err(Error::CallbackRefused)?;
            // After the check, so that nobody learns without a signature whether anything reads.
            if !reading {
                return Err(Error::NotReading(settings.id.clone()).into());
            }
            json::mend(&mut body);
            let answer = handler::handle(&wit::Event { data: body, metadata: metadata.0 })?.unwrap_or_default();
            // A mistake in a reply was the handler's to report; DingTalk posts nothing.
            let mut body = reply::of(&answer).ok().flatten().unwrap_or(reply::EMPTY).as_bytes().to_vec();
            json::mend(&mut body);
            Ok(wit::Reply { status: 200, content_type: "application/json".into(), body })
        })
    }
}

fn set_reading(to: bool) -> Result<(), wit::Error> {
    BINDING.lock().as_mut().ok_or(wit::Error::NotInitialized)?.reading = to;
    Ok(())
}

fn millis(time: core::time::Duration) -> u64 {
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
            Error::CallbackRefused(refusal) => Self::CallbackRefused(refusal.into()),
            Error::HandlerFailed(reason) => Self::HandlerFailed(reason),
            Error::InvalidSessionWebhook(reason) => Self::InvalidSessionWebhook(reason),
            Error::ExpiredSessionWebhook => Self::ExpiredSessionWebhook,
        }
    }
}

impl From<Refusal> for wit::Refusal {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unverifiable => Self::Unverifiable,
            Refusal::Unsigned => Self::Unsigned,
            Refusal::Ambiguous => Self::Ambiguous,
            Refusal::BadTimestamp => Self::BadTimestamp,
            Refusal::Expired => Self::Expired,
            Refusal::BadSignature => Self::BadSignature,
            Refusal::Reused => Self::Reused,
            Refusal::WrongRobot => Self::WrongRobot,
            Refusal::TooLarge(cap) => Self::TooLarge(cap),
            Refusal::WrongContentType => Self::WrongContentType,
            Refusal::Malformed(reason) => Self::Malformed(reason),
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
