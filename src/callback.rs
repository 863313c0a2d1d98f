//! One HTTP request from DingTalk → a verified event, or the reason why not.
//!
//! DingTalk signs the time and not the body: whoever has seen one callback can put its headers before another
//! body until the time is up. What is checked beyond the signature (one header of each kind, the robot, the
//! organisation, members that occur once) closes the ways in which forgers and parsers have been at odds in
//! other clients. Everything fails closed: a binding without a key accepts nothing.
//!
//! Source: DingTalk open platform, "receive messages" for robots, and answers seen by users of other clients.

use std::fmt;

use crate::error::Refusal;
use crate::json;
use crate::secret::Secret;
use crate::signature;

/// The longest body. DingTalk's messages have 1 to 20 KiB.
pub const MAX_BODY: usize = 128 * 1024;

/// The deepest nesting of a body. DingTalk's messages have four levels; some parsers of applications fail, or
/// fall over, from a hundred on.
pub const MAX_DEPTH: usize = 64;

/// What proves that a callback comes from DingTalk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Of the headers `timestamp` and `sign`.
    Signature(Secret),
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
        Key::Signature(secret) => {
            let (timestamp, sign) = (only("timestamp")?, only("sign")?);
            if !timestamp.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::BadTimestamp);
            }
            let timestamp = std::str::from_utf8(timestamp).unwrap_or_default();
            let time: u64 = timestamp.parse().map_err(|_| Refusal::BadTimestamp)?;
            if now.abs_diff(time) > policy.max_skew {
                return Err(Refusal::Expired);
            }
            if !signature::verify(secret.expose(), timestamp, sign) {
                return Err(Refusal::BadSignature);
            }
        }
        Key::Token(token) => {
            if !signature::same(token.expose().as_bytes(), only("token")?) {
                return Err(Refusal::BadSignature);
            }
        }
    }
    read(policy, body)
}

fn is_json(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Reads a body whose sender is known.
fn read(policy: &Policy, body: &[u8]) -> Result<Metadata, Refusal> {
    let malformed = |what: &str| Refusal::Malformed(what.into());
    let body = std::str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
    let mut values: [Option<&str>; METADATA.len()] = [None; METADATA.len()];
    let (mut text, mut content) = (None, None);
    let mut repeated = None;
    json::members(body, &mut |name, value| {
        let slots = METADATA.iter().copied().zip(&mut values);
        for (known, slot) in slots.chain([("text", &mut text), ("content", &mut content)]) {
            if json::is(name, known) && slot.replace(value).is_some() {
                repeated = Some(known);
            }
        }
    })
    .map_err(|_| malformed("it is not one JSON object"))?;
    if let Some(name) = repeated {
        // What is checked here and what the application reads could be different ones.
        return Err(Refusal::Malformed(format!("the member {name} occurs more than once")));
    }
    if json::depth(body) > MAX_DEPTH {
        return Err(Refusal::Malformed(format!("it is nested more than {MAX_DEPTH} levels deep")));
    }
    let mut metadata = Vec::with_capacity(METADATA.len());
    for (name, value) in METADATA.into_iter().zip(values) {
        let value = value.and_then(scalar);
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
    if let Some(text) = is_text.then(|| text_of(text, content)).flatten() {
        metadata.push(("text".to_owned(), text.trim().to_owned()));
    }
    Ok(Metadata(metadata))
}

/// The content of a text message: `text.content`, or `content` where that is the text itself, as one of
/// DingTalk's samples has it.
fn text_of(text: Option<&str>, content: Option<&str>) -> Option<String> {
    let mut inner = None;
    let read = json::members(text.unwrap_or("{}"), &mut |name, value| {
        if json::is(name, "content") {
            inner = Some(value);
        }
    });
    read.ok()?;
    json::string(inner.or(content)?)
}

/// A text, or a number as it is written.
fn scalar(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => json::string(raw),
        b'-' | b'0'..=b'9' => Some(raw.to_owned()),
        _ => None,
    }
}
