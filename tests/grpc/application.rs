//! Applications that speak gRPC: what they are asked, what they are sent, and what becomes of their answers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dingtalk_dapr::runtime::BindingEventResponse;
use dingtalk_host::simulator::conversation::Say;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::app::{Act, App};
use crate::support::receiving::{
    EMPTY, GET, PONG, assert_answer, assert_later, callback, post, signed, talkative, text, until,
};
use crate::support::{Host, Resources, Robot, SECRET, component, run, stderr};

/// The host between a simulated robot, whose binding is `team`, and an application. The host ends first.
struct Setup {
    host: Host,
    app: App,
    robot: Robot,
}

fn start(more: &[&str], environment: &[(&str, &str)]) -> Setup {
    start_for(App::start(), &[], more, environment)
}

fn start_for(app: App, properties: &[(&str, &str)], more: &[&str], environment: &[(&str, &str)]) -> Setup {
    let robot = talkative();
    let url = robot.url();
    let properties = [&[("id", "team"), ("secret", SECRET), ("url", &url)], properties].concat();
    let resources = Resources::binding("team", &properties).with(
        "other.yaml",
        &component("other", &[("id", "o"), ("url", &url), ("secret", SECRET), ("direction", "output")]),
    );
    let port = app.port();
    let patient: &[&str] = if more.contains(&"--callback-timeout") { &[] } else { &["--callback-timeout", "60s"] };
    let arguments = [&["--app-protocol", "grpc", "--app-port", &port], patient, more].concat();
    let host = Host::serve_with(&resources, &arguments, environment);
    robot.set_callback_url(&host.callback_url("team"));
    Setup { host, app, robot }
}

#[test]
fn an_event_arrives_byte_for_byte_and_its_answer_too() {
    let Setup { host, app, .. } = start(&[], &[("APP_API_TOKEN", "4pp-t0k3n")]);
    app.answer(Act::ok(PONG));
    let body = " {\"msgtype\" :\"text\",\t\"text\": {\"content\":\"h\\u4f60i 100%\"},\"senderNick\":\"张\\n\",\"msgId\":\"m1==\"}\n ";
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers =
        [signed(SECRET), vec![("traceparent".into(), trace.into()), ("baggage".into(), "a=1".into())]].concat();
    assert_answer(&post(host.address(), "team", &headers, body.as_bytes()), PONG);
    let event = app.wait_for_events(1);
    assert_eq!((event.name.as_str(), String::from_utf8_lossy(&event.data).as_ref()), ("team", body));
    // As they are: a map of texts needs no escapes.
    for (name, value) in [("msgId", "m1=="), ("msgtype", "text"), ("senderNick", "张\n"), ("text", "h你i 100%")] {
        assert_eq!(event.metadata.get(name).map(String::as_str), Some(value), "{event:?}");
    }
    assert!(!event.metadata.contains_key("traceparent") && !event.metadata.contains_key("sign"), "{event:?}");
    for (name, value) in [
        ("dapr-api-token", "4pp-t0k3n"),
        ("traceparent", trace),
        ("baggage", "a=1"),
        // The same in the form that older libraries read.
        ("grpc-trace-bin", "AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE"),
        ("grpc-timeout", "60000m"),
    ] {
        let value: http::HeaderValue = value.parse().unwrap();
        let found = event.head.get(name).cloned();
        if name == "grpc-timeout" {
            assert!(found.is_some(), "{event:?}");
        } else {
            assert_eq!(found, Some(value), "{name}");
        }
    }
    app.answer(Act::ok(""));
    assert_answer(&callback(&host, &text("m2")), EMPTY);
    assert_ne!(app.wait_for_events(2).head["traceparent"], trace);
    assert_eq!(app.connections(), 1, "one connection is kept");
}

#[test]
fn get_returns_the_applications_data() {
    let Setup { host, app, .. } = start(&[], &[]);
    for answer in ["{\"answer\" : 1.0e2}", "no JSON \u{4f60}", ""] {
        app.answer(Act::ok(answer));
        assert_answer(&host.post("team", GET), answer);
    }
    assert_eq!(app.events()[0].data, b"{\n          \"message\": \"Hi\"\n        }");
    app.answer(Act::status(Code::Internal, "full"));
    let reply = host.post("team", GET);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("handler-failed")), "{reply:?}");
    let message = "the message was not taken: error invoking app: rpc error: code = Internal desc = full";
    assert!(reply.json()["message"].as_str().unwrap().contains(message), "{reply:?}");
}

#[test]
fn data_is_sent_on_to_other_bindings() {
    let Setup { host, app, robot } = start(&[], &[]);
    let forward = |to: &[&str], data: &str, parallel| {
        let to = to.iter().map(|&name| name.to_owned()).collect();
        Act::Answer(BindingEventResponse { to, data: data.into(), concurrency: i32::from(parallel) })
    };
    app.answer(forward(&["other", "team"], r#"{"msgtype":"text","text":{"content":"1.0e2"}}"#, false));
    assert_answer(&callback(&host, &text("m1")), EMPTY);
    until("two messages", || robot.messages().len() == 2);
    assert_eq!(robot.messages()[1].message.get(), r#"{"msgtype":"text","text":{"content":"1.0e2"}}"#);
    // In order, up to the first failure; at once, each for itself.
    app.answer(forward(&["none", "other"], r#"{"message":"x"}"#, false));
    assert_answer(&callback(&host, &text("m2")), EMPTY);
    host.wait_for_log("couldn't find output binding none");
    app.answer(forward(&["none", "other"], "no JSON", true));
    assert_answer(&callback(&host, &text("m3")), EMPTY);
    until("the third message", || robot.messages().len() == 3);
    assert!(robot.messages()[2].shown.contains("no JSON"), "{:?}", robot.messages());
    let many = vec!["other"; 17];
    app.answer(forward(&many, "1", false));
    assert_answer(&callback(&host, &text("m4")), EMPTY);
    host.wait_for_log("\\\"to\\\" has more than 16 names");
    assert_eq!(robot.messages().len(), 3);
}

#[test]
fn the_application_is_asked_which_bindings_it_reads() {
    let app = App::start();
    // As Dapr's JavaScript SDK has them.
    app.reads(Ok(&["TEAM"]));
    let Setup { host, app, .. } = start_for(app, &[], &[], &[("APP_API_TOKEN", "t")]);
    host.wait_for_log("the application reads from the binding");
    assert_eq!(app.asked()[0]["dapr-api-token"], "t");
    assert_answer(&callback(&host, &text("m1")), EMPTY);
    assert_eq!((app.asked().len(), app.events().len()), (1, 1));
    drop(host);

    for (answer, reason) in [
        (Ok(&["others"][..]), "its ListInputBindings does not name it"),
        (Ok(&[][..]), "its ListInputBindings does not name it"),
        (Err(Status::unimplemented("")), "it answers ListInputBindings with Unimplemented; implement it"),
        (Err(Status::unauthenticated("who?")), "it answers ListInputBindings with Unauthenticated: who?"),
    ] {
        let app = App::start();
        app.reads(answer);
        let Setup { host, app, .. } = start_for(app, &[], &[], &[]);
        let line = format!("the application does not read from binding team ({reason}");
        host.wait_for_log(&line);
        assert_later(&callback(&host, &text("m1")));
        // A "no" is believed for a while, and not for ever.
        app.reads(Ok(&["team"]));
        until("the application is asked again", || callback(&host, &text("m2")).status == 200);
        assert_eq!(app.events().len(), 1);
    }

    let app = App::start();
    app.reads(Ok(&[]));
    let Setup { host, app, .. } = start_for(app, &[("direction", "input, output")], &[], &[]);
    assert_answer(&callback(&host, &text("m1")), EMPTY);
    assert_eq!((app.asked().len(), app.events().len()), (0, 1));
}

#[test]
fn an_application_that_comes_later_and_goes_is_found_again() {
    let Setup { host, mut app, robot } = start_for(App::away(), &[], &[], &[]);
    host.wait_for_log("waiting for the application");
    assert_later(&callback(&host, &text("m1")));
    assert!(host.log().contains("refuses connections; is the application listening on --app-port"), "{}", host.log());
    app.restart();
    host.wait_for_log("the application reads from the binding");
    assert_eq!(robot.say(Say::text("hello")).attempts.last().unwrap().status, Some(200));
    app.stop();
    // The first may break off with the connection, which says nothing of who listens there now; the second finds nobody.
    for _ in 0..2 {
        assert_later(&callback(&host, &text("m2")));
    }
    app.restart();
    until("it is delivered", || callback(&host, &text("m2")).status == 200);
    assert_eq!(app.asked().len(), 2, "it may be another one");
}

#[test]
fn only_a_healthy_application_gets_events() {
    let app = App::start();
    app.health(Err(Status::unimplemented("")));
    let flags = [
        "--enable-app-health-check",
        "--app-health-probe-interval",
        "1",
        "--app-health-probe-timeout",
        "1000",
        "--app-health-threshold",
        "1",
    ];
    let Setup { host, app, .. } = start_for(app, &[], &flags, &[]);
    host.wait_for_log("AppCallbackHealthCheck/HealthCheck gives Unimplemented");
    assert_later(&callback(&host, &text("m1")));
    app.health(Ok(()));
    host.wait_for_log("the application is healthy");
    assert_answer(&callback(&host, &text("m2")), EMPTY);
    app.health(Err(Status::unavailable("busy")));
    host.wait_for_log("HealthCheck gives Unavailable: busy");
    assert_later(&callback(&host, &text("m3")));
    assert_eq!(app.events().len(), 1);
}

#[test]
fn through_the_inbox_a_status_decides_whether_it_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = dir.path().to_str().unwrap();
    let mut app = App::start();
    // Final, not final, and the application's own pause.
    let busy = Status::with_error_details(
        Code::Unavailable,
        "busy",
        ErrorDetails::with_retry_info(Some(Duration::from_secs(1))),
    );
    let turn = std::sync::Mutex::new(0);
    app.answer_with(move |event| {
        let data: Value = serde_json::from_slice(&event.data).unwrap();
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        match data["msgId"].as_str().unwrap() {
            "wrong" => Act::status(Code::InvalidArgument, "no such thing"),
            "busy" if *turn < 4 => Act::Status(busy.clone()),
            id => Act::ok(&json!({"msgtype": "text", "text": {"content": id}}).to_string()),
        }
    });
    let flags = ["--inbox", inbox, "--callback-timeout", "100ms"];
    let setup = start_for(app, &[], &flags, &[]);
    (app, _) = {
        let Setup { host, app, robot } = setup;
        assert_eq!(callback(&host, &text("wrong")).status, 200);
        host.wait_for_log("rpc error: code = InvalidArgument desc = no such thing");
        assert_eq!(callback(&host, &text("busy")).status, 200);
        until("it is delivered in the end", || {
            app.events().iter().filter(|event| event.metadata["msgId"] == "busy").count() >= 3
        });
        let mut app = app;
        app.stop();
        assert_eq!(callback(&host, &text("away")).status, 200);
        app.restart();
        until("it is delivered", || app.events().iter().any(|event| event.metadata["msgId"] == "away"));
        until("only the dead is left", || {
            let counts = crate::support::send(host.address(), "GET", "/v1.0/metadata", &[], b"").json();
            (&counts["extended"]["inboxPending"], &counts["extended"]["inboxDead"]) == (&json!("0"), &json!("1"))
        });
        drop(host);
        (app, robot)
    };
    assert_eq!(app.events().iter().filter(|event| event.metadata["msgId"] == "wrong").count(), 1);
    let listed = run(&["inbox", "list", "--inbox", inbox]);
    assert!(crate::support::stdout(&listed).contains("InvalidArgument"), "{listed:?}");
}

#[test]
fn what_is_no_answer_is_told_apart_and_harms_nobody() {
    let Setup { host, app, .. } = start(&["--app-timeout", "2s"], &[]);
    let grpc = || vec![("content-type", "application/grpc".to_owned())];
    let said = |act: Act| {
        app.answer(act);
        let reply = host.post("team", GET);
        assert_eq!(reply.status, 500, "{reply:?}");
        reply.json()["message"].as_str().unwrap().to_owned()
    };
    let long = "x".repeat((1 << 20) + (65 << 10));
    assert!(said(Act::ok(&long)).contains("is longer than 1 MiB; let it answer with less"));
    let hung = said(Act::Hang);
    assert!(hung.contains("has not answered within 2s; let it answer sooner, or raise --app-timeout"), "{hung}");
    let details = |value: &str| vec![("grpc-status", "3".to_owned()), ("grpc-status-details-bin", value.to_owned())];
    for (head, trailers) in [([grpc(), details("!")].concat(), vec![]), (grpc(), details("***"))] {
        let error = said(Act::Raw(head, Vec::new(), trailers));
        assert!(error.contains("are no base64"), "{error}");
    }
    let error = said(Act::Raw(grpc(), vec![0, 0, 0, 0, 2, 0x22, 0x7f], vec![("grpc-status", "0".into())]));
    assert!(error.contains("cannot be decoded: a field is cut off"), "{error}");
    let error = said(Act::Raw(grpc(), b"<html>".to_vec(), vec![]));
    assert!(error.contains("rpc error: code = "), "{error}");
    assert!(!host.log().contains("panicked"), "{}", host.log());
    app.answer(Act::ok("fine"));
    assert_answer(&host.post("team", GET), "fine");
    // What is as long as an answer may be.
    let longest = "x".repeat(1 << 20);
    app.answer(Act::ok(&longest));
    assert_answer(&host.post("team", GET), &longest);
}

#[test]
fn an_application_that_speaks_http_is_not_taken_for_one() {
    let http = crate::support::app::App::start();
    let robot = talkative();
    let resources = Resources::of("team", &robot);
    let flags = ["--app-protocol", "grpc", "--app-port", &http.port(), "--callback-timeout", "60s"];
    let host = Host::serve_with(&resources, &flags, &[]);
    host.wait_for_log("does it speak --app-protocol grpc?");
    assert_later(&callback(&host, &text("m1")));
    assert_eq!(http.events().len(), 0);
}

#[test]
fn neither_token_nor_session_stands_in_an_error() {
    let Setup { host, app, .. } = start(&[], &[("APP_API_TOKEN", "4pp-t0k3n")]);
    let body = r#"{"msgtype":"text","text":{"content":"x"},"msgId":"m1","sessionWebhook":"https://oapi.dingtalk.com/robot/sendBySession?session=S3SS10N"}"#;
    app.answer_with(|event| {
        let (token, data) = (event.head["dapr-api-token"].to_str().unwrap(), String::from_utf8_lossy(&event.data));
        Act::status(Code::Unknown, &format!("{token} cannot take {data}"))
    });
    assert_later(&callback(&host, body));
    host.wait_for_log("[redacted] cannot take");
    let log = host.end();
    assert!(!log.contains("4pp-t0k3n") && !log.contains("S3SS10N"), "{log}");
    let output = run(&["serve", "--resources-path", ".", "--app-port", "1", "--app-protocol", "grpcs"]);
    assert!(stderr(&output).contains("write http or grpc"), "{output:?}");
}

/// Decoded, they would take dozens of megabytes.
#[test]
fn fields_of_an_answer_are_counted_before_they_are_decoded() {
    let Setup { host, app, .. } = start(&[], &[]);
    let grpc = || vec![("content-type", "application/grpc".to_owned())];
    let message = |fields: &[u8]| {
        let length = u32::try_from(fields.len()).unwrap();
        let bytes = [&[0][..], &length.to_be_bytes(), fields].concat();
        app.answer(Act::Raw(grpc(), bytes, vec![("grpc-status", "0".to_owned())]));
        host.post("team", GET)
    };
    // `to`, and a field that nobody knows.
    for (field, said) in [([0x1a, 0], "a field comes more than 1000 times"), ([0x78, 1], "more than 64 fields")] {
        let reply = message(&field.repeat(500_000));
        assert_eq!((reply.status, reply.metadata("error")), (500, Some("handler-failed")), "{}", reply.body.len());
        let error = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(error.contains("cannot be decoded") && error.contains(said), "{error}");
    }
    assert_answer(&message(b"\x22\x04fine"), "fine");
    // A second message belongs to no answer, and is not looked at.
    let long = [&[0, 0, 0, 0, 6][..], b"\x22\x04fine", &[0, 0, 8, 0, 0], &[0x1a, 0].repeat(1 << 18)].concat();
    app.answer(Act::Raw(grpc(), long, vec![("grpc-status", "0".to_owned())]));
    assert_answer(&host.post("team", GET), "fine");
    assert_answer(&callback(&host, &text("m1")), EMPTY);
}

/// Everything on the way between two programs, until it lets nothing through any more on connections that there are.
struct Wire {
    port: u16,
    swallows: Arc<Mutex<Arc<AtomicBool>>>,
}

impl Wire {
    fn to(app: &App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallows: Arc<Mutex<Arc<AtomicBool>>> = Arc::default();
        let (current, app) = (Arc::clone(&swallows), app.port().parse::<u16>().unwrap());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", app)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let swallows = Arc::clone(&current.lock().unwrap());
                    thread::spawn(move || {
                        let mut bytes = [0; 4_096];
                        while let Ok(length @ 1..) = from.read(&mut bytes) {
                            if !swallows.load(Ordering::SeqCst) && to.write_all(&bytes[..length]).is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        Self { port, swallows }
    }

    /// From now on, whatever is sent on a connection that there is already.
    fn swallow(&self) {
        std::mem::take(&mut *self.swallows.lock().unwrap()).store(true, Ordering::SeqCst);
    }
}

fn through_wire(app: &App, more: &[&str]) -> (Host, Robot, Wire) {
    let (robot, wire) = (talkative(), Wire::to(app));
    let port = wire.port.to_string();
    let flags = [&["--app-protocol", "grpc", "--app-port", &port, "--callback-timeout", "60s"], more].concat();
    let host = Host::serve_with(&Resources::of("team", &robot), &flags, &[]);
    assert_answer(&host.post("team", GET), "");
    (host, robot, wire)
}

/// Without an end of the connection there is nothing that would tell of it.
#[test]
fn a_call_without_an_answer_leaves_its_connection_to_nobody() {
    let app = App::start();
    let (host, _robot, wire) = through_wire(&app, &["--app-timeout", "2s"]);
    wire.swallow();
    let reply = host.post("team", GET);
    assert!(reply.json()["message"].as_str().unwrap().contains("has not answered within 2s"), "{reply:?}");
    assert_answer(&host.post("team", GET), "");
    assert_eq!(app.connections(), 2);
}

#[test]
fn an_application_that_has_gone_silent_is_noticed_before_its_time_is_up() {
    let app = App::start();
    let (host, _robot, wire) = through_wire(&app, &["--app-timeout", "24s"]);
    wire.swallow();
    let reply = host.post("team", GET);
    let error = reply.json()["message"].as_str().unwrap().to_owned();
    assert!(error.contains("has gone silent: its process is stopped, or nothing gets through to it"), "{error}");
    assert_answer(&host.post("team", GET), "");
}

/// What the kernel does by itself where another machine is gone cannot be seen on this one, but for its timer.
#[cfg(target_os = "linux")]
#[test]
fn the_kernel_is_told_to_ask_whether_the_application_is_there() {
    let app = App::start();
    let gate = Arc::new(AtomicBool::new(false));
    let (opened, address) = (Arc::clone(&gate), format!("0100007F:{:04X}", app.port().parse::<u16>().unwrap()));
    app.answer_with(move |_| {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        // Those that are established; 2 is the timer that asks.
        let asked = lines.iter().any(|line| line[2] == address && line[3] == "01" && line[5].starts_with("02:"));
        opened.store(asked, Ordering::SeqCst);
        Act::ok("")
    });
    let Setup { host, app: _app, .. } = start_for(app, &[], &[], &[]);
    until("its timer runs", || {
        assert_answer(&host.post("team", GET), "");
        gate.load(Ordering::SeqCst)
    });
}
