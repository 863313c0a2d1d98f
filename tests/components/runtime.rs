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
pub type Keys = Arc<Mutex<HashMap<(String, String), Vec<u8>>>>;

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Out,
    keys: Keys,
}

wasmtime::component::bindgen!({
    path: ["../wit", "../wit/component"],
    world: "dingtalk:component/remember",
    with: { "wasi:keyvalue/store.bucket": Bucket },
});

use wasi::keyvalue0_2_0_draft::store;

/// An open bucket: its name.
pub struct Bucket(String);

/// There is one bucket, "default", as in runtimes that are not configured.
impl store::Host for State {
    fn open(&mut self, name: String) -> Result<Resource<Bucket>, store::Error> {
        if name != "default" {
            return Err(store::Error::NoSuchStore);
        }
        Ok(self.table.push(Bucket(name)).unwrap())
    }
}

impl State {
    fn place(&self, bucket: &Resource<Bucket>, key: String) -> (String, String) {
        (self.table.get(bucket).unwrap().0.clone(), key)
    }
}

impl store::HostBucket for State {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, store::Error> {
        Ok(self.keys.lock().unwrap().get(&self.place(&bucket, key)).cloned())
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), store::Error> {
        let place = self.place(&bucket, key);
        self.keys.lock().unwrap().insert(place, value);
        Ok(())
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
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
        Self::of(COMPILED.get_or_init(|| compiled(dingtalk_components::GATEWAY)).clone(), environment)
    }

    fn reached(&self) -> SocketAddr {
        self.address
    }

    fn written(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Gateway {
    /// The one that remembers.
    pub fn remembering(environment: &[(&str, &str)]) -> Self {
        static COMPILED: OnceLock<ProxyPre<State>> = OnceLock::new();
        Self::of(COMPILED.get_or_init(|| compiled(dingtalk_components::GATEWAY_REMEMBER)).clone(), environment)
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

fn compiled(component: &[u8]) -> ProxyPre<State> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    store::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state).unwrap();
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
