//! The one way out of the sandbox: where a binding may go, and the connections that it keeps.
//!
//! A binding reaches exactly the scheme, host and port of its own `url`. Everything else is refused here,
//! whatever the component asks for, so that a component which was altered or tricked still cannot carry one
//! team's secret to somewhere else. Redirects are not followed, so none can lead past this check.
//!
//! Whole bodies are passed in both directions instead of streams: a message is small, a request is sent only
//! once it is complete (a component that traps halfway sends nothing), and the component is resumed once
//! instead of once a chunk.

mod client;
mod roots;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dingtalk_binding::answer::MAX_BODY;
use dingtalk_binding::endpoint::Origin;
use dingtalk_binding::settings::Settings;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use hyper::{Request, Response};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use client::Client;
pub use client::Proxies;
pub(crate) use client::tls;

/// The largest request that is sent, and therefore the largest `--max-body-size`. DingTalk takes 20,000 bytes.
pub const MAX_REQUEST_BODY: usize = 16 * 1024 * 1024;

/// For a request that names no time limit; the component always names one.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The outgoing side of one binding. Cheap to clone; clones share connections and counters.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    binding: String,
    allowed: Origin,
    /// The spellings of the allowed host and port.
    authorities: Vec<String>,
    client: Client,
    refused: AtomicU64,
}

impl Egress {
    /// For the binding called `binding`: allows the origin of its url, with connections of its own. The error
    /// says which proxy of the environment cannot be used.
    pub fn new(binding: &str, settings: &Settings, proxies: &Proxies) -> Result<Self, String> {
        let allowed = settings.endpoint.origin().clone();
        let mut authorities = vec![format!("{}:{}", allowed.host(), allowed.port())];
        if allowed.port() == allowed.scheme().default_port() {
            authorities.push(allowed.host().to_owned());
        }
        Ok(Self(Arc::new(Inner {
            binding: binding.to_owned(),
            allowed,
            authorities,
            client: Client::new(settings, proxies)?,
            refused: AtomicU64::new(0),
        })))
    }

    /// How many requests to other destinations were refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    fn check(&self, uri: &hyper::Uri) -> Result<(), Error> {
        let Inner { binding, allowed, authorities, refused, .. } = &*self.0;
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?.as_str();
        // Compared as text, so that nothing (a user name, a port that is no number) can hide in what a parser
        // leaves out.
        if uri.scheme_str() == Some(allowed.scheme().as_str())
            && authorities.iter().any(|allowed| allowed.eq_ignore_ascii_case(authority))
        {
            return Ok(());
        }
        refused.fetch_add(1, Ordering::Relaxed);
        let destination = uri.host().unwrap_or_default();
        tracing::warn!(binding, destination, %allowed, "egress refused");
        Err(Error::HttpRequestDenied)
    }

    async fn send(
        self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Response<WasiBody>, Error> {
        self.check(request.uri())?;
        let timeout = options.and_then(|options| options.first_byte_timeout).unwrap_or(DEFAULT_TIMEOUT);
        let deadline = Instant::now() + timeout;
        let (parts, body) = request.into_parts();
        let body =
            Limited::new(body, MAX_REQUEST_BODY).collect().await.map_err(|_| Error::HttpRequestBodySize(None))?;
        let request = Request::from_parts(parts, body.to_bytes());
        let response = tokio::time::timeout_at(deadline.into(), self.0.client.send(request))
            .await
            .map_err(|_| Error::HttpResponseTimeout)
            .flatten()
            .inspect_err(|error| tracing::debug!(binding = self.0.binding, %error, "sending failed"))?;
        let (parts, body) = response.into_parts();
        let body = read(body, deadline).await?;
        Ok(Response::from_parts(parts, body.boxed_unsync()))
    }
}

impl WasiHttpHooks for Egress {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _received: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let egress = self.clone();
        Box::new(async move {
            let response = egress.send(request, options).await?;
            let done: Done = Box::new(std::future::ready(Ok(())));
            Ok((response, done))
        })
    }

    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        // The default logs the error itself. Ours are translated in `client`; none arrives here.
        wasmtime_wasi_http::p2::bindings::http::types::ErrorCode::HttpProtocolError
    }
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = (Response<WasiBody>, Done);

/// Reads an answer to its end, its deadline, or one byte past what the component would read of it.
///
/// A body that is not complete in time is no answer: of an error that a body carries, wasmtime-wasi-http does
/// not tell the component which one it was, and so a timeout would look like a connection that broke.
async fn read(mut body: hyper::body::Incoming, deadline: Instant) -> Result<Received, Error> {
    let mut data = BytesMut::new();
    loop {
        let end = match tokio::time::timeout_at(deadline.into(), body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(chunk) = frame.into_data() {
                    let room = (MAX_BODY + 1).saturating_sub(data.len());
                    data.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
                }
                if data.len() <= MAX_BODY {
                    continue;
                }
                None
            }
            Ok(None) => None,
            Ok(Some(Err(_))) => Some(Error::HttpResponseIncomplete),
            Err(_) => return Err(Error::HttpResponseTimeout),
        };
        return Ok(Received { data: Some(data.freeze()).filter(|data| !data.is_empty()), end });
    }
}

/// An answer's body as far as it came, and what ended it.
struct Received {
    data: Option<Bytes>,
    end: Option<Error>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.end.take().map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.end.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(url: &str) -> Egress {
        let settings = Settings::parse([("id", "x"), ("url", url)]).unwrap();
        Egress::new("x", &settings, &Proxies::none()).unwrap()
    }

    #[test]
    fn only_the_exact_origin_passes() {
        let egress = egress("https://oapi.dingtalk.com/robot/send?access_token=T");
        for uri in ["https://oapi.dingtalk.com/", "https://OAPI.dingtalk.com:443/other?x", "https://oapi.dingtalk.com"]
        {
            assert!(egress.check(&uri.parse().unwrap()).is_ok(), "{uri}");
        }
        let refused = [
            "http://oapi.dingtalk.com/",
            "https://oapi.dingtalk.com:8443/",
            "https://oapi.dingtalk.com.evil.com/",
            "https://evil.com/oapi.dingtalk.com",
            "https://xoapi.dingtalk.com/",
            "https://oapi.dingtalk.com@evil.com/",
            "https://user@oapi.dingtalk.com/",
            "https://oapi.dingtalk.com:99999/",
            "https://127.0.0.1/",
        ];
        for uri in refused {
            let error = egress.check(&uri.parse().unwrap()).expect_err(uri);
            assert!(matches!(error, Error::HttpRequestDenied), "{uri}: {error}");
        }
        assert_eq!(egress.refused(), refused.len() as u64);
        assert!(egress.check(&"/path".parse().unwrap()).is_err());
    }
}
