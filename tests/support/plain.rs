//! A host that is nothing but wasmtime, as another one than ours could be: it links what a component imports, and
//! looks for functions by name.

use std::time::Duration;

use wasmtime::component::{Component, Instance, Linker, ResourceTable, Val};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{Error, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Nothing here takes long; what takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `send_request` gives when a request is done.
pub type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;

pub struct State<H> {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: H,
}

impl<H: Send> WasiView for State<H> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl<H: WasiHttpHooks> WasiHttpView for State<H> {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

pub fn pairs(pairs: &[(&str, &str)]) -> Val {
    let text = |text: &str| Val::String(text.to_owned());
    Val::List(pairs.iter().map(|(name, value)| Val::Tuple(vec![text(name), text(value)])).collect())
}

/// An `invoke-request` without metadata.
pub fn request(operation: &str, data: &[u8]) -> Val {
    Val::Record(vec![
        ("operation".into(), Val::String(operation.into())),
        ("data".into(), Val::List(data.iter().map(|byte| Val::U8(*byte)).collect())),
        ("metadata".into(), pairs(&[])),
    ])
}

/// One instance, and what runs it.
pub struct Plain<H: 'static> {
    store: Store<State<H>>,
    instance: Instance,
    runtime: tokio::runtime::Runtime,
}

impl<H: WasiHttpHooks + Send> Plain<H> {
    /// `component` in a linker that has wasi:http and wasi:clocks, what that needs of wasi:io, and what `link` adds.
    pub fn new(component: &[u8], hooks: H, link: impl FnOnce(&mut Linker<State<H>>)) -> Self {
        let engine = Engine::default();
        let component = Component::from_binary(&engine, component).unwrap();
        let mut linker: Linker<State<H>> = Linker::new(&engine);
        wasmtime_wasi_http::p2::add_to_linker_async(&mut linker).unwrap();
        link(&mut linker);
        let wasi = WasiCtx::builder().build();
        let state = State { table: ResourceTable::new(), wasi, http: WasiHttpCtx::new(), hooks };
        let mut store = Store::new(&engine, state);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let instance = runtime.block_on(linker.instantiate_async(&mut store, &component)).unwrap();
        Self { store, instance, runtime }
    }

    /// Calls a function of `dingtalk:binding`.
    pub fn call(&mut self, interface: &str, name: &str, arguments: &[Val]) -> Option<Val> {
        let store = &mut self.store;
        let interface = format!("dingtalk:binding/{interface}@0.2.0");
        let interface = self.instance.get_export_index(&mut *store, None, &interface).unwrap();
        let function = self.instance.get_export_index(&mut *store, Some(&interface), name).unwrap();
        let function = self.instance.get_func(&mut *store, function).unwrap();
        let mut results = vec![Val::Bool(false); function.ty(&*store).results().len()];
        let calling = function.call_async(&mut *store, arguments, &mut results);
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, calling).await }).unwrap().unwrap();
        results.pop()
    }
}
