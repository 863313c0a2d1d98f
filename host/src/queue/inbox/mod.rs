//! What `--inbox DIR` means: events are on disk before DingTalk is told that they were taken, and are delivered from
//! there until the application has taken them, also after `kill -9`.
//!
//! A conversation is DingTalk's (`conversationId`); events without one are in one of their binding. An application that
//! must not act twice compares `msgId`. A late reply is sent after the delivery was written, and is lost if the host
//! dies in between.
//!
//! **What is kept.** A pending or dead event: all of it, a dead one until the operator retries or drops it. A
//! delivered or dropped one: binding, `msgId`, a hash of the data, the number of failures, the times of acceptance and
//! delivery and, if the callback was answered with it, the reply; for 24 hours, so that a repetition is recognised and
//! gets the same answer. Without a `msgId`: nothing.

mod desk;
mod line;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::postgres::{Database, Events};
use super::store::{Item, Stored};
use super::{Counts, Limits, Queue, QueueError, Side};
use crate::clock::Clock;
use crate::event::{Answer, BoxFuture, Event, Undelivered};

use desk::{Desk, Late, Ticket};
use line::ToApplication;

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
    queue: Queue,
    desk: Arc<Desk>,
    /// Taken by [`Inbox::start`].
    late: Mutex<Option<mpsc::UnboundedReceiver<Late>>>,
    /// What only SQLite has.
    #[cfg(test)]
    writer: Mutex<Option<super::Writer>>,
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
    pub fn open(dir: &Path, clock: Clock, limits: Limits) -> Result<Self, QueueError> {
        let writer = Queue::writer(Side::Inbox, dir, limits)?;
        #[cfg(test)]
        let known = writer.clone();
        let inbox = Self::over(Queue::over(Side::Inbox, Arc::new(writer), clock));
        #[cfg(test)]
        inbox.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).replace(known);
        Ok(inbox)
    }

    /// Opens the inbox in a database, which other hosts may have open too. Each delivers what any of them has accepted.
    pub fn open_in(database: &Database, clock: Clock, limits: Limits) -> Self {
        Self::over(Queue::over(Side::Inbox, Arc::new(Events::new(database.clone(), Side::Inbox, limits)), clock))
    }

    fn over(queue: Queue) -> Self {
        let (desk, late) = Desk::new();
        let late = Mutex::new(Some(late));
        Self {
            inner: Arc::new(Inner {
                queue,
                desk,
                late,
                #[cfg(test)]
                writer: Mutex::default(),
            }),
        }
    }

    /// Starts delivering to `consumer`, beginning with what an earlier process left. Only the first call counts.
    /// Must be called in a tokio runtime.
    pub fn start(&self, consumer: Arc<dyn Consumer>) {
        let late = self.inner.late.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(late) = late else {
            tracing::error!("the inbox is started already, or stopped");
            return;
        };
        self.inner.queue.start(ToApplication::new(consumer, Arc::clone(&self.inner.desk)), late);
    }

    #[cfg(test)]
    pub(super) fn writer(&self) -> Result<super::Writer, QueueError> {
        self.inner.writer.lock().unwrap().clone().ok_or(QueueError::Stopped)
    }

    /// Stores the event, and returns when it is on disk. An event whose `msgId` the binding has had is not stored
    /// again: the result is then that of the first one.
    ///
    /// If the future is dropped, the event may be stored nevertheless, and is then delivered.
    ///
    /// # Errors
    ///
    /// If the event is not on disk. Later ones may be, without a restart.
    pub async fn accept(&self, event: Event) -> Result<Accepted, QueueError> {
        let (desk, wake) = (Arc::clone(&self.inner.desk), Arc::clone(&self.inner.queue.wake));
        let (sender, accepted) = oneshot::channel();
        // Before anything can be delivered: no delivery can be faster than the ticket.
        let then = move |stored: Vec<Stored>| {
            let Some(stored) = stored.into_iter().next() else { return };
            let accepted = match stored {
                Stored::New(seq) => {
                    let result = Pending::Waiting(desk.join(seq));
                    wake.notify_one();
                    Accepted { seq, is_repeated: false, result }
                }
                Stored::Pending(seq) => Accepted { seq, is_repeated: true, result: Pending::Waiting(desk.join(seq)) },
                Stored::Dead(seq) => Accepted { seq, is_repeated: true, result: Pending::Known(None) },
                Stored::Delivered(seq, reply) => Accepted { seq, is_repeated: true, result: Pending::Known(reply) },
            };
            // Nobody waits any more if the callback's connection broke.
            let _ = sender.send(accepted);
        };
        self.inner.queue.insert(vec![Item::received(event)], Box::new(then)).await?;
        accepted.await.map_err(|_| QueueError::Stopped)
    }

    /// The events of this binding are tried at once, however long their pauses are: it is there again.
    ///
    /// # Errors
    ///
    /// If the store cannot be changed.
    pub async fn hasten(&self, binding: &str) -> Result<(), QueueError> {
        self.inner.queue.hasten(binding).await
    }

    /// How many events wait, and how many are dead.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn counts(&self) -> Result<Counts, QueueError> {
        self.inner.queue.counts().await
    }

    /// For how many milliseconds the pending event has waited that waits for longest.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub async fn oldest_ms(&self) -> Result<u64, QueueError> {
        self.inner.queue.oldest_ms().await
    }

    /// Begins no further delivery, waits some seconds for those under way, and closes the store. Afterwards another
    /// process can open it. Nothing more is accepted.
    pub async fn stop(&self) {
        // An inbox that was never started must not be started now.
        self.inner.late.lock().unwrap_or_else(PoisonError::into_inner).take();
        #[cfg(test)]
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.inner.queue.stop().await;
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
