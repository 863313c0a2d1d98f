//! Properties → [`Settings`], a type that cannot be wrong.

use std::time::Duration;

use crate::duration;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::json::quoted;
use crate::secret::Secret;

/// Time for one call in all, as Dapr's binding has it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to connect, as Dapr's binding has it.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call holds an instance's memory for as long as it waits; nobody waits longer for a chat message.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// The configuration of one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names the binding towards the input side.
    pub id: String,
    /// The robot's webhook.
    pub endpoint: Endpoint,
    /// The signing secret; without one, messages are not signed.
    pub secret: Option<Secret>,
    /// Time for one call in all.
    pub timeout: Duration,
    /// Time to connect, within `timeout`.
    pub connect_timeout: Duration,
}

impl Settings {
    /// Reads properties. Names are compared without regard to case, unknown ones are ignored, a known one
    /// that occurs twice is an error.
    pub fn parse<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        let (mut id, mut url, mut secret, mut timeout, mut connect_timeout) = (None, None, None, None, None);
        for (name, value) in properties {
            let (known, slot) = match name.to_ascii_lowercase().as_str() {
                "id" => ("id", &mut id),
                "url" => ("url", &mut url),
                "secret" => ("secret", &mut secret),
                "timeout" => ("timeout", &mut timeout),
                "connecttimeout" => ("connectTimeout", &mut connect_timeout),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                let reason = "occurs more than once (names are compared without regard to case); keep one";
                return Err(Error::configuration(known, reason));
            }
        }
        let id = match id {
            Some(id) if !id.trim().is_empty() => id.to_owned(),
            _ => return Err(Error::configuration("id", "missing webhook id: give the binding an id of your choice")),
        };
        let endpoint =
            Endpoint::parse(url.unwrap_or_default()).map_err(|reason| Error::configuration("url", reason))?;
        let secret = match secret {
            None | Some("") => None,
            // Sending unsigned, or signed with a space, would be refused far from the mistake's place.
            Some(secret) if secret.trim().is_empty() => {
                let reason = "consists of white space only; set the robot's secret (SEC…), or remove the property \
                              if the robot does not sign";
                return Err(Error::configuration("secret", reason));
            }
            Some(secret) => Some(Secret::new(secret)),
        };
        Ok(Self {
            id,
            endpoint,
            secret,
            timeout: parse_timeout("timeout", timeout, DEFAULT_TIMEOUT)?,
            connect_timeout: parse_timeout("connectTimeout", connect_timeout, DEFAULT_CONNECT_TIMEOUT)?,
        })
    }
}

fn parse_timeout(property: &str, value: Option<&str>, default: Duration) -> Result<Duration, Error> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(default) };
    let parsed = duration::parse(value).map_err(|reason| Error::configuration(property, reason))?;
    if parsed < Duration::from_millis(1) || parsed > MAX_TIMEOUT {
        return Err(Error::configuration(property, format!("{} is not between 1ms and 10m", quoted(value))));
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
