//! Every failure is told apart: HTTP 500 with a class, and with what a program needs to decide what to do,
//! in metadata headers and again in the body. A failure ends one call and nothing else, and no call is ever
//! sent twice.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dingtalk_binding::secret::Secret;
use dingtalk_host::simulator::Config;
use dingtalk_host::simulator::fault::{Fault, Times};
use dingtalk_host::simulator::refusal::ErrorTexts;
use dingtalk_host::simulator::robot::RobotConfig;

use crate::support::witness::{Answer, OK, Witness};
use crate::support::{self, Host, Reply, Resources, Robot, SECRET, component};

const HELLO: &str = r#"{"msgtype":"text","text":{"content":"hello"}}"#;

/// What metadata can say beside `error` and `errmsg`; what a failure does not mention must be absent.
const NAMES: [&str; 7] = ["property", "outcome", "statusCode", "errcode", "class", "check", "retryAfter"];

/// Checks a failure completely: status, code, headers, details, text.
#[track_caller]
fn assert_failed(reply: &Reply, error: &str, metadata: &[(&str, &str)], text: &str) {
    assert_eq!(reply.status, 500, "{reply:?}");
    let json = reply.json();
    assert_eq!(json["errorCode"], "ERR_INVOKE_OUTPUT_BINDING", "{reply:?}");
    let message = json["message"].as_str().unwrap();
    assert!(message.starts_with("error invoking output binding "), "{message}");
    assert!(message.contains(text), "{text:?} is not in {message:?}");
    assert_eq!(reply.metadata("error"), Some(error), "{reply:?}");
    for name in NAMES {
        let expected = metadata.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        assert_eq!(reply.metadata(name), expected, "{name}: {reply:?}");
    }
    let details = json["details"][0]["metadata"].as_object().unwrap();
    for (name, value) in details {
        assert_eq!(reply.metadata(name), value.as_str(), "{name}: {reply:?}");
    }
    let headers = reply.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("metadata."));
    assert_eq!(details.len(), headers.count(), "{reply:?}");
}

#[track_caller]
fn assert_sent(reply: &Reply) {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.metadata("errcode"), Some("0"), "{reply:?}");
}

/// One binding of each url, named b0, b1 …; unsigned, and patient unless `properties` say otherwise.
fn bindings(urls: &[String], properties: &[(&str, &str)]) -> Resources {
    urls.iter().enumerate().fold(Resources::new(), |resources, (index, url)| {
        let name = format!("b{index}");
        let all = [&[("id", name.as_str()), ("url", url.as_str())], properties].concat();
        resources.with(&format!("{name}.yaml"), &component(&name, &all))
    })
}

fn rejected(errcode: i64, errmsg: &str) -> Fault {
    Fault::Rejected { errcode, errmsg: errmsg.into() }
}

#[test]
fn each_fault_has_its_class_and_ends_one_call_only() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("team", &robot));
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let redirect = Fault::Redirect(format!("http://{}/robot/send?access_token=x", elsewhere.local_addr().unwrap()));
    const HTTP_OK: (&str, &str) = ("statusCode", "200");
    const NO: (&str, &str) = ("outcome", "not-sent");
    const PERHAPS: (&str, &str) = ("outcome", "unknown");
    const TWICE: &str = "The message may have been posted; sent again it may arrive twice, which a msgUuid";
    let code = |code: &'static str, class: &'static str| vec![HTTP_OK, NO, ("errcode", code), ("class", class)];
    let with = |mut pairs: Vec<(&'static str, &'static str)>, more: (&'static str, &'static str)| {
        pairs.push(more);
        pairs
    };
    let cases = [
        (
            Fault::Status(503),
            "unexpected-answer.status",
            vec![("statusCode", "503"), PERHAPS],
            "post failed. status:503",
        ),
        (
            Fault::Status(204),
            "unexpected-answer.status",
            vec![("statusCode", "204"), PERHAPS],
            "post failed. status:204",
        ),
        (Fault::Status(404), "unexpected-answer.status", vec![("statusCode", "404"), NO], "post failed. status:404"),
        (redirect, "unexpected-answer.status", vec![("statusCode", "307"), NO], "a redirect, which is not followed"),
        (Fault::Html, "unexpected-answer.html", vec![HTTP_OK, PERHAPS], "an HTML page, not a result"),
        (
            Fault::Throttled,
            "unexpected-answer.throttled",
            vec![HTTP_OK, NO, ("retryAfter", "300000")],
            "DingTalk throttles this address; send again after 300 s",
        ),
        (Fault::Oversized, "unexpected-answer.oversized", vec![HTTP_OK, PERHAPS], "longer than 65536 bytes"),
        (Fault::Empty, "unexpected-answer.malformed", vec![HTTP_OK, PERHAPS], "not a result: it is empty"),
        (
            Fault::MissingErrcode,
            "unexpected-answer.missing-errcode",
            vec![HTTP_OK, PERHAPS],
            "the answer has no errcode",
        ),
        (Fault::HalfBody, "unexpected-answer.truncated", vec![HTTP_OK, PERHAPS], TWICE),
        (Fault::Reset, "unreachable", vec![PERHAPS], "closed the connection without an answer"),
        // 40035 with "access_token" in its text is about the URL, and this text repeats the URL.
        (Fault::Echo, "rejected", code("40035", "content"), "[redacted]"),
        (rejected(-1, "系统繁忙"), "rejected", code("-1", "busy"), "send msg failed. 系统繁忙 (errcode -1, busy)"),
        (rejected(90_030, "webhook over limit"), "rejected", code("90030", "quota"), "webhook over limit"),
        (
            rejected(90_018, "slower"),
            "rejected",
            with(code("90018", "rate-limited"), ("retryAfter", "1000")),
            "send again after 1 s",
        ),
        (
            rejected(410_100, "slower"),
            "rejected",
            with(code("410100", "rate-limited"), ("retryAfter", "600000")),
            "send again after 600 s",
        ),
        (rejected(430_104, "不合适的内容"), "rejected", code("430104", "content"), "不合适的内容"),
        (rejected(400_102, "bot is stopped"), "rejected", code("400102", "configuration"), "bot is stopped"),
        (rejected(777_777, ""), "rejected", code("777777", "unknown"), "(errcode 777777, unknown)"),
        (rejected(310_000, "something new"), "rejected", code("310000", "configuration"), "something new"),
    ];
    for (fault, error, metadata, text) in cases {
        let before = robot.stats();
        robot.fail(fault.clone(), Times::ONCE);
        let reply = host.invoke("team", "create", HELLO);
        assert_failed(&reply, error, &metadata, text);
        assert_eq!(reply.body.contains(TWICE), metadata.contains(&PERHAPS), "{reply:?}");
        if let Fault::Rejected { errmsg, .. } = &fault {
            assert_eq!(reply.metadata("errmsg"), Some(errmsg.as_str()));
        }
        // Sent once, and in the group exactly where the fault strikes behind the robot's decision.
        let after = robot.stats();
        assert_eq!(after.requests, before.requests + 1, "{fault}");
        assert_eq!(after.accepted, before.accepted + u64::from(fault.reaches_robot()), "{fault}");
        assert_sent(&host.invoke("team", "create", HELLO));
    }
    let connection = elsewhere.accept();
    assert!(connection.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "the redirect was followed");
}

#[test]
fn success_is_success_in_both_spellings_and_however_late() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("team", &robot));
    for fault in [Fault::StringErrcode, Fault::Delay(Duration::from_millis(20)), rejected(0, "ok")] {
        robot.fail(fault, Times::ONCE);
        let reply = host.invoke("team", "create", HELLO);
        assert_sent(&reply);
        assert_eq!(reply.metadata("statusCode"), Some("200"));
        assert_eq!(reply.metadata("errmsg"), Some("ok"));
        assert_eq!(reply.metadata("error"), None);
    }
}

fn robot(texts: ErrorTexts, change: impl FnOnce(&mut RobotConfig)) -> Robot {
    let mut config = RobotConfig { error_texts: texts, ..Robot::config() };
    change(&mut config);
    Robot::with(config)
}

#[test]
fn each_rule_of_the_robot_is_told_apart_in_both_styles_of_texts() {
    for (texts, style) in [(ErrorTexts::Current, 0), (ErrorTexts::English, 1)] {
        let open = robot(texts, |_| ());
        let signing = robot(texts, |config| config.secret = Some(Secret::new(SECRET)));
        let keyword = robot(texts, |config| config.keywords = vec!["告警".into(), "alert".into()]);
        let closed = robot(texts, |config| config.allowed_addresses = vec!["10.0.0.0/8".parse().unwrap()]);
        // This robot's clock is two hours ahead of everybody's.
        let ahead = Robot::from(Config {
            robot: RobotConfig { secret: Some(Secret::new(SECRET)), error_texts: texts, ..Robot::config() },
            clock: Arc::new(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(7_200);
                now.as_millis().try_into().unwrap()
            }),
            ..Config::default()
        });
        let none = format!("http://{}/robot/send", open.address());
        let other_token = format!("{none}?access_token=0therT0ken");
        let mut resources = Resources::new();
        for (name, url, secret) in [
            ("open", &open.url(), ""),
            ("no-token", &none, ""),
            ("other-token", &other_token, ""),
            ("unsigned", &signing.url(), ""),
            ("other-secret", &signing.url(), "SECother"),
            ("signed", &signing.url(), SECRET),
            ("late", &ahead.url(), SECRET),
            ("keyword", &keyword.url(), ""),
            ("closed", &closed.url(), ""),
        ] {
            let yaml = component(name, &[("id", name), ("url", url), ("secret", secret)]);
            resources = resources.with(&format!("{name}.yaml"), &yaml);
        }
        let host = Host::serve(&resources);
        let assert_rejected = |binding: &str, message: &str, errcode: &str, class: &str, check: &str, text: &[&str]| {
            let reply = host.invoke(binding, "create", message);
            let mut metadata =
                vec![("outcome", "not-sent"), ("statusCode", "200"), ("errcode", errcode), ("class", class)];
            metadata.extend(Some(("check", check)).filter(|_| !check.is_empty()));
            let text = text.get(style).or(text.first()).unwrap();
            assert_failed(&reply, "rejected", &metadata, text);
            let errmsg = reply.metadata("errmsg").unwrap();
            assert!(reply.json()["message"].as_str().unwrap().contains(errmsg), "{reply:?}");
        };
        let configuration = "configuration";
        assert_rejected("no-token", HELLO, "40035", configuration, "", &["缺少参数 access_token"]);
        assert_rejected("other-token", HELLO, "300005", configuration, "", &["send msg failed. token is not exist"]);
        for binding in ["unsigned", "other-secret"] {
            let texts =
                ["机器人发送签名不匹配", "sign not match (errcode 310000, configuration, signature check: check"];
            assert_rejected(binding, HELLO, "310000", configuration, "signature", &texts);
        }
        let texts = ["timestamp check: set this machine's clock", "invalid timestamp (errcode 310000"];
        assert_rejected("late", HELLO, "310000", configuration, "timestamp", &texts);
        let texts = ["add this machine's address to the robot's allow-list", "ip 127.0.0.1 not in whitelist"];
        assert_rejected("closed", HELLO, "310000", configuration, "ip-address", &texts);
        let texts = ["关键词不匹配", "keywords not in content (errcode 310000, content, keyword check: put one of"];
        assert_rejected("keyword", HELLO, "310000", "content", "keyword", &texts);
        let long = serde_json::json!({"msgtype": "text", "text": {"content": "x".repeat(20_000)}}).to_string();
        assert_rejected("open", &long, "460101", "content", "", &["20000bytes", "exceed 20000 bytes"]);
        for (message, errcode, current, english) in [
            (r#"{"msgtype":"image","image":{}}"#, "400105", "不支持的消息类型", "不支持的消息类型"),
            ("{}", "40035", "缺少参数 msgtype", "缺少参数 msgtype"),
            (r#"{"msgtype":"text"}"#, "400201", "参数 text 缺失", "miss param : text ("),
            (r#"{"msgtype":"text","text":{}}"#, "400202", "text --》 content", "text->content"),
            (r#"{"msgtype":"link","link":{}}"#, "400302", "link --》 text", "link->text"),
            (r#"{"msgtype":"link","link":{"text":"x"}}"#, "400303", "link --》 title", "link->title"),
            (
                r#"{"msgtype":"link","link":{"text":"x","title":"x"}}"#,
                "400304",
                "link --》 messageUrl",
                "link->messageUrl",
            ),
            (r#"{"msgtype":"markdown","markdown":{}}"#, "400402", "markdown --》 title", "markdown->title"),
            (r#"{"msgtype":"markdown","markdown":{"title":"x"}}"#, "400403", "markdown --》 text", "markdown->text"),
            (r#"{"msgtype":"actionCard","actionCard":{}}"#, "400503", "actionCard --》 text", "actionCard->text"),
            (r#"{"msgtype":"feedCard","feedCard":{}}"#, "400602", "feedCard --》 links", "feedCard->links"),
        ] {
            assert_rejected("open", message, errcode, "content", "", &[current, english]);
        }
        assert_sent(&host.invoke("open", "create", HELLO));
        assert_sent(&host.invoke("signed", "create", HELLO));
        assert_sent(&host.invoke("keyword", "create", r#"{"message":"an alert"}"#));
    }
}

#[test]
fn the_rate_limit_and_its_penalty_tell_how_long_to_wait() {
    let now = Arc::new(AtomicU64::new(1_700_000_000_000));
    let clock = Arc::clone(&now);
    let robot = Robot::from(Config {
        robot: RobotConfig { rate_limit: 2, ..Robot::config() },
        clock: Arc::new(move || clock.load(Ordering::SeqCst)),
        ..Config::default()
    });
    let host = Host::serve(&bindings(&[robot.url()], &[]));
    let send = || host.invoke("b0", "create", HELLO);
    let assert_limited = || {
        let metadata = [
            ("outcome", "not-sent"),
            ("statusCode", "200"),
            ("errcode", "130101"),
            ("class", "rate-limited"),
            ("retryAfter", "600000"),
        ];
        assert_failed(&send(), "rejected", &metadata, "send too fast, exceed 2 times per minute");
    };
    assert_sent(&send());
    assert_sent(&send());
    assert_limited();
    // A minute later the rate is low again, and the penalty is not over.
    now.fetch_add(61_000, Ordering::SeqCst);
    assert_limited();
    now.fetch_add(600_000, Ordering::SeqCst);
    assert_sent(&send());
}

#[test]
fn what_cannot_be_reached_was_not_sent() {
    // Bound and not listening: nobody else can take the port.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let plain = Robot::with(Robot::config());
    let urls = [
        format!("http://{}/robot/send?access_token=x", bound.local_addr().unwrap()),
        "http://does-not-exist.invalid/robot/send?access_token=x".to_owned(),
        plain.url().replacen("http:", "https:", 1),
        plain.url(),
    ];
    // A slow resolver must not become a slow connection.
    let host = Host::serve(&bindings(&urls, &[("timeout", "55s"), ("connectTimeout", "55s")]));
    for _ in 0..2 {
        for (binding, text) in [
            ("b0", format!("{} refuses connections. Nothing was sent", bound.local_addr().unwrap())),
            ("b1", "the name does-not-exist.invalid cannot be resolved".to_owned()),
            ("b2", format!("no TLS connection to {} came about. Nothing was sent", plain.address())),
        ] {
            let reply = host.invoke(binding, "create", HELLO);
            assert_failed(&reply, "unreachable", &[("outcome", "not-sent")], &text);
            assert_sent(&host.invoke("b3", "create", HELLO));
        }
    }
    assert_eq!(plain.stats().requests, 2 * 3);
    drop(runtime);
}

/// Where nobody accepts and the queue is full, Linux leaves a connection attempt unanswered.
#[cfg(target_os = "linux")]
#[test]
fn connecting_that_takes_too_long_was_not_sent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        queue.push(stream);
        assert!(queue.len() < 64, "the queue does not fill");
    }
    let robot = Robot::with(Robot::config());
    let url = format!("http://{address}/robot/send?access_token=x");
    let resources = bindings(&[url], &[("connectTimeout", "100ms")])
        .with("team.yaml", &component("team", &[("id", "team"), ("url", &robot.url())]));
    let host = Host::serve(&resources);
    let reply = host.invoke("b0", "create", HELLO);
    let text = format!("connecting to {address} took longer than 100 ms. Nothing was sent");
    assert_failed(&reply, "unreachable", &[("outcome", "not-sent")], &text);
    assert_sent(&host.invoke("team", "create", HELLO));
}

#[test]
fn an_answer_that_does_not_come_in_time_leaves_the_outcome_unknown() {
    let robot = Robot::start();
    // The time includes connecting; a machine under load needs more than a moment for that.
    let hasty = [("id", "hasty"), ("url", &robot.url()), ("secret", SECRET), ("timeout", "1s")];
    let resources = Resources::of("team", &robot).with("hasty.yaml", &component("hasty", &hasty));
    let host = Host::serve(&resources);
    for (fault, accepted) in [(Fault::Hang, 0), (Fault::Delay(Duration::from_secs(60)), 1)] {
        robot.fail(fault, Times::ONCE);
        let before = robot.stats().accepted;
        let message = format!(r#"{{"operation":"create","data":{HELLO},"metadata":{{"msgUuid":"once {accepted}"}}}}"#);
        let reply = host.post("hasty", &message);
        let text = format!(
            "{} did not answer within 1000 ms. The message may have been posted; send it again only with the same msgUuid",
            robot.address()
        );
        assert_failed(&reply, "unreachable", &[("outcome", "unknown")], &text);
        assert_eq!(robot.stats().accepted - before, accepted);
        // What the text advises: again, with the same msgUuid. The group sees the message once.
        assert_sent(&host.post("team", &message));
        assert_eq!(robot.stats().accepted - before, 1);
    }
}

#[test]
fn an_answer_that_stops_halfway_is_given_up_in_time() {
    // A head that promises more than comes, on a connection that stays open.
    let slow =
        Witness::answering(|_| Answer::Keep(b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"errcode\":0".to_vec()));
    let host = Host::serve(&bindings(&[slow.url("/robot/send")], &[("timeout", "1s")]));
    let reply = host.invoke("b0", "create", HELLO);
    assert_failed(&reply, "unreachable", &[("outcome", "unknown")], "did not answer within 1000 ms");
}

#[test]
fn what_is_not_dingtalk_is_never_success() {
    const UNKNOWN: &[(&str, &str)] = &[("outcome", "unknown")];
    const HTTP_OK: &[(&str, &str)] = &[("statusCode", "200"), ("outcome", "unknown")];
    // Closing is announced, so that no later call can meet a connection that is about to close.
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
    let chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    // Answer, class, metadata, text.
    type Case<'a> = (Vec<u8>, &'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: Vec<Case<'_>> = vec![
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "unreachable", UNKNOWN, "does not speak HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x16".to_vec(), "unreachable", UNKNOWN, "does not speak HTTP"),
        (vec![0; 300], "unreachable", UNKNOWN, "does not speak HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n".to_vec(), "unreachable", UNKNOWN, "does not speak HTTP"),
        (vec![], "unreachable", UNKNOWN, "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nConte".to_vec(), "unreachable", UNKNOWN, "closed the connection without an answer"),
        (
            format!("{head}Content-Length: 1000\r\n\r\n{OK}").into_bytes(),
            "unexpected-answer.truncated",
            HTTP_OK,
            "ended before it was complete",
        ),
        (
            format!("{chunks}1b\r\n{OK}\r\n").into_bytes(),
            "unexpected-answer.truncated",
            HTTP_OK,
            "ended before it was complete",
        ),
        (
            format!("{head}\r\n{}", &OK[..20]).into_bytes(),
            "unexpected-answer.truncated",
            HTTP_OK,
            "ended before it was complete",
        ),
        (
            [format!("{head}Content-Length: 4\r\n\r\n").as_bytes(), b"{\"\xff\""].concat(),
            "unexpected-answer.malformed",
            HTTP_OK,
            "it is not UTF-8",
        ),
        (
            format!("{head}Content-Length: 2\r\n\r\nok").into_bytes(),
            "unexpected-answer.malformed",
            HTTP_OK,
            "it is not JSON",
        ),
        (
            format!("{head}Content-Length: 3\r\n\r\n[0]").into_bytes(),
            "unexpected-answer.malformed",
            HTTP_OK,
            "it is JSON, but not an object",
        ),
        (
            format!("{head}Content-Length: 15\r\n\r\n{{\"errcode\":0.5}}").into_bytes(),
            "unexpected-answer.malformed",
            HTTP_OK,
            "errcode is not a whole number",
        ),
        (
            format!("{head}Content-Length: 16\r\n\r\n{{\"errcode\":null}}").into_bytes(),
            "unexpected-answer.missing-errcode",
            HTTP_OK,
            "the answer has no errcode",
        ),
        (
            format!("{head}Content-Length: 9\r\n\r\n\u{feff}<html>").into_bytes(),
            "unexpected-answer.html",
            HTTP_OK,
            "an HTML page",
        ),
        (
            format!("{head}\r\n{{\"errcode\":{}", "[".repeat(60_000)).into_bytes(),
            "unexpected-answer.truncated",
            HTTP_OK,
            "ended before it was complete",
        ),
    ];
    let (order, orders) = std::sync::mpsc::channel::<Vec<u8>>();
    let orders = std::sync::Mutex::new(orders);
    let server = Witness::answering(move |_| Answer::Close(orders.lock().unwrap().recv().unwrap()));
    let host = Host::serve(&bindings(&[server.url("/robot/send?access_token=x")], &[]));
    let complete = format!("{head}\r\n{OK}").into_bytes();
    let chunked = format!("{chunks}5\r\n{}\r\n16\r\n{}\r\n0\r\n\r\n", &OK[..5], &OK[5..]).into_bytes();
    let early = [b"HTTP/1.1 103 Early Hints\r\n\r\n".as_slice(), &complete].concat();
    let successes = [complete, chunked, early];
    for (index, (answer, error, metadata, text)) in cases.iter().enumerate() {
        order.send(answer.clone()).unwrap();
        let reply = host.invoke("b0", "create", HELLO);
        assert_failed(&reply, error, metadata, text);
        // However a complete answer is framed, it is one.
        order.send(successes[index % successes.len()].clone()).unwrap();
        assert_sent(&host.invoke("b0", "create", HELLO));
    }
    assert_eq!(server.received().len(), 2 * cases.len(), "each call is sent once");
}

#[test]
fn operations_that_cannot_be_done_are_told_apart() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("team", &robot));
    const NOT_SENT: &[(&str, &str)] = &[("outcome", "not-sent")];
    assert_failed(&host.invoke("team", "get", HELLO), "not-reading", NOT_SENT, "invalid component metadata.id team");
    for operation in ["read", "Create", "delete"] {
        let text = format!("does not support operation {operation}. supported operations:create get reply");
        assert_failed(&host.invoke("team", operation, HELLO), "unsupported-operation", NOT_SENT, &text);
    }
    assert_failed(&host.invoke("other", "create", HELLO), "not-found", NOT_SENT, "couldn't find output binding other");
    let missing = host.post("team", &format!(r#"{{"data":{HELLO}}}"#));
    assert_failed(&missing, "missing-operation", NOT_SENT, "operation field is missing from request");
    assert_eq!(robot.stats().requests, 0);
    assert_sent(&host.invoke("team", "create", HELLO));
}

#[test]
fn a_failed_invoke_from_the_shell_ends_with_1_and_the_same_metadata() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot);
    let file = resources.path().join("team.yaml");
    let arguments = ["invoke", "--component", file.to_str().unwrap(), "--data", HELLO];
    robot.fail(Fault::Throttled, Times::ONCE);
    let output = support::run(&[&arguments[..], &["--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&support::stdout(&output)).unwrap();
    let expected = serde_json::json!({"error": "unexpected-answer.throttled", "outcome": "not-sent", "statusCode": "200", "retryAfter": "300000"});
    assert_eq!(json["metadata"], expected);
    assert!(json["error"].as_str().unwrap().contains("send again after 300 s"), "{json}");
    robot.fail(Fault::Html, Times::ONCE);
    let output = support::run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(support::stdout(&output), "");
    assert!(
        support::stderr(&output)
            .contains("error: dingtalk webhook error: unmarshal body failed. the answer is an HTML page")
    );
    assert_eq!(support::run(&arguments).status.code(), Some(0));
}
