//! W3C trace context, which Dapr hands on in both directions.

use http::header::HeaderMap;

/// Its headers.
pub const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// Hands the caller's trace on as metadata, as daprd does; these headers win over metadata of the same name.
pub fn add(headers: &HeaderMap, metadata: &mut Vec<(String, String)>) -> Result<(), String> {
    for name in TRACE {
        let mut values = Vec::new();
        for value in headers.get_all(name) {
            values.push(value.to_str().map_err(|_| format!("invalid {name} header: it is not ASCII"))?);
        }
        let value = values.join(",");
        if value.is_empty() {
            continue;
        }
        if name == "baggage" {
            check_baggage(&value).map_err(|what| format!("invalid baggage header: {what}"))?;
        }
        metadata.retain(|(known, _)| known != name);
        metadata.push((name.to_owned(), value));
    }
    Ok(())
}

/// W3C baggage: at most 8,192 bytes and 180 members `key=value[;property]…`, separated by commas.
fn check_baggage(value: &str) -> Result<(), String> {
    if value.len() > 8_192 {
        return Err("it is longer than 8192 bytes".into());
    }
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    for (index, member) in value.split(',').enumerate() {
        let pair = member.split(';').next().unwrap_or_default();
        let valid = index < 180
            && pair.split_once('=').is_some_and(|(key, value)| {
                let (key, value) = (key.trim(), value.trim());
                !key.is_empty()
                    && key.bytes().all(is_token)
                    && value.bytes().all(|b| b.is_ascii_graphic() && !b"\",;\\".contains(&b))
            });
        if !valid {
            return Err(format!("member {} is not key=value", index + 1));
        }
    }
    Ok(())
}

/// The sender's trace, where there is one that can be handed on.
pub fn of_callback(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut trace = Vec::new();
    // A trace that cannot be read is no reason to lose a message.
    let _ = add(headers, &mut trace);
    if !trace.iter().any(|(name, value)| name == TRACE[0] && is_traceparent(value)) {
        trace.clear();
    }
    trace
}

/// W3C trace context, section 3.2: version, trace, parent and flags, in lower case; neither id is zero.
fn is_traceparent(value: &str) -> bool {
    let mut parts = value.split('-');
    let mut part = |length| {
        let part = parts.next().filter(|part| part.len() == length);
        part.filter(|part| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let (version, trace, parent, flags) = (part(2), part(32), part(16), part(2));
    let is_id = |part: Option<&str>| part.is_some_and(|part| part.bytes().any(|b| b != b'0'));
    // Later versions may have more parts.
    let complete = version.is_some_and(|version| version != "ff" && (version != "00" || parts.next().is_none()));
    complete && is_id(trace) && is_id(parent) && flags.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traced(headers: &[(&'static str, &str)]) -> Result<Vec<(String, String)>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut metadata = vec![("traceparent".into(), "caller's".into()), ("other".into(), "kept".into())];
        add(&map, &mut metadata).map(|()| metadata)
    }

    #[test]
    fn the_trace_becomes_metadata() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(traced(&[]), Ok(vec![pair("traceparent", "caller's"), pair("other", "kept")]));
        let headers = [("traceparent", "00-1-2-01"), ("baggage", "a=1;p"), ("baggage", "b=%20")];
        let expected = vec![pair("other", "kept"), pair("traceparent", "00-1-2-01"), pair("baggage", "a=1;p,b=%20")];
        assert_eq!(traced(&headers), Ok(expected));
    }

    #[test]
    fn invalid_baggage_is_refused() {
        for value in ["a", "=1", "a=1,,b=2", "a b=1", "a=\"1\"", "a=1 2"] {
            let error = traced(&[("baggage", value)]).expect_err(value);
            assert!(error.starts_with("invalid baggage header: member"), "{value}: {error}");
        }
        assert!(traced(&[("baggage", &"a=1,".repeat(3_000))]).is_err());
    }

    #[test]
    fn a_trace_without_a_parent_is_none() {
        let mut headers = HeaderMap::new();
        headers.append("tracestate", "a=1".parse().unwrap());
        assert_eq!(of_callback(&headers), []);
        headers.append("traceparent", TRACEPARENT.parse().unwrap());
        assert_eq!(of_callback(&headers).len(), 2);
        // Two are none.
        headers.append("traceparent", TRACEPARENT.parse().unwrap());
        assert_eq!(of_callback(&headers), []);
    }

    /// The example of the W3C's text.
    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn parents_as_w3c_writes_them() {
        assert!(is_traceparent(TRACEPARENT));
        assert!(is_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like"));
        for wrong in [
            "",
            "00-1-2-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(wrong), "{wrong}");
        }
    }
}
