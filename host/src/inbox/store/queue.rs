//! Events on their way to the application: stored, due, taken, failed or refused.
//!
//! A *lane* is a conversation of a binding that has pending events: its first one is what is delivered next, at
//! the lane's time. Lanes are stored beside the events so that finding what is due costs as little with 100,000
//! pending events as with one.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::params;
use rusqlite::types::ValueRef;

use super::{Store, read, shown, state, stored};
use crate::event::Event;
use crate::inbox::backoff::LONGEST_MS;
use crate::inbox::{InboxError, State};

/// What became of an event that was to be stored.
pub(in crate::inbox) enum Stored {
    New(i64),
    /// Known, and still to be delivered.
    Pending(i64),
    /// Known, and refused for good.
    Dead(i64),
    /// Known and taken.
    Delivered(i64, Option<Bytes>),
}

/// A conversation, as the deliveries under way are known by. Not the lane's row: that one goes and comes back.
pub(in crate::inbox) type Lane = (String, String);

/// The first event of a lane.
pub(in crate::inbox) struct Head {
    pub(in crate::inbox) seq: i64,
    pub(in crate::inbox) lane: Lane,
    /// How often it has failed.
    pub(in crate::inbox) attempts: u32,
    pub(in crate::inbox) event: Arc<Event>,
}

/// What is to be delivered now, and when to look again.
#[derive(Default)]
pub(in crate::inbox) struct Due {
    pub(in crate::inbox) heads: Vec<Head>,
    /// The earliest later time at which a lane becomes due.
    pub(in crate::inbox) next: Option<u64>,
}

/// How many deliveries may begin.
#[derive(Clone)]
pub(in crate::inbox) struct Room {
    pub(in crate::inbox) in_all: usize,
    /// For a binding that is not in `by_binding`.
    pub(in crate::inbox) a_binding: usize,
    pub(in crate::inbox) by_binding: HashMap<String, usize>,
    /// Under way already.
    pub(in crate::inbox) running: Vec<Lane>,
    /// At which binding to begin, so that the last ones are not always the ones for which there is no room.
    pub(in crate::inbox) turn: usize,
}

/// Lanes that are changed in one transaction: each has a page in the table and two in indexes.
const HASTENED_AT_ONCE: usize = 200;

/// Whether they suffer or not.
const ANY: &str = "true";

const BINDINGS: &str = "WITH RECURSIVE names (name) AS (
         SELECT min(binding) FROM lanes
         UNION ALL
         SELECT (SELECT min(binding) FROM lanes WHERE binding > name) FROM names WHERE name IS NOT NULL
     ) SELECT name FROM names WHERE name IS NOT NULL";

/// What is said of an event that makes no sense.
const UNREADABLE: &str = "the host cannot read it back from the inbox; see `inbox list`";

/// Text as this host has written it.
pub(super) fn text(value: ValueRef<'_>) -> Option<String> {
    value.as_str().ok().map(str::to_owned)
}

fn pairs(value: ValueRef<'_>) -> Option<Vec<(String, String)>> {
    value.as_str().ok().and_then(|text| serde_json::from_str(text).ok())
}

impl Store {
    /// Stores an event, unless its `msgId` is known.
    pub(in crate::inbox) fn insert(&self, event: &Event, now: u64) -> Result<Stored, InboxError> {
        if let Some(damage) = self.damage() {
            return Err(damage.clone());
        }
        let digest = event.digest();
        let msg_id = event.metadata("msgId").filter(|id| !id.is_empty());
        if let Some(msg_id) = msg_id {
            let known = self.first(
                "SELECT seq, state, reply, ifnull(digest, ?3) = ?3 FROM events WHERE binding = ?1 AND msg_id = ?2",
                params![event.binding, msg_id, digest.as_slice()],
                |row| Ok((row.get(0)?, state(row, 1)?, row.get::<_, Option<Vec<u8>>>(2)?, row.get::<_, bool>(3)?)),
            )?;
            if let Some((seq, state, reply, is_same)) = known {
                if !is_same {
                    return Err(InboxError::OtherBody { seq });
                }
                return Ok(match state {
                    State::Pending => Stored::Pending(seq),
                    State::Dead => Stored::Dead(seq),
                    State::Delivered => Stored::Delivered(seq, reply.map(Bytes::from)),
                });
            }
        }
        let (metadata, trace) = (self.pairs_to_text(&event.metadata)?, self.pairs_to_text(&event.trace)?);
        if !self.has_room((event.data.len() + metadata.len() + trace.len()) as u64)? {
            return Err(self.no_room());
        }
        let conversation = event.metadata("conversationId").unwrap_or_default();
        self.execute(
            "INSERT INTO events (binding, msg_id, conversation, accepted_at, state, metadata, trace, data, digest)
             VALUES (?1, ?2, ?3, ?4, 'pending', ?5, ?6, ?7, ?8)",
            params![
                event.binding,
                msg_id,
                conversation,
                stored(now),
                metadata,
                trace,
                &event.data[..],
                digest.as_slice()
            ],
        )?;
        let seq = self.connection.last_insert_rowid();
        self.add_lane(&event.binding, conversation, now)?;
        Ok(Stored::New(seq))
    }

    fn pairs_to_text(&self, pairs: &[(String, String)]) -> Result<String, InboxError> {
        serde_json::to_string(pairs)
            .map_err(|error| InboxError::Io { file: self.file.clone(), reason: format!("cannot be written: {error}") })
    }

    pub(super) fn add_lane(&self, binding: &str, conversation: &str, due: u64) -> Result<(), InboxError> {
        self.execute(
            "INSERT INTO lanes (binding, conversation, due) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![binding, conversation, stored(due)],
        )?;
        Ok(())
    }

    /// The first pending event of a conversation.
    pub(super) fn head(&self, binding: &str, conversation: &str) -> Result<Option<i64>, InboxError> {
        self.first(
            "SELECT seq FROM events WHERE binding = ?1 AND conversation = ?2 AND state = 'pending'
             ORDER BY seq LIMIT 1",
            params![binding, conversation],
            |row| row.get(0),
        )
    }

    /// Says when the lane's first event is due, or removes a lane without events.
    pub(super) fn settle(&self, binding: &str, conversation: &str, due: u64, suffers: bool) -> Result<(), InboxError> {
        if self.head(binding, conversation)?.is_none() {
            self.execute("DELETE FROM lanes WHERE binding = ?1 AND conversation = ?2", params![binding, conversation])?;
            return Ok(());
        }
        self.execute(
            "UPDATE lanes SET due = ?3, suffers = ?4 WHERE binding = ?1 AND conversation = ?2",
            params![binding, conversation, stored(due), suffers],
        )?;
        Ok(())
    }

    /// The events to deliver now, as far as there is room.
    pub(in crate::inbox) fn due(&self, room: &Room, now: u64) -> Result<Due, InboxError> {
        let mut bindings = self.bindings()?;
        if bindings.contains(&None) {
            self.set_unreadable_lanes_aside(now)?;
        }
        let count = bindings.len().max(1);
        bindings.rotate_left(room.turn % count);
        let mut due = Due::default();
        for binding in bindings.iter().flatten() {
            // A lane that waits for longer than any pause met a clock that was set back since.
            if self.hasten(binding, now.saturating_add(LONGEST_MS), now, ANY)? == HASTENED_AT_ONCE {
                due.next = Some(now);
            }
            let next: Option<i64> = self
                .first(
                    "SELECT min(due) FROM lanes WHERE binding = ?1 AND due > ?2",
                    params![binding, stored(now)],
                    |row| row.get(0),
                )?
                .flatten();
            due.next = [due.next, next.map(read)].into_iter().flatten().min();
            let free = room.by_binding.get(binding).copied().unwrap_or(room.a_binding);
            let free = free.min(room.in_all.saturating_sub(due.heads.len()));
            if free > 0 {
                self.heads(binding, free, room, now, &mut due.heads)?;
            }
        }
        Ok(due)
    }

    /// The bindings that have lanes: one index look-up for each, however many lanes there are. `None` is no text.
    fn bindings(&self) -> Result<Vec<Option<String>>, InboxError> {
        self.all(BINDINGS, [], |row| Ok(text(row.get_ref(0)?)))
    }

    /// Makes lanes of a binding due at `now` that are due after `later`: some of them. Returns how many.
    fn hasten(&self, binding: &str, later: u64, now: u64, which: &str) -> Result<usize, InboxError> {
        let sql = format!(
            "UPDATE lanes SET due = ?2, suffers = 0 WHERE id IN
                 (SELECT id FROM lanes WHERE binding = ?1 AND due > ?3 AND {which} LIMIT {HASTENED_AT_ONCE})"
        );
        self.execute(&sql, params![binding, stored(now), stored(later)])
    }

    fn hasten_all(&self, now: u64, which: &str) -> Result<bool, InboxError> {
        let mut is_more = false;
        for binding in self.bindings()?.iter().flatten() {
            is_more |= self.hasten(binding, now, now, which)? == HASTENED_AT_ONCE;
        }
        Ok(is_more)
    }

    fn heads(
        &self,
        binding: &str,
        free: usize,
        room: &Room,
        now: u64,
        heads: &mut Vec<Head>,
    ) -> Result<(), InboxError> {
        // Those under way may be among them, and are passed over.
        let running = room.running.iter().filter(|(running, _)| running == binding).count();
        let conversations: Vec<Option<String>> = self.all(
            "SELECT conversation FROM lanes WHERE binding = ?1 AND due <= ?2 ORDER BY due, id LIMIT ?3",
            params![binding, stored(now), i64::try_from(free + running).unwrap_or(i64::MAX)],
            |row| Ok(text(row.get_ref(0)?)),
        )?;
        if conversations.contains(&None) {
            self.set_unreadable_lanes_aside(now)?;
        }
        let waiting = conversations
            .into_iter()
            .flatten()
            .filter(|conversation| !room.running.iter().any(|lane| lane.0 == binding && lane.1 == *conversation));
        for conversation in waiting.take(free) {
            let Some(seq) = self.head(binding, &conversation)? else {
                self.settle(binding, &conversation, now, false)?;
                continue;
            };
            match self.load(seq, binding, &conversation) {
                Ok(Some(head)) => heads.push(head),
                Ok(None) => {
                    tracing::error!(binding, seq, UNREADABLE);
                    self.set_aside(seq, UNREADABLE, now)?;
                }
                Err(error) => {
                    if matches!(error, InboxError::Corrupt { .. }) {
                        self.pass_over(seq, &error);
                        self.unreadable.replace(Some((binding.to_owned(), conversation)));
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Puts the conversation off whose first event [`Self::due`] found on a damaged page: the others must not wait for
    /// it. In a transaction of its own, because SQLite writes nothing more in one that has met damage, and later
    /// rather than never, because that cannot be noted in a row that cannot be read. Returns whether there was one.
    pub(in crate::inbox) fn put_unreadable_off(&self, now: u64) -> Result<bool, InboxError> {
        let Some((binding, conversation)) = self.unreadable.take() else { return Ok(false) };
        self.settle(&binding, &conversation, now.saturating_add(LONGEST_MS), false)?;
        Ok(true)
    }

    /// A pending event; `None` if it does not make sense.
    fn load(&self, seq: i64, binding: &str, conversation: &str) -> Result<Option<Head>, InboxError> {
        let sql = "SELECT attempts, metadata, trace, data FROM events WHERE seq = ?1";
        let row = self.first(sql, [seq], |row| {
            let attempts = row.get_ref(0)?.as_i64().ok().and_then(|attempts| u32::try_from(attempts).ok());
            let pairs = |index| Ok::<_, rusqlite::Error>(pairs(row.get_ref(index)?));
            let data = row.get_ref(3)?.as_blob().ok().map(Bytes::copy_from_slice);
            Ok((attempts, pairs(1)?, pairs(2)?, data))
        })?;
        let Some((Some(attempts), Some(metadata), Some(trace), Some(data))) = row else { return Ok(None) };
        let event = Arc::new(Event { binding: binding.to_owned(), data, metadata, trace });
        Ok(Some(Head { seq, lane: (binding.to_owned(), conversation.to_owned()), attempts, event }))
    }

    /// Lanes whose names make no sense, and their events: nobody could be asked to take them.
    fn set_unreadable_lanes_aside(&self, now: u64) -> Result<(), InboxError> {
        let mut unreadable = Vec::new();
        self.all("SELECT id, binding, conversation FROM lanes", [], |row| {
            if text(row.get_ref(1)?).is_none() || text(row.get_ref(2)?).is_none() {
                unreadable.push(row.get::<_, i64>(0)?);
            }
            Ok(())
        })?;
        for id in unreadable {
            let seqs: Vec<i64> = self.all(
                &format!(
                    "SELECT seq FROM lanes CROSS JOIN events
                     ON events.binding = lanes.binding AND events.conversation = lanes.conversation
                 WHERE lanes.id = ?1 AND state = 'pending' LIMIT {HASTENED_AT_ONCE}"
                ),
                [id],
                |row| row.get(0),
            )?;
            for &seq in &seqs {
                tracing::error!(seq, UNREADABLE);
                self.die(seq, UNREADABLE, now)?;
            }
            // Otherwise there are more, and the next look comes by them.
            if seqs.len() < HASTENED_AT_ONCE {
                self.execute("DELETE FROM lanes WHERE id = ?1", [id])?;
            }
        }
        Ok(())
    }

    /// The conversation of a pending event. Names that make no sense are those of no lane.
    pub(super) fn pending_lane(&self, seq: i64) -> Result<Option<Lane>, InboxError> {
        self.first("SELECT binding, conversation FROM events WHERE seq = ?1 AND state = 'pending'", [seq], |row| {
            Ok((shown(row.get_ref(0)?).unwrap_or_default(), shown(row.get_ref(1)?).unwrap_or_default()))
        })
    }

    /// The application has taken a pending event. Nothing happens to one that is not pending: the operator was
    /// faster.
    pub(in crate::inbox) fn delivered(&self, seq: i64, reply: Option<&[u8]>, now: u64) -> Result<(), InboxError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.clear(seq, now)?;
            // Its event has made room. A reply for which that is not enough is missing to a repetition only.
            if let Some(reply) = reply
                && self.has_room(reply.len() as u64)?
            {
                self.execute("UPDATE events SET reply = ?2 WHERE seq = ?1", params![seq, reply])?;
            }
            self.settle(&binding, &conversation, now, false)?;
        }
        Ok(())
    }

    /// Leaves of an event what a repetition needs: nothing, if it has no `msgId`.
    pub(super) fn clear(&self, seq: i64, now: u64) -> Result<(), InboxError> {
        self.execute("DELETE FROM events WHERE seq = ?1 AND msg_id IS NULL", [seq])?;
        self.execute(
            "UPDATE events SET state = 'delivered', finished_at = ?2, reply = NULL, conversation = '',
                 last_error = NULL, metadata = '[]', trace = '[]', data = x''
             WHERE seq = ?1",
            params![seq, stored(now)],
        )?;
        Ok(())
    }

    /// The reply went elsewhere: a repetition must not have it again.
    pub(in crate::inbox) fn forget_reply(&self, seq: i64) -> Result<(), InboxError> {
        self.execute("UPDATE events SET reply = NULL WHERE seq = ?1", [seq])?;
        Ok(())
    }

    /// The application refuses a pending event for good.
    pub(in crate::inbox) fn refused(&self, seq: i64, error: &str, now: u64) -> Result<(), InboxError> {
        self.execute("UPDATE events SET attempts = attempts + 1 WHERE seq = ?1 AND state = 'pending'", [seq])?;
        self.set_aside(seq, error, now)
    }

    /// A pending event becomes a dead one, and the next one's turn comes.
    fn set_aside(&self, seq: i64, error: &str, now: u64) -> Result<(), InboxError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.die(seq, error, now)?;
            self.settle(&binding, &conversation, now, false)?;
        }
        Ok(())
    }

    fn die(&self, seq: i64, error: &str, now: u64) -> Result<(), InboxError> {
        self.execute("UPDATE events SET state = 'dead', finished_at = ?2 WHERE seq = ?1", params![seq, stored(now)])?;
        self.note(seq, error)
    }

    /// Keeps why an event was not taken, if there is room: without it, the older reason is shown.
    fn note(&self, seq: i64, error: &str) -> Result<(), InboxError> {
        if self.has_room(error.len() as u64)? {
            self.execute("UPDATE events SET last_error = ?2 WHERE seq = ?1", params![seq, error])?;
        }
        Ok(())
    }

    /// Pending events that have waited for too long become dead ones, some at a time. Returns how many.
    pub(in crate::inbox) fn expire(&self, now: u64) -> Result<usize, InboxError> {
        let oldest = stored(now.saturating_sub(self.limits.max_age_ms()));
        let old = self.sizes("state = 'pending' AND ifnull(retried_at, accepted_at) < ?1", oldest)?;
        let old = Self::first_fitting(old);
        for &seq in &old {
            let set_aside = self.set_aside(seq, "the application did not take it within --inbox-max-age", now);
            set_aside.inspect_err(|error| self.pass_over(seq, error))?;
        }
        Ok(old.len())
    }

    /// A pending event is to be tried again at `due`.
    pub(in crate::inbox) fn failed(
        &self,
        seq: i64,
        error: &str,
        due: u64,
        suffers: bool,
        now: u64,
    ) -> Result<(), InboxError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.execute("UPDATE events SET attempts = attempts + 1 WHERE seq = ?1", [seq])?;
            self.note(seq, error)?;
            // The operator may have put an earlier one before it.
            let is_head = self.head(&binding, &conversation)? == Some(seq);
            self.settle(&binding, &conversation, if is_head { due } else { now }, suffers && is_head)?;
        }
        Ok(())
    }

    /// The application is back: what only waited for that is due. Returns whether there may be more.
    pub(in crate::inbox) fn wake(&self, now: u64) -> Result<bool, InboxError> {
        self.hasten_all(now, "suffers = 1")
    }

    /// This binding is there again: all that it has is due. Returns whether there may be more.
    pub(in crate::inbox) fn wake_binding(&self, binding: &str, now: u64) -> Result<bool, InboxError> {
        Ok(self.hasten(binding, now, now, ANY)? == HASTENED_AT_ONCE)
    }

    /// A new process: everything is due. Returns whether there may be more.
    pub(in crate::inbox) fn wake_all(&self, now: u64) -> Result<bool, InboxError> {
        self.hasten_all(now, ANY)
    }
}
