//! Name → binding: what is loaded, and operations on it in Dapr's order of checks.

mod failure;
mod queued;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_api::invoke::{self, Failed, Failure as _};
use dingtalk_api::status::ErrorStatus;
use dingtalk_binding::callback::Key;
use dingtalk_binding::contract;
use dingtalk_binding::endpoint::Scheme;
use dingtalk_binding::error::{InvokeCause, Outcome, ReceiveError};
use dingtalk_binding::operation;
use dingtalk_binding::secret::Secret;
use dingtalk_binding::settings::Settings;
use dingtalk_binding::signature;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::app::{Direction, Subscription};
use crate::clock::Arrival;
use crate::egress::{Egress, Policy, Proxies};
use crate::event::{Digest, Event, digest};
use crate::fit;
use crate::gate::lesson::{self, Lesson};
use crate::gate::quota::Quota;
use crate::gate::rate::Rate;
use crate::gate::{self, Gate, Overflow, Pass, Robots};
use crate::queue::Outbox;
use crate::queue::outbox::{Queued, is_urgent};
use crate::resources::BindingResource;
use crate::sandbox::{CallError, Callback, Handler, Limit, Reply, Request, Response, Sandbox, Share, Tenant};

pub use failure::InvokeFailure;
use queued::{Delivery, Wish};

/// The bindings that a host serves. They can change while it does: who has one keeps it, so that a call ends on the
/// binding on which it began.
pub struct Bindings {
    sandbox: Sandbox,
    robots: Robots,
    /// Long messages that are being made to fit.
    fitting: Semaphore,
    by_name: RwLock<BTreeMap<String, Arc<Binding>>>,
    /// Where messages wait, if anywhere.
    outbox: OnceLock<Outbox>,
    /// Whether they are posted whatever a file says of an outbox.
    is_direct: bool,
}

/// A secret that callbacks can be signed with.
struct CallbackKey {
    id: Digest,
    secret: Secret,
}

impl CallbackKey {
    fn new(secret: &Secret) -> Self {
        Self { id: digest(secret.expose().as_bytes()), secret: secret.clone() }
    }
}

/// One binding, initialised once to prove that it can be.
pub struct Binding {
    name: String,
    component_type: String,
    version: String,
    id: String,
    subscription: Subscription,
    timeout: Duration,
    keys: Vec<CallbackKey>,
    max_skew: Duration,
    operations: Vec<String>,
    tenant: Tenant,
    egress: Egress,
    fit: fit::Policy,
    gate: Gate,
    /// Whether its messages go through the outbox unless a call says otherwise.
    is_queued: bool,
    /// Whether those that wait become one.
    merges: bool,
    error_status: Option<ErrorStatus>,
}

impl Binding {
    /// The name in the component file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type as the component file spells it.
    pub fn component_type(&self) -> &str {
        &self.component_type
    }

    /// The component version as in the file.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The property `id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it can do, in its own order.
    pub fn operations(&self) -> &[String] {
        &self.operations
    }

    /// Which sides the component file gives it.
    pub fn direction(&self) -> Direction {
        self.subscription.direction
    }

    /// What the application is asked about it.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// The time limit of one call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The secrets that its callbacks can be signed with, as hashes, the present one first; none if they have a token.
    /// Who can sign for one binding can sign for every other one with the same secret.
    pub fn keys(&self) -> impl Iterator<Item = Digest> + '_ {
        self.keys.iter().map(|key| key.id)
    }

    /// That of [`Binding::keys`] with which a callback is signed that has been verified.
    pub(crate) fn signed_with(&self, timestamp: &str, sign: &[u8]) -> Option<Digest> {
        let is_by = |key: &&CallbackKey| signature::verify(key.secret.expose(), timestamp, sign);
        match &*self.keys {
            [] => None,
            [only] => Some(only.id),
            [present, ..] => Some(self.keys.iter().find(is_by).unwrap_or(present).id),
        }
    }

    /// For how long a callback can be repeated: from the earliest moment at which its signature is accepted to
    /// the last.
    pub fn repeat_window(&self) -> Duration {
        self.max_skew.saturating_mul(2)
    }

    /// The form of a failed operation's status, if its file chooses one.
    pub(crate) fn error_status(&self) -> Option<ErrorStatus> {
        self.error_status
    }

    /// What distinguishes it from every other binding of this host.
    pub(crate) fn tenant_id(&self) -> u64 {
        self.tenant.id()
    }

    /// Its turns at the processor, for what runs on its behalf outside of the sandbox.
    pub(crate) fn share(&self) -> &Share {
        self.tenant.share()
    }

    /// How many of its calls each limit of the sandbox has stopped.
    pub fn stopped(&self) -> [(Limit, u64); 6] {
        self.tenant.stopped()
    }

    /// How many requests to destinations other than its own the sandbox has refused.
    pub fn egress_refused(&self) -> u64 {
        self.egress.refused()
    }
}

/// Long messages that are made to fit at once, each on a thread of its own: nothing of the sandbox bounds it.
const FITTING: usize = 2;

/// Bytes of a message that is made into what is stored where its call runs: 50 µs. Longer ones have a thread.
const SHAPED_AT_ONCE: usize = 16 << 10;

/// The operation that sends.
pub(crate) const CREATE: &str = "create";

/// Why an operation failed.
pub type InvokeError = invoke::InvokeError<InvokeFailure>;

/// `error` of a message that may have been posted under a `msgUuid` that was made here, and that its caller must know to send it
/// again.
pub(crate) fn with_made_uuid(error: InvokeError, uuid: Option<String>) -> InvokeError {
    match (error, uuid) {
        (InvokeError::Call(failed), Some(uuid)) if failed.error().posted() == Outcome::Unknown => {
            let made = |error| InvokeFailure::Made { uuid, error: Box::new(error) };
            Failed::new(made(failed.into_error()), true).into()
        }
        (error, _) => error,
    }
}

/// A binding that could not be initialised.
#[derive(Debug, thiserror::Error)]
#[error("[INIT_COMPONENT_FAILURE]: initialization error occurred for {name} ({component_type}/{version}): {reason}")]
pub struct InitError {
    name: String,
    component_type: String,
    version: String,
    reason: String,
}

impl InitError {
    /// Why, without what the log of daprd puts before it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Bindings {
    /// None yet.
    pub fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            robots: Robots::new(),
            fitting: Semaphore::new(FITTING),
            by_name: RwLock::default(),
            outbox: OnceLock::new(),
            is_direct: false,
        }
    }

    /// None yet. Without an outbox, and with component files that are written for one: what they say of it has no effect.
    pub fn without_outbox(sandbox: Sandbox) -> Self {
        Self { is_direct: true, ..Self::new(sandbox) }
    }

    /// Initialises a binding, which may then connect to what `policy` allows, and adds it, in place of the one of the
    /// same name if there is one. That one stays if the new one fails.
    pub async fn add(
        &self,
        resource: BindingResource,
        proxies: &Proxies,
        policy: &Policy,
    ) -> Result<Arc<Binding>, InitError> {
        let binding = self.load(resource, proxies, policy).await?;
        self.insert(Arc::clone(&binding));
        Ok(binding)
    }

    /// Initialises a binding without adding it.
    pub(crate) async fn load(
        &self,
        resource: BindingResource,
        proxies: &Proxies,
        policy: &Policy,
    ) -> Result<Arc<Binding>, InitError> {
        let name = resource.name.clone();
        let (component_type, version) = (resource.component_type.clone(), resource.version.clone());
        let binding = self.try_load(resource, proxies, policy).await;
        binding.map(Arc::new).map_err(|reason| InitError { name, component_type, version, reason })
    }

    /// Adds `binding`; the one of the same name that was there.
    pub(crate) fn insert(&self, binding: Arc<Binding>) -> Option<Arc<Binding>> {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        by_name.insert(binding.name.clone(), binding)
    }

    /// Takes the binding called `name` away; whoever is using it goes on.
    pub fn remove(&self, name: &str) -> Option<Arc<Binding>> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    fn by_name(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Binding>>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn try_load(&self, resource: BindingResource, proxies: &Proxies, policy: &Policy) -> Result<Binding, String> {
        let BindingResource { name, component_type, version, properties, init_timeout, .. } = resource;
        let properties: Vec<(String, String)> =
            properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
        // The same rules as inside the component, which checks again: the host needs the origin and the time
        // limit before it may let anything run.
        let settings = Settings::parse(contract::pairs(&properties)).map_err(|error| error.to_string())?;
        let property = |name: &str| {
            let found = properties.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        let direction = property("direction").map_or(Ok(Direction::default()), Direction::parse);
        let direction = direction.map_err(|reason| format!("property \"direction\": {reason}"))?;
        let subscription = Subscription::new(name.clone(), property("route"), direction)
            .with_dead_letters(property("deadLetterRoute"))
            .map_err(|reason| format!("property \"deadLetterRoute\" {reason}"))?;
        warn_of_readable_token(&name, &settings);
        let mut keys = match &settings.callbacks.key {
            Some(Key::Signature { secret, previous }) => {
                [Some(secret), previous.as_ref()].into_iter().flatten().map(CallbackKey::new).collect()
            }
            Some(Key::Token(_)) | None => Vec::new(),
        };
        // Two that are one verify the same.
        keys.dedup_by_key(|key| key.id);
        if !keys.is_empty() && property("outgoingToken").is_some_and(|token| !token.is_empty()) {
            tracing::warn!(
                binding = name,
                "outgoingToken is not used: callbacks must be signed, because there is a secret or appSecret; for a robot that \
                 sends its token, write a component of its own with direction: input"
            );
        }
        if matches!(settings.callbacks.key, Some(Key::Signature { previous: Some(_), .. })) {
            tracing::warn!(
                binding = name,
                "callbacks signed with previousAppSecret are taken: remove it when callbackMaxSkew is over since DingTalk \
                 signs with the new secret"
            );
        }
        let error_status = property("errorStatus").filter(|text| !text.is_empty()).map(ErrorStatus::parse).transpose();
        let error_status = error_status.map_err(|reason| format!("property \"errorStatus\" {reason}"))?;
        let fit = fit::Policy::parse(property("tooLong"), property("keywords"))?;
        let mut gate = gate::Policy {
            rate: Rate::parse(property("rateLimit")).map_err(|reason| format!("property \"rateLimit\" {reason}"))?,
            overflow: Overflow::parse(property("overflow"))
                .map_err(|reason| format!("property \"overflow\" {reason}"))?,
            quota: Quota::parse(property("quota"), property("quotaReserve"), property("quotaName"), || {
                // Half of it: two robots that share a count would be a wonder.
                let half = gate::key(&settings.endpoint).first_chunk().map_or(0, |half| u128::from_be_bytes(*half));
                format!("robot {half:032x}")
            })?
            .map(Arc::new),
        };
        if self.is_direct && gate.overflow == Overflow::Queue {
            gate.overflow = Overflow::Wait;
        }
        if self.is_direct && gate.quota.take().is_some() {
            tracing::warn!(
                binding = name,
                "without an outbox, what is posted does not count towards the property quota"
            );
        }
        let is_queued = gate.overflow == Overflow::Queue;
        let merges = match property("merge").map(str::trim).unwrap_or_default() {
            "" | "false" => false,
            "true" => !self.is_direct,
            _ => return Err("property \"merge\" is neither \"true\" nor \"false\"".into()),
        };
        let tells = subscription.takes_dead_letters() && !self.is_direct;
        let needs =
            [(is_queued, "overflow"), (merges, "merge"), (gate.quota.is_some(), "quota"), (tells, "deadLetterRoute")];
        for (needs, property) in needs {
            if needs && self.outbox.get().is_none() {
                let reason = "needs an outbox; start the host with --outbox DIRECTORY";
                return Err(format!("property \"{property}\" {reason}"));
            }
        }
        let gate = self.robots.gate(&settings.endpoint, gate);
        let egress = Egress::within(&name, &settings, proxies, policy)?;
        let tenant = self.sandbox.tenant(properties, egress.clone(), settings.timeout);
        let operations = self.initialise(&tenant, init_timeout).await?;
        Ok(Binding {
            name,
            component_type,
            version,
            id: settings.id,
            subscription,
            timeout: settings.timeout,
            keys,
            max_skew: Duration::from_millis(settings.callbacks.max_skew),
            operations,
            tenant,
            egress,
            fit,
            gate,
            is_queued,
            merges,
            error_status,
        })
    }

    async fn initialise(&self, tenant: &Tenant, limit: Duration) -> Result<Vec<String>, String> {
        match tokio::time::timeout(limit, self.sandbox.operations(tenant)).await {
            Ok(operations) => operations.map_err(|error| error.to_string()),
            Err(_) => Err(format!("init timed out after {} ms (spec.initTimeout)", limit.as_millis())),
        }
    }

    /// The binding called `name`.
    pub fn get(&self, name: &str) -> Option<Arc<Binding>> {
        self.by_name().get(name).cloned()
    }

    /// Performs one operation of the binding called `name`. With a `reader`, "get" hands its message to that.
    pub async fn invoke(
        &self,
        name: &str,
        request: Request,
        reader: Option<Arc<dyn Handler>>,
    ) -> Result<Response, InvokeError> {
        self.invoke_within(name, request, reader, None).await
    }

    /// As [`Bindings::invoke`], within this time should that be shorter than the binding's own.
    pub(crate) async fn invoke_within(
        &self,
        name: &str,
        request: Request,
        reader: Option<Arc<dyn Handler>>,
        limit: Option<Duration>,
    ) -> Result<Response, InvokeError> {
        let binding = self.with_operation(name, &request.operation)?;
        self.call(&binding, request, reader, limit).await
    }

    /// Whether there is such a binding with such an operation.
    pub(crate) fn check(&self, name: &str, operation: &str) -> Result<(), InvokeError> {
        self.with_operation(name, operation).map(drop)
    }

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
            self.send(&binding, request(), limit, is_last).await
        };
        called.map_err(|error| Failed::new(error, has_uuid).into())
    }

    /// Posts one message, in as many parts as it needs, or has it wait until it can be.
    async fn send(
        &self,
        binding: &Binding,
        request: Request,
        limit: Option<Duration>,
        is_last: bool,
    ) -> Result<Response, InvokeFailure> {
        let wish = Wish::parse(contract::pairs(&request.metadata)).map_err(invalid)?;
        if wish.delivery.map_or(binding.is_queued, |delivery| delivery == Delivery::Queued) {
            return self.enqueue(binding, request, wish, is_last).await;
        }
        let is_urgent = wish.is_urgent();
        if binding.fit.is_satisfied_by(&request) {
            return self.post(binding, move || request, limit, is_urgent).await;
        }
        let begun = Instant::now();
        let parts = self.parts(binding, request).await?;
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
                false => "metadata delivery: queued needs an outbox; start the host with --outbox DIRECTORY",
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

    /// Above how many messages that wait for this binding they become one, if they do: more than go out in a minute.
    pub(crate) fn unites_above(&self, name: &str) -> Option<usize> {
        self.get(name).filter(|binding| binding.merges).and_then(|binding| binding.gate.a_minute())
    }

    /// One message that says what the first of these say, with a `msgUuid` of its own, and how many.
    pub(crate) async fn unite(&self, name: &str, bodies: Vec<Bytes>) -> Option<(Bytes, usize)> {
        let policy = self.get(name)?.fit.clone();
        let work = move || {
            let merged = policy.merge(&bodies).map(|merged| queued::united(merged, Uuid::new_v4().to_string()));
            merged.transpose()
        };
        self.fit(work).await.ok().flatten()
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
        let wait = limit.map_or(binding.timeout, |limit| binding.timeout.min(limit / 2));
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
        let called = self.sandbox.invoke_with(&binding.tenant, CREATE, request, None, limit).await;
        pass.end(&match &called {
            Ok(_) => Lesson::Counted,
            Err(CallError::Binding(error)) => lesson::of(error),
            Err(CallError::Stopped { outcome: Outcome::Unknown, .. }) => Lesson::Unknown,
            Err(_) => Lesson::Unsent,
        });
        Ok(called?)
    }

    /// The names of these two as far as the host gave them, and empty texts for what somebody else made up.
    pub(crate) fn known<'a>(&self, name: &'a str, operation: &'a str) -> (&'a str, &'a str) {
        match self.get(name) {
            Some(binding) if binding.operations.iter().any(|known| known == operation) => (name, operation),
            Some(_) => (name, ""),
            None => ("", ""),
        }
    }

    fn with_operation(&self, name: &str, operation: &str) -> Result<Arc<Binding>, InvokeError> {
        let binding = self.get(name).filter(|binding| binding.direction().writes());
        invoke::check(name, operation, binding.as_ref().map(|binding| binding.operations.as_slice()))?;
        binding.ok_or_else(|| InvokeError::NotFound(name.to_owned()))
    }

    /// Performs one operation for the host itself, whichever sides the binding has.
    pub(crate) async fn perform(
        &self,
        name: &str,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<Response, InvokeError> {
        let binding = self.get(name).ok_or_else(|| InvokeError::NotFound(name.to_owned()))?;
        self.call(&binding, request, None, limit).await
    }

    async fn call(
        &self,
        binding: &Binding,
        request: Request,
        reader: Option<Arc<dyn Handler>>,
        limit: Option<Duration>,
    ) -> Result<Response, InvokeError> {
        let has_uuid = invoke::has_uuid(&request);
        let called = match request.operation.as_str() {
            CREATE => self.send(binding, request, limit, false).await,
            _ => {
                let operation = request.operation.clone();
                let request = move || request;
                let called = self.sandbox.invoke_with(&binding.tenant, &operation, request, reader, limit).await;
                called.map_err(InvokeFailure::from)
            }
        };
        called.map_err(|error| Failed::new(error, has_uuid).into())
    }

    /// For a callback that arrives now.
    pub fn arrival(&self) -> Arrival {
        self.sandbox.arrival()
    }

    /// Has `binding` verify one callback and hand its message to `reader`.
    pub async fn receive(
        &self,
        binding: &Binding,
        callback: Callback,
        reader: Option<Arc<dyn Handler>>,
        limit: Duration,
    ) -> Result<Reply, CallError<ReceiveError>> {
        self.sandbox.receive(&binding.tenant, callback, reader, limit).await
    }

    /// How many calls run and wait now, by kind and state.
    pub(crate) fn calls(&self) -> Vec<(&'static str, &'static str, usize)> {
        let mut calls = self.sandbox.calls();
        calls.push(("operation", "rate-limited", self.robots.waiting()));
        calls
    }

    /// The turns of what belongs to no binding.
    pub(crate) fn share(&self) -> Share {
        self.sandbox.share()
    }

    /// All there are now, by name.
    pub fn all(&self) -> Vec<Arc<Binding>> {
        self.by_name().values().cloned().collect()
    }
}

/// A message that its caller has to change.
fn invalid(reason: impl Into<String>) -> InvokeFailure {
    CallError::Binding(InvokeCause::InvalidMessage(reason.into()).into()).into()
}

fn warn_of_readable_token(name: &str, settings: &Settings) {
    let origin = settings.endpoint.origin();
    if origin.scheme() == Scheme::Http && !origin.is_loopback() {
        tracing::warn!(
            binding = name,
            destination = %origin,
            "the url is plain http: the access token and every message travel readable; use https"
        );
    }
}
