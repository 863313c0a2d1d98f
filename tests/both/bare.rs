//! `POST /v1.0/bindings/{name}/{operation}`: the body is data as it is, and metadata comes from the query. Everything else
//! is as for a request in Dapr's envelope.

use serde_json::json;

use super::Server;
use super::api::{assert_error, assert_invoke_error, assert_success};
use crate::support::app::{Act, App};
use crate::support::receiving::talkative;
use crate::support::{Reply, Robot, send};

const PATH: &str = "/v1.0/bindings/mydingtalk/create";
const HI: &[u8] = br#"{"message":"Hi"}"#;

/// A server with one binding, `mydingtalk`, and its robot.
fn start<S: Server>() -> (Robot, S) {
    let robot = Robot::start();
    let server = S::serve(&robot, None);
    (robot, server)
}

fn post(host: &impl Server, target: &str, body: &[u8]) -> Reply {
    send(host.address(), "POST", target, &[], body)
}

pub fn a_body_is_posted_as_it_is<S: Server>() {
    let (robot, host) = start::<S>();
    // Written as no serialiser would, and with what Dapr's envelope would make something else of.
    let message = "\r\n{\"msgtype\" :\"text\",\n\"text\":{\"content\":\"<b>&amp; 你\\u597d\"}, \"z\":12345678901234567890, \"a\":1.0}\n";
    for (method, content_type) in
        [("POST", "application/json"), ("PUT", "application/x-www-form-urlencoded"), ("POST", "nonsense")]
    {
        let headers = [("content-type", content_type)];
        assert_success(&send(host.address(), method, PATH, &headers, message.as_bytes()));
    }
    for seen in robot.messages() {
        assert_eq!(seen.message.get(), message.trim(), "the simulator keeps no blanks around a message");
    }
    // What looks like the envelope is none.
    let envelope = r#"{"operation":"get","msgtype":"text","text":{"content":"Hi"},"metadata":{"msgUuid":"u"}}"#;
    assert_success(&post(&host, PATH, envelope.as_bytes()));
    let messages = robot.messages();
    assert_eq!((messages.len(), messages[3].message.get()), (4, envelope));
    let mut connection = crate::support::Connection::open(host.address());
    connection.write(format!("POST {PATH} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"));
    connection.write("3\r\nHi \r\n2\r\nyo\r\n0\r\n\r\n");
    assert_success(&connection.read());
    assert_eq!(robot.messages()[4].message.get(), r#"{"msgtype":"text","text":{"content":"Hi yo"}}"#);
}

pub fn what_is_no_object_is_what_it_is_as_data<S: Server>() {
    let (robot, host) = start::<S>();
    for (body, content) in [
        ("disk full: 你好\n", "disk full: 你好\n"),
        ("\"two\\nlines\"", "two\nlines"),
        ("{\"message\": \"Hi\"}", "Hi"),
        ("\u{feff}[alert] Hi", "[alert] Hi"),
    ] {
        assert_success(&post(&host, PATH, body.as_bytes()));
        let message: serde_json::Value = serde_json::from_str(robot.messages().last().unwrap().message.get()).unwrap();
        assert_eq!(message, json!({"msgtype": "text", "text": {"content": content}}), "{body}");
    }
    let sent = robot.stats().requests;
    for (body, what) in [
        (&b""[..], "data is empty; a message is a JSON object or text"),
        (b" \r\n", "data is empty; a message is a JSON object or text"),
        (b"[1]", "data is the JSON array; "),
        (b"7\n", "data is the JSON number; "),
        (b"null", "data is the JSON null; "),
        (b"{\"message\":", "data starts like a JSON object and is none: "),
        (b"Hi \xff", "data is not UTF-8 (byte 4); "),
    ] {
        let reply = post(&host, PATH, body);
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(what), "{message}");
        assert_invoke_error(&reply, &message, "invalid-message");
        assert_eq!(reply.metadata("outcome"), Some("not-sent"));
    }
    assert_eq!(robot.stats().requests, sent);
}

pub fn metadata_comes_from_the_query<S: Server>() {
    let (robot, host) = start::<S>();
    let object = br#"{"msgtype":"text","text":{"content":"Hi"}}"#;
    assert_success(&post(&host, &format!("{PATH}?metadata.msgUuid=a%22b"), object));
    assert_eq!(robot.messages()[0].message.get(), r#"{"msgUuid":"a\"b","msgtype":"text","text":{"content":"Hi"}}"#);
    let query = "metadata.msgtype=markdown&metadata.title=Disk+%E6%BB%A1%26%25&metadata.atmobiles=%2B86-1,2&&metadata.unknown=&";
    assert_success(&post(&host, &format!("{PATH}/?{query}"), b"full"));
    let message: serde_json::Value = serde_json::from_str(robot.messages()[1].message.get()).unwrap();
    assert_eq!(message["markdown"]["title"], "Disk 满&%");
    assert_eq!(message["at"]["atMobiles"], json!(["+86-1", "2"]));
    // An item that is wrong in itself is the binding's to refuse, as in the envelope.
    let reply = post(&host, &format!("{PATH}?metadata.isAtAll=perhaps"), HI);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("invalid-message")), "{reply:?}");
}

pub fn a_query_that_is_not_metadata_alone_is_malformed_and_nothing_is_sent<S: Server>() {
    let (robot, host) = start::<S>();
    let many = |count: usize| (0..count).map(|number| format!("metadata.{number}=")).collect::<Vec<_>>().join("&");
    let write = "write metadata.<name>=<value>, and & in a value as %26";
    for (query, message) in [
        ("metdata.title=S3CR3T", format!("query item 1 \"metdata.title\" is no metadata; {write}")),
        ("metadata.title=x&title=S3CR3T", format!("query item 2 \"title\" is no metadata; {write}")),
        ("metadata.title=R&S3CR3T", format!("query item 2 has no \"=\"; {write}")),
        (
            "metadata.title=S3CR3T&metadata.Title=S3CR3T",
            "query item 2 \"metadata.Title\" is there twice; send one".into(),
        ),
        (
            "metadata.title=S3CR3T%zz",
            "the value of query item 1 \"metadata.title\" has a % that begins no escape; write it as %25".into(),
        ),
        (&many(1_001), "metadata has more than 1000 items; send fewer".into()),
    ] {
        assert_error(&post(&host, &format!("{PATH}?{query}"), HI), 400, "ERR_MALFORMED_REQUEST", &message);
    }
    assert_eq!(robot.stats().requests, 0);
    assert!(!host.log().contains("S3CR3T"), "{}", host.log());
    assert_success(&post(&host, &format!("{PATH}?{}", many(1_000)), HI));
    // Where the envelope is the body, the query says nothing, as in Dapr.
    let path = "/v1.0/bindings/mydingtalk?metdata.title=x&metadata.msgtype=wrong";
    assert_success(&post(&host, path, br#"{"operation":"create","data":"Hi"}"#));
}

pub fn checks_have_the_order_and_the_answers_of_the_envelope<S: Server>() {
    let (robot, host) = start::<S>();
    let unsupported = |operation: &str| {
        format!("binding mydingtalk does not support operation {operation}. supported operations:create get reply")
    };
    for (target, message, error) in [
        ("nobody/create", "couldn't find output binding nobody".into(), "not-found"),
        ("nobody/delete", "couldn't find output binding nobody".into(), "not-found"),
        ("MyDingTalk/create", "couldn't find output binding MyDingTalk".into(), "not-found"),
        ("my%2Fding+talk/create", "couldn't find output binding my/ding talk".into(), "not-found"),
        ("mydingtalk/delete", unsupported("delete"), "unsupported-operation"),
        ("mydingtalk/Create", unsupported("Create"), "unsupported-operation"),
        ("mydingtalk/create%2Fx+y", unsupported("create/x y"), "unsupported-operation"),
        ("mydingtalk/%63allback", unsupported("callback"), "unsupported-operation"),
    ] {
        let reply = post(&host, &format!("/v1.0/bindings/{target}"), HI);
        // A name is unescaped where it is asked for, and is told so.
        let name = message.strip_prefix("couldn't find output binding ").unwrap_or("mydingtalk");
        assert_invoke_error(&reply, &format!("error invoking output binding {name}: {message}"), error);
    }
    for (target, parameter, escape) in [("a%zz/create", "name", "%zz"), ("mydingtalk/cre%4", "operation", "%4")] {
        let reply = post(&host, &format!("/v1.0/bindings/{target}"), HI);
        let text =
            format!("failed to unescape request parameter \"{parameter}\". Error: invalid URL escape \"{escape}\"");
        assert_eq!((reply.status, reply.body.trim_end()), (400, &*text), "{reply:?}");
    }
    // The status that is chosen, the query, the trace; then the name.
    let with = |header, target: &str| send(host.address(), "POST", target, &[header], HI);
    let (wrong, query) = (("dingtalk-error-status", "wrong"), "/v1.0/bindings/nobody/create?x=1");
    assert!(with(wrong, query).body.contains("header dingtalk-error-status"));
    assert!(with(("baggage", "user"), query).body.contains("query item 1"));
    let reply = with(("baggage", "user"), "/v1.0/bindings/nobody/create");
    let message = "invalid baggage header: member 1 is not key=value";
    assert_error(&reply, 400, "ERR_MALFORMED_REQUEST", message);
    assert_eq!(with(("dingtalk-error-status", "http"), "/v1.0/bindings/nobody/create").status, 404);
    assert_eq!(with(("dingtalk-error-status", "http"), &PATH.replace("create", "delete")).status, 400);
    assert_eq!(with(("origin", "https://evil.example"), PATH).status, 403);
    assert_eq!(robot.stats().requests, 0);
    let percent = "//v1.0/bindings/my%64ingtalk//%63reate/";
    assert_success(&with(("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), percent));
    assert_eq!(robot.stats().accepted, 1);
}

pub fn it_needs_the_token_that_there_is<S: Server>() {
    let robot = Robot::start();
    let host = S::serve(&robot, Some("sesame"));
    for path in [PATH, "/v1.0/bindings/mydingtalk/%63allback", "/v1.0/bindings/nobody/create?x"] {
        for headers in [&[][..], &[("dapr-api-token", "sesam")]] {
            let reply = send(host.address(), "POST", path, headers, HI);
            assert_eq!((reply.status, reply.body.as_str()), (401, "invalid api token\n"), "{path} {headers:?}");
        }
    }
    // A query is no place for it.
    let reply = post(&host, &format!("{PATH}?dapr-api-token=sesame"), HI);
    assert_eq!(reply.status, 401);
    assert_eq!(robot.stats().requests, 0);
    assert_success(&send(host.address(), "PUT", PATH, &[("dapr-api-token", "sesame")], HI));
}

pub fn get_hands_on_the_body_as_it_is<S: Server>() {
    let (robot, app) = (talkative(), App::start());
    let server = S::with_application(&robot, &[], app.address());
    app.answer(Act::ok("anything"));
    for body in [&b" {\"a\" : 1.0} "[..], b"no JSON", b"\xff\0", b""] {
        let target = "/v1.0/bindings/team/get?metadata.msgId=m%201&metadata.operation=callback";
        let trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let reply = send(server.address(), "POST", target, &[trace], body);
        assert_eq!((reply.status, reply.body.as_str()), (200, "anything"), "{reply:?}");
        let event = app.events().pop().unwrap();
        assert_eq!(event.body, body, "{event:?}");
        assert_eq!(event.header(trace.0), [trace.1], "{event:?}");
        assert_eq!((event.header("msgid"), event.header("operation")), (vec!["m 1"], vec!["get"]), "{event:?}");
    }
    assert_eq!(app.events().len(), 4);
    assert_eq!(robot.stats().requests, 0);
}
