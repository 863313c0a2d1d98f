//! The processor, shared fairly by tenants: as many tasks compute at once as there are cores, and who computes next
//! is chosen tenant by tenant, each time a task is ready to go on.
//!
//! A task here is a future that is polled through [`Fair`]: a call, the request that it sends, the connection that
//! carries it. When something wakes it, it does not enter the runtime's queue, where 64 tasks of another tenant may
//! be before it, but that of its tenant ([`super::turns`]). It holds a permit from the moment when it is chosen until it
//! has been polled. A computation gives its permit back at every fuel yield.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::turns::Turns;

/// A permit that is not used for so long belongs to a task whose owner has stopped polling it. Another one takes its
/// place, so that no mistake of a caller can stop every tenant. A poll takes a millisecond at most.
const STALLED: Duration = Duration::from_millis(200);

/// How long a thread computes before it looks for what has arrived: the runtime by itself would do so after 61 polls,
/// be they of 10 µs or of a whole slice. An answer that nobody has looked for yet has no turn.
const LOOK_FOR_EVENTS: Duration = Duration::from_micros(200);

/// Set in [`Shared::permits`] where whoever gives one back must look at what is behind the lock.
const LOOK: usize = 1;
/// One permit.
const PERMIT: usize = 2;

/// The processor. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Processor(Arc<Shared>);

struct Shared {
    /// How many are free, times [`PERMIT`], and [`LOOK`].
    permits: AtomicUsize,
    queue: Mutex<Queue>,
    tenants: AtomicU64,
    stalled: Duration,
}

struct Queue {
    turns: Turns<Arc<Task>>,
    /// Permits that were given out in place of stalled ones.
    borrowed: usize,
    progress: Instant,
}

impl Processor {
    /// Lets `permits` tasks compute at once.
    pub(crate) fn new(permits: usize) -> Self {
        Self::replacing(permits, STALLED)
    }

    /// Replaces a permit that is not used for `stalled`.
    fn replacing(permits: usize, stalled: Duration) -> Self {
        let queue = Queue { turns: Turns::new(), borrowed: 0, progress: Instant::now() };
        Self(Arc::new(Shared {
            permits: AtomicUsize::new(permits.max(1) * PERMIT),
            queue: Mutex::new(queue),
            tenants: AtomicU64::new(0),
            stalled,
        }))
    }

    /// One more tenant.
    pub(crate) fn tenant(&self) -> Share {
        let id = self.0.tenants.fetch_add(1, Ordering::Relaxed);
        Share(Arc::new(Account { processor: self.clone(), id, used: AtomicU64::new(0) }))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit if one is free.
    fn try_take(&self) -> bool {
        let take = |permits: usize| permits.checked_sub(PERMIT);
        self.0.permits.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).is_ok()
    }

    /// Has `task` wait unless a permit is free; whether it has one.
    fn take_or_wait(&self, task: &Arc<Task>) -> bool {
        if self.try_take() {
            return true;
        }
        let mut queue = self.queue();
        // Between the first try and the lock one may have been given back, without a look at the queue.
        let set = |permits: usize| if permits < PERMIT { Some(permits | LOOK) } else { None };
        while self.0.permits.fetch_update(Ordering::AcqRel, Ordering::Relaxed, set).is_err() {
            if self.try_take() {
                return true;
            }
        }
        if queue.turns.is_empty() {
            queue.progress = Instant::now();
        }
        let account = &task.share.0;
        let used = queue.turns.wait(account.id, account.used.load(Ordering::Relaxed), Arc::clone(task));
        account.used.store(used, Ordering::Relaxed);
        let stalled = queue.progress.elapsed() > self.0.stalled;
        let next = if stalled { queue.borrow() } else { None };
        drop(queue);
        if let Some(next) = next {
            next.grant();
        }
        false
    }

    /// Gives a permit back that was held since `since`, to whose turn it is. `share` has used `spent` nanoseconds.
    fn give_back(&self, share: &Share, spent: u64, since: Instant) {
        share.0.used.fetch_add(spent, Ordering::Relaxed);
        let give = |permits: usize| if permits & LOOK == 0 { Some(permits + PERMIT) } else { None };
        if self.0.permits.fetch_update(Ordering::AcqRel, Ordering::Relaxed, give).is_ok() {
            return;
        }
        let mut queue = self.queue();
        queue.progress = Instant::now();
        queue.turns.charge(share.0.id, spent);
        // Another one has taken the place of this.
        let next = if queue.borrowed > 0 && since.elapsed() > self.0.stalled {
            queue.borrowed -= 1;
            None
        } else {
            let next = queue.turns.next();
            if next.is_none() {
                self.0.permits.fetch_add(PERMIT, Ordering::AcqRel);
            }
            next
        };
        if queue.turns.is_empty() && queue.borrowed == 0 {
            self.0.permits.fetch_and(!LOOK, Ordering::AcqRel);
        }
        drop(queue);
        if let Some(next) = next {
            next.grant();
        }
    }
}

impl Queue {
    /// The next task, though no permit is free.
    fn borrow(&mut self) -> Option<Arc<Task>> {
        self.progress = Instant::now();
        let next = self.turns.next()?;
        self.borrowed += 1;
        Some(next)
    }
}

/// One tenant's claim to the processor. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Share(Arc<Account>);

struct Account {
    processor: Processor,
    id: u64,
    /// Nanoseconds.
    used: AtomicU64,
}

impl Share {
    /// What distinguishes this tenant from others.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// Polls `future` only when it is this tenant's turn.
    pub(crate) fn run<F: Future + Unpin>(&self, future: F) -> Fair<F> {
        let state = Mutex::new(State { phase: Phase::New, woken: false, outer: None, since: Instant::now() });
        let task = Arc::new(Task { share: self.clone(), state });
        Fair { waker: Waker::from(Arc::clone(&task)), task, future }
    }
}

thread_local! {
    /// Whose task is being polled.
    static CURRENT: RefCell<Option<Share>> = const { RefCell::new(None) };
    /// For how long this thread has computed since it looked for events.
    static COMPUTED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs what the libraries below a tenant's task begin on the side (its connections) in that tenant's turns too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Executor;

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        match CURRENT.with_borrow(Clone::clone) {
            Some(share) => {
                let task = share.run(Box::pin(future));
                tokio::spawn(task);
            }
            None => {
                tokio::spawn(future);
            }
        }
    }
}

/// A future that is polled in its tenant's turns.
pub(crate) struct Fair<F> {
    future: F,
    task: Arc<Task>,
    /// The task as a waker, for the future.
    waker: Waker,
}

struct Task {
    share: Share,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// Whether it was woken while it was polled.
    woken: bool,
    /// Has this future polled.
    outer: Option<Waker>,
    /// When it was given its permit, the last time.
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Never polled.
    New,
    /// Nothing to do until it is woken.
    Idle,
    /// Ready, without a permit.
    Waiting,
    /// With a permit, to be polled.
    Chosen,
    /// With a permit, until the runtime has looked for events.
    Resting,
    /// With a permit, being polled.
    Running,
    /// Ended or dropped.
    Over,
}

impl Task {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn processor(&self) -> &Processor {
        &self.share.0.processor
    }

    /// Receives a permit.
    fn grant(self: Arc<Self>) {
        let mut state = self.state();
        if state.phase == Phase::Waiting {
            state.phase = Phase::Chosen;
            state.since = Instant::now();
            let outer = state.outer.clone();
            drop(state);
            if let Some(outer) = outer {
                outer.wake();
            }
        } else {
            // It was dropped on its way through the queue.
            drop(state);
            self.processor().give_back(&self.share, 0, Instant::now());
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.state();
        match state.phase {
            Phase::Idle => state.phase = Phase::Waiting,
            Phase::Running => {
                state.woken = true;
                return;
            }
            Phase::New | Phase::Waiting | Phase::Chosen | Phase::Resting | Phase::Over => return,
        }
        drop(state);
        if self.processor().take_or_wait(self) {
            Arc::clone(self).grant();
        }
    }
}

/// Marks whose task is polled, until it is dropped.
struct Polling;

impl Polling {
    fn new(share: &Share) -> Self {
        CURRENT.set(Some(share.clone()));
        Self
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

impl<F: Future + Unpin> Future for Fair<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let task = &this.task;
        {
            let mut state = task.state();
            if !state.outer.as_ref().is_some_and(|outer| outer.will_wake(context.waker())) {
                state.outer = Some(context.waker().clone());
            }
            match state.phase {
                Phase::New => {
                    state.phase = Phase::Waiting;
                    drop(state);
                    if !task.processor().take_or_wait(task) {
                        return Poll::Pending;
                    }
                    let mut state = task.state();
                    state.phase = Phase::Running;
                    state.since = Instant::now();
                }
                Phase::Chosen if COMPUTED.get() >= LOOK_FOR_EVENTS => {
                    state.phase = Phase::Resting;
                    drop(state);
                    COMPUTED.set(Duration::ZERO);
                    // Has the runtime wake this task once it has looked for events, and woken others.
                    let _ = pin!(tokio::task::yield_now()).poll(context);
                    return Poll::Pending;
                }
                Phase::Resting => {
                    // Who has come meanwhile may be the one whose turn it is.
                    state.phase = Phase::Waiting;
                    let since = state.since;
                    drop(state);
                    if task.processor().take_or_wait(task) {
                        Arc::clone(task).grant();
                    }
                    task.processor().give_back(&task.share, 0, since);
                    return Poll::Pending;
                }
                Phase::Chosen => state.phase = Phase::Running,
                Phase::Idle | Phase::Waiting | Phase::Running | Phase::Over => return Poll::Pending,
            }
        }
        let start = Instant::now();
        let polled = {
            let _polling = Polling::new(&task.share);
            Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
        };
        let spent = start.elapsed();
        COMPUTED.set(COMPUTED.get().saturating_add(spent));
        let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        let (again, since) = {
            let mut state = task.state();
            let woken = std::mem::take(&mut state.woken);
            state.phase = match polled {
                Poll::Ready(_) => Phase::Over,
                Poll::Pending if woken => Phase::Waiting,
                Poll::Pending => Phase::Idle,
            };
            (state.phase == Phase::Waiting, state.since)
        };
        // First in the queue again, then the permit: this tenant's turn may be the next one.
        if again && task.processor().take_or_wait(task) {
            Arc::clone(task).grant();
        }
        task.processor().give_back(&task.share, spent, since);
        polled
    }
}

impl<F> Drop for Fair<F> {
    fn drop(&mut self) {
        let task = &self.task;
        let (phase, since) = {
            let mut state = task.state();
            (std::mem::replace(&mut state.phase, Phase::Over), state.since)
        };
        match phase {
            Phase::Waiting => {
                let mut queue = task.processor().queue();
                queue.turns.forget(task.share.0.id, |waiting| Arc::ptr_eq(waiting, task));
            }
            // Running: it panicked.
            Phase::Chosen | Phase::Resting | Phase::Running => task.processor().give_back(&task.share, 0, since),
            Phase::New | Phase::Idle | Phase::Over => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// A busy machine may take long for anything.
    const NEVER: Duration = Duration::from_secs(3_600);

    /// Computes `turns` slices, and lets others run after each.
    async fn compute(turns: usize, slice: impl Fn()) {
        for _ in 0..turns {
            slice();
            let mut yielded = false;
            poll_fn(|context| {
                if std::mem::replace(&mut yielded, true) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
    }

    #[test]
    fn beside_64_computations_of_another_tenant_a_quiet_one_waits_for_few_of_their_slices() {
        const TURNS: usize = 20;
        let processor = Processor::replacing(1, NEVER);
        let (quiet, loud) = (processor.tenant(), processor.tenant());
        let slices = Arc::new(AtomicUsize::new(0));
        runtime().block_on(async {
            for _ in 0..64 {
                let slices = Arc::clone(&slices);
                let endless = compute(usize::MAX, move || {
                    slices.fetch_add(1, Ordering::Relaxed);
                    // A tenth of a millisecond, on whatever machine.
                    std::thread::sleep(Duration::from_micros(100));
                });
                tokio::spawn(loud.run(Box::pin(endless)));
            }
            while slices.load(Ordering::Relaxed) < 64 {
                tokio::task::yield_now().await;
            }
            let before = slices.load(Ordering::Relaxed);
            tokio::spawn(quiet.run(Box::pin(compute(TURNS, || {})))).await.unwrap();
            let waited = slices.load(Ordering::Relaxed) - before;
            // One after the other, each of its turns would cost it 64 of theirs: 1,280.
            assert!(waited <= TURNS * 64 / 4, "waited for {waited} slices");
        });
    }

    #[test]
    fn every_task_ends_and_every_permit_comes_back_also_from_those_that_are_dropped() {
        let processor = Processor::replacing(2, NEVER);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let running = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let tenants: Vec<_> = (0..5).map(|_| processor.tenant()).collect();
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..400_usize {
                let running = Arc::clone(&running);
                let slices = compute(20, move || {
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 2, "more tasks run than there are permits");
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                });
                let task = tenants[number % 5].run(Box::pin(slices));
                if number % 7 == 0 {
                    tasks.spawn(async { drop(tokio::time::timeout(Duration::from_micros(50), task).await) });
                } else {
                    tasks.spawn(task);
                }
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        });
        assert_eq!(processor.0.permits.load(Ordering::SeqCst), 2 * PERMIT);
        assert!(processor.queue().turns.is_empty());
    }

    #[test]
    fn a_task_that_nobody_polls_any_more_does_not_stop_the_others() {
        let processor = Processor::new(1);
        let (kept, other) = (processor.tenant(), processor.tenant());
        runtime().block_on(async {
            let woken: Arc<Mutex<Option<Waker>>> = Arc::default();
            let slot = Arc::clone(&woken);
            let mut left = Box::pin(kept.run(Box::pin(poll_fn(move |context| {
                *slot.lock().unwrap() = Some(context.waker().clone());
                Poll::<()>::Pending
            }))));
            assert!(poll_fn(|context| Poll::Ready(left.as_mut().poll(context).is_pending())).await);
            let waker = woken.lock().unwrap().take().unwrap();
            waker.wake();
            // It has the permit now, and is not polled. Another task waits, and a later one finds that nothing moves.
            let waiting = tokio::spawn(other.run(Box::pin(compute(1, || {}))));
            tokio::time::sleep(STALLED + Duration::from_millis(50)).await;
            let later = tokio::spawn(other.run(Box::pin(compute(1, || {}))));
            tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
            drop(left);
            tokio::time::timeout(Duration::from_secs(60), later).await.unwrap().unwrap();
        });
        assert!(processor.0.permits.load(Ordering::SeqCst) >= PERMIT);
    }
}
