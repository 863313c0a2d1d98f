//! One thread owns the connection and commits whatever has queued up in one transaction, so that many callbacks
//! at a time cost one wait for the disk.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::Place;
use super::outbox::DeadLetter;
use super::storage::{End, Storage, Then, Tidied, Wake};
use super::store::{Due, Item, Room, Store};
use super::{Counts, QueueError, Side};
use crate::clock::Clock;
use crate::event::BoxFuture;
use crate::gate::ledger::{Claim, Claimed, Intent, Known, Ledger, Unclaimed};
use crate::gate::lesson::Lesson;

/// How many jobs wait for the thread, and how many one transaction has. Enough for all callbacks that the server
/// has under way at a time, and few enough that the first of them does not wait long for the last.
const QUEUE: usize = 256;

/// Bytes of events after which a transaction takes no more: what fits into the journal costs one wait for the disk.
const BATCH_BYTES: usize = 1 << 20;

/// The pause between two attempts to put a damaged store in order: each reads all of it, a second for some hundred
/// thousand events.
const PUT_IN_ORDER_AGAIN: Duration = Duration::from_secs(600);

/// The way to the thread. The thread ends after [`Storage::close`], or when the last of these is gone.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Message>,
    /// Without a sender once the store is closed.
    closed: watch::Receiver<()>,
    #[cfg(test)]
    pub(super) commits: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

enum Message {
    Job(Box<dyn Job>),
    /// Do what is queued, and end.
    Close,
}

trait Job: Send {
    /// The bytes of the event that it stores.
    fn bytes(&self) -> Option<usize>;
    /// Can run again, after a rollback.
    fn run(&mut self, store: &Store) -> Result<(), QueueError>;
    /// After the commit, or after what prevented it.
    fn finish(self: Box<Self>, result: Result<(), QueueError>);
}

struct Task<T, R, W, F> {
    bytes: Option<usize>,
    work: W,
    result: Option<T>,
    then: F,
    reply: oneshot::Sender<Result<R, QueueError>>,
}

impl<T, R, W, F> Job for Task<T, R, W, F>
where
    T: Send,
    R: Send,
    W: FnMut(&Store) -> Result<T, QueueError> + Send,
    F: FnOnce(T) -> R + Send,
{
    fn bytes(&self) -> Option<usize> {
        self.bytes
    }

    fn run(&mut self, store: &Store) -> Result<(), QueueError> {
        self.result = Some((self.work)(store)?);
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), QueueError>) {
        let result = match (result, self.result) {
            (Ok(()), Some(result)) => Ok((self.then)(result)),
            (Ok(()), None) => Err(QueueError::Stopped),
            (Err(error), _) => Err(error),
        };
        // Nobody waits any more if the callback's connection broke.
        let _ = self.reply.send(result);
    }
}

/// What a simulated disk does to a transaction.
#[cfg(test)]
pub(super) trait Disk: Send + 'static {
    /// Before it, in the disk's time. With an error, what stores events fails, or all that is to be done.
    fn begin(&mut self) -> BoxFuture<'_, Option<(bool, QueueError)>>;

    /// After its commit, and before anybody is told.
    fn committed(&mut self) -> BoxFuture<'_, ()>;
}

impl Writer {
    /// Starts the thread. `guard` is dropped after the store is closed.
    pub(super) fn start<G: Send + 'static>(store: Store, guard: G, side: Side, dir: &Path) -> Result<Self, QueueError> {
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let (closing, closed) = watch::channel(());
        #[cfg(test)]
        let commits = std::sync::Arc::clone(&store.commits);
        thread::Builder::new()
            .name(side.name().into())
            .spawn(move || {
                let store = work(store, receiver);
                if let Err(error) = store.close() {
                    tracing::warn!(%error, "the {side} could not be tidied up; the next start does it");
                }
                drop(guard);
                drop(closing);
            })
            .map_err(|error: io::Error| QueueError::Directory {
                place: Place::new(side, dir),
                reason: format!("cannot be served: no thread can be started: {error}"),
            })?;
        Ok(Self {
            jobs,
            closed,
            #[cfg(test)]
            commits,
        })
    }

    /// As [`Self::start`], with a task of this runtime in the thread's place, and `disk` below it.
    #[cfg(test)]
    pub(super) fn over<G: Send + 'static>(store: Store, guard: G, mut disk: impl Disk) -> Self {
        let (jobs, mut messages) = mpsc::channel(QUEUE);
        let (closing, closed) = watch::channel(());
        let commits = std::sync::Arc::clone(&store.commits);
        tokio::spawn(async move {
            while let Some(first) = messages.recv().await {
                let broken = disk.begin().await;
                let batch = batch(first, &mut messages);
                let (fails, works): (Vec<_>, Vec<_>) = batch
                    .into_iter()
                    .partition(|job| broken.as_ref().is_some_and(|(all, _)| *all || job.bytes().is_some()));
                let done = done(&store, works);
                disk.committed().await;
                done.into_iter().for_each(|(job, result)| job.finish(result));
                for (job, (_, error)) in fails.into_iter().zip(broken.iter().cycle()) {
                    job.finish(Err(error.clone()));
                }
            }
            let _ = store.close();
            drop(guard);
            drop(closing);
        });
        Self { jobs, closed, commits }
    }

    /// Runs `work` in a transaction, perhaps together with that of others. `work` may run more than once.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnMut(&Store) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.queue(None, work, |result| result).await
    }

    /// As [`Self::run`], for work that stores an event: with its bytes, for which room is made before. `then` runs on
    /// the thread after the commit and before any later job, whether or not anybody still waits.
    pub(super) async fn queue<T: Send + 'static, R: Send + 'static>(
        &self,
        bytes: Option<usize>,
        work: impl FnMut(&Store) -> Result<T, QueueError> + Send + 'static,
        then: impl FnOnce(T) -> R + Send + 'static,
    ) -> Result<R, QueueError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Task { bytes, work, result: None, then, reply });
        self.jobs.send(Message::Job(job)).await.map_err(|_| QueueError::Stopped)?;
        answer.await.map_err(|_| QueueError::Stopped)?
    }

    /// As [`Self::run`], for what nobody waits for. What is on its way when the thread is ended is done.
    fn send(&self, work: impl FnMut(&Store) -> Result<(), QueueError> + Send + 'static) {
        let (reply, _) = oneshot::channel();
        let job = Message::Job(Box::new(Task { bytes: None, work, result: None, then: |()| (), reply }));
        if let Err(mpsc::error::TrySendError::Full(job)) = self.jobs.try_send(job)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let jobs = self.jobs.clone();
            runtime.spawn(async move { jobs.send(job).await });
        }
    }

    /// Ends the thread, whoever still has a way to it: a callback that is never polled again must not keep the store
    /// open.
    async fn end(&self) {
        // An error means that it has ended.
        let _ = self.jobs.send(Message::Close).await;
        // The error is the end that is waited for: nothing is ever sent.
        let _ = self.closed.clone().changed().await;
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }
}

impl Storage for Writer {
    fn insert(&self, items: Vec<Item>, now: u64, then: Then) -> BoxFuture<'_, Result<(), QueueError>> {
        let bytes = items.iter().map(Item::bytes).sum();
        let work = move |store: &Store| items.iter().map(|item| store.insert(item, now)).collect::<Result<Vec<_>, _>>();
        Box::pin(self.queue(Some(bytes), work, then))
    }

    fn due(&self, room: Room, now: u64) -> BoxFuture<'_, Result<Due, QueueError>> {
        Box::pin(self.run(move |store| store.due(&room, now)))
    }

    fn pass_on(&self, now: u64) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.run(move |store| store.put_unreadable_off(now)).await == Ok(true) })
    }

    fn end(&self, seq: i64, end: End, now: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(self.run(move |store| match &end {
            End::Delivered(reply) => store.delivered(seq, reply.as_deref(), now),
            End::Refused(error) => store.refused(seq, error, now),
            End::Failed { error, due, suffers } => store.failed(seq, error, *due, *suffers, now),
        }))
    }

    fn front(&self, seq: i64, beyond: usize, now: u64) -> BoxFuture<'_, Result<Vec<(i64, Bytes)>, QueueError>> {
        Box::pin(self.run(move |store| store.front(seq, beyond, now)))
    }

    fn unite(&self, seqs: Vec<i64>, data: Bytes, now: u64) -> BoxFuture<'_, Result<bool, QueueError>> {
        let bytes = data.len();
        Box::pin(self.queue(Some(bytes), move |store| store.unite(&seqs, &data, now), |united| united))
    }

    fn forget_reply(&self, seq: i64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(self.run(move |store| store.forget_reply(seq)))
    }

    fn wake(&self, which: Wake, now: u64) -> BoxFuture<'_, Result<bool, QueueError>> {
        Box::pin(self.run(move |store| match &which {
            Wake::All => store.wake_all(now),
            Wake::Suffering => store.wake(now),
            Wake::Binding(name) => store.wake_binding(name, now),
        }))
    }

    fn tidy(&self, now: u64) -> BoxFuture<'_, Result<Tidied, QueueError>> {
        Box::pin(self.run(move |store| {
            let expired = store.expire(now)?;
            Ok(Tidied { expired, more: store.purge(now)? || expired > 0 })
        }))
    }

    fn letters(&self, except: Vec<String>) -> BoxFuture<'_, Result<Vec<DeadLetter>, QueueError>> {
        Box::pin(self.run(move |store| store.letters(&except)))
    }

    fn told(&self, seq: i64, died_at: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(self.run(move |store| store.told(seq, died_at)))
    }

    fn passed_over(&self) -> BoxFuture<'_, usize> {
        Box::pin(async move { self.run(|store| Ok(store.passed_over())).await.unwrap_or(0) })
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts, QueueError>> {
        Box::pin(self.run(Store::counts))
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Option<u64>, QueueError>> {
        Box::pin(self.run(Store::oldest))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

/// The ledger in an outbox.
pub(super) struct Posts {
    writer: Writer,
    clock: Clock,
}

impl Posts {
    pub(super) fn new(writer: Writer, clock: Clock) -> Self {
        Self { writer, clock }
    }
}

impl Ledger for Posts {
    fn claim(&self, intent: Intent) -> BoxFuture<'_, Result<Claimed, Unclaimed>> {
        let now = (self.clock)();
        let (sender, claimed) = oneshot::channel();
        let (writer, clock) = (self.writer.clone(), Arc::clone(&self.clock));
        // In a task of its own: whoever asked may have gone when it is noted, and the post would be under way for long, and counted.
        tokio::spawn(async move {
            let claimed = writer.run(move |store| store.claim(&intent, now)).await;
            let claimed = claimed.unwrap_or_else(|error| Err(Unclaimed::Unavailable(error.to_string())));
            if let Err(Ok(Claimed { posts, .. })) = sender.send(claimed) {
                let ends = Self::new(writer, clock);
                posts.into_iter().for_each(|claim| ends.end(claim, &Lesson::Unsent));
            }
        });
        Box::pin(async { claimed.await.unwrap_or_else(|_| Err(Unclaimed::Unavailable("the host stops".into()))) })
    }

    fn end(&self, claim: Claim, lesson: &Lesson) {
        let (now, lesson) = ((self.clock)(), lesson.clone());
        self.writer.send(move |store| store.end_post(&claim, &lesson, now));
    }

    fn known(&self) -> BoxFuture<'_, Result<Vec<Known>, String>> {
        let now = (self.clock)();
        Box::pin(async move {
            let known = self.writer.run(move |store| store.known_robots(now)).await;
            known.map_err(|error| error.to_string())
        })
    }
}

/// Does the jobs until the end; the store as it is then.
fn work(mut store: Store, mut messages: mpsc::Receiver<Message>) -> Store {
    let mut put_in_order: Option<Instant> = None;
    while let Some(first) = messages.blocking_recv() {
        commit(&store, batch(first, &mut messages));
        if store.damage().is_some() && put_in_order.is_none_or(|last| last.elapsed() >= PUT_IN_ORDER_AGAIN) {
            put_in_order = Some(Instant::now());
            match store.put_in_order() {
                Ok(new) => store = new,
                Err(error) => {
                    tracing::error!(%error, "the {} cannot be put in order while the host runs", store.side())
                }
            }
        }
    }
    store
}

/// What one transaction has: the first job, and those that have queued up behind it.
fn batch(first: Message, messages: &mut mpsc::Receiver<Message>) -> Vec<Box<dyn Job>> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            Message::Job(job) => {
                bytes += job.bytes().unwrap_or(0);
                batch.push(job);
            }
            // What is queued before this moment still comes.
            Message::Close => messages.close(),
        }
        next = if batch.len() < QUEUE && bytes < BATCH_BYTES { messages.try_recv().ok() } else { None };
    }
    batch
}

/// Does the jobs, and says so.
fn commit(store: &Store, batch: Vec<Box<dyn Job>>) {
    for (job, result) in done(store, batch) {
        job.finish(result);
    }
}

/// Does the jobs: each with what came of it.
fn done(store: &Store, mut batch: Vec<Box<dyn Job>>) -> Vec<(Box<dyn Job>, Result<(), QueueError>)> {
    if batch.is_empty() {
        return Vec::new();
    }
    match transaction(store, &mut batch) {
        Ok(()) => batch.into_iter().map(|job| (job, Ok(()))).collect(),
        // One that fails must not take the others with it: a delivered mark may fit where a large message
        // does not.
        Err(_) if batch.len() > 1 => {
            let alone = |mut job| {
                let result = transaction(store, std::slice::from_mut(&mut job));
                (job, result)
            };
            batch.into_iter().map(alone).collect()
        }
        Err(error) => batch.into_iter().map(|job| (job, Err(error.clone()))).collect(),
    }
}

/// All of the jobs, or none.
fn transaction(store: &Store, batch: &mut [Box<dyn Job>]) -> Result<(), QueueError> {
    // A kibibyte more for each: names, numbers and what stands between them.
    let bytes: Vec<u64> = batch.iter().filter_map(|job| job.bytes()).map(|bytes| bytes as u64 + 1_024).collect();
    if !bytes.is_empty() {
        store.prepare(bytes.iter().sum());
    }
    store.transaction(|store| batch.iter_mut().try_for_each(|job| job.run(store)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Limits;

    fn job(
        work: impl FnMut(&Store) -> Result<(), QueueError> + Send + 'static,
    ) -> (Message, oneshot::Receiver<Result<(), QueueError>>) {
        let (reply, answer) = oneshot::channel();
        (Message::Job(Box::new(Task { bytes: None, work, result: None, then: |()| (), reply })), answer)
    }

    /// Does the jobs one by one; what the log says of it.
    fn log_of(store: Store, jobs: usize, damage: &'static str) -> String {
        crate::quiet::logged(|| {
            let (sender, messages) = mpsc::channel(QUEUE);
            let thread = thread::spawn(move || {
                for _ in 0..jobs {
                    let (job, answer) = job(move |store| store.batch_for_test(damage));
                    assert!(sender.blocking_send(job).is_ok());
                    let _ = answer.blocking_recv().unwrap();
                }
            });
            work(store, messages);
            thread.join().unwrap();
        })
    }

    #[test]
    fn a_store_that_is_not_damaged_is_not_put_in_order() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
        assert_eq!(log_of(store, 3, "SELECT 1"), "");
        assert!(!dir.path().join("inbox.sqlite-damaged").exists());
    }

    #[test]
    fn a_store_that_cannot_be_put_in_order_is_not_read_again_and_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
        store.batch_for_test("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let root = store.number_for_test("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").unwrap();
        let file = dir.path().join("inbox.sqlite");
        let mut bytes = std::fs::read(&file).unwrap();
        let page = usize::try_from(root - 1).unwrap() * 4_096;
        bytes[page..page + 4_096].fill(0xA5);
        std::fs::write(&file, &bytes).unwrap();
        store.batch_for_test("PRAGMA shrink_memory").unwrap();
        let log = log_of(store, 3, "SELECT data FROM events");
        assert_eq!(log.matches("cannot be put in order while the host runs").count(), 1, "{log}");
    }
}
