//! What DingTalk sends reaches the application, verified and byte for byte, and the answer comes back. Signatures
//! come from another implementation than the one under test; the application is written by hand.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dingtalk_binding::error::{Error, Refusal};
use dingtalk_binding::secret::Secret;
use dingtalk_binding::settings::Settings;
use dingtalk_component::COMPONENT;
use dingtalk_host::egress::{Egress, Proxies};
use dingtalk_host::event::BoxFuture;
use dingtalk_host::sandbox::{CallError, Callback, Handler, Limits, Sandbox};
use dingtalk_host::simulator::Via;
use dingtalk_host::simulator::callback::Forgery;
use dingtalk_host::simulator::conversation::{Say, Spoken};
use dingtalk_host::simulator::robot::RobotConfig;
use serde_json::{Value, json};

use crate::support::app::{Act, App, Gate};
use crate::support::held::Held;
use crate::support::receiving::{
    EMPTY, PONG, REFUSED, Setup, assert_answer, assert_later, callback, post, robot_with, signed, start, start_for,
    start_with, talkative, text, until,
};
use crate::support::witness::{Tap, now, sign};
use crate::support::{Connection, Host, PATIENCE, Reply, Resources, Robot, SECRET, TOKEN, component, send};

fn metadata(reply: &Reply) -> Value {
    reply.json()["details"][0]["metadata"].clone()
}

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

/// github.com/eryajf/chatgpt-dingtalk 3766c24, public/tools_test.go.
const VECTOR: (u64, &str, &str) =
    (1_684_493_546_276, "client-secret-for-test", "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=");

fn vector() -> Vec<(String, String)> {
    let headers = [("content-type", "application/json".into()), ("timestamp", VECTOR.0.to_string())];
    let mut headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
    headers.push(("sign".into(), VECTOR.2.into()));
    headers
}

#[test]
fn a_signature_that_was_published_years_ago_is_refused_today() {
    assert_eq!(sign(VECTOR.1, VECTOR.0), VECTOR.2);
    for skew in ["1h", "24h"] {
        let properties = [("appSecret", VECTOR.1), ("callbackMaxSkew", skew)];
        let Setup { host, app, .. } = start_with(&properties, &[], &[]);
        let reply = post(host.address(), "team", &vector(), text("m").as_bytes());
        assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED), "{skew}");
        host.wait_for_log("its timestamp is too far from this machine's time");
        assert_answer(&post(host.address(), "team", &signed(VECTOR.1), text("m").as_bytes()), EMPTY);
        assert_eq!(app.events().len(), 1);
    }
    let longer = [("id", "x"), ("url", "https://h"), ("callbackMaxSkew", "24h0m0.001s")];
    assert!(Settings::parse(longer).unwrap_err().to_string().contains("callbackMaxSkew"));
}

/// Keeps what a binding hands on.
#[derive(Default)]
struct Kept(Mutex<Vec<Vec<u8>>>);

impl Handler for Kept {
    fn handle(&self, data: Vec<u8>, _: Vec<(String, String)>) -> BoxFuture<'_, Result<Option<Vec<u8>>, Error>> {
        self.0.lock().unwrap().push(data);
        Box::pin(async { Ok(Some(PONG.into())) })
    }
}

#[test]
fn the_component_accepts_the_published_signature_for_an_hour_to_the_millisecond() {
    const HOUR: u64 = 3_600_000;
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let sandbox = Sandbox::new(
        COMPONENT,
        Limits { instances: 2, ..Limits::default() },
        Arc::new(move || clock.load(Ordering::SeqCst)),
    )
    .unwrap();
    let properties = [("id", "x"), ("url", "http://127.0.0.1:1"), ("secret", "another"), ("appSecret", VECTOR.1)];
    let settings = Settings::parse(properties).unwrap();
    let owned = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let tenant = sandbox.tenant(owned, Egress::new("x", &settings, &Proxies::none()).unwrap(), settings.timeout);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = Arc::new(Kept::default());
    let receive = |now: u64| {
        time.store(now, Ordering::SeqCst);
        let headers = vector().into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        let callback = Callback { headers, body: b"{\"msgId\": 1.0}".to_vec(), arrived: sandbox.arrival() };
        let reader: Arc<dyn Handler> = Arc::clone(&kept) as _;
        runtime.block_on(sandbox.receive(&tenant, callback, Some(reader), PATIENCE))
    };
    for now in [VECTOR.0, VECTOR.0 + HOUR, VECTOR.0 - HOUR] {
        let reply = receive(now).unwrap();
        assert_eq!(
            (reply.status, reply.content_type.as_str(), &*reply.body),
            (200, "application/json", PONG.as_bytes())
        );
    }
    assert_eq!(*kept.0.lock().unwrap(), vec![b"{\"msgId\": 1.0}".to_vec(); 3]);
    for now in [VECTOR.0 + HOUR + 1, VECTOR.0 - HOUR - 1, 0] {
        let refused = receive(now).unwrap_err();
        assert!(matches!(refused, CallError::Binding(Error::CallbackRefused(Refusal::Expired))), "{now}: {refused:?}");
    }
    assert_eq!(kept.0.lock().unwrap().len(), 3, "what was refused was handed on");
}

#[test]
fn forgeries_are_refused_as_documented_and_the_application_sees_none() {
    let known = [("robotCode", "simulated-robot-code"), ("chatbotCorpId", "simulated-corporation")];
    let Setup { host, app, robot } = start_with(&known, &[], &[]);
    app.answer(Act::ok(PONG));
    let statuses = |say: Say| robot.say(say).attempts.into_iter().map(|attempt| attempt.status).collect::<Vec<_>>();
    assert_eq!(statuses(Say::text("genuine")), [Some(200)], "{}", host.log());
    for forgery in Forgery::ALL {
        let status = match forgery {
            // Rightly signed, see below.
            Forgery::Replay | Forgery::SwappedBody => continue,
            Forgery::Unsigned => 401,
            Forgery::OversizedBody => 413,
            Forgery::TruncatedBody | Forgery::NotJson => 400,
            Forgery::WrongContentType => 415,
            _ => 403,
        };
        let said = robot.say(Say::text("forged").forged(forgery));
        assert_eq!(said.attempts.len(), 1, "{forgery} {said:?}");
        assert_eq!(said.attempts[0].status, Some(status), "{forgery} {said:?}");
        if matches!(status, 401 | 403) {
            assert_eq!(said.attempts[0].error.as_deref(), Some(&*format!("refused: {REFUSED}")), "{forgery}");
        }
    }
    assert_eq!(app.events().len(), 1);
    // The edges of the window, with some way to go until the clock is read.
    for forgery in [Forgery::OldTimestamp, Forgery::FutureTimestamp] {
        let inside = Say { skew_ms: 3_600_000 - 120_000, ..Say::text("late").forged(forgery) };
        assert_eq!(statuses(inside), [Some(200)], "{forgery}");
    }
    // The callback that DingTalk sent itself: the reply again, without a delivery.
    let before = app.events().len();
    assert_eq!(before, 3);
    let said = robot.say(Say::text("x").forged(Forgery::Replay));
    assert_eq!((said.attempts[0].status, said.reply), (Some(200), Some(serde_json::from_str(PONG).unwrap())));
    assert_eq!(app.events().len(), before);
    // A message that nobody said. Only where it could have been signed in the same millisecond it is taken for one.
    let swapped = || robot.say(Say::text("swapped").forged(Forgery::SwappedBody)).attempts.remove(0);
    until("the end of the signature's first moment", || swapped().status == Some(403));
    let before = app.events().len();
    let refused = swapped();
    assert_eq!((refused.status, refused.error), (Some(403), Some(format!("refused: {REFUSED}"))));
    assert_eq!(statuses(Say::text("x").forged(Forgery::Replay)), [Some(200)]);
    assert_eq!(app.events().len(), before);
}

#[test]
fn no_answer_tells_which_part_of_a_proof_was_wrong() {
    let Setup { host, app, .. } = start_with(&[("robotCode", "r"), ("chatbotCorpId", "c")], &[], &[]);
    let (now, body) = (now(), r#"{"robotCode":"r","chatbotCorpId":"c"}"#);
    let (time, right) = (now.to_string(), sign(SECRET, now));
    let wrong = sign("SECanother", now);
    let old = now - 3_600_001;
    let (old_time, old_sign) = (old.to_string(), sign(SECRET, old));
    let unpadded = right.trim_end_matches('=');
    let encoded = right.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let spaced = format!("{time} 1");
    let hexadecimal = format!("{now:#x}");
    let mut answers = Vec::new();
    for (status, headers, body) in [
        (401, &[][..], body),
        (401, &[("timestamp", &*time)], body),
        (401, &[("sign", &*right)], body),
        (401, &[("token", TOKEN)], body),
        (401, &[("x-timestamp", &*time), ("x-sign", &*right)], body),
        (403, &[("timestamp", ""), ("sign", "")], body),
        (403, &[("timestamp", &*time), ("sign", "")], body),
        (403, &[("timestamp", &*time), ("sign", &*wrong)], body),
        (403, &[("timestamp", &*time), ("sign", unpadded)], body),
        (403, &[("timestamp", &*time), ("sign", &*encoded)], body),
        (403, &[("timestamp", &*time), ("sign", "你")], body),
        (403, &[("timestamp", &*old_time), ("sign", &*old_sign)], body),
        (403, &[("timestamp", &*old_time), ("sign", "x")], body),
        (403, &[("timestamp", "now"), ("sign", &*right)], body),
        (403, &[("timestamp", &*spaced), ("sign", &*right)], body),
        (403, &[("timestamp", &*hexadecimal), ("sign", &*right)], body),
        (403, &[("timestamp", "99999999999999999999999"), ("sign", &*right)], body),
        // Two of a kind, whichever of them is right, and however they are written.
        (403, &[("timestamp", &*time), ("sign", &*right), ("timestamp", &*time)], body),
        (403, &[("timestamp", &*time), ("sign", &*right), ("TIMESTAMP", &*old_time)], body),
        (403, &[("Timestamp", &*old_time), ("sign", &*right), ("timestamp", &*time)], body),
        (403, &[("timestamp", &*time), ("sign", &*right), ("Sign", &*wrong)], body),
        (403, &[("timestamp", &*time), ("SIGN", ""), ("sign", &*right)], body),
        (403, &[("timestamp", &*time), ("sign", &*right)], "{}"),
        (403, &[("timestamp", &*time), ("sign", &*right)], r#"{"robotCode":"r","chatbotCorpId":"C"}"#),
        (403, &[("timestamp", &*time), ("sign", &*right)], r#"{"robotCode":"r2","chatbotCorpId":"c"}"#),
        // Before the sender is known, nobody looks at the body.
        (401, &[], "no JSON"),
        (403, &[("timestamp", &*time), ("sign", &*wrong)], "no JSON"),
    ] {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let reply = send(host.address(), "POST", "/v1.0/bindings/team/callback", &headers, body.as_bytes());
        assert_eq!((reply.status, reply.body.as_str()), (status, REFUSED), "{headers:?}");
        let mut names: Vec<_> =
            reply.headers.into_iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).collect();
        names.sort();
        answers.push(names);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "a header differs");
    // Right in everything: it is not the rest that was refused.
    let headers = [("timestamp", &*time), ("content-type", "Application/JSON"), ("SIGN", &*right)];
    let reply = send(host.address(), "POST", "/v1.0/bindings/team/callback", &headers, body.as_bytes());
    assert_answer(&reply, EMPTY);
    assert_eq!(app.events().len(), 1);
}

/// The head of a genuine callback without the length of its body.
fn head(more: &str) -> String {
    let headers: String = signed(SECRET).iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST /v1.0/bindings/team/callback HTTP/1.1\r\nhost: h\r\n{headers}{more}\r\n")
}

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

/// The specification's example with curl, but for the binding's name.
const GET: &str = r#"{
        "data": {
          "message": "Hi"
        },
        "metadata": {},
        "operation": "get"
      }"#;

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
    assert_eq!(metadata_error(&reply), "handler-failed");
}

fn metadata_error(reply: &Reply) -> String {
    metadata(reply)["error"].as_str().unwrap().to_owned()
}

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
fn a_slow_answer_is_kept_for_the_copy_that_comes_next() {
    let Setup { host, app, robot } = start_with(&[], &["--callback-timeout", "100ms"], &[]);
    let gate = app.answer_behind(Act::ok(PONG));
    assert_later(&callback(&host, &text("m")));
    assert_later(&callback(&host, &text("m")));
    let said = std::thread::scope(|scope| {
        let said = scope.spawn(|| robot.say(Say::text("take your time")));
        until("another attempt", || robot.stats().callback_attempts > 2);
        gate.open();
        said.join().unwrap()
    });
    assert_eq!(said.attempts[0].status, Some(503));
    assert!(said.shown.is_some_and(|shown| shown.contains("pong 1.0e2 你")));
    // Under load even an answer that is there may take longer than that.
    until("the answer that was kept", || {
        let reply = callback(&host, &text("m"));
        if reply.status == 200 {
            assert_answer(&reply, PONG);
        }
        reply.status == 200
    });
    assert_eq!(app.events().len(), 2, "one delivery for each message");
    assert_eq!(robot.messages().len(), 1);
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
        let more: Vec<_> = (0..8).map(|_| scope.spawn(|| callback(host, &text("more")))).collect();
        assert_eq!(host.invoke("team", "create", r#"{"message":"Hi"}"#).status, 200);
        for more in more {
            let more = more.join().unwrap();
            assert_eq!((more.status, more.header("retry-after")), (503, Some("1")), "{more:?}");
        }
        // They came at the same moment, and anybody can send more of them.
        assert_eq!(host.log().matches("too many callbacks at once").count(), 1, "{}", host.log());
        gate.open();
        for reply in running {
            assert_answer(&reply.join().unwrap(), PONG);
        }
    });
    assert_answer(&callback(&host, &text("more")), PONG);
    assert_eq!((app.events().len(), robot.messages().len()), (AT_ONCE + 1, 1));
}

#[test]
fn what_the_application_does_not_take_is_not_acknowledged() {
    let Setup { host, app, .. } = start();
    let half = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"msgtype\":\"text\"";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n";
    let redirect = "HTTP/1.1 307 Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
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
fn an_answer_that_is_no_reply_says_nothing_and_a_mistake_in_one_is_named() {
    let Setup { host, app, robot } = start();
    for answer in ["", "ok", "<html><body>hello</body></html>", "{}", "[{\"msgtype\":\"text\"}]", "\"pong\"", EMPTY] {
        app.answer(Act::ok(answer));
        assert_answer(&callback(&host, &text(answer)), EMPTY);
    }
    app.answer(Act::Answer(204, String::new()));
    assert_answer(&callback(&host, &text("204")), EMPTY);
    app.answer(Act::Answer(201, PONG.into()));
    assert_answer(&callback(&host, &text("201")), PONG);
    assert!(!host.log().contains("wrong answer"), "{}", host.log());
    let long = json!({"msgtype": "text", "text": {"content": "x".repeat(20_000)}}).to_string();
    for (answer, field) in [
        (r#"{"msgtype":"link","link":{"title":"t"}}"#, "link"),
        (r#"{"msgtype":"text","text":{}}"#, "text.content is missing"),
        (r#"{"msgtype":"markdown","markdown":{"text":"x"}}"#, "markdown.title is missing"),
        (r#"{"to":"other"}"#, "\\\"to\\\""),
        (&long, "more than 20000"),
    ] {
        app.answer(Act::ok(answer));
        let said = robot.say(Say::text("hello"));
        assert_eq!((said.reply, said.shown, said.problem), (Some(json!({"msgtype": "empty"})), None, None));
        until("the mistake in the log", || {
            host.log()
                .lines()
                .any(|line| line.contains("wrong answer") && line.contains(field) && line.contains(&said.msg_id))
        });
    }
    assert_eq!(robot.messages().len(), 0);
}

#[test]
fn an_answer_can_be_data_for_other_bindings() {
    let (app, held) = (App::start(), Held::start());
    let [team, other, third] = [talkative(), Robot::start(), Robot::start()];
    let mut resources = Resources::of("team", &team);
    for (name, url) in [("other", other.url()), ("third", third.url()), ("held", held.url())] {
        let properties = [("id", name), ("url", &*url), ("secret", SECRET)];
        resources = resources.with(&format!("{name}.yaml"), &component(name, &properties));
    }
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    let count = AtomicU64::new(0);
    let answer = |to: &[&str], data: &str, concurrency: &str| {
        app.answer(Act::ok(&format!(r#"{{"to":{},"data":{data}{concurrency}}}"#, json!(to))));
        let id = format!("m{}", count.fetch_add(1, Ordering::SeqCst));
        assert_answer(&callback(&host, &text(&id)), EMPTY);
    };
    let shows = |robot: &Robot, text: &str| robot.messages().iter().any(|message| message.shown.contains(text));
    answer(&["other"], r#"{"message":"x1"}"#, "");
    until("the message", || shows(&other, "x1"));
    // As written, if it is DingTalk's own form.
    answer(&["other"], r#"{"msgtype":"text","text":{"content":"x\u0032"}, "n":1.0e2}"#, "");
    until("the message", || shows(&other, "x2"));
    assert_eq!(other.messages()[1].message.get(), r#"{"msgtype":"text","text":{"content":"x\u0032"}, "n":1.0e2}"#);

    // One after the other, up to the first failure.
    answer(&["held", "other"], r#"{"message":"x3"}"#, r#","concurrency":"sequential""#);
    let waiting = held.receive();
    assert!(!shows(&other, "x3"));
    waiting.accept();
    until("the message", || shows(&other, "x3"));
    answer(&["missing", "other"], r#"{"message":"x4"}"#, "");
    host.wait_for_log("couldn't find output binding missing");

    // All at once, whatever becomes of the others.
    answer(&["missing", "held", "other", "third"], r#"{"message":"x5"}"#, r#","concurrency":"parallel""#);
    let waiting = held.receive();
    until("the messages", || shows(&other, "x5") && shows(&third, "x5"));
    drop(waiting);
    assert!(!shows(&other, "x4"), "sent on after a failure");
    assert_eq!((team.messages().len(), other.messages().len(), third.messages().len()), (0, 4, 1));

    // A caller of "get" gets the answer, and the rest is done too.
    app.answer(Act::ok(r#"{"to":["third"],"data":"x6"}"#));
    assert_answer(&host.post("team", GET), r#"{"to":["third"],"data":"x6"}"#);
    until("the message", || shows(&third, "x6"));
}

#[test]
fn copies_at_once_are_one_delivery() {
    const COPIES: usize = 20;
    let Setup { host, app, .. } = start();
    let gate = Gate::default();
    let closed = gate.clone();
    app.answer_with(move |event| {
        if event.header("msgid") == ["copied"] {
            closed.pass();
        }
        Act::ok(PONG)
    });
    let replies = std::thread::scope(|scope| {
        let copies: Vec<_> = (0..COPIES).map(|_| scope.spawn(|| callback(&host, &text("copied")))).collect();
        app.wait_for_events(1);
        // Others are not concerned.
        assert_answer(&callback(&host, &text("another")), PONG);
        gate.open();
        copies.into_iter().map(|copy| copy.join().unwrap()).collect::<Vec<_>>()
    });
    for reply in &replies {
        assert_answer(reply, PONG);
    }
    assert_answer(&callback(&host, &text("copied")), PONG);
    assert_eq!(app.events().len(), 2);

    // Of copies at once whose delivery fails, none is acknowledged, and the next is delivered.
    app.answer(Act::Answer(500, String::new()));
    let failed = std::thread::scope(|scope| {
        let copies: Vec<_> = (0..COPIES).map(|_| scope.spawn(|| callback(&host, &text("failing")))).collect();
        copies.into_iter().map(|copy| copy.join().unwrap()).collect::<Vec<_>>()
    });
    failed.iter().for_each(assert_later);
    let before = app.events().len();
    app.answer(Act::ok(PONG));
    for _ in 0..2 {
        assert_answer(&callback(&host, &text("failing")), PONG);
    }
    assert_eq!(app.events().len(), before + 1);
    // Without an identifier, a copy is known by its bytes.
    for _ in 0..2 {
        assert_answer(&callback(&host, "{}"), PONG);
    }
    assert_eq!(app.events().len(), before + 2);
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

#[test]
fn a_binding_can_be_for_one_robot_of_one_organisation() {
    let Setup { host, app, robot } = start_with(&[("robotCode", "r1"), ("chatbotCorpId", "c1")], &[], &[]);
    for body in [
        r#"{"robotCode":"r2","chatbotCorpId":"c1"}"#,
        r#"{"robotCode":"r1","chatbotCorpId":"c2"}"#,
        r#"{"robotCode":"r1"}"#,
        r#"{"x":{"robotCode":"r1","chatbotCorpId":"c1"}}"#,
    ] {
        let reply = callback(&host, body);
        assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED), "{body}");
    }
    // The checker and the application could read different ones of two.
    let twice = callback(&host, r#"{"robotCode":"r1","chatbotCorpId":"c1","robot\u0043ode":"r2"}"#);
    assert_eq!(twice.status, 400, "{twice:?}");
    assert_eq!(robot.say(Say::text("for somebody else")).attempts.last().unwrap().status, Some(403));
    assert_eq!(app.events().len(), 0);
    assert_answer(&callback(&host, r#"{"robotCode":"r1","chatbotCorpId":"c1"}"#), EMPTY);
    assert_eq!(app.events().len(), 1);
}

#[test]
fn the_older_robots_prove_themselves_with_a_token() {
    let token = "0utg01ng-t0k3n";
    let app = App::start();
    let robot = robot_with(RobotConfig {
        outgoing_token: Some(Secret::new(token)),
        robot_code: String::new(),
        chatbot_corp_id: String::new(),
        ..Robot::config()
    });
    let url = robot.url();
    let of = |name: &str, more: &[(&str, &str)]| component(name, &[&[("id", name), ("url", &*url)], more].concat());
    let resources = Resources::new()
        .with("a.yaml", &of("team", &[("outgoingToken", token)]))
        .with("b.yaml", &of("keyless", &[]))
        .with("c.yaml", &of("both", &[("outgoingToken", token), ("secret", SECRET)]));
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    robot.set_callback_url(&host.callback_url("team"));
    app.answer(Act::ok(PONG));
    let said = robot.say(Say::text("hello"));
    assert!(said.shown.is_some(), "{said:?}\n{}", host.log());
    assert_eq!(app.wait_for_events(1).header("token"), Vec::<&str>::new());
    for (forgery, status) in [(Forgery::WrongKey, 403), (Forgery::Unsigned, 401), (Forgery::Replay, 200)] {
        let said = robot.say(Say::text("forged").forged(forgery));
        assert_eq!(said.attempts.last().unwrap().status, Some(status), "{forgery}");
    }
    let with = |name: &str, headers: &[(&str, &str)]| {
        let headers = [&[("content-type", "application/json")], headers].concat();
        send(host.address(), "POST", &format!("/v1.0/bindings/{name}/callback"), &headers, text("m").as_bytes())
    };
    let (time, right) = (now().to_string(), sign(SECRET, now()));
    let signature = [("timestamp", &*time), ("sign", &*right)];
    for (name, headers, status) in [
        ("team", &[("token", token), ("TOKEN", token)][..], 403),
        ("team", &[("token", "0UTG01NG-T0K3N")], 403),
        ("team", &signature, 401),
        // A token does not stand in for a signature, and nothing for a key that is not there.
        ("both", &[("token", token)], 401),
        ("keyless", &[("token", token)], 403),
        ("keyless", &[("token", "")], 403),
        ("keyless", &signature, 403),
        ("keyless", &[], 403),
    ] {
        let reply = with(name, headers);
        assert_eq!((reply.status, reply.body.as_str()), (status, REFUSED), "{name} {headers:?}");
    }
    host.wait_for_log("the binding cannot verify callbacks; set the property");
    assert_eq!(app.events().len(), 1);
    assert_answer(&with("team", &[("Token", token)]), PONG);
}

#[test]
fn reply_posts_into_the_conversation_and_nowhere_else() {
    let robot = talkative();
    let app = App::start();
    let (url, hosts) = (robot.url(), format!("http://{}", robot.address()));
    let properties = [("id", "team"), ("url", &*url), ("secret", SECRET), ("sessionWebhookHosts", &*hosts)];
    let resources = Resources::binding("team", &properties);
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    robot.set_callback_url(&host.callback_url("team"));
    robot.say(Say::text("hello"));
    let message: Value = serde_json::from_slice(&app.wait_for_events(1).body).unwrap();
    let webhook = message["sessionWebhook"].as_str().unwrap();
    let session = webhook.split_once("session=").unwrap().1;
    let expires = message["sessionWebhookExpiredTime"].to_string();
    let reply = |webhook: Value, expires: &str| {
        let metadata = json!({"sessionWebhook": webhook, "sessionWebhookExpiredTime": expires});
        host.post(
            "team",
            &json!({"operation": "reply", "data": {"message": "later"}, "metadata": metadata}).to_string(),
        )
    };
    let good = reply(json!(webhook), &expires);
    assert_eq!((good.status, good.body.as_str(), good.metadata("errcode")), (200, "", Some("0")), "{good:?}");
    let messages = robot.messages();
    assert_eq!((messages.len(), messages[0].via), (1, Via::Session));
    assert!(messages[0].shown.contains("later"));

    let witness = TcpListener::bind("127.0.0.1:0").unwrap();
    witness.set_nonblocking(true).unwrap();
    let elsewhere = witness.local_addr().unwrap();
    let mut answers = Vec::new();
    for wrong in [
        format!("http://{elsewhere}/robot/sendBySession?session={session}"),
        format!("https://{elsewhere}/robot/sendBySession?session={session}"),
        format!("http://{}@{elsewhere}/?session={session}", robot.address()),
        format!("http://localhost:{}/robot/sendBySession?session={session}", robot.address().port()),
        webhook.replace("http:", "https:"),
        format!("http://oapi.dingtalk.com/?session={session}"),
        format!("session={session}"),
        String::new(),
    ] {
        let refused = reply(json!(wrong), &expires);
        assert_eq!((refused.status, refused.metadata("error")), (500, Some("invalid-session-webhook")), "{refused:?}");
        assert!(refused.body.contains("Nothing was sent"), "{refused:?}");
        answers.push(refused);
    }
    for (time, error) in [("1684493546276", "expired-session-webhook"), (session, "invalid-session-webhook")] {
        let refused = reply(json!(webhook), time);
        assert_eq!((refused.status, refused.metadata("error")), (500, Some(error)), "{refused:?}");
        answers.push(refused);
    }
    // One that DingTalk does not know, in a text that repeats it.
    let unknown = format!("{webhook}0");
    let refused = reply(json!(unknown), &expires);
    assert_eq!((refused.status, refused.metadata("error")), (500, Some("expired-session-webhook")), "{refused:?}");
    assert_eq!(refused.metadata("outcome"), Some("not-sent"), "{refused:?}");
    answers.push(refused);
    robot.fail("echo".parse().unwrap(), dingtalk_host::simulator::fault::Times::ONCE);
    answers.push(reply(json!(webhook), &expires));
    for answer in &answers {
        assert!(!format!("{answer:?}").contains(session), "{answer:?}");
    }
    assert_eq!(witness.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody connected");
    assert_eq!(robot.messages().len(), 1);
    // Sessions do not widen where "create" goes, nor the robot's address where sessions may be.
    let log = host.end();
    assert!(!log.contains(session), "{log}");
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
