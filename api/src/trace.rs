//! W3C trace context, which Dapr hands on in both directions.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
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

/// The caller's `traceparent` from gRPC's older form of it, where there is one: a version of 0; 0 and the trace; 1 and the
/// parent; 2 and the flags.
pub fn of_binary(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get("grpc-trace-bin")?.as_bytes();
    // With its padding or without, as every binary item.
    let encoded = encoded.split(|byte| *byte == b'=').next()?;
    let bytes = STANDARD_NO_PAD.decode(encoded).ok()?;
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    let (trace, rest) = rest.split_first_chunk::<16>()?;
    let (one, rest) = rest.split_first()?;
    let (parent, rest) = rest.split_first_chunk::<8>()?;
    let [two, flags] = rest else { return None };
    let parent = format!("00-{}-{}-{}", hex(trace), hex(parent), hex(&[*flags]));
    (*head == [0, 0] && (*one, *two) == (1, 2) && is_traceparent(&parent)).then_some(parent)
}

/// A trace in that form, for who reads no other; `None` if it is none.
pub fn to_binary(traceparent: &str) -> Option<Vec<u8>> {
    let mut parts = traceparent.split('-').skip(1).filter(|_| is_traceparent(traceparent));
    let (trace, parent, flags) = (bytes(parts.next()?)?, bytes(parts.next()?)?, bytes(parts.next()?)?);
    Some([[0, 0].as_slice(), &trace, &[1], &parent, &[2], &flags].concat())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
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

/// The caller's trace over gRPC, in either form, where there is one.
pub fn of_call(headers: &HeaderMap) -> Vec<(String, String)> {
    let trace = of_callback(headers);
    match of_binary(headers) {
        Some(parent) if trace.is_empty() => vec![(TRACE[0].to_owned(), parent)],
        _ => trace,
    }
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
    fn grpcs_older_form_of_it() {
        // Version, 0 and the trace, 1 and the parent, 2 and the flags, of the example above.
        let binary = [
            &[0, 0][..],
            &0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
            &[1],
            &0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
            &[2, 1],
        ]
        .concat();
        assert_eq!(to_binary(TRACEPARENT).as_ref(), Some(&binary));
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.append("grpc-trace-bin", value.parse().unwrap());
            of_binary(&headers)
        };
        let encoded = STANDARD_NO_PAD.encode(&binary);
        assert_eq!(read(&encoded).as_deref(), Some(TRACEPARENT));
        assert_eq!(read(&format!("{encoded}=")).as_deref(), Some(TRACEPARENT));
        for (at, byte) in [(0, 1), (1, 1), (18, 0), (27, 3)] {
            let mut wrong = binary.clone();
            wrong[at] = byte;
            assert_eq!(read(&STANDARD_NO_PAD.encode(wrong)), None, "{at}");
        }
        for wrong in ["", "AAAA", "!", &STANDARD_NO_PAD.encode([0; 29]), &format!("{encoded}AAAA")] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(to_binary("00-1-2-01"), None);
        assert_eq!(of_binary(&HeaderMap::new()), None);
    }

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
