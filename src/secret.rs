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

/// The shortest value that is blanked out. A shorter one protects nothing, and blanking out every "b" for `?a=b`
/// leaves no text.
const SHORTEST: usize = 4;

/// Makes a text that came from outside fit for an error: a proxy or a test server may echo the URL with the
/// token and signature, so every one of `secrets` is blanked out, however it is escaped, and in base64; characters that
/// nobody sees become spaces; and what is very long is cut.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    blank(text, &secrets.into_iter().collect::<Vec<_>>())
}

/// Apart from [`redact`], so that it exists once for all kinds of lists.
fn blank(text: &str, secrets: &[&str]) -> String {
    let mut clean = String::with_capacity(text.len().min(MAX_FOREIGN_CHARS));
    let mut blank_until = 0;
    for (count, (at, c)) in text.char_indices().enumerate() {
        if count >= MAX_FOREIGN_CHARS {
            clean.push('…');
            break;
        }
        let rest = text.as_bytes().get(at..).unwrap_or_default();
        let is_inside = at < blank_until;
        // Inside a blank too: of two values that overlap, the end of the second must not remain.
        for secret in secrets {
            if secret.len() >= SHORTEST
                && let Some(after) = strip(rest, secret.as_bytes()).or_else(|| encoded(rest, secret.as_bytes()))
            {
                blank_until = blank_until.max(text.len().saturating_sub(after.len()));
            }
        }
        if at >= blank_until {
            clean.push(if is_hidden(c) { ' ' } else { c });
        } else if !is_inside {
            clean.push_str(BLANK);
        }
    }
    clean
}

/// What follows `secret` at the beginning of `text`, where both may be escaped, and differently.
fn strip<'t>(text: &'t [u8], secret: &[u8]) -> Option<&'t [u8]> {
    let (mut left, mut expected) = (text, secret);
    while let Some((byte, rest)) = unescaped(expected) {
        match unescaped(left) {
            Some((found, after)) if found == byte => (left, expected) = (after, rest),
            // What ends in the middle of an escape reads differently before other text.
            _ => return text.strip_prefix(secret),
        }
    }
    Some(left)
}

/// What follows `secret` at the beginning of `text`, which is base64, of either alphabet, of more than the secret: that begins at
/// the first, second or third of three bytes, and so after none, two or four bits of a character.
fn encoded<'t>(text: &'t [u8], secret: &[u8]) -> Option<&'t [u8]> {
    [6, 4, 2].into_iter().find_map(|first| {
        let (digit, mut left) = sextet(text)?;
        let (mut bits, mut count) = (digit, first);
        for byte in secret {
            while count < 8 {
                let (digit, after) = sextet(left)?;
                (bits, count, left) = (bits << 6 | digit, count + 6, after);
            }
            count -= 8;
            // Older bits are in front of these eight.
            if (bits >> count) & 0xff != u32::from(*byte) {
                return None;
            }
        }
        Some(left)
    })
}

/// The first digit of a base64 text, and what follows.
fn sextet(text: &[u8]) -> Option<(u32, &[u8])> {
    let (byte, rest) = unescaped(text)?;
    let digit = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some((digit.into(), rest))
}

/// The first byte that a text means, and what follows: escaped as in a URL or in HTML, any number of times, or in JSON.
fn unescaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let (mut byte, mut rest) = match text {
        // Only the end of the text is an end: what begins like an escape and is none stands for itself.
        [b'\\', b'u', b'0', b'0', high, low, rest @ ..] if hex(*high, *low).is_some() => {
            (hex(*high, *low).unwrap_or_default(), rest)
        }
        [b'\\', byte, rest @ ..] => (*byte, rest),
        [byte, rest @ ..] => (*byte, rest),
        [] => return None,
    };
    loop {
        let decoded = match (byte, rest) {
            (b'%', [high, low, after @ ..]) => hex(*high, *low).map(|decoded| (decoded, after)),
            (b'&', _) => entity(rest),
            _ => None,
        };
        let Some(decoded) = decoded else { return Some((byte, rest)) };
        (byte, rest) = decoded;
    }
}

/// What `&` and the beginning of `text` mean in HTML, and what follows.
fn entity(text: &[u8]) -> Option<(u8, &[u8])> {
    const NAMES: [(&str, u8); 5] = [("amp;", b'&'), ("lt;", b'<'), ("gt;", b'>'), ("quot;", b'"'), ("apos;", b'\'')];
    let (radix, mut left) = match text {
        [b'#', b'x' | b'X', digits @ ..] => (16, digits),
        [b'#', digits @ ..] => (10, digits),
        _ => return NAMES.iter().find_map(|(name, byte)| Some((*byte, text.strip_prefix(name.as_bytes())?))),
    };
    let mut value = None;
    loop {
        match left {
            [b';', rest @ ..] => return Some((u8::try_from(value?).ok()?, rest)),
            [digit, rest @ ..] if value < Some(0x80) => {
                let digit = char::from(*digit).to_digit(radix)?;
                (value, left) = (Some(value.unwrap_or(0) * radix + digit), rest);
            }
            _ => return None,
        }
    }
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Whether a character is not seen, or makes the text around it be seen as another one: control characters, which
/// could forge log lines, separators of lines, marks of direction, and what has no width.
pub fn is_hidden(c: char) -> bool {
    // Nearly every character is none of these.
    !matches!(c, ' '..='~')
        && (c.is_control()
            || matches!(c,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'))
}

/// Characters of a value from outside that an error shows: what is longer may be a secret in the wrong place.
pub const MAX_SHOWN: usize = 16;

/// What a word is if it looks like something secret of DingTalk's: an access token has 64 hexadecimal digits, a
/// signing secret the same after "SEC". The host of a URL or the name of a binding is shorter, or has no digits to
/// speak of, or is not in one piece.
pub fn credential(word: &str) -> Option<&'static str> {
    let count = |is: fn(&u8) -> bool| word.bytes().filter(is).count();
    let (digits, rest) = (count(u8::is_ascii_digit), word.len() - count(u8::is_ascii_alphanumeric));
    // As an app's secret, or any other in base64: there, one character in six is a digit, and as many are of each case.
    let is_mixed = count(u8::is_ascii_uppercase) * 6 > word.len() && count(u8::is_ascii_lowercase) * 6 > word.len();
    if digits < 2 || word.bytes().any(|byte| !byte.is_ascii_alphanumeric() && !b"+/-_=".contains(&byte)) {
        None
    } else if is_mixed && word.len() >= 32 {
        Some("a secret")
    } else if digits < 4 || rest > 0 {
        None
    } else if word.starts_with("SEC") && word.len() >= 20 {
        Some("a signing secret")
    } else if word.len() > 40 {
        // An id of 32 digits is a UUID, one of 40 a SHA-1.
        Some("an access token")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("SECvalue")), "[redacted]");
    }

    #[test]
    fn blanks_every_occurrence_and_forged_lines() {
        let text = "no https://h/?access_token=T0KEN\nlevel=error T0KEN";
        assert_eq!(redact(text, ["T0KEN"]), "no https://h/?access_token=[redacted] level=error [redacted]");
        assert_eq!(redact("abcdefgh", ["abcd", "abcdefgh"]), "[redacted]");
    }

    #[test]
    fn of_values_that_overlap_nothing_remains() {
        assert_eq!(redact("1abcdefgh2", ["abcdef", "efgh"]), "1[redacted]2");
        assert_eq!(redact("1abcdefgh2", ["efgh", "abcdef", "bcde"]), "1[redacted]2");
    }

    #[test]
    fn a_letter_is_no_secret() {
        assert_eq!(redact("bad b", ["", "b", "bad"]), "bad b");
    }

    #[test]
    fn what_begins_like_an_escape_is_blanked_out_as_it_is() {
        for secret in [r"\u00%u", r"S3CR3T\u00zz-and-more"] {
            assert_eq!(redact(&format!("<{secret}>"), [secret]), "<[redacted]>", "{secret}");
        }
        // And what is no escape either is another text.
        assert_eq!(redact(r"S3CR3T\u00yy", [r"S3CR3T\u00zz"]), r"S3CR3T\u00yy");
    }

    #[test]
    fn a_value_is_known_however_it_is_escaped() {
        let plain = "t0k/en+=\"";
        for secret in [plain, "t0k%2Fen%2b%3D%22", "t0k%252Fen%252B%253D%2522", r#"t0k\/en+=\""#] {
            for text in [
                plain,
                "%740k%2fen%2B%3d%22",
                "t0k%25252Fen%2B=%22",
                r#"t0k\/en+=\""#,
                r"\u0074\u0030k\u002fen\u002B\u003d\u0022",
                r"t0k\u00252Fen+%3D\u002522",
                "t0k&#x2F;en&#43;&#061;&quot;",
                "t0k&amp;amp;#x2f;en+%3D&amp;quot;",
                "t0k&#47;en+=&#34;",
            ] {
                assert_eq!(redact(&format!("<{text}>"), [secret]), "<[redacted]>", "{secret} in {text}");
            }
        }
        // What ends like the beginning of an escape is found before what would complete it.
        for secret in [r"t0k\", "t0k%", "t0k%2", r"t0k\u00", "t0k&", "t0k&#", "t0k&#x"] {
            assert_eq!(redact(&format!("{secret}41;n"), [secret]), "[redacted]41;n", "{secret}");
        }
        // What looks like an escape in HTML and is none.
        for text in ["t0k&#;en", "t0k&#x100;en", "t0k&#300;en", "t0k&sol;en", "t0k&#4", "t0k&#zz;en"] {
            assert_eq!(redact(text, ["t0k/en"]), text);
        }
    }

    #[test]
    fn a_value_is_known_in_base64_wherever_it_begins() {
        // Both alphabets differ in each of these.
        let secret = "S3C~~R3T??>>\u{ff}";
        for before in ["", "a", "ab", "user:", "access_token="] {
            for after in ["", "b", "bc", ":x"] {
                let plain = format!("{before}{secret}{after}");
                let standard = STANDARD.encode(&plain);
                let url_safe = standard.replace('+', "-").replace('/', "_");
                for text in [&standard, &url_safe, &standard.replace('/', r"\/"), &standard.replace('+', "%2B")] {
                    let clean = redact(&format!("Basic {text}, no"), [secret]);
                    assert!(clean.starts_with("Basic ") && clean.ends_with(", no"), "{clean}");
                    // What is left is the neighbours', a character at each side.
                    let left = clean.strip_prefix("Basic ").unwrap().strip_suffix(", no").unwrap();
                    let (left, right) = left.split_once("[redacted]").unwrap_or_else(|| panic!("{plain:?} {text}"));
                    assert!(left.len() * 3 <= before.len() * 4 && right.len() * 3 <= (after.len() + 2) * 4, "{clean}");
                }
            }
        }
        // Another one is another text.
        let other = STANDARD.encode("S3C~~R3T??>!");
        assert_eq!(redact(&other, [secret]), other);
    }

    #[test]
    fn what_is_not_seen_becomes_a_space() {
        for c in
            ['\0', '\n', '\u{7f}', '\u{85}', '\u{200b}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{e0041}']
        {
            assert_eq!(redact(&format!("a{c}b"), []), "a b", "{c:?}");
        }
        assert_eq!(redact("é 长 \u{1f600}", []), "é 长 \u{1f600}");
    }

    #[test]
    fn tokens_are_known_by_their_shape() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(credential(&digits), Some("an access token"));
        assert_eq!(credential(&format!("SEC{digits}")), Some("a signing secret"));
        assert_eq!(credential("SECabcdefghijklm1234"), Some("a signing secret"));
        assert_eq!(credential("8kQv-1TzW_e0RmXp3LdYb7NcUa5JhGs2"), Some("a secret"));
        assert_eq!(credential("q83vEjRWeJq83vEjRWeJq83vEjRWeJq83vEjRWeJ+A/="), Some("a secret"));
        for word in [
            "localhost",
            "SEC1",
            "SECabcdefghijklmn123",
            "SECabcdefghijkl1234",
            "SECURITYGATEWAYSERVICE",
            "mydingtalkgatewayserviceforproduction",
            "my-dingtalk-gateway-service-1234-of-production",
            "My-DingTalk-Gateway-Service-1234-of-Production",
            "0d9c8b7a-0123-4567-89ab-0123456789ab",
            "0123456789abcdef0123456789abcdef",
            "0123456789abcdef0123456789abcdef01234567",
            "",
        ] {
            assert_eq!(credential(word), None, "{word}");
        }
    }

    #[test]
    fn cuts_what_is_long() {
        assert_eq!(redact(&"长".repeat(2_000), []).chars().count(), MAX_FOREIGN_CHARS + 1);
    }

    proptest! {
        // Capitals only, so that the blank itself ("[redacted]") cannot contain a secret.
        #[test]
        fn no_secret_survives(text in "[A-D]{0,60}", secret in "[A-D]{4,6}", other in "[A-D]{4,6}") {
            let clean = redact(&text, [secret.as_str(), other.as_str()]);
            prop_assert!(!clean.contains(&secret) && !clean.contains(&other), "{clean}");
        }

        #[test]
        fn a_secret_made_of_escapes_is_found(text in "[a%2\\\\u0&#;]{0,40}", secret in "[a%2\\\\u0&#;]{4,8}", before in ".{0,5}") {
            let _ = redact(&text, [secret.as_str()]);
            let clean = redact(&format!("{before}{secret}{text}"), [secret.as_str()]);
            prop_assert!(!clean.contains(&secret), "{clean}");
        }
    }
}
