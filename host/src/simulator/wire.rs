//! What goes over one connection: whole and broken answers, and an end by reset. They are faults of HTTP and of TCP,
//! and so stand apart from what is answered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::listing::Listing;

/// What padding is sent from.
static BLANKS: &[u8] = &[b' '; 16 << 10];

/// A body.
pub(super) enum Payload {
    /// All of it.
    Whole(Bytes),
    /// The data, then so many blanks, which take no memory.
    Padded(Bytes, usize),
    /// The group's messages.
    Messages(Listing),
    /// Data to send before the connection ends.
    Half(Bytes),
    /// The data is handed over and has to leave before the failure: hyper writes what it has while a body
    /// has nothing more at the moment.
    Flushing,
    /// The failure.
    Broken,
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(data) if data.is_empty() => Poll::Ready(None),
            Self::Whole(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Padded(data, _) if !data.is_empty() => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Padded(_, 0) => Poll::Ready(None),
            Self::Padded(_, blanks) => {
                let some = BLANKS.get(..*blanks).unwrap_or(BLANKS);
                *blanks -= some.len();
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(some)))))
            }
            Self::Messages(listing) => {
                Poll::Ready(listing.piece().map(|piece| piece.map(Frame::data)).map_err(io::Error::from).transpose())
            }
            Self::Half(data) => {
                let data = std::mem::take(data);
                *self = Self::Flushing;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Self::Flushing => {
                *self = Self::Broken;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Broken => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(data) | Self::Padded(data, 0) if data.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(data) => SizeHint::with_exact(data.len() as u64),
            Self::Padded(data, blanks) => SizeHint::with_exact(data.len() as u64 + *blanks as u64),
            _ => SizeHint::default(),
        }
    }
}

/// A connection that can end with a TCP reset.
pub(super) struct Resettable {
    pub(super) stream: TcpStream,
    pub(super) reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // Closing discards what is unsent and sends RST. If it cannot be set, closing alone is as abrupt.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn padding_is_sent_to_the_byte_and_never_stands_in_memory() {
        for blanks in [0, 1, 16 << 10, (16 << 20) + 1] {
            let mut body = Payload::Padded(Bytes::from_static(b"{}"), blanks);
            assert_eq!(body.size_hint().exact(), Some(2 + blanks as u64));
            let mut sent = 0;
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                assert!(data.len() <= BLANKS.len() && (sent == 0 || data.iter().all(|byte| *byte == b' ')));
                sent += data.len();
            }
            assert_eq!(sent, 2 + blanks);
            assert!(body.is_end_stream());
        }
    }
}
