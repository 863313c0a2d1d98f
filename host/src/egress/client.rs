//! One binding's connections to one host: TCP or TLS, directly or through a proxy, kept alive between calls.
//!
//! Each binding has a client of its own, so that neither connections nor TLS sessions are shared: a
//! connection that one team's misbehaving endpoint has poisoned cannot carry another team's message.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dingtalk_binding::endpoint::{Origin, Scheme};
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::rt::Executor as _;
use hyper::{Request, Response, Uri};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use rustls::client::Resumption;
use tokio::sync::oneshot;
use tower_service::Service;
use wasmtime_wasi_http::Error;

use super::connection::Connection;
use super::departure::{Departure, Parcel};
use super::dialer::{BoxError, Dialer, Failure, Route, connect_failure, route};
use super::pool::Pool;
use super::resolver::{Policy, Resolver};
use super::{Received, roots};
use crate::sandbox::Executor;

/// TLS sessions that a client remembers. It has one server, and rustls takes room for 8 tickets of each.
const SESSIONS: usize = 8;

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

    /// Whether they are these, or were cloned from them.
    pub(super) fn are(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.0, &others.0)
    }
}

pub(super) struct Client {
    https: HttpsConnector<Dialer>,
    destination: Uri,
    host: HeaderValue,
    /// Time to connect, TLS handshake and proxy included.
    limit: Duration,
    pool: Pool,
    /// Whether a proxy forwards plain requests.
    is_forwarded: bool,
    /// For a proxy that forwards plain requests: what it wants to see in each of them.
    proxy_authorization: Option<HeaderValue>,
}

/// What a connection to one host needs to know before there is any.
struct Way {
    destination: Uri,
    host: HeaderValue,
    intercept: Option<Intercept>,
}

impl Way {
    /// To `origin`. The error says what keeps every connection from it.
    fn new(origin: &Origin, proxies: &Proxies) -> Result<Self, String> {
        let authority = |with_port| match with_port {
            true => format!("{}:{}", origin.host(), origin.port()),
            false => origin.host().to_owned(),
        };
        let destination = Uri::builder()
            .scheme(origin.scheme().as_str())
            .authority(authority(true))
            .path_and_query("/")
            .build()
            .unwrap_or_default();
        let host = HeaderValue::try_from(authority(origin.port() != origin.scheme().default_port()))
            .map_err(|_| "the host cannot be written in a header")?;
        let intercept = proxies.0.intercept(&destination);
        if let Some(intercept) = &intercept {
            let kind = intercept.uri().scheme_str().unwrap_or("http");
            if kind != "http" {
                return Err(format!(
                    "the environment names a proxy of the kind {kind}://, which is not supported; set HTTPS_PROXY to an \
                     http:// proxy, or add the host to NO_PROXY"
                ));
            }
        }
        Ok(Self { destination, host, intercept })
    }
}

/// Whether there can be a client to `origin`, without making one. The error is that of [`Client::new`].
pub(super) fn check(origin: &Origin, proxies: &Proxies) -> Result<(), String> {
    Way::new(origin, proxies)?;
    shared_tls(origin.scheme()).map(drop)
}

impl Client {
    /// To `origin`; `limit` is the time for connecting, TLS included.
    pub(super) fn new(origin: &Origin, limit: Duration, proxies: &Proxies, policy: &Policy) -> Result<Self, String> {
        let Way { destination, host, intercept } = Way::new(origin, proxies)?;
        // The name of the robot's host is resolved by the proxy if there is one, and the proxy's own here.
        let resolver = if intercept.is_some() { Resolver::trusting(policy) } else { Resolver::checking(policy) };
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        let tls = Arc::new(tls(origin.scheme())?);
        let (route, proxy_authorization) = route(origin.scheme(), intercept, &http);
        let is_forwarded = matches!(route, Route::Forward(_));
        let dialer = Dialer { http, route };
        Ok(Self {
            https: HttpsConnector::new(dialer, tls, false, Arc::new(DefaultServerNameResolver::default())),
            destination,
            host,
            limit,
            pool: Pool::default(),
            is_forwarded,
            proxy_authorization,
        })
    }

    /// Sends `request` and reads the answer, to its end or one byte past the `longest` that may be. With it comes the
    /// connection, if it can be used again.
    pub(super) async fn send(
        &self,
        request: Request<Bytes>,
        longest: usize,
        departure: &Arc<Departure>,
    ) -> Result<(Response<Received>, Option<Connection>), Error> {
        let length = request.body().len();
        let mut request = request.map(|body| Parcel::new(body, Arc::clone(departure)));
        // hyper asks for no body where it frames none, as for GET without a length, and would lose this one.
        if length > 0 {
            request.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        if let Some(authorization) = &self.proxy_authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request.headers_mut().insert(HOST, self.host.clone());
        // A proxy that forwards needs the whole address, everybody else expects the path alone.
        if !self.is_forwarded
            && let Some(target) = request.uri().path_and_query()
        {
            let is_empty = target.as_str().is_empty();
            *request.uri_mut() = if is_empty { Uri::from_static("/") } else { Uri::from(target.clone()) };
        }
        loop {
            let (mut connection, is_new) = match self.pool.take() {
                Some(connection) => (connection, false),
                None => (self.connect().await.map_err(|error| connect_failure(&*error, departure))?, true),
            };
            // Nor does it ask for one where there is none, and the request would leave unseen.
            if length == 0 && !departure.leave() {
                return Err(Error::ConnectionTerminated);
            }
            match connection.send(request, longest).await {
                Ok(response) => {
                    let reusable = response.body().is_complete.then_some(connection);
                    return Ok((response, reusable));
                }
                Err(mut error) => match error.take_message() {
                    // The server closed it while it was idle, and nothing was written: that is no answer to the message.
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(exchange_failure(error.error())),
                },
            }
        }
    }

    /// Keeps a connection for the next call.
    pub(super) async fn keep(&self, connection: Connection) {
        self.pool.give(connection).await;
    }

    /// In a task of its own, which ends with this future: a call runs on a small stack, and how deep names, proxies and
    /// TLS handshakes go is not known.
    async fn connect(&self) -> Result<Connection, BoxError> {
        let connecting = connect(self.https.clone(), self.destination.clone(), self.limit);
        let (mut sender, receiver) = oneshot::channel();
        Executor.execute(async move {
            tokio::select! {
                () = sender.closed() => {}
                connected = connecting => {
                    let _ = sender.send(connected);
                }
            }
        });
        receiver.await?
    }
}

async fn connect(mut https: HttpsConnector<Dialer>, to: Uri, limit: Duration) -> Result<Connection, BoxError> {
    let connecting = async {
        poll_fn(|cx| https.poll_ready(cx)).await?;
        https.call(to).await
    };
    let io = tokio::time::timeout(limit, connecting).await.map_err(|_| Failure::ConnectTimeout)??;
    Ok(Connection::over(io).await?)
}

/// What a client of this scheme trusts, with a store of its own for TLS sessions. The error names the file that cannot be
/// read.
pub(crate) fn tls(scheme: Scheme) -> Result<rustls::ClientConfig, String> {
    shared_tls(scheme).map(with_own_sessions)
}

/// A clone alone shares the store of sessions: one tenant would resume another one's.
fn with_own_sessions(shared: &rustls::ClientConfig) -> rustls::ClientConfig {
    let mut tls = shared.clone();
    tls.resumption = Resumption::in_memory_sessions(SESSIONS);
    tls
}

/// What the configurations of all clients of this scheme have in common. Never used for a connection itself.
fn shared_tls(scheme: Scheme) -> Result<&'static rustls::ClientConfig, String> {
    static HTTPS: OnceLock<Result<rustls::ClientConfig, String>> = OnceLock::new();
    static HTTP: OnceLock<Result<rustls::ClientConfig, String>> = OnceLock::new();
    let tls = match scheme {
        Scheme::Https => HTTPS.get_or_init(|| roots::trusted().map(trusting)),
        // There is none over http; not worth reading the system's authorities for.
        Scheme::Http => HTTP.get_or_init(|| Ok(trusting(Arc::new(rustls::RootCertStore::empty())))),
    };
    tls.as_ref().map_err(Clone::clone)
}

/// For TLS with whoever one of `roots` vouches for.
pub(crate) fn trusting(roots: Arc<rustls::RootCertStore>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    #[expect(clippy::expect_used, reason = "ring offers every version that rustls has")]
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers TLS 1.2 and 1.3");
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// What an error of the exchange means to the component.
fn exchange_failure(error: &hyper::Error) -> Error {
    if error.is_parse() {
        return Error::HttpProtocolError;
    }
    // Reset, closed, or ended before the answer.
    Error::ConnectionTerminated
}

#[cfg(test)]
mod tests {
    use dingtalk_binding::settings::Settings;
    use hyper_util::rt::TokioIo;
    use rustls::{HandshakeKind, ServerConfig, ServerConnection};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// How the handshake of a client of this configuration goes, which then reads what the server sends with it.
    fn handshake(client: &rustls::ClientConfig, server: &Arc<ServerConfig>) -> HandshakeKind {
        let name = "robot.example.com".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client.clone()), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
        for _ in 0..8 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut &*wire).unwrap();
            server.process_new_packets().unwrap();
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut &*wire).unwrap();
            client.process_new_packets().unwrap();
        }
        assert!(!client.is_handshaking() && client.handshake_kind() == server.handshake_kind());
        server.handshake_kind().unwrap()
    }

    /// Of a client that was dropped nothing is left: the next one of the same tenant is to the server a new one.
    #[test]
    fn no_client_resumes_the_session_of_another_one() {
        use HandshakeKind::{Full, Resumed};
        let certified = rcgen::generate_simple_self_signed(["robot.example.com".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let shared = trusting(Arc::new(roots));
        for (version, has_tickets) in [
            (&rustls::version::TLS13, true),
            (&rustls::version::TLS13, false),
            (&rustls::version::TLS12, true),
            (&rustls::version::TLS12, false),
        ] {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
            let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
            let chain = vec![certified.cert.der().clone()];
            let mut server = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
            if has_tickets {
                server.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
            }
            let server = Arc::new(server);
            let (first, second) = (with_own_sessions(&shared), with_own_sessions(&shared));
            let kinds = [&first, &second, &first, &second, &first].map(|client| handshake(client, &server));
            assert_eq!(kinds, [Full, Full, Resumed, Resumed, Resumed]);
            // What is resumed here if anything is: a configuration and its clone.
            assert_eq!(handshake(&first.clone(), &server), Resumed);
            assert_eq!(handshake(&with_own_sessions(&first), &server), Full);
        }
    }

    /// A server, its URL, and a client to it.
    async fn served() -> (tokio::net::TcpListener, String, Client) {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let settings = Settings::parse([("id", "x"), ("url", url.as_str())]).unwrap();
        let limit = Duration::from_secs(60);
        let client = Client::new(settings.endpoint.origin(), limit, &Proxies::none(), &Policy::default()).unwrap();
        (server, url, client)
    }

    /// The server has closed it, and the connection's own task has not noticed yet.
    #[tokio::test]
    async fn a_message_that_meets_a_connection_as_it_closes_goes_over_another_one() {
        let (server, url, client) = served().await;
        let (ours, theirs) = tokio::io::duplex(1024);
        client.keep(Connection::over(TokioIo::new(ours)).await.unwrap()).await;
        drop(theirs);
        tokio::spawn(async move {
            let (mut connection, _) = server.accept().await.unwrap();
            let mut message = Vec::new();
            while !message.ends_with(b"message") {
                connection.read_buf(&mut message).await.unwrap();
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        });
        let request = Request::post(&url).header("content-length", 7).body("message".into()).unwrap();
        let departure = Arc::default();
        let sent = client.send(request, 1 << 10, &departure).await;
        assert!(sent.is_ok_and(|(response, connection)| response.status() == 200 && connection.is_some()));
    }

    /// Whatever method and framing: what a server has seen is never said not to have left.
    #[tokio::test]
    async fn a_request_without_a_body_is_seen_to_leave() {
        let (server, url, client) = served().await;
        let seen = tokio::spawn(async move {
            let mut all = Vec::new();
            for _ in 0..3 {
                let (mut connection, _) = server.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n")
                    || request.starts_with(b"PUT") && !request.ends_with(b"body")
                {
                    connection.read_buf(&mut request).await.unwrap();
                }
                all.push(String::from_utf8(request).unwrap());
            }
            all
        });
        let get = Request::get(&url).body(Bytes::new()).unwrap();
        let empty = Request::post(&url).header("content-length", 0).body(Bytes::new()).unwrap();
        let without_length = Request::put(&url).body("body".into()).unwrap();
        for request in [get, empty, without_length] {
            let departure = Arc::<Departure>::default();
            assert!(client.send(request, 1 << 10, &departure).await.is_err(), "there is no answer");
            assert_eq!(departure.close(), dingtalk_binding::error::Outcome::Unknown);
        }
        assert!(seen.await.unwrap()[2].contains("content-length: 4\r\n"));
        // And none leaves once that was said.
        let departure = Arc::<Departure>::default();
        departure.close();
        let (ours, theirs) = tokio::io::duplex(1024);
        client.keep(Connection::over(TokioIo::new(ours)).await.unwrap()).await;
        assert!(client.send(Request::get(&url).body(Bytes::new()).unwrap(), 1 << 10, &departure).await.is_err());
        let mut left = Vec::new();
        let mut theirs = theirs;
        theirs.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"");
    }

    /// A client of this configuration to a server that takes connections, and reads nothing once they stand.
    async fn unread(tls: Option<(rustls::ClientConfig, Arc<ServerConfig>)>) -> Client {
        let (server, url, mut client) = served().await;
        let acceptor = tls.map(|(ours, theirs)| {
            let mut http = HttpConnector::new_with_resolver(Resolver::checking(&Policy::default()));
            http.enforce_http(false);
            let dialer = Dialer { http, route: Route::Direct };
            let names = Arc::new(DefaultServerNameResolver::default());
            client.https = HttpsConnector::new(dialer, Arc::new(ours), false, names);
            client.destination = url.replace("http://", "https://").parse().unwrap();
            theirs
        });
        tokio::spawn(async move {
            let mut unread = Vec::new();
            loop {
                let (mut connection, _) = server.accept().await.unwrap();
                if let Some(theirs) = &acceptor {
                    let mut tls = ServerConnection::new(Arc::clone(theirs)).unwrap();
                    while tls.is_handshaking() {
                        let mut out = Vec::new();
                        while tls.wants_write() {
                            tls.write_tls(&mut out).unwrap();
                        }
                        connection.write_all(&out).await.unwrap();
                        let mut some = Vec::with_capacity(16 << 10);
                        connection.read_buf(&mut some).await.unwrap();
                        let mut rest = &some[..];
                        while !rest.is_empty() {
                            tls.read_tls(&mut rest).unwrap();
                            tls.process_new_packets().unwrap();
                        }
                    }
                }
                unread.push(connection);
            }
        });
        client
    }

    /// Neither its task, nor its descriptor, nor the message.
    #[tokio::test]
    async fn of_a_connection_whose_server_never_reads_nothing_is_left_soon_after_its_call() {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let theirs = builder.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
        for tls in [None, Some((trusting(Arc::new(roots)), Arc::new(theirs)))] {
            let name = if tls.is_some() { "TLS" } else { "plain" };
            let client = unread(tls).await;
            let others = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            let departure = Arc::<Departure>::default();
            // More than the buffers of two sockets take.
            let message = Bytes::from(vec![b'x'; 16 << 20]);
            let request = Request::post("http://robot.example/").body(message.clone()).unwrap();
            let sending = client.send(request, 1 << 10, &departure);
            assert!(tokio::time::timeout(Duration::from_millis(500), sending).await.is_err(), "there is no answer");
            assert_eq!(departure.close(), dingtalk_binding::error::Outcome::Unknown);
            let begun = std::time::Instant::now();
            while tokio::runtime::Handle::current().metrics().num_alive_tasks() > others || !message.is_unique() {
                assert!(begun.elapsed() < Duration::from_secs(20), "{name}: the connection's task goes on");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
