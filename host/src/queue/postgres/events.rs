//! Events of one direction: stored, delivered, failed, refused, too old.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio_postgres::Statement;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::group::Groups;
use super::insert::Usage;
use super::lease::LaneKey;
use super::pool::{Fault, Session};
use super::settle::{Settle, lock_all, settle_all};
use super::siblings::LookedAt;
use super::{Database, moved, read, stored};
use crate::event::{BoxFuture, digest};
use crate::queue::error::Place;
use crate::queue::outbox::DeadLetter;
use crate::queue::siblings::Siblings;
use crate::queue::storage::{End, Storage, Then, Tidied, Wake};
use crate::queue::store::{Due, EXPIRED, Item, KEPT_MS, Room};
use crate::queue::{Counts, Limits, QueueError, Side};

/// Rows that one transaction makes dead, or removes.
const TIDIED_AT_ONCE: i64 = 500;

/// What a row takes beside what is in it.
pub(super) const ROW_BYTES: u64 = 512;

/// One direction's events in a database.
#[derive(Clone)]
pub(in crate::queue) struct Events(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) database: Database,
    pub(super) side: Side,
    pub(super) limits: Limits,
    /// Events that are, or may be, in the database while their callbacks have not run.
    pub(super) inserting: Mutex<HashSet<i64>>,
    pub(super) usage: Mutex<Usage>,
    pub(super) groups: Mutex<Groups>,
    /// Conversations from which something was delivered when somebody last asked what is due, and those that are about to be
    /// taken on lease, until those of them that were are held.
    pub(super) busy: Mutex<Vec<LaneKey>>,
    /// Whose messages could come before those of another binding then.
    siblings: Mutex<Siblings>,
    /// Where the last look ended, of bindings of which more lanes wait than are looked at at once.
    looked_at: Mutex<HashMap<String, LookedAt>>,
    /// Insertions under way, which end by themselves.
    pub(super) tasks: TaskTracker,
}

/// Metadata as they are stored.
pub(super) fn parsed(pairs: &str) -> Option<Vec<(String, String)>> {
    serde_json::from_str(pairs).ok()
}

/// Of a delivered event with an identifier, what a repetition needs is kept: nothing that people wrote. $2 is the reply.
pub(super) const CLEAR: &str =
    "UPDATE events SET state = 'delivered', finished_at = now_ms(), reply = $2, conversation = '', lane = '',
         last_error = NULL, metadata = '[]', trace = '[]', data = '', size = $3
     WHERE seq = $1 AND msg_key IS NOT NULL AND state = ANY ($4)";

pub(super) const REMOVE: &str = "DELETE FROM events WHERE seq = $1 AND msg_key IS NULL AND state = ANY ($2)";

const DIE: &str = "UPDATE events SET state = 'dead', finished_at = now_ms(), attempts = attempts + 1, last_error = $2,
         untold = (side = 1), telling_until = 0
     WHERE seq = $1 AND state = 'pending'";

const FAIL: &str = "UPDATE events SET attempts = attempts + 1, last_error = $2 WHERE seq = $1 AND state = 'pending'";

/// PostgreSQL's texts have no NUL.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

impl Events {
    pub(in crate::queue) fn new(database: Database, side: Side, limits: Limits) -> Self {
        Self(Arc::new(Inner {
            database,
            side,
            limits,
            inserting: Mutex::default(),
            usage: Mutex::default(),
            groups: Mutex::default(),
            busy: Mutex::default(),
            siblings: Mutex::default(),
            looked_at: Mutex::default(),
            tasks: TaskTracker::new(),
        }))
    }

    pub(super) fn database(&self) -> &Database {
        &self.0.database
    }

    pub(super) fn side(&self) -> Side {
        self.0.side
    }

    /// Of the side, in the tables.
    pub(super) fn number(&self) -> i16 {
        number(self.0.side)
    }

    pub(super) fn host(&self) -> Uuid {
        self.0.database.0.host
    }

    pub(super) fn lane(&self, binding: &str, conversation: &str) -> LaneKey {
        LaneKey { side: self.number(), binding: binding.to_owned(), lane: digest(conversation.as_bytes()) }
    }

    pub(super) fn siblings(&self) -> MutexGuard<'_, Siblings> {
        self.0.siblings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn looked_at(&self) -> MutexGuard<'_, HashMap<String, LookedAt>> {
        self.0.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inserting(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.0.inserting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the event may have been read before its callback has run.
    pub(super) fn is_inserting(&self, seq: i64) -> bool {
        self.inserting().contains(&seq)
    }

    pub(super) fn busy(&self) -> MutexGuard<'_, Vec<LaneKey>> {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The conversations from which this host delivers, or is about to. What it takes on lease is in one of both before that
    /// is to be seen in the database, and until its delivery has ended; looked at in the order in which it goes on.
    pub(super) fn under_way(&self) -> Vec<LaneKey> {
        let mut lanes = self.busy().clone();
        lanes.extend(self.0.database.held().values().cloned());
        lanes
    }

    pub(super) fn place(&self) -> Place {
        Place::in_database(self.0.side, &self.0.database.0.name)
    }

    pub(super) fn error(&self, fault: Fault) -> QueueError {
        QueueError::Database { place: self.place(), reason: fault.into_reason() }
    }

    /// After [`Storage::close`], nothing is begun.
    fn check(&self) -> Result<(), QueueError> {
        if self.0.tasks.is_closed() { Err(QueueError::Stopped) } else { Ok(()) }
    }

    /// What goes wrong is an error that names the database.
    async fn answer<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, QueueError> {
        self.check()?;
        work.await.map_err(|fault| self.error(fault))
    }

    /// The lane of an event that is under way here, or that is pending.
    pub(super) async fn lane_of(&self, session: &Session, seq: i64) -> Result<Option<LaneKey>, Fault> {
        let held = self.0.database.held().get(&seq).cloned();
        if held.is_some() {
            return Ok(held);
        }
        let sql = session
            .prepare_cached("SELECT binding, lane FROM events WHERE seq = $1 AND state IN ('pending', 'dead')")
            .await?;
        let Some(row) = session.query_opt(&sql, &[&seq]).await? else { return Ok(None) };
        let lane = row.try_get::<_, &[u8]>(1)?.try_into().unwrap_or_default();
        Ok(Some(LaneKey { side: self.number(), binding: row.try_get(0)?, lane }))
    }

    async fn end_one(&self, seq: i64, end: &End, here: u64) -> Result<(), Fault> {
        self.0
            .database
            .run_again(|session| async move {
                let Some(lane) = self.lane_of(&session, seq).await? else {
                    session.done();
                    return Ok(());
                };
                let (pause, suffers) = match end {
                    End::Failed { due, suffers, .. } => (moved(*due, here, 0).max(0), *suffers),
                    End::Delivered(_) | End::Refused(_) => (0, false),
                };
                let change = Change::prepare(&session, end).await?;
                let settle = Settle::prepare(&session).await?;
                // All at once, each after the other: one way to the database and back. What fails undoes all.
                tokio::try_join!(
                    biased;
                    async { Ok(session.batch_execute("BEGIN").await?) },
                    settle.lock(&session, &lane),
                    change.run(&session, seq, end),
                    settle.run(&session, &lane, self.host(), Some(seq), pause, suffers),
                    async { Ok(session.batch_execute("COMMIT").await?) },
                )?;
                session.done();
                Ok(())
            })
            .await?;
        self.0.database.held().remove(&seq);
        Ok(())
    }

    pub(super) async fn refuse(&self, seq: i64, error: &str) -> Result<(), Fault> {
        self.end_one(seq, &End::Refused(error.to_owned()), 0).await
    }

    /// In a transaction of its own.
    pub(super) async fn settle_alone(&self, lane: &LaneKey) -> Result<(), Fault> {
        self.0
            .database
            .run_again(|session| async move {
                let settle = Settle::prepare(&session).await?;
                session.batch_execute("BEGIN").await?;
                settle.lock(&session, lane).await?;
                settle.run(&session, lane, self.host(), None, 0, false).await?;
                session.batch_execute("COMMIT").await?;
                session.done();
                Ok(())
            })
            .await
    }

    /// Makes some of what is too old dead. Returns how many.
    async fn expire(&self, is_early: bool) -> Result<usize, Fault> {
        // In order, so that the planner takes the index and does not look for some among all.
        let (condition, limit, reason) = if is_early {
            ("expires_at IS NOT NULL AND expires_at <= (SELECT now_ms()) - $2 ORDER BY expires_at", 0, EXPIRED)
        } else {
            let max_age = stored(self.0.limits.max_age_ms());
            (
                "coalesce(retried_at, accepted_at) < (SELECT now_ms()) - $2 ORDER BY coalesce(retried_at, accepted_at)",
                max_age,
                self.0.side.too_old(),
            )
        };
        let sql = format!(
            "SELECT seq, binding, lane FROM events WHERE side = $1 AND state = 'pending' AND {condition} LIMIT {TIDIED_AT_ONCE}"
        );
        self.0
            .database
            .run_again(|session| {
                let sql = &sql;
                async move {
                    let sql = session.prepare_cached(sql).await?;
                    let rows = session.query(&sql, &[&self.number(), &limit]).await?;
                    let mut seqs: Vec<i64> = Vec::new();
                    let (mut bindings, mut lanes): (Vec<String>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
                    for row in &rows {
                        seqs.push(row.try_get(0)?);
                        bindings.push(row.try_get(1)?);
                        lanes.push(row.try_get(2)?);
                    }
                    if !seqs.is_empty() {
                        session.batch_execute("BEGIN").await?;
                        lock_all(&session, self.number(), &bindings, &lanes).await?;
                        let die = "UPDATE events SET state = 'dead', finished_at = now_ms(), last_error = $2,
                                 untold = (side = 1), telling_until = 0
                             WHERE seq = ANY ($1) AND state = 'pending'";
                        session.execute(die, &[&seqs, &reason]).await?;
                        settle_all(&session, self.number(), &bindings, &lanes).await?;
                        session.batch_execute("COMMIT").await?;
                    }
                    session.done();
                    Ok(seqs.len())
                }
            })
            .await
    }

    /// Removes some of what was kept for long enough. Returns how many.
    async fn purge(&self) -> Result<u64, Fault> {
        let sql = format!(
            "DELETE FROM events WHERE seq = ANY (ARRAY(
                 SELECT seq FROM events WHERE side = $1 AND state = 'delivered' AND finished_at < (SELECT now_ms()) - $2
                 ORDER BY finished_at LIMIT {TIDIED_AT_ONCE} FOR UPDATE SKIP LOCKED
             ))"
        );
        self.0
            .database
            .run(async |session| {
                let sql = session.prepare_cached(&sql).await?;
                let removed = session.execute(&sql, &[&self.number(), &stored(KEPT_MS)]).await?;
                session.done();
                Ok(removed)
            })
            .await
    }

    async fn count(&self) -> Result<Counts, Fault> {
        let sql = "SELECT (SELECT count(*) FROM events WHERE side = $1 AND state = 'pending'),
                 (SELECT count(*) FROM events WHERE side = $1 AND state = 'dead')";
        self.0
            .database
            .run(async |session| {
                let sql = session.prepare_cached(sql).await?;
                let row = session.query_one(&sql, &[&self.number()]).await?;
                session.done();
                Ok(Counts { pending: read(row.try_get(0)?), dead: read(row.try_get(1)?) })
            })
            .await
    }

    /// For how many milliseconds the oldest has waited.
    async fn longest_wait(&self) -> Result<Option<u64>, Fault> {
        let sql = "SELECT now_ms() - min(coalesce(retried_at, accepted_at)) FROM events WHERE side = $1 AND state = 'pending'";
        self.0
            .database
            .run(async |session| {
                let sql = session.prepare_cached(sql).await?;
                let wait: Option<i64> = session.query_one(&sql, &[&self.number()]).await?.try_get(0)?;
                session.done();
                Ok(wait.map(read))
            })
            .await
    }

    /// What this host has is everybody's.
    async fn release(&self) -> Result<(), Fault> {
        let own = |_: &i64, lane: &mut LaneKey| lane.side == self.number();
        let lanes: Vec<LaneKey> = self.0.database.held().extract_if(own).map(|(_, lane)| lane).collect();
        if lanes.is_empty() {
            return Ok(());
        }
        let (bindings, keys): (Vec<&str>, Vec<&[u8]>) =
            lanes.iter().map(|lane| (lane.binding.as_str(), lane.lane.as_slice())).unzip();
        let sql = "UPDATE lanes SET owner = NULL, leased_until = 0 FROM unnest($3::text[], $4::bytea[]) AS held (binding, lane)
             WHERE lanes.side = $1 AND owner = $2 AND lanes.binding = held.binding AND lanes.lane = held.lane";
        self.0
            .database
            .run(async |session| {
                session.execute(sql, &[&self.number(), &self.host(), &bindings, &keys]).await?;
                session.done();
                Ok(())
            })
            .await
    }
}

/// Of the side, in the tables.
pub(super) fn number(side: Side) -> i16 {
    match side {
        Side::Inbox => 0,
        Side::Outbox => 1,
    }
}

/// Statements for what came of a delivery.
enum Change {
    Clear(Clear),
    Note(Statement),
}

impl Change {
    async fn prepare(session: &Session, end: &End) -> Result<Self, Fault> {
        Ok(match end {
            End::Delivered(_) => Self::Clear(Clear::prepare(session).await?),
            End::Refused(_) => Self::Note(session.prepare_cached(DIE).await?),
            End::Failed { .. } => Self::Note(session.prepare_cached(FAIL).await?),
        })
    }

    async fn run(&self, session: &Session, seq: i64, end: &End) -> Result<(), Fault> {
        match (self, end) {
            (Self::Clear(clear), End::Delivered(reply)) => {
                {
                    // Or dead, because its time ran out while it was being delivered.
                    clear.run(session, seq, reply.as_deref(), &["pending", "dead"]).await
                }
            }
            (Self::Note(note), End::Refused(error) | End::Failed { error, .. }) => {
                session.execute(note, &[&seq, &text(error)]).await?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Statements that leave of an event what a repetition needs: nothing, if it has no identifier.
pub(super) struct Clear {
    clear: Statement,
    remove: Statement,
}

impl Clear {
    pub(super) async fn prepare(session: &Session) -> Result<Self, Fault> {
        let (clear, remove) = tokio::try_join!(session.prepare_cached(CLEAR), session.prepare_cached(REMOVE))?;
        Ok(Self { clear, remove })
    }

    pub(super) async fn run(
        &self,
        session: &Session,
        seq: i64,
        reply: Option<&[u8]>,
        states: &[&str],
    ) -> Result<(), Fault> {
        let size = stored(ROW_BYTES + reply.map_or(0, <[u8]>::len) as u64);
        tokio::try_join!(
            biased;
            async { session.execute(&self.clear, &[&seq, &reply, &size, &states]).await },
            async { session.execute(&self.remove, &[&seq, &states]).await },
        )?;
        Ok(())
    }
}

impl Storage for Events {
    fn insert(&self, items: Vec<Item>, now: u64, then: Then) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            self.check()?;
            match <[Item; 1]>::try_from(items) {
                Ok([item]) => self.insert_with_others(item, now, then).await,
                Err(items) => {
                    let task = self.0.tasks.spawn(self.clone().insert_whole(items, now, then));
                    task.await.unwrap_or(Err(QueueError::Stopped))
                }
            }
        })
    }

    fn due(&self, room: Room, now: u64) -> BoxFuture<'_, Result<Due, QueueError>> {
        Box::pin(async move { self.answer(self.look(&room, now)).await })
    }

    fn pass_on(&self, _: u64) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn end(&self, seq: i64, end: End, now: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move { self.answer(self.end_one(seq, &end, now)).await })
    }

    fn front(&self, seq: i64, beyond: usize, _: u64) -> BoxFuture<'_, Result<Vec<(i64, Bytes)>, QueueError>> {
        Box::pin(async move { self.answer(self.front_of(seq, beyond)).await })
    }

    fn unite(&self, seqs: Vec<i64>, data: Bytes, _: u64) -> BoxFuture<'_, Result<bool, QueueError>> {
        Box::pin(async move { self.answer(self.unite_all(&seqs, &data)).await })
    }

    fn forget_reply(&self, seq: i64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(self.answer(self.0.database.run(async move |session| {
            let sql = session.prepare_cached("UPDATE events SET reply = NULL WHERE seq = $1").await?;
            session.execute(&sql, &[&seq]).await?;
            session.done();
            Ok(())
        })))
    }

    fn wake(&self, which: Wake, _: u64) -> BoxFuture<'_, Result<bool, QueueError>> {
        Box::pin(async move { self.answer(self.wake_some(&which)).await })
    }

    fn tidy(&self, _: u64) -> BoxFuture<'_, Result<Tidied, QueueError>> {
        Box::pin(self.answer(async {
            let mut expired = self.expire(false).await?;
            if self.0.side == Side::Outbox {
                expired += self.expire(true).await?;
            }
            let removed = self.purge().await? + self.0.database.forget_posts().await?;
            Ok(Tidied { expired, more: expired > 0 || removed > 0 })
        }))
    }

    fn letters(&self, except: Vec<String>) -> BoxFuture<'_, Result<Vec<DeadLetter>, QueueError>> {
        Box::pin(async move { self.answer(self.untold(&except)).await })
    }

    fn told(&self, seq: i64, died_at: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move { self.answer(self.is_told(seq, died_at)).await })
    }

    fn passed_over(&self) -> BoxFuture<'_, usize> {
        Box::pin(async { 0 })
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts, QueueError>> {
        Box::pin(self.answer(self.count()))
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Option<u64>, QueueError>> {
        Box::pin(async move {
            let wait = self.answer(self.longest_wait()).await?;
            Ok(wait.map(|wait| (self.0.database.0.clock)().saturating_sub(wait)))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.0.tasks.close();
            self.0.tasks.wait().await;
            if let Err(fault) = self.release().await {
                let (side, reason) = (self.0.side, fault.into_reason());
                tracing::warn!(reason, "what the {side} was delivering goes to other hosts some seconds later");
            }
            self.0.database.flush().await;
        })
    }
}
