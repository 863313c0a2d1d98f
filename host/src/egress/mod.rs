//! The one way out of the sandbox: where a binding may go, and the connections that it keeps.
//!
//! A call reaches exactly the scheme, host and port of its binding's own `url`; the operation `reply` reaches
//! DingTalk's hosts and the operator's instead, and a call that only receives reaches nothing. An application that is a
//! component reaches the hosts that a flag names. Everything else is refused here, whatever the component asks for,
//! so that a component which was altered or tricked still cannot carry one team's secret to somewhere else. Redirects are
//! not followed, so none can lead past this check.
//!
//! Whole bodies are passed in both directions instead of streams: a message is small, a request is sent only
//! once it is complete (a component that traps halfway sends nothing), and the component is resumed once
//! instead of once a chunk.

mod address;
mod client;
mod clients;
mod connection;
mod departure;
mod dialer;
mod driver;
mod pool;
mod resolver;
mod roots;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dingtalk_binding::answer::MAX_BODY;
use dingtalk_binding::endpoint::Origin;
use dingtalk_binding::error::Outcome;
use dingtalk_binding::settings::Settings;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use hyper::{Method, Request, Response};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::quiet::Quiet;
pub use address::{Kind, Network};
use client::Client;
pub use client::Proxies;
pub(crate) use client::{tls, trusting};
use clients::Clients;
use departure::Departure;
pub use resolver::{Lookup, Policy};
pub(crate) use roots::trusted;

/// The largest request that is sent, and therefore the largest `--max-body-size`. DingTalk takes 20,000 bytes.
pub const MAX_REQUEST_BODY: usize = 16 * 1024 * 1024;

/// The largest request, and the largest answer, of an application that is a component: as much as it may answer to a
/// message. What is sent and what comes back is held whole.
pub(crate) const MAX_HOST_BODY: usize = 1 << 20;

/// For an application's connections; a binding has a property for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For a request that names no time limit; the binding's component always names one.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The outgoing side of one binding, or of an application. Cheap to clone; clones share connections and counters.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    /// Whose way out it is: a binding's name, or the flag of an application.
    owner: Arc<str>,
    destinations: Arc<Destinations>,
    clients: Clients,
    refused: AtomicU64,
    /// Lines of which a call each could cause one.
    quiet: Quiet,
}

/// Where the way leads, and how. No connection and nothing that was learnt: bindings of one host share it.
struct Destinations {
    robot: Option<Origin>,
    sessions: Box<[Origin]>,
    hosts: Box<[Origin]>,
    connect_timeout: Duration,
    proxies: Proxies,
    policy: Policy,
}

/// How far one call may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing: it only receives, or only says what it can do.
    Nowhere,
    /// The origin of the binding's `url`.
    Robot,
    /// The hosts of session webhooks.
    Sessions,
    /// The hosts that an application may call.
    Hosts,
}

impl Reach {
    /// Bytes of a request's body, and of an answer's.
    fn longest(self) -> (usize, usize) {
        match self {
            Self::Hosts => (MAX_HOST_BODY, MAX_HOST_BODY),
            Self::Nowhere | Self::Robot | Self::Sessions => (MAX_REQUEST_BODY, MAX_BODY),
        }
    }
}

/// Whether scheme and authority are those of `origin`. Compared as text, so that nothing (a user name, a port that is no
/// number) can hide in what a parser leaves out.
fn is(origin: &Origin, scheme: &str, authority: &str) -> bool {
    let (host, port) = match authority.split_at_checked(origin.host().len()) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => return false,
    };
    let is_port = match port {
        Some(port) => port == origin.port().to_string(),
        None => authority.len() == host.len() && origin.port() == origin.scheme().default_port(),
    };
    scheme == origin.scheme().as_str() && is_port && host.eq_ignore_ascii_case(origin.host())
}

/// Destinations that the next binding may have, too. Most have DingTalk's own host alone.
type Latest = Mutex<VecDeque<Arc<Destinations>>>;

/// How many of them are looked through.
const LATEST: usize = 16;

impl Destinations {
    /// Those of `settings`: the same as another binding's if they are equal. The error says which host, or which proxy of the
    /// environment, cannot be used.
    fn of(settings: &Settings, proxies: &Proxies, policy: &Policy) -> Result<Arc<Self>, String> {
        static ALL: Latest = Mutex::new(VecDeque::new());
        Self::among(&ALL, settings, proxies, policy)
    }

    fn among(latest: &Latest, settings: &Settings, proxies: &Proxies, policy: &Policy) -> Result<Arc<Self>, String> {
        // Within the call's own time: an attempt that outlives it would be reported as a lost answer.
        let connect_timeout = settings.connect_timeout.min(settings.timeout);
        let robot = settings.endpoint.origin();
        let latest = || latest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &&Arc<Self>| {
            known.robot.as_ref() == Some(robot)
                && known.connect_timeout == connect_timeout
                && known.proxies.are(proxies)
                && known.policy.is(policy)
                && settings.session_origins().eq(known.sessions.iter().cloned())
        };
        if let Some(known) = latest().iter().find(is_same) {
            return Ok(Arc::clone(known));
        }
        let check = |property: &str, origin: &Origin| {
            policy.check_literal(origin.host()).map_err(|reason| format!("property \"{property}\": {reason}"))
        };
        check("url", robot)?;
        // What keeps it from sending is said now, not with the first message.
        client::check(robot, proxies)?;
        let sessions: Box<[Origin]> = settings.session_origins().collect();
        sessions.iter().try_for_each(|origin| check("sessionWebhookHosts", origin))?;
        let (proxies, policy) = (proxies.clone(), policy.clone());
        let hosts = Box::default();
        let new = Arc::new(Self { robot: Some(robot.clone()), sessions, hosts, connect_timeout, proxies, policy });
        let mut latest = latest();
        latest.truncate(LATEST - 1);
        latest.push_front(Arc::clone(&new));
        Ok(new)
    }
}

impl Egress {
    /// For the binding called `binding`, with the default [`Policy`].
    pub fn new(binding: &str, settings: &Settings, proxies: &Proxies) -> Result<Self, String> {
        Self::within(binding, settings, proxies, &Policy::default())
    }

    /// For the binding called `binding`: allows the origin of its url, and those of its sessions, at addresses that
    /// `policy` lets be reached, with connections of its own. The error says which host, or which proxy of the
    /// environment, cannot be used.
    pub fn within(
        binding: impl Into<Arc<str>>,
        settings: &Settings,
        proxies: &Proxies,
        policy: &Policy,
    ) -> Result<Self, String> {
        Ok(Self::to(binding.into(), Destinations::of(settings, proxies, policy)?))
    }

    /// For an application: allows `hosts`, at addresses that `policy` lets be reached. The error says which host, or
    /// which proxy of the environment, cannot be used.
    pub(crate) fn to_hosts(owner: &str, hosts: &[Origin], proxies: &Proxies, policy: &Policy) -> Result<Self, String> {
        for origin in hosts {
            policy.check_literal(origin.host())?;
            client::check(origin, proxies)?;
        }
        let destinations = Destinations {
            robot: None,
            sessions: Box::default(),
            hosts: hosts.into(),
            connect_timeout: CONNECT_TIMEOUT,
            proxies: proxies.clone(),
            policy: policy.clone(),
        };
        Ok(Self::to(owner.into(), Arc::new(destinations)))
    }

    fn to(owner: Arc<str>, destinations: Arc<Destinations>) -> Self {
        let (clients, refused, quiet) = (Clients::default(), AtomicU64::new(0), Quiet::default());
        Self(Arc::new(Inner { owner, destinations, clients, refused, quiet }))
    }

    /// The way out of one call.
    pub fn exit(&self, reach: Reach) -> Exit {
        Exit { egress: self.clone(), reach, departure: Arc::default() }
    }

    /// How many requests to other destinations, and to addresses that are not reached, were refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// The way out of one call. Cheap to clone.
#[derive(Clone)]
pub struct Exit {
    egress: Egress,
    reach: Reach,
    departure: Arc<Departure>,
}

impl Exit {
    /// What became of the call's requests: whether any of their bytes may have left. Afterwards none leaves that has not.
    pub fn close(&self) -> Outcome {
        self.departure.close()
    }

    /// Whether nothing has left for want of a connection, which there may be in a moment. From here on nothing leaves.
    pub(crate) fn is_unconnected(&self) -> bool {
        self.departure.is_unconnected()
    }

    /// Why the last request was refused, and what to do.
    pub fn refusal(&self) -> Option<&str> {
        self.departure.refusal()
    }

    fn check(&self, uri: &hyper::Uri) -> Result<&Origin, Error> {
        let Inner { owner, destinations, refused, quiet, .. } = &*self.egress.0;
        let Destinations { robot, sessions, hosts, .. } = &**destinations;
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?.as_str();
        let allowed = match self.reach {
            Reach::Nowhere => &[],
            Reach::Robot => robot.as_slice(),
            Reach::Sessions => sessions,
            Reach::Hosts => hosts,
        };
        let scheme = uri.scheme_str().unwrap_or_default();
        if let Some(destination) = allowed.iter().find(|allowed| is(allowed, scheme, authority)) {
            return Ok(destination);
        }
        refused.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = quiet.count("refused") {
            let destination = uri.host().unwrap_or_default();
            tracing::warn!(owner = &**owner, destination, reach = ?self.reach, more, "egress refused");
        }
        Err(Error::HttpRequestDenied)
    }

    /// The client to `origin`, made unless the last one is still there.
    fn client(&self, origin: &Origin) -> Result<Arc<Client>, Error> {
        let Inner { owner, destinations, clients, quiet, .. } = &*self.egress.0;
        let Destinations { connect_timeout, proxies, policy, .. } = &**destinations;
        clients.to(origin, || Client::new(origin, *connect_timeout, proxies, policy)).map_err(|reason| {
            if let Some(more) = quiet.count("no way") {
                tracing::warn!(owner = &**owner, reason, more, "no way to the session's host");
            }
            Error::DestinationUnavailable
        })
    }

    async fn send(
        self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Response<WasiBody>, Error> {
        let timeout = options.and_then(|options| options.first_byte_timeout).unwrap_or(DEFAULT_TIMEOUT);
        let deadline = Instant::now() + timeout;
        let (longest, _) = self.reach.longest();
        let (parts, body) = request.into_parts();
        let body = async move {
            let body = Limited::new(body, longest).collect().await.map_err(|_| Error::HttpRequestBodySize(None))?;
            Ok(body.to_bytes())
        };
        let response = self.exchange(Request::from_parts(parts, ()), body, deadline).await?;
        Ok(response.map(BodyExt::boxed_unsync))
    }

    /// Sends `request` once all of `body` is there, and reads the answer to its end or one byte past the longest that may
    /// be. It must have come by `deadline`.
    pub(crate) async fn exchange(
        self,
        request: Request<()>,
        body: impl Future<Output = Result<Bytes, Error>>,
        deadline: Instant,
    ) -> Result<Response<Received>, Error> {
        // A tunnel's bytes are nobody's message.
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestDenied);
        }
        self.departure.begin().inspect_err(|error| {
            let Inner { owner, quiet, .. } = &*self.egress.0;
            if let Some(more) = quiet.count("begin") {
                tracing::warn!(owner = &**owner, %error, more, "a request was not made");
            }
        })?;
        let client = self.client(self.check(request.uri())?)?;
        let (_, longest_answer) = self.reach.longest();
        let body = body.await?;
        // One timer for the whole exchange: each costs as much as a call into the component.
        let exchange = client.send(request.map(|()| body), longest_answer, &self.departure);
        let (response, connection) = tokio::time::timeout_at(deadline.into(), exchange)
            .await
            .map_err(|_| match self.close() {
                Outcome::NotSent => Error::ConnectionTimeout,
                Outcome::Unknown => Error::HttpResponseTimeout,
            })
            .flatten()
            .inspect_err(|error| {
                let Inner { owner, refused, .. } = &*self.egress.0;
                self.departure.fail(error);
                if matches!(error, Error::DestinationIpProhibited) {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                tracing::debug!(owner = &**owner, %error, "sending failed");
            })?;
        // The binding's component looks at the length itself. An application would take a part for the whole.
        if self.reach == Reach::Hosts && response.body().is_longer_than(longest_answer) {
            return Err(Error::HttpResponseBodySize(None));
        }
        // The answer is there: what the connection still does is no part of the call's time.
        if let Some(connection) = connection {
            client.keep(connection).await;
        }
        Ok(response)
    }
}

impl WasiHttpHooks for Exit {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _received: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sending {
        let exit = self.clone();
        Box::new(async move {
            let response = exit.send(request, options).await?;
            let done: Done = Box::new(std::future::ready(Ok(())));
            Ok((response, done))
        })
    }

    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        // The default logs the error itself. Ours are translated in `client`; none arrives here.
        wasmtime_wasi_http::p2::bindings::http::types::ErrorCode::HttpProtocolError
    }
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = (Response<WasiBody>, Done);
pub(crate) type Sending = Box<dyn Future<Output = Result<Sent, Error>> + Send>;

/// Reads an answer to its end, or one byte past the `longest` that may be.
///
/// Whole, because a body that is not complete in time is no answer: of an error that a body carries,
/// wasmtime-wasi-http does not tell the component which one it was, and so a timeout would look like a connection
/// that broke.
async fn read(mut body: hyper::body::Incoming, longest: usize) -> Received {
    let mut data = BytesMut::new();
    let (end, is_complete) = loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    let room = (longest + 1).saturating_sub(data.len());
                    data.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
                }
                if data.len() > longest {
                    break (None, false);
                }
            }
            None => break (None, true),
            Some(Err(_)) => break (Some(Error::HttpResponseIncomplete), false),
        }
    };
    Received { data: Some(data.freeze()).filter(|data| !data.is_empty()), end, is_complete }
}

/// An answer's body as far as it came, and what ended it.
pub(crate) struct Received {
    data: Option<Bytes>,
    end: Option<Error>,
    /// Whether its connection has nothing left of it.
    is_complete: bool,
}

impl Received {
    /// What came, and the error that it ended with.
    pub(crate) fn into_parts(self) -> (Bytes, Option<Error>) {
        (self.data.unwrap_or_default(), self.end)
    }

    fn is_longer_than(&self, longest: usize) -> bool {
        self.data.as_ref().is_some_and(|data| data.len() > longest)
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.end.take().map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.end.is_none()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::quiet::logged;

    fn egress(url: &str) -> Egress {
        let settings = Settings::parse([("id", "x"), ("url", url)]).unwrap();
        Egress::new("x", &settings, &Proxies::none()).unwrap()
    }

    #[test]
    fn only_the_exact_origin_passes() {
        let egress = egress("https://oapi.dingtalk.com/robot/send?access_token=T");
        let exit = egress.exit(Reach::Robot);
        for uri in ["https://oapi.dingtalk.com/", "https://OAPI.dingtalk.com:443/other?x", "https://oapi.dingtalk.com"]
        {
            assert!(exit.check(&uri.parse().unwrap()).is_ok(), "{uri}");
        }
        let refused = [
            "http://oapi.dingtalk.com/",
            "https://oapi.dingtalk.com:8443/",
            "https://oapi.dingtalk.com.evil.com/",
            "https://evil.com/oapi.dingtalk.com",
            "https://xoapi.dingtalk.com/",
            "https://api.dingtalk.com/",
            "https://oapi.dingtalk.com@evil.com/",
            "https://user@oapi.dingtalk.com/",
            "https://oapi.dingtalk.com:99999/",
            "https://127.0.0.1/",
        ];
        for uri in refused {
            let error = exit.check(&uri.parse().unwrap()).map(|_| ()).expect_err(uri);
            assert!(matches!(error, Error::HttpRequestDenied), "{uri}: {error}");
        }
        assert_eq!(egress.refused(), refused.len() as u64);
        assert!(exit.check(&"/path".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn bindings_of_one_host_share_where_they_go_and_no_connection() {
        let (latest, proxies, policy) = (Latest::default(), Proxies::none(), Policy::default());
        let way = |url: &str, timeout: &str, proxies: &Proxies, policy: &Policy| {
            let settings = Settings::parse([("id", "x"), ("url", url), ("connectTimeout", timeout)]).unwrap();
            Destinations::among(&latest, &settings, proxies, policy).unwrap()
        };
        let url = "http://one.example.com/send?access_token=1";
        let one = way(url, "5s", &proxies, &policy);
        let two = way("http://one.example.com/other?access_token=2", "5s", &proxies, &policy);
        assert!(Arc::ptr_eq(&one, &two));
        let [first, second] = [one.clone(), two].map(|way| {
            let exit = Egress::to("x".into(), way).exit(Reach::Robot);
            exit.client(exit.check(&url.parse().unwrap()).unwrap()).unwrap()
        });
        assert!(!Arc::ptr_eq(&first, &second));
        for other in [
            way("https://one.example.com/", "5s", &proxies, &policy),
            way("http://one.example.com:81/", "5s", &proxies, &policy),
            way("http://two.example.com/", "5s", &proxies, &policy),
            way(url, "4s", &proxies, &policy),
            way(url, "5s", &Proxies::none(), &policy),
            way(url, "5s", &proxies, &Policy::default()),
        ] {
            assert!(!Arc::ptr_eq(&one, &other));
        }
        for number in 0..100 {
            way(&format!("http://host-{number}.example.com/"), "5s", &proxies, &policy);
        }
        assert_eq!(latest.lock().unwrap().len(), LATEST);
    }

    #[test]
    fn a_thousand_refusals_are_one_line_in_the_log() {
        let egress = egress("https://oapi.dingtalk.com/robot/send?access_token=T");
        let log = logged(|| {
            for _ in 0..1_000 {
                let _ = egress.exit(Reach::Robot).check(&"https://evil.com/".parse().unwrap()).map(drop);
            }
        });
        assert_eq!((log.lines().count(), egress.refused()), (1, 1_000), "{log}");
        assert!(log.contains("evil.com") && log.contains("more=0"), "{log}");
    }

    #[test]
    fn a_reply_reaches_sessions_and_what_only_receives_reaches_nothing() {
        let properties =
            [("id", "x"), ("url", "https://gateway.example.com/x"), ("sessionWebhookHosts", "10.0.0.7:8443")];
        let settings = Settings::parse(properties).unwrap();
        let egress = Egress::new("x", &settings, &Proxies::none()).unwrap();
        let reaches = |reach, uri: &str| egress.exit(reach).check(&uri.parse().unwrap()).is_ok();
        for uri in [
            "https://oapi.dingtalk.com/s",
            "https://oapi.dingtalk.io/s",
            "https://api.dingtalk.com/s",
            "https://10.0.0.7:8443/s",
        ] {
            assert!(reaches(Reach::Sessions, uri), "{uri}");
            assert!(!reaches(Reach::Robot, uri), "{uri}");
            assert!(!reaches(Reach::Nowhere, uri), "{uri}");
        }
        let robot = "https://gateway.example.com/x";
        assert!(reaches(Reach::Robot, robot) && !reaches(Reach::Sessions, robot) && !reaches(Reach::Nowhere, robot));
    }

    /// Reads an answer with this much content, which ends where it says or without a word.
    async fn received(length: usize, missing: usize) -> Received {
        let (ours, mut server) = tokio::io::duplex(4 << 20);
        let (mut connection, io) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(ours)).await.unwrap();
        tokio::spawn(io);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length + missing);
        let answer = async {
            let _ = server.read(&mut [0; 1024]).await.unwrap();
            server.write_all(head.as_bytes()).await.unwrap();
            server.write_all(&vec![b'x'; length]).await.unwrap();
            drop(server);
        };
        let request = Request::get("/").body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let (response, ()) = tokio::join!(connection.send_request(request), answer);
        read(response.unwrap().into_body(), MAX_BODY).await
    }

    #[tokio::test]
    async fn of_an_answer_one_byte_more_is_read_than_counts_and_its_connection_kept_if_that_was_all() {
        for (length, kept, is_complete) in [
            (0, 0, true),
            (1, 1, true),
            (MAX_BODY, MAX_BODY, true),
            (MAX_BODY + 1, MAX_BODY + 1, false),
            (MAX_BODY + 100_000, MAX_BODY + 1, false),
        ] {
            let received = received(length, 0).await;
            assert_eq!(received.is_complete, is_complete, "{length}");
            assert_eq!(received.is_end_stream(), length == 0, "{length}");
            assert_eq!(received.collect().await.unwrap().to_bytes().len(), kept, "{length}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_broke_off_is_what_came_of_it_and_then_the_error() {
        for length in [0, 10] {
            let mut received = received(length, 1).await;
            assert!(!received.is_complete);
            if length > 0 {
                assert_eq!(received.frame().await.unwrap().unwrap().into_data().unwrap().len(), length);
            }
            assert!(!received.is_end_stream(), "the error is still to come");
            let error = received.frame().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::HttpResponseIncomplete), "{error}");
            assert!(received.is_end_stream() && received.frame().await.is_none());
        }
    }
}
