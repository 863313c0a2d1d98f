//! A circuit breaker: after too many failures in a row nothing is tried for a while, then a little, then everything again.
//! The rules are those of gobreaker, which Dapr uses. Pure: the time is passed in.

use std::time::{Duration, Instant};

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// It opens after more failures in a row than this.
    pub failures: u32,
    /// For how long it is open.
    pub open: Duration,
    /// Calls that are let through at once afterwards; as many successes close it.
    pub trials: u32,
    /// While it is closed, failures are forgotten this often; never, if that is nothing.
    pub interval: Duration,
}

impl Default for Settings {
    /// Dapr's.
    fn default() -> Self {
        Self { failures: 5, open: Duration::from_secs(60), trials: 1, interval: Duration::ZERO }
    }
}

/// Why a call is not let through. The texts are gobreaker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many calls have failed.
    #[error("circuit breaker is open")]
    Open,
    /// It is being tried whether they go on failing.
    #[error("too many requests")]
    Trial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32, since: Instant },
    Open { since: Instant },
    Half { begun: u32, succeeded: u32 },
}

/// One breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// What began in another state says nothing about this one.
    generation: u64,
}

/// A call that was let through; its end is to be told to [`Breaker::end`].
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

impl Breaker {
    /// Closed.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self { settings, state: State::Closed { failures: 0, since: now }, generation: 0 }
    }

    /// What it was made from.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Lets a call through, or not.
    pub fn begin(&mut self, now: Instant) -> Result<Ticket, Refused> {
        self.turn(now);
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { .. } => return Err(Refused::Open),
            State::Half { begun, .. } if *begun >= self.settings.trials.max(1) => return Err(Refused::Trial),
            State::Half { begun, .. } => *begun += 1,
        }
        Ok(Ticket(self.generation))
    }

    /// A call has ended.
    pub fn end(&mut self, Ticket(generation): Ticket, succeeded: bool, now: Instant) {
        self.turn(now);
        if generation != self.generation {
            return;
        }
        match (&mut self.state, succeeded) {
            (State::Closed { failures, .. }, true) => *failures = 0,
            (State::Closed { failures, .. }, false) => {
                *failures += 1;
                if *failures > self.settings.failures {
                    self.enter(State::Open { since: now });
                }
            }
            (State::Half { succeeded, .. }, true) => {
                *succeeded += 1;
                if *succeeded >= self.settings.trials.max(1) {
                    self.enter(State::Closed { failures: 0, since: now });
                }
            }
            (State::Half { .. }, false) => self.enter(State::Open { since: now }),
            // Whatever ends then began before, in another generation.
            (State::Open { .. }, _) => {}
        }
    }

    /// A call was broken off by whoever made it, which says nothing of what was called.
    pub fn cancel(&mut self, Ticket(generation): Ticket, now: Instant) {
        self.turn(now);
        if generation == self.generation
            && let State::Half { begun, .. } = &mut self.state
        {
            *begun = begun.saturating_sub(1);
        }
    }

    /// What time alone changes.
    fn turn(&mut self, now: Instant) {
        let Settings { open, interval, .. } = self.settings;
        match self.state {
            State::Open { since } if now.saturating_duration_since(since) >= open => {
                self.enter(State::Half { begun: 0, succeeded: 0 });
            }
            State::Closed { since, .. } if !interval.is_zero() && now.saturating_duration_since(since) >= interval => {
                self.enter(State::Closed { failures: 0, since: now });
            }
            _ => {}
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation = self.generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(settings: Settings) -> (Breaker, Instant) {
        let now = Instant::now();
        (Breaker::new(settings, now), now)
    }

    fn call(breaker: &mut Breaker, succeeded: bool, now: Instant) -> Result<(), Refused> {
        let ticket = breaker.begin(now)?;
        breaker.end(ticket, succeeded, now);
        Ok(())
    }

    #[test]
    fn who_breaks_a_call_off_neither_opens_it_nor_keeps_a_place() {
        let (mut breaker, now) = breaker(Settings { failures: 0, ..Settings::default() });
        for _ in 0..10 {
            let ticket = breaker.begin(now).unwrap();
            breaker.cancel(ticket, now);
        }
        let old = breaker.begin(now).unwrap();
        call(&mut breaker, false, now).unwrap();
        assert_eq!(breaker.begin(now).map(drop), Err(Refused::Open));
        let later = now + 60 * SECOND;
        let trial = breaker.begin(later).unwrap();
        // Of another state.
        breaker.cancel(old, later);
        assert_eq!(breaker.begin(later).map(drop), Err(Refused::Trial));
        breaker.cancel(trial, later);
        assert_eq!(call(&mut breaker, true, later), Ok(()));
        assert_eq!(call(&mut breaker, true, later), Ok(()));
    }

    #[test]
    fn it_opens_after_more_failures_in_a_row_than_the_policy_says() {
        let (mut breaker, now) = breaker(Settings { failures: 2, ..Settings::default() });
        for succeeded in [false, false, true, false, false] {
            assert_eq!(call(&mut breaker, succeeded, now), Ok(()));
        }
        assert_eq!(call(&mut breaker, false, now), Ok(()), "the third in a row");
        assert_eq!(call(&mut breaker, true, now), Err(Refused::Open));
        assert_eq!(call(&mut breaker, true, now + 59 * SECOND), Err(Refused::Open));
    }

    #[test]
    fn a_trial_decides() {
        let settings = Settings { failures: 0, open: 10 * SECOND, trials: 2, interval: Duration::ZERO };
        let (mut breaker, now) = breaker(settings);
        call(&mut breaker, false, now).unwrap();
        let later = now + 10 * SECOND;
        let trials = [breaker.begin(later), breaker.begin(later)].map(Result::unwrap);
        assert_eq!(breaker.begin(later).unwrap_err(), Refused::Trial);
        breaker.end(trials[0], true, later);
        assert_eq!(breaker.begin(later).unwrap_err(), Refused::Trial, "two have to succeed");
        breaker.end(trials[1], true, later);
        assert_eq!(call(&mut breaker, false, later), Ok(()));
        assert_eq!(call(&mut breaker, true, later), Err(Refused::Open));
        let again = later + 10 * SECOND;
        assert_eq!(call(&mut breaker, false, again), Ok(()));
        assert_eq!(call(&mut breaker, true, again), Err(Refused::Open), "a trial that fails opens it");
    }

    #[test]
    fn what_began_before_says_nothing_afterwards() {
        let (mut breaker, now) = breaker(Settings { failures: 0, open: SECOND, ..Settings::default() });
        let slow = breaker.begin(now).unwrap();
        call(&mut breaker, false, now).unwrap();
        breaker.end(slow, true, now + SECOND);
        let trial = breaker.begin(now + SECOND).unwrap();
        assert_eq!(breaker.begin(now + SECOND).unwrap_err(), Refused::Trial, "it is not closed by the slow one");
        breaker.end(trial, true, now + SECOND);
        assert!(breaker.begin(now + SECOND).is_ok());
    }

    #[test]
    fn failures_are_forgotten_after_the_interval() {
        let (mut breaker, now) = breaker(Settings { failures: 1, interval: SECOND, ..Settings::default() });
        call(&mut breaker, false, now).unwrap();
        call(&mut breaker, false, now + SECOND).unwrap();
        assert_eq!(call(&mut breaker, true, now + SECOND), Ok(()));
    }

    proptest! {
        /// Whatever happens: it never refuses before so many failures in a row, and nobody is refused for ever.
        #[test]
        fn it_opens_for_a_reason_and_closes_again(
            failures in 0..4_u32, trials in 0..3_u32, steps in proptest::collection::vec((any::<bool>(), 0..3_u64), 0..60)
        ) {
            let settings = Settings { failures, open: 2 * SECOND, trials, interval: Duration::ZERO };
            let (mut breaker, mut now) = breaker(settings);
            let mut in_a_row = 0;
            let mut has_failed_enough = false;
            for (succeeded, seconds) in steps {
                now += Duration::from_secs(seconds);
                match call(&mut breaker, succeeded, now) {
                    Ok(()) => in_a_row = if succeeded { 0 } else { in_a_row + 1 },
                    Err(_) => prop_assert!(has_failed_enough),
                }
                has_failed_enough |= in_a_row > failures;
            }
            now += 2 * SECOND;
            for _ in 0..trials.max(1) {
                prop_assert_eq!(call(&mut breaker, true, now), Ok(()));
            }
            prop_assert_eq!(call(&mut breaker, true, now), Ok(()));
        }
    }
}
