//! Sockets of the API: listening, serving, and stopping without cutting off what is in flight.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dingtalk_api::route::Entrance;
use dingtalk_api::{Answer, Problem};
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};

use super::{Api, grpc};
use crate::ingress::connection::Activity;
use crate::ingress::listeners::Listeners;
use crate::ingress::port::{Policy, Port};
use crate::ingress::stream::{Line, Stream};

/// The longest head of a request, and the longest piece of a body. Go's clients and proxies stay far below.
const MAX_HEAD: u32 = 16 << 10;

/// HTTP/2: requests of one connection at once, and bytes that may be on the way for one of them and for all of them.
/// A client on the same machine or network needs no more to send as fast as it can.
const MAX_STREAMS: u32 = 64;
const STREAM_WINDOW: u32 = 32 << 10;
const CONNECTION_WINDOW: u32 = 96 << 10;

/// Of the process's file descriptors, one in so many is a port's: with both large ports full, half are left for the way
/// out, the application, the inbox, and the few connections for metrics.
const DESCRIPTORS: u64 = 4;

/// What a process may have open where nobody says more; see [`Server::set_policy`].
const USUAL_DESCRIPTORS: u64 = 1_024;

/// What of the API an address serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// All of it.
    Everything,
    /// Callbacks and health checks: what may be reached from the internet.
    Callbacks,
    /// What of it is for programs, over gRPC.
    Grpc,
    /// Metrics alone.
    Metrics,
}

impl Surface {
    /// Those with connections, requests and bytes of their own.
    pub const COUNTED: [Self; 3] = [Self::Everything, Self::Callbacks, Self::Metrics];

    /// Whose connections, requests and bytes are counted with its own. Both APIs are for the same callers: together they
    /// cost what one does.
    fn counted_as(self) -> Self {
        match self {
            Self::Grpc => Self::Everything,
            other => other,
        }
    }

    /// What its addresses may hold together in a process that may have so many descriptors.
    pub fn policy(self, descriptors: u64) -> Policy {
        let connections = |most: usize| usize::try_from(descriptors / DESCRIPTORS).unwrap_or(most).clamp(1, most);
        match self {
            // Above the 90 s for which Go's clients keep idle connections: a client that writes into a connection
            // which is being closed cannot know whether its message was posted. The bytes are more than the longest
            // body, 16 MiB.
            Self::Everything | Self::Grpc => Policy {
                connections: connections(512),
                patience: Duration::from_secs(120),
                requests: 1_024,
                bytes: 24 << 20,
                // A burst of long messages is worked off rather than refused.
                bytes_timeout: Duration::from_secs(30),
            },
            // Whoever is on the internet can open these. A callback has at most 128 KiB, and DingTalk sends each at
            // once.
            Self::Callbacks => Policy {
                connections: connections(1_024),
                patience: Duration::from_secs(30),
                requests: 1_024,
                bytes: 8 << 20,
                bytes_timeout: Duration::from_secs(5),
            },
            // A collector, and somebody who looks. Nothing is read of a body, and an answer may be long.
            Self::Metrics => Policy {
                connections: connections(16),
                patience: Duration::from_secs(120),
                requests: 4,
                bytes: 0,
                bytes_timeout: Duration::ZERO,
            },
        }
    }
}

/// Where a request came in.
pub(super) struct Seat {
    pub(super) surface: Surface,
    pub(super) port: Arc<Port>,
    pub(super) activity: Arc<Activity>,
    /// The address of ours that the client has reached.
    pub(super) address: IpAddr,
    /// Whether the client is there.
    pub(super) line: Line,
}

impl Seat {
    pub(super) fn entrance(&self) -> Entrance {
        let callbacks_only = self.surface == Surface::Callbacks;
        Entrance { address: Some(self.address), callbacks_only, nameless: false }
    }
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
        Surface::Grpc => "--dapr-grpc-port or --dapr-listen-addresses",
        Surface::Metrics => "--metrics-port or --metrics-listen-address",
    }
}

/// Listening sockets, from which connections are served by [`Server::run`].
pub struct Server {
    listeners: Vec<(TcpListener, Surface)>,
    addresses: Vec<(SocketAddr, Surface)>,
    policies: [(Surface, Policy); Surface::COUNTED.len()],
}

impl Server {
    /// Listens on every address; a port of 0 means any free one.
    pub async fn listen(addresses: &[(SocketAddr, Surface)]) -> Result<Self, ListenError> {
        let policies = Surface::COUNTED.map(|surface| (surface, surface.policy(USUAL_DESCRIPTORS)));
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

    /// What the addresses of `surface` may hold together, and those that are counted with it.
    pub fn set_policy(&mut self, surface: Surface, policy: Policy) {
        for (known, current) in &mut self.policies {
            if *known == surface.counted_as() {
                *current = policy;
            }
        }
    }

    /// Serves `api` until `stop` ends; then accepts nothing more and returns when every call has been
    /// answered. Calls end by their own time limit at the latest; a connection without one has 2 seconds.
    pub async fn run(self, api: Arc<Api>, stop: impl Future<Output = ()>) {
        let ports = self.policies.map(|(surface, policy)| (surface, Arc::new(Port::new(policy))));
        let listening = Listeners::default();
        for (listener, surface) in self.listeners {
            let Some((_, port)) = ports.iter().find(|(known, _)| *known == surface.counted_as()) else { continue };
            let (api, at) = (Arc::clone(&api), Arc::clone(port));
            listening.open(listener, Arc::clone(port), move |stream: TcpStream, activity| {
                // Gone already, otherwise.
                let address = stream.local_addr().ok()?.ip().to_canonical();
                // Small answers must not wait for the client's acknowledgement of the last one.
                let _ = stream.set_nodelay(true);
                let (port, activity) = (Arc::clone(&at), Arc::clone(activity));
                let stream = Stream::new(stream);
                let seat = Seat { surface, port, activity, address, line: stream.line() };
                let (api, seat) = (Arc::clone(&api), Arc::new(seat));
                let service = service_fn(move |request| {
                    let (api, seat) = (Arc::clone(&api), Arc::clone(&seat));
                    async move { Ok::<_, Infallible>(answer(api, request, &seat).await) }
                });
                Some(builder(surface).serve_connection(TokioIo::new(stream), service).into_owned())
            });
        }
        stop.await;
        listening.close().await;
    }
}

/// HTTP's answers are there as a whole; gRPC's have trailers.
type Body = Either<Full<Bytes>, tonic::body::Body>;

async fn answer(api: Arc<Api>, request: Request<Incoming>, seat: &Arc<Seat>) -> Response<Body> {
    let Some(_request) = seat.port.request() else {
        let busy = Problem::busy("too many requests at once; send it again");
        return match seat.surface {
            Surface::Grpc => grpc::status(busy.into()).into_http().map(Either::Right),
            Surface::Everything | Surface::Callbacks | Surface::Metrics => {
                Answer::from(busy).map(Full::new).map(Either::Left)
            }
        };
    };
    seat.activity.touch();
    let answer = match seat.surface {
        Surface::Grpc => api.answer_grpc(request, seat).await.map(Either::Right),
        Surface::Everything | Surface::Callbacks | Surface::Metrics => {
            api.answer(request, seat).await.map(Full::new).map(Either::Left)
        }
    };
    seat.activity.touch();
    answer
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
        // DingTalk, proxies and collectors of metrics speak HTTP/1.1 with servers, and each protocol is one more that
        // strangers can try.
        Surface::Callbacks | Surface::Metrics => builder.http1_only(),
        Surface::Grpc => builder.http2_only(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_leave_half_of_the_descriptors_to_others() {
        for descriptors in [16, 256, 1_024, 4_096, 1 << 20, u64::MAX] {
            let of = |surface: Surface| surface.policy(descriptors).connections as u64;
            let (everything, callbacks) = (of(Surface::Everything), of(Surface::Callbacks));
            assert!(everything + callbacks <= descriptors / 2, "{descriptors}: {everything} + {callbacks}");
            assert!(everything >= 1 && callbacks >= 1);
        }
        assert_eq!(Surface::Everything.policy(0).connections, 1);
    }
}
