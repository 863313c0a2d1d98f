//! Which limits have stopped how many calls of one tenant.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::Trap;

/// A limit of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It ran for too long.
    Time,
    /// It used too many instructions.
    Instructions,
    /// It used too much stack.
    Stack,
    /// It aborted, as it does when it gets no memory.
    Abort,
    /// It used too much memory, too many handles, or handed over too much at once.
    Resources,
    /// A defect of the component.
    Trap,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Time, Self::Instructions, Self::Stack, Self::Abort, Self::Resources, Self::Trap];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Instructions => "instructions",
            Self::Stack => "stack",
            Self::Abort => "abort",
            Self::Resources => "resources",
            Self::Trap => "trap",
        }
    }

    /// The one that a trap is the sign of.
    pub(super) fn of(trap: Option<&Trap>) -> Self {
        match trap {
            Some(Trap::OutOfFuel) => Self::Instructions,
            Some(Trap::StackOverflow) => Self::Stack,
            Some(Trap::UnreachableCodeReached) => Self::Abort,
            Some(_) => Self::Trap,
            None => Self::Resources,
        }
    }
}

/// A counter for each, made when one has stopped a call: most tenants never see that.
#[derive(Debug, Default)]
pub(super) struct Stops(OnceLock<Box<[AtomicU64; Limit::ALL.len()]>>);

impl Stops {
    pub(super) fn count(&self, limit: Limit) {
        let counters = Limit::ALL.into_iter().zip(self.0.get_or_init(Box::default).iter());
        counters.filter(|(counted, _)| *counted == limit).for_each(|(_, counter)| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
    }

    pub(super) fn counts(&self) -> [(Limit, u64); 6] {
        let mut counts = Limit::ALL.map(|limit| (limit, 0));
        for ((_, count), counter) in
            counts.iter_mut().zip(self.0.get().into_iter().flat_map(|counters| counters.iter()))
        {
            *count = counter.load(Ordering::Relaxed);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_name_and_a_counter_of_its_own() {
        let stops = Stops::default();
        for (times, limit) in Limit::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| stops.count(limit));
        }
        assert_eq!(stops.counts().map(|(_, count)| count), [0, 1, 2, 3, 4, 5]);
        let names: std::collections::BTreeSet<_> = Limit::ALL.into_iter().map(Limit::name).collect();
        assert_eq!(names.len(), Limit::ALL.len());
    }
}
