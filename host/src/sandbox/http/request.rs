//! Requests: what they are made of, and how they are given to the way out.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Uri};
use tokio::sync::oneshot;
use wasmtime::component::Resource;
use wasmtime_wasi_http::{Error, FieldMap};

use super::Http;
use super::fields::Fields;
use super::generated::wasi::http::outgoing_handler;
use super::generated::wasi::http::types::{
    ErrorCode, HostOutgoingBody, HostOutgoingRequest, HostRequestOptions, Method, Scheme,
};
use super::response::FutureIncomingResponse;
use super::streams::OutputStream;

/// For a request that names no time limit for its answer.
const DEFAULT_TIMEOUT: Duration = crate::egress::DEFAULT_TIMEOUT;

/// Of a method and an authority, which are not in the component's own memory: longer ones are nobody's. A name in DNS has 253
/// bytes.
const LONGEST_METHOD: usize = 32;
const LONGEST_AUTHORITY: usize = 300;

pub struct OutgoingRequest {
    method: http::Method,
    /// Another one than these two is remembered as one that nobody can use.
    scheme: Result<http::uri::Scheme, ErrorCode>,
    authority: Option<Authority>,
    path_with_query: Option<PathAndQuery>,
    headers: FieldMap,
    body: Option<Receiver>,
}

/// Receives a body once it is finished, and nothing where it is given up.
type Receiver = oneshot::Receiver<Result<Bytes, Error>>;

/// A body, until it is finished.
pub struct OutgoingBody {
    pub(super) data: Vec<u8>,
    pub(super) written: u64,
    /// As `content-length` says.
    pub(super) length: Option<u64>,
    /// There was more than may be sent; nothing of it is kept.
    pub(super) is_too_long: bool,
    /// Whether nobody has asked for its stream.
    is_untouched: bool,
    receiver: oneshot::Sender<Result<Bytes, Error>>,
}

impl OutgoingBody {
    /// Whether nobody waits for it any more: its request, or the answer to it, was given up.
    pub(super) fn is_forsaken(&self) -> bool {
        self.receiver.is_closed()
    }
}

/// The time for the whole of an exchange is that for the first byte; the others are the way out's own.
#[derive(Default)]
pub struct RequestOptions {
    first_byte_timeout: Option<Duration>,
}

impl HostOutgoingRequest for Http {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingRequest>> {
        let Fields(headers) = self.handles.delete(&headers)?;
        Ok(self.handles.push(OutgoingRequest {
            method: http::Method::GET,
            scheme: Ok(http::uri::Scheme::HTTPS),
            authority: None,
            path_with_query: None,
            headers,
            body: None,
        })?)
    }

    fn body(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        let request = self.handles.get_mut(&request)?;
        if request.body.is_some() {
            return Ok(Err(()));
        }
        let Ok(length) = content_length(&request.headers) else { return Ok(Err(())) };
        let (receiver, body) = oneshot::channel();
        request.body = Some(body);
        let (data, written, is_too_long, is_untouched) = (Vec::new(), 0, false, true);
        Ok(Ok(self.handles.push(OutgoingBody { data, written, length, is_too_long, is_untouched, receiver })?))
    }

    fn set_method(&mut self, request: Resource<OutgoingRequest>, method: Method) -> wasmtime::Result<Result<(), ()>> {
        if let Method::Other(name) = &method {
            self.hand_over(name.len())?;
        }
        let method = match method {
            Method::Get => http::Method::GET,
            Method::Head => http::Method::HEAD,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Delete => http::Method::DELETE,
            Method::Connect => http::Method::CONNECT,
            Method::Options => http::Method::OPTIONS,
            Method::Trace => http::Method::TRACE,
            Method::Patch => http::Method::PATCH,
            Method::Other(name) if name.len() > LONGEST_METHOD => return Ok(Err(())),
            Method::Other(name) => match http::Method::from_bytes(name.as_bytes()) {
                Ok(method) => method,
                Err(_) => return Ok(Err(())),
            },
        };
        self.handles.get_mut(&request)?.method = method;
        Ok(Ok(()))
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
        path_with_query: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.hand_over(path_with_query.as_ref().map_or(0, String::len))?;
        let Ok(path_with_query) = path_with_query.map(parse_path_with_query).transpose() else { return Ok(Err(())) };
        self.handles.get_mut(&request)?.path_with_query = path_with_query;
        Ok(Ok(()))
    }

    fn set_scheme(
        &mut self,
        request: Resource<OutgoingRequest>,
        scheme: Option<Scheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        if let Some(Scheme::Other(name)) = &scheme {
            self.hand_over(name.len())?;
        }
        let scheme = match scheme {
            None | Some(Scheme::Https) => Ok(http::uri::Scheme::HTTPS),
            Some(Scheme::Http) => Ok(http::uri::Scheme::HTTP),
            Some(Scheme::Other(name)) => match name.parse() {
                Ok(scheme) if scheme == http::uri::Scheme::HTTP || scheme == http::uri::Scheme::HTTPS => Ok(scheme),
                Ok(_) => Err(ErrorCode::HttpProtocolError),
                Err(_) => return Ok(Err(())),
            },
        };
        self.handles.get_mut(&request)?.scheme = scheme;
        Ok(Ok(()))
    }

    fn set_authority(
        &mut self,
        request: Resource<OutgoingRequest>,
        authority: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.hand_over(authority.as_ref().map_or(0, String::len))?;
        if authority.as_ref().is_some_and(|authority| authority.len() > LONGEST_AUTHORITY) {
            return Ok(Err(()));
        }
        let Ok(authority) = authority.map(Authority::try_from).transpose() else { return Ok(Err(())) };
        self.handles.get_mut(&request)?.authority = authority;
        Ok(Ok(()))
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<()> {
        self.handles.delete(&request)?;
        Ok(())
    }
}

impl HostRequestOptions for Http {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        Ok(self.handles.push(RequestOptions::default())?)
    }

    fn set_connect_timeout(&mut self, _: Resource<RequestOptions>, _: Option<u64>) -> wasmtime::Result<Result<(), ()>> {
        Ok(Ok(()))
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        duration: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.handles.get_mut(&options)?.first_byte_timeout = duration.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn set_between_bytes_timeout(
        &mut self,
        _: Resource<RequestOptions>,
        _: Option<u64>,
    ) -> wasmtime::Result<Result<(), ()>> {
        Ok(Ok(()))
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.handles.delete(&options)?;
        Ok(())
    }
}

impl HostOutgoingBody for Http {
    fn write(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<Result<Resource<OutputStream>, ()>> {
        if !std::mem::take(&mut self.handles.get_mut(&body)?.is_untouched) {
            return Ok(Err(()));
        }
        Ok(Ok(self.handles.push_child(OutputStream { body: body.rep() }, &body)?))
    }

    fn finish(
        &mut self,
        body: Resource<OutgoingBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        let OutgoingBody { data, written, length, is_too_long, receiver, .. } = self.handles.delete(&body)?;
        // Trailers go with a body in chunks; one that has a length has none.
        if let Some(trailers) = trailers {
            self.handles.delete(&trailers)?;
        }
        if length.is_some_and(|length| length != written) {
            return Ok(Err(ErrorCode::HttpRequestBodySize(Some(written))));
        }
        let data = if is_too_long { Err(Error::HttpRequestBodySize(None)) } else { Ok(data.into()) };
        // Whoever waits for it may be gone.
        let _ = receiver.send(data);
        Ok(Ok(()))
    }

    fn drop(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<()> {
        self.handles.delete(&body)?;
        Ok(())
    }
}

impl outgoing_handler::Host for Http {
    fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Resource<FutureIncomingResponse>, ErrorCode>> {
        let options = options.map(|options| self.handles.delete(&options)).transpose()?.unwrap_or_default();
        let request = self.handles.delete(&request)?;
        let (request, body) = match request.into_parts() {
            Ok(parts) => parts,
            Err(code) => return Ok(Err(code)),
        };
        let deadline = Instant::now() + options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let body = async {
            match body {
                Some(body) => body.await.unwrap_or(Err(Error::HttpRequestBodySize(None))),
                None => Ok(Bytes::new()),
            }
        };
        let exchange = self.exit.clone().exchange(request, body, deadline);
        Ok(Ok(self.handles.push(FutureIncomingResponse::Pending(Box::pin(exchange)))?))
    }
}

impl OutgoingRequest {
    /// A request that can be sent, once it has its body.
    fn into_parts(self) -> Result<(http::Request<()>, Option<Receiver>), ErrorCode> {
        let Self { method, scheme, authority, path_with_query, headers, body } = self;
        let length = content_length(&headers);
        let length = length.map_err(|()| ErrorCode::InternalError(Some("content-length is no number".into())))?;
        if body.is_none() && length.is_some_and(|length| length != 0) {
            return Err(ErrorCode::HttpRequestBodySize(Some(0)));
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme?);
        parts.authority = Some(authority.ok_or(ErrorCode::HttpRequestUriInvalid)?);
        parts.path_and_query = path_with_query;
        let mut request = http::Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| ErrorCode::HttpProtocolError)?;
        *request.headers_mut() = HeaderMap::from(headers);
        Ok((request, body))
    }
}

/// What `content-length` says. `fields` has it once at most, and as a number.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let Some(length) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    length.to_str().map_err(drop)?.parse().map(Some).map_err(drop)
}

/// A path begins with a slash: what does not would stand in the request line as another address than the one that the
/// request goes to.
fn parse_path_with_query(text: String) -> Result<PathAndQuery, ()> {
    if !(text.is_empty() || text.starts_with(['/', '?'])) {
        return Err(());
    }
    let uri = Uri::builder().path_and_query(text).build().map_err(drop)?;
    uri.path_and_query().cloned().ok_or(())
}
