//! A receiver of OTLP, by gRPC and by HTTP on one port, that keeps what it was sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::support::{PATIENCE, pause};

/// What becomes of the next messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// They are taken.
    Takes,
    /// All but these of each are taken.
    Rejects(i64),
    /// HTTP's 503, gRPC's Unavailable.
    Busy,
    /// HTTP's 401, gRPC's Unauthenticated.
    Refuses,
    /// No answer until the mood changes.
    Hangs,
}

/// A span as it came.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    /// OTLP's number: 2 is a server's, 3 a client's.
    pub kind: i32,
    pub trace: String,
    pub id: String,
    /// Empty without one.
    pub parent: String,
    pub attributes: BTreeMap<String, String>,
    /// The description of a failure.
    pub failure: Option<String>,
    /// Of its resource.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// What names it as a parent.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

/// A request that has come.
#[derive(Debug, Clone)]
pub struct Post {
    pub path: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

#[derive(Default)]
struct Shared {
    posts: Mutex<Vec<Post>>,
    spans: Mutex<Vec<Span>>,
}

pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    mood: watch::Sender<Mood>,
    _runtime: Runtime,
}

impl Collector {
    pub fn start() -> Self {
        Self::with(None)
    }

    /// One that speaks TLS.
    pub fn secure(tls: Arc<rustls::ServerConfig>) -> Self {
        Self::with(Some(tls))
    }

    fn with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, mood) = (Arc::new(Shared::default()), watch::Sender::new(Mood::Takes));
        let (kept, feels) = (Arc::clone(&shared), mood.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, feels, tls) = (Arc::clone(&kept), feels.clone(), tls.clone());
                let service = service_fn(move |request| answer(Arc::clone(&kept), feels.subscribe(), request));
                tokio::spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
                            drop(builder.serve_connection(TokioIo::new(stream), service).await);
                        }
                    }
                });
            }
        });
        Self { address, shared, mood, _runtime: runtime }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn feel(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub fn posts(&self) -> Vec<Post> {
        self.shared.posts.lock().unwrap().clone()
    }

    /// Those that were taken so far.
    pub fn spans(&self) -> Vec<Span> {
        self.shared.spans.lock().unwrap().clone()
    }

    /// Waits until there are so many.
    #[track_caller]
    pub fn wait_for(&self, number: usize) -> Vec<Span> {
        let start = Instant::now();
        while self.spans().len() < number {
            assert!(start.elapsed() < PATIENCE, "{number} spans do not come: {:#?}", self.spans());
            pause();
        }
        self.spans()
    }

    /// Waits for a request.
    #[track_caller]
    pub fn wait_for_posts(&self, number: usize) -> Vec<Post> {
        let start = Instant::now();
        while self.posts().len() < number {
            assert!(start.elapsed() < PATIENCE, "{number} requests do not come");
            pause();
        }
        self.posts()
    }
}

type Body = WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>;

async fn answer(
    shared: Arc<Shared>,
    mut mood: watch::Receiver<Mood>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc+proto");
    shared.posts.lock().unwrap().push(Post {
        path: head.uri.path().to_owned(),
        version: head.version,
        headers: head.headers,
        body: body.clone(),
        at: Instant::now(),
    });
    let felt = *mood.wait_for(|mood| *mood != Mood::Hangs).await.unwrap();
    let message = if is_grpc { body.slice(5..) } else { body };
    let mut rejected = 0;
    let (status, code) = match felt {
        Mood::Busy => (503, "14"),
        Mood::Refuses => (401, "16"),
        Mood::Takes | Mood::Hangs | Mood::Rejects(_) => {
            if let Mood::Rejects(number) = felt {
                rejected = number;
            }
            keep(&shared, ExportTraceServiceRequest::decode(message).expect("OTLP"));
            (200, "0")
        }
    };
    let partial = (rejected > 0)
        .then(|| ExportTracePartialSuccess { rejected_spans: rejected, error_message: "S3CR3T".to_owned() });
    let message = ExportTraceServiceResponse { partial_success: partial }.encode_to_vec();
    let mut answer = Response::builder();
    let (body, trailers) = if is_grpc {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        answer = answer.header("content-type", "application/grpc");
        let trailers = [("grpc-status", code), ("grpc-message", "S3CR3T")];
        let trailers: HeaderMap =
            trailers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        ([&[0], &length[..], &message].concat(), Some(Ok(trailers)))
    } else {
        answer = answer.status(status).header("content-type", "application/x-protobuf");
        (message, None)
    };
    Ok(answer.body(Full::new(Bytes::from(body)).with_trailers(std::future::ready(trailers))).unwrap())
}

fn keep(shared: &Shared, message: ExportTraceServiceRequest) {
    let mut kept = shared.spans.lock().unwrap();
    for of_resource in message.resource_spans {
        let resource = pairs(&of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.events.is_empty(), "{span:?}");
            let status = span.status.unwrap_or_default();
            kept.push(Span {
                name: span.name,
                kind: span.kind,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                attributes: pairs(&span.attributes),
                failure: (status.code == i32::from(StatusCode::Error)).then_some(status.message),
                resource: resource.clone(),
            });
        }
    }
}

fn pairs(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |one: &KeyValue| match one.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|one| (one.key.clone(), value(one))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// For `OTEL_BSP_SCHEDULE_DELAY`: what waits is sent at once.
pub const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "20");

/// Longer than any test.
pub const LATER: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");
