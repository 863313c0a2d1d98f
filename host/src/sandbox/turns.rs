//! Who computes next: the tenant that has had least of the processor, and of its tasks the one that waits longest.
//!
//! This is start-time fair queueing. Each tenant has an account of the time that it has used; the clock is the account
//! of whoever was served last. Who comes back after a pause starts at the clock, so that nobody saves up a past in
//! which he alone computed or did not compute at all.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// How far an account may be ahead of the clock, in nanoseconds: what a tenant used while nobody else was there is
/// nobody's loss. A few slices, so that a tenant that has just had a long one waits for the others.
const DEBT: u64 = 2_000_000;

/// Tasks that wait for the processor.
pub(super) struct Turns<T> {
    clock: u64,
    arrivals: u64,
    /// Account, arrival, tenant.
    order: BTreeSet<(u64, u64, u64)>,
    tenants: HashMap<u64, Waiting<T>>,
}

struct Waiting<T> {
    account: u64,
    arrival: u64,
    tasks: VecDeque<T>,
}

impl<T> Turns<T> {
    pub(super) fn new() -> Self {
        Self { clock: 0, arrivals: 0, order: BTreeSet::new(), tenants: HashMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Has `task` wait. `account` is what its tenant has used; the result is what that counts as from now on.
    pub(super) fn wait(&mut self, tenant: u64, account: u64, task: T) -> u64 {
        if let Some(waiting) = self.tenants.get_mut(&tenant) {
            waiting.tasks.push_back(task);
            return waiting.account;
        }
        let account = account.clamp(self.clock, self.clock.saturating_add(DEBT));
        self.arrivals += 1;
        self.order.insert((account, self.arrivals, tenant));
        self.tenants.insert(tenant, Waiting { account, arrival: self.arrivals, tasks: VecDeque::from([task]) });
        account
    }

    /// Notes that a tenant has used `spent` more, while others of its tasks wait.
    pub(super) fn charge(&mut self, tenant: u64, spent: u64) {
        if let Some(waiting) = self.tenants.get_mut(&tenant) {
            self.order.remove(&(waiting.account, waiting.arrival, tenant));
            waiting.account = waiting.account.saturating_add(spent);
            self.order.insert((waiting.account, waiting.arrival, tenant));
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Option<T> {
        let (account, _, tenant) = self.order.pop_first()?;
        self.clock = self.clock.max(account);
        let waiting = self.tenants.get_mut(&tenant)?;
        let task = waiting.tasks.pop_front();
        if waiting.tasks.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            // Behind others with the same account.
            self.arrivals += 1;
            waiting.arrival = self.arrivals;
            self.order.insert((account, self.arrivals, tenant));
        }
        task
    }

    /// Forgets tasks of a tenant.
    pub(super) fn forget(&mut self, tenant: u64, is: impl Fn(&T) -> bool) {
        let Some(waiting) = self.tenants.get_mut(&tenant) else { return };
        waiting.tasks.retain(|task| !is(task));
        if waiting.tasks.is_empty() {
            self.order.remove(&(waiting.account, waiting.arrival, tenant));
            self.tenants.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quiet_tenant_is_next_whatever_another_has_waiting() {
        let mut turns = Turns::new();
        for task in 0..64 {
            turns.wait(1, 1_000_000_000, (1, task));
        }
        for quiet in 0..50 {
            assert_eq!(turns.next().map(|(tenant, _)| tenant), Some(1));
            turns.wait(2, 0, (2, quiet));
            turns.charge(1, 300_000);
            assert_eq!(turns.next(), Some((2, quiet)));
            turns.wait(1, 0, (1, 0));
        }
    }

    #[test]
    fn equal_tenants_take_turns_and_a_tenants_tasks_keep_their_order() {
        let mut turns = Turns::new();
        for (tenant, task) in [(1, 'a'), (1, 'b'), (1, 'c'), (2, 'd'), (3, 'e'), (3, 'f')] {
            turns.wait(tenant, 0, task);
        }
        let served: String = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(served, "adebfc");
        assert!(turns.is_empty() && turns.tenants.is_empty());
    }

    proptest! {
        /// Each step serves one turn, that takes its time, after which the task may wait again; others come and go.
        #[test]
        fn while_one_waits_no_other_is_served_more_than_its_debt_and_one_turn(
            steps in proptest::collection::vec((0..8_u64, 1..3_000_000_u64, any::<bool>()), 1..300),
        ) {
            let mut turns = Turns::new();
            let (mut used, mut waits) = ([0_u64; 8], [0_usize; 8]);
            // What each tenant was served since each other one began to wait.
            let mut since = [[0_u64; 8]; 8];
            let longest = steps.iter().map(|(_, spent, _)| *spent).max().unwrap();
            for (comes, spent, again) in steps {
                let wait = |turns: &mut Turns<u64>, waits: &mut [usize; 8], used: &mut [u64; 8], tenant: u64| {
                    let index = usize::try_from(tenant).unwrap();
                    used[index] = turns.wait(tenant, used[index], tenant);
                    waits[index] += 1;
                };
                wait(&mut turns, &mut waits, &mut used, comes);
                let served = turns.next().unwrap();
                let index = usize::try_from(served).unwrap();
                waits[index] -= 1;
                since[index] = [0; 8];
                used[index] += spent;
                turns.charge(served, spent);
                for waiting in 0..8 {
                    if waiting != index && waits[waiting] > 0 {
                        since[waiting][index] += spent;
                        prop_assert!(since[waiting][index] <= DEBT + 2 * longest, "{:?}", since[waiting]);
                    }
                }
                if again {
                    wait(&mut turns, &mut waits, &mut used, served);
                }
                prop_assert_eq!(turns.tenants.values().map(|own| own.tasks.len()).sum::<usize>(), waits.iter().sum::<usize>());
                prop_assert_eq!(turns.order.len(), turns.tenants.len());
            }
            // Everybody is served in the end.
            let left = std::iter::from_fn(|| turns.next()).count();
            prop_assert_eq!(left, waits.iter().sum::<usize>());
        }
    }
}
