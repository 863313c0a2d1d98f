//! gRPC on the sockets: hyper's HTTP/2, with this host's own limits for connections, requests and bodies.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dingtalk_api::delivery::MAX_ANSWER;
use dingtalk_api::limits::BODY_TIMEOUT;
use dingtalk_api::request::MAX_METADATA;
use dingtalk_dapr::DESCRIPTORS;
use dingtalk_dapr::components::input_binding_server::{InputBindingServer, SERVICE_NAME as INPUT};
use dingtalk_dapr::components::output_binding_server::{OutputBindingServer, SERVICE_NAME as OUTPUT};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::frames::Acknowledgements;
use super::service::Service;
use super::socket::{self, SocketError, Sockets};
use super::{Pluggable, Shared};
use crate::event::BoxFuture;
use crate::fields::{self, Often, Unfit};
use crate::ingress::body::{self, PREFIX, Unread};
use crate::ingress::connection::{Activity, Call};
use crate::ingress::listeners::Listeners;
use crate::ingress::port::{Policy, Port};

/// Each socket, and the component type that daprd makes of its name.
const SOCKETS: [(&str, &str); 2] = [
    ("dingtalk.webhook.sock", "bindings.dingtalk.webhook"),
    ("alicloud.dingtalk.webhook.sock", "bindings.alicloud.dingtalk.webhook"),
];

/// Beside the data of a request: its operation and metadata.
const REST: usize = 64 << 10;

/// The properties of an instance, names and values; what reads them has a limit for the texts alone.
const MAX_INIT: usize = 128 << 10;

/// An acknowledgement with its answer.
const MAX_ACKNOWLEDGEMENT: usize = MAX_ANSWER + REST;

/// Questions to reflection at once. daprd asks one of each socket when it starts.
const MAX_REFLECTIONS: usize = 64;

const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
/// The older one, which daprd asks for.
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// The field `metadata` of an `InvokeRequest`.
const METADATA: Often = Often { field: 2, most: MAX_METADATA, is_map: true };

/// Of reflection's questions, which are names.
const MAX_QUESTION: usize = 4 << 10;

const MAX_HEAD: u32 = 16 << 10;

/// Calls on one connection. daprd has one for each side of an instance, and sends everything over it.
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Of the process's file descriptors, one in so many may be a connection.
const DESCRIPTORS_EACH: u64 = 4;

/// Sockets in the folder where daprd looks for components.
pub struct Server {
    sockets: Sockets,
    listeners: Vec<(UnixListener, &'static str)>,
    policy: Policy,
    max_message: usize,
}

impl Server {
    /// Listens in `folder` on sockets that may be opened as `mode` says. Messages have at most `max_body_size` bytes of
    /// data; the process may have so many `descriptors`.
    ///
    /// # Errors
    ///
    /// If there cannot be a socket, as when another process listens on it.
    pub async fn listen(folder: &Path, mode: u32, max_body_size: usize, descriptors: u64) -> Result<Self, SocketError> {
        let (sockets, listeners) = socket::listen(folder, &SOCKETS.map(|(name, _)| name), mode).await?;
        let listeners = listeners.into_iter().zip(SOCKETS.map(|(_, component_type)| component_type)).collect();
        let policy = Policy {
            connections: usize::try_from(descriptors / DESCRIPTORS_EACH).unwrap_or(512).clamp(1, 512),
            // daprd keeps a connection for as long as it lives, and may need it once a day.
            patience: Duration::from_secs(24 * 3_600),
            requests: 1_024,
            bytes: 24 << 20,
            bytes_timeout: Duration::from_secs(30),
        };
        Ok(Self { sockets, listeners, policy, max_message: max_body_size.saturating_add(REST) })
    }

    /// Where they are.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sockets.paths()
    }

    /// Serves until `stop` is cancelled; then nobody finds the sockets any more, and it returns when every call has been
    /// answered and every stream has ended.
    pub async fn run(self, pluggable: Pluggable, stop: CancellationToken) {
        let Self { sockets, listeners, policy, max_message } = self;
        let (port, listening) = (Arc::new(Port::new(policy)), Listeners::default());
        for (listener, component_type) in listeners {
            let service = Service { shared: Arc::clone(&pluggable.0), component_type };
            let Some(routes) = Routes::new(service, max_message) else { continue };
            let (routes, at) = (Arc::new(routes), Arc::clone(&port));
            listening.open(listener, Arc::clone(&port), move |stream, activity| {
                Some(serve(stream, Arc::clone(&routes), Arc::clone(&at), Arc::clone(activity)))
            });
        }
        stop.cancelled().await;
        drop(sockets);
        listening.close().await;
    }
}

fn serve(
    stream: UnixStream,
    routes: Arc<Routes>,
    port: Arc<Port>,
    activity: Arc<Activity>,
) -> impl GracefulConnection<Error = hyper::Error> {
    let service = service_fn(move |request| {
        let (routes, port, activity) = (Arc::clone(&routes), Arc::clone(&port), Arc::clone(&activity));
        async move {
            activity.touch();
            let response = routes.answer(request, &port, &activity).await;
            activity.touch();
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder.serve_connection(TokioIo::new(stream), service)
}

/// A gRPC service behind its path.
type Route = Box<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

fn route<S>(service: S) -> Route
where
    S: tower_service::Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    })
}

/// What one socket serves.
struct Routes {
    input: Route,
    output: Route,
    reflection: Route,
    reflection_alpha: Route,
    reflections: Arc<Semaphore>,
    max_message: usize,
    shared: Arc<Shared>,
}

impl Routes {
    fn new(service: Service, max_message: usize) -> Option<Self> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .with_service_name(INPUT)
                .with_service_name(OUTPUT)
        };
        let (v1, v1alpha) = match (reflection().build_v1(), reflection().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => (v1, v1alpha),
            // The descriptors are compiled in: a test sees this before anybody.
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "no reflection");
                return None;
            }
        };
        let shared = Arc::clone(&service.shared);
        let input = InputBindingServer::new(service.clone());
        Some(Self {
            input: route(input.max_decoding_message_size(max_message.max(MAX_ACKNOWLEDGEMENT))),
            output: route(OutputBindingServer::new(service).max_decoding_message_size(max_message)),
            reflection: route(v1.max_decoding_message_size(MAX_QUESTION)),
            reflection_alpha: route(v1alpha.max_decoding_message_size(MAX_QUESTION)),
            reflections: Arc::new(Semaphore::new(MAX_REFLECTIONS)),
            max_message,
            shared,
        })
    }

    async fn answer(&self, request: Request<Incoming>, port: &Port, activity: &Arc<Activity>) -> Response<Body> {
        let (service, method) = request.uri().path().trim_start_matches('/').split_once('/').unwrap_or_default();
        match (service, method) {
            // daprd keeps it open; so it keeps its connection.
            (INPUT, "Read") => {
                let mut acknowledgements = Acknowledgements::new(MAX_ACKNOWLEDGEMENT);
                let body = |body: Incoming| {
                    Body::new(body.map_frame(move |frame| match frame.into_data() {
                        Ok(data) => Frame::data(acknowledgements.push(data)),
                        Err(other) => other,
                    }))
                };
                let call = Call::begin(Arc::clone(activity));
                holding((self.input)(request.map(body)).await, call)
            }
            (INPUT, _) => self.unary(&self.input, request, port, activity).await,
            (OUTPUT, _) => self.unary(&self.output, request, port, activity).await,
            (REFLECTION, _) => self.reflect(&self.reflection, request).await,
            (REFLECTION_ALPHA, _) => self.reflect(&self.reflection_alpha, request).await,
            _ => Status::unimplemented("this socket serves Dapr's InputBinding and OutputBinding").into_http(),
        }
    }

    /// A stream of questions. Nothing of it keeps its connection: who asks no more may be silent for ever.
    async fn reflect(&self, route: &Route, request: Request<Incoming>) -> Response<Body> {
        match Arc::clone(&self.reflections).try_acquire_owned() {
            Ok(place) => holding(route(request.map(Body::new)).await, place),
            Err(_) => Status::resource_exhausted("too many clients ask for reflection at once").into_http(),
        }
    }

    /// A call with one message: read whole, within the port's bytes, before anything is done with it.
    async fn unary(
        &self,
        route: &Route,
        request: Request<Incoming>,
        port: &Port,
        activity: &Activity,
    ) -> Response<Body> {
        let Some(_request) = port.request() else {
            return Status::resource_exhausted("too many calls at once; send it again").into_http();
        };
        let (mut parts, body) = request.into_parts();
        let is_init = parts.uri.path().ends_with("/Init");
        let limit = if is_init { MAX_INIT } else { self.max_message };
        let read = body::read_message(&mut parts.headers, body, limit, BODY_TIMEOUT, &port.budget).await;
        let (body, _share) = match read {
            Ok(body) => body,
            Err(unread) => return self.unread(unread, limit).into_http(),
        };
        let _call = activity.call();
        // Not only of an operation: what else has so many is nothing that is known here.
        if !is_init && let Err(unfit) = fields::check(body.get(PREFIX..).unwrap_or_default(), Some(METADATA)) {
            return match unfit {
                Unfit::Items(most) => Status::invalid_argument(format!("metadata has more than {most} items")),
                unfit => Status::internal(format!("the message cannot be decoded: {unfit}")),
            }
            .into_http();
        }
        route(Request::from_parts(parts, Body::new(Full::from(body)))).await
    }

    fn unread(&self, why: Unread, limit: usize) -> Status {
        if let Some(more) = self.shared.quiet.count(&format!("unread {why:?}")) {
            tracing::warn!(?why, more, "a message was not read");
        }
        match why {
            Unread::TooLong => {
                let flag = if limit == MAX_INIT { "" } else { ", see --max-body-size" };
                Status::resource_exhausted(format!("the message is longer than {limit} bytes{flag}"))
            }
            Unread::Incomplete => Status::cancelled("the message has not arrived as a whole"),
            Unread::TooSlow => {
                Status::deadline_exceeded(format!("the message has not arrived within {} s", BODY_TIMEOUT.as_secs()))
            }
            Unread::Busy => Status::resource_exhausted("too many long messages at once; send it again"),
        }
    }
}

/// Keeps `place` until the response has been sent, or nobody wants it any more.
fn holding(response: Response<Body>, place: impl Send + 'static) -> Response<Body> {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &place;
            frame
        }))
    })
}
