//! From the outbox to the robots: which bindings are held, and what becomes of a message.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::retry::{self, Next, Setback};
use super::{Consumer, letters};
use crate::event::Event;
use crate::queue::backoff::Leave;
use crate::queue::dispatcher::{Line, Shared};
use crate::queue::siblings::Siblings;
use crate::queue::storage::End;
use crate::queue::store::{EXPIRED, Head};

/// For how long a hold that is over is remembered: as long as pauses may still grow.
const REMEMBERED_MS: u64 = 60 * 60 * 1_000;

/// Bindings of which nothing is posted for a while. In memory alone: the gates know why, and a new process may ask them.
#[derive(Default)]
pub(in crate::queue) struct Holds(Mutex<HashMap<String, Hold>>);

#[derive(Clone, Copy, Default)]
struct Hold {
    all: Pause,
    /// Of what is not urgent.
    usual: Pause,
    /// In which nobody waits for it: what is the matter is its own.
    apart: Pause,
    /// How often in a row nothing could be posted.
    unsent: u32,
}

/// A time in which nothing is posted.
#[derive(Clone, Copy, Default)]
struct Pause {
    from: u64,
    until: u64,
}

impl Pause {
    /// A clock that was set back must not make it longer than was meant.
    fn is_on(self, now: u64) -> bool {
        self.from <= now && now < self.until
    }

    /// From now on, and no shorter than it was to be.
    fn begin(&mut self, now: u64, pause: u64) {
        let until = if self.is_on(now) { self.until } else { 0 };
        *self = Self { from: now, until: now.saturating_add(pause).max(until) };
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

    /// Holds it for `pause` from `now`, because of an attempt that began at `begun`.
    fn hold(&self, binding: &str, begun: u64, now: u64, pause: u64, is_unsent: bool) {
        let mut holds = self.lock();
        let hold = holds.entry(binding.to_owned()).or_default();
        // Several that failed in the same moment are one failure.
        let is_another = !hold.all.is_on(begun);
        hold.all.begin(now, pause);
        hold.unsent = if is_unsent { hold.unsent.saturating_add(u32::from(is_another)) } else { 0 };
    }

    /// As [`Self::hold`], and nobody waits for it meanwhile.
    fn hold_apart(&self, binding: &str, begun: u64, now: u64, pause: u64) {
        self.hold(binding, begun, now, pause, false);
        self.lock().entry(binding.to_owned()).or_default().apart.begin(now, pause);
    }

    /// Holds what is not urgent. Nobody waits for it.
    fn hold_usual(&self, binding: &str, now: u64, pause: u64) {
        self.lock().entry(binding.to_owned()).or_default().usual.begin(now, pause);
    }

    /// Those for which nobody waits at `now`.
    fn apart(&self, now: u64) -> HashSet<String> {
        let is_apart = |hold: &Hold| hold.apart.is_on(now) || hold.usual.is_on(now);
        self.lock().iter().filter(|(_, hold)| is_apart(hold)).map(|(name, _)| name.clone()).collect()
    }

    /// Something of it was posted.
    fn posted(&self, binding: &str, now: u64) {
        let mut holds = self.lock();
        if let Some(hold) = holds.get_mut(binding) {
            (hold.all, hold.apart, hold.unsent) = (Pause::default(), Pause::default(), 0);
            if !hold.usual.is_on(now) {
                holds.remove(binding);
            }
        }
    }

    fn at(&self, now: u64) -> HashMap<String, Leave> {
        let mut holds = self.lock();
        // Names come and go with component files.
        holds.retain(|_, hold| hold.all.until.max(hold.usual.until).abs_diff(now) < REMEMBERED_MS);
        let leave = |hold: &Hold| match (hold.all.is_on(now), hold.usual.is_on(now)) {
            (true, _) => Some(Leave::NotBefore(hold.all.until)),
            (false, true) => Some(Leave::Urgent),
            (false, false) => None,
        };
        holds.iter().filter_map(|(name, hold)| Some((name.clone(), leave(hold)?))).collect()
    }
}

impl Shared<ToRobots> {
    /// The message, or one that stands for it and for those behind it, where too many wait.
    async fn united(&self, seq: i64, attempts: u32, event: Arc<Event>) -> Arc<Event> {
        let consumer = &self.line.consumer;
        // What was tried may have been taken: DingTalk would show the rest of another one with its msgUuid to nobody.
        let Some(beyond) = consumer.unites_above(&event.binding).filter(|_| attempts == 0) else { return event };
        // Of several that begin in one moment, each would look at the same messages for all but the first to find them gone.
        let turn = self.line.turn(&event.binding);
        let _turn = turn.lock().await;
        let waiting = match self.storage.front(seq, beyond, (self.clock)()).await {
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
    pub(super) consumer: Arc<dyn Consumer>,
    holds: Arc<Holds>,
    /// A message was given up.
    pub(super) died: Notify,
    /// How often DingTalk was busy with a message that waits. In memory alone: a new process counts anew.
    busy: Mutex<HashMap<i64, u32>>,
    /// Whose turn it is to have messages of a binding become one, of those bindings of which something is under way.
    turns: Mutex<HashMap<String, Turn>>,
}

type Turn = Arc<tokio::sync::Mutex<()>>;

/// Messages of which that is known. Those that nobody asks for any more are forgotten with the rest.
const BUSY_AT_ONCE: usize = 1_024;

impl ToRobots {
    pub(super) fn new(consumer: Arc<dyn Consumer>, holds: Arc<Holds>) -> Self {
        Self { consumer, holds, died: Notify::new(), busy: Mutex::default(), turns: Mutex::default() }
    }

    fn turn(&self, binding: &str) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(binding.to_owned()).or_default())
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
    /// To tell of what was given up, from the beginning to the end.
    type Aside = ();

    fn leave_all(&self, _: u64) -> Leave {
        Leave::Free
    }

    fn leave(&self, busy: &[&str], now: u64) -> HashMap<String, Leave> {
        let mut leave: HashMap<_, _> = busy.iter().map(|name| ((*name).to_owned(), Leave::Free)).collect();
        leave.extend(self.holds.at(now));
        leave
    }

    fn siblings(&self, now: u64) -> Siblings {
        self.consumer.siblings().map(|groups| Siblings::new(groups, self.holds.apart(now))).unwrap_or_default()
    }

    fn begin(&self, _: i64) {}

    async fn deliver(shared: Arc<Shared<Self>>, head: Head) {
        let Head { seq, lane: (binding, _), attempts, expires_at, event, .. } = head;
        let Self { consumer, holds, .. } = &shared.line;
        let event = shared.united(seq, attempts, event).await;
        let begun = (shared.clock)();
        let is_late = expires_at.is_some_and(|time| time <= (shared.clock)());
        let setback = match is_late {
            true => Setback { kind: retry::Kind::Refused, reason: EXPIRED.to_owned() },
            false => match consumer.post(seq, &event).await {
                Ok(()) => {
                    holds.posted(&binding, (shared.clock)());
                    shared.line.forget(seq);
                    return shared.persist(seq, End::Delivered(None)).await;
                }
                Err(setback) => setback,
            },
        };
        let Setback { kind, reason } = setback;
        let busy = if kind == retry::Kind::Busy { shared.line.busy(seq) } else { 0 };
        match retry::next(kind, attempts, busy, holds.unsent(&binding), fastrand::f64()) {
            next @ (Next::Hold(pause) | Next::HoldApart(pause)) => {
                let now = (shared.clock)();
                match next {
                    Next::HoldApart(_) => holds.hold_apart(&binding, begun, now, pause),
                    _ => holds.hold(&binding, begun, now, pause, kind == retry::Kind::Unsent),
                }
                if let Some(more) = shared.quiet.count(&format!("held {binding}")) {
                    tracing::info!(binding, seq, pause, reason, more, "messages wait in the outbox");
                }
            }
            Next::HoldUsual(pause) => {
                holds.hold_usual(&binding, (shared.clock)(), pause);
                if let Some(more) = shared.quiet.count(&format!("reserved {binding}")) {
                    tracing::warn!(binding, seq, pause, reason, more, "only urgent messages leave the outbox");
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
                shared.persist(seq, End::Refused(reason)).await;
                shared.line.died.notify_one();
            }
        }
    }

    fn ended(&self, _: i64) {}

    async fn aside(shared: Arc<Shared<Self>>, (): ()) {
        letters::run(shared).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_what_is_held_for_its_own_sake_until_that_is_over() {
        let holds = Holds::default();
        holds.hold("robot", 1_000, 1_000, 500, false);
        holds.hold_apart("own", 1_000, 1_000, 500);
        holds.hold_usual("usual", 1_000, 500);
        assert_eq!(holds.at(1_000).len(), 3);
        let apart = |now| {
            let mut apart = Vec::from_iter(holds.apart(now));
            apart.sort();
            apart
        };
        assert_eq!(apart(1_499), ["own", "usual"]);
        // It is held for another reason by now, and for longer.
        holds.hold("own", 1_499, 1_499, 500, false);
        assert_eq!((apart(1_500).len(), holds.at(1_500).len()), (0, 1));
        holds.hold_apart("own", 1_500, 1_500, 500);
        holds.posted("own", 1_501);
        assert!(apart(1_501).is_empty());
        holds.hold_apart("own", 1_502, 1_502, 500);
        holds.release("own");
        assert!(apart(1_503).is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_holds_nothing_for_longer_than_was_meant() {
        let holds = Holds::default();
        holds.hold("team", 1_000_000, 1_000_000, 500, true);
        assert_eq!(holds.at(1_000_499).get("team"), Some(&Leave::NotBefore(1_000_500)));
        for now in [1_000_500, 999_999, 700_000] {
            assert!(holds.at(now).is_empty(), "{now}");
        }
        // What was held before is no reason either, and how often nothing could be posted is still known.
        holds.hold("team", 700_000, 700_000, 800, true);
        assert_eq!(holds.at(700_001).get("team"), Some(&Leave::NotBefore(700_800)));
        assert_eq!(holds.unsent("team"), 2);
        // Within its time, a hold is not shortened.
        holds.hold("team", 700_100, 700_100, 1, false);
        assert_eq!(holds.at(700_200).get("team"), Some(&Leave::NotBefore(700_800)));
        // The same of what is not urgent alone.
        holds.hold_usual("other", 1_000_000, 500);
        assert_eq!(holds.at(1_000_499).get("other"), Some(&Leave::Urgent));
        assert!(!holds.at(700_000).contains_key("other"));
        holds.hold_usual("other", 700_000, 500);
        assert_eq!(holds.at(700_499).get("other"), Some(&Leave::Urgent));
        holds.posted("other", 700_499);
        assert_eq!(holds.at(700_499).get("other"), Some(&Leave::Urgent), "what is urgent changes nothing for others");
    }
}
