//! An operation on its way out, whoever asks for it (a client, or an application's answer): within its binding's policies, and
//! counted.

use std::time::{Duration, Instant};

use dingtalk_api::invoke::Failed;
use dingtalk_api::limits::APP_TIMEOUT;
use uuid::Uuid;

use super::{Inner, Leftovers, policy};
use crate::bindings::{self, Binding, CREATE, InvokeError, retries};
use crate::ingress::stream::Line;
use crate::resiliency::{Course, Direction};
use crate::sandbox::{CallError, Overload, Response, Rule};
use crate::spans::said;

/// Within which the attempts begin of what follows from an application's answer: deliveries wait behind a late reply, and other
/// answers for the place of one that is sent on. An application may keep one for as long.
const LATE: Duration = APP_TIMEOUT;

/// Calls that pause before another attempt which no policy asked for. They hold their message and a request of their port, and
/// no slot: as many of one binding as its robot takes in a minute, more or less. For others, the failure stands.
pub(super) const PAUSES: Rule = Rule { all: 128, each: 16 };

/// What is tried again without a policy: a message that was not taken, as the property `retries` of its binding says.
struct OwnRetries {
    retries: u32,
    /// For the whole call.
    time: Duration,
    tenant: u64,
}

impl OwnRetries {
    fn of(binding: Option<&Binding>, operation: &str, course: &Course) -> Option<Self> {
        let binding = binding.filter(|binding| operation == CREATE && binding.retries() > 0)?;
        // A policy decides alone, also one that says "never".
        let time = binding.timeout().min(course.timeout().unwrap_or(Duration::MAX));
        let own = Self { retries: binding.retries(), time, tenant: binding.tenant_id() };
        course.retry().is_none().then_some(own)
    }

    fn pause(&self, error: &InvokeError, has_uuid: bool, attempts: u32, elapsed: Duration) -> Option<Duration> {
        let kind = retries::kind(error, has_uuid);
        retries::pause(kind, attempts, self.retries, elapsed, self.time, fastrand::f64())
    }
}

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
    /// Of a caller who may hang up.
    pub(super) line: Option<&'a Line>,
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
        let mut attempts = 0;
        let result = self.send_by_policy(outbound, request, attempt, &mut attempts).await;
        let result = bindings::tried(result, attempts);
        let failure = result.as_ref().err().map(InvokeError::metadata);
        let known = self.bindings.known(outbound.binding, outbound.operation);
        self.metrics.invoked(known, since, failure.as_deref());
        self.metrics.retried(known, attempts.saturating_sub(1));
        result
    }

    /// As often as the binding's policy allows or, where it has none for that, as its property says; but never so that a message could be
    /// posted twice. Counts the attempts.
    async fn send_by_policy<R: Clone, F: Future<Output = Result<Response, InvokeError>>>(
        &self,
        outbound: Outbound<'_>,
        request: R,
        attempt: impl Fn(R, Option<Duration>) -> F,
        attempts: &mut u32,
    ) -> Result<Response, InvokeError> {
        let Outbound { binding, operation, has_uuid, is_late, is_awaited, trace, line } = outbound;
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
        let loaded = self.bindings.get(binding);
        let spans = self.spans.get().filter(|_| !is_once && loaded.is_some());
        let own = OwnRetries::of(loaded.as_deref(), operation, &course);
        drop(loaded);
        let mut limit = course.timeout();
        let mut next = request;
        loop {
            let leave = match course.begin() {
                Ok(leave) => leave,
                Err(refused) => {
                    let error = CallError::Overloaded(Overload::Breaker(refused));
                    return Err(Failed::new(error.into(), has_uuid).into());
                }
            };
            *attempts = attempts.saturating_add(1);
            let number = *attempts;
            let kept = ((course.retry().is_some() && !is_once) || own.is_some()).then(|| next.clone());
            let span = spans.map(|spans| spans.begin(said::operation(binding, operation, number), trace));
            let result = attempt(next, limit).await;
            if let Some(span) = span {
                span.end(said::operated(&result));
            }
            match &result {
                Ok(_) => leave.end(true),
                Err(error) if policy::counts(error) => leave.end(false),
                // It says nothing of the robot: neither a failure nor, for a breaker that is open, the success that closes it.
                Err(_) => drop(leave),
            }
            let (Err(error), Some(request)) = (&result, kept) else { return result };
            let pause = match &own {
                Some(own) => own.pause(error, has_uuid, number, since.elapsed()),
                None if policy::may_be_repeated(error) => course.again(),
                None => None,
            };
            let Some(pause) = pause.filter(|pause| !is_awaited || since.elapsed().saturating_add(*pause) <= LATE)
            else {
                return result;
            };
            // Who calls a robot that is away must not fill the ports with calls that wait for it.
            let place = own.as_ref().map(|own| self.pauses.try_take(own.tenant)).transpose();
            let Ok(_place) = place else { return result };
            tracing::debug!(binding, %error, attempt = number, ?pause, "tried again");
            tokio::time::sleep(pause).await;
            // HTTP/2 ends what its caller has given up; a caller who speaks HTTP/1.1 has to be looked for.
            if own.is_some() && line.is_some_and(Line::is_closed) {
                return result;
            }
            limit = own.as_ref().map_or(limit, |own| Some(own.time.saturating_sub(since.elapsed())));
            next = request;
        }
    }
}
