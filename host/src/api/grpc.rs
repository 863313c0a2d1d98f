//! Dapr's gRPC API on sockets: what HTTP's routes do, asked for as `dapr.proto.runtime.v1.Dapr` asks. What a call means and
//! how it is answered is `dingtalk_api`'s business, and what it may cost that of [`crate::ingress`]; tonic knows gRPC's
//! frames.

use std::sync::Arc;

use bytes::Bytes;
use dingtalk_api::grpc::{self, Status};
use dingtalk_api::limits::BODY_TIMEOUT;
use dingtalk_api::request::{MAX_METADATA, too_many};
use dingtalk_api::{Problem, caller, trace, unread};
use dingtalk_dapr::runtime::actor_runtime::ActorRuntimeStatus;
use dingtalk_dapr::runtime::dapr_server::{Dapr, DaprServer};
use dingtalk_dapr::runtime::{
    ActorRuntime, GetMetadataRequest, GetMetadataResponse, InvokeBindingRequest, InvokeBindingResponse,
    RegisteredComponents, SetMetadataRequest,
};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::{Service, async_trait};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Extensions};
use tonic_types::{ErrorDetails, StatusExt};

use super::server::Seat;
use super::{Api, bindings};
use crate::fields::{self, Often, Unfit};
use crate::ingress::body::{self, PREFIX, Unread};
use crate::sandbox;
use crate::spans::{Span, said};

/// The field `metadata` of `InvokeBindingRequest`. No other request has so high a number.
const METADATA: Often = Often { field: 3, most: MAX_METADATA, is_map: true };

/// A status as tonic has it.
pub(super) fn status(status: Status) -> tonic::Status {
    let Status { code, message, info, retry_after } = status;
    let mut details = ErrorDetails::new();
    if let Some(info) = info {
        details.set_error_info(
            info.reason,
            info.domain,
            info.metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
    }
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    tonic::Status::with_error_details(Code::from(code as i32), message, details)
}

fn failed(problem: Problem) -> tonic::Status {
    status(problem.into())
}

impl Api {
    pub(super) async fn answer_grpc(self: Arc<Self>, request: Request<Incoming>, seat: &Arc<Seat>) -> Response<Body> {
        // A page or a proxy that speaks something else is told so in its own words.
        let is_grpc = |value: &http::HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        let refused = match *request.method() {
            Method::POST if request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) => None,
            Method::POST => Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            _ => Some(StatusCode::METHOD_NOT_ALLOWED),
        };
        if let Some(refused) = refused {
            let mut answer = Response::default();
            *answer.status_mut() = refused;
            return answer;
        }
        match grpc::timeout(request.headers()) {
            Ok(None) => self.call_grpc(request, seat).await,
            Ok(Some(limit)) => match tokio::time::timeout(limit, self.call_grpc(request, seat)).await {
                Ok(answer) => answer,
                Err(_) => status(grpc::too_late()).into_http(),
            },
            Err(wrong) => status(wrong).into_http(),
        }
    }

    async fn call_grpc(self: Arc<Self>, request: Request<Incoming>, seat: &Arc<Seat>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        if let Err(refused) = self.check_grpc(&parts, seat) {
            return status(refused).into_http();
        }
        let limit = self.max_body_size;
        let read = body::read_message(&mut parts.headers, body, limit, BODY_TIMEOUT, &seat.port.budget).await;
        let (message, _share) = match read {
            Ok(message) => message,
            Err(why) => return failed(unread_message(why, limit)).into_http(),
        };
        // Before tonic makes something of every field. What is compressed in another way than gzip it refuses.
        if let Some((_, fields)) = message.split_at_checked(PREFIX).filter(|(prefix, _)| prefix.starts_with(&[0]))
            && let Err(what) = fields::check(fields, Some(METADATA))
        {
            return status(unfit(&what)).into_http();
        }
        let mut request = Request::from_parts(parts, Full::new(Bytes::from(message)));
        let uri = request.uri().clone();
        request.extensions_mut().insert(uri);
        let calls = Calls { api: self, seat: Arc::clone(seat) };
        let served = DaprServer::new(calls).max_decoding_message_size(limit).call(request).await;
        match served {
            Ok(answer) => answer,
        }
    }

    /// What HTTP's routes check before they look at a body.
    fn check_grpc(&self, parts: &http::request::Parts, seat: &Seat) -> Result<(), Status> {
        let access = self.access();
        caller::host(parts.version, &parts.uri, &parts.headers).map_err(Problem::malformed)?;
        let admitted = access.admit(&parts.uri, &parts.headers, seat.entrance());
        admitted.map_err(|denied| denied.status(access.names))?;
        grpc::check_method(parts.uri.path(), &self.grpc_lists)
    }
}

fn unfit(what: &Unfit) -> Status {
    match what {
        Unfit::Items(_) => Problem::malformed(too_many()).into(),
        what => grpc::undecodable(&what.to_string()),
    }
}

fn unread_message(why: Unread, limit: usize) -> Problem {
    match why {
        // The beginning of what Go's library says, which people find when they search for it.
        Unread::TooLong => Problem::too_long(format!(
            "grpc: received message larger than max (more than {limit} bytes, see --max-body-size)"
        )),
        Unread::Incomplete => Problem::malformed(unread::INCOMPLETE),
        Unread::TooSlow => Problem::too_slow(unread::too_slow(BODY_TIMEOUT.as_secs())),
        Unread::Busy => bindings::busy(),
    }
}

/// The calls of one request.
struct Calls {
    api: Arc<Api>,
    seat: Arc<Seat>,
}

impl Calls {
    /// What `InvokeBinding` does, below `span` if there is one.
    async fn invoke(
        &self,
        extensions: &Extensions,
        head: &MetadataMap,
        message: InvokeBindingRequest,
        span: Option<&Span>,
    ) -> Result<tonic::Response<InvokeBindingResponse>, tonic::Status> {
        let InvokeBindingRequest { name, data, metadata, operation } = message;
        let request = sandbox::Request { operation, data, metadata: metadata.into_iter().collect() };
        let uri = extensions.get::<Uri>().cloned().unwrap_or_default();
        let mut request = grpc::complete(&uri, head.as_ref(), request).map_err(failed)?;
        if let Some(span) = span {
            span.put(&mut request.metadata);
        }
        match self.api.perform(&name, request, &self.seat).await {
            Ok(sandbox::Response { data, metadata }) => {
                let head = MetadataMap::from_headers(grpc::headers(&metadata));
                let (data, metadata) = (data.unwrap_or_default(), metadata.into_iter().collect());
                let message = InvokeBindingResponse { data, metadata };
                Ok(tonic::Response::from_parts(head, message, Extensions::default()))
            }
            Err(error) => Err(failed(Problem::not_invoked(&name, &error))),
        }
    }
}

#[async_trait]
impl Dapr for Calls {
    async fn invoke_binding(
        &self,
        request: tonic::Request<InvokeBindingRequest>,
    ) -> Result<tonic::Response<InvokeBindingResponse>, tonic::Status> {
        let (head, extensions, message) = request.into_parts();
        let span = self.api.input.spans().map(|spans| {
            let said = said::invoke_grpc(self.api.named(&message.name));
            spans.begin(said, &trace::of_call(head.as_ref()))
        });
        let mut answer = self.invoke(&extensions, &head, message, span.as_ref()).await;
        if let Some(span) = span {
            let (told, code) = match &mut answer {
                Ok(answer) => (answer.metadata_mut(), Code::Ok),
                Err(status) => {
                    let code = status.code();
                    (status.metadata_mut(), code)
                }
            };
            told.insert_bin("grpc-trace-bin", MetadataValue::from_bytes(&span.binary()));
            span.end(said::answered_grpc(code as i32));
        }
        answer
    }

    async fn get_metadata(
        &self,
        _: tonic::Request<GetMetadataRequest>,
    ) -> Result<tonic::Response<GetMetadataResponse>, tonic::Status> {
        let told = self.api.with_metadata(|metadata| {
            let components = metadata.components.iter().map(|component| RegisteredComponents {
                name: component.name.to_owned(),
                r#type: component.kind.to_owned(),
                version: component.version.to_owned(),
                capabilities: component.capabilities.iter().map(|&side| side.to_owned()).collect(),
            });
            GetMetadataResponse {
                id: metadata.id.to_owned(),
                registered_components: components.collect(),
                extended_metadata: metadata.extended.clone(),
                runtime_version: metadata.runtime_version.to_owned(),
                actor_runtime: Some(ActorRuntime { runtime_status: ActorRuntimeStatus::Disabled.into() }),
            }
        });
        Ok(tonic::Response::new(told.await))
    }

    async fn set_metadata(
        &self,
        request: tonic::Request<SetMetadataRequest>,
    ) -> Result<tonic::Response<()>, tonic::Status> {
        let SetMetadataRequest { key, value } = request.into_inner();
        self.api.set_attribute(key, value).map(tonic::Response::new).map_err(failed)
    }
}
