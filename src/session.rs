//! The `sessionWebhook` of a message that was received: where `reply` posts to.
//!
//! It arrives from outside, in a body that the signature does not cover, and then comes back through an
//! application. Posted to unseen, it would let whoever can send one message aim the robot's requests at any
//! host. Hence https and DingTalk's hosts only, and those that the operator names.

use crate::endpoint::{Endpoint, Origin};
use crate::error::InvokeCause;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// DingTalk's hosts, in China and elsewhere.
pub const HOSTS: [&str; 3] = ["oapi.dingtalk.com", "oapi.dingtalk.io", "api.dingtalk.com"];

/// The request metadata of `reply` that names the session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Session<'a> {
    webhook: Option<&'a str>,
    expires: Option<&'a str>,
}

impl<'a> Session<'a> {
    /// Picks the session out of request metadata; names in any case.
    pub fn find(metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut session = Self::default();
        for (name, value) in metadata {
            if name.eq_ignore_ascii_case("sessionWebhook") {
                session.webhook = Some(value);
            } else if name.eq_ignore_ascii_case("sessionWebhookExpiredTime") {
                session.expires = Some(value);
            }
        }
        session
    }

    /// The endpoint to post to, if that is allowed and the session has not ended before `now` (milliseconds
    /// since the Unix epoch). `also` are the operator's own hosts.
    pub fn endpoint(self, also: &[Origin], now: u64) -> Result<Endpoint, InvokeCause> {
        let invalid = |reason: &str| Err(InvokeCause::InvalidSessionWebhook(reason.into()));
        let Some(webhook) = self.webhook.filter(|webhook| !webhook.is_empty()) else {
            return invalid("is missing; it stands in the message that is replied to");
        };
        let endpoint = match Endpoint::parse(webhook) {
            Ok(endpoint) => endpoint,
            Err(reason) => return invalid(&reason),
        };
        let origin = endpoint.origin();
        if !HOSTS.iter().any(|host| origin.is_https(host)) && !also.contains(origin) {
            return invalid(
                "is not an https address of DingTalk; if it is one of your gateways, add its host to the property \
                 \"sessionWebhookHosts\"",
            );
        }
        match self.expires.filter(|expires| !expires.is_empty()).map(str::parse) {
            Some(Ok(expires)) if now >= expires => Err(InvokeCause::ExpiredSessionWebhook),
            Some(Err(_)) => invalid("sessionWebhookExpiredTime is not a number of milliseconds"),
            None | Some(Ok(0_u64..)) => Ok(endpoint),
        }
    }
}

/// Reads the property `sessionWebhookHosts`, and a host's lists of the same kind: hosts separated by commas, with a port where it is not https's,
/// and with `http://` before it for a test server.
pub fn parse_hosts(list: &str) -> Result<Vec<Origin>, String> {
    let parse = |item: &str| {
        let endpoint = Endpoint::parse(item)?;
        if endpoint.target(None) == "/" { Ok(endpoint.origin().clone()) } else { Err("a path".to_owned()) }
    };
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    let wrong = |at: usize| format!("item {at} is not a host; write for example gateway.example.com or 10.0.0.7:8443");
    items.enumerate().map(|(index, item)| parse(item).map_err(|_| wrong(index + 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000_000;

    fn endpoint(webhook: &str, expires: &str, hosts: &str) -> Result<Endpoint, InvokeCause> {
        let metadata = [("SESSIONWEBHOOK", webhook), ("sessionwebhookexpiredtime", expires), ("other", "x")];
        Session::find(metadata).endpoint(&parse_hosts(hosts).unwrap(), NOW)
    }

    #[test]
    fn dingtalks_hosts_over_https_only() {
        for allowed in [
            "https://oapi.dingtalk.com/robot/sendBySession?session=S",
            "https://OAPI.dingtalk.com:443/robot/sendBySession?session=S",
            "https://oapi.dingtalk.io/x",
            "https://api.dingtalk.com/x",
        ] {
            assert!(endpoint(allowed, "", "").is_ok(), "{allowed}");
        }
        for refused in [
            "",
            "http://oapi.dingtalk.com/robot/sendBySession?session=S",
            "https://oapi.dingtalk.com:8443/x",
            "https://oapi.dingtalk.com.evil.com/x",
            "https://oapi.dingtalk.com@evil.com/x",
            "https://evil.com/https://oapi.dingtalk.com",
            "https://evil.com#oapi.dingtalk.com",
            "https://evil.com\\.oapi.dingtalk.com/",
            "https://169.254.169.254/latest/meta-data",
            "https://login.dingtalk.com/x",
            "file:///etc/passwd",
            "//oapi.dingtalk.com/x\r\n",
        ] {
            let error = endpoint(refused, "", "").unwrap_err();
            assert!(matches!(error, InvokeCause::InvalidSessionWebhook(_)), "{refused}: {error:?}");
        }
    }

    #[test]
    fn hosts_of_the_operator() {
        let hosts = "gateway.example.com, 10.0.0.7:8443 ,http://127.0.0.1:8099,";
        for (allowed, yes) in [
            ("https://gateway.example.com/x?session=S", true),
            ("https://10.0.0.7:8443/x", true),
            ("http://127.0.0.1:8099/x", true),
            ("https://127.0.0.1:8099/x", false),
            ("https://10.0.0.7/x", false),
            ("http://gateway.example.com/x", false),
            ("https://oapi.dingtalk.com/x", true),
        ] {
            assert_eq!(endpoint(allowed, "", hosts).is_ok(), yes, "{allowed}");
        }
        for wrong in ["a b", "h/path", "h?x", "ftp://h", "h,,user@h"] {
            let error = parse_hosts(wrong).unwrap_err();
            assert!(error.starts_with("item ") && error.contains("write for example"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_session_ends_at_its_millisecond() {
        const URL: &str = "https://oapi.dingtalk.com/x";
        let ends = |time: u64| endpoint(URL, &time.to_string(), "");
        assert_eq!(ends(NOW).unwrap_err(), InvokeCause::ExpiredSessionWebhook);
        assert_eq!(ends(0).unwrap_err(), InvokeCause::ExpiredSessionWebhook);
        assert!(ends(NOW + 1).is_ok());
        let error = endpoint(URL, "soon", "").unwrap_err();
        assert!(error.to_string().contains("not a number of milliseconds"), "{error}");
    }

    proptest! {
        #[test]
        fn no_error_repeats_the_session(url in "[a-z:/.@]{0,20}S3SS10N[a-z?&=#]{0,10}", expires in "S3SS10N|[0-9]{0,3}") {
            if let Err(error) = endpoint(&format!("https://h/?session={url}"), &expires, "") {
                prop_assert!(!format!("{error} {error:?}").contains("S3SS10N"), "{}", error);
            }
        }
    }
}
