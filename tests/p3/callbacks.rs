//! Callbacks: genuine ones reach the handler, forged ones nobody.

use std::sync::{Arc, Mutex};

use dingtalk_bench::{Calls, Tenant, wit};
use futures_util::future::join_all;
use tokio::sync::Barrier;

use crate::{PREPARED, ending, handler};

/// A signature that another implementation made.
const SECRET: &str = "client-secret-for-test";
const TIME: u64 = 1_684_493_546_276;
const SIGN: &str = "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=";

const BODY: &str = r#"{"msgId":"m1","msgtype":"text","text":{"content":" ping "},"conversationType":"2"}"#;
const REPLY: &str = r#"{"msgtype":"text","text":{"content":"pong"}}"#;

fn tenant() -> Tenant {
    let properties = [("id", "team"), ("url", "http://127.0.0.1:1"), ("appSecret", SECRET)];
    Tenant::new(&properties).unwrap().at(Arc::new(|| TIME))
}

fn callback(sign: Option<&str>) -> wit::Callback {
    let time = TIME.to_string();
    let headers = [("Content-Type", "application/json"), ("timestamp", &time)];
    let headers = headers.into_iter().chain(sign.map(|sign| ("sign", sign)));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect();
    wit::Callback { headers, body: BODY.into() }
}

#[tokio::test]
async fn a_genuine_callback_reaches_the_handler_and_a_forged_one_does_not() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let tenant = tenant().handled_by(handler({
        let taken = Arc::clone(&taken);
        move |event| {
            taken.lock().unwrap().push(event);
            async { Ok(Some(REPLY.into())) }
        }
    }));
    let mut instance = PREPARED.instance(&tenant, Calls::many(1)).await.unwrap();
    let genuine = || callback(Some(SIGN));

    let early = instance.receive(genuine()).await.unwrap();
    assert_eq!(early.unwrap_err(), wit::ReceiveError::NotReading("team".into()));
    instance.read().await.unwrap().unwrap();
    let other = SIGN.replace('n', "m");
    for (sign, refusal) in [(Some(other.as_str()), wit::Refusal::BadSignature), (None, wit::Refusal::Unsigned)] {
        let refused = instance.receive(callback(sign)).await.unwrap();
        assert_eq!(refused.unwrap_err(), wit::ReceiveError::Refused(refusal));
    }
    assert!(taken.lock().unwrap().is_empty());

    let reply = instance.receive(genuine()).await.unwrap().unwrap();
    assert_eq!((reply.status, reply.content_type.as_str()), (200, "application/json"));
    assert_eq!(reply.body, REPLY.as_bytes());
    let taken = taken.lock().unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].id, "team");
    assert_eq!(taken[0].data, BODY.as_bytes());
    assert!(taken[0].metadata.contains(&("text".to_owned(), "ping".to_owned())), "{:?}", taken[0].metadata);
}

#[tokio::test]
async fn callbacks_wait_for_their_handlers_beside_each_other() {
    const AT_ONCE: usize = 8;
    let barrier = Arc::new(Barrier::new(AT_ONCE));
    let tenant = tenant().handled_by(handler(move |_| {
        let barrier = Arc::clone(&barrier);
        async move {
            barrier.wait().await;
            Err(wit::HandlerError::Failed("no".into()))
        }
    }));
    let mut instance = PREPARED.instance(&tenant, Calls::many(AT_ONCE)).await.unwrap();
    instance.read().await.unwrap().unwrap();
    let answers = instance
        .run(async |calling| join_all((0..AT_ONCE).map(async |_| calling.receive(callback(Some(SIGN))).await)).await);
    let answers = ending(answers).await.unwrap();
    for answer in answers {
        assert_eq!(answer.unwrap().unwrap_err(), wit::ReceiveError::HandlerFailed("no".into()));
    }
}
