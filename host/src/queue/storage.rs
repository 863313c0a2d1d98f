//! What a queue needs of whatever keeps it. One suite holds each that there is to it.

use bytes::Bytes;

use super::outbox::DeadLetter;
use super::store::{Due, Item, Room, Stored};
use super::{Counts, QueueError};
use crate::event::BoxFuture;

/// What came of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// It was taken. The reply is kept for a repetition.
    Delivered(Option<Bytes>),
    /// It will never be taken.
    Refused(String),
    /// It is to be tried again.
    Failed {
        /// What was wrong.
        error: String,
        /// When.
        due: u64,
        /// Whether it only suffers from the state of whoever takes it.
        suffers: bool,
    },
}

/// Whose events are to be tried at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wake {
    /// All.
    All,
    /// Those that only suffered.
    Suffering,
    /// Those of this binding.
    Binding(String),
}

/// What old entries came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tidied {
    /// Events that are dead now because of their age.
    pub(super) expired: usize,
    /// Whether there is more to do.
    pub(super) more: bool,
}

/// Is called once the events are on disk, before any of them can be delivered.
pub(super) type Then = Box<dyn FnOnce(Vec<Stored>) + Send>;

/// Keeps events until they are delivered. What returns is on disk. Times are in milliseconds since the Unix epoch.
pub(super) trait Storage: Send + Sync + 'static {
    /// Stores these, all or none, each unless its identifier is known.
    fn insert(&self, items: Vec<Item>, now: u64, then: Then) -> BoxFuture<'_, Result<(), QueueError>>;

    /// The events to deliver now, as far as there is room.
    fn due(&self, room: Room, now: u64) -> BoxFuture<'_, Result<Due, QueueError>>;

    /// After [`Self::due`] failed: whether what it failed for is out of the way now.
    fn pass_on(&self, now: u64) -> BoxFuture<'_, bool>;

    /// Stores what came of a delivery.
    fn end(&self, seq: i64, end: End, now: u64) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Those that wait for the binding of `seq` and may become one message with it: it first, then the others in the order in which
    /// they were accepted. They have its rank, and each conversation gives what comes first in it, up to a message that was
    /// tried before, or expires; one from which something is being delivered, or that is not due, gives nothing. So the first so
    /// many of them keep every conversation's order. Nothing, unless more than `beyond` wait for the binding.
    fn front(&self, seq: i64, beyond: usize, now: u64) -> BoxFuture<'_, Result<Vec<(i64, Bytes)>, QueueError>> {
        let _ = (seq, beyond, now);
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The first of these has `data` from now on, and stands for the others, which are done. Returns whether it is so: not if
    /// [`Self::front`] would not give them any more, because another one of them was begun since, the operator was faster, or
    /// something that comes first was accepted.
    fn unite(&self, seqs: Vec<i64>, data: Bytes, now: u64) -> BoxFuture<'_, Result<bool, QueueError>> {
        let _ = (seqs, data, now);
        Box::pin(async { Ok(false) })
    }

    /// The reply went elsewhere: a repetition must not have it again.
    fn forget_reply(&self, seq: i64) -> BoxFuture<'_, Result<(), QueueError>>;

    /// Makes some of these due. Returns whether there may be more.
    fn wake(&self, which: Wake, now: u64) -> BoxFuture<'_, Result<bool, QueueError>>;

    /// Sets aside some of what is too old, and removes some of what was kept for long enough.
    fn tidy(&self, now: u64) -> BoxFuture<'_, Result<Tidied, QueueError>>;

    /// Of an outbox, some dead messages of which nobody has been told, the first ones, but none of the bindings in `except`.
    fn letters(&self, except: Vec<String>) -> BoxFuture<'_, Result<Vec<DeadLetter>, QueueError>>;

    /// Somebody has been told that a message died at `died_at`; if it was put back and died again since, that is to be told, too.
    fn told(&self, seq: i64, died_at: u64) -> BoxFuture<'_, Result<(), QueueError>>;

    /// How many events cannot be read, and are left where they are.
    fn passed_over(&self) -> BoxFuture<'_, usize>;

    /// How many wait, and how many are dead.
    fn counts(&self) -> BoxFuture<'_, Result<Counts, QueueError>>;

    /// When the pending event was accepted that waits for longest.
    fn oldest(&self) -> BoxFuture<'_, Result<Option<u64>, QueueError>>;

    /// Ends it. When this returns, another process can have it.
    fn close(&self) -> BoxFuture<'_, ()>;
}
