//! Callbacks over real sockets: what a receiver sees of each, byte for byte, and what the group sees of its answer.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dingtalk_binding::secret::Secret;
use dingtalk_binding::signature;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::callback::Forgery;
use super::conversation::Spoken;
use super::outgoing::Attempt;
use super::robot::RobotConfig;
use super::*;

/// A published time with its signature: github.com/eryajf/chatgpt-dingtalk 3766c24, public/tools_test.go.
const NOW: u64 = 1_684_493_546_276;
const SECRET: &str = "client-secret-for-test";
const SIGNATURE: &str = "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=";
const REPLY: &str = r#"{"msgtype":"text","text":{"content":"pong"}}"#;

/// What the receiver does with a request.
#[derive(Clone)]
enum Act {
    Answer(u16, String),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Leave,
}

fn ok(body: &str) -> Act {
    Act::Answer(200, body.to_owned())
}

/// A request as it came.
#[derive(Clone)]
struct Request {
    start: String,
    /// Names in lower case, in order.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    fn one(&self, name: &str) -> &str {
        let [value] = self.all(name)[..] else { panic!("{name}: {:?}", self.headers) };
        value
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether it carries a signature that belongs to its timestamp.
    fn verifies(&self) -> bool {
        signature::verify(SECRET, self.one("timestamp"), self.one("sign").as_bytes())
    }
}

/// A server that keeps what it gets and does what it is told, `empty` afterwards.
struct Receiver {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    acts: Arc<Mutex<VecDeque<Act>>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1.0/callback?team=a", listener.local_addr().unwrap());
        let (requests, acts) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(VecDeque::new())));
        let (kept, told) = (requests.clone(), acts.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, kept.clone(), told.clone()));
            }
        });
        Self { url, requests, acts }
    }

    fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    /// The requests so far, which are then forgotten.
    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    fn take_one(&self) -> Request {
        let mut requests = self.take();
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }
}

async fn receive(mut stream: TcpStream, kept: Arc<Mutex<Vec<Request>>>, told: Arc<Mutex<VecDeque<Act>>>) {
    let mut data = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut data).await.unwrap_or(0) == 0 {
            return;
        }
        let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(data[..end].to_vec()).unwrap();
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if data.len() >= end + 4 + length.unwrap_or(0) {
            break (head, data[end + 4..].to_vec());
        }
    };
    let (start, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.split("\r\n").map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    kept.lock().unwrap().push(Request { start: start.to_owned(), headers, body });
    let act = told.lock().unwrap().pop_front().unwrap_or_else(|| ok(r#"{"msgtype":"empty"}"#));
    match act {
        Act::Answer(status, body) => {
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        Act::Hang => drop(stream.read_u8().await),
        Act::Leave => {}
    }
}

/// A simulator whose clock stands still until it is moved, with what it showed.
struct Group {
    simulator: Simulator,
    receiver: Receiver,
    now: Arc<AtomicU64>,
    shown: Arc<Mutex<Vec<String>>>,
}

impl Group {
    async fn start() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let receiver = Receiver::start().await;
        let now = Arc::new(AtomicU64::new(NOW));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (clock, messages, people) = (now.clone(), shown.clone(), shown.clone());
        let mut config = Config {
            robot: RobotConfig { app_secret: Some(Secret::new(SECRET)), ..RobotConfig::default() },
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            on_message: Some(Arc::new(move |message| messages.lock().unwrap().push(message.shown.clone()))),
            on_said: Some(Arc::new(move |said| people.lock().unwrap().push(said.to_owned()))),
            callback: CallbackConfig {
                url: Some(receiver.url.clone()),
                // Long where an answer comes, so that no busy machine makes a test fail.
                timeout: Duration::from_secs(60),
                retries: 3,
                retry_interval: Duration::from_millis(1),
            },
            ..Config::default()
        };
        change(&mut config);
        Self { simulator: Simulator::start(config).await.unwrap(), receiver, now, shown }
    }

    async fn say(&self, say: Say) -> Said {
        self.simulator.say(say).await.unwrap()
    }

    fn shown(&self) -> Vec<String> {
        std::mem::take(&mut self.shown.lock().unwrap())
    }
}

async fn request(method: &str, url: &str, body: &str) -> (u16, Value) {
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

impl Group {
    async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        request(method, &format!("http://{}{path}", self.simulator.address()), &body.to_string()).await
    }
}

fn attempt(status: u16) -> Attempt {
    Attempt { status: Some(status), error: None }
}

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
async fn only_messages_are_shown() {
    let group = Group::start().await;
    let long = format!("{REPLY}{}", " ".repeat(20_000));
    for (answer, problem) in [
        (r#"{"msgtype":"empty"}"#, None),
        (r#"{"msgtype":"markdown","markdown":{"title":"t"}}"#, Some("400403")),
        (r#"{"msgtype":"link","link":{"title":"t","text":"x","messageUrl":"m:"}}"#, Some("400105")),
        (r#"{"msgtype":"image"}"#, Some("400105")),
        ("", Some("40035")),
        ("thanks", Some("40035")),
        (&long, Some("460101")),
    ] {
        group.receiver.will([ok(answer)]);
        let said = group.say(Say::text("x")).await;
        assert_eq!((&said.attempts[..], &said.shown), (&[attempt(200)][..], &None), "{answer}");
        match problem {
            None => assert_eq!(said.problem, None),
            Some(code) => assert!(said.problem.as_ref().unwrap().contains(code), "{said:?}"),
        }
    }
    assert!(group.simulator.messages().is_empty());
    let stats = group.simulator.stats();
    assert_eq!((stats.replies, stats.replies_refused), (0, 6));
    for answer in [
        r##"{"msgtype":"markdown","markdown":{"title":"t","text":"# x"}}"##,
        r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","singleTitle":"s","singleURL":"s:"}}"#,
        r#"{"msgtype":"feedCard","feedCard":{"links":[{"title":"t","messageURL":"m:","picURL":"p:"}]}}"#,
    ] {
        group.receiver.will([ok(answer)]);
        let said = group.say(Say::text("x")).await;
        assert!(said.shown.is_some() && said.problem.is_none(), "{said:?}");
    }
    assert_eq!(group.simulator.messages().len(), 3);
}

#[tokio::test]
async fn half_a_surrogate_pair_is_said_and_shown_as_one_replacement_character() {
    let group = Group::start().await;
    group.receiver.will([ok(r#"{"msgtype":"text","text":{"content":"\udc00"}}"#)]);
    let (status, said) =
        request("POST", &format!("http://{}/say", group.simulator.address()), r#"{"text":"a\ud800"}"#).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["reply"]["text"]["content"], "\u{fffd}");
    assert_eq!(group.receiver.take_one().json()["text"]["content"], " a\u{fffd}");
    assert_eq!(group.shown(), ["[Zhang San] text\n    a\u{fffd}", "[simulated robot] text\n    \u{fffd}"]);
}

#[tokio::test]
async fn a_copy_is_sent_and_shown_once() {
    let group = Group::start().await;
    group.receiver.will([ok(REPLY), ok(REPLY)]);
    let first = group.say(Say::text("x")).await;
    let again = group.say(Say { msg_id: Some(first.msg_id.clone()), ..Say::text("x") }).await;
    assert_eq!((again.msg_id, again.reply, again.shown), (first.msg_id.clone(), first.reply, None));
    assert!(again.problem.unwrap().contains("shown before"));
    assert!(group.receiver.take().iter().all(|request| request.json()["msgId"] == json!(first.msg_id)));
    assert_eq!(group.shown().len(), 2);
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
async fn a_session_takes_messages_until_it_expires() {
    let group = Group::start().await;
    group.say(Say::text("x")).await;
    let body = group.receiver.take_one().json();
    let webhook = body["sessionWebhook"].as_str().unwrap();
    let base = format!("http://{}/robot/sendBySession?session=", group.simulator.address());
    assert!(webhook.starts_with(&base), "{webhook}");
    group.shown();
    let posted = request("POST", webhook, REPLY).await;
    assert_eq!(posted, (200, json!({"errcode": 0, "errmsg": "ok"})));
    assert_eq!(group.shown(), ["[simulated robot] text\n    pong"]);
    assert_eq!(group.simulator.messages()[0].via, Via::Session);
    let (_, refused) = request("POST", webhook, r#"{"msgtype":"empty"}"#).await;
    assert_eq!(refused["errcode"], 400_105);
    let gone = json!({"errcode": 300_001, "errmsg": "session 不存在"});
    assert_eq!(request("POST", &format!("{base}0123"), REPLY).await, (200, gone.clone()));
    group.now.fetch_add(5_399_999, Ordering::Relaxed);
    assert_eq!(request("POST", webhook, REPLY).await.1["errcode"], 0);
    group.now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(request("POST", webhook, REPLY).await, (200, gone));
    assert_eq!(group.simulator.stats().rejected, [(300_001, 2), (400_105, 1)].into());
    // Faults strike here too.
    group.simulator.set_fault(Fault::Status(503), Times::ONCE);
    assert_eq!(request("POST", webhook, REPLY).await.0, 503);
}

#[tokio::test]
async fn what_cannot_be_said_says_what_to_do() {
    let group = Group::with(|config| config.callback.url = None).await;
    let hello = json!({"text": "hello"});
    let (status, answer) = group.control("POST", "/say", hello.clone()).await;
    assert!(status == 409 && answer["error"].as_str().unwrap().contains("--callback-url"), "{status} {answer}");
    let (status, answer) = group.control("PUT", "/callback-url", json!({"url": "ftp://x"})).await;
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("http://"), "{status} {answer}");
    assert_eq!(group.control("PUT", "/callback-url", json!({"uri": "x"})).await.0, 400);
    assert_eq!(group.control("PUT", "/callback-url", json!({"url": group.receiver.url})).await.0, 204);
    assert_eq!(group.control("POST", "/say", hello.clone()).await.0, 200);
    for (order, reason) in [
        (json!({"text": 1}), "invalid type"),
        (json!({"txet": "x"}), "unknown field"),
        (json!({"text": "x", "wait": "no"}), "invalid type"),
        (json!({"audio": {}, "conversationType": "2"}), "only in 1:1"),
        (json!([]), "invalid type"),
    ] {
        let (status, answer) = group.control("POST", "/say", order.clone()).await;
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(reason), "{order}: {status} {answer}");
    }
    assert_eq!(group.control("GET", "/say", hello.clone()).await.0, 405);
    assert_eq!(group.control("POST", "/callback-url", hello.clone()).await.0, 405);
    assert_eq!(group.control("PUT", "/callback-url", json!({"url": null})).await.0, 204);
    assert_eq!(group.control("POST", "/say", hello).await.0, 409);
    assert_eq!(group.receiver.take().len(), 1);

    let unsigned = Group::with(|config| config.robot.app_secret = None).await;
    assert_eq!(unsigned.simulator.say(Say::text("x")).await, Err(Unsaid::NoCredentials));
    let too_long = Say { sender_nick: "x".repeat(257), ..Say::text("x") };
    assert!(matches!(group.simulator.say(too_long).await, Err(Unsaid::Order(_))));
}

#[tokio::test]
async fn nobody_has_to_wait() {
    let group = Group::start().await;
    group.receiver.will([Act::Hang, ok(REPLY)]);
    let (status, answer) = group.control("POST", "/say", json!({"text": "x", "wait": false})).await;
    assert_eq!(status, 202);
    until(|| group.receiver.requests.lock().unwrap().len() == 1).await;
    assert_eq!(group.receiver.take_one().json()["msgId"], answer["msgId"]);
    // The second is answered while the first still hangs.
    assert_eq!(group.control("POST", "/say", json!({"text": "x", "wait": false})).await.0, 202);
    until(|| group.simulator.stats().replies == 1).await;
}

#[tokio::test]
async fn callbacks_end_with_the_simulator() {
    for stop in [true, false] {
        let group = Group::start().await;
        group.receiver.will([Act::Hang, Act::Hang]);
        let alive = Arc::downgrade(&group.simulator.shared);
        assert_eq!(group.control("POST", "/say", json!({"text": "x", "wait": false})).await.0, 202);
        let url = format!("http://{}/say", group.simulator.address());
        let waiting = tokio::spawn(async move {
            let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
            let order = http::Request::post(url).body(Full::from(r#"{"text":"x"}"#)).unwrap();
            client.request(order).await.map(|answer| answer.status().as_u16())
        });
        until(|| group.receiver.requests.lock().unwrap().len() == 2).await;
        if stop {
            group.simulator.stop().await;
            assert_eq!(waiting.await.unwrap().unwrap(), 503);
        } else {
            drop(group.simulator);
            assert!(waiting.await.unwrap().is_err());
        }
        until(|| alive.strong_count() == 0).await;
    }
}

#[tokio::test]
async fn only_so_many_callbacks_are_on_their_way() {
    let group = Group::start().await;
    group.receiver.will(vec![Act::Hang; 64]);
    for _ in 0..64 {
        assert_eq!(group.control("POST", "/say", json!({"text": "x", "wait": false})).await.0, 202);
    }
    let (status, answer) = group.control("POST", "/say", json!({"text": "x", "wait": false})).await;
    assert!(status == 503 && answer["error"].as_str().unwrap().contains("too many"), "{status} {answer}");
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
async fn receivers_over_https_are_verified() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let tls = Some(Tls { certificates: cert.pem().into(), key: Secret::new(signing_key.serialize_pem()) });
    let other = Simulator::start(Config { tls, ..Config::default() }).await.unwrap();
    let group = Group::with(|config| config.callback.retries = 0).await;
    group.simulator.set_callback_url(&format!("https://localhost:{}/", other.address().port())).unwrap();
    let said = group.say(Say::text("x")).await;
    let error = said.attempts[0].error.clone().unwrap();
    assert!(error.starts_with("no connection: ") && error.contains("certificate"), "{error}");
    assert!(other.messages().is_empty());

    // A callback with a text also has the shape of a message, and so a simulator can stand in for a receiver.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let trusting = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = other.url().replace("127.0.0.1", "localhost");
    let receiver = super::receiver::Receiver::with(&url, |_| trusting).unwrap();
    super::shared::lock(&group.simulator.shared.callbacks).receiver = Some(Arc::new(receiver));
    let said = group.say(Say::text("x")).await;
    assert_eq!((&said.attempts[..], other.messages().len()), (&[attempt(200)][..], 1));
}

#[tokio::test]
async fn impossible_callbacks_do_not_start() {
    let callback = CallbackConfig { url: Some("ftp://x".into()), ..CallbackConfig::default() };
    let error = Simulator::start(Config { callback, ..Config::default() }).await.unwrap_err().to_string();
    assert!(error.starts_with("callbacks cannot be set up: the callback URL begins with http://"), "{error}");
    let callback = CallbackConfig { timeout: Duration::ZERO, ..CallbackConfig::default() };
    assert!(Simulator::start(Config { callback, ..Config::default() }).await.is_err());
}

/// Polls, because what is waited for happens in another task; fails rather than waiting for ever.
async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), met).await.unwrap();
}
