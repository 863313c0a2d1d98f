//! Sends a post through wasi:http: the only file that touches it.
//!
//! A call costs the host about 28 crossings, which is most of its time, so this writes all headers with one
//! call and the body with as few as the host allows.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use wasi::clocks::wall_clock;
use wasi::http::outgoing_handler;
use wasi::http::types::{
    ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme as WasiScheme,
    http_error_code,
};
use wasi::io::streams::{InputStream, StreamError};

use crate::answer::{Answer, MAX_BODY};
use crate::endpoint::Scheme;
use crate::error::{InvokeCause, InvokeError, Outcome};
use crate::operation::Post;

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let now = wall_clock::now();
    now.seconds.saturating_mul(1_000).saturating_add(u64::from(now.nanoseconds) / 1_000_000)
}

/// Posts once. Whatever HTTP answers is an [`Answer`]; an error means that there was none. The call's time began at
/// `start`.
pub(crate) fn post(post: &Post<'_>, start: u64) -> Result<Answer, InvokeError> {
    let failed = |code: &ErrorCode| unreachable(post, code);
    let request = request(post).map_err(|what| InvokeError {
        cause: InvokeCause::Unreachable(format!("the host refused the request ({what})")),
        outcome: Outcome::NotSent,
    })?;
    let body = request.body().map_err(|()| failed(&ErrorCode::InternalError(None)))?;
    let options = RequestOptions::new();
    // A host may not support a time limit; it then applies its own.
    let _ = options.set_connect_timeout(Some(nanos(post.connect_timeout)));
    let _ = options.set_first_byte_timeout(Some(nanos(post.timeout)));
    let _ = options.set_between_bytes_timeout(Some(nanos(post.timeout)));
    let response = outgoing_handler::handle(request, Some(options)).map_err(|code| failed(&code))?;
    // A server may answer before it has read everything. What counts is the answer, and where there is none,
    // its error says more than the body's.
    let _ = write(&body, &post.body);
    let _ = OutgoingBody::finish(body, None);
    response.subscribe().block();
    match response.get() {
        Some(Ok(response)) => answer(post, start, &response.map_err(|code| failed(&code))?),
        // The value is there once `block` returns, and is taken once.
        Some(Err(())) | None => Err(failed(&ErrorCode::InternalError(None))),
    }
}

fn request(post: &Post<'_>) -> Result<OutgoingRequest, &'static str> {
    let json = || b"application/json".to_vec();
    let headers = Fields::from_list(&[
        ("accept".into(), json()),
        ("content-type".into(), json()),
        // Without it the body is sent in chunks, which some gateways in front of DingTalk refuse.
        ("content-length".into(), post.body.len().to_string().into_bytes()),
    ])
    .map_err(|_| "headers")?;
    let request = OutgoingRequest::new(headers);
    let scheme = match post.endpoint.origin().scheme() {
        Scheme::Http => WasiScheme::Http,
        Scheme::Https => WasiScheme::Https,
    };
    request.set_method(&Method::Post).map_err(|()| "method")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(post.endpoint.authority())).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&post.target)).map_err(|()| "path and query")?;
    Ok(request)
}

fn write(body: &OutgoingBody, mut bytes: &[u8]) -> Result<(), StreamError> {
    let Ok(stream) = body.write() else { return Err(StreamError::Closed) };
    while !bytes.is_empty() {
        let room = stream.check_write()?;
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        stream.write(now)?;
        bytes = later;
    }
    Ok(())
}

fn answer(post: &Post<'_>, start: u64, response: &IncomingResponse) -> Result<Answer, InvokeError> {
    let mut answer = Answer { status: response.status(), body: Vec::new(), complete: true };
    // Only a 200 can carry a result.
    if answer.status != 200 {
        return Ok(answer);
    }
    let Ok(body) = response.consume() else { return Ok(answer) };
    let Ok(stream) = body.stream() else { return Ok(answer) };
    let is_late = || u128::from(now().saturating_sub(start)) > post.timeout.as_millis();
    match read(&stream, is_late, &mut answer.body) {
        Ok(()) => Ok(answer),
        Err(Some(ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout)) => {
            Err(unreachable(post, &ErrorCode::HttpResponseTimeout))
        }
        Err(_) => Ok(Answer { complete: false, ..answer }),
    }
}

/// Reads to the end, or one byte past what an answer may have, or until it is late: wasi:http's time limits are
/// for the first byte and between two of them, so that a host which has no limit of its own would let an answer
/// drip for hours. The first part, which is nearly always all, is not worth asking the clock for.
fn read(stream: &InputStream, is_late: impl Fn() -> bool, body: &mut Vec<u8>) -> Result<(), Option<ErrorCode>> {
    while body.len() <= MAX_BODY {
        let room = MAX_BODY.saturating_add(1).saturating_sub(body.len()) as u64;
        match stream.blocking_read(room) {
            Ok(_) if !body.is_empty() && is_late() => return Err(Some(ErrorCode::HttpResponseTimeout)),
            Ok(bytes) => body.extend_from_slice(&bytes),
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => return Err(http_error_code(&error)),
        }
    }
    Ok(())
}

/// What an error of wasi:http means, and whether the message can have arrived. Everything that happens after
/// the connection stands is `unknown`: the bytes may have been read before it broke.
fn unreachable(post: &Post<'_>, code: &ErrorCode) -> InvokeError {
    let host = post.endpoint.authority();
    let limit = |time| format!("{} ms", nanos(time) / 1_000_000);
    let (reason, outcome) = match code {
        ErrorCode::HttpRequestDenied => {
            let scheme = post.endpoint.origin().scheme().as_str();
            let reason = format!("the egress policy does not allow this binding to reach {scheme}://{host}");
            (reason, Outcome::NotSent)
        }
        ErrorCode::DestinationIpProhibited => {
            (format!("the egress policy does not allow the address of {host}"), Outcome::NotSent)
        }
        ErrorCode::DnsTimeout | ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => {
            let host = post.endpoint.origin().host();
            let reason = format!("the name {host} cannot be resolved; check the property \"url\" and DNS");
            (reason, Outcome::NotSent)
        }
        ErrorCode::ConnectionRefused => (format!("{host} refuses connections"), Outcome::NotSent),
        ErrorCode::DestinationUnavailable | ErrorCode::DestinationIpUnroutable => {
            let reason = format!("no connection to {host} comes about; check the network and the proxy, if one is set");
            (reason, Outcome::NotSent)
        }
        ErrorCode::ConnectionTimeout => {
            let time = limit(post.connect_timeout.min(post.timeout));
            let reason = format!("connecting to {host} took longer than {time}");
            (reason, Outcome::NotSent)
        }
        ErrorCode::ConnectionLimitReached => ("the host has no connection left".into(), Outcome::NotSent),
        ErrorCode::TlsCertificateError => {
            (format!("the certificate of {host} is not trusted or not valid for this name"), Outcome::NotSent)
        }
        ErrorCode::TlsProtocolError => (format!("no TLS connection to {host} came about"), Outcome::NotSent),
        ErrorCode::HttpRequestLengthRequired
        | ErrorCode::HttpRequestBodySize(_)
        | ErrorCode::HttpRequestMethodInvalid
        | ErrorCode::HttpRequestUriInvalid
        | ErrorCode::HttpRequestUriTooLong
        | ErrorCode::HttpRequestHeaderSectionSize(_)
        | ErrorCode::HttpRequestHeaderSize(_) => {
            ("the host refused the request: URL, headers or message are too large".into(), Outcome::NotSent)
        }
        ErrorCode::HttpResponseTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::ConnectionWriteTimeout => {
            (format!("{host} did not answer within {}", limit(post.timeout)), Outcome::Unknown)
        }
        ErrorCode::ConnectionTerminated | ErrorCode::HttpResponseIncomplete => {
            (format!("{host} closed the connection without an answer"), Outcome::Unknown)
        }
        ErrorCode::HttpProtocolError => (format!("{host} does not speak HTTP"), Outcome::Unknown),
        _ => (format!("sending to {host} failed"), Outcome::Unknown),
    };
    InvokeError { cause: InvokeCause::Unreachable(reason), outcome }
}

fn nanos(time: core::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
