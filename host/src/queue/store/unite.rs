//! Several messages of a binding that become one.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::params;

use super::queue::{Lane, text};
use super::{Store, stored};
use crate::event::DEAD_LETTER;
use crate::queue::QueueError;

/// Messages that become one at most, the bytes of them that are looked at, and the conversations that they may be of: a message has
/// 20,000 bytes, and short ones are some hundred.
pub(in crate::queue) const MOST_UNITED: usize = 200;
pub(in crate::queue) const MOST_BYTES: usize = 256 << 10;
pub(in crate::queue) const MOST_LANES: usize = 200;

/// Rows that are read to find them.
pub(in crate::queue) const MOST_READ: usize = 1_000;

/// A message that waits, where it may become one with others.
pub(super) struct Waiting {
    pub(super) seq: i64,
    rank: i64,
    /// Nobody has seen it, and it may take as long as it likes.
    is_fit: bool,
    bytes: usize,
}

impl Store {
    /// Those that wait for the binding of `seq` and come first in their conversations, it first, unless no more than `beyond` wait
    /// for it. See [`crate::queue::storage::Storage::front`].
    pub(in crate::queue) fn front(&self, seq: i64, beyond: usize, now: u64) -> Result<Vec<(i64, Bytes)>, QueueError> {
        let Some((own, rank)) = self.lane_and_rank(seq)? else { return Ok(Vec::new()) };
        let waiting: Option<i64> = self.first(
            "SELECT count(*) FROM (SELECT 1 FROM events WHERE binding = ?1 AND state = 'pending' LIMIT ?2)",
            params![own.0, i64::try_from(beyond.saturating_add(1)).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
        if waiting.is_none_or(|waiting| usize::try_from(waiting).is_ok_and(|waiting| waiting <= beyond)) {
            return Ok(Vec::new());
        }
        let others = self.lanes_beside(&own, seq, rank, now)?;
        // Of one conversation as many as become one; of many, some of each.
        let each = (MOST_READ / (others.len() + 1)).clamp(1, MOST_UNITED);
        let mut front = self.fitting(&own, rank, each)?;
        if front.first().is_none_or(|first| first.seq != seq) {
            return Ok(Vec::new());
        }
        for lane in &others {
            front.extend(self.fitting(lane, rank, each)?);
        }
        front.sort_by_key(|waiting| (waiting.seq != seq, waiting.seq));
        let mut bytes = 0_usize;
        let fits = |waiting: &Waiting| {
            bytes = bytes.saturating_add(waiting.bytes);
            bytes <= MOST_BYTES
        };
        let mut read = Vec::new();
        for Waiting { seq, .. } in front.into_iter().take(MOST_UNITED).take_while(fits) {
            let data = self.first("SELECT data FROM events WHERE seq = ?1", [seq], |row| row.get::<_, Vec<u8>>(0))?;
            read.extend(data.map(|data| (seq, Bytes::from(data))));
        }
        Ok(read)
    }

    /// Conversations of the same binding whose first message has this rank and could be delivered now, the longest due first,
    /// but those from which something is delivered, and those that wait for another message.
    fn lanes_beside(&self, own: &Lane, seq: i64, rank: i64, now: u64) -> Result<Vec<Lane>, QueueError> {
        // Of an answer nobody is told that it was given up: what becomes one with it would be forgotten, or be told for ever.
        if own.1 == DEAD_LETTER {
            return Ok(Vec::new());
        }
        let under_way = self.under_way.borrow();
        let names: Vec<Option<String>> = self.all(
            "SELECT conversation FROM lanes WHERE binding = ?1 AND rank = ?2 AND due <= ?3
                 AND (behind IS NULL OR behind = ?5
                     OR NOT EXISTS (SELECT 1 FROM events WHERE events.seq = lanes.behind AND state = 'pending'))
                 ORDER BY due, id LIMIT ?4",
            params![own.0, rank, stored(now), i64::try_from(MOST_LANES + under_way.len() + 2).unwrap_or(i64::MAX), seq],
            |row| Ok(text(row.get_ref(0)?)),
        )?;
        let lanes = names.into_iter().flatten().map(|conversation| (own.0.clone(), conversation));
        let free = lanes.filter(|lane| lane != own && lane.1 != DEAD_LETTER && !under_way.contains(lane));
        Ok(free.take(MOST_LANES).collect())
    }

    /// Of the first so many that are pending in a conversation, those that may become part of a message of this rank.
    fn fitting(&self, lane: &Lane, rank: i64, count: usize) -> Result<Vec<Waiting>, QueueError> {
        let first = self.first_of(lane, count)?;
        let fit = first.into_iter().take_while(|waiting| waiting.is_fit && waiting.rank == rank).collect();
        self.before_siblings(lane, rank, fit)
    }

    /// What is pending in a conversation, in its order: the first so many.
    fn first_of(&self, (binding, conversation): &Lane, count: usize) -> Result<Vec<Waiting>, QueueError> {
        let sql = format!(
            "SELECT seq, rank, tried = 0 AND attempts = 0 AND expires_at IS NULL
                     AND NOT EXISTS (SELECT 1 FROM lanes WHERE lanes.behind = events.seq AND lanes.rank > events.rank),
                     length(data) FROM events
                 WHERE binding = ?1 AND conversation = ?2 AND state = 'pending' ORDER BY {} LIMIT ?3",
            self.order()
        );
        self.all(&sql, params![binding, conversation, i64::try_from(count).unwrap_or(i64::MAX)], |row| {
            let bytes = usize::try_from(row.get::<_, i64>(3)?).unwrap_or(usize::MAX);
            Ok(Waiting { seq: row.get(0)?, rank: row.get(1)?, is_fit: row.get(2)?, bytes })
        })
    }

    fn lane_and_rank(&self, seq: i64) -> Result<Option<(Lane, i64)>, QueueError> {
        let Some(lane) = self.pending_lane(seq)? else { return Ok(None) };
        let rank = self.first("SELECT rank FROM events WHERE seq = ?1", [seq], |row| row.get(0))?;
        Ok(rank.map(|rank| (lane, rank)))
    }

    /// Has the first of these stand for all. By its identifier and its hash each is known again as before. Nothing happens if
    /// they are not, each in its conversation, what comes first any more, or if one of them is under way.
    pub(in crate::queue) fn unite(&self, seqs: &[i64], data: &[u8], now: u64) -> Result<bool, QueueError> {
        let Some((first, others)) = seqs.split_first() else { return Ok(false) };
        let Some((own, rank)) = self.lane_and_rank(*first)? else { return Ok(false) };
        let mut lanes: BTreeMap<Lane, Vec<i64>> = [(own.clone(), vec![*first])].into();
        for seq in others {
            let Some(lane) = self.pending_lane(*seq)? else { return Ok(false) };
            lanes.entry(lane).or_default().push(*seq);
        }
        for (lane, seqs) in &lanes {
            let is_free = *lane == own
                || lane.0 == own.0
                    && !self.under_way.borrow().contains(lane)
                    && !self.waits_for_another(lane, *first)?;
            let come_first = self.fitting(lane, rank, seqs.len())?;
            if !is_free || !come_first.iter().map(|waiting| waiting.seq).eq(seqs.iter().copied()) {
                return Ok(false);
            }
        }
        if !self.has_room(data.len() as u64)? {
            return Ok(false);
        }
        self.execute("UPDATE events SET data = ?2 WHERE seq = ?1", params![first, data])?;
        for seq in others {
            self.clear(*seq, now)?;
            // It may have stood for others.
            self.execute("UPDATE lanes SET behind = ?2 WHERE behind = ?1", [seq, first])?;
        }
        for (binding, conversation) in lanes.keys().filter(|lane| **lane != own) {
            let sql = "UPDATE lanes SET behind = ?3 WHERE binding = ?1 AND conversation = ?2";
            self.execute(sql, params![binding, conversation, first])?;
            self.settle(binding, conversation, now, false)?;
        }
        Ok(true)
    }

    /// Whether a conversation waits for a message that says what came before its own, and is another one than this.
    fn waits_for_another(&self, (binding, conversation): &Lane, seq: i64) -> Result<bool, QueueError> {
        let sql = "SELECT 1 FROM lanes JOIN events ON events.seq = lanes.behind
                       WHERE lanes.binding = ?1 AND lanes.conversation = ?2 AND behind <> ?3 AND state = 'pending'";
        Ok(self.first(sql, params![binding, conversation, seq], |_| Ok(()))?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::queue::store::{Item, Room};
    use crate::queue::{Limits, Side};

    /// An outbox in which one message waits in each of so many conversations.
    fn store(conversations: usize) -> (tempfile::TempDir, Store) {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::create(Side::Outbox, dir.path(), Limits::default()).unwrap();
        for number in 0..conversations {
            let (data, conversation) = (Bytes::from(number.to_string()), number.to_string());
            let event = Event { binding: "team".into(), data, metadata: Vec::new(), trace: Vec::new() };
            let item = Item { event, id: Some(conversation.clone()), conversation, rank: 0, expires_at: None };
            store.insert(&item, 1).unwrap();
        }
        (dir, store)
    }

    fn begin(store: &Store, running: Vec<Lane>, in_all: usize) -> Vec<i64> {
        let room = Room { in_all, a_binding: 16, running, ..Room::default() };
        store.due(&room, 1).unwrap().heads.into_iter().map(|head| head.seq).collect()
    }

    fn front(store: &Store) -> Vec<i64> {
        store.front(1, 1, 1).unwrap().into_iter().map(|(seq, _)| seq).collect()
    }

    #[test]
    fn it_reads_what_comes_first_by_an_index_however_much_waits() {
        let (_dir, store) = store(5);
        assert_eq!(begin(&store, Vec::new(), 1), [1]);
        let front = front(&store);
        assert_eq!(front, [1, 2, 3, 4, 5]);
        assert_eq!(store.unite(&front, b"all", 1), Ok(true));
        let plans = store.plans();
        let plan = |part: &str| plans.iter().find(|(sql, _)| sql.contains(part)).unwrap().1.concat();
        assert!(plan("ORDER BY due, id LIMIT ?4").contains("INDEX lanes_ranked (binding=? AND rank=? AND due<?)"));
        assert!(plan("length(data) FROM events\n").contains("INDEX events_ranked (binding=? AND conversation=?)"));
        for (sql, plan) in &plans {
            let is_slow = |step: &String| step.contains("TEMP B-TREE") || step.contains("SCAN events");
            assert!(!plan.iter().any(is_slow), "{plan:?}: {sql}");
        }
    }

    #[test]
    fn a_store_of_an_older_host_gets_what_is_missing_and_keeps_what_it_has() {
        let (dir, store) = store(3);
        store
            .batch_for_test(
                "DROP INDEX lanes_behind; ALTER TABLE lanes DROP COLUMN behind; PRAGMA user_version = 3;
                 UPDATE lanes SET rank = 1 WHERE conversation = '2'; UPDATE events SET rank = 1 WHERE seq = 3",
            )
            .unwrap();
        store.close().unwrap();
        let store = Store::create(Side::Outbox, dir.path(), Limits::default()).unwrap();
        assert_eq!(store.number_for_test("PRAGMA user_version"), Ok(4));
        assert_eq!(begin(&store, vec![("team".into(), "0".into())], 0), [0; 0]);
        assert_eq!((front(&store), store.unite(&[1, 2], b"both", 1)), (vec![1, 2], Ok(true)));
        assert_eq!(begin(&store, Vec::new(), 9), [3, 1]);
    }

    #[test]
    fn what_is_under_way_is_known_to_the_store_that_takes_a_damaged_ones_place() {
        let (_dir, store) = store(3);
        let own: Lane = ("team".into(), "0".into());
        assert_eq!(begin(&store, vec![own], 1), [2]);
        assert_eq!((front(&store), store.unite(&[1, 2], b"x", 1)), (vec![1, 3], Ok(false)));
        let rebuilt = store.put_in_order().unwrap();
        assert_eq!((front(&rebuilt), rebuilt.unite(&[1, 2], b"x", 1)), (vec![1, 3], Ok(false)));
    }

    #[test]
    #[ignore = "prints figures: a quarter of a minute"]
    fn what_it_costs_beside_400_000_of_a_conversation_that_is_under_way() {
        let (_dir, store) = store(50);
        let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000)
                   INSERT INTO events (binding, msg_id, conversation, accepted_at, state, metadata, trace, data)
                   SELECT 'team', 's' || i, 'stuck', 1, 'pending', '[]', '[]', randomblob(500) FROM n;
                   INSERT INTO lanes (binding, conversation, due) VALUES ('team', 'stuck', 0)";
        store.batch_for_test(sql).unwrap();
        begin(&store, vec![("team".into(), "0".into()), ("team".into(), "stuck".into())], 0);
        for _ in 0..3 {
            let begun = std::time::Instant::now();
            println!("  front: {} in {:?}", front(&store).len(), begun.elapsed());
        }
    }
}
