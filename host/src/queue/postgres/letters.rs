//! Messages of the outbox that are dead, until somebody has been told. One host at a time tells of each.

use bytes::Bytes;

use super::events::Events;
use super::pool::Fault;
use crate::queue::Side;
use crate::queue::outbox::{DeadLetter, LONGEST_TOLD};

/// Messages that are read at once.
const AT_ONCE: i64 = 16;

/// For how long a host has for telling, before another one does it.
const TELLING_MS: i64 = 120_000;

impl Events {
    /// See [`crate::queue::storage::Storage::letters`].
    pub(super) async fn untold(&self, except: &[String]) -> Result<Vec<DeadLetter>, Fault> {
        if self.side() == Side::Inbox {
            return Ok(Vec::new());
        }
        let sql = "WITH dead AS (SELECT seq FROM events
                 WHERE side = $1 AND state = 'dead' AND untold AND telling_until <= now_ms() AND binding <> ALL ($2)
                 ORDER BY seq LIMIT $3 FOR UPDATE SKIP LOCKED)
             UPDATE events SET telling_until = now_ms() + $4 FROM dead WHERE events.seq = dead.seq
             RETURNING events.seq, binding, msg_id, last_error, attempts,
                 CASE WHEN length(data) <= $5 THEN data END, metadata, trace, finished_at";
        self.database()
            .run(async |session| {
                let sql = session.prepare_cached(sql).await?;
                let longest = i32::try_from(LONGEST_TOLD).unwrap_or(i32::MAX);
                let rows = session.query(&sql, &[&self.number(), &except, &AT_ONCE, &TELLING_MS, &longest]).await?;
                let letter = |row: &tokio_postgres::Row| -> Result<DeadLetter, tokio_postgres::Error> {
                    let uuid = row.try_get::<_, Option<&[u8]>>(2)?;
                    Ok(DeadLetter {
                        seq: row.try_get(0)?,
                        binding: row.try_get(1)?,
                        uuid: uuid.map(|uuid| String::from_utf8_lossy(uuid).into_owned()),
                        reason: row.try_get::<_, Option<String>>(3)?.unwrap_or_default(),
                        attempts: u32::try_from(row.try_get::<_, i64>(4)?).unwrap_or(u32::MAX),
                        body: row.try_get::<_, Option<&[u8]>>(5)?.map(Bytes::copy_from_slice),
                        metadata: serde_json::from_str(row.try_get(6)?).unwrap_or_default(),
                        trace: serde_json::from_str(row.try_get(7)?).unwrap_or_default(),
                        died_at: row
                            .try_get::<_, Option<i64>>(8)?
                            .and_then(|time| u64::try_from(time).ok())
                            .unwrap_or(0),
                    })
                };
                let mut letters = rows.iter().map(letter).collect::<Result<Vec<_>, _>>()?;
                letters.sort_by_key(|letter| letter.seq);
                session.done();
                Ok(letters)
            })
            .await
    }

    /// See [`crate::queue::storage::Storage::told`].
    pub(super) async fn is_told(&self, seq: i64, died_at: u64) -> Result<(), Fault> {
        let sql = "UPDATE events SET untold = false, telling_until = 0 WHERE seq = $1 AND finished_at = $2";
        self.database()
            .run(async |session| {
                let sql = session.prepare_cached(sql).await?;
                session.execute(&sql, &[&seq, &i64::try_from(died_at).unwrap_or(i64::MAX)]).await?;
                session.done();
                Ok(())
            })
            .await
    }
}
