//! What the component finds around it during one call: its imports, and nothing else.

use std::sync::Arc;

use dingtalk_binding::error::HandlerError;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::p2::bindings::clocks::wall_clock;
use wasmtime_wasi_http::p2::bindings::http::outgoing_handler;
use wasmtime_wasi_http::p2::bindings::http::types::{self, ErrorCode};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttp as HasWasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};
use wasmtime_wasi_io::IoView;

use super::contract::{handler, wit};
use super::http::{self, Http};
use super::{Handler, Limits, Share};
use crate::clock::Clock;
use crate::egress::{Exit, Sending};

/// Whose wasi:http a component is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WasiHttp {
    /// This host's: what our component imports, and nothing else.
    Own,
    /// wasmtime-wasi-http: all that the world imports.
    Wasmtime,
}

/// Exactly what the world imports. A component that asks for more does not link.
pub(super) fn linker(engine: &Engine, http: WasiHttp) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wall_clock::add_to_linker::<State, HasSelf<CallClock>>(&mut linker, |state| &mut state.clock)?;
    match http {
        WasiHttp::Own => http::add_to_linker(&mut linker)?,
        WasiHttp::Wasmtime => {
            wasmtime_wasi_io::add_to_linker_async(&mut linker)?;
            types::add_to_linker::<State, HasWasiHttp>(&mut linker, &Default::default(), State::http)?;
            outgoing_handler::add_to_linker::<State, HasWasiHttp>(&mut linker, State::http)?;
        }
    }
    handler::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// What belongs to one call.
pub(super) struct State {
    table: ResourceTable,
    http: WasiHttpCtx,
    exit: FairExit,
    own_http: Http,
    reader: Option<Arc<dyn Handler>>,
    clock: CallClock,
    pub(super) limits: StoreLimits,
}

impl State {
    /// For a call that leaves by `exit`, in the turns of `share`, and hands its message to `reader`.
    pub(super) fn new(
        limits: &Limits,
        clock: Clock,
        exit: Exit,
        share: Share,
        reader: Option<Arc<dyn Handler>>,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self {
            table,
            http: WasiHttpCtx::new(),
            own_http: Http::new(exit.clone(), limits.handles),
            exit: FairExit { exit, share },
            reader,
            clock: CallClock(clock),
            limits: StoreLimitsBuilder::new().memory_size(limits.memory).trap_on_grow_failure(true).build(),
        }
    }

    /// From now on this is the time.
    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.clock = CallClock(clock);
    }

    pub(super) fn own_http(&mut self) -> &mut Http {
        &mut self.own_http
    }

    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.exit, table: &mut self.table, ctx: &mut self.http }
    }
}

/// The way out of one call, which its tenant takes in its turns.
struct FairExit {
    exit: Exit,
    share: Share,
}

impl WasiHttpHooks for FairExit {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        options: Option<RequestOptions>,
        received: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Sending {
        let sending = self.exit.send_request(request, options, received);
        Box::new(self.share.run(Box::into_pin(sending)))
    }

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        self.exit.p2_error_from_hyper(error)
    }
}

impl IoView for State {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

impl handler::Host for State {
    async fn handle(&mut self, event: wit::Event) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::HandlerError>> {
        // Whose binding it is, the host knows by its own name for it.
        let wit::Event { id: _, data, metadata } = event;
        // The component hands on only what it was told to read.
        let Some(reader) = self.reader.clone() else { return Ok(Err(wit::HandlerError::NotReading)) };
        // In a task of its own, because the fibre's stack is small: an HTTP client, unoptimised, overflows it, and
        // that ends the process.
        let task = tokio::spawn(async move { reader.handle(data, metadata).await });
        let answer = AbortOnDropHandle::new(task).await;
        let answer = answer.unwrap_or_else(|_| Err(HandlerError::Failed("the delivery broke off".into())));
        Ok(answer.map_err(Into::into))
    }
}

struct CallClock(Clock);

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
