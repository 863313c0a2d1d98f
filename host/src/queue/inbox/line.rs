//! From the inbox to the application: its gates, who waits for a reply, and late replies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Consumer;
use super::desk::{Desk, Late};
use crate::queue::backoff::{Gates, Leave};
use crate::queue::dispatcher::{Line, Shared};
use crate::queue::storage::End;
use crate::queue::store::Head;

/// The way to the application.
pub(in crate::queue) struct ToApplication {
    consumer: Arc<dyn Consumer>,
    desk: Arc<Desk>,
    gates: Mutex<Gates>,
}

impl ToApplication {
    pub(in crate::queue) fn new(consumer: Arc<dyn Consumer>, desk: Arc<Desk>) -> Self {
        Self { consumer, desk, gates: Mutex::default() }
    }

    fn gates(&self) -> MutexGuard<'_, Gates> {
        // Nothing panics while it holds the lock.
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line for ToApplication {
    type Aside = Late;

    fn leave_all(&self, now: u64) -> Leave {
        self.gates().leave_all(now)
    }

    fn leave(&self, busy: &[&str], now: u64) -> HashMap<String, Leave> {
        let gates = self.gates();
        gates.known().chain(busy.iter().copied()).map(|name| (name.to_owned(), gates.leave(name, now))).collect()
    }

    fn begin(&self, seq: i64) {
        self.desk.begin(seq);
    }

    async fn deliver(shared: Arc<Shared<Self>>, head: Head) {
        let Head { seq, lane: (binding, _), attempts, event, .. } = head;
        let Self { consumer, desk, .. } = &shared.line;
        let taken_then = shared.line.gates().taken_so_far(&binding);
        match consumer.consume(&event).await {
            Ok(reply) => {
                let recovered = shared.line.gates().up(&binding, (shared.clock)());
                let late = desk.answer(seq, &event, reply.clone());
                // What is sent late must not be sent once more with a repetition.
                let kept = reply.filter(|_| late.is_none());
                shared.persist(seq, End::Delivered(kept)).await;
                desk.end(seq);
                if recovered {
                    shared.recovered().await;
                }
                if let Some(reply) = late {
                    consumer.reply_late(&event, reply).await;
                }
            }
            Err(error) if error.is_final() => {
                let recovered = shared.line.gates().up(&binding, (shared.clock)());
                if let Some(more) = shared.quiet.count(&format!("refused {binding}")) {
                    tracing::error!(binding, seq, %error, more, "the application refuses an event for good; see `inbox list`");
                }
                desk.answer(seq, &event, None);
                shared.persist(seq, End::Refused(error.to_string())).await;
                desk.end(seq);
                if recovered {
                    shared.recovered().await;
                }
            }
            Err(error) => {
                let suffers = shared.line.gates().failed(&binding, taken_then, error.scope(), (shared.clock)());
                if let Some(more) = shared.quiet.count(&format!("not taken {binding}")) {
                    let attempts = attempts.saturating_add(1);
                    tracing::warn!(binding, seq, attempts, %error, more, "an event is not taken yet");
                }
                shared.failed(seq, attempts, &error.to_string(), suffers).await;
            }
        }
    }

    fn ended(&self, seq: i64) {
        self.desk.end(seq);
    }

    async fn aside(shared: Arc<Shared<Self>>, late: Late) {
        let Late { seq, event, reply } = late;
        if let Err(error) = shared.storage.forget_reply(seq).await
            && let Some(more) = shared.quiet.count("reply")
        {
            tracing::warn!(seq, %error, more, "a repetition of this event may be answered with a reply that is sent already");
        }
        shared.line.consumer.reply_late(&event, reply).await;
    }
}
