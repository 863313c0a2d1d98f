//! Delivers what is stored: the first event of each conversation, until it is taken. Which way they go, and who takes them,
//! is a [`Line`]'s business.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::backoff::{self, Leave};
use super::siblings::Siblings;
use super::storage::{End, Storage, Tidied, Wake};
use super::store::{Due, Head, Lane, Room};
use super::{QueueError, Side};
use crate::clock::Clock;
use crate::quiet::Quiet;

/// Deliveries at once for one binding: enough that some conversations that hang do not stop the others, and no more
/// than a small application can bear after an hour of being down.
pub(super) const AT_ONCE_A_BINDING: usize = 16;

/// Deliveries at once in all: four bindings that hang do not stop a fifth before this, and the memory for events
/// under way is bounded by it.
pub(super) const AT_ONCE: usize = 64;

/// How often the store is read though nothing seems to have happened: the `inbox` command, say, changes it from another
/// process.
const POLL: Duration = Duration::from_secs(2);

/// The pause after a result could not be stored. A full disk is not emptied within milliseconds.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// For what is under way when the queue is stopped. Below the 10 s after which Docker kills what it stops, and an
/// application may take a minute: what is cut off is delivered again.
const LINGER: Duration = Duration::from_secs(5);

/// How often old entries are removed; they are kept for a day, so that some minutes do not matter.
const PURGE: Duration = Duration::from_secs(600);

/// What is less urgent begins so much later than what else its binding has to deliver, which has asked for its turn by then.
const LESS_URGENT: Duration = Duration::from_millis(5);

/// The pause between two steps of one purge, in which others can write.
const PURGE_STEP: Duration = Duration::from_millis(100);

/// One direction: who takes what is stored, and how much of it at once.
pub(super) trait Line: Send + Sync + Sized + 'static {
    /// What is done beside the deliveries, and is waited for at the end.
    type Aside: Send + 'static;

    /// How many deliveries of all bindings may begin at `now`.
    fn leave_all(&self, now: u64) -> Leave;

    /// How many deliveries of a binding may begin at `now`, for those of which something is known, and for those in `busy`.
    fn leave(&self, busy: &[&str], now: u64) -> HashMap<String, Leave>;

    /// Which bindings keep one order with others at `now`.
    fn siblings(&self, now: u64) -> Siblings {
        let _ = now;
        Siblings::default()
    }

    /// A delivery begins. It ends with [`Line::ended`].
    fn begin(&self, seq: i64);

    /// Delivers one event, and stores what came of it.
    fn deliver(shared: Arc<Shared<Self>>, head: Head) -> impl Future<Output = ()> + Send;

    /// The result of a delivery is on disk.
    fn ended(&self, seq: i64);

    /// Does what is beside.
    fn aside(shared: Arc<Shared<Self>>, entry: Self::Aside) -> impl Future<Output = ()> + Send;
}

/// What every task needs.
pub(super) struct Shared<L> {
    pub(super) line: L,
    pub(super) side: Side,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) clock: Clock,
    pub(super) wake: Arc<Notify>,
    /// True, or without a sender: nothing new is begun.
    pub(super) stopping: watch::Receiver<bool>,
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

/// Runs until the queue is stopped, and until everything that was begun has ended or had its time to.
pub(super) async fn run<L: Line>(shared: Shared<L>, mut aside: mpsc::UnboundedReceiver<L::Aside>) {
    let shared = Arc::new(shared);
    let mut stopping = shared.stopping.clone();
    let mut tasks = JoinSet::new();
    let mut running = Deliveries::new();
    let mut beside = JoinSet::new();
    let now = (shared.clock)();
    if let Err(error) = shared.wake_in_steps(&Wake::All, now).await {
        let side = shared.side;
        tracing::error!(%error, "what an earlier process left in the {side} may be delivered up to 36 s later");
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
            Some(entry) = aside.recv() => { beside.spawn(L::aside(Arc::clone(&shared), entry)); }
            Some(_) = beside.join_next() => {}
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
        while let Ok(entry) = aside.try_recv() {
            beside.spawn(L::aside(Arc::clone(&shared), entry));
        }
        while beside.join_next().await.is_some() {}
    };
    if timeout(LINGER, drained).await.is_err() {
        let (deliveries, beside) = (tasks.len(), beside.len());
        tracing::warn!(deliveries, beside, queue = %shared.side, "cut off by the end of the host; what was not delivered will be");
    }
}

/// Begins the deliveries that are due, and says for how long there is nothing to do.
async fn begin<L: Line>(
    shared: &Arc<Shared<L>>,
    tasks: &mut JoinSet<()>,
    running: &mut Deliveries,
    turn: usize,
) -> Duration {
    let now = (shared.clock)();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for Running { lane: (binding, _), .. } in running.values() {
        *counts.entry(binding).or_default() += 1;
    }
    let mut wait = POLL;
    let mut in_all = AT_ONCE.saturating_sub(running.len());
    let mut is_probe = false;
    let until = |time: u64| Duration::from_millis(time.saturating_sub(now));
    match shared.line.leave_all(now) {
        Leave::Free | Leave::Urgent => {}
        Leave::AtMost(count, time) => {
            in_all = count.saturating_sub(running.len());
            wait = wait.min(until(time));
        }
        // What hangs from before must not keep it from being asked.
        Leave::One => {
            is_probe = true;
            in_all = usize::from(!running.values().any(|running| running.is_probe));
        }
        Leave::NotBefore(time) => {
            in_all = 0;
            wait = wait.min(until(time));
        }
    }
    let busy: Vec<&str> = counts.keys().copied().collect();
    let (mut by_binding, mut urgent) = (HashMap::new(), HashSet::new());
    for (binding, leave) in shared.line.leave(&busy, now) {
        let count = counts.get(binding.as_str()).copied().unwrap_or(0);
        let free = match leave {
            Leave::Free | Leave::AtMost(..) => AT_ONCE_A_BINDING.saturating_sub(count),
            Leave::One => 1_usize.saturating_sub(count),
            Leave::Urgent => {
                urgent.insert(binding.clone());
                AT_ONCE_A_BINDING.saturating_sub(count)
            }
            Leave::NotBefore(time) => {
                wait = wait.min(until(time));
                0
            }
        };
        by_binding.insert(binding, free);
    }
    let room = Room {
        in_all,
        a_binding: AT_ONCE_A_BINDING,
        by_binding,
        urgent,
        running: running.values().map(|running| running.lane.clone()).collect(),
        turn,
        siblings: shared.line.siblings(now),
    };
    if room.in_all == 0 {
        return wait;
    }
    let due = match shared.storage.due(room, now).await {
        Ok(due) => due,
        Err(QueueError::Stopped) => Due::default(),
        Err(error) => {
            if shared.storage.pass_on(now).await {
                return Duration::ZERO;
            }
            if let Some(more) = shared.quiet.count("due") {
                tracing::error!(%error, more, queue = %shared.side, "the queue cannot tell what is to be delivered; trying again");
            }
            return STORE_AGAIN;
        }
    };
    let mut highest: HashMap<String, i64> = HashMap::new();
    for head in &due.heads {
        let rank = highest.entry(head.lane.0.clone()).or_insert(head.rank);
        *rank = head.rank.max(*rank);
    }
    for head in due.heads {
        // It would race for its robot's turn with what is more urgent, and where threads are busy it would win.
        if highest.get(&head.lane.0).is_some_and(|rank| head.rank < *rank) {
            wait = wait.min(LESS_URGENT);
            continue;
        }
        let entry = Running { seq: head.seq, attempts: head.attempts, lane: head.lane.clone(), is_probe };
        shared.line.begin(head.seq);
        let task = tasks.spawn(L::deliver(Arc::clone(shared), head));
        running.insert(task.id(), entry);
    }
    match due.next {
        // One millisecond more: the clock and the timer do not tick together.
        Some(next) => wait.min(Duration::from_millis(next.saturating_sub(now).saturating_add(1))),
        None => wait,
    }
}

fn finished<L: Line>(
    shared: &Arc<Shared<L>>,
    done: Result<(Id, ()), JoinError>,
    tasks: &mut JoinSet<()>,
    running: &mut Deliveries,
) {
    match done {
        Ok((id, ())) => {
            running.remove(&id);
        }
        // A bug in whoever takes it. The conversation must neither stop for ever nor be tried without a pause.
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

impl<L: Line> Shared<L> {
    /// An event was not taken: it will be tried again.
    pub(super) async fn failed(&self, seq: i64, attempts: u32, error: &str, suffers: bool) {
        let now = (self.clock)();
        let pause = backoff::pause(attempts.saturating_add(1), fastrand::f64());
        let (due, error) = (now.saturating_add(pause), error.to_owned());
        self.persist(seq, End::Failed { error, due, suffers }).await;
        self.line.ended(seq);
    }

    /// Whoever takes events is back: those that only waited for that are due.
    pub(super) async fn recovered(&self) {
        let now = (self.clock)();
        if let Err(error) = self.wake_in_steps(&Wake::Suffering, now).await
            && let Some(more) = self.quiet.count("wake")
        {
            tracing::error!(%error, more, "events that waited for the application go on waiting for up to 36 s");
        }
        self.wake.notify_one();
    }

    /// Each step in a transaction of its own, until there is no more to do.
    async fn wake_in_steps(&self, which: &Wake, now: u64) -> Result<(), QueueError> {
        while self.storage.wake(which.clone(), now).await? {}
        Ok(())
    }

    /// Stores the result of a delivery. Tries again until it is stored: the conversation must not go on before,
    /// or the event would be delivered twice and out of order. At the end of the queue, that is what is left.
    pub(super) async fn persist(&self, seq: i64, end: End) {
        let mut stopping = self.stopping.clone();
        loop {
            match self.storage.end(seq, end.clone(), (self.clock)()).await {
                Ok(()) => return,
                Err(error) if matches!(error, QueueError::Stopped) || has_ended(&stopping) => {
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

/// The queue is being stopped, or its last handle is gone.
pub(super) async fn ended(stopping: &mut watch::Receiver<bool>) {
    // An error is the missing handle.
    let _ = stopping.wait_for(|&stopping| stopping).await;
}

pub(super) fn has_ended(stopping: &watch::Receiver<bool>) -> bool {
    *stopping.borrow() || stopping.has_changed().is_err()
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
async fn purge_step<L: Line>(shared: &Shared<L>, purge: &mut Purge) -> bool {
    let now = (shared.clock)();
    match shared.storage.tidy(now).await {
        Ok(Tidied { expired, more }) => {
            purge.expired += expired;
            // In the end, and now and then before.
            if purge.expired > 0 && (expired == 0 || shared.quiet.count("expired").is_some()) {
                let (events, side) = (std::mem::take(&mut purge.expired), shared.side);
                tracing::error!(events, "not taken within --{side}-max-age, and dead now; see `{side} list`");
            }
            if expired > 0 {
                shared.wake.notify_one();
            }
            more
        }
        Err(QueueError::Stopped) => false,
        Err(error) => {
            let before = purge.passed_over;
            purge.passed_over = shared.storage.passed_over().await.max(before);
            if purge.passed_over != before {
                return true;
            }
            tracing::warn!(%error, "old entries of the {} are not removed", shared.side);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tempfile::TempDir;

    use super::*;
    use crate::event::Event;
    use crate::queue::Limits;
    use crate::queue::store::{Item, KEPT_MS, Store};
    use crate::queue::writer::Writer;

    const NOW: u64 = 1_700_000_000_000;

    struct Nobody;

    impl Line for Nobody {
        type Aside = ();

        fn leave_all(&self, _: u64) -> Leave {
            Leave::NotBefore(u64::MAX)
        }
        fn leave(&self, _: &[&str], _: u64) -> HashMap<String, Leave> {
            HashMap::new()
        }
        fn begin(&self, _: i64) {}
        async fn deliver(_: Arc<Shared<Self>>, _: Head) {}
        fn ended(&self, _: i64) {}
        async fn aside(_: Arc<Shared<Self>>, (): ()) {}
    }

    fn shared(dir: &TempDir) -> (Shared<Nobody>, Writer) {
        let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
        let writer = Writer::start(store, (), Side::Inbox, dir.path()).unwrap();
        let shared = Shared {
            line: Nobody,
            side: Side::Inbox,
            storage: Arc::new(writer.clone()),
            clock: Arc::new(|| NOW),
            wake: Arc::default(),
            stopping: watch::channel(false).1,
            quiet: Quiet::default(),
        };
        (shared, writer)
    }

    async fn accept(shared: &Shared<Nobody>, id: &str, at: u64) {
        let metadata = vec![("msgId".to_owned(), id.to_owned())];
        let event = Event { binding: "team".into(), data: Bytes::new(), metadata, trace: Vec::new() };
        shared.storage.insert(vec![Item::received(event)], at, Box::new(drop)).await.unwrap();
    }

    /// Whether somebody was told to look for what is due.
    async fn is_woken(shared: &Shared<Nobody>) -> bool {
        timeout(Duration::ZERO, shared.wake.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn a_purge_goes_on_while_there_is_more_and_wakes_whoever_waited_for_what_is_dead_now() {
        let dir = TempDir::new().unwrap();
        let ((shared, writer), mut purge) = (shared(&dir), Purge::default());
        let mut step = async || (purge_step(&shared, &mut purge).await, is_woken(&shared).await);
        assert_eq!(step().await, (false, false));
        let too_old = NOW - Limits::default().max_age_ms() - 1;
        accept(&shared, "old", too_old).await;
        accept(&shared, "new", too_old + 1).await;
        assert_eq!(step().await, (true, true));
        assert_eq!(step().await, (false, false));
        let done = |store: &Store| store.delivered(2, None, NOW - KEPT_MS - 1);
        writer.run(done).await.unwrap();
        assert_eq!(step().await, (true, false));
        assert_eq!(step().await, (false, false));
    }

    #[tokio::test]
    async fn the_log_says_of_every_event_once_that_it_was_not_taken_in_time() {
        let (log, _guard) = crate::quiet::log();
        let dir = TempDir::new().unwrap();
        let ((shared, _), mut purge) = (shared(&dir), Purge::default());
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
