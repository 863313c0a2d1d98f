//! An HTTP runtime for components, as `wasmtime serve` is one: a fresh instance for each request, standard WASI 0.2 and
//! nothing else. It shares no code with the host under test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use wasmtime::component::{Component, HasSelf, Linker, Resource, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::gateways::way_out::Out;

/// What a runtime keeps for the components that it runs, by bucket and key.
#[derive(Default)]
pub struct Kept {
    pub entries: HashMap<(String, String), Vec<u8>>,
    /// What of the store does not work.
    pub fault: Option<Fault>,
}

pub type Keys = Arc<Mutex<Kept>>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Read,
    Write,
}

/// What a store says when it fails, which is nobody's business but the runtime's.
pub const FAULT: &str = "disk of store-7.internal is full";

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Out,
    keys: Keys,
}

/// wasi:keyvalue as wasmCloud has it.
mod draft {
    wasmtime::component::bindgen!({
        path: ["../wit", "../wit/component"],
        world: "dingtalk:component/remember",
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
    });
    pub use wasi::keyvalue0_2_0_draft::store;
}

/// The same as Spin has it, all of it.
mod draft2 {
    wasmtime::component::bindgen!({
        path: "../tests/interop/spin/keyvalue-draft2.wit",
        world: "wasi:keyvalue/host",
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
    });
    pub use wasi::keyvalue::store;
}

/// An open bucket: its name.
pub struct Bucket(String);

impl State {
    fn place(&self, bucket: &Resource<Bucket>, key: String) -> (String, String) {
        (self.table.get(bucket).unwrap().0.clone(), key)
    }

    fn read(&self, bucket: &Resource<Bucket>, key: String) -> Option<Option<Vec<u8>>> {
        let (place, kept) = (self.place(bucket, key), self.keys.lock().unwrap());
        (kept.fault != Some(Fault::Read)).then(|| kept.entries.get(&place).cloned())
    }

    fn write(&self, bucket: &Resource<Bucket>, key: String, value: Option<Vec<u8>>) -> Option<()> {
        let (place, mut kept) = (self.place(bucket, key), self.keys.lock().unwrap());
        if kept.fault == Some(Fault::Write) {
            return None;
        }
        match value {
            Some(value) => drop(kept.entries.insert(place, value)),
            None => drop(kept.entries.remove(&place)),
        }
        Some(())
    }
}

/// One store, "default", spoken to in a version of the interface. Another name is `$unknown`.
macro_rules! store {
    ($version:ident, $unknown:ident, { $($more:item)* }) => {
        impl $version::store::Host for State {
            fn open(&mut self, name: String) -> Result<Resource<Bucket>, $version::store::Error> {
                if name != "default" {
                    return Err($version::store::Error::$unknown);
                }
                Ok(self.table.push(Bucket(name)).unwrap())
            }
        }

        impl $version::store::HostBucket for State {
            fn get(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> Result<Option<Vec<u8>>, $version::store::Error> {
                self.read(&bucket, key).ok_or_else(|| $version::store::Error::Other(FAULT.into()))
            }

            fn set(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> Result<(), $version::store::Error> {
                self.write(&bucket, key, Some(value)).ok_or_else(|| $version::store::Error::Other(FAULT.into()))
            }

            fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }

            $($more)*
        }
    };
}

store!(draft, NoSuchStore, {});

// Spin asks the manifest's `key_value_stores` first: a name that is not there is denied, whether there is such a store or
// not. It has no pages of keys.
store!(draft2, AccessDenied, {
    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), draft2::store::Error> {
        self.write(&bucket, key, None).ok_or_else(|| draft2::store::Error::Other(FAULT.into()))
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, draft2::store::Error> {
        let found = self.read(&bucket, key).ok_or_else(|| draft2::store::Error::Other(FAULT.into()))?;
        Ok(found.is_some())
    }

    fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<String>,
    ) -> Result<draft2::store::KeyResponse, draft2::store::Error> {
        if cursor.is_some() {
            return Err(draft2::store::Error::Other("list_keys: cursor not supported".into()));
        }
        let (bucket, kept) = (self.place(&bucket, String::new()).0, self.keys.lock().unwrap());
        let keys = kept.entries.keys().filter(|(name, _)| *name == bucket).map(|(_, key)| key.clone()).collect();
        Ok(draft2::store::KeyResponse { keys, cursor: None })
    }
});

/// Whose version of the store a runtime has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyValue {
    WasmCloud,
    Spin,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// The gateway in its runtime; ends with the value.
pub struct Gateway {
    address: SocketAddr,
    keys: Keys,
    log: Arc<Mutex<String>>,
    _runtime: Runtime,
}

impl crate::gateways::Gateway for Gateway {
    fn start(environment: &[(&str, &str)]) -> Self {
        static COMPILED: OnceLock<ProxyPre<State>> = OnceLock::new();
        let nothing = |_: &mut Linker<State>| Ok(());
        Self::of(COMPILED.get_or_init(|| compiled(dingtalk_components::GATEWAY, nothing)).clone(), environment)
    }

    fn reached(&self) -> SocketAddr {
        self.address
    }

    fn written(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Gateway {
    /// The one that remembers, in a runtime that has this version of the store and no other.
    pub fn remembering(store: KeyValue, environment: &[(&str, &str)]) -> Self {
        static WASMCLOUD: OnceLock<ProxyPre<State>> = OnceLock::new();
        static SPIN: OnceLock<ProxyPre<State>> = OnceLock::new();
        let pre = match store {
            KeyValue::WasmCloud => WASMCLOUD.get_or_init(|| {
                compiled(dingtalk_components::GATEWAY_REMEMBER, |linker| {
                    draft::store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
                })
            }),
            KeyValue::Spin => SPIN.get_or_init(|| {
                compiled(dingtalk_components::GATEWAY_REMEMBER_SPIN, |linker| {
                    draft2::store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
                })
            }),
        };
        Self::of(pre.clone(), environment)
    }

    fn of(pre: ProxyPre<State>, environment: &[(&str, &str)]) -> Self {
        let environment: Arc<[(String, String)]> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, log) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(String::new())));
        let lines = Arc::clone(&log);
        let keys = Keys::default();
        let kept = Arc::clone(&keys);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (pre, environment, lines) = (pre.clone(), Arc::clone(&environment), Arc::clone(&lines));
                let keys = Arc::clone(&kept);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(&pre, &environment, &lines, &keys, request));
                    let mut connections = http1::Builder::new();
                    connections.timer(TokioTimer::new()).half_close(true);
                    let _ = connections.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, keys, log, _runtime: runtime }
    }

    /// What it keeps.
    pub fn keys(&self) -> Keys {
        Arc::clone(&self.keys)
    }
}

fn compiled(component: &[u8], more: impl FnOnce(&mut Linker<State>) -> wasmtime::Result<()>) -> ProxyPre<State> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    more(&mut linker).unwrap();
    let component = Component::from_binary(&engine, component).unwrap();
    ProxyPre::new(linker.instantiate_pre(&component).unwrap()).unwrap()
}

async fn answer(
    pre: &ProxyPre<State>,
    environment: &[(String, String)],
    lines: &Mutex<String>,
    keys: &Keys,
    request: hyper::Request<Incoming>,
) -> wasmtime::Result<hyper::Response<HyperOutgoingBody>> {
    let errors = MemoryOutputPipe::new(64 << 10);
    let wasi = WasiCtx::builder().envs(environment).stderr(errors.clone()).build();
    let state =
        State { table: ResourceTable::new(), wasi, http: WasiHttpCtx::new(), hooks: Out, keys: Arc::clone(keys) };
    let mut store = Store::new(pre.engine(), state);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam(sender)?;
    let pre = pre.clone();
    let running = tokio::spawn(async move {
        let proxy = pre.instantiate_async(&mut store).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
    });
    let answer = receiver.await;
    // What it has written stands in the log before anybody has its answer.
    let written: Bytes = errors.contents();
    lines.lock().unwrap().push_str(&String::from_utf8_lossy(&written));
    match answer {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(running.await?.err().unwrap_or_else(|| wasmtime::Error::msg("the guest has given no answer"))),
    }
}
