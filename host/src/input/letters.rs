//! Tells the application that a message of the outbox was given up: as an event of its binding, if that asks for it.

use std::sync::Arc;

use dingtalk_binding::json;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::Inner;
use crate::event::Event;
use crate::queue::outbox::{DeadLetter, Told};

/// What the application gets.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_uuid: Option<&'a str>,
    reason: &'a str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Box<RawValue>>,
}

impl Inner {
    /// Through the inbox, if there is one; otherwise the application has to be there.
    pub(super) async fn tell(self: &Arc<Self>, letter: &DeadLetter) -> Told {
        let Some(binding) = self.bindings.get(&letter.binding) else { return Told::Later };
        if !binding.subscription().takes_dead_letters() || letter.is_answer() {
            return Told::Done;
        }
        if self.app.is_none() {
            if let Some(more) = self.quiet.count(&format!("nobody {}", letter.binding)) {
                let binding = &letter.binding;
                tracing::warn!(binding, more, "deadLetterRoute: there is no application; set --app-port or --handler");
            }
            return Told::Done;
        }
        let event = event(letter);
        let Some(inbox) = &self.inbox else {
            return match self.deliver(&event).await {
                Ok(_) => Told::Done,
                Err(error) if error.is_final() => {
                    let (binding, seq) = (&letter.binding, letter.seq);
                    tracing::error!(binding, seq, %error, "the application refuses to be told that a message was given up");
                    Told::Done
                }
                Err(error) => Told::Failed(error.to_string()),
            };
        };
        match inbox.accept(event).await {
            Ok(_) => Told::Done,
            Err(error) => {
                if let Some(more) = self.quiet.count(&format!("untold {}", letter.binding)) {
                    let (binding, seq) = (&letter.binding, letter.seq);
                    tracing::error!(binding, seq, %error, more, "that a message was given up is not in the inbox yet");
                }
                Told::Later
            }
        }
    }
}

fn event(letter: &DeadLetter) -> Event {
    let DeadLetter { seq, binding, uuid, reason, attempts, body, trace, .. } = letter;
    let message = body.as_ref().and_then(|body| {
        let body = json::without_mark(body);
        // The host has made sure that it is JSON before it was stored; but disks fail.
        serde_json::from_slice(body).or_else(|_| to_raw_value(&String::from_utf8_lossy(body))).ok()
    });
    let data = Data { id: *seq, msg_uuid: uuid.as_deref(), reason, attempts: *attempts, message };
    // Texts and numbers can always be written.
    let data = serde_json::to_vec(&data).unwrap_or_default();
    let mut metadata = vec![("id", seq.to_string())];
    metadata.extend(uuid.clone().map(|uuid| ("msgUuid", uuid)));
    metadata.extend([("reason", reason.clone()), ("attempts", attempts.to_string())]);
    let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Event { trace: trace.clone(), ..Event::dead_letter(binding.clone(), data.into(), metadata) }
}
