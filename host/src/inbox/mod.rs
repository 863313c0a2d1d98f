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
//! delivered or dropped one: binding, `msgId`, the number of failures, the times of acceptance and delivery and, if
//! the callback was answered with it, the reply; for 24 hours, so that a repetition is recognised and gets the same
//! answer. Without a `msgId`: nothing. What is removed is overwritten in the file, though the journal beside it has
//! it for some more commits. Directory (if it was created here) and files are for their owner alone.
//!
//! **Files.** `inbox.sqlite` with its journal `inbox.sqlite-wal` and `inbox.sqlite-shm`, which belong together, and
//! `inbox.lock`, which keeps a second host out. The `inbox` command needs no lock.

mod backoff;
mod desk;
mod dispatcher;
mod store;
mod writer;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::event::{Answer, BoxFuture, Event, Undelivered};
use desk::{Desk, Late, Ticket};
use dispatcher::Shared;
use store::{Store, Stored};
use writer::Writer;

/// Name of the lock in the directory.
const LOCK: &str = "inbox.lock";

/// Whoever takes the events out of the inbox. Both futures must end by themselves: a time limit is theirs to set.
pub trait Consumer: Send + Sync + 'static {
    /// Hands the event to the application; the reply for DingTalk, if there is one.
    fn consume<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>>;

    /// Sends the reply of an event whose callback was acknowledged without it. The conversation goes on afterwards.
    fn reply_late<'a>(&'a self, event: &'a Event, reply: Bytes) -> BoxFuture<'a, ()>;
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
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, InboxError> {
        let lock = lock(dir)?;
        let store = Store::create(dir)?;
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
        self.writer()?.run(move |store| store.insert(&event, now), then).await
    }

    /// How many events wait, and how many are dead.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn counts(&self) -> Result<Counts, InboxError> {
        self.writer()?.run(Store::counts, |counts| counts).await
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

/// The store as the operator sees it, also while a host has it.
pub struct Operator {
    store: Store,
    clock: Clock,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inbox")
    }
}

impl Operator {
    /// Opens the store in `dir`.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be used.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, InboxError> {
        Ok(Self { store: Store::open(dir)?, clock })
    }

    /// Shows events to `each`, in order. An error of `each` ends that, and is the inner result.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn list(
        &self,
        listing: &Listing,
        each: impl FnMut(Entry) -> io::Result<()>,
    ) -> Result<io::Result<()>, InboxError> {
        self.store.list(listing, each)
    }

    /// Puts dead events back to their places in their conversations, due at once. A running host notices within
    /// seconds. Returns how many.
    ///
    /// # Errors
    ///
    /// If one is not there or not dead; then nothing is changed.
    pub fn retry(&self, selection: &Selection) -> Result<usize, InboxError> {
        let now = (self.clock)();
        self.store.transaction(|store| store.retry(selection, now))
    }

    /// Gives up dead events, and pending ones that are named. A repetition of them is not accepted. A delivery under
    /// way is not interrupted. Returns how many.
    ///
    /// # Errors
    ///
    /// If one is not there or delivered; then nothing is changed.
    pub fn drop_events(&self, selection: &Selection) -> Result<usize, InboxError> {
        let now = (self.clock)();
        self.store.transaction(|store| store.drop_events(selection, now))
    }
}

/// Which events to show.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Those in one of these states.
    pub states: Vec<State>,
    /// Those of this binding only.
    pub binding: Option<String>,
    /// Whether to show what people wrote.
    pub content: bool,
}

/// Which events to change.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Every dead one.
    All,
    /// These.
    Seqs(Vec<i64>),
}

/// What has become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It will be delivered.
    Pending,
    /// The application has refused it for good.
    Dead,
    /// The application has taken it, or the operator has dropped it.
    Delivered,
}

impl State {
    /// As the command line writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Dead => "dead",
            Self::Delivered => "delivered",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event in the store. Times are in milliseconds since the Unix epoch.
pub struct Entry {
    /// Its number: the order of acceptance.
    pub seq: i64,
    /// The binding that received it.
    pub binding: String,
    /// What has become of it.
    pub state: State,
    /// How often the application has not taken it.
    pub attempts: u32,
    /// When it was stored.
    pub accepted_at: u64,
    /// When it was delivered, dropped or refused for good.
    pub finished_at: Option<u64>,
    /// When it will be tried; only for the first pending one of its conversation.
    pub next_attempt_at: Option<u64>,
    /// The event of its conversation that comes first.
    pub waits_for: Option<i64>,
    /// Why it was not taken the last time.
    pub last_error: Option<String>,
    /// DingTalk's identifier.
    pub msg_id: Option<String>,
    /// DingTalk's identifier of the conversation.
    pub conversation_id: Option<String>,
    /// Bytes of data.
    pub size: u64,
    /// If asked for.
    pub metadata: Option<Vec<(String, String)>>,
    /// If asked for.
    pub data: Option<Bytes>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} event {} of {:?}", self.state, self.seq, self.binding)
    }
}

/// How full the inbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Events to deliver.
    pub pending: u64,
    /// Events that wait for the operator.
    pub dead: u64,
}

/// What is wrong with the inbox. No text contains anything of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// Another process delivers from it.
    #[error("the inbox {} is in use by another host; stop that one, or name another directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory cannot be used.
    #[error("the inbox {} {reason}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What is wrong and what to do; follows the path.
        reason: String,
    },
    /// There is no store.
    #[error("there is no inbox {}; name the directory that the host was given with --inbox", file.display())]
    Missing {
        /// Where it was looked for.
        file: PathBuf,
    },
    /// The store is damaged.
    #[error(
        "the inbox {} is damaged ({reason}); restore it, or move it away together with the files beside it that have \
         its name and \"-wal\" or \"-shm\" at the end: what it has not delivered is in there",
        file.display()
    )]
    Corrupt {
        /// The store.
        file: PathBuf,
        /// SQLite's finding.
        reason: String,
    },
    /// A newer host has written it.
    #[error(
        "the inbox {} has schema {found}, and this host knows {known}; use the host that wrote it, or a newer one",
        file.display()
    )]
    Newer {
        /// The store.
        file: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that is known.
        known: i64,
    },
    /// No space is left.
    #[error(
        "the inbox {} cannot be written because no space is left; free some: until then, DingTalk is not told that a \
         message was taken",
        file.display()
    )]
    Full {
        /// The store.
        file: PathBuf,
    },
    /// It may not be written.
    #[error(
        "the inbox {} cannot be opened or written; let this user write to the file and its directory, and check that \
         the disk is not read-only: until then, DingTalk is not told that a message was taken",
        file.display()
    )]
    ReadOnly {
        /// The store.
        file: PathBuf,
    },
    /// Another process writes for too long.
    #[error(
        "the inbox {} is locked by another process for more than 10 s; find out which one has it open and end it",
        file.display()
    )]
    Busy {
        /// The store.
        file: PathBuf,
    },
    /// The disk, or SQLite, fails otherwise.
    #[error(
        "the inbox {} {reason}; check the disk: until it works, DingTalk is not told that a message was taken",
        file.display()
    )]
    Io {
        /// The store.
        file: PathBuf,
        /// What is wrong; follows the path.
        reason: String,
    },
    /// The host is being stopped.
    #[error("the inbox is closed because the host stops; DingTalk is not told that the message was taken")]
    Stopped,
    /// A number that is not in the store.
    #[error("the inbox {} has no event {seq}; see `inbox list --state all`; nothing was changed", file.display())]
    NoSuchEvent {
        /// The store.
        file: PathBuf,
        /// The number.
        seq: i64,
    },
    /// An event to which this cannot be done.
    #[error(
        "event {seq} of the inbox {} is {state}: there is nothing to {action}; nothing was changed",
        file.display()
    )]
    WrongState {
        /// The store.
        file: PathBuf,
        /// The number.
        seq: i64,
        /// Its state.
        state: State,
        /// `retry` or `drop`.
        action: &'static str,
    },
}

/// Creates the directory, and keeps other hosts out of it for as long as the file is open.
fn lock(dir: &Path) -> Result<File, InboxError> {
    let unusable = |what: &str, error: &io::Error| InboxError::Directory {
        dir: dir.to_owned(),
        reason: format!("cannot be {what}: {error}; name a directory that this user can write to"),
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| unusable("created", &error))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(dir.join(LOCK)).map_err(|error| unusable("locked", &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(InboxError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(unusable("locked", &error)),
    }
}

#[cfg(test)]
mod tests;
