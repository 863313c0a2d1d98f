//! Messages of the outbox that are dead, until somebody has been told.

use bytes::Bytes;
use rusqlite::params;

use super::queue::{pairs, text};
use super::{Store, read, shown, stored};
use crate::queue::outbox::{DeadLetter, LONGEST_TOLD};
use crate::queue::{QueueError, Side};

/// Messages that are read at once.
const AT_ONCE: usize = 16;

/// What is said of a message whose reason found no room in the store.
const NO_REASON: &str = "the host's log says why: the store had no room for it";

impl Store {
    /// An event of the outbox has just died, of whatever.
    pub(super) fn is_to_be_told(&self, seq: i64) -> Result<(), QueueError> {
        if self.side == Side::Outbox {
            self.execute("UPDATE events SET untold = 1 WHERE seq = ?1", [seq])?;
        }
        Ok(())
    }

    /// Some dead messages of which nobody has been told, the first ones, but none of these bindings.
    pub(in crate::queue) fn letters(&self, except: &[String]) -> Result<Vec<DeadLetter>, QueueError> {
        if self.side == Side::Inbox {
            return Ok(Vec::new());
        }
        let passed_over = self.passed_over.borrow().clone();
        let most = i64::try_from(AT_ONCE + passed_over.len()).unwrap_or(i64::MAX);
        // Names are texts, which are always JSON.
        let except = serde_json::to_string(except).unwrap_or_default();
        let seqs: Vec<(i64, bool)> = self.all(
            "SELECT seq, typeof(binding) = 'text' FROM events INDEXED BY events_untold
                 WHERE state = 'dead' AND untold = 1 AND seq > ?1 AND binding NOT IN (SELECT value FROM json_each(?2))
                 ORDER BY seq LIMIT ?3",
            params![0, except, most],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let mut letters = Vec::new();
        for (seq, has_binding) in seqs.into_iter().filter(|(seq, _)| !passed_over.contains(seq)) {
            let letter = match has_binding {
                true => self.letter(seq).inspect_err(|error| self.pass_over(seq, error))?,
                false => None,
            };
            match letter {
                Some(letter) => letters.push(letter),
                // There is no binding whose application could be told.
                None => {
                    self.execute("UPDATE events SET untold = 0 WHERE seq = ?1", [seq])?;
                }
            }
        }
        Ok(letters)
    }

    /// What is there of a dead message; it may be dead because it makes no sense. `None` if not even its binding does.
    fn letter(&self, seq: i64) -> Result<Option<DeadLetter>, QueueError> {
        let sql = format!(
            "SELECT binding, msg_id, last_error, attempts, CASE WHEN length(data) <= {LONGEST_TOLD} THEN data END, metadata, trace,
                 finished_at FROM events WHERE seq = ?1"
        );
        let letter = self.first(&sql, [seq], |row| {
            let Some(binding) = text(row.get_ref(0)?) else { return Ok(None) };
            let attempts = row.get_ref(3)?.as_i64().ok().and_then(|attempts| u32::try_from(attempts).ok());
            Ok(Some(DeadLetter {
                seq,
                binding,
                uuid: text(row.get_ref(1)?),
                reason: shown(row.get_ref(2)?).unwrap_or_else(|| NO_REASON.to_owned()),
                attempts: attempts.unwrap_or_default(),
                body: row.get_ref(4)?.as_blob().ok().map(Bytes::copy_from_slice),
                metadata: pairs(row.get_ref(5)?).unwrap_or_default(),
                trace: pairs(row.get_ref(6)?).unwrap_or_default(),
                died_at: row.get_ref(7)?.as_i64().map_or(0, read),
            }))
        })?;
        Ok(letter.flatten())
    }

    /// Somebody has been told that a message died then. Should it have died again since, that is to be told, too.
    pub(in crate::queue) fn told(&self, seq: i64, died_at: u64) -> Result<(), QueueError> {
        self.execute(
            "UPDATE events SET untold = 0 WHERE seq = ?1 AND finished_at = ?2",
            params![seq, stored(died_at)],
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::event::Event;
    use crate::queue::Limits;
    use crate::queue::store::{EXPIRED, Item, Room};

    const NOW: u64 = 1_700_000_000_000;

    fn store(side: Side) -> (TempDir, Store) {
        let dir = TempDir::new().unwrap();
        let store = Store::create(side, dir.path(), Limits::default()).unwrap();
        (dir, store)
    }

    fn item(binding: &str, uuid: &str) -> Item {
        let trace = vec![("traceparent".to_owned(), "t".to_owned())];
        let event = Event { binding: binding.into(), data: uuid.to_owned().into(), metadata: Vec::new(), trace };
        Item { event, id: Some(uuid.into()), conversation: uuid.into(), rank: 0, expires_at: None }
    }

    fn look(store: &Store) {
        let room = Room { in_all: 9, a_binding: 9, ..Room::default() };
        store.due(&room, NOW).unwrap();
    }

    fn seqs(store: &Store, except: &[&str]) -> Vec<i64> {
        let except: Vec<_> = except.iter().map(|&name| name.to_owned()).collect();
        store.letters(&except).unwrap().iter().map(|letter| letter.seq).collect()
    }

    #[test]
    fn whatever_a_message_dies_of_it_is_to_be_told() {
        let (_dir, store) = store(Side::Outbox);
        let too_old = NOW - Limits::default().max_age_ms() - 1;
        store.insert(&item("team", "refused"), NOW).unwrap();
        store.insert(&item("team", "old"), too_old).unwrap();
        store.insert(&Item { expires_at: Some(NOW - 1), ..item("team", "late") }, NOW).unwrap();
        for uuid in ["unreadable", "nameless", "pending", "taken"] {
            store.insert(&item("team", uuid), NOW).unwrap();
        }
        assert!(seqs(&store, &[]).is_empty());
        store.failed(1, "busy", NOW, false, NOW).unwrap();
        store.refused(1, "no", NOW).unwrap();
        store.expire(NOW).unwrap();
        store.batch_for_test("UPDATE events SET metadata = 7 WHERE seq = 4").unwrap();
        store.batch_for_test("UPDATE events SET conversation = x'ff' WHERE seq = 5").unwrap();
        store.batch_for_test("UPDATE lanes SET conversation = x'ff' WHERE conversation = 'nameless'").unwrap();
        look(&store);
        store.delivered(7, None, NOW).unwrap();
        let letters = store.letters(&[]).unwrap();
        let told: Vec<_> = letters
            .iter()
            .map(|letter| (letter.seq, letter.uuid.as_deref().unwrap(), letter.attempts, letter.reason.as_str()))
            .collect();
        let unreadable = "the host cannot read it back from the store; see the `list` subcommand";
        assert_eq!(
            told,
            [
                (1, "refused", 2, "no"),
                (2, "old", 0, "it could not be sent within --outbox-max-age"),
                (3, "late", 0, EXPIRED),
                (4, "unreadable", 0, unreadable),
                (5, "nameless", 0, unreadable),
            ]
        );
        assert!(letters.iter().all(|letter| letter.binding == "team" && letter.died_at == NOW));
        assert_eq!((letters[0].body.as_deref(), letters[0].trace.len()), (Some(&b"refused"[..]), 1));
        let long = |uuid: &str, bytes| {
            let mut item = item("team", uuid);
            item.event.data = vec![b'x'; bytes].into();
            store.prepare(bytes as u64);
            let Ok(crate::queue::store::Stored::New(seq)) = store.insert(&item, NOW) else { panic!("not stored") };
            store.refused(seq, "no", NOW).unwrap();
            store.letters(&[]).unwrap().pop().unwrap().body.map(|body| body.len())
        };
        assert_eq!((long("long", LONGEST_TOLD), long("longer", LONGEST_TOLD + 1)), (Some(LONGEST_TOLD), None));
        let plans = store.plans();
        let plan = plans.iter().find(|(sql, _)| sql.contains("json_each")).unwrap();
        assert!(plan.1.iter().any(|step| step.contains("COVERING INDEX events_untold (seq>?)")), "{plan:?}");
    }

    #[test]
    fn what_is_told_is_not_to_be_told_again_unless_it_dies_again() {
        let (_dir, store) = store(Side::Outbox);
        for (binding, uuid) in [("team", "1"), ("gone", "2"), ("team", "3")] {
            store.insert(&item(binding, uuid), NOW).unwrap();
        }
        for seq in 1..=3 {
            store.refused(seq, "no", NOW).unwrap();
        }
        assert_eq!((seqs(&store, &[]), seqs(&store, &["gone", "x\"y"])), (vec![1, 2, 3], vec![1, 3]));
        store.told(3, NOW).unwrap();
        assert_eq!(seqs(&store, &[]), [1, 2]);
        // It is put back and dies once more, while its first end is being told.
        store.retry(&crate::queue::Selection::Seqs(vec![1, 3]), NOW + 1).unwrap();
        assert_eq!(seqs(&store, &[]), [2]);
        store.refused(1, "no", NOW + 2).unwrap();
        store.refused(3, "no", NOW + 2).unwrap();
        store.told(1, NOW).unwrap();
        assert_eq!(seqs(&store, &[]), [1, 2, 3]);
        // A store that was damaged knows it as before.
        let rebuilt = store.put_in_order().unwrap();
        rebuilt.told(3, NOW + 2).unwrap();
        assert_eq!(seqs(&rebuilt, &[]), [1, 2]);
        // There is nobody to tell of what has no name.
        rebuilt.batch_for_test("UPDATE events SET binding = x'ff' WHERE seq = 2").unwrap();
        assert_eq!(seqs(&rebuilt, &[]), [1]);
        assert_eq!(rebuilt.number_for_test("SELECT untold FROM events WHERE seq = 2"), Ok(0));
    }
}
