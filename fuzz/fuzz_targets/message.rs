//! [`message::shape`] makes a JSON object of everything that it lets pass, and leaves an object as it was
//! written, half surrogate pairs aside.

#![no_main]

use arbitrary::Arbitrary;
use dingtalk_binding::message::{self, Options};
use dingtalk_fuzz::{Document, Object, Value, last, object, quoted, text};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    metadata: Vec<(Name<'a>, &'a str)>,
    form: Form,
    data: &'a [u8],
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Name<'a> {
    MsgUuid,
    Msgtype,
    Title,
    AtMobiles,
    AtUserIds,
    IsAtAll,
    Other(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Form {
    AsItIs,
    /// The data is what a text consists of.
    Text,
    /// The data is the text of `{"message": "…"}`.
    Message,
    /// The same with another member, before or after it.
    Among(bool),
}

impl<'a> Name<'a> {
    fn spelt(self) -> &'a str {
        match self {
            Self::MsgUuid => "msgUuid",
            Self::Msgtype => "MSGTYPE",
            Self::Title => "title",
            Self::AtMobiles => "atmobiles",
            Self::AtUserIds => "atUserIds",
            Self::IsAtAll => "isAtAll",
            Self::Other(name) => name,
        }
    }
}

/// The text of a short form.
fn short(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text.as_str()),
        Value::Object(object) => match object.entries() {
            [only] if only.key.as_str() == "message" => text(&only.value),
            _ => None,
        },
        _ => None,
    }
}

fn members_but_uuid(object: &Object) -> Vec<(&str, &Value)> {
    let members = object.entries().iter().map(|entry| (entry.key.as_str(), &entry.value));
    members.filter(|(name, _)| *name != "msgUuid").collect()
}

fuzz_target!(|input: Input<'_>| {
    let data = match (&input.form, std::str::from_utf8(input.data)) {
        (Form::Text, Ok(text)) => quoted(text).into_bytes(),
        (Form::Message, Ok(text)) => format!("{{\"message\" : {}}}", quoted(text)).into_bytes(),
        (Form::Among(false), Ok(text)) => format!("{{\"a\":1,\"message\":{}}}", quoted(text)).into_bytes(),
        (Form::Among(true), Ok(text)) => format!("{{\"message\":{},\"a\":1}}", quoted(text)).into_bytes(),
        _ => input.data.to_vec(),
    };
    let metadata: Vec<(&str, &str)> = input.metadata.iter().map(|(name, value)| (name.spelt(), *value)).collect();
    let uuids = metadata.iter().filter(|(name, _)| name.to_ascii_lowercase() == "msguuid");
    let Ok(options) = Options::parse(metadata.iter().copied()) else {
        assert!(uuids.clone().any(|(_, uuid)| uuid.trim().is_empty()), "{metadata:?}");
        return;
    };
    let uuid = uuids.last().map(|(_, uuid)| *uuid);
    let shaped = message::shape(&data, &options);

    let unmarked = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&data);
    let given = Document::read(unmarked);
    let body = match shaped {
        Ok(body) => body,
        Err(error) => {
            assert!(!error.is_empty());
            // An object is DingTalk's business, short forms and mistakes in their metadata aside.
            let long = given.as_ref().filter(|given| given.object().is_some() && short(&given.value).is_none());
            assert!(long.is_none_or(|given| !given.exact), "{error}: {:?}", String::from_utf8_lossy(unmarked));
            return;
        }
    };
    let posted = Document::read(&body).expect("what is posted is JSON");
    let message = posted.object().expect("what is posted is an object");
    if let Some(uuid) = uuid {
        assert_eq!(last(message, "msgUuid").and_then(text), Some(uuid));
    }
    let Some(given) = given else { return assert_text(message, &String::from_utf8_lossy(unmarked)) };
    if !given.exact {
        return;
    }
    match (short(&given.value), uuid) {
        (Some(text), _) => assert_text(message, text),
        (None, None) => assert_eq!(body, unmarked),
        (None, Some(_)) => {
            let given = given.object().expect("only objects and texts are messages");
            assert_eq!(members_but_uuid(message), members_but_uuid(given));
            assert_eq!(message.entries().len(), members_but_uuid(given).len() + 1);
        }
    }
});

/// Whether a message has this text, which mentions may follow, or in markdown be before.
fn assert_text(message: &Object, written: &str) {
    let msgtype = last(message, "msgtype").and_then(text).expect("a type");
    let payload = last(message, msgtype).and_then(object).expect("the member of the type");
    let member = match msgtype {
        "text" => "content",
        "markdown" => "text",
        other => panic!("a short form became {other}"),
    };
    let content = last(payload, member).and_then(text).expect("a text");
    let is_whole = content.starts_with(written) || (msgtype == "markdown" && content.ends_with(written));
    assert!(is_whole, "{content:?} for {written:?}");
    if msgtype == "markdown" {
        assert!(last(payload, "title").and_then(text).is_some_and(|title| !title.trim().is_empty()), "no title");
    }
}
