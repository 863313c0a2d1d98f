//! One thread owns the connection and commits whatever has queued up in one transaction, so that many callbacks
//! at a time cost one wait for the disk.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::InboxError;
use super::store::Store;

/// How many jobs wait for the thread, and how many one transaction has. Enough for all callbacks that the server
/// has under way at a time, and few enough that the first of them does not wait long for the last.
const QUEUE: usize = 256;

/// Bytes of events after which a transaction takes no more: what fits into the journal costs one wait for the disk.
const BATCH_BYTES: usize = 1 << 20;

/// The pause between two attempts to put a damaged store in order: each reads all of it, a second for some hundred
/// thousand events.
const PUT_IN_ORDER_AGAIN: Duration = Duration::from_secs(600);

/// The way to the thread. The thread ends after [`Writer::close`], or when the last of these is gone.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Message>,
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
    fn run(&mut self, store: &Store) -> Result<(), InboxError>;
    /// After the commit, or after what prevented it.
    fn finish(self: Box<Self>, result: Result<(), InboxError>);
}

struct Task<T, R, W, F> {
    bytes: Option<usize>,
    work: W,
    result: Option<T>,
    then: F,
    reply: oneshot::Sender<Result<R, InboxError>>,
}

impl<T, R, W, F> Job for Task<T, R, W, F>
where
    T: Send,
    R: Send,
    W: FnMut(&Store) -> Result<T, InboxError> + Send,
    F: FnOnce(T) -> R + Send,
{
    fn bytes(&self) -> Option<usize> {
        self.bytes
    }

    fn run(&mut self, store: &Store) -> Result<(), InboxError> {
        self.result = Some((self.work)(store)?);
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<(), InboxError>) {
        let result = match (result, self.result) {
            (Ok(()), Some(result)) => Ok((self.then)(result)),
            (Ok(()), None) => Err(InboxError::Stopped),
            (Err(error), _) => Err(error),
        };
        // Nobody waits any more if the callback's connection broke.
        let _ = self.reply.send(result);
    }
}

impl Writer {
    /// Starts the thread. `guard` is dropped after the store is closed, and then `closed`.
    pub(super) fn start<G: Send + 'static>(
        store: Store,
        guard: G,
        closed: watch::Sender<()>,
        dir: &Path,
    ) -> Result<Self, InboxError> {
        let (jobs, receiver) = mpsc::channel(QUEUE);
        #[cfg(test)]
        let commits = std::sync::Arc::clone(&store.commits);
        thread::Builder::new()
            .name("inbox".into())
            .spawn(move || {
                let store = work(store, receiver);
                if let Err(error) = store.close() {
                    tracing::warn!(%error, "the inbox could not be tidied up; the next start does it");
                }
                drop(guard);
                drop(closed);
            })
            .map_err(|error: io::Error| InboxError::Directory {
                dir: dir.to_owned(),
                reason: format!("cannot be served: no thread can be started: {error}"),
            })?;
        Ok(Self {
            jobs,
            #[cfg(test)]
            commits,
        })
    }

    /// Runs `work` in a transaction, perhaps together with that of others. `work` may run more than once.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnMut(&Store) -> Result<T, InboxError> + Send + 'static,
    ) -> Result<T, InboxError> {
        self.queue(None, work, |result| result).await
    }

    /// As [`Self::run`], for work that stores an event: with its bytes, for which room is made before. `then` runs on
    /// the thread after the commit and before any later job, whether or not anybody still waits.
    pub(super) async fn queue<T: Send + 'static, R: Send + 'static>(
        &self,
        bytes: Option<usize>,
        work: impl FnMut(&Store) -> Result<T, InboxError> + Send + 'static,
        then: impl FnOnce(T) -> R + Send + 'static,
    ) -> Result<R, InboxError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Task { bytes, work, result: None, then, reply });
        self.jobs.send(Message::Job(job)).await.map_err(|_| InboxError::Stopped)?;
        answer.await.map_err(|_| InboxError::Stopped)?
    }

    /// Ends the thread, whoever still has a way to it: a callback that is never polled again must not keep the store
    /// open.
    pub(super) async fn close(self) {
        // An error means that it has ended.
        let _ = self.jobs.send(Message::Close).await;
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }
}

/// Does the jobs until the end; the store as it is then.
fn work(mut store: Store, mut messages: mpsc::Receiver<Message>) -> Store {
    let mut put_in_order: Option<Instant> = None;
    while let Some(first) = messages.blocking_recv() {
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
        if batch.is_empty() {
            continue;
        }
        match transaction(&store, &mut batch) {
            Ok(()) => batch.into_iter().for_each(|job| job.finish(Ok(()))),
            // One that fails must not take the others with it: a delivered mark may fit where a large message
            // does not.
            Err(_) if batch.len() > 1 => {
                for mut job in batch {
                    let result = transaction(&store, std::slice::from_mut(&mut job));
                    job.finish(result);
                }
            }
            Err(error) => {
                if let Some(job) = batch.pop() {
                    job.finish(Err(error));
                }
            }
        }
        if store.damage().is_some() && put_in_order.is_none_or(|last| last.elapsed() >= PUT_IN_ORDER_AGAIN) {
            put_in_order = Some(Instant::now());
            match store.put_in_order() {
                Ok(new) => store = new,
                Err(error) => tracing::error!(%error, "the inbox cannot be put in order while the host runs"),
            }
        }
    }
    store
}

/// All of the jobs, or none.
fn transaction(store: &Store, batch: &mut [Box<dyn Job>]) -> Result<(), InboxError> {
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
    use crate::inbox::Limits;

    fn job(
        work: impl FnMut(&Store) -> Result<(), InboxError> + Send + 'static,
    ) -> (Message, oneshot::Receiver<Result<(), InboxError>>) {
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
        let store = Store::create(dir.path(), Limits::default()).unwrap();
        assert_eq!(log_of(store, 3, "SELECT 1"), "");
        assert!(!dir.path().join("inbox.sqlite-damaged").exists());
    }

    #[test]
    fn a_store_that_cannot_be_put_in_order_is_not_read_again_and_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::create(dir.path(), Limits::default()).unwrap();
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
