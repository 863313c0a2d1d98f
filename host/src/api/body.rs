//! A request's body: whole and in time, or why not, with the sender in a state to hear the answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

/// Of a body that is too long, how much is read all the same, and for how long.
const DRAIN: usize = 32 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a body cannot be used.
pub(super) enum Unread {
    TooLong,
    Incomplete,
    TooSlow,
}

/// Reads a body of at most `limit` bytes within `time`.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Incoming,
    limit: usize,
    time: Duration,
) -> Result<Bytes, Unread> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        // Who waits for leave to send the body hears the answer without it.
        if !headers.contains_key(EXPECT) {
            drain(&mut body).await;
        }
        return Err(Unread::TooLong);
    }
    match tokio::time::timeout(time, Limited::new(&mut body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            drain(&mut body).await;
            Err(Unread::TooLong)
        }
        Ok(Err(_)) => Err(Unread::Incomplete),
        Err(_) => Err(Unread::TooSlow),
    }
}

/// Reads on without keeping anything. A sender whose connection is closed while it writes sees no answer, and sends
/// the same again.
async fn drain(body: &mut Incoming) {
    let rest = async {
        let mut drained = 0;
        while drained < DRAIN
            && let Some(Ok(frame)) = body.frame().await
        {
            drained += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whatever is left then is the sender's loss.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, rest).await;
}
