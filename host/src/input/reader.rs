//! The consumer of one call: what a binding hands over is delivered at once, or through the inbox, within the time that whoever
//! sent it waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dingtalk_api::trace::TRACE;
use dingtalk_binding::error::HandlerError;

use super::Inner;
use super::answer::{self, Wish};
use crate::bindings::Binding;
use crate::event::{Answer, BoxFuture, Digest, Event, Undelivered};
use crate::queue::{Inbox, QueueError};
use crate::sandbox::Handler;

/// How an event came.
pub(super) enum Way {
    /// With "get": its caller waits for the application's own answer.
    Direct,
    /// From DingTalk.
    Callback {
        signed: Signed,
        /// DingTalk waits until then.
        deadline: Instant,
    },
}

/// What a callback was verified with.
pub(super) struct Signed {
    /// As it was then: another one may have its name by now, with another secret.
    pub(super) binding: Arc<Binding>,
    pub(super) arrived: Instant,
    /// The header, which the signature belongs to.
    pub(super) timestamp: String,
    /// The header.
    pub(super) sign: Vec<u8>,
}

/// The consumer of one call.
pub(super) struct Reader {
    pub(super) inner: Arc<Inner>,
    pub(super) binding: String,
    /// The binding's own time limit.
    pub(super) timeout: Duration,
    pub(super) trace: Vec<(String, String)>,
    pub(super) way: Way,
}

impl Handler for Reader {
    fn handle(
        &self,
        data: Vec<u8>,
        metadata: Vec<(String, String)>,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, HandlerError>> {
        // The caller of "get" may have a trace, which the API has put into the metadata as Dapr does.
        let is_trace = |(name, _): &(String, String)| TRACE.contains(&name.as_str());
        let (own, metadata) = metadata.into_iter().partition(is_trace);
        let trace = if matches!(self.way, Way::Direct) { own } else { self.trace.clone() };
        let mut event = Event { binding: self.binding.clone(), data: data.into(), metadata, trace };
        Box::pin(async move {
            let answer = match &self.way {
                Way::Direct => self.direct(&event).await?,
                Way::Callback { signed, deadline } => {
                    event.keep_usable_id();
                    let message = self.inner.recognise(&event, signed)?;
                    match &self.inner.inbox {
                        Some(inbox) => self.through(inbox, event, message, *deadline).await?,
                        None => self.at_once(event, message, *deadline).await?,
                    }
                }
            };
            Ok(answer.map(Vec::from))
        })
    }
}

impl Reader {
    /// The application's answer, as it is.
    async fn direct(&self, event: &Event) -> Result<Answer, HandlerError> {
        if self.inner.app.is_none() {
            return Err(HandlerError::NotReading);
        }
        match tokio::time::timeout(self.timeout, self.inner.hand_over(event)).await {
            Ok(answer) => {
                let answer = answer.map_err(|error| failure(&error))?;
                // A reply has nowhere to go but to the caller.
                if let Ok(Wish::Forward(forward)) = answer::read(&answer) {
                    self.inner.forward(event, forward);
                }
                Ok(answer)
            }
            Err(_) => Err(too_slow("the application has not answered", self.timeout)),
        }
    }

    /// Delivers now. The delivery goes on when DingTalk's time is up, for the copy that DingTalk sends then.
    async fn at_once(&self, event: Event, message: Digest, deadline: Instant) -> Result<Answer, HandlerError> {
        let inner = Arc::clone(&self.inner);
        let delivery = self.inner.tasks.spawn(async move { inner.deliver_once(&event, message).await });
        match tokio::time::timeout_at(deadline.into(), delivery).await {
            Ok(Ok(reply)) => reply.map_err(|error| failure(&error)),
            Ok(Err(_)) => Err(HandlerError::Failed("the delivery broke off".into())),
            Err(_) => Err(too_slow("the application has not answered", self.inner.callback_timeout)),
        }
    }

    /// Stores, then waits for the delivery as long as DingTalk waits.
    async fn through(
        &self,
        inbox: &Inbox,
        event: Event,
        message: Digest,
        deadline: Instant,
    ) -> Result<Answer, HandlerError> {
        let has_id = event.metadata("msgId").is_some();
        let stored = async {
            match tokio::time::timeout_at(deadline.into(), inbox.accept(event)).await {
                Ok(Ok(accepted)) => Ok(accepted.reply(deadline).await),
                // The inbox remembers what this process has forgotten, or an earlier one knew.
                Ok(Err(error @ QueueError::OtherBody { .. })) => {
                    if let Some(more) = self.inner.quiet.count(&format!("refused {}", self.binding)) {
                        tracing::warn!(binding = self.binding, %error, more, "a message was refused");
                    }
                    Err(HandlerError::Reused)
                }
                Ok(Err(error)) => {
                    if let Some(more) = self.inner.quiet.count(&format!("untaken {}", self.binding)) {
                        tracing::error!(binding = self.binding, %error, more, "a message was not taken");
                    }
                    Err(HandlerError::Failed(error.to_string()))
                }
                Err(_) => Err(too_slow("the inbox has not stored it", self.inner.callback_timeout)),
            }
        };
        match self.inner.messages(&self.binding) {
            // The inbox knows copies by their identifier alone.
            Some(messages) if !has_id => messages.repeats.once(message, stored).await,
            _ => stored.await,
        }
    }
}

fn failure(error: &Undelivered) -> HandlerError {
    match error {
        Undelivered::NotSubscribed { .. } => HandlerError::NotReading,
        Undelivered::Reused => HandlerError::Reused,
        _ => HandlerError::Failed(error.to_string()),
    }
}

fn too_slow(what: &str, limit: Duration) -> HandlerError {
    HandlerError::Failed(format!("{what} within {} ms", limit.as_millis()))
}
