//! The disk below the store: slow, stalled, full or broken. What was committed stays; what was not is lost with the process.

use std::path::PathBuf;
use std::sync::Arc;

use super::world::{World, ms, note, one_in};
use crate::event::BoxFuture;
use crate::queue::error::{Place, QueueError, Side};
use crate::queue::writer::Disk;

/// Until when it is as it is.
#[derive(Default)]
pub(super) struct Health {
    pub(super) full_until: u64,
    pub(super) broken_until: u64,
}

pub(super) struct SimulatedDisk(pub(super) Arc<World>);

impl Disk for SimulatedDisk {
    fn begin(&mut self) -> BoxFuture<'_, Option<(bool, QueueError)>> {
        Box::pin(async move {
            self.0.may_end("before a commit").await;
            let time = if one_in(2_000) { fastrand::u64(100..1_500) } else { fastrand::u64(..6) };
            if time > 0 {
                tokio::time::sleep(ms(time)).await;
            }
            self.0.may_end("before a commit that it has begun").await;
            let mut state = self.0.state();
            let (now, place) = (state.now(), Place::new(Side::Outbox, &PathBuf::from("simulated")));
            if now < state.disk.broken_until {
                state.books.disk_failed(now);
                note!(state, "the disk fails");
                return Some((true, QueueError::Io { place, reason: "cannot be written: simulated".into() }));
            }
            (now < state.disk.full_until).then_some((false, QueueError::Full { place }))
        })
    }

    fn committed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.may_end("after a commit"))
    }
}
