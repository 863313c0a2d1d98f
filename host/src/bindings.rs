//! Name → binding: what is loaded, and operations on it in Dapr's order of checks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use dingtalk_api::invoke::{self, Failed};
use dingtalk_api::status::ErrorStatus;
use dingtalk_binding::callback::Key;
use dingtalk_binding::contract;
use dingtalk_binding::endpoint::Scheme;
use dingtalk_binding::error::{self, InvokeCause, Outcome, ReceiveError};
use dingtalk_binding::operation;
use dingtalk_binding::secret::Secret;
use dingtalk_binding::settings::Settings;
use dingtalk_binding::signature;

use tokio::sync::Semaphore;

use crate::app::{Direction, Subscription};
use crate::clock::Arrival;
use crate::egress::{Egress, Policy, Proxies};
use crate::event::{Digest, digest};
use crate::fit;
use crate::gate::lesson::{self, Lesson};
use crate::gate::rate::Rate;
use crate::gate::{self, Gate, Overflow, Pass, Robots, Withheld};
use crate::resources::BindingResource;
use crate::sandbox::{CallError, Callback, Handler, Limit, Reply, Request, Response, Sandbox, Share, Tenant};

/// The bindings that a host serves. They can change while it does: who has one keeps it, so that a call ends on the
/// binding on which it began.
pub struct Bindings {
    sandbox: Sandbox,
    robots: Robots,
    /// Long messages that are being made to fit.
    fitting: Semaphore,
    by_name: RwLock<BTreeMap<String, Arc<Binding>>>,
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

/// Why a binding has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum InvokeFailure {
    /// It was not asked: its robot takes nothing now.
    #[error("dingtalk webhook error: {0}. Nothing was sent")]
    Withheld(Withheld),
    /// It failed.
    #[error(transparent)]
    Call(#[from] CallError<error::InvokeError>),
    /// Of a message in parts, the first ones were posted, and this one was not.
    #[error("{}. This was part {number} of {of}; those before it were posted", of_part(error))]
    Part {
        /// Which one, from 2.
        number: usize,
        /// How many there are.
        of: usize,
        /// What happened to it.
        error: Box<InvokeFailure>,
    },
}

/// What happened to a part, without what would be said of a whole message.
fn of_part(error: &InvokeFailure) -> String {
    error.to_string().replace(". Nothing was sent", "")
}

impl invoke::Failure for InvokeFailure {
    fn posted(&self) -> Outcome {
        match self {
            Self::Withheld(_) => Outcome::NotSent,
            Self::Call(error) => error.posted(),
            // Sent again as a whole, the first parts would arrive twice.
            Self::Part { .. } => Outcome::Unknown,
        }
    }

    fn metadata(&self) -> Vec<(String, String)> {
        match self {
            Self::Withheld(withheld) => {
                let named = [("error", "withheld".into()), ("outcome", self.posted().name().into())];
                named.into_iter().chain(withheld.metadata()).map(|(name, value)| (name.to_owned(), value)).collect()
            }
            Self::Call(error) => error.metadata(),
            Self::Part { number, of, error } => {
                let mut metadata = error.metadata();
                let outcome = metadata.iter_mut().find(|(name, _)| name == "outcome");
                if let Some((_, outcome)) = outcome {
                    self.posted().name().clone_into(outcome);
                }
                metadata
                    .extend([("part", number), ("parts", of)].map(|(name, value)| (name.into(), value.to_string())));
                metadata
            }
        }
    }
}

/// The operation that sends.
pub(crate) const CREATE: &str = "create";

/// Why an operation failed.
pub type InvokeError = invoke::InvokeError<InvokeFailure>;

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
        Self { sandbox, robots: Robots::new(), fitting: Semaphore::new(FITTING), by_name: RwLock::default() }
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
        let subscription = Subscription::new(name.clone(), property("route"), direction);
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
        let gate = gate::Policy {
            rate: Rate::parse(property("rateLimit")).map_err(|reason| format!("property \"rateLimit\" {reason}"))?,
            overflow: Overflow::parse(property("overflow"))
                .map_err(|reason| format!("property \"overflow\" {reason}"))?,
            quota: None,
        };
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
    /// the same data may wait for many.
    pub(crate) async fn create(
        &self,
        name: &str,
        data: &[u8],
        limit: Option<Duration>,
    ) -> Result<Response, InvokeError> {
        let binding = self.with_operation(name, CREATE)?;
        let request = || Request { operation: CREATE.into(), data: data.to_vec(), metadata: Vec::new() };
        let called = if binding.fit == fit::Policy::default() {
            self.post(&binding, request, limit).await
        } else {
            self.send(&binding, request(), limit).await
        };
        called.map_err(|error| Failed::new(error, operation::has_uuid(data, [])).into())
    }

    /// Posts one message, in as many parts as it needs.
    async fn send(
        &self,
        binding: &Binding,
        request: Request,
        limit: Option<Duration>,
    ) -> Result<Response, InvokeFailure> {
        if binding.fit.is_satisfied_by(&request) {
            return self.post(binding, move || request, limit).await;
        }
        let begun = Instant::now();
        let refused = |reason: String| CallError::Binding(InvokeCause::InvalidMessage(reason).into());
        let policy = binding.fit.clone();
        let applied = {
            // Parsing may take as long as many calls, and cannot be broken off.
            let _turn = self.fitting.acquire().await;
            tokio::task::spawn_blocking(move || policy.apply(request)).await
        };
        // The text of a panic could be one of the message.
        let applied = applied.unwrap_or_else(|_| Err("it could not be made to fit".into()));
        let parts = applied.map_err(refused)?;
        let of = parts.len();
        if !binding.gate.holds(of) {
            let reason = format!("it needs {of} messages, more than rateLimit lets through at once; make it shorter");
            return Err(refused(reason).into());
        }
        let rest = || limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        let mut pass = self.enter(binding, of, limit).await?;
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

    /// Posts one message once the robot takes it.
    async fn post(
        &self,
        binding: &Binding,
        request: impl FnOnce() -> Request,
        limit: Option<Duration>,
    ) -> Result<Response, InvokeFailure> {
        let begun = Instant::now();
        let mut pass = self.enter(binding, 1, limit).await?;
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
    ) -> Result<Pass<'a>, InvokeFailure> {
        let wait = limit.map_or(binding.timeout, |limit| binding.timeout.min(limit / 2));
        let messages = u16::try_from(messages).unwrap_or(u16::MAX);
        binding.gate.enter(messages, wait, false).await.map_err(InvokeFailure::Withheld)
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
            CREATE => self.send(binding, request, limit).await,
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
