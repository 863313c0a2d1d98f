//! Values that must not be seen: the type that keeps them out of `Debug`, and the filter that keeps them out
//! of texts which came from outside.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A robot's secret. Its `Debug` output is constant and it has no `Display`, so that it cannot slip into a
/// log line or an error through a struct that happens to contain it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the value into custody.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; each use is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What stands where something secret was.
const BLANK: &str = "[redacted]";

/// The longest text from outside that is repeated in an error. DingTalk's longest known `errmsg` has about
/// 200 characters.
const MAX_FOREIGN_CHARS: usize = 512;

/// Makes a text that came from outside fit for an error: a proxy or a test server may echo the URL with the
/// token and signature, so every one of `secrets` is blanked out; control characters, which could forge log
/// lines, become spaces; and what is very long is cut.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let secrets: Vec<&str> = secrets.into_iter().filter(|secret| !secret.is_empty()).collect();
    let mut clean = String::with_capacity(text.len().min(MAX_FOREIGN_CHARS));
    let mut rest = text;
    let mut chars = 0;
    while let Some(c) = rest.chars().next() {
        if chars >= MAX_FOREIGN_CHARS {
            clean.push('…');
            break;
        }
        // The longest: a value that begins another one must not leave the other one's rest standing.
        if let Some(after) = secrets.iter().filter_map(|s| rest.strip_prefix(s)).min_by_key(|after| after.len()) {
            clean.push_str(BLANK);
            chars += BLANK.len();
            rest = after;
        } else {
            clean.push(if c.is_control() { ' ' } else { c });
            chars += 1;
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("SECvalue")), "[redacted]");
    }

    #[test]
    fn blanks_every_occurrence_and_forged_lines() {
        let text = "no https://h/?access_token=T0KEN\nlevel=error T0KEN";
        assert_eq!(redact(text, ["T0KEN"]), "no https://h/?access_token=[redacted] level=error [redacted]");
        assert_eq!(redact("abcdef", ["abc", "abcdef"]), "[redacted]");
        assert_eq!(redact("abc", [""]), "abc");
    }

    #[test]
    fn cuts_what_is_long() {
        assert_eq!(redact(&"长".repeat(2_000), []).chars().count(), MAX_FOREIGN_CHARS + 1);
    }

    proptest! {
        // Capitals only, so that the blank itself ("[redacted]") cannot contain a secret.
        #[test]
        fn no_secret_survives(text in "[A-D]{0,60}", secret in "[A-D]{1,4}", other in "[A-D]{1,4}") {
            let clean = redact(&text, [secret.as_str(), other.as_str()]);
            prop_assert!(!clean.contains(&secret) && !clean.contains(&other), "{clean}");
        }
    }
}
