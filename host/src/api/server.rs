//! Sockets of the API: listening, serving, and stopping without cutting off what is in flight.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Api;

/// Time for a request's head, and, because hyper's timer also runs between requests, for a connection to stay
/// idle. Above the 90 s for which Go's clients keep idle connections: a client that writes into a connection
/// which is being closed cannot know whether its message was posted.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// After a failed accept (out of file descriptors, most likely), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections to one address at once; the next ones wait. Each costs a file descriptor and some KiB, and whoever is
/// on the internet can open them. The API's clients keep as many as they have calls running.
const MAX_CONNECTIONS: usize = 4_096;

/// When the server stops: for a client to finish its request, to take its answer, to confirm the end of its
/// connection. Without a limit, one that went away or stands still would keep the process.
const LINGER: Duration = Duration::from_secs(2);

/// What of the API an address serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// All of it.
    Everything,
    /// Callbacks and health checks: what may be reached from the internet.
    Callbacks,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}; choose another {}", flags(*surface))]
pub struct ListenError {
    address: SocketAddr,
    surface: Surface,
    error: io::Error,
}

fn flags(surface: Surface) -> &'static str {
    match surface {
        Surface::Everything => "--dapr-http-port or --dapr-listen-addresses",
        Surface::Callbacks => "--callback-port or --callback-listen-addresses",
    }
}

/// Listening sockets, from which connections are served by [`Server::run`].
pub struct Server {
    listeners: Vec<(TcpListener, Surface)>,
    addresses: Vec<(SocketAddr, Surface)>,
}

impl Server {
    /// Listens on every address; a port of 0 means any free one.
    pub async fn listen(addresses: &[(SocketAddr, Surface)]) -> Result<Self, ListenError> {
        let mut server = Self { listeners: Vec::new(), addresses: Vec::new() };
        for &(address, surface) in addresses {
            let failed = |error| ListenError { address, surface, error };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            server.addresses.push((listener.local_addr().map_err(failed)?, surface));
            server.listeners.push((listener, surface));
        }
        Ok(server)
    }

    /// The addresses with their real ports.
    pub fn addresses(&self) -> &[(SocketAddr, Surface)] {
        &self.addresses
    }

    /// Serves `api` until `stop` ends; then accepts nothing more and returns when every call has been
    /// answered. Calls end by their own time limit at the latest; a connection without one has 2 seconds.
    pub async fn run(self, api: Arc<Api>, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let (accepted, mut connections) = tokio::sync::mpsc::channel(64);
        let accepting: Vec<_> = self
            .listeners
            .into_iter()
            .map(|(listener, surface)| {
                let (accepted, places) = (accepted.clone(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
                tokio::spawn(async move {
                    // An error would mean that the semaphore was closed, which nothing does.
                    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                        match listener.accept().await {
                            Ok((stream, _)) => {
                                if accepted.send((stream, surface, place)).await.is_err() {
                                    break;
                                }
                            }
                            Err(error) => {
                                tracing::warn!(%error, "cannot accept a connection");
                                tokio::time::sleep(ACCEPT_PAUSE).await;
                            }
                        }
                    }
                })
            })
            .collect();
        let mut builder = Builder::new(TokioExecutor::new());
        // Go writes header names in title case ("Metadata.statuscode"), and some clients compare them so.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).title_case_headers(true);
        let serve = |stream: TcpStream, surface: Surface, place: OwnedSemaphorePermit| {
            // Small answers must not wait for the client's acknowledgement of the last one.
            let _ = stream.set_nodelay(true);
            let api = Arc::clone(&api);
            let service = service_fn(move |request| {
                let api = Arc::clone(&api);
                async move { Ok::<_, Infallible>(api.answer(request, surface).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                let _place = place;
                // A client that goes away is no event.
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        };
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some((stream, surface, place)) = connections.recv() => serve(stream, surface, place),
            }
        }
        for task in accepting {
            task.abort();
        }
        // Accepted, but not looked at yet: their requests may be on the way.
        while let Ok((stream, surface, place)) = connections.try_recv() {
            serve(stream, surface, place);
        }
        tokio::select! {
            () = graceful.shutdown() => {}
            () = api.quiet(LINGER) => {}
        }
    }
}
