//! One HTTP request from DingTalk → what is handed on beside its body, or the reason why it is not accepted.
//!
//! DingTalk signs the time and not the body: whoever has seen one callback can put its headers before another
//! body until the time is up. What is checked beyond the signature (one header of each kind, the robot, the
//! organisation, members that occur once) closes the ways in which forgers and parsers have been at odds in
//! other clients. Everything fails closed: a binding without a key accepts nothing.
//!
//! Source: DingTalk open platform, "receive messages" for robots, and answers seen by users of other clients.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::error::Refusal;
use crate::json;
use crate::secret::Secret;
use crate::signature::{self, Signer};

/// The longest body. DingTalk's messages have 1 to 20 KiB.
pub const MAX_BODY: usize = 128 * 1024;

/// The deepest nesting of a body. DingTalk's messages have four levels; some parsers of applications fail, or
/// fall over, from a hundred on.
pub const MAX_DEPTH: usize = 64;

/// What proves that a callback comes from DingTalk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Of the headers `timestamp` and `sign`.
    Signature {
        /// What DingTalk signs with.
        secret: Signer,
        /// What it signed with until a short while ago.
        previous: Option<Signer>,
    },
    /// Equal to the header `token`: the older "outgoing" mechanism of custom robots, without a signature.
    Token(Secret),
}

/// What a callback must satisfy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Without one, nothing is accepted.
    pub key: Option<Key>,
    /// How far the timestamp may be from now, in milliseconds.
    pub max_skew: u64,
    /// The only robot that may be meant.
    pub robot_code: Option<String>,
    /// The only organisation that may be meant.
    pub chatbot_corp_id: Option<String>,
}

/// What the consumer is told of a message beside the message. Its `Debug` output shows names alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Metadata(pub Vec<(String, String)>);

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Members that are handed on as metadata where they are texts or numbers. `errorCode` marks the notice that
/// the month's allowance is used up (20001), which has neither `text` nor `content`.
const METADATA: [&str; 12] = [
    "msgId",
    "msgtype",
    "conversationId",
    "conversationType",
    "conversationTitle",
    "senderId",
    "senderStaffId",
    "senderNick",
    "robotCode",
    "createAt",
    "errorCode",
    "chatbotCorpId",
];

/// Verifies a callback at `now` (milliseconds since the Unix epoch) and reads what is handed on beside it.
/// `headers` are all of them, as received.
pub fn accept<'h>(
    policy: &Policy,
    headers: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    body: &[u8],
    now: u64,
) -> Result<Metadata, Refusal> {
    if body.len() > MAX_BODY {
        return Err(Refusal::TooLarge(MAX_BODY as u64));
    }
    verify(policy, headers, now)?;
    read(policy, body)
}

/// Whether these headers are DingTalk's, at `now`: the signature covers nothing else, so that nobody has to wait for the
/// body of a stranger.
pub fn verify<'h>(
    policy: &Policy,
    headers: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    now: u64,
) -> Result<(), Refusal> {
    let header = |name: &str| {
        let mut values = headers.clone().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        (values.next(), values.next().is_some())
    };
    match header("content-type") {
        (Some(kind), false) if is_json(kind) => {}
        _ => return Err(Refusal::WrongContentType),
    }
    // The first of two is what one parser looks at, the second what the other does.
    let only = |name: &str| match header(name) {
        (_, true) => Err(Refusal::Ambiguous),
        (None, false) => Err(Refusal::Unsigned),
        (Some(value), false) => Ok(value),
    };
    match policy.key.as_ref().ok_or(Refusal::Unverifiable)? {
        Key::Signature { secret, previous } => {
            let (timestamp, sign) = (only("timestamp")?, only("sign")?);
            if !timestamp.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::BadTimestamp);
            }
            let timestamp = core::str::from_utf8(timestamp).unwrap_or_default();
            let time: u64 = timestamp.parse().map_err(|_| Refusal::BadTimestamp)?;
            if now.abs_diff(time) > policy.max_skew {
                return Err(Refusal::Expired);
            }
            // Each is tried, whatever the others gave: the time tells nobody which one was right.
            let genuine = [Some(secret), previous.as_ref()].into_iter().flatten();
            if !genuine.fold(false, |any, signer| any | signer.verify(timestamp, sign)) {
                return Err(Refusal::BadSignature);
            }
        }
        Key::Token(token) => {
            if !signature::same(token.expose().as_bytes(), only("token")?) {
                return Err(Refusal::BadSignature);
            }
        }
    }
    Ok(())
}

fn is_json(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Reads a body whose sender is known.
fn read(policy: &Policy, body: &[u8]) -> Result<Metadata, Refusal> {
    let malformed = |what: &str| Refusal::Malformed(what.into());
    let body = core::str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
    // Of each member whether it is there, and its value if the name is spelt as it should be: in another case it is
    // nothing to this binding, but perhaps to the application.
    let mut values: [Option<Option<&str>>; METADATA.len()] = [None; METADATA.len()];
    let (mut text, mut content) = (None, None);
    let mut repeated = None;
    json::members(body, &mut |name, value| {
        let Some(name) = json::name(name) else { return };
        let slots = METADATA.iter().copied().zip(&mut values);
        let mut slots = slots.chain([("text", &mut text), ("content", &mut content)]);
        if let Some((known, slot)) = slots.find(|(known, _)| json::folds_to(&name, known))
            && slot.replace((name == known).then_some(value)).is_some()
        {
            repeated = Some(known);
        }
    })
    .map_err(|_| malformed("it is not one JSON object"))?;
    // What is checked here and what the application reads could be different ones.
    let refuse = |name: &str| Err(Refusal::Malformed(format!("the member {name} occurs more than once")));
    if let Some(name) = repeated {
        return refuse(name);
    }
    if json::depth(body) > MAX_DEPTH {
        return Err(Refusal::Malformed(format!("it is nested more than {MAX_DEPTH} levels deep")));
    }
    let mut metadata = Vec::with_capacity(METADATA.len());
    for (name, value) in METADATA.into_iter().zip(values) {
        let value = value.flatten().and_then(scalar);
        let expected = match name {
            "robotCode" => &policy.robot_code,
            "chatbotCorpId" => &policy.chatbot_corp_id,
            _ => &None,
        };
        if expected.is_some() && *expected != value {
            return Err(Refusal::WrongRobot);
        }
        metadata.extend(value.map(|value| (name.to_owned(), value)));
    }
    let is_text = metadata.iter().any(|(name, value)| name == "msgtype" && value == "text");
    if is_text {
        let Ok(text) = text_of(text.flatten(), content.flatten()) else { return refuse("text.content") };
        metadata.extend(text.map(|text| ("text".to_owned(), text.trim().to_owned())));
    }
    Ok(Metadata(metadata))
}

/// The content of a text message: `text.content`, or `content` where that is the text itself, as one of
/// DingTalk's samples has it. An error if it occurs more than once.
fn text_of(text: Option<&str>, content: Option<&str>) -> Result<Option<String>, ()> {
    let (mut inner, mut repeated) = (None, false);
    let read = json::members(text.unwrap_or("{}"), &mut |name, value| {
        if json::resembles(name, "content") {
            repeated |= inner.replace(json::is(name, "content").then_some(value)).is_some();
        }
    });
    match read {
        _ if repeated => Err(()),
        Ok(()) => Ok(inner.flatten().or(content).and_then(json::string)),
        Err(_) => Ok(None),
    }
}

/// A text, or a number as it is written.
fn scalar(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => json::string(raw),
        b'-' | b'0'..=b'9' => Some(raw.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "client-secret-for-test";
    // github.com/eryajf/chatgpt-dingtalk 3766c24, public/tools_test.go
    const TIME: u64 = 1_684_493_546_276;
    const SIGN: &str = "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=";
    const JSON: (&str, &str) = ("Content-Type", "application/json; charset=utf-8");
    const HOUR: u64 = 3_600_000;

    fn policy() -> Policy {
        let key = Some(Key::Signature { secret: Signer::new(SECRET), previous: None });
        Policy { key, max_skew: HOUR, robot_code: None, chatbot_corp_id: None }
    }

    fn with(policy: &Policy, headers: &[(&str, &str)], body: &str, now: u64) -> Result<Vec<(String, String)>, Refusal> {
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        accept(policy, headers.into_iter(), body.as_bytes(), now).map(|metadata| metadata.0)
    }

    fn headers(timestamp: &str, sign: &str) -> Result<Vec<(String, String)>, Refusal> {
        with(&policy(), &[JSON, ("timestamp", timestamp), ("sign", sign)], "{}", TIME)
    }

    fn body(policy: &Policy, body: &str) -> Result<Vec<(String, String)>, Refusal> {
        with(policy, &[JSON, ("timestamp", &TIME.to_string()), ("sign", SIGN)], body, TIME)
    }

    #[test]
    fn the_published_signature_is_accepted() {
        assert_eq!(headers(&TIME.to_string(), SIGN), Ok(vec![]));
        let names = [("content-type", "APPLICATION/JSON"), ("TIMESTAMP", "1684493546276"), ("Sign", SIGN)];
        assert_eq!(with(&policy(), &names, "{}", TIME), Ok(vec![]));
    }

    #[test]
    fn the_window_is_exact_to_the_millisecond() {
        for (now, expected) in [
            (TIME + HOUR, Ok(vec![])),
            (TIME + HOUR + 1, Err(Refusal::Expired)),
            (TIME - HOUR, Ok(vec![])),
            (TIME - HOUR - 1, Err(Refusal::Expired)),
            (0, Err(Refusal::Expired)),
            (u64::MAX, Err(Refusal::Expired)),
        ] {
            let headers = [JSON, ("timestamp", "1684493546276"), ("sign", SIGN)];
            assert_eq!(with(&policy(), &headers, "{}", now), expected, "{now}");
        }
        let tight = Policy { max_skew: 1, ..policy() };
        let signed = [JSON, ("timestamp", "1684493546276"), ("sign", SIGN)];
        assert!(with(&tight, &signed, "{}", TIME + 1).is_ok());
        assert_eq!(with(&tight, &signed, "{}", TIME + 2), Err(Refusal::Expired));
    }

    #[test]
    fn signatures_that_prove_nothing() {
        for (timestamp, sign, expected) in [
            ("1684493546276", "", Refusal::BadSignature),
            ("1684493546276", "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU", Refusal::BadSignature),
            ("1684493546276", "nwBJQmaBLv9%2B5%2FsSS%2F66jcFc1%2FkGY5wo38L88LOGfRU%3D", Refusal::BadSignature),
            ("1684493546276", " nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=", Refusal::BadSignature),
            ("1684493546276", "NWBJQMABLV9+5/SSS/66JCFC1/KGY5WO38L88LOGFRU=", Refusal::BadSignature),
            ("1684493546277", SIGN, Refusal::BadSignature),
            ("01684493546276", SIGN, Refusal::BadSignature),
            ("", SIGN, Refusal::BadTimestamp),
            ("1684493546276 ", SIGN, Refusal::BadTimestamp),
            ("+1684493546276", SIGN, Refusal::BadTimestamp),
            ("-1684493546276", SIGN, Refusal::BadTimestamp),
            ("1.684493546276e12", SIGN, Refusal::BadTimestamp),
            ("soon", SIGN, Refusal::BadTimestamp),
            ("18446744073709551616", SIGN, Refusal::BadTimestamp),
            // In seconds: half a century ago.
            ("1684493546", SIGN, Refusal::Expired),
        ] {
            assert_eq!(headers(timestamp, sign), Err(expected), "{timestamp:?} {sign:?}");
        }
    }

    #[test]
    fn exactly_one_header_of_each() {
        let (time, sign) = (("timestamp", "1684493546276"), ("sign", SIGN));
        for (headers, expected) in [
            (&[JSON][..], Refusal::Unsigned),
            (&[JSON, time], Refusal::Unsigned),
            (&[JSON, sign], Refusal::Unsigned),
            (&[JSON, time, sign, ("Sign", SIGN)], Refusal::Ambiguous),
            (&[JSON, time, ("TimeStamp", "1684493546276"), sign], Refusal::Ambiguous),
            (&[time, sign], Refusal::WrongContentType),
            (&[JSON, JSON, time, sign], Refusal::WrongContentType),
            (&[("content-type", "text/plain"), time, sign], Refusal::WrongContentType),
            (&[("content-type", "application/jsonp"), time, sign], Refusal::WrongContentType),
            (&[("content-type", ""), time, sign], Refusal::WrongContentType),
        ] {
            assert_eq!(with(&policy(), headers, "{}", TIME), Err(expected), "{headers:?}");
        }
    }

    #[test]
    fn without_a_key_nothing_is_accepted_and_a_token_is_one() {
        let signed = [JSON, ("timestamp", "1684493546276"), ("sign", SIGN), ("token", "T")];
        let none = Policy { key: None, ..policy() };
        assert_eq!(with(&none, &signed, "{}", TIME), Err(Refusal::Unverifiable));
        let token = Policy { key: Some(Key::Token(Secret::new("T"))), ..policy() };
        assert_eq!(with(&token, &[JSON, ("Token", "T")], "{}", 0), Ok(vec![]));
        for (value, expected) in
            [("", Refusal::BadSignature), ("t", Refusal::BadSignature), ("TT", Refusal::BadSignature)]
        {
            assert_eq!(with(&token, &[JSON, ("token", value)], "{}", 0), Err(expected), "{value:?}");
        }
        assert_eq!(with(&token, &[JSON], "{}", 0), Err(Refusal::Unsigned));
        assert_eq!(with(&token, &[JSON, ("token", "T"), ("token", "T")], "{}", 0), Err(Refusal::Ambiguous));
        // A token does not replace the signature where one is expected.
        assert_eq!(with(&policy(), &[JSON, ("token", SECRET)], "{}", TIME), Err(Refusal::Unsigned));
    }

    #[test]
    fn only_the_robot_and_organisation_that_are_meant() {
        let bound = Policy { robot_code: Some("r1".into()), chatbot_corp_id: Some("c1".into()), ..policy() };
        assert!(body(&bound, r#"{"robotCode":"r1","chatbotCorpId":"c1"}"#).is_ok());
        for wrong in [
            "{}",
            r#"{"robotCode":"r1"}"#,
            r#"{"chatbotCorpId":"c1"}"#,
            r#"{"robotCode":"r2","chatbotCorpId":"c1"}"#,
            r#"{"robotCode":"R1","chatbotCorpId":"c1"}"#,
            r#"{"robotCode":"r1 ","chatbotCorpId":"c1"}"#,
            r#"{"robotcode":"r1","chatbotCorpId":"c1"}"#,
            r#"{"robotCode":null,"chatbotCorpId":"c1"}"#,
            r#"{"robotCode":["r1"],"chatbotCorpId":"c1"}"#,
            r#"{"x":{"robotCode":"r1","chatbotCorpId":"c1"}}"#,
        ] {
            assert_eq!(body(&bound, wrong), Err(Refusal::WrongRobot), "{wrong}");
        }
        for both in [
            r#"{"robotCode":"r1","robotCode":"r2"}"#,
            r#"{"robotCode":"r2","robot\u0043ode":"r1"}"#,
            r#"{"robotCode":"r1","ROBOTCODE":"r2"}"#,
        ] {
            let error = body(&bound, both).unwrap_err();
            assert_eq!(error, Refusal::Malformed("the member robotCode occurs more than once".into()), "{both}");
        }
    }

    #[test]
    fn what_go_would_read_for_a_known_member_is_a_repetition_of_it() {
        for (message, name) in [
            ("{\"msgId\":\"1\",\"m\u{17f}gId\":\"2\"}", "msgId"),
            (r#"{"msgId":"1","m\u017fgId":"2"}"#, "msgId"),
            (r#"{"MSGTYPE":"a","m\u017FgType":"b"}"#, "msgtype"),
            (r#"{"\u017fender\u0053taff\u0049d":"1","senderStaffId":"2"}"#, "senderStaffId"),
            (r#"{"msgtype":"text","text":{"content":"a","Content":"b"}}"#, "text.content"),
            (r#"{"msgtype":"text","text":{"CONTENT":"b","content":"a"}}"#, "text.content"),
            (r#"{"msgtype":"text","text":{"content":"a","cont\u0065nt":"a"}}"#, "text.content"),
        ] {
            let expected = Refusal::Malformed(format!("the member {name} occurs more than once"));
            assert_eq!(body(&policy(), message), Err(expected), "{message}");
        }
        // The dotless i is another letter to everybody, and once is not twice.
        for once in [r#"{"msgId":"1","msg\u0131d":"2"}"#, r#"{"m\u017fgId":"2"}"#] {
            assert!(body(&policy(), once).is_ok(), "{once}");
        }
    }

    #[test]
    fn after_a_rotation_both_secrets_are_good_for_signatures_and_neither_is_a_token() {
        let sign = |secret: &str| signature::sign(secret, TIME);
        let headers = |name: &'static str, value: &str| {
            with(
                &Policy {
                    key: Some(Key::Signature { secret: Signer::new("new"), previous: Some(Signer::new("old")) }),
                    ..policy()
                },
                &[JSON, ("timestamp", "1684493546276"), (name, value)],
                "{}",
                TIME,
            )
        };
        assert_eq!((headers("sign", &sign("new")), headers("sign", &sign("old"))), (Ok(vec![]), Ok(vec![])));
        // Somebody who gives the same secret twice loses nothing.
        let twice = Key::Signature { secret: Signer::new(SECRET), previous: Some(Signer::new(SECRET)) };
        assert_eq!(body(&Policy { key: Some(twice), ..policy() }, "{}"), Ok(vec![]));
        for other in ["", "older", "newold"] {
            assert_eq!(headers("sign", &sign(other)), Err(Refusal::BadSignature), "{other:?}");
        }
        for token in ["new", "old"] {
            assert_eq!(headers("token", token), Err(Refusal::Unsigned));
            assert_eq!(headers("sign", token), Err(Refusal::BadSignature));
        }
    }

    #[test]
    fn what_is_handed_on_beside_the_message() {
        let message = r#"{"msgtype":"text","text":{"content":" hello \u4f60 "},"msgId":"msg1==","createAt":1684493546276,
            "conversationType":"2","conversationId":"cid1","conversationTitle":"Ops","senderId":"$:1","senderNick":"张三",
            "senderStaffId":"u1","robotCode":"r1","sessionWebhook":"https://oapi.dingtalk.com/x?session=S","isAdmin":true,
            "atUsers":[{"dingtalkId":"$:2"}]}"#;
        let metadata = body(&policy(), message).unwrap();
        let metadata: Vec<(&str, &str)> =
            metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            metadata,
            [
                ("msgId", "msg1=="),
                ("msgtype", "text"),
                ("conversationId", "cid1"),
                ("conversationType", "2"),
                ("conversationTitle", "Ops"),
                ("senderId", "$:1"),
                ("senderStaffId", "u1"),
                ("senderNick", "张三"),
                ("robotCode", "r1"),
                ("createAt", "1684493546276"),
                ("text", "hello 你"),
            ]
        );
    }

    #[test]
    fn half_a_surrogate_pair_costs_neither_name_nor_text() {
        let message = r#"{"msgtype":"text","text":{"content":"\ud800"},"senderNick":"Zhang \udc00","\udfff":1}"#;
        let expected = [("msgtype", "text"), ("senderNick", "Zhang \u{fffd}"), ("text", "\u{fffd}")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(body(&policy(), message), Ok(expected));
    }

    #[test]
    fn every_type_of_message_passes() {
        for (message, expected) in [
            (r#"{"msgtype":"text","content":" 你好"}"#, &[("msgtype", "text"), ("text", "你好")][..]),
            (r#"{"msgtype":"text","text":{}}"#, &[("msgtype", "text")]),
            (r#"{"msgtype":"text","text":7}"#, &[("msgtype", "text")]),
            (r#"{"msgtype":"richText","content":{"richText":[{"text":"a"}]}}"#, &[("msgtype", "richText")]),
            (r#"{"msgtype":"picture","content":{"downloadCode":"d"}}"#, &[("msgtype", "picture")]),
            (r#"{"msgtype":"audio","content":{"duration":4000,"recognition":"hi"}}"#, &[("msgtype", "audio")]),
            (r#"{"msgtype":"video","content":{"videoType":"mp4"}}"#, &[("msgtype", "video")]),
            (r#"{"msgtype":"file","content":{"fileName":"a.txt"}}"#, &[("msgtype", "file")]),
            (r#"{"errorCode":20001,"errorMessage":"quota"}"#, &[("errorCode", "20001")]),
            (r#"{"msgtype":"hologram","hologram":{}}"#, &[("msgtype", "hologram")]),
            // Text is what a text message says, and nothing that another type calls so.
            (r#"{"msgtype":"hologram","text":{"content":"x"}}"#, &[("msgtype", "hologram")]),
            (r#"{"senderNick":"text","content":"x"}"#, &[("senderNick", "text")]),
            (r#"{"msgtype":["text"],"text":{"content":"x"}}"#, &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(body(&policy(), message), Ok(expected), "{message}");
        }
    }

    #[test]
    fn bodies_that_are_no_message() {
        for malformed in ["", " ", "null", "[]", "\"x\"", "{", "{} {}", "{\"a\":}", "\u{feff}{}", "{'a':1}"] {
            let error = body(&policy(), malformed).unwrap_err();
            assert_eq!(error, Refusal::Malformed("it is not one JSON object".into()), "{malformed}");
        }
        let raw = [
            ("content-type", b"application/json".as_slice()),
            ("timestamp", b"1684493546276"),
            ("sign", SIGN.as_bytes()),
        ];
        let error = accept(&policy(), raw.iter().copied(), b"{\"a\":\"\xff\"}", TIME).unwrap_err();
        assert_eq!(error, Refusal::Malformed("it is not UTF-8".into()));
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(body(&policy(), &nested(MAX_DEPTH)).is_ok());
        assert!(matches!(body(&policy(), &nested(MAX_DEPTH + 1)), Err(Refusal::Malformed(_))));
        // Brackets in texts are no nesting.
        assert!(body(&policy(), &format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(500))).is_ok());
        let sized = |size: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(size - 8));
        assert!(body(&policy(), &sized(MAX_BODY)).is_ok());
        assert_eq!(body(&policy(), &sized(MAX_BODY + 1)), Err(Refusal::TooLarge(131_072)));
    }

    #[test]
    fn the_body_is_not_read_before_the_sender_is_known() {
        let unsigned = with(&policy(), &[JSON], "no JSON", TIME);
        assert_eq!(unsigned, Err(Refusal::Unsigned));
        let forged = with(&policy(), &[JSON, ("timestamp", "1684493546276"), ("sign", "x")], "no JSON", TIME);
        assert_eq!(forged, Err(Refusal::BadSignature));
    }

    proptest! {
        #[test]
        fn only_the_right_key_and_time_pass(secret in ".{1,40}", other in ".{1,40}", time: u64, skew: u64, now: u64) {
            let sign = signature::sign(&secret, time);
            let time_text = time.to_string();
            let headers = [JSON, ("timestamp", time_text.as_str()), ("sign", sign.as_str())];
            let policy = |secret: &str| Policy {
                key: Some(Key::Signature { secret: Signer::new(secret), previous: None }),
                max_skew: skew,
                robot_code: None,
                chatbot_corp_id: None,
            };
            let accepted = with(&policy(&secret), &headers, "{}", now).is_ok();
            prop_assert_eq!(accepted, now.abs_diff(time) <= skew);
            let other_passes = with(&policy(&other), &headers, "{}", time).is_ok();
            prop_assert_eq!(other_passes, secret == other);
        }

        #[test]
        fn never_panics_and_nothing_unsigned_passes(
            headers in prop::collection::vec(("(?i)content-type|timestamp|sign|token|x", "(?s).{0,20}"), 0..6),
            body: Vec<u8>, now: u64,
        ) {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            prop_assert!(accept(&policy(), headers, &body, now).is_err());
        }

        /// In whatever case and with whatever escapes it is written, a name that is known occurs once.
        #[test]
        fn a_member_is_known_by_its_name_however_that_is_written(
            members in prop::collection::vec((0..METADATA.len() + 1, 0..5), 0..4),
        ) {
            let written: Vec<String> = members.iter().enumerate().map(|(at, (member, spelling))| {
                let name = METADATA.get(*member).copied().unwrap_or("other");
                let name = match spelling {
                    0 => name.to_owned(),
                    1 => format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]),
                    2 => name.to_uppercase(),
                    3 => name.replacen('s', "\u{17f}", 1).replacen('o', "O", 1),
                    _ => name.replacen('s', "\\u017F", 1).replacen('e', "\\u0045", 1),
                };
                format!("\"{name}\":{at}")
            }).collect();
            let names: Vec<String> = written.iter().map(|member| {
                let (name, _) = member.rsplit_once(':').unwrap();
                serde_json::from_str(name).unwrap()
            }).collect();
            let folded: Vec<String> = names.iter().map(|name| name.replace('\u{17f}', "s").to_lowercase()).collect();
            let known = METADATA.map(str::to_lowercase);
            let is_repeated = |name: &String| folded.iter().filter(|other| *other == name).count() > 1;
            let read = body(&policy(), &format!("{{{}}}", written.join(",")));
            if known.iter().any(is_repeated) {
                prop_assert!(matches!(read, Err(Refusal::Malformed(_))), "{read:?}");
            } else {
                let mut expected: Vec<_> = METADATA.iter().filter_map(|known| {
                    names.iter().position(|name| name == known).map(|at| ((*known).to_owned(), at.to_string()))
                }).collect();
                let mut read = read.unwrap();
                read.retain(|(name, _)| name != "text");
                expected.sort();
                read.sort();
                prop_assert_eq!(read, expected);
            }
        }

        #[test]
        fn depth_is_what_a_parser_counts(json in arbitrary_json()) {
            fn depth(value: &serde_json::Value) -> usize {
                match value {
                    serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
                    serde_json::Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or_default(),
                    _ => 0,
                }
            }
            prop_assert_eq!(json::depth(&json.to_string()), depth(&json));
        }
    }

    fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            ".{0,6}".prop_map(Into::into)
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
                prop::collection::btree_map(".{0,3}", inner, 0..4)
                    .prop_map(|items| serde_json::Value::Object(items.into_iter().collect())),
            ]
        })
    }
}
