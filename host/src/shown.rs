//! What an error or a warning shows of the words that somebody wrote into files and flags: any of them may be a secret
//! in the wrong place. One rule for all of them, where they are printed: a value that is longer than a mistake of spelling
//! is told by its length ([`dingtalk_binding::json::quoted`]), and a word that could be a token is wherever it stands.

use std::fmt::Write;

use dingtalk_binding::secret::{MAX_SHOWN, credential};

/// Letters and digits of both alphabets of base64, and what joins them in tokens.
fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/=-_%".contains(c)
}

/// `text` with the length of each word that could be a token in its place.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = is_of_token(first);
        let end = rest.find(|c| is_of_token(c) != is_word).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if is_word && could_be_token(word) {
            // Writing a text into memory cannot fail.
            let _ = write!(shown, "[{} characters]", word.len());
        } else {
            shown.push_str(word);
        }
        rest = after;
    }
    shown
}

/// Whether a word looks as if nobody had chosen it. A part of a path that does hides all of it: in base64, "/" is a
/// character like others.
fn could_be_token(word: &str) -> bool {
    credential(word).is_some() || is_base64(word) || word.split('/').any(is_random)
}

/// Base64 of which "/" makes short parts: no path has its other signs as well.
fn is_base64(word: &str) -> bool {
    let has = |is: fn(u8) -> bool| word.bytes().any(is);
    let has_sign = word.contains('+') || word.ends_with('=');
    has_sign
        && word.len() >= MAX_SHOWN
        && has(|byte| byte.is_ascii_digit())
        && has(|byte| byte.is_ascii_lowercase())
        && has(|byte| byte.is_ascii_uppercase())
}

/// Whether cases and digits change as in no name. One without a digit is taken for a name: of tokens of 32 characters,
/// one in 200 has none.
fn is_random(word: &str) -> bool {
    let kind = |byte: u8| match byte {
        b'a'..=b'z' => 'a',
        b'A'..=b'Z' => 'A',
        b'0'..=b'9' => '0',
        _ => ' ',
    };
    let kinds: Vec<char> = word.bytes().map(kind).collect();
    // A capital before small letters begins a word.
    let is_change =
        |pair: &&[char]| matches!(pair, [a, b] if a != b && *a != ' ' && *b != ' ' && (*a, *b) != ('A', 'a'));
    let changes = kinds.windows(2).filter(is_change).count();
    let has = |kind| kinds.contains(&kind);
    let is_mixed = has('a') && has('A') && word.len() >= 24;
    let is_long = word.len() >= MAX_SHOWN;
    credential(word).is_some() || (is_long && has('0') && (changes * 8 >= word.len() || is_mixed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_paths_and_sentences_stay() {
        for text in [
            "resources/team.yaml:7:19: \"soon\" is not a duration; write for example \"30s\", \"500ms\" or \"1m30s\"",
            "/var/run/..2026_11_27_03_21_06.123456789/my-dingtalk-gateway-service-1234-of-production.yaml",
            "[INIT_COMPONENT_FAILURE]: initialization error occurred for test_webhook_id (bindings.dingtalk.webhook/v1)",
            "DefaultBindingComponentOutboundRetryPolicy sessionWebhookExpiredTime previousAppSecret ERR_DIRECT_INVOKE",
            "the environment variable DINGTALK_ROBOT_SECRET_OF_TEAM_2 is not set; http://127.0.0.1:3500/v1.0/bindings",
            "/tmp/.tmpAb3dE1/secrets.json",
            "長い名前",
            "",
        ] {
            assert_eq!(shown(text), text);
        }
        let secret = format!("SEC{}", "0123456789abcdef".repeat(4));
        assert_eq!(shown(&format!("the type {secret}, which")), "the type [67 characters], which");
        assert_eq!(shown(&format!("access_token={secret}&")), "[80 characters]&");
        assert_eq!(shown("0a/+a0+0+a0A0+AA+a/+0Aa+aa+a0+aa/Aaa+/A++a0="), "[44 characters]");
    }

    proptest! {
        #[test]
        fn no_token_is_shown(
            token in prop_oneof![
                "SEC[0-9a-f]{64}", "[0-9][a-f0-9]{31,63}", "[0-9][A-Za-z0-9_-]{31,63}", "[0-9][A-Za-z0-9+/]{42}=",
            ],
            before in "[ -~]{0,8}", after in "[ -~]{0,8}",
        ) {
            for text in [format!("{before} {token} {after}"), format!("{before}{token:?}{after}"), format!("({token}/v1): {before}")] {
                prop_assert!(!shown(&text).contains(&token), "{}", shown(&text));
            }
        }
    }
}
