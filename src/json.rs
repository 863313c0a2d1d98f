//! JSON read as it was written: the members of an object with their values untouched.
//!
//! `serde_json::Value` would lose the digits of large numbers and the order of members, and costs the
//! component 30 KiB of number parsing that nothing here needs.

use alloc::string::String;
use core::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::secret;

/// Calls `each` with name and value of an object's members as they are written, in order, repeated names
/// included. Keeps and copies none of them: an object of 4 MiB can have 800,000, and a list of those would not
/// fit into an instance's memory. For what a name means, see [`is`].
pub fn members<'a>(object: &'a str, each: &mut dyn FnMut(&'a str, &'a str)) -> serde_json::Result<()> {
    struct Each<'e, 'a>(&'e mut dyn FnMut(&'a str, &'a str));
    impl<'a> Visitor<'a> for Each<'_, 'a> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some((name, value)) = map.next_entry::<&'a RawValue, &'a RawValue>()? {
                (self.0)(name.get(), value.get());
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_str(object);
    json.deserialize_map(Each(each))?;
    json.end()
}

/// The members of these names as they are written; the last one counts where a name is repeated, as in most parsers.
pub fn find<'a, const N: usize>(object: &'a str, names: [&str; N]) -> serde_json::Result<[Option<&'a str>; N]> {
    let mut found = [None; N];
    members(object, &mut |name, value| {
        for (known, slot) in names.iter().zip(&mut found) {
            if is(name, known) {
                *slot = Some(value);
            }
        }
    })?;
    Ok(found)
}

/// Whether a name, given as written, is this one, however it is escaped.
pub fn is(name: &str, this: &str) -> bool {
    bare(name) == Some(this) || (name.contains('\\') && string(name).is_some_and(|name| name == this))
}

/// Whether a name, given as written, could be read as this one: some parsers (Go's) do not regard the case.
pub fn resembles(name: &str, this: &str) -> bool {
    bare(name).is_some_and(|name| name.eq_ignore_ascii_case(this))
        || (name.contains('\\') && string(name).is_some_and(|name| name.eq_ignore_ascii_case(this)))
}

fn bare(name: &str) -> Option<&str> {
    name.strip_prefix('"').and_then(|name| name.strip_suffix('"'))
}

/// The content of a JSON string, given as written; `None` for every other JSON.
pub fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// How deep arrays and objects are nested; 0 for anything else. `json` must be JSON. (serde_json bounds only
/// the depth of what it recurses into, and values that are kept as written are not.)
pub fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth = depth.saturating_add(1);
                deepest = depth.max(deepest);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A value from outside, in quotes, fit for an error: redacted as every other text, a token in the wrong place
/// included, and as a JSON string, in which nothing can end the quotes. (`{:?}` would bring 6 KiB of Unicode tables.)
pub fn quoted(value: &str) -> String {
    let value = secret::redact(value, secret::credential(value).map(|_| value));
    // Writing a text into memory cannot fail.
    serde_json::to_string(&value).unwrap_or_default()
}
