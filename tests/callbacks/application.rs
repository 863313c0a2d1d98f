//! An application that is away, unhealthy, unwilling or not there at all loses no message without DingTalk being told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dingtalk_host::simulator::conversation::Say;
use serde_json::json;

use super::head;
use crate::support::app::{Act, App};
use crate::support::receiving::{
    EMPTY, GET, PONG, Setup, assert_answer, assert_later, callback, post, signed, start, start_for, talkative, text,
    until,
};
use crate::support::{Connection, Host, Resources, SECRET, component, send};

#[test]
fn without_an_application_nothing_reads() {
    let robot = talkative();
    let host = Host::serve(&Resources::of("team", &robot));
    let reply = host.post("team", GET);
    let message = "error invoking output binding team: dingtalk webhook error: invalid component metadata.id team";
    assert!(reply.json()["message"].as_str().unwrap().starts_with(message), "{reply:?}");
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("not-reading")));
    assert_later(&callback(&host, &text("m")));
    // Who cannot sign does not learn that.
    assert_eq!(post(host.address(), "team", &signed("x"), b"{}").status, 403);
    let capabilities = |host: &Host| {
        let metadata = send(host.address(), "GET", "/v1.0/metadata", &[], b"").json();
        metadata["components"][0]["capabilities"].clone()
    };
    assert_eq!(capabilities(&host), json!(["OUTPUT_BINDING"]));
    let Setup { host, .. } = start();
    assert_eq!(capabilities(&host), json!(["INPUT_BINDING", "OUTPUT_BINDING"]));
}

#[test]
fn an_application_may_start_after_the_host() {
    let Setup { host, mut app, .. } = start_for(App::away(), &[], &[], &[]);
    assert_later(&callback(&host, &text("m")));
    assert_eq!(host.post("team", GET).status, 500);
    app.answer(Act::ok(PONG));
    app.restart();
    assert_answer(&callback(&host, &text("m")), PONG);
    assert_answer(&host.post("team", GET), PONG);
    assert_eq!(app.events().len(), 2);
}

#[test]
fn an_application_that_was_away_is_found_again() {
    let Setup { host, mut app, robot } = start();
    app.answer(Act::ok(PONG));
    for round in 0..2 {
        assert_answer(&callback(&host, &text(&format!("before {round}"))), PONG);
        assert_answer(&host.post("team", GET), PONG);
        app.stop();
        for _ in 0..2 {
            assert_later(&callback(&host, &text(&format!("away {round}"))));
            let reply = host.post("team", GET);
            assert_eq!((reply.status, reply.metadata("error")), (500, Some("handler-failed")), "{reply:?}");
        }
        app.restart();
        assert_answer(&callback(&host, &text(&format!("away {round}"))), PONG);
        assert_answer(&host.post("team", GET), PONG);
    }
    // Nothing of what the host keeps open may stand in the way of the one that comes next.
    app.stop();
    app.restart();
    until("the application", || callback(&host, &text("replaced")).status == 200);
    // DingTalk's own way through such a time.
    app.stop();
    let said = std::thread::scope(|scope| {
        let said = scope.spawn(|| robot.say(Say::text("are you there?")));
        until("the first attempt", || robot.stats().callback_attempts > 1);
        app.restart();
        said.join().unwrap()
    });
    let statuses: Vec<_> = said.attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!((statuses[0], *statuses.last().unwrap()), (Some(503), Some(200)), "{said:?}");
    assert!(said.shown.is_some_and(|shown| shown.contains("pong")));
}

#[test]
fn the_application_is_asked_whether_it_reads() {
    let (app, robot) = (App::start(), talkative());
    let statuses = [200, 204, 299, 405, 301, 401, 404, 500];
    let now_reads = Arc::new(AtomicU64::new(0));
    let reads = Arc::clone(&now_reads);
    app.options(move |target| match target.trim_start_matches("/s").parse() {
        Ok(404) if reads.load(Ordering::SeqCst) > 0 => 200,
        Ok(status) => status,
        // Nobody may ask.
        Err(_) => 500,
    });
    let resources = Resources::new();
    let add = |name: &str, more: &[(&str, &str)]| {
        let url = robot.url();
        let properties = [&[("id", name), ("url", &*url), ("secret", SECRET)], more].concat();
        resources.write(&format!("{name}.yaml"), &component(name, &properties));
    };
    for status in statuses {
        add(&format!("s{status}"), &[]);
    }
    add("in", &[("direction", "input"), ("route", "hooks//in/../way in?key=1")]);
    add("out", &[("direction", "output")]);
    add("both", &[("direction", "input, output")]);
    add("routed", &[("route", "/s200")]);
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    let callback = |name: &str| post(host.address(), name, &signed(SECRET), text("m").as_bytes());
    for status in statuses {
        let name = format!("s{status}");
        let reply = callback(&name);
        if matches!(status, 200..=299 | 405) {
            assert_answer(&reply, EMPTY);
        } else {
            assert_later(&reply);
            let reply = host.post(&name, GET);
            assert_eq!((reply.status, reply.metadata("error")), (500, Some("not-reading")), "{reply:?}");
        }
    }
    let targets = |app: &App| app.events().into_iter().map(|event| event.target).collect::<Vec<_>>();
    assert_eq!(targets(&app), ["/s200", "/s204", "/s299", "/s405"]);
    host.wait_for_log("OPTIONS /s404 with 404");

    // What the component file says is not asked.
    assert_answer(&callback("in"), EMPTY);
    assert_answer(&callback("both"), EMPTY);
    assert_answer(&callback("routed"), EMPTY);
    assert_eq!(targets(&app)[4..], ["/hooks/way%20in?key=1", "/both", "/s200"]);
    let create = r#"{"operation":"create","data":{"message":"Hi"}}"#;
    let reply = host.post("in", create);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("not-found")));
    let message = "error invoking output binding in: couldn't find output binding in";
    assert_eq!(reply.json()["message"], message);
    let reply = callback("out");
    assert_eq!((reply.status, &reply.json()["message"]), (404, &json!("couldn't find input binding out")));
    for name in ["out", "both"] {
        assert_eq!(host.post(name, create).status, 200);
    }
    for asked in app.asked() {
        assert!(asked.starts_with("/s"), "{asked} was asked");
    }
    let components = send(host.address(), "GET", "/v1.0/metadata", &[], b"").json()["components"].clone();
    let sides = |name: &str| {
        let components = components.as_array().unwrap().iter();
        components.clone().find(|component| component["name"] == name).unwrap()["capabilities"].clone()
    };
    assert_eq!(sides("in"), json!(["INPUT_BINDING"]));
    assert_eq!(sides("out"), json!(["OUTPUT_BINDING"]));
    assert_eq!(sides("both"), json!(["INPUT_BINDING", "OUTPUT_BINDING"]));

    // A no is not for ever.
    now_reads.store(1, Ordering::SeqCst);
    until("the application that reads now", || callback("s404").status == 200);
    assert_eq!(targets(&app).last().unwrap(), "/s404");
}

#[test]
fn nothing_is_delivered_to_an_application_that_is_not_healthy() {
    let app = App::start();
    app.health(503);
    let arguments = [
        "--enable-app-health-check",
        "--app-health-check-path",
        "up",
        "--app-health-probe-interval",
        "1",
        "--app-health-threshold",
        "1",
    ];
    let Setup { host, app, .. } = start_for(app, &[], &arguments, &[]);
    app.answer(Act::ok(PONG));
    host.wait_for_log("the application is unhealthy");
    assert_later(&callback(&host, &text("m")));
    let reply = host.post("team", GET);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("handler-failed")), "{reply:?}");
    assert!(reply.body.contains("app is not in a healthy state"), "{reply:?}");
    assert!(app.requests().iter().all(|request| request.method == "GET" && request.target == "/up"));
    app.health(204);
    until("health", || callback(&host, &text("m")).status == 200);
    assert_eq!(app.events().len(), 1);
    app.health(500);
    let count = AtomicU64::new(0);
    until("sickness", || callback(&host, &text(&format!("n{}", count.fetch_add(1, Ordering::SeqCst)))).status == 503);
    let before = app.events().len();
    assert_later(&callback(&host, &text("o")));
    assert_eq!(app.events().len(), before);
}

#[test]
fn what_the_application_does_not_take_is_not_acknowledged() {
    let Setup { host, app, .. } = start();
    let half = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"msgtype\":\"text\"";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n";
    let redirect = "HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    for (count, act) in [
        Act::Reset,
        Act::Raw(Vec::new()),
        Act::Raw(half.into()),
        Act::Raw(chunks.into()),
        Act::Raw(redirect.into()),
        Act::Raw("HTTP/1.1 200 OK\r\nContent-Le".into()),
        Act::Raw("220 smtp.example.com ESMTP\r\n".into()),
        Act::Raw(vec![0x16, 0x03, 0x01, 0, 0]),
        Act::Answer(500, PONG.into()),
        Act::Answer(503, String::new()),
        Act::Answer(404, "<html>".into()),
        Act::Answer(400, "{}".into()),
        Act::Answer(200, format!("\"{}\"", "x".repeat(1 << 20))),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{act:.100?}");
        app.answer(act);
        let message = text(&format!("m{count}"));
        let before = app.events().len();
        let reply = callback(&host, &message);
        assert_eq!(reply.status, 503, "{what}: {reply:?}");
        assert_later(&reply);
        assert_eq!(app.events().len(), before + 1, "{what}: one callback is one attempt");
        // The copy is delivered, once.
        app.answer(Act::ok(PONG));
        for _ in 0..2 {
            assert_answer(&callback(&host, &message), PONG);
        }
        assert_eq!(app.events().len(), before + 2, "{what}");
    }
    assert!(app.events().iter().all(|event| event.target == "/team"), "a redirect was followed");
}

#[test]
fn the_end_of_the_host_waits_for_callbacks_that_are_in_progress() {
    let Setup { host, app, .. } = start();
    let gate = app.answer_behind(Act::ok(PONG));
    let body = text("m");
    let mut connection = Connection::open(host.address());
    connection.write(head(&format!("content-length: {}\r\n", body.len())) + &body);
    app.wait_for_events(1);
    host.terminate();
    // It listens no more, and so the signal has come.
    until("the end of listening", || std::net::TcpStream::connect(host.address()).is_err());
    gate.open();
    assert_answer(&connection.read(), PONG);
    assert!(host.wait().success());
    assert_eq!(app.events().len(), 1);
}
