//! What anybody who reaches the port can take of it: connections, requests, bytes, memory; and what pages in a browser
//! can make it do.

use super::group::{Act, Group};
use super::*;

#[tokio::test]
async fn a_body_beyond_all_limits_is_not_read_on() {
    let simulator = start().await;
    let (status, _, _) = split(&raw(&simulator, &post(SEND, &" ".repeat(1024 * 1024 + 1))).await.unwrap());
    assert_eq!(status, 413);
    let (status, _, body) = split(&raw(&simulator, &post(SEND, &" ".repeat(1024 * 1024))).await.unwrap());
    assert!(status == 200 && body.contains("460101"), "{status} {body}");
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

/// Waits for an answer as long as a busy machine may take, and not for ever.
async fn answered(answer: impl Future<Output = (u16, Value)>) -> (u16, Value) {
    tokio::time::timeout(Duration::from_secs(60), answer).await.expect("an answer")
}

async fn connect(simulator: &Simulator) -> TcpStream {
    TcpStream::connect(simulator.address()).await.unwrap()
}

/// A connection on which this was sent.
async fn sent(simulator: &Simulator, text: &str) -> TcpStream {
    let mut stream = connect(simulator).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn who_says_nothing_gives_way_to_a_newcomer() {
    let simulator = Simulator::start(Config { connections: 2, ..Config::default() }).await.unwrap();
    let mut silent = [connect(&simulator).await, sent(&simulator, "GET /stats HTTP/1.1\r\nHost: loc").await];
    until(|| simulator.connections() == 2).await;
    assert_eq!(answered(request("GET", &simulator, "/stats", "")).await.0, 200);
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0, "the one that was silent for longest has ended");
}

#[tokio::test]
async fn over_tls_too_a_newcomer_needs_no_handshake_of_others() {
    let (tls, trusting) = secured();
    let simulator = Simulator::start(Config { tls: Some(tls), connections: 1, ..Config::default() }).await.unwrap();
    let _silent = connect(&simulator).await;
    until(|| simulator.connections() == 1).await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting));
    let answer = async {
        let stream = connector.connect("localhost".try_into().unwrap(), connect(&simulator).await).await.unwrap();
        exchange(stream, &post(SEND, TEXT)).await.unwrap()
    };
    let answer = tokio::time::timeout(Duration::from_secs(25), answer).await.expect("an answer");
    assert_eq!(split(&answer).2, OK);
}

#[tokio::test]
async fn requests_that_hang_leave_room_for_whoever_ends_that() {
    let simulator = Simulator::start(Config { connections: 4, ..Config::default() }).await.unwrap();
    simulator.set_fault(Fault::Hang, Times::Always);
    let _hanging = [sent(&simulator, &post(SEND, TEXT)).await, sent(&simulator, &post(SEND, TEXT)).await];
    until(|| simulator.stats().faults == 2).await;
    let (status, error) = answered(request("POST", &simulator, SEND, TEXT)).await;
    assert!(status == 503 && error["error"].as_str().unwrap().contains("too many requests"), "{status} {error}");
    assert_eq!(simulator.stats().faults, 2, "no fault is spent on it");
    assert_eq!(answered(request("PUT", &simulator, "/fault", r#"{"fault":null}"#)).await.0, 204);
}

#[tokio::test]
async fn orders_that_wait_leave_room_and_what_is_refused_ends_no_session() {
    let group = Group::with(|config| config.connections = 8).await;
    group.receiver.will(vec![Act::Hang; 2]);
    let order = post("/say", r#"{"text":"x"}"#).replace("robot.test", "localhost");
    let _waiting = [sent(&group.simulator, &order).await, sent(&group.simulator, &order).await];
    until(|| group.receiver.requests.lock().unwrap().len() == 2).await;
    let (status, answer) = answered(group.control("POST", "/say", json!({"text": "x"}))).await;
    assert!(status == 503 && answer["error"].as_str().unwrap().contains("too many callbacks"), "{status} {answer}");
    assert_eq!(format!("{:?}", shared::lock(&group.simulator.shared.callbacks).sessions), "2 sessions");
    // Where nobody waits, there is room of its own.
    assert_eq!(group.control("POST", "/say", json!({"text": "x", "wait": false})).await.0, 202);
}

#[tokio::test]
async fn long_bodies_share_memory_and_short_ones_pass() {
    let simulator = start().await;
    let announced = post(SEND, "").replace("Content-Length: 0", "Content-Length: 1048576");
    let mut hanging = Vec::new();
    for _ in 0..8 {
        hanging.push(sent(&simulator, &announced).await);
    }
    until(|| simulator.connections() == 8).await;
    let long = TEXT.to_owned() + &" ".repeat(10_000);
    let (refused, sent) = tokio::join!(
        answered(request("POST", &simulator, SEND, &long)),
        answered(request("POST", &simulator, SEND, TEXT)),
    );
    assert!(refused.0 == 503 && refused.1["error"].as_str().unwrap().contains("long bodies"), "{refused:?}");
    assert_eq!(sent, (200, json!({"errcode": 0, "errmsg": "ok"})));
    // Orders have bytes of their own.
    let order = json!({"fault": null, "times": 1}).to_string() + &" ".repeat(10_000);
    assert_eq!(answered(request("PUT", &simulator, "/fault", &order)).await.0, 204);
}

#[tokio::test]
async fn heads_have_an_end() {
    let simulator = start().await;
    let head = |length: usize| {
        format!("GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(length))
    };
    assert_eq!(split(&raw(&simulator, &head(15_000)).await.unwrap()).0, 200);
    assert_eq!(split(&raw(&simulator, &head(20_000)).await.unwrap()).0, 431);
}

#[tokio::test]
async fn errors_do_not_repeat_what_is_long() {
    let simulator = start().await;
    let long = "y".repeat(1_000_000);
    for (method, path, order, help) in [
        ("POST", "/say", json!({&long: 1}), "write for example"),
        ("POST", "/say", json!({"text": "x", "forge": long}), "write for example"),
        ("PUT", "/fault", json!({"fault": long}), "at most 8192 bytes"),
        ("PUT", "/fault", json!({"fault": "html", "times": long}), "write for example"),
        ("PUT", "/callback-url", json!({&long: 1}), "write for example"),
        ("PUT", "/callback-url", json!({"url": long}), "write for example"),
    ] {
        let (status, answer) = request(method, &simulator, path, &order.to_string()).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.len() < 1_000 && error.contains(help), "{path}: {status} {}", error.len());
    }
    simulator.set_fault(Fault::Echo, Times::ONCE);
    let (_, answer) = request("POST", &simulator, SEND, &long).await;
    let echo = answer["errmsg"].as_str().unwrap();
    assert!(echo.ends_with(&"y".repeat(20_000)) && echo.len() < 20_200, "{}", echo.len());
}

const OPERATION: [(&str, &str, &str, u16); 7] = [
    ("GET", "/stats", "", 200),
    ("GET", "/messages", "", 200),
    ("DELETE", "/messages", "", 204),
    ("PUT", "/fault", r#"{"fault":"html"}"#, 204),
    ("PUT", "/callback-url", r#"{"url":null}"#, 204),
    ("POST", "/say", r#"{"text":"x"}"#, 409),
    ("GET", "/", "", 404),
];

async fn operate(simulator: &Simulator, (method, path, body, _): (&str, &str, &str, u16), headers: &str) -> u16 {
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    split(&raw(simulator, &request).await.unwrap()).0
}

#[tokio::test]
async fn pages_in_a_browser_operate_nothing() {
    let group = Group::start().await;
    group.simulator.set_callback_url(&group.receiver.url).unwrap();
    assert_eq!(send(&group.simulator).await.2, OK);
    for operation in OPERATION {
        for headers in [
            "Host: localhost\r\nOrigin: https://evil.example\r\n",
            "Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n",
            "Host: evil.example\r\n",
        ] {
            assert_eq!(operate(&group.simulator, operation, headers).await, 403, "{operation:?} {headers}");
        }
        assert_eq!(operate(&group.simulator, operation, "Host: localhost\r\nHost: localhost\r\n").await, 400);
    }
    // The robot has a token against strangers. Nothing was said, forgotten or changed.
    assert_eq!(send(&group.simulator).await.2, OK);
    assert_eq!((group.simulator.messages().len(), group.receiver.take().len()), (2, 0));
    assert_eq!(group.control("POST", "/say", json!({"text": "x"})).await.0, 200);
}

#[tokio::test]
async fn who_is_named_operates_it_as_programs_of_this_machine_do() {
    let allowed = crate::api::Allowed { hosts: vec!["simulator".into()], origins: vec!["https://good.example".into()] };
    let simulator = Simulator::start(Config { allowed, ..Config::default() }).await.unwrap();
    for operation in OPERATION {
        for headers in ["Host: localhost:1\r\n", "Host: simulator\r\nOrigin: https://good.example\r\n"] {
            assert_eq!(operate(&simulator, operation, headers).await, operation.3, "{operation:?} {headers}");
        }
    }
}
