//! A way out that goes wherever it is told to.

use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::plain::Done;

/// Sends each request over a connection of its own.
pub struct Sending;

type Sent = (hyper::Response<WasiBody>, Done);

impl WasiHttpHooks for Sending {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Done,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        Box::new(async move {
            let address = request.uri().authority().unwrap().as_str().to_owned();
            let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
            let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let (mut head, body) = request.into_parts();
            head.headers.insert("host", address.parse().unwrap());
            head.uri = head.uri.path_and_query().unwrap().as_str().parse().unwrap();
            let response = client.send_request(hyper::Request::from_parts(head, body)).await.unwrap();
            let done: Done = Box::new(std::future::ready(Ok(())));
            Ok((response.map(|body| body.map_err(|_| Error::HttpResponseIncomplete).boxed_unsync()), done))
        })
    }
}
