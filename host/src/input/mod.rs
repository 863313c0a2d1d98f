//! What becomes of a message that a binding has received: one delivery for its copies, through the inbox if there
//! is one, to the application, and back with a reply.
//!
//! A callback is acknowledged once the application has answered, or once the inbox has the message on disk. An
//! application that takes longer than DingTalk waits is not given up: without an inbox DingTalk is told to send
//! again, and that copy finds the delivery running or done; with one, the reply goes to the message's session
//! when it comes.

mod answer;
mod follow;
mod ids;
mod letters;
mod memory;
mod outbound;
mod policy;
mod reach;
mod reader;
mod repeats;
mod sending;
mod signatures;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_api::invoke;
use dingtalk_api::trace::TRACE;
use dingtalk_binding::error::{HandlerError, ReceiveError};
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::bindings::{self, Binding, Bindings, CREATE, InitError, InvokeError};
use crate::egress::{Policy, Proxies};
use crate::event::{Answer, Application, BoxFuture, Digest, Event, Undelivered};
use crate::ingress::stream::Line;
use crate::metrics::{Metrics, QueueState, State};
use crate::queue::{Consumer, Counts, Inbox, QueueError};
use crate::quiet::Quiet;
use crate::resiliency::{Course, Direction, Resilience, Resiliency};
use crate::resources::BindingResource;
use crate::sandbox::{CallError, Callback, Handler, Reply, Request, Response, Rule, Slots};
use crate::spans::{Spans, said};
use memory::{Memories, Messages};
use outbound::Outbound;
use reader::{Reader, Signed, Way};
use sending::Posts;
#[cfg(test)]
pub(crate) use sending::setback;

/// When the host stops: for what goes on after its callback was answered (data sent on to other bindings, a
/// delivery that DingTalk has been told to repeat).
const LINGER: Duration = Duration::from_secs(2);

/// The bindings with their input side. Cheap to clone.
#[derive(Clone)]
pub struct Input(Arc<Inner>);

struct Inner {
    bindings: Bindings,
    app: Option<App>,
    inbox: Option<Inbox>,
    memories: Memories,
    callback_timeout: Duration,
    forwards: Slots,
    /// Calls that pause before another attempt which no policy asked for.
    pauses: Slots,
    tasks: TaskTracker,
    metrics: Metrics,
    resilience: Resilience,
    /// Nothing where tracing is off.
    spans: OnceLock<Spans>,
    /// Lines of which a callback each could cause one.
    quiet: Quiet,
}

/// Deliveries of one binding that wait for the application at once. DingTalk's callbacks end after a moment, while
/// the deliveries that they began go on until `--app-timeout`: without a limit, an application that hangs would let
/// messages pile up in memory.
const DELIVERIES: usize = 256;

/// Answers that are being sent on to other bindings at once. Each has 1 MiB of data at most, which is shared by those
/// that it is for.
const FORWARDS: Rule = Rule { all: 64, each: 16 };

/// Why a callback is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// No binding of this name has an input side.
    #[error("couldn't find input binding {0}")]
    NotFound(String),
    /// Refused, not taken, or a failure of the sandbox.
    #[error(transparent)]
    Call(#[from] CallError<ReceiveError>),
}

impl Input {
    /// Initialises a binding and adds it, in place of the one of the same name; from then on the application is asked
    /// about it. See [`Bindings::add`].
    pub async fn add(&self, resource: BindingResource, proxies: &Proxies, policy: &Policy) -> Result<(), InitError> {
        let Inner { bindings, memories, .. } = &*self.0;
        let binding = bindings.load(resource, proxies, policy).await?;
        memories.widen(&binding, bindings.arrival().time).await;
        memories.load(&binding);
        if let Some(replaced) = bindings.insert(Arc::clone(&binding)) {
            memories.unload(&replaced, bindings);
        }
        memories.widen(&binding, bindings.arrival().time).await;
        self.0.metrics.loaded(1);
        if let Some(app) = &self.0.app {
            app.subscribe(&binding);
        }
        // What came while it was another one, or before it went, may wait for its turn.
        if let Some(inbox) = &self.0.inbox
            && let Err(error) = inbox.hasten(binding.name()).await
        {
            tracing::warn!(binding = binding.name(), %error, "events in the inbox wait up to 36 s longer than they must");
        }
        // A robot that was shut for a wrong setting may be another one, or open.
        if let Some(outbox) = bindings.outbox()
            && let Err(error) = outbox.hasten(binding.name()).await
        {
            tracing::warn!(binding = binding.name(), %error, "messages in the outbox wait up to 36 s longer than they must");
        }
        Ok(())
    }

    /// Takes a binding away; whoever is using it goes on.
    pub fn remove(&self, name: &str) {
        if let Some(removed) = self.0.bindings.remove(name) {
            self.0.memories.unload(&removed, &self.0.bindings);
        }
        if let Some(app) = &self.0.app {
            app.unsubscribe(name);
        }
        self.0.metrics.forget(name);
        self.0.resilience.forget(name);
    }

    /// Over `bindings`; events go to `app`, through `inbox` if there is one. DingTalk is answered within
    /// `callback_timeout`.
    pub fn new(bindings: Bindings, app: Option<App>, inbox: Option<Inbox>, callback_timeout: Duration) -> Self {
        let (memories, tasks) = (Memories::default(), TaskTracker::new());
        for binding in bindings.all() {
            memories.load(&binding);
        }
        let (forwards, pauses) = (Slots::new(FORWARDS), Slots::new(outbound::PAUSES));
        let quiet = Quiet::default();
        let metrics = Metrics::new();
        metrics.loaded(bindings.all().len());
        let resilience = Resilience::default();
        let spans = OnceLock::new();
        let inner = Inner {
            bindings,
            app,
            inbox,
            memories,
            callback_timeout,
            forwards,
            pauses,
            tasks,
            metrics,
            resilience,
            spans,
            quiet,
        };
        let input = Self(Arc::new(inner));
        if let Some(inbox) = &input.0.inbox {
            inbox.start(Arc::new(Deliveries(Arc::downgrade(&input.0))));
        }
        if let Some(outbox) = input.0.bindings.outbox() {
            outbox.start(Arc::new(Posts(Arc::downgrade(&input.0))));
        }
        input
    }

    /// The bindings themselves.
    pub fn bindings(&self) -> &Bindings {
        &self.0.bindings
    }

    /// From now on, spans tell what is done. Once.
    pub fn trace(&self, spans: Spans) {
        let _ = self.0.spans.set(spans);
    }

    /// What makes spans, if anything does.
    pub(crate) fn spans(&self) -> Option<&Spans> {
        self.0.spans.get()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What is counted, and what is now, as Prometheus' text: each line with `labels`.
    pub(crate) async fn metrics_text(&self, labels: &[(&str, &str)]) -> Result<String, prometheus::Error> {
        let Inner { bindings, inbox, metrics, spans, .. } = &*self.0;
        let loaded = bindings.all();
        let stopped = |binding: &Arc<Binding>| {
            let name = binding.name().to_owned();
            binding.stopped().map(|(limit, number)| (name.clone(), limit.name(), number))
        };
        let state = State {
            bindings: loaded.len(),
            egress_refused: loaded.iter().map(|one| (one.name().to_owned(), one.egress_refused())).collect(),
            stopped: loaded.iter().flat_map(stopped).collect(),
            calls: [bindings.calls(), vec![("operation", "pausing", self.0.pauses.load().0)]].concat(),
            spans: spans.get().map(Spans::counts),
            // What cannot be read is left out; the queue itself says why.
            inbox: match inbox {
                Some(inbox) => held(inbox.counts().await, inbox.oldest_ms().await),
                None => None,
            },
            outbox: match bindings.outbox() {
                Some(outbox) => held(outbox.counts().await, outbox.oldest_ms().await),
                None => None,
            },
        };
        metrics.text(labels, &state)
    }

    /// Whether anything can be handed to the application.
    pub fn reads(&self, binding: &Binding) -> bool {
        self.0.app.is_some() && binding.direction().reads()
    }

    /// How many events wait in the inbox, and how many are dead; `None` without an inbox.
    pub async fn inbox_counts(&self) -> Option<Result<Counts, QueueError>> {
        match &self.0.inbox {
            Some(inbox) => Some(inbox.counts().await),
            None => None,
        }
    }

    /// How many messages wait in the outbox, and how many are dead; `None` without an outbox.
    pub async fn outbox_counts(&self) -> Option<Result<Counts, QueueError>> {
        match self.0.bindings.outbox() {
            Some(outbox) => Some(outbox.counts().await),
            None => None,
        }
    }

    /// Performs one operation; "get" reaches the application.
    pub async fn invoke(&self, name: &str, request: Request) -> Result<Response, InvokeError> {
        self.invoke_for(name, request, None).await
    }

    /// As [`Input::invoke`], for a caller on this line: who hangs up is not tried for again.
    pub(crate) async fn invoke_for(
        &self,
        name: &str,
        mut request: Request,
        line: Option<&Line>,
    ) -> Result<Response, InvokeError> {
        let operation = request.operation.clone();
        let is_get = operation == "get";
        let reader = is_get.then(|| self.reader(name, Vec::new(), Way::Direct)).flatten();
        // Each attempt is a span of its own, below the caller's.
        let is_trace = |(name, _): &&(String, String)| TRACE.contains(&name.as_str());
        let trace = self.0.spans.get().map(|_| request.metadata.iter().filter(is_trace).cloned().collect());
        let trace: Vec<_> = trace.unwrap_or_default();
        let has_uuid = invoke::has_uuid(&request);
        let uuid = if operation == CREATE { self.0.uuid_for(name, has_uuid) } else { None };
        request.metadata.extend(uuid.clone().map(|uuid| ("msgUuid".to_owned(), uuid)));
        let has_uuid = has_uuid || uuid.is_some();
        let outbound = Outbound {
            binding: name,
            operation: &operation,
            has_uuid,
            is_late: false,
            is_awaited: false,
            trace: &trace,
            line,
        };
        let bindings = &self.0.bindings;
        self.0
            .send(outbound, Arc::new(request), |request, limit| {
                bindings.invoke_within(name, request, reader.clone(), limit)
            })
            .await
            .map_err(|error| bindings::with_made_uuid(error, uuid))
    }

    /// A callback for `name` was answered; see [`Metrics::callback`]. Whoever makes names up is counted without one.
    pub(crate) fn count_callback(&self, name: &str, result: &'static str) {
        let leftovers = self.0.bindings.get(name).map(|_| Leftovers(&self.0, name));
        self.0.metrics.callback(leftovers.as_ref().map_or("", |_| name), result);
    }

    /// From now on, these policies apply.
    pub fn set_resiliency(&self, policies: Resiliency) {
        self.0.resilience.set(policies);
    }

    /// Takes one callback from DingTalk, and says what it is to be answered.
    pub async fn receive(
        &self,
        name: &str,
        callback: Callback,
        trace: Vec<(String, String)>,
    ) -> Result<Reply, CallbackError> {
        let limit = self.0.callback_timeout;
        let binding = self.0.bindings.get(name).filter(|binding| binding.direction().reads());
        let binding = binding.ok_or_else(|| CallbackError::NotFound(name.to_owned()))?;
        let header = |wanted: &str| {
            let found = callback.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let signed = Signed {
            binding: Arc::clone(&binding),
            arrived: callback.arrived.instant,
            timestamp: String::from_utf8_lossy(&header("timestamp")).into_owned(),
            sign: header("sign"),
        };
        let way = Way::Callback { signed, deadline: Instant::now() + limit };
        let reader = self.reader(name, trace, way);
        Ok(self.0.bindings.receive(&binding, callback, reader, limit).await?)
    }

    /// Ends deliveries: nothing new is begun, what runs has a moment to end.
    pub async fn stop(&self) {
        // Together: each may take some seconds.
        let (inbox, outbox) = (self.0.inbox.as_ref(), self.0.bindings.outbox());
        let stop_inbox = async {
            if let Some(inbox) = inbox {
                inbox.stop().await;
            }
        };
        let stop_outbox = async {
            if let Some(outbox) = outbox {
                outbox.stop().await;
            }
        };
        tokio::join!(stop_inbox, stop_outbox);
        self.0.tasks.close();
        let _ = tokio::time::timeout(LINGER, self.0.tasks.wait()).await;
    }

    fn reader(&self, name: &str, trace: Vec<(String, String)>, way: Way) -> Option<Arc<dyn Handler>> {
        let binding = self.0.bindings.get(name).filter(|binding| self.reads(binding))?;
        let timeout = binding.timeout();
        Some(Arc::new(Reader { inner: Arc::clone(&self.0), binding: name.to_owned(), timeout, trace, way }))
    }
}

/// What a queue says of itself, if it says all of it.
fn held(counts: Result<Counts, QueueError>, oldest_ms: Result<u64, QueueError>) -> Option<QueueState> {
    let (Counts { pending, dead }, oldest_ms) = (counts.ok()?, oldest_ms.ok()?);
    Some(QueueState { pending, dead, oldest_ms })
}

/// What is left of a call to a binding that was loaded: counters, and the state of a breaker. Should the binding be taken
/// away before the call ends, what that leaves is taken away, too: names that come and go would fill the memory.
struct Leftovers<'a>(&'a Inner, &'a str);

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        let Self(inner, name) = self;
        if inner.bindings.get(name).is_none() {
            inner.metrics.forget(name);
            inner.resilience.forget(name);
        }
    }
}

impl Inner {
    /// What a message is known by; refuses one whose signature or identifier belongs to another one.
    fn recognise(&self, event: &Event, signed: &Signed) -> Result<Digest, HandlerError> {
        let Signed { binding, arrived, timestamp, sign } = signed;
        let message = event.digest();
        let messages = self.memories.messages(binding, &self.bindings);
        // Signatures first, so that nobody fills the memory of identifiers with the help of one of them.
        if let Some(key) = binding.signed_with(timestamp, sign) {
            let signatures = self.memories.signatures(key, binding);
            let is_forgotten = |time| messages.reach.has_forgotten(time) || signatures.reach.has_forgotten(time);
            if timestamp.parse().is_ok_and(is_forgotten) {
                if let Some(more) = self.quiet.count(&format!("forgotten {}", event.binding)) {
                    let reason = "it was too old when callbackMaxSkew became longer";
                    tracing::warn!(binding = event.binding, reason, more, "a callback was refused");
                }
                return Err(HandlerError::Reused);
            }
            if !signatures.allow(timestamp, message, *arrived) {
                return Err(HandlerError::Reused);
            }
        }
        let is_allowed = event.metadata("msgId").is_none_or(|id| messages.ids.allow(id, message));
        if is_allowed { Ok(message) } else { Err(HandlerError::Reused) }
    }

    /// Those of the binding called `name`.
    fn messages(&self, name: &str) -> Option<Arc<Messages>> {
        let binding = self.bindings.get(name)?;
        Some(self.memories.messages(&binding, &self.bindings))
    }

    /// Delivers an event unless a copy of it is being delivered, or has been. The reply, if there is one.
    async fn deliver_once(self: Arc<Self>, event: &Event, message: Digest) -> Result<Answer, Undelivered> {
        let Some(messages) = self.messages(&event.binding) else { return self.deliver(event).await };
        let delivery = async {
            let _waits = messages.deliveries.try_acquire().map_err(|_| {
                Undelivered::Unreachable(format!("{DELIVERIES} messages of this binding are waiting for its answer"))
            })?;
            // Here, because nobody may be left to tell: DingTalk's patience can be over.
            self.deliver(event).await.inspect_err(|error| {
                tracing::warn!(binding = event.binding, msg_id = event.logged_id(), %error, "not delivered");
            })
        };
        messages.repeats.once(message, delivery).await
    }

    /// Hands an event to the application and does what the answer asks for. The reply, if there is one.
    async fn deliver(self: &Arc<Self>, event: &Event) -> Result<Answer, Undelivered> {
        if self.bindings.get(&event.binding).is_none() {
            return Err(Undelivered::NotSubscribed {
                binding: event.binding.clone(),
                reason:
                    "there is no such binding; bring its component file back, or give the event up with `inbox drop`"
                        .into(),
            });
        }
        let answer = self.hand_over(event).await?;
        let reply = self.follow(event, &answer);
        if event.is_dead_letter() && reply.is_some() {
            let reason = "an answer to a dead letter has no conversation to go to; send it on with \"to\"";
            tracing::error!(binding = event.binding, reason, "wrong answer");
            return Ok(None);
        }
        Ok(reply)
    }

    /// Hands an event to the application; its answer, as it is.
    async fn hand_over(&self, event: &Event) -> Result<Answer, Undelivered> {
        let Some(app) = &self.app else {
            return Err(Undelivered::Unreachable("there is no application; set --app-port or --handler".into()));
        };
        let _leftovers = Leftovers(self, &event.binding);
        // With an inbox, trying again is its business alone.
        let mut course = match &self.inbox {
            None => Some(self.resilience.course(&event.binding, Direction::Inbound)),
            Some(_) => None,
        };
        let mut attempt = 0_u32;
        loop {
            attempt = attempt.saturating_add(1);
            let leave = match course.as_ref().map(Course::begin).transpose() {
                Ok(leave) => leave,
                Err(refused) => return Err(Undelivered::Unreachable(refused.to_string())),
            };
            let begin = |spans: &Spans| spans.begin(said::delivery(&event.binding, app.way(), attempt), &event.trace);
            let span = self.spans.get().map(begin);
            // The application continues what it is handed.
            let handed = span.as_ref().map(|span| event.below(span));
            let event = handed.as_ref().unwrap_or(event);
            let since = Instant::now();
            let answer = match course.as_ref().and_then(Course::timeout) {
                None => app.deliver(event).await,
                Some(limit) => tokio::time::timeout(limit, app.deliver(event)).await.unwrap_or_else(|_| {
                    Err(Undelivered::Unreachable(format!(
                        "no answer within {} ms, the timeout policy",
                        limit.as_millis()
                    )))
                }),
            };
            self.metrics.delivered(&event.binding, since, answer.is_ok());
            if let Some(span) = span {
                span.end(said::delivered(&answer));
            }
            if let Some(leave) = leave {
                leave.end(answer.is_ok());
            }
            let again = |error: &Undelivered, course: &mut Course| {
                let is_for = course.retry().is_some_and(|retry| policy::is_for(retry, error));
                is_for.then(|| course.again()).flatten()
            };
            let pause = match (&answer, &mut course) {
                (Err(error), Some(course)) => again(error, course),
                _ => None,
            };
            let Some(pause) = pause else { return answer };
            tokio::time::sleep(pause).await;
        }
    }
}

/// What the inbox delivers to. Does not keep the bindings: the inbox is part of what holds them.
struct Deliveries(std::sync::Weak<Inner>);

impl Consumer for Deliveries {
    fn consume<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(async move {
            match self.0.upgrade() {
                Some(inner) => inner.deliver(event).await,
                None => Err(Undelivered::Unreachable("the host is stopping".into())),
            }
        })
    }

    fn reply_late<'a>(&'a self, event: &'a Event, reply: Bytes) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Some(inner) = self.0.upgrade() {
                inner.reply_late(event, reply).await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
