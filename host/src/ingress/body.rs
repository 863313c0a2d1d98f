//! A request's body, or the one message that it is: whole, in time and within the port's bytes, or why not, with the
//! sender in a state to hear the answer.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::gzip;

/// Of a body that cannot be taken, how much is read all the same, and for how long.
const DRAIN: usize = 32 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The beginning of every body needs no share: a usual message has a place, however many long bodies hang. The number
/// of requests bounds what that adds up to.
const FREE: usize = 8 << 10;

/// From one piece of a body with a share to the next: who has one keeps it from others.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// The bytes that the bodies of a port may have in memory at once.
pub(crate) struct Budget {
    bytes: Arc<Semaphore>,
    total: usize,
    /// For a share to become free.
    patience: Duration,
}

/// What a body holds of the budget until it is dropped.
pub(crate) type Share = Option<OwnedSemaphorePermit>;

impl Budget {
    pub(crate) fn of(total: usize, patience: Duration) -> Self {
        Self { bytes: Arc::new(Semaphore::new(total)), total, patience }
    }

    async fn share(&self, bytes: usize) -> Result<Share, Unread> {
        let bytes = u32::try_from(bytes.min(self.total)).map_err(|_| Unread::TooLong)?;
        let share = Arc::clone(&self.bytes).acquire_many_owned(bytes);
        match tokio::time::timeout(self.patience, share).await {
            Ok(Ok(share)) => Ok(Some(share)),
            _ => Err(Unread::Busy),
        }
    }
}

/// Why a body cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    TooLong,
    Incomplete,
    TooSlow,
    /// Other bodies have taken all of the port's bytes.
    Busy,
}

/// Reads a body of at most `limit` bytes within `time`.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Incoming,
    limit: usize,
    time: Duration,
    budget: &Budget,
) -> Result<(Vec<u8>, Share), Unread> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let announced = announced.map_or(Announced::Never, Announced::Bytes);
    read_announced(headers, &mut body, announced, limit, time, budget).await
}

/// Reads a body that is one gRPC message of at most `limit` bytes, its prefix not counted, within `time`. A message that
/// its sender has compressed with gzip is inflated, and then its `headers` say nothing of that any more; its length is that
/// of its content.
pub(crate) async fn read_message(
    headers: &mut HeaderMap,
    mut body: Incoming,
    limit: usize,
    time: Duration,
    budget: &Budget,
) -> Result<(Vec<u8>, Share), Unread> {
    let (message, share) =
        read_announced(headers, &mut body, Announced::InPrefix, limit + PREFIX, time, budget).await?;
    if headers.get(ENCODING).is_none_or(|encoding| encoding != "gzip") {
        return Ok((message, share));
    }
    headers.remove(ENCODING);
    let Some((&COMPRESSED, compressed)) = message.split_first() else { return Ok((message, share)) };
    let compressed = compressed.get(PREFIX - 1..).unwrap_or_default();
    let length = gzip::length(compressed).ok_or(Unread::Incomplete)?;
    if length > limit {
        return Err(Unread::TooLong);
    }
    // Who has a share already has one for as much as there may be.
    let mut share = match share {
        None if length > FREE => budget.share(length).await?,
        share => share,
    };
    let mut inflated = vec![0];
    inflated.extend(u32::try_from(length).unwrap_or_default().to_be_bytes());
    gzip::inflate(compressed, length, &mut inflated).ok_or(Unread::Incomplete)?;
    if let Some(share) = &mut share {
        drop(share.split(share.num_permits().saturating_sub(length)));
    }
    Ok((inflated, share))
}

/// How the message of a gRPC call is compressed, if its first byte says that it is.
const ENCODING: &str = "grpc-encoding";
const COMPRESSED: u8 = 1;

/// Of a gRPC message: whether it is compressed, and its length in four bytes.
pub(crate) const PREFIX: usize = 5;

/// Of a gRPC message with its prefix, as far as `begun` tells.
pub(crate) fn message_length(begun: &[u8]) -> usize {
    Announced::InPrefix.length(begun).unwrap_or(begun.len())
}

/// Where a body's length stands.
#[derive(Clone, Copy)]
enum Announced {
    Bytes(usize),
    InPrefix,
    Never,
}

impl Announced {
    /// The whole is longer than what comes, by how much is not known.
    fn is_compressed(self, begun: &[u8]) -> bool {
        matches!(self, Self::InPrefix) && begun.first() == Some(&COMPRESSED)
    }

    /// The length of the whole, once `begun` of it is there.
    fn length(self, begun: &[u8]) -> Option<usize> {
        match (self, begun) {
            (Self::Bytes(length), _) => Some(length),
            (Self::InPrefix, [_, a, b, c, d, ..]) => {
                Some(usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX).saturating_add(PREFIX))
            }
            (Self::InPrefix | Self::Never, _) => None,
        }
    }
}

async fn read_announced(
    headers: &HeaderMap,
    body: &mut Incoming,
    announced: Announced,
    limit: usize,
    time: Duration,
    budget: &Budget,
) -> Result<(Vec<u8>, Share), Unread> {
    // Who waits for leave to send the body hears the answer without it.
    let is_waiting = headers.contains_key(EXPECT);
    if announced.length(&[]).is_some_and(|length| length > limit) {
        if !is_waiting {
            drain(body).await;
        }
        return Err(Unread::TooLong);
    }
    let whole = match tokio::time::timeout(time, whole(body, announced, limit, budget)).await {
        Ok(whole) => whole,
        Err(_) => Err(Unread::TooSlow),
    };
    if matches!(whole, Err(Unread::TooLong)) || (matches!(whole, Err(Unread::Busy)) && !is_waiting) {
        drain(body).await;
    }
    whole
}

/// The pieces are copied into one: kept one by one, a piece of a byte costs fifty.
async fn whole(
    body: &mut Incoming,
    announced: Announced,
    limit: usize,
    budget: &Budget,
) -> Result<(Vec<u8>, Share), Unread> {
    let mut bytes = Vec::new();
    let mut share = None;
    loop {
        if share.is_none()
            && let Some(length) = announced.length(&bytes).filter(|length| *length > FREE)
        {
            if length > limit {
                return Err(Unread::TooLong);
            }
            share = budget.share(if announced.is_compressed(&bytes) { limit } else { length }).await?;
            bytes.reserve_exact(length.saturating_sub(bytes.len()));
        }
        let frame = match tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await {
            Ok(frame) => frame,
            Err(_) if share.is_some() => return Err(Unread::TooSlow),
            Err(_) => continue,
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| Unread::Incomplete)?.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > limit {
            return Err(Unread::TooLong);
        }
        bytes.extend_from_slice(&data);
        let is_whole = matches!(announced, Announced::InPrefix)
            && announced.length(&bytes).is_some_and(|whole| {
                // What comes after the message belongs to no unary call.
                let is_whole = whole <= bytes.len();
                bytes.truncate(whole);
                is_whole
            });
        if share.is_none() && bytes.len() > FREE && (is_whole || announced.length(&bytes).is_none()) {
            // All that may come, at once: bodies that each wait for more while they hold some would wait for ever.
            let is_known = is_whole && !announced.is_compressed(&bytes);
            share = budget.share(if is_known { bytes.len() } else { limit }).await?;
        }
        if is_whole {
            break;
        }
    }
    bytes.shrink_to_fit();
    if let Some(share) = &mut share
        && !announced.is_compressed(&bytes)
    {
        drop(share.split(share.num_permits().saturating_sub(bytes.len())));
    }
    Ok((bytes, share))
}

/// Reads on without keeping anything. A sender whose connection is closed while it writes sees no answer, and sends
/// the same again.
async fn drain(body: &mut Incoming) {
    let rest = async {
        let mut drained = 0;
        while drained < DRAIN
            && let Some(Ok(frame)) = body.frame().await
        {
            drained += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
    };
    // Whatever is left then is the sender's loss.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shares_add_up_to_no_more_than_the_budget_and_the_longest_body_always_fits() {
        let budget = Budget::of(100, Duration::from_millis(50));
        let first = budget.share(60).await.unwrap();
        assert!(budget.share(60).await.is_err_and(|unread| unread == Unread::Busy));
        let second = budget.share(40).await.unwrap();
        drop((first, second));
        assert!(budget.share(1_000).await.is_ok());
    }
}
