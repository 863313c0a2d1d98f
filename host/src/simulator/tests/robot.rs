//! The robot at its address: what it answers, keeps, shows and counts of what is sent to it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dingtalk_binding::answer::{self, Answer};
use dingtalk_binding::endpoint::{Endpoint, SentSignature};
use dingtalk_binding::error::{InvokeCause, SecurityCheck};
use dingtalk_binding::signature::Signer;

use super::*;
use crate::clock::Clock;

#[tokio::test]
async fn a_message_is_answered_kept_and_shown() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    let simulator = Simulator::start(Config {
        clock: Arc::new(|| 1_700_000_000_000),
        on_message: Some(Arc::new(move |message| sink.lock().unwrap().push(message.shown.clone()))),
        ..Config::default()
    })
    .await
    .unwrap();
    let body = r#"{ "msgtype":"text", "text":{"content":"\u4f60\n@1"}, "at":{"atMobiles":["1"]}, "msgUuid":"u-1" }"#;
    for _ in 0..2 {
        let (status, head, answer) = split(&raw(&simulator, &post(SEND, body)).await.unwrap());
        assert_eq!((status, answer.as_str()), (200, OK));
        assert!(head.contains("content-type: application/json"), "{head}");
    }
    let shown = "[simulated robot] text\n    你\n    @1\n    mentions @1";
    assert_eq!(*seen.lock().unwrap(), [shown]);
    let messages = simulator.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].message.get(), body);
    let (status, listed) = request("GET", &simulator, "/messages", "").await;
    let expected = json!([{"sequence": 1, "receivedAt": 1_700_000_000_000_u64, "via": "webhook", "msgtype": "text",
        "message": serde_json::from_str::<Value>(body).unwrap(), "msgUuid": "u-1", "shown": shown, "signed": false}]);
    assert_eq!((status, listed), (200, expected));
    let listed =
        raw(&simulator, "GET /messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(listed.contains(body), "as written: {listed}");

    assert_eq!(request("DELETE", &simulator, "/messages", "").await.0, 204);
    assert!(simulator.messages().is_empty());
    assert_eq!(send(&simulator).await.2, OK);
    assert_eq!(simulator.messages()[0].sequence, 2);
}

#[tokio::test]
async fn a_signed_request_of_the_binding_is_accepted() {
    let now = Arc::new(AtomicU64::new(1_700_000_000_000));
    let clock = now.clone();
    let secret = Secret::new("SECabc");
    let robot = RobotConfig { secret: Some(secret.clone()), access_token: Secret::new("a b+c"), ..Default::default() };
    let clock: Clock = Arc::new(move || clock.load(Ordering::Relaxed));
    let simulator = Simulator::start(Config { robot, clock, ..Config::default() }).await.unwrap();
    let endpoint = Endpoint::parse(&simulator.url()).unwrap();
    let target = endpoint.target(Some(&SentSignature::new(&Signer::new(secret.expose()), 1_700_000_000_000)));
    let (_, _, body) = split(&raw(&simulator, &post(&target, TEXT)).await.unwrap());
    assert_eq!(body, OK);
    assert!(simulator.messages()[0].signed);

    let classify = |body: String| {
        answer::classify(&Answer { status: 200, body: body.into_bytes(), complete: true }, str::to_owned).unwrap_err()
    };
    now.fetch_add(3_600_001, Ordering::Relaxed);
    let (_, _, body) = split(&raw(&simulator, &post(&target, TEXT)).await.unwrap());
    match classify(body) {
        InvokeCause::Rejected(rejection) => assert_eq!(rejection.check, Some(SecurityCheck::Timestamp)),
        other => panic!("{other:?}"),
    }
    let (_, _, body) = split(&raw(&simulator, &post(&endpoint.target(None), TEXT)).await.unwrap());
    match classify(body) {
        InvokeCause::Rejected(rejection) => assert_eq!(rejection.check, Some(SecurityCheck::Signature)),
        other => panic!("{other:?}"),
    }
    assert_eq!(simulator.stats().rejected, [(310_000, 2)].into());
}

#[tokio::test]
async fn connections_and_requests_are_counted() {
    let simulator = start().await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    for body in [TEXT, TEXT, "x"] {
        let request = http::Request::post(simulator.url()).header("content-type", "application/json");
        let answer = client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(simulator.connections(), 1);
    raw(&simulator, "GET /robot/send HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let (status, stats) = request("GET", &simulator, "/stats", "").await;
    let expected = json!({"connections": 3, "requests": 4, "accepted": 2, "repeated": 0, "faults": 0,
        "rejected": {"40035": 1, "43002": 1}, "callbacks": 0, "callbackAttempts": 0, "callbackRefused": 0,
        "replies": 0, "repliesRefused": 0});
    assert_eq!((status, stats), (200, expected));
}

#[tokio::test]
async fn other_paths_and_methods_are_explained() {
    let simulator = start().await;
    for (method, path, status) in
        [("GET", "/", 404), ("POST", "/robot/send/", 404), ("POST", "/messages", 405), ("GET", "/fault", 405)]
    {
        let (found, answer) = request(method, &simulator, path, "").await;
        assert_eq!(found, status, "{method} {path}");
        assert!(answer["error"].is_string(), "{answer}");
    }
    assert_eq!(simulator.stats().requests, 0);
}
