//! `POST /v1.0/bindings/{name}/callback`: where DingTalk points.
//!
//! What can be refused without the sandbox is refused first. The log has the reason of what is answered alike.

use dingtalk_api::limits::CALLBACK_TIMEOUT;
use dingtalk_api::{Answer, callback, trace};
use dingtalk_binding::callback::MAX_BODY;
use dingtalk_binding::error::ReceiveError;
use http::Request;
use hyper::body::Incoming;

use super::Api;
use super::server::Seat;
use crate::ingress::body::{self, Unread};
use crate::input::CallbackError;
use crate::sandbox::{CallError, Callback};

impl Api {
    pub(super) async fn callback(&self, name: &str, request: Request<Incoming>, seat: &Seat) -> Answer {
        if let Err(answer) = callback::check(request.method()) {
            return answer;
        }
        let arrived = self.input.bindings().arrival();
        let (parts, body) = request.into_parts();
        let body = match body::read(&parts.headers, body, MAX_BODY, CALLBACK_TIMEOUT, &seat.port.budget).await {
            Ok(body) => body,
            Err(Unread::Busy) => return callback::busy("too many long bodies at once"),
            Err(Unread::TooLong) => return callback::too_large(),
            Err(Unread::Incomplete) => return callback::incomplete(),
            Err(Unread::TooSlow) => return callback::too_slow(),
        };
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
        let (body, _share) = body;
        let callback = Callback { headers: headers.collect(), body, arrived };
        let _call = self.call(seat);
        match self.input.receive(name, callback, trace::of_callback(&parts.headers)).await {
            Ok(reply) => {
                tracing::debug!(binding = name, "callback answered");
                callback::replied(reply)
            }
            Err(error) => self.refuse(name, &error),
        }
    }

    fn refuse(&self, name: &str, error: &CallbackError) -> Answer {
        let error = match error {
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
