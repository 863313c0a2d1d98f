//! Why a binding has not done what it was asked for.

use dingtalk_api::invoke;
use dingtalk_binding::error::{self, Outcome};

use crate::gate::Withheld;
use crate::queue::QueueError;
use crate::sandbox::CallError;

/// The item of metadata that says how often something was tried, where it was more than once.
pub(super) const ATTEMPTS: &str = "attempts";

/// Why a binding has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum InvokeFailure {
    /// It was not asked: its robot takes nothing now.
    #[error("dingtalk webhook error: {0}. Nothing was sent")]
    Withheld(Withheld),
    /// It was to be queued, and could not be.
    #[error("dingtalk webhook error: {0}. Nothing was sent")]
    Queue(#[from] QueueError),
    /// A message of this `msgUuid` was queued before, and was given up.
    #[error(
        "dingtalk webhook error: the message with this msgUuid was queued before as {0}, and was given up: see `outbox list`; send it \
         with `outbox retry {0}`, or as a new one with another msgUuid. Nothing was sent"
    )]
    GivenUp(i64),
    /// It may have been posted, under a `msgUuid` that the host has made for it.
    #[error("{error} (the host has given it the msgUuid {uuid})")]
    Made {
        /// That one.
        uuid: String,
        /// What happened.
        error: Box<InvokeFailure>,
    },
    /// It failed.
    #[error(transparent)]
    Call(#[from] CallError<error::InvokeError>),
    /// It was not sent for want of a connection to the robot, and there may be one in a moment.
    #[error(transparent)]
    Unconnected(CallError<error::InvokeError>),
    /// It was tried more than once, and failed each time.
    #[error("{error} (attempts: {attempts})")]
    Tried {
        /// How often.
        attempts: u32,
        /// What happened the last time.
        error: Box<InvokeFailure>,
    },
    /// Of a message in parts, the first ones were posted, and this one was not.
    #[error("{}. This was part {number} of {of}; those before it were posted", of_part(error))]
    Part {
        /// Which one, from 2.
        number: usize,
        /// How many there are.
        of: usize,
        /// What happened to it.
        error: Box<InvokeFailure>,
    },
}

/// What happened to a part, without what would be said of a whole message.
fn of_part(error: &InvokeFailure) -> String {
    error.to_string().replace(". Nothing was sent", "")
}

impl invoke::Failure for InvokeFailure {
    fn posted(&self) -> Outcome {
        match self {
            Self::Withheld(_) | Self::Queue(_) | Self::GivenUp(_) => Outcome::NotSent,
            Self::Call(error) | Self::Unconnected(error) => error.posted(),
            Self::Made { error, .. } | Self::Tried { error, .. } => error.posted(),
            // Sent again as a whole, the first parts would arrive twice.
            Self::Part { .. } => Outcome::Unknown,
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        match self {
            Self::Withheld(withheld) => {
                let named = [("error", "withheld".into()), ("outcome", self.posted().name().into())];
                named.into_iter().chain(withheld.metadata()).map(|(name, value)| (name.to_owned(), value)).collect()
            }
            Self::Queue(_) | Self::GivenUp(_) => {
                let is_repeated = matches!(self, Self::Queue(QueueError::OtherBody { .. }) | Self::GivenUp(_));
                let error = if is_repeated { "repeated" } else { "outbox-unavailable" };
                [("error", error), ("outcome", self.posted().name())]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .to_vec()
            }
            Self::Call(error) | Self::Unconnected(error) => error.metadata(),
            Self::Tried { attempts, error } => {
                let mut metadata = error.metadata();
                metadata.push((ATTEMPTS.to_owned(), attempts.to_string()));
                metadata
            }
            Self::Made { uuid, error } => {
                let mut metadata = error.metadata();
                metadata.push(("msgUuid".to_owned(), uuid.clone()));
                metadata
            }
            Self::Part { number, of, error } => {
                let mut metadata = error.metadata();
                let outcome = metadata.iter_mut().find(|(name, _)| name == "outcome");
                if let Some((_, outcome)) = outcome {
                    self.posted().name().clone_into(outcome);
                }
                metadata
                    .extend([("part", number), ("parts", of)].map(|(name, value)| (name.into(), value.to_string())));
                metadata
            }
        }
    }
}
