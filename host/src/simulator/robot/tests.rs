//! The rules as state machine: each refusal by its code and text, and what holds for any request.

use super::super::recent::MAX_KEYS;
use super::*;
use dingtalk_binding::endpoint::SentSignature;
use dingtalk_binding::signature::Signer;
use proptest::prelude::*;

const NOW: u64 = 1_700_000_000_000;
const TOKEN: &str = "access_token=simulated-access-token";
const TEXT: &str = r#"{"msgtype":"text","text":{"content":"hello"}}"#;

fn request<'a>(query: &'a str, body: &'a str) -> Received<'a> {
    Received {
        method: "POST",
        content_type: Some("application/json"),
        query,
        body: body.as_bytes(),
        peer: [127, 0, 0, 1].into(),
    }
}

fn robot(change: impl FnOnce(&mut RobotConfig)) -> Robot {
    let mut config = RobotConfig::default();
    change(&mut config);
    config.check().unwrap();
    Robot::new(config)
}

fn signed(secret: &str, timestamp: u64) -> String {
    let [_, sign] = SentSignature::new(&Signer::new(secret), timestamp).secrets().map(str::to_owned);
    format!("{TOKEN}&timestamp={timestamp}&sign={sign}")
}

/// "ok", "again", or the code and text of the refusal in the English style.
fn outcome(robot: &mut Robot, request: &Received<'_>, now: u64) -> String {
    match robot.receive(request, now) {
        Verdict::Accepted(_) => "ok".into(),
        Verdict::Repeated => "again".into(),
        Verdict::Rejected(Refusal { errcode, errmsg }) => format!("{errcode} {errmsg}"),
    }
}

fn english(config: &mut RobotConfig) {
    config.error_texts = ErrorTexts::English;
}

#[test]
fn an_accepted_message_is_kept_as_written() {
    let body = " {\"msgtype\" : \"text\",\n \"text\":{\"content\":\"\\u4f60\"}, \"msgUuid\":\"u1\", \"n\":1.50 }";
    let mut robot = robot(|_| ());
    let Verdict::Accepted(posted) = robot.receive(&request(TOKEN, body), NOW) else { panic!() };
    assert_eq!(posted.message.get(), body.trim());
    assert_eq!((posted.msgtype, posted.msg_uuid.as_deref(), posted.signed), ("text", Some("u1"), false));
    assert!(posted.shown.contains('你'), "{}", posted.shown);
}

#[test]
fn method_and_content_type() {
    let mut robot = robot(english);
    for method in ["GET", "PUT", "HEAD", "post"] {
        let request = Received { method, ..request(TOKEN, TEXT) };
        assert_eq!(outcome(&mut robot, &request, NOW), "43002 需要POST请求", "{method}");
    }
    for (content_type, expected) in [
        (Some("application/json"), "ok"),
        (Some("Application/JSON ; charset=utf-8"), "ok"),
        (None, "43004 无效的HTTP HEADER Content-Type"),
        (Some(""), "43004 无效的HTTP HEADER Content-Type"),
        (Some("text/plain"), "43004 无效的HTTP HEADER Content-Type"),
        (Some("application/x-www-form-urlencoded"), "43004 无效的HTTP HEADER Content-Type"),
        (Some("application/jsonp"), "43004 无效的HTTP HEADER Content-Type"),
    ] {
        let request = Received { content_type, ..request(TOKEN, TEXT) };
        assert_eq!(outcome(&mut robot, &request, NOW), expected, "{content_type:?}");
    }
}

#[test]
fn token() {
    let mut robot = robot(|c| c.access_token = Secret::new("a+b c/="));
    for (query, expected) in [
        ("access_token=a%2Bb+c%2F%3D", "ok"),
        ("access_token=a%2Bb%20c/=", "ok"),
        ("%61ccess_token=a%2bb+c/=&x", "ok"),
        ("access_token=a%2Bb+c/=&access_token=x", "ok"),
        ("access_token=x&access_token=a%2Bb+c/=", "300005 token is not exist"),
        ("access_token=a+b+c/=", "300005 token is not exist"),
        ("access_token=%ff", "300005 token is not exist"),
        ("access_token=", "40035 缺少参数 access_token"),
        ("access_token", "40035 缺少参数 access_token"),
        ("Access_Token=a", "40035 缺少参数 access_token"),
        ("", "40035 缺少参数 access_token"),
    ] {
        assert_eq!(outcome(&mut robot, &request(query, TEXT), NOW), expected, "{query}");
    }
}

#[test]
fn body() {
    let mut robot = robot(|_| ());
    for body in ["", " ", "[]", "null", "{", r#"{"msgtype":"text","text":{"content":"\D"}}"#, "\"x\"", "{}}"] {
        assert_eq!(outcome(&mut robot, &request(TOKEN, body), NOW), "40035 缺少参数 json", "{body}");
    }
    let invalid = Received { body: b"{\"msgtype\":\"\xff\"}", ..request(TOKEN, "") };
    assert_eq!(outcome(&mut robot, &invalid, NOW), "40035 缺少参数 json");
    let nested = format!("{{\"x\":{}{}}}", "[".repeat(500), "]".repeat(500));
    assert_eq!(outcome(&mut robot, &request(TOKEN, &nested), NOW), "40035 缺少参数 json");
    assert_eq!(outcome(&mut robot, &request(TOKEN, "{}"), NOW), "40035 缺少参数 msgtype");
}

#[test]
fn size_is_exact() {
    let padded = |len: usize| format!("{TEXT}{}", " ".repeat(len - TEXT.len()));
    let mut robot_current = robot(|_| ());
    assert_eq!(outcome(&mut robot_current, &request(TOKEN, &padded(MAX_BODY)), NOW), "ok");
    assert_eq!(
        outcome(&mut robot_current, &request(TOKEN, &padded(MAX_BODY + 1)), NOW),
        "460101 description: body 大小不合法;solution:请保持大小在 20000bytes 以内;"
    );
    assert_eq!(
        outcome(&mut robot(english), &request(TOKEN, &padded(MAX_BODY + 1)), NOW),
        "460101 message too long, exceed 20000 bytes"
    );
}

#[test]
fn addresses() {
    let mut robot = robot(|c| {
        english(c);
        c.allowed_addresses = vec!["10.1.0.0/16".parse().unwrap(), "192.168.1.7".parse().unwrap()];
    });
    for (peer, allowed) in [
        ("10.1.255.255", true),
        ("::ffff:10.1.0.1", true),
        ("192.168.1.7", true),
        ("192.168.1.8", false),
        ("10.2.0.0", false),
        ("::1", false),
    ] {
        let peer: IpAddr = peer.parse().unwrap();
        let expected = if allowed { "ok".into() } else { format!("310000 ip {peer} not in whitelist") };
        assert_eq!(outcome(&mut robot, &Received { peer, ..request(TOKEN, TEXT) }, NOW), expected);
    }
}

#[test]
fn address_ranges() {
    let any: AddressRange = "1.2.3.4/0".parse().unwrap();
    assert!(any.contains([255, 0, 0, 1].into()));
    for wrong in ["", "/", "1.2.3", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/+8", "1.2.3.4/8/8", "::1", "a.b.c.d"] {
        let error = wrong.parse::<AddressRange>().unwrap_err();
        assert!(error.contains("is no IPv4 address or block"), "{wrong}: {error}");
    }
}

#[test]
fn the_window_is_exact() {
    let mut robot = robot(|c| {
        english(c);
        c.secret = Some(Secret::new("SECx"));
        c.rate_limit = 0;
    });
    for (timestamp, expected) in [
        (NOW, "ok"),
        (NOW - 3_600_000, "ok"),
        (NOW + 3_600_000, "ok"),
        (NOW - 3_600_001, "310000 invalid timestamp"),
        (NOW + 3_600_001, "310000 invalid timestamp"),
        (NOW / 1_000, "310000 invalid timestamp"),
        (0, "310000 invalid timestamp"),
        (u64::MAX, "310000 invalid timestamp"),
    ] {
        assert_eq!(outcome(&mut robot, &request(&signed("SECx", timestamp), TEXT), NOW), expected, "{timestamp}");
    }
}

#[test]
fn signatures() {
    let mut robot = robot(|c| {
        english(c);
        c.secret = Some(Secret::new("SECx"));
        c.rate_limit = 0;
    });
    let good = signed("SECx", NOW);
    let (_, sign) = good.rsplit_once('=').unwrap();
    let plain = signature::sign("SECx", NOW);
    // A time at which the signature has a '+', to see what becomes of one that is not encoded.
    let with_plus = (NOW..).find(|t| signature::sign("SECx", *t).contains('+')).unwrap();
    let raw_plus = signature::sign("SECx", with_plus);
    const MISMATCH: &str = "310000 sign not match";
    for (query, expected) in [
        (good.clone(), "ok"),
        (format!("{TOKEN}&sign={sign}&timestamp={NOW}"), "ok"),
        (format!("sign={sign}&x=1&&timestamp={NOW}&{TOKEN}"), "ok"),
        // The first of two counts.
        (format!("{good}&timestamp=1&sign=x"), "ok"),
        (format!("timestamp=1&sign=x&{good}"), "310000 invalid timestamp"),
        (format!("sign=x&{good}"), MISMATCH),
        (TOKEN.into(), MISMATCH),
        (format!("{TOKEN}&timestamp={NOW}"), MISMATCH),
        (format!("{TOKEN}&sign={sign}"), MISMATCH),
        (format!("{TOKEN}&timestamp={NOW}&sign="), MISMATCH),
        (format!("{TOKEN}&timestamp=&sign={sign}"), "310000 invalid timestamp"),
        (format!("{TOKEN}&timestamp=%2B{NOW}&sign={sign}"), "310000 invalid timestamp"),
        (format!("{TOKEN}&timestamp={NOW}.0&sign={sign}"), "310000 invalid timestamp"),
        (format!("{TOKEN}&timestamp={}&sign={sign}", NOW + 1), MISMATCH),
        (format!("{TOKEN}&timestamp={NOW}&sign={}", sign.replace('%', "%25")), MISMATCH),
        (format!("{TOKEN}&timestamp={with_plus}&sign={raw_plus}"), MISMATCH),
        (format!("{TOKEN}&timestamp={NOW}&sign={}", plain.trim_end_matches('=')), MISMATCH),
        (signed("SECother", NOW), MISMATCH),
        (signed("SECx ", NOW), MISMATCH),
    ] {
        assert_eq!(outcome(&mut robot, &request(&query, TEXT), NOW), expected, "{query}");
    }
    let Verdict::Accepted(posted) = robot.receive(&request(&good, TEXT), NOW) else { panic!() };
    assert!(posted.signed);
}

#[test]
fn without_a_secret_signatures_do_not_matter() {
    assert_eq!(outcome(&mut robot(|_| ()), &request(&format!("{TOKEN}&timestamp=1&sign=x"), TEXT), NOW), "ok");
}

#[test]
fn keywords() {
    let mut robot = robot(|c| {
        english(c);
        c.keywords = vec!["alarm".into(), "告警".into()];
    });
    for (body, expected) in [
        (r#"{"msgtype":"text","text":{"content":"an alarm!"}}"#, "ok"),
        (r#"{"msgtype":"text","text":{"content":"\u544a\u8b66"}}"#, "ok"),
        (r#"{"msgtype":"markdown","markdown":{"title":"alarm","text":"x"}}"#, "ok"),
        (r#"{"msgtype":"feedCard","feedCard":{"links":[{"title":"alarm","messageURL":"u","picURL":"p"}]}}"#, "ok"),
        (r#"{"msgtype":"text","text":{"content":"Alarm"}}"#, "310000 keywords not in content"),
        (r#"{"msgtype":"text","text":{"content":"x"},"note":"alarm"}"#, "310000 keywords not in content"),
        (
            r#"{"msgtype":"link","link":{"title":"t","text":"x","messageUrl":"https://alarm"}}"#,
            "310000 keywords not in content",
        ),
    ] {
        assert_eq!(outcome(&mut robot, &request(TOKEN, body), NOW), expected, "{body}");
    }
}

#[test]
fn texts_follow_the_setting() {
    let current = |c: &mut RobotConfig| c.keywords = vec!["alarm".into()];
    assert_eq!(
        outcome(&mut robot(current), &request(TOKEN, TEXT), NOW),
        "310000 description:关键词不匹配;solution:请联系群管理员查看此机器人的关键词，\
         并在发送的信息中包含此关键词;"
    );
    let body = r#"{"msgtype":"text","text":{}}"#;
    assert_eq!(outcome(&mut robot(english), &request(TOKEN, body), NOW), "400202 miss param : text->content");
}

#[test]
fn shapes_are_refused_with_their_codes() {
    let mut robot = robot(english);
    for (body, expected) in [
        (r#"{"msgtype":"empty"}"#, "400105 不支持的消息类型"),
        (r#"{"msgtype":7}"#, "40035 不合法的参数 msgtype"),
        (r#"{"msgtype":"text"}"#, "400201 miss param : text"),
        (r#"{"msgtype":"link"}"#, "40035 缺少参数 link"),
        (r#"{"msgtype":"text","text":{"content":"x"},"at":[]}"#, "40035 不合法的参数 at"),
    ] {
        assert_eq!(outcome(&mut robot, &request(TOKEN, body), NOW), expected, "{body}");
    }
}

const TOO_FAST: &str = "130101 send too fast, exceed 20 times per minute";

#[test]
fn twenty_a_minute_then_ten_minutes_nothing() {
    let mut robot = robot(|_| ());
    let mut send = |query: &str, now: u64| outcome(&mut robot, &request(query, TEXT), now);
    for n in 0..20 {
        assert_eq!(send(TOKEN, NOW + n * 1_000), "ok", "{n}");
    }
    // Refused requests do not count, and the twenty-first waits until the first is a minute old.
    assert_eq!(send("access_token=x", NOW + 59_000), "300005 token is not exist");
    assert_eq!(send(TOKEN, NOW + 60_000), "ok");
    let limited_at = NOW + 60_999;
    assert_eq!(send(TOKEN, limited_at), TOO_FAST);
    // The minute has long passed, the penalty has not; sending meanwhile does not prolong it.
    assert_eq!(send(TOKEN, limited_at + 300_000), TOO_FAST);
    assert_eq!(send(TOKEN, limited_at + 599_999), TOO_FAST);
    assert_eq!(send("access_token=x", limited_at + 599_999), "300005 token is not exist");
    assert_eq!(send(TOKEN, limited_at + 600_000), "ok");
}

#[test]
fn a_shorter_window_is_a_faster_clock() {
    let mut robot = robot(|c| (c.rate_limit, c.rate_window, c.penalty) = (2, Duration::from_secs(3), Duration::ZERO));
    let mut send = |now: u64| outcome(&mut robot, &request(TOKEN, TEXT), NOW + now);
    let sent = [0, 1_000, 2_999, 3_000, 3_999, 4_000].map(|now| send(now) == "ok");
    assert_eq!(sent, [true, true, false, true, false, true]);
}

#[test]
fn during_the_penalty_everything_is_too_fast() {
    let mut robot = robot(|c| c.rate_limit = 1);
    let once = r#"{"msgtype":"text","text":{"content":"x"},"msgUuid":"u"}"#;
    assert_eq!(outcome(&mut robot, &request(TOKEN, once), NOW), "ok");
    assert_eq!(outcome(&mut robot, &request(TOKEN, once), NOW), "again");
    let too_fast = "130101 send too fast, exceed 1 times per minute";
    for body in [TEXT, once, "not JSON", r#"{"msgtype":"empty"}"#] {
        assert_eq!(outcome(&mut robot, &request(TOKEN, body), NOW), too_fast, "{body}");
    }
}

#[test]
fn zero_is_no_limit() {
    let mut robot = robot(|c| c.rate_limit = 0);
    for _ in 0..100 {
        assert_eq!(outcome(&mut robot, &request(TOKEN, TEXT), NOW), "ok");
    }
}

#[test]
fn a_repeated_uuid_is_answered_and_not_posted() {
    let mut robot = robot(|c| c.rate_limit = 0);
    let with = |uuid: &str| format!(r#"{{"msgtype":"text","text":{{"content":"x"}},"msgUuid":"{uuid}"}}"#);
    let mut send = |body: &str| outcome(&mut robot, &request(TOKEN, body), NOW);
    assert_eq!(send(&with("a")), "ok");
    assert_eq!(send(&with("a")), "again");
    assert_eq!(send(&with("b")), "ok");
    // A refused message leaves its key free, and no key is no key.
    assert_eq!(send(r#"{"msgtype":"empty","msgUuid":"c"}"#), "400105 不支持的消息类型");
    assert_eq!(send(&with("c")), "ok");
    assert_eq!((send(&with("")), send(&with(""))), ("ok".into(), "ok".into()));
    assert_eq!((send(TEXT), send(TEXT)), ("ok".into(), "ok".into()));
    // Only so many are remembered.
    for n in 0..MAX_KEYS {
        assert_eq!(send(&with(&n.to_string())), "ok");
    }
    assert_eq!(send(&with("a")), "ok");
}

#[test]
fn sessions_stand_for_token_and_signature() {
    let mut robot = robot(|c| {
        english(c);
        c.secret = Some(Secret::new("SECx"));
        c.keywords = vec!["alarm".into()];
        c.rate_limit = 1;
    });
    let long = format!("{TEXT}{}", " ".repeat(MAX_BODY));
    let link = r#"{"msgtype":"link","link":{"title":"t","text":"x","messageUrl":"m:"}}"#;
    let once = r#"{"msgtype":"text","text":{"content":"x"},"msgUuid":"u"}"#;
    for (query, body, expected) in [
        ("session=s", TEXT, "ok"),
        ("x=1&session=%73", TEXT, "ok"),
        ("session=s", link, "ok"),
        ("session=s", once, "ok"),
        ("session=s", once, "again"),
        ("session=t", TEXT, "300001 session 不存在"),
        (TOKEN, TEXT, "40035 缺少参数 session"),
        ("session=", TEXT, "40035 缺少参数 session"),
        ("session=s", &long, "460101 message too long, exceed 20000 bytes"),
        ("session=s", "[]", "40035 缺少参数 json"),
        ("session=s", r#"{"msgtype":"empty"}"#, "400105 不支持的消息类型"),
        ("session=s", r#"{"msgtype":"text","text":{}}"#, "400202 miss param : text->content"),
    ] {
        let verdict = match robot.receive_in_session(&request(query, body), |session| session == "s") {
            Verdict::Accepted(posted) => {
                assert!(!posted.signed);
                "ok".into()
            }
            Verdict::Repeated => "again".into(),
            Verdict::Rejected(Refusal { errcode, errmsg }) => format!("{errcode} {errmsg}"),
        };
        assert_eq!(verdict, expected, "{query} {body}");
    }
    let get = Received { method: "GET", ..request("session=s", TEXT) };
    let refused = |verdict| matches!(verdict, Verdict::Rejected(Refusal { errcode: 43_002, .. }));
    assert!(refused(robot.receive_in_session(&get, |_| true)));
}

#[test]
fn replies() {
    let robot = robot(english);
    let reply = |body: &str| match robot.reply(body.as_bytes()) {
        Ok(posted) => posted.map_or("nothing".into(), |posted| posted.shown),
        Err(Refusal { errcode, errmsg }) => format!("{errcode} {errmsg}"),
    };
    assert_eq!(reply(TEXT), "[simulated robot] text\n    hello");
    assert_eq!(reply(r#"{"msgtype":"empty"}"#), "nothing");
    let link = r#"{"msgtype":"link","link":{"title":"t","text":"x","messageUrl":"m:"}}"#;
    assert_eq!(reply(link), "400105 不支持的消息类型");
    assert_eq!(reply(r#"{"msgtype":"image"}"#), "400105 不支持的消息类型");
    assert_eq!(reply("{}"), "40035 缺少参数 msgtype");
    assert_eq!(reply(""), "40035 缺少参数 json");
    assert_eq!(reply(&format!("{TEXT}{}", " ".repeat(MAX_BODY))), "460101 message too long, exceed 20000 bytes");
}

#[test]
fn what_callbacks_are_signed_with() {
    let credentials = |app: Option<&str>, token: Option<&str>, secret: Option<&str>| {
        let [app_secret, outgoing_token, secret] = [app, token, secret].map(|value| value.map(Secret::new));
        RobotConfig { app_secret, outgoing_token, secret, ..RobotConfig::default() }.credentials()
    };
    let signed_with = |found: Option<Credentials>| match found {
        Some(Credentials::Secret(secret)) => secret.expose().to_owned(),
        Some(Credentials::Token(token)) => format!("token {}", token.expose()),
        None => "nothing".to_owned(),
    };
    assert_eq!(signed_with(credentials(Some("a"), Some("t"), Some("s"))), "a");
    assert_eq!(signed_with(credentials(None, Some("t"), Some("s"))), "token t");
    assert_eq!(signed_with(credentials(None, None, Some("s"))), "s");
    assert_eq!(signed_with(credentials(None, None, None)), "nothing");
}

#[test]
fn impossible_robots() {
    let check = |change: fn(&mut RobotConfig)| {
        let mut config = RobotConfig::default();
        change(&mut config);
        config.check().unwrap_err()
    };
    assert!(check(|c| c.access_token = Secret::new("")).contains("access token is empty"));
    assert!(check(|c| c.secret = Some(Secret::new(""))).contains("secret is empty"));
    assert!(check(|c| c.keywords = vec!["k".into(); 11]).contains("11 keywords"));
    assert!(check(|c| c.keywords = vec![String::new()]).contains("keyword is empty"));
    assert!(check(|c| c.rate_window = Duration::ZERO).contains("window has no length"));
    assert!(check(|c| c.app_secret = Some(Secret::new(""))).contains("app secret is empty"));
    assert!(check(|c| c.outgoing_token = Some(Secret::new("a b"))).contains("visible ASCII"));
}

#[test]
fn debug_shows_no_token() {
    let request = format!("{:?}", request("access_token=T0KEN", TEXT));
    assert!(!request.contains("T0KEN"), "{request}");
    let robot = format!("{:?}", robot(|c| c.secret = Some(Secret::new("T0KEN"))));
    assert!(!robot.contains("T0KEN") && !robot.contains("simulated-access-token"), "{robot}");
}

/// Arbitrary text that often has the shape of a message.
fn arbitrary_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "[{}\\[\\]\",:a-z0-9]{0,80}".prop_map(String::into_bytes),
        ("(text|link|markdown|actionCard|feedCard|empty)", "[ -~\u{0}-\u{20}é你]{0,20}", "[0-9\\[\\]{}\"]{0,5}")
            .prop_map(|(msgtype, text, junk)| {
                let content = serde_json::json!({"content": text, "title": text, "text": text,
                    "messageUrl": text, "btns": [{"title": text, "actionURL": text}],
                    "links": [{"title": text, "messageURL": text, "picURL": text}]});
                format!("{{\"msgtype\":{msgtype:?},{msgtype:?}:{content}}}{junk}").into_bytes()
            }),
    ]
}

proptest! {
    #[test]
    fn never_panics(
        method in "POST|GET|.{0,5}", content_type in proptest::option::of("application/json|.{0,20}"),
        query in "(access_token=simulated-access-token)?[ -~é]{0,60}", body in arbitrary_body(),
        now: u64, secret in proptest::option::of(".{1,9}"), keyword in proptest::option::of(".{1,3}"),
    ) {
        let mut robot = robot(|c| {
            c.secret = secret.map(Secret::new);
            c.keywords = keyword.into_iter().collect();
            c.rate_limit = 1;
        });
        let peer = [127, 0, 0, 1].into();
        let request = Received { method: &method, content_type: content_type.as_deref(), query: &query, body: &body, peer };
        for _ in 0..3 {
            if let Verdict::Accepted(posted) = robot.receive(&request, now) {
                prop_assert!(posted.shown.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", posted.shown);
                prop_assert_eq!(posted.message.get().as_bytes(), body.trim_ascii());
            }
        }
    }

    #[test]
    fn another_secret_never_signs(
        ours in ".{1,40}", theirs in ".{1,40}", skew in -3_600_000i64..=3_600_000, body in arbitrary_body(),
    ) {
        let timestamp = NOW.saturating_add_signed(skew);
        let mut robot = robot(|c| c.secret = Some(Secret::new(ours.clone())));
        let query = signed(&theirs, timestamp);
        let request = Received { body: &body, ..request(&query, "") };
        let accepted = matches!(robot.receive(&request, NOW), Verdict::Accepted(_));
        prop_assert!(!accepted || ours == theirs);
        let request = Received { body: TEXT.as_bytes(), ..request };
        let accepted = matches!(robot.receive(&request, NOW), Verdict::Accepted(_) );
        prop_assert!(!accepted || ours == theirs);
    }
}
