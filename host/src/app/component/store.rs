//! What an application as a component is given: an engine with its policy, WASI 0.2 with nothing behind it, and for one
//! message a store with limits.

use std::sync::Arc;

use dingtalk_binding::secret::Secret;
use http::Method;
use hyper::Request;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Config, Engine, ResourceLimiter, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use super::output::{Output, Stream};
use crate::egress::{Egress, Reach, Sending};
use crate::sandbox::{FUEL_YIELD, Share, keep_compiled};

/// What one message may cost.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// All linear memories and tables together.
    pub(super) memory: usize,
    /// Instructions: some 5 to 10 s of one core.
    pub(super) fuel: u64,
}

/// Instructions of one message.
pub(super) const FUEL: u64 = 10_000_000_000;

/// Bytes that the application may hand to the host in one function call, its answer among them.
const HOSTCALL_BYTES: usize = 2 << 20;

/// Handles to host resources of one message.
const HANDLES: usize = 256;

/// Requests of one message to the hosts that it may call. Whole answers are held while it holds them.
const REQUESTS: u32 = 16;

/// Core instances, tables and memories: those of a Python application are some 60.
const PARTS: usize = 1_000;

/// Random bytes that the application may ask for at once.
const RANDOM_BYTES: u64 = 64 << 10;

/// The stack of the fibre on which a message is handled. Only what is used takes memory.
const ASYNC_STACK: usize = 2 << 20;

/// Of that, what compiled frames may take: an interpreter of another language recurses here.
const WASM_STACK: usize = 1 << 20;

pub(super) fn engine() -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.async_stack_size(ASYNC_STACK).max_wasm_stack(WASM_STACK);
    // The image of an interpreter has tens of MiB: copied page by page where a message writes to it.
    config.memory_init_cow(true).consume_fuel(true);
    keep_compiled(&mut config);
    Engine::new(&config)
}

/// All of WASI 0.2, because what makes components of Python or JavaScript imports it whether it is used or not.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Ok(linker)
}

/// What belongs to one message.
pub(super) struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pub(super) memory: Memory,
}

/// A store for a message of `binding`, whose `secrets` are not to be logged.
pub(super) fn store(
    engine: &Engine,
    limits: &Limits,
    egress: Egress,
    share: Share,
    binding: &str,
    secrets: Arc<[Secret]>,
) -> wasmtime::Result<Store<State>> {
    // No argument, no variable, no folder, an input that has ended, no network.
    let wasi = WasiCtx::builder()
        .stdout(Output::new(Stream::Output, binding, Arc::clone(&secrets)))
        .stderr(Output::new(Stream::Error, binding, secrets))
        .max_random_size(RANDOM_BYTES)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build();
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES);
    let state = State {
        table,
        wasi,
        http: WasiHttpCtx::new(),
        outgoing: Outgoing { egress, share, left: REQUESTS },
        memory: Memory { left: limits.memory, is_reached: false },
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_fuel(limits.fuel)?;
    store.fuel_async_yield_interval(Some(FUEL_YIELD))?;
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_max_component_handles(HANDLES);
    Ok(store)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

/// What is left of the memory of one message. All memories together: a component can have many.
pub(super) struct Memory {
    left: usize,
    /// Whether more was wanted.
    pub(super) is_reached: bool,
}

impl Memory {
    /// An application that was told "no" would mostly end in a way that says nothing of memory.
    fn grow(&mut self, bytes: usize) -> wasmtime::Result<bool> {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                self.is_reached = true;
                return Err(wasmtime::Error::msg("the limit of memory is reached"));
            }
        }
        Ok(true)
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current).saturating_mul(size_of::<usize>()))
    }

    fn instances(&self) -> usize {
        PARTS
    }

    fn tables(&self) -> usize {
        PARTS
    }

    fn memories(&self) -> usize {
        PARTS
    }
}

/// The way out of one message, which its binding takes in its turns.
struct Outgoing {
    egress: Egress,
    share: Share,
    left: u32,
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        received: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Sending {
        // CONNECT would make of an allowed host a way to others.
        if self.left == 0 || request.method() == Method::CONNECT {
            return Box::new(std::future::ready(Err(HttpError::HttpRequestDenied)));
        }
        self.left -= 1;
        // A door for each: one that closed because its time was up must not shut out the next.
        let sending = self.egress.exit(Reach::Hosts).send_request(request, options, received);
        Box::new(self.share.run(Box::into_pin(sending)))
    }

    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> ErrorCode {
        ErrorCode::HttpProtocolError
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::egress::{MAX_HOST_BODY, Policy, Proxies};
    use crate::sandbox::Processor;

    fn outgoing(host: &str) -> Outgoing {
        let hosts = dingtalk_binding::session::parse_hosts(&format!("http://{host}")).unwrap();
        let egress = Egress::to_hosts("--handler", &hosts, &Proxies::none(), &Policy::default()).unwrap();
        Outgoing { egress, share: Processor::new(1).tenant(), left: REQUESTS }
    }

    /// The status of an answer, which has to begin within `limit`.
    async fn send(
        outgoing: &mut Outgoing,
        method: Method,
        uri: &str,
        bytes: usize,
        limit: Duration,
    ) -> Result<u16, HttpError> {
        let body = Full::new(Bytes::from(vec![b'x'; bytes])).map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().method(method).uri(uri).body(body).unwrap();
        let options =
            RequestOptions { connect_timeout: None, first_byte_timeout: Some(limit), between_bytes_timeout: None };
        let sending = outgoing.send_request(request, Some(options), Box::new(std::future::ready(Ok(()))));
        Box::into_pin(sending).await.map(|(response, _)| response.status().as_u16())
    }

    #[tokio::test]
    async fn a_request_whose_time_was_up_does_not_shut_out_the_next() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = server.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut connection, _) = server.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && connection.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                if head.starts_with(b"GET /next") {
                    connection.write_all(b"HTTP/1.1 204 No\r\n\r\n").await.unwrap();
                }
                silent.push(connection);
            }
        });
        let mut outgoing = outgoing(&host);
        let late = send(&mut outgoing, Method::GET, &format!("http://{host}/"), 0, Duration::from_millis(50)).await;
        assert!(matches!(late, Err(HttpError::HttpResponseTimeout | HttpError::ConnectionTimeout)), "{late:?}");
        let next = send(&mut outgoing, Method::GET, &format!("http://{host}/next"), 0, Duration::from_secs(60)).await;
        assert_eq!(next.unwrap(), 204);
    }

    #[tokio::test]
    async fn no_tunnel_and_no_body_without_end_go_to_an_allowed_host() {
        let patience = Duration::from_secs(60);
        let mut outgoing = outgoing("127.0.0.1:1");
        let sent = async |outgoing: &mut _, method, bytes| {
            send(outgoing, method, "http://127.0.0.1:1/", bytes, patience).await.unwrap_err()
        };
        let tunnel = sent(&mut outgoing, Method::CONNECT, 0).await;
        assert!(matches!(tunnel, HttpError::HttpRequestDenied), "{tunnel:?}");
        let long = sent(&mut outgoing, Method::POST, MAX_HOST_BODY + 1).await;
        assert!(matches!(long, HttpError::HttpRequestBodySize(_)), "{long:?}");
        let fits = sent(&mut outgoing, Method::POST, MAX_HOST_BODY).await;
        assert!(matches!(fits, HttpError::ConnectionRefused), "{fits:?}");
    }
}
