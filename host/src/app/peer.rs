//! The other end of the connection to the application, whichever protocol it speaks: where it is, what it knows us by, and
//! what an error on the way to it means.

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use dingtalk_api::delivery;
use dingtalk_binding::secret::{Secret, redact};
use http::header::HeaderValue;
use http::uri::Authority;
use hyper_util::client::legacy::Error as ClientError;
use hyper_util::client::legacy::connect::HttpConnector;
use uuid::Uuid;

use super::remote::ConfigError;
use crate::event::Undelivered;

/// Below the 5 s after which Node's and uvicorn's servers close an idle connection: an event that meets the closing
/// server has to be delivered again, and the application may see it twice.
pub(super) const IDLE: Duration = Duration::from_secs(4);

/// The application is on this machine or next to it. Longer, a wrong address would look like a slow application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After this time without a byte its kernel is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(10);

/// What delivers and what asks know of it.
pub(super) struct Peer {
    pub(super) authority: Authority,
    port: u16,
    token: Option<(HeaderValue, Secret)>,
    /// For the question whether it reads.
    pub(super) probe_timeout: Duration,
    /// For one delivery, the answer included.
    pub(super) timeout: Duration,
}

impl Peer {
    pub(super) fn new(
        address: String,
        port: u16,
        token: Option<Secret>,
        probe_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, ConfigError> {
        let authority = authority(&address, port).ok_or(ConfigError::Address(address))?;
        let token = token.filter(|token| !token.expose().is_empty()).map(sensitive).transpose()?;
        Ok(Self { authority, port, token, probe_timeout, timeout })
    }

    pub(super) fn connector(&self) -> HttpConnector {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(self.timeout)));
        // Another machine that is gone, or a network that lets nothing through, says nothing: without these, the kernel
        // tries for a quarter of an hour, and those that wait for an answer would wait for ever.
        connector.set_keepalive(Some(SILENCE));
        connector.set_keepalive_interval(Some(SILENCE / 2));
        connector.set_keepalive_retries(Some(3));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        connector.set_tcp_user_timeout(Some(2 * SILENCE));
        connector
    }

    /// What it can tell this host by.
    pub(super) fn token(&self) -> Option<HeaderValue> {
        self.token.as_ref().map(|(value, _)| value.clone())
    }

    /// What it says of an event that it does not take, without what nobody may see.
    pub(super) fn refusal(&self, said: &[u8], event: &[u8]) -> String {
        delivery::refusal(said, event, self.token.as_ref().map(|(_, token)| token))
    }

    pub(super) fn no_answer(&self, limit: Duration, flag: &str) -> String {
        delivery::no_answer(&self.authority, limit, flag)
    }

    pub(super) fn failure(&self, error: &ClientError) -> Undelivered {
        let reason = self.explain(error);
        if error.is_connect() { Undelivered::NoConnection(reason) } else { Undelivered::Unreachable(reason) }
    }

    fn redact(&self, text: &str) -> String {
        redact(text, self.token.iter().map(|(_, token)| token.expose()))
    }

    /// What an error of the client means, and what to do. The texts of other crates are shown only where they tell
    /// of names and addresses.
    fn explain(&self, error: &ClientError) -> String {
        let first: &(dyn StdError + 'static) = error;
        let chain = || std::iter::successors(Some(first), |cause: &&(dyn StdError + 'static)| (*cause).source());
        let kind = chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        let Self { authority, port, .. } = self;
        if error.is_connect() {
            return match kind {
                Some(io::ErrorKind::ConnectionRefused) => {
                    format!("{authority} refuses connections; is the application listening on --app-port {port}?")
                }
                Some(io::ErrorKind::TimedOut) => {
                    format!("connecting to {authority} took too long; correct --app-channel-address or --app-port")
                }
                _ => {
                    let reason = chain().last().map(ToString::to_string).unwrap_or_default();
                    let reason = self.redact(&reason);
                    format!("no connection to {authority} ({reason}); correct --app-channel-address or --app-port")
                }
            };
        }
        let mut hyper = chain().filter_map(|cause| cause.downcast_ref::<hyper::Error>());
        if kind == Some(io::ErrorKind::TimedOut) || hyper.clone().any(hyper::Error::is_timeout) {
            return format!(
                "{authority} has gone silent: its process is stopped, or nothing gets through to it; see whether it runs, \
                 and the network between"
            );
        }
        if hyper.any(hyper::Error::is_parse) {
            return format!(
                "the answer of {authority} is not HTTP/1.1; does --app-port {port} belong to the application?"
            );
        }
        delivery::closed(authority)
    }
}

/// A trace that begins here, not sampled. Never all zeros, which W3C forbids: the version digit of a random UUID is
/// within both ids.
pub(super) fn new_traceparent() -> String {
    let trace = Uuid::new_v4().simple().to_string();
    let parent = Uuid::new_v4().simple().to_string();
    format!("00-{trace}-{}-00", parent.get(..16).unwrap_or_default())
}

fn authority(address: &str, port: u16) -> Option<Authority> {
    let address = address.trim();
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = match bare.unwrap_or(address).parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(address)) if bare.is_none() => address.to_string(),
        Ok(IpAddr::V4(_)) => return None,
        Err(_) => {
            let is_name = !address.is_empty()
                && address.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
            is_name.then(|| address.to_owned())?
        }
    };
    format!("{host}:{port}").parse().ok()
}

fn sensitive(token: Secret) -> Result<(HeaderValue, Secret), ConfigError> {
    let mut value = HeaderValue::try_from(token.expose()).map_err(|_| ConfigError::Token)?;
    value.set_sensitive(true);
    Ok((value, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (address, expected) in [
            ("127.0.0.1", "127.0.0.1:6001"),
            ("::1", "[::1]:6001"),
            ("[::1]", "[::1]:6001"),
            (" app.local ", "app.local:6001"),
            ("my_app", "my_app:6001"),
        ] {
            assert_eq!(authority(address, 6001).map(|found| found.to_string()).as_deref(), Some(expected), "{address}");
        }
        for address in ["", "http://app", "app:80", "user@app", "a b", "app/x", "[app]", "[127.0.0.1]", "::1]"] {
            assert_eq!(authority(address, 6001), None, "{address}");
        }
    }

    #[test]
    fn a_trace_that_begins_here_is_one_of_its_own() {
        let text = new_traceparent();
        let parts: Vec<_> = text.split('-').collect();
        assert_eq!((parts.len(), parts[0], parts[1].len(), parts[2].len(), parts[3]), (4, "00", 32, 16, "00"));
        for id in &parts[1..3] {
            assert!(
                id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && id.bytes().any(|b| b != b'0'),
                "{id}"
            );
        }
        assert_ne!(new_traceparent(), text);
    }
}
