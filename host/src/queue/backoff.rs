//! When to try again: the pause after a failure, and what the failures of one conversation say about the
//! application that all conversations of the binding share. Pure: time and chance are passed in.

use std::collections::HashMap;
use std::time::Duration;

use crate::event::Scope;

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

/// The pause of one binding while none of its events is taken. Its events may be the reason, so that only one of
/// them at a time is tried.
const PROBE_MS: u64 = 500;

/// The first pause of all deliveries while the application takes nothing from anybody. Twice as long each time: with
/// [`TRIAL`] that makes 19 attempts in the first 10 s, however many conversations wait.
const CLOSED_MS: u64 = 1_000;

/// The longest of these pauses, unless the application asks for more: what is back is found within 5 s, and 12
/// attempts a minute are no burden to whoever listens there.
const CLOSED_CAP_MS: u64 = 5_000;

/// No application is left alone for longer, see `Retry-After` there.
const LONGEST_CLOSED_MS: u64 = 300_000;

/// Deliveries at once to an application of which nothing is known yet, or that has only just come back.
pub(super) const TRIAL: usize = 16;

/// For how long it is so. Who is overloaded says so sooner; who hangs must not hold up the rest for longer.
const TRIAL_MS: u64 = 1_000;

/// The pause in milliseconds after failure number `attempt`, counted from 1. `random` is in `0.0..1.0`.
pub(crate) fn pause(attempt: u32, random: f64) -> u64 {
    // 2^6 × 500 ms is above the cap already; more would overflow at last.
    let doublings = attempt.saturating_sub(1).min(6);
    let base = (FIRST_MS << doublings).min(CAP_MS);
    let factor = 1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "≤ 36000")]
    let pause = (base as f64 * factor) as u64;
    pause
}

/// What is known of the application, and of its dealings with each binding. Only in memory: a new process may try
/// at once.
#[derive(Debug, Default)]
pub(super) struct Gates {
    application: Application,
    bindings: HashMap<String, Gate>,
}

#[derive(Debug)]
enum Application {
    /// Nothing speaks against it since this time, or since the first delivery.
    Trial {
        since: Option<u64>,
    },
    Up,
    /// It takes nothing from anybody.
    Down {
        pause: u64,
        until: u64,
    },
}

impl Default for Application {
    fn default() -> Self {
        Self::Trial { since: None }
    }
}

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
    /// So many at once, until this time.
    AtMost(usize, u64),
    /// The application seems to be down: one at a time.
    One,
    /// Only what comes before all others.
    Urgent,
    /// The application seems to be down, and was asked a moment ago: none before this time.
    NotBefore(u64),
}

impl Gates {
    /// How many events the application has taken so far; to be handed to [`Self::failed`].
    pub(super) fn taken_so_far(&self, binding: &str) -> u64 {
        self.bindings.get(binding).map_or(0, |gate| gate.taken)
    }

    /// The application has taken an event, or refused it for good: it is up. Returns whether it seemed to be down.
    pub(super) fn up(&mut self, binding: &str, now: u64) -> bool {
        let gate = self.bindings.entry(binding.to_owned()).or_default();
        gate.taken += 1;
        let binding_was_down = std::mem::take(&mut gate.down);
        let was_down = matches!(self.application, Application::Down { .. });
        if was_down {
            self.application = Application::Trial { since: Some(now) };
        }
        was_down || binding_was_down
    }

    /// A delivery failed that began when the application had taken `taken_then` events of the binding. Returns
    /// whether the event only suffers from the application's state, and may be tried as soon as that is better.
    ///
    /// The event with which the trouble began may be its reason (it may crash the application), so that this one
    /// keeps its own growing pause: otherwise each recovery would begin with the next crash.
    pub(super) fn failed(&mut self, binding: &str, taken_then: u64, scope: Scope, now: u64) -> bool {
        match scope {
            Scope::Event => false,
            Scope::Binding => self.binding_failed(binding, taken_then, now),
            Scope::Application { retry_after } => self.application_failed(retry_after, now),
        }
    }

    /// If the application took others meanwhile, this is no sign of its being down: one conversation whose event
    /// hangs must not slow the others.
    fn binding_failed(&mut self, binding: &str, taken_then: u64, now: u64) -> bool {
        let gate = self.bindings.entry(binding.to_owned()).or_default();
        if gate.taken != taken_then {
            return false;
        }
        gate.closed_until = now.saturating_add(PROBE_MS);
        std::mem::replace(&mut gate.down, true)
    }

    fn application_failed(&mut self, retry_after: Option<Duration>, now: u64) -> bool {
        let asked = retry_after.map_or(0, |pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        let (pause, left, suffers) = match self.application {
            Application::Trial { .. } | Application::Up => (CLOSED_MS, 0, false),
            // One of several that were under way when it closed.
            Application::Down { pause, until } if now < until => (pause, until - now, true),
            Application::Down { pause, .. } => ((pause * 2).min(CLOSED_CAP_MS), 0, true),
        };
        let closed = if left > 0 { left } else { pause };
        self.application = Application::Down { pause, until: now.saturating_add(closed.max(asked)) };
        suffers
    }

    /// The bindings that something is known of.
    pub(super) fn known(&self) -> impl Iterator<Item = &str> {
        self.bindings.keys().map(String::as_str)
    }

    /// How many deliveries of all bindings may begin at `now`.
    pub(super) fn leave_all(&mut self, now: u64) -> Leave {
        match &mut self.application {
            Application::Up => Leave::Free,
            Application::Trial { since } => {
                let begun = *since.get_or_insert(now);
                // Also if the clock was set back.
                if now.checked_sub(begun).is_none_or(|age| age >= TRIAL_MS) {
                    self.application = Application::Up;
                    return Leave::Free;
                }
                Leave::AtMost(TRIAL, begun + TRIAL_MS)
            }
            // A clock that was set back must not close the gate for longer than it was ever meant to be.
            Application::Down { until, .. } if now < *until && *until - now <= LONGEST_CLOSED_MS => {
                Leave::NotBefore(*until)
            }
            Application::Down { .. } => Leave::One,
        }
    }

    /// How many deliveries of a binding may begin at `now`, as far as it alone is concerned.
    pub(super) fn leave(&self, binding: &str, now: u64) -> Leave {
        match self.bindings.get(binding) {
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
    fn a_binding_none_of_whose_events_is_taken_is_tried_by_one_delivery_at_a_time() {
        let mut gates = Gates::default();
        assert_eq!(gates.leave("team", 0), Leave::Free);
        assert!(!gates.failed("team", 0, Scope::Binding, 1_000), "the first failure may be the event's own fault");
        for now in [1_000, 1_001, 1_499] {
            assert_eq!(gates.leave("team", now), Leave::NotBefore(1_500));
        }
        assert_eq!(gates.leave("other", 1_001), Leave::Free);
        assert_eq!(gates.leave("team", 1_500), Leave::One);
        assert!(gates.failed("team", 0, Scope::Binding, 1_500), "this one only suffers");
        assert!(gates.up("team", 0));
        assert_eq!(gates.leave("team", 1_501), Leave::Free);
        assert!(!gates.up("team", 0));
    }

    #[test]
    fn a_failure_beside_successes_is_no_sign_that_the_application_is_down() {
        let mut gates = Gates::default();
        let then = gates.taken_so_far("team");
        gates.up("team", 0);
        assert!(!gates.failed("team", then, Scope::Binding, 1_000));
        assert_eq!(gates.leave("team", 1_000), Leave::Free);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_close_the_gate_for_long() {
        let mut gates = Gates::default();
        gates.failed("team", 0, Scope::Binding, 1_000_000);
        assert_eq!(gates.leave("team", 10), Leave::One);
    }

    const EVERYBODY: Scope = Scope::Application { retry_after: None };

    /// What an application gets that says "not now" to everything, `busy` attempts of which are under way at first.
    fn attempts_within(first_ms: u64, retry_after: Option<Duration>) -> usize {
        let mut gates = Gates::default();
        let Leave::AtMost(mut attempts, _) = gates.leave_all(0) else { panic!("nothing is known yet") };
        let scope = Scope::Application { retry_after };
        for number in 0..attempts {
            assert_eq!(gates.failed(&number.to_string(), 0, scope, 0), number > 0);
        }
        for now in 0..first_ms {
            match gates.leave_all(now) {
                Leave::NotBefore(_) => {}
                Leave::One => {
                    attempts += 1;
                    gates.failed("b", 0, scope, now);
                }
                other => panic!("{other:?}"),
            }
        }
        attempts
    }

    #[test]
    fn an_application_that_is_down_gets_at_most_20_attempts_in_10_s_from_all_bindings() {
        assert_eq!(attempts_within(10_000, None), 19);
        assert_eq!(attempts_within(10_000, Some(Duration::ZERO)), 19);
        // Afterwards, 12 a minute.
        assert_eq!(attempts_within(70_000, None) - attempts_within(10_000, None), 12);
    }

    #[test]
    fn an_application_is_left_alone_for_as_long_as_it_asks() {
        assert_eq!(attempts_within(60_000, Some(Duration::from_secs(60))), 16);
        assert_eq!(attempts_within(60_001, Some(Duration::from_secs(60))), 17);
        assert_eq!(attempts_within(300_000, Some(Duration::from_secs(300))), 16);
    }

    #[test]
    fn an_application_that_is_back_is_not_overrun() {
        let mut gates = Gates::default();
        assert!(!gates.failed("a", 0, EVERYBODY, 0));
        assert_eq!(gates.leave_all(999), Leave::NotBefore(1_000));
        assert_eq!(gates.leave_all(1_000), Leave::One);
        assert!(gates.up("b", 1_000));
        assert_eq!(gates.leave_all(1_500), Leave::AtMost(TRIAL, 2_000));
        assert_eq!(gates.leave_all(2_000), Leave::Free);
    }

    #[test]
    fn a_failure_of_one_event_closes_nothing() {
        let mut gates = Gates::default();
        assert!(!gates.failed("team", 0, Scope::Event, 0));
        assert_eq!((gates.leave("team", 0), gates.leave_all(5_000)), (Leave::Free, Leave::AtMost(TRIAL, 6_000)));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_leave_the_application_alone_for_long() {
        let mut gates = Gates::default();
        gates.failed("a", 0, EVERYBODY, 1_000_000_000);
        assert_eq!(gates.leave_all(10), Leave::One);
        gates.up("a", 1_000_000_000);
        assert_eq!(gates.leave_all(10), Leave::Free);
    }
}
