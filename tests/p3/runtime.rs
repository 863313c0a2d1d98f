//! An HTTP runtime for components of WASI 0.3, as `wasmtime serve` is one: standard WASI 0.3 and nothing else, and one
//! instance for many requests at once. It shares no code with the host under test.

use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use wasmtime::component::{Component, GuestTaskId, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store, StoreContextMut};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::gateways::way_out::{Done, Out};

/// The way out as wasmtime's own: a connection ends when the guest says that it is through with the answer, and the
/// answer's body with it, as if it were complete. A guest that says so too early loses what has not come yet.
struct Ending(Out);

/// A path below which an application's answer ends at once in that way.
pub const CUT: &str = "/cut";

impl WasiHttpHooks for Ending {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        options: Option<RequestOptions>,
        through: Done,
    ) -> Box<dyn Future<Output = Result<(hyper::Response<WasiBody>, Done), Error>> + Send> {
        let is_cut = request.uri().path().starts_with(CUT);
        let answer = Box::into_pin(self.0.send_request(request, options, Box::new(std::future::ready(Ok(())))));
        Box::new(async move {
            let (answer, done) = answer.await?;
            let through: Done = if is_cut { Box::new(std::future::ready(Ok(()))) } else { through };
            let through = Box::into_pin(through);
            Ok((answer.map(|body| WasiBody::new(Until { body, through: Some(through) })), done))
        })
    }
}

struct Until {
    body: WasiBody,
    /// `None`: it is.
    through: Option<Pin<Done>>,
}

impl Body for Until {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(through) = &mut self.through else { return Poll::Ready(None) };
        if through.as_mut().poll(cx).is_ready() {
            self.through = None;
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Ending,
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

static COMPILED: LazyLock<ServicePre<State>> = LazyLock::new(|| {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    let engine = Engine::new(&config).unwrap();
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p3::add_to_linker(&mut linker).unwrap();
    wasmtime_wasi_http::p3::add_to_linker(&mut linker).unwrap();
    let component = Component::from_binary(&engine, dingtalk_components::GATEWAY_P3).unwrap();
    ServicePre::new(linker.instantiate_pre(&component).unwrap()).unwrap()
});

/// Makes instances.
struct Instances {
    environment: Vec<(String, String)>,
    errors: MemoryOutputPipe,
}

impl HandlerState for Instances {
    type StoreData = State;
    type WorkerExpiration = Never;
    type WorkerState = Never;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Never, Never>> {
        let wasi = WasiCtx::builder().envs(&self.environment).stderr(self.errors.clone()).build();
        let state = State { table: ResourceTable::new(), wasi, http: WasiHttpCtx::new(), hooks: Ending(Out) };
        let mut store = Store::new(COMPILED.engine(), state);
        let proxy = ProxyPre::P3(COMPILED.clone()).instantiate_async(&mut store).await?;
        Ok(Instance { store, proxy, view: State::http, expiration: Never, state: Never })
    }
}

/// An instance never ends, and takes every request: what one leaves behind is there for all others.
struct Never;

impl WorkerExpiration for Never {
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>, _: WorkerStatus, _: Instant) -> Poll<()> {
        Poll::Pending
    }
}

impl WorkerState for Never {
    type StoreData = State;
    type RequestData = ();

    fn should_accept_request(&self, _: usize, _: usize) -> ShouldAccept {
        ShouldAccept::Yes
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, State>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(pending())
    }

    fn drop(&self, _: Store<State>, _: wasmtime::Result<()>) {}
}

/// The gateway in its runtime; ends with the value.
pub struct Gateway {
    address: SocketAddr,
    errors: MemoryOutputPipe,
    _runtime: Runtime,
}

impl crate::gateways::Gateway for Gateway {
    fn start(environment: &[(&str, &str)]) -> Self {
        Self::with(environment, true)
    }

    fn reached(&self) -> SocketAddr {
        self.address
    }

    fn written(&self) -> String {
        String::from_utf8(self.errors.contents().to_vec()).unwrap()
    }
}

impl Gateway {
    /// In a runtime that does not say for which host a request is, as wasmtime's.
    pub fn nameless(environment: &[(&str, &str)]) -> Self {
        Self::with(environment, false)
    }

    fn with(environment: &[(&str, &str)], names: bool) -> Self {
        let errors = MemoryOutputPipe::new(1 << 20);
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let handler = Arc::new(ProxyHandler::new(Instances { environment, errors: errors.clone() }));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(&handler, names, request));
                    let mut connections = http1::Builder::new();
                    connections.timer(TokioTimer::new()).half_close(true);
                    let _ = connections.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, errors, _runtime: runtime }
    }
}

async fn answer(
    handler: &ProxyHandler<Instances>,
    names: bool,
    request: hyper::Request<Incoming>,
) -> wasmtime::Result<hyper::Response<WasiBody>> {
    let mut request = request.map(|body| body.map_err(Error::from).boxed_unsync());
    if let Some(host) = request.headers_mut().remove("host").filter(|_| names) {
        let mut target = request.uri().clone().into_parts();
        target.scheme = Some("http".parse()?);
        target.authority = Some(host.to_str()?.parse()?);
        *request.uri_mut() = hyper::Uri::from_parts(target)?;
    }
    handler.handle((), request).await
}
