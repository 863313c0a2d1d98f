//! What an application's answer asks for: nothing, a reply, or data that is sent on to other bindings; and the reply that comes
//! after its callback was answered.

use std::sync::Arc;

use bytes::Bytes;
use dingtalk_api::invoke;
use dingtalk_binding::operation;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::Inner;
use super::answer::{self, Concurrency, Forward, Wish};
use super::outbound::Outbound;
use crate::bindings::CREATE;
use crate::event::{Answer, Event};
use crate::sandbox::Request;

/// Bytes of the answers of one binding that calls are sending at once; the others wait, without a copy. A call holds
/// its data several times: without a limit, two bindings whose answers of 700 KB went to 16 robots that hung took
/// 316 MiB. 200 times what DingTalk takes as one message.
pub(super) const SENDING: usize = 4 << 20;

/// The operation that answers in a conversation.
const REPLY: &str = "reply";

/// Shared by all whom an answer is sent on to.
type Trace = Arc<[(String, String)]>;

impl Inner {
    /// Does what an answer asks for, in the background; the reply, if that is what it is.
    pub(super) fn follow(self: &Arc<Self>, event: &Event, answer: &Answer) -> Answer {
        match answer::read(answer) {
            Ok(Wish::Nothing) => None,
            Ok(Wish::Reply(reply)) => Some(reply),
            Ok(Wish::Forward(forward)) => {
                self.forward(event, forward);
                None
            }
            Err(reason) => {
                tracing::error!(binding = event.binding, msg_id = event.logged_id(), reason, "wrong answer");
                None
            }
        }
    }

    /// Sends data on in the background. Answers whose data waits are bounded: a robot that hangs keeps each of them
    /// for as long as a call may take.
    pub(super) fn forward(self: &Arc<Self>, event: &Event, forward: Forward) {
        let from = event.binding.as_str();
        let owner = self.bindings.get(from).map_or(u64::MAX, |binding| binding.tenant_id());
        let slot = match self.forwards.try_take(owner) {
            Ok(slot) => slot,
            Err(_) => {
                tracing::error!(binding = from, "an answer was not sent on: too many are being sent");
                return;
            }
        };
        let Forward { to, data, concurrency } = forward;
        let data: Bytes = data.map_or_else(|| "null".into(), |data| String::from(Box::<str>::from(data)).into());
        let (inner, from, is_last) = (Arc::clone(self), from.to_owned(), event.is_dead_letter());
        let trace: Trace = if self.spans.get().is_some() { event.trace.clone().into() } else { Arc::default() };
        self.tasks.spawn(async move {
            let _slot = slot;
            match concurrency {
                Concurrency::Sequential => {
                    for name in to {
                        // As Dapr does: what comes after may depend on it.
                        if !inner.send_on(&from, &name, &data, &trace, is_last).await {
                            break;
                        }
                    }
                }
                Concurrency::Parallel => {
                    let mut sending = JoinSet::new();
                    for name in to {
                        let (inner, from, data) = (Arc::clone(&inner), from.clone(), data.clone());
                        let trace = Arc::clone(&trace);
                        sending.spawn(async move { inner.send_on(&from, &name, &data, &trace, is_last).await });
                    }
                    sending.join_all().await;
                }
            }
        });
    }

    /// `is_last` of what answers a dead letter: that it was given up is told to nobody.
    async fn send_on(&self, from: &str, to: &str, data: &Bytes, trace: &[(String, String)], is_last: bool) -> bool {
        let messages = &self.messages(from);
        let bytes = u32::try_from(data.len().min(SENDING)).unwrap_or(u32::MAX);
        let uuid = &self.uuid_for(to, operation::has_uuid(data, []));
        let has_uuid = uuid.is_some() || operation::has_uuid(data, []);
        let (operation, line) = (CREATE, None);
        let outbound = Outbound { binding: to, operation, has_uuid, is_late: false, is_awaited: true, trace, line };
        let attempt = |(), limit| async move {
            // Not kept while a policy pauses.
            let _share = match messages {
                Some(messages) => messages.sending.acquire_many(bytes).await.ok(),
                None => None,
            };
            self.bindings.create(to, data, uuid.as_deref(), limit, is_last).await
        };
        let sent = self.send(outbound, (), attempt).await;
        if let Err(error) = &sent {
            tracing::error!(binding = from, to, %error, "an answer was not sent on");
        }
        sent.is_ok()
    }

    /// Posts a reply to the session of its message: the callback has been answered without it.
    pub(super) async fn reply_late(&self, event: &Event, reply: Bytes) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Session {
            session_webhook: String,
            session_webhook_expired_time: Option<Box<RawValue>>,
        }
        let failed = |reason: &str| {
            tracing::error!(binding = event.binding, msg_id = event.logged_id(), reason, "a late reply was not posted");
        };
        let Ok(session) = serde_json::from_slice::<Session>(&event.data) else {
            return failed("the message names no sessionWebhook");
        };
        let mut metadata = vec![("sessionWebhook".to_owned(), session.session_webhook)];
        if let Some(expires) = session.session_webhook_expired_time {
            metadata.push(("sessionWebhookExpiredTime".into(), expires.get().trim_matches('"').to_owned()));
        }
        let request = Request { operation: REPLY.into(), data: reply.into(), metadata };
        let outbound = Outbound {
            binding: &event.binding,
            operation: REPLY,
            has_uuid: invoke::has_uuid(&request),
            is_late: true,
            is_awaited: true,
            trace: &event.trace,
            line: None,
        };
        let sent = self.send(outbound, request, |request, limit| self.bindings.perform(&event.binding, request, limit));
        match sent.await {
            Ok(_) => tracing::debug!(binding = event.binding, "a late reply was posted"),
            Err(error) => failed(&error.to_string()),
        }
    }
}
