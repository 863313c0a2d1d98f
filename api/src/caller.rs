//! Who may call without a token: programs, but no page in somebody's browser.
//!
//! A page of any site can make its visitor's browser post to 127.0.0.1, or point a name of its own at it. The browser
//! says so in headers that pages cannot change: `Origin` and `Sec-Fetch-Site` where the request comes from, `Host`
//! under which name the page reached us.

use std::net::IpAddr;

use http::header::{HOST, HeaderMap, ORIGIN};
use http::uri::{Authority, Uri};
use http::{HeaderValue, Version};

/// Hosts and origins that are trusted beside this machine's own.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Names or addresses, without port, by which clients may call this host; `*` is any.
    pub hosts: Vec<String>,
    /// Origins, as `https://host` or `https://host:port`, whose pages may call; `*` is any.
    pub origins: Vec<String>,
}

/// What the two lists of [`Allowed`] are called where they are set.
#[derive(Debug)]
pub struct Names {
    /// The list of hosts.
    pub hosts: &'static str,
    /// The list of origins.
    pub origins: &'static str,
}

/// The host's flags, and the simulator's.
pub const FLAGS: Names = Names { hosts: "--allowed-hosts", origins: "--allowed-origins" };

/// RFC 9112, section 3.2: exactly one `Host` in HTTP/1.1. Who sends two wants two readers to see different ones.
/// HTTP/1.0, in which old health checks speak, knows none, and HTTP/2 has the name in the URI.
pub fn host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    match first {
        _ if second.is_some() => Err("there are several Host headers; send one"),
        None if version == Version::HTTP_11 => Err("there is no Host header; send one"),
        None if version == Version::HTTP_2 && uri.authority().is_none() => Err("there is no :authority; send one"),
        Some(host) if !host.is_empty() && authority(host).is_none() => Err("the Host header is no host"),
        _ => Ok(()),
    }
}

fn authority(host: &HeaderValue) -> Option<Authority> {
    let authority: Authority = Authority::try_from(host.as_bytes()).ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

impl Allowed {
    /// As [`Self::check`], where nobody knows by which name we were called: a page that has pointed a name of its own at us
    /// looks like a program.
    pub fn check_nameless(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Stranger> {
        if is_any(&self.hosts) { self.check(uri, headers, None) } else { Err(Stranger::Nameless) }
    }

    /// Whether a request that reached the address `ours`, where that is known, may be a program's.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap, ours: Option<IpAddr>) -> Result<(), Stranger> {
        // Where both are there, both have to be right.
        let named = headers.get(HOST).map(|host| authority(host).ok_or(host));
        let called: Vec<Authority> = match named {
            Some(Err(_)) => return Err(Stranger::Host(String::new())),
            Some(Ok(host)) => [host].into_iter().chain(uri.authority().cloned()).collect(),
            None => uri.authority().cloned().into_iter().collect(),
        };
        for authority in &called {
            if authority.as_str().contains('@') || !self.is_ours(authority.host(), ours) {
                return Err(Stranger::Host(authority.host().to_owned()));
            }
        }
        let is_known =
            |origin: &str| is_any(&self.origins) || self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin));
        // A page that this host itself served, if it served any.
        let is_same = |origin: &str| {
            origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"))
                .is_some_and(|origin| called.first().is_some_and(|called| called.as_str().eq_ignore_ascii_case(origin)))
        };
        let mut is_listed = false;
        // Of several, each: another reader could take another one.
        for origin in headers.get_all(ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            if is_known(origin) {
                is_listed = true;
            } else if !is_same(origin) {
                return Err(Stranger::Origin);
            }
        }
        // "same-site" is another port of this machine, or another name of the same domain.
        let is_own = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
        if is_listed || is_any(&self.origins) || headers.get_all("sec-fetch-site").iter().all(is_own) {
            return Ok(());
        }
        Err(Stranger::Origin)
    }

    fn is_ours(&self, host: &str, ours: Option<IpAddr>) -> bool {
        let name = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        if is_any(&self.hosts) || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            return true;
        }
        match name.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback() || Some(address.to_canonical()) == ours,
            Err(_) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

fn is_any(list: &[String]) -> bool {
    list.iter().any(|entry| entry == "*")
}

/// Why a request may be a page's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// It is for a host of this name, which is none of ours.
    Host(String),
    /// For which host it is cannot be known.
    Nameless,
    /// It comes from a page of another origin.
    Origin,
}

impl Stranger {
    /// What was wrong and what to do, in the words of whoever is called. `otherwise` is what else would do, if
    /// anything: "set X, or ".
    pub fn explained(&self, otherwise: &str, settings: &Names) -> String {
        let Names { hosts, origins } = settings;
        match self {
            Self::Host(name) => format!(
                "the request is for the host {name:?}, by which this one is not known: {otherwise}add the name to {hosts}"
            ),
            Self::Nameless => format!(
                "this runtime does not say for which host a request is, so that it could be from any page in a browser: \
                 {otherwise}add \"*\" to {hosts}"
            ),
            Self::Origin => {
                format!("the request comes from a page of another origin: {otherwise}add the origin to {origins}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn check(allowed: &Allowed, pairs: &[(&'static str, &str)]) -> Result<(), String> {
        let ours = Some(Ipv4Addr::new(10, 0, 0, 7).into());
        let checked = allowed.check(&Uri::from_static("/v1.0/bindings/x"), &headers(pairs), ours);
        checked.map_err(|stranger| stranger.explained("", &FLAGS))
    }

    #[test]
    fn programs_of_this_machine_may_call() {
        for host in
            ["127.0.0.1:3500", "127.9.9.9", "localhost", "LOCALHOST:3500", "a.localhost", "[::1]:3500", "10.0.0.7:3500"]
        {
            assert_eq!(check(&Allowed::default(), &[("host", host)]), Ok(()), "{host}");
            let origin = format!("http://{host}");
            let page = [("host", host), ("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
            assert_eq!(check(&Allowed::default(), &page), Ok(()), "{host}");
        }
        assert_eq!(check(&Allowed::default(), &[("host", "localhost"), ("sec-fetch-site", "none")]), Ok(()));
    }

    #[test]
    fn names_that_a_stranger_can_point_here_are_refused() {
        for host in [
            "evil.example:3500",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.8",
            "notlocalhost",
            "",
            "a@localhost",
        ] {
            let error = check(&Allowed::default(), &[("host", host)]).expect_err(host);
            assert!(error.contains("--allowed-hosts"), "{error}");
        }
        let uri = Uri::from_static("http://evil.example/v1.0/metadata");
        let ours = Some(Ipv4Addr::LOCALHOST.into());
        assert!(Allowed::default().check(&uri, &headers(&[]), ours).is_err());
        assert!(Allowed::default().check(&uri, &headers(&[("host", "localhost")]), ours).is_err());
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:8080"),
            ("origin", ""),
            ("origin", "\u{e9}"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "CROSS-SITE"),
            ("sec-fetch-site", "cross-site, none"),
            ("origin", "evil://localhost:3500"),
        ] {
            let error = check(&Allowed::default(), &[("host", "localhost:3500"), (name, value)]).expect_err(value);
            assert!(error.contains("--allowed-origins"), "{error}");
        }
    }

    #[test]
    fn of_several_each_has_to_be_right() {
        for (name, first, second) in
            [("origin", "http://localhost:3500", "https://evil.example"), ("sec-fetch-site", "none", "cross-site")]
        {
            for pair in [[first, second], [second, first]] {
                let headers = [("host", "localhost:3500"), (name, pair[0]), (name, pair[1])];
                assert!(check(&Allowed::default(), &headers).is_err(), "{headers:?}");
            }
        }
        let uri = Uri::from_static("http://a@localhost/");
        assert!(Allowed::default().check(&uri, &headers(&[]), None).is_err());
    }

    #[test]
    fn what_is_listed_may_call() {
        let hosts =
            |hosts: &[&str]| Allowed { hosts: hosts.iter().map(|&host| host.into()).collect(), ..Allowed::default() };
        assert_eq!(check(&hosts(&["x", "host.svc"]), &[("host", "HOST.svc.:3500")]), Ok(()));
        assert!(check(&hosts(&["host"]), &[("host", "host.evil")]).is_err());
        assert_eq!(check(&hosts(&["*"]), &[("host", "anything")]), Ok(()));
        let page = [("host", "localhost"), ("origin", "https://a.example"), ("sec-fetch-site", "cross-site")];
        assert!(check(&hosts(&["*"]), &page).is_err(), "a host is no origin");
        for origin in ["*", "https://a.example"] {
            let allowed = Allowed { origins: vec![origin.into()], ..Allowed::default() };
            assert_eq!(check(&allowed, &page), Ok(()));
            assert!(check(&allowed, &[("host", "evil.example")]).is_err(), "an origin is no host");
        }
    }

    #[test]
    fn without_a_name_nobody_may_call_unless_any_name_will_do() {
        let uri = Uri::from_static("/v1.0/metadata");
        let any = Allowed { hosts: vec!["*".into()], ..Allowed::default() };
        let check = |allowed: &Allowed, pairs| allowed.check_nameless(&uri, &headers(pairs));
        assert_eq!(check(&Allowed::default(), &[]), Err(Stranger::Nameless));
        assert_eq!(check(&any, &[]), Ok(()));
        assert_eq!(check(&any, &[("origin", "https://evil.example")]), Err(Stranger::Origin));
        let said = Stranger::Nameless.explained("set X, or ", &FLAGS);
        assert!(said.ends_with(r#": set X, or add "*" to --allowed-hosts"#), "{said}");
    }

    #[test]
    fn a_request_has_one_host() {
        let uri = Uri::from_static("/");
        let of = |version, pairs: &[(&'static str, &str)]| host(version, &uri, &headers(pairs)).is_ok();
        assert!(of(Version::HTTP_11, &[("host", "a")]) && of(Version::HTTP_11, &[("host", "")]));
        assert!(!of(Version::HTTP_11, &[]) && of(Version::HTTP_10, &[]) && !of(Version::HTTP_2, &[]));
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert!(!of(version, &[("host", "a"), ("host", "a")]));
            assert!(
                !of(version, &[("host", "a b")])
                    && !of(version, &[("host", "a@b")])
                    && !of(version, &[("host", "a/b")])
            );
        }
        assert!(host(Version::HTTP_2, &Uri::from_static("http://a/"), &headers(&[])).is_ok());
    }
}
