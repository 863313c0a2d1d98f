//! Whether anything of a call has left this machine: known here, where it leaves, and asked by whoever has to say
//! what became of a message.
//!
//! The answer must stay true after it was given. A request that waits for a connection while its time runs out
//! could still be sent a moment later, by a task that nobody waits for. So whoever asks also closes the door.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use dingtalk_binding::error::Outcome;
use http_body::{Body, Frame};
use wasmtime_wasi_http::Error;

/// Requests of one call. The binding makes one.
pub(super) const REQUESTS: u32 = 16;

/// What is known of one call's requests.
#[derive(Debug, Default)]
pub(super) struct Departure {
    state: AtomicU8,
    requests: AtomicU32,
    is_passing: AtomicBool,
    refusal: OnceLock<String>,
}

/// A connection has begun to take a request: its bytes may be anywhere.
const LEFT: u8 = 1;
/// Nothing leaves any more, whether anything has or not.
const CLOSED: u8 = 2;

impl Departure {
    /// Counts a request that is to be made. Whether it may be: not after the last one, nor once the door is closed.
    pub(super) fn begin(&self) -> Result<(), Error> {
        if self.state.load(Ordering::Acquire) & CLOSED != 0 {
            return Err(Error::ConnectionTerminated);
        }
        let more = |number: u32| (number < REQUESTS).then_some(number + 1);
        self.requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).map(drop).map_err(|_| {
            let reason = format!("a call makes {REQUESTS} requests at most");
            self.refuse(reason.clone());
            Error::InternalError(Some(reason))
        })
    }

    /// A connection is about to have the request's bytes. Whether it may have them.
    pub(super) fn leave(&self) -> bool {
        let leave = |state: u8| (state & CLOSED == 0).then_some(state | LEFT);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, leave).is_ok()
    }

    /// What became of the call. From here on nothing leaves that has not.
    pub(super) fn close(&self) -> Outcome {
        match self.state.fetch_or(CLOSED, Ordering::AcqRel) & LEFT {
            LEFT => Outcome::Unknown,
            _ => Outcome::NotSent,
        }
    }

    /// The last request has failed, and whether the same one may have a connection in a moment.
    pub(super) fn fail(&self, error: &Error) {
        let is_passing = matches!(
            error,
            Error::DnsError { .. }
                | Error::ConnectionRefused
                | Error::ConnectionTimeout
                | Error::ConnectionTerminated
                | Error::DestinationUnavailable
                | Error::TlsProtocolError
        );
        self.is_passing.store(is_passing, Ordering::Release);
    }

    /// Whether nothing has left for want of a connection, which there may be in a moment. Nothing leaves from here on.
    pub(super) fn is_unconnected(&self) -> bool {
        self.close() == Outcome::NotSent && self.is_passing.load(Ordering::Acquire)
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
        // What has been asked for is on its way, door or not.
        let Some(data) = self.data.take() else { return Poll::Ready(None) };
        if !self.departure.leave() {
            return Poll::Ready(Some(Err(Closed)));
        }
        Poll::Ready(Some(data).filter(|data| !data.is_empty()).map(|data| Ok(Frame::data(data))))
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
    /// A call whose time was up is told so, and its component may go on.
    #[tokio::test]
    async fn what_has_left_lets_nothing_follow_once_the_door_is_closed() {
        let departure = Arc::new(Departure::default());
        let parcel = || Parcel::new(Bytes::from_static(b"message"), Arc::clone(&departure));
        departure.begin().unwrap();
        parcel().collect().await.map(drop).unwrap();
        departure.begin().unwrap();
        let second = parcel();
        assert_eq!(departure.close(), Outcome::Unknown);
        second.collect().await.map(drop).unwrap_err();
        assert!(!departure.leave());
        assert!(matches!(departure.begin(), Err(Error::ConnectionTerminated)));
        assert_eq!(departure.close(), Outcome::Unknown, "and it stays so");
    }

    #[test]
    fn a_call_has_so_many_requests_and_is_told_of_the_limit() {
        let departure = Departure::default();
        for _ in 0..REQUESTS {
            departure.begin().unwrap();
        }
        for _ in 0..2 {
            let error = departure.begin().unwrap_err();
            assert!(
                matches!(error, Error::InternalError(Some(reason)) if reason == "a call makes 16 requests at most")
            );
        }
        assert_eq!(departure.refusal(), Some("a call makes 16 requests at most"));
    }

    #[test]
    fn only_what_had_no_connection_may_have_one_in_a_moment() {
        let after = |error, has_left| {
            let departure = Departure::default();
            if has_left {
                departure.leave();
            }
            departure.fail(&error);
            let is_unconnected = departure.is_unconnected();
            assert!(!departure.leave(), "that was said of it");
            is_unconnected
        };
        let dns = Error::DnsError { rcode: None, info_code: None };
        for error in [Error::ConnectionRefused, Error::ConnectionTerminated, Error::TlsProtocolError, dns] {
            assert!(after(error, false));
        }
        assert!(!after(Error::ConnectionTerminated, true), "its bytes may be anywhere");
        for error in [
            Error::HttpRequestDenied,
            Error::DestinationIpProhibited,
            Error::TlsCertificateError,
            Error::HttpRequestBodySize(None),
            Error::HttpProtocolError,
        ] {
            assert!(!after(error, false), "that is for people to mend");
        }
        assert!(!Departure::default().is_unconnected());
    }
}
