//! `POST` and `PUT /v1.0/bindings/{name}` and `/v1.0/bindings/{name}/{operation}`.

use dingtalk_api::invoke::{self, InvokeError, shown_name, undecodable};
use dingtalk_api::limits::BODY_TIMEOUT;
use dingtalk_api::request::{self, Form};
use dingtalk_api::{Answer, Problem, trace, unread};
use http::header::HeaderMap;
use http::{Request, Uri};
use hyper::body::Incoming;

use super::Api;
use super::server::{Seat, Surface};
use crate::bindings::InvokeFailure;
use crate::ingress::body::{self, Share, Unread};
use crate::sandbox;
use crate::spans::{Span, said};

/// From here on, a body is decoded where no other request waits for the thread.
const LONG_BODY: usize = 256 << 10;

impl Api {
    pub(super) async fn invoke(&self, name: &str, form: Form, request: Request<Incoming>, seat: &Seat) -> Answer {
        let Some(spans) = self.input.spans() else { return self.invoke_below(None, name, form, request, seat).await };
        let said = match &form {
            Form::Envelope => said::invoke(request.method(), self.named(name)),
            Form::Bare(operation) => {
                let (_, known) = self.input.bindings().known(name, operation);
                let operation = Some(known).filter(|known| !known.is_empty());
                said::invoke_bare(request.method(), self.named(name), operation)
            }
        };
        let span = spans.begin(said, &trace::of_callback(request.headers()));
        let mut answer = self.invoke_below(Some(&span), name, form, request, seat).await;
        span.tell(answer.headers_mut());
        span.end(said::answered(answer.status()));
        answer
    }

    /// The name, if a binding has it.
    pub(super) fn named<'a>(&self, name: &'a str) -> Option<&'a str> {
        self.input.bindings().get(name).map(|_| name)
    }

    async fn invoke_below(
        &self,
        span: Option<&Span>,
        name: &str,
        form: Form,
        request: Request<Incoming>,
        seat: &Seat,
    ) -> Answer {
        let (parts, body) = request.into_parts();
        let (body, _share) = match self.body(&parts.headers, body, seat).await {
            Ok(body) => body,
            Err(unread) => return self.unread(unread, undecodable),
        };
        let chosen = match invoke::error_status(&parts.headers) {
            Ok(chosen) => chosen,
            Err(problem) => return problem.into(),
        };
        let mut request = match invoke::complete(&parts.headers, read(form, &parts.uri, body).await) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        if let Some(span) = span {
            span.put(&mut request.metadata);
        }
        let of_binding = || self.input.bindings().get(name).and_then(|binding| binding.error_status());
        let status = chosen.or_else(of_binding).unwrap_or(self.error_status);
        match self.perform(name, request, seat).await {
            Ok(response) => invoke::answer::<InvokeFailure>(name, Ok(response), status),
            Err(error) => invoke::answer(name, Err(&error), status),
        }
    }

    /// Performs an operation, however it was asked for.
    pub(super) async fn perform(
        &self,
        name: &str,
        request: sandbox::Request,
        seat: &Seat,
    ) -> Result<sandbox::Response, InvokeError<InvokeFailure>> {
        let _call = self.call(seat);
        let operation = request.operation.clone();
        let result = self.input.invoke_for(name, request, Some(&seat.line)).await;
        match &result {
            Ok(_) => tracing::debug!(binding = name, operation, "invoked"),
            Err(InvokeError::Call(error)) => tracing::warn!(binding = name, operation, %error, "invocation failed"),
            Err(InvokeError::MissingOperation) => self.tell_of_missing_operation(name, seat),
            // A request that does not fit is its client's business; the others need the operator.
            Err(_) => {}
        }
        result
    }

    /// A client that is written for another binding says it with every call; once is enough to find out. The client's own
    /// answer is daprd's, which does not say what to write.
    fn tell_of_missing_operation(&self, name: &str, seat: &Seat) {
        // One line for all names that no binding has: whoever makes them up must not fill the log.
        let key = self.named(name).map_or_else(|| "no operation".to_owned(), |name| format!("no operation {name}"));
        let Some(more) = self.quiet.count(&key) else { return };
        let binding = shown_name(name);
        if seat.surface == Surface::Grpc {
            tracing::warn!(
                binding,
                more,
                "a request names no operation; set the field operation of InvokeBindingRequest, to \"create\" for a message"
            );
        } else {
            tracing::warn!(
                binding,
                more,
                "a request names no operation; write {{\"operation\": \"create\", \"data\": …}} as the body for \
                 /v1.0/bindings/{{name}}, or send what is data there as the body for /v1.0/bindings/{{name}}/create"
            );
        }
    }

    /// The whole body, with its share of the port's bytes.
    pub(super) async fn body(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        seat: &Seat,
    ) -> Result<(Vec<u8>, Share), Unread> {
        body::read(headers, body, self.max_body_size, BODY_TIMEOUT, &seat.port.budget).await
    }

    /// The answer to a body that cannot be used, which says why with `malformed`.
    pub(super) fn unread(&self, why: Unread, malformed: impl FnOnce(&str) -> Problem) -> Answer {
        let why = match why {
            Unread::TooLong => malformed(&unread::too_long(self.max_body_size, "see --max-body-size")),
            Unread::Incomplete => malformed(unread::INCOMPLETE),
            Unread::TooSlow => malformed(&unread::too_slow(BODY_TIMEOUT.as_secs())),
            Unread::Busy => busy(),
        };
        why.into()
    }
}

/// Other bodies have taken all of the port's bytes.
pub(super) fn busy() -> Problem {
    Problem::busy("too many long request bodies at once; send it again")
}

/// Puts a request together; where a long body has to be decoded, not where others wait for the thread.
async fn read(form: Form, uri: &Uri, body: Vec<u8>) -> Result<sandbox::Request, Problem> {
    if form != Form::Envelope || body.len() < LONG_BODY {
        return request::read(form, uri.query(), body);
    }
    match tokio::task::spawn_blocking(move || request::read(form, None, body)).await {
        Ok(request) => request,
        Err(error) => Err(undecodable(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_long_body_is_decoded_where_nobody_waits_for_the_thread() {
        for (length, elsewhere) in [(1_000, false), (16 << 20, true)] {
            let body = format!(r#"{{"operation":"create","data":"{}"}}"#, "x".repeat(length)).into_bytes();
            let uri = Uri::from_static("/v1.0/bindings/x");
            let mut decoding = pin!(read(Form::Envelope, &uri, body));
            let first = std::future::poll_fn(|context| Poll::Ready(decoding.as_mut().poll(context))).await;
            let decoded = match first {
                Poll::Ready(decoded) => {
                    assert!(!elsewhere);
                    decoded
                }
                Poll::Pending => {
                    assert!(elsewhere);
                    decoding.await
                }
            };
            assert_eq!(decoded.unwrap().data.len(), length + 2);
        }
        // Data need not be decoded.
        let (form, uri) = (Form::Bare("create".into()), Uri::from_static("/v1.0/bindings/x/create"));
        let mut reading = pin!(read(form, &uri, vec![b'x'; 16 << 20]));
        let first = std::future::poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
        assert!(first.is_ready());
    }
}
