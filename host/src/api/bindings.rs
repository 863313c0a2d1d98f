//! `POST` and `PUT /v1.0/bindings/{name}`.

use std::time::Duration;

use http::header::HeaderMap;
use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::reply::{self, Reply};
use super::server::Seat;
use super::{Api, request};
use crate::bindings::InvokeError;
use crate::event::TRACE;
use crate::ingress::body::{self, Share, Unread};
use crate::sandbox;

/// A client that sends its body slower than this holds a connection for nothing.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// From here on, a body is decoded where no other request waits for the thread.
const LONG_BODY: usize = 256 << 10;

impl Api {
    pub(super) async fn invoke(&self, name: &str, request: Request<Incoming>, seat: &Seat) -> Reply {
        let (parts, body) = request.into_parts();
        let (body, _share) = match self.body(&parts.headers, body, seat).await {
            Ok(body) => body,
            Err(unread) => return self.unread(&unread, "failed deserializing HTTP body: "),
        };
        let mut request = match decode(body).await {
            Ok(request) => request,
            Err(what) => return malformed(&format!("failed deserializing HTTP body: {what}")),
        };
        if let Err(what) = add_trace(&parts.headers, &mut request.metadata) {
            return malformed(&what);
        }
        let _call = self.call(seat);
        let operation = request.operation.clone();
        match self.input.invoke(name, request).await {
            Ok(response) => {
                tracing::debug!(binding = name, operation, "invoked");
                let reply = reply::json(StatusCode::OK, response.data.unwrap_or_default());
                reply::with_metadata(reply, &response.metadata)
            }
            Err(error) => {
                // A request that does not fit is its client's business; the others need the operator.
                if let InvokeError::Call(error) = &error {
                    tracing::warn!(binding = name, operation, %error, "invocation failed");
                }
                let message = format!("error invoking output binding {name}: {error}");
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                reply::error(status, "ERR_INVOKE_OUTPUT_BINDING", &message, &error.metadata())
            }
        }
    }

    /// The whole body, with its share of the port's bytes.
    pub(super) async fn body(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        seat: &Seat,
    ) -> Result<(Vec<u8>, Share), Unread> {
        body::read(headers, body, self.max_body_size, BODY_TIMEOUT, &seat.port.budget).await
    }

    /// The answer to a body that cannot be used: daprd's words after `prefix`, where it has any.
    pub(super) fn unread(&self, unread: &Unread, prefix: &str) -> Reply {
        let what = match unread {
            Unread::TooLong => {
                format!("stream too large (more than {} bytes, see --max-body-size)", self.max_body_size)
            }
            Unread::Incomplete => "unexpected EOF".into(),
            Unread::TooSlow => format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()),
            Unread::Busy => return reply::busy("too many long request bodies at once; send it again"),
        };
        malformed(&format!("{prefix}{what}"))
    }
}

pub(super) fn malformed(what: &str) -> Reply {
    reply::error(StatusCode::BAD_REQUEST, "ERR_MALFORMED_REQUEST", what, &[])
}

/// Decodes a body; a long one where nobody else waits for the thread.
async fn decode(body: Vec<u8>) -> Result<sandbox::Request, String> {
    if body.len() < LONG_BODY {
        return request::decode(&body);
    }
    match tokio::task::spawn_blocking(move || request::decode(&body)).await {
        Ok(decoded) => decoded,
        Err(error) => Err(error.to_string()),
    }
}

/// Hands the caller's trace on as metadata, as daprd does; these headers win over metadata of the same name.
pub(super) fn add_trace(headers: &HeaderMap, metadata: &mut Vec<(String, String)>) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_long_body_is_decoded_where_nobody_waits_for_the_thread() {
        for (length, elsewhere) in [(1_000, false), (16 << 20, true)] {
            let body = format!(r#"{{"operation":"create","data":"{}"}}"#, "x".repeat(length)).into_bytes();
            let mut decoding = pin!(decode(body));
            let first = std::future::poll_fn(|context| Poll::Ready(decoding.as_mut().poll(context))).await;
            let decoded = match first {
                Poll::Ready(decoded) => {
                    assert!(!elsewhere);
                    decoded
                }
                Poll::Pending => {
                    assert!(elsewhere);
                    decoding.await
                }
            };
            assert_eq!(decoded.unwrap().data.len(), length + 2);
        }
    }

    fn traced(headers: &[(&'static str, &str)]) -> Result<Vec<(String, String)>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut metadata = vec![("traceparent".into(), "caller's".into()), ("other".into(), "kept".into())];
        add_trace(&map, &mut metadata).map(|()| metadata)
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
}
