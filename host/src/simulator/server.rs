//! The simulator's edge: sockets, HTTP, the clock, and the faults that strike there.
//!
//! HTTP/1.1 only, because a reset and half a body are events of one connection there. Everything that a
//! client could make grow is bounded: connections, headers, bodies, messages and time; what [`crate::ingress`] does
//! for every port, it does here.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dingtalk_binding::secret;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::config::scheme;
use super::conversation::Say;
use super::fault::{self, Fault, Times};
use super::listing::Listing;
use super::outgoing::Delivery;
use super::refusal::Refusal;
use super::robot::Received;
use super::seen::Via;
use super::shared::{GRACE, Shared, lock};
use super::wire::{Payload, Resettable};
use crate::ingress::body::{self, Budget, Share, Unread};
use crate::ingress::connection::{Activity, hold};
use crate::quiet::Quiet;
use dingtalk_api::caller;

/// The largest body that is read at all; the robot's own limit is far below.
const MAX_REQUEST_BODY: usize = 1024 * 1024;
/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;
/// How long a client may take for its TLS handshake, and for its body.
const PATIENCE: Duration = Duration::from_secs(30);

/// Accepts connections until `stop` is cancelled.
pub(super) async fn run(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let tls = tls.map(TlsAcceptor::from);
    // Dropping it ends its tasks: no connection outlives this function.
    let mut connections = JoinSet::new();
    let quiet = Quiet::default();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let accepted = listener.accept().await?;
            // Where all places are taken, that of whoever is silent.
            Ok((accepted, shared.port.place().await))
        };
        let next: io::Result<_> = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        match next {
            Ok(((stream, peer), place)) => {
                lock(&shared.state).stats.connections += 1;
                let serving = connection(stream, peer, tls.clone(), shared.clone(), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    serving.await;
                });
            }
            Err(error) => {
                // Usually too many open files: some will be closed.
                if let Some(more) = quiet.count("accept") {
                    tracing::warn!(%error, more, "the simulator cannot accept a connection");
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    // Gone already, otherwise.
    let Ok(address) = stream.local_addr() else { return };
    // Without it half an answer could wait for the other half.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let stream = Resettable { stream, reset: reset.clone() };
    let (activity, address) = (shared.port.enter(), address.ip().to_canonical());
    let client = Arc::new(Client { shared, activity, address, peer: peer.ip(), reset, stop });
    let Some(acceptor) = tls else { return serve(stream, client).await };
    let handshake = tokio::select! {
        () = client.activity.evicted() => return,
        handshake = timeout(PATIENCE, acceptor.accept(stream)) => handshake,
    };
    match handshake {
        Ok(Ok(stream)) => serve(stream, client).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake with the simulator failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake with the simulator took too long"),
    }
}

async fn serve<S>(stream: S, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let at = client.clone();
    let service = service_fn(move |request| {
        let client = at.clone();
        async move {
            client.activity.touch();
            let answer = client.answer(request).await;
            client.activity.touch();
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Whoever is silent for long is `hold`'s business.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let patience = client.shared.port.policy.patience;
    if let Err(error) = hold(connection, &client.activity, patience, &client.stop).await {
        tracing::debug!(%error, "a connection to the simulator ended early");
    }
}

/// One connection.
struct Client {
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    /// The address of ours that the client has reached.
    address: IpAddr,
    peer: IpAddr,
    /// Tells [`Resettable`] how to end.
    reset: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Payload>, NoAnswer> {
        if let Err(what) = caller::host(request.version(), request.uri(), request.headers()) {
            return Ok(failed(StatusCode::BAD_REQUEST, what));
        }
        match request.uri().path() {
            "/robot/send" => self.robot(request, Via::Webhook).await,
            "/robot/sendBySession" => self.robot(request, Via::Session).await,
            _ => Ok(self.operate(request).await),
        }
    }

    /// What needs no token, and so is not for pages in somebody's browser.
    async fn operate(&self, request: Request<Incoming>) -> Response<Payload> {
        if let Err(stranger) = self.shared.config().allowed.check(request.uri(), request.headers(), Some(self.address))
        {
            return failed(StatusCode::FORBIDDEN, &stranger.explained("", &caller::FLAGS));
        }
        let (head, body) = request.into_parts();
        let method = &head.method;
        match head.uri.path() {
            "/say" if method == Method::POST => self.say(&head, body).await,
            "/say" => not_allowed("POST"),
            "/callback-url" if method == Method::PUT => self.order_callback_url(&head, body).await,
            "/callback-url" => not_allowed("PUT"),
            "/messages" if method == Method::GET => {
                let mut answer = json(StatusCode::OK, String::new());
                *answer.body_mut() = Payload::Messages(Listing::of(self.shared.clone()));
                answer
            }
            "/messages" if method == Method::DELETE => {
                lock(&self.shared.state).messages.clear();
                empty(StatusCode::NO_CONTENT)
            }
            "/messages" => not_allowed("GET, DELETE"),
            "/fault" if method == Method::PUT => self.order_fault(&head, body).await,
            "/fault" => not_allowed("PUT"),
            "/stats" if method == Method::GET => match serde_json::to_string(&self.shared.stats()) {
                Ok(stats) => json(StatusCode::OK, stats),
                Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            },
            "/stats" => not_allowed("GET"),
            _ => failed(
                StatusCode::NOT_FOUND,
                "there are POST /robot/send, POST /robot/sendBySession, POST /say, PUT /callback-url, GET and DELETE \
                 /messages, PUT /fault, GET /stats",
            ),
        }
    }

    async fn robot(&self, request: Request<Incoming>, via: Via) -> Result<Response<Payload>, NoAnswer> {
        let (head, body) = request.into_parts();
        // Also before a fault: a client that is still sending would see another failure than the one meant.
        let (body, _share) = match read(&head, body, &self.shared.port.budget).await {
            Ok(body) => body,
            Err(answer) => return Ok(answer),
        };
        // Before a fault is taken, which would strike nobody.
        let Some(_request) = self.shared.port.request() else {
            return Ok(busy("too many requests at once; send it again, or end the fault that holds them"));
        };
        let _call = self.activity.call();
        let fault = self.shared.take_fault();
        if let Some(fault) = &fault {
            // The name alone: a fault's value may be anything.
            tracing::debug!(reaches_robot = fault.reaches_robot(), "the simulator fails as ordered");
        }
        let receive = || {
            let received = Received {
                method: head.method.as_str(),
                content_type: head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()),
                query: head.uri.query().unwrap_or_default(),
                body: &body,
                peer: self.peer,
            };
            let answer = self.shared.receive(&received, via);
            tracing::debug!(errcode = answer.errcode, "the simulated robot answers");
            answer
        };
        let ok = StatusCode::OK;
        Ok(match fault {
            None => result(&receive()),
            Some(Fault::Delay(delay)) => {
                let answer = receive();
                self.wait(delay).await;
                result(&answer)
            }
            Some(Fault::Reset) => {
                receive();
                return Err(self.reset());
            }
            Some(Fault::HalfBody) => {
                let Refusal { errcode, errmsg } = receive();
                half(fault::result(errcode, &errmsg))
            }
            Some(Fault::StringErrcode) => {
                let Refusal { errcode, errmsg } = receive();
                json(ok, fault::string_result(errcode, &errmsg))
            }
            Some(Fault::Html) => typed(ok, "text/html; charset=utf-8", fault::PAGE),
            Some(Fault::Throttled) => json(ok, fault::throttled()),
            Some(Fault::Status(status)) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                json(status, fault::result(0, "ok"))
            }
            Some(Fault::Redirect(location)) => {
                let mut answer = empty(StatusCode::TEMPORARY_REDIRECT);
                match HeaderValue::from_str(&location) {
                    Ok(location) => {
                        answer.headers_mut().insert(LOCATION, location);
                        answer
                    }
                    Err(_) => failed(StatusCode::INTERNAL_SERVER_ERROR, "the fault's location fits in no header"),
                }
            }
            Some(Fault::Oversized) => json(ok, fault::oversized()),
            Some(Fault::Empty) => empty(ok),
            Some(Fault::MissingErrcode) => json(ok, r#"{"errmsg":"ok"}"#.to_owned()),
            Some(Fault::Rejected { errcode, errmsg }) => json(ok, fault::result(errcode, &errmsg)),
            Some(Fault::Echo) => {
                let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
                result(&fault::echo(&format!("{}://{host}{target}", scheme(self.shared.config())), &body))
            }
            Some(Fault::Hang) => {
                // Ends earlier when the client leaves: the connection then drops this future.
                self.wait(fault::LONGEST).await;
                return Err(self.reset());
            }
        })
    }

    async fn order_fault(&self, head: &Parts, body: Incoming) -> Response<Payload> {
        /// The body of `PUT /fault`.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Order {
            fault: Option<Fault>,
            times: Option<Times>,
        }
        let (body, _share) = match read(head, body, &self.shared.orders).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        match serde_json::from_slice::<Order>(&body) {
            Ok(Order { fault, times }) => {
                self.shared.set_fault(fault.map(|fault| (fault, times.unwrap_or(Times::ONCE))));
                empty(StatusCode::NO_CONTENT)
            }
            Err(error) => failed(
                StatusCode::BAD_REQUEST,
                &format!(
                    "not a fault order ({}); write for example {{\"fault\":\"status=503\",\"times\":2}} or {{\"fault\":null}}",
                    brief(&error)
                ),
            ),
        }
    }

    /// `POST /say`: see [`Say`], and `wait` beside it.
    async fn say(&self, head: &Parts, body: Incoming) -> Response<Payload> {
        let (body, _share) = match read(head, body, &self.shared.orders).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let order =
            serde_json::from_slice(&dingtalk_binding::json::mended(&body)).and_then(|mut order: Map<String, Value>| {
                let wait = order.remove("wait").map_or(Ok(true), serde_json::from_value)?;
                Ok((wait, serde_json::from_value::<Say>(order.into())?))
            });
        let (wait, say) = match order {
            Ok(order) => order,
            Err(error) => {
                let help = r#"write for example {"text":"hello"}"#;
                return failed(StatusCode::BAD_REQUEST, &format!("nothing can be said ({}); {help}", brief(&error)));
            }
        };
        drop(body);
        // Before the message gets its session: orders that are refused must not end the sessions of others.
        let under_way = if wait { &self.shared.waiting } else { &self.shared.background };
        let Ok(permit) = under_way.clone().try_acquire_owned() else {
            return busy("too many callbacks are on their way; try again later");
        };
        let delivery = match Delivery::prepare(&self.shared, say) {
            Ok(delivery) => delivery,
            Err(unsaid) => return failed(unsaid.status(), &unsaid.to_string()),
        };
        if wait {
            let _call = self.activity.call();
            return tokio::select! {
                said = delivery.run() => match serde_json::to_string(&said) {
                    Ok(said) => json(StatusCode::OK, said),
                    Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                },
                () = self.stop.cancelled() => failed(StatusCode::SERVICE_UNAVAILABLE, "the simulator stops"),
            };
        }
        let answer = serde_json::json!({ "msgId": delivery.msg_id() });
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let _bounds = (permit, _share);
            tokio::select! {
                _ = delivery.run() => {}
                // Also when the simulator is dropped.
                () = stop.cancelled() => {}
            }
        });
        json(StatusCode::ACCEPTED, answer.to_string())
    }

    async fn order_callback_url(&self, head: &Parts, body: Incoming) -> Response<Payload> {
        /// The body of `PUT /callback-url`.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Order {
            url: Option<String>,
        }
        let (body, _share) = match read(head, body, &self.shared.orders).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let set = match serde_json::from_slice::<Order>(&body) {
            Ok(Order { url }) => self.shared.set_callback_url(url.as_deref()),
            Err(error) => Err(format!(
                r#"not a callback URL ({}); write for example {{"url":"http://127.0.0.1:8080/callback"}}"#,
                brief(&error)
            )),
        };
        match set {
            Ok(()) => empty(StatusCode::NO_CONTENT),
            Err(error) => failed(StatusCode::BAD_REQUEST, &error),
        }
    }

    /// Waits, but not when the simulator stops.
    async fn wait(&self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            () = self.stop.cancelled() => {}
        }
    }

    fn reset(&self) -> NoAnswer {
        self.reset.store(true, Ordering::Relaxed);
        NoAnswer
    }
}

/// Tells hyper to drop the connection without an answer.
#[derive(Debug)]
struct NoAnswer;

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reset as ordered")
    }
}

impl std::error::Error for NoAnswer {}

/// A body with its share of the bytes, or the answer to whoever sent it. What follows on the connection is the rest of
/// the body then, so it ends with this answer.
async fn read(head: &Parts, body: Incoming, budget: &Budget) -> Result<(Vec<u8>, Share), Response<Payload>> {
    let unread = match body::read(&head.headers, body, MAX_REQUEST_BODY, PATIENCE, budget).await {
        Ok(read) => return Ok(read),
        Err(unread) => unread,
    };
    let mut answer = match unread {
        Unread::TooLong => failed(StatusCode::PAYLOAD_TOO_LARGE, "the simulator reads bodies of at most 1 MiB"),
        Unread::TooSlow => failed(StatusCode::REQUEST_TIMEOUT, "the body took more than 30 seconds, or paused for 10"),
        Unread::Incomplete => failed(StatusCode::BAD_REQUEST, "the body ended early or is not framed correctly"),
        Unread::Busy => busy("too many long bodies at once; send it again"),
    };
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Err(answer)
}

/// A parser's error without what it repeats of a long text.
fn brief(error: &serde_json::Error) -> String {
    secret::redact(&error.to_string(), [])
}

/// There is no room for the request now, and there will be.
fn busy(error: &str) -> Response<Payload> {
    let mut answer = failed(StatusCode::SERVICE_UNAVAILABLE, error);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

fn result(answer: &Refusal) -> Response<Payload> {
    json(StatusCode::OK, fault::result(answer.errcode, &answer.errmsg))
}

fn json(status: StatusCode, body: String) -> Response<Payload> {
    typed(status, "application/json", body)
}

fn failed(status: StatusCode, error: &str) -> Response<Payload> {
    json(status, serde_json::json!({ "error": error }).to_string())
}

fn not_allowed(methods: &'static str) -> Response<Payload> {
    let mut answer = failed(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {methods}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn empty(status: StatusCode) -> Response<Payload> {
    let mut answer = Response::new(Payload::Whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Payload> {
    let mut answer = Response::new(Payload::Whole(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// The head of the whole body with the first half of it.
fn half(body: String) -> Response<Payload> {
    let full_length = body.len();
    let mut first = Bytes::from(body);
    first.truncate(full_length / 2);
    let mut answer = Response::new(Payload::Half(first));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(full_length));
    answer
}
