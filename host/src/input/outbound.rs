//! An operation on its way out, whoever asks for it (a client, or an application's answer): within its binding's policies, and
//! counted.

use std::time::{Duration, Instant};

use dingtalk_api::invoke::Failed;
use dingtalk_api::limits::APP_TIMEOUT;
use uuid::Uuid;

use super::{Inner, Leftovers, policy};
use crate::bindings::InvokeError;
use crate::resiliency::Direction;
use crate::sandbox::{CallError, Overload, Response};
use crate::spans::said;

/// Within which the attempts begin of what follows from an application's answer: deliveries wait behind a late reply, and other
/// answers for the place of one that is sent on. An application may keep one for as long.
const LATE: Duration = APP_TIMEOUT;

/// What is to be done.
#[derive(Clone, Copy)]
pub(super) struct Outbound<'a> {
    pub(super) binding: &'a str,
    pub(super) operation: &'a str,
    /// DingTalk takes it once, however often it is sent.
    pub(super) has_uuid: bool,
    /// The reply to a message that has been acknowledged: of a binding that may have no output side.
    pub(super) is_late: bool,
    /// Whether others wait for the place that it takes.
    pub(super) is_awaited: bool,
    /// What its attempts are below, where there are spans.
    pub(super) trace: &'a [(String, String)],
}

impl Inner {
    /// A `msgUuid` for what is to be created and has none, where a policy may try it again: an attempt with an unknown outcome
    /// can then be followed by another one. Without such a policy, what is posted stays as it came.
    pub(super) fn uuid_for(&self, binding: &str, has_uuid: bool) -> Option<String> {
        let is_wanted = !has_uuid && self.resilience.retries(binding, Direction::Outbound);
        is_wanted.then(|| Uuid::new_v4().to_string())
    }

    /// Has `attempt` do it with `request`, which it makes of each.
    pub(super) async fn send<R: Clone, F: Future<Output = Result<Response, InvokeError>>>(
        &self,
        outbound: Outbound<'_>,
        request: R,
        attempt: impl Fn(R, Option<Duration>) -> F,
    ) -> Result<Response, InvokeError> {
        let since = Instant::now();
        let _leftovers = self.bindings.get(outbound.binding).map(|_| Leftovers(self, outbound.binding));
        let result = self.send_by_policy(outbound, request, attempt).await;
        let failure = result.as_ref().err().map(InvokeError::metadata);
        let known = self.bindings.known(outbound.binding, outbound.operation);
        self.metrics.invoked(known, since, failure.as_deref());
        result
    }

    /// As often as the policies allow, but never so that a message could be posted twice.
    async fn send_by_policy<R: Clone, F: Future<Output = Result<Response, InvokeError>>>(
        &self,
        outbound: Outbound<'_>,
        request: R,
        attempt: impl Fn(R, Option<Duration>) -> F,
    ) -> Result<Response, InvokeError> {
        let Outbound { binding, operation, has_uuid, is_late, is_awaited, trace } = outbound;
        if !is_late {
            self.bindings.check(binding, operation)?;
        } else if self.bindings.get(binding).is_none() {
            return Err(InvokeError::NotFound(binding.to_owned()));
        }
        // What the application was handed once, it may have acted on, whatever became of its answer.
        let is_once = operation == "get";
        let since = Instant::now();
        let mut course = self.resilience.course(binding, Direction::Outbound);
        // Of "get" there is what the application is handed; a name that an application has made up is in no span.
        let spans = self.spans.get().filter(|_| !is_once && self.bindings.get(binding).is_some());
        let mut number = 0_u32;
        let mut next = request;
        loop {
            number = number.saturating_add(1);
            let leave = match course.begin() {
                Ok(leave) => leave,
                Err(refused) => {
                    let error = CallError::Overloaded(Overload::Breaker(refused));
                    return Err(Failed::new(error.into(), has_uuid).into());
                }
            };
            let kept = course.retry().filter(|_| !is_once).map(|_| next.clone());
            let span = spans.map(|spans| spans.begin(said::operation(binding, operation, number), trace));
            let result = attempt(next, course.timeout()).await;
            if let Some(span) = span {
                span.end(said::operated(&result));
            }
            match &result {
                Ok(_) => leave.end(true),
                Err(error) if policy::counts(error) => leave.end(false),
                // It says nothing of the robot: neither a failure nor, for a breaker that is open, the success that closes it.
                Err(_) => drop(leave),
            }
            let again = result.as_ref().is_err_and(policy::may_be_repeated).then_some(kept).flatten();
            let Some((request, pause)) = again.and_then(|request| Some((request, course.again()?))) else {
                return result;
            };
            if is_awaited && since.elapsed().saturating_add(pause) > LATE {
                return result;
            }
            if let Err(error) = &result {
                tracing::debug!(binding, %error, ?pause, "tried again, as the retry policy says");
            }
            tokio::time::sleep(pause).await;
            next = request;
        }
    }
}
