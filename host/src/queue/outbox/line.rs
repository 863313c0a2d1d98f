//! From the outbox to the robots: which bindings are held, and what becomes of a message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Consumer;
use super::retry::{self, Next, Setback};
use crate::queue::backoff::Leave;
use crate::queue::dispatcher::{Line, Shared};
use crate::queue::storage::End;
use crate::queue::store::{EXPIRED, Head};

/// For how long a hold that is over is remembered: as long as pauses may still grow.
const REMEMBERED_MS: u64 = 60 * 60 * 1_000;

/// Bindings of which nothing is posted for a while. In memory alone: the gates know why, and a new process may ask them.
#[derive(Default)]
pub(in crate::queue) struct Holds(Mutex<HashMap<String, Hold>>);

#[derive(Clone, Copy, Default)]
struct Hold {
    from: u64,
    until: u64,
    /// How often in a row nothing could be posted.
    unsent: u32,
}

impl Hold {
    /// A clock that was set back must not hold anything for longer than was meant.
    fn is_on(self, now: u64) -> bool {
        self.from <= now && now < self.until
    }
}

impl Holds {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Hold>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is known of it any more.
    pub(super) fn release(&self, binding: &str) {
        self.lock().remove(binding);
    }

    fn unsent(&self, binding: &str) -> u32 {
        self.lock().get(binding).map_or(0, |hold| hold.unsent)
    }

    fn hold(&self, binding: &str, now: u64, pause: u64, is_unsent: bool) {
        let mut holds = self.lock();
        let hold = holds.entry(binding.to_owned()).or_default();
        let is_held = hold.is_on(now);
        hold.until = now.saturating_add(pause).max(if is_held { hold.until } else { 0 });
        hold.from = now;
        hold.unsent = if is_unsent { hold.unsent.saturating_add(1) } else { 0 };
    }

    fn at(&self, now: u64) -> HashMap<String, Leave> {
        let mut holds = self.lock();
        // Names come and go with component files.
        holds.retain(|_, hold| hold.until.abs_diff(now) < REMEMBERED_MS);
        let held = holds.iter().filter(|(_, hold)| hold.is_on(now));
        held.map(|(name, hold)| (name.clone(), Leave::NotBefore(hold.until))).collect()
    }
}

/// The way to the robots.
pub(in crate::queue) struct ToRobots {
    consumer: Arc<dyn Consumer>,
    holds: Arc<Holds>,
    /// How often DingTalk was busy with a message that waits. In memory alone: a new process counts anew.
    busy: Mutex<HashMap<i64, u32>>,
}

/// Messages of which that is known. Those that nobody asks for any more are forgotten with the rest.
const BUSY_AT_ONCE: usize = 1_024;

impl ToRobots {
    pub(super) fn new(consumer: Arc<dyn Consumer>, holds: Arc<Holds>) -> Self {
        Self { consumer, holds, busy: Mutex::default() }
    }

    /// How often it was so before.
    fn busy(&self, seq: i64) -> u32 {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy.len() >= BUSY_AT_ONCE {
            busy.clear();
        }
        let count = busy.entry(seq).or_default();
        *count = count.saturating_add(1);
        *count - 1
    }

    /// It is posted no more.
    fn forget(&self, seq: i64) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
    }
}

impl Line for ToRobots {
    type Aside = ();

    fn leave_all(&self, _: u64) -> Leave {
        Leave::Free
    }

    fn leave(&self, busy: &[&str], now: u64) -> HashMap<String, Leave> {
        let mut leave: HashMap<_, _> = busy.iter().map(|name| ((*name).to_owned(), Leave::Free)).collect();
        leave.extend(self.holds.at(now));
        leave
    }

    fn begin(&self, _: i64) {}

    async fn deliver(shared: Arc<Shared<Self>>, head: Head) {
        let Head { seq, lane: (binding, _), attempts, expires_at, event } = head;
        let Self { consumer, holds, .. } = &shared.line;
        let is_late = expires_at.is_some_and(|time| time <= (shared.clock)());
        let setback = match is_late {
            true => Setback { kind: retry::Kind::Refused, reason: EXPIRED.to_owned() },
            false => match consumer.post(&event).await {
                Ok(()) => {
                    holds.release(&binding);
                    shared.line.forget(seq);
                    return shared.persist(seq, End::Delivered(None)).await;
                }
                Err(setback) => setback,
            },
        };
        let Setback { kind, reason } = setback;
        let busy = if kind == retry::Kind::Busy { shared.line.busy(seq) } else { 0 };
        match retry::next(kind, attempts, busy, holds.unsent(&binding), fastrand::f64()) {
            Next::Hold(pause) => {
                holds.hold(&binding, (shared.clock)(), pause, kind == retry::Kind::Unsent);
                if let Some(more) = shared.quiet.count(&format!("held {binding}")) {
                    tracing::info!(binding, seq, pause, reason, more, "messages wait in the outbox");
                }
            }
            Next::Again(pause) => {
                if let Some(more) = shared.quiet.count(&format!("again {binding}")) {
                    let attempts = attempts.saturating_add(1);
                    tracing::warn!(binding, seq, attempts, reason, more, "a message is not taken yet");
                }
                let due = (shared.clock)().saturating_add(pause);
                shared.persist(seq, End::Failed { error: reason, due, suffers: false }).await;
            }
            Next::GiveUp => {
                if let Some(more) = shared.quiet.count(&format!("refused {binding}")) {
                    tracing::error!(binding, seq, reason, more, "a message is given up; see `outbox list`");
                }
                shared.line.forget(seq);
                consumer.give_up(seq, &event, &reason).await;
                shared.persist(seq, End::Refused(reason)).await;
            }
        }
    }

    fn ended(&self, _: i64) {}

    async fn aside(_: Arc<Shared<Self>>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_holds_nothing_for_longer_than_was_meant() {
        let holds = Holds::default();
        holds.hold("team", 1_000_000, 500, true);
        assert_eq!(holds.at(1_000_499).get("team"), Some(&Leave::NotBefore(1_000_500)));
        for now in [1_000_500, 999_999, 700_000] {
            assert!(holds.at(now).is_empty(), "{now}");
        }
        // What was held before is no reason either, and how often nothing could be posted is still known.
        holds.hold("team", 700_000, 800, true);
        assert_eq!(holds.at(700_001).get("team"), Some(&Leave::NotBefore(700_800)));
        assert_eq!(holds.unsent("team"), 2);
        // Within its time, a hold is not shortened.
        holds.hold("team", 700_100, 1, false);
        assert_eq!(holds.at(700_200).get("team"), Some(&Leave::NotBefore(700_800)));
    }
}
