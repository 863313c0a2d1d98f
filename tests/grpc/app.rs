//! An application of Dapr's gRPC, made from its contracts: it remembers what it is sent, answers as it is told, and can go
//! away and come back on its port.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use dingtalk_dapr::runtime::app_callback_health_check_server::{AppCallbackHealthCheck, AppCallbackHealthCheckServer};
use dingtalk_dapr::runtime::app_callback_server::{AppCallback, AppCallbackServer};
use dingtalk_dapr::runtime::{
    BindingEventRequest, BindingEventResponse, HealthCheckResponse, ListInputBindingsResponse,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::{Service, async_trait};
use tonic::{Code, Status};

use crate::support::{PATIENCE, pause};

/// One event as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub name: String,
    pub data: Vec<u8>,
    pub metadata: BTreeMap<String, String>,
    pub head: HeaderMap,
}

/// What becomes of an event.
#[derive(Debug, Clone)]
pub enum Act {
    Answer(BindingEventResponse),
    Status(Status),
    /// Nothing, for ever.
    Hang,
    /// This head, these bytes, and these trailers.
    Raw(Vec<(&'static str, String)>, Vec<u8>, Vec<(&'static str, String)>),
}

impl Act {
    pub fn ok(data: &str) -> Self {
        Self::Answer(BindingEventResponse { data: data.into(), ..BindingEventResponse::default() })
    }

    pub fn status(code: Code, message: &str) -> Self {
        Self::Status(Status::new(code, message))
    }
}

type Behaviour = Arc<dyn Fn(&Received) -> Act + Send + Sync>;

struct Shared {
    events: Mutex<Vec<Received>>,
    asked: Mutex<Vec<HeaderMap>>,
    connections: Mutex<usize>,
    behaviour: Mutex<Behaviour>,
    bindings: Mutex<Result<Vec<String>, Status>>,
    health: Mutex<Result<(), Status>>,
}

pub struct App {
    runtime: Runtime,
    address: SocketAddr,
    /// Bound and never listening: keeps the port while the application is away.
    _port: TcpSocket,
    shared: Arc<Shared>,
    running: Option<AbortOnDropHandle<()>>,
}

impl App {
    /// One that runs, reads from the binding `team`, is healthy, and has nothing to say to any event.
    pub fn start() -> Self {
        let mut app = Self::away();
        app.restart();
        app
    }

    /// One that is not there yet, and has its port already.
    pub fn away() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let shared = Shared {
            events: Mutex::default(),
            asked: Mutex::default(),
            connections: Mutex::default(),
            behaviour: Mutex::new(Arc::new(|_| Act::ok(""))),
            bindings: Mutex::new(Ok(vec!["team".into()])),
            health: Mutex::new(Ok(())),
        };
        let address = port.local_addr().unwrap();
        Self { runtime, address, _port: port, shared: Arc::new(shared), running: None }
    }

    /// For `--app-port`.
    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Every event from now on is answered like this.
    pub fn answer(&self, act: Act) {
        self.answer_with(move |_| act.clone());
    }

    pub fn answer_with(&self, behaviour: impl Fn(&Received) -> Act + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// What ListInputBindings is answered with.
    pub fn reads(&self, bindings: Result<&[&str], Status>) {
        *self.shared.bindings.lock().unwrap() =
            bindings.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    }

    /// What HealthCheck is answered with.
    pub fn health(&self, health: Result<(), Status>) {
        *self.shared.health.lock().unwrap() = health;
    }

    pub fn events(&self) -> Vec<Received> {
        self.shared.events.lock().unwrap().clone()
    }

    /// The heads of the questions which bindings it reads from.
    pub fn asked(&self) -> Vec<HeaderMap> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many have been made.
    pub fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }

    /// Waits until there have been so many events, and gives the last of them.
    pub fn wait_for_events(&self, count: usize) -> Received {
        let start = Instant::now();
        while self.events().len() < count {
            assert!(start.elapsed() < PATIENCE, "{} events instead of {count}", self.events().len());
            pause();
        }
        self.events().swap_remove(count - 1)
    }

    /// Goes away: nobody listens any more, and no connection is left.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = self.runtime.block_on(running);
        }
    }

    /// Comes back on its port.
    pub fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let (shared, address) = (Arc::clone(&self.shared), self.address);
        let _inside = self.runtime.enter();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        self.running = Some(AbortOnDropHandle::new(self.runtime.spawn(async move {
            // Dropped with the task, so that no connection is left of an application that is away.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                *shared.connections.lock().unwrap() += 1;
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(async move { drop(builder.serve_connection(TokioIo::new(stream), service).await) });
            }
        })));
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<tonic::body::Body>, Infallible> {
    if request.uri().path().starts_with("/dapr.proto.runtime.v1.AppCallbackHealthCheck/") {
        return AppCallbackHealthCheckServer::from_arc(shared).call(request).await;
    }
    let answer = AppCallbackServer::from_arc(shared).call(request).await?;
    // What no server would say travels here.
    if let Some(Act::Raw(head, bytes, trailers)) = answer.extensions().get::<Status>().and_then(raw) {
        let map = |pairs: Vec<(&'static str, String)>| {
            pairs
                .into_iter()
                .map(|(name, value)| (name.parse().unwrap(), HeaderValue::try_from(value).unwrap()))
                .collect()
        };
        let trailers: HeaderMap = map(trailers);
        let body = Full::new(Bytes::from(bytes)).with_trailers(async move { Some(Ok(trailers)) });
        let mut answer = Response::new(tonic::body::Body::new(body));
        *answer.headers_mut() = map(head);
        return Ok(answer);
    }
    Ok(answer)
}

/// A marker that a status can carry to [`answer`].
#[derive(Debug, thiserror::Error)]
#[error("raw")]
struct Marker(Act);

fn raw(status: &Status) -> Option<Act> {
    let marker = std::error::Error::source(status)?.downcast_ref::<Marker>()?;
    Some(marker.0.clone())
}

#[async_trait]
impl AppCallback for Shared {
    async fn list_input_bindings(
        &self,
        request: tonic::Request<()>,
    ) -> Result<tonic::Response<ListInputBindingsResponse>, Status> {
        self.asked.lock().unwrap().push(request.metadata().as_ref().clone());
        let bindings = self.bindings.lock().unwrap().clone()?;
        Ok(tonic::Response::new(ListInputBindingsResponse { bindings }))
    }

    async fn on_binding_event(
        &self,
        request: tonic::Request<BindingEventRequest>,
    ) -> Result<tonic::Response<BindingEventResponse>, Status> {
        let head = request.metadata().as_ref().clone();
        let BindingEventRequest { name, data, metadata } = request.into_inner();
        let received = Received { name, data, metadata, head };
        let behaviour = Arc::clone(&self.behaviour.lock().unwrap());
        self.events.lock().unwrap().push(received.clone());
        match behaviour(&received) {
            Act::Answer(answer) => Ok(tonic::Response::new(answer)),
            Act::Status(status) => Err(status),
            Act::Hang => std::future::pending().await,
            act @ Act::Raw(..) => {
                let mut status = Status::internal("");
                status.set_source(Arc::new(Marker(act)));
                Err(status)
            }
        }
    }
}

#[async_trait]
impl AppCallbackHealthCheck for Shared {
    async fn health_check(&self, _: tonic::Request<()>) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        self.health.lock().unwrap().clone()?;
        Ok(tonic::Response::new(HealthCheckResponse {}))
    }
}
