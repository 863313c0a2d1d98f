//! The component in another host than ours, with the time limits that wasi:http has and no others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dingtalk_component::COMPONENT;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use wasmtime::component::{Component, Instance, Linker, ResourceTable, Val};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::support::PATIENCE;

/// Between two bytes of an answer that drips.
const DRIP: Duration = Duration::from_millis(20);

/// An answer that never ends, one byte at a time, always in time for the next.
struct Dripping {
    sleep: Pin<Box<tokio::time::Sleep>>,
    drops: Arc<AtomicUsize>,
}

impl Body for Dripping {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.sleep.set(tokio::time::sleep(DRIP));
        self.drops.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

struct Drips(Arc<AtomicUsize>);

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Drips {
    fn send_request(
        &mut self,
        _: hyper::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(hyper::Response<WasiBody>, Done), Error>> + Send> {
        let drops = Arc::clone(&self.0);
        Box::new(async move {
            let body = Dripping { sleep: Box::pin(tokio::time::sleep(DRIP)), drops };
            let done: Done = Box::new(std::future::ready(Ok(())));
            Ok((hyper::Response::new(body.boxed_unsync()), done))
        })
    }
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Drips,
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

fn pairs(pairs: &[(&str, &str)]) -> Val {
    let text = |text: &str| Val::String(text.to_owned());
    Val::List(pairs.iter().map(|(name, value)| Val::Tuple(vec![text(name), text(value)])).collect())
}

async fn call(instance: &Instance, store: &mut Store<State>, interface: &str, name: &str, argument: Val) -> Val {
    let interface = format!("dingtalk:binding/{interface}@0.2.0");
    let interface = instance.get_export_index(&mut *store, None, &interface).unwrap();
    let function = instance.get_export_index(&mut *store, Some(&interface), name).unwrap();
    let mut results = [Val::Bool(false)];
    let function = instance.get_func(&mut *store, function).unwrap();
    function.call_async(&mut *store, &[argument], &mut results).await.unwrap();
    let [result] = results;
    result
}

#[test]
fn an_answer_that_drips_ends_with_the_call_s_own_time() {
    let engine = Engine::default();
    let component = Component::from_binary(&engine, COMPONENT).unwrap();
    let mut linker: Linker<State> = Linker::new(&engine);
    wasmtime_wasi_http::p2::add_to_linker_async(&mut linker).unwrap();
    let mut handler = linker.instance("dingtalk:binding/handler@0.2.0").unwrap();
    handler.func_new_async("handle", |_, _, _, _| Box::new(async { panic!("nothing reads") })).unwrap();
    let drops = Arc::new(AtomicUsize::new(0));
    let state = State {
        table: ResourceTable::new(),
        wasi: WasiCtx::builder().build(),
        http: WasiHttpCtx::new(),
        hooks: Drips(Arc::clone(&drops)),
    };
    let mut store = Store::new(&engine, state);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        let properties = pairs(&[("id", "x"), ("url", "http://127.0.0.1:1/"), ("timeout", "200ms")]);
        let ready = call(&instance, &mut store, "init", "init", properties).await;
        assert!(matches!(ready, Val::Result(Ok(_))), "{ready:?}");
        let request = Val::Record(vec![
            ("operation".into(), Val::String("create".into())),
            ("data".into(), Val::List(b"Hi".iter().map(|byte| Val::U8(*byte)).collect())),
            ("metadata".into(), pairs(&[])),
        ]);
        tokio::time::timeout(PATIENCE, call(&instance, &mut store, "invoke", "invoke", request)).await.unwrap()
    });
    let text = format!("{answer:?}");
    assert!(text.contains("did not answer within 200 ms") && text.contains("unknown"), "{text}");
    // It began to read, and 200 ms have room for ten bytes: a busy machine sees fewer, never many more.
    let drops = drops.load(Ordering::Relaxed);
    assert!((1..100).contains(&drops), "{drops}");
}
