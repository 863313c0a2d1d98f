//! One binding's connections to one host: TCP or TLS, directly or through a proxy, kept alive between calls.
//!
//! Each binding has a client of its own, so that neither connections nor TLS sessions are shared: a
//! connection that one team's misbehaving endpoint has poisoned cannot carry another team's message.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use dingtalk_binding::endpoint::{Origin, Scheme};
use http::header::{HeaderValue, PROXY_AUTHORIZATION};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::legacy::{Client as Pooled, Error as ClientError};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tower_service::Service;
use wasmtime_wasi_http::Error;

use super::roots;
use crate::sandbox::Executor;

/// Below the 75 s after which nginx, DingTalk's front or a gateway's, closes an idle connection: a request
/// that meets the closing server has an unknown outcome, which must stay rare.
const IDLE: Duration = Duration::from_secs(60);

/// Connections kept per binding. As many as calls of one binding may run at once, so that a burst does not
/// open and close connections for each message.
const MAX_IDLE: usize = 64;

type BoxError = Box<dyn StdError + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The proxies of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, in capitals or not.
#[derive(Clone)]
pub struct Proxies(Arc<Matcher>);

impl Proxies {
    /// From the process's environment.
    pub fn from_env() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    /// Direct connections only.
    pub fn none() -> Self {
        Self(Arc::new(Matcher::builder().build()))
    }
}

pub(super) struct Client {
    pooled: Pooled<Connector, Full<Bytes>>,
    /// For a proxy that forwards plain requests: what it wants to see in each of them.
    proxy_authorization: Option<HeaderValue>,
}

impl Client {
    /// To `origin`; `limit` is the time for connecting, TLS included.
    pub(super) fn new(origin: &Origin, limit: Duration, proxies: &Proxies) -> Result<Self, String> {
        let destination = Uri::builder()
            .scheme(origin.scheme().as_str())
            .authority(format!("{}:{}", origin.host(), origin.port()))
            .path_and_query("/")
            .build()
            .unwrap_or_default();
        let intercept = proxies.0.intercept(&destination);
        let mut http = HttpConnector::new_with_resolver(Resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        let tls = Arc::new(tls(origin.scheme()));
        let (route, proxy_authorization) = route(origin.scheme(), intercept, &http)?;
        let dialer = Dialer { http, route };
        let https = HttpsConnector::new(dialer, tls, false, Arc::new(DefaultServerNameResolver::default()));
        let pooled = Pooled::builder(Executor)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(Connector { https, limit });
        Ok(Self { pooled, proxy_authorization })
    }

    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>, Error> {
        let mut request = request.map(Full::new);
        if let Some(authorization) = &self.proxy_authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        self.pooled.request(request).await.map_err(|error| classify(&error))
    }
}

/// What a client of this scheme trusts.
pub(crate) fn tls(scheme: Scheme) -> rustls::ClientConfig {
    let roots = match scheme {
        Scheme::Https => roots::trusted(),
        // Never used for a connection; not worth reading the system's authorities for.
        Scheme::Http => Arc::new(rustls::RootCertStore::empty()),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    #[expect(clippy::expect_used, reason = "ring offers every version that rustls has")]
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers TLS 1.2 and 1.3");
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// How a binding's connections reach its host. Fixed when the binding is loaded: it has one destination.
#[derive(Clone)]
enum Route {
    Direct,
    /// CONNECT through a proxy, TLS inside: the proxy sees the host's name and nothing else.
    Tunnel(Tunnel<HttpConnector<Resolver>>),
    /// A plain request that the proxy forwards.
    Forward(Uri),
}

fn route(
    scheme: Scheme,
    intercept: Option<Intercept>,
    http: &HttpConnector<Resolver>,
) -> Result<(Route, Option<HeaderValue>), String> {
    let Some(intercept) = intercept else { return Ok((Route::Direct, None)) };
    let kind = intercept.uri().scheme_str().unwrap_or("http");
    if kind != "http" {
        return Err(format!(
            "the environment names a proxy of the kind {kind}://, which is not supported; set HTTPS_PROXY to an http:// \
             proxy, or add the host to NO_PROXY"
        ));
    }
    let authorization = intercept.basic_auth().cloned();
    Ok(match scheme {
        Scheme::Http => (Route::Forward(intercept.uri().clone()), authorization),
        Scheme::Https => {
            let tunnel = Tunnel::new(intercept.uri().clone(), http.clone());
            let tunnel = match authorization {
                Some(authorization) => tunnel.with_auth(authorization),
                None => tunnel,
            };
            (Route::Tunnel(tunnel), None)
        }
    })
}

/// A connection with its time limit, TLS handshake and proxy included.
#[derive(Clone)]
struct Connector {
    https: HttpsConnector<Dialer>,
    limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Stream>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let connecting = self.https.call(destination);
        let limit = self.limit;
        Box::pin(async move { tokio::time::timeout(limit, connecting).await.map_err(|_| Failure::ConnectTimeout)? })
    }
}

#[derive(Clone)]
struct Dialer {
    http: HttpConnector<Resolver>,
    route: Route,
}

impl Service<Uri> for Dialer {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<Result<Stream, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        match &self.route {
            Route::Direct => {
                let connecting = self.http.call(destination);
                Box::pin(async move { Ok(Stream { io: connecting.await?, forwarded: false }) })
            }
            Route::Tunnel(tunnel) => {
                let connecting = tunnel.clone().call(destination);
                Box::pin(async move {
                    let io = connecting.await.map_err(|error| Failure::Proxy(error.to_string()))?;
                    Ok(Stream { io, forwarded: false })
                })
            }
            Route::Forward(proxy) => {
                let connecting = self.http.call(proxy.clone());
                Box::pin(async move {
                    let io = connecting.await.map_err(|error| Failure::Proxy(error.to_string()))?;
                    Ok(Stream { io, forwarded: true })
                })
            }
        }
    }
}

/// A TCP connection that knows whether a forwarding proxy is at its other end, which decides the form of the
/// request line.
struct Stream {
    io: TokioIo<TcpStream>,
    forwarded: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarded)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// The system's resolver, with errors that can be told from those of connecting.
#[derive(Clone)]
struct Resolver;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<std::net::SocketAddr>;
    type Error = Failure;
    type Future = BoxFuture<Result<Self::Response, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            // The connector sets the port.
            match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(addresses) => Ok(addresses.collect::<Vec<_>>().into_iter()),
                Err(error) => Err(Failure::Resolve(error.to_string())),
            }
        })
    }
}

/// What can fail before a connection stands.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the name cannot be resolved: {0}")]
    Resolve(String),
    #[error("connecting took too long")]
    ConnectTimeout,
    #[error("the proxy does not connect: {0}")]
    Proxy(String),
}

/// What an error of the client means to the component. The difference that matters is whether a byte of the
/// request can have left: errors of connecting never become errors of sending, nor the reverse.
fn classify(error: &ClientError) -> Error {
    let error_itself: &(dyn StdError + 'static) = error;
    let chain = || std::iter::successors(Some(error_itself), |cause: &&(dyn StdError + 'static)| (*cause).source());
    if error.is_connect() {
        return chain().find_map(connect_failure).unwrap_or(Error::DestinationUnavailable);
    }
    if chain().filter_map(|cause| cause.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse) {
        return Error::HttpProtocolError;
    }
    // Reset, closed, or ended before the answer.
    Error::ConnectionTerminated
}

fn connect_failure(cause: &(dyn StdError + 'static)) -> Option<Error> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(match failure {
            Failure::Resolve(_) => Error::DnsError { rcode: None, info_code: None },
            Failure::ConnectTimeout => Error::ConnectionTimeout,
            Failure::Proxy(reason) => {
                tracing::warn!(reason, "the proxy does not connect");
                Error::DestinationUnavailable
            }
        });
    }
    let mut io = cause.downcast_ref::<io::Error>()?;
    // The connector wraps the handshake's error in another one, whose `source` is not the one it wraps but
    // the one after that.
    while let Some(inner) = io.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>()) {
        io = inner;
    }
    if let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        tracing::warn!(error = %tls, "no TLS connection");
        return Some(match tls {
            rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
            _ => Error::TlsProtocolError,
        });
    }
    Some(match io.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        // The peer spoke no TLS, or hung up during the handshake.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::InvalidData => {
            Error::TlsProtocolError
        }
        _ => return None,
    })
}
