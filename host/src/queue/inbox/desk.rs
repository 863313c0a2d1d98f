//! Who gets a reply: the callback that waits for it, or, if none does any more, whoever sends late replies. One
//! lock decides, so that exactly one of the two happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::event::{Answer, Event};

/// A reply that was meant for a waiting callback which went away at that moment.
pub(in crate::queue) struct Late {
    pub(super) seq: i64,
    pub(super) event: Arc<Event>,
    pub(super) reply: Bytes,
}

/// The events that are waited for, or are being delivered. Bounded by the callbacks and deliveries under way.
pub(in crate::queue) struct Desk {
    claims: Mutex<HashMap<i64, Claim>>,
    /// Unbounded in type only: each entry comes from one callback.
    late: mpsc::UnboundedSender<Late>,
}

struct Claim {
    waiters: usize,
    delivering: bool,
    /// A waiter has the reply.
    taken: bool,
    /// What the waiters get, once it is known.
    outcome: watch::Sender<Option<Answer>>,
    /// For a late reply after all.
    event: Option<Arc<Event>>,
}

impl Claim {
    fn new() -> Self {
        Self { waiters: 0, delivering: false, taken: false, outcome: watch::Sender::new(None), event: None }
    }
}

impl Desk {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Late>) {
        let (late, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { claims: Mutex::default(), late }), receiver)
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<i64, Claim>> {
        // Nothing in this module panics while it holds the lock.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits from now on for the reply to a pending event.
    pub(super) fn join(self: &Arc<Self>, seq: i64) -> Ticket {
        let mut claims = self.claims();
        let claim = claims.entry(seq).or_insert_with(Claim::new);
        claim.waiters += 1;
        Ticket { desk: Arc::clone(self), seq, outcome: claim.outcome.subscribe(), left: false }
    }

    /// A delivery begins. Its end is [`Self::end`].
    pub(super) fn begin(&self, seq: i64) {
        self.claims().entry(seq).or_insert_with(Claim::new).delivering = true;
    }

    /// The event's fate is decided. Returns the reply if nobody waits for it.
    pub(super) fn answer(&self, seq: i64, event: &Arc<Event>, reply: Answer) -> Answer {
        let mut claims = self.claims();
        let Some(claim) = claims.get_mut(&seq) else { return reply };
        if claim.waiters == 0 {
            // Whoever joins before the end must not have what is sent late.
            claim.outcome.send_replace(Some(None));
            return reply;
        }
        claim.event = reply.is_some().then(|| Arc::clone(event));
        claim.outcome.send_replace(Some(reply));
        None
    }

    /// The result of the delivery is on disk.
    pub(super) fn end(&self, seq: i64) {
        let mut claims = self.claims();
        if let Some(claim) = claims.get_mut(&seq) {
            claim.delivering = false;
            if claim.waiters == 0 {
                claims.remove(&seq);
            }
        }
    }

    fn leave(&self, seq: i64, takes: bool) -> Answer {
        let mut claims = self.claims();
        let claim = claims.get_mut(&seq)?;
        claim.waiters = claim.waiters.saturating_sub(1);
        let mut result = None;
        let outcome = claim.outcome.borrow().clone();
        if let Some(Some(reply)) = outcome {
            if takes {
                claim.taken = true;
                result = Some(reply);
            } else if claim.waiters == 0 && !claim.taken {
                claim.outcome.send_replace(Some(None));
                if let Some(event) = claim.event.take() {
                    // Without a receiver the inbox has been stopped, and the reply is kept for a repetition.
                    let _ = self.late.send(Late { seq, event, reply });
                }
            }
        }
        if claim.waiters == 0 && !claim.delivering {
            claims.remove(&seq);
        }
        result
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.claims().is_empty()
    }
}

/// The right to the reply of one event.
pub(super) struct Ticket {
    desk: Arc<Desk>,
    seq: i64,
    outcome: watch::Receiver<Option<Answer>>,
    left: bool,
}

impl Ticket {
    pub(super) async fn wait(mut self, deadline: Instant) -> Answer {
        // Whether time is up or not: what is there under the lock counts.
        let _ = tokio::time::timeout_at(deadline.into(), self.outcome.wait_for(Option::is_some)).await;
        self.left = true;
        self.desk.leave(self.seq, true)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.left {
            self.desk.leave(self.seq, false);
        }
    }
}
