//! What becomes of a message that a binding has received: one delivery for its copies, through the inbox if there
//! is one, to the application, and back with a reply.
//!
//! A callback is acknowledged once the application has answered, or once the inbox has the message on disk. An
//! application that takes longer than DingTalk waits is not given up: without an inbox DingTalk is told to send
//! again, and that copy finds the delivery running or done; with one, the reply goes to the message's session
//! when it comes.

mod answer;
mod ids;
mod memory;
mod outbound;
mod policy;
mod reach;
mod repeats;
mod signatures;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_api::invoke;
use dingtalk_api::trace::TRACE;
use dingtalk_binding::error::{HandlerError, ReceiveError};
use dingtalk_binding::operation;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::bindings::{Binding, Bindings, CREATE, InitError, InvokeError};
use crate::egress::{Policy, Proxies};
use crate::event::{Answer, Application, BoxFuture, Digest, Event, Undelivered};
use crate::inbox::{Consumer, Counts, Inbox, InboxError};
use crate::metrics::{InboxState, Metrics, State};
use crate::quiet::Quiet;
use crate::resiliency::{Course, Direction, Resilience, Resiliency};
use crate::resources::BindingResource;
use crate::sandbox::{CallError, Callback, Handler, Reply, Request, Response, Rule, Slots};
use crate::spans::{Spans, said};
use answer::{Concurrency, Forward, Wish};
use memory::{Memories, Messages};
use outbound::Outbound;

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

/// Bytes of the answers of one binding that calls are sending at once; the others wait, without a copy. A call holds
/// its data several times: without a limit, two bindings whose answers of 700 KB went to 16 robots that hung took
/// 316 MiB. 200 times what DingTalk takes as one message.
const SENDING: usize = 4 << 20;

/// The operation that answers in a conversation.
const REPLY: &str = "reply";

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
        let forwards = Slots::new(FORWARDS);
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
            calls: bindings.calls(),
            spans: spans.get().map(Spans::counts),
            inbox: match inbox {
                // What cannot be read is left out; the inbox itself says why.
                Some(inbox) => match (inbox.counts().await, inbox.oldest_ms().await) {
                    (Ok(Counts { pending, dead }), Ok(oldest_ms)) => Some(InboxState { pending, dead, oldest_ms }),
                    _ => None,
                },
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
    pub async fn inbox_counts(&self) -> Option<Result<Counts, InboxError>> {
        match &self.0.inbox {
            Some(inbox) => Some(inbox.counts().await),
            None => None,
        }
    }

    /// Performs one operation; "get" reaches the application.
    pub async fn invoke(&self, name: &str, request: Request) -> Result<Response, InvokeError> {
        let operation = request.operation.clone();
        let is_get = operation == "get";
        let reader = is_get.then(|| self.reader(name, Vec::new(), Way::Direct)).flatten();
        // Each attempt is a span of its own, below the caller's.
        let is_trace = |(name, _): &&(String, String)| TRACE.contains(&name.as_str());
        let trace = self.0.spans.get().map(|_| request.metadata.iter().filter(is_trace).cloned().collect());
        let trace: Vec<_> = trace.unwrap_or_default();
        let has_uuid = invoke::has_uuid(&request);
        let outbound = Outbound {
            binding: name,
            operation: &operation,
            has_uuid,
            is_late: false,
            is_awaited: false,
            trace: &trace,
        };
        let bindings = &self.0.bindings;
        self.0
            .send(outbound, request, |request, limit| bindings.invoke_within(name, request, reader.clone(), limit))
            .await
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
        if let Some(inbox) = &self.0.inbox {
            inbox.stop().await;
        }
        self.0.tasks.close();
        let _ = tokio::time::timeout(LINGER, self.0.tasks.wait()).await;
    }

    fn reader(&self, name: &str, trace: Vec<(String, String)>, way: Way) -> Option<Arc<dyn Handler>> {
        let binding = self.0.bindings.get(name).filter(|binding| self.reads(binding))?;
        let timeout = binding.timeout();
        Some(Arc::new(Reader { inner: Arc::clone(&self.0), binding: name.to_owned(), timeout, trace, way }))
    }
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

/// How an event came.
enum Way {
    /// With "get": its caller waits for the application's own answer.
    Direct,
    /// From DingTalk.
    Callback {
        signed: Signed,
        /// DingTalk waits until then.
        deadline: Instant,
    },
}

/// What a callback was verified with.
struct Signed {
    /// As it was then: another one may have its name by now, with another secret.
    binding: Arc<Binding>,
    arrived: Instant,
    /// The header, which the signature belongs to.
    timestamp: String,
    /// The header.
    sign: Vec<u8>,
}

/// The consumer of one call.
struct Reader {
    inner: Arc<Inner>,
    binding: String,
    /// The binding's own time limit.
    timeout: Duration,
    trace: Vec<(String, String)>,
    way: Way,
}

impl Handler for Reader {
    fn handle(
        &self,
        data: Vec<u8>,
        metadata: Vec<(String, String)>,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        // The caller of "get" may have a trace, which the API has put into the metadata as Dapr does.
        let is_trace = |(name, _): &(String, String)| TRACE.contains(&name.as_str());
        let (own, metadata) = metadata.into_iter().partition(is_trace);
        let trace = if matches!(self.way, Way::Direct) { own } else { self.trace.clone() };
        let mut event = Event { binding: self.binding.clone(), data: data.into(), metadata, trace };
        Box::pin(async move {
            let answer = match &self.way {
                Way::Direct => self.direct(&event).await?,
                Way::Callback { signed, deadline } => {
                    event.keep_usable_id();
                    let message = self.inner.recognise(&event, signed)?;
                    match &self.inner.inbox {
                        Some(inbox) => self.through(inbox, event, message, *deadline).await?,
                        None => self.at_once(event, message, *deadline).await?,
                    }
                }
            };
            Ok(answer.map(Vec::from))
        })
    }
}

impl Reader {
    /// The application's answer, as it is.
    async fn direct(&self, event: &Event) -> Result<Answer, HandlerError> {
        if self.inner.app.is_none() {
            return Err(HandlerError::NotReading);
        }
        match tokio::time::timeout(self.timeout, self.inner.hand_over(event)).await {
            Ok(answer) => {
                let answer = answer.map_err(|error| failure(&error))?;
                // A reply has nowhere to go but to the caller.
                if let Ok(Wish::Forward(forward)) = answer::read(&answer) {
                    self.inner.forward(event, forward);
                }
                Ok(answer)
            }
            Err(_) => Err(too_slow("the application has not answered", self.timeout)),
        }
    }

    /// Delivers now. The delivery goes on when DingTalk's time is up, for the copy that DingTalk sends then.
    async fn at_once(&self, event: Event, message: Digest, deadline: Instant) -> Result<Answer, HandlerError> {
        let inner = Arc::clone(&self.inner);
        let delivery = self.inner.tasks.spawn(async move { inner.deliver_once(&event, message).await });
        match tokio::time::timeout_at(deadline.into(), delivery).await {
            Ok(Ok(reply)) => reply.map_err(|error| failure(&error)),
            Ok(Err(_)) => Err(HandlerError::Failed("the delivery broke off".into())),
            Err(_) => Err(too_slow("the application has not answered", self.inner.callback_timeout)),
        }
    }

    /// Stores, then waits for the delivery as long as DingTalk waits.
    async fn through(
        &self,
        inbox: &Inbox,
        event: Event,
        message: Digest,
        deadline: Instant,
    ) -> Result<Answer, HandlerError> {
        let has_id = event.metadata("msgId").is_some();
        let stored = async {
            match tokio::time::timeout_at(deadline.into(), inbox.accept(event)).await {
                Ok(Ok(accepted)) => Ok(accepted.reply(deadline).await),
                // The inbox remembers what this process has forgotten, or an earlier one knew.
                Ok(Err(error @ InboxError::OtherBody { .. })) => {
                    if let Some(more) = self.inner.quiet.count(&format!("refused {}", self.binding)) {
                        tracing::warn!(binding = self.binding, %error, more, "a message was refused");
                    }
                    Err(HandlerError::Reused)
                }
                Ok(Err(error)) => {
                    if let Some(more) = self.inner.quiet.count(&format!("untaken {}", self.binding)) {
                        tracing::error!(binding = self.binding, %error, more, "a message was not taken");
                    }
                    Err(HandlerError::Failed(error.to_string()))
                }
                Err(_) => Err(too_slow("the inbox has not stored it", self.inner.callback_timeout)),
            }
        };
        match self.inner.messages(&self.binding) {
            // The inbox knows copies by their identifier alone.
            Some(messages) if !has_id => messages.repeats.once(message, stored).await,
            _ => stored.await,
        }
    }
}

fn failure(error: &Undelivered) -> HandlerError {
    match error {
        Undelivered::NotSubscribed { .. } => HandlerError::NotReading,
        Undelivered::Reused => HandlerError::Reused,
        _ => HandlerError::Failed(error.to_string()),
    }
}

fn too_slow(what: &str, limit: Duration) -> HandlerError {
    HandlerError::Failed(format!("{what} within {} ms", limit.as_millis()))
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
        Ok(self.follow(event, &answer))
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

    /// Does what an answer asks for, in the background; the reply, if that is what it is.
    fn follow(self: &Arc<Self>, event: &Event, answer: &Answer) -> Answer {
        match answer::read(answer) {
            Ok(Wish::Nothing) => None,
            Ok(Wish::Reply(reply)) => Some(reply),
            Ok(Wish::Forward(forward)) => {
                self.forward(event, forward);
                None
            }
            Err(reason) => {
                tracing::error!(binding = event.binding, msg_id = event.logged_id(), reason, "wrong answer");
                None
            }
        }
    }

    /// Sends data on in the background. Answers whose data waits are bounded: a robot that hangs keeps each of them
    /// for as long as a call may take.
    fn forward(self: &Arc<Self>, event: &Event, forward: Forward) {
        let from = event.binding.as_str();
        let owner = self.bindings.get(from).map_or(u64::MAX, |binding| binding.tenant_id());
        let slot = match self.forwards.try_take(owner) {
            Ok(slot) => slot,
            Err(_) => {
                tracing::error!(binding = from, "an answer was not sent on: too many are being sent");
                return;
            }
        };
        let Forward { to, data, concurrency } = forward;
        let data: Bytes = data.map_or_else(|| "null".into(), |data| String::from(Box::<str>::from(data)).into());
        let (inner, from) = (Arc::clone(self), from.to_owned());
        let trace: Trace = if self.spans.get().is_some() { event.trace.clone().into() } else { Arc::default() };
        self.tasks.spawn(async move {
            let _slot = slot;
            match concurrency {
                Concurrency::Sequential => {
                    for name in to {
                        // As Dapr does: what comes after may depend on it.
                        if !inner.send_on(&from, &name, &data, &trace).await {
                            break;
                        }
                    }
                }
                Concurrency::Parallel => {
                    let mut sending = JoinSet::new();
                    for name in to {
                        let (inner, from, data) = (Arc::clone(&inner), from.clone(), data.clone());
                        let trace = Arc::clone(&trace);
                        sending.spawn(async move { inner.send_on(&from, &name, &data, &trace).await });
                    }
                    sending.join_all().await;
                }
            }
        });
    }

    async fn send_on(&self, from: &str, to: &str, data: &Bytes, trace: &[(String, String)]) -> bool {
        let messages = &self.messages(from);
        let bytes = u32::try_from(data.len().min(SENDING)).unwrap_or(u32::MAX);
        let has_uuid = operation::has_uuid(data, []);
        let outbound = Outbound { binding: to, operation: CREATE, has_uuid, is_late: false, is_awaited: true, trace };
        let attempt = |(), limit| async move {
            // Not kept while a policy pauses.
            let _share = match messages {
                Some(messages) => messages.sending.acquire_many(bytes).await.ok(),
                None => None,
            };
            self.bindings.create(to, data, limit).await
        };
        let sent = self.send(outbound, (), attempt).await;
        if let Err(error) = &sent {
            tracing::error!(binding = from, to, %error, "an answer was not sent on");
        }
        sent.is_ok()
    }

    /// Posts a reply to the session of its message: the callback has been answered without it.
    async fn reply_late(&self, event: &Event, reply: Bytes) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Session {
            session_webhook: String,
            session_webhook_expired_time: Option<Box<RawValue>>,
        }
        let failed = |reason: &str| {
            tracing::error!(binding = event.binding, msg_id = event.logged_id(), reason, "a late reply was not posted");
        };
        let Ok(session) = serde_json::from_slice::<Session>(&event.data) else {
            return failed("the message names no sessionWebhook");
        };
        let mut metadata = vec![("sessionWebhook".to_owned(), session.session_webhook)];
        if let Some(expires) = session.session_webhook_expired_time {
            metadata.push(("sessionWebhookExpiredTime".into(), expires.get().trim_matches('"').to_owned()));
        }
        let request = Request { operation: REPLY.into(), data: reply.into(), metadata };
        let outbound = Outbound {
            binding: &event.binding,
            operation: REPLY,
            has_uuid: invoke::has_uuid(&request),
            is_late: true,
            is_awaited: true,
            trace: &event.trace,
        };
        let sent = self.send(outbound, request, |request, limit| self.bindings.perform(&event.binding, request, limit));
        match sent.await {
            Ok(_) => tracing::debug!(binding = event.binding, "a late reply was posted"),
            Err(error) => failed(&error.to_string()),
        }
    }
}

/// Shared by all whom an answer is sent on to.
type Trace = Arc<[(String, String)]>;

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
