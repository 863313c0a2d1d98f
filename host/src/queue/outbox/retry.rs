//! What becomes of a message after an attempt that failed. Pure: what happened, how often, and chance are passed in.

use std::time::Duration;

use crate::queue::backoff;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setback {
    /// What it means.
    pub kind: Kind,
    /// What is said of it.
    pub reason: String,
}

/// What a setback means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its robot takes nothing for so long. It was not posted.
    Held(Duration),
    /// Nothing of its binding gets through for so long, for what is the matter with that binding alone. It was not posted.
    Barred(Duration),
    /// As [`Kind::Barred`], but for what is urgent.
    Reserved(Duration),
    /// It was not posted: no connection came about, or nothing could run.
    Unsent,
    /// DingTalk has not taken it, and may in a moment.
    Busy,
    /// It may have been taken.
    Unknown {
        /// Whether DingTalk shows it once, however often it is posted.
        is_repeatable: bool,
    },
    /// It will not be taken as it is.
    Refused,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing of its binding is posted for so many milliseconds, and then this one. That is no attempt.
    Hold(u64),
    /// As [`Next::Hold`], and no other binding waits for it meanwhile.
    HoldApart(u64),
    /// As [`Next::HoldApart`], but for what is urgent.
    HoldUsual(u64),
    /// It is posted again after so many milliseconds.
    Again(u64),
    /// It is given up.
    GiveUp,
}

/// How often a message is tried again that DingTalk answers with "busy": its documentation says so.
pub(crate) const MOST: u32 = 3;

/// No binding is held for longer without a look: the gate is asked again, which costs nothing.
const LONGEST_HOLD_MS: u64 = 600_000;

/// What comes after a setback. `attempts` were made before, in which DingTalk may have had the message, and to `busy` of them it
/// said so; `unsent` is how often in a row nothing of its binding could be posted. `random` is in `0.0..1.0`.
pub(super) fn next(kind: Kind, attempts: u32, busy: u32, unsent: u32, random: f64) -> Next {
    match kind {
        Kind::Held(wait) => Next::Hold(held(wait)),
        Kind::Barred(wait) => Next::HoldApart(held(wait)),
        Kind::Reserved(wait) => Next::HoldUsual(held(wait)),
        Kind::Unsent => Next::Hold(backoff::pause(unsent.saturating_add(1), random)),
        Kind::Busy if busy >= MOST => Next::GiveUp,
        Kind::Unknown { is_repeatable: false } | Kind::Refused => Next::GiveUp,
        Kind::Busy | Kind::Unknown { .. } => Next::Again(backoff::pause(attempts.saturating_add(1), random)),
    }
}

fn held(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_HOLD_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            any::<u64>().prop_map(|ms| Kind::Held(Duration::from_millis(ms))),
            any::<u64>().prop_map(|ms| Kind::Barred(Duration::from_millis(ms))),
            any::<u64>().prop_map(|ms| Kind::Reserved(Duration::from_millis(ms))),
            Just(Kind::Unsent),
            Just(Kind::Busy),
            any::<bool>().prop_map(|is_repeatable| Kind::Unknown { is_repeatable }),
            Just(Kind::Refused),
        ]
    }

    proptest! {
        #[test]
        fn what_may_have_been_taken_is_posted_again_only_if_it_is_shown_once(
            kind in kind(), attempts in 0..100_u32, busy in 0..9_u32, unsent in 0..100_u32, random in 0.0..1.0
        ) {
            let next = next(kind, attempts, busy, unsent, random);
            match kind {
                Kind::Unknown { is_repeatable: false } | Kind::Refused => prop_assert_eq!(next, Next::GiveUp),
                Kind::Unknown { .. } => prop_assert!(matches!(next, Next::Again(1..=36_000))),
                Kind::Busy => prop_assert_eq!(matches!(next, Next::Again(1..=36_000)), busy < 3),
                Kind::Barred(_) => prop_assert!(matches!(next, Next::HoldApart(1..=600_000))),
                Kind::Reserved(_) => prop_assert!(matches!(next, Next::HoldUsual(1..=600_000))),
                Kind::Held(_) => prop_assert!(matches!(next, Next::Hold(1..=600_000))),
                Kind::Unsent => prop_assert!(matches!(next, Next::Hold(1..=36_000))),
            }
        }
    }

    #[test]
    fn pauses_grow_with_what_failed() {
        let pauses: Vec<Next> = (0..3).map(|attempts| next(Kind::Busy, attempts, 0, 9, 0.5)).collect();
        assert_eq!(pauses, [Next::Again(500), Next::Again(1_000), Next::Again(2_000)]);
        let holds: Vec<Next> = (0..3).map(|unsent| next(Kind::Unsent, 9, 9, unsent, 0.5)).collect();
        assert_eq!(holds, [Next::Hold(500), Next::Hold(1_000), Next::Hold(2_000)]);
    }
}
