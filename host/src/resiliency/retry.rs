//! Doing something again after it failed: how often, and after which pauses. Pure: time and chance are passed in.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Dapr's for `exponential`: the first pause, what each is longer than the one before, and by what share they vary.
const FIRST: Duration = Duration::from_millis(500);
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.5;

/// Nobody is kept waiting for longer, whatever the policy says. Dapr's limit for `exponential`.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A retry policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// From one attempt to the next.
    pub pause: Pause,
    /// How often at most; without one, for 15 minutes.
    pub max: Option<u32>,
    /// HTTP statuses of the application after which it is tried again; without any, after each that says no.
    pub statuses: Vec<RangeInclusive<u16>>,
}

/// The pause between two attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Always the same.
    Constant(Duration),
    /// Longer each time, up to this and half as much again.
    Exponential(Duration),
}

impl Retry {
    /// The pause after failure `number`, counted from 1, if there is to be another attempt. `elapsed` is what has passed
    /// since the first one began; `random` is in `0.0..1.0`.
    pub fn next(&self, number: u32, elapsed: Duration, random: f64) -> Option<Duration> {
        if self.max.is_some_and(|max| number > max) {
            return None;
        }
        let pause = match self.pause {
            Pause::Constant(pause) => pause,
            Pause::Exponential(longest) => {
                // 1.5^60 × 500 ms is beyond every limit.
                let exponent = i32::try_from(number.saturating_sub(1).min(60)).unwrap_or(60);
                let base = FIRST.mul_f64(FACTOR.powi(exponent)).min(longest);
                base.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0))
            }
        };
        elapsed.checked_add(pause).filter(|end| *end <= LONGEST).map(|_| pause)
    }

    /// Whether an answer with this status is followed by another attempt.
    pub fn is_for(&self, status: u16) -> bool {
        self.statuses.is_empty() || self.statuses.iter().any(|range| range.contains(&status))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(pause: Pause, max: Option<u32>) -> Retry {
        Retry { pause, max, statuses: Vec::new() }
    }

    #[test]
    fn a_constant_pause_and_a_number_of_retries() {
        let retry = of(Pause::Constant(Duration::from_secs(5)), Some(2));
        let pauses = [1, 2, 3].map(|number| retry.next(number, Duration::ZERO, 0.5));
        assert_eq!(pauses, [Some(Duration::from_secs(5)), Some(Duration::from_secs(5)), None]);
        assert_eq!(of(Pause::Constant(Duration::ZERO), Some(0)).next(1, Duration::ZERO, 0.5), None);
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retry = of(Pause::Exponential(Duration::from_secs(2)), None);
        let pauses = (1..7).map(|number| retry.next(number, Duration::ZERO, 0.5).unwrap().as_millis());
        assert_eq!(pauses.collect::<Vec<_>>(), [500, 750, 1_125, 1_687, 2_000, 2_000]);
        let varies = [0.0, 1.0].map(|random| retry.next(5, Duration::ZERO, random).unwrap().as_millis());
        assert_eq!(varies, [1_000, 3_000]);
    }

    #[test]
    fn statuses() {
        let retry = Retry { statuses: vec![429..=429, 500..=503], ..of(Pause::Constant(FIRST), None) };
        assert_eq!(
            [428, 429, 430, 499, 500, 503, 504].map(|status| retry.is_for(status)),
            [false, true, false, false, true, true, false]
        );
        assert!(of(Pause::Constant(FIRST), None).is_for(404));
    }

    proptest! {
        /// Whatever a policy says: it comes to an end, and nobody waits for longer than the limit.
        #[test]
        fn it_ends(exponential: bool, millis in 0..2_000_000_u64, max in proptest::option::of(0..1_000_u32), random in 0.0..1.0) {
            let pause = Duration::from_millis(millis);
            let retry = of(if exponential { Pause::Exponential(pause) } else { Pause::Constant(pause) }, max);
            // An attempt takes at least a moment.
            let (mut elapsed, mut number) = (Duration::ZERO, 1);
            while let Some(pause) = retry.next(number, elapsed, random) {
                elapsed += pause + Duration::from_millis(100);
                number += 1;
                prop_assert!(number < 10_000);
            }
            prop_assert!(elapsed <= LONGEST + Duration::from_millis(100));
            prop_assert!(max.is_none_or(|max| number <= max + 1));
        }
    }
}
