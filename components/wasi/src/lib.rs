//! WASI 0.2 as the gateway's guests need it: bodies read and written within limits, headers, the environment, and lines
//! for whoever runs the guest.

use http::{HeaderMap, HeaderName, HeaderValue};
use wasi::cli::{environment, stderr};
use wasi::clocks::monotonic_clock;
use wasi::http::types::Fields;
use wasi::io::poll;
use wasi::io::streams::{InputStream, OutputStream, StreamError};

/// What `blocking-write-and-flush` takes at once.
const PIECE: usize = 4_096;

/// The longest line of the log. Everything in it that somebody else chose is bounded already; this is the last resort.
const MAX_LINE: usize = 2_048;

/// Why a body is not there as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// There is more than was asked for.
    TooLong,
    /// It ended early.
    Incomplete,
    /// Its time was up.
    TooSlow,
}

/// Reads to the end: at most `limit` bytes, until the monotonic clock shows `deadline` (nanoseconds).
pub fn read(stream: &InputStream, limit: usize, deadline: u64) -> Result<Vec<u8>, Unread> {
    let mut bytes = Vec::new();
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

/// Writes all of `bytes`. A reader that has gone is no failure of ours.
pub fn write(stream: &OutputStream, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE) {
        if stream.blocking_write_and_flush(piece).is_err() {
            return;
        }
    }
}

/// The fields as headers; what cannot be one is left out.
pub fn headers(fields: &Fields) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.entries() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// Headers as fields, with the length of the body: without it the body would be sent in chunks.
pub fn fields(headers: &HeaderMap, length: Option<usize>) -> Fields {
    let mut entries: Vec<(String, Vec<u8>)> =
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    entries.extend(length.map(|length| ("content-length".to_owned(), length.to_string().into_bytes())));
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

/// The moment `seconds` from now on the monotonic clock.
pub fn deadline(seconds: u64) -> u64 {
    monotonic_clock::now().saturating_add(seconds.saturating_mul(1_000_000_000))
}

/// Writes one line for whoever runs the guest. What could begin another line, or speak to a terminal, is blanked out.
pub fn log(line: &str) {
    let end = line.floor_char_boundary(MAX_LINE);
    let mut line: String =
        line.get(..end).unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.push('\n');
    write(&stderr::get_stderr(), line.as_bytes());
}
