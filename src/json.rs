//! JSON read as it was written: the members of an object with their values untouched.
//!
//! `serde_json::Value` would lose the digits of large numbers and the order of members, and costs the
//! component 30 KiB of number parsing that nothing here needs.

use alloc::string::String;
use core::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

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
    bare(name).is_some_and(|name| folds_to(name, this))
        || (name.contains('\\') && string(name).is_some_and(|name| folds_to(&name, this)))
}

/// Whether Go's encoding/json takes `name` for the field `this`, which is ASCII. It compares by Unicode's simple
/// folding, in which two letters have a third form outside ASCII: s the long s, and k the sign for kelvin.
pub fn folds_to(name: &str, this: &str) -> bool {
    let fold = |c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(this.chars().map(fold))
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

/// A short value from outside, in quotes, fit for an error: as a JSON string, in which nothing can begin a line or
/// end the quotes. (`{:?}` would bring 6 KiB of Unicode tables.)
pub fn quoted(value: &str) -> String {
    // Writing a text into memory cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_fold_as_in_go() {
        for (name, this) in [
            ("msgId", "msgId"),
            ("MSGID", "msgId"),
            ("m\u{17f}gId", "msgId"),
            ("M\u{17f}GiD", "msgId"),
            ("\u{212a}ind", "kind"),
            ("to\u{212a}en", "token"),
            ("", ""),
        ] {
            assert!(folds_to(name, this), "{name:?} {this:?}");
        }
        for (name, this) in [
            // Dotted and dotless i are letters of their own, and what folds into two letters is no simple folding.
            ("msg\u{131}d", "msgId"),
            ("msg\u{130}d", "msgId"),
            ("\u{df}", "ss"),
            ("\u{fb01}le", "file"),
            ("\u{ff4d}sgId", "msgId"),
            ("ms\u{301}gId", "msgId"),
            ("msgId\u{0}", "msgId"),
            (" msgId", "msgId"),
            ("msgI", "msgId"),
            ("msgIdd", "msgId"),
        ] {
            assert!(!folds_to(name, this), "{name:?} {this:?}");
        }
    }

    #[test]
    fn a_name_resembles_another_however_it_is_escaped() {
        for name in [r#""msgId""#, r#""MSGID""#, r#""m\u017fgId""#, r#""\u006D\u017FGID""#, "\"m\u{17f}gId\""] {
            assert!(resembles(name, "msgId"), "{name}");
        }
        // What is no text is nobody's name: Go reads U+FFFD for half a pair.
        for name in [r#""msgId\ud800""#, r#""\udfffmsgId""#, r#""msg\u0131d""#, r#""msg\\u0049d""#, r#""""#] {
            assert!(!resembles(name, "msgId"), "{name}");
        }
    }

    proptest! {
        #[test]
        fn folding_is_case_and_two_more_letters(name in "[a-zA-Z\u{17f}\u{212a}\u{131}]{0,8}", this in "[a-zA-Z]{0,8}") {
            let plain = name.replace('\u{17f}', "s").replace('\u{212a}', "K");
            prop_assert_eq!(folds_to(&name, &this), plain.eq_ignore_ascii_case(&this));
            prop_assert!(folds_to(&name, &plain));
        }
    }
}
