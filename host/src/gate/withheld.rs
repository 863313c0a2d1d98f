//! Why a message was not let through to its robot, in words for people and for programs.

use std::fmt;
use std::time::Duration;

use super::lesson::{Closing, Kind, THROTTLED};
use super::rate::Rate;

/// Why a message was not let through to its robot. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    pub(super) why: Why,
    /// After that long it may be let through; never sooner.
    pub(super) wait: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    Rate(Rate),
    Shut(Closing),
    /// So many wait already.
    Waiting(usize),
    /// Of the month's allowance, so many messages are used.
    Spent {
        used: u64,
        limit: u64,
    },
    /// What must be noted before a message is posted cannot be.
    Unavailable(String),
}

impl Withheld {
    /// What a program needs to decide what to do: the names are those of DingTalk's own refusals.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        let class = match &self.why {
            Why::Rate(_) | Why::Waiting(_) => "rate-limited",
            Why::Spent { .. } => Kind::Quota.name(),
            Why::Unavailable(_) => "unavailable",
            Why::Shut(closing) => closing.kind.name(),
        };
        let mut metadata = vec![("class", class.to_owned())];
        if let Why::Shut(closing) = &self.why {
            metadata.push(("errcode", closing.errcode.to_string()));
            metadata.extend(closing.check.map(|check| ("check", check.name().to_owned())));
        }
        metadata.push(("retryAfter", self.wait.as_millis().to_string()));
        metadata
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.wait.as_millis().div_ceil(1_000);
        match &self.why {
            Why::Rate(rate) => {
                write!(f, "the robot takes {rate} (property \"rateLimit\"); send again after {seconds} s")
            }
            Why::Waiting(number) => {
                write!(f, "{number} calls wait for their turn already; send again after {seconds} s")
            }
            Why::Spent { used, limit } => write!(
                f,
                "{used} of the month's {limit} messages are used (properties \"quota\" and \"quotaReserve\"); the next month begins \
                 in {seconds} s"
            ),
            Why::Unavailable(reason) => {
                write!(f, "what was posted cannot be noted: {reason}; send again after {seconds} s")
            }
            Why::Shut(Closing { errcode: THROTTLED, .. }) => {
                write!(f, "DingTalk throttles this address (status {THROTTLED}); send again after {seconds} s")
            }
            Why::Shut(Closing { errcode, kind: Kind::Rate, .. }) => {
                write!(
                    f,
                    "DingTalk has shut the robot for too many messages (errcode {errcode}); send again after {seconds} s"
                )
            }
            Why::Shut(Closing { errcode, kind: Kind::Quota, .. }) => write!(
                f,
                "the month's allowance is used up (errcode {errcode}); whether there is more is asked again in {seconds} s"
            ),
            Why::Shut(Closing { errcode, kind: Kind::Configuration, .. }) => write!(
                f,
                "DingTalk refuses whatever this binding sends (errcode {errcode}): mend its component file or the robot's \
                 settings; whether that is done is asked again in {seconds} s"
            ),
        }
    }
}
