//! What the targets judge by: another JSON parser, another HMAC, other URL parsers.
//!
//! A target that asked the code under test, or the crate that it uses, would agree with every mistake.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_syntax::parse::Options;
pub use json_syntax::{Object, Value};
use json_syntax::{Parse, object::Entry};
use url::{ParseError, Url};

/// A text that is JSON by RFC 8259.
pub struct Document {
    /// With every member, repeated ones included, and numbers as written.
    pub value: Value,
    /// False where a text has half a surrogate pair (`"\ud800"`): that is JSON and no Unicode, and parsers
    /// are free to read it as they like. Only structure can be judged then.
    pub exact: bool,
}

impl Document {
    /// `None` for everything that is not JSON.
    pub fn read(json: &[u8]) -> Option<Self> {
        let json = std::str::from_utf8(json).ok()?;
        match Value::parse_str(json) {
            Ok((value, _)) => Some(Self { value, exact: true }),
            Err(_) => {
                let (value, _) = Value::parse_str_with(json, Options::flexible()).ok()?;
                Some(Self { value, exact: false })
            }
        }
    }

    /// The members, if this is an object.
    pub fn object(&self) -> Option<&Object> {
        object(&self.value)
    }
}

/// The members, if this is an object.
pub fn object(value: &Value) -> Option<&Object> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// The text, if this is one.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    }
}

/// All members of this name.
pub fn members<'a>(object: &'a Object, name: &str) -> impl Iterator<Item = &'a Value> {
    let has_name = move |entry: &&Entry| entry.key.as_str() == name;
    object.entries().iter().filter(has_name).map(|entry| &entry.value)
}

/// The member that counts where a name is repeated.
pub fn last<'a>(object: &'a Object, name: &str) -> Option<&'a Value> {
    members(object, name).last()
}

/// How deep arrays and objects are nested.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.entries().iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
        _ => 0,
    }
}

/// A JSON text with this content.
pub fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            '\0'..='\x1f' => json.push_str(&format!("\\u{:04x}", c as u32)),
            _ => json.push(c),
        }
    }
    json + "\""
}

/// DingTalk's signature of a time as it is written.
pub fn signature(secret: &str, timestamp: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signed = [timestamp, b"\n", secret.as_bytes()].concat();
    STANDARD.encode(ring::hmac::sign(&key, &signed))
}

/// A URL as a browser reads it. Without a scheme, https is meant; `http:8080/x` has none and is a host with a
/// port, as `h:8080/x` is, although browsers would supply the slashes.
pub fn as_browsers_do(url: &str) -> Option<Url> {
    let url = url.trim_matches(' ');
    let has_port = url.split_once(':').is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    match Url::parse(url) {
        Err(ParseError::RelativeUrlWithoutBase) => Url::parse(&format!("https://{url}")).ok(),
        _ if has_port => Url::parse(&format!("https://{url}")).ok(),
        read => read.ok(),
    }
}
