//! The component for WASI 0.2.

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::clocks::wall_clock;
use wasmtime_wasi_http::p2::bindings::http::{outgoing_handler, types};
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

use crate::{CallClock, Calls, State, Tenant, Wasi, engine, store};

#[allow(missing_docs, unreachable_pub, reason = "generated from wit/, where the documentation is")]
mod generated {
    wasmtime::component::bindgen!({
        path: ["../../wit", "../../wit/component"],
        world: "dingtalk:component/binding",
        imports: { "dingtalk:binding/handler.handle": async | trappable, default: trappable },
        exports: { default: async },
        with: {
            "wasi:http": wasmtime_wasi_http::p2::bindings::http,
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        },
        additional_derives: [PartialEq],
    });
}

use generated::dingtalk::binding::handler;
pub use generated::dingtalk::binding::types as wit;
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

impl Prepared {
    /// Compiles `component`.
    pub fn new(component: &[u8]) -> wasmtime::Result<Self> {
        let engine = engine(Wasi::P2)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi_io::add_to_linker_async(&mut linker)?;
        wall_clock::add_to_linker::<State, HasSelf<CallClock>>(&mut linker, |state| &mut state.clock)?;
        types::add_to_linker::<State, WasiHttp>(&mut linker, &Default::default(), State::http)?;
        outgoing_handler::add_to_linker::<State, WasiHttp>(&mut linker, State::http)?;
        handler::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
        let component = Component::from_binary(&engine, component)?;
        Ok(Self { pre: BindingPre::new(linker.instantiate_pre(&component)?)?, engine })
    }

    /// A fresh instance of `tenant`.
    pub async fn instance(&self, tenant: &Tenant, calls: Calls) -> wasmtime::Result<Instance> {
        let mut store = store(&self.engine, tenant, calls)?;
        let binding = self.pre.instantiate_async(&mut store).await?;
        let init = binding.dingtalk_binding_init().call_init(&mut store, &tenant.properties).await?;
        init.map_err(|error| wasmtime::Error::msg(format!("{error:?}")))?;
        Ok(Instance { store, binding })
    }
}

impl Instance {
    /// Performs one operation.
    pub async fn invoke(
        &mut self,
        request: &wit::InvokeRequest,
    ) -> wasmtime::Result<Result<wit::InvokeResponse, wit::InvokeError>> {
        self.binding.dingtalk_binding_invoke().call_invoke(&mut self.store, request).await
    }

    /// The instructions that are left.
    pub fn fuel(&self) -> wasmtime::Result<u64> {
        self.store.get_fuel()
    }
}

impl handler::Host for State {
    async fn handle(&mut self, event: wit::Event) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::HandlerError>> {
        Ok((self.handle)(event).await)
    }
}

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
