//! WASI 0.2 as the gateway's guests need it: bodies read and written within limits, headers, the environment, and lines
//! for whoever runs the guest.

use std::time::Duration;

use dingtalk_api::unread::Unread;
use dingtalk_gateway_core::wire;
use http::HeaderMap;
use wasi::cli::{environment, stderr};
use wasi::clocks::{monotonic_clock, wall_clock};
use wasi::http::types::Fields;
use wasi::io::poll::{self, Pollable};
use wasi::io::streams::{InputStream, OutputStream, StreamError};

/// Nobody who reads the log keeps an answer from its client.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads to the end: at most `limit` bytes, until the monotonic clock shows `deadline` (nanoseconds). `announced` is how
/// many there will be, if that is known: memory that grew step by step is never given back.
pub fn read(stream: &InputStream, limit: usize, announced: usize, deadline: u64) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::with_capacity(announced.min(limit));
    let ready = stream.subscribe();
    let late = monotonic_clock::subscribe_instant(deadline);
    loop {
        // One byte more than there may be.
        let room = limit.saturating_add(1).saturating_sub(bytes.len());
        match stream.read(room as u64) {
            Ok(piece) if piece.is_empty() => {
                // The stream first: what has arrived counts, however late it is looked at.
                if !poll::poll(&[&ready, &late]).contains(&0) {
                    return Err(Unread::TooSlow);
                }
            }
            Ok(piece) => {
                bytes.extend_from_slice(&piece);
                if bytes.len() > limit {
                    return Err(Unread::TooLong);
                }
                // Pieces that keep coming are no reason to go on for ever.
                if late.ready() {
                    return Err(Unread::TooSlow);
                }
            }
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(_)) => return Err(Unread::Incomplete),
        }
    }
}

/// Of a body that is too long, how much is read all the same, and for how long: who is still sending may not hear the
/// answer.
const DRAIN: usize = 32 << 20;
const DRAIN_PIECE: usize = 64 << 10;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads what is left of a body that nobody wants.
pub fn drain(stream: &InputStream) {
    let (ready, late) = (stream.subscribe(), monotonic_clock::subscribe_instant(deadline(DRAIN_TIMEOUT)));
    let mut left = DRAIN;
    while left > 0 && poll::poll(&[&ready, &late]).contains(&0) && !late.ready() {
        let Ok(piece) = stream.read(left.min(DRAIN_PIECE) as u64) else { return };
        left = left.saturating_sub(piece.len());
    }
}

/// Writes all of `bytes`, until the monotonic clock shows `deadline`. A reader that has gone, or reads too slowly, is no
/// failure of ours.
pub fn write(stream: &OutputStream, mut bytes: &[u8], deadline: u64) {
    let ready = stream.subscribe();
    let late = monotonic_clock::subscribe_instant(deadline);
    loop {
        match stream.check_write() {
            Ok(0) => {
                if !poll::poll(&[&ready, &late]).contains(&0) {
                    return;
                }
            }
            // All of it has been taken: what is left is up to the runtime.
            Ok(_) if bytes.is_empty() => return,
            Ok(room) => {
                let (piece, rest) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                if stream.write(piece).is_err() || (rest.is_empty() && stream.flush().is_err()) {
                    return;
                }
                bytes = rest;
            }
            Err(_) => return,
        }
    }
}

/// Waits for `pollable` until the monotonic clock shows `deadline`; whether it is ready.
pub fn wait(pollable: &Pollable, deadline: u64) -> bool {
    poll::poll(&[pollable, &monotonic_clock::subscribe_instant(deadline)]).contains(&0)
}

/// The fields as headers; what cannot be one is left out.
pub fn headers(fields: &Fields) -> HeaderMap {
    wire::headers(fields.entries())
}

/// Headers as fields, with the length of the body.
pub fn fields(headers: &HeaderMap, length: Option<usize>) -> Fields {
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
    let now = wall_clock::now();
    now.seconds.saturating_mul(1_000).saturating_add(u64::from(now.nanoseconds) / 1_000_000)
}

/// Writes one line for whoever runs the guest.
pub fn log(line: &str) {
    write(&stderr::get_stderr(), wire::line(line).as_bytes(), deadline(LOG_TIMEOUT));
}
