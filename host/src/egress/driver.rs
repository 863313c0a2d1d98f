//! The half of a connection that reads and writes, polled by whoever waits for what it brings.
//!
//! Polled in one task, the two halves wake each other all the time, and each time the task would take another turn at the
//! processor for what it has at hand. So both have a waker of the connection's own: what one half has for the other is
//! heard here, and only what comes from outside wakes the task.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use hyper::rt::Executor as _;
use tokio::runtime::Handle;
use tokio::task::coop::has_budget_remaining;

use crate::sandbox::Executor;

/// How often both halves are polled before other tasks have a turn. An answer takes two; a server that sends without an end
/// takes them all.
const ROUNDS: usize = 8;

/// How long a connection has for its end once nobody has it any more: hyper writes what it has, and TLS says goodbye. To a server
/// that never reads, it would do so for ever, with a descriptor and the message.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Reads and writes whenever it is polled; empty once the connection has ended.
pub(super) struct Driver {
    future: Option<BoxedDriver>,
    relay: Arc<Relay>,
    waker: Waker,
}

pub(super) type BoxedDriver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Between what wakes a connection and the task that polls it.
#[derive(Default)]
struct Relay {
    /// The connection is being polled: whoever does so looks again.
    is_polled: AtomicBool,
    /// There is something to look at.
    is_woken: AtomicBool,
    /// Who is to be woken. Nobody, while nobody uses the connection.
    task: Mutex<Option<Waker>>,
}

impl Relay {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    // Either this sees that the connection is not being polled any more, or the poll sees that it was woken: both orders are
    // sequentially consistent.
    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        if !self.is_polled.load(Ordering::SeqCst) {
            let task = self.task().clone();
            if let Some(task) = task {
                task.wake();
            }
        }
    }
}

impl Driver {
    pub(super) fn new(future: BoxedDriver) -> Self {
        let relay = Arc::<Relay>::default();
        Self { future: Some(future), waker: Waker::from(Arc::clone(&relay)), relay }
    }

    /// Reads and writes what can be at once, for nobody. Whether the connection is still there.
    pub(super) fn look(&mut self) -> bool {
        let Some(driver) = &mut self.future else { return false };
        // What is heard from here on is news. A swap, to see all that whoever woke it has done before.
        self.relay.is_woken.swap(false, Ordering::SeqCst);
        let context = &mut Context::from_waker(&self.waker);
        // A panic that a server's bytes bring about ends its connection, as in a task. In the call's it would look as if nothing had
        // been sent.
        let polled = catch_unwind(AssertUnwindSafe(|| driver.as_mut().poll(context)));
        if !matches!(polled, Ok(Poll::Pending)) {
            self.future = None;
        }
        self.future.is_some()
    }

    /// Whether something has come, or was closed, since it was looked at.
    pub(super) fn has_news(&self) -> bool {
        self.relay.is_woken.load(Ordering::SeqCst)
    }

    /// Reads and writes while `future` waits for what comes of it, and for nothing else.
    pub(super) async fn run<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let used = Used(self);
        poll_fn(|context| used.0.poll(&mut future, context)).await
    }

    fn poll<T>(&mut self, future: &mut Pin<&mut impl Future<Output = T>>, context: &Context<'_>) -> Poll<T> {
        let mut task = self.relay.task();
        if !task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
        drop(task);
        let waker = self.waker.clone();
        for _ in 0..ROUNDS {
            self.relay.is_polled.store(true, Ordering::SeqCst);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            // What this half has for the other one, that one sees now.
            let has_ended = polled.is_pending() && !self.look();
            self.relay.is_polled.store(false, Ordering::SeqCst);
            if has_ended {
                return future.as_mut().poll(&mut Context::from_waker(&waker));
            }
            if polled.is_ready() {
                return polled;
            }
            // tokio ends a task's turn by having nothing ready, and its wake-up may be among those that were heard here.
            if !has_budget_remaining() {
                break;
            }
            if !self.has_news() {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    /// The end of a connection is nobody's business: it has a task and some time for it.
    fn drop(&mut self) {
        let Some(driver) = self.future.take() else { return };
        // At the end of a process there is nobody to run one.
        if Handle::try_current().is_ok() {
            Executor.execute(async {
                let _ = tokio::time::timeout(LINGER, driver).await;
            });
        }
    }
}

/// A driver whose connection is used.
struct Used<'a>(&'a mut Driver);

impl Drop for Used<'_> {
    /// Who has used it is not kept.
    fn drop(&mut self) {
        *self.0.relay.task() = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::oneshot;

    use super::*;

    /// How often a task was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_one_half_has_for_the_other_wakes_nobody_and_what_comes_from_outside_does() {
        let ((ask, asked), (answer, answered)) = (oneshot::channel(), oneshot::channel());
        let (arrive, arrived) = oneshot::channel();
        let mut driver = Driver::new(Box::pin(async {
            let question: u8 = asked.await.unwrap();
            let () = arrived.await.unwrap();
            answer.send(question + 1).unwrap();
            std::future::pending().await
        }));
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let relay = Arc::clone(&driver.relay);
        let mut exchange = Box::pin(driver.run(async {
            ask.send(7).unwrap();
            answered.await.unwrap()
        }));
        let mut poll = || exchange.as_mut().poll(&mut Context::from_waker(&waker));
        assert_eq!(poll(), Poll::Pending);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        arrive.send(()).unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(), Poll::Ready(8));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        drop(exchange);
        assert!(relay.task().is_none(), "whoever has used it is kept");
    }

    #[test]
    fn a_half_that_always_has_something_leaves_others_their_turns() {
        let polls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&polls);
        let mut driver = Driver::new(Box::pin(poll_fn(move |context| {
            counted.fetch_add(1, Ordering::Relaxed);
            context.waker().wake_by_ref();
            Poll::Pending
        })));
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut exchange = Box::pin(driver.run(std::future::pending::<()>()));
        for poll in 1..=3 {
            assert!(exchange.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!((polls.load(Ordering::Relaxed), woken.0.load(Ordering::Relaxed)), (poll * ROUNDS, poll));
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_connection_and_not_the_call() {
        let mut driver = Driver::new(Box::pin(async { panic!("what a server's bytes could bring about") }));
        let (answer, answered) = oneshot::channel::<()>();
        let exchange = async {
            let _answer = answer;
            tokio::task::yield_now().await;
        };
        driver.run(exchange).await;
        assert!(!driver.look() && answered.await.is_err());
    }

    #[test]
    fn what_comes_while_nobody_uses_it_is_news_once() {
        let (arrive, mut arrived) = tokio::sync::mpsc::unbounded_channel();
        let mut driver = Driver::new(Box::pin(async move { while arrived.recv().await.is_some() {} }));
        assert!(driver.look() && !driver.has_news());
        arrive.send(()).unwrap();
        assert!(driver.has_news());
        assert!(driver.look() && !driver.has_news());
        drop(arrive);
        assert!(driver.has_news() && !driver.look());
    }

    #[test]
    fn who_waits_for_a_connection_that_ends_is_polled_once_more() {
        let (answer, answered) = oneshot::channel::<()>();
        let mut driver = Driver::new(Box::pin(async move { drop(answer) }));
        let mut exchange = Box::pin(driver.run(answered));
        let polled = exchange.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Err(_))));
        drop(exchange);
        assert!(!driver.look());
    }
}
