//! From the outbox to the robots: which bindings are held, and what becomes of a message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Consumer;
use super::retry::{self, Next, Setback};
use crate::event::Event;
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
    until: u64,
    /// How often in a row nothing could be posted.
    unsent: u32,
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

    fn hold(&self, binding: &str, begun: u64, until: u64, is_unsent: bool) {
        let mut holds = self.lock();
        let hold = holds.entry(binding.to_owned()).or_default();
        // Several that failed in the same moment are one failure.
        let is_another = hold.until <= begun;
        hold.until = hold.until.max(until);
        hold.unsent = if is_unsent { hold.unsent.saturating_add(u32::from(is_another)) } else { 0 };
    }

    fn at(&self, now: u64) -> HashMap<String, Leave> {
        let mut holds = self.lock();
        // Names come and go with component files. A clock that was set back must not hold anything for longer than was meant.
        holds.retain(|_, hold| hold.until.abs_diff(now) < REMEMBERED_MS);
        let held = holds.iter().filter(|(_, hold)| now < hold.until && hold.until - now <= retry::LONGEST_HOLD_MS);
        held.map(|(name, hold)| (name.clone(), Leave::NotBefore(hold.until))).collect()
    }
}

impl Shared<ToRobots> {
    /// The message, or one that stands for it and for those behind it, where too many wait.
    async fn united(&self, seq: i64, attempts: u32, event: Arc<Event>) -> Arc<Event> {
        let consumer = &self.line.consumer;
        // What was tried may have been taken: DingTalk would show the rest of another one with its msgUuid to nobody.
        let Some(beyond) = consumer.unites_above(&event.binding).filter(|_| attempts == 0) else { return event };
        let waiting = match self.storage.front(seq, beyond).await {
            Ok(waiting) => waiting,
            // Whatever it is, it concerns what comes next, too.
            Err(_) => return event,
        };
        let (seqs, bodies): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        if bodies.len() < 2 {
            return event;
        }
        let Some((body, count)) = consumer.unite(&event.binding, bodies).await else { return event };
        let united = seqs.into_iter().take(count).collect();
        match self.storage.unite(united, body.clone(), (self.clock)()).await {
            Ok(true) => {
                tracing::info!(binding = event.binding, seq, count, "messages that wait become one");
                let Event { binding, metadata, trace, .. } = &*event;
                let (binding, metadata, trace) = (binding.clone(), metadata.clone(), trace.clone());
                Arc::new(Event { binding, data: body, metadata, trace })
            }
            Ok(false) | Err(_) => event,
        }
    }
}

/// The way to the robots.
pub(in crate::queue) struct ToRobots {
    consumer: Arc<dyn Consumer>,
    holds: Arc<Holds>,
}

impl ToRobots {
    pub(super) fn new(consumer: Arc<dyn Consumer>, holds: Arc<Holds>) -> Self {
        Self { consumer, holds }
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
        let Self { consumer, holds } = &shared.line;
        let event = shared.united(seq, attempts, event).await;
        let begun = (shared.clock)();
        let is_late = expires_at.is_some_and(|time| time <= (shared.clock)());
        let setback = match is_late {
            true => Setback { kind: retry::Kind::Refused, reason: EXPIRED.to_owned() },
            false => match consumer.post(&event).await {
                Ok(()) => {
                    holds.release(&binding);
                    return shared.persist(seq, End::Delivered(None)).await;
                }
                Err(setback) => setback,
            },
        };
        let Setback { kind, reason } = setback;
        match retry::next(kind, attempts, holds.unsent(&binding), fastrand::f64()) {
            Next::Hold(pause) => {
                holds.hold(&binding, begun, (shared.clock)().saturating_add(pause), kind == retry::Kind::Unsent);
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
                consumer.give_up(seq, &event, &reason).await;
                shared.persist(seq, End::Refused(reason)).await;
            }
        }
    }

    fn ended(&self, _: i64) {}

    async fn aside(_: Arc<Shared<Self>>, (): ()) {}
}
