//! Messages that wait become one.

use bytes::Bytes;

use super::events::{Clear, Events, Settle};
use super::pool::Fault;
use crate::queue::store::{MOST_BYTES, MOST_UNITED};

impl Events {
    /// See [`crate::queue::storage::Storage::front`].
    pub(super) async fn front_of(&self, seq: i64, beyond: usize) -> Result<Vec<(i64, Bytes)>, Fault> {
        let waiting = "SELECT count(*) FROM (SELECT FROM events WHERE side = $1 AND state = 'pending'
                 AND binding = (SELECT binding FROM events WHERE seq = $2) LIMIT $3) AS waiting";
        let front = "SELECT seq, is_fit AND bytes <= $3, CASE WHEN is_fit AND bytes <= $3 THEN data END FROM (
                 SELECT others.seq, NOT others.tried AND others.attempts = 0 AND others.expires_at IS NULL AS is_fit, others.data,
                     sum(length(others.data)) OVER (ORDER BY others.seq) AS bytes
                 FROM events AS this JOIN events AS others
                     ON others.side = this.side AND others.binding = this.binding AND others.lane = this.lane
                         AND others.rank = this.rank
                 WHERE this.seq = $1 AND this.state = 'pending' AND others.state = 'pending' AND others.seq >= this.seq
                 ORDER BY others.seq LIMIT $2
             ) AS front ORDER BY seq";
        self.database()
            .run(async |session| {
                let waiting = session.prepare_cached(waiting).await?;
                let beyond = i64::try_from(beyond).unwrap_or(i64::MAX);
                let count: i64 = session
                    .query_one(&waiting, &[&self.number(), &seq, &beyond.saturating_add(1)])
                    .await?
                    .try_get(0)?;
                let mut fitting = Vec::new();
                if count > beyond {
                    let front = session.prepare_cached(front).await?;
                    let most = i64::try_from(MOST_UNITED).unwrap_or(i64::MAX);
                    let bytes = i64::try_from(MOST_BYTES).unwrap_or(i64::MAX);
                    for row in session.query(&front, &[&seq, &most, &bytes]).await? {
                        if !row.try_get::<_, bool>(1)? {
                            break;
                        }
                        fitting.push((row.try_get(0)?, Bytes::copy_from_slice(row.try_get(2)?)));
                    }
                }
                session.done();
                Ok(fitting)
            })
            .await
    }

    /// See [`crate::queue::storage::Storage::unite`]. Only while this host has the lane on lease: another one may deliver from
    /// it otherwise.
    pub(super) async fn unite_all(&self, seqs: &[i64], data: &[u8]) -> Result<bool, Fault> {
        let Some((first, others)) = seqs.split_first() else { return Ok(false) };
        self.database()
            .run_again(|session| async move {
                let Some(lane) = self.lane_of(&session, *first).await? else {
                    session.done();
                    return Ok(false);
                };
                let (settle, clear) = (Settle::prepare(&session).await?, Clear::prepare(&session).await?);
                session.batch_execute("BEGIN").await?;
                settle.lock(&session, &lane).await?;
                let fit = "SELECT (SELECT count(*) FROM events WHERE seq = ANY ($1) AND state = 'pending'),
                     EXISTS (SELECT FROM lanes WHERE side = $2 AND binding = $3 AND lane = $4 AND owner = $5
                         AND leased_until > now_ms())";
                let fit = session.prepare_cached(fit).await?;
                let values = (lane.side, &lane.binding, lane.lane.as_slice(), self.host());
                let row = session.query_one(&fit, &[&seqs, &values.0, values.1, &values.2, &values.3]).await?;
                let is_fit =
                    usize::try_from(row.try_get::<_, i64>(0)?) == Ok(seqs.len()) && row.try_get::<_, bool>(1)?;
                if is_fit {
                    let put = session.prepare_cached("UPDATE events SET data = $2 WHERE seq = $1").await?;
                    session.execute(&put, &[first, &data]).await?;
                    for seq in others {
                        clear.run(&session, *seq, None, &["pending"]).await?;
                    }
                }
                session.batch_execute("COMMIT").await?;
                session.done();
                Ok(is_fit)
            })
            .await
    }
}
