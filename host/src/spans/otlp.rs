//! Spans by OTLP, as gRPC or as protobuf over HTTP, to the one receiver that the operator has named.
//!
//! One call of gRPC is a frame of five bytes more, and a status in the trailers; so both ways are one client, with one set of
//! limits. No proxy is used, and no redirect is followed. What the receiver says in an error is not shown: it may repeat a
//! header.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, TE, USER_AGENT};
use http::uri::Scheme;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::queue::Counts;
use super::settings::{Protocol, Receiver};
use crate::app::retry_after;
use crate::egress;
use crate::files;
use crate::quiet::Quiet;

/// How long a receiver that has something to say may say nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// Longer, a wrong address would look like a slow receiver.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer has some bytes; an error's page may have more.
const MAX_ANSWER: usize = 64 << 10;
const MAX_HEAD: u32 = 16 << 10;

/// Between two tries, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// gRPC's codes after which OTLP has the same spans sent again: Cancelled, DeadlineExceeded, Aborted, OutOfRange,
/// Unavailable, DataLoss.
const AGAIN: [i32; 6] = [1, 4, 10, 11, 14, 15];

/// The SDK's exporter.
pub(super) struct Otlp {
    sender: Arc<Sender>,
    runtime: Handle,
    resource: ResourceAttributesWithSchema,
    counts: Arc<Counts>,
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OTLP to {}", self.sender.shown)
    }
}

impl Otlp {
    /// To `receiver`, until `stopping`: then nothing is tried again. Must be called within a tokio runtime. The error says
    /// what of its certificates cannot be used.
    pub(super) fn new(receiver: &Receiver, counts: Arc<Counts>, stopping: CancellationToken) -> Result<Self, String> {
        let sender = Arc::new(Sender::new(receiver, stopping)?);
        Ok(Self { sender, runtime: Handle::current(), resource: ResourceAttributesWithSchema::default(), counts })
    }
}

impl SpanExporter for Otlp {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let message = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let sender = Arc::clone(&self.sender);
        // Asked for by a thread of the SDK's, which is none of the runtime's.
        let sent = self.runtime.spawn(async move { sender.send(message.into()).await }).await;
        let sent = sent.unwrap_or_else(|_| Err("the host has stopped".into()));
        let (rejected, reason) = match sent {
            Ok(0) => (0, None),
            Ok(rejected) => (rejected, Some("the receiver has not taken all of them".to_owned())),
            Err(reason) => (spans, Some(reason)),
        };
        self.counts.sent(spans, rejected);
        match reason {
            None => Ok(()),
            Some(reason) => {
                if let Some(more) = self.sender.quiet.count("failed") {
                    tracing::warn!(receiver = self.sender.shown, spans = rejected, reason, more, "spans were not sent");
                }
                Err(OTelSdkError::InternalFailure(reason))
            }
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    receiver: Receiver,
    /// For a log line: without path and headers.
    shown: String,
    stopping: CancellationToken,
    quiet: Quiet,
}

/// Why one try was none.
struct Failure {
    reason: String,
    /// Whether another one may succeed, and after how long at the earliest.
    again: Option<Duration>,
}

impl Sender {
    fn new(receiver: &Receiver, stopping: CancellationToken) -> Result<Self, String> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(receiver.timeout)));
        // HTTP/2 shares one connection: one whose other end has gone without a word must not take every batch.
        connector.set_keepalive(Some(SILENCE));
        connector.set_keepalive_interval(Some(SILENCE));
        connector.set_keepalive_retries(Some(2));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        connector.set_tcp_user_timeout(Some(2 * SILENCE));
        let mut tls = egress::trusting(roots(receiver)?);
        let is_grpc = receiver.protocol == Protocol::Grpc;
        tls.alpn_protocols = vec![if is_grpc { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(is_grpc)
            .http2_max_header_list_size(MAX_HEAD)
            .http1_max_buf_size(MAX_ANSWER)
            .build(HttpsConnector::from((connector, tls)));
        let shown = shown(receiver);
        Ok(Self { client, receiver: receiver.clone(), shown, stopping, quiet: Quiet::default() })
    }

    /// Sends one message, again if need be; how many of its spans were not taken.
    async fn send(&self, message: Bytes) -> Result<usize, String> {
        let limit = self.receiver.timeout;
        let mut last = format!("no answer within {} ms", limit.as_millis());
        let tries = async {
            let mut pause = FIRST_PAUSE;
            loop {
                let was_stopping = self.stopping.is_cancelled();
                let failure = match self.attempt(message.clone()).await {
                    Ok(rejected) => return Ok(rejected),
                    Err(failure) => failure,
                };
                let Some(least) = failure.again.filter(|_| !was_stopping) else { return Err(failure.reason) };
                last = failure.reason;
                // From half of it to all: receivers that come back are not met by everybody at once.
                let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0).max(least);
                pause = (pause * 2).min(LONGEST_PAUSE);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.stopping.cancelled() => {}
                }
            }
        };
        match tokio::time::timeout(limit, tries).await {
            Ok(sent) => sent,
            Err(_) => Err(last),
        }
    }

    async fn attempt(&self, message: Bytes) -> Result<usize, Failure> {
        let answer = self.client.request(self.request(message)).await;
        let (head, body) =
            answer.map_err(|error| Failure { reason: explain(&error), again: Some(Duration::ZERO) })?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|_| Failure {
            reason: "the answer breaks off, or is too long".into(),
            again: head.status.is_success().then_some(Duration::ZERO),
        });
        if !head.status.is_success() {
            let again = matches!(head.status.as_u16(), 429 | 502..=504).then(|| pause(&head.headers));
            return Err(Failure { reason: format!("it answers {}", head.status), again });
        }
        let body = body?;
        let trailers = body.trailers().cloned();
        let bytes = body.to_bytes();
        let answer = match self.receiver.protocol {
            Protocol::Http => bytes,
            Protocol::Grpc => {
                let status = trailers.as_ref().and_then(code).or_else(|| code(&head.headers));
                match status {
                    Some(0) => bytes.get(PREFIX..).map(|_| bytes.slice(PREFIX..)).unwrap_or_default(),
                    Some(code) => {
                        let reason = format!("it answers {}", dingtalk_api::grpc::name(code));
                        return Err(Failure { reason, again: AGAIN.contains(&code).then_some(Duration::ZERO) });
                    }
                    None => return Err(Failure { reason: "it does not answer as gRPC does".into(), again: None }),
                }
            }
        };
        // It has taken them, whatever it says of it.
        let rejected = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
        Ok(rejected.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or_default()))
    }

    fn request(&self, message: Bytes) -> Request<Full<Bytes>> {
        let (kind, body) = match self.receiver.protocol {
            Protocol::Http => ("application/x-protobuf", message),
            Protocol::Grpc => ("application/grpc+proto", framed(&message)),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.receiver.url.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("dingtalk-host/", env!("CARGO_PKG_VERSION"))));
        headers.extend(self.receiver.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if self.receiver.protocol == Protocol::Grpc {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        request
    }
}

/// gRPC's frame: not compressed, and how long it is.
const PREFIX: usize = 5;

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    // A batch is far below it.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

fn code(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn pause(headers: &HeaderMap) -> Duration {
    let value = headers.get(RETRY_AFTER);
    value.and_then(|value| retry_after::parse(value.as_bytes(), SystemTime::now())).unwrap_or_default()
}

/// Why there is no answer. The last cause tells of names, addresses and certificates.
fn explain(error: &(dyn StdError + 'static)) -> String {
    let last = std::iter::successors(Some(error), |cause| (*cause).source()).last();
    format!("no answer ({})", last.map(ToString::to_string).unwrap_or_default())
}

/// Scheme, host and port: what is in a path may be a secret.
pub(super) fn shown(receiver: &Receiver) -> String {
    let url = &receiver.url;
    let authority = url.authority().map(ToString::to_string).unwrap_or_default();
    format!("{}://{authority}", url.scheme_str().unwrap_or_default())
}

/// The system's authorities, and those of the variable for receivers alone.
fn roots(receiver: &Receiver) -> Result<Arc<RootCertStore>, String> {
    if receiver.url.scheme() != Some(&Scheme::HTTPS) {
        return Ok(Arc::new(RootCertStore::empty()));
    }
    let trusted = egress::trusted()?;
    let Some(path) = &receiver.certificate else { return Ok(trusted) };
    let refused = |what: &str| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {} {what}", path.display());
    let (text, _) = files::read_bytes(path).map_err(|what| refused(&what))?;
    let mut roots = RootCertStore::clone(&trusted);
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
    if roots.add_parsable_certificates(certificates).0 == 0 {
        return Err(refused("has no certificate; name a file with certificates in PEM"));
    }
    Ok(Arc::new(roots))
}
