//! Data and request metadata → the body to post.
//!
//! A JSON object is DingTalk's business: it is posted byte for byte, as Dapr's binding does, but for half a
//! surrogate pair ([`json::mend`]). Two short forms
//! that DingTalk can never accept become messages instead of errors: `{"message": "…"}`, which is what the
//! specification's example sends, and text. Everything else is refused here, before anything is sent,
//! because DingTalk's answer to it (40035) does not say what is wrong.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::json::{self, quoted};
use crate::{markdown, mention};

/// What request metadata says about a message. Names are compared without regard to case, because gRPC
/// clients cannot send capitals; names that mean nothing here are ignored, because runtimes add their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// DingTalk's idempotency key, for every form.
    msg_uuid: Option<String>,
    /// The rest, for the short forms. A mistake in it must not stop an object, to which it does not apply.
    text: Result<TextOptions, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { msg_uuid: None, text: Ok(TextOptions::default()) }
    }
}

/// How a short form becomes a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TextOptions {
    kind: Option<Kind>,
    title: Option<String>,
    at: At,
}

/// The message types that a short form can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Markdown,
}

/// Who is notified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct At {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    at_mobiles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    at_user_ids: Vec<String>,
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    is_at_all: bool,
}

impl Options {
    /// Reads request metadata. The error names the item and what it takes.
    pub fn parse<'a>(metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in metadata {
            let name = name.to_ascii_lowercase();
            if name == "msguuid" {
                if value.trim().is_empty() {
                    return Err("metadata msgUuid is empty; give every message an id of its own".into());
                }
                options.msg_uuid = Some(value.to_owned());
            } else if let Ok(text) = &mut options.text
                && let Err(mistake) = text.read(&name, value)
            {
                options.text = Err(mistake);
            }
        }
        Ok(options)
    }
}

impl TextOptions {
    /// Takes one item, its name in lower case.
    fn read(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "msgtype" => self.kind = parse_kind(value)?,
            "title" => self.title = Some(value.trim().to_owned()).filter(|title| !title.is_empty()),
            "atmobiles" => {
                let is_phone = |c: char| c.is_ascii_digit() || c == '+' || c == '-';
                self.at.at_mobiles = parse_list("atMobiles", value, "a phone number (digits, + and -)", is_phone)?;
            }
            "atuserids" => {
                let is_id = |c: char| !c.is_whitespace() && !c.is_control() && c != '@';
                self.at.at_user_ids = parse_list("atUserIds", value, "a user id", is_id)?;
            }
            "isatall" => self.at.is_at_all = parse_truth("isAtAll", value)?,
            _ => {}
        }
        Ok(())
    }
}

fn parse_kind(value: &str) -> Result<Option<Kind>, String> {
    match value {
        "" => Ok(None),
        "text" => Ok(Some(Kind::Text)),
        "markdown" => Ok(Some(Kind::Markdown)),
        _ => Err(format!(
            "metadata msgtype {} is neither \"text\" nor \"markdown\"; for other types send the whole message as a JSON \
             object",
            quoted(value)
        )),
    }
}

/// How many people each of `atMobiles` and `atUserIds` may name: DingTalk's limit for user ids, taken for numbers too.
pub const MAX_PEOPLE: usize = 50;

fn parse_list(name: &str, value: &str, what: &str, allowed: impl Fn(char) -> bool) -> Result<Vec<String>, String> {
    let mut list: Vec<String> = Vec::new();
    for (index, item) in value.split(',').map(str::trim).enumerate().filter(|(_, item)| !item.is_empty()) {
        if !item.chars().all(&allowed) {
            return Err(format!("metadata {name}: item {} is not {what}; separate items with commas", index + 1));
        }
        if list.iter().any(|known| known == item) {
            continue;
        }
        if list.len() == MAX_PEOPLE {
            return Err(format!("metadata {name} names more than {MAX_PEOPLE} people; name fewer, or use isAtAll"));
        }
        list.push(item.to_owned());
    }
    Ok(list)
}

/// Dapr's notion of a boolean in metadata.
fn parse_truth(name: &str, value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "t" | "on" | "1" => Ok(true),
        "n" | "no" | "false" | "f" | "off" | "0" | "" => Ok(false),
        _ => Err(format!("metadata {name} {} is neither \"true\" nor \"false\"", quoted(value))),
    }
}

/// The body to post for `data`, or what keeps `data` from becoming a message.
pub fn shape(data: &[u8], options: &Options) -> Result<Vec<u8>, String> {
    // DingTalk takes a mark for broken JSON.
    let data = json::without_mark(data);
    let text = core::str::from_utf8(data)
        .map_err(|error| format!("data is not UTF-8 (byte {}); a message is JSON or text", error.valid_up_to() + 1))?;
    let first = text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    match first {
        None => return Err("data is empty; a message is a JSON object or text".into()),
        Some(b'{') => return shape_object(text, options),
        Some(_) => {}
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(string) if first == Some(b'"') => shape_text(&json::string(string.get()).unwrap_or_default(), options),
        Ok(other) => Err(format!(
            "data is the JSON {}; a message is a JSON object or text (write it in quotes to send it as text)",
            name_of(other)
        )),
        Err(_) => shape_text(text, options),
    }
}

fn name_of(json: &RawValue) -> &'static str {
    match json.get().as_bytes().first() {
        Some(b'[') => "array",
        Some(b'n') => "null",
        Some(b't' | b'f') => "boolean",
        _ => "number",
    }
}

fn shape_object(text: &str, options: &Options) -> Result<Vec<u8>, String> {
    let (mut count, mut last) = (0, None);
    let mut body = options.msg_uuid.as_deref().map(|uuid| starting_with(uuid, text.len())).transpose()?;
    json::members(text, &mut |written, value| {
        let name = json::name(written);
        count += 1;
        last = (name.as_deref() == Some("message")).then_some(value);
        // The caller's metadata is the later word: a `msgUuid` in the object gives way.
        if let Some(body) = body.as_mut().filter(|_| name.as_deref() != Some("msgUuid")) {
            body.push(b',');
            body.extend_from_slice(written.as_bytes());
            body.push(b':');
            body.extend_from_slice(value.as_bytes());
        }
    })
    .map_err(|error| {
        // In the words that the same mistake has in JSON of any other kind.
        let error = serde_json::from_str::<&RawValue>(text).err().unwrap_or(error);
        format!("data starts like a JSON object and is none: {error}")
    })?;
    if count == 1
        && let Some(message) = last.and_then(json::string)
    {
        return shape_text(&message, options);
    }
    let mut body = match body {
        Some(mut body) => {
            body.push(b'}');
            body
        }
        None => text.as_bytes().to_vec(),
    };
    json::mend(&mut body);
    Ok(body)
}

/// The beginning of an object with DingTalk's idempotency key, before `rest` bytes of other members. Grown
/// step by step, the body of a large message would take its room twice.
fn starting_with(uuid: &str, rest: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::with_capacity(rest + uuid.len() + 32);
    body.extend_from_slice(b"{\"msgUuid\":");
    body.extend_from_slice(serde_json::to_string(uuid).map_err(|error| error.to_string())?.as_bytes());
    Ok(body)
}

/// How much of a text is searched for mentions and for a title, in bytes. DingTalk takes 20,000; what a hundred people
/// cost in 4 MiB would be more instructions than a call has.
const SEARCHED: usize = 64 * 1024;

#[derive(Serialize)]
struct Message<'a> {
    msgtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    markdown: Option<Markdown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a At>,
    #[serde(rename = "msgUuid", skip_serializing_if = "Option::is_none")]
    msg_uuid: Option<&'a str>,
}

#[derive(Serialize)]
struct Text {
    content: String,
}

#[derive(Serialize)]
struct Markdown {
    title: String,
    text: String,
}

fn shape_text(text: &str, options: &Options) -> Result<Vec<u8>, String> {
    if text.trim().is_empty() {
        return Err("the text of the message is empty".into());
    }
    let TextOptions { kind, title, at } = options.text.as_ref().map_err(Clone::clone)?;
    let kind = kind.unwrap_or(Kind::Text);
    let start = text.get(..text.floor_char_boundary(SEARCHED)).unwrap_or(text);
    let written = with_mentions(text, start, kind, at);
    let at = Some(at).filter(|at| **at != At::default());
    let msg_uuid = options.msg_uuid.as_deref();
    let message = match kind {
        Kind::Text => Message { msgtype: "text", text: Some(Text { content: written }), markdown: None, at, msg_uuid },
        Kind::Markdown => {
            let title = title.clone().unwrap_or_else(|| markdown::title(start));
            let markdown = Some(Markdown { title, text: written });
            Message { msgtype: "markdown", text: None, markdown, at, msg_uuid }
        }
    };
    serde_json::to_vec(&message).map_err(|error| error.to_string())
}

/// DingTalk notifies a person only if `@mobile` or `@userId` also stands in the text. In markdown, what is missing is a
/// paragraph of its own: at the end of a table, a heading or code it would be part of that.
fn with_mentions(text: &str, start: &str, kind: Kind, at: &At) -> String {
    let mut missing = String::new();
    for person in at.at_mobiles.iter().chain(&at.at_user_ids) {
        if !mention::stands_in(start, person) && !mention::stands_in(&missing, person) {
            missing.push_str(" @");
            missing.push_str(person);
        }
    }
    let paragraph = missing.trim_ascii_start();
    let parts = match kind {
        _ if missing.is_empty() => [text, "", ""],
        Kind::Text => [text, " ", paragraph],
        // Code without an end would take it in.
        Kind::Markdown if markdown::ends_open(text) => [paragraph, "\n\n", text],
        Kind::Markdown => [text, "\n\n", paragraph],
    };
    let mut written = String::with_capacity(text.len() + missing.len() + 2);
    parts.iter().for_each(|part| written.push_str(part));
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn shaped(data: &str, metadata: &[(&str, &str)]) -> Result<String, String> {
        let options = Options::parse(metadata.iter().copied())?;
        shape(data.as_bytes(), &options).map(|body| String::from_utf8(body).unwrap())
    }

    fn message(data: &str, metadata: &[(&str, &str)]) -> Value {
        serde_json::from_str(&shaped(data, metadata).unwrap()).unwrap()
    }

    fn text(content: &str) -> Value {
        json!({"msgtype": "text", "text": {"content": content}})
    }

    #[test]
    fn an_object_is_posted_byte_for_byte() {
        for data in [
            r#"{"msgtype":"text","text":{"content":"Hi"}}"#,
            " {\"b\" : 1.0,\n \"a\":12345678901234567890, \"b\":2}\n",
            r#"{"message":"Hi","msgtype":"text"}"#,
            r#"{"message":["Hi"]}"#,
            r#"{"message":null}"#,
            r#"{"message":"a","message":"b"}"#,
            "{}",
        ] {
            let ignored = [("msgtype", "link"), ("atMobiles", "?"), ("traceparent", "00-0-0-00")];
            assert_eq!(shaped(data, &[]), Ok(data.into()));
            assert_eq!(shaped(data, &ignored), Ok(data.into()));
        }
        assert_eq!(shaped("\u{feff}{}", &[]), Ok("{}".into()));
    }

    #[test]
    fn half_a_surrogate_pair_is_posted_as_one_replacement_character() {
        let halves = "\"\\ud800 \\udc00 \\ud83d\\ude00\"";
        let read = "\u{fffd} \u{fffd} 😀";
        assert_eq!(message(halves, &[]), text(read));
        assert_eq!(message(&format!(r#"{{"message":{halves}}}"#), &[]), text(read));
        assert_eq!(
            shaped(r#"{"a\udead": 1.0,"b":"\\ud800\ud800"}"#, &[]),
            Ok(r#"{"a\ufffd": 1.0,"b":"\\ud800\ufffd"}"#.into())
        );
        assert_eq!(shaped(r#"{"a\udead": 1.0}"#, &[("msgUuid", "u")]), Ok(r#"{"msgUuid":"u","a\ufffd":1.0}"#.into()));
        // No JSON, and so no escape.
        assert_eq!(message(r"C:\ud800", &[]), text(r"C:\ud800"));
    }

    #[test]
    fn the_short_forms_become_text() {
        assert_eq!(message(r#"{"message":"Hi"}"#, &[]), text("Hi"));
        assert_eq!(message(r#"{"mess\u0061ge" : "你\n好"}"#, &[]), text("你\n好"));
        assert_eq!(message(r#""Hi""#, &[]), text("Hi"));
        assert_eq!(message("Hi there", &[]), text("Hi there"));
        assert_eq!(message("  two\nlines ", &[]), text("  two\nlines "));
        assert_eq!(message("[ALERT] disk full", &[]), text("[ALERT] disk full"));
        assert_eq!(message("\"Quoted\" he said", &[]), text("\"Quoted\" he said"));
        assert_eq!(message("3 errors", &[]), text("3 errors"));
    }

    #[test]
    fn metadata_shapes_the_short_forms() {
        let at = json!({"atMobiles": ["180", "+1-2"], "atUserIds": ["u1"], "isAtAll": true});
        assert_eq!(
            message("Hi @180", &[("ATMOBILES", "180, +1-2,,180"), ("atUserIds", "u1"), ("isAtAll", "yes")]),
            json!({"msgtype": "text", "text": {"content": "Hi @180 @+1-2 @u1"}, "at": at}),
        );
        assert_eq!(
            message("# Build\n\nfailed", &[("msgtype", "markdown"), ("atMobiles", "18")]),
            json!({"msgtype": "markdown", "markdown": {"title": "Build", "text": "# Build\n\nfailed\n\n@18"},
                   "at": {"atMobiles": ["18"]}}),
        );
        assert_eq!(message("x", &[("msgtype", "markdown"), ("title", " T ")])["markdown"]["title"], "T");
        assert_eq!(message("***", &[("msgtype", "markdown")])["markdown"]["title"], "***");
        let long = message(&"长".repeat(100), &[("msgtype", "markdown")]);
        assert_eq!(long["markdown"]["title"].as_str().unwrap().chars().count(), 65);
        for (name, value) in [
            ("isAtAll", "false"),
            ("isAtAll", ""),
            ("atMobiles", " , "),
            ("msgtype", "text"),
            ("msgtype", ""),
            ("title", "t"),
        ] {
            assert_eq!(message("x", &[(name, value)]), text("x"), "{name} {value:?}");
        }
    }

    #[test]
    fn a_mention_stands_before_code_that_has_no_end_and_behind_everything_else() {
        for (data, written) in [
            ("```\ncode", "@18\n\n```\ncode"),
            ("# title", "# title\n\n@18"),
            ("| a |\n|---|\n| b |", "| a |\n|---|\n| b |\n\n@18"),
        ] {
            let message = message(data, &[("msgtype", "markdown"), ("atMobiles", "18")]);
            assert_eq!(message["markdown"]["text"], written);
        }
    }

    #[test]
    fn a_mention_is_the_whole_number() {
        assert_eq!(message("@1801 and @180-2", &[("atMobiles", "180")])["text"]["content"], "@1801 and @180-2 @180");
        assert_eq!(message("@180, look", &[("atMobiles", "180")])["text"]["content"], "@180, look");
        // At the end of the longest message that DingTalk takes too.
        let long = "x".repeat(19_900) + " @180";
        assert_eq!(message(&long, &[("atMobiles", "180")])["text"]["content"], long);
        assert_eq!(message("@180你好", &[("atMobiles", "180")])["text"]["content"], "@180你好");
    }

    #[test]
    fn msg_uuid_goes_into_any_object() {
        let uuid = [("msgUuid", "a\"b")];
        assert_eq!(
            shaped(r#"{"text":{"content" : 1.0},"msgtype":"text"}"#, &uuid),
            Ok(r#"{"msgUuid":"a\"b","text":{"content" : 1.0},"msgtype":"text"}"#.into()),
        );
        assert_eq!(shaped(r#"{"msgUuid":"old","a":1}"#, &uuid), Ok(r#"{"msgUuid":"a\"b","a":1}"#.into()));
        let escaped = r#"{"msg\u0055uid":"old","\u0061" : 1}"#;
        assert_eq!(shaped(escaped, &uuid), Ok(r#"{"msgUuid":"a\"b","\u0061":1}"#.into()));
        assert_eq!(shaped("{}", &uuid), Ok(r#"{"msgUuid":"a\"b"}"#.into()));
        assert_eq!(message("Hi", &uuid)["msgUuid"], "a\"b");
    }

    #[test]
    fn what_cannot_become_a_message() {
        let people = |count: usize| (0..count).map(|id| format!("{id},")).collect::<String>();
        let (most, many) = (people(50), people(51));
        for name in ["atUserIds", "atMobiles"] {
            assert!(shaped("Hi", &[(name, &most)]).is_ok(), "{name}");
        }
        for (data, metadata, reason) in [
            ("", &[][..], "data is empty"),
            (" \n", &[], "data is empty"),
            (r#""""#, &[], "text of the message is empty"),
            (r#"{"message":" "}"#, &[], "text of the message is empty"),
            ("null", &[], "data is the JSON null"),
            ("42", &[], "data is the JSON number"),
            ("true", &[], "data is the JSON boolean"),
            (" [1]", &[], "data is the JSON array"),
            (
                r#"{"text":"C:\Dir"}"#,
                &[],
                "data starts like a JSON object and is none: invalid escape at line 1 column 13",
            ),
            (r#"{"a":1} x"#, &[], "data starts like a JSON object and is none: trailing characters"),
            (r#"{"a":"#, &[], "data starts like a JSON object and is none: EOF"),
            ("Hi", &[("msgtype", "link")], "metadata msgtype \"link\""),
            ("Hi", &[("atMobiles", "138, 1 3 8")], "metadata atMobiles: item 2 is not a phone number"),
            ("Hi", &[("atUserIds", "@me")], "metadata atUserIds: item 1 is not a user id"),
            ("Hi", &[("atUserIds", "u1,u 2")], "metadata atUserIds: item 2 is not a user id"),
            ("Hi", &[("atUserIds", "u\u{7f}1")], "metadata atUserIds: item 1 is not a user id"),
            ("Hi", &[("atUserIds", many.as_str())], "metadata atUserIds names more than 50 people"),
            ("Hi", &[("atMobiles", many.as_str())], "metadata atMobiles names more than 50 people"),
            ("Hi", &[("isAtAll", "maybe")], "metadata isAtAll \"maybe\""),
            ("{}", &[("msgUuid", " ")], "metadata msgUuid is empty"),
        ] {
            let error = shaped(data, metadata).expect_err(data);
            assert!(error.contains(reason), "{data:?}: {error}");
        }
        let error = shape(b"ab\xff", &Options::default()).unwrap_err();
        assert!(error.contains("not UTF-8 (byte 3)"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_become_an_object_or_an_error(data: Vec<u8>, uuid in proptest::option::of("[a-z]{1,8}")) {
            let metadata: Vec<(&str, &str)> = uuid.iter().map(|uuid| ("msgUuid", uuid.as_str())).collect();
            if let Ok(body) = shape(&data, &Options::parse(metadata).unwrap()) {
                let value: Value = serde_json::from_slice(&body).unwrap();
                prop_assert!(value.is_object());
                if let Some(uuid) = uuid { prop_assert_eq!(&value["msgUuid"], &json!(uuid)); }
            }
        }

        /// Objects, and what is nearly one.
        #[test]
        fn an_object_is_taken_as_it_is_or_refused_in_a_parsers_words(
            object in r#"[ \n]?\{( ?("a"|"message"|b) ?: ?(1|null|"\\u00e9"|"\\x"|\[\{\},\]|\{"a":7\}),? ?){0,3}[}\]]? ?x?"#,
        ) {
            let is_short = object.matches("message").count() == 1 && object.matches(':').count() == 1;
            match serde_json::from_str::<&RawValue>(&object) {
                Ok(_) if is_short && object.contains("u00e9") => prop_assert_eq!(message(&object, &[]), text("é")),
                Ok(_) => prop_assert_eq!(shaped(&object, &[]), Ok(object)),
                Err(error) => prop_assert_eq!(
                    shaped(&object, &[]),
                    Err(format!("data starts like a JSON object and is none: {error}"))
                ),
            }
        }

        #[test]
        fn text_arrives_as_written(content in "[^\u{0}]*[^\\s\u{0}][^\u{0}]*") {
            let data = serde_json::to_string(&content).unwrap();
            prop_assert_eq!(&message(&data, &[])["text"]["content"], &json!(content));
            let data = json!({"message": content}).to_string();
            prop_assert_eq!(&message(&data, &[])["text"]["content"], &json!(content));
        }

        #[test]
        fn every_person_is_mentioned_in_the_text(content in "[a-z@0-9 ]{1,30}[a-z]", people in proptest::collection::vec("[0-9]{1,4}", 1..5)) {
            let written = message(&content, &[("atMobiles", &people.join(","))]);
            let written = written["text"]["content"].as_str().unwrap();
            prop_assert!(written.starts_with(&content));
            for person in people { prop_assert!(mention::stands_in(written, &person)); }
        }
    }
}
