//! JSON read as it was written: the members of an object with their values untouched.
//!
//! `serde_json::Value` would lose the digits of large numbers and the order of members, and costs the
//! component 30 KiB of number parsing that nothing here needs.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::secret;

/// Calls `each` with name and value of an object's members as they are written, in order, repeated names
/// included. Keeps and copies none of them: an object of 4 MiB can have 800,000, and a list of those would not
/// fit into an instance's memory. For what a name means, see [`name`].
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
    members(object, &mut |written, value| {
        let Some(name) = name(written) else { return };
        for (known, slot) in names.iter().zip(&mut found) {
            if name == *known {
                *slot = Some(value);
            }
        }
    })?;
    Ok(found)
}

/// A name, given as written, however it is escaped: read once where it is compared more than once.
#[inline(never)]
pub fn name(written: &str) -> Option<Cow<'_, str>> {
    if written.contains('\\') {
        return string(written).map(Cow::Owned);
    }
    written.strip_prefix('"')?.strip_suffix('"').map(Cow::Borrowed)
}

/// Whether a name, given as written, is this one.
pub fn is(written: &str, this: &str) -> bool {
    name(written).is_some_and(|name| name == this)
}

/// Whether a name, given as written, could be read as this one: some parsers (Go's) do not regard the case.
pub fn resembles(written: &str, this: &str) -> bool {
    name(written).is_some_and(|name| folds_to(&name, this))
}

/// Whether Go's encoding/json takes `name` for the field `this`, which is ASCII. It compares by Unicode's simple
/// folding, in which two letters have a third form outside ASCII: s the long s, and k the sign for kelvin.
pub fn folds_to(name: &str, this: &str) -> bool {
    let (mut left, this) = (name.as_bytes(), this.as_bytes());
    // No letter is shorter than the one it stands for; most names differ in this.
    if left.len() < this.len() {
        return false;
    }
    for expected in this {
        let (letter, rest) = match left {
            // U+017F and U+212A in UTF-8.
            [0xc5, 0xbf, rest @ ..] => (b's', rest),
            [0xe2, 0x84, 0xaa, rest @ ..] => (b'k', rest),
            [letter, rest @ ..] => (letter.to_ascii_lowercase(), rest),
            [] => return false,
        };
        if letter != expected.to_ascii_lowercase() {
            return false;
        }
        left = rest;
    }
    left.is_empty()
}

/// The content of a JSON string, given as written; `None` for every other JSON.
pub fn string(raw: &str) -> Option<String> {
    let mended = mended(raw.as_bytes());
    serde_json::from_str(core::str::from_utf8(&mended).ok()?).ok()
}

/// Puts the escape of U+FFFD in place of each escape of half a surrogate pair (`\ud800`), as Go does. That is valid
/// JSON and no Unicode: parsers refuse it, or drop the member or the whole message. `json` must be JSON.
pub fn mend(json: &mut [u8]) {
    let mut at = 0;
    while let Some(half) = next_half(json, at) {
        at = half + 6;
        if let Some(digits) = json.get_mut(half + 2..half + 6) {
            digits.copy_from_slice(b"fffd");
        }
    }
}

/// The same for what must not be changed; copied only where there is something to mend.
pub fn mended(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended = Cow::Borrowed(json);
    if next_half(json, 0).is_some() {
        mend(mended.to_mut());
    }
    mended
}

/// Where the next escape of half a surrogate pair begins. `from` must not be inside of an escape.
fn next_half(json: &[u8], mut from: usize) -> Option<usize> {
    loop {
        from += memchr::memchr(b'\\', json.get(from..)?)?;
        from += match (half(json, from), half(json, from + 6)) {
            (Some(Half::First), Some(Half::Second)) => 12,
            (Some(_), _) => return Some(from),
            _ => 2,
        };
    }
}

enum Half {
    First,
    Second,
}

/// Which half of a surrogate pair is escaped here.
fn half(json: &[u8], at: usize) -> Option<Half> {
    let [b'\\', b'u', b'd' | b'D', digit, third, fourth] = json.get(at..at + 6)? else { return None };
    match digit {
        // Else it would be mended from something that is not JSON at all.
        _ if !third.is_ascii_hexdigit() || !fourth.is_ascii_hexdigit() => None,
        b'8' | b'9' | b'a' | b'b' | b'A' | b'B' => Some(Half::First),
        b'c'..=b'f' | b'C'..=b'F' => Some(Half::Second),
        _ => None,
    }
}

/// `json` without the byte order mark that Windows' shells and some servers write, and that JSON does not allow.
pub fn without_mark(json: &[u8]) -> &[u8] {
    json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json)
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

/// A value from outside, in quotes, fit for an error: as a JSON string, in which nothing can end the quotes. (`{:?}` would
/// bring 6 KiB of Unicode tables.) Of one that is longer than a mistake of spelling the length: it may be a secret in the
/// wrong place.
pub fn quoted(value: &str) -> String {
    let length = value.chars().count();
    if length > secret::MAX_SHOWN {
        return format!("a text of {length} characters");
    }
    let value = secret::redact(value, []);
    // Writing a text into memory cannot fail.
    serde_json::to_string(&value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    fn mended_text(json: &str) -> String {
        let mut changed = json.as_bytes().to_vec();
        mend(&mut changed);
        assert_eq!(*mended(json.as_bytes()), changed);
        String::from_utf8(changed).unwrap()
    }

    #[test]
    fn half_a_surrogate_pair_becomes_one_replacement_character() {
        // What Go's encoding/json reads (1.26, json.Unmarshal).
        for (json, mended, read) in [
            (r#""\ud800""#, r#""\ufffd""#, "\u{fffd}"),
            (r#""\uDFFFx""#, r#""\ufffdx""#, "\u{fffd}x"),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#, "😀"),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\ud83d\u0041""#, r#""\ufffd\u0041""#, "\u{fffd}A"),
            (r#""\ud83d\n""#, r#""\ufffd\n""#, "\u{fffd}\n"),
            (r#""\\ud800""#, r#""\\ud800""#, "\\ud800"),
            (r#""\\\ud800""#, r#""\\\ufffd""#, "\\\u{fffd}"),
        ] {
            assert_eq!(mended_text(json), mended, "{json}");
            assert_eq!(string(json).as_deref(), Some(read), "{json}");
        }
        assert!(matches!(mended(br#"{"a":"\ud83d\ude00"}"#), Cow::Borrowed(_)));
        assert_eq!(string("1\\ud800"), None);
        // A mistake is not mended into JSON.
        for wrong in [r#""\ud8""#, r#""\ud8z0""#, r#""\ud80"#, r#""\ud800"#] {
            assert_eq!(string(wrong), None, "{wrong}");
        }
    }

    proptest! {
        /// Escapes of any code units, read by the standard library's UTF-16.
        #[test]
        fn units_are_read_as_utf_16(units in proptest::collection::vec(
            prop_oneof![Just(0xd83d_u16), Just(0xde00), 0xd700_u16..0xe100, Just(0x5c)], 0..8,
        )) {
            let json = format!("\"{}\"", units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>());
            prop_assert_eq!(string(&json), Some(String::from_utf16_lossy(&units)));
        }

        #[test]
        fn nothing_else_is_changed(json: Vec<u8>, text: String) {
            let mut changed = json.clone();
            mend(&mut changed);
            prop_assert_eq!(changed.len(), json.len());
            let whole = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(mended_text(&whole), whole);
        }

        #[test]
        fn json_stays_json_and_every_text_of_it_can_be_read(json in r#"\{"(\\u[dD][0-9a-fA-F]{3}|\\\\|\\"|[a-z])*":"(\\u[dD][0-9a-fA-F]{3}|\\\\|[du8])*"\}"#) {
            prop_assume!(serde_json::from_str::<&RawValue>(&json).is_ok());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&mended_text(&json)).is_ok());
        }
    }

    #[test]
    fn what_is_no_object_is_called_so() {
        for (json, says) in [("[1]", "expected an object"), ("null", "expected an object"), ("{} {}", "trailing")] {
            let error = members(json, &mut |_, _| ()).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

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
        fn a_name_is_what_a_parser_reads(written in r#""([a-z\u{17f}你]|\\u00[46][1-9a]|\\["\\/bn]){0,6}""#) {
            let read: String = serde_json::from_str(&written).unwrap();
            let name = name(&written);
            prop_assert_eq!(name.as_deref(), Some(read.as_str()));
            prop_assert!(is(&written, &read) && !is(&written, &(read + "x")));
        }

        /// Objects, and what is nearly one: the same are read, and in the same members the same is found.
        #[test]
        fn members_are_what_a_parser_finds(
            object in r#" ?\{( ?"(a|b|\\u0061|A|\\n|x\\ud800)" ?: ?(1|-0.5e9|null|"a\\"b"|\[\{\},"a"\]|\{"a":7\}|tru),?){0,4}\} ?x?"#,
        ) {
            let found = find(&object, ["a", "b"]);
            prop_assert_eq!(found.is_ok(), serde_json::from_str::<&RawValue>(&object).is_ok());
            if let (Ok(found), Ok(read)) = (found, serde_json::from_str::<serde_json::Value>(&object)) {
                let values = found.map(|value| value.map(|value| serde_json::from_str(value).unwrap()));
                prop_assert_eq!(values, ["a", "b"].map(|name| read.get(name).cloned()));
            }
        }

        #[test]
        fn folding_is_case_and_two_more_letters(name in "[a-zA-Z\u{17f}\u{212a}\u{131}]{0,8}", this in "[a-zA-Z]{0,8}") {
            let plain = name.replace('\u{17f}', "s").replace('\u{212a}', "K");
            prop_assert_eq!(folds_to(&name, &this), plain.eq_ignore_ascii_case(&this));
            prop_assert!(folds_to(&name, &plain));
        }

        /// The rule once more, by characters.
        #[test]
        fn folding_is_done_letter_by_letter(name in "[sSkK\u{17f}\u{212a}a]{0,3}|.{0,4}", this in "[sSkKa]{0,3}") {
            let fold = |c| match c {
                '\u{17f}' => 's',
                '\u{212a}' => 'k',
                c => c.to_ascii_lowercase(),
            };
            prop_assert_eq!(folds_to(&name, &this), name.chars().map(fold).eq(this.chars().map(fold)));
        }
    }
}
