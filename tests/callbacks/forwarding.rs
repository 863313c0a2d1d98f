//! A message reaches the application as DingTalk wrote it, with its metadata and trace, and so does `get`.

use dingtalk_host::simulator::conversation::{Say, Spoken};
use serde_json::{Value, json};

use crate::support::app::{Act, App};
use crate::support::receiving::{
    EMPTY, GET, PONG, Setup, assert_answer, callback, post, signed, start, start_with, talkative, text, until,
};
use crate::support::witness::Tap;
use crate::support::{Host, Resources, SECRET, component};

#[test]
fn a_callback_arrives_byte_for_byte_and_its_answer_too() {
    let Setup { host, app, .. } = start_with(&[], &[], &[("APP_API_TOKEN", "4pp-t0k3n")]);
    app.answer(Act::ok(PONG));
    let body = " {\"msgtype\" :\"text\",\t\"text\": {\"content\":\"  h\\u4f60i \\ud83d\\ude00 \"},\r\n\"z\":1.0e2, \
                \"a\":-0.0,\"n\":12345678901234567890.10,\"conversationTitle\":\"值班 100%\",\"x\":1,\"x\":2,\
                \"senderNick\":\"a\\\"b\\\\c\\/\",\"msgId\":\"msg1+/==\",\"createAt\":1684493546276,\
                \"conversationType\":\"2\",\"e\":{},\"f\":[ ]}\n ";
    assert_answer(&callback(&host, body), PONG);
    let events = app.events();
    assert_eq!(events.len(), 1);
    let event = &events[0];
    assert_eq!(String::from_utf8_lossy(&event.body), body);
    assert_eq!(event.target, "/team");
    for (name, value) in [
        ("Content-Type", "application/json"),
        ("Content-Length", &*body.len().to_string()),
        ("Host", &*app.address().to_string()),
        ("Dapr-Api-Token", "4pp-t0k3n"),
        ("Msgid", "msg1+/=="),
        ("Msgtype", "text"),
        ("Conversationtype", "2"),
        ("Conversationtitle", "%E5%80%BC%E7%8F%AD 100%25"),
        ("Sendernick", "a\"b\\c/"),
        ("Createat", "1684493546276"),
        ("Text", "h%E4%BD%A0i %F0%9F%98%80"),
    ] {
        assert_eq!(event.header(name), [value], "{name}");
    }
    // What proves the message, and what the message has not, is not handed on.
    for name in ["sign", "timestamp", "conversationid", "senderid", "robotcode"] {
        assert_eq!(event.header(name), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn half_a_surrogate_pair_is_handed_on_and_answered_as_one_replacement_character() {
    let Setup { host, app, .. } = start();
    app.answer(Act::ok(r#"{"msgtype":"text","text":{"content":"\udc00"}}"#));
    let body = r#"{"msgtype":"text","text":{"content":"a \ud800\ud83d\ude00"},"senderNick":"\ud800 Li","msgId":"m"}"#;
    assert_answer(&callback(&host, body), r#"{"msgtype":"text","text":{"content":"\ufffd"}}"#);
    let events = app.events();
    assert_eq!(String::from_utf8_lossy(&events[0].body), body.replace("\\ud800", "\\ufffd"));
    assert_eq!(events[0].header("Sendernick"), ["%EF%BF%BD Li"]);
    assert_eq!(events[0].header("Text"), ["a %EF%BF%BD%F0%9F%98%80"]);
}

#[test]
fn a_trace_is_handed_on_and_otherwise_begins() {
    let Setup { host, app, .. } = start();
    let trace = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "vendor=1"),
        ("baggage", "user=alice;p=1"),
    ];
    let headers = [signed(SECRET), trace.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()].concat();
    assert_answer(&post(host.address(), "team", &headers, text("m1").as_bytes()), EMPTY);
    let event = app.wait_for_events(1);
    for (name, value) in trace {
        assert_eq!(event.header(name), [value]);
    }
    for count in [2, 3] {
        assert_answer(&callback(&host, &text(&format!("m{count}"))), EMPTY);
    }
    let [second, third] = [2, 3].map(|count| app.wait_for_events(count).header("traceparent")[0].to_owned());
    assert_ne!(second, third);
    // A trace that cannot be read is no reason to lose a message, and half of one is none.
    let (none, twice) = ("00-00000000000000000000000000000000-b7ad6b7169203331-01", trace[0].1);
    for (count, odd) in [
        vec![("baggage", "user")],
        vec![("tracestate", "vendor=2")],
        vec![("tracestate", "你")],
        vec![("traceparent", none), ("tracestate", "vendor=2")],
        vec![("traceparent", twice), ("traceparent", twice)],
    ]
    .into_iter()
    .enumerate()
    {
        let odd: Vec<_> = odd.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let headers = [signed(SECRET), odd.clone()].concat();
        assert_answer(&post(host.address(), "team", &headers, text(&format!("odd {count}")).as_bytes()), EMPTY);
        let event = app.wait_for_events(4 + count);
        let parent = event.header("traceparent");
        assert!(parent.len() == 1 && parent[0].len() == 55 && parent[0] != none && parent[0] != twice, "{odd:?}");
        assert_eq!((event.header("tracestate"), event.header("baggage")), (vec![], vec![]), "{odd:?}");
    }
    let parts: Vec<&str> = second.split('-').collect();
    let is_id = |id: &str| {
        id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) && id.bytes().any(|b| b != b'0')
    };
    assert_eq!((parts.len(), parts[0], parts[1].len(), parts[2].len(), parts[3].len()), (4, "00", 32, 16, 2));
    assert!(is_id(parts[1]) && is_id(parts[2]), "{second}");
}

#[test]
fn every_type_of_message_passes() {
    let Setup { host, app, robot } = start();
    let tap = Tap::before(host.address());
    robot.set_callback_url(&host.callback_url("team").replace(&host.address().to_string(), &tap.address().to_string()));
    let object = |value: Value| value.as_object().unwrap().clone();
    let said = [
        (Spoken::Text("好 \u{1f600}".into()), Some("text")),
        (
            Spoken::RichText(vec![json!({"text": "a"}), json!({"downloadCode": "d", "type": "picture"})]),
            Some("richText"),
        ),
        (Spoken::Picture(object(json!({"downloadCode": "d+/="}))), Some("picture")),
        (Spoken::Audio(object(json!({"recognition": "喂"}))), Some("audio")),
        (Spoken::Video(object(json!({}))), Some("video")),
        (Spoken::File(object(json!({"fileName": "a\"b.txt"}))), Some("file")),
        (Spoken::Quota, Some("text")),
        (Spoken::Raw(object(json!({"msgtype": "hologram", "hologram": {"rays": [1.5, null]}}))), Some("hologram")),
        (Spoken::Raw(object(json!({"unheard": "of"}))), None),
    ];
    for (count, (spoken, msgtype)) in said.into_iter().enumerate() {
        let quota = spoken == Spoken::Quota;
        let said = robot.say(Say::new(spoken));
        assert_eq!(said.attempts.last().unwrap().status, Some(200), "{said:?}\n{}", host.log());
        assert_eq!((said.reply, said.problem), (Some(json!({"msgtype": "empty"})), None));
        let event = app.wait_for_events(count + 1);
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        assert_eq!(event.header("msgtype"), msgtype.into_iter().collect::<Vec<_>>());
        assert_eq!((event.header("msgid"), &body["msgId"]), (vec![&*said.msg_id], &json!(said.msg_id)));
        assert_eq!(event.header("errorcode"), if quota { vec!["20001"] } else { vec![] });
        // What the robot wrote into its socket.
        let sent = tap.sent();
        assert!(sent.windows(event.body.len()).any(|window| window == event.body), "{body} was not sent so");
    }
}

#[test]
fn get_reaches_the_application_and_returns_its_answer() {
    let Setup { host, app, .. } = start_with(&[], &[], &[("APP_API_TOKEN", "4pp-t0k3n")]);
    app.answer(Act::ok("{\"answer\" : 1.0e2,\n \"n\":\"\\u4f60\"}"));
    let reply = host.post("team", GET);
    assert_answer(&reply, "{\"answer\" : 1.0e2,\n \"n\":\"\\u4f60\"}");
    let event = app.wait_for_events(1);
    assert_eq!(String::from_utf8_lossy(&event.body), "{\n          \"message\": \"Hi\"\n        }");
    assert_eq!((event.target.as_str(), event.header("dapr-api-token")), ("/team", vec!["4pp-t0k3n"]));

    let metadata = r#"{"X-Kind":" 你 ","Content-Type":"text/evil","Host":"evil","Dapr-Api-Token":"evil","a b":"x",
        "traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","grpc-x":"1"}"#;
    host.post("team", &format!(r#"{{"operation":"get","data":"x","metadata":{metadata}}}"#));
    let event = app.wait_for_events(2);
    assert_eq!(event.body, b"\"x\"");
    for (name, value) in [
        ("x-kind", "%20%E4%BD%A0%20"),
        ("content-type", "application/json"),
        ("host", &*app.address().to_string()),
        ("dapr-api-token", "4pp-t0k3n"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("dapr-grpc-x", "1"),
    ] {
        assert_eq!(event.header(name), [value], "{name}");
    }

    // A message that would be a reply to DingTalk is returned all the same, and nothing at all too.
    for answer in [r#"{"msgtype":"text","text":{}}"#, "", "no JSON <html>"] {
        app.answer(Act::ok(answer));
        assert_answer(&host.post("team", GET), answer);
    }
    app.answer(Act::Answer(500, r#"{"why":"full"}"#.into()));
    let reply = host.post("team", GET);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("handler-failed")), "{reply:?}");
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    let start = "error invoking output binding team: dingtalk webhook error: the message was not taken: fails to send \
                 binding event to http app channel, status code: 500 body: ";
    assert!(message.starts_with(start) && message.contains("full"), "{message}");
    assert_eq!(reply.json()["details"][0]["metadata"]["error"], "handler-failed");
}

#[test]
fn two_bindings_of_one_id_do_not_disturb_each_other() {
    let (app, robot) = (App::start(), talkative());
    let of = |name: &str, secret: &str| component(name, &[("id", "same"), ("url", &robot.url()), ("secret", secret)]);
    let resources = Resources::new().with("a.yaml", &of("a", "SECa")).with("b.yaml", &of("b", "SECb"));
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    app.answer_with(|event| Act::ok(&format!(r#"{{"msgtype":"text","text":{{"content":"{}"}}}}"#, event.target)));
    let reply = |name: &str| format!(r#"{{"msgtype":"text","text":{{"content":"/{name}"}}}}"#);
    // The same msgId too.
    for name in ["a", "b"] {
        assert_answer(&host.post(name, GET), &reply(name));
        let secret = format!("SEC{name}");
        assert_answer(&post(host.address(), name, &signed(&secret), text("m").as_bytes()), &reply(name));
    }
    let targets: Vec<String> = app.events().into_iter().map(|event| event.target).collect();
    assert_eq!(targets, ["/a", "/a", "/b", "/b"]);
    assert_eq!(post(host.address(), "a", &signed("SECb"), text("n").as_bytes()).status, 403);
}

#[test]
fn events_are_printed_one_line_each() {
    let robot = talkative();
    let host = Host::serve_with(&Resources::of("team", &robot), &["--print-events", "--callback-timeout", "60s"], &[]);
    let body = "{\"msgtype\":\"text\",\n \"text\":{\"content\":\"\\u4f60\\n好\"},\"n\":1.0e2,\r\n\"msgId\":\"m1\"}";
    assert_answer(&callback(&host, body), EMPTY);
    assert_answer(&callback(&host, &text("m2")), EMPTY);
    assert_answer(&callback(&host, &text("m2")), EMPTY);
    assert_eq!(host.post("team", GET).status, 200);
    assert_eq!(post(host.address(), "team", &signed("x"), text("m3").as_bytes()).status, 403);
    until("three lines", || host.output().lines().count() >= 3);
    let output = host.output();
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3, "{output}");
    assert_eq!((&lines[0]["binding"], &lines[0]["metadata"]["text"]), (&json!("team"), &json!("你\n好")));
    assert!(output.lines().next().unwrap().contains(&body.replace(['\n', '\r'], " ")), "{output}");
    assert_eq!((&lines[1]["metadata"]["msgId"], &lines[2]["data"]), (&json!("m2"), &json!({"message": "Hi"})));
}
