//! JSON read as it was written: the members of an object with their values untouched.
//!
//! `serde_json::Value` would lose the digits of large numbers and the order of members, and costs the
//! component 30 KiB of number parsing that nothing here needs.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, in order, repeated names included.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The value of `name` as written; the last one counts where it is repeated, as in most parsers.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.get())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The content of a JSON string, given as written; `None` for every other JSON.
pub fn string(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// A short value from outside, in quotes, fit for an error. (`{:?}` would bring 6 KiB of Unicode tables.)
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", value.escape_default())
}
