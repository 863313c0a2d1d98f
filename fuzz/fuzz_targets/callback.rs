//! [`callback::accept`] accepts what DingTalk signed for this binding, and nothing else.
//!
//! The target signs for itself, so that the fuzzer gets past the signature and meets the rules behind it. What
//! must come out is computed a second time, with another HMAC and another JSON parser.

#![no_main]

use std::str::from_utf8;

use arbitrary::Arbitrary;
use dingtalk_binding::callback::{self, Key, MAX_BODY, MAX_DEPTH, Policy};
use dingtalk_binding::secret::Secret;
use dingtalk_fuzz::{Document, Object, Value, depth, last, object, quoted, signature, text};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    key: KeyKind,
    secret: &'a str,
    previous: Option<&'a str>,
    /// Signed with the secret before.
    is_late: bool,
    max_skew: u64,
    robot_code: Option<&'a str>,
    chatbot_corp_id: Option<&'a str>,
    now: u64,
    time: Time,
    leading_zeros: u8,
    headers: Headers<'a>,
    body: Body<'a>,
}

#[derive(Arbitrary, Debug)]
enum KeyKind {
    Signature,
    Token,
    None,
}

/// When the sender signed, seen from `now`.
#[derive(Arbitrary, Debug)]
enum Time {
    Within(u64),
    /// So many milliseconds inside or outside the window.
    Edge {
        past: bool,
        by: i8,
    },
    Any(u64),
}

#[derive(Arbitrary, Debug)]
enum Headers<'a> {
    /// One of each, in this spelling.
    Honest(u16),
    Mixed(Vec<Header<'a>>),
}

#[derive(Arbitrary, Debug)]
enum Header<'a> {
    Honest(Name, u16),
    Mutated(Name, u16, &'a [u8]),
    Other(&'a str, &'a [u8]),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Name {
    ContentType,
    Timestamp,
    Sign,
    Token,
}

#[derive(Arbitrary, Debug)]
enum Body<'a> {
    Raw(&'a [u8]),
    Object(Vec<Member<'a>>),
    /// With white space up to the longest body and so many bytes more, for few inputs: they take long.
    Long(Vec<Member<'a>>, i8, u8),
}

#[derive(Arbitrary, Debug)]
struct Member<'a> {
    name: MemberName<'a>,
    escaped: bool,
    upper: bool,
    /// With the letters that Go folds into s and k.
    folded: bool,
    value: MemberValue<'a>,
}

#[derive(Arbitrary, Debug)]
enum MemberName<'a> {
    Known(u8),
    Other(&'a str),
}

#[derive(Arbitrary, Debug)]
enum MemberValue<'a> {
    Text(&'a str),
    Number(i64),
    /// Perhaps JSON.
    Written(&'a str),
    RobotCode,
    ChatbotCorpId,
    TypeText,
    Content(&'a str),
    Contents(bool),
    Nested(u8),
}

/// What the documentation promises as metadata, in its order.
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
/// What else must not be repeated.
const TEXTS: [&str; 2] = ["text", "content"];

impl Name {
    fn spelt(self, capitals: u16) -> String {
        let name = match self {
            Self::ContentType => "content-type",
            Self::Timestamp => "timestamp",
            Self::Sign => "sign",
            Self::Token => "token",
        };
        let spell = |(at, c): (usize, char)| if capitals >> at & 1 == 1 { c.to_ascii_uppercase() } else { c };
        name.chars().enumerate().map(spell).collect()
    }
}

impl Input<'_> {
    fn policy(&self) -> Policy {
        let key = match self.key {
            KeyKind::Signature => {
                Some(Key::Signature { secret: Secret::new(self.secret), previous: self.previous.map(Secret::new) })
            }
            KeyKind::Token => Some(Key::Token(Secret::new(self.secret))),
            KeyKind::None => None,
        };
        let own = |text: Option<&str>| text.map(str::to_owned);
        Policy {
            key,
            max_skew: self.max_skew,
            robot_code: own(self.robot_code),
            chatbot_corp_id: own(self.chatbot_corp_id),
        }
    }

    /// The timestamp that an honest sender writes.
    fn timestamp(&self) -> String {
        let time = match self.time {
            Time::Within(by) => self.now.saturating_sub(by % self.max_skew.max(1)),
            Time::Edge { past: true, by } => self.now.saturating_sub(self.max_skew).saturating_add_signed(by.into()),
            Time::Edge { past: false, by } => self.now.saturating_add(self.max_skew).saturating_add_signed(by.into()),
            Time::Any(time) => time,
        };
        "0".repeat((self.leading_zeros / 64).into()) + &time.to_string()
    }

    fn headers(&self) -> Vec<(String, Vec<u8>)> {
        let timestamp = self.timestamp();
        let signer = self.previous.filter(|_| self.is_late).unwrap_or(self.secret);
        let honest = |name: Name| match name {
            Name::ContentType => b"application/json; charset=utf-8".to_vec(),
            Name::Timestamp => timestamp.clone().into_bytes(),
            Name::Sign => signature(signer, timestamp.as_bytes()).into_bytes(),
            Name::Token => self.secret.as_bytes().to_vec(),
        };
        match &self.headers {
            Headers::Honest(capitals) => [Name::ContentType, Name::Timestamp, Name::Sign, Name::Token]
                .map(|name| (name.spelt(*capitals), honest(name)))
                .to_vec(),
            Headers::Mixed(headers) => {
                let header = |header: &Header<'_>| match header {
                    Header::Honest(name, capitals) => (name.spelt(*capitals), honest(*name)),
                    Header::Mutated(name, capitals, value) => (name.spelt(*capitals), value.to_vec()),
                    Header::Other(name, value) => ((*name).to_owned(), value.to_vec()),
                };
                headers.iter().map(header).collect()
            }
        }
    }

    fn body(&self) -> Vec<u8> {
        let written = |members: &[Member<'_>]| {
            let members: Vec<String> = members.iter().map(|member| self.member(member)).collect();
            format!("{{{}}}", members.join(",")).into_bytes()
        };
        match &self.body {
            Body::Raw(body) => body.to_vec(),
            Body::Object(members) => written(members),
            Body::Long(members, more, rare) => {
                let mut body = written(members);
                if *rare != 0xa5 {
                    return body;
                }
                body.resize(MAX_BODY.saturating_add_signed((*more).into()).max(body.len()), b' ');
                body
            }
        }
    }

    fn member(&self, member: &Member<'_>) -> String {
        let name = match member.name {
            MemberName::Known(at) => METADATA.iter().chain(&TEXTS).cycle().nth(at.into()).copied().unwrap_or_default(),
            MemberName::Other(name) => name,
        };
        let name = if member.upper { name.to_ascii_uppercase() } else { name.to_owned() };
        let name =
            if member.folded { name.replace(['s', 'S'], "\u{17f}").replace(['k', 'K'], "\u{212a}") } else { name };
        let name = match name.chars().next() {
            Some(first) if member.escaped && first.is_ascii() => {
                format!("\"\\u{:04X}{}", first as u32, &quoted(&name[1..])[1..])
            }
            _ => quoted(&name),
        };
        let value = match member.value {
            MemberValue::Text(value) => quoted(value),
            MemberValue::Number(value) => value.to_string(),
            MemberValue::Written(value) => value.to_owned(),
            MemberValue::RobotCode => quoted(self.robot_code.unwrap_or_default()),
            MemberValue::ChatbotCorpId => quoted(self.chatbot_corp_id.unwrap_or_default()),
            MemberValue::TypeText => quoted("text"),
            MemberValue::Content(value) => format!("{{\"content\":{}}}", quoted(value)),
            MemberValue::Contents(upper) => {
                format!("{{\"content\":\"a\",\"{}\":\"b\"}}", if upper { "CONTENT" } else { "content" })
            }
            MemberValue::Nested(levels) => {
                // Few, or about as many as are allowed together with the object around them.
                let levels = usize::from(if levels % 2 == 0 { levels % 4 } else { 61 + levels % 8 });
                "[".repeat(levels) + "0" + &"]".repeat(levels)
            }
        };
        format!("{name}:{value}")
    }

    /// Whether the headers prove the sender.
    fn proven(&self, headers: &[(String, Vec<u8>)]) -> bool {
        let only = |name: &str| {
            let found: Vec<&Vec<u8>> = headers
                .iter()
                .filter(|(known, _)| known.to_ascii_lowercase() == name)
                .map(|(_, value)| value)
                .collect();
            if let [value] = found[..] { Some(value.as_slice()) } else { None }
        };
        let is_json = only("content-type").is_some_and(|kind| {
            let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
            let kind = kind.split(';').next().unwrap_or_default();
            kind.trim_matches([' ', '\t', '\n', '\r', '\x0c']) == "application/json"
        });
        is_json
            && match self.key {
                KeyKind::None => false,
                KeyKind::Token => only("token") == Some(self.secret.as_bytes()),
                KeyKind::Signature => only("timestamp").zip(only("sign")).is_some_and(|(timestamp, sign)| {
                    let digits = from_utf8(timestamp).unwrap_or_default();
                    let is_number = !digits.is_empty() && digits.chars().all(|c| matches!(c, '0'..='9'));
                    let time = digits.trim_start_matches('0');
                    let time = if time.is_empty() { Ok(0) } else { time.parse::<i128>() };
                    let known = time.is_ok_and(|time| {
                        time <= i128::from(u64::MAX) && (i128::from(self.now) - time).abs() <= i128::from(self.max_skew)
                    });
                    let signs = |secret: &str| signature(secret, timestamp).as_bytes() == sign;
                    is_number && known && (signs(self.secret) || self.previous.is_some_and(signs))
                }),
            }
    }

    /// What is handed on of a message, if it may be.
    fn metadata(&self, message: &Object) -> Option<Vec<(String, String)>> {
        // As Go's encoding/json folds.
        let folded = |name: &str| name.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase();
        let times = |object: &Object, name: &str| {
            object.entries().iter().filter(|entry| folded(entry.key.as_str()) == folded(name)).count()
        };
        if METADATA.iter().chain(&TEXTS).any(|name| times(message, name) > 1) {
            return None;
        }
        let scalar = |name: &str| match last(message, name)? {
            Value::String(value) => Some(value.as_str().to_owned()),
            Value::Number(value) => Some(value.as_str().to_owned()),
            _ => None,
        };
        for (name, expected) in [("robotCode", self.robot_code), ("chatbotCorpId", self.chatbot_corp_id)] {
            if expected.is_some() && scalar(name).as_deref() != expected {
                return None;
            }
        }
        let mut metadata: Vec<(String, String)> =
            METADATA.iter().filter_map(|name| Some(((*name).to_owned(), scalar(name)?))).collect();
        if last(message, "msgtype").and_then(text) == Some("text") {
            if last(message, "text").and_then(object).is_some_and(|inner| times(inner, "content") > 1) {
                return None;
            }
            let content = match last(message, "text") {
                None => last(message, "content"),
                Some(inner) => object(inner).and_then(|inner| last(inner, "content").or(last(message, "content"))),
            };
            metadata.extend(content.and_then(text).map(|text| ("text".to_owned(), text.trim().to_owned())));
        }
        Some(metadata)
    }
}

fuzz_target!(|input: Input<'_>| {
    let (headers, body) = (input.headers(), input.body());
    let received = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let accepted = callback::accept(&input.policy(), received, &body, input.now);

    let may_pass = body.len() <= 128 * 1024 && input.proven(&headers);
    let document = Document::read(&body);
    let message = document.as_ref().and_then(Document::object);
    let (Some(document), Some(message), true) = (&document, message, may_pass) else {
        assert!(accepted.is_err(), "accepted: {headers:?} {:?}", from_utf8(&body));
        return;
    };
    assert_eq!(MAX_DEPTH, 64);
    if depth(&document.value) > 64 {
        assert!(accepted.is_err(), "accepted, nested {} levels deep", depth(&document.value));
    } else if document.exact {
        let accepted = accepted.map(|metadata| metadata.0);
        assert_eq!(accepted.clone().ok(), input.metadata(message), "{accepted:?} for {:?}", from_utf8(&body));
    }
});
