//! Whether anything of a call has left this machine: known here, where it leaves, and asked by whoever has to say
//! what became of a message.
//!
//! The answer must stay true after it was given. A request that waits for a connection while its time runs out
//! could still be sent a moment later, by a task that nobody waits for. So whoever asks also closes the door.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use dingtalk_binding::error::Outcome;
use http_body::{Body, Frame};

/// What is known of one call's requests.
#[derive(Debug, Default)]
pub(super) struct Departure {
    state: AtomicU8,
    refusal: OnceLock<String>,
}

/// Nothing has left so far.
const HERE: u8 = 0;
/// A connection has begun to take a request: its bytes may be anywhere.
const LEFT: u8 = 1;
/// Nothing has left, and nothing will.
const CLOSED: u8 = 2;

impl Departure {
    /// A connection is about to have the request's bytes. Whether it may have them.
    pub(super) fn leave(&self) -> bool {
        self.state.compare_exchange(HERE, LEFT, Ordering::AcqRel, Ordering::Acquire) != Err(CLOSED)
    }

    /// What became of the call. From here on nothing leaves that has not.
    pub(super) fn close(&self) -> Outcome {
        match self.state.compare_exchange(HERE, CLOSED, Ordering::AcqRel, Ordering::Acquire) {
            Err(LEFT) => Outcome::Unknown,
            Ok(_) | Err(_) => Outcome::NotSent,
        }
    }

    /// Keeps why a destination was refused, which wasi:http's errors have no room for.
    pub(super) fn refuse(&self, reason: String) {
        let _ = self.refusal.set(reason);
    }

    /// Why a destination was refused.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }
}

/// A request's body, whole. A connection asks for it once it has the head ready to be written with it, and before
/// it writes either.
pub(super) struct Parcel {
    data: Option<Bytes>,
    departure: Arc<Departure>,
}

impl Parcel {
    pub(super) fn new(data: Bytes, departure: Arc<Departure>) -> Self {
        Self { data: Some(data), departure }
    }
}

/// The door was closed before a connection asked.
#[derive(Debug, thiserror::Error)]
#[error("the call has ended")]
pub(super) struct Closed;

impl Body for Parcel {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        if !self.departure.leave() {
            return Poll::Ready(Some(Err(Closed)));
        }
        Poll::Ready(self.data.take().filter(|data| !data.is_empty()).map(|data| Ok(Frame::data(data))))
    }

    /// Never: an empty body must be asked for too, or its request would leave unseen.
    fn is_end_stream(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn what_was_said_not_to_have_left_never_leaves() {
        let departure = Arc::new(Departure::default());
        let parcel = Parcel::new(Bytes::from_static(b"message"), Arc::clone(&departure));
        assert_eq!(departure.close(), Outcome::NotSent);
        parcel.collect().await.map(|_| ()).unwrap_err();
        assert_eq!(departure.close(), Outcome::NotSent);
    }

    #[tokio::test]
    async fn what_a_connection_took_may_have_arrived() {
        for data in ["", "message"] {
            let departure = Arc::new(Departure::default());
            let mut parcel = Parcel::new(Bytes::from_static(data.as_bytes()), Arc::clone(&departure));
            assert!(!parcel.is_end_stream());
            let _ = parcel.frame().await;
            assert_eq!(departure.close(), Outcome::Unknown, "{data}");
            // It is on its way, and closing the door does not call it back.
            assert!(parcel.frame().await.is_none());
        }
    }
}
