//! daprd as a component sees it: a gRPC client on a Unix socket, which finds out what is served there, initialises both
//! sides of an instance, sends, and reads.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dingtalk_dapr::components::input_binding_client::InputBindingClient;
use dingtalk_dapr::components::output_binding_client::OutputBindingClient;
use dingtalk_dapr::components::{
    AckResponseError, InputBindingInitRequest, InvokeRequest, InvokeResponse, ListOperationsRequest, MetadataRequest,
    OutputBindingInitRequest, PingRequest, ReadRequest, ReadResponse,
};
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::{Request, Status, Streaming};
use tonic_reflection::pb::{v1, v1alpha};
use tower_service::Service as _;

use crate::support::PATIENCE;

type Answered<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One connection.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Answered<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// What stands in a component file.
pub type Properties<'a> = &'a [(&'a str, &'a str)];

/// A daprd with one connection. Calls can be made from several threads.
pub struct Daprd {
    runtime: Arc<Runtime>,
    channel: Channel,
}

/// What grpc-go names a Unix socket's server.
fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

/// Of a call that says nothing of an instance.
pub const UNNAMED: &str = "(no header)";

/// Adds the name of the component file, which in Dapr's own tests is empty.
fn of<T>(instance: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if instance != UNNAMED {
        request.metadata_mut().insert("x-component-instance", instance.parse().unwrap());
    }
    request
}

fn metadata(properties: Properties<'_>) -> Option<MetadataRequest> {
    Some(MetadataRequest { properties: map(properties) })
}

pub fn map(items: Properties<'_>) -> BTreeMap<String, String> {
    items.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Daprd {
    pub fn connect(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let channel = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.unwrap();
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            Channel(sender)
        });
        Self { runtime: Arc::new(runtime), channel }
    }

    #[track_caller]
    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let done = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
        done.expect("an answer in time")
    }

    /// The services, as the older reflection tells them, which is the one that daprd asks.
    pub fn services_alpha(&self) -> Vec<String> {
        use v1alpha::server_reflection_request::MessageRequest;
        use v1alpha::server_reflection_response::MessageResponse;
        let mut client =
            v1alpha::server_reflection_client::ServerReflectionClient::with_origin(self.channel.clone(), origin());
        let question = v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices("*".into())),
        };
        self.wait(async {
            let questions = tokio_stream::iter([question]);
            let mut answers = client.server_reflection_info(questions).await.unwrap().into_inner();
            match answers.message().await.unwrap().unwrap().message_response.unwrap() {
                MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|one| one.name).collect(),
                other => panic!("{other:?}"),
            }
        })
    }

    /// The same of the newer one, and the file in which `symbol` is.
    pub fn file_of(&self, symbol: &str) -> Result<usize, String> {
        use v1::server_reflection_request::MessageRequest;
        use v1::server_reflection_response::MessageResponse;
        let mut client =
            v1::server_reflection_client::ServerReflectionClient::with_origin(self.channel.clone(), origin());
        let question = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
        };
        self.wait(async {
            let questions = tokio_stream::iter([question]);
            let answers = client.server_reflection_info(questions).await;
            let mut answers = answers.map_err(|status| status.message().to_owned())?.into_inner();
            match answers.message().await {
                Ok(Some(answer)) => match answer.message_response.unwrap() {
                    MessageResponse::FileDescriptorResponse(files) => Ok(files.file_descriptor_proto.len()),
                    other => panic!("{other:?}"),
                },
                Ok(None) => panic!("no answer"),
                Err(status) => Err(status.message().to_owned()),
            }
        })
    }

    /// Asks for reflection and goes on to listen, until the value is dropped.
    pub fn reflect(&self) -> Result<impl Sized, Status> {
        let mut client =
            v1::server_reflection_client::ServerReflectionClient::with_origin(self.channel.clone(), origin());
        let (questions, receiver) = mpsc::unbounded_channel();
        let answers = self.wait(client.server_reflection_info(UnboundedReceiverStream::new(receiver)))?;
        Ok((questions, answers))
    }

    /// Whether the component has ended the connection.
    pub fn is_closed(&self) -> bool {
        self.channel.0.is_closed()
    }

    /// The status of a call to a service that is not there.
    pub fn unknown(&self) -> String {
        let request = http::Request::post("http://localhost/dapr.proto.components.v1.StateStore/Get");
        let request = request.header("content-type", "application/grpc").body(Body::empty()).unwrap();
        let answer = self.wait(self.channel.clone().call(request)).unwrap();
        answer.headers()["grpc-status"].to_str().unwrap().to_owned()
    }

    fn input(&self) -> InputBindingClient<Channel> {
        InputBindingClient::with_origin(self.channel.clone(), origin())
    }

    fn output(&self) -> OutputBindingClient<Channel> {
        OutputBindingClient::with_origin(self.channel.clone(), origin()).max_decoding_message_size(64 << 20)
    }

    /// Both sides, as for a component file without `direction`.
    pub fn init(&self, instance: &str, properties: Properties<'_>) -> Result<(), Status> {
        self.init_output(instance, properties)?;
        self.init_input(instance, properties)
    }

    pub fn init_input(&self, instance: &str, properties: Properties<'_>) -> Result<(), Status> {
        let request = of(instance, InputBindingInitRequest { metadata: metadata(properties) });
        self.wait(self.input().init(request)).map(|_| ())
    }

    pub fn init_output(&self, instance: &str, properties: Properties<'_>) -> Result<(), Status> {
        let request = of(instance, OutputBindingInitRequest { metadata: metadata(properties) });
        self.wait(self.output().init(request)).map(|_| ())
    }

    pub fn ping(&self) {
        self.wait(self.input().ping(PingRequest {})).unwrap();
        self.wait(self.output().ping(PingRequest {})).unwrap();
    }

    pub fn operations(&self, instance: &str) -> Result<Vec<String>, Status> {
        let request = of(instance, ListOperationsRequest {});
        self.wait(self.output().list_operations(request)).map(|answer| answer.into_inner().operations)
    }

    pub fn invoke(&self, instance: &str, operation: &str, data: impl Into<Vec<u8>>) -> Result<InvokeResponse, Status> {
        self.invoke_with(instance, operation, data, &[])
    }

    pub fn invoke_with(
        &self,
        instance: &str,
        operation: &str,
        data: impl Into<Vec<u8>>,
        metadata: Properties<'_>,
    ) -> Result<InvokeResponse, Status> {
        let request = InvokeRequest { data: data.into(), metadata: map(metadata), operation: operation.into() };
        let request = of(instance, request);
        self.wait(self.output().invoke(request)).map(|answer| answer.into_inner())
    }

    /// Opens a stream. As daprd's, it says nothing before there is something to acknowledge.
    pub fn read(&self, instance: &str) -> Result<Reading, Status> {
        let (acknowledge, acknowledgements) = mpsc::unbounded_channel();
        let request = of(instance, UnboundedReceiverStream::new(acknowledgements));
        let mut client = self.input().max_decoding_message_size(4 << 20);
        let events = self.wait(client.read(request))?.into_inner();
        Ok(Reading { runtime: Arc::clone(&self.runtime), events, acknowledge: Some(acknowledge) })
    }
}

/// An open stream. Dropped, it is cancelled.
pub struct Reading {
    runtime: Arc<Runtime>,
    events: Streaming<ReadResponse>,
    acknowledge: Option<mpsc::UnboundedSender<ReadRequest>>,
}

impl Reading {
    /// The next event; the error, or `None`, is the end.
    #[track_caller]
    pub fn try_next(&mut self) -> Result<Option<ReadResponse>, Status> {
        let events = &mut self.events;
        let next = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, events.message()).await });
        next.expect("an event in time")
    }

    #[track_caller]
    pub fn next(&mut self) -> ReadResponse {
        self.try_next().unwrap().expect("an event")
    }

    /// The application has taken it.
    pub fn take(&self, event: &ReadResponse, answer: &str) {
        self.send(&event.message_id, answer.into(), None);
    }

    /// It has not.
    pub fn refuse(&self, event: &ReadResponse, error: &str) {
        self.send(&event.message_id, Vec::new(), Some(error));
    }

    pub fn send(&self, message_id: &str, response_data: Vec<u8>, error: Option<&str>) {
        let response_error = error.map(|message| AckResponseError { message: message.into() });
        let acknowledgement = ReadRequest { response_data, message_id: message_id.into(), response_error };
        self.acknowledge.as_ref().unwrap().send(acknowledgement).unwrap();
    }

    /// Says that no more acknowledgements come.
    pub fn close(&mut self) {
        self.acknowledge.take();
    }
}
