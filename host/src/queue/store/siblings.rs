//! What comes first in a conversation that several bindings have in common. Nothing here is asked of a binding that has no siblings.

use std::collections::HashSet;

use rusqlite::params;

use super::queue::{Head, Lane, Room, URGENT, text};
use super::unite::Waiting;
use super::{Store, stored};
use crate::queue::QueueError;
use crate::queue::siblings::Position;

/// Lanes that are looked at, from where one look begins: each of them may wait for a sibling's, and of those there may be as many
/// as messages.
pub(in crate::queue) const LOOKED_AT: usize = 256;

/// Before any lane.
const BEGINNING: (i64, i64) = (i64::MIN, i64::MIN);

/// What is first in the conversation ?2 of each of the bindings ?1, and what says what came before it there.
const POSITIONS: &str = "SELECT first.rank, EXISTS (SELECT 1 FROM lanes WHERE lanes.behind = first.seq), first.seq
         FROM json_each(?1) AS sibling CROSS JOIN events AS first ON first.seq = (
             SELECT events.seq FROM events
             WHERE events.binding = sibling.value AND events.conversation = ?2 AND events.state = 'pending'
             ORDER BY events.rank DESC, events.seq LIMIT 1
         )
     UNION ALL
     SELECT before.rank, 1, before.seq FROM json_each(?1) AS sibling
         CROSS JOIN lanes ON lanes.binding = sibling.value AND lanes.conversation = ?2
         CROSS JOIN events AS before ON before.seq = lanes.behind
         WHERE before.state = 'pending'";

/// What is first in a conversation of a binding.
const FIRST: &str = "SELECT rank, EXISTS (SELECT 1 FROM lanes WHERE lanes.behind = events.seq), seq FROM events
     WHERE binding = ?1 AND conversation = ?2 AND state = 'pending' ORDER BY rank DESC, seq LIMIT 1";

/// Whether one of the bindings ?1 has something that is more urgent than ?3 in a conversation that waits for the message ?2.
const IS_PRECEDED: &str = "SELECT EXISTS (
         SELECT 1 FROM lanes AS others CROSS JOIN json_each(?1) AS sibling
             CROSS JOIN lanes AS more ON more.binding = sibling.value AND more.conversation = others.conversation
         WHERE others.behind = ?2 AND more.rank > ?3
     )";

/// A lane that waits, with its place among them.
type Lined = (Option<String>, (i64, i64));

impl Store {
    /// As [`Self::heads`], of a binding whose conversations these others have, too: what comes first in all of them alone, and
    /// nothing while something of it is under way. What waits for them may be more than can be looked at: then the first ones are,
    /// and as many of the others as can be, with each look the next ones.
    pub(super) fn heads_in_turn(
        &self,
        binding: &str,
        siblings: &[&str],
        free: usize,
        room: &Room,
        now: u64,
        heads: &mut Vec<Head>,
    ) -> Result<(), QueueError> {
        let names = self.names(siblings)?;
        let is_of_them = |lane: &&Lane| lane.0 == binding || siblings.contains(&lane.0.as_str());
        let lanes = room.running.iter().chain(heads.iter().map(|head| &head.lane));
        let mut busy: HashSet<String> = lanes.filter(is_of_them).map(|lane| lane.1.clone()).collect();
        let most = heads.len() + free;
        let is_urgent = room.urgent.contains(binding);
        for rank in self.ranks().iter().filter(|rank| !is_urgent || **rank == URGENT) {
            let mut begin = |lined: &[Lined]| -> Result<(), QueueError> {
                for conversation in lined.iter().filter_map(|(conversation, _)| conversation.as_ref()) {
                    if heads.len() >= most {
                        return Ok(());
                    }
                    if busy.contains(conversation) {
                        continue;
                    }
                    let Some((position, seq)) = self.first_position(binding, conversation)? else {
                        self.settle(binding, conversation, now, false)?;
                        continue;
                    };
                    let before = self.positions(&names, conversation)?;
                    if before.iter().all(|before| position < *before) && !self.is_preceded(&names, seq, *rank)? {
                        busy.insert(conversation.clone());
                        heads.extend(self.load_or_set_aside(seq, binding, conversation, now)?);
                    }
                }
                Ok(())
            };
            let first = self.lined_up(binding, *rank, BEGINNING, now)?;
            begin(&first)?;
            let key = (binding.to_owned(), *rank);
            let Some(&(_, last)) = first.last().filter(|_| first.len() == LOOKED_AT) else {
                self.looked_at.borrow_mut().remove(&key);
                continue;
            };
            let from = self.looked_at.borrow().get(&key).map_or(last, |from| *from.max(&last));
            let next = self.lined_up(binding, *rank, from, now)?;
            begin(&next)?;
            let end = next.last().filter(|_| next.len() == LOOKED_AT).map(|(_, last)| *last);
            self.looked_at.borrow_mut().insert(key, end.unwrap_or(last));
        }
        Ok(())
    }

    /// Lanes of a binding that could be delivered from now, behind this one, the longest due first.
    fn lined_up(&self, binding: &str, rank: i64, from: (i64, i64), now: u64) -> Result<Vec<Lined>, QueueError> {
        let sql = format!(
            "SELECT conversation, due, id FROM lanes
                 WHERE binding = ?1 AND rank = ?2 AND due <= ?3 AND (due, id) > (?4, ?5) AND {}
                 ORDER BY due, id LIMIT {LOOKED_AT}",
            self.waits_for_none()
        );
        let lined = self.all(&sql, params![binding, rank, stored(now), from.0, from.1], |row| {
            Ok((text(row.get_ref(0)?), (row.get(1)?, row.get(2)?)))
        })?;
        if lined.iter().any(|(conversation, _)| conversation.is_none()) {
            self.set_unreadable_lanes_aside(now)?;
        }
        Ok(lined)
    }

    /// Of the first ones of a conversation, all of one rank, those that come before whatever siblings of its binding have there;
    /// none, while one of these is delivering something of it.
    pub(super) fn before_siblings(
        &self,
        (binding, conversation): &Lane,
        rank: i64,
        waiting: Vec<Waiting>,
    ) -> Result<Vec<Waiting>, QueueError> {
        let siblings = self.siblings.borrow();
        let siblings = siblings.of(binding);
        if siblings.is_empty() {
            return Ok(waiting);
        }
        let under_way = self.under_way.borrow();
        if under_way.iter().any(|lane| lane.1 == *conversation && siblings.contains(&lane.0.as_str())) {
            return Ok(Vec::new());
        }
        let names = self.names(&siblings)?;
        let first = self.positions(&names, conversation)?.into_iter().min();
        let mut before = Vec::with_capacity(waiting.len());
        for one in waiting {
            let is_late = first.is_some_and(|first| first < Position::alone(rank, one.seq));
            if is_late || self.is_preceded(&names, one.seq, rank)? {
                break;
            }
            before.push(one);
        }
        Ok(before)
    }

    /// For a statement.
    fn names(&self, siblings: &[&str]) -> Result<String, QueueError> {
        serde_json::to_string(siblings)
            .map_err(|error| QueueError::Io { place: self.place(), reason: format!("cannot be asked: {error}") })
    }

    fn first_position(&self, binding: &str, conversation: &str) -> Result<Option<(Position, i64)>, QueueError> {
        self.first(FIRST, params![binding, conversation], |row| {
            let seq = row.get(2)?;
            Ok((Position::new(row.get(0)?, row.get(1)?, seq), seq))
        })
    }

    fn positions(&self, names: &str, conversation: &str) -> Result<Vec<Position>, QueueError> {
        self.all(POSITIONS, params![names, conversation], |row| {
            Ok(Position::new(row.get(0)?, row.get(1)?, row.get(2)?))
        })
    }

    fn is_preceded(&self, names: &str, seq: i64, rank: i64) -> Result<bool, QueueError> {
        Ok(self.first(IS_PRECEDED, params![names, seq, rank], |row| row.get(0))?.unwrap_or(false))
    }
}
