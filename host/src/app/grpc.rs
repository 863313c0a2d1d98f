//! Events over gRPC, as daprd delivers them: `dapr.proto.runtime.v1.AppCallback`.
//!
//! An answer is read as a whole, and looked at, before tonic sees it: how much there may be is the same as over HTTP, and
//! tonic panics at details of a status that are no base64.

use std::error::Error as StdError;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dingtalk_api::delivery::{self, MAX_ANSWER, headers};
use dingtalk_api::route::TOKEN;
use dingtalk_api::trace;
use dingtalk_api::unread::Unread;
use dingtalk_dapr::runtime::app_callback_client::AppCallbackClient;
use dingtalk_dapr::runtime::app_callback_health_check_client::AppCallbackHealthCheckClient;
use dingtalk_dapr::runtime::binding_event_response::BindingEventConcurrency;
use dingtalk_dapr::runtime::{BindingEventRequest, BindingEventResponse};
use http::header::HeaderMap;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::{CaptureConnection, HttpConnector, capture_connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataValue;
use tonic_types::StatusExt;

use super::peer::{IDLE, Peer, new_traceparent};
use super::retry_after::LONGEST;
use super::subscription::{Subscription, Verdict};
use crate::event::{Answer, BoxFuture, Event, Undelivered};
use crate::fields::{self, Often, Unfit};
use crate::ingress::body::{PREFIX, message_length};

/// What may be on the way of one answer and of all of them: each is read as it comes.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The longest head of an answer, and of its trailers.
const MAX_HEAD: u32 = 16 << 10;

/// An answer's other fields: names of bindings, of which there are few.
const MAX_OTHERS: usize = 64 << 10;

/// Names of bindings in one answer: decoded, a name without a letter takes more than ten times its two bytes.
const MAX_NAMES: usize = 1_000;

/// The fields that have these, by the methods whose answers they belong to.
const NAMES: [(&str, Often); 2] = [
    ("/OnBindingEvent", Often { field: 3, most: MAX_NAMES, is_map: false }),
    ("/ListInputBindings", Often { field: 1, most: MAX_NAMES, is_map: false }),
];

/// Pings that come no more often are no harm to any server.
const SELDOM: Duration = Duration::from_secs(300);

/// A ping is answered by the application's library, however busy the application is.
const LONGEST_PONG: Duration = Duration::from_secs(10);

/// The way to an application that speaks gRPC.
pub(super) struct Grpc {
    peer: Arc<Peer>,
    app: AppCallbackClient<Transport>,
    health: AppCallbackHealthCheckClient<Transport>,
}

impl Grpc {
    pub(super) fn new(peer: Peer) -> Self {
        let (silence, wait) = keep_alive(peer.timeout);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .timer(TokioTimer::new())
            .http2_only(true)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(MAX_HEAD)
            .http2_keep_alive_interval(silence)
            .http2_keep_alive_timeout(wait)
            .build(peer.connector());
        // What `authority` makes is always fit for it.
        let origin = Uri::builder().scheme("http").authority(peer.authority.clone()).path_and_query("/").build();
        let origin = origin.unwrap_or_default();
        let peer = Arc::new(peer);
        let transport = Transport { client, peer: Arc::clone(&peer) };
        let app = AppCallbackClient::with_origin(transport.clone(), origin.clone());
        let app = app.max_decoding_message_size(MAX_ANSWER + MAX_OTHERS);
        Self { peer, app, health: AppCallbackHealthCheckClient::with_origin(transport, origin) }
    }

    pub(super) async fn deliver(&self, event: &Event) -> Result<Answer, Undelivered> {
        let limit = self.peer.timeout;
        let mut request = tonic::Request::new(BindingEventRequest {
            name: event.binding.clone(),
            data: event.data.to_vec(),
            metadata: event.metadata.iter().cloned().collect(),
        });
        request.set_timeout(limit);
        let head = request.metadata_mut();
        for (name, value) in &headers::from_trace(&event.trace, || Some(new_traceparent())) {
            let text = value.to_str().unwrap_or_default();
            if name == "traceparent"
                && let Some(binary) = trace::to_binary(text)
            {
                // The only form that older applications read.
                head.insert_bin("grpc-trace-bin", MetadataValue::from_bytes(&binary));
            }
            if let (Ok(name), Ok(value)) = (name.as_str().parse::<tonic::metadata::AsciiMetadataKey>(), text.parse()) {
                head.append(name, value);
            }
        }
        let mut app = self.app.clone();
        let answer = self.within(limit, "--app-timeout", app.on_binding_event(request)).await?;
        match answer {
            Ok(answer) => answered(answer),
            Err(status) => {
                let message = self.peer.refusal(status.message().as_bytes(), &event.data);
                let pause = status.get_details_retry_info().and_then(|info| info.retry_delay);
                let retry_after = pause.map(|pause| pause.min(LONGEST));
                Err(Undelivered::Status { code: status.code() as i32, message, retry_after })
            }
        }
    }

    /// The question is which bindings it reads from.
    pub(super) async fn reads(&self, subscription: &Subscription) -> Result<Verdict, Undelivered> {
        let mut app = self.app.clone();
        let limit = self.peer.probe_timeout;
        let answer = self.within(limit, "--app-binding-options-timeout", app.list_input_bindings(())).await?;
        Ok(match answer {
            // Dapr's JavaScript SDK has them in small letters.
            Ok(list) if list.bindings.iter().any(|name| name.eq_ignore_ascii_case(&subscription.binding)) => {
                Verdict::Reads
            }
            Ok(_) => Verdict::ReadsNot(
                "its ListInputBindings does not name it; let the application handle it, or give the binding direction: \
                 input"
                    .into(),
            ),
            Err(status) => Verdict::ReadsNot(format!(
                "it answers ListInputBindings with {}; implement it, or give the binding direction: input",
                self.shown(&status)
            )),
        })
    }

    /// As in daprd, an application without a health check is not healthy.
    pub(super) async fn check(&self, limit: Duration) -> Result<(), String> {
        let mut health = self.health.clone();
        match self.within(limit, "--app-health-probe-timeout", health.health_check(())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(format!("AppCallbackHealthCheck/HealthCheck gives {}", self.shown(&status))),
            Err(Undelivered::NoConnection(reason) | Undelivered::Unreachable(reason)) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }

    fn shown(&self, status: &Status) -> String {
        let name = dingtalk_api::grpc::name(status.code() as i32);
        match self.peer.refusal(status.message().as_bytes(), b"") {
            message if message.is_empty() => name.to_owned(),
            message => format!("{name}: {message}"),
        }
    }

    /// The application's answer or its status, if there is one in time.
    async fn within<T>(
        &self,
        limit: Duration,
        flag: &str,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<Result<T, Status>, Undelivered> {
        match timeout(limit, call).await {
            Ok(Ok(answer)) => Ok(Ok(answer.into_inner())),
            Ok(Err(status)) => match trouble(&status) {
                Some(Trouble::Client(error)) => Err(match self.peer.failure(error) {
                    Undelivered::Unreachable(reason) => {
                        Undelivered::Unreachable(format!("{reason}; does it speak --app-protocol grpc?"))
                    }
                    other => other,
                }),
                Some(Trouble::Unread(Unread::TooLong)) => {
                    Err(Undelivered::Unreachable(delivery::too_long(&self.peer.authority)))
                }
                Some(Trouble::Unread(_)) => Err(Undelivered::Unreachable(delivery::broken_off(&self.peer.authority))),
                Some(Trouble::Unfit(unfit)) => Err(Undelivered::Unreachable(format!(
                    "the answer of {} cannot be decoded: {unfit}; does it speak Dapr's AppCallback?",
                    self.peer.authority
                ))),
                Some(Trouble::Head) => Err(Undelivered::Unreachable(format!(
                    "the details of the status of {} are no base64; see the application's log",
                    self.peer.authority
                ))),
                None => Ok(Err(status)),
            },
            Err(_) => Err(Undelivered::Unreachable(self.peer.no_answer(limit, flag))),
        }
    }
}

/// After how much silence an application that has a call is sent a ping, and how long it is waited for, when it has
/// `timeout` for a delivery.
///
/// Go's and C++'s servers end a connection with the fourth ping that comes within five minutes of the one before while they
/// have sent nothing; so an application that takes its time must not see more than three before its calls have ended by
/// themselves, the last of which can have begun when the first one ended.
fn keep_alive(timeout: Duration) -> (Duration, Duration) {
    // A call may begin when the connection has been silent for as long as it is kept.
    let silence = (timeout / 2).min(SELDOM) + IDLE;
    (silence, (timeout / 4).min(LONGEST_PONG))
}

/// The answer as an HTTP application gives it, whose meaning is known: a reply, or data for other bindings.
fn answered(answer: BindingEventResponse) -> Result<Answer, Undelivered> {
    #[derive(Serialize)]
    struct Forward<'a> {
        to: &'a [String],
        data: Option<Data<'a>>,
        concurrency: &'a str,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Data<'a> {
        Json(&'a RawValue),
        Text(std::borrow::Cow<'a, str>),
    }
    let concurrency = match answer.concurrency() {
        BindingEventConcurrency::Sequential => "sequential",
        BindingEventConcurrency::Parallel => "parallel",
    };
    let BindingEventResponse { to, data, .. } = answer;
    if to.is_empty() {
        return Ok(Some(Bytes::from(data)).filter(|data| !data.is_empty()));
    }
    let data = (!data.is_empty()).then(|| match serde_json::from_slice(&data) {
        Ok(json) => Data::Json(json),
        Err(_) => Data::Text(String::from_utf8_lossy(&data)),
    });
    match serde_json::to_vec(&Forward { to: &to, data, concurrency }) {
        Ok(json) => Ok(Some(json.into())),
        Err(error) => Err(Undelivered::Failed(format!("its answer cannot be read: {error}"))),
    }
}

/// Why there is no answer at all.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the answer did not arrive")]
    Unread(Unread),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("the answer's head cannot be read")]
    Head,
}

fn trouble(status: &Status) -> Option<&Trouble> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(trouble) = error.downcast_ref() {
            return Some(trouble);
        }
        source = error.source();
    }
    None
}

/// One connection, kept and made again when need be, for all calls.
#[derive(Clone)]
struct Transport {
    client: Client<HttpConnector, Body>,
    peer: Arc<Peer>,
}

/// An answer that is there as a whole.
type Whole = http_body_util::combinators::WithTrailers<
    Full<Bytes>,
    std::future::Ready<Option<Result<HeaderMap, std::convert::Infallible>>>,
>;

impl Service<Request<Body>> for Transport {
    type Response = Response<Whole>;
    type Error = Trouble;
    type Future = BoxFuture<'static, Result<Self::Response, Trouble>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        // The client makes connections as they are needed.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = self.peer.token() {
            request.headers_mut().insert(TOKEN, token);
        }
        let client = self.client.clone();
        let names = NAMES.iter().find(|(method, _)| request.uri().path().ends_with(method)).map(|(_, names)| *names);
        let held = Held(Some(capture_connection(&mut request)));
        Box::pin(async move {
            let (head, mut body) = client.request(request).await?.into_parts();
            let (mut bytes, mut trailers) = (BytesMut::new(), None);
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| Trouble::Unread(Unread::Incomplete))?;
                match frame.into_data() {
                    Ok(data) if bytes.len() + data.len() > MAX_ANSWER + MAX_OTHERS => {
                        return Err(Trouble::Unread(Unread::TooLong));
                    }
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            held.answered();
            for headers in [Some(&head.headers), trailers.as_ref()].into_iter().flatten() {
                check(headers)?;
            }
            // What comes after the message belongs to no unary call, and would be decoded to be dropped.
            bytes.truncate(message_length(&bytes));
            if let Some((_, message)) = bytes.split_at_checked(PREFIX).filter(|(prefix, _)| prefix.starts_with(&[0])) {
                fields::check(message, names)?;
            }
            let body = Full::new(bytes.freeze()).with_trailers(std::future::ready(trailers.map(Ok)));
            Ok(Response::from_parts(head, body))
        })
    }
}

/// The connection of a call. Whoever gives up waiting leaves it to those that wait on it already: it may be one whose
/// other side is gone, and no other call should find that out.
struct Held(Option<CaptureConnection>);

impl Held {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(captured) = &self.0
            && let Some(connection) = &*captured.connection_metadata()
        {
            connection.poison();
        }
    }
}

/// Whether tonic can read the details of a status, if there are any.
fn check(headers: &HeaderMap) -> Result<(), Trouble> {
    use base64::Engine;
    use base64::alphabet::STANDARD;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

    const ANY: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let is_base64 = |value: &HeaderValue| GeneralPurpose::new(&STANDARD, ANY).decode(value).is_ok();
    if headers.get_all("grpc-status-details-bin").iter().all(is_base64) { Ok(()) } else { Err(Trouble::Head) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_sees_more_than_three_pings_before_all_calls_of_a_silent_connection_have_ended() {
        for seconds in [1, 8, 20, 60, 300, 599, 600, 86_400] {
            let timeout = Duration::from_secs(seconds);
            let (silence, wait) = keep_alive(timeout);
            let fourth = silence * 4 - IDLE;
            assert!(fourth > timeout * 2 || silence > SELDOM, "{timeout:?}");
            // Noticed, whatever the limit of a delivery is.
            assert!(silence + wait <= Duration::from_secs(314), "{timeout:?}");
            assert!(silence + wait < timeout || seconds < 20, "{timeout:?}");
        }
    }
}
