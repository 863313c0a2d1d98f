//! `POST /v1.0/bindings/{name}/callback`: where DingTalk points.
//!
//! What can be refused without the sandbox is refused first. The log has the reason of what is answered alike.

use dingtalk_api::limits::CALLBACK_TIMEOUT;
use dingtalk_api::{Answer, callback, trace};
use dingtalk_binding::callback::MAX_BODY;
use dingtalk_binding::error::{ReceiveError, Refusal};
use http::Request;
use hyper::body::Incoming;

use super::Api;
use super::server::Seat;
use crate::ingress::body::{self, Unread};
use crate::input::CallbackError;
use crate::sandbox::{CallError, Callback};
use crate::spans::said;

impl Api {
    pub(super) async fn callback(&self, name: &str, request: Request<Incoming>, seat: &Seat) -> Answer {
        let mut trace = trace::of_callback(request.headers());
        // Whoever makes names up is counted, and told of, without one.
        let span = self.input.spans().map(|spans| {
            let span = spans.begin(said::callback(request.method(), self.named(name)), &trace);
            span.put(&mut trace);
            span
        });
        let (result, answer) = self.take(name, request, trace, seat).await;
        self.input.count_callback(name, result);
        if let Some(span) = span {
            span.end(said::called_back(answer.status(), result));
        }
        answer
    }

    /// What it is counted as, and answered with.
    async fn take(
        &self,
        name: &str,
        request: Request<Incoming>,
        trace: Vec<(String, String)>,
        seat: &Seat,
    ) -> (&'static str, Answer) {
        if let Err(answer) = callback::check(request.method()) {
            return ("method", answer);
        }
        let arrived = self.input.bindings().arrival();
        let (parts, body) = request.into_parts();
        let body = match body::read(&parts.headers, body, MAX_BODY, CALLBACK_TIMEOUT, &seat.port.budget).await {
            Ok(body) => body,
            Err(unread) => {
                return match unread {
                    Unread::Busy => ("overloaded", callback::busy("too many long bodies at once")),
                    Unread::TooLong => ("too-large", callback::too_large()),
                    Unread::Incomplete => ("incomplete", callback::incomplete()),
                    Unread::TooSlow => ("too-slow", callback::too_slow()),
                };
            }
        };
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let (body, _share) = body;
        let callback = Callback { headers: headers.collect(), body, arrived };
        let _call = self.call(seat);
        match self.input.receive(name, callback, trace).await {
            Ok(reply) => {
                tracing::debug!(binding = name, "callback answered");
                ("answered", callback::replied(reply))
            }
            Err(error) => (result(&error), self.refuse(name, &error)),
        }
    }

    fn refuse(&self, name: &str, error: &CallbackError) -> Answer {
        let error = match error {
            CallbackError::NotFound(name) if self.bindings_come && self.input.bindings().get(name).is_none() => {
                // One line for all names: strangers can make them up.
                if let Some(more) = self.quiet.count("not initialised") {
                    tracing::warn!(
                        binding = name,
                        more,
                        "callback not acknowledged: daprd has not initialised this component; if this process has started after \
                         daprd did, restart daprd"
                    );
                }
                return callback::busy("the message was not taken; send it again");
            }
            CallbackError::NotFound(name) => return callback::not_found(name),
            CallbackError::Call(error) => error,
        };
        match error {
            CallError::Binding(ReceiveError::Refused(refusal)) => {
                if let Some(more) = self.quiet.count(&format!("refused {name}")) {
                    tracing::warn!(binding = name, %refusal, more, "callback refused");
                }
            }
            CallError::Overloaded(_) => {
                if let Some(more) = self.quiet.count(&format!("overloaded {name}")) {
                    tracing::warn!(binding = name, more, "too many callbacks at once");
                }
            }
            CallError::Binding(ReceiveError::HandlerFailed(_) | ReceiveError::NotReading(_)) => {
                // Each reason is news to the operator, and only what is verified comes as far as this.
                if let Some(more) = self.quiet.count(&format!("untaken {name} {error}")) {
                    tracing::warn!(binding = name, %error, more, "callback not acknowledged");
                }
            }
            CallError::Binding(ReceiveError::NotInitialized) | CallError::Init(_) | CallError::Stopped { .. } => {
                if let Some(more) = self.quiet.count(&format!("failed {name}")) {
                    tracing::error!(binding = name, %error, more, "callback not acknowledged");
                }
            }
        }
        match error {
            CallError::Binding(error) => callback::refused(error),
            CallError::Overloaded(_) => callback::busy("too many callbacks at once"),
            CallError::Init(_) | CallError::Stopped { .. } => callback::broken(),
        }
    }
}

/// What a callback that failed is counted as: for refusals the names of `refusal` in wit/types.wit.
fn result(error: &CallbackError) -> &'static str {
    match error {
        CallbackError::NotFound(_) => "not-found",
        CallbackError::Call(CallError::Overloaded(_)) => "overloaded",
        CallbackError::Call(CallError::Init(_)) => "configuration",
        CallbackError::Call(CallError::Stopped { .. }) => "stopped",
        CallbackError::Call(CallError::Binding(error)) => match error {
            ReceiveError::NotInitialized => "not-initialized",
            ReceiveError::NotReading(_) => "not-reading",
            ReceiveError::HandlerFailed(_) => "handler-failed",
            ReceiveError::Refused(refusal) => match refusal {
                Refusal::Unverifiable => "unverifiable",
                Refusal::Unsigned => "unsigned",
                Refusal::Ambiguous => "ambiguous",
                Refusal::BadTimestamp => "bad-timestamp",
                Refusal::Expired => "expired",
                Refusal::BadSignature => "bad-signature",
                Refusal::Reused => "reused",
                Refusal::WrongRobot => "wrong-robot",
                Refusal::TooLarge(_) => "too-large",
                Refusal::WrongContentType => "wrong-content-type",
                Refusal::Malformed(_) => "malformed",
            },
        },
    }
}
