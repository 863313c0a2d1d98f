//! Why a request was not done, in the words that a client is told: one for HTTP, gRPC and the gateway component.

use crate::caller::Stranger;
use crate::invoke::{Failure, InvokeError};
use crate::status::ErrorStatus;

/// What kind of problem it is. Each protocol has a status for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be understood.
    Malformed,
    /// There is more of it than is taken.
    TooLong,
    /// Its sender took too long.
    TooSlow,
    /// It may not be asked from where it comes.
    Refused,
    /// It was understood, and could not be done.
    Failed,
    /// There is no room for it now, and there will be.
    Busy,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which status it has.
    pub kind: Kind,
    /// daprd's code for it, or one in its form.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// For programs.
    pub details: Vec<(String, String)>,
    /// Which form its status has over HTTP.
    pub status: ErrorStatus,
}

impl Problem {
    fn new(kind: Kind, reason: &'static str, message: String) -> Self {
        Self { kind, reason, message, details: Vec::new(), status: ErrorStatus::Dapr }
    }

    /// A request that cannot be understood.
    pub fn malformed(what: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, "ERR_MALFORMED_REQUEST", what.into())
    }

    /// A request that is longer than is taken.
    pub fn too_long(what: impl Into<String>) -> Self {
        Self::new(Kind::TooLong, "ERR_MALFORMED_REQUEST", what.into())
    }

    /// A request that took too long to arrive.
    pub fn too_slow(what: impl Into<String>) -> Self {
        Self::new(Kind::TooSlow, "ERR_MALFORMED_REQUEST", what.into())
    }

    /// There is no room for the request now, and there will be.
    pub fn busy(what: impl Into<String>) -> Self {
        Self::new(Kind::Busy, "ERR_OVERLOADED", what.into())
    }

    /// A caller without a token that may be a page in somebody's browser; see [`Stranger::explained`].
    pub fn stranger(what: String) -> Self {
        Self::new(Kind::Refused, "ERR_CALLER_REFUSED", what)
    }

    /// The binding called `name` has not done what it was asked for.
    pub fn not_invoked<C: Failure>(name: &str, error: &InvokeError<C>) -> Self {
        let message = format!("error invoking output binding {}: {error}", crate::invoke::shown_name(name));
        Self { details: error.metadata(), ..Self::new(Kind::Failed, "ERR_INVOKE_OUTPUT_BINDING", message) }
    }
}

impl Stranger {
    /// The problem of who is refused as a stranger where a token would do.
    pub fn problem(&self, names: &crate::caller::Names) -> Problem {
        Problem::stranger(self.explained("set DAPR_API_TOKEN, or ", names))
    }
}
