//! What the component exports, each function loaded when it is called.
//!
//! The loader that wasmtime generates checks the types of every export of every instance. That was 4 of the 50 µs of a
//! call, most of it for functions that the call does not need. So where an export is, is looked up once for all
//! instances; its type is checked for each one that is called; and those of all are checked with the first instance.

use std::sync::{Arc, OnceLock};

use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, Instance, InstancePre, Lift, Lower, TypedFunc,
};
use wasmtime::{Engine, Store};

use super::contract::{self, BindingIndices, wit};
use super::state::State;

const INIT: &str = "dingtalk:binding/init@0.2.0";
const INVOKE: &str = "dingtalk:binding/invoke@0.2.0";
const READ: &str = "dingtalk:binding/read@0.2.0";

/// Where each function is.
struct Exports {
    init: ComponentExportIndex,
    operations: ComponentExportIndex,
    invoke: ComponentExportIndex,
    read: ComponentExportIndex,
    receive: ComponentExportIndex,
    /// Whether the type of each, and of those that no call needs, is known to be right.
    checked: OnceLock<()>,
}

impl Exports {
    fn of(component: &Component) -> wasmtime::Result<Self> {
        let find = |interface: &str, function: &str| {
            let interface = component.get_export_index(None, interface);
            let function = interface.and_then(|interface| component.get_export_index(Some(&interface), function));
            function.ok_or_else(|| wasmtime::Error::msg("it does not export what wit/ says"))
        };
        Ok(Self {
            init: find(INIT, "init")?,
            operations: find(INVOKE, "operations")?,
            invoke: find(INVOKE, "invoke")?,
            read: find(READ, "read")?,
            receive: find(READ, "receive")?,
            checked: OnceLock::new(),
        })
    }
}

/// A component that is linked, and known to have every export by its name. Cheap to clone.
#[derive(Clone)]
pub(super) struct BindingPre {
    pre: InstancePre<State>,
    exports: Arc<Exports>,
}

impl BindingPre {
    pub(super) fn new(pre: InstancePre<State>) -> wasmtime::Result<Self> {
        // Its error says which export is missing.
        BindingIndices::new(&pre)?;
        let exports = Arc::new(Exports::of(pre.component())?);
        Ok(Self { pre, exports })
    }

    pub(super) fn engine(&self) -> &Engine {
        self.pre.engine()
    }

    pub(super) async fn instantiate_async(&self, store: &mut Store<State>) -> wasmtime::Result<Binding> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        if self.exports.checked.get().is_none() {
            contract::Binding::new(&mut *store, &instance)?;
            let _ = self.exports.checked.set(());
        }
        Ok(Binding { instance, exports: Arc::clone(&self.exports), invoke: None })
    }
}

/// An instance, and its functions that a host calls.
pub(super) struct Binding {
    instance: Instance,
    exports: Arc<Exports>,
    /// Of an instance that is used again, what each call needs.
    invoke: Option<Invoke>,
}

type Invoke = TypedFunc<(wit::InvokeRequest,), (Result<wit::InvokeResponse, wit::InvokeError>,)>;

impl Binding {
    pub(super) async fn init(
        &self,
        store: &mut Store<State>,
        properties: &wit::Metadata,
    ) -> wasmtime::Result<Result<(), wit::PropertyError>> {
        self.call(store, &self.exports.init, (properties,)).await
    }

    pub(super) async fn operations(&self, store: &mut Store<State>) -> wasmtime::Result<Vec<String>> {
        self.call(store, &self.exports.operations, ()).await
    }

    pub(super) async fn invoke(
        &mut self,
        store: &mut Store<State>,
        request: wit::InvokeRequest,
    ) -> wasmtime::Result<Result<wit::InvokeResponse, wit::InvokeError>> {
        let function = match &self.invoke {
            Some(function) => function,
            None => self.invoke.insert(self.instance.get_typed_func(&mut *store, &self.exports.invoke)?),
        };
        let (result,) = function.call_async(store, (request,)).await?;
        Ok(result)
    }

    pub(super) async fn read(&self, store: &mut Store<State>) -> wasmtime::Result<Result<(), wit::ReadError>> {
        self.call(store, &self.exports.read, ()).await
    }

    pub(super) async fn receive(
        &self,
        store: &mut Store<State>,
        callback: &wit::Callback,
    ) -> wasmtime::Result<Result<wit::Reply, wit::ReceiveError>> {
        self.call(store, &self.exports.receive, (callback,)).await
    }

    /// For hosts that keep an instance; this one does so in tests.
    #[cfg(test)]
    pub(super) async fn close(&self, store: &mut Store<State>) -> wasmtime::Result<()> {
        let every = contract::Binding::new(&mut *store, &self.instance)?;
        every.dingtalk_binding_read().call_close(store).await
    }

    async fn call<P, R>(
        &self,
        store: &mut Store<State>,
        function: &ComponentExportIndex,
        params: P,
    ) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: Send + Sync + 'static,
        (R,): ComponentNamedList + Lift,
    {
        let function: TypedFunc<P, (R,)> = self.instance.get_typed_func(&mut *store, function)?;
        let (result,) = function.call_async(store, params).await?;
        Ok(result)
    }
}
