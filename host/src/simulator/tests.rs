//! The simulator over real sockets: what a client sees of each fault, byte for byte, and what the group sees.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_binding::answer::{self, Answer};
use dingtalk_binding::endpoint::{Endpoint, SentSignature};
use dingtalk_binding::error::{AnswerError, Error as BindingError, RejectionClass, SecurityCheck};
use dingtalk_binding::secret::Secret;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::robot::RobotConfig;
use super::*;
use crate::clock::Clock;

const TEXT: &str = r#"{"msgtype":"text","text":{"content":"hello"}}"#;
const OK: &str = r#"{"errcode":0,"errmsg":"ok"}"#;

async fn start() -> Simulator {
    Simulator::start(Config::default()).await.unwrap()
}

/// A request on a connection of its own, and everything that comes back until the connection ends.
async fn raw(simulator: &Simulator, request: &str) -> io::Result<String> {
    exchange(TcpStream::connect(simulator.address()).await.unwrap(), request).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: robot.test\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const SEND: &str = "/robot/send?access_token=simulated-access-token";

/// Status line, headers in lower case, body.
fn split(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

async fn send(simulator: &Simulator) -> (u16, String, String) {
    split(&raw(simulator, &post(SEND, TEXT)).await.unwrap())
}

/// Sends on a pooled connection, as a client does.
async fn request(method: &str, simulator: &Simulator, path: &str, body: &str) -> (u16, Value) {
    let url = format!("http://{}{path}", simulator.address());
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

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
    let listed = raw(&simulator, "GET /messages HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
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
    let target = endpoint.target(Some(&SentSignature::new(&secret, 1_700_000_000_000)));
    let (_, _, body) = split(&raw(&simulator, &post(&target, TEXT)).await.unwrap());
    assert_eq!(body, OK);
    assert!(simulator.messages()[0].signed);

    let classify = |body: String| {
        answer::classify(&Answer { status: 200, body: body.into_bytes(), complete: true }, str::to_owned).unwrap_err()
    };
    now.fetch_add(3_600_001, Ordering::Relaxed);
    let (_, _, body) = split(&raw(&simulator, &post(&target, TEXT)).await.unwrap());
    match classify(body) {
        BindingError::Rejected(rejection) => assert_eq!(rejection.check, Some(SecurityCheck::Timestamp)),
        other => panic!("{other:?}"),
    }
    let (_, _, body) = split(&raw(&simulator, &post(&endpoint.target(None), TEXT)).await.unwrap());
    match classify(body) {
        BindingError::Rejected(rejection) => assert_eq!(rejection.check, Some(SecurityCheck::Signature)),
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

#[tokio::test]
async fn a_body_beyond_all_limits_is_not_read_on() {
    let simulator = start().await;
    let (status, _, _) = split(&raw(&simulator, &post(SEND, &" ".repeat(1024 * 1024 + 1))).await.unwrap());
    assert_eq!(status, 413);
    let (status, _, body) = split(&raw(&simulator, &post(SEND, &" ".repeat(1024 * 1024))).await.unwrap());
    assert!(status == 200 && body.contains("460101"), "{status} {body}");
}

#[tokio::test]
async fn a_fault_lasts_as_long_as_ordered() {
    let simulator = start().await;
    let order = async |order: &str| request("PUT", &simulator, "/fault", order).await;
    assert_eq!(order(r#"{"fault":"status=503","times":2}"#).await.0, 204);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(send(&simulator).await.0);
    }
    assert_eq!(statuses, [503, 503, 200]);
    assert_eq!(order(r#"{"fault":"status=500","times":"always"}"#).await.0, 204);
    assert_eq!((send(&simulator).await.0, send(&simulator).await.0), (500, 500));
    assert_eq!(order(r#"{"fault":null}"#).await.0, 204);
    assert_eq!(send(&simulator).await.0, 200);
    assert_eq!(order(r#"{"fault":"html"}"#).await.0, 204);
    assert!(send(&simulator).await.2.starts_with('<'));
    assert_eq!(send(&simulator).await.2, OK);
    simulator.set_fault(Fault::Empty, Times::Always);
    simulator.clear_fault();
    assert_eq!(send(&simulator).await.2, OK);
    for (wrong, reason) in [
        ("", "write for example"),
        (r#"{"fault":"flood"}"#, "there are delay=DURATION"),
        (r#"{"fault":"html","times":0}"#, "a number from 1"),
        (r#"{"fault":"html","time":1}"#, "unknown field"),
    ] {
        let (status, answer) = order(wrong).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    }
    assert_eq!(simulator.stats().faults, 5);
}

/// Answers in front of the robot: the group sees nothing.
#[tokio::test]
async fn answers_that_are_no_results() {
    let simulator = start().await;
    for (fault, expected) in [
        (Fault::Html, AnswerError::Html),
        (Fault::Throttled, AnswerError::Throttled(Duration::from_secs(300))),
        (Fault::Status(500), AnswerError::Status(500)),
        (Fault::Status(204), AnswerError::Status(204)),
        (Fault::Redirect("https://elsewhere/".into()), AnswerError::Status(307)),
        (Fault::Oversized, AnswerError::Oversized(65_536)),
        (Fault::Empty, AnswerError::Malformed("it is empty".into())),
        (Fault::MissingErrcode, AnswerError::MissingErrcode),
    ] {
        simulator.set_fault(fault.clone(), Times::ONCE);
        let (status, head, body) = send(&simulator).await;
        let answer = Answer { status, body: body.into_bytes(), complete: true };
        assert_eq!(answer::classify(&answer, str::to_owned), Err(BindingError::UnexpectedAnswer(expected)), "{fault}");
        match fault {
            Fault::Html => assert!(head.contains("content-type: text/html")),
            Fault::Redirect(_) => assert!(head.contains("location: https://elsewhere/")),
            _ => {}
        }
    }
    assert!(simulator.messages().is_empty());
    assert_eq!(simulator.stats().accepted, 0);
}

#[tokio::test]
async fn refusals_on_request() {
    let simulator = start().await;
    simulator.set_fault("rejected=-1:系统繁忙".parse().unwrap(), Times::ONCE);
    let (status, _, body) = send(&simulator).await;
    assert_eq!((status, body.as_str()), (200, r#"{"errcode":-1,"errmsg":"系统繁忙"}"#));
    let answer = Answer { status, body: body.into_bytes(), complete: true };
    match answer::classify(&answer, str::to_owned) {
        Err(BindingError::Rejected(rejection)) => assert_eq!(rejection.class, RejectionClass::Busy),
        other => panic!("{other:?}"),
    }
    simulator.set_fault(Fault::Echo, Times::ONCE);
    let (_, _, body) = split(&raw(&simulator, &post(&format!("{SEND}&timestamp=1&sign=a%2Bb"), TEXT)).await.unwrap());
    let body: Value = serde_json::from_str(&body).unwrap();
    let expected = format!("不合法的参数 http://robot.test{SEND}&timestamp=1&sign=a%2Bb {TEXT}");
    assert_eq!(body, json!({"errcode": 40_035, "errmsg": expected}));
    assert!(simulator.messages().is_empty());
}

/// Faults behind the robot: the group sees the message, and whoever repeats it by `msgUuid` does no harm.
#[tokio::test]
async fn lost_answers_do_not_lose_the_message() {
    let simulator = start().await;
    let once = r#"{"msgtype":"text","text":{"content":"once"},"msgUuid":"u"}"#;

    simulator.set_fault(Fault::Reset, Times::ONCE);
    let error = raw(&simulator, &post(SEND, once)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(simulator.messages().len(), 1);

    simulator.set_fault(Fault::HalfBody, Times::ONCE);
    let (status, head, body) = split(&raw(&simulator, &post(SEND, once)).await.unwrap());
    assert!(head.contains(&format!("content-length: {}", OK.len())), "{head}");
    assert_eq!((status, body.as_str()), (200, &OK[..OK.len() / 2]));

    simulator.set_fault(Fault::StringErrcode, Times::ONCE);
    let (_, _, body) = split(&raw(&simulator, &post(SEND, once)).await.unwrap());
    assert_eq!(body, r#"{"errcode":"0","errmsg":"ok"}"#);
    assert_eq!((simulator.messages().len(), simulator.stats().repeated), (1, 2));

    simulator.set_fault(Fault::HalfBody, Times::ONCE);
    let (_, _, body) = send(&simulator).await;
    assert_eq!((body.as_str(), simulator.messages().len()), (&OK[..OK.len() / 2], 2));

    // What the robot refuses is lost in the same way, and not shown.
    simulator.set_fault(Fault::Reset, Times::ONCE);
    assert!(raw(&simulator, &post(SEND, "{}")).await.is_err());
    simulator.set_fault(Fault::StringErrcode, Times::ONCE);
    let (_, _, body) = split(&raw(&simulator, &post(SEND, "{}")).await.unwrap());
    assert_eq!(body, r#"{"errcode":"40035","errmsg":"缺少参数 msgtype"}"#);
    assert_eq!(simulator.messages().len(), 2);
}

#[tokio::test]
async fn a_delayed_answer_comes_after_the_message() {
    let simulator = start().await;
    simulator.set_fault(Fault::Delay(Duration::from_millis(50)), Times::ONCE);
    let sent = Instant::now();
    assert_eq!(send(&simulator).await.2, OK);
    assert!(sent.elapsed() >= Duration::from_millis(50));
    assert_eq!(simulator.messages().len(), 1);
    // Whoever does not wait has sent it all the same.
    simulator.set_fault(Fault::Delay(Duration::from_secs(60)), Times::ONCE);
    let mut impatient = TcpStream::connect(simulator.address()).await.unwrap();
    impatient.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    until(|| simulator.messages().len() == 2).await;
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

#[tokio::test]
async fn a_hanging_request_has_no_answer_and_ends_with_the_simulator() {
    let simulator = start().await;
    simulator.set_fault(Fault::Hang, Times::ONCE);
    let mut stream = TcpStream::connect(simulator.address()).await.unwrap();
    stream.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    until(|| simulator.stats().faults == 1).await;
    let waiting = tokio::time::timeout(Duration::from_millis(20), stream.read_u8()).await;
    assert!(waiting.is_err() && simulator.messages().is_empty());
    simulator.stop().await;
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_a_hanging_request_frees_its_connection() {
    let simulator = start().await;
    let idle = Arc::strong_count(&simulator.shared);
    simulator.set_fault(Fault::Hang, Times::ONCE);
    let mut stream = TcpStream::connect(simulator.address()).await.unwrap();
    stream.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    until(|| simulator.stats().faults == 1).await;
    assert!(Arc::strong_count(&simulator.shared) > idle);
    drop(stream);
    until(|| Arc::strong_count(&simulator.shared) == idle).await;
}

#[tokio::test]
async fn stops_when_told_and_when_dropped() {
    let simulator = start().await;
    let mut idle = TcpStream::connect(simulator.address()).await.unwrap();
    until(|| simulator.connections() == 1).await;
    let address = simulator.address();
    simulator.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    assert!(idle.read_u8().await.is_err());

    let simulator = start().await;
    let mut idle = TcpStream::connect(simulator.address()).await.unwrap();
    until(|| simulator.connections() == 1).await;
    drop(simulator);
    assert!(idle.read_u8().await.is_err());
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let first = start().await;
    let config = Config { address: first.address(), ..Config::default() };
    let error = Simulator::start(config).await.unwrap_err().to_string();
    assert!(error.contains(&first.address().to_string()) && error.contains("choose another"), "{error}");
    let robot = RobotConfig { keywords: vec![String::new()], ..RobotConfig::default() };
    let error = Simulator::start(Config { robot, ..Config::default() }).await.unwrap_err().to_string();
    assert!(error.contains("a keyword is empty"), "{error}");

    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let (cert, key) = (cert.pem(), signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap().signing_key.serialize_pem();
    for (certificates, key, reason) in [
        ("", key.as_str(), "there is no certificate"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &key, "the certificate is not PEM"),
        (&cert, "", "there is no private key"),
        (&cert, &other, "do not serve"),
    ] {
        let tls = Some(Tls { certificates: certificates.into(), key: Secret::new(key) });
        let error = Simulator::start(Config { tls, ..Config::default() }).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn https_too_with_its_faults() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let tls = Some(Tls { certificates: cert.pem().into(), key: Secret::new(signing_key.serialize_pem()) });
    let simulator = Simulator::start(Config { tls, ..Config::default() }).await.unwrap();
    assert!(simulator.url().starts_with("https://127.0.0.1:"));
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let connect = async || {
        let stream = TcpStream::connect(simulator.address()).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
    };
    assert_eq!(split(&exchange(connect().await, &post(SEND, TEXT)).await.unwrap()).2, OK);
    simulator.set_fault(Fault::Reset, Times::ONCE);
    let error = exchange(connect().await, &post(SEND, TEXT)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    simulator.set_fault(Fault::HalfBody, Times::ONCE);
    let mut stream = connect().await;
    stream.write_all(post(SEND, TEXT).as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let mut length = 0;
    // The end of the connection without TLS's own goodbye is an error to a TLS client.
    while let Ok(more @ 1..) = stream.read(&mut answer[length..]).await {
        length += more;
    }
    let (_, _, body) = split(std::str::from_utf8(&answer[..length]).unwrap());
    assert_eq!((body.as_str(), simulator.messages().len()), (&OK[..OK.len() / 2], 3));
}

#[test]
fn debug_shows_no_secret() {
    let robot =
        RobotConfig { secret: Some(Secret::new("T0KEN")), access_token: Secret::new("T0KEN"), ..Default::default() };
    let tls = Some(Tls { certificates: Vec::new(), key: Secret::new("T0KEN") });
    let config = Config { robot, tls, ..Config::default() };
    assert!(!format!("{config:?} {:?}", config.tls).contains("T0KEN"));
}
