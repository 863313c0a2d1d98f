//! What `--inbox DIR` means: events are on disk before DingTalk is told that they were taken, and are delivered from
//! there until the application has taken them, also after `kill -9`.
//!
//! **Order.** Within a conversation (`conversationId`; events without one: within the binding) events are delivered
//! one after the other, in the order in which they were accepted. The first one is tried until the application takes
//! it, refuses it for good (it becomes *dead*), or the operator drops it. Conversations do not wait for each other.
//!
//! **At least once.** That an event was delivered is written after the application's answer. If the host dies in
//! between, or cannot write, the event is delivered again: an application that must not act twice compares `msgId`.
//! A late reply is sent after that, and is lost if the host dies in between.
//!
//! **What is kept.** A pending or dead event: all of it, a dead one until the operator retries or drops it. A
//! delivered or dropped one: binding, `msgId`, a hash of the data, the number of failures, the times of acceptance and
//! delivery and, if the callback was answered with it, the reply; for 24 hours, so that a repetition is recognised and
//! gets the same answer. Without a `msgId`: nothing. What is removed is overwritten in the file, though the journal beside it has
//! it for some more commits. Directory (if it was created here) and files are for their owner alone.
//!
//! **Files.** `inbox.sqlite` with its journal `inbox.sqlite-wal` and `inbox.sqlite-shm`, which belong together, and
//! `inbox.lock`, which keeps a second host out. The `inbox` command needs no lock.

mod backoff;
mod desk;
mod dispatcher;
mod error;
mod lock;
mod operator;
mod store;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::event::{Answer, BoxFuture, Event, Undelivered};
use crate::quiet::Quiet;
pub use error::InboxError;
pub use operator::{Counts, Entry, Listing, Operator, Selection, State};

use desk::{Desk, Late, Ticket};
use dispatcher::Shared;
use lock::Lock;
use store::{LEAST_BYTES, Store, Stored};
use writer::Writer;

/// Whoever takes the events out of the inbox. Both futures must end by themselves: a time limit is theirs to set.
pub trait Consumer: Send + Sync + 'static {
    /// Hands the event to the application; the reply for DingTalk, if there is one.
    fn consume<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>>;

    /// Sends the reply of an event whose callback was acknowledged without it. The conversation goes on afterwards.
    fn reply_late<'a>(&'a self, event: &'a Event, reply: Bytes) -> BoxFuture<'a, ()>;
}

/// How much the inbox keeps, and for how long it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk, at least [`Limits::LEAST_SIZE`]. What does not fit is not acknowledged.
    pub max_size: u64,
    /// Events that were not taken for longer become dead ones.
    pub max_age: Duration,
}

impl Limits {
    /// What the files take when nothing is in them, and some room for what is.
    pub const LEAST_SIZE: u64 = LEAST_BYTES.next_power_of_two();

    fn max_age_ms(&self) -> u64 {
        u64::try_from(self.max_age.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Limits {
    /// 256 MiB are 100,000 usual messages and 900 of the largest texts, and a part of the smallest SD card that a host is
    /// run from. 72 hours last from the evening of one working day over a weekend to the morning of the next.
    fn default() -> Self {
        Self { max_size: 256 << 20, max_age: Duration::from_secs(72 * 3_600) }
    }
}

/// An open inbox. A handle: clones are the same inbox, which ends with [`Inbox::stop`] or with the last of them.
#[derive(Clone)]
pub struct Inbox {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` when stopped.
    writer: Mutex<Option<Writer>>,
    desk: Arc<Desk>,
    /// Taken by [`Inbox::start`].
    late: Mutex<Option<mpsc::UnboundedReceiver<Late>>>,
    dispatcher: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    clock: Clock,
    wake: Arc<Notify>,
    stopping: watch::Sender<bool>,
    /// Without a sender once the store is closed and the lock released.
    closed: watch::Receiver<()>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inbox")
    }
}

impl Inbox {
    /// Opens the inbox in `dir`, and creates both if they are not there. Blocks: the whole store is checked.
    ///
    /// # Errors
    ///
    /// If another host has it, the directory or the store cannot be used, or the store is damaged or newer.
    pub fn open(dir: &Path, clock: Clock, limits: Limits) -> Result<Self, InboxError> {
        let lock = Lock::take(dir)?;
        let store = Store::create(dir, limits)?;
        let (closing, closed) = watch::channel(());
        let writer = Writer::start(store, lock, closing, dir)?;
        let (desk, late) = Desk::new();
        Ok(Self {
            inner: Arc::new(Inner {
                writer: Mutex::new(Some(writer)),
                desk,
                late: Mutex::new(Some(late)),
                dispatcher: tokio::sync::Mutex::new(None),
                clock,
                wake: Arc::new(Notify::new()),
                stopping: watch::Sender::new(false),
                closed,
            }),
        })
    }

    /// Starts delivering to `consumer`, beginning with what an earlier process left. Only the first call counts.
    /// Must be called in a tokio runtime.
    pub fn start(&self, consumer: Arc<dyn Consumer>) {
        let inner = &self.inner;
        let late = inner.late.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(late), Ok(writer), Ok(mut dispatcher)) = (late, self.writer(), inner.dispatcher.try_lock()) else {
            tracing::error!("the inbox is started already, or stopped");
            return;
        };
        let shared = Shared {
            writer,
            desk: Arc::clone(&inner.desk),
            clock: Arc::clone(&inner.clock),
            consumer,
            wake: Arc::clone(&inner.wake),
            stopping: inner.stopping.subscribe(),
            gates: Mutex::default(),
            quiet: Quiet::default(),
        };
        *dispatcher = Some(tokio::spawn(dispatcher::run(shared, late)));
    }

    fn writer(&self) -> Result<Writer, InboxError> {
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(InboxError::Stopped)
    }

    /// Stores the event, and returns when it is on disk. An event whose `msgId` the binding has had is not stored
    /// again: the result is then that of the first one.
    ///
    /// If the future is dropped, the event may be stored nevertheless, and is then delivered.
    ///
    /// # Errors
    ///
    /// If the event is not on disk. Later ones may be, without a restart.
    pub async fn accept(&self, event: Event) -> Result<Accepted, InboxError> {
        let now = (self.inner.clock)();
        let (desk, wake) = (Arc::clone(&self.inner.desk), Arc::clone(&self.inner.wake));
        // On the writer's thread and before it does anything else: no delivery can be faster than the ticket.
        let then = move |stored| match stored {
            Stored::New(seq) => {
                let result = Pending::Waiting(desk.join(seq));
                wake.notify_one();
                Accepted { seq, is_repeated: false, result }
            }
            Stored::Pending(seq) => Accepted { seq, is_repeated: true, result: Pending::Waiting(desk.join(seq)) },
            Stored::Dead(seq) => Accepted { seq, is_repeated: true, result: Pending::Known(None) },
            Stored::Delivered(seq, reply) => Accepted { seq, is_repeated: true, result: Pending::Known(reply) },
        };
        let bytes =
            event.data.len() + event.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.writer()?.queue(Some(bytes), move |store| store.insert(&event, now), then).await
    }

    /// The events of this binding are tried at once, however long their pauses are: it is there again.
    ///
    /// # Errors
    ///
    /// If the store cannot be changed.
    pub async fn hasten(&self, binding: &str) -> Result<(), InboxError> {
        let now = (self.inner.clock)();
        loop {
            let name = binding.to_owned();
            if !self.writer()?.run(move |store| store.wake_binding(&name, now)).await? {
                break;
            }
        }
        self.inner.wake.notify_one();
        Ok(())
    }

    /// How many events wait, and how many are dead.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn counts(&self) -> Result<Counts, InboxError> {
        self.writer()?.run(Store::counts).await
    }

    /// For how many milliseconds the pending event has waited that waits for longest.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn oldest_ms(&self) -> Result<u64, InboxError> {
        let now = (self.inner.clock)();
        let oldest = self.writer()?.run(|store| store.oldest()).await?;
        Ok(oldest.map_or(0, |oldest| now.saturating_sub(oldest)))
    }

    /// Begins no further delivery, waits some seconds for those under way, and closes the store. Afterwards another
    /// process can open it. Nothing more is accepted.
    pub async fn stop(&self) {
        self.inner.stopping.send_replace(true);
        if let Some(dispatcher) = self.inner.dispatcher.lock().await.take()
            && let Err(error) = dispatcher.await
        {
            tracing::error!(%error, "the inbox ended badly; what it has not delivered is still there");
        }
        // An inbox that was never started must not be started now.
        self.inner.late.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.close().await;
        }
        // The error is the end that is waited for: nothing is ever sent.
        let _ = self.inner.closed.clone().changed().await;
    }
}

/// An event that is on disk. Dropping it means that nobody waits for its reply.
pub struct Accepted {
    seq: i64,
    is_repeated: bool,
    result: Pending,
}

enum Pending {
    Waiting(Ticket),
    Known(Answer),
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted event {}", self.seq)
    }
}

impl Accepted {
    /// Its number, as in `inbox list`.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Whether DingTalk had sent it before.
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// The application's reply, if there is one before `deadline`. One that comes later goes to
    /// [`Consumer::reply_late`], and never to both.
    pub async fn reply(self, deadline: Instant) -> Answer {
        match self.result {
            Pending::Waiting(ticket) => ticket.wait(deadline).await,
            Pending::Known(reply) => reply,
        }
    }
}

#[cfg(test)]
mod tests;
