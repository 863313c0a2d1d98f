//! Properties → [`Settings`], a type that cannot be wrong.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::callback::{Key, Policy};
use crate::duration;
use crate::endpoint::{Endpoint, Origin};
use crate::error::Error;
use crate::json::quoted;
use crate::secret::Secret;
use crate::session;

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
    pub secret: Option<Secret>,
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
const PROPERTIES: [&str; 12] = [
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
    pub fn parse<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        let mut values = [None; PROPERTIES.len()];
        for (name, value) in properties {
            for (known, slot) in PROPERTIES.iter().zip(&mut values) {
                if known.eq_ignore_ascii_case(name) && slot.replace(value).is_some() {
                    let reason = "occurs more than once (names are compared without regard to case); keep one";
                    return Err(Error::configuration(known, reason));
                }
            }
        }
        let [id, url, secret, timeout, connect_timeout, app_secret, previous, token, skew, robot_code, corp_id, hosts] =
            values;
        let id = match id {
            Some(id) if !id.trim().is_empty() => id.to_owned(),
            _ => return Err(Error::configuration("id", "missing webhook id: give the binding an id of your choice")),
        };
        let endpoint =
            Endpoint::parse(url.unwrap_or_default()).map_err(|reason| Error::configuration("url", reason))?;
        let secret = parse_secret("secret", secret)?;
        let app_secret = parse_secret("appSecret", app_secret)?;
        let previous = parse_secret("previousAppSecret", previous)?;
        let token = parse_secret("outgoingToken", token)?;
        let key = match app_secret.or_else(|| secret.clone()) {
            Some(secret) => Some(Key::Signature { secret, previous }),
            None if previous.is_some() => {
                let reason = "stands beside the new secret; give that as appSecret, or remove the property";
                return Err(Error::configuration("previousAppSecret", reason));
            }
            None => token.map(Key::Token),
        };
        let max_skew = parse_duration("callbackMaxSkew", skew, DEFAULT_MAX_SKEW, MAX_MAX_SKEW, "24h")?;
        let own = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
        Ok(Self {
            id,
            endpoint,
            secret,
            callbacks: Policy {
                key,
                max_skew: u64::try_from(max_skew.as_millis()).unwrap_or(u64::MAX),
                robot_code: own(robot_code),
                chatbot_corp_id: own(corp_id),
            },
            session_webhooks: session::parse_hosts(hosts.unwrap_or_default())
                .map_err(|reason| Error::configuration("sessionWebhookHosts", reason))?,
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

fn parse_secret(property: &str, value: Option<&str>) -> Result<Option<Secret>, Error> {
    match value {
        None | Some("") => Ok(None),
        // Sending unsigned, or signed with a space, would be refused far from the mistake's place.
        Some(secret) if secret.trim().is_empty() => {
            let reason =
                "consists of white space only; set its value (a robot's secret is SEC…), or remove the property";
            Err(Error::configuration(property, reason))
        }
        Some(secret) => Ok(Some(Secret::new(secret))),
    }
}

fn parse_duration(
    property: &str,
    value: Option<&str>,
    default: Duration,
    max: Duration,
    max_text: &str,
) -> Result<Duration, Error> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(default) };
    let parsed = duration::parse(value).map_err(|reason| Error::configuration(property, reason))?;
    if parsed < Duration::from_millis(1) || parsed > max {
        return Err(Error::configuration(property, format!("{} is not between 1ms and {max_text}", quoted(value))));
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
        assert_eq!(settings.secret.unwrap().expose(), "SEC1");
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
            Some(Key::Signature { secret: Secret::new(secret), previous: previous.map(Secret::new) })
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
            (&[ID, URL, ("secret", " \n\t")], "property \"secret\": consists of white space"),
            (&[ID, URL, ("appSecret", " ")], "property \"appSecret\": consists of white space"),
            (&[ID, URL, ("outgoingToken", " ")], "property \"outgoingToken\": consists of white space"),
            (
                &[ID, URL, ("secret", "S"), ("previousAppSecret", "\t")],
                "property \"previousAppSecret\": consists of white space",
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
