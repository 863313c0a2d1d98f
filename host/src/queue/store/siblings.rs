//! What comes first in a conversation that several bindings have in common. Nothing here is asked of a binding that has no siblings.

use std::collections::HashSet;

use rusqlite::{Row, params};

use super::queue::{Head, Lane, Room, URGENT, text};
use super::unite::Waiting;
use super::{Store, stored};
use crate::queue::QueueError;
use crate::queue::siblings::{Position, Siblings};

/// Lanes that are looked at, from where one look begins: each of them may wait for a sibling's, and of those there may be as many
/// as messages.
pub(in crate::queue) const LOOKED_AT: usize = 128;

/// Before any lane.
const BEGINNING: (i64, i64) = (i64::MIN, i64::MIN);

/// What is first in a conversation of a binding: from the index alone, whatever else is in the message.
const FIRST: &str = "SELECT rank, EXISTS (SELECT 1 FROM lanes WHERE lanes.behind = events.seq), seq FROM events
     WHERE binding = ?1 AND conversation = ?2 AND state = 'pending' ORDER BY rank DESC, seq LIMIT 1";

/// What says what came before it.
const BEFORE: &str =
    "SELECT before.rank, 1, before.seq FROM lanes CROSS JOIN events AS before ON before.seq = lanes.behind
     WHERE lanes.binding = ?1 AND lanes.conversation = ?2 AND before.state = 'pending'";

/// Whether one of the bindings ?1 has something that is more urgent than ?3 in a conversation that waits for the message ?2.
const IS_PRECEDED: &str = "SELECT EXISTS (
         SELECT 1 FROM lanes AS others CROSS JOIN json_each(?1) AS sibling
             CROSS JOIN lanes AS more ON more.binding = sibling.value AND more.conversation = others.conversation
         WHERE others.behind = ?2 AND more.rank > ?3
     )";

fn position(row: &Row<'_>) -> rusqlite::Result<Position> {
    Ok(Position::new(row.get(0)?, row.get(1)?, row.get(2)?))
}

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
                    let Some(position) = self.first_position(binding, conversation)? else {
                        self.settle(binding, conversation, now, false)?;
                        continue;
                    };
                    let first = self.first_of_siblings(siblings, conversation)?;
                    let is_first = first.is_none_or(|first| position < first);
                    let seq = position.seq();
                    if is_first && !(position.stands_for_others() && self.is_preceded(&names, seq, *rank)?) {
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

    /// Until somebody asks again what is due.
    pub(super) fn remember_siblings(&self, siblings: &Siblings) {
        if *self.siblings.borrow() != *siblings {
            // Names come and go with component files.
            self.looked_at.borrow_mut().retain(|(name, _), _| !siblings.of(name).is_empty());
            self.siblings.replace(siblings.clone());
        }
    }

    /// Lanes of a binding that could be delivered from now, behind this one, the longest due first.
    fn lined_up(&self, binding: &str, rank: i64, from: (i64, i64), now: u64) -> Result<Vec<Lined>, QueueError> {
        let sql = format!(
            // By another index, it would read what has another rank, too.
            "SELECT conversation, due, id FROM lanes INDEXED BY lanes_ranked
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
        let first = self.first_of_siblings(&siblings, conversation)?;
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

    fn first_position(&self, binding: &str, conversation: &str) -> Result<Option<Position>, QueueError> {
        self.first(FIRST, params![binding, conversation], position)
    }

    /// The first of what these bindings have in a conversation, or have made part of a message that has not gone out.
    fn first_of_siblings(&self, siblings: &[&str], conversation: &str) -> Result<Option<Position>, QueueError> {
        let mut first = None;
        for binding in siblings {
            let before = self.first(BEFORE, params![binding, conversation], position)?;
            let positions = [first, self.first_position(binding, conversation)?, before];
            first = positions.into_iter().flatten().min();
        }
        Ok(first)
    }

    fn is_preceded(&self, names: &str, seq: i64, rank: i64) -> Result<bool, QueueError> {
        Ok(self.first(IS_PRECEDED, params![names, seq, rank], |row| row.get(0))?.unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::Event;
    use crate::queue::siblings::group;
    use crate::queue::store::Item;
    use crate::queue::{Limits, Side};

    /// An outbox in which two bindings have a message in each of so many conversations.
    fn store(conversations: usize) -> (tempfile::TempDir, Store) {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::create(Side::Outbox, dir.path(), Limits::default()).unwrap();
        for binding in ["one", "two"] {
            for number in 0..conversations {
                let data = Bytes::from(format!("{binding} {number}"));
                let event = Event { binding: binding.into(), data, metadata: Vec::new(), trace: Vec::new() };
                let conversation = number.to_string();
                store.insert(&Item { event, id: None, conversation, rank: 0, expires_at: None }, 1).unwrap();
            }
        }
        (dir, store)
    }

    fn room(siblings: Siblings) -> Room {
        Room { in_all: 64, a_binding: 16, siblings, ..Room::default() }
    }

    /// What may become one with the first message, which alone is under way.
    fn front(store: &Store, siblings: Siblings) -> usize {
        let running = vec![("one".to_owned(), "0".to_owned())];
        store.due(&Room { in_all: 0, running, ..room(siblings) }, 1).unwrap();
        store.front(1, 1, 1).unwrap().len()
    }

    fn statements(store: &Store) -> Vec<String> {
        store.plans().into_iter().map(|(sql, _)| sql).collect()
    }

    #[test]
    fn what_has_no_siblings_is_found_as_before_and_of_them_everything_is_found_by_an_index() {
        let (_dir, store) = store(5);
        store.due(&room(Siblings::default()), 1).unwrap();
        assert_eq!(front(&store, Siblings::default()), 5);
        let before = statements(&store);
        // Others have some.
        let others = || Siblings::new(group(&["three", "four"]), HashSet::new());
        assert_eq!(store.due(&room(others()), 1).unwrap().heads.len(), 10);
        assert_eq!(front(&store, others()), 5);
        assert_eq!(statements(&store), before);
        let siblings = || Siblings::new(group(&["one", "two"]), HashSet::new());
        let heads = store.due(&room(siblings()), 1).unwrap().heads;
        assert!(heads.len() == 5 && heads.iter().all(|head| head.lane.0 == "one"));
        assert_eq!(front(&store, siblings()), 5);
        assert_eq!(store.unite(&[1, 2], b"both", 1), Ok(true));
        store.due(&room(siblings()), 1).unwrap();
        let plans = store.plans();
        let plan = |sql: &str| plans.iter().find(|(known, _)| known == sql).unwrap().1.join("\n");
        let first = plan(FIRST);
        assert!(first.contains("COVERING INDEX events_ranked (binding=? AND conversation=?)"), "{first}");
        assert!(first.contains("lanes_behind (behind=?)"), "{first}");
        let before = plan(BEFORE);
        assert!(before.contains("sqlite_autoindex_lanes_1 (binding=? AND conversation=?)"), "{before}");
        assert!(
            before.contains("events USING INTEGER PRIMARY KEY") || before.contains("before USING INTEGER"),
            "{before}"
        );
        let preceded = plan(IS_PRECEDED);
        assert!(preceded.contains("lanes_behind (behind=?)"), "{preceded}");
        assert!(preceded.contains("sqlite_autoindex_lanes_1 (binding=? AND conversation=?)"), "{preceded}");
        let (_, lined) = plans.iter().find(|(sql, _)| sql.contains("(due, id) > (?4, ?5)")).unwrap();
        assert!(lined.concat().contains("lanes_ranked (binding=? AND rank=? AND due>? AND due<?)"), "{lined:?}");
        for (sql, plan) in &plans {
            let is_slow = |step: &String| step.contains("TEMP B-TREE") || step.contains("SCAN events");
            assert!(!plan.iter().any(is_slow), "{plan:?}: {sql}");
        }
    }

    #[test]
    #[ignore = "prints figures: half a minute"]
    fn what_it_costs_where_200_000_conversations_wait_for_a_siblings() {
        let (_dir, store) = store(1);
        let insert = |binding: &str| {
            let sql = format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
                 INSERT INTO events (binding, conversation, accepted_at, state, metadata, trace, data)
                 SELECT '{binding}', 'c' || i, 1, 'pending', '[]', '[]', randomblob(300) FROM n;
                 INSERT INTO lanes (binding, conversation, due)
                 SELECT binding, conversation, 1 FROM events WHERE binding = '{binding}' AND conversation LIKE 'c%'"
            );
            store.batch_for_test(&sql).unwrap();
        };
        insert("one");
        insert("two");
        let siblings = Siblings::new(group(&["one", "two"]), HashSet::new());
        let by_binding = [("one".to_owned(), 0)].into();
        let closed = Room { by_binding, ..room(siblings.clone()) };
        for (what, room) in [("apart", room(Siblings::default())), ("in turn", room(siblings)), ("all wait", closed)] {
            for _ in 0..3 {
                let begun = std::time::Instant::now();
                println!("  {what}: {} in {:?}", store.due(&room, 1).unwrap().heads.len(), begun.elapsed());
            }
        }
    }
}
