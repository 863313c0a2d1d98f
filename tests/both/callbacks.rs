//! What DingTalk sends reaches the application, verified and byte for byte, and the answer comes back; nothing else does.

use dingtalk_host::simulator::callback::Forgery;
use dingtalk_host::simulator::conversation::Say;
use serde_json::json;

use super::Server;
use crate::support::app::{Act, App};
use crate::support::receiving::{
    EMPTY, GET, PONG, REFUSED, assert_answer, assert_later, post, signed, talkative, text, until,
};
use crate::support::witness::{base64, now, sign};
use crate::support::{Reply, Robot, SECRET, TOKEN, send};

const CALLBACK: &str = "/v1.0/bindings/team/callback";

/// A server between a simulated robot and an application. The server ends first.
struct Setup<S> {
    server: S,
    app: App,
    robot: Robot,
}

impl<S: Server> Setup<S> {
    fn start(properties: &[(&str, &str)]) -> Self {
        let (robot, app) = (talkative(), App::start());
        let server = S::with_application(&robot, properties, app.address());
        robot.set_callback_url(&format!("http://{}{CALLBACK}", server.address()));
        Self { server, app, robot }
    }

    /// A genuine callback.
    fn callback(&self, body: &str) -> Reply {
        post(self.server.address(), "team", &signed(SECRET), body.as_bytes())
    }
}

pub fn a_genuine_callback_reaches_the_application_byte_for_byte_and_its_answer_comes_back<S: Server>() {
    let setup = Setup::<S>::start(&[]);
    setup.app.answer(Act::ok(PONG));
    let said = setup.robot.say(Say::text("hello"));
    assert!(said.shown.is_some_and(|shown| shown.contains("pong")), "{}", setup.server.log());
    // Written as no serialiser would.
    let message = " {\"msgId\" :\"m\\u0031\",\n\"n\":1.0e2,\"senderNick\":\"张三\",\"text\":{\"content\":\" ping \"},\"msgtype\":\"text\"} ";
    assert_answer(&setup.callback(message), PONG);
    let event = setup.app.wait_for_events(2);
    assert_eq!((event.target.as_str(), event.body.as_slice()), ("/team", message.as_bytes()));
    for (name, value) in
        [("content-type", "application/json"), ("msgid", "m1"), ("sendernick", "%E5%BC%A0%E4%B8%89"), ("text", "ping")]
    {
        assert_eq!(event.header(name), [value], "{event:?}");
    }
    for name in ["timestamp", "sign", "operation"] {
        assert!(event.header(name).is_empty(), "{event:?}");
    }
    // An answer that is no message is none to the group.
    setup.app.answer(Act::ok("thank you"));
    assert_answer(&setup.callback(&text("m2")), EMPTY);
}

pub fn forgeries_are_refused_alike_and_the_application_sees_none<S: Server>() {
    let known = [("robotCode", "simulated-robot-code"), ("chatbotCorpId", "simulated-corporation")];
    let setup = Setup::<S>::start(&known);
    for forgery in Forgery::ALL {
        let status = match forgery {
            // Rightly signed: who remembers what came before can know them.
            Forgery::Replay | Forgery::SwappedBody => continue,
            Forgery::Unsigned => 401,
            Forgery::OversizedBody => 413,
            Forgery::TruncatedBody | Forgery::NotJson => 400,
            Forgery::WrongContentType => 415,
            _ => 403,
        };
        let said = setup.robot.say(Say::text("forged").forged(forgery));
        assert_eq!(said.attempts.len(), 1, "{forgery} {said:?}");
        assert_eq!(said.attempts[0].status, Some(status), "{forgery} {said:?}");
        if matches!(status, 401 | 403) {
            assert_eq!(said.attempts[0].error.as_deref(), Some(&*format!("refused: {REFUSED}")), "{forgery}");
        }
    }
    let (time, right) = (now().to_string(), sign(SECRET, now()));
    for headers in [
        [("timestamp", &*time), ("sign", &*right), ("Timestamp", &*time)],
        [("timestamp", &*time), ("SIGN", ""), ("sign", &*right)],
    ] {
        let headers = [&[("content-type", "application/json")], &headers[..]].concat();
        let reply = send(setup.server.address(), "POST", CALLBACK, &headers, b"{}");
        assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED), "{headers:?}");
    }
    assert_eq!(setup.app.events().len(), 0);
    until("a line for whoever runs it", || setup.server.log().contains("callback"));
}

pub fn what_the_application_does_not_take_is_not_acknowledged<S: Server>() {
    let mut setup = Setup::<S>::start(&[]);
    let half = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    for (count, act) in [
        Act::Reset,
        Act::Raw(half.into()),
        Act::Raw("220 smtp.example.com ESMTP\r\n".into()),
        Act::Raw("HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into()),
        Act::Answer(500, PONG.into()),
        Act::Answer(404, "<html>".into()),
        Act::Answer(200, format!("\"{}\"", "x".repeat(1 << 20))),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{act:.100?}");
        setup.app.answer(act);
        assert_later(&setup.callback(&text(&format!("m{count}"))));
        assert_eq!(setup.app.events().len(), count + 1, "{what}: one callback is one attempt");
    }
    setup.app.stop();
    assert_later(&setup.callback(&text("away")));
    setup.app.answer(Act::ok(PONG));
    setup.app.restart();
    assert_answer(&setup.callback(&text("away")), PONG);
}

pub fn get_brings_the_application_s_answer<S: Server>() {
    let mut setup = Setup::<S>::start(&[]);
    setup.app.answer(Act::ok("anything"));
    let trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let reply = send(setup.server.address(), "POST", "/v1.0/bindings/team", &[trace], GET.as_bytes());
    assert_eq!((reply.status, reply.body.as_str()), (200, "anything"), "{reply:?}");
    let event = setup.app.wait_for_events(1);
    assert_eq!(event.header(trace.0), [trace.1], "{event:?}");
    assert_eq!(event.header("operation"), ["get"], "{event:?}");
    let data: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(data, json!({"message": "Hi"}));
    setup.app.stop();
    let reply = setup.server.post("team", GET);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("handler-failed")), "{reply:?}");
    assert_eq!(setup.robot.stats().requests, 0);
}

pub fn what_a_caller_of_get_says_is_no_message_of_dingtalk_s<S: Server>() {
    let setup = Setup::<S>::start(&[]);
    get_takes_no_message_s_place(&setup.server, &setup.app);
}

/// A caller of "get" who knows or guesses the identifier of a message neither keeps that from being delivered, nor is taken
/// for a copy of it. No message has come before.
pub fn get_takes_no_message_s_place(server: &impl Server, app: &App) {
    let get = |metadata: serde_json::Value| {
        server.post("team", &json!({"operation": "get", "data": "hers", "metadata": metadata}).to_string())
    };
    app.answer(Act::ok("to a caller"));
    // Of so much, an application over HTTP gets only the beginning.
    let much = "x".repeat(4_000);
    for metadata in [
        json!({"msgId": "m1"}),
        json!({"msgId": "m1", "operation": "callback", "Operation": ""}),
        json!({"msgId": "m1", "a": much, "b": much, "c": much, "d": much}),
    ] {
        assert_eq!(get(metadata).body, "to a caller");
        assert_eq!(app.events().last().unwrap().header("operation"), ["get"]);
    }
    app.answer(Act::ok(PONG));
    // It has another body, and is delivered.
    assert_answer(&post(server.address(), "team", &signed(SECRET), text("m1").as_bytes()), PONG);
    assert_eq!(app.events().len(), 4, "a caller's message was taken for it");
    // It is what is remembered, where anything is; whoever calls "get" is not answered with that.
    app.answer(Act::ok("to a caller"));
    assert_eq!(get(json!({"msgId": "m1"})).body, "to a caller");
    assert_eq!(app.events().len(), 5);
}

pub fn what_is_no_callback_is_refused_as_documented<S: Server>() {
    let setup = Setup::<S>::start(&[]);
    let reply = send(setup.server.address(), "GET", CALLBACK, &[], b"");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{reply:?}");
    let reply = post(setup.server.address(), "nobody", &signed(SECRET), b"{}");
    assert_eq!(reply.status, 404);
    assert_eq!(reply.body, r#"{"errorCode":"ERR_CALLBACK","message":"couldn't find input binding nobody"}"#);
    let sized = |size: usize| {
        let empty = json!({"x": ""}).to_string().len();
        json!({"x": "y".repeat(size - empty)}).to_string()
    };
    assert_eq!(setup.callback(&sized((128 << 10) + 1)).status, 413);
    assert_answer(&setup.callback(&sized(128 << 10)), EMPTY);
    assert_eq!(setup.app.events().len(), 1);
}

pub fn nothing_secret_is_answered_or_logged<S: Server>() {
    let setup = Setup::<S>::start(&[]);
    let (now, session) = (now(), "S3SS10NS3SS10N");
    let signature = sign(SECRET, now);
    let message = json!({
        "msgId": "m",
        "sessionWebhook": format!("https://oapi.dingtalk.com/robot/sendBySession?session={session}"),
    });
    let mut seen = Vec::new();
    // An application that repeats what it is given.
    for status in [200, 500] {
        setup.app.answer_with(move |event| Act::Answer(status, String::from_utf8_lossy(&event.body).into_owned()));
        seen.push(setup.callback(&message.to_string()));
        let headers = [("content-type", "application/json"), ("timestamp", &*now.to_string()), ("sign", &*signature)];
        seen.push(send(setup.server.address(), "POST", CALLBACK, &headers, message.to_string().as_bytes()));
    }
    seen.push(setup.server.invoke("team", "create", r#"{"msgtype":"nonsense"}"#));
    seen.push(setup.server.invoke("team", "create", r#"{"message":"Hi"}"#));
    seen.push(send(setup.server.address(), "GET", "/v1.0/metadata", &[], b""));
    seen.push(send(setup.server.address(), "GET", "/v1.0/healthz", &[], b""));
    let everything = format!("{seen:?}\n{}", setup.server.log());
    for secret in [SECRET, TOKEN, session, &signature, &base64(SECRET.as_bytes())] {
        assert!(!everything.contains(secret), "{secret} in {everything}");
    }
}
