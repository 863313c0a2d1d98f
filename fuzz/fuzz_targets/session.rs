//! [`Session::endpoint`] lets a message aim the robot's requests at DingTalk and at the operator's hosts alone,
//! whichever way its address is read.

#![no_main]

use arbitrary::Arbitrary;
use dingtalk_binding::error::InvokeCause;
use dingtalk_binding::session::{Session, parse_hosts};
use dingtalk_fuzz::as_browsers_do;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    gateways: bool,
    now: u64,
    expires: Expires<'a>,
    repeated: Option<&'a str>,
    webhook: &'a str,
}

/// The session's last millisecond, seen from `now`.
#[derive(Arbitrary, Debug)]
enum Expires<'a> {
    Never,
    Around(i8),
    At(u64),
    Written(&'a str),
}

const GATEWAYS: &str = "gateway.example.com, 10.0.0.7:8443, http://127.0.0.1:8099, [::1]:99";

/// Scheme, host and port of everywhere that a reply may go.
const ALLOWED: [(&str, &str, u16); 3] =
    [("https", "oapi.dingtalk.com", 443), ("https", "oapi.dingtalk.io", 443), ("https", "api.dingtalk.com", 443)];
const ALLOWED_GATEWAYS: [(&str, &str, u16); 4] = [
    ("https", "gateway.example.com", 443),
    ("https", "10.0.0.7", 8443),
    ("http", "127.0.0.1", 8099),
    ("https", "[::1]", 99),
];

fuzz_target!(|input: Input<'_>| {
    let also = parse_hosts(if input.gateways { GATEWAYS } else { "" }).unwrap();
    let expires = match input.expires {
        Expires::Never => String::new(),
        Expires::Around(by) => input.now.saturating_add_signed(by.into()).to_string(),
        Expires::At(time) => time.to_string(),
        Expires::Written(text) => text.to_owned(),
    };
    let mut metadata = vec![("sessionwebhookexpiredtime", expires.as_str()), ("SESSIONWEBHOOK", input.webhook)];
    let mut webhook = input.webhook;
    if let Some(repeated) = input.repeated {
        metadata.push(("sessionWebhook", repeated));
        webhook = repeated;
    }
    let endpoint = match Session::find(metadata).endpoint(&also, input.now) {
        Ok(endpoint) => endpoint,
        Err(InvokeCause::ExpiredSessionWebhook) => return assert!(expires.parse::<u64>().unwrap() <= input.now),
        Err(InvokeCause::InvalidSessionWebhook(_)) => return,
        Err(other) => panic!("{other:?}"),
    };
    assert!(expires.is_empty() || expires.parse::<u64>().unwrap() > input.now, "after its end, {expires}");

    let allowed = |scheme: &str, host: &str, port: u16| {
        let place = (scheme, host, port);
        ALLOWED.contains(&place) || (input.gateways && ALLOWED_GATEWAYS.contains(&place))
    };
    let origin = endpoint.origin();
    assert!(allowed(origin.scheme().as_str(), origin.host(), origin.port()), "{origin}");
    // As it was received, and as it is sent.
    let scheme = origin.scheme().as_str();
    let sent = format!("{scheme}://{}{}", endpoint.authority(), endpoint.target(None));
    for url in [webhook, &sent] {
        let read = as_browsers_do(url).unwrap_or_else(|| panic!("no URL to browsers: {url:?}"));
        let place = (read.scheme(), read.host_str().unwrap_or_default(), read.port_or_known_default().unwrap_or(0));
        assert!(allowed(place.0, place.1, place.2), "{place:?} for {url:?}");
        assert_eq!((read.username(), read.password()), ("", None), "{url:?}");
    }
    let uri: http::Uri = sent.parse().unwrap();
    assert!(allowed(scheme, uri.host().unwrap(), uri.port_u16().unwrap_or(origin.port())), "{uri}");
});
