//! [`reply::of`] finds a reply exactly where DingTalk would post one, and hands it on as it was written.

#![no_main]

use dingtalk_binding::reply;
use dingtalk_fuzz::{Document, Object, Value, last, object, text};
use libfuzzer_sys::fuzz_target;

/// What the consumer's answer is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Mistake,
    Reply,
}

fn kind(answer: &Object, length: usize) -> Kind {
    let Some(msgtype) = last(answer, "msgtype").filter(|msgtype| **msgtype != Value::Null) else {
        return Kind::Nothing;
    };
    let Some(msgtype) = text(msgtype) else { return Kind::Mistake };
    if msgtype == "empty" {
        return Kind::Nothing;
    }
    let payload = last(answer, msgtype).and_then(object);
    let filled = |name: &str| {
        payload.and_then(|payload| last(payload, name)).and_then(text).is_some_and(|text| !text.trim().is_empty())
    };
    let has_items = |name: &str| match payload.and_then(|payload| last(payload, name)) {
        Some(Value::Array(items)) => items.first().is_some_and(|item| object(item).is_some()),
        _ => false,
    };
    let complete = match msgtype {
        "text" => filled("content"),
        "markdown" => filled("title") && filled("text"),
        "actionCard" => {
            let single = filled("singleTitle") && filled("singleURL");
            filled("title") && filled("text") && (has_items("btns") || single)
        }
        "feedCard" => has_items("links"),
        _ => false,
    };
    if complete && length <= 20_000 { Kind::Reply } else { Kind::Mistake }
}

fuzz_target!(|answer: &[u8]| {
    let found = reply::of(answer);
    if let Ok(Some(reply)) = found {
        assert_eq!(reply.as_bytes(), answer);
    }
    let document = Document::read(answer);
    match document.as_ref().and_then(Document::object) {
        None => assert_eq!(found, Ok(None)),
        Some(object) if document.as_ref().is_some_and(|document| document.exact) => {
            let found = match found {
                Ok(None) => Kind::Nothing,
                Ok(Some(_)) => Kind::Reply,
                Err(_) => Kind::Mistake,
            };
            assert_eq!(found, kind(object, answer.len()));
        }
        Some(_) => {}
    }
});
