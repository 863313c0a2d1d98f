//! Request metadata in a query, as `metadata.<name>=<value>`: Dapr's form of it in the APIs whose body is data.
//!
//! Dapr passes over whatever else a query has, and of two items with one name takes the first. Here that is an error: a
//! misspelt `metadata.atMobiles` would be a message that notifies nobody, and half a value one that says something else.

use std::collections::HashSet;

use dingtalk_binding::secret;
use percent_encoding::percent_decode_str;

use crate::request::{MAX_METADATA, too_many};

const PREFIX: &str = "metadata.";

/// The longest name of an item that an error repeats: `metadata.sessionWebhookExpiredTime`, misspelt.
const MAX_SHOWN: usize = 40;

/// The items of `query`, in its order. The error names the item, says what to write, and has no value.
pub fn metadata(query: &str) -> Result<Vec<(String, String)>, String> {
    let mut metadata = Vec::new();
    let mut names = HashSet::new();
    // As in `a=1&&b=2&`, which programs that join items write.
    for (index, item) in query.split('&').filter(|item| !item.is_empty()).enumerate() {
        let number = index + 1;
        // What has no "=" may be the rest of a value, and is not shown.
        let (name, value) = item.split_once('=').ok_or_else(|| format!("query item {number} has no \"=\"; {WRITE}"))?;
        let unescaped = text(name).map_err(|what| format!("the name of query item {number} {what}"))?;
        let item = shown(number, &unescaped);
        let name = unescaped.strip_prefix(PREFIX).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("{item} is no metadata; {WRITE}"))?;
        let value = text(value).map_err(|what| format!("the value of {item} {what}"))?;
        if metadata.len() == MAX_METADATA {
            return Err(too_many());
        }
        // Names match in any case.
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(format!("{item} is there twice; send one"));
        }
        metadata.push((name.to_owned(), value));
    }
    Ok(metadata)
}

/// How an item is written.
const WRITE: &str = "write metadata.<name>=<value>, and & in a value as %26";

/// An item as an error shows it: with its name, unless that may be something else in the wrong place, such as a URL.
fn shown(number: usize, name: &str) -> String {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() <= MAX_SHOWN && name.bytes().all(is_word) && secret::credential(name).is_none() {
        format!("query item {number} \"{name}\"")
    } else {
        format!("query item {number}")
    }
}

/// A name or a value, unescaped.
fn text(escaped: &str) -> Result<String, &'static str> {
    // Nothing is told of the escape, which may be part of a secret.
    let bytes = bytes(escaped).map_err(|_| "has a % that begins no escape; write it as %25")?;
    String::from_utf8(bytes).map_err(|_| "is not UTF-8; encode it as UTF-8, and then with %")
}

/// Go's `url.QueryUnescape`: percent escapes, and `+` for a space. What is no UTF-8 becomes U+FFFD. The error is the bad
/// escape.
pub fn unescape(text: &str) -> Result<String, String> {
    bytes(text).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let text = text.replace('+', " ");
    for (at, _) in text.match_indices('%') {
        let digits = text.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(text.chars().skip(text.get(..at).unwrap_or_default().chars().count()).take(3).collect());
        }
    }
    Ok(percent_decode_str(&text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    #[track_caller]
    fn items(query: &str) -> Vec<(String, String)> {
        metadata(query).unwrap()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn names_as_go_unescapes_them() {
        assert_eq!(unescape("my+ding%20talk%E4%BD%A0").as_deref(), Ok("my ding talk你"));
        assert_eq!(unescape("%ff").as_deref(), Ok("\u{fffd}"));
        for (name, escape) in [("a%zz", "%zz"), ("%", "%"), ("你%4", "%4"), ("%%41", "%%4")] {
            assert_eq!(unescape(name).unwrap_err(), escape, "{name}");
        }
    }

    #[test]
    fn items_are_what_dapr_would_take() {
        for query in ["", "&", "&&"] {
            assert_eq!(items(query), []);
        }
        assert_eq!(items("metadata.msgUuid=abc"), pairs(&[("msgUuid", "abc")]));
        let query = "metadata.title=a+b%20c%2B&&metadata.a%74Mobiles=1,2&metadata.a=x=y;z&metadata.metadata.b=&";
        let expected = [("title", "a b c+"), ("atMobiles", "1,2"), ("a", "x=y;z"), ("metadata.b", "")];
        assert_eq!(items(query), pairs(&expected));
        assert_eq!(items("metadata.title=%E4%BD%A0好%26%3D%25"), pairs(&[("title", "你好&=%")]));
    }

    #[test]
    fn what_is_no_metadata_is_named_and_no_value_is_shown() {
        for (query, what) in [
            ("metdata.title=S3CR3T", "query item 1 \"metdata.title\" is no metadata; write metadata.<name>="),
            ("metadata.a=1&&title=S3CR3T", "query item 2 \"title\" is no metadata"),
            ("Metadata.title=S3CR3T", "query item 1 \"Metadata.title\" is no metadata"),
            ("metadata=S3CR3T", "query item 1 \"metadata\" is no metadata"),
            ("metadata.=S3CR3T", "query item 1 \"metadata.\" is no metadata"),
            ("=S3CR3T", "query item 1 \"\" is no metadata"),
            (
                "metadata.title=R&S3CR3T",
                "query item 2 has no \"=\"; write metadata.<name>=<value>, and & in a value as %26",
            ),
            ("metadata.title", "query item 1 has no \"=\""),
            (
                "metadata.a=S3CR3T%zz",
                "the value of query item 1 \"metadata.a\" has a % that begins no escape; write it as %25",
            ),
            ("metadata.a=S3CR3T%ff", "the value of query item 1 \"metadata.a\" is not UTF-8"),
            ("metadata.%=S3CR3T", "the name of query item 1 has a % that begins no escape"),
            ("metadata.%ff=S3CR3T", "the name of query item 1 is not UTF-8"),
            ("metadata.a=S3CR3T&metadata.b=&metadata.a=S3CR3T", "query item 3 \"metadata.a\" is there twice; send one"),
            ("metadata.title=S3CR3T&metadata.Title=S3CR3T", "query item 2 \"metadata.Title\" is there twice"),
        ] {
            let error = metadata(query).expect_err(query);
            assert!(error.starts_with(what), "{query}: {error}");
            assert!(!error.contains("S3CR3T"), "{error}");
        }
        let long = metadata(&format!("{}=1", "长".repeat(5_000))).unwrap_err();
        assert!(long.len() < 300, "{long}");
        for name in
            ["https://h/?access_token%3DS3CR3T", "a%0alevel%3DS3CR3T", "a%22S3CR3T", "SEC0123456789abcdef0123456789"]
        {
            let error = metadata(&format!("{name}=1")).unwrap_err();
            assert!(error.starts_with("query item 1 is no metadata; write"), "{error}");
        }
    }

    #[test]
    fn items_have_the_limit_of_the_envelope() {
        let query = |count: usize| (0..count).map(|n| format!("metadata.{n}=")).collect::<Vec<_>>().join("&");
        assert_eq!(items(&query(1_000)).len(), 1_000);
        assert_eq!(metadata(&query(1_001)).unwrap_err(), "metadata has more than 1000 items; send fewer");
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_what_arrives(given: std::collections::BTreeMap<String, String>) {
            let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let mut known = HashSet::new();
            let given: Vec<_> = given
                .into_iter()
                .filter(|(name, _)| !name.is_empty() && known.insert(name.to_ascii_lowercase()))
                .collect();
            let items: Vec<_> =
                given.iter().map(|(name, value)| format!("metadata.{}={}", encoded(name), encoded(value))).collect();
            prop_assert_eq!(metadata(&items.join("&")), Ok(given));
        }

        /// Either all of a query counts, or the call fails: nothing in it is passed over.
        #[test]
        fn nothing_is_dropped_in_silence(query in "(metadata\\.|metdata\\.|[a-c]|%[0-9a-z]{0,2}|[&=+;]){0,24}") {
            let written = query.split('&').filter(|item| !item.is_empty()).count();
            match metadata(&query) {
                Ok(items) => {
                    prop_assert_eq!(items.len(), written);
                    prop_assert!(query.split('&').all(|item| item.is_empty() || item.contains('=')));
                }
                Err(error) => prop_assert!(error.contains("query item"), "{}", error),
            }
        }

        #[test]
        fn never_panics(query: String) { let _ = metadata(&query); }
    }
}
