//! What waits on disk until it is taken, in both directions: the inbox for messages on their way to the application, the
//! outbox for those on their way to DingTalk. Both are a store, a dispatcher that delivers the first event of each
//! conversation, and what is special to the direction.
//!
//! **Order.** Within a conversation events are delivered one after the other, in the order in which they were accepted. The
//! first one is tried until it is taken, refused for good (it becomes *dead*), or dropped by the operator.
//! Conversations do not wait for each other. Bindings that are [siblings] have their conversations in common.
//!
//! **At least once.** That an event was delivered is written after the answer. If the host dies in between, or cannot
//! write, the event is delivered again, with the identifier by which a repetition is recognised.
//!
//! **Files.** `inbox.sqlite` (or `outbox.sqlite`) with its journal `inbox.sqlite-wal` and `inbox.sqlite-shm`, which belong
//! together, and `inbox.lock`, which keeps a second host out. The operator's subcommands need no lock. Directory (if
//! it was created here) and files are for their owner alone. What is removed is overwritten in the file, though the
//! journal beside it has it for some more commits.

pub(crate) mod backoff;
mod dispatcher;
mod error;
pub mod inbox;
mod lock;
mod operator;
pub mod outbox;
pub mod postgres;
pub mod siblings;
mod storage;
mod store;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::quiet::Quiet;
pub use error::{Place, QueueError, Side};
pub use inbox::{Consumer, Inbox};
pub use operator::{Counts, Entry, Listing, Operator, Selection, State};
pub use outbox::Outbox;

use dispatcher::{Line, Shared};
use lock::Lock;
use storage::{Storage, Then, Wake};
use store::{Item, LEAST_BYTES, Store};
use writer::Writer;

/// How much a queue keeps, and for how long it tries.
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

/// What inbox and outbox have in common. Ends with [`Queue::stop`], or when it is dropped.
struct Queue {
    side: Side,
    /// `None` when stopped.
    storage: Mutex<Option<Arc<dyn Storage>>>,
    dispatcher: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    clock: Clock,
    wake: Arc<Notify>,
    stopping: watch::Sender<bool>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.side.name())
    }
}

impl Queue {
    /// What keeps it in `dir`, both created if they are not there. Blocks: the whole store is checked.
    fn writer(side: Side, dir: &Path, limits: Limits) -> Result<Writer, QueueError> {
        let lock = Lock::take(side, dir)?;
        Writer::start(Store::create(side, dir, limits)?, lock, side, dir)
    }

    /// Over what keeps it.
    fn over(side: Side, storage: Arc<dyn Storage>, clock: Clock) -> Self {
        Self {
            side,
            storage: Mutex::new(Some(storage)),
            dispatcher: tokio::sync::Mutex::new(None),
            clock,
            wake: Arc::new(Notify::new()),
            stopping: watch::Sender::new(false),
        }
    }

    fn storage(&self) -> Result<Arc<dyn Storage>, QueueError> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(QueueError::Stopped)
    }

    /// Starts delivering over `line`, beginning with what an earlier process left. Only the first call counts. Must be
    /// called in a tokio runtime.
    fn start<L: Line>(&self, line: L, aside: mpsc::UnboundedReceiver<L::Aside>) {
        let (Ok(storage), Ok(mut dispatcher)) = (self.storage(), self.dispatcher.try_lock()) else {
            tracing::error!("the {} is started already, or stopped", self.side);
            return;
        };
        let shared = Shared {
            line,
            side: self.side,
            storage,
            clock: Arc::clone(&self.clock),
            wake: Arc::clone(&self.wake),
            stopping: self.stopping.subscribe(),
            quiet: Quiet::default(),
        };
        *dispatcher = Some(tokio::spawn(dispatcher::run(shared, aside)));
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    async fn insert(&self, items: Vec<Item>, then: Then) -> Result<(), QueueError> {
        self.storage()?.insert(items, self.now(), then).await
    }

    /// The events of this binding are tried at once, however long their pauses are: it is there again.
    async fn hasten(&self, binding: &str) -> Result<(), QueueError> {
        let now = self.now();
        while self.storage()?.wake(Wake::Binding(binding.to_owned()), now).await? {}
        self.wake.notify_one();
        Ok(())
    }

    async fn counts(&self) -> Result<Counts, QueueError> {
        self.storage()?.counts().await
    }

    async fn oldest_ms(&self) -> Result<u64, QueueError> {
        let oldest = self.storage()?.oldest().await?;
        Ok(oldest.map_or(0, |oldest| self.now().saturating_sub(oldest)))
    }

    /// Begins no further delivery, waits some seconds for those under way, and closes the store. Afterwards another
    /// process can open it. Nothing more is accepted.
    async fn stop(&self) {
        self.stopping.send_replace(true);
        if let Some(dispatcher) = self.dispatcher.lock().await.take()
            && let Err(error) = dispatcher.await
        {
            tracing::error!(%error, "the {} ended badly; what it has not delivered is still there", self.side);
        }
        let storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(storage) = storage {
            storage.close().await;
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
