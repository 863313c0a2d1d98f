//! Name → binding: what is loaded, and operations on it in Dapr's order of checks.

mod failure;
mod keys;
mod prepared;
mod queued;
pub(crate) mod retries;
mod sending;
mod siblings;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use dingtalk_api::invoke::{self, Failed, Failure as _};
use dingtalk_api::status::ErrorStatus;
use dingtalk_binding::callback::Key;
use dingtalk_binding::endpoint::Scheme;
use dingtalk_binding::error::{Outcome, ReceiveError};
use dingtalk_binding::settings::Settings;

use tokio::sync::Semaphore;

use crate::app::{Direction, Subscription};
use crate::clock::Arrival;
use crate::egress::{Egress, Policy, Proxies};
use crate::event::Digest;
use crate::fit;
use crate::gate::quota::Quota;
use crate::gate::rate::Rate;
use crate::gate::{self, Gate, Overflow, Robots};
use crate::queue::Outbox;
use crate::resources::BindingResource;
use crate::sandbox::{CallError, Callback, Handler, Limit, Reply, Request, Response, Sandbox, Share, Tenant};

pub use failure::InvokeFailure;
use keys::Keys;
use prepared::{Prepared, Warning};

/// The bindings that a host serves. They can change while it does: who has one keeps it, so that a call ends on the
/// binding on which it began.
pub struct Bindings {
    sandbox: Sandbox,
    robots: Robots,
    /// Long messages that are being made to fit.
    fitting: Semaphore,
    by_name: RwLock<BTreeSet<ByName>>,
    last_kind: Mutex<Arc<Kind>>,
    /// Where messages wait, if anywhere.
    outbox: OnceLock<Outbox>,
    /// Whether they are posted whatever a file says of an outbox.
    is_direct: bool,
    /// How often a message is tried again where a file does not say.
    retries: u32,
    /// Those that keep one order, where they can have anything to order.
    siblings: siblings::Siblings,
}

/// What bindings have in common.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kind {
    component_type: String,
    version: String,
    operations: Vec<String>,
}

/// One binding, initialised once to prove that it can be.
pub struct Binding {
    name: Arc<str>,
    kind: Arc<Kind>,
    id: Arc<str>,
    subscription: Subscription,
    keys: Keys,
    /// In milliseconds.
    max_skew: u64,
    tenant: Tenant,
    made_of: Box<MadeOf>,
    fit: fit::Policy,
    gate: Gate,
    /// Whether its messages go through the outbox unless a call says otherwise.
    is_queued: bool,
    /// Whether those that wait become one.
    merges: bool,
    /// How often a message that was not taken is tried again in its call.
    retries: u32,
    error_status: Option<ErrorStatus>,
}

/// What tells one binding from another, and what two may have in common.
struct MadeOf {
    /// [`BindingResource::digest`].
    digest: Digest,
    /// What siblings have in common, of one that can queue anything.
    siblings_by: Option<siblings::Key>,
}

/// A binding that is found by its name, which it has itself: there may be ten thousand.
struct ByName(Arc<Binding>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

impl Binding {
    /// The name in the component file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type as the component file spells it.
    pub fn component_type(&self) -> &str {
        &self.kind.component_type
    }

    /// The component version as in the file.
    pub fn version(&self) -> &str {
        &self.kind.version
    }

    /// The property `id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it can do, in its own order.
    pub fn operations(&self) -> &[String] {
        &self.kind.operations
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
        self.tenant.timeout()
    }

    /// The secrets that its callbacks can be signed with, as hashes, the present one first; none if they have a token.
    /// Who can sign for one binding can sign for every other one with the same secret.
    pub fn keys(&self) -> impl Iterator<Item = Digest> + '_ {
        self.keys.ids()
    }

    /// That of [`Binding::keys`] with which a callback is signed that has been verified.
    pub(crate) fn signed_with(&self, timestamp: &str, sign: &[u8]) -> Option<Digest> {
        self.keys.signed_with(timestamp, sign)
    }

    /// For how long a callback can be repeated: from the earliest moment at which its signature is accepted to
    /// the last.
    pub fn repeat_window(&self) -> Duration {
        Duration::from_millis(self.max_skew).saturating_mul(2)
    }

    /// [`BindingResource::digest`] of what it was made of.
    pub(crate) fn digest(&self) -> Digest {
        self.made_of.digest
    }

    /// The form of a failed operation's status, if its file chooses one.
    pub(crate) fn error_status(&self) -> Option<ErrorStatus> {
        self.error_status
    }

    /// What distinguishes it from every other binding of this host.
    pub(crate) fn tenant_id(&self) -> u64 {
        self.tenant.id()
    }

    /// How often a message that was not taken is tried again in its call, unless a policy decides that.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
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
        self.tenant.egress_refused()
    }
}

/// Long messages that are made to fit at once, each on a thread of its own: nothing of the sandbox bounds it.
const FITTING: usize = 2;

/// The operation that sends.
pub(crate) const CREATE: &str = "create";

/// Why an operation failed.
pub type InvokeError = invoke::InvokeError<InvokeFailure>;

/// What became of something that was tried so often.
pub(crate) fn tried(result: Result<Response, InvokeError>, attempts: u32) -> Result<Response, InvokeError> {
    match result {
        result if attempts <= 1 => result,
        Ok(mut response) => {
            response.metadata.push((failure::ATTEMPTS.to_owned(), attempts.to_string()));
            Ok(response)
        }
        Err(InvokeError::Call(failed)) => {
            let tried = |error| InvokeFailure::Tried { attempts, error: Box::new(error) };
            let has_uuid = failed.has_uuid();
            Err(Failed::new(tried(failed.into_error()), has_uuid).into())
        }
        result => result,
    }
}

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
            last_kind: Mutex::default(),
            outbox: OnceLock::new(),
            is_direct: false,
            retries: retries::MOST,
            siblings: siblings::Siblings::default(),
        }
    }

    /// None yet. Behind daprd, whose policies say what is tried again, and which are not seen here: once, unless a file says
    /// more.
    pub fn behind_daprd(sandbox: Sandbox) -> Self {
        Self { retries: 0, ..Self::new(sandbox) }
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
        self.prepare(resource, proxies, policy).await.said()
    }

    /// As [`Bindings::load`], without a word to the log: what is to be said is part of what this returns, so that whoever
    /// initialises many at once can keep to their order.
    pub(crate) async fn prepare(&self, resource: BindingResource, proxies: &Proxies, policy: &Policy) -> Prepared {
        let name = resource.name.clone();
        let (component_type, version) = (resource.component_type.clone(), resource.version.clone());
        let mut warnings = Vec::new();
        let binding = self.try_load(resource, proxies, policy, &mut warnings).await;
        let binding =
            binding.map(Arc::new).map_err(|reason| InitError { name: name.clone(), component_type, version, reason });
        Prepared { name, warnings, binding }
    }

    /// Adds `binding`; the one of the same name that was there.
    pub(crate) fn insert(&self, binding: Arc<Binding>) -> Option<Arc<Binding>> {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let (key, name) = (binding.made_of.siblings_by, Arc::clone(&binding.name));
        let replaced = by_name.replace(ByName(binding)).map(|ByName(replaced)| replaced);
        let before = replaced.as_ref().and_then(|replaced| replaced.made_of.siblings_by);
        self.siblings.change(&name, before, key);
        replaced
    }

    /// Takes the binding called `name` away; whoever is using it goes on.
    pub fn remove(&self, name: &str) -> Option<Arc<Binding>> {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let removed = by_name.take(name).map(|ByName(removed)| removed)?;
        self.siblings.change(&removed.name, removed.made_of.siblings_by, None);
        Some(removed)
    }

    fn by_name(&self) -> RwLockReadGuard<'_, BTreeSet<ByName>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn try_load(
        &self,
        resource: BindingResource,
        proxies: &Proxies,
        policy: &Policy,
        warnings: &mut Vec<Warning>,
    ) -> Result<Binding, String> {
        let digest = resource.digest();
        let BindingResource { name, component_type, version, properties, init_timeout, .. } = resource;
        let name: Arc<str> = name.into();
        let properties: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        // The same rules as inside the component, which checks again: the host needs the origin and the time
        // limit before it may let anything run.
        let settings = Settings::parse(properties.iter().copied()).map_err(|error| error.to_string())?;
        let property = |name: &str| {
            let found = properties.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| *value)
        };
        let direction = property("direction").map_or(Ok(Direction::default()), Direction::parse);
        let direction = direction.map_err(|reason| format!("property \"direction\": {reason}"))?;
        let subscription = Subscription::new(Arc::clone(&name), property("route"), direction)
            .with_dead_letters(property("deadLetterRoute"))
            .map_err(|reason| format!("property \"deadLetterRoute\" {reason}"))?;
        warnings.extend(warn_of_readable_token(&settings));
        let keys = Keys::of(settings.callbacks.key.as_ref());
        if keys.ids().next().is_some() && property("outgoingToken").is_some_and(|token| !token.is_empty()) {
            warnings.push(Warning::UnusedToken);
        }
        if matches!(settings.callbacks.key, Some(Key::Signature { previous: Some(_), .. })) {
            warnings.push(Warning::PreviousSecret);
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
            warnings.push(Warning::UncountedQuota);
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
                let reason = "needs an outbox; start the host with --outbox DIRECTORY or --store URL";
                return Err(format!("property \"{property}\" {reason}"));
            }
        }
        let retries = retries::parse(property("retries")).map_err(|reason| format!("property \"retries\" {reason}"))?;
        let retries = retries.unwrap_or(self.retries);
        let gate = self.robots.gate(&settings.endpoint, gate);
        let can_queue = direction.writes() && self.outbox.get().is_some();
        let siblings_by = can_queue.then(|| siblings::key(&settings));
        let egress = Egress::within(Arc::clone(&name), &settings, proxies, policy)?;
        let tenant = self.sandbox.tenant_of(&properties, egress, settings.timeout);
        let operations = self.initialise(&tenant, init_timeout).await?;
        Ok(Binding {
            id: if settings.id == *name { Arc::clone(&name) } else { settings.id.into() },
            name,
            kind: self.kind(Kind { component_type, version, operations }),
            subscription,
            keys,
            max_skew: settings.callbacks.max_skew,
            tenant,
            made_of: Box::new(MadeOf { digest, siblings_by }),
            fit,
            gate,
            is_queued,
            merges,
            retries,
            error_status,
        })
    }

    /// The same as that of the last binding if it is equal: of ten thousand, all may be of one kind.
    fn kind(&self, kind: Kind) -> Arc<Kind> {
        let mut last = self.last_kind.lock().unwrap_or_else(PoisonError::into_inner);
        if **last != kind {
            *last = Arc::new(kind);
        }
        Arc::clone(&last)
    }

    async fn initialise(&self, tenant: &Tenant, limit: Duration) -> Result<Vec<String>, String> {
        match tokio::time::timeout(limit, self.sandbox.operations(tenant)).await {
            Ok(operations) => operations.map_err(|error| error.to_string()),
            Err(_) => Err(format!("init timed out after {} ms (spec.initTimeout)", limit.as_millis())),
        }
    }

    /// The binding called `name`.
    pub fn get(&self, name: &str) -> Option<Arc<Binding>> {
        self.by_name().get(name).map(|ByName(binding)| Arc::clone(binding))
    }

    /// Performs one operation of the binding called `name`. With a `reader`, "get" hands its message to that.
    pub async fn invoke(
        &self,
        name: &str,
        request: Request,
        reader: Option<Arc<dyn Handler>>,
    ) -> Result<Response, InvokeError> {
        self.invoke_within(name, Arc::new(request), reader, None).await
    }

    /// As [`Bindings::invoke`], within this time should that be shorter than the binding's own.
    pub(crate) async fn invoke_within(
        &self,
        name: &str,
        request: Arc<Request>,
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

    /// The names of these two as far as the host gave them, and empty texts for what somebody else made up.
    pub(crate) fn known<'a>(&self, name: &'a str, operation: &'a str) -> (&'a str, &'a str) {
        match self.get(name) {
            Some(binding) if binding.operations().iter().any(|known| known == operation) => (name, operation),
            Some(_) => (name, ""),
            None => ("", ""),
        }
    }

    fn with_operation(&self, name: &str, operation: &str) -> Result<Arc<Binding>, InvokeError> {
        let binding = self.get(name).filter(|binding| binding.direction().writes());
        invoke::check(name, operation, binding.as_ref().map(|binding| binding.operations()))?;
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
        self.call(&binding, Arc::new(request), None, limit).await
    }

    async fn call(
        &self,
        binding: &Binding,
        request: Arc<Request>,
        reader: Option<Arc<dyn Handler>>,
        limit: Option<Duration>,
    ) -> Result<Response, InvokeError> {
        let has_uuid = invoke::has_uuid(&request);
        let called = match request.operation.as_str() {
            CREATE => self.send(binding, request, limit, false).await,
            _ => {
                let operation = request.operation.clone();
                let request = move || Arc::unwrap_or_clone(request);
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
        self.by_name().iter().map(|ByName(binding)| Arc::clone(binding)).collect()
    }
}

fn warn_of_readable_token(settings: &Settings) -> Option<Warning> {
    let origin = settings.endpoint.origin();
    (origin.scheme() == Scheme::Http && !origin.is_loopback()).then(|| Warning::ReadableToken(origin.clone()))
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;

    /// With the counts of its `Arc`, it takes a block of the allocator, and the next larger one has 64 bytes more.
    #[test]
    fn a_binding_is_no_larger_than_it_was_made() {
        assert!(size_of::<Binding>() + 2 * size_of::<usize>() <= 384, "{}", size_of::<Binding>());
    }
}
