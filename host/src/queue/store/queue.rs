//! Events on their way to the application: stored, due, taken, failed or refused.
//!
//! A *lane* is a conversation of a binding that has pending events: its first one is what is delivered next, at
//! the lane's time. Lanes are stored beside the events so that finding what is due costs as little with 100,000
//! pending events as with one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::params;
use rusqlite::types::ValueRef;

use super::hasten::{ANY, HASTENED_AT_ONCE};
use super::{Store, read, shown, state, stored};
use crate::event::{DEAD_LETTER, Event};
use crate::queue::backoff::LONGEST_MS;
use crate::queue::siblings::Siblings;
use crate::queue::{QueueError, Side, State};

/// What is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) struct Item {
    pub(in crate::queue) event: Event,
    /// By which a repetition is recognised.
    pub(in crate::queue) id: Option<String>,
    /// Within which order is kept.
    pub(in crate::queue) conversation: String,
    /// What comes first, the higher one.
    pub(in crate::queue) rank: i64,
    /// After that it is dead; without it, the queue's age decides.
    pub(in crate::queue) expires_at: Option<u64>,
}

impl Item {
    /// What DingTalk has sent.
    pub(in crate::queue) fn received(event: Event) -> Self {
        let id = event.metadata("msgId").filter(|id| !id.is_empty()).map(str::to_owned);
        // Whoever cannot take one of them shall take what people say nevertheless, and the other way round.
        let conversation = if event.is_dead_letter() { Some(DEAD_LETTER) } else { event.metadata("conversationId") };
        let conversation = conversation.unwrap_or_default().to_owned();
        Self { event, id, conversation, rank: 0, expires_at: None }
    }

    /// Bytes for which there must be room.
    pub(in crate::queue) fn bytes(&self) -> usize {
        // Twice: in the row, and in the index.
        let id = 2 * self.id.as_ref().map_or(0, String::len);
        let pairs =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.event.data.len() + id + pairs(&self.event.metadata) + pairs(&self.event.trace)
    }
}

/// What became of an event that was to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) enum Stored {
    New(i64),
    /// Known, and still to be delivered.
    Pending(i64),
    /// Known, and refused for good.
    Dead(i64),
    /// Known and taken.
    Delivered(i64, Option<Bytes>),
}

/// A conversation, as the deliveries under way are known by. Not the lane's row: that one goes and comes back.
pub(in crate::queue) type Lane = (String, String);

/// The first event of a lane.
pub(in crate::queue) struct Head {
    pub(in crate::queue) seq: i64,
    pub(in crate::queue) lane: Lane,
    /// What comes first is higher.
    pub(in crate::queue) rank: i64,
    /// How often it has failed.
    pub(in crate::queue) attempts: u32,
    /// Not to be delivered any more after that.
    pub(in crate::queue) expires_at: Option<u64>,
    pub(in crate::queue) event: Arc<Event>,
}

/// What is to be delivered now, and when to look again.
#[derive(Default)]
pub(in crate::queue) struct Due {
    pub(in crate::queue) heads: Vec<Head>,
    /// The earliest later time at which a lane becomes due.
    pub(in crate::queue) next: Option<u64>,
}

/// How many deliveries may begin.
#[derive(Clone, Default)]
pub(in crate::queue) struct Room {
    pub(in crate::queue) in_all: usize,
    /// For a binding that is not in `by_binding`.
    pub(in crate::queue) a_binding: usize,
    pub(in crate::queue) by_binding: HashMap<String, usize>,
    /// Of these bindings, only what has the highest rank.
    pub(in crate::queue) urgent: HashSet<String>,
    /// Under way already.
    pub(in crate::queue) running: Vec<Lane>,
    /// At which binding to begin, so that the last ones are not always the ones for which there is no room.
    pub(in crate::queue) turn: usize,
    /// Whose messages may come before those of another binding.
    pub(in crate::queue) siblings: Siblings,
}

/// The rank of what comes first.
pub(in crate::queue) const URGENT: i64 = 1;

const BINDINGS: &str = "WITH RECURSIVE names (name) AS (
         SELECT min(binding) FROM lanes
         UNION ALL
         SELECT (SELECT min(binding) FROM lanes WHERE binding > name) FROM names WHERE name IS NOT NULL
     ) SELECT name FROM names WHERE name IS NOT NULL";

/// What is said of an event that makes no sense.
const UNREADABLE: &str = "the host cannot read it back from the store; see the `list` subcommand";

/// What is said of an event that was not delivered by the time that came with it.
pub(in crate::queue) const EXPIRED: &str = "it was not sent by the time of its metadata item \"expires\"";

/// Text as this host has written it.
pub(super) fn text(value: ValueRef<'_>) -> Option<String> {
    value.as_str().ok().map(str::to_owned)
}

pub(super) fn pairs(value: ValueRef<'_>) -> Option<Vec<(String, String)>> {
    value.as_str().ok().and_then(|text| serde_json::from_str(text).ok())
}

impl Store {
    /// Stores an event, unless its identifier is known.
    pub(in crate::queue) fn insert(&self, item: &Item, now: u64) -> Result<Stored, QueueError> {
        if let Some(damage) = self.damage() {
            return Err(damage.clone());
        }
        let Item { event, id, conversation, rank, expires_at } = item;
        let digest = event.digest();
        if let Some(id) = id {
            let known = self.first(
                "SELECT seq, state, reply, ifnull(digest, ?3) = ?3 FROM events WHERE binding = ?1 AND msg_id = ?2",
                params![event.binding, id, digest.as_slice()],
                |row| Ok((row.get(0)?, state(row, 1)?, row.get::<_, Option<Vec<u8>>>(2)?, row.get::<_, bool>(3)?)),
            )?;
            if let Some((seq, state, reply, is_same)) = known {
                if !is_same {
                    return Err(QueueError::OtherBody { side: self.side, seq });
                }
                return Ok(match state {
                    State::Pending => Stored::Pending(seq),
                    State::Dead => Stored::Dead(seq),
                    State::Delivered => Stored::Delivered(seq, reply.map(Bytes::from)),
                });
            }
        }
        let (metadata, trace) = (self.pairs_to_text(&event.metadata)?, self.pairs_to_text(&event.trace)?);
        let id_bytes = 2 * id.as_ref().map_or(0, String::len);
        if !self.has_room((event.data.len() + id_bytes + metadata.len() + trace.len()) as u64)? {
            return Err(self.no_room());
        }
        if !self.leaves_room_for_others(&event.binding)? {
            return Err(QueueError::Share { place: self.place(), binding: event.binding.clone() });
        }
        self.execute(
            "INSERT INTO events (binding, msg_id, conversation, accepted_at, state, metadata, trace, data, digest, rank,
                 expires_at)
             VALUES (?1, ?2, ?3, ?4, 'pending', ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                event.binding,
                id,
                conversation,
                stored(now),
                metadata,
                trace,
                &event.data[..],
                digest.as_slice(),
                rank,
                expires_at.map(stored),
            ],
        )?;
        let seq = self.connection.last_insert_rowid();
        self.add_lane(&event.binding, conversation, now, *rank)?;
        Ok(Stored::New(seq))
    }

    /// Whether a binding has less than what is left for others. So one that floods the outbox gets the half of it, and two a
    /// third each. Of an inbox, what comes in is signed by DingTalk.
    fn leaves_room_for_others(&self, binding: &str) -> Result<bool, QueueError> {
        if self.side == Side::Inbox {
            return Ok(true);
        }
        let own =
            self.first("SELECT bytes FROM loads WHERE binding = ?1", [binding], |row| row.get(0))?.map_or(0, read);
        Ok(own <= self.left()?)
    }

    fn pairs_to_text(&self, pairs: &[(String, String)]) -> Result<String, QueueError> {
        serde_json::to_string(pairs)
            .map_err(|error| QueueError::Io { place: self.place(), reason: format!("cannot be written: {error}") })
    }

    /// A conversation has an event. One that comes before those that wait need not wait for what they wait for.
    pub(super) fn add_lane(&self, binding: &str, conversation: &str, due: u64, rank: i64) -> Result<(), QueueError> {
        self.execute(
            "INSERT INTO lanes (binding, conversation, due, rank) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET rank = excluded.rank, due = min(due, excluded.due) WHERE excluded.rank > rank",
            params![binding, conversation, stored(due), rank],
        )?;
        Ok(())
    }

    /// By what the events of a conversation are ordered. All of an inbox have the same rank, and its index knows none.
    pub(super) fn order(&self) -> &'static str {
        match self.side {
            Side::Inbox => "seq",
            Side::Outbox => "rank DESC, seq",
        }
    }

    /// The first pending event of a conversation.
    pub(super) fn head(&self, binding: &str, conversation: &str) -> Result<Option<i64>, QueueError> {
        Ok(self.head_and_rank(binding, conversation)?.map(|(seq, _)| seq))
    }

    fn head_and_rank(&self, binding: &str, conversation: &str) -> Result<Option<(i64, i64)>, QueueError> {
        let sql = format!(
            "SELECT seq, rank FROM events WHERE binding = ?1 AND conversation = ?2 AND state = 'pending'
             ORDER BY {} LIMIT 1",
            self.order()
        );
        self.first(&sql, params![binding, conversation], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Says when the lane's first event is due, or removes a lane without events.
    pub(super) fn settle(&self, binding: &str, conversation: &str, due: u64, suffers: bool) -> Result<(), QueueError> {
        let Some((_, rank)) = self.head_and_rank(binding, conversation)? else {
            return self.end_lane(binding, conversation);
        };
        self.execute(
            "UPDATE lanes SET due = ?3, suffers = ?4, rank = ?5 WHERE binding = ?1 AND conversation = ?2",
            params![binding, conversation, stored(due), suffers, rank],
        )?;
        Ok(())
    }

    /// Removes a lane without events, unless what comes next in it has to wait.
    fn end_lane(&self, binding: &str, conversation: &str) -> Result<(), QueueError> {
        let waits = "EXISTS (SELECT 1 FROM events WHERE events.seq = lanes.behind AND state = 'pending')";
        let lane = params![binding, conversation];
        let sql = format!("DELETE FROM lanes WHERE binding = ?1 AND conversation = ?2 AND NOT {waits}");
        if self.execute(&sql, lane)? == 0 {
            let lowest = self.ranks().last().copied().unwrap_or_default();
            let sql = "UPDATE lanes SET rank = ?3 WHERE binding = ?1 AND conversation = ?2";
            self.execute(sql, params![binding, conversation, lowest])?;
        }
        Ok(())
    }

    /// Whether a lane's first event need not wait for one of another lane: for one that says what came before it, among others,
    /// unless it is more urgent than that; nor, if it is one that says so, for what is more urgent in one of their lanes.
    pub(super) fn waits_for_none(&self) -> &'static str {
        match self.side {
            Side::Inbox => "true",
            Side::Outbox => {
                "(behind IS NULL OR NOT EXISTS (
                     SELECT 1 FROM events WHERE events.seq = lanes.behind AND state = 'pending' AND events.rank >= lanes.rank
                 ))
                 AND (NOT EXISTS (SELECT 1 FROM lanes AS any_lane WHERE any_lane.behind IS NOT NULL) OR NOT EXISTS (
                     SELECT 1 FROM lanes AS others WHERE others.rank > lanes.rank AND others.behind = (
                         SELECT seq FROM events WHERE events.binding = lanes.binding
                             AND events.conversation = lanes.conversation AND state = 'pending'
                         ORDER BY events.rank DESC, seq LIMIT 1
                     )
                 ))"
            }
        }
    }

    /// The events to deliver now, as far as there is room.
    pub(in crate::queue) fn due(&self, room: &Room, now: u64) -> Result<Due, QueueError> {
        let mut bindings = self.bindings()?;
        if bindings.contains(&None) {
            self.set_unreadable_lanes_aside(now)?;
        }
        let count = bindings.len().max(1);
        bindings.rotate_left(room.turn % count);
        let mut due = Due::default();
        for binding in bindings.iter().flatten() {
            // Whoever said so knows until when, or tells of an end.
            if room.by_binding.get(binding) == Some(&0) {
                continue;
            }
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
            let siblings = room.siblings.of(binding);
            if free > 0 && siblings.is_empty() {
                self.heads(binding, free, room, now, &mut due.heads)?;
            } else if free > 0 {
                self.heads_in_turn(binding, &siblings, free, room, now, &mut due.heads)?;
            }
        }
        let begun = due.heads.iter().map(|head| &head.lane);
        self.under_way.replace(room.running.iter().chain(begun).cloned().collect());
        self.remember_siblings(&room.siblings);
        Ok(due)
    }

    /// The bindings that have lanes: one index look-up for each, however many lanes there are. `None` is no text.
    pub(super) fn bindings(&self) -> Result<Vec<Option<String>>, QueueError> {
        self.all(BINDINGS, [], |row| Ok(text(row.get_ref(0)?)))
    }

    fn heads(
        &self,
        binding: &str,
        free: usize,
        room: &Room,
        now: u64,
        heads: &mut Vec<Head>,
    ) -> Result<(), QueueError> {
        // Those under way may be among them, and are passed over.
        let running = room.running.iter().filter(|(running, _)| running == binding).count();
        let most = i64::try_from(free + running).unwrap_or(i64::MAX);
        let mut conversations: Vec<Option<String>> = Vec::new();
        // A look-up for each rank: one for all of them would sort all that is due.
        let is_urgent = room.urgent.contains(binding);
        for rank in self.ranks().iter().filter(|rank| !is_urgent || **rank == URGENT) {
            let sql = format!(
                "SELECT conversation FROM lanes WHERE binding = ?1 AND due <= ?2 AND rank = ?4 AND {}
                     ORDER BY due, id LIMIT ?3",
                self.waits_for_none()
            );
            conversations
                .extend(self.all(&sql, params![binding, stored(now), most, rank], |row| Ok(text(row.get_ref(0)?)))?);
        }
        if conversations.contains(&None) {
            self.set_unreadable_lanes_aside(now)?;
        }
        let waiting = conversations
            .into_iter()
            .flatten()
            .filter(|conversation| !room.running.iter().any(|lane| lane.0 == binding && lane.1 == *conversation));
        for conversation in waiting.take(free) {
            match self.head(binding, &conversation)? {
                Some(seq) => heads.extend(self.load_or_set_aside(seq, binding, &conversation, now)?),
                None => self.settle(binding, &conversation, now, false)?,
            }
        }
        Ok(())
    }

    /// A pending event that is to be delivered now, unless it makes no sense.
    pub(super) fn load_or_set_aside(
        &self,
        seq: i64,
        binding: &str,
        conversation: &str,
        now: u64,
    ) -> Result<Option<Head>, QueueError> {
        match self.load(seq, binding, conversation) {
            Ok(Some(head)) => Ok(Some(head)),
            Ok(None) => {
                tracing::error!(binding, seq, UNREADABLE);
                self.set_aside(seq, UNREADABLE, now)?;
                Ok(None)
            }
            Err(error) => {
                if matches!(error, QueueError::Corrupt { .. }) {
                    self.pass_over(seq, &error);
                    self.unreadable.replace(Some((binding.to_owned(), conversation.to_owned())));
                }
                Err(error)
            }
        }
    }

    /// Ranks of lanes, from what comes first.
    pub(super) fn ranks(&self) -> &'static [i64] {
        match self.side {
            Side::Inbox => &[0],
            Side::Outbox => &[URGENT, 0, -1],
        }
    }

    /// Puts the conversation off whose first event [`Self::due`] found on a damaged page: the others must not wait for
    /// it. In a transaction of its own, because SQLite writes nothing more in one that has met damage, and later
    /// rather than never, because that cannot be noted in a row that cannot be read. Returns whether there was one.
    pub(in crate::queue) fn put_unreadable_off(&self, now: u64) -> Result<bool, QueueError> {
        let Some((binding, conversation)) = self.unreadable.take() else { return Ok(false) };
        self.settle(&binding, &conversation, now.saturating_add(LONGEST_MS), false)?;
        Ok(true)
    }

    /// A pending event; `None` if it does not make sense.
    fn load(&self, seq: i64, binding: &str, conversation: &str) -> Result<Option<Head>, QueueError> {
        let sql = "SELECT attempts, metadata, trace, data, expires_at, rank FROM events WHERE seq = ?1";
        let row = self.first(sql, [seq], |row| {
            let attempts = row.get_ref(0)?.as_i64().ok().and_then(|attempts| u32::try_from(attempts).ok());
            let pairs = |index| Ok::<_, rusqlite::Error>(pairs(row.get_ref(index)?));
            let data = row.get_ref(3)?.as_blob().ok().map(Bytes::copy_from_slice);
            let expires_at = row.get_ref(4)?.as_i64_or_null().ok().map(|time| time.map(read));
            let rank = row.get_ref(5)?.as_i64().unwrap_or_default();
            Ok((attempts, pairs(1)?, pairs(2)?, data, expires_at, rank))
        })?;
        let Some((Some(attempts), Some(metadata), Some(trace), Some(data), Some(expires_at), rank)) = row else {
            return Ok(None);
        };
        let event = Arc::new(Event { binding: binding.to_owned(), data, metadata, trace });
        let lane = (binding.to_owned(), conversation.to_owned());
        Ok(Some(Head { seq, lane, rank, attempts, expires_at, event }))
    }

    /// Lanes whose names make no sense, and their events: nobody could be asked to take them.
    pub(super) fn set_unreadable_lanes_aside(&self, now: u64) -> Result<(), QueueError> {
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
    pub(super) fn pending_lane(&self, seq: i64) -> Result<Option<Lane>, QueueError> {
        self.first("SELECT binding, conversation FROM events WHERE seq = ?1 AND state = 'pending'", [seq], |row| {
            Ok((shown(row.get_ref(0)?).unwrap_or_default(), shown(row.get_ref(1)?).unwrap_or_default()))
        })
    }

    /// The application has taken a pending event. Nothing happens to one that is not pending: the operator was
    /// faster.
    pub(in crate::queue) fn delivered(&self, seq: i64, reply: Option<&[u8]>, now: u64) -> Result<(), QueueError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.clear(seq, now)?;
            // Its event has made room. A reply for which that is not enough is missing to a repetition only.
            if let Some(reply) = reply
                && self.has_room(reply.len() as u64)?
            {
                self.execute("UPDATE events SET reply = ?2 WHERE seq = ?1", params![seq, reply])?;
            }
            self.settle(&binding, &conversation, now, false)?;
        } else if self.first("SELECT state FROM events WHERE seq = ?1", [seq], |row| state(row, 0))?
            == Some(State::Dead)
        {
            // Its time ran out while it was being delivered.
            self.clear(seq, now)?;
        }
        Ok(())
    }

    /// Leaves of an event what a repetition needs: nothing, if it has no `msgId`.
    pub(super) fn clear(&self, seq: i64, now: u64) -> Result<(), QueueError> {
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
    pub(in crate::queue) fn forget_reply(&self, seq: i64) -> Result<(), QueueError> {
        self.execute("UPDATE events SET reply = NULL WHERE seq = ?1", [seq])?;
        Ok(())
    }

    /// The application refuses a pending event for good.
    pub(in crate::queue) fn refused(&self, seq: i64, error: &str, now: u64) -> Result<(), QueueError> {
        self.execute("UPDATE events SET attempts = attempts + 1 WHERE seq = ?1 AND state = 'pending'", [seq])?;
        self.set_aside(seq, error, now)
    }

    /// A pending event becomes a dead one, and the next one's turn comes.
    fn set_aside(&self, seq: i64, error: &str, now: u64) -> Result<(), QueueError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.die(seq, error, now)?;
            self.settle(&binding, &conversation, now, false)?;
        }
        Ok(())
    }

    fn die(&self, seq: i64, error: &str, now: u64) -> Result<(), QueueError> {
        self.execute("UPDATE events SET state = 'dead', finished_at = ?2 WHERE seq = ?1", params![seq, stored(now)])?;
        self.is_to_be_told(seq)?;
        self.note(seq, error)
    }

    /// Keeps why an event was not taken, if there is room: without it, the older reason is shown.
    fn note(&self, seq: i64, error: &str) -> Result<(), QueueError> {
        if self.has_room(error.len() as u64)? {
            self.execute("UPDATE events SET last_error = ?2 WHERE seq = ?1", params![seq, error])?;
        }
        Ok(())
    }

    /// Pending events that have waited for too long become dead ones, some at a time. Returns how many.
    pub(in crate::queue) fn expire(&self, now: u64) -> Result<usize, QueueError> {
        let oldest = stored(now.saturating_sub(self.limits.max_age_ms()));
        let old = self.sizes("state = 'pending' AND ifnull(retried_at, accepted_at) < ?1", oldest)?;
        let old = Self::first_fitting(old);
        for &seq in &old {
            let set_aside = self.set_aside(seq, self.side.too_old(), now);
            set_aside.inspect_err(|error| self.pass_over(seq, error))?;
        }
        Ok(old.len() + self.expire_early(now)?)
    }

    /// As [`Self::expire`], of those that were to be delivered earlier than that.
    fn expire_early(&self, now: u64) -> Result<usize, QueueError> {
        if self.side == Side::Inbox {
            return Ok(0);
        }
        let old = self.sizes("state = 'pending' AND expires_at IS NOT NULL AND expires_at <= ?1", stored(now))?;
        let old = Self::first_fitting(old);
        for &seq in &old {
            let set_aside = self.set_aside(seq, EXPIRED, now);
            set_aside.inspect_err(|error| self.pass_over(seq, error))?;
        }
        Ok(old.len())
    }

    /// A pending event is to be tried again at `due`.
    pub(in crate::queue) fn failed(
        &self,
        seq: i64,
        error: &str,
        due: u64,
        suffers: bool,
        now: u64,
    ) -> Result<(), QueueError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.execute("UPDATE events SET attempts = attempts + 1 WHERE seq = ?1", [seq])?;
            self.note(seq, error)?;
            // The operator may have put an earlier one before it.
            let is_head = self.head(&binding, &conversation)? == Some(seq);
            self.settle(&binding, &conversation, if is_head { due } else { now }, suffers && is_head)?;
        }
        Ok(())
    }
}
