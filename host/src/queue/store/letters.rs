//! Messages of the outbox that are dead, until somebody has been told.

use bytes::Bytes;
use rusqlite::params;

use super::queue::{pairs, text};
use super::{Store, read, shown, stored};
use crate::queue::outbox::DeadLetter;
use crate::queue::{QueueError, Side};

/// Messages that are read at once. Each may have megabytes.
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
        let sql = "SELECT binding, msg_id, last_error, attempts, data, metadata, trace, finished_at FROM events WHERE seq = ?1";
        let letter = self.first(sql, [seq], |row| {
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
