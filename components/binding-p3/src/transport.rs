//! Sends a post through wasi:http 0.3: the only file that touches it. As src/transport.rs, but that other calls of the
//! instance go on while this one waits.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::pin::pin;

use dingtalk_binding::answer::{Answer, MAX_BODY};
use dingtalk_binding::endpoint::Scheme;
use dingtalk_binding::error::InvokeError;
use dingtalk_binding::failure::{Failure, nanos};
use dingtalk_binding::operation::Post;
use futures_util::future::{Either, select};
use wit_bindgen::{StreamReader, StreamResult};

use crate::exports::bindings::wasi::clocks::system_clock;
use crate::exports::bindings::wasi::http::client;
use crate::exports::bindings::wasi::http::types::{
    ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme as WasiScheme, Trailers,
};
use crate::exports::bindings::{wit_future, wit_stream};

/// Of an answer, what is read at once: more than any answer of DingTalk's.
const PART: usize = 4 * 1024;

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let now = system_clock::now();
    // Before 1970: as wrong as any clock that DingTalk refuses.
    let seconds = u64::try_from(now.seconds).unwrap_or_default();
    seconds.saturating_mul(1_000).saturating_add(u64::from(now.nanoseconds) / 1_000_000)
}

/// Posts once. Whatever HTTP answers is an [`Answer`]; an error means that there was none. The call's time began at
/// `start`.
pub(crate) async fn post(post: &Post<'_>, start: u64) -> Result<Answer, InvokeError> {
    let refused = |what| Failure::Unacceptable(what).explain(post);
    let headers = headers(post.body.len()).map_err(refused)?;
    let options = RequestOptions::new();
    // A host may not support a time limit; it then applies its own.
    let _ = options.set_connect_timeout(Some(nanos(post.connect_timeout)));
    let _ = options.set_first_byte_timeout(Some(nanos(post.timeout)));
    let _ = options.set_between_bytes_timeout(Some(nanos(post.timeout)));
    let (mut body, contents) = wit_stream::new::<u8>();
    let (end, trailers) = wit_future::new::<Result<Option<Trailers>, ErrorCode>>(|| Ok(None));
    let (request, _sent) = Request::new(headers, Some(contents), trailers, Some(options));
    address(&request, post).map_err(refused)?;
    let answer = pin!(async {
        let response = client::send(request).await.map_err(|code| failure(&code).explain(post))?;
        answer(post, start, response).await
    });
    let write = pin!(async {
        let _ = body.write_all(post.body.clone()).await;
        drop(body);
        // Without trailers.
        drop(end);
    });
    // A server may answer before it has read everything. What counts is the answer, and where there is none,
    // its error says more than the body's.
    match select(answer, write).await {
        Either::Left((answer, _)) => answer,
        Either::Right(((), answer)) => answer.await,
    }
}

fn headers(length: usize) -> Result<Fields, &'static str> {
    let json = || b"application/json".to_vec();
    Fields::from_list(&[
        ("accept".into(), json()),
        ("content-type".into(), json()),
        // Without it the body is sent in chunks, which some gateways in front of DingTalk refuse.
        ("content-length".into(), length.to_string().into_bytes()),
    ])
    .map_err(|_| "headers")
}

fn address(request: &Request, post: &Post<'_>) -> Result<(), &'static str> {
    let scheme = match post.endpoint.origin().scheme() {
        Scheme::Http => WasiScheme::Http,
        Scheme::Https => WasiScheme::Https,
    };
    request.set_method(&Method::Post).map_err(|()| "method")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(post.endpoint.authority())).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&post.target)).map_err(|()| "path and query")
}

async fn answer(post: &Post<'_>, start: u64, response: Response) -> Result<Answer, InvokeError> {
    let mut answer = Answer { status: response.get_status_code(), body: Vec::new(), complete: true };
    // Only a 200 can carry a result.
    if answer.status != 200 {
        return Ok(answer);
    }
    let (_read, result) = wit_future::new::<Result<(), ErrorCode>>(|| Ok(()));
    let (mut stream, end) = Response::consume_body(response, result);
    let is_late = || u128::from(now().saturating_sub(start)) > post.timeout.as_millis();
    match read(&mut stream, is_late, &mut answer.body).await {
        Read::Late => return Err(Failure::Timeout.explain(post)),
        Read::Enough => return Ok(answer),
        Read::End => {}
    }
    // A body that breaks off ends like one that is complete; the difference is here.
    match end.await {
        Ok(_) => Ok(answer),
        Err(ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout) => Err(Failure::Timeout.explain(post)),
        Err(_) => Ok(Answer { complete: false, ..answer }),
    }
}

/// Why reading ended.
enum Read {
    /// There is no more.
    End,
    /// There may be more than an answer can have.
    Enough,
    /// The call's time is over.
    Late,
}

/// Reads to the end, or one byte past what an answer may have, or until it is late: wasi:http's time limits are
/// for the first byte and between two of them, so that a host which has no limit of its own would let an answer
/// drip for hours. The first part, which is nearly always all, is not worth asking the clock for.
async fn read(stream: &mut StreamReader<u8>, is_late: impl Fn() -> bool, body: &mut Vec<u8>) -> Read {
    loop {
        let room = MAX_BODY.saturating_add(1).saturating_sub(body.len());
        if room == 0 {
            return Read::Enough;
        }
        let first = body.is_empty();
        let (result, part) = stream.read(Vec::with_capacity(room.min(PART))).await;
        if !first && !part.is_empty() && is_late() {
            return Read::Late;
        }
        body.extend_from_slice(&part);
        if !matches!(result, StreamResult::Complete(_)) {
            return Read::End;
        }
    }
}

/// wasi:http's error as the pure modules know it.
fn failure(code: &ErrorCode) -> Failure {
    dingtalk_binding::failure_of!(ErrorCode, code)
}
