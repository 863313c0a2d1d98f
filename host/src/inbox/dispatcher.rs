//! Delivers what is stored: the first event of each conversation, until the application has taken it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::backoff::{self, Gates, Leave};
use super::desk::{Desk, Late};
use super::store::{Due, Head, Lane, Room, Store};
use super::writer::Writer;
use super::{Consumer, InboxError};
use crate::clock::Clock;
use crate::quiet::Quiet;

/// Deliveries at once for one binding: enough that some conversations that hang do not stop the others, and no more
/// than a small application can bear after an hour of being down.
pub(super) const AT_ONCE_A_BINDING: usize = 16;

/// Deliveries at once in all: four bindings that hang do not stop a fifth before this, and the memory for events
/// under way is bounded by it.
pub(super) const AT_ONCE: usize = 64;

/// How often the store is read though nothing seems to have happened: the `inbox` command changes it from another
/// process.
const POLL: Duration = Duration::from_secs(2);

/// The pause after a result could not be stored. A full disk is not emptied within milliseconds.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// For what is under way when the inbox is stopped. Below the 10 s after which Docker kills what it stops, and an
/// application may take a minute: what is cut off is delivered again.
const LINGER: Duration = Duration::from_secs(5);

/// How often old entries are removed; they are kept for a day, so that some minutes do not matter.
const PURGE: Duration = Duration::from_secs(600);

/// The pause between two steps of one purge, in which others can write.
const PURGE_STEP: Duration = Duration::from_millis(100);

/// What every task needs.
pub(super) struct Shared {
    pub(super) writer: Writer,
    pub(super) desk: Arc<Desk>,
    pub(super) clock: Clock,
    pub(super) consumer: Arc<dyn Consumer>,
    pub(super) wake: Arc<Notify>,
    /// True, or without a sender: nothing new is begun.
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) gates: Mutex<Gates>,
    /// Lines of which each attempt to use a store that fails could cause one.
    pub(super) quiet: Quiet,
}

/// A delivery under way.
struct Running {
    seq: i64,
    attempts: u32,
    lane: Lane,
    /// Whether it is to find out if the application is back.
    is_probe: bool,
}

type Deliveries = HashMap<Id, Running>;

/// Runs until the inbox is stopped, and until everything that was begun has ended or had its time to.
pub(super) async fn run(shared: Shared, mut late: mpsc::UnboundedReceiver<Late>) {
    let shared = Arc::new(shared);
    let mut stopping = shared.stopping.clone();
    let mut tasks = JoinSet::new();
    let mut running = Deliveries::new();
    let mut late_replies = JoinSet::new();
    let now = (shared.clock)();
    if let Err(error) = shared.in_steps(move |store| store.wake_all(now)).await {
        tracing::error!(%error, "what an earlier process left in the inbox may be delivered up to 36 s later");
    }
    let mut purged = Purge::default();
    let mut turn = 0;
    let mut purge = tokio::time::Instant::now();
    loop {
        let wait = begin(&shared, &mut tasks, &mut running, turn).await;
        turn = turn.wrapping_add(1);
        tokio::select! {
            biased;
            () = ended(&mut stopping) => break,
            () = tokio::time::sleep_until(purge) => {
                let more = purge_step(&shared, &mut purged).await;
                purge = tokio::time::Instant::now() + if more { PURGE_STEP } else { PURGE };
            }
            Some(done) = tasks.join_next_with_id() => finished(&shared, done, &mut tasks, &mut running),
            Some(entry) = late.recv() => { late_replies.spawn(reply_late(Arc::clone(&shared), entry)); }
            Some(_) = late_replies.join_next() => {}
            () = shared.wake.notified() => {}
            () = sleep(wait) => {}
        }
        // Those that ended together need only one look at the store.
        while let Some(done) = tasks.try_join_next_with_id() {
            finished(&shared, done, &mut tasks, &mut running);
        }
    }
    let drained = async {
        while let Some(done) = tasks.join_next_with_id().await {
            finished(&shared, done, &mut tasks, &mut running);
        }
        while let Ok(entry) = late.try_recv() {
            late_replies.spawn(reply_late(Arc::clone(&shared), entry));
        }
        while late_replies.join_next().await.is_some() {}
    };
    if timeout(LINGER, drained).await.is_err() {
        let (deliveries, late_replies) = (tasks.len(), late_replies.len());
        tracing::warn!(deliveries, late_replies, "cut off by the end of the host; what was not delivered will be");
    }
}

/// Begins the deliveries that are due, and says for how long there is nothing to do.
async fn begin(shared: &Arc<Shared>, tasks: &mut JoinSet<()>, running: &mut Deliveries, turn: usize) -> Duration {
    let now = (shared.clock)();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for Running { lane: (binding, _), .. } in running.values() {
        *counts.entry(binding).or_default() += 1;
    }
    let mut wait = POLL;
    let mut by_binding = HashMap::new();
    let mut in_all = AT_ONCE.saturating_sub(running.len());
    let mut is_probe = false;
    {
        let mut gates = shared.gates();
        match gates.leave_all(now) {
            Leave::Free => {}
            Leave::AtMost(count, until) => {
                in_all = count.saturating_sub(running.len());
                wait = wait.min(Duration::from_millis(until.saturating_sub(now)));
            }
            // What hangs from before must not keep it from being asked.
            Leave::One => {
                is_probe = true;
                in_all = usize::from(!running.values().any(|running| running.is_probe));
            }
            Leave::NotBefore(time) => {
                in_all = 0;
                wait = wait.min(Duration::from_millis(time.saturating_sub(now)));
            }
        }
        for binding in gates.known().chain(counts.keys().copied()) {
            let count = counts.get(binding).copied().unwrap_or(0);
            let free = match gates.leave(binding, now) {
                Leave::Free | Leave::AtMost(..) => AT_ONCE_A_BINDING.saturating_sub(count),
                Leave::One => 1_usize.saturating_sub(count),
                Leave::NotBefore(time) => {
                    wait = wait.min(Duration::from_millis(time.saturating_sub(now)));
                    0
                }
            };
            by_binding.insert(binding.to_owned(), free);
        }
    }
    let room = Room {
        in_all,
        a_binding: AT_ONCE_A_BINDING,
        by_binding,
        running: running.values().map(|running| running.lane.clone()).collect(),
        turn,
    };
    if room.in_all == 0 {
        return wait;
    }
    let due = match shared.writer.run(move |store| store.due(&room, now)).await {
        Ok(due) => due,
        Err(InboxError::Stopped) => Due::default(),
        Err(error) => {
            let put_off = shared.writer.run(move |store| store.put_unreadable_off(now)).await;
            if put_off == Ok(true) {
                return Duration::ZERO;
            }
            if let Some(more) = shared.quiet.count("due") {
                tracing::error!(%error, more, "the inbox cannot tell what is to be delivered; trying again");
            }
            return STORE_AGAIN;
        }
    };
    for head in due.heads {
        let entry = Running { seq: head.seq, attempts: head.attempts, lane: head.lane.clone(), is_probe };
        shared.desk.begin(head.seq);
        let task = tasks.spawn(deliver(Arc::clone(shared), head));
        running.insert(task.id(), entry);
    }
    match due.next {
        // One millisecond more: the clock and the timer do not tick together.
        Some(next) => wait.min(Duration::from_millis(next.saturating_sub(now).saturating_add(1))),
        None => wait,
    }
}

fn finished(
    shared: &Arc<Shared>,
    done: Result<(Id, ()), JoinError>,
    tasks: &mut JoinSet<()>,
    running: &mut Deliveries,
) {
    match done {
        Ok((id, ())) => {
            running.remove(&id);
        }
        // A bug in the consumer. The conversation must neither stop for ever nor be tried without a pause.
        Err(error) => {
            if let Some(entry) = running.remove(&error.id()) {
                if let Some(more) = shared.quiet.count("panicked") {
                    tracing::error!(seq = entry.seq, more, "the delivery of an event panicked; it will be tried again");
                }
                let (shared, seq, attempts) = (Arc::clone(shared), entry.seq, entry.attempts);
                let task = tasks.spawn(async move {
                    shared.failed(seq, attempts, "the delivery panicked in the host", false).await;
                });
                running.insert(task.id(), entry);
            }
        }
    }
}

async fn deliver(shared: Arc<Shared>, head: Head) {
    let Head { seq, lane: (binding, _), attempts, event } = head;
    let taken_then = shared.gates().taken_so_far(&binding);
    match shared.consumer.consume(&event).await {
        Ok(reply) => {
            let recovered = shared.gates().up(&binding, (shared.clock)());
            let late = shared.desk.answer(seq, &event, reply.clone());
            // What is sent late must not be sent once more with a repetition.
            let kept = reply.filter(|_| late.is_none());
            let now = (shared.clock)();
            shared.persist(seq, move |store| store.delivered(seq, kept.as_deref(), now)).await;
            shared.desk.end(seq);
            if recovered {
                shared.recovered().await;
            }
            if let Some(reply) = late {
                shared.consumer.reply_late(&event, reply).await;
            }
        }
        Err(error) if error.is_final() => {
            let recovered = shared.gates().up(&binding, (shared.clock)());
            if let Some(more) = shared.quiet.count(&format!("refused {binding}")) {
                tracing::error!(binding, seq, %error, more, "the application refuses an event for good; see `inbox list`");
            }
            shared.desk.answer(seq, &event, None);
            let (now, text) = ((shared.clock)(), error.to_string());
            shared.persist(seq, move |store| store.refused(seq, &text, now)).await;
            shared.desk.end(seq);
            if recovered {
                shared.recovered().await;
            }
        }
        Err(error) => {
            let suffers = shared.gates().failed(&binding, taken_then, error.scope(), (shared.clock)());
            if let Some(more) = shared.quiet.count(&format!("not taken {binding}")) {
                let attempts = attempts.saturating_add(1);
                tracing::warn!(binding, seq, attempts, %error, more, "an event is not taken yet");
            }
            shared.failed(seq, attempts, &error.to_string(), suffers).await;
        }
    }
}

impl Shared {
    fn gates(&self) -> MutexGuard<'_, Gates> {
        // Nothing panics while it holds the lock.
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn failed(&self, seq: i64, attempts: u32, error: &str, suffers: bool) {
        let now = (self.clock)();
        let pause = backoff::pause(attempts.saturating_add(1), fastrand::f64());
        let (due, error) = (now.saturating_add(pause), error.to_owned());
        self.persist(seq, move |store| store.failed(seq, &error, due, suffers, now)).await;
        self.desk.end(seq);
    }

    async fn recovered(&self) {
        let now = (self.clock)();
        if let Err(error) = self.in_steps(move |store| store.wake(now)).await
            && let Some(more) = self.quiet.count("wake")
        {
            tracing::error!(%error, more, "events that waited for the application go on waiting for up to 36 s");
        }
        self.wake.notify_one();
    }

    /// Runs a step in a transaction of its own each time, until it says that there is no more to do.
    async fn in_steps(
        &self,
        step: impl FnMut(&Store) -> Result<bool, InboxError> + Clone + Send + 'static,
    ) -> Result<(), InboxError> {
        while self.writer.run(step.clone()).await? {}
        Ok(())
    }

    /// Stores the result of a delivery. Tries again until it is stored: the conversation must not go on before,
    /// or the event would be delivered twice and out of order. At the end of the inbox, that is what is left.
    async fn persist(&self, seq: i64, work: impl FnMut(&Store) -> Result<(), InboxError> + Clone + Send + 'static) {
        let mut stopping = self.stopping.clone();
        loop {
            match self.writer.run(work.clone()).await {
                Ok(()) => return,
                Err(error) if matches!(error, InboxError::Stopped) || has_ended(&stopping) => {
                    if let Some(more) = self.quiet.count("lost") {
                        tracing::error!(seq, %error, more, "the result of a delivery is lost; the event will be delivered again");
                    }
                    return;
                }
                Err(error) => {
                    if let Some(more) = self.quiet.count("result") {
                        tracing::error!(seq, %error, more, "the result of a delivery cannot be stored; trying again");
                    }
                }
            }
            tokio::select! {
                () = sleep(STORE_AGAIN) => {}
                () = ended(&mut stopping) => {}
            }
        }
    }
}

/// The inbox is being stopped, or its last handle is gone.
async fn ended(stopping: &mut watch::Receiver<bool>) {
    // An error is the missing handle.
    let _ = stopping.wait_for(|&stopping| stopping).await;
}

fn has_ended(stopping: &watch::Receiver<bool>) -> bool {
    *stopping.borrow() || stopping.has_changed().is_err()
}

async fn reply_late(shared: Arc<Shared>, late: Late) {
    let Late { seq, event, reply } = late;
    if let Err(error) = shared.writer.run(move |store| store.forget_reply(seq)).await
        && let Some(more) = shared.quiet.count("reply")
    {
        tracing::warn!(seq, %error, more, "a repetition of this event may be answered with a reply that is sent already");
    }
    shared.consumer.reply_late(&event, reply).await;
}

/// What the steps of a purge remember.
#[derive(Default)]
struct Purge {
    /// Events that have become dead, and of which the log has not spoken.
    expired: usize,
    /// How many events are passed over.
    passed_over: usize,
}

/// Returns whether there is more to do.
async fn purge_step(shared: &Shared, purge: &mut Purge) -> bool {
    let now = (shared.clock)();
    let work = move |store: &Store| Ok((store.expire(now)?, store.purge(now)?));
    match shared.writer.run(work).await {
        Ok((expired, more)) => {
            purge.expired += expired;
            // In the end, and now and then before.
            if purge.expired > 0 && (expired == 0 || shared.quiet.count("expired").is_some()) {
                let events = std::mem::take(&mut purge.expired);
                tracing::error!(events, "not taken within --inbox-max-age, and dead now; see `inbox list`");
            }
            if expired > 0 {
                shared.wake.notify_one();
            }
            more || expired > 0
        }
        Err(InboxError::Stopped) => false,
        Err(error) => {
            let before = purge.passed_over;
            purge.passed_over = shared.writer.run(|store| Ok(store.passed_over())).await.unwrap_or(before);
            if purge.passed_over != before {
                return true;
            }
            tracing::warn!(%error, "old entries of the inbox are not removed");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::event::{Answer, BoxFuture, Event, Undelivered};
    use crate::inbox::Limits;
    use crate::inbox::store::KEPT_MS;

    const NOW: u64 = 1_700_000_000_000;

    struct Nobody;

    impl Consumer for Nobody {
        fn consume<'a>(&'a self, _: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
            Box::pin(async { Err(Undelivered::NoConnection("nobody listens".into())) })
        }
        fn reply_late<'a>(&'a self, _: &'a Event, _: Bytes) -> BoxFuture<'a, ()> {
            Box::pin(async {})
        }
    }

    fn shared(dir: &TempDir) -> Shared {
        let store = Store::create(dir.path(), Limits::default()).unwrap();
        Shared {
            writer: Writer::start(store, (), watch::channel(()).0, dir.path()).unwrap(),
            desk: Desk::new().0,
            clock: Arc::new(|| NOW),
            consumer: Arc::new(Nobody),
            wake: Arc::default(),
            stopping: watch::channel(false).1,
            gates: Mutex::default(),
            quiet: Quiet::default(),
        }
    }

    async fn accept(shared: &Shared, id: &str, at: u64) {
        let metadata = vec![("msgId".to_owned(), id.to_owned())];
        let event = Event { binding: "team".into(), data: Bytes::new(), metadata, trace: Vec::new() };
        shared.writer.run(move |store| store.insert(&event, at).map(drop)).await.unwrap();
    }

    /// Whether somebody was told to look for what is due.
    async fn is_woken(shared: &Shared) -> bool {
        timeout(Duration::ZERO, shared.wake.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn a_purge_goes_on_while_there_is_more_and_wakes_whoever_waited_for_what_is_dead_now() {
        let dir = TempDir::new().unwrap();
        let (shared, mut purge) = (shared(&dir), Purge::default());
        let mut step = async || (purge_step(&shared, &mut purge).await, is_woken(&shared).await);
        assert_eq!(step().await, (false, false));
        let too_old = NOW - Limits::default().max_age_ms() - 1;
        accept(&shared, "old", too_old).await;
        accept(&shared, "new", too_old + 1).await;
        assert_eq!(step().await, (true, true));
        assert_eq!(step().await, (false, false));
        let done = |store: &Store| store.delivered(2, None, NOW - KEPT_MS - 1);
        shared.writer.run(done).await.unwrap();
        assert_eq!(step().await, (true, false));
        assert_eq!(step().await, (false, false));
    }

    #[tokio::test]
    async fn the_log_says_of_every_event_once_that_it_was_not_taken_in_time() {
        let (log, _guard) = crate::quiet::log();
        let dir = TempDir::new().unwrap();
        let (shared, mut purge) = (shared(&dir), Purge::default());
        for ids in [&["1"][..], &["2", "3"], &["4", "5"]] {
            for id in ids {
                accept(&shared, id, 1).await;
            }
            assert!(purge_step(&shared, &mut purge).await);
        }
        for _ in 0..2 {
            assert!(!purge_step(&shared, &mut purge).await);
        }
        assert_eq!(log.count("not taken within --inbox-max-age"), 2, "{}", log.text());
        assert_eq!((log.count("events=1"), log.count("events=4")), (1, 1), "{}", log.text());
    }
}
