//! `POST` and `PUT /v1.0/bindings/{name}` and `…/{name}/{operation}`: what is checked before the binding is asked, and what
//! its answer becomes.

use std::fmt;

use bytes::Bytes;
use dingtalk_binding::contract::{self, InvokeRequest, InvokeResponse};
use dingtalk_binding::error::{self, InvokeCause, Outcome, PropertyError};
use dingtalk_binding::operation;
use http::{HeaderMap, StatusCode};

use crate::answer::{self, Answer};
use crate::problem::Problem;
use crate::status::{self, ErrorStatus};
use crate::trace;

/// Why an operation failed. The texts are daprd's, because clients show and compare them.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError<C: Failure> {
    /// No operation was named.
    #[error("operation field is missing from request")]
    MissingOperation,
    /// No binding has this name.
    #[error("couldn't find output binding {0}")]
    NotFound(String),
    /// The binding has no such operation.
    #[error("binding {name} does not support operation {operation}. supported operations:{}", supported.join(" "))]
    UnsupportedOperation {
        /// The binding.
        name: String,
        /// What was asked for.
        operation: String,
        /// What there is.
        supported: Vec<String>,
    },
    /// The binding itself failed.
    #[error(transparent)]
    Call(#[from] Failed<C>),
}

/// Why a binding could not do what it was asked for, as whoever called it knows.
pub trait Failure: fmt::Debug + fmt::Display {
    /// Whether a message may have reached the group.
    fn posted(&self) -> Outcome;
    /// What a program needs to decide what to do.
    fn metadata(&self) -> Vec<(String, String)>;
}

impl Failure for error::InvokeError {
    fn posted(&self) -> Outcome {
        match self.cause {
            // What the application has taken is no message to the group.
            InvokeCause::HandlerFailed(_) => Outcome::NotSent,
            _ => self.outcome,
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        self.metadata()
    }
}

impl Failure for PropertyError {
    fn posted(&self) -> Outcome {
        Outcome::NotSent
    }

    fn metadata(&self) -> Vec<(String, String)> {
        self.metadata()
    }
}

/// A failed call, with the advice that fits it.
#[derive(Debug)]
pub struct Failed<C> {
    error: C,
    has_uuid: bool,
}

impl<C: Failure> Failed<C> {
    /// Of a call that had a `msgUuid`, or not: see [`has_uuid`].
    pub fn new(error: C, has_uuid: bool) -> Self {
        Self { error, has_uuid }
    }

    /// The failure itself.
    pub fn error(&self) -> &C {
        &self.error
    }

    /// Whether the call had a `msgUuid`.
    pub fn has_uuid(&self) -> bool {
        self.has_uuid
    }

    /// The failure alone.
    pub fn into_error(self) -> C {
        self.error
    }
}

impl<C: Failure> Failed<C> {
    /// Whether the same call, made again, posts no second message.
    pub fn may_be_repeated(&self) -> bool {
        self.has_uuid || self.error.posted() == Outcome::NotSent
    }
}

impl<C: Failure> fmt::Display for Failed<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match (self.error.posted(), self.has_uuid) {
            (Outcome::NotSent, _) => "",
            (Outcome::Unknown, true) => "; send it again only with the same msgUuid",
            (Outcome::Unknown, false) => "; sent again it may arrive twice, which a msgUuid in every call prevents",
        };
        write!(f, "{}{advice}", self.error)
    }
}

impl<C: Failure> std::error::Error for Failed<C> {}

impl<C: Failure> InvokeError<C> {
    /// What a program needs to decide what to do; see [`error::InvokeError::metadata`].
    pub fn metadata(&self) -> Vec<(String, String)> {
        let error = match self {
            Self::MissingOperation => "missing-operation",
            Self::NotFound(_) => "not-found",
            Self::UnsupportedOperation { .. } => "unsupported-operation",
            Self::Call(failed) => return failed.error.metadata(),
        };
        [("error", error), ("outcome", Outcome::NotSent.name())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }
}

/// Whether a call can be repeated without a second message.
pub fn has_uuid(request: &InvokeRequest) -> bool {
    operation::has_uuid(&request.data, contract::pairs(&request.metadata))
}

/// Dapr's order of checks: the operation, the name, the kind of operation. `supported` is what the binding called
/// `name` can do, if there is one.
pub fn check<C: Failure>(
    name: &str,
    operation: &str,
    supported: Option<&[impl AsRef<str>]>,
) -> Result<(), InvokeError<C>> {
    if operation.is_empty() {
        return Err(InvokeError::MissingOperation);
    }
    let supported = supported.ok_or_else(|| InvokeError::NotFound(shown_name(name)))?;
    if supported.iter().any(|known| known.as_ref() == operation) {
        return Ok(());
    }
    Err(InvokeError::UnsupportedOperation {
        name: shown_name(name),
        operation: shown(operation, MAX_SHOWN),
        supported: supported.iter().map(|known| known.as_ref().to_owned()).collect(),
    })
}

/// The longest operation that an answer repeats: a body of nothing else would be sent back whole.
const MAX_SHOWN: usize = 128;

/// The longest name that a binding can have in Kubernetes.
const MAX_NAME: usize = 253;

/// The beginning of `text`, or all of it if it is not longer than `limit` bytes.
pub(crate) fn shown(text: &str, limit: usize) -> String {
    match text.get(..text.floor_char_boundary(limit)) {
        Some(start) if start.len() < text.len() => format!("{start}…"),
        _ => text.to_owned(),
    }
}

/// The name of a binding that may be none.
pub fn shown_name(name: &str) -> String {
    shown(name, MAX_NAME)
}

/// The form of the status that a call asks for, if it does.
pub fn error_status(headers: &HeaderMap) -> Result<Option<ErrorStatus>, Problem> {
    let Some(value) = headers.get(status::HEADER) else { return Ok(None) };
    let chosen = ErrorStatus::parse(value.to_str().unwrap_or_default());
    chosen.map(Some).map_err(|what| Problem::malformed(format!("header {} {what}", status::HEADER)))
}

/// Adds the caller's trace to a request, or says why there is none.
pub fn complete(headers: &HeaderMap, request: Result<InvokeRequest, Problem>) -> Result<InvokeRequest, Answer> {
    let mut request = request?;
    trace::add(headers, &mut request.metadata).map_err(Problem::malformed)?;
    Ok(request)
}

/// What became of an operation of the binding called `name`; should it have failed, with a status in the form `status`.
pub fn answer<C: Failure>(name: &str, result: Result<InvokeResponse, &InvokeError<C>>, status: ErrorStatus) -> Answer {
    match result {
        Ok(InvokeResponse { data, metadata }) => {
            let data = Bytes::from(data.unwrap_or_default());
            answer::with_metadata(answer::json(StatusCode::OK, data), &metadata)
        }
        Err(error) => Problem { status, ..Problem::not_invoked(name, error) }.into(),
    }
}

/// A body that is no request, in daprd's words.
pub fn undecodable(what: &str) -> Problem {
    Problem::malformed(format!("failed deserializing HTTP body: {what}"))
}
