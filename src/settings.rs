//! Properties → [`Settings`], a type that cannot be wrong.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::callback::{Key, Policy};
use crate::duration;
use crate::endpoint::{Endpoint, Origin};
use crate::error::PropertyError;
use crate::json::quoted;
use crate::secret::{Secret, credential, is_hidden};
use crate::session;
use crate::signature::Signer;
use crate::text;

/// Time for one call in all, as Dapr's binding has it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to connect, as Dapr's binding has it.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call holds an instance's memory for as long as it waits; nobody waits longer for a chat message.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// DingTalk's own limit for a signature's age.
const DEFAULT_MAX_SKEW: Duration = Duration::from_secs(60 * 60);
/// For a machine whose clock cannot be set. A signature that is valid for longer protects nothing.
const MAX_MAX_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// The configuration of one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names the binding towards the input side.
    pub id: String,
    /// The robot's webhook.
    pub endpoint: Endpoint,
    /// The signing secret; without one, messages are not signed.
    pub secret: Option<Signer>,
    /// What a callback must satisfy.
    pub callbacks: Policy,
    /// Where `reply` may post to, beside DingTalk's hosts.
    pub session_webhooks: Vec<Origin>,
    /// Time for one call in all.
    pub timeout: Duration,
    /// Time to connect, within `timeout`.
    pub connect_timeout: Duration,
}

/// The properties in their documented spelling.
pub const PROPERTIES: [&str; 12] = [
    "id",
    "url",
    "secret",
    "timeout",
    "connectTimeout",
    "appSecret",
    "previousAppSecret",
    "outgoingToken",
    "callbackMaxSkew",
    "robotCode",
    "chatbotCorpId",
    "sessionWebhookHosts",
];

impl Settings {
    /// Reads properties. Names are compared without regard to case, unknown ones are ignored, a known one
    /// that occurs twice is an error.
    pub fn parse<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, PropertyError> {
        let mut values = [None; PROPERTIES.len()];
        for (name, value) in properties {
            for (known, slot) in PROPERTIES.iter().zip(&mut values) {
                if known.eq_ignore_ascii_case(name) && slot.replace(value).is_some() {
                    let reason = "occurs more than once (names are compared without regard to case); keep one";
                    return Err(PropertyError::new(known, reason));
                }
            }
        }
        let [id, url, secret, timeout, connect_timeout, app_secret, previous, token, skew, robot_code, corp_id, hosts] =
            values;
        let id = match id {
            // Answers and log lines show it.
            Some(id) if credential(id.trim()).is_some() => {
                return Err(PropertyError::new(
                    "id",
                    "looks like a token or a secret, and an id is shown; choose a name",
                ));
            }
            Some(id) if !id.trim().is_empty() => id.to_owned(),
            _ => return Err(PropertyError::new("id", "missing webhook id: give the binding an id of your choice")),
        };
        let endpoint = Endpoint::parse(url.unwrap_or_default()).map_err(|reason| PropertyError::new("url", reason))?;
        let secret = parse_secret("secret", secret)?;
        let app_secret = parse_secret("appSecret", app_secret)?;
        let previous = parse_secret("previousAppSecret", previous)?;
        let token = exact("outgoingToken", token)?.map(Secret::new);
        let key = match app_secret.or_else(|| secret.clone()) {
            Some(secret) => Some(Key::Signature { secret, previous }),
            None if previous.is_some() => {
                let reason = "stands beside the new secret; give that as appSecret, or remove the property";
                return Err(PropertyError::new("previousAppSecret", reason));
            }
            None => token.map(Key::Token),
        };
        let max_skew = parse_duration("callbackMaxSkew", skew, DEFAULT_MAX_SKEW, MAX_MAX_SKEW, "24h")?;
        let own = |property, value| Ok(exact(property, value)?.map(str::to_owned));
        Ok(Self {
            id,
            endpoint,
            secret,
            callbacks: Policy {
                key,
                max_skew: u64::try_from(max_skew.as_millis()).unwrap_or(u64::MAX),
                robot_code: own("robotCode", robot_code)?,
                chatbot_corp_id: own("chatbotCorpId", corp_id)?,
            },
            session_webhooks: session::parse_hosts(hosts.unwrap_or_default())
                .map_err(|reason| PropertyError::new("sessionWebhookHosts", reason))?,
            timeout: parse_duration("timeout", timeout, DEFAULT_TIMEOUT, MAX_TIMEOUT, "10m")?,
            connect_timeout: parse_duration(
                "connectTimeout",
                connect_timeout,
                DEFAULT_CONNECT_TIMEOUT,
                MAX_TIMEOUT,
                "10m",
            )?,
        })
    }
}

impl Settings {
    /// Everywhere that `reply` may post to.
    pub fn session_origins(&self) -> impl Iterator<Item = Origin> + '_ {
        session::HOSTS.into_iter().map(Origin::https).chain(self.session_webhooks.iter().cloned())
    }
}

fn parse_secret(property: &str, value: Option<&str>) -> Result<Option<Signer>, PropertyError> {
    Ok(exact(property, value)?.map(Signer::new))
}

/// A value that counts to the letter, if there is one. What a file, a shell or a copy added to it would sign or
/// compare wrongly for ever, far from the mistake's place. The error says what that is, and never the value.
fn exact<'a>(property: &str, value: Option<&'a str>) -> Result<Option<&'a str>, PropertyError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let foreign = |c: char| c.is_whitespace() || is_hidden(c);
    let is_quoted = |quote: char| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    let reason = if let Some((at, c)) = value.char_indices().rev().find(|(_, c)| foreign(*c)) {
        let what = match c {
            '\n' | '\r' => "a line break",
            ' ' => "a space",
            _ => "a character that is not seen",
        };
        let place = match value.get(..at) {
            _ if at + c.len_utf8() == value.len() => "ends with",
            Some("") => "begins with",
            _ => "contains",
        };
        format!("{place} {what}; remove it")
    } else if is_quoted('"') || is_quoted('\'') {
        "stands in quotes that belong to its value; remove them".into()
    } else if text::contains(value, "://") {
        "is an address; only url is one".into()
    } else {
        return Ok(Some(value));
    };
    Err(PropertyError::new(property, reason))
}

fn parse_duration(
    property: &str,
    value: Option<&str>,
    default: Duration,
    max: Duration,
    max_text: &str,
) -> Result<Duration, PropertyError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(default) };
    let parsed = duration::parse(value).map_err(|reason| PropertyError::new(property, reason))?;
    if parsed < Duration::from_millis(1) || parsed > max {
        return Err(PropertyError::new(property, format!("{} is not between 1ms and {max_text}", quoted(value))));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fails(properties: &[(&str, &str)]) -> String {
        Settings::parse(properties.iter().copied()).expect_err("refused").to_string()
    }

    #[test]
    fn names_in_any_case_and_unknown_ones_ignored() {
        let settings = Settings::parse([
            ("ID", "team"),
            ("Url", "h/p"),
            ("SECRET", "SEC1"),
            ("Timeout", "10s"),
            ("CONNECTTIMEOUT", "1s"),
            ("direction", "output"),
        ])
        .unwrap();
        assert_eq!(settings.id, "team");
        assert_eq!(settings.endpoint.origin().to_string(), "https://h:443");
        assert_eq!(settings.secret.unwrap().secret().expose(), "SEC1");
        assert_eq!(settings.timeout, Duration::from_secs(10));
        assert_eq!(settings.connect_timeout, Duration::from_secs(1));
    }

    #[test]
    fn defaults() {
        let settings = Settings::parse([("id", "x"), ("url", "h"), ("secret", ""), ("timeout", "")]).unwrap();
        assert_eq!((settings.timeout, settings.connect_timeout), (DEFAULT_TIMEOUT, DEFAULT_CONNECT_TIMEOUT));
        assert_eq!(settings.secret, None);
    }

    #[test]
    fn the_key_of_callbacks() {
        let key = |properties: &[(&str, &str)]| {
            let all = [("id", "x"), ("url", "h")].into_iter().chain(properties.iter().copied());
            Settings::parse(all).unwrap().callbacks.key
        };
        let keys = |secret: &str, previous: Option<&str>| {
            Some(Key::Signature { secret: Signer::new(secret), previous: previous.map(Signer::new) })
        };
        let signature = |secret: &str| keys(secret, None);
        assert_eq!(key(&[]), None);
        assert_eq!(key(&[("secret", ""), ("appsecret", ""), ("outgoingToken", "")]), None);
        assert_eq!(key(&[("secret", "S")]), signature("S"));
        assert_eq!(key(&[("secret", "S"), ("AppSecret", "A"), ("outgoingToken", "T")]), signature("A"));
        assert_eq!(key(&[("secret", "S"), ("outgoingToken", "T")]), signature("S"));
        assert_eq!(key(&[("OUTGOINGTOKEN", "T")]), Some(Key::Token(Secret::new("T"))));
        assert_eq!(key(&[("appSecret", "A"), ("previousAppSecret", "")]), signature("A"));
        assert_eq!(key(&[("appSecret", "A"), ("PREVIOUSAPPSECRET", "P"), ("secret", "S")]), keys("A", Some("P")));
        assert_eq!(key(&[("secret", "S"), ("previousAppSecret", "P"), ("outgoingToken", "T")]), keys("S", Some("P")));
    }

    #[test]
    fn the_input_side() {
        let settings = |properties: &[(&str, &str)]| {
            Settings::parse([("id", "x"), ("url", "h")].into_iter().chain(properties.iter().copied())).unwrap()
        };
        let given = settings(&[
            ("callbackMaxSkew", "5m"),
            ("robotCode", "r"),
            ("chatbotCorpId", "c"),
            ("sessionWebhookHosts", "h:1, i"),
        ]);
        assert_eq!(given.callbacks.max_skew, 300_000);
        assert_eq!(
            (given.callbacks.robot_code.as_deref(), given.callbacks.chatbot_corp_id.as_deref()),
            (Some("r"), Some("c"))
        );
        assert_eq!(format!("{:?}", given.session_webhooks), "[https://h:1, https://i:443]");
        let default = settings(&[("robotCode", ""), ("chatbotCorpId", "")]);
        assert_eq!((default.callbacks.max_skew, default.callbacks.robot_code), (3_600_000, None));
        assert_eq!((default.callbacks.chatbot_corp_id, default.session_webhooks), (None, vec![]));
    }

    #[test]
    fn each_refusal_names_the_property() {
        const ID: (&str, &str) = ("id", "x");
        const URL: (&str, &str) = ("url", "h");
        for (properties, text) in [
            (&[URL][..], "property \"id\": missing webhook id"),
            (&[("id", " "), URL], "property \"id\": missing webhook id"),
            (&[ID], "property \"url\": missing webhook url"),
            (&[ID, ("url", "ftp://h")], "property \"url\": the scheme"),
            (&[ID, URL, ("URL", "h2")], "property \"url\": occurs more than once"),
            (&[ID, URL, ("secret", " \n\t")], "property \"secret\": ends with a character that is not seen"),
            (
                &[ID, URL, ("secret", "S"), ("previousAppSecret", "\t")],
                "property \"previousAppSecret\": ends with a character that is not seen",
            ),
            (
                &[ID, URL, ("outgoingToken", "T"), ("previousAppSecret", "P")],
                "property \"previousAppSecret\": stands beside the new secret",
            ),
            (
                &[ID, URL, ("callbackMaxSkew", "25h")],
                "property \"callbackMaxSkew\": \"25h\" is not between 1ms and 24h",
            ),
            (&[ID, URL, ("sessionWebhookHosts", "a,b/c")], "property \"sessionWebhookHosts\": item 2 is not a host"),
            (&[ID, URL, ("timeout", "soon")], "property \"timeout\": \"soon\" is not a duration"),
            (&[ID, URL, ("timeout", "0")], "property \"timeout\": \"0\" is not between"),
            (&[ID, URL, ("connectTimeout", "1h")], "property \"connectTimeout\": \"1h\" is not between"),
        ] {
            let error = fails(properties);
            assert!(error.starts_with("dingtalk configuration error: "), "{error}");
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn times_are_taken_from_a_millisecond_to_the_documented_longest() {
        for (property, longest) in [("timeout", "10m"), ("connectTimeout", "10m"), ("callbackMaxSkew", "24h")] {
            let with = |value: &str| Settings::parse([("id", "x"), ("url", "h"), (property, value)]).is_ok();
            assert!(with("1ms") && with(longest), "{property}");
            assert!(!with("999us") && !with(&format!("{longest}1ns")), "{property}");
        }
    }

    #[test]
    fn replies_may_go_to_dingtalk_and_to_the_hosts_of_the_operator() {
        let settings = Settings::parse([("id", "x"), ("url", "h"), ("sessionWebhookHosts", "gateway:8443")]).unwrap();
        let origins: Vec<String> = settings.session_origins().map(|origin| origin.to_string()).collect();
        let dingtalk =
            ["https://oapi.dingtalk.com:443", "https://oapi.dingtalk.io:443", "https://api.dingtalk.com:443"];
        assert_eq!(origins, [&dingtalk[..], &["https://gateway:8443"]].concat());
    }

    #[test]
    fn what_was_added_to_a_value_is_named_with_its_property_and_never_the_value() {
        for property in ["secret", "appSecret", "outgoingToken", "robotCode", "chatbotCorpId"] {
            for (value, reason) in [
                ("SECv4lue\n", "ends with a line break; remove it"),
                ("SECv4lue\r\n", "ends with a line break; remove it"),
                ("SECv4lue ", "ends with a space; remove it"),
                (" ", "ends with a space; remove it"),
                (" SECv4lue", "begins with a space; remove it"),
                ("SECv4 lue", "contains a space; remove it"),
                ("SECv4lue\t", "ends with a character that is not seen; remove it"),
                ("\u{feff}SECv4lue", "begins with a character that is not seen; remove it"),
                ("SECv4lue\u{200b}", "ends with a character that is not seen; remove it"),
                ("SECv4\u{a0}lue", "contains a character that is not seen; remove it"),
                ("SECv4\u{0}lue", "contains a character that is not seen; remove it"),
                ("\"SECv4lue\"", "stands in quotes that belong to its value; remove them"),
                ("'SECv4lue'", "stands in quotes that belong to its value; remove them"),
                ("https://h/?access_token=v4lue", "is an address; only url is one"),
            ] {
                let error = fails(&[("id", "x"), ("url", "h"), (property, value)]);
                assert_eq!(error, format!("dingtalk configuration error: property \"{property}\": {reason}"));
            }
            for value in ["", "SECv4lue", "é密\"", "\"", "a'b'"] {
                assert!(
                    Settings::parse([("id", "x"), ("url", "h"), (property, value)]).is_ok(),
                    "{property} {value:?}"
                );
            }
        }
    }

    #[test]
    fn a_token_in_the_wrong_property_is_not_repeated() {
        let digits = "0123456789abcdef".repeat(4);
        for value in [&digits, &format!("SEC{digits}")] {
            let id = fails(&[("id", value), ("url", "h")]);
            assert!(id.contains("property \"id\": looks like a token or a secret"), "{id}");
            for property in ["url", "timeout", "connectTimeout", "callbackMaxSkew", "sessionWebhookHosts"] {
                let error = fails(
                    &[("id", "x"), ("url", "h")]
                        .into_iter()
                        .filter(|(name, _)| *name != property)
                        .chain([(property, value.as_str())])
                        .collect::<Vec<_>>(),
                );
                assert!(
                    error.contains(&format!("property \"{property}\": ")) && !error.contains("0123456789"),
                    "{error}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn debug_and_errors_never_show_secret_or_url(
            secret in "S3CR3T[ -~]{0,20}", token in "T0K3N[a-z%&#\n]{0,20}", timeout in "[0-9smh]{0,4}",
        ) {
            let url = format!("https://h/p?access_token={token}");
            let parsed = Settings::parse([("id", "x"), ("url", &url), ("secret", &secret), ("timeout", &timeout)]);
            let text = format!("{parsed:?}");
            prop_assert!(!text.contains("S3CR3T") && !text.contains("T0K3N"), "{text}");
        }
    }
}
