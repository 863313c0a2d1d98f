//! Callbacks as a receiver sees them, genuine and forged, and how often they are sent.

use std::sync::atomic::{AtomicU64, Ordering};

use dingtalk_binding::signature;

use super::group::{Act, Group, NOW, REPLY, Request, SECRET, SIGNATURE, attempt, ok};
use super::*;
use crate::simulator::callback::Forgery;
use crate::simulator::conversation::Spoken;
use crate::simulator::outgoing::Attempt;

#[tokio::test]
async fn a_callback_is_dingtalks_to_the_header() {
    let group = Group::start().await;
    group.receiver.will([ok(REPLY)]);
    let (status, said) = group.control("POST", "/say", json!({"text": "ping"})).await;
    let callback = group.receiver.take_one();
    assert_eq!(callback.start, "POST /v1.0/callback?team=a HTTP/1.1");
    assert_eq!(callback.one("content-type"), "application/json; charset=utf-8");
    assert_eq!((callback.one("timestamp"), callback.one("sign")), ("1684493546276", SIGNATURE));
    assert!(callback.all("token").is_empty());
    let body = callback.json();
    assert_eq!((&body["text"], &body["createAt"]), (&json!({"content": " ping"}), &json!(NOW)));
    assert_eq!(body["sessionWebhookExpiredTime"], json!(NOW + 5_400_000));

    let shown = "[simulated robot] text\n    pong";
    let reply: Value = serde_json::from_str(REPLY).unwrap();
    let expected = json!({"msgId": body["msgId"], "attempts": [{"status": 200, "error": null}], "reply": reply,
        "shown": shown, "problem": null});
    assert_eq!((status, said), (200, expected));
    assert_eq!(group.shown(), ["[Zhang San] text\n    ping", shown]);
    let messages = group.simulator.messages();
    assert_eq!((messages.len(), messages[0].via, messages[0].message.get()), (1, Via::Reply, REPLY));
    assert_eq!(serde_json::to_value(&messages[0]).unwrap()["via"], "reply");
    let Stats { callbacks, callback_attempts, callback_refused, replies, accepted, .. } = group.simulator.stats();
    assert_eq!((callbacks, callback_attempts, callback_refused, replies, accepted), (1, 1, 0, 1, 0));
}

#[tokio::test]
async fn a_custom_robot_sends_its_token() {
    let group = Group::with(|config| {
        config.robot.app_secret = None;
        config.robot.secret = Some(Secret::new("SECx"));
        config.robot.outgoing_token = Some(Secret::new("T0KEN"));
    })
    .await;
    group.say(Say::text("x")).await;
    let callback = group.receiver.take_one();
    assert_eq!(callback.one("token"), "T0KEN");
    assert!(callback.all("sign").is_empty() && callback.all("timestamp").is_empty());
    let error = group.simulator.say(Say::text("x").forged(Forgery::Seconds)).await.unwrap_err();
    assert!(error.to_string().contains("--app-secret"), "{error}");
}

#[tokio::test]
async fn every_type_arrives() {
    let group = Group::start().await;
    let content = serde_json::Map::new;
    for (spoken, msgtype) in [
        (Spoken::RichText(vec![json!({"text": "a"})]), "richText"),
        (Spoken::Picture(content()), "picture"),
        (Spoken::Audio(content()), "audio"),
        (Spoken::Video(content()), "video"),
        (Spoken::File(content()), "file"),
    ] {
        group.say(Say::new(spoken)).await;
        assert_eq!(group.receiver.take_one().json()["msgtype"], msgtype);
    }
    group.say(Say::new(Spoken::Quota)).await;
    assert_eq!(group.receiver.take_one().json()["errorCode"], 20_001);
    assert_eq!(group.shown().len(), 5, "nobody says the notice");
}

#[tokio::test]
async fn another_attempt_is_the_same_message_signed_anew() {
    let group = Group::with(|config| {
        // Every look at the clock is a second later.
        let now = AtomicU64::new(NOW);
        config.clock = Arc::new(move || now.fetch_add(1_000, Ordering::Relaxed));
    })
    .await;
    group.receiver.will([Act::Leave, Act::Answer(503, "busy".into()), Act::Answer(429, String::new()), ok(REPLY)]);
    let said = group.say(Say::text("x")).await;
    let requests = group.receiver.take();
    assert_eq!(requests.len(), 4);
    let mut timestamps: Vec<&str> = requests.iter().map(|request| request.one("timestamp")).collect();
    timestamps.dedup();
    assert_eq!(timestamps.len(), 4);
    for request in &requests {
        assert!(request.verifies());
        assert_eq!((&request.body, &request.json()["msgId"]), (&requests[0].body, &json!(said.msg_id)));
    }
    assert_eq!(
        said.attempts.iter().map(|attempt| attempt.status).collect::<Vec<_>>(),
        [None, Some(503), Some(429), Some(200)]
    );
    assert!(said.attempts[0].error.as_ref().unwrap().starts_with("no answer: "), "{said:?}");
    assert_eq!(said.attempts[1].error.as_deref(), Some("failed: busy"));
    assert_eq!(said.shown.as_deref(), Some("[simulated robot] text\n    pong"));
    assert_eq!(group.shown().len(), 2, "said once, answered once");
    let stats = group.simulator.stats();
    assert_eq!((stats.callbacks, stats.callback_attempts, stats.callback_refused), (1, 4, 0));
}

#[tokio::test]
async fn patience_ends() {
    let group = Group::with(|config| {
        config.callback.timeout = Duration::from_millis(300);
        config.callback.retries = 1;
    })
    .await;
    group.receiver.will([Act::Hang, Act::Hang]);
    let said = group.say(Say::text("x")).await;
    let timed_out = Attempt { status: None, error: Some("no answer within 300ms".into()) };
    assert_eq!((said.attempts, said.reply, said.shown), (vec![timed_out.clone(), timed_out], None, None));
    assert_eq!(group.receiver.take().len(), 2);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    group.simulator.set_callback_url(&format!("http://{free}/S3CR3T")).unwrap();
    let said = group.say(Say::text("x")).await;
    let error = said.attempts[0].error.clone().unwrap();
    assert!(error.starts_with("no connection: ") && !error.contains("S3CR3T"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_final_and_repeats_no_secret() {
    let group = Group::start().await;
    group.receiver.will([Act::Answer(403, format!("no {SIGNATURE}\n{SECRET}")), Act::Answer(302, String::new())]);
    let said = group.say(Say::text("x")).await;
    let expected = Attempt { status: Some(403), error: Some("refused: no [redacted] [redacted]".into()) };
    assert_eq!(said.attempts, [expected]);
    let said = group.say(Say::text("x")).await;
    assert_eq!(said.attempts.len(), 1, "redirects are not followed: {said:?}");
    assert_eq!((group.receiver.take().len(), group.simulator.stats().callback_refused), (2, 2));
}

#[tokio::test]
async fn forgeries_look_as_documented() {
    let group = Group::start().await;
    group.receiver.will([Act::Answer(200, String::new())]);
    for forgery in [Forgery::Replay, Forgery::SwappedBody] {
        let error = group.simulator.say(Say::text("x").forged(forgery)).await.unwrap_err();
        assert_eq!(error, Unsaid::NoPrevious(forgery));
    }
    group.say(Say::text("genuine")).await;
    let genuine = group.receiver.take_one();
    group.now.fetch_add(60_000, Ordering::Relaxed);
    group.shown();
    let time = (NOW + 60_000).to_string();
    let fresh = signature::sign(SECRET, NOW + 60_000);
    for forgery in Forgery::ALL {
        group.receiver.will([Act::Answer(403, String::new())]);
        let said = group.say(Say { size: 5_000, ..Say::text("forged").forged(forgery) }).await;
        assert_eq!(said.attempts[0].status, Some(403), "{forgery}");
        let request = group.receiver.take_one();
        let text = |request: &Request| request.json()["text"]["content"].as_str().unwrap().to_owned();
        match forgery {
            Forgery::WrongKey => assert!(request.one("timestamp") == time && !request.verifies()),
            Forgery::OldTimestamp => {
                assert!(request.one("timestamp") == (NOW + 60_000 - 3_660_000).to_string() && request.verifies());
            }
            Forgery::FutureTimestamp => {
                assert!(request.one("timestamp") == (NOW + 60_000 + 3_660_000).to_string() && request.verifies());
            }
            Forgery::Replay => {
                assert!(request.headers == genuine.headers && request.body == genuine.body);
                assert_eq!(json!(said.msg_id), genuine.json()["msgId"]);
            }
            Forgery::RepeatedTimestamp => assert_eq!(request.all("timestamp"), [&time, &time]),
            Forgery::RepeatedSign => assert_eq!(request.all("sign"), [&fresh, &fresh]),
            Forgery::SwappedBody => {
                assert!(request.one("timestamp") == genuine.one("timestamp") && request.verifies());
                assert_eq!(text(&request), " forged");
                assert_ne!(request.json()["msgId"], genuine.json()["msgId"]);
            }
            Forgery::OversizedBody => assert!(request.body.len() == 5_000 && request.verifies()),
            Forgery::Unsigned => {
                assert!(["timestamp", "sign", "token"].iter().all(|name| request.all(name).is_empty()));
            }
            Forgery::Seconds => {
                assert!(request.one("timestamp") == (NOW / 1_000 + 60).to_string() && request.verifies());
            }
            Forgery::WrongRobot => {
                assert!(request.json()["robotCode"] == "another-robot" && request.verifies());
            }
            Forgery::TruncatedBody | Forgery::NotJson => {
                assert!(serde_json::from_slice::<Value>(&request.body).is_err() && request.verifies());
                assert_eq!(request.one("content-length"), request.body.len().to_string());
            }
            Forgery::WrongContentType => assert!(request.one("content-type").starts_with("text/plain")),
            Forgery::UnpaddedSign => assert_eq!(request.one("sign"), fresh.trim_end_matches('=')),
            Forgery::LowerCaseSign => assert_eq!(request.one("sign"), fresh.to_lowercase()),
        }
    }
    assert!(group.shown().is_empty(), "nobody in the group says a forgery");

    // The exact border, and a receiver that falls for a forgery.
    group.receiver.will([ok(REPLY)]);
    let (status, said) =
        group.control("POST", "/say", json!({"text": "x", "forge": "old-timestamp", "skewMs": 3_600_000})).await;
    assert_eq!(group.receiver.take_one().one("timestamp"), (NOW + 60_000 - 3_600_000).to_string());
    assert_eq!((status, &said["shown"]), (200, &Value::Null));
    assert!(said["problem"].as_str().unwrap().contains("the receiver took old-timestamp"), "{said}");
    // The last genuine callback is still the one to make forgeries of.
    group.say(Say::text("x").forged(Forgery::Replay)).await;
    assert!(group.receiver.take_one().body == genuine.body);
}

#[tokio::test]
async fn receivers_over_https_are_verified() {
    let (tls, trusting) = secured();
    let other = Simulator::start(Config { tls: Some(tls), ..Config::default() }).await.unwrap();
    let group = Group::with(|config| config.callback.retries = 0).await;
    group.simulator.set_callback_url(&format!("https://localhost:{}/", other.address().port())).unwrap();
    let said = group.say(Say::text("x")).await;
    let error = said.attempts[0].error.clone().unwrap();
    assert!(error.starts_with("no connection: ") && error.contains("certificate"), "{error}");
    assert!(other.messages().is_empty());

    // A callback with a text also has the shape of a message, and so a simulator can stand in for a receiver.
    let url = other.url().replace("127.0.0.1", "localhost");
    let receiver = Receiver::with(&url, |_| Ok(trusting)).unwrap();
    shared::lock(&group.simulator.shared.callbacks).receiver = Some(Arc::new(receiver));
    let said = group.say(Say::text("x")).await;
    assert_eq!((&said.attempts[..], other.messages().len()), (&[attempt(200)][..], 1));
}
