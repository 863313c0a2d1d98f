//! Lanes after a change of their events: locked before it, and settled or ended behind it, one or many.

use tokio_postgres::Statement;
use uuid::Uuid;

use super::NEAR_MS;
use super::lease::LaneKey;
use super::pool::{Fault, Session};

const LOCK_LANE: &str = "SELECT FROM lanes WHERE side = $1 AND binding = $2 AND lane = $3 FOR UPDATE";

/// The lane after a change of one of its events, which was $4, or after that of another one: when its first event is due, and
/// by whom. The host that has just had it comes first, unless another one has it by now.
const SETTLE_LANE: &str = "UPDATE lanes SET
         rank = first.rank,
         due = CASE WHEN owner <> $7 AND leased_until > now_ms() THEN due
             WHEN first.seq = $4 THEN now_ms() + $5 ELSE now_ms() END,
         suffers = coalesce(first.seq = $4 AND $6, false),
         leased_until = CASE WHEN owner = $7 THEN now_ms() + $8 ELSE leased_until END
     FROM (
         SELECT seq, rank FROM events WHERE side = $1 AND binding = $2 AND lane = $3 AND state = 'pending'
         ORDER BY rank DESC, seq LIMIT 1
     ) AS first
     WHERE lanes.side = $1 AND lanes.binding = $2 AND lanes.lane = $3";

/// What comes next in a lane without events may have to wait.
pub(super) const END_LANE: &str = "DELETE FROM lanes WHERE side = $1 AND binding = $2 AND lane = $3 AND NOT EXISTS (
         SELECT FROM events WHERE events.side = $1 AND events.binding = $2 AND events.lane = $3 AND state = 'pending')
     AND NOT EXISTS (SELECT FROM events WHERE events.seq = lanes.behind AND state = 'pending')";

/// Many lanes, each once.
const GIVEN: &str =
    "(SELECT DISTINCT binding, lane FROM unnest($2::text[], $3::bytea[]) AS given (binding, lane)) AS given";

/// Locks many lanes, each in the same order as everybody: none waits for one that waits for it.
pub(super) async fn lock_all(
    session: &Session,
    side: i16,
    bindings: &[String],
    lanes: &[Vec<u8>],
) -> Result<(), Fault> {
    let sql = format!(
        "SELECT lanes.id FROM lanes JOIN {GIVEN} ON lanes.binding = given.binding AND lanes.lane = given.lane
             WHERE lanes.side = $1 ORDER BY lanes.id FOR UPDATE OF lanes"
    );
    let sql = session.prepare_cached(&sql).await?;
    session.query(&sql, &[&side, &bindings, &lanes]).await?;
    Ok(())
}

/// As [`Settle`], of many lanes: what is first is due now, where that is another one than before.
pub(super) async fn settle_all(
    session: &Session,
    side: i16,
    bindings: &[String],
    lanes: &[Vec<u8>],
) -> Result<(), Fault> {
    let settle = format!(
        "UPDATE lanes SET rank = first.rank, due = now_ms(), suffers = false FROM {GIVEN} CROSS JOIN LATERAL (
                 SELECT rank FROM events
                 WHERE side = $1 AND events.binding = given.binding AND events.lane = given.lane AND state = 'pending'
                 ORDER BY rank DESC, seq LIMIT 1
             ) AS first
             WHERE lanes.side = $1 AND lanes.binding = given.binding AND lanes.lane = given.lane"
    );
    let end = format!(
        "DELETE FROM lanes USING {GIVEN}
             WHERE lanes.side = $1 AND lanes.binding = given.binding AND lanes.lane = given.lane AND NOT EXISTS (
                 SELECT FROM events WHERE events.side = $1 AND events.binding = given.binding
                     AND events.lane = given.lane AND state = 'pending')
             AND NOT EXISTS (SELECT FROM events WHERE events.seq = lanes.behind AND state = 'pending')"
    );
    for sql in [settle, end] {
        let sql = session.prepare_cached(&sql).await?;
        session.execute(&sql, &[&side, &bindings, &lanes]).await?;
    }
    Ok(())
}

/// Statements for a lane whose event changes.
pub(super) struct Settle {
    lock: Statement,
    settle: Statement,
    end: Statement,
}

impl Settle {
    /// Before the first of them is sent: they are sent one behind the other, in their order.
    pub(super) async fn prepare(session: &Session) -> Result<Self, Fault> {
        let (lock, settle, end) = tokio::try_join!(
            session.prepare_cached(LOCK_LANE),
            session.prepare_cached(SETTLE_LANE),
            session.prepare_cached(END_LANE)
        )?;
        Ok(Self { lock, settle, end })
    }

    pub(super) async fn lock(&self, session: &Session, lane: &LaneKey) -> Result<(), Fault> {
        session.execute(&self.lock, &[&lane.side, &lane.binding, &lane.lane.as_slice()]).await?;
        Ok(())
    }

    /// After a change of a lane that is locked: when its first event is due, if that is `seq`; otherwise, that is now.
    pub(super) async fn run(
        &self,
        session: &Session,
        lane: &LaneKey,
        host: Uuid,
        seq: Option<i64>,
        pause: i64,
        suffers: bool,
    ) -> Result<(), Fault> {
        let key = lane.lane.as_slice();
        tokio::try_join!(
            biased;
            async { session.execute(
                &self.settle,
                &[&lane.side, &lane.binding, &key, &seq, &pause, &suffers, &host, &NEAR_MS],
            ).await },
            async { session.execute(&self.end, &[&lane.side, &lane.binding, &key]).await },
        )?;
        Ok(())
    }
}
