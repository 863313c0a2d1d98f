//! `GET /` and `GET /metrics` of `--metrics-port`: Prometheus' text format, and nothing else.

use dingtalk_api::caller::{self, FLAGS};
use dingtalk_api::{Answer, answer};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};

use super::Api;
use super::server::Seat;

impl Api {
    /// Needs no token, as in daprd: whoever collects metrics is to know nothing that sends messages. A page in somebody's
    /// browser is refused as on the other ports.
    pub(super) async fn metrics<B>(&self, request: &Request<B>, seat: &Seat) -> Answer {
        let (uri, headers) = (request.uri(), request.headers());
        if let Err(what) = caller::host(request.version(), uri, headers) {
            return answer::text(StatusCode::BAD_REQUEST, what);
        }
        if let Err(stranger) = self.allowed.check(uri, headers, Some(seat.address)) {
            return answer::text(StatusCode::FORBIDDEN, &stranger.explained("", &FLAGS));
        }
        if !matches!(uri.path(), "/" | "/metrics") {
            return answer::empty(StatusCode::NOT_FOUND);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = answer::empty(StatusCode::METHOD_NOT_ALLOWED);
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let labels = [("app_id", self.app_id.as_str()), ("namespace", self.namespace.as_str())];
        match self.input.metrics_text(&labels).await {
            Ok(text) => {
                let mut answer = answer::json(StatusCode::OK, text);
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            Err(error) => {
                if let Some(more) = self.quiet.count("metrics") {
                    tracing::error!(%error, more, "metrics cannot be written");
                }
                answer::empty(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}
