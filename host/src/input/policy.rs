//! What a failure means to resiliency policies: whether the breaker counts it, and whether it is tried again.

use dingtalk_api::invoke::InvokeError as Failure;

use crate::bindings::InvokeError;
use crate::event::Undelivered;
use crate::resiliency::retry::Retry;

/// Whether it says something of the robot and the way to it: a message that is at fault, or a request, does not.
pub(super) fn counts(error: &InvokeError) -> bool {
    let metadata = error.metadata();
    match (named(&metadata, "error"), named(&metadata, "class")) {
        ("rejected", class) => class != "content",
        (error, _) => ![
            "missing-operation",
            "not-found",
            "unsupported-operation",
            "invalid-message",
            "invalid-session-webhook",
            "expired-session-webhook",
            "not-reading",
            "handler-failed",
            // Nothing was tried; what made it so was counted then.
            "withheld",
        ]
        .contains(&error),
    }
}

/// Whether the same call may succeed in a moment, and posts nothing twice. How long to wait for a rate limit is for the
/// caller to decide: minutes.
pub(super) fn may_be_repeated(error: &InvokeError) -> bool {
    let Failure::Call(failed) = error else { return false };
    let metadata = error.metadata();
    let is_passing = match (named(&metadata, "error"), named(&metadata, "class")) {
        ("rejected", class) => class == "busy",
        ("unexpected-answer.throttled", _) => false,
        (error, _) => {
            ["overloaded", "stopped", "unreachable"].contains(&error) || error.starts_with("unexpected-answer.")
        }
    };
    is_passing && failed.may_be_repeated()
}

/// Whether an event that the application has not taken is handed to it again.
pub(super) fn is_for(retry: &Retry, error: &Undelivered) -> bool {
    match error {
        Undelivered::Refused { status, .. } if !retry.statuses.is_empty() => retry.is_for(*status),
        Undelivered::NotSubscribed { .. } => false,
        error => !error.is_final(),
    }
}

pub(super) fn named<'a>(metadata: &'a [(String, String)], wanted: &str) -> &'a str {
    metadata.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use dingtalk_api::invoke::Failed;
    use dingtalk_binding::error::{AnswerError, InvokeCause, InvokeError as Cause, Outcome, Rejection, RejectionClass};

    use super::*;
    use crate::resiliency::retry::Pause;
    use crate::sandbox::{CallError, Overload};

    fn failure(cause: InvokeCause, outcome: Outcome, has_uuid: bool) -> InvokeError {
        Failed::new(CallError::Binding(Cause { cause, outcome }).into(), has_uuid).into()
    }

    fn rejected(class: RejectionClass) -> InvokeCause {
        let (errmsg, check, retry_after) = (String::new(), None, None);
        InvokeCause::Rejected(Rejection { errcode: 1, errmsg, class, check, retry_after })
    }

    #[test]
    fn nothing_is_repeated_that_could_post_twice() {
        let unreachable = |outcome, has_uuid| failure(InvokeCause::Unreachable("x".into()), outcome, has_uuid);
        let cases = [(Outcome::NotSent, false, true), (Outcome::Unknown, false, false), (Outcome::Unknown, true, true)];
        for (outcome, has_uuid, expected) in cases {
            assert_eq!(may_be_repeated(&unreachable(outcome, has_uuid)), expected, "{outcome:?} {has_uuid}");
            let reason = "x".into();
            let stopped: InvokeError = Failed::new(CallError::Stopped { reason, outcome }.into(), has_uuid).into();
            assert_eq!(may_be_repeated(&stopped), expected, "{outcome:?} {has_uuid}");
        }
    }

    #[test]
    fn only_what_passes_is_repeated_and_only_what_speaks_of_the_robot_counts() {
        let overload = Overload::Host { running: 1, waiting: None };
        let overloaded: InvokeError = Failed::new(CallError::Overloaded(overload).into(), false).into();
        let of = |cause| failure(cause, Outcome::NotSent, false);
        for (error, repeated, counted) in [
            (overloaded, true, true),
            (of(rejected(RejectionClass::Busy)), true, true),
            (of(rejected(RejectionClass::RateLimited)), false, true),
            (of(rejected(RejectionClass::Configuration)), false, true),
            (of(rejected(RejectionClass::Content)), false, false),
            (of(InvokeCause::InvalidMessage("x".into())), false, false),
            (of(InvokeCause::ExpiredSessionWebhook), false, false),
            (of(InvokeCause::HandlerFailed("x".into())), false, false),
            (of(InvokeCause::UnexpectedAnswer(AnswerError::Throttled(1))), false, true),
            (of(InvokeCause::UnexpectedAnswer(AnswerError::Status(404))), true, true),
            (InvokeError::NotFound("x".into()), false, false),
        ] {
            assert_eq!((may_be_repeated(&error), counts(&error)), (repeated, counted), "{error}");
        }
    }

    #[test]
    fn events_that_are_refused_for_good_are_not_handed_over_again() {
        let retry = |statuses| Retry { pause: Pause::Constant(std::time::Duration::ZERO), max: None, statuses };
        let refused = |status| Undelivered::Refused { status, body: String::new(), retry_after: None };
        for (statuses, status, expected) in
            [(vec![], 500, true), (vec![], 422, false), (vec![422..=422], 422, true), (vec![422..=422], 500, false)]
        {
            assert_eq!(is_for(&retry(statuses), &refused(status)), expected, "{status}");
        }
        assert!(is_for(&retry(vec![500..=500]), &Undelivered::NoConnection("x".into())));
        assert!(!is_for(&retry(vec![]), &Undelivered::NotSubscribed { binding: "b".into(), reason: "x".into() }));
    }
}
