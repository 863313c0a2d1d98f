//! The consumer's answer to a message → what DingTalk is to be answered.
//!
//! DingTalk posts the body of a callback's answer into the conversation, if it is one of four types of
//! message; anything else it drops without a word. So the answer is checked here, where a mistake can be named.

use crate::json;
use alloc::format;
use alloc::string::String;

/// What DingTalk takes for "nothing to say".
pub const EMPTY: &str = r#"{"msgtype":"empty"}"#;

/// The longest reply, as for any message of a robot.
const MAX_REPLY: usize = 20_000;

/// Finds the reply in an answer. `Ok(None)`: the answer is no message and nothing is said. The error names
/// the member that keeps a message from being a reply.
pub fn of(answer: &[u8]) -> Result<Option<&str>, String> {
    let Ok(answer) = core::str::from_utf8(answer) else { return Ok(None) };
    let [Some(msgtype)] = find(answer, ["msgtype"]) else { return Ok(None) };
    let msgtype = json::string(msgtype).ok_or("msgtype is not a text")?;
    let members: &[&str] = match msgtype.as_str() {
        "empty" => return Ok(None),
        "text" => &["content"],
        "markdown" => &["title", "text"],
        "actionCard" => &["title", "text"],
        "feedCard" => &["links"],
        _ => {
            let types = "text, markdown, actionCard, feedCard and empty can";
            return Err(format!("msgtype {} cannot be a reply; {types}", json::quoted(&msgtype)));
        }
    };
    let [payload] = find(answer, [msgtype.as_str()]);
    let payload = payload.ok_or_else(|| format!("{msgtype} is missing"))?;
    for member in members {
        let missing = || format!("{msgtype}.{member} is missing or empty");
        let [value] = find(payload, [member]);
        let value = value.ok_or_else(missing)?;
        let filled = if *member == "links" { has_items } else { has_text };
        if !filled(value) {
            return Err(missing());
        }
    }
    if msgtype == "actionCard" {
        let [title, url, buttons] = find(payload, ["singleTitle", "singleURL", "btns"]);
        if !buttons.is_some_and(has_items) && ![title, url].iter().all(|text| text.is_some_and(has_text)) {
            return Err("actionCard has neither singleTitle and singleURL nor a button in btns".into());
        }
    }
    if answer.len() > MAX_REPLY {
        return Err(format!("the message has {} bytes, more than {MAX_REPLY}", answer.len()));
    }
    Ok(Some(answer))
}

/// A list of at least one object.
fn has_items(value: &str) -> bool {
    value.strip_prefix('[').is_some_and(|items| items.trim_start().starts_with('{'))
}

/// A text that is not blank.
fn has_text(value: &str) -> bool {
    json::string(value).is_some_and(|text| !text.trim().is_empty())
}

/// The members of these names, where they are there and not null. None if this is no object.
fn find<'a, const N: usize>(object: &'a str, names: [&str; N]) -> [Option<&'a str>; N] {
    let found = json::find(object, names).unwrap_or([None; N]);
    found.map(|value| value.filter(|value| *value != "null"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_type_that_dingtalk_takes() {
        for reply in [
            r#"{"msgtype":"text","text":{"content":"pong"}}"#,
            r#" {"at":{"isAtAll":true},"text":{"content":"x"},"msgtype":"text"} "#,
            r##"{"msgtype":"markdown","markdown":{"title":"t","text":"# x"}}"##,
            r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","singleTitle":"go","singleURL":"https://h"}}"#,
            r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btns":[{"title":"a","actionURL":"b"}]}}"#,
            r#"{"msgtype":"feedCard","feedCard":{"links":[{"title":"t","messageURL":"u","picURL":"p"}]}}"#,
            r#"{"\u006dsgtype":"text","text":{"content":"x"}}"#,
            r#"{"msgtype":"text","text":{"content":"\ud800"}}"#,
            r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btns":[],"singleTitle":"go","singleURL":"u"}}"#,
        ] {
            assert_eq!(of(reply.as_bytes()), Ok(Some(reply)), "{reply}");
        }
    }

    #[test]
    fn what_says_nothing() {
        for answer in [
            "",
            "ok",
            "null",
            "[]",
            "1",
            "{}",
            r#"{"to":["x"],"data":1}"#,
            r#"{"msgtype":"empty"}"#,
            "{\"msgtype\":",
            r#"{"msgtype":null}"#,
            "\"msgtype\"",
        ] {
            assert_eq!(of(answer.as_bytes()), Ok(None), "{answer}");
        }
        assert_eq!(of(b"\xff{}"), Ok(None));
    }

    #[test]
    fn a_mistake_is_named() {
        let sized = |size: usize| format!(r#"{{"msgtype":"text","text":{{"content":"{}"}}}}"#, "x".repeat(size - 40));
        let (longest, long) = (sized(20_000), sized(20_001));
        assert_eq!((longest.len(), of(longest.as_bytes())), (20_000, Ok(Some(longest.as_str()))));
        for (answer, field) in [
            (r#"{"msgtype":1}"#, "msgtype is not a text"),
            (r#"{"msgtype":"link","link":{}}"#, "msgtype \"link\" cannot be a reply"),
            (r#"{"msgtype":"text"}"#, "text is missing"),
            (r#"{"msgtype":"text","text":"pong"}"#, "text.content is missing or empty"),
            (r#"{"msgtype":"text","text":{"content":" "}}"#, "text.content is missing or empty"),
            (r#"{"msgtype":"text","text":{"content":7}}"#, "text.content is missing or empty"),
            (r#"{"msgtype":"markdown","markdown":{"text":"x"}}"#, "markdown.title is missing or empty"),
            (r#"{"msgtype":"markdown","markdown":{"title":"x"}}"#, "markdown.text is missing or empty"),
            (r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x"}}"#, "neither singleTitle and singleURL"),
            (r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btns":null}}"#, "neither singleTitle"),
            (r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btns":[]}}"#, "nor a button in btns"),
            (r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btns":{}}}"#, "nor a button in btns"),
            (
                r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","singleTitle":"","singleURL":"u"}}"#,
                "neither singleTitle and singleURL",
            ),
            (r#"{"msgtype":"feedCard","feedCard":{"links":[]}}"#, "feedCard.links is missing or empty"),
            (r#"{"msgtype":"feedCard","feedCard":{"links":["{"]}}"#, "feedCard.links is missing or empty"),
            (&long, "the message has 20001 bytes, more than 20000"),
        ] {
            let error = of(answer.as_bytes()).unwrap_err();
            assert!(error.contains(field), "{answer}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_a_reply_is_the_answer(answer: Vec<u8>) {
            if let Ok(Some(reply)) = of(&answer) { prop_assert_eq!(reply.as_bytes(), answer.as_slice()); }
        }
    }
}
