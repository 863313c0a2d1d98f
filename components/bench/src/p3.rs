//! The component for WASI 0.3: calls of one instance may overlap.

use std::sync::Arc;

use wasmtime::component::{Accessor, Component, HasSelf, Linker};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p3::bindings::clocks::system_clock;
use wasmtime_wasi_http::p3::bindings::http::{client, types};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

use crate::{CallClock, Calls, State, Tenant, Wasi, engine, store, wit};

#[allow(missing_docs, unreachable_pub, reason = "generated from wit/, where the documentation is")]
mod generated {
    wasmtime::component::bindgen!({
        path: ["../../wit", "../../wit/component/p3"],
        world: "dingtalk:component-p3/binding",
        imports: { default: trappable },
        exports: { "dingtalk:binding/init.init": async | store, default: async },
        with: {
            "dingtalk:binding/types": crate::p2::wit,
            "wasi:http": wasmtime_wasi_http::p3::bindings::http,
            "wasi:clocks": wasmtime_wasi::p3::bindings::clocks,
        },
    });
}

use generated::dingtalk::component_p3::handler;
use generated::{Binding, BindingPre};

/// The compiled component.
pub struct Prepared {
    engine: Engine,
    pre: BindingPre<State>,
}

/// One instance, initialised.
pub struct Instance {
    store: Store<State>,
    binding: Binding,
}

/// Makes calls of one instance, which may overlap.
#[derive(Clone, Copy)]
pub struct Calling<'a> {
    accessor: &'a Accessor<State>,
    binding: &'a Binding,
}

/// A linker with exactly what the world imports.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    system_clock::add_to_linker::<State, HasSelf<CallClock>>(&mut linker, |state| &mut state.clock)?;
    types::add_to_linker::<State, WasiHttp>(&mut linker, State::http)?;
    client::add_to_linker::<State, WasiHttp>(&mut linker, State::http)?;
    handler::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

impl Prepared {
    /// Compiles `component`.
    pub fn new(component: &[u8]) -> wasmtime::Result<Self> {
        let engine = engine(Wasi::P3)?;
        let component = Component::from_binary(&engine, component)?;
        Ok(Self { pre: BindingPre::new(linker(&engine)?.instantiate_pre(&component)?)?, engine })
    }

    /// A fresh instance of `tenant`, not initialised yet.
    pub async fn bare(&self, tenant: &Tenant, calls: Calls) -> wasmtime::Result<Instance> {
        let mut store = store(&self.engine, tenant, calls)?;
        let binding = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance { store, binding })
    }

    /// A fresh instance of `tenant`.
    pub async fn instance(&self, tenant: &Tenant, calls: Calls) -> wasmtime::Result<Instance> {
        let mut instance = self.bare(tenant, calls).await?;
        instance.init(&tenant.properties).await?.map_err(|error| wasmtime::Error::msg(format!("{error:?}")))?;
        Ok(instance)
    }
}

impl Instance {
    /// Gives it properties.
    pub async fn init(&mut self, properties: &wit::Metadata) -> wasmtime::Result<Result<(), wit::PropertyError>> {
        self.run(async |calling| calling.init(properties.clone()).await).await?
    }

    /// From here on, received messages are handed to the handler.
    pub async fn read(&mut self) -> wasmtime::Result<Result<(), wit::ReadError>> {
        self.binding.dingtalk_component_p3_read().call_read(&mut self.store).await
    }

    /// Runs calls. The instance's tasks go on as long as this.
    pub async fn run<R>(&mut self, calls: impl AsyncFnOnce(Calling<'_>) -> R) -> wasmtime::Result<R> {
        let Self { store, binding } = self;
        store.run_concurrent(async |accessor| calls(Calling { accessor, binding }).await).await
    }

    /// Performs one operation.
    pub async fn invoke(
        &mut self,
        request: wit::InvokeRequest,
    ) -> wasmtime::Result<Result<wit::InvokeResponse, wit::InvokeError>> {
        self.run(async |calling| calling.invoke(request).await).await?
    }

    /// Verifies one callback.
    pub async fn receive(
        &mut self,
        callback: wit::Callback,
    ) -> wasmtime::Result<Result<wit::Reply, wit::ReceiveError>> {
        self.run(async |calling| calling.receive(callback).await).await?
    }

    /// The instructions that are left.
    pub fn fuel(&self) -> wasmtime::Result<u64> {
        self.store.get_fuel()
    }

    /// Whether it holds none of the host's resources.
    pub fn holds_nothing(&self) -> bool {
        self.store.data().table.is_empty()
    }
}

impl Calling<'_> {
    /// Gives the instance properties.
    pub async fn init(self, properties: wit::Metadata) -> wasmtime::Result<Result<(), wit::PropertyError>> {
        self.binding.dingtalk_binding_init().call_init(self.accessor, properties).await
    }

    /// Performs one operation.
    pub async fn invoke(
        self,
        request: wit::InvokeRequest,
    ) -> wasmtime::Result<Result<wit::InvokeResponse, wit::InvokeError>> {
        self.binding.dingtalk_component_p3_invoke().call_invoke(self.accessor, request).await
    }

    /// Gives the instance properties and performs one operation.
    pub async fn call(
        self,
        properties: wit::Metadata,
        request: wit::InvokeRequest,
    ) -> wasmtime::Result<Result<wit::InvokeResponse, wit::CallError>> {
        self.binding.dingtalk_component_p3_call().call_call(self.accessor, properties, request).await
    }

    /// Verifies one callback.
    pub async fn receive(self, callback: wit::Callback) -> wasmtime::Result<Result<wit::Reply, wit::ReceiveError>> {
        self.binding.dingtalk_component_p3_read().call_receive(self.accessor, callback).await
    }
}

impl handler::HostWithStore<State> for HasSelf<State> {
    async fn handle(
        accessor: &Accessor<State, Self>,
        event: wit::Event,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::HandlerError>> {
        let handle = accessor.with(|mut access| Arc::clone(&access.get().handle));
        Ok(handle(event).await)
    }
}

impl handler::Host for State {}

impl system_clock::Host for CallClock {
    fn now(&mut self) -> wasmtime::Result<system_clock::Instant> {
        let now = (self.0)();
        let nanoseconds = u32::try_from(now % 1_000 * 1_000_000).unwrap_or_default();
        Ok(system_clock::Instant { seconds: i64::try_from(now / 1_000).unwrap_or(i64::MAX), nanoseconds })
    }

    fn get_resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000)
    }
}
