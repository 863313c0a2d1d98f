//! Listeners: each connection has its place at the port and is held as that says, and at the end nobody is cut off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Activity, hold};
use super::port::Port;
use crate::quiet::Quiet;

/// After a failed accept (out of file descriptors, most likely), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections come from.
pub(crate) trait Listener: Send + Sync + 'static {
    type Stream: Send;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(TcpListener::accept(self).await?.0)
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(tokio::net::UnixListener::accept(self).await?.0)
    }
}

/// Those of one server, until they are closed.
#[derive(Default)]
pub(crate) struct Listeners {
    quiet: Arc<Quiet>,
    closing: CancellationToken,
    accepting: TaskTracker,
    stopping: CancellationToken,
    connections: TaskTracker,
}

impl Listeners {
    /// From now on `serve` makes a connection of each stream that comes and has its place at `port`.
    pub(crate) fn open<L, C>(
        &self,
        listener: L,
        port: Arc<Port>,
        serve: impl Fn(L::Stream, &Arc<Activity>) -> Option<C> + Send + Sync + 'static,
    ) where
        L: Listener,
        C: GracefulConnection<Error: std::fmt::Display + Send> + Send + 'static,
    {
        let (stopping, connections) = (self.stopping.clone(), self.connections.clone());
        let at = Arc::clone(&port);
        let begin = move |stream, place: OwnedSemaphorePermit| {
            let activity = at.enter();
            let Some(connection) = serve(stream, &activity) else { return };
            let (stopping, patience) = (stopping.clone(), at.policy.patience);
            connections.spawn(async move {
                let _place = place;
                // A client that goes away is no event.
                if let Err(error) = hold(connection, &activity, patience, &stopping).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        };
        let (closing, quiet) = (self.closing.clone(), Arc::clone(&self.quiet));
        self.accepting.spawn(async move { accept(&listener, &port, &closing, &quiet, begin).await });
    }

    /// Takes nobody any more, and returns when every call has been answered. Calls end by their own time limits; a
    /// connection without one has 2 seconds.
    pub(crate) async fn close(self) {
        self.closing.cancel();
        self.accepting.close();
        self.accepting.wait().await;
        self.stopping.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn accept<L: Listener>(
    listener: &L,
    port: &Port,
    closing: &CancellationToken,
    quiet: &Quiet,
    begin: impl Fn(L::Stream, OwnedSemaphorePermit),
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        match accepted {
            Ok(stream) => {
                let place = tokio::select! {
                    place = port.place() => Some(place),
                    () = closing.cancelled() => port.free(),
                };
                let Some(place) = place else { break };
                begin(stream, place);
            }
            Err(error) => {
                if let Some(more) = quiet.count("accept") {
                    tracing::warn!(%error, more, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Who is in the queue already may have sent a request: as many as there are places for.
    loop {
        let stream = tokio::select! {
            biased;
            Ok(stream) = listener.accept() => stream,
            () = std::future::ready(()) => break,
        };
        let Some(place) = port.free() else { break };
        begin(stream, place);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::port::Policy;
    use super::*;

    #[tokio::test]
    async fn who_is_in_the_queue_at_the_end_is_answered_and_nobody_afterwards() {
        let patience = Duration::from_secs(30);
        let policy = Policy { connections: 2, patience, requests: 1, bytes: 1, bytes_timeout: patience };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = TcpStream::connect(address).await.unwrap();
        let listeners = Listeners::default();
        listeners.open(listener, Arc::new(Port::new(policy)), |stream, _| {
            let service = service_fn(|_| async { Ok::<_, Infallible>(http::Response::new(String::new())) });
            Some(http1::Builder::new().serve_connection(TokioIo::new(stream), service))
        });
        let closed = tokio::spawn(listeners.close());
        queued.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        queued.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        closed.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
