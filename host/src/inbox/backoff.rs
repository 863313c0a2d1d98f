//! When to try again: the pause after a failure, and what the failures of one conversation say about the
//! application that all conversations of the binding share. Pure: time and chance are passed in.

use std::collections::HashMap;

/// The pause after the first failure. An application that is being replaced is back within seconds; a shorter
/// pause would only be spent on attempts that fail.
const FIRST_MS: u64 = 500;

/// The longest pause before jitter: what a person who has repaired the application is ready to wait.
const CAP_MS: u64 = 30_000;

/// The share by which a pause varies in either direction, so that conversations that failed together do not come
/// back together.
const JITTER: f64 = 0.2;

/// No pause is longer. An event that seems to wait longer met a clock that was set back.
pub(super) const LONGEST_MS: u64 = 36_000;

/// The pause of a whole binding while its application seems to be down: two attempts a second, whatever the number
/// of conversations, are no burden to whoever listens there, and find it soon after it is back.
const PROBE_MS: u64 = 500;

/// The pause in milliseconds after failure number `attempt`, counted from 1. `random` is in `0.0..1.0`.
pub(super) fn pause(attempt: u32, random: f64) -> u64 {
    // 2^6 × 500 ms is above the cap already; more would overflow at last.
    let doublings = attempt.saturating_sub(1).min(6);
    let base = (FIRST_MS << doublings).min(CAP_MS);
    let factor = 1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "≤ 36000")]
    let pause = (base as f64 * factor) as u64;
    pause
}

/// What is known of the applications behind the bindings. Only in memory: a new process may try at once.
#[derive(Debug, Default)]
pub(super) struct Gates(HashMap<String, Gate>);

#[derive(Debug, Default)]
struct Gate {
    /// How many events the application has taken.
    taken: u64,
    down: bool,
    /// Milliseconds since the epoch; meaningful while `down`.
    closed_until: u64,
}

/// How many deliveries may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// As many as the limits allow.
    Free,
    /// The application seems to be down: one at a time.
    One,
    /// The application seems to be down, and was asked a moment ago: none before this time.
    NotBefore(u64),
}

impl Gates {
    /// How many events the application has taken so far; to be handed to [`Self::failed`].
    pub(super) fn taken_so_far(&self, binding: &str) -> u64 {
        self.0.get(binding).map_or(0, |gate| gate.taken)
    }

    /// The application has taken an event, or refused it for good: it is up. Returns whether it seemed to be down.
    pub(super) fn up(&mut self, binding: &str) -> bool {
        let gate = self.0.entry(binding.to_owned()).or_default();
        gate.taken += 1;
        std::mem::take(&mut gate.down)
    }

    /// The application was not there for a delivery that began when it had taken `taken_then` events. Returns
    /// whether the event only suffers from that, and may be tried as soon as the application is back.
    ///
    /// If it took others meanwhile, this is no sign of its being down: one conversation whose event hangs must not
    /// slow the others. And the event with which the trouble began may be its reason (it may crash the application),
    /// so that this one keeps its own growing pause: otherwise each recovery would begin with the next crash.
    pub(super) fn failed(&mut self, binding: &str, taken_then: u64, now: u64) -> bool {
        let gate = self.0.entry(binding.to_owned()).or_default();
        if gate.taken != taken_then {
            return false;
        }
        gate.closed_until = now.saturating_add(PROBE_MS);
        std::mem::replace(&mut gate.down, true)
    }

    /// The bindings that something is known of.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What may begin at `now`.
    pub(super) fn leave(&self, binding: &str, now: u64) -> Leave {
        match self.0.get(binding) {
            // A clock that was set back must not close the gate for longer than it was meant to be.
            Some(gate) if gate.down && now < gate.closed_until && gate.closed_until - now <= PROBE_MS => {
                Leave::NotBefore(gate.closed_until)
            }
            Some(gate) if gate.down => Leave::One,
            _ => Leave::Free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let pauses: Vec<u64> = (0..9).map(|attempt| pause(attempt, 0.5)).collect();
        assert_eq!(pauses, [500, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!((pause(1, 0.0), pause(1, 1.0)), (400, 600));
    }

    proptest! {
        #[test]
        fn no_pause_is_outside_its_bounds(attempt: u32, random in 0.0..1.0f64) {
            let pause = pause(attempt, random);
            prop_assert!((400..=LONGEST_MS).contains(&pause), "{pause}");
        }
    }

    #[test]
    fn an_application_that_is_down_is_asked_by_one_delivery_at_a_time() {
        let mut gates = Gates::default();
        assert_eq!(gates.leave("team", 0), Leave::Free);
        assert!(!gates.failed("team", 0, 1_000), "the first failure may be the event's own fault");
        assert_eq!(gates.leave("team", 1_001), Leave::NotBefore(1_500));
        assert_eq!(gates.leave("other", 1_001), Leave::Free);
        assert_eq!(gates.leave("team", 1_500), Leave::One);
        assert!(gates.failed("team", 0, 1_500), "this one only suffers");
        assert!(gates.up("team"));
        assert_eq!(gates.leave("team", 1_501), Leave::Free);
        assert!(!gates.up("team"));
    }

    #[test]
    fn a_failure_beside_successes_is_no_sign_that_the_application_is_down() {
        let mut gates = Gates::default();
        let then = gates.taken_so_far("team");
        gates.up("team");
        assert!(!gates.failed("team", then, 1_000));
        assert_eq!(gates.leave("team", 1_000), Leave::Free);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_close_the_gate_for_long() {
        let mut gates = Gates::default();
        gates.failed("team", 0, 1_000_000);
        assert_eq!(gates.leave("team", 10), Leave::One);
    }
}
