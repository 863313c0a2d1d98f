//! What `--outbox DIR` means: a message is on disk before its caller is told that it is queued, and is posted from there,
//! within its robot's limits, until DingTalk has taken it, also after `kill -9`.
//!
//! A conversation is what the caller names (metadata `conversation`); messages without one are in one. What has the priority
//! `high` comes before what has none, and `low` after it. Bindings of one robot and one secret have their conversations in common:
//! their order is one.
//!
//! **Once.** Each message has a `msgUuid`, its caller's or one that is made here, which goes with every attempt: of two posts
//! with the same one DingTalk shows one. So a message whose post has an unknown outcome is posted again.
//!
//! **What is kept.** A pending or dead message: all of it, a dead one until the operator retries or drops it. A posted or
//! dropped one: binding, `msgUuid`, a hash of the body, the number of failures and the times, for 24 hours, so that a caller who
//! repeats it does not send it twice. And which robots were posted to within their window, so that the next process keeps to
//! their limits.

mod letters;
mod line;
pub mod retry;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::postgres::{self, Database, Events};
use super::siblings::Groups;
use super::storage::Storage;
use super::store::{Item, Stored};
use super::writer::Posts;
use super::{Counts, Limits, Queue, QueueError, Side};
use crate::clock::Clock;
use crate::event::{BoxFuture, DEAD_LETTER, Event};
use crate::gate::ledger::Ledger;

use line::{Holds, ToRobots};
use retry::Setback;

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Before others; it may use what is reserved of the month's allowance.
    High,
    /// As most.
    #[default]
    Normal,
    /// After others.
    Low,
}

impl Priority {
    /// Reads a metadata item. The error is meant to follow its name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.trim() {
            "high" => Ok(Self::High),
            "" | "normal" => Ok(Self::Normal),
            "low" => Ok(Self::Low),
            _ => Err("is none of \"high\", \"normal\", \"low\""),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    fn rank(self) -> i64 {
        match self {
            Self::High => 1,
            Self::Normal => 0,
            Self::Low => -1,
        }
    }
}

/// A message to be posted. Its `Debug` output shows nothing of it: people wrote it.
#[derive(Clone)]
pub struct Message {
    /// Whose robot posts it.
    pub binding: String,
    /// The whole body, with its `msgUuid`.
    pub body: Bytes,
    /// That.
    pub uuid: String,
    /// Within which order is kept.
    pub conversation: String,
    /// What comes first.
    pub priority: Priority,
    /// After that long it is not posted any more.
    pub expires: Option<Duration>,
    /// W3C trace context of the call that brought it.
    pub trace: Vec<(String, String)>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message of {:?}, {} bytes", self.binding, self.body.len())
    }
}

/// In the metadata of what is stored.
const PRIORITY: &str = "priority";
const ANSWERS: &str = "answers";

impl Message {
    fn into_item(self, now: u64) -> Item {
        let Self { binding, body, uuid, conversation, priority, expires, trace } = self;
        let expires_at = expires.map(|after| now.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
        let metadata = vec![("msgUuid".to_owned(), uuid.clone()), (PRIORITY.to_owned(), priority.name().to_owned())];
        let event = Event { binding, data: body, metadata, trace };
        Item { event, id: Some(uuid), conversation, rank: priority.rank(), expires_at }
    }
}

/// What a message that is stored says of itself.
pub(crate) fn is_urgent(message: &Event) -> bool {
    message.metadata(PRIORITY) == Some(Priority::High.name())
}

/// Bytes of a dead message that are handed on. DingTalk takes 20,000; a longer one is not to keep anybody from hearing of it,
/// nor to fill the memory.
pub(in crate::queue) const LONGEST_TOLD: usize = 1 << 20;

/// A message that was given up, and of which nobody has been told. Its `Debug` output shows nothing of it: people wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number in the outbox.
    pub seq: i64,
    /// Whose robot was to post it.
    pub binding: String,
    /// Its `msgUuid`, if it can be read.
    pub uuid: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// How often it has failed.
    pub attempts: u32,
    /// All of it, if it can be read and has no more than 1 MiB.
    pub body: Option<Bytes>,
    /// What was stored beside it.
    pub(in crate::queue) metadata: Vec<(String, String)>,
    /// W3C trace context of the call that brought it.
    pub trace: Vec<(String, String)>,
    /// When it was given up.
    pub died_at: u64,
}

impl DeadLetter {
    /// Whether it was the answer to another one: if that were told, too, nothing would end a circle of them.
    pub fn is_answer(&self) -> bool {
        self.metadata.iter().any(|(name, value)| name == ANSWERS && value == DEAD_LETTER)
    }
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dead letter {} of {:?}", self.seq, self.binding)
    }
}

/// What came of telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is told, or there is nobody to tell.
    Done,
    /// It cannot be told now, and will be: that is no attempt.
    Later,
    /// It was not taken. After some attempts it is told to nobody.
    Failed(String),
}

/// Whoever posts what is in the outbox. All futures must end by themselves: a time limit is theirs to set.
pub trait Consumer: Send + Sync + 'static {
    /// Posts a message once, if its robot takes it now.
    fn post<'a>(&'a self, seq: i64, message: &'a Event) -> BoxFuture<'a, Result<(), Setback>>;

    /// Which bindings keep one order, if any do.
    fn siblings(&self) -> Option<Arc<Groups>> {
        None
    }

    /// Above how many messages that wait for a binding they become one, if they do.
    fn unites_above(&self, binding: &str) -> Option<usize> {
        let _ = binding;
        None
    }

    /// One message that says what the first of these say, and how many. Nothing if they cannot be one.
    fn unite<'a>(&'a self, binding: &'a str, bodies: Vec<Bytes>) -> BoxFuture<'a, Option<(Bytes, usize)>> {
        let _ = (binding, bodies);
        Box::pin(async { None })
    }

    /// Tells whom it concerns that a message was given up. Nothing waits for it.
    fn tell<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Told>;
}

/// What became of a message that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queued {
    /// It is stored.
    New(i64),
    /// It was stored before, or is posted already.
    Repeated(i64),
    /// It was stored before, and was given up.
    Dead(i64),
}

/// An open outbox. A handle: clones are the same outbox, which ends with [`Outbox::stop`] or with the last of them.
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Queue,
    ledger: Arc<dyn Ledger>,
    holds: Arc<Holds>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outbox")
    }
}

impl Outbox {
    /// Opens the outbox in `dir`, and creates both if they are not there. Blocks: the whole store is checked.
    ///
    /// # Errors
    ///
    /// If another host has it, the directory or the store cannot be used, or the store is damaged or newer.
    pub fn open(dir: &Path, clock: Clock, limits: Limits) -> Result<Self, QueueError> {
        let writer = Queue::writer(Side::Outbox, dir, limits)?;
        let ledger = Posts::new(writer.clone(), Arc::clone(&clock));
        Ok(Self::over(Arc::new(writer), Arc::new(ledger), clock))
    }

    /// Opens the outbox in a database, which other hosts may have open too. Each posts what any of them has accepted, and
    /// together they keep to their robots' limits.
    pub fn open_in(database: &Database, clock: Clock, limits: Limits) -> Self {
        let events = Events::new(database.clone(), Side::Outbox, limits);
        Self::over(Arc::new(events), Arc::new(postgres::Posts::new(database.clone())), clock)
    }

    /// Over what keeps messages, and what is posted.
    pub(super) fn over(storage: Arc<dyn Storage>, ledger: Arc<dyn Ledger>, clock: Clock) -> Self {
        let queue = Queue::over(Side::Outbox, storage, clock);
        Self { inner: Arc::new(Inner { queue, ledger, holds: Arc::default() }) }
    }

    /// What the gates are to note in it.
    pub(crate) fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::clone(&self.inner.ledger)
    }

    /// Starts posting by `consumer`, beginning with what an earlier process left. Only the first call counts. Must be
    /// called in a tokio runtime.
    pub fn start(&self, consumer: Arc<dyn Consumer>) {
        let (beside, telling) = mpsc::unbounded_channel();
        // The receiver is here.
        let _ = beside.send(());
        self.inner.queue.start(ToRobots::new(consumer, Arc::clone(&self.inner.holds)), telling);
    }

    /// Stores these, all or none, and returns when they are on disk. A message whose `msgUuid` the binding has had is not
    /// stored again.
    ///
    /// # Errors
    ///
    /// If they are not on disk. Later ones may be, without a restart.
    pub async fn accept(&self, messages: Vec<Message>) -> Result<Vec<Queued>, QueueError> {
        let now = self.inner.queue.now();
        self.store(messages.into_iter().map(|message| message.into_item(now)).collect()).await
    }

    /// As [`Outbox::accept`], of what answers a dead letter: nobody is told should one of these be given up. They have a
    /// conversation of their own, of which no message becomes one with those of another.
    pub(crate) async fn accept_answers(&self, messages: Vec<Message>) -> Result<Vec<Queued>, QueueError> {
        let now = self.inner.queue.now();
        let answer = |message: Message| {
            let mut item = Message { conversation: DEAD_LETTER.to_owned(), ..message }.into_item(now);
            item.event.metadata.push((ANSWERS.to_owned(), DEAD_LETTER.to_owned()));
            item
        };
        self.store(messages.into_iter().map(answer).collect()).await
    }

    async fn store(&self, items: Vec<Item>) -> Result<Vec<Queued>, QueueError> {
        let (sender, queued) = oneshot::channel();
        let then = move |stored: Vec<Stored>| {
            let queued = stored.into_iter().map(|stored| match stored {
                Stored::New(seq) => Queued::New(seq),
                Stored::Pending(seq) | Stored::Delivered(seq, _) => Queued::Repeated(seq),
                Stored::Dead(seq) => Queued::Dead(seq),
            });
            // Nobody waits any more if the caller's connection broke.
            let _ = sender.send(queued.collect());
        };
        self.inner.queue.insert(items, Box::new(then)).await?;
        self.inner.queue.wake.notify_one();
        queued.await.map_err(|_| QueueError::Stopped)
    }

    /// The messages of this binding are tried at once, however long their pauses are: it is there again, or another one.
    ///
    /// # Errors
    ///
    /// If the store cannot be changed.
    pub async fn hasten(&self, binding: &str) -> Result<(), QueueError> {
        self.inner.holds.release(binding);
        self.inner.queue.hasten(binding).await
    }

    /// How many messages wait, and how many are dead.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn counts(&self) -> Result<Counts, QueueError> {
        self.inner.queue.counts().await
    }

    /// For how many milliseconds the pending message has waited that waits for longest.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn oldest_ms(&self) -> Result<u64, QueueError> {
        self.inner.queue.oldest_ms().await
    }

    /// Begins no further post, waits some seconds for those under way, and closes the store. Afterwards another process can
    /// open it. Nothing more is accepted.
    pub async fn stop(&self) {
        self.inner.queue.stop().await;
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
