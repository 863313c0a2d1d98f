//! On hosts whose way out is another than ours: one that forbids, one that answers early, one that never ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dingtalk_bench::{Calls, Tenant, wit};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::{PREPARED, create, ending};

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Response = hyper::Response<WasiBody>;

/// Answers with what a function makes, without looking at the request.
struct Answers(Arc<dyn Fn() -> Response + Send + Sync>);

impl WasiHttpHooks for Answers {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Done,
    ) -> Box<dyn Future<Output = Result<(Response, Done), Error>> + Send> {
        let response = (self.0)();
        // The request's body is kept, unread, as long as the answer is not.
        let done: Done = Box::new(async {
            let _request = request;
            std::future::pending().await
        });
        Box::new(std::future::ready(Ok((response, done))))
    }
}

fn tenant() -> Tenant {
    let properties = [("id", "team"), ("url", "https://oapi.dingtalk.com/robot/send"), ("timeout", "300ms")];
    Tenant::new(&properties).unwrap()
}

async fn answered(
    message: &str,
    response: impl Fn() -> Response + Send + Sync + 'static,
) -> Result<wit::InvokeResponse, wit::InvokeError> {
    let response: Arc<dyn Fn() -> Response + Send + Sync> = Arc::new(response);
    let tenant = tenant().leaving_by(Arc::new(move || Box::new(Answers(Arc::clone(&response)))));
    let mut instance = PREPARED.instance(&tenant, Calls::ONE).await.unwrap();
    ending(instance.invoke(create(message))).await.unwrap()
}

#[tokio::test]
async fn nothing_goes_anywhere_but_to_the_robot() {
    let other = Tenant::new(&[("id", "other"), ("url", "https://example.com/robot/send")]).unwrap();
    let tenant = tenant().leaving_by(other.way_out());
    let mut instance = PREPARED.instance(&tenant, Calls::ONE).await.unwrap();
    let error = instance.invoke(create("Hi")).await.unwrap().unwrap_err();
    let reason = "the egress policy does not allow this binding to reach https://oapi.dingtalk.com";
    assert_eq!(error.cause, wit::InvokeCause::Unreachable(reason.into()));
    assert_eq!(error.outcome, wit::Outcome::NotSent);
}

#[tokio::test]
async fn an_answer_before_the_whole_message_was_read_is_the_answer() {
    // More than a host takes before anybody reads: wasmtime's takes 1 MiB.
    let message = "x".repeat(3 << 20);
    let ok = answered(&message, || {
        hyper::Response::new(Full::from(r#"{"errcode":0,"errmsg":"ok"}"#).map_err(Error::from).boxed_unsync())
    });
    ok.await.unwrap();
    let error = answered(&message, || {
        let mut response = hyper::Response::new(Full::default().map_err(Error::from).boxed_unsync());
        *response.status_mut() = hyper::StatusCode::PAYLOAD_TOO_LARGE;
        response
    });
    assert_eq!(error.await.unwrap_err().cause, wit::InvokeCause::UnexpectedAnswer(wit::AnswerError::Status(413)));
}

/// A whole answer, and then an error instead of its end.
struct BreakingOff(Option<&'static str>);

impl Body for BreakingOff {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(Some(match self.0.take() {
            Some(text) => Ok(Frame::data(text.into())),
            None => Err(Error::HttpResponseIncomplete),
        }))
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_a_whole_one() {
    // Nobody knows what would have come after it.
    let text = r#"{"errcode":0,"errmsg":"ok"}"#;
    let error = answered("Hi", move || hyper::Response::new(BreakingOff(Some(text)).boxed_unsync())).await.unwrap_err();
    assert_eq!(error.cause, wit::InvokeCause::UnexpectedAnswer(wit::AnswerError::Truncated));
    assert_eq!(error.outcome, wit::Outcome::Unknown);
}

/// One space every 20 ms, for ever; always in time for a limit between two bytes.
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
        self.sleep.set(tokio::time::sleep(Duration::from_millis(20)));
        self.drops.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

#[tokio::test]
async fn an_answer_that_drips_for_ever_ends_with_the_calls_time() {
    let drops = Arc::new(AtomicUsize::new(0));
    let dripping = answered("Hi", {
        let drops = Arc::clone(&drops);
        move || {
            let sleep = Box::pin(tokio::time::sleep(Duration::from_millis(20)));
            hyper::Response::new(Dripping { sleep, drops: Arc::clone(&drops) }.boxed_unsync())
        }
    });
    let error = dripping.await.unwrap_err();
    let reason = "oapi.dingtalk.com did not answer within 300 ms";
    assert_eq!(error.cause, wit::InvokeCause::Unreachable(reason.into()));
    assert_eq!(error.outcome, wit::Outcome::Unknown);
    assert!(drops.load(Ordering::Relaxed) > 1);
}
