//! Slots for calls: taken at once, or after a wait that ends in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::admission::{Admission, Overload, Rule};

/// Calls that wait for a slot, of all bindings and of one. Each holds its message: one that cannot have a slot
/// soon is told so at once, instead of being kept until its time is up.
const WAITING: Rule = Rule { all: 4_096, each: 1_024 };

/// The slots of one kind of call. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Mutex<Admission<oneshot::Sender<Slot>>>>);

impl Slots {
    pub(crate) fn new(rule: Rule) -> Self {
        Self(Arc::new(Mutex::new(Admission::new(rule, WAITING))))
    }

    fn admission(&self) -> MutexGuard<'_, Admission<oneshot::Sender<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are taken, and how many calls wait for one.
    pub(crate) fn load(&self) -> (usize, usize) {
        self.admission().load()
    }

    /// One for the binding `owner`, if there is one now.
    pub(crate) fn try_take(&self, owner: u64) -> Result<Slot, Overload> {
        self.admission().enter(owner)?;
        Ok(Slot { slots: self.clone(), owner })
    }

    /// One for the binding `owner`, after at most `patience`.
    pub(crate) async fn take(&self, owner: u64, patience: Duration) -> Result<Slot, Overload> {
        // The usual case, without the cost of a timer.
        if let Ok(slot) = self.try_take(owner) {
            return Ok(slot);
        }
        let (sender, mut receiver) = oneshot::channel();
        let number = self.admission().wait(owner, sender)?;
        let place = Place { slots: self, owner, number };
        if let Ok(Ok(slot)) = tokio::time::timeout(patience, &mut receiver).await {
            return Ok(slot);
        }
        match place.leave() {
            Some(reason) => Err(reason),
            // Its turn came in the last moment; the slot is on its way.
            None => receiver.await.map_err(|_| self.admission().overload(owner)),
        }
    }
}

/// A slot that is taken, until this is dropped.
pub(crate) struct Slot {
    slots: Slots,
    owner: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let begin = self.slots.admission().leave(self.owner);
        for (owner, waiter) in begin {
            // One that has just given up gives the slot back.
            let _ = waiter.send(Slot { slots: self.slots.clone(), owner });
        }
    }
}

/// A place among those that wait, until this is dropped.
struct Place<'a> {
    slots: &'a Slots,
    owner: u64,
    number: u64,
}

impl Place<'_> {
    fn leave(&self) -> Option<Overload> {
        self.slots.admission().cancel(self.owner, self.number)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
