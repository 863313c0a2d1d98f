//! WASI 0.3 as the gateway's guests need it: bodies read and written within limits, headers, the environment, and lines
//! for whoever runs the guest. As `dingtalk-wasi` for WASI 0.2, but that other requests go on meanwhile.
//!
//! Nothing is here but on WebAssembly: only there are WASI's functions.

#![cfg(target_family = "wasm")]

use std::pin::pin;
use std::time::Duration;

use bindings::wasi::cli::{environment, stderr};
use bindings::wasi::clocks::{monotonic_clock, system_clock};
use bindings::wasi::http::types::{ErrorCode, Fields, Request, RequestOptions, Response, Trailers};
use bindings::{wit_future, wit_stream};
use dingtalk_api::unread::Unread;
use dingtalk_gateway_core::wire;
use futures_util::future::{Either, select};
use http::HeaderMap;
use wit_bindgen::{FutureReader, FutureWriter, StreamReader, StreamResult, StreamWriter};

#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "generated from wit/, where the documentation is"
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit", "../../wit/component/p3"],
        world: "dingtalk:component-p3/guest",
        generate_all,
    });
}

/// Nobody who reads the log keeps an answer from its client.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// What is read at once of a body whose length is not known.
const PART: usize = 16 << 10;

/// How a body ends: with trailers, or with what has gone wrong.
type End = Result<Option<Trailers>, ErrorCode>;

/// A body that comes in.
pub struct Incoming {
    stream: StreamReader<u8>,
    end: Option<FutureReader<End>>,
    /// What says, by its end, that we are through with the body. A runtime may close the connection then.
    _handled: FutureWriter<Result<(), ErrorCode>>,
}

impl Incoming {
    /// That of a request.
    pub fn of_request(request: Request) -> Self {
        let (handled, result) = wit_future::new::<Result<(), ErrorCode>>(|| Ok(()));
        let (stream, end) = Request::consume_body(request, result);
        Self { stream, end: Some(end), _handled: handled }
    }

    /// That of an answer.
    pub fn of_response(response: Response) -> Self {
        let (handled, result) = wit_future::new::<Result<(), ErrorCode>>(|| Ok(()));
        let (stream, end) = Response::consume_body(response, result);
        Self { stream, end: Some(end), _handled: handled }
    }

    /// Reads to the end: at most `limit` bytes, until the monotonic clock shows `deadline` (nanoseconds). `announced` is how
    /// many there will be, if that is known, and otherwise 0: memory that grew step by step is never given back.
    pub async fn read(&mut self, limit: usize, announced: usize, deadline: u64) -> Result<Vec<u8>, Unread> {
        within(deadline, self.whole(limit, announced)).await.unwrap_or(Err(Unread::TooSlow))
    }

    async fn whole(&mut self, limit: usize, announced: usize) -> Result<Vec<u8>, Unread> {
        // One byte more than there may be.
        let mut bytes = Vec::with_capacity(announced.min(limit).saturating_add(1));
        loop {
            if bytes.capacity() == bytes.len() {
                bytes.reserve(PART);
            }
            let (result, read) = self.stream.read(bytes).await;
            bytes = read;
            if bytes.len() > limit {
                return Err(Unread::TooLong);
            }
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
        }
        // A body that breaks off ends like one that is complete; the difference is here. wasmtime's way out does not tell
        // it of a connection that it gave up itself.
        let has_broken_off = match self.end.take() {
            Some(end) => end.await.is_err(),
            None => false,
        };
        if has_broken_off || bytes.len() < announced { Err(Unread::Incomplete) } else { Ok(bytes) }
    }

    /// Reads what is left of a body that nobody wants.
    pub async fn drain(&mut self) {
        within(deadline(DRAIN_TIMEOUT), async {
            let (mut left, mut piece) = (DRAIN, Vec::with_capacity(DRAIN_PIECE));
            while left > 0 {
                piece.clear();
                let (result, read) = self.stream.read(piece).await;
                piece = read;
                left = left.saturating_sub(piece.len());
                if !matches!(result, StreamResult::Complete(_)) {
                    return;
                }
            }
        })
        .await;
    }
}

/// Of a body that is too long, how much is read all the same, and for how long: who is still sending may not hear the
/// answer.
const DRAIN: usize = 32 << 20;
const DRAIN_PIECE: usize = 64 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A body that goes out.
pub struct Outgoing {
    stream: StreamWriter<u8>,
    end: FutureWriter<End>,
}

impl Outgoing {
    /// Writes all of `bytes` and ends. A reader that has gone is no failure of ours.
    pub async fn write(mut self, bytes: Vec<u8>) {
        self.stream.write_all(bytes).await;
        drop(self.stream);
        // Without trailers.
        drop(self.end);
    }
}

/// What tells whether a body went out. It is kept until the answer has been read, and the body's writing too: without,
/// wasmtime 49 lost answers whose body came later than their head.
pub struct Sent(#[expect(dead_code, reason = "its end is what counts")] FutureReader<Result<(), ErrorCode>>);

/// A request with these headers, and what its body of `length` bytes is written to.
pub fn request(headers: &HeaderMap, length: usize, options: RequestOptions) -> (Request, Outgoing, Sent) {
    let (stream, contents) = wit_stream::new::<u8>();
    let (end, trailers) = wit_future::new::<End>(|| Ok(None));
    let (request, sent) = Request::new(fields(headers, Some(length)), Some(contents), trailers, Some(options));
    (request, Outgoing { stream, end }, Sent(sent))
}

/// A response. Its body is written when the call that gives it has come back, in at most `time`: who reads slower than
/// others send keeps memory for nothing.
pub fn response(status: u16, headers: &HeaderMap, length: Option<usize>, body: Vec<u8>, time: Duration) -> Response {
    let (stream, contents) = wit_stream::new::<u8>();
    let (end, trailers) = wit_future::new::<End>(|| Ok(None));
    let (response, sent) = Response::new(fields(headers, length), Some(contents), trailers);
    // The caller has a status; wasi:http knows no other numbers.
    let _ = response.set_status_code(status);
    wit_bindgen::spawn_local(async move {
        let _sent = Sent(sent);
        let _ = within(deadline(time), Outgoing { stream, end }.write(body)).await;
    });
    response
}

/// What comes of `work`, unless the monotonic clock shows `deadline` before.
pub async fn within<T>(deadline: u64, work: impl Future<Output = T>) -> Option<T> {
    // The work first: what is done counts, however late it is looked at.
    match select(pin!(work), pin!(monotonic_clock::wait_until(deadline))).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// What comes of `work`, while `aside` goes on, too, for as long as that takes.
pub async fn alongside<T>(work: impl Future<Output = T>, aside: impl Future<Output = ()>) -> T {
    match select(pin!(work), pin!(aside)).await {
        Either::Left((done, _)) => done,
        Either::Right(((), work)) => work.await,
    }
}

/// The fields as headers; what cannot be one is left out.
pub fn headers(fields: &Fields) -> HeaderMap {
    wire::headers(fields.copy_all())
}

/// Headers as fields, with the length of the body.
fn fields(headers: &HeaderMap, length: Option<usize>) -> Fields {
    let entries = wire::fields(headers, length);
    // A host that forbids one of them gets those that it allows.
    Fields::from_list(&entries).unwrap_or_else(|_| {
        let fields = Fields::new();
        for (name, value) in &entries {
            let _ = fields.append(name, value);
        }
        fields
    })
}

/// The environment variables.
pub fn environment() -> Vec<(String, String)> {
    environment::get_environment()
}

/// The moment `time` from now on the monotonic clock.
pub fn deadline(time: Duration) -> u64 {
    monotonic_clock::now().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Milliseconds since the Unix epoch.
pub fn now() -> u64 {
    let now = system_clock::now();
    // Before 1970: as wrong as any clock that DingTalk refuses.
    let seconds = u64::try_from(now.seconds).unwrap_or_default();
    seconds.saturating_mul(1_000).saturating_add(u64::from(now.nanoseconds) / 1_000_000)
}

/// Writes one line for whoever runs the guest.
pub async fn log(line: &str) {
    let line = wire::line(line).into_bytes();
    within(deadline(LOG_TIMEOUT), async {
        let (mut stream, contents) = wit_stream::new::<u8>();
        let written = stderr::write_via_stream(contents);
        stream.write_all(line).await;
        drop(stream);
        // There is nobody to tell that it cannot be written.
        let _ = written.await;
    })
    .await;
}
