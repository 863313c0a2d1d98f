//! Events over HTTP, as daprd delivers them.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use dingtalk_api::delivery::{self, MAX_ANSWER, headers};
use dingtalk_api::route::TOKEN;
use dingtalk_api::unread::Unread;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::peer::{IDLE, Peer, new_traceparent};
use super::retry_after;
use super::subscription::{Subscription, Verdict};
use crate::event::{Answer, Event, Undelivered};

/// The way to an application that speaks HTTP.
pub(super) struct Http {
    peer: Peer,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Http {
    pub(super) fn new(peer: Peer) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            // As Go writes them: some applications compare header names so.
            .http1_title_case_headers(true)
            .build(peer.connector());
        Self { peer, client }
    }

    pub(super) async fn deliver(&self, subscription: &Subscription, event: &Event) -> Result<Answer, Undelivered> {
        // Whoever asks for an event has looked whether it has one.
        let request = self.event_request(subscription.route_of(event).unwrap_or_default(), event);
        let (mut status, mut retry_after) = (None, None);
        let exchange = async {
            let response = self.client.request(request).await?;
            status = Some(response.status());
            let value = response.headers().get(RETRY_AFTER);
            retry_after = value.and_then(|value| retry_after::parse(value.as_bytes(), SystemTime::now()));
            Ok::<_, ClientError>(read(response.into_body()).await)
        };
        let outcome = timeout(self.peer.timeout, exchange).await;
        // Whatever becomes of its body, an answer that says no is one.
        if let Some(status) = status.filter(|status| !status.is_success()) {
            let body = match outcome {
                Ok(Ok(Ok(body))) => self.peer.refusal(&body, &event.data),
                Ok(Ok(Err(why))) => delivery::not_whole(why),
                _ => delivery::not_whole(Unread::Incomplete),
            };
            return Err(Undelivered::Refused { status: status.as_u16(), body, retry_after });
        }
        let unreachable = |what: String| Err(Undelivered::Unreachable(what));
        match outcome {
            Ok(Ok(Ok(body))) => Ok(Some(body).filter(|body| !body.is_empty())),
            Ok(Ok(Err(Unread::TooLong))) => unreachable(delivery::too_long(&self.peer.authority)),
            Ok(Ok(Err(_))) => unreachable(delivery::broken_off(&self.peer.authority)),
            Ok(Err(error)) => Err(self.peer.failure(&error)),
            Err(_) => unreachable(self.peer.no_answer(self.peer.timeout, "--app-timeout")),
        }
    }

    /// The question is whether there is somebody at the route.
    pub(super) async fn reads(&self, subscription: &Subscription) -> Result<Verdict, Undelivered> {
        let request = self.request(Method::OPTIONS, subscription.route(), Bytes::new());
        let status = self.status(request, self.peer.probe_timeout, "--app-binding-options-timeout").await?;
        Ok(verdict(status, subscription.path()))
    }

    pub(super) async fn check(&self, path: &str, limit: Duration) -> Result<(), String> {
        let request = self.request(Method::GET, path, Bytes::new());
        match self.status(request, limit, "--app-health-probe-timeout").await {
            Ok(200..=299) => Ok(()),
            Ok(status) => Err(format!("GET {} gives {status}", path.split('?').next().unwrap_or_default())),
            Err(Undelivered::NoConnection(reason) | Undelivered::Unreachable(reason)) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The status alone. The body of an answer is not read: its connection is closed if there is more of it than
    /// came with the head.
    async fn status(&self, request: Request<Full<Bytes>>, limit: Duration, flag: &str) -> Result<u16, Undelivered> {
        match timeout(limit, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response.status().as_u16()),
            Ok(Err(error)) => Err(self.peer.failure(&error)),
            Err(_) => Err(Undelivered::Unreachable(self.peer.no_answer(limit, flag))),
        }
    }

    fn event_request(&self, route: &str, event: &Event) -> Request<Full<Bytes>> {
        let headers::Headers { map, left_out } = headers::from_metadata(&event.metadata);
        for name in left_out {
            tracing::debug!(binding = event.binding, header = %name, "left out: too long for a header");
        }
        let mut request = self.request(Method::POST, route, event.data.clone());
        let headers = request.headers_mut();
        headers.extend(map);
        headers.extend(headers::from_trace(&event.trace, || Some(new_traceparent())));
        // hyper leaves it out for an empty body, and some servers answer such a POST with 411.
        headers.insert(CONTENT_LENGTH, event.data.len().into());
        request
    }

    fn request(&self, method: Method, route: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(route);
        let headers = request.headers_mut();
        // daprd's, whatever the data is.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = self.peer.token() {
            headers.insert(TOKEN, token);
        }
        request
    }

    fn uri(&self, route: &str) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.peer.authority.clone());
        // `target` makes nothing else, see its property test.
        parts.path_and_query = Some(route.parse().unwrap_or_else(|_| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// daprd's rule. 405 is the answer of a server that has the route, and for POST alone.
fn verdict(status: u16, path: &str) -> Verdict {
    match status {
        200..=299 | 405 => Verdict::Reads,
        status => Verdict::ReadsNot(format!(
            "it answers OPTIONS {path} with {status} instead of 2xx or 405; give it the route, or the binding direction: \
             input"
        )),
    }
}

/// A body, as far as it is wanted.
pub(super) async fn read(mut body: Incoming) -> Result<Bytes, Unread> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Unread::Incomplete) };
        // Trailers are nothing to anybody.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_ANSWER {
            return Err(Unread::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_for_statuses() {
        for status in [200, 204, 299, 405] {
            assert_eq!(verdict(status, "/in"), Verdict::Reads, "{status}");
        }
        for status in [199, 300, 301, 400, 401, 403, 404, 406, 500, 503] {
            let Verdict::ReadsNot(reason) = verdict(status, "/in") else { panic!("{status}") };
            assert!(reason.contains(&format!("OPTIONS /in with {status}")) && reason.contains("direction: input"));
        }
    }
}
