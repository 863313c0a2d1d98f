//! What the operator sees and changes.

use std::time::Instant;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Row, params};

use super::queue::text;
use super::{Store, read, shown, state, stored};
use crate::queue::{Counts, Entry, Listing, QueueError, Selection, State};

/// Events that are read at once, to be shown: some pages of a terminal. With their content, at most 32 MiB.
const LIST_PAGE: i64 = 100;

/// Events that are changed in one transaction, if they are small.
const CHANGED_AT_ONCE: usize = 500;

/// Bytes for which there is to be room before that.
const ROOM_TO_CHANGE: u64 = 256 << 10;

impl Store {
    /// Reads an index of each: 10 ms for 400,000 events.
    pub(in crate::queue) fn counts(&self) -> Result<Counts, QueueError> {
        let count = |sql| self.first(sql, [], |row| row.get(0)).map(|count| read(count.unwrap_or(0)));
        Ok(Counts {
            pending: count("SELECT count(*) FROM events INDEXED BY events_waiting WHERE state = 'pending'")?,
            dead: count("SELECT count(*) FROM events INDEXED BY events_dead WHERE state = 'dead'")?,
        })
    }

    /// When the pending event was accepted, or put back, that waits for longest.
    pub(in crate::queue) fn oldest(&self) -> Result<Option<u64>, QueueError> {
        let sql = "SELECT ifnull(retried_at, accepted_at) FROM events INDEXED BY events_waiting WHERE state = 'pending'
                       ORDER BY ifnull(retried_at, accepted_at) LIMIT 1";
        Ok(self.first(sql, [], |row| row.get(0))?.map(read))
    }

    /// Shows events to `each`, in order, until it says no. Reads a page at a time: while a reader waits for whoever
    /// looks at the list, the journal could not be written into the store, and would grow.
    pub(in crate::queue) fn list(
        &self,
        listing: &Listing,
        mut each: impl FnMut(Entry) -> std::io::Result<()>,
    ) -> Result<std::io::Result<()>, QueueError> {
        // Without it, SQLite would look for the dead ones among all.
        let index = if listing.states == [State::Dead] { "INDEXED BY events_dead" } else { "" };
        let states: Vec<String> = listing.states.iter().map(|state| format!("state = '{state}'")).collect();
        let sql = format!(
            "SELECT seq, events.binding, state, attempts, accepted_at, finished_at, last_error, msg_id,
                       events.conversation, length(data), due,
                       (SELECT seq FROM events AS first WHERE first.state = 'pending'
                            AND first.binding = events.binding AND first.conversation = events.conversation
                            ORDER BY {} LIMIT 1),
                       CASE WHEN ?2 THEN metadata END, CASE WHEN ?2 THEN data END
                   FROM events {index} LEFT JOIN lanes
                       ON lanes.binding = events.binding AND lanes.conversation = events.conversation
                   WHERE seq > ?3 AND (?5 IS NULL OR seq = ?5) AND (?1 IS NULL OR events.binding = ?1) AND ({})
                   ORDER BY seq LIMIT ?4",
            self.order(),
            states.join(" OR ")
        );
        // What comes before the one that is looked for need not be read.
        let mut last = listing.seq.map_or(0, |seq| seq.saturating_sub(1));
        loop {
            let page =
                self.all(&sql, params![listing.binding, listing.content, last, LIST_PAGE, listing.seq], entry)?;
            let Some(end) = page.last() else { return Ok(Ok(())) };
            last = end.seq;
            for entry in page {
                if let Err(error) = each(entry) {
                    return Ok(Err(error));
                }
            }
        }
    }

    /// Puts dead events back to where they were in their conversations. Returns how many.
    pub(in crate::queue) fn retry(&self, selection: &Selection, now: u64) -> Result<usize, QueueError> {
        self.change(selection, &[State::Dead], "retry", |store, seq| {
            let lane = store.first("SELECT binding, conversation, rank FROM events WHERE seq = ?1", [seq], |row| {
                Ok((text(row.get_ref(0)?), text(row.get_ref(1)?), row.get(2)?))
            })?;
            // One whose names make no sense has no place to go back to.
            let Some((Some(binding), Some(conversation), rank)) = lane else { return Ok(()) };
            store.execute(
                "UPDATE events SET state = 'pending', attempts = 0, finished_at = NULL, retried_at = ?2, expires_at = NULL
                 WHERE seq = ?1",
                params![seq, stored(now)],
            )?;
            store.add_lane(&binding, &conversation, now, rank)?;
            if store.head(&binding, &conversation)? == Some(seq) {
                store.settle(&binding, &conversation, now, false)?;
            }
            Ok(())
        })
    }

    /// Gives events up, but keeps their `msgId`. Returns how many.
    pub(in crate::queue) fn drop_events(&self, selection: &Selection, now: u64) -> Result<usize, QueueError> {
        self.change(selection, &[State::Dead, State::Pending], "drop", |store, seq| {
            let lane = store.pending_lane(seq)?;
            store.clear(seq, now)?;
            match lane {
                Some((binding, conversation)) => store.settle(&binding, &conversation, now, false),
                None => Ok(()),
            }
        })
    }

    /// Changes the selected events, or none if one of them does not fit. As many in a transaction as the journal has
    /// room for: on a full volume it cannot grow.
    fn change(
        &self,
        selection: &Selection,
        fitting: &[State],
        action: &'static str,
        each: impl Fn(&Self, i64) -> Result<(), QueueError>,
    ) -> Result<usize, QueueError> {
        let seqs = self.selected(selection, fitting, action)?;
        let mut left = seqs.as_slice();
        while !left.is_empty() {
            // Each has entries in more indexes when it is pending: not out of the reserve, if there is more.
            self.prepare(ROOM_TO_CHANGE);
            let begun = Instant::now();
            let changed = self.transaction(|store| {
                let mut rows = Vec::new();
                for &seq in left.iter().take(CHANGED_AT_ONCE) {
                    rows.push(store.sizes("seq = ?1", seq)?.first().copied().unwrap_or((seq, 0)));
                }
                let some = Self::first_fitting(rows);
                for &seq in &some {
                    // The host may have been faster.
                    let now = store.first("SELECT state FROM events WHERE seq = ?1", [seq], |row| state(row, 0))?;
                    if now.is_some_and(|now| fitting.contains(&now)) {
                        each(store, seq)?;
                    }
                }
                Ok(some.len())
            })?;
            left = left.get(changed.max(1)..).unwrap_or_default();
            // A host waits for its turn with pauses: it must find the store free as often as not.
            if !left.is_empty() {
                std::thread::sleep(begun.elapsed());
            }
        }
        Ok(seqs.len())
    }

    /// Every selected event is there and in one of the `fitting` states. `All` means the dead ones.
    fn selected(&self, selection: &Selection, fitting: &[State], action: &'static str) -> Result<Vec<i64>, QueueError> {
        let Selection::Seqs(seqs) = selection else {
            return self.all("SELECT seq FROM events WHERE state = 'dead' ORDER BY seq", [], |row| row.get(0));
        };
        let mut seqs = seqs.clone();
        seqs.sort_unstable();
        seqs.dedup();
        for &seq in &seqs {
            let place = self.place();
            match self.first("SELECT state FROM events WHERE seq = ?1", [seq], |row| state(row, 0))? {
                None => return Err(QueueError::NoSuchEvent { place, seq }),
                Some(state) if !fitting.contains(&state) => {
                    return Err(QueueError::WrongState { place, seq, state, action });
                }
                Some(_) => {}
            }
        }
        Ok(seqs)
    }
}

/// A row to be shown, also one that makes no sense to the host: the operator has to see it.
fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let text = |index| row.get_ref(index).map(shown);
    let number = |index| Ok::<_, rusqlite::Error>(row.get_ref(index)?.as_i64().ok());
    let seq: i64 = row.get(0)?;
    let state = state(row, 2)?;
    let head = number(11)?;
    let is_pending = state == State::Pending;
    let data = match row.get_ref(13)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Bytes::copy_from_slice(bytes)),
        _ => None,
    };
    Ok(Entry {
        seq,
        binding: text(1)?.unwrap_or_default(),
        state,
        attempts: number(3)?.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(0),
        accepted_at: number(4)?.map_or(0, read),
        finished_at: number(5)?.map(read),
        last_error: text(6)?,
        msg_id: text(7)?,
        conversation_id: text(8)?.filter(|conversation| !conversation.is_empty()),
        size: number(9)?.map_or(0, read),
        next_attempt_at: number(10)?.filter(|_| is_pending && head == Some(seq)).map(read),
        waits_for: head.filter(|&head| is_pending && head != seq),
        metadata: text(12)?.and_then(|text| serde_json::from_str(&text).ok()),
        data,
    })
}
