//! The robot's webhook URL: parsed once, kept as written, signed for every send.
//!
//! The parameters that people configure belong to DingTalk or to a gateway in front of it, so they are never
//! decoded and written again: `a=1&&b=%7E` leaves as it came. Only `timestamp` and `sign` are taken out:
//! DingTalk reads the first of two, and a URL copied from a log would fail as expired after an hour.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::address::{is_ipv4, is_ipv6};
use crate::secret::{Secret, credential, is_hidden};
use crate::signature::Signer;
use crate::text;

/// What may not stand raw in a request line. Everything else, `%` included, stays as the user wrote it.
const RAW_FORBIDDEN: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// How the connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP: for loopback and test networks. The token travels readable.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL without one means.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The destination of a connection: what an egress policy compares, and all of a URL that is shown to
/// people. Host in lower case, IPv6 in brackets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    /// `host`, in lower case, over https at the usual port.
    pub(crate) fn https(host: &str) -> Self {
        Self { scheme: Scheme::Https, host: host.to_owned(), port: Scheme::Https.default_port() }
    }

    /// How the connection is made.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Given or implied by the scheme.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether this is `host` over https, at the usual port.
    pub fn is_https(&self, host: &str) -> bool {
        self.scheme == Scheme::Https && self.port == Scheme::Https.default_port() && self.host == host
    }

    /// Whether the traffic stays on this machine, by name or address.
    pub fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || bare.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
            || bare.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A webhook URL that can be sent to. Its `Debug` output is the origin: path and query hold the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    origin: Origin,
    /// Host and, where the URL has one, port: what goes into the `Host` header.
    authority: String,
    /// With its leading slash.
    path: String,
    /// The parameters that stay, as written; `None` where the URL has no `?`.
    query: Option<String>,
}

impl Endpoint {
    /// Parses a URL. Without a scheme, https is meant. Spaces around it are dropped, a fragment too; spaces
    /// and non-ASCII characters in path and query are percent-encoded, everything else there stays as
    /// written, without stale `timestamp` and `sign` parameters.
    ///
    /// The error is a sentence about the URL that repeats nothing of path and query.
    pub fn parse(url: &str) -> Result<Self, String> {
        let url = url.trim_matches(' ');
        if url.is_empty() {
            return Err("missing webhook url: copy the webhook address of the robot from the group's settings".into());
        }
        if let Some(at) = url.chars().position(is_hidden) {
            return Err(format!("character {} is a control character (a line break?) or not seen; remove it", at + 1));
        }
        let (scheme, rest) = match text::find(url, "://").and_then(|at| Some((url.get(..at)?, url.get(at + 3..)?))) {
            Some((scheme, rest)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) => {
                match scheme.to_ascii_lowercase().as_str() {
                    "https" => (Scheme::Https, rest),
                    "http" => (Scheme::Http, rest),
                    _ => return Err("the scheme must be https or http".into()),
                }
            }
            _ => (Scheme::Https, url),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(authority_end);
        let origin = parse_authority(scheme, authority)?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let encode = |part: &str| utf8_percent_encode(part, RAW_FORBIDDEN).collect();
        Ok(Self {
            origin,
            authority: authority.to_ascii_lowercase(),
            path: if path.is_empty() { "/".into() } else { encode(path) },
            query: query.map(|query| {
                let kept: Vec<&str> = query.split('&').filter(|parameter| !is_signature(parameter)).collect();
                encode(&kept.join("&"))
            }),
        })
    }

    /// Where connections go.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Host and, where the URL has one, port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The request target: path and query as kept, followed by the signature if there is one.
    pub fn target(&self, signature: Option<&SentSignature>) -> String {
        let mut target = self.path.clone();
        if let Some(query) = &self.query {
            target.push('?');
            target.push_str(query);
        }
        if let Some(SentSignature { timestamp, encoded, .. }) = signature {
            match &self.query {
                None => target.push('?'),
                Some(query) if query.is_empty() || query.ends_with('&') => {}
                Some(_) => target.push('&'),
            }
            target.push_str("timestamp=");
            target.push_str(&timestamp.to_string());
            target.push_str("&sign=");
            target.push_str(encoded);
        }
        target
    }

    /// What tells the robot from others of its origin, and is as secret as the URL: path and access token, or where there
    /// is no token, path and query.
    pub fn robot(&self) -> String {
        let query = self.query.as_deref().unwrap_or_default();
        let mut parameters = query.split('&');
        let token = parameters.find(|parameter| parameter.starts_with("access_token="));
        [&self.path, "?", token.unwrap_or(query)].concat()
    }

    /// Everything of the URL that must not appear in a text: its target as a whole, the value of each parameter,
    /// and each part of the path that could be a token. As written: whoever blanks them out knows every spelling.
    pub fn secrets(&self) -> Vec<Secret> {
        /// Shorter values ("1", "zh") are settings rather than secrets, and blanking them out would make
        /// texts unreadable.
        const SHORTEST_SECRET: usize = 6;
        let mut secrets = Vec::new();
        for part in self.path.split('/').chain(self.query.as_deref().unwrap_or_default().split('&')) {
            let (value, is_secret) = match part.split_once('=') {
                Some((name, value)) => {
                    (value, value.len() >= SHORTEST_SECRET || matches!(name, "access_token" | "session" | "token"))
                }
                // "sendBySession" is a word; a token has digits, or is longer than words are.
                None => (part, part.len() >= 32 || part.len() >= 8 && part.bytes().any(|byte| byte.is_ascii_digit())),
            };
            if is_secret {
                secrets.push(Secret::new(value));
            }
        }
        if self.path.len() > SHORTEST_SECRET {
            secrets.push(Secret::new(self.target(None)));
        }
        secrets
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/[redacted]", self.origin)
    }
}

/// A signature in the form in which it goes into a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct SentSignature {
    timestamp: u64,
    plain: String,
    encoded: String,
}

impl SentSignature {
    /// Signs for `timestamp`, in milliseconds since the Unix epoch.
    pub fn new(signer: &Signer, timestamp: u64) -> Self {
        let plain = signer.sign(timestamp);
        // Exactly once: `%2B` encoded again is `%252B`, which DingTalk is known to answer with 310000.
        let encoded = utf8_percent_encode(&plain, NON_ALPHANUMERIC).collect();
        Self { timestamp, plain, encoded }
    }

    /// Both spellings, for blanking out.
    pub fn secrets(&self) -> [&str; 2] {
        [&self.plain, &self.encoded]
    }
}

impl fmt::Debug for SentSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signature of {}", self.timestamp)
    }
}

/// Whether a query parameter is one of those that signing adds, however its name is spelt.
fn is_signature(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default();
    let name = percent_decode_str(name).decode_utf8_lossy();
    name == "timestamp" || name == "sign"
}

fn parse_authority(scheme: Scheme, authority: &str) -> Result<Origin, String> {
    if authority.contains('@') {
        return Err("a user name or password before the host (\"user@host\") is not supported; remove it".into());
    }
    let host_end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let host = parse_host(host)?;
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => scheme.default_port(),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).ok_or("the port must be between 1 and 65535")?
        }
        _ => return Err("the port after the host must be a number between 1 and 65535".into()),
    };
    Ok(Origin { scheme, host, port })
}

/// A host in lower case. Strict, because two parsers that disagree about a host are how a policy is evaded.
fn parse_host(host: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err("the host is empty; a robot's url looks like https://oapi.dingtalk.com/robot/send?…".into());
    }
    // Not repeated: whoever takes it for a host shows it, and asks name servers about it.
    let what = if host.contains('=') { Some("a parameter") } else { credential(host.trim_end_matches('.')) };
    if let Some(what) = what {
        return Err(format!(
            "this is {what}; url is the whole webhook address: https://oapi.dingtalk.com/robot/send?…"
        ));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        if !is_ipv6(inner) {
            return Err("the host in brackets is not an IPv6 address".into());
        }
    } else if !host.is_ascii() {
        return Err("the host has characters outside ASCII; write it in its xn-- form".into());
    } else if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err("the host may contain only letters, digits, \"-\", \".\" and \"_\"".into());
    } else if ends_in_a_number(host) && !is_ipv4(host) {
        // "127.1", "0x7f.0.0.1" and "2130706433" are 127.0.0.1 to browsers and resolvers, and names to others.
        return Err("the host is a number and no IPv4 address; write four numbers, for example 127.0.0.1".into());
    }
    Ok(host.to_ascii_lowercase())
}

/// Whether browsers (WHATWG URL) read a host as an IPv4 address, or refuse it.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let is_hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
        || last.strip_prefix("0x").or(last.strip_prefix("0X")).is_some_and(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(url: &str) -> String {
        Endpoint::parse(url).unwrap().target(None)
    }

    #[test]
    fn a_robot_is_its_token_or_all_that_there_is() {
        let robot = |url: &str| Endpoint::parse(url).unwrap().robot();
        assert_eq!(robot("h/robot/send?x=1&access_token=abc&timestamp=1"), "/robot/send?access_token=abc");
        assert_eq!(robot("h/team/a?x=1&sign=s"), "/team/a?x=1");
        assert_eq!(robot("h"), "/?");
    }

    fn signed(url: &str) -> String {
        let secret = Signer::new("SECb90923e19e58b466481e9e7b7a5b4f108a4531abde590ad3967fb29f0eae5c68");
        Endpoint::parse(url).unwrap().target(Some(&SentSignature::new(&secret, 1_582_163_555_000)))
    }

    const SIGNATURE: &str = "timestamp=1582163555000&sign=BQKsG%2BQOCl%2BbYJOLc6pxDHxjVquzlZPWgvRzeN2J5zY%3D";

    #[test]
    fn joins_the_signature_as_the_url_needs() {
        for (url, expected) in [
            ("https://h/robot/send?access_token=T", "/robot/send?access_token=T&"),
            ("https://h/robot/send", "/robot/send?"),
            ("https://h", "/?"),
            ("https://h?", "/?"),
            ("https://h?a=1&", "/?a=1&"),
            ("h:8080/post/message", "/post/message?"),
            ("https://h/p?a=1#top?x=2", "/p?a=1&"),
        ] {
            assert_eq!(signed(url), format!("{expected}{SIGNATURE}"), "{url}");
        }
    }

    #[test]
    fn takes_out_stale_signatures_and_keeps_the_rest_as_written() {
        assert_eq!(target("https://h/p?sign=x&a=%7E&&timestamp=1&b=+&c"), "/p?a=%7E&&b=+&c");
        assert_eq!(target("https://h/p?%73ign=x&times%74amp=2&signed=1"), "/p?signed=1");
        assert_eq!(target("https://h/p?timestamp=1&sign=x"), "/p?");
        assert_eq!(signed("https://h/p?timestamp=1&sign=x"), format!("/p?{SIGNATURE}"));
        assert_eq!(target("https://h/p?k=a b&n=你&q=\"<>"), "/p?k=a%20b&n=%E4%BD%A0&q=%22%3C%3E");
    }

    #[test]
    fn origins() {
        for (url, origin, authority) in [
            ("https://OAPI.dingtalk.com/robot/send", "https://oapi.dingtalk.com:443", "oapi.dingtalk.com"),
            ("dingtalk.aliyun.com:8080/post", "https://dingtalk.aliyun.com:8080", "dingtalk.aliyun.com:8080"),
            ("HTTP://127.0.0.1:1", "http://127.0.0.1:1", "127.0.0.1:1"),
            ("http://[::1]:99/x", "http://[::1]:99", "[::1]:99"),
            ("  https://h  ", "https://h:443", "h"),
            ("h/p?next=https://elsewhere/", "https://h:443", "h"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(endpoint.origin().to_string(), origin, "{url}");
            assert_eq!(endpoint.authority(), authority, "{url}");
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        for (url, reason) in [
            ("", "missing webhook url"),
            ("   ", "missing webhook url"),
            ("https://", "host is empty"),
            ("https:///p", "host is empty"),
            ("https://:80/p", "host is empty"),
            ("//h/p", "host is empty"),
            ("ftp://h/p", "scheme must be https or http"),
            ("file:///etc/passwd", "scheme must be https or http"),
            ("https://user:pass@h/p", "user name or password"),
            ("https://good@evil/p", "user name or password"),
            ("https://h/p\n", "character 12 is a control character"),
            ("\u{feff}https://h/p", "character 1 is a control character"),
            ("https://h/p\u{200b}", "or not seen; remove it"),
            ("access_token=T0KEN", "this is a parameter; url is the whole webhook address"),
            ("https://h/\u{85}", "control character"),
            ("https://h:0/", "between 1 and 65535"),
            ("https://h:65536/", "between 1 and 65535"),
            ("https://h:/", "must be a number"),
            ("https://h:8x/", "must be a number"),
            ("https://a b/", "only letters"),
            ("https://h\\@evil/", "user name or password"),
            ("https://h\\evil/", "only letters"),
            ("https://[::1/", "only letters"),
            ("https://[:::1]/", "not an IPv6 address"),
            ("https://[::1]x/", "must be a number"),
            ("https://群/", "outside ASCII"),
            ("mailto:x", "must be a number"),
            ("http://127.0.0./", "no IPv4 address"),
            ("http://127.0.0.1./", "no IPv4 address"),
            ("http://127.1/", "no IPv4 address"),
            ("http://0177.0.0.1/", "no IPv4 address"),
            ("http://2130706433/", "no IPv4 address"),
            ("http://0X7F000001/", "no IPv4 address"),
            ("http://0x/", "no IPv4 address"),
            ("http://a.1/", "no IPv4 address"),
        ] {
            let error = Endpoint::parse(url).expect_err(url);
            assert!(error.contains(reason), "{url:?}: {error}");
        }
    }

    #[test]
    fn knows_loopback() {
        for (url, loopback) in [
            ("http://localhost", true),
            ("http://a.localhost", true),
            ("http://127.9.9.9", true),
            ("http://[::1]", true),
            ("http://localhost.evil.com", false),
            ("http://128.0.0.1", false),
            ("http://oapi.dingtalk.com", false),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().origin().is_loopback(), loopback, "{url}");
        }
    }

    #[test]
    fn a_token_is_not_taken_for_a_host_nor_repeated() {
        let digits = "0123456789abcdef".repeat(4);
        for (url, what) in [
            (digits.clone(), "an access token"),
            (digits.to_uppercase(), "an access token"),
            (format!(" {digits} "), "an access token"),
            (format!("{}/", &digits[..41]), "an access token"),
            (format!("https://{digits}"), "an access token"),
            (format!("{digits}."), "an access token"),
            (format!("{digits}?timestamp=1"), "an access token"),
            (format!("{digits}:443"), "an access token"),
            (format!("access_token={digits}"), "a parameter"),
            (format!("SEC{digits}"), "a signing secret"),
            (format!("SEC{}", &digits[..17]), "a signing secret"),
        ] {
            let error = Endpoint::parse(&url).expect_err(&url);
            assert!(error.starts_with(&format!("this is {what}; url is the whole webhook address")), "{url}: {error}");
            assert!(!error.to_lowercase().contains("0123456789"), "{error}");
        }
        for url in ["gateway/robot/send?access_token=x", "localhost", "my-gateway-4711:80", &format!("h/{digits}")] {
            assert!(Endpoint::parse(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_could_be_a_token_is_secret_wherever_it_stands() {
        let secrets = |url: &str| -> Vec<String> {
            Endpoint::parse(url).unwrap().secrets().iter().map(|secret| secret.expose().to_owned()).collect()
        };
        assert_eq!(secrets("h/hook/t0kenT0ken/send"), ["t0kenT0ken", "/hook/t0kenT0ken/send"]);
        let long = "a".repeat(32);
        assert_eq!(secrets(&format!("h/{long}")), [long.clone(), format!("/{long}")]);
        assert_eq!(
            secrets("h/robot/sendBySession?session=x&a=b&lang=chinese"),
            ["x", "chinese", "/robot/sendBySession?session=x&a=b&lang=chinese"]
        );
        for url in ["h?b", "h/robot", "h/v1?a=b"] {
            assert_eq!(secrets(url), [""; 0], "{url}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let endpoint = Endpoint::parse("https://h/hook/T0KEN?access_token=T0KEN").unwrap();
        assert_eq!(format!("{endpoint:?}"), "https://h:443/[redacted]");
        let signature = SentSignature::new(&Signer::new("s"), 7);
        assert_eq!(format!("{signature:?}"), "signature of 7");
    }

    proptest! {
        /// What we take for the host is what other parsers take for the host.
        #[test]
        fn agrees_with_other_parsers(url in "(https?://)?[a-z0-9.@:\\[\\]\\\\/?#&= %_-]{1,40}") {
            if let Ok(endpoint) = Endpoint::parse(&url) {
                let origin = endpoint.origin();
                let sent = format!("{}://{}{}", origin.scheme().as_str(), endpoint.authority(), endpoint.target(None));
                let uri: http::Uri = sent.parse().unwrap();
                prop_assert_eq!(uri.host(), Some(origin.host()));
                prop_assert_eq!(uri.port_u16().unwrap_or(origin.port()), origin.port());
                // An IPv6 address has more than one spelling.
                if let Ok(whatwg) = url::Url::parse(&sent) && !origin.host().starts_with('[') {
                    prop_assert_eq!(whatwg.host_str(), Some(origin.host()));
                    prop_assert_eq!(whatwg.port_or_known_default(), Some(origin.port()));
                }
            }
        }

        /// Whatever the URL, a server that parses the query in the standard way finds one signature, the new one,
        /// and every other parameter with its value.
        #[test]
        fn a_server_finds_its_parameters(query in "[ -~é你]{0,60}", secret in ".{1,40}", t in 0u64..1 << 42) {
            let endpoint = Endpoint::parse(&format!("https://h/p?{query}")).unwrap();
            let signature = SentSignature::new(&Signer::new(secret.clone()), t);
            let sent = endpoint.target(Some(&signature));
            prop_assert!(sent.bytes().all(|b| (0x21..0x7f).contains(&b)), "{sent}");
            let (_, sent) = sent.split_once('?').unwrap();
            let found: Vec<(String, String)> = url::form_urlencoded::parse(sent.as_bytes()).into_owned().collect();
            let given = query.trim_end_matches(' ').split('#').next().unwrap();
            let mut expected: Vec<(String, String)> = url::form_urlencoded::parse(given.as_bytes())
                .into_owned().filter(|(name, _)| name != "timestamp" && name != "sign").collect();
            expected.push(("timestamp".into(), t.to_string()));
            expected.push(("sign".into(), crate::signature::sign(&secret, t)));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn never_panics(url in ".*") { let _ = Endpoint::parse(&url); }
    }
}
