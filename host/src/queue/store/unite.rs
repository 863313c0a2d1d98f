//! Several messages of a conversation that become one.

use bytes::Bytes;
use rusqlite::params;

use super::Store;
use crate::queue::QueueError;

/// Messages that are looked at, and their bytes: one has 20,000 bytes, and short ones are some hundred.
pub(in crate::queue) const MOST_UNITED: usize = 200;
pub(in crate::queue) const MOST_BYTES: usize = 256 << 10;

impl Store {
    /// Those of the conversation of `seq` that come next, it first, unless no more than `beyond` wait for its binding.
    pub(in crate::queue) fn front(&self, seq: i64, beyond: usize) -> Result<Vec<(i64, Bytes)>, QueueError> {
        let waiting: Option<i64> = self.first(
            "SELECT count(*) FROM (SELECT 1 FROM events AS others, events AS this
                 WHERE this.seq = ?1 AND others.binding = this.binding AND others.state = 'pending' LIMIT ?2)",
            params![seq, i64::try_from(beyond.saturating_add(1)).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
        if waiting.is_none_or(|waiting| usize::try_from(waiting).is_ok_and(|waiting| waiting <= beyond)) {
            return Ok(Vec::new());
        }
        let rows: Vec<(i64, bool, i64)> = self.all(
            "SELECT others.seq, others.tried = 0 AND others.attempts = 0 AND others.expires_at IS NULL, length(others.data)
                 FROM events AS this JOIN events AS others
                     ON others.binding = this.binding AND others.conversation = this.conversation
                 WHERE this.seq = ?1 AND this.state = 'pending' AND others.state = 'pending'
                     AND others.rank = this.rank AND others.seq >= this.seq
                 ORDER BY others.seq LIMIT ?2",
            params![seq, i64::try_from(MOST_UNITED).unwrap_or(i64::MAX)],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let mut bytes = 0_usize;
        let fitting = rows.into_iter().take_while(|(_, is_fit, length)| {
            bytes = bytes.saturating_add(usize::try_from(*length).unwrap_or(usize::MAX));
            *is_fit && bytes <= MOST_BYTES
        });
        let mut front = Vec::new();
        for (seq, ..) in fitting {
            let data = self.first("SELECT data FROM events WHERE seq = ?1", [seq], |row| row.get::<_, Vec<u8>>(0))?;
            front.extend(data.map(|data| (seq, Bytes::from(data))));
        }
        Ok(front)
    }

    /// Has the first of these stand for all. By its identifier and its hash each is known again as before.
    pub(in crate::queue) fn unite(&self, seqs: &[i64], data: &[u8], now: u64) -> Result<bool, QueueError> {
        for seq in seqs {
            if self.pending_lane(*seq)?.is_none() {
                return Ok(false);
            }
        }
        if !self.has_room(data.len() as u64)? {
            return Ok(false);
        }
        let Some((first, others)) = seqs.split_first() else { return Ok(false) };
        self.execute("UPDATE events SET data = ?2 WHERE seq = ?1", params![first, data])?;
        for seq in others {
            self.clear(*seq, now)?;
        }
        Ok(true)
    }
}
