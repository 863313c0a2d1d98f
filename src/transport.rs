//! Sends a post through wasi:http: the only file that touches it.
//!
//! A call costs the host about 28 crossings, which is most of its time, so this writes all headers with one
//! call and the body with as few as the host allows.

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
use crate::error::InvokeError;
use crate::failure::{Failure, nanos};
use crate::operation::Post;

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let now = wall_clock::now();
    now.seconds.saturating_mul(1_000).saturating_add(u64::from(now.nanoseconds) / 1_000_000)
}

/// Posts once. Whatever HTTP answers is an [`Answer`]; an error means that there was none. The call's time began at
/// `start`.
pub(crate) fn post(post: &Post<'_>, start: u64) -> Result<Answer, InvokeError> {
    let failed = |code: &ErrorCode| failure(code).explain(post);
    let request = request(post).map_err(|what| Failure::Unacceptable(what).explain(post))?;
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
            Err(Failure::Timeout.explain(post))
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

/// wasi:http's error as the pure modules know it.
fn failure(code: &ErrorCode) -> Failure {
    crate::failure_of!(ErrorCode, code)
}
