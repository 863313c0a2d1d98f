//! The way out of a runtime: a connection of its own for each request, as wasmtime's default has it.

use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

pub type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;

pub struct Out;

impl WasiHttpHooks for Out {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<(hyper::Response<WasiBody>, Done), Error>> + Send> {
        Box::new(async move {
            let limit = options.and_then(|options| options.first_byte_timeout).unwrap_or(crate::support::PATIENCE);
            let client = Client::builder(TokioExecutor::new()).build_http();
            let answer = tokio::time::timeout(limit, client.request(request)).await;
            let answer = answer.map_err(|_| Error::ConnectionReadTimeout)?;
            let answer = answer.map_err(|error| match error.is_connect() {
                true => Error::ConnectionRefused,
                false => Error::HttpProtocolError,
            })?;
            let done: Done = Box::new(std::future::ready(Ok(())));
            Ok((answer.map(|body| body.map_err(Error::from).boxed_unsync()), done))
        })
    }
}
