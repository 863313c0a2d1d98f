//! An HTTP runtime for components, as `wasmtime serve` is one: a fresh instance for each request, standard WASI 0.2 and
//! nothing else. It shares no code with the host under test.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// The way out: a connection of its own for each request, as wasmtime's default has it.
struct Out;

impl WasiHttpHooks for Out {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(hyper::Response<WasiBody>, Done), Error>> + Send> {
        Box::new(async move {
            let limit = options.and_then(|options| options.first_byte_timeout).unwrap_or(crate::support::PATIENCE);
            let client = Client::builder(TokioExecutor::new()).build_http();
            let answer = tokio::time::timeout(limit, client.request(request)).await;
            let answer = answer.map_err(|_| Error::ConnectionReadTimeout)?;
            let answer = answer.map_err(|error| match error.is_connect() {
                true => Error::ConnectionRefused,
                false => Error::HttpProtocolError,
            })?;
            let done: Done = Box::new(std::future::ready(Ok(())));
            Ok((answer.map(|body| body.map_err(Error::from).boxed_unsync()), done))
        })
    }
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Out,
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
    log: Arc<Mutex<String>>,
    _runtime: Runtime,
}

impl Gateway {
    /// With these environment variables.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        static COMPILED: OnceLock<ProxyPre<State>> = OnceLock::new();
        let pre = COMPILED.get_or_init(|| compiled(dingtalk_components::GATEWAY)).clone();
        let environment: Arc<[(String, String)]> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, log) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(String::new())));
        let lines = Arc::clone(&log);
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (pre, environment, lines) = (pre.clone(), Arc::clone(&environment), Arc::clone(&lines));
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(&pre, &environment, &lines, request));
                    let mut connections = http1::Builder::new();
                    connections.timer(TokioTimer::new()).half_close(true);
                    let _ = connections.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, log, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the gateway has written to its standard error.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

fn compiled(component: &[u8]) -> ProxyPre<State> {
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    let component = Component::from_binary(&engine, component).unwrap();
    ProxyPre::new(linker.instantiate_pre(&component).unwrap()).unwrap()
}

async fn answer(
    pre: &ProxyPre<State>,
    environment: &[(String, String)],
    lines: &Mutex<String>,
    request: hyper::Request<Incoming>,
) -> wasmtime::Result<hyper::Response<HyperOutgoingBody>> {
    let errors = MemoryOutputPipe::new(64 << 10);
    let wasi = WasiCtx::builder().envs(environment).stderr(errors.clone()).build();
    let state = State { table: ResourceTable::new(), wasi, http: WasiHttpCtx::new(), hooks: Out };
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
