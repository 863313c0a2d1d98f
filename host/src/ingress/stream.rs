//! A client's connection, at which others can look: whether its client has hung up.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The connection, as whoever speaks on it has it.
pub(crate) struct Stream(Arc<Mutex<TcpStream>>);

/// The same, as others see it. It keeps nothing open.
#[derive(Clone)]
pub(crate) struct Line(Weak<Mutex<TcpStream>>);

impl Stream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    pub(crate) fn line(&self) -> Line {
        Line(Arc::downgrade(&self.0))
    }
}

fn lock(stream: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    /// Whether the client will say nothing more: it has closed the connection, or its own side of it and takes its answer all
    /// the same, which nobody can tell apart.
    pub(crate) fn is_closed(&self) -> bool {
        let Some(stream) = self.0.upgrade() else { return true };
        let stream = lock(&stream);
        let mut byte = [0];
        // Asked once: nobody is to be woken.
        match pin!(stream.peek(&mut byte)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(length)) => length == 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_read(context, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(context, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::new(listener.accept().await.unwrap().0), client)
    }

    /// The kernel takes a moment to tell.
    async fn closes(line: &Line) {
        tokio::time::timeout(Duration::from_secs(60), async {
            while !line.is_closed() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_client_is_there_until_it_closes_its_side_and_what_it_said_can_still_be_read() {
        let (mut stream, mut client) = connected().await;
        let line = stream.line();
        assert!(!line.is_closed());
        client.write_all(b"Hi").await.unwrap();
        let mut said = [0; 2];
        stream.read_exact(&mut said).await.unwrap();
        assert!(!line.is_closed());
        client.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        assert!(!line.is_closed(), "it has said something that nobody has read");
        stream.read_exact(&mut [0; 4]).await.unwrap();
        closes(&line).await;
        // It may wait for its answer.
        stream.write_all(b"you").await.unwrap();
        client.read_exact(&mut [0; 3]).await.unwrap();
    }

    #[tokio::test]
    async fn whoever_looks_at_a_connection_keeps_it_from_nothing() {
        let (stream, mut client) = connected().await;
        let line = stream.line();
        drop(stream);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "it is closed");
        assert!(line.is_closed());
        let (stream, client) = connected().await;
        let line = stream.line();
        drop(client);
        closes(&line).await;
    }
}
