//! Calls of one instance overlap, and are not mixed up.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dingtalk_bench::{Calls, Tenant, wit};
use futures_util::future::{join, join_all};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Barrier;

use crate::{PREPARED, create, ending, handler};

const AT_ONCE: usize = 64;

/// A robot that answers nobody before `barrier` is reached, and everybody with the code that the message names.
async fn robot(barrier: Arc<Barrier>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                let answer = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                    let barrier = Arc::clone(&barrier);
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let digits: String =
                            String::from_utf8_lossy(&body).chars().filter(char::is_ascii_digit).collect();
                        barrier.wait().await;
                        let answer = format!(r#"{{"errcode":{digits},"errmsg":"code {digits}"}}"#);
                        Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::<Bytes>::from(answer)))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    address
}

fn tenant(id: &str, address: SocketAddr) -> Tenant {
    Tenant::new(&[("id", id), ("url", &format!("http://{address}/robot/send")), ("secret", "SEC")]).unwrap()
}

#[tokio::test]
async fn calls_of_one_instance_wait_beside_each_other_and_each_has_its_own_answer() {
    // With a call at a time the first would wait for ever, and fail when its time is over.
    let address = robot(Arc::new(Barrier::new(AT_ONCE))).await;
    let mut instance = PREPARED.instance(&tenant("team", address), Calls::many(AT_ONCE)).await.unwrap();
    // Twice: what the first calls left behind must not disturb the next.
    for first in [100_000, 200_000] {
        let answers = instance
            .run(async |calling| {
                let calls =
                    (0..AT_ONCE).map(async |call| calling.invoke(create(&format!("call {}", first + call))).await);
                join_all(calls).await
            })
            .await
            .unwrap();
        for (call, answer) in answers.into_iter().enumerate() {
            match answer.unwrap().unwrap_err().cause {
                wit::InvokeCause::Rejected(rejection) => {
                    assert_eq!(usize::try_from(rejection.errcode).unwrap(), first + call);
                }
                cause => panic!("{cause:?}"),
            }
        }
        assert!(instance.holds_nothing());
    }
}

#[tokio::test]
async fn a_call_keeps_the_properties_that_it_began_with() {
    // The robot and the test: nobody is answered before the test says so.
    let barrier = Arc::new(Barrier::new(2));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let taken = handler({
        let (seen, barrier) = (Arc::clone(&seen), Arc::clone(&barrier));
        move |event: wit::Event| {
            let (seen, barrier) = (Arc::clone(&seen), Arc::clone(&barrier));
            async move {
                seen.lock().unwrap().push(String::from_utf8(event.data).unwrap());
                barrier.wait().await;
                Err(wit::HandlerError::NotReading)
            }
        }
    });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let (first, second) = (tenant("first", address), tenant("second", address));
    let mut instance = PREPARED.instance(&first.handled_by(taken), Calls::many(2)).await.unwrap();
    instance.read().await.unwrap().unwrap();
    let get = || wit::InvokeRequest { operation: "get".into(), ..create("Hi") };
    let answers = instance.run(async |calling| {
        let replace = async {
            while seen.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            calling.init(second.properties.clone()).await.unwrap().unwrap();
            let after = calling.invoke(get()).await;
            barrier.wait().await;
            after
        };
        join(calling.invoke(get()), replace).await
    });
    let (before, after) = ending(answers).await.unwrap();
    // The handler's "not reading" comes back with the name of the binding that the call was made of.
    assert_eq!(before.unwrap().unwrap_err().cause, wit::InvokeCause::NotReading("first".into()));
    // `init` ended reading, so this one never reached the handler.
    assert_eq!(after.unwrap().unwrap_err().cause, wit::InvokeCause::NotReading("second".into()));
    assert_eq!(seen.lock().unwrap().as_slice(), ["Hi"]);
}

#[tokio::test]
async fn an_instance_gives_back_what_calls_took() {
    let tenant = tenant("team", SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
    let mut instance = PREPARED.instance(&tenant, Calls::many(16)).await.unwrap();
    // 2,000 messages of 64 KiB are four times the memory that an instance may have.
    let large = format!("[1, \"{}\"]", "x".repeat(64 << 10));
    for _ in 0..125 {
        let answers = instance
            .run(async |calling| join_all((0..16).map(async |_| calling.invoke(create(&large)).await)).await)
            .await
            .unwrap();
        for answer in answers {
            let error = answer.unwrap().unwrap_err();
            assert!(matches!(error.cause, wit::InvokeCause::InvalidMessage(_)), "{error:?}");
        }
    }
    // The same for what is refused on the way out, which holds handles.
    for _ in 0..500 {
        let error = instance.invoke(create("Hi")).await.unwrap().unwrap_err();
        assert!(matches!(error.cause, wit::InvokeCause::Unreachable(_)), "{error:?}");
    }
    assert!(instance.holds_nothing());
}
