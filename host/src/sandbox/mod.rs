//! One call, one sandbox: a fresh instance of the component with limits on everything it can use.
//!
//! What every call shares (compiled code, linker, memory pool) is made once. What one call touches (its
//! store, memory, tables, handles) exists only for that call, so that nothing of one message or tenant can be
//! found by the next, and a trap, a loop or a leak ends one call and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dingtalk_binding::error::{Error, Outcome, Refusal};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{
    Cache, CacheConfig, Config, Engine, PoolingAllocationConfig, Store, StoreLimits, StoreLimitsBuilder, Trap,
};
use wasmtime_wasi::p2::bindings::clocks::wall_clock;
use wasmtime_wasi_http::p2::bindings::http::{outgoing_handler, types};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView};
use wasmtime_wasi_io::IoView;

use crate::clock::{Arrival, Clock};
use crate::egress::{Egress, Exit, Reach};
use crate::event::BoxFuture;

mod contract;
use contract::{BindingPre, handler, wit};
pub use contract::{Callback, Reply, Request, Response};

/// What one call may use, and how many calls may run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls that run at once; each has a slot in the memory pool. A slot costs address space, and start-up
    /// time: reserving 1,000 took 3 ms more than reserving 128.
    pub instances: u32,
    /// Operations of one binding that run at once, and as many callbacks: one robot whose server hangs cannot
    /// take every slot, nor callbacks whose application hangs the ones for sending.
    pub instances_per_binding: usize,
    /// Linear memory of one call; see [`Limits::for_messages_of`].
    pub memory: usize,
    /// Instructions of one call; see [`Limits::for_messages_of`]. A usual message takes 60,000. A long text
    /// takes 14 a byte, short members and items up to 500.
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

/// How often a long computation lets other calls run: about every 2 ms.
const FUEL_YIELD: u64 = 5_000_000;

/// Of each slot's memory, what is kept and cleared by hand between calls instead of being returned to the
/// kernel. More than the component's initial memory, less than a large message needs. Without it every call
/// costs 8 page faults and 3 madvise calls, and on several threads a TLB shoot-down for each.
const KEEP_RESIDENT: usize = 256 << 10;

/// The stack of the fibre on which a call runs: the component's own stack is in its memory, this one holds
/// compiled frames and host functions.
const ASYNC_STACK: usize = 128 << 10;

/// Why a call ended without the component's own answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The component's answer: an error of the contract.
    #[error(transparent)]
    Binding(#[from] Error),
    /// A limit of the sandbox, or a defect of the component.
    #[error("dingtalk webhook error: the component was stopped: {reason}{}", consequence(*outcome))]
    Stopped {
        /// What happened and which limit to look at.
        reason: String,
        /// What became of the message.
        outcome: Outcome,
    },
    /// No slot became free in time; nothing ran.
    #[error("dingtalk webhook error: {0} calls of this binding are running and none ended in time. Nothing was sent")]
    Overloaded(usize),
}

fn consequence(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotSent => "",
        Outcome::Unknown => ". The message may have been posted",
    }
}

/// A component that could not be prepared for running.
#[derive(Debug, thiserror::Error)]
#[error("the component cannot be prepared: {0:#}")]
pub struct PrepareError(#[from] wasmtime::Error);

/// The compiled component, ready to be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    binding: BindingPre<State>,
    limits: Arc<Limits>,
    clock: Clock,
    slots: Arc<Semaphore>,
}

/// Whoever consumes what a binding receives: the other end of the contract's import `handler`.
pub trait Handler: Send + Sync {
    /// Takes one message and answers it, see wit/handler.wit.
    fn handle(&self, data: Vec<u8>, metadata: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, Error>>;
}

/// Who a call is made for: configuration and a way out, nothing that runs.
pub struct Tenant {
    properties: wit::Metadata,
    egress: Egress,
    timeout: Duration,
    operations: Semaphore,
    callbacks: Semaphore,
}

/// What kind of call it is: which slots it takes, how far it reaches, how long it may take.
struct Call<'a> {
    slots: &'a Semaphore,
    exit: Exit,
    reader: Option<Arc<dyn Handler>>,
    limit: Duration,
}

impl Sandbox {
    /// Prepares `component`, compiling it unless the cache on disk has it.
    pub fn new(component: &[u8], limits: Limits, clock: Clock) -> Result<Self, PrepareError> {
        let engine = Engine::new(&config(&limits))?;
        let component = Component::from_binary(&engine, component)?;
        let pre = linker(&engine)?.instantiate_pre(&component)?;
        Ok(Self {
            binding: BindingPre::new(pre)?,
            slots: Arc::new(Semaphore::new(limits.instances as usize)),
            limits: Arc::new(limits),
            clock,
        })
    }

    /// For what arrives now.
    pub fn arrival(&self) -> Arrival {
        Arrival::now(&self.clock)
    }

    /// A tenant with these properties. `timeout` is the binding's own time limit for one call.
    pub fn tenant(&self, properties: Vec<(String, String)>, egress: Egress, timeout: Duration) -> Tenant {
        let slots = || Semaphore::new(self.limits.instances_per_binding);
        Tenant { properties, egress, timeout, operations: slots(), callbacks: slots() }
    }

    /// Initialises an instance for `tenant` and asks for its operations: what a host does once when it loads
    /// a binding, to learn of a mistake before the first message.
    pub async fn operations(&self, tenant: &Tenant) -> Result<Vec<String>, CallError> {
        let call = Call {
            slots: &tenant.operations,
            exit: tenant.egress.exit(Reach::Nowhere),
            reader: None,
            limit: tenant.timeout,
        };
        self.limited(tenant, call, async |instance| {
            let Instance { store, binding } = instance;
            Ok(Ok(binding.dingtalk_binding_invoke().call_operations(store).await?))
        })
        .await
    }

    /// Performs one operation in an instance of its own. With a `reader`, "get" hands its message to that;
    /// without one, it fails.
    pub async fn invoke(
        &self,
        tenant: &Tenant,
        request: Request,
        reader: Option<Arc<dyn Handler>>,
    ) -> Result<Response, CallError> {
        let reach = match request.operation.as_str() {
            "get" => Reach::Nowhere,
            "reply" => Reach::Sessions,
            _ => Reach::Robot,
        };
        let exit = tenant.egress.exit(reach);
        let call = Call { slots: &tenant.operations, exit, reader, limit: tenant.timeout };
        let request = request.into();
        self.limited(tenant, call, async |instance| instance.invoke(&request).await).await.map(Into::into)
    }

    /// Has one callback verified in an instance of its own, and its message handed to `reader`. Without one,
    /// a callback that is genuine fails. Takes `limit` at most, and the sandbox's grace.
    pub async fn receive(
        &self,
        tenant: &Tenant,
        callback: Callback,
        reader: Option<Arc<dyn Handler>>,
        limit: Duration,
    ) -> Result<Reply, CallError> {
        let (slots, exit) = (&tenant.callbacks, tenant.egress.exit(Reach::Nowhere));
        // A callback that waited for a slot must not be too old because of that.
        let arrived = callback.arrived.time;
        let callback = callback.into();
        let call = Call { slots, exit, reader, limit };
        let receive = async |instance: &mut Instance| {
            instance.store.data_mut().clock = CallClock(Arc::new(move || arrived));
            instance.receive(&callback).await
        };
        self.limited(tenant, call, receive).await.map(Into::into)
    }

    /// Makes `call` in a fresh, initialised instance, within every limit.
    async fn limited<T>(
        &self,
        tenant: &Tenant,
        call: Call<'_>,
        run: impl AsyncFnOnce(&mut Instance) -> wasmtime::Result<Result<T, wit::Error>>,
    ) -> Result<T, CallError> {
        let Call { slots, exit, reader, limit } = call;
        let _slots = self.slots(slots, limit.min(self.limits.queue)).await?;
        let wall = limit + self.limits.grace;
        let reads = reader.is_some();
        let run = async {
            let mut instance = self.instantiate(exit.clone(), reader).await?;
            if let Err(error) = instance.init(tenant).await? {
                return Ok(Err(error));
            }
            if reads && let Err(error) = instance.read().await? {
                return Ok(Err(error));
            }
            run(&mut instance).await
        };
        match tokio::time::timeout(wall, run).await {
            Ok(Ok(answer)) => answer.map_err(|error| CallError::Binding(known(error.into(), &exit))),
            Ok(Err(trap)) => {
                let reason = explain(&trap);
                // The trap's own text is wasmtime's: function names and offsets, nothing of the message.
                tracing::error!(reason, trap = %trap.root_cause(), "the component was stopped");
                Err(CallError::Stopped { reason, outcome: exit.close() })
            }
            Err(_) => {
                let reason = format!("it did not end within {} ms", wall.as_millis());
                Err(CallError::Stopped { reason, outcome: exit.close() })
            }
        }
    }

    /// Waits until this binding, and then the host, may run one more call. The binding's own slot comes first:
    /// while a call waits for that, it must not hold one of everybody's.
    async fn slots<'a>(&'a self, own: &'a Semaphore, queue: Duration) -> Result<[SemaphorePermit<'a>; 2], CallError> {
        // The usual case, without the cost of a timer.
        if let Ok(own) = own.try_acquire()
            && let Ok(shared) = self.slots.try_acquire()
        {
            return Ok([own, shared]);
        }
        let slots = async { Ok::<_, AcquireError>([own.acquire().await?, self.slots.acquire().await?]) };
        match tokio::time::timeout(queue, slots).await {
            Ok(Ok(slots)) => Ok(slots),
            Ok(Err(_)) | Err(_) => Err(CallError::Overloaded(self.limits.instances_per_binding)),
        }
    }

    /// A fresh instance with every limit but those of time and number, which [`Sandbox::limited`] adds.
    async fn instantiate(&self, exit: Exit, reader: Option<Arc<dyn Handler>>) -> wasmtime::Result<Instance> {
        let mut store = self.store(exit, reader)?;
        let binding = self.binding.instantiate_async(&mut store).await?;
        Ok(Instance { store, binding })
    }

    /// Times one instance, phase by phase, for the benchmark: made, initialised, called with a request that
    /// sends nothing, and dropped.
    #[doc(hidden)]
    pub async fn phases(&self, tenant: &Tenant, request: Request) -> Result<[Duration; 4], PrepareError> {
        let request = request.into();
        let start = Instant::now();
        let mut instance = self.instantiate(tenant.egress.exit(Reach::Robot), None).await?;
        let made = start.elapsed();
        let _ = instance.init(tenant).await?;
        let initialised = start.elapsed();
        let _ = instance.invoke(&request).await?;
        let invoked = start.elapsed();
        drop(instance);
        let dropped = start.elapsed();
        Ok([made, initialised - made, invoked - initialised, dropped - invoked])
    }

    fn store(&self, exit: Exit, reader: Option<Arc<dyn Handler>>) -> wasmtime::Result<Store<State>> {
        let limits = &self.limits;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        let state = State {
            table,
            http: WasiHttpCtx::new(),
            exit,
            reader,
            clock: CallClock(Arc::clone(&self.clock)),
            limits: StoreLimitsBuilder::new().memory_size(limits.memory).trap_on_grow_failure(true).build(),
        };
        let mut store = Store::new(self.binding.engine(), state);
        store.limiter(|state| &mut state.limits);
        store.set_fuel(limits.fuel)?;
        store.fuel_async_yield_interval(Some(FUEL_YIELD))?;
        store.set_hostcall_fuel(limits.hostcall_bytes);
        store.set_max_component_handles(limits.handles);
        Ok(store)
    }
}

/// The component during one call.
struct Instance {
    store: Store<State>,
    binding: contract::Binding,
}

impl Instance {
    async fn init(&mut self, tenant: &Tenant) -> wasmtime::Result<Result<(), wit::Error>> {
        self.binding.dingtalk_binding_init().call_init(&mut self.store, &tenant.properties).await
    }

    async fn invoke(
        &mut self,
        request: &wit::InvokeRequest,
    ) -> wasmtime::Result<Result<wit::InvokeResponse, wit::Error>> {
        self.binding.dingtalk_binding_invoke().call_invoke(&mut self.store, request).await
    }

    async fn read(&mut self) -> wasmtime::Result<Result<(), wit::Error>> {
        self.binding.dingtalk_binding_read().call_read(&mut self.store).await
    }

    async fn receive(&mut self, callback: &wit::Callback) -> wasmtime::Result<Result<wit::Reply, wit::Error>> {
        self.binding.dingtalk_binding_read().call_receive(&mut self.store, callback).await
    }
}

/// Adds to the component's error what only the way out knows: whether anything left, and why an address was refused.
fn known(error: Error, exit: &Exit) -> Error {
    match error {
        Error::Unreachable { mut reason, .. } => {
            if let Some(refusal) = exit.refusal() {
                reason = format!("{reason}: {refusal}");
            }
            Error::Unreachable { reason, outcome: exit.close() }
        }
        other => other,
    }
}

/// What of a trap helps whoever runs the host.
fn explain(trap: &wasmtime::Error) -> String {
    match trap.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => "it used more instructions than one call may".into(),
        Some(Trap::StackOverflow) => "it used more stack than one call may".into(),
        Some(Trap::UnreachableCodeReached) => "it aborted (out of memory, or a defect of the component)".into(),
        Some(other) => format!("{other}"),
        None => "a limit of the sandbox (memory, handles or copied bytes) was reached".into(),
    }
}

fn config(limits: &Limits) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits.instances)
        // A component is several core instances: its module and what wit-component puts around it.
        .total_core_instances(limits.instances.saturating_mul(4))
        .total_memories(limits.instances)
        .total_tables(limits.instances.saturating_mul(2))
        .total_stacks(limits.instances)
        .max_memories_per_component(1)
        .max_tables_per_component(2)
        .max_memory_size(limits.memory)
        // The component's table of functions has some 60 entries; the default of 20,000 is cleared per call.
        .table_elements(256)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10);
    let mut config = Config::new();
    config.allocation_strategy(pool);
    config.memory_reservation(limits.memory as u64).memory_guard_size(64 << 10).memory_may_move(false);
    config.async_stack_size(ASYNC_STACK).max_wasm_stack(ASYNC_STACK / 2);
    config.memory_init_cow(true).consume_fuel(true);
    // Without a place to keep compiled code (a read-only file system, no home), the component is compiled at
    // every start: 100 ms that are no reason to fail.
    match Cache::new(CacheConfig::new()) {
        Ok(cache) => {
            config.cache(Some(cache));
        }
        Err(error) => tracing::debug!(%error, "compiled code is not cached"),
    }
    config
}

/// Exactly what the world imports. A component that asks for more does not link.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi_io::add_to_linker_async(&mut linker)?;
    wall_clock::add_to_linker::<State, HasSelf<CallClock>>(&mut linker, |state| &mut state.clock)?;
    types::add_to_linker::<State, WasiHttp>(&mut linker, &Default::default(), State::http)?;
    outgoing_handler::add_to_linker::<State, WasiHttp>(&mut linker, State::http)?;
    handler::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// What belongs to one call.
struct State {
    table: ResourceTable,
    http: WasiHttpCtx,
    exit: Exit,
    reader: Option<Arc<dyn Handler>>,
    clock: CallClock,
    limits: StoreLimits,
}

impl State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.exit, table: &mut self.table, ctx: &mut self.http }
    }
}

impl IoView for State {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

impl handler::Host for State {
    async fn handle(&mut self, event: wit::Event) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::Error>> {
        let wit::Event { data, metadata } = event;
        let Some(reader) = &self.reader else {
            // The component hands on only what it was told to read.
            return Ok(Err(wit::Error::HandlerFailed("nothing reads from this binding".into())));
        };
        // Anything but its failure would be taken for another's.
        Ok(reader.handle(data, metadata).await.map_err(|error| match error {
            Error::NotReading(id) => wit::Error::NotReading(id),
            Error::HandlerFailed(reason) => wit::Error::HandlerFailed(reason),
            Error::CallbackRefused(Refusal::Reused) => wit::Error::CallbackRefused(wit::Refusal::Reused),
            other => wit::Error::HandlerFailed(other.to_string()),
        }))
    }
}

struct CallClock(Clock);

impl wall_clock::Host for CallClock {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        let now = (self.0)();
        let nanoseconds = u32::try_from(now % 1_000 * 1_000_000).unwrap_or_default();
        Ok(wall_clock::Datetime { seconds: now / 1_000, nanoseconds })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: 1_000_000 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::egress::Proxies;
    use dingtalk_binding::settings::Settings;

    /// A tenant whose robot refuses connections.
    fn tenant(sandbox: &Sandbox, properties: &[(&str, &str)]) -> Tenant {
        let settings = Settings::parse([("id", "x"), ("url", "http://127.0.0.1:1")]).unwrap();
        let egress = Egress::new("x", &settings, &Proxies::none()).unwrap();
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        sandbox.tenant(properties, egress, settings.timeout)
    }

    fn request(data: &str) -> wit::InvokeRequest {
        Request { operation: "create".into(), data: data.into(), metadata: Vec::new() }.into()
    }

    /// What other hosts may do, and this one does not: keep an instance.
    #[tokio::test]
    async fn an_instance_serves_call_after_call_and_init_after_init() {
        let limits = Limits { fuel: u64::MAX, ..Limits::default() };
        let sandbox = Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system()).unwrap();
        let good = tenant(&sandbox, &[("id", "one"), ("url", "http://127.0.0.1:1"), ("secret", "SEC")]);
        let bad = tenant(&sandbox, &[("id", "two")]);
        let mut instance = sandbox.instantiate(good.egress.exit(Reach::Robot), None).await.unwrap();
        let get = Request { operation: "get".into(), ..Request::default() }.into();

        let before = instance.invoke(&request("Hi")).await.unwrap();
        assert!(matches!(before, Err(wit::Error::NotInitialized)), "{before:?}");
        instance.init(&good).await.unwrap().unwrap();
        let sent = instance.invoke(&request("Hi")).await.unwrap();
        assert!(matches!(sent, Err(wit::Error::Unreachable(_))), "{sent:?}");

        // An instance whose second configuration fails must not send to the robot of the first.
        let failed = instance.init(&bad).await.unwrap();
        assert!(matches!(failed, Err(wit::Error::Configuration(_))), "{failed:?}");
        let after = instance.invoke(&request("Hi")).await.unwrap();
        assert!(matches!(after, Err(wit::Error::NotInitialized)), "{after:?}");

        let other = tenant(&sandbox, &[("id", "three"), ("url", "http://127.0.0.1:1")]);
        instance.init(&other).await.unwrap().unwrap();
        match instance.invoke(&get).await.unwrap() {
            Err(wit::Error::NotReading(id)) => assert_eq!(id, "three"),
            answer => panic!("{answer:?}"),
        }

        // 2,000 messages of 64 KiB are four times the memory that an instance may have: what a call takes, it
        // gives back.
        let large = request(&format!("[1, \"{}\"]", "x".repeat(64 << 10)));
        for _ in 0..2_000 {
            let refused = instance.invoke(&large).await.unwrap();
            assert!(matches!(refused, Err(wit::Error::InvalidMessage(_))), "{refused:?}");
        }
    }

    /// Answers every message with what it says, as if it had been asked to repeat it.
    struct Echo;

    impl Handler for Echo {
        fn handle(&self, data: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, Error>> {
            Box::pin(async { Ok(Some(data)) })
        }
    }

    #[tokio::test]
    async fn a_callback_is_as_old_as_it_was_when_it_arrived() {
        let now = 1_700_000_000_000;
        // Five seconds pass between the arrival and the verification.
        let sandbox = Sandbox::new(dingtalk_component::COMPONENT, Limits::default(), Arc::new(move || now + 5_000));
        let sandbox = sandbox.unwrap();
        let properties = [("id", "x"), ("url", "http://127.0.0.1:1"), ("secret", "SEC"), ("callbackMaxSkew", "1s")];
        let tenant = tenant(&sandbox, &properties);
        let sign = dingtalk_binding::signature::sign("SEC", now);
        let headers = [("Content-Type", "application/json"), ("timestamp", &now.to_string()), ("sign", &sign)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
        let received = async |arrived| {
            let arrived = Arrival { instant: Instant::now(), time: arrived };
            let callback = Callback { headers: headers.clone(), body: b"{}".to_vec(), arrived };
            sandbox.receive(&tenant, callback, Some(Arc::new(Echo)), Duration::from_secs(60)).await
        };
        for arrived in [now, now + 1_000, now - 1_000] {
            assert_eq!(received(arrived).await.unwrap().status, 200, "{arrived}");
        }
        for arrived in [now + 1_001, now - 1_001, sandbox.arrival().time] {
            let refused = received(arrived).await.unwrap_err();
            assert!(matches!(refused, CallError::Binding(Error::CallbackRefused(Refusal::Expired))), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn an_instance_hands_on_from_read_to_close() {
        const REPLY: &str = r#"{"msgtype":"text","text":{"content":"x"}}"#;
        let now = 1_700_000_000_000;
        let sandbox = Sandbox::new(dingtalk_component::COMPONENT, Limits::default(), Arc::new(move || now)).unwrap();
        let tenant = tenant(&sandbox, &[("id", "one"), ("url", "http://127.0.0.1:1"), ("secret", "SEC")]);
        let get: wit::InvokeRequest =
            Request { operation: "get".into(), data: REPLY.into(), ..Request::default() }.into();
        let sign = dingtalk_binding::signature::sign("SEC", now);
        let headers = [("Content-Type", "application/json"), ("timestamp", &now.to_string()), ("sign", &sign)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
        let genuine = wit::Callback { headers, body: REPLY.into() };
        let forged = wit::Callback { headers: genuine.headers[..1].to_vec(), body: REPLY.into() };
        let mut instance = sandbox.instantiate(tenant.egress.exit(Reach::Nowhere), Some(Arc::new(Echo))).await.unwrap();

        assert!(matches!(instance.read().await.unwrap(), Err(wit::Error::NotInitialized)));
        assert!(matches!(instance.receive(&genuine).await.unwrap(), Err(wit::Error::NotInitialized)));
        for _ in 0..2 {
            instance.init(&tenant).await.unwrap().unwrap();
            for reading in [false, true, false] {
                if reading {
                    instance.read().await.unwrap().unwrap();
                } else {
                    instance.binding.dingtalk_binding_read().call_close(&mut instance.store).await.unwrap();
                }
                let (got, received) = (instance.invoke(&get).await.unwrap(), instance.receive(&genuine).await.unwrap());
                if reading {
                    assert_eq!(got.unwrap().data.as_deref(), Some(REPLY.as_bytes()));
                    assert_eq!((received.as_ref().unwrap().status, &*received.unwrap().body), (200, REPLY.as_bytes()));
                } else {
                    assert!(matches!(got, Err(wit::Error::NotReading(id)) if id == "one"));
                    assert!(matches!(received, Err(wit::Error::NotReading(_))));
                }
                // Whether anything reads is nothing that a forger learns.
                let refused = instance.receive(&forged).await.unwrap();
                assert!(matches!(refused, Err(wit::Error::CallbackRefused(wit::Refusal::Unsigned))), "{refused:?}");
            }
        }
    }
}
