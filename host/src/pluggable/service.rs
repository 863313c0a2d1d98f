//! `InputBinding` and `OutputBinding` of dapr.proto.components.v1: what daprd calls.
//!
//! Through daprd nothing of an error arrives but its text, so that the text has what a program needs to know.

use std::sync::Arc;

use dingtalk_api::invoke::Failure as _;
use dingtalk_binding::error::{InvokeCause, Outcome};
use dingtalk_dapr::components::input_binding_server::InputBinding;
use dingtalk_dapr::components::output_binding_server::OutputBinding;
use dingtalk_dapr::components::{
    InputBindingInitRequest, InputBindingInitResponse, InvokeRequest, InvokeResponse, ListOperationsRequest,
    ListOperationsResponse, MetadataRequest, OutputBindingInitRequest, OutputBindingInitResponse, PingRequest,
    PingResponse, ReadRequest, ReadResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Shared;
use super::instances::{DEFAULT, Refused, check_name};
use crate::bindings::{Binding, InvokeError, InvokeFailure};
use crate::queue::QueueError;
use crate::sandbox::{self, CallError};

/// What daprd puts the name of the component file into.
const INSTANCE: &str = "x-component-instance";

/// One component type, on its socket.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) component_type: &'static str,
}

impl Service {
    async fn init(&self, metadata: &MetadataMap, request: Option<MetadataRequest>) -> Result<(), Status> {
        let name = instance(metadata)?;
        let properties = request.map(|request| request.properties).unwrap_or_default();
        let done = self.shared.instances.init(name, self.component_type, properties).await;
        done.map_err(|refused| {
            let reason = match &refused {
                Refused::TooMuch(reason) | Refused::Wrong(reason) => reason,
            };
            if let Some(more) = self.shared.quiet.count(&format!("init {name}")) {
                tracing::error!(binding = name, reason, more, "component instance not initialised");
            }
            status_of(refused)
        })
    }

    fn binding(&self, name: &str) -> Result<Arc<Binding>, Status> {
        self.shared.instances.get(name).ok_or_else(|| {
            Status::failed_precondition(format!(
                "component instance {name:?} is not initialised: this process has started after daprd did; restart daprd"
            ))
        })
    }
}

fn status_of(refused: Refused) -> Status {
    match refused {
        Refused::TooMuch(reason) => Status::resource_exhausted(reason),
        Refused::Wrong(reason) => Status::invalid_argument(reason),
    }
}

/// The instance that a call is for. Where several are named, the last: daprd adds to what is there.
fn instance(metadata: &MetadataMap) -> Result<&str, Status> {
    let Some(name) = metadata.get_all(INSTANCE).iter().next_back() else { return Ok(DEFAULT) };
    let name = name.to_str().map_err(|_| Status::invalid_argument(format!("{INSTANCE} is no visible ASCII")))?;
    let name = if name.is_empty() { DEFAULT } else { name };
    check_name(name).map_err(status_of)?;
    Ok(name)
}

#[tonic::async_trait]
impl InputBinding for Service {
    async fn init(
        &self,
        request: Request<InputBindingInitRequest>,
    ) -> Result<Response<InputBindingInitResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.init(&metadata, message.metadata).await?;
        Ok(Response::new(InputBindingInitResponse {}))
    }

    type ReadStream = ReceiverStream<Result<ReadResponse, Status>>;

    async fn read(&self, request: Request<Streaming<ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        let (metadata, _, mut acknowledgements) = request.into_parts();
        let name = instance(&metadata)?;
        self.binding(name)?;
        let (reader, events) = self.shared.app.open(name);
        let name = name.to_owned();
        tracing::info!(binding = name, "daprd reads");
        self.shared.streams.spawn(async move {
            let why = loop {
                tokio::select! {
                    next = acknowledgements.message() => match next {
                        Ok(Some(acknowledgement)) => reader.acknowledge(acknowledgement),
                        Ok(None) => break "daprd has ended the stream".to_owned(),
                        Err(status) => break format!("the stream has ended: {}", status.message()),
                    },
                    () = reader.ended() => break "the stream has ended".to_owned(),
                }
            };
            tracing::info!(binding = name, why, "daprd reads no more on this stream");
        });
        Ok(Response::new(ReceiverStream::new(events)))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse {}))
    }
}

#[tonic::async_trait]
impl OutputBinding for Service {
    async fn init(
        &self,
        request: Request<OutputBindingInitRequest>,
    ) -> Result<Response<OutputBindingInitResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.init(&metadata, message.metadata).await?;
        Ok(Response::new(OutputBindingInitResponse {}))
    }

    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        let (headers, _, message) = request.into_parts();
        let name = instance(&headers)?;
        self.binding(name)?;
        let InvokeRequest { data, metadata, operation } = message;
        let request = sandbox::Request { operation, data, metadata: metadata.into_iter().collect() };
        let operation = request.operation.clone();
        let _call = self.shared.calls.token();
        match self.shared.input.invoke(name, request).await {
            Ok(sandbox::Response { data, metadata }) => {
                tracing::debug!(binding = name, operation, "invoked");
                Ok(Response::new(InvokeResponse {
                    data: data.unwrap_or_default(),
                    metadata: metadata.into_iter().collect(),
                    content_type: "application/json".into(),
                }))
            }
            Err(error) => {
                if let InvokeError::Call(error) = &error {
                    tracing::warn!(binding = name, operation, %error, "invocation failed");
                }
                Err(failed(&error))
            }
        }
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let binding = self.binding(instance(request.metadata())?)?;
        Ok(Response::new(ListOperationsResponse { operations: binding.operations().to_vec() }))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse {}))
    }
}

/// An operation that failed: our text, and behind it the items that an answer over HTTP has as metadata.
fn failed(error: &InvokeError) -> Status {
    // The text has it.
    let items = error.metadata().into_iter().filter(|(name, _)| name != "errmsg");
    let items: Vec<String> = items.map(|(name, value)| format!("{name}={value}")).collect();
    Status::new(code(error), format!("{error} ({})", items.join(", ")))
}

/// What says "try again" is said only of what was not sent.
fn code(error: &InvokeError) -> Code {
    let failed = match error {
        InvokeError::MissingOperation | InvokeError::UnsupportedOperation { .. } => return Code::InvalidArgument,
        InvokeError::NotFound(_) => return Code::FailedPrecondition,
        InvokeError::Call(failed) => failed.error(),
    };
    if failed.posted() == Outcome::Unknown {
        return Code::Unknown;
    }
    let failed = match failed {
        InvokeFailure::Tried { error, .. } => &**error,
        failed => failed,
    };
    let failed = match failed {
        InvokeFailure::Tried { .. } => return Code::Unknown,
        InvokeFailure::Withheld(_) => return Code::ResourceExhausted,
        InvokeFailure::Queue(QueueError::OtherBody { .. }) | InvokeFailure::GivenUp(_) => return Code::AlreadyExists,
        InvokeFailure::Queue(_) => return Code::Unavailable,
        InvokeFailure::Part { .. } | InvokeFailure::Made { .. } => return Code::Unknown,
        InvokeFailure::Call(failed) | InvokeFailure::Unconnected(failed) => failed,
    };
    match failed {
        CallError::Overloaded(_) => Code::ResourceExhausted,
        CallError::Init(_) => Code::FailedPrecondition,
        CallError::Stopped { .. } => Code::Internal,
        CallError::Binding(error) => match error.cause {
            InvokeCause::Unreachable(_) => Code::Unavailable,
            InvokeCause::InvalidMessage(_)
            | InvokeCause::InvalidSessionWebhook(_)
            | InvokeCause::ExpiredSessionWebhook
            | InvokeCause::UnsupportedOperation(_) => Code::InvalidArgument,
            InvokeCause::NotReading(_) | InvokeCause::NotInitialized => Code::FailedPrecondition,
            InvokeCause::HandlerFailed(_) | InvokeCause::UnexpectedAnswer(_) | InvokeCause::Rejected(_) => {
                Code::Unknown
            }
        },
    }
}
