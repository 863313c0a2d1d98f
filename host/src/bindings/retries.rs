//! Whether a message that its robot has not taken is posted again within its call, and when. Pure: what happened, how often, the
//! time and chance are passed in.
//!
//! The outbox has the same classes, pauses and number for what waits there ([`retry`](crate::queue::outbox::retry)). A call has
//! somebody who waits for it, and may send again himself: so what may be over only later is his to know at once.

use std::time::Duration;

use dingtalk_binding::error::{InvokeCause, Outcome, Rejection, RejectionClass};

use super::{InvokeError, InvokeFailure};
use crate::queue::backoff;
use crate::queue::outbox::retry::Kind;
use crate::sandbox::CallError;

pub(crate) use crate::queue::outbox::retry::MOST;

/// Reads the property. The error is meant to follow its name.
pub(super) fn parse(text: Option<&str>) -> Result<Option<u32>, String> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| *number <= MOST);
    number.map(Some).ok_or_else(|| format!("is no number from 0 to {MOST}"))
}

/// What the failure of a call with a `msgUuid`, or without, means to its message.
pub(crate) fn kind(error: &InvokeError, has_uuid: bool) -> Kind {
    let InvokeError::Call(failed) = error else { return Kind::Refused };
    match failed.error() {
        InvokeFailure::Unconnected(_) => Kind::Unsent,
        InvokeFailure::Call(CallError::Binding(error)) => match &error.cause {
            InvokeCause::Rejected(Rejection { class: RejectionClass::Busy, .. }) => Kind::Busy,
            // A connection that broke, no answer in time, or one of something that is not DingTalk.
            InvokeCause::Unreachable(_) | InvokeCause::UnexpectedAnswer(_) if error.outcome == Outcome::Unknown => {
                Kind::Unknown { is_repeatable: has_uuid }
            }
            _ => Kind::Refused,
        },
        // Of a message in parts, some were posted. What is withheld, or has no slot, is held back already.
        _ => Kind::Refused,
    }
}

/// The pause before the next attempt, if there is to be one: `attempts` were made, of a message that may be tried again so
/// often, in a call that may take `time` and has taken `elapsed`. `random` is in `0.0..1.0`.
///
/// It begins within the first half of the time, and so has the other half: one that is cut off makes of a message that was not
/// taken one of which nobody knows.
pub(crate) fn pause(
    kind: Kind,
    attempts: u32,
    retries: u32,
    elapsed: Duration,
    time: Duration,
    random: f64,
) -> Option<Duration> {
    let passes = match kind {
        Kind::Busy | Kind::Unsent | Kind::Unknown { is_repeatable: true } => true,
        Kind::Held(_)
        | Kind::Barred(_)
        | Kind::Reserved(_)
        | Kind::Unknown { is_repeatable: false }
        | Kind::Refused => false,
    };
    if !passes || attempts > retries.min(MOST) {
        return None;
    }
    let pause = Duration::from_millis(backoff::pause(attempts, random));
    elapsed.checked_add(pause).filter(|begins| *begins <= time / 2).map(|_| pause)
}

#[cfg(test)]
mod tests {
    use dingtalk_api::invoke::{Failed, Failure as _};
    use dingtalk_binding::error::{self, AnswerError, PropertyError};
    use proptest::prelude::*;

    use super::*;
    use crate::sandbox::Overload;

    fn rejected(class: RejectionClass) -> InvokeCause {
        let retry_after = (class == RejectionClass::RateLimited).then_some(1_000);
        InvokeCause::Rejected(Rejection { errcode: 1, errmsg: "no".into(), class, check: None, retry_after })
    }

    fn causes() -> Vec<InvokeCause> {
        use RejectionClass::*;
        let answers = [
            AnswerError::Status(302),
            AnswerError::Status(502),
            AnswerError::Html,
            AnswerError::Truncated,
            AnswerError::Oversized(1),
            AnswerError::Malformed("x".into()),
            AnswerError::MissingErrcode,
            AnswerError::Throttled(1),
        ];
        let classes = [Configuration, Content, RateLimited, Quota, Busy, Unknown];
        let mut causes = vec![
            InvokeCause::NotInitialized,
            InvokeCause::UnsupportedOperation(Vec::new()),
            InvokeCause::InvalidMessage("x".into()),
            InvokeCause::ExpiredSessionWebhook,
            InvokeCause::Unreachable("x".into()),
            InvokeCause::NotReading("x".into()),
            InvokeCause::HandlerFailed("x".into()),
        ];
        causes.extend(answers.map(InvokeCause::UnexpectedAnswer));
        causes.extend(classes.map(rejected));
        causes
    }

    /// Whatever a call can end with.
    fn failure() -> impl Strategy<Value = InvokeFailure> {
        let outcome = prop_oneof![Just(Outcome::NotSent), Just(Outcome::Unknown)];
        let binding = (proptest::sample::select(causes()), outcome.clone()).prop_map(|(cause, outcome)| {
            // Of most causes the outcome follows.
            let outcome = match cause {
                InvokeCause::Unreachable(_) => outcome,
                _ => error::InvokeError::from(cause.clone()).outcome,
            };
            CallError::Binding(error::InvokeError { cause, outcome })
        });
        let stopped = outcome.prop_map(|outcome| CallError::Stopped { reason: "x".into(), outcome });
        let others = prop_oneof![
            Just(()).prop_map(|()| CallError::Init(PropertyError::new("url", "x"))),
            Just(()).prop_map(|()| CallError::Overloaded(Overload::Host { running: 1, waiting: None })),
        ];
        let unreachable = InvokeCause::Unreachable("x".into());
        let unsent = error::InvokeError { cause: unreachable, outcome: Outcome::NotSent };
        prop_oneof![
            4 => prop_oneof![binding, stopped, others].prop_map(InvokeFailure::from),
            1 => Just(()).prop_map(move |()| InvokeFailure::Unconnected(CallError::Binding(unsent.clone()))),
            1 => Just(()).prop_map(|()| {
                let error = Box::new(CallError::Binding(rejected(RejectionClass::Busy).into()).into());
                InvokeFailure::Part { number: 2, of: 3, error }
            }),
        ]
    }

    proptest! {
        /// Whatever happens, and whatever a file says.
        #[test]
        fn no_message_is_posted_twice_nor_too_often_nor_too_late(
            attempts in proptest::collection::vec((failure(), 0..20_000_u64, 0.0..1.0), 1..9),
            has_uuid: bool,
            retries in 0..9_u32,
            time in 1..600_000_u64,
        ) {
            let time = Duration::from_millis(time);
            let (mut elapsed, mut made) = (Duration::ZERO, 0);
            for (failure, took, random) in attempts {
                made += 1;
                elapsed += Duration::from_millis(took);
                let posted = failure.posted();
                let error: InvokeError = Failed::new(failure, has_uuid).into();
                let kind = kind(&error, has_uuid);
                let Some(pause) = pause(kind, made, retries, elapsed, time, random) else { break };
                prop_assert!(posted == Outcome::NotSent || has_uuid, "{error}");
                elapsed += pause;
                prop_assert!(elapsed <= time / 2, "the other half is for the attempt");
                prop_assert!(made <= retries && made <= 3);
            }
        }
    }

    #[test]
    fn what_passes_in_a_moment_is_tried_again_and_what_does_not_is_not() {
        let of = |failure: InvokeFailure, has_uuid| kind(&Failed::new(failure, has_uuid).into(), has_uuid);
        for cause in causes() {
            for has_uuid in [false, true] {
                let error = error::InvokeError::from(cause.clone());
                let expected = match (&cause, error.outcome) {
                    (InvokeCause::Rejected(Rejection { class: RejectionClass::Busy, .. }), _) => Kind::Busy,
                    (InvokeCause::Unreachable(_) | InvokeCause::UnexpectedAnswer(_), Outcome::Unknown) => {
                        Kind::Unknown { is_repeatable: has_uuid }
                    }
                    _ => Kind::Refused,
                };
                assert_eq!(of(CallError::Binding(error).into(), has_uuid), expected, "{cause:?}");
            }
        }
        let unreachable = || {
            let cause = InvokeCause::Unreachable("the certificate is not trusted".into());
            CallError::Binding(error::InvokeError { cause, outcome: Outcome::NotSent })
        };
        assert_eq!(of(unreachable().into(), true), Kind::Refused, "that is for people to mend");
        assert_eq!(of(InvokeFailure::Unconnected(unreachable()), false), Kind::Unsent);
        assert_eq!(kind(&InvokeError::NotFound("x".into()), true), Kind::Refused);
    }

    #[test]
    fn pauses_are_those_of_the_outbox_and_leave_half_of_the_time() {
        let next = |attempts, elapsed, time| {
            let [elapsed, time] = [elapsed, time].map(Duration::from_millis);
            pause(Kind::Busy, attempts, MOST, elapsed, time, 0.5).map(|pause| pause.as_millis())
        };
        let pauses = [1, 2, 3, 4].map(|attempts| next(attempts, 0, 30_000));
        assert_eq!(pauses, [Some(500), Some(1_000), Some(2_000), None]);
        assert_eq!([14_500, 14_501].map(|elapsed| next(1, elapsed, 30_000)), [Some(500), None]);
        assert_eq!([999, 1_000].map(|time| next(1, 0, time)), [None, Some(500)]);
    }

    #[test]
    fn the_property() {
        for (text, number) in [(None, None), (Some(" "), None), (Some("0"), Some(0)), (Some(" 3 "), Some(3))] {
            assert_eq!(parse(text), Ok(number), "{text:?}");
        }
        for wrong in ["4", "-1", "many", "1.5"] {
            assert_eq!(parse(Some(wrong)), Err("is no number from 0 to 3".into()), "{wrong}");
        }
    }
}
