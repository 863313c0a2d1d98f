//! The operation "create": in as many parts as a message needs, now or through the outbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_api::invoke::Failed;
use dingtalk_binding::contract;
use dingtalk_binding::error::{self, InvokeCause, Outcome};
use dingtalk_binding::operation;
use uuid::Uuid;

use super::queued::{self, Delivery, Wish};
use super::{Binding, Bindings, CREATE, InvokeError, InvokeFailure};
use crate::egress::Reach;
use crate::event::Event;
use crate::fit;
use crate::gate::Pass;
use crate::gate::lesson::{self, Lesson};
use crate::queue::Outbox;
use crate::queue::outbox::{Queued, is_urgent};
use crate::queue::siblings::Groups;
use crate::sandbox::{CallError, Request, Response};

/// Bytes of a message that is made into what is stored where its call runs: 50 µs. Longer ones have a thread.
const SHAPED_AT_ONCE: usize = 16 << 10;

impl Bindings {
    /// Has the binding called `name` create a message of `data`, which is copied once there is a slot for the call:
    /// the same data may wait for many. `is_last` of what answers a dead letter: that it was given up is told to nobody.
    pub(crate) async fn create(
        &self,
        name: &str,
        data: &[u8],
        uuid: Option<&str>,
        limit: Option<Duration>,
        is_last: bool,
    ) -> Result<Response, InvokeError> {
        let binding = self.with_operation(name, CREATE)?;
        let metadata: Vec<_> = uuid.map(|uuid| ("msgUuid".to_owned(), uuid.to_owned())).into_iter().collect();
        let has_uuid = uuid.is_some() || operation::has_uuid(data, []);
        let request = || Request { operation: CREATE.into(), data: data.to_vec(), metadata };
        let called = if binding.fit == fit::Policy::default() && !binding.is_queued {
            self.post(&binding, request, limit, false).await
        } else {
            self.send(&binding, Arc::new(request()), limit, is_last).await
        };
        called.map_err(|error| Failed::new(error, has_uuid).into())
    }

    /// Posts one message, in as many parts as it needs, or has it wait until it can be. Whoever keeps the request for another
    /// attempt shares it until its call runs.
    pub(super) async fn send(
        &self,
        binding: &Binding,
        request: Arc<Request>,
        limit: Option<Duration>,
        is_last: bool,
    ) -> Result<Response, InvokeFailure> {
        let wish = Wish::parse(contract::pairs(&request.metadata)).map_err(invalid)?;
        if wish.delivery.map_or(binding.is_queued, |delivery| delivery == Delivery::Queued) {
            return self.enqueue(binding, Arc::unwrap_or_clone(request), wish, is_last).await;
        }
        let is_urgent = wish.is_urgent();
        if binding.fit.is_satisfied_by(&request) {
            return self.post(binding, move || Arc::unwrap_or_clone(request), limit, is_urgent).await;
        }
        let begun = Instant::now();
        let parts = self.parts(binding, Arc::unwrap_or_clone(request)).await?;
        let of = parts.len();
        if !binding.gate.holds(of) {
            let reason = format!("it needs {of} messages, more than rateLimit lets through at once; make it shorter");
            return Err(invalid(reason));
        }
        let rest = || limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        let mut pass = self.enter(binding, of, limit, is_urgent).await?;
        let mut last = Response { data: None, metadata: Vec::new() };
        for (index, part) in parts.into_iter().enumerate() {
            last = self.post_within(&mut pass, binding, move || part, rest()).await.map_err(|error| match index {
                0 => error,
                _ => InvokeFailure::Part { number: index + 1, of, error: Box::new(error) },
            })?;
        }
        if of > 1 {
            last.metadata.push(("parts".into(), of.to_string()));
        }
        Ok(last)
    }

    /// What is to be sent for `request`, in this order.
    async fn parts(&self, binding: &Binding, request: Request) -> Result<Vec<Request>, InvokeFailure> {
        if binding.fit.is_satisfied_by(&request) {
            return Ok(vec![request]);
        }
        let policy = binding.fit.clone();
        self.fit(move || policy.apply(request)).await.map_err(invalid)
    }

    /// Does what may take as long as many calls, and cannot be broken off.
    async fn fit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let _turn = self.fitting.acquire().await;
        // The text of a panic could be one of the message.
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err("it could not be made to fit".into()))
    }

    /// Has a message wait in the outbox. It is there when this returns.
    async fn enqueue(
        &self,
        binding: &Binding,
        request: Request,
        wish: Wish,
        is_last: bool,
    ) -> Result<Response, InvokeFailure> {
        let Some(outbox) = self.outbox.get() else {
            let reason = match self.is_direct {
                false => {
                    "metadata delivery: queued needs an outbox; start the host with --outbox DIRECTORY or --store URL"
                }
                true => {
                    "metadata delivery: queued needs an outbox; ask a host that was started with --outbox, over its API"
                }
            };
            return Err(invalid(reason));
        };
        let request = queued::with_uuid(request, || Uuid::new_v4().to_string());
        let is_small = request.data.len() <= SHAPED_AT_ONCE;
        let parts = self.parts(binding, request).await?;
        let of = parts.len();
        let name = binding.name.clone();
        let work = move || parts.into_iter().map(|part| queued::message(&name, part, &wish)).collect();
        let messages: Result<Vec<_>, String> = if is_small { work() } else { self.fit(work).await };
        let messages = messages.map_err(invalid)?;
        let uuid = messages.first().map(|message| message.uuid.clone()).unwrap_or_default();
        let mut seqs = Vec::with_capacity(of);
        let queued = if is_last { outbox.accept_answers(messages).await? } else { outbox.accept(messages).await? };
        for queued in queued {
            match queued {
                Queued::New(seq) | Queued::Repeated(seq) => seqs.push(seq.to_string()),
                Queued::Dead(seq) => return Err(InvokeFailure::GivenUp(seq)),
            }
        }
        let mut metadata = vec![("delivery", "queued".to_owned()), ("id", seqs.join(",")), ("msgUuid", uuid)];
        if of > 1 {
            metadata.push(("parts", of.to_string()));
        }
        let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Response { data: None, metadata })
    }

    /// Posts what has waited in the outbox, if the robot takes it now.
    pub(crate) async fn post_queued(&self, seq: i64, message: &Event) -> Result<Response, InvokeError> {
        let name = &message.binding;
        let binding = self.get(name).filter(|binding| binding.direction().writes());
        let binding = binding.ok_or_else(|| InvokeError::NotFound(name.clone()))?;
        let posted = async {
            let entered = binding.gate.enter_for_queue(seq, is_urgent(message)).await;
            let mut pass = entered.map_err(InvokeFailure::Withheld)?;
            let request =
                || Request { operation: CREATE.into(), data: message.data.to_vec(), metadata: message.trace.clone() };
            self.post_within(&mut pass, &binding, request, None).await
        };
        posted.await.map_err(|error| Failed::new(error, true).into())
    }

    /// Which bindings keep one order, if any do.
    pub(crate) fn siblings(&self) -> Option<Arc<Groups>> {
        self.siblings.groups()
    }

    /// Above how many messages that wait for this binding they become one, if they do: more than go out in a minute.
    pub(crate) fn unites_above(&self, name: &str) -> Option<usize> {
        self.get(name).filter(|binding| binding.merges).and_then(|binding| binding.gate.a_minute())
    }

    /// One message that says what the first of these say, with a `msgUuid` of its own, and how many.
    pub(crate) async fn unite(&self, name: &str, bodies: Vec<Bytes>) -> Option<(Bytes, usize)> {
        let policy = self.get(name)?.fit.clone();
        self.fit(move || united(&policy, &bodies)).await.ok().flatten()
    }

    /// As [`Self::unite`], for who has no thread.
    #[cfg(test)]
    pub(crate) fn unite_here(&self, name: &str, bodies: &[Bytes]) -> Option<(Bytes, usize)> {
        united(&self.get(name)?.fit, bodies).ok().flatten()
    }

    /// From now on, messages can wait in `outbox`, and what is posted is noted there. Once, before any binding is added.
    ///
    /// # Errors
    ///
    /// If what an earlier process has noted there cannot be read.
    pub async fn with_outbox(&self, outbox: Outbox) -> Result<(), String> {
        self.robots.remember(outbox.ledger()).await?;
        // Who comes second is not heard.
        let _ = self.outbox.set(outbox);
        Ok(())
    }

    /// Where messages wait, if anywhere.
    pub(crate) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.get()
    }

    /// Posts one message once the robot takes it.
    async fn post(
        &self,
        binding: &Binding,
        request: impl FnOnce() -> Request,
        limit: Option<Duration>,
        is_urgent: bool,
    ) -> Result<Response, InvokeFailure> {
        let begun = Instant::now();
        let mut pass = self.enter(binding, 1, limit, is_urgent).await?;
        let rest = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        self.post_within(&mut pass, binding, request, rest).await
    }

    /// Waits until the robot takes so many messages. What a policy allows is for sending, too: who has waited for all of it would
    /// be cut off with an unknown outcome.
    async fn enter<'a>(
        &self,
        binding: &'a Binding,
        messages: usize,
        limit: Option<Duration>,
        is_urgent: bool,
    ) -> Result<Pass<'a>, InvokeFailure> {
        let wait = limit.map_or(binding.timeout(), |limit| binding.timeout().min(limit / 2));
        let messages = u16::try_from(messages).unwrap_or(u16::MAX);
        binding.gate.enter(messages, wait, is_urgent).await.map_err(InvokeFailure::Withheld)
    }

    async fn post_within(
        &self,
        pass: &mut Pass<'_>,
        binding: &Binding,
        request: impl FnOnce() -> Request,
        limit: Option<Duration>,
    ) -> Result<Response, InvokeFailure> {
        pass.begin();
        let exit = binding.tenant.exit(Reach::Robot);
        let called = self.sandbox.invoke_by(&binding.tenant, exit.clone(), request, None, limit).await;
        pass.end(&match &called {
            Ok(_) => Lesson::Counted,
            Err(CallError::Binding(error)) => lesson::of(error),
            Err(CallError::Stopped { outcome: Outcome::Unknown, .. }) => Lesson::Unknown,
            Err(_) => Lesson::Unsent,
        });
        called.map_err(|error| match &error {
            CallError::Binding(error::InvokeError { cause: InvokeCause::Unreachable(_), .. })
                if exit.is_unconnected() =>
            {
                InvokeFailure::Unconnected(error)
            }
            _ => error.into(),
        })
    }
}

fn united(policy: &fit::Policy, bodies: &[Bytes]) -> Result<Option<(Bytes, usize)>, String> {
    policy.merge(bodies).map(|merged| queued::united(merged, Uuid::new_v4().to_string())).transpose()
}

/// A message that its caller has to change.
fn invalid(reason: impl Into<String>) -> InvokeFailure {
    CallError::Binding(InvokeCause::InvalidMessage(reason.into()).into()).into()
}
