//! What waits in the outbox on its way to DingTalk: one attempt each, and what its failure means.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_binding::error::Outcome;

use super::policy::named;
use super::{Inner, Leftovers};
use crate::bindings::{CREATE, InvokeError};
use crate::event::{BoxFuture, Event};
use crate::queue::outbox::retry::{Kind, Setback};
use crate::queue::outbox::{Consumer, DeadLetter, Told, is_urgent};
use crate::queue::siblings::Groups;
use crate::spans::said;

/// How long a binding is left alone that is not there: it comes back with its component file, which is noticed.
const MISSING: Duration = Duration::from_secs(600);

/// After DingTalk has refused whatever the binding sends. Then the gate says for how much longer; that of a binding without a rate
/// is open, and must not be asked at once: each time would be a post.
const ASK_THE_GATE: Duration = Duration::from_secs(60);

/// By what the outbox posts. Does not keep the bindings: the outbox is part of what holds them.
pub(super) struct Posts(pub(super) Weak<Inner>);

impl Consumer for Posts {
    fn post<'a>(&'a self, seq: i64, message: &'a Event) -> BoxFuture<'a, Result<(), Setback>> {
        Box::pin(async move {
            match self.0.upgrade() {
                Some(inner) => inner.post(seq, message).await.map_err(|error| setback(&error, is_urgent(message))),
                None => Err(Setback { kind: Kind::Unsent, reason: "the host is stopping".into() }),
            }
        })
    }

    fn siblings(&self) -> Option<Arc<Groups>> {
        self.0.upgrade()?.bindings.siblings()
    }

    fn unites_above(&self, binding: &str) -> Option<usize> {
        self.0.upgrade()?.bindings.unites_above(binding)
    }

    fn unite<'a>(&'a self, binding: &'a str, bodies: Vec<Bytes>) -> BoxFuture<'a, Option<(Bytes, usize)>> {
        Box::pin(async move { self.0.upgrade()?.bindings.unite(binding, bodies).await })
    }

    fn tell<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Told> {
        Box::pin(async move {
            match self.0.upgrade() {
                Some(inner) => inner.tell(letter).await,
                None => Told::Later,
            }
        })
    }
}

impl Inner {
    /// Policies for retries and breakers do not apply: trying again is the outbox's business alone.
    async fn post(&self, seq: i64, message: &Event) -> Result<(), InvokeError> {
        let binding = message.binding.as_str();
        let since = Instant::now();
        let _leftovers = self.bindings.get(binding).map(|_| Leftovers(self, binding));
        let span = self.spans.get().map(|spans| spans.begin(said::operation(binding, CREATE, 1), &message.trace));
        let result = self.bindings.post_queued(seq, message).await;
        // What was withheld is no operation: it is asked again whenever there may be room.
        let is_withheld = result.as_ref().is_err_and(|error| named(&error.metadata(), "error") == "withheld");
        if !is_withheld {
            let failure = result.as_ref().err().map(InvokeError::metadata);
            self.metrics.invoked(self.bindings.known(binding, CREATE), since, failure.as_deref());
        }
        if let Some(span) = span
            && !is_withheld
        {
            span.end(said::operated(&result));
        }
        result.map(drop)
    }
}

/// What a failure means to a message that waits.
pub(crate) fn setback(error: &InvokeError, is_urgent: bool) -> Setback {
    let metadata = error.metadata();
    let wait = named(&metadata, "retryAfter").parse().ok().map(Duration::from_millis);
    let is_unknown = named(&metadata, "outcome") == Outcome::Unknown.name();
    // Each message here has its msgUuid.
    let unknown = Kind::Unknown { is_repeatable: true };
    let kind = match (named(&metadata, "error"), named(&metadata, "class")) {
        // Of an allowance that DingTalk knows nothing of, some is kept for what is urgent.
        ("withheld", "quota") if named(&metadata, "errcode").is_empty() && !is_urgent => {
            Kind::Reserved(wait.unwrap_or(ASK_THE_GATE))
        }
        ("withheld", "quota") if named(&metadata, "errcode").is_empty() => Kind::Barred(wait.unwrap_or(ASK_THE_GATE)),
        ("withheld" | "rejected", "configuration") => Kind::Barred(wait.unwrap_or(ASK_THE_GATE)),
        ("withheld" | "unexpected-answer.throttled", _) | ("rejected", "rate-limited" | "quota") => {
            Kind::Held(wait.unwrap_or(ASK_THE_GATE))
        }
        ("not-found" | "unsupported-operation" | "configuration", _) => Kind::Barred(MISSING),
        ("rejected", "content") | ("invalid-message", _) => Kind::Refused,
        // Where a limit of the sandbox has stopped it before it was posted, it would do so again for ever.
        ("rejected", _) => Kind::Busy,
        ("stopped", _) if !is_unknown => Kind::Busy,
        _ if is_unknown => unknown,
        // Something has answered that is not DingTalk, and may do so for long.
        (error, _) if error.starts_with("unexpected-answer.") => unknown,
        _ => Kind::Unsent,
    };
    Setback { kind, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use dingtalk_api::invoke::Failed;
    use dingtalk_binding::error::{AnswerError, InvokeCause, InvokeError as Cause, Rejection, RejectionClass};

    use super::*;
    use crate::sandbox::{CallError, Overload};

    fn failed(cause: InvokeCause, outcome: Outcome) -> Kind {
        setback(&Failed::new(CallError::Binding(Cause { cause, outcome }).into(), true).into(), false).kind
    }

    fn rejected(class: RejectionClass, retry_after: Option<u64>) -> Kind {
        let rejection = Rejection { errcode: 1, errmsg: "no".into(), class, check: None, retry_after };
        failed(InvokeCause::Rejected(rejection), Outcome::NotSent)
    }

    #[test]
    fn a_failure_means_what_it_says_of_the_message_or_the_robot() {
        let unknown = Kind::Unknown { is_repeatable: true };
        assert_eq!(rejected(RejectionClass::RateLimited, Some(600_000)), Kind::Held(Duration::from_secs(600)));
        assert_eq!(rejected(RejectionClass::Quota, None), Kind::Held(ASK_THE_GATE));
        assert_eq!(rejected(RejectionClass::Configuration, None), Kind::Barred(ASK_THE_GATE));
        assert_eq!(rejected(RejectionClass::Content, None), Kind::Refused);
        for class in [RejectionClass::Busy, RejectionClass::Unknown] {
            assert_eq!(rejected(class, None), Kind::Busy);
        }
        assert_eq!(failed(InvokeCause::InvalidMessage("x".into()), Outcome::NotSent), Kind::Refused);
        for (outcome, kind) in [(Outcome::NotSent, Kind::Unsent), (Outcome::Unknown, unknown)] {
            assert_eq!(failed(InvokeCause::Unreachable("x".into()), outcome), kind);
        }
        for status in [404, 502] {
            let cause = Cause::from(InvokeCause::UnexpectedAnswer(AnswerError::Status(status)));
            assert_eq!(failed(cause.cause, cause.outcome), unknown);
        }
        let throttled = InvokeCause::UnexpectedAnswer(AnswerError::Throttled(300_000));
        assert_eq!(failed(throttled, Outcome::NotSent), Kind::Held(Duration::from_secs(300)));
        let overload = CallError::Overloaded(Overload::Host { running: 1, waiting: None });
        assert_eq!(setback(&Failed::new(overload.into(), true).into(), false).kind, Kind::Unsent);
        assert_eq!(setback(&InvokeError::NotFound("x".into()), false).kind, Kind::Barred(MISSING));
    }
}
