//! The binding's two components in wasmtime, for the tests of the one for WASI 0.3 and for measuring it beside the one
//! for WASI 0.2: the same engine settings, the same way out, the same clock.

use std::pin::Pin;
use std::sync::Arc;

use dingtalk_binding::settings::Settings;
use dingtalk_host::clock::{self, Clock};
use dingtalk_host::egress::{Egress, Proxies, Reach};
use dingtalk_host::sandbox::{self, Limits};
use hyper::{Request, Response};
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};
use wasmtime_wasi_io::IoView;

pub mod crossings;
pub mod p2;
pub mod p3;

/// The component for WASI 0.2, as the host runs it.
pub const COMPONENT_P2: &[u8] = dingtalk_component::COMPONENT;

/// The component for WASI 0.3, of world `dingtalk:component-p3/binding@0.2.0`.
pub const COMPONENT_P3: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding-p3.wasm"));

/// What the contract's types are called in Rust; the same for both components.
pub use p2::wit;

/// Whoever takes messages; its name is that of the import.
pub type Handle = Arc<
    dyn Fn(wit::Event) -> Pin<Box<dyn Future<Output = Result<Option<Vec<u8>>, wit::HandlerError>> + Send>>
        + Send
        + Sync,
>;

/// What an instance's requests go through.
pub type WayOut = Arc<dyn Fn() -> Box<dyn WasiHttpHooks> + Send + Sync>;

/// A way out of its own for each request: the host's is for one call, and here an instance may have many.
struct Exits(Egress);

impl WasiHttpHooks for Exits {
    fn send_request(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>, received: Done) -> Sending {
        self.0.exit(Reach::Robot).send_request(request, options, received)
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        self.0.exit(Reach::Robot).p2_error_from_hyper(error)
    }
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Done), Error>> + Send>;

/// Which version of WASI an engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wasi {
    /// 0.2
    P2,
    /// 0.3
    P3,
}

/// An engine with the host's settings. What WASI 0.3 needs costs every store something, so that for 0.2 it is off, as
/// it is in the host.
pub fn engine(wasi: Wasi) -> wasmtime::Result<Engine> {
    let mut config = sandbox::config(&Limits::default());
    let is_async = wasi == Wasi::P3;
    config.wasm_component_model_async(is_async).concurrency_support(is_async);
    Engine::new(&config)
}

/// Who calls are made for.
#[derive(Clone)]
pub struct Tenant {
    /// What `init` is given.
    pub properties: wit::Metadata,
    way_out: WayOut,
    clock: Clock,
    handle: Handle,
}

impl Tenant {
    /// A binding with these properties and the host's egress for them, by the system's clock, whose messages nobody
    /// takes. The error says what is wrong with the properties.
    pub fn new(properties: &[(&str, &str)]) -> Result<Self, String> {
        let settings = Settings::parse(properties.iter().copied()).map_err(|error| error.to_string())?;
        let egress = Egress::new(&settings.id, &settings, &Proxies::none())?;
        let properties = properties.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let handle: Handle = Arc::new(|_| Box::pin(async { Err(wit::HandlerError::NotReading) }));
        let way_out: WayOut = Arc::new(move || Box::new(Exits(egress.clone())));
        Ok(Self { properties, way_out, clock: clock::system(), handle })
    }

    /// With another clock.
    #[must_use]
    pub fn at(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// With somebody who takes messages.
    #[must_use]
    pub fn handled_by(self, handle: Handle) -> Self {
        Self { handle, ..self }
    }

    /// With another way out.
    #[must_use]
    pub fn leaving_by(self, way_out: WayOut) -> Self {
        Self { way_out, ..self }
    }

    /// Its way out.
    pub fn way_out(&self) -> WayOut {
        Arc::clone(&self.way_out)
    }
}

/// What belongs to one instance.
pub struct State {
    table: ResourceTable,
    http: WasiHttpCtx,
    way_out: Box<dyn WasiHttpHooks>,
    clock: CallClock,
    handle: Handle,
    limits: StoreLimits,
}

struct CallClock(Clock);

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut *self.way_out, table: &mut self.table, ctx: &mut self.http }
    }
}

impl IoView for State {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

/// A store with the host's limits, as far as they are for one call.
fn store(engine: &Engine, tenant: &Tenant, calls: Calls) -> wasmtime::Result<Store<State>> {
    let limits = Limits::default();
    let handles = limits.handles.saturating_mul(calls.at_once);
    let mut table = ResourceTable::new();
    // wasmtime's wasi:http 0.2 keeps the options of every request in the table until the store ends, so that for many
    // calls there is no limit.
    if !calls.are_many {
        table.set_max_capacity(handles);
    }
    let state = State {
        table,
        http: WasiHttpCtx::new(),
        way_out: (tenant.way_out)(),
        clock: CallClock(Arc::clone(&tenant.clock)),
        handle: Arc::clone(&tenant.handle),
        limits: StoreLimitsBuilder::new().memory_size(limits.memory).trap_on_grow_failure(true).build(),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limits);
    store.set_fuel(if calls.are_many { u64::MAX } else { limits.fuel })?;
    store.fuel_async_yield_interval(Some(FUEL_YIELD))?;
    store.set_hostcall_fuel(limits.hostcall_bytes);
    store.set_max_component_handles(handles);
    Ok(store)
}

/// As the host's.
const FUEL_YIELD: u64 = 500_000;

/// How many calls an instance is made for.
#[derive(Debug, Clone, Copy)]
pub struct Calls {
    /// More than one in all.
    pub are_many: bool,
    /// At once.
    pub at_once: usize,
}

impl Calls {
    /// A fresh instance for each.
    pub const ONE: Self = Self { are_many: false, at_once: 1 };

    /// Many in one instance.
    pub fn many(at_once: usize) -> Self {
        Self { are_many: true, at_once }
    }
}
