//! What counts towards a robot's rate and a month's allowance, beyond this process: for the next one, or for others that post
//! to the same robot.

use super::lesson::{Closing, Lesson};
use super::quota::Quota;
use super::rate::Rate;
use crate::event::{BoxFuture, Digest};

/// Remembers posts, closings and months.
pub(crate) trait Ledger: Send + Sync + 'static {
    /// Notes that messages are about to be posted, before the first of them is: on disk when it returns. Who shares robots with
    /// others says no if those have used up the rate, or learnt that the robot is shut.
    fn claim(&self, intent: Intent) -> BoxFuture<'_, Result<Claimed, Unclaimed>>;

    /// Notes what one of these posts came to, in its own time. Should it be lost, the post counts as one whose end is not
    /// known.
    fn end(&self, claim: Claim, lesson: &Lesson);

    /// What an earlier process has left, if [`Ledger::claim`] does not know it anyway.
    fn known(&self) -> BoxFuture<'_, Result<Vec<Known>, String>>;
}

/// Messages that are about to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Intent {
    /// The robot.
    pub(crate) robot: Digest,
    /// What it takes, all of which is kept; without a rate, they count for others alone.
    pub(crate) rates: Vec<Rate>,
    /// How many.
    pub(crate) messages: u16,
    /// For how many milliseconds after its end each may count, for any binding of the robot.
    pub(crate) counts_for: u32,
    /// The allowance of which they are a part.
    pub(crate) quota: Option<Quota>,
    /// Whether they may use what is reserved of it.
    pub(crate) is_urgent: bool,
    /// The one of the outbox that it is, if it is: from then on DingTalk may know its `msgUuid`.
    pub(crate) queued: Option<i64>,
}

/// Posts that are noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// One for each message.
    pub(crate) posts: Vec<Claim>,
    /// How many messages the allowance's month has now, with these.
    pub(crate) used: Option<u64>,
}

/// A post that is noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Its number.
    pub(crate) id: i64,
    /// The robot.
    pub(crate) robot: Digest,
    /// Where it was counted: the allowance's name and the month.
    pub(crate) counted: Option<(String, String)>,
}

/// Why a post could not be noted, so that there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// Others have used up the rate: so many milliseconds to wait.
    Full(u64),
    /// Others have learnt that the robot is shut: so many milliseconds to wait.
    Shut(Closing, u64),
    /// The month's allowance is used up by so many messages, and the month goes on for so many milliseconds.
    Spent(u64, u64),
    /// It cannot be noted, and why.
    Unavailable(String),
}

/// What is known of a robot. Times are how many milliseconds ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The robot.
    pub(crate) robot: Digest,
    /// When the posts ended that may still count, the oldest first. Of one whose end nobody has seen, when it must have, which is
    /// yet to come: negative.
    pub(crate) posts: Vec<i64>,
    /// Why it is shut, and for how long.
    pub(crate) shut: Option<(Closing, u64)>,
}
