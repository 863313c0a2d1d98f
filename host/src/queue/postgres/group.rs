//! Insertions into one conversation that come at once, committed together: they wait for each other, and a commit for the disk.
//! One after the other they were 240 in a second.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::events::Events;
use super::insert::{Inserted, Marked, Prepared};
use super::lease::LaneKey;
use super::read;
use crate::queue::QueueError;
use crate::queue::storage::Then;
use crate::queue::store::Item;

/// Events of one transaction, and their bytes if there is more than one: the first of them waits for the last.
const MOST: usize = 64;
const MOST_BYTES: u64 = 1 << 20;

/// Insertions that wait until those before them in their conversation are committed: one entry for each conversation into
/// which something is being inserted.
pub(super) type Groups = HashMap<LaneKey, Vec<Call>>;

/// An insertion, and who waits for it.
pub(super) struct Call {
    item: Prepared,
    then: Then,
    answer: oneshot::Sender<Result<(), QueueError>>,
}

/// How many of the first ones go together.
fn together(calls: &[Call]) -> usize {
    let mut bytes = 0_u64;
    let fits = |call: &&Call| {
        bytes = bytes.saturating_add(read(call.item.size));
        bytes <= MOST_BYTES
    };
    calls.iter().take(MOST).take_while(fits).count().max(1).min(calls.len())
}

impl Events {
    /// Stores one event, with others of its conversation that are to be stored at this moment.
    pub(super) async fn insert_with_others(&self, item: Item, now: u64, then: Then) -> Result<(), QueueError> {
        let item = [self.prepare(item, now)?];
        self.make_room(&item).await?;
        let [item] = item;
        let (answer, answered) = oneshot::channel();
        let lane = item.lane.clone();
        let call = Call { item, then, answer };
        match self.groups().entry(lane.clone()) {
            Entry::Occupied(mut waiting) => waiting.get_mut().push(call),
            Entry::Vacant(entry) => {
                entry.insert(vec![call]);
                // In a task of its own: what is committed is known here, whoever has gone away.
                self.0.tasks.spawn(self.clone().insert_groups(lane));
            }
        }
        answered.await.unwrap_or(Err(QueueError::Stopped))
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.0.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until nothing waits for this conversation.
    async fn insert_groups(self, lane: LaneKey) {
        while let Some(calls) = self.next_group(&lane) {
            // Should it panic, those that come after must not wait for ever.
            let _ = self.0.tasks.spawn(self.clone().insert_group(calls)).await;
        }
    }

    fn next_group(&self, lane: &LaneKey) -> Option<Vec<Call>> {
        let mut groups = self.groups();
        let waiting = groups.get_mut(lane)?;
        let number = together(waiting);
        if number == 0 {
            groups.remove(lane);
            return None;
        }
        Some(waiting.drain(..number).collect())
    }

    async fn insert_group(self, calls: Vec<Call>) {
        let (items, callers): (Vec<_>, Vec<_>) =
            calls.into_iter().map(|Call { item, then, answer }| (item, (then, answer))).unzip();
        let mut marked = Marked::new(&self);
        let inserted = self.insert_all(&items, false, &mut marked).await.map_err(|fault| self.error(fault));
        let mut answers = Vec::with_capacity(callers.len());
        match inserted {
            Ok(inserted) => {
                for (inserted, (then, answer)) in inserted.into_iter().zip(callers) {
                    let result = match inserted {
                        Inserted::Stored(stored) => {
                            then(vec![stored]);
                            Ok(())
                        }
                        Inserted::Other(seq) => Err(QueueError::OtherBody { side: self.side(), seq }),
                    };
                    answers.push((answer, result));
                }
            }
            Err(error) => answers.extend(callers.into_iter().map(|(_, answer)| (answer, Err(error.clone())))),
        }
        drop(marked);
        for (answer, result) in answers {
            // Who has gone away need not know.
            let _ = answer.send(result);
        }
    }
}
