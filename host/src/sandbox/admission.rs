//! Which call may begin: so many of one binding, so many of all, and who is next when one ends.
//!
//! Half of what there is serves bindings that hold nothing, one call each. The other half is shared, and nobody
//! takes more of it than is left: one binding alone gets a quarter of the whole, four greedy ones some 25 calls each,
//! and the fifth still finds room. A fixed share would either be small for one alone, or gone after so many.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use crate::resiliency::breaker::Refused;

/// How much there is of something that bindings take, and how much of it one may have at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// For all bindings together.
    pub(crate) all: usize,
    /// For one of them.
    pub(crate) each: usize,
}

/// What of it is taken.
pub(super) struct Tally {
    rule: Rule,
    taken: usize,
    /// Bindings that have any.
    holders: usize,
}

impl Tally {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, taken: 0, holders: 0 }
    }

    /// Whether a binding that has `own` may take one more.
    pub(super) fn admits(&self, own: usize) -> bool {
        let beyond_the_first = self.taken - self.holders;
        let left = (self.rule.all / 2).saturating_sub(beyond_the_first);
        self.taken < self.rule.all && (own == 0 || (own < self.rule.each && own <= left))
    }

    pub(super) fn take(&mut self, own: &mut usize) {
        self.holders += usize::from(*own == 0);
        self.taken += 1;
        *own += 1;
    }

    pub(super) fn give_back(&mut self, own: &mut usize) {
        *own -= 1;
        self.taken -= 1;
        self.holders -= usize::from(*own == 0);
    }
}

/// Why a call did not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// The binding has as many calls as one may have.
    Binding {
        /// Of this binding.
        running: usize,
        /// Set where so many wait that this one did not.
        waiting: Option<usize>,
    },
    /// All bindings together have as many as the host gives out.
    Host {
        /// Of all bindings.
        running: usize,
        /// Set where so many wait that this one did not.
        waiting: Option<usize>,
    },
    /// A circuit breaker lets nobody through, or nobody else.
    Breaker(Refused),
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = match self {
            Self::Binding { running, waiting } => {
                write!(f, "{running} calls of this binding are running")?;
                waiting
            }
            Self::Host { running, waiting } => {
                write!(f, "the host runs {running} calls of all bindings")?;
                waiting
            }
            Self::Breaker(refused) => return refused.fmt(f),
        };
        match waiting {
            Some(waiting) => write!(f, " and {waiting} wait for one to end"),
            None => write!(f, " and none ended in time"),
        }
    }
}

/// One binding, as long as it has a call that runs or waits.
struct Binding<W> {
    running: usize,
    waiting: usize,
    /// By the order in which they came.
    queue: BTreeMap<u64, W>,
}

impl<W> Default for Binding<W> {
    fn default() -> Self {
        Self { running: 0, waiting: 0, queue: BTreeMap::new() }
    }
}

/// Calls that run, and those that wait. `W` is how one that waits is told.
pub(super) struct Admission<W> {
    slots: Tally,
    places: Tally,
    bindings: HashMap<u64, Binding<W>>,
    /// Bindings with calls that wait: the first is the one whose turn it is.
    turns: VecDeque<u64>,
    arrivals: u64,
}

impl<W> Admission<W> {
    pub(super) fn new(slots: Rule, places: Rule) -> Self {
        Self {
            slots: Tally::new(slots),
            places: Tally::new(places),
            bindings: HashMap::new(),
            turns: VecDeque::new(),
            arrivals: 0,
        }
    }

    /// How many calls run, and how many wait.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.slots.taken, self.places.taken)
    }

    /// Lets a call begin, if it need not wait.
    pub(super) fn enter(&mut self, binding: u64) -> Result<(), Overload> {
        let own = self.bindings.get(&binding).map_or(0, |own| own.running);
        if self.bindings.get(&binding).is_some_and(|own| own.waiting > 0) || !self.slots.admits(own) {
            return Err(self.overload(binding));
        }
        self.slots.take(&mut self.bindings.entry(binding).or_default().running);
        Ok(())
    }

    /// Has a call wait that could not begin; the result identifies it for [`Admission::cancel`].
    pub(super) fn wait(&mut self, binding: u64, waiter: W) -> Result<u64, Overload> {
        let own = self.bindings.get(&binding).map_or(0, |own| own.waiting);
        if !self.places.admits(own) {
            let running = self.bindings.get(&binding).map_or(0, |own| own.running);
            return Err(if own >= self.places.rule.each {
                Overload::Binding { running, waiting: Some(own) }
            } else {
                Overload::Host { running: self.slots.taken, waiting: Some(self.places.taken) }
            });
        }
        if own == 0 {
            self.turns.push_back(binding);
        }
        self.arrivals += 1;
        let entry = self.bindings.entry(binding).or_default();
        self.places.take(&mut entry.waiting);
        entry.queue.insert(self.arrivals, waiter);
        Ok(self.arrivals)
    }

    /// Forgets a call that no longer waits, and says what it waited for in vain. `None` where its turn has come.
    pub(super) fn cancel(&mut self, binding: u64, place: u64) -> Option<Overload> {
        let entry = self.bindings.get_mut(&binding)?;
        entry.queue.remove(&place)?;
        self.places.give_back(&mut entry.waiting);
        if entry.waiting == 0 {
            self.turns.retain(|waiting| *waiting != binding);
        }
        let reason = self.overload(binding);
        self.forget(binding);
        Some(reason)
    }

    /// Ends a call, and says who may begin for it. They count as running.
    pub(super) fn leave(&mut self, binding: u64) -> Vec<(u64, W)> {
        if let Some(entry) = self.bindings.get_mut(&binding) {
            self.slots.give_back(&mut entry.running);
        }
        self.forget(binding);
        let mut begin = Vec::new();
        while let Some(next) = self.next() {
            begin.push(next);
        }
        begin
    }

    /// Who begins next: a binding that has nothing running before others, and of those one after the other.
    fn next(&mut self) -> Option<(u64, W)> {
        let running = |binding: &u64| self.bindings.get(binding).map_or(0, |entry| entry.running);
        let idle = || self.turns.iter().position(|binding| running(binding) == 0);
        let any = || self.turns.iter().position(|binding| self.slots.admits(running(binding)));
        // Neither looks far: those that have something running are no more than there are slots.
        let index = if self.slots.admits(0) { idle().or_else(any)? } else { return None };
        let binding = self.turns.remove(index)?;
        let entry = self.bindings.get_mut(&binding)?;
        let (_, waiter) = entry.queue.pop_first()?;
        self.places.give_back(&mut entry.waiting);
        self.slots.take(&mut entry.running);
        if entry.waiting > 0 {
            self.turns.push_back(binding);
        }
        Some((binding, waiter))
    }

    fn forget(&mut self, binding: u64) {
        if self.bindings.get(&binding).is_some_and(|entry| entry.running == 0 && entry.waiting == 0) {
            self.bindings.remove(&binding);
        }
    }

    /// Why a call of `binding` does not begin, or waits.
    pub(super) fn overload(&self, binding: u64) -> Overload {
        let running = self.bindings.get(&binding).map_or(0, |entry| entry.running);
        if running >= self.slots.rule.each {
            Overload::Binding { running, waiting: None }
        } else {
            Overload::Host { running: self.slots.taken, waiting: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: Rule = Rule { all: 256, each: 64 };
    const PLACES: Rule = Rule { all: 4_096, each: 1_024 };

    fn fill(admission: &mut Admission<()>, binding: u64) -> usize {
        std::iter::from_fn(|| admission.enter(binding).ok()).count()
    }

    #[test]
    fn one_alone_gets_its_whole_share_and_four_greedy_ones_leave_room_for_a_fifth() {
        let mut admission = Admission::new(SLOTS, PLACES);
        assert_eq!(fill(&mut admission, 0), 64);
        for hog in 1..4 {
            assert!(fill(&mut admission, hog) > 0);
        }
        // 100 more take all that they get, and 10 that had nothing still begin.
        for hog in 4..104 {
            assert!(fill(&mut admission, hog) > 0, "{hog}");
        }
        for late in 104..114 {
            assert_eq!(admission.enter(late), Ok(()), "{late}");
        }
    }

    #[test]
    fn the_reason_is_the_binding_or_the_host() {
        let mut admission = Admission::new(SLOTS, PLACES);
        fill(&mut admission, 0);
        let error = admission.enter(0).unwrap_err();
        assert_eq!(error.to_string(), "64 calls of this binding are running and none ended in time");
        for other in 1..=300 {
            let _ = admission.enter(other);
        }
        let error = admission.enter(301).unwrap_err();
        assert_eq!(error.to_string(), "the host runs 256 calls of all bindings and none ended in time");
        for _ in 0..1_024 {
            admission.wait(0, ()).unwrap();
        }
        let error = admission.wait(0, ()).unwrap_err();
        assert_eq!(error.to_string(), "64 calls of this binding are running and 1024 wait for one to end");
    }

    #[test]
    fn those_that_wait_begin_binding_by_binding() {
        let mut admission = Admission::new(Rule { all: 4, each: 4 }, PLACES);
        for binding in 0..4 {
            admission.enter(binding).unwrap();
        }
        for waiter in 0..100 {
            admission.wait(10, waiter).unwrap();
        }
        admission.wait(20, 100).unwrap();
        let begun: Vec<_> = (0..2).flat_map(|binding| admission.leave(binding)).collect();
        assert_eq!(begun, [(10, 0), (20, 100)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Come(u64),
        End(usize),
        GiveUp(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..24_u64).prop_map(Step::Come),
            2 => any::<usize>().prop_map(Step::End),
            1 => any::<usize>().prop_map(Step::GiveUp),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn limits_hold_and_nobody_waits_who_may_begin(steps in steps(), all in 1..40_usize, each in 1..12_usize) {
            let (slots, places) = (Rule { all, each }, Rule { all: 20, each: 6 });
            let mut admission = Admission::new(slots, places);
            let (mut running, mut waiting) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Come(binding) => {
                        let had_nothing = !running.contains(&binding) && !waiting.iter().any(|(own, _)| *own == binding);
                        let begun = admission.enter(binding).is_ok();
                        // The promise: with nothing running, and a slot anywhere, a call begins.
                        prop_assert_eq!(begun || running.len() == all || !had_nothing, true);
                        if begun {
                            running.push(binding);
                        } else if let Ok(place) = admission.wait(binding, ()) {
                            waiting.push((binding, place));
                        }
                    }
                    Step::End(index) if !running.is_empty() => {
                        let binding = running.swap_remove(index % running.len());
                        for (next, ()) in admission.leave(binding) {
                            let first = waiting.iter().position(|(own, _)| *own == next).unwrap();
                            waiting.remove(first);
                            running.push(next);
                        }
                    }
                    Step::GiveUp(index) if !waiting.is_empty() => {
                        let (binding, place) = waiting.remove(index % waiting.len());
                        prop_assert!(admission.cancel(binding, place).is_some());
                        prop_assert!(admission.cancel(binding, place).is_none());
                    }
                    Step::End(_) | Step::GiveUp(_) => {}
                }
                let count = |binding| running.iter().filter(|own| **own == binding).count();
                prop_assert!(running.len() <= all && waiting.len() <= places.all);
                prop_assert!((0..24).all(|binding| count(binding) <= each.max(1)));
                prop_assert!(waiting.iter().all(|(binding, _)| !admission.slots.admits(count(*binding))));
                prop_assert_eq!((admission.slots.taken, admission.places.taken), (running.len(), waiting.len()));
                prop_assert_eq!(admission.turns.len(), admission.bindings.values().filter(|own| own.waiting > 0).count());
            }
            // Half of the slots serve those that had nothing: so many bindings are never turned away.
            let held = running.iter().collect::<std::collections::HashSet<_>>().len();
            prop_assert!(running.len() < all || held >= all - all / 2);
        }
    }
}
