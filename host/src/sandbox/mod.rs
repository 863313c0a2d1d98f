//! One call, one sandbox: an instance of the component for this call, with limits on everything it can use.
//!
//! What every call shares (compiled code, linker, memory pool) is made once. What one call touches (its
//! store, memory, tables, handles) exists only for that call, or is put back behind it for the next one of its tenant
//! (`rewound`), so that nothing of one message or tenant can be found by the next, and a trap, a loop or a leak ends one
//! call and nothing else.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dingtalk_binding::error::{HandlerError, InvokeError, PropertyError, ReceiveError};
use wasmtime::Store;

use crate::clock::{Arrival, Clock};
use crate::egress::{Egress, Exit, Reach};
use crate::event::BoxFuture;
use crate::quiet::Quiet;

mod admission;
mod contract;
mod engine;
mod exports;
mod failure;
mod fair;
#[cfg(test)]
mod fuel;
mod http;
mod properties;
mod rewound;
mod slots;
mod state;
mod stops;
mod turns;
pub use admission::Overload;
pub(crate) use admission::Rule;
use contract::wit;
pub use contract::{Callback, Reply, Request, Response};
#[doc(hidden)]
pub use engine::config;
pub(crate) use engine::keep_compiled;
use engine::{compile, link};
use exports::{Binding, BindingPre};
pub use failure::{CallError, PrepareError};
use failure::{explain, known};
pub(crate) use fair::{Executor, Processor, Share};
use http::Aside;
use properties::Properties;
pub use rewound::Instances;
use rewound::{Rewinder, Shelf};
pub(crate) use slots::Slots;
use state::State;
#[doc(hidden)]
pub use state::WasiHttp;
pub use stops::Limit;
use stops::Stops;

/// What one call may use, and how many calls may run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Operations that run at once, and as many callbacks: when DingTalk is slow, receiving goes on. Each has a slot
    /// in the memory pool, which costs address space, and start-up time: reserving 1,000 took 3 ms more than
    /// reserving 128.
    pub instances: u32,
    /// Of them, those of one binding; fewer while other bindings need them.
    pub instances_per_binding: usize,
    /// Linear memory of one call; see [`Limits::for_messages_of`].
    pub memory: usize,
    /// Instructions of one call; see [`Limits::for_messages_of`]. A usual message takes 85,000 (see `fuel`). A
    /// long text takes 13 a byte, short members and items up to 500.
    pub fuel: u64,
    /// Bytes that the component may hand to the host in one function call. It writes a message in pieces of
    /// 1 MiB.
    pub hostcall_bytes: usize,
    /// Handles to host resources that one call may hold. The component holds a dozen.
    pub handles: usize,
    /// How long a call waits for a slot. Shorter than a call may take: who waited for long must still have the
    /// whole time for sending, or it would be cut off with an unknown outcome.
    pub queue: Duration,
    /// Added to a binding's own `timeout`, after which the host ends the call: the component should have
    /// ended it itself.
    pub grace: Duration,
    /// Whether instances are used again.
    pub lifetime: Instances,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instances: 256,
            instances_per_binding: 64,
            memory: 32 << 20,
            fuel: 2_000_000_000,
            hostcall_bytes: 2 << 20,
            handles: 64,
            queue: Duration::from_secs(5),
            grace: Duration::from_secs(5),
            lifetime: Instances::default(),
        }
    }
}

impl Limits {
    /// The default limits, with the memory that messages of up to `size` bytes need (a message is held some
    /// six times on its way: as received, as text, as body, and growing buffers of those), and twice the
    /// instructions that the worst of them takes.
    pub fn for_messages_of(size: usize) -> Self {
        let default = Self::default();
        let fuel = u64::try_from(size).unwrap_or(u64::MAX).saturating_mul(1_000);
        Self { memory: default.memory.max(size.saturating_mul(8)), fuel: default.fuel.max(fuel), ..default }
    }
}

/// How often a long computation lets other calls run: about every 0.2 ms, which is what a call of another tenant
/// takes that is alone.
pub(crate) const FUEL_YIELD: u64 = 500_000;

/// The compiled component, ready to be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    binding: BindingPre,
    /// Where instances are used again.
    rewinder: Option<Arc<Rewinder>>,
    limits: Arc<Limits>,
    clock: Clock,
    operations: Slots,
    callbacks: Slots,
    processor: Processor,
    #[cfg(test)]
    stand_in: Option<Arc<dyn StandIn>>,
}

/// Does what an instance does, in the thread and the time of a test.
#[cfg(test)]
pub(crate) trait StandIn: Send + Sync {
    /// Performs an operation of a component with these properties.
    fn invoke<'a>(
        &'a self,
        properties: &'a [(String, String)],
        request: Request,
    ) -> BoxFuture<'a, Result<Response, CallError<InvokeError>>>;
}

/// Whoever consumes what a binding receives: the other end of the contract's import `handler`.
pub trait Handler: Send + Sync {
    /// Takes one message and answers it, see wit/handler.wit.
    fn handle(
        &self,
        data: Vec<u8>,
        metadata: Vec<(String, String)>,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>>;
}

/// Who a call is made for: configuration and a way out, nothing that runs.
pub struct Tenant {
    properties: Properties,
    egress: Egress,
    timeout: Duration,
    share: Share,
    stops: Stops,
    /// Lines of which a call each could cause one.
    quiet: Quiet,
    /// Its instances that are used again.
    shelf: Option<Arc<Shelf>>,
}

impl Tenant {
    /// How many of its calls each limit has stopped.
    pub fn stopped(&self) -> [(Limit, u64); 6] {
        self.stops.counts()
    }

    /// How many requests to destinations other than its own were refused.
    pub(crate) fn egress_refused(&self) -> u64 {
        self.egress.refused()
    }

    /// A way out for one call, which reaches so far.
    pub(crate) fn exit(&self, reach: Reach) -> Exit {
        self.egress.exit(reach)
    }

    /// What distinguishes it from every other tenant.
    pub(crate) fn id(&self) -> u64 {
        self.share.id()
    }

    /// Its turns at the processor, for what runs on its behalf outside of the sandbox.
    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    /// The binding's own time limit for one call.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What kind of call it is: which slots it takes, how far it reaches, how long it may take.
struct Call<'a> {
    slots: &'a Slots,
    exit: Exit,
    reader: Option<Arc<dyn Handler>>,
    limit: Duration,
    /// Where a policy ends it sooner than its own limit.
    ends: Option<Instant>,
}

impl Sandbox {
    /// Prepares `component`, compiling it unless the cache on disk has it.
    pub fn new(component: &[u8], limits: Limits, clock: Clock) -> Result<Self, PrepareError> {
        let compiled = compile(component, &limits)?;
        // Ours, and what wants no more than it does, is served by this host alone.
        let binding = link(&compiled, WasiHttp::Own).or_else(|_| link(&compiled, WasiHttp::Wasmtime))?;
        let rewinder = match limits.lifetime {
            Instances::Fresh => None,
            Instances::Rewound => Rewinder::new(component, &limits)?,
        };
        Ok(Self { rewinder, ..Self::of(binding, limits, clock) })
    }

    /// The same with one implementation of wasi:http, for holding the two against each other.
    #[doc(hidden)]
    pub fn over(http: WasiHttp, component: &[u8], limits: Limits, clock: Clock) -> Result<Self, PrepareError> {
        let binding = link(&compile(component, &limits)?, http)?;
        Ok(Self::of(binding, limits, clock))
    }

    fn of(binding: BindingPre, limits: Limits, clock: Clock) -> Self {
        let rule = Rule { all: limits.instances as usize, each: limits.instances_per_binding };
        Self {
            binding,
            rewinder: None,
            operations: Slots::new(rule),
            callbacks: Slots::new(rule),
            processor: Processor::new(std::thread::available_parallelism().map_or(1, usize::from)),
            limits: Arc::new(limits),
            clock,
            #[cfg(test)]
            stand_in: None,
        }
    }

    /// The same, whose calls `stand_in` performs.
    #[cfg(test)]
    pub(crate) fn played_by(&self, stand_in: Arc<dyn StandIn>, clock: Clock) -> Self {
        Self { stand_in: Some(stand_in), clock, ..self.clone() }
    }

    /// How many operations and how many callbacks run and wait now, by kind and state.
    pub(crate) fn calls(&self) -> Vec<(&'static str, &'static str, usize)> {
        let kinds = [("operation", self.operations.load()), ("callback", self.callbacks.load())];
        kinds.map(|(kind, (running, waiting))| [(kind, "running", running), (kind, "waiting", waiting)]).concat()
    }

    /// For what arrives now.
    pub fn arrival(&self) -> Arrival {
        Arrival::now(&self.clock)
    }

    /// Turns at the processor beside those of tenants.
    pub(crate) fn share(&self) -> Share {
        self.processor.tenant()
    }

    /// A tenant with these properties. `timeout` is the binding's own time limit for one call.
    pub fn tenant(&self, properties: Vec<(String, String)>, egress: Egress, timeout: Duration) -> Tenant {
        let pairs: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.tenant_of(&pairs, egress, timeout)
    }

    /// As [`Sandbox::tenant`].
    pub(crate) fn tenant_of(&self, properties: &[(&str, &str)], egress: Egress, timeout: Duration) -> Tenant {
        let (share, stops, quiet) = (self.processor.tenant(), Stops::default(), Quiet::default());
        let shelf = self.rewinder.as_ref().map(Shelf::new);
        Tenant { properties: Properties::new(properties), egress, timeout, share, stops, quiet, shelf }
    }

    /// Initialises an instance for `tenant` and asks for its operations: what a host does once when it loads
    /// a binding, to learn of a mistake before the first message.
    pub async fn operations(&self, tenant: &Tenant) -> Result<Vec<String>, CallError<Infallible>> {
        #[cfg(test)]
        if self.stand_in.is_some() {
            return Ok(dingtalk_binding::operation::OPERATIONS.map(str::to_owned).to_vec());
        }
        let call = Call {
            slots: &self.operations,
            exit: tenant.exit(Reach::Nowhere),
            reader: None,
            limit: tenant.timeout,
            ends: None,
        };
        self.limited(tenant, call, async |instance| {
            let Instance { store, binding } = instance;
            Ok(Ok::<_, Infallible>(binding.operations(store).await?))
        })
        .await
    }

    /// Performs one operation in an instance that has no other call. With a `reader`, "get" hands its message to that;
    /// without one, it fails.
    pub async fn invoke(
        &self,
        tenant: &Tenant,
        request: Request,
        reader: Option<Arc<dyn Handler>>,
    ) -> Result<Response, CallError<InvokeError>> {
        let operation = request.operation.clone();
        self.invoke_with(tenant, &operation, move || request, reader, None).await
    }

    /// As [`Sandbox::invoke`], and `within` this time, should that be shorter; the request is made once there is a slot for it, so that calls that wait need not
    /// each have a copy of what they share.
    pub(crate) async fn invoke_with(
        &self,
        tenant: &Tenant,
        operation: &str,
        request: impl FnOnce() -> Request,
        reader: Option<Arc<dyn Handler>>,
        within: Option<Duration>,
    ) -> Result<Response, CallError<InvokeError>> {
        let reach = match operation {
            "get" => Reach::Nowhere,
            "reply" => Reach::Sessions,
            _ => Reach::Robot,
        };
        self.invoke_by(tenant, tenant.exit(reach), request, reader, within).await
    }

    /// As [`Sandbox::invoke_with`], by a way out of which its caller asks afterwards.
    pub(crate) async fn invoke_by(
        &self,
        tenant: &Tenant,
        exit: Exit,
        request: impl FnOnce() -> Request,
        reader: Option<Arc<dyn Handler>>,
        within: Option<Duration>,
    ) -> Result<Response, CallError<InvokeError>> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.invoke(&tenant.properties.list(), request()).await;
        }
        let ends = within.map(|limit| Instant::now() + limit);
        let call = Call { slots: &self.operations, exit: exit.clone(), reader, limit: tenant.timeout, ends };
        let run = async |instance: &mut Instance| instance.invoke(request().into()).await;
        match self.limited(tenant, call, run).await {
            Ok(response) => Ok(response.into()),
            Err(CallError::Binding(error)) => Err(CallError::Binding(known(error, &exit))),
            Err(error) => Err(error),
        }
    }

    /// Has one callback verified in an instance that has no other call, and its message handed to `reader`. Without one,
    /// a callback that is genuine fails. Takes `limit` at most, and the sandbox's grace.
    pub async fn receive(
        &self,
        tenant: &Tenant,
        callback: Callback,
        reader: Option<Arc<dyn Handler>>,
        limit: Duration,
    ) -> Result<Reply, CallError<ReceiveError>> {
        let (slots, exit) = (&self.callbacks, tenant.exit(Reach::Nowhere));
        // A callback that waited for a slot must not be too old because of that.
        let arrived = callback.arrived.time;
        let callback = callback.into();
        let call = Call { slots, exit, reader, limit, ends: None };
        let receive = async |instance: &mut Instance| {
            instance.store.data_mut().set_clock(Arc::new(move || arrived));
            instance.receive(&callback).await
        };
        self.limited(tenant, call, receive).await.map(Into::into)
    }

    /// Makes `call` in an initialised instance that knows of no other call, within every limit.
    async fn limited<T, E>(
        &self,
        tenant: &Tenant,
        call: Call<'_>,
        run: impl AsyncFnOnce(&mut Instance) -> wasmtime::Result<Result<T, E>>,
    ) -> Result<T, CallError<E>> {
        let Call { slots, exit, reader, limit, ends } = call;
        let until_then = || ends.map(|ends| ends.saturating_duration_since(Instant::now())).unwrap_or(Duration::MAX);
        let slot = slots.take(tenant.id(), limit.min(self.limits.queue).min(until_then())).await;
        let _slot = slot.map_err(CallError::Overloaded)?;
        let wall = until_then().min(limit + self.limits.grace);
        let reads = reader.is_some();
        let aside = Aside::default();
        let run = pin!(async {
            let mut lease = self.lease(tenant, exit.clone(), reader).await?;
            let is_initialised = lease.is_initialised();
            let instance = lease.instance();
            instance.store.data_mut().own_http().exchange_aside(aside.clone());
            if !is_initialised && let Err(error) = instance.init(tenant).await? {
                return Ok(Err(CallError::Init(error)));
            }
            lease.initialised();
            let instance = lease.instance();
            if reads && let Err(wit::ReadError::NotInitialized) = instance.read().await? {
                return Err(wasmtime::Error::msg("the component has forgotten its properties"));
            }
            let answer = run(instance).await?;
            lease.end(self, tenant);
            Ok(answer.map_err(CallError::Binding))
        });
        match tokio::time::timeout(wall, tenant.share.run(aside.run(run))).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(trap)) => {
                let reason = explain(&trap);
                tenant.stops.count(Limit::of(trap.downcast_ref()));
                // The trap's own text is wasmtime's: function names and offsets, nothing of the message.
                if let Some(more) = tenant.quiet.count(&reason) {
                    tracing::error!(reason, trap = %trap.root_cause(), more, "the component was stopped");
                }
                Err(CallError::Stopped { reason, outcome: exit.close() })
            }
            Err(_) => {
                let reason = format!("it did not end within {} ms", wall.as_millis());
                tenant.stops.count(Limit::Time);
                Err(CallError::Stopped { reason, outcome: exit.close() })
            }
        }
    }

    /// A fresh instance with every limit but those of time and number, which [`Sandbox::limited`] adds.
    async fn instantiate(
        &self,
        tenant: &Tenant,
        exit: Exit,
        reader: Option<Arc<dyn Handler>>,
    ) -> wasmtime::Result<Instance> {
        self.instantiate_of(&self.binding, tenant, exit, reader).await
    }

    /// The same, of a component that is linked in an engine of its own.
    async fn instantiate_of(
        &self,
        binding: &BindingPre,
        tenant: &Tenant,
        exit: Exit,
        reader: Option<Arc<dyn Handler>>,
    ) -> wasmtime::Result<Instance> {
        let mut store = Store::new(binding.engine(), self.state(tenant, exit, reader));
        store.limiter(|state| &mut state.limits);
        self.limit(&mut store)?;
        let binding = binding.instantiate_async(&mut store).await?;
        Ok(Instance { store, binding })
    }

    /// Times one instance, phase by phase, for the benchmark: made, initialised, called with a request that
    /// sends nothing, and dropped.
    #[doc(hidden)]
    pub async fn phases(&self, tenant: &Tenant, request: Request) -> Result<[Duration; 4], PrepareError> {
        let request = request.into();
        let start = Instant::now();
        let mut instance = self.instantiate(tenant, tenant.exit(Reach::Robot), None).await?;
        let made = start.elapsed();
        let _ = instance.init(tenant).await?;
        let initialised = start.elapsed();
        let _ = instance.invoke(request).await?;
        let invoked = start.elapsed();
        drop(instance);
        let dropped = start.elapsed();
        Ok([made, initialised - made, invoked - initialised, dropped - invoked])
    }

    /// What belongs to one call.
    fn state(&self, tenant: &Tenant, exit: Exit, reader: Option<Arc<dyn Handler>>) -> State {
        State::new(&self.limits, Arc::clone(&self.clock), exit, tenant.share.clone(), reader)
    }

    /// Gives a call everything that it may use.
    fn limit(&self, store: &mut Store<State>) -> wasmtime::Result<()> {
        let limits = &self.limits;
        store.set_fuel(limits.fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_YIELD))?;
        store.set_hostcall_fuel(limits.hostcall_bytes);
        store.set_max_component_handles(limits.handles);
        Ok(())
    }
}

/// The component during one call.
struct Instance {
    store: Store<State>,
    binding: Binding,
}

impl Instance {
    async fn init(&mut self, tenant: &Tenant) -> wasmtime::Result<Result<(), PropertyError>> {
        let init = self.binding.init(&mut self.store, &tenant.properties.list()).await?;
        Ok(init.map_err(Into::into))
    }

    async fn invoke(
        &mut self,
        request: wit::InvokeRequest,
    ) -> wasmtime::Result<Result<wit::InvokeResponse, InvokeError>> {
        let response = self.binding.invoke(&mut self.store, request).await?;
        Ok(response.map_err(Into::into))
    }

    async fn read(&mut self) -> wasmtime::Result<Result<(), wit::ReadError>> {
        self.binding.read(&mut self.store).await
    }

    async fn receive(&mut self, callback: &wit::Callback) -> wasmtime::Result<Result<wit::Reply, ReceiveError>> {
        let reply = self.binding.receive(&mut self.store, callback).await?;
        Ok(reply.map_err(Into::into))
    }
}

#[cfg(test)]
mod tests;
