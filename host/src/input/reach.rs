//! For how long is remembered what was received: as long as it can be repeated, also when that becomes longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;

/// More than the longest time from a callback's arrival to the moment at which it is remembered: its body, its turn
/// and its verification have limits, which are shorter in all.
const DELAY: Duration = Duration::from_secs(60);

/// Entries that are renewed without letting others have the thread.
const AT_A_TIME: usize = 1_000;

/// How far back a memory reaches: it keeps what can be repeated within its window, the time from the earliest moment at
/// which a signature is accepted to the last. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reach(Arc<Times>);

/// In milliseconds.
struct Times {
    /// That of what comes now. It only grows: what was kept for longer is no harm.
    window: AtomicU64,
    /// That of everything: what came before the window grew was to be kept for less, until it is renewed.
    renewed: AtomicU64,
    /// Since the Unix epoch. Older signatures were good once, and their messages are forgotten.
    forgotten: AtomicU64,
    delay: Duration,
}

impl Reach {
    /// Of a memory that is empty.
    pub(super) fn new(window: Duration) -> Self {
        Self::late(window, DELAY)
    }

    /// Of one to which nothing comes later than by `delay`.
    pub(super) fn late(window: Duration, delay: Duration) -> Self {
        let window = milliseconds(window);
        Self(Arc::new(Times { window: window.into(), renewed: window.into(), forgotten: 0.into(), delay }))
    }

    /// Whether what was signed at `time` may have been here and be forgotten.
    pub(super) fn has_forgotten(&self, time: u64) -> bool {
        time < self.0.forgotten.load(Ordering::Acquire)
    }

    /// Makes the window longer at `now`. What was too old until then may be forgotten, and stays too old; `true` if the
    /// rest has to be renewed, so that it is kept for longer than it was to be.
    fn begin(&self, window: Duration, now: u64) -> bool {
        let (window, before) = (milliseconds(window), self.0.renewed.load(Ordering::Acquire));
        if window <= before {
            return false;
        }
        self.0.forgotten.fetch_max(now.saturating_sub(before / 2), Ordering::AcqRel);
        self.0.window.fetch_max(window, Ordering::AcqRel);
        true
    }

    /// Makes the window longer at `now`, and has `renew` look at everything there is. Should that be broken off, it is
    /// done the next time.
    pub(super) async fn widen<F: Future<Output = ()>>(&self, window: Duration, now: u64, renew: impl FnOnce() -> F) {
        if self.begin(window, now) {
            renew().await;
            self.0.renewed.fetch_max(milliseconds(window), Ordering::AcqRel);
        }
    }

    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_millis(self.0.window.load(Ordering::Acquire)) + self.0.delay
    }
}

/// What came before the window became longer is kept for longer once it is looked at.
impl<K, V> Expiry<K, V> for Reach {
    fn expire_after_create(&self, _: &K, _: &V, _: Instant) -> Option<Duration> {
        Some(self.lifetime())
    }

    fn expire_after_read(
        &self,
        _: &K,
        _: &V,
        read: Instant,
        left: Option<Duration>,
        created: Instant,
    ) -> Option<Duration> {
        let wanted = self.lifetime().saturating_sub(read.saturating_duration_since(created));
        // Not for the nanoseconds by which clocks differ.
        left.map(|left| if wanted > left + Duration::from_millis(1) { wanted } else { left })
    }
}

/// Looks at everything there is with `look`, so that nobody waits for long.
pub(super) async fn renew<T, F: Future>(all: impl IntoIterator<Item = T>, look: impl Fn(T) -> F) {
    for (number, one) in all.into_iter().enumerate() {
        let _ = look(one).await;
        if number % AT_A_TIME == AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_kept_for_longer_is_what_was_to_be_forgotten_earlier() {
        let reach = Reach::new(2 * MINUTE);
        let created = Instant::now();
        let left =
            |read: Duration, left: Duration| reach.expire_after_read(&(), &(), created + read, Some(left), created);
        assert_eq!(reach.expire_after_create(&(), &(), created), Some(3 * MINUTE));
        assert_eq!(left(MINUTE, 2 * MINUTE), Some(2 * MINUTE));
        assert!(reach.begin(20 * MINUTE, 1_000_000_000));
        assert_eq!(reach.expire_after_create(&(), &(), created), Some(21 * MINUTE));
        assert_eq!(left(MINUTE, 2 * MINUTE), Some(20 * MINUTE));
        assert_eq!(left(MINUTE, 20 * MINUTE), Some(20 * MINUTE));
        // A signature is good for half of the window after its time: what is older may have been forgotten.
        assert!(reach.has_forgotten(1_000_000_000 - 60_001) && !reach.has_forgotten(1_000_000_000 - 60_000));
    }

    #[tokio::test]
    async fn what_was_broken_off_is_done_the_next_time() {
        let reach = Reach::new(MINUTE);
        assert!(reach.begin(2 * MINUTE, 0) && reach.begin(2 * MINUTE, 0), "nobody has renewed anything");
        let mut renewed = 0;
        for _ in 0..2 {
            reach.widen(2 * MINUTE, 0, async || renewed += 1).await;
        }
        reach.widen(MINUTE, 0, async || renewed += 1).await;
        assert_eq!((renewed, reach.lifetime()), (1, 3 * MINUTE));
    }
}
