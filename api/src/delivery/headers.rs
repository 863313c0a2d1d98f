//! What the binding says about an event, as HTTP headers: names as daprd maps them, values that survive any server.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::trace::TRACE;

/// The longest value after encoding. Servers refuse heads over 8 to 16 KiB (nginx 8, Node 16, h11 16), and one
/// that is refused for its head is refused on every attempt. The body has it all.
const MAX_VALUE: usize = 4 << 10;

/// All metadata headers together, names and separators included: what Node's and h11's 16 KiB leave when the
/// trace, the token and the request line have theirs.
const MAX_HEADERS: usize = 12 << 10;

/// What would change where the request goes or how it is read, or is set by the host itself. The names of the
/// connection are those that daprd drops; `expect` would make a server wait for a body that is already there.
const RESERVED: [&str; 16] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "expect",
    "content-type",
    "content-length",
    "host",
    "destination-app-id",
    "dapr-api-token",
];

/// `%` too, so that decoding gives back any value. What is not ASCII is encoded in any case.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// The headers of one event.
#[derive(Debug)]
pub struct Headers {
    /// Those that fit.
    pub map: HeaderMap,
    /// Names whose values are too long, or came after too many others.
    pub left_out: Vec<HeaderName>,
}

/// One header for each item that can be one, in order.
pub fn from_metadata(metadata: &[(String, String)]) -> Headers {
    let mut headers = Headers { map: HeaderMap::new(), left_out: Vec::new() };
    let mut used = 0;
    for (name, value) in metadata {
        let Some(name) = header_name(name) else { continue };
        // Nothing is shortened by encoding: not worth copying what is too long already.
        let encoded = if value.len() > MAX_VALUE { None } else { Some(encode(value)) };
        let encoded = encoded.filter(|encoded| encoded.len() <= MAX_VALUE);
        // ": " and the line's end.
        let size = encoded.as_ref().map_or(0, |encoded| name.as_str().len() + encoded.len() + 4);
        match encoded.and_then(|encoded| HeaderValue::try_from(encoded).ok()) {
            Some(value) if used + size <= MAX_HEADERS => {
                used += size;
                headers.map.append(name, value);
            }
            _ => headers.left_out.push(name),
        }
    }
    headers
}

/// Trace context of an event. Where it has none, a new trace begins with `beginning`: an application that logs the
/// trace's id can then tell one delivery from another. A `tracestate` without its `traceparent` has no meaning.
pub fn from_trace(trace: &[(String, String)], beginning: impl FnOnce() -> Option<String>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in trace {
        let name = TRACE.iter().find(|known| name.eq_ignore_ascii_case(known));
        if let (Some(name), Ok(value)) = (name, HeaderValue::try_from(value.as_str())) {
            map.append(HeaderName::from_static(name), value);
        }
    }
    if !map.contains_key("traceparent") {
        map.remove("tracestate");
        if let Some(Ok(value)) = beginning().map(HeaderValue::try_from) {
            map.insert("traceparent", value);
        }
    }
    map
}

fn header_name(name: &str) -> Option<HeaderName> {
    let mut name = name.to_ascii_lowercase();
    if RESERVED.contains(&name.as_str()) || TRACE.contains(&name.as_str()) || name.ends_with("-bin") {
        return None;
    }
    if name.starts_with("grpc-") {
        name.insert_str(0, "dapr-");
    }
    HeaderName::try_from(name).ok()
}

/// Visible ASCII and inner spaces as they are, everything else as UTF-8 in percent escapes. Spaces at either end
/// would be removed by the reader.
fn encode(value: &str) -> String {
    let inner = value.trim_matches(' ');
    if inner.is_empty() {
        return "%20".repeat(value.len());
    }
    let before = value.len() - value.trim_start_matches(' ').len();
    let after = value.len() - value.trim_end_matches(' ').len();
    let mut encoded = "%20".repeat(before);
    encoded.extend(utf8_percent_encode(inner, ENCODED));
    encoded.push_str(&"%20".repeat(after));
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    fn pairs(metadata: &[(&str, &str)]) -> Vec<(String, String)> {
        metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn mapped(metadata: &[(&str, &str)]) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let map = from_metadata(&pairs(metadata)).map;
        map.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    #[test]
    fn metadata_as_headers() {
        for (name, value, expected_name, expected_value) in [
            ("msgId", "msg1+/==", "msgid", "msg1+/=="),
            ("senderNick", "张三", "sendernick", "%E5%BC%A0%E4%B8%89"),
            ("text", "100% sure\r\nX: y", "text", "100%25 sure%0D%0AX: y"),
            ("a", "  x y\t", "a", "%20%20x y%09"),
            ("a", "  ", "a", "%20%20"),
            ("a", "", "a", ""),
            ("a", "\u{7f}", "a", "%7F"),
            ("Grpc-Timeout", "1S", "dapr-grpc-timeout", "1S"),
        ] {
            assert_eq!(mapped(&[(name, value)]), pairs(&[(expected_name, expected_value)]), "{name}: {value:?}");
        }
    }

    #[test]
    fn names_that_are_not_handed_on() {
        for name in [
            "Connection",
            "TE",
            "Transfer-Encoding",
            "Upgrade",
            "Expect",
            "Content-Type",
            "content-length",
            "Host",
            "trace-bin",
            "destination-app-id",
            "Dapr-Api-Token",
            "traceparent",
            "TraceState",
            "baggage",
            "keep-alive",
            "proxy-authorization",
            ":authority",
            "with space",
            "中文",
            "a\r\nb",
            "",
        ] {
            assert_eq!(mapped(&[(name, "x"), ("kept", "1")]), pairs(&[("kept", "1")]), "{name:?}");
        }
    }

    #[test]
    fn long_values_and_too_many_are_left_out() {
        let (long, fits, grows) = ("x".repeat(4_097), "x".repeat(4_096), "长".repeat(456));
        let headers = from_metadata(&pairs(&[("long", &long), ("fits", &fits), ("grows", &grows), ("last", "1")]));
        assert_eq!(headers.map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["fits", "last"]);
        assert_eq!(headers.left_out, ["long", "grows"]);

        let many: Vec<_> = (0..200).map(|index| (format!("h{index:03}"), "x".repeat(100))).collect();
        let headers = from_metadata(&many);
        // 4 + 2 + 100 + 2 bytes each.
        assert_eq!(headers.map.len(), 12 * 1024 / 108);
        assert_eq!(headers.left_out.len(), 200 - headers.map.len());
        assert_eq!(headers.left_out[0].as_str(), "h113");
    }

    #[test]
    fn a_trace_is_handed_on() {
        let trace = pairs(&[("traceparent", "00-a-b-01"), ("tracestate", "v=1"), ("baggage", "k=v"), ("x", "y")]);
        let map = from_trace(&trace, || panic!("there is one"));
        assert_eq!(
            (map.len(), &map["traceparent"], &map["tracestate"]),
            (3, &"00-a-b-01".parse().unwrap(), &"v=1".parse().unwrap())
        );
        assert_eq!(map["baggage"], "k=v");
    }

    #[test]
    fn a_trace_begins_where_there_is_none() {
        let map = from_trace(&pairs(&[("tracestate", "v=1")]), || Some("00-a-b-00".into()));
        assert!(!map.contains_key("tracestate"));
        assert_eq!(map["traceparent"], "00-a-b-00");
        assert!(from_trace(&[], || None).is_empty());
    }

    proptest! {
        #[test]
        fn decoding_gives_the_value_back(value: String) {
            let encoded = encode(&value);
            prop_assert!(encoded.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{encoded:?}");
            prop_assert_eq!(encoded.trim(), &encoded);
            prop_assert!(HeaderValue::try_from(&encoded).is_ok());
            prop_assert_eq!(percent_decode_str(&encoded).decode_utf8().unwrap(), value);
        }

        #[test]
        fn what_is_spaces_and_percent_signs_too(value in "[ %a\u{e9}]{0,12}") {
            let encoded = encode(&value);
            prop_assert_eq!(percent_decode_str(&encoded).decode_utf8().unwrap(), value);
        }
    }
}
