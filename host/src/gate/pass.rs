//! Leave to post: what is begun with it, and what becomes of it.

use std::sync::Arc;

use super::Gate;
use super::door::Probe;
use super::ledger::{Claim, Ledger};
use super::lesson::Lesson;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Probes {
    pub(super) own: Probe,
    pub(super) robot: Probe,
}

/// Leave to post messages, one after the other. Dropped while one is under way, nobody knows what became of that; those that
/// were not begun give their places back.
pub struct Pass<'a> {
    pub(super) gate: &'a Gate,
    pub(super) probes: Probes,
    pub(super) left: u16,
    pub(super) is_running: bool,
    /// What is noted of those that are left, and where.
    pub(super) claims: Option<(Arc<dyn Ledger>, Vec<Claim>)>,
}

impl Pass<'_> {
    /// One of them begins.
    pub(crate) fn begin(&mut self) {
        self.is_running = true;
    }

    /// It has ended.
    pub(crate) fn end(&mut self, lesson: &Lesson) {
        self.is_running = false;
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            if let Some((ledger, claims)) = &mut self.claims
                && let Some(claim) = claims.pop()
            {
                ledger.end(claim, lesson);
            }
            // The first one has found out.
            self.gate.leave(std::mem::take(&mut self.probes), lesson);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_running {
            self.end(&Lesson::Unknown);
        }
        while self.left > 0 {
            self.end(&Lesson::Unsent);
        }
    }
}
