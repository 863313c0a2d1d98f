//! A client of Dapr's gRPC API, made from its contracts: what an SDK does, without one.

// A failed call is the end of a test.
#![allow(clippy::result_large_err)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use dingtalk_dapr::runtime::dapr_client::DaprClient;
use dingtalk_dapr::runtime::{
    GetMetadataRequest, GetMetadataResponse, InvokeBindingRequest, InvokeBindingResponse, SetMetadataRequest,
};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Runtime;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorInfo, StatusExt};

use crate::support::PATIENCE;

type Transport = HttpClient<HttpConnector, tonic::body::Body>;

pub struct Client {
    runtime: Runtime,
    address: SocketAddr,
    dapr: DaprClient<Transport>,
    /// Sent with every call.
    pub metadata: Vec<(&'static str, String)>,
    /// The time that each call has, as the client tells the server.
    pub timeout: Option<Duration>,
}

/// A failed call: status and `google.rpc.ErrorInfo`.
#[derive(Debug)]
pub struct Refused {
    pub code: Code,
    pub message: String,
    pub reason: String,
    pub domain: String,
    pub details: HashMap<String, String>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().cloned().unwrap_or_else(|| ErrorInfo::new("", "", HashMap::new()));
        let (code, message) = (status.code(), status.message().to_owned());
        Self { code, message, reason: info.reason, domain: info.domain, details: info.metadata }
    }
}

pub fn transport<B: http_body::Body<Data = Bytes> + Send + 'static>() -> HttpClient<HttpConnector, B>
where
    B::Data: Send,
{
    HttpClient::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new())
}

pub fn binding(name: &str, operation: &str, data: &[u8], metadata: &[(&str, &str)]) -> InvokeBindingRequest {
    let metadata: BTreeMap<_, _> = metadata.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    InvokeBindingRequest { name: name.into(), operation: operation.into(), data: data.to_vec(), metadata }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self::calling(address, &address.to_string())
    }

    /// One that knows the server under another name.
    pub fn calling(address: SocketAddr, authority: &str) -> Self {
        // Names are not looked up: whatever it is called, the connection goes to `address`.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let origin = format!("http://{authority}").parse().unwrap();
        let dapr = DaprClient::with_origin(transport(), origin).max_decoding_message_size(32 << 20);
        Self { runtime, address, dapr, metadata: Vec::new(), timeout: None }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.metadata {
            request.metadata_mut().append(*name, AsciiMetadataValue::try_from(value).unwrap());
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Refused> {
        let waited = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await });
        Ok(waited.expect("an answer comes")?)
    }

    pub fn invoke(&self, request: InvokeBindingRequest) -> Result<(InvokeBindingResponse, MetadataMap), Refused> {
        let (mut dapr, request) = (self.dapr.clone(), self.request(request));
        let answer: Response<_> = self.wait(async move { dapr.invoke_binding(request).await })?;
        let (head, message, _) = answer.into_parts();
        Ok((message, head))
    }

    pub fn create(&self, binding_name: &str, data: &str) -> Result<InvokeBindingResponse, Refused> {
        self.invoke(binding(binding_name, "create", data.as_bytes(), &[])).map(|(message, _)| message)
    }

    /// Begins a call, and gives it up when the value is dropped.
    pub fn begin(&self, request: InvokeBindingRequest) -> tokio_util::task::AbortOnDropHandle<Result<(), Status>> {
        let (mut dapr, request) = (self.dapr.clone(), self.request(request));
        let call = async move { dapr.invoke_binding(request).await.map(|_| ()) };
        tokio_util::task::AbortOnDropHandle::new(self.runtime.spawn(call))
    }

    pub fn get_metadata(&self) -> Result<GetMetadataResponse, Refused> {
        let (mut dapr, request) = (self.dapr.clone(), self.request(GetMetadataRequest {}));
        self.wait(async move { dapr.get_metadata(request).await.map(Response::into_inner) })
    }

    pub fn set_metadata(&self, key: &str, value: &str) -> Result<(), Refused> {
        let request = self.request(SetMetadataRequest { key: key.into(), value: value.into() });
        let mut dapr = self.dapr.clone();
        self.wait(async move { dapr.set_metadata(request).await.map(Response::into_inner) })
    }

    /// Sends these bytes as they are. HTTP's status, gRPC's from head or trailers, and its message.
    pub fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, Option<i32>, String) {
        let mut request = http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let call = async {
            let answer = transport::<Full<Bytes>>().request(request).await.unwrap();
            let (head, body) = answer.into_parts();
            let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
            let status = Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers));
            let (code, message) = status.map(|status| (status.code() as i32, status.message().to_owned())).unzip();
            (head.status.as_u16(), code, message.unwrap_or_default())
        };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, call).await }).expect("an answer comes")
    }
}

/// A message with its prefix.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}
