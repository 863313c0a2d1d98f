//! The simulator's edge: sockets, HTTP, the clock, and the faults that strike there.
//!
//! HTTP/1.1 only, because a reset and half a body are events of one connection there. Everything that a
//! client could make grow is bounded: connections, headers, bodies, messages and time.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::config::scheme;
use super::conversation::Say;
use super::fault::{self, Fault, Times};
use super::outgoing::Delivery;
use super::refusal::Refusal;
use super::robot::Received;
use super::seen::Via;
use super::shared::{GRACE, Shared, lock};
use super::wire::{Payload, Resettable};

/// The largest body that is read at all; the robot's own limit is far below.
const MAX_REQUEST_BODY: usize = 1024 * 1024;
/// How many connections are open at once; the next ones wait.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a client may take for its TLS handshake, and for its body.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may take for a request's head; an idle connection is closed after it too.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// Accepts connections until `stop` changes or its sender is gone.
pub(super) async fn run(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<()>,
) {
    let tls = tls.map(TlsAcceptor::from);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropping it ends its tasks: no connection outlives this function.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async { (permits.clone().acquire_owned().await, listener.accept().await) };
        let (permit, accepted) = tokio::select! {
            _ = stop.changed() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                lock(&shared.state).stats.connections += 1;
                let serving = connection(stream, peer, tls.clone(), shared.clone(), stop.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    serving.await;
                });
            }
            Err(error) => {
                // Usually too many open files: some will be closed.
                tracing::warn!(%error, "the simulator cannot accept a connection");
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
    stop: watch::Receiver<()>,
) {
    // Without it half an answer could wait for the other half.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let stream = Resettable { stream, reset: reset.clone() };
    let client = Arc::new(Client { shared, peer: peer.ip(), reset, stop: stop.clone() });
    match tls {
        None => serve(stream, client, stop).await,
        Some(acceptor) => match timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => serve(stream, client, stop).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake with the simulator failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake with the simulator took too long"),
        },
    }
}

async fn serve<S>(stream: S, client: Arc<Client>, mut stop: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { client.answer(request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the simulator ended early");
    }
}

/// One connection.
struct Client {
    shared: Arc<Shared>,
    peer: IpAddr,
    /// Tells [`Resettable`] how to end.
    reset: Arc<AtomicBool>,
    stop: watch::Receiver<()>,
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Payload>, NoAnswer> {
        let method = request.method();
        match request.uri().path() {
            "/robot/send" => self.robot(request, Via::Webhook).await,
            "/robot/sendBySession" => self.robot(request, Via::Session).await,
            "/say" if method == Method::POST => Ok(self.say(request.into_body()).await),
            "/say" => Ok(not_allowed("POST")),
            "/callback-url" if method == Method::PUT => Ok(self.order_callback_url(request.into_body()).await),
            "/callback-url" => Ok(not_allowed("PUT")),
            "/messages" if method == Method::GET => {
                let state = lock(&self.shared.state);
                Ok(match serde_json::to_string(&state.messages) {
                    Ok(messages) => json(StatusCode::OK, messages),
                    Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                })
            }
            "/messages" if method == Method::DELETE => {
                lock(&self.shared.state).messages.clear();
                Ok(empty(StatusCode::NO_CONTENT))
            }
            "/messages" => Ok(not_allowed("GET, DELETE")),
            "/fault" if method == Method::PUT => Ok(self.order_fault(request.into_body()).await),
            "/fault" => Ok(not_allowed("PUT")),
            "/stats" if method == Method::GET => Ok(match serde_json::to_string(&self.shared.stats()) {
                Ok(stats) => json(StatusCode::OK, stats),
                Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            }),
            "/stats" => Ok(not_allowed("GET")),
            _ => Ok(failed(
                StatusCode::NOT_FOUND,
                "there are POST /robot/send, POST /robot/sendBySession, POST /say, PUT /callback-url, GET and DELETE \
                 /messages, PUT /fault, GET /stats",
            )),
        }
    }

    async fn robot(&self, request: Request<Incoming>, via: Via) -> Result<Response<Payload>, NoAnswer> {
        let (head, body) = request.into_parts();
        // Also before a fault: a client that is still sending would see another failure than the one meant.
        let body = match read(body).await {
            Ok(body) => body,
            Err(unread) => return Ok(unread.answer()),
        };
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

    async fn order_fault(&self, body: Incoming) -> Response<Payload> {
        /// The body of `PUT /fault`.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Order {
            fault: Option<Fault>,
            times: Option<Times>,
        }
        let body = match read(body).await {
            Ok(body) => body,
            Err(unread) => return unread.answer(),
        };
        match serde_json::from_slice::<Order>(&body) {
            Ok(Order { fault, times }) => {
                self.shared.set_fault(fault.map(|fault| (fault, times.unwrap_or(Times::ONCE))));
                empty(StatusCode::NO_CONTENT)
            }
            Err(error) => failed(
                StatusCode::BAD_REQUEST,
                &format!(
                    "not a fault order ({error}); write for example {{\"fault\":\"status=503\",\"times\":2}} or {{\"fault\":null}}"
                ),
            ),
        }
    }

    /// `POST /say`: see [`Say`], and `wait` beside it.
    async fn say(&self, body: Incoming) -> Response<Payload> {
        let body = match read(body).await {
            Ok(body) => body,
            Err(unread) => return unread.answer(),
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
                return failed(StatusCode::BAD_REQUEST, &format!("nothing can be said ({error}); {help}"));
            }
        };
        let delivery = match Delivery::prepare(&self.shared, say) {
            Ok(delivery) => delivery,
            Err(unsaid) => return failed(unsaid.status(), &unsaid.to_string()),
        };
        let mut stop = self.stop.clone();
        if wait {
            return tokio::select! {
                said = delivery.run() => match serde_json::to_string(&said) {
                    Ok(said) => json(StatusCode::OK, said),
                    Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
                },
                _ = stop.changed() => failed(StatusCode::SERVICE_UNAVAILABLE, "the simulator stops"),
            };
        }
        let Ok(permit) = self.shared.background.clone().try_acquire_owned() else {
            let busy = "too many callbacks are on their way; leave \"wait\":false out, or try again later";
            return failed(StatusCode::SERVICE_UNAVAILABLE, busy);
        };
        let answer = serde_json::json!({ "msgId": delivery.msg_id() });
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                _ = delivery.run() => {}
                // Also when the simulator is dropped.
                _ = stop.changed() => {}
            }
        });
        json(StatusCode::ACCEPTED, answer.to_string())
    }

    async fn order_callback_url(&self, body: Incoming) -> Response<Payload> {
        /// The body of `PUT /callback-url`.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Order {
            url: Option<String>,
        }
        let body = match read(body).await {
            Ok(body) => body,
            Err(unread) => return unread.answer(),
        };
        let set = match serde_json::from_slice::<Order>(&body) {
            Ok(Order { url }) => self.shared.set_callback_url(url.as_deref()),
            Err(error) => Err(format!(
                r#"not a callback URL ({error}); write for example {{"url":"http://127.0.0.1:8080/callback"}}"#
            )),
        };
        match set {
            Ok(()) => empty(StatusCode::NO_CONTENT),
            Err(error) => failed(StatusCode::BAD_REQUEST, &error),
        }
    }

    /// Waits, but not when the simulator stops.
    async fn wait(&self, time: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = sleep(time) => {}
            _ = stop.changed() => {}
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

/// Why a body could not be read.
enum Unread {
    TooLong,
    TooSlow,
    Broken,
}

impl Unread {
    /// What follows on the connection is the rest of the body, so it ends with this answer.
    fn answer(self) -> Response<Payload> {
        let mut answer = match self {
            Self::TooLong => failed(StatusCode::PAYLOAD_TOO_LARGE, "the simulator reads bodies of at most 1 MiB"),
            Self::TooSlow => failed(StatusCode::REQUEST_TIMEOUT, "the body took more than 30 seconds"),
            Self::Broken => failed(StatusCode::BAD_REQUEST, "the body ended early or is not framed correctly"),
        };
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }
}

async fn read(mut body: Incoming) -> Result<Bytes, Unread> {
    let all = async {
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            if read.len() + data.len() > MAX_REQUEST_BODY {
                return Err(Unread::TooLong);
            }
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    };
    timeout(PATIENCE, all).await.unwrap_or(Err(Unread::TooSlow))
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
