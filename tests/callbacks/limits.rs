//! What is no proper request, too long, too much at once or on the wrong port reaches nobody, and sending goes on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::json;

use super::head;
use crate::support::app::Act;
use crate::support::receiving::{
    EMPTY, PONG, Setup, assert_answer, assert_later, callback, post, signed, start, start_with, text, until,
};
use crate::support::witness::{now, sign};
use crate::support::{Connection, SECRET, send};

#[test]
fn requests_that_are_no_proper_http_reach_nobody() {
    let Setup { host, app, .. } = start();
    let now = now();
    let (sign, body) = (sign(SECRET, now), text("m"));
    let (first, second) = sign.split_at(20);
    let length = body.len();
    let start = "POST /v1.0/bindings/team/callback HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n";
    for request in [
        // Folded: what one server reads as one value is two lines for another.
        format!("{start}timestamp: {now}\r\nsign: {first}\r\n {second}\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("{start}timestamp:\r\n {now}\r\nsign: {sign}\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("{start}timestamp : {now}\r\nsign: {sign}\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!(
            "{start}timestamp: {now}\r\nsign: {sign}\r\ncontent-length: {length}\r\ncontent-length: 1\r\n\r\n{body}"
        ),
        format!("{start}timestamp: {now}\r\nsign: {sign}\r\ntransfer-encoding: gzip\r\n\r\n{body}"),
        format!(
            "{start}timestamp: {now}\r\nsign: {sign}\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"
        ),
    ] {
        let mut connection = Connection::open(host.address());
        connection.write(&request);
        let reply = connection.read();
        assert!((400..500).contains(&reply.status), "{request}: {reply:?}");
    }
    // Half a body is none, however long the sender's silence was.
    let mut connection = Connection::open(host.address());
    connection.write(head(&format!("content-length: {length}\r\n")) + &body[..length - 1]);
    drop(connection);
    assert_answer(&callback(&host, &text("last")), EMPTY);
    assert_eq!(app.events().len(), 1);
}

#[test]
fn a_body_has_128_kib_at_most_however_it_is_sent() {
    const MAX: usize = 128 << 10;
    let Setup { host, app, .. } = start();
    let sized = |size: usize, id: &str| {
        let empty = json!({"msgId": id, "x": ""}).to_string().len();
        json!({"msgId": id, "x": "y".repeat(size - empty)}).to_string()
    };
    let chunked = |body: &str| {
        let mut connection = Connection::open(host.address());
        connection.write(head("transfer-encoding: chunked\r\n"));
        let (first, second) = body.split_at(body.len() / 2);
        connection.write(format!("{:x}\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len()));
        connection.read()
    };
    assert_answer(&callback(&host, &sized(MAX, "m1")), EMPTY);
    assert_answer(&chunked(&sized(MAX, "m2")), EMPTY);
    let events = app.events();
    assert_eq!(events.iter().map(|event| event.body.len()).collect::<Vec<_>>(), [MAX, MAX]);
    assert_eq!(String::from_utf8_lossy(&events[1].body), sized(MAX, "m2"));
    for reply in [callback(&host, &sized(MAX + 1, "m3")), chunked(&sized(MAX + 1, "m4"))] {
        assert_eq!(reply.status, 413, "{reply:?}");
        assert_eq!(reply.json()["message"], "the body is longer than 131072 bytes");
    }
    // Whoever writes everything before it reads finds the answer, and the connection still in step.
    let long = sized(4 << 20, "m5");
    let mut connection = Connection::open(host.address());
    for _ in 0..3 {
        connection.write(head(&format!("content-length: {}\r\n", long.len())));
        connection.write(&long);
        assert_eq!(connection.read().status, 413);
    }
    // Whoever asks before it writes need not write.
    let mut asking = Connection::open(host.address());
    asking.write(head("expect: 100-continue\r\ncontent-length: 1000000\r\n"));
    assert_eq!(asking.read().status, 413);
    // A sender that never ends need not be heard to the end.
    let mut endless = Connection::open(host.address());
    endless.write(head("transfer-encoding: chunked\r\n"));
    endless.write(format!("{:x}\r\n{}\r\n", 1 << 18, "x".repeat(1 << 18)));
    assert_eq!(endless.read().status, 413);
    assert_eq!(app.events().len(), 2);
}

#[test]
fn messages_do_not_pile_up_behind_an_application_that_hangs() {
    const MESSAGES: usize = 300;
    const WAITING: usize = 256;
    let Setup { host, app, .. } = start_with(&[], &["--callback-timeout", "20ms"], &[]);
    let gate = app.answer_behind(Act::ok(PONG));
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let number @ 0..300 = next.fetch_add(1, Ordering::SeqCst) {
                    assert_later(&callback(&host, &text(&format!("m{number}"))));
                }
            });
        }
    });
    app.wait_for_events(WAITING);
    host.wait_for_log("256 messages of this binding are waiting for its answer");
    assert_eq!(app.events().len(), WAITING);
    gate.open();
    // None of them is lost, and none is delivered twice.
    for number in 0..MESSAGES {
        until("the reply", || callback(&host, &text(&format!("m{number}"))).status == 200);
    }
    assert_eq!(app.events().len(), MESSAGES);
}

#[test]
fn callbacks_beyond_those_that_may_run_are_told_so_and_sending_goes_on() {
    const AT_ONCE: usize = 64;
    let Setup { host, app, robot } = start();
    let gate = app.answer_behind(Act::ok(PONG));
    std::thread::scope(|scope| {
        let (host, gate) = (&host, &gate);
        let running: Vec<_> =
            (0..AT_ONCE).map(|number| scope.spawn(move || callback(host, &text(&format!("m{number}"))))).collect();
        app.wait_for_events(AT_ONCE);
        let begun = Instant::now();
        let more: Vec<_> = (0..8).map(|_| scope.spawn(|| callback(host, &text("more")))).collect();
        assert_eq!(host.invoke("team", "create", r#"{"message":"Hi"}"#).status, 200);
        for more in more {
            let more = more.join().unwrap();
            assert_eq!((more.status, more.header("retry-after")), (503, Some("1")), "{more:?}");
        }
        // Anybody can send more of them. A busy machine takes its time to refuse them all.
        host.wait_for_log("too many callbacks at once");
        let lines = host.log().matches("too many callbacks at once").count() as u64;
        assert!((1..=1 + begun.elapsed().as_secs() / 10).contains(&lines), "{}", host.log());
        gate.open();
        for reply in running {
            assert_answer(&reply.join().unwrap(), PONG);
        }
    });
    assert_answer(&callback(&host, &text("more")), PONG);
    assert_eq!((app.events().len(), robot.messages().len()), (AT_ONCE + 1, 1));
}

#[test]
fn the_port_for_callbacks_serves_nothing_else() {
    let token = [("DAPR_API_TOKEN", "sesame")];
    let Setup { host, app, robot } = start_with(&[], &["--callback-port", "0"], &token);
    let outside = host.callback_address();
    assert_ne!(outside, host.address());
    // A callback needs no token, at either port.
    for (count, address) in [outside, host.address()].into_iter().enumerate() {
        let reply = post(address, "team", &signed(SECRET), text(&format!("m{count}")).as_bytes());
        assert_answer(&reply, EMPTY);
    }
    assert_eq!(app.events().len(), 2);
    let authorised = [("dapr-api-token", "sesame"), ("content-type", "application/json")];
    let create = br#"{"operation":"create","data":{"message":"Hi"}}"#;
    for path in ["/v1.0/healthz", "/v1.0/healthz/outbound"] {
        assert_eq!(send(outside, "GET", path, &[], b"").status, 204, "{path}");
    }
    for (method, path) in [
        ("POST", "/v1.0/bindings/team"),
        ("PUT", "/v1.0/bindings/team"),
        ("POST", "/v1.0/bindings/team/"),
        ("POST", "/v1.0/bindings//team"),
        ("POST", "/v1.0/bindings/team/callback/../../team"),
        ("POST", "/v1.0/bindings/team%2Fcallback"),
        ("GET", "/v1.0/metadata"),
        ("PUT", "/v1.0/metadata/key"),
        ("POST", "/v1.0/healthz"),
        ("GET", "/"),
    ] {
        let reply = send(outside, method, path, &authorised, create);
        assert_eq!((reply.status, reply.body.as_str()), (404, ""), "{method} {path}");
    }
    assert_eq!(robot.stats().requests, 0);
    assert_eq!(send(host.address(), "POST", "/v1.0/bindings/team", &authorised, create).status, 200);

    for address in [outside, host.address()] {
        for method in ["GET", "PUT", "HEAD", "OPTIONS", "DELETE", "post"] {
            let reply = send(address, method, "/v1.0/bindings/team/callback", &authorised, b"{}");
            assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method}");
        }
        let reply = post(address, "nobody", &signed(SECRET), text("m").as_bytes());
        assert_eq!((reply.status, &reply.json()["message"]), (404, &json!("couldn't find input binding nobody")));
        assert_eq!(post(address, "a%zz", &signed(SECRET), text("m").as_bytes()).status, 400);
    }
    assert_eq!(app.events().len(), 2);
}
