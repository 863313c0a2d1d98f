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
use wasmtime::component::Val;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::support::plain::{Done, Plain, pairs, request};

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

#[test]
fn an_answer_that_drips_ends_with_the_call_s_own_time() {
    let drops = Arc::new(AtomicUsize::new(0));
    let mut plain = Plain::new(COMPONENT, Drips(Arc::clone(&drops)), |linker| {
        let mut handler = linker.instance("dingtalk:binding/handler@0.2.0").unwrap();
        handler.func_new_async("handle", |_, _, _, _| Box::new(async { panic!("nothing reads") })).unwrap();
    });
    let properties = pairs(&[("id", "x"), ("url", "http://127.0.0.1:1/"), ("timeout", "200ms")]);
    let ready = plain.call("init", "init", &[properties]);
    assert!(matches!(ready, Some(Val::Result(Ok(_)))), "{ready:?}");
    let answer = plain.call("invoke", "invoke", &[request("create", b"Hi")]);
    let text = format!("{answer:?}");
    assert!(text.contains("did not answer within 200 ms") && text.contains("unknown"), "{text}");
    // It began to read, and 200 ms have room for ten bytes: a busy machine sees fewer, never many more.
    let drops = drops.load(Ordering::Relaxed);
    assert!((1..100).contains(&drops), "{drops}");
}
