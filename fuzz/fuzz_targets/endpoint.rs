//! [`Endpoint::parse`] finds the host that other parsers find, loses no parameter but the signature's, and
//! shows nothing secret.

#![no_main]

use dingtalk_binding::endpoint::{Endpoint, SentSignature};
use dingtalk_binding::secret::Secret;
use dingtalk_fuzz::{as_browsers_do, signature};
use libfuzzer_sys::fuzz_target;
use url::{Host, Url, form_urlencoded};

/// What stands for a token in every URL.
const TOKEN: &str = "T0K3Nvalue";
const TIME: u64 = 1_700_000_000_000;

fuzz_target!(|url: &str| {
    // A token of the target's own, where nothing else can be secret by chance.
    if !url.contains(TOKEN) && !url.contains('#') {
        let separator = if url.contains('?') { "&" } else { "/?" };
        if let Err(error) = Endpoint::parse(&format!("{url}{separator}access_token={TOKEN}")) {
            assert!(!error.contains(TOKEN), "{error}");
        }
    }
    let Ok(endpoint) = Endpoint::parse(url) else { return };
    let origin = endpoint.origin();
    assert_eq!(format!("{endpoint:?}"), format!("{origin}/[redacted]"));
    assert_eq!(origin.to_string(), format!("{}://{}:{}", origin.scheme().as_str(), origin.host(), origin.port()));

    let secret = Secret::new("secret");
    let sent = SentSignature::new(&secret, TIME);
    assert!(!format!("{sent:?}").contains(sent.secrets()[0]));
    let target = endpoint.target(Some(&sent));
    assert!(target.starts_with('/') && target.bytes().all(|byte| (0x21..0x7f).contains(&byte)), "{target:?}");
    let whole = format!("{}://{}{target}", origin.scheme().as_str(), endpoint.authority());

    let uri: http::Uri = whole.parse().unwrap_or_else(|error| panic!("{error}: {whole:?}"));
    assert_eq!((uri.host(), uri.port_u16().unwrap_or(origin.port())), (Some(origin.host()), origin.port()));
    let received = as_browsers_do(url);
    for read in [received.as_ref(), Url::parse(&whole).ok().as_ref()].into_iter().flatten() {
        assert_eq!(read.scheme(), origin.scheme().as_str(), "{url:?}");
        assert_eq!(read.port_or_known_default(), Some(origin.port()), "{url:?}");
        match read.host() {
            // The one address in its many spellings.
            Some(Host::Ipv6(address)) => assert_eq!(origin.host(), format!("[{}]", bare(origin.host(), address))),
            host => assert_eq!(host.map(|host| host.to_string()).as_deref(), Some(origin.host()), "{url:?}"),
        }
    }

    // A server finds one signature, the new one, and every other parameter with its value.
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let found: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let given = received.as_ref().and_then(Url::query).unwrap_or_default();
    let mut expected: Vec<(String, String)> = form_urlencoded::parse(given.as_bytes())
        .into_owned()
        .filter(|(name, _)| name != "timestamp" && name != "sign")
        .collect();
    expected.push(("timestamp".into(), TIME.to_string()));
    expected.push(("sign".into(), signature("secret", TIME.to_string().as_bytes())));
    if received.is_some() {
        assert_eq!(found, expected, "{url:?}");
    }
});

/// The text of an address in brackets, if it is this address.
fn bare(host: &str, address: std::net::Ipv6Addr) -> &str {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    assert_eq!(bare.parse(), Ok(address));
    bare
}
