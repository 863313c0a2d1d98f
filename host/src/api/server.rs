//! Sockets of the API: listening, serving, and stopping without cutting off what is in flight.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Seat, hold};
use super::port::{Policy, Port};
use super::{Api, reply};
use crate::quiet::Quiet;

/// The longest head of a request, and the longest piece of a body. Go's clients and proxies stay far below.
const MAX_HEAD: u32 = 16 << 10;

/// HTTP/2: requests of one connection at once, and bytes that may be on the way for one of them and for all of them.
/// A client on the same machine or network needs no more to send as fast as it can.
const MAX_STREAMS: u32 = 64;
const STREAM_WINDOW: u32 = 32 << 10;
const CONNECTION_WINDOW: u32 = 96 << 10;

/// After a failed accept (out of file descriptors, most likely), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a process may have open where nobody says more; see [`Server::set_policy`].
const USUAL_DESCRIPTORS: u64 = 1_024;

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
    policies: [(Surface, Policy); 2],
}

impl Server {
    /// Listens on every address; a port of 0 means any free one.
    pub async fn listen(addresses: &[(SocketAddr, Surface)]) -> Result<Self, ListenError> {
        let policies =
            [Surface::Everything, Surface::Callbacks].map(|surface| (surface, Policy::of(surface, USUAL_DESCRIPTORS)));
        let mut server = Self { listeners: Vec::new(), addresses: Vec::new(), policies };
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

    /// What the addresses of `surface` may hold together.
    pub fn set_policy(&mut self, surface: Surface, policy: Policy) {
        for (known, current) in &mut self.policies {
            if *known == surface {
                *current = policy;
            }
        }
    }

    /// Serves `api` until `stop` ends; then accepts nothing more and returns when every call has been
    /// answered. Calls end by their own time limit at the latest; a connection without one has 2 seconds.
    pub async fn run(self, api: Arc<Api>, stop: impl Future<Output = ()>) {
        let (accepted, mut connections) = tokio::sync::mpsc::channel(64);
        let ports = self.policies.map(|(surface, policy)| Arc::new(Port::new(surface, policy)));
        let quiet = Arc::new(Quiet::default());
        let mut accepting = Vec::new();
        for (listener, surface) in self.listeners {
            let Some(port) = ports.iter().find(|port| port.surface == surface) else { continue };
            let (accepted, port, quiet) = (accepted.clone(), Arc::clone(port), Arc::clone(&quiet));
            accepting.push(tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            let place = port.place().await;
                            if accepted.send((stream, Arc::clone(&port), place)).await.is_err() {
                                break;
                            }
                        }
                        Err(error) => {
                            if let Some(more) = quiet.count("accept") {
                                tracing::warn!(%error, more, "cannot accept a connection");
                            }
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }));
        }
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        let serve = |stream: TcpStream, port: Arc<Port>, place: OwnedSemaphorePermit| {
            // Gone already, otherwise.
            let Ok(address) = stream.local_addr() else { return };
            // Small answers must not wait for the client's acknowledgement of the last one.
            let _ = stream.set_nodelay(true);
            let seat = Arc::new(Seat { activity: port.enter(), port, address: address.ip().to_canonical() });
            let (api, at) = (Arc::clone(&api), Arc::clone(&seat));
            let service = service_fn(move |request| {
                let (api, seat) = (Arc::clone(&api), Arc::clone(&at));
                async move {
                    let Some(_request) = seat.port.request() else {
                        return Ok(reply::busy("too many requests at once; send it again"));
                    };
                    seat.activity.touch();
                    let reply = api.answer(request, &seat).await;
                    seat.activity.touch();
                    Ok::<_, Infallible>(reply)
                }
            });
            let connection = builder(seat.surface()).serve_connection(TokioIo::new(stream), service).into_owned();
            let stopping = stopping.clone();
            tasks.spawn(async move {
                let _place = place;
                // A client that goes away is no event.
                if let Err(error) = hold(connection, &seat.activity, seat.port.policy.patience, &stopping).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        };
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some((stream, port, place)) = connections.recv() => serve(stream, port, place),
            }
        }
        for task in accepting {
            task.abort();
        }
        // Accepted, but not looked at yet: their requests may be on the way.
        while let Ok((stream, port, place)) = connections.try_recv() {
            serve(stream, port, place);
        }
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

/// How connections are spoken with. Their times are `connection`'s business.
fn builder(surface: Surface) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let max_head = usize::try_from(MAX_HEAD).unwrap_or(usize::MAX);
    // Go writes header names in title case ("Metadata.statuscode"), and some clients compare them so.
    builder.http1().title_case_headers(true).half_close(true).max_buf_size(max_head).header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    match surface {
        Surface::Everything => builder,
        // DingTalk and proxies speak HTTP/1.1 with servers, and each protocol is one more that strangers can try.
        Surface::Callbacks => builder.http1_only(),
    }
}
