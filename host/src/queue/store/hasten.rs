//! Lanes that are due sooner than was thought: somebody is back, or a clock was set back. Some at a time, so that others can write.

use rusqlite::params;

use super::{Store, stored};
use crate::queue::QueueError;

/// Lanes that are changed in one transaction: each has a page in the table and two in indexes.
pub(super) const HASTENED_AT_ONCE: usize = 200;

/// Whether they suffer or not.
pub(super) const ANY: &str = "true";

impl Store {
    /// Makes lanes of a binding due at `now` that are due after `later`: some of them. Returns how many.
    pub(super) fn hasten(&self, binding: &str, later: u64, now: u64, which: &str) -> Result<usize, QueueError> {
        let sql = format!(
            "UPDATE lanes SET due = ?2, suffers = 0 WHERE id IN
                 (SELECT id FROM lanes WHERE binding = ?1 AND due > ?3 AND {which} LIMIT {HASTENED_AT_ONCE})"
        );
        self.execute(&sql, params![binding, stored(now), stored(later)])
    }

    fn hasten_all(&self, now: u64, which: &str) -> Result<bool, QueueError> {
        let mut is_more = false;
        for binding in self.bindings()?.iter().flatten() {
            is_more |= self.hasten(binding, now, now, which)? == HASTENED_AT_ONCE;
        }
        Ok(is_more)
    }

    /// The application is back: what only waited for that is due. Returns whether there may be more.
    pub(in crate::queue) fn wake(&self, now: u64) -> Result<bool, QueueError> {
        self.hasten_all(now, "suffers = 1")
    }

    /// This binding is there again: all that it has is due. Returns whether there may be more.
    pub(in crate::queue) fn wake_binding(&self, binding: &str, now: u64) -> Result<bool, QueueError> {
        Ok(self.hasten(binding, now, now, ANY)? == HASTENED_AT_ONCE)
    }

    /// A new process: everything is due. Returns whether there may be more.
    pub(in crate::queue) fn wake_all(&self, now: u64) -> Result<bool, QueueError> {
        self.hasten_all(now, ANY)
    }
}
