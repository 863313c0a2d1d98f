//! Posts, closings and months of all hosts: never more messages to a robot than its rate allows, whoever sends them.
//!
//! A post counts from before it begins until one window after its end, as in [`crate::gate`]. Of one whose end nobody has noted:
//! while its host is alive, and from the end of the host's lease as long as a message may be late, and one window more.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::pool::{Fault, Session};
use super::{Database, Inner, LEASE_MS, read, stored};
use crate::event::BoxFuture;
use crate::gate::LATE_MS;
use crate::gate::ledger::{Claim, Claimed, Intent, Known, Ledger, Unclaimed};
use crate::gate::lesson::{Closing, Kind, Lesson};
use crate::gate::quota;
use crate::quiet::Quiet;

/// For how long a robot's row is kept that nobody posts to: longer than anything counts.
const FORGOTTEN_MS: i64 = 4 * 60 * 60 * 1_000;

/// What lies further ahead than that was written by a clock that went wrong: no closing is longer.
const FAR_MS: i64 = 2 * 60 * 60 * 1_000;

/// Posts without a meaning that are removed with each that is added: more than one, so that they become fewer.
const REMOVED_AT_ONCE: i64 = 8;

/// Ends that one transaction notes.
const NOTED_AT_ONCE: usize = 200;

/// The pause after ends could not be noted.
const AGAIN: Duration = Duration::from_secs(1);

/// For those that are left when the database is let go of.
const FLUSH: Duration = Duration::from_secs(3);

/// Waits for the robot's turn, and says what is known of it.
const LOCK_ROBOT: &str = "INSERT INTO robots (robot, gone_at, counts_for) VALUES ($1, now_ms() + $2, $3)
     ON CONFLICT (robot) DO UPDATE SET gone_at = greatest(robots.gone_at, excluded.gone_at),
         counts_for = greatest(robots.counts_for, excluded.counts_for)
     RETURNING now_ms(), shut_until, closing, counts_for";

/// Of the posts that count, from the one that counts for longest: when number $5 of them does not any more. $2 is the window,
/// $3 how late a message may be, $4 the present, $6 how long a lease is. When one ends that is under way is not known: now, at
/// the earliest. A clock that was set back lets nothing count for ever.
const FULL_UNTIL: &str = "SELECT least(until, $4::int8 + $2::int8) FROM (
         SELECT CASE WHEN ended_at IS NOT NULL THEN least(ended_at, $4::int8 + $3::int8) + $2::int8
             ELSE least(greatest(begun_at, coalesce(hosts.leased_until, 0)), $4::int8 + $6::int8) + $3::int8 + $2::int8
             END AS until
         FROM posts LEFT JOIN hosts ON hosts.id = posts.host WHERE posts.robot = $1
     ) AS counting WHERE until > $4::int8 ORDER BY until DESC OFFSET $5 LIMIT 1";

const ADD_POSTS: &str = "INSERT INTO posts (robot, host, begun_at, counts_for)
     SELECT $1, $2, now_ms(), $3 FROM generate_series(1, $4::int4) RETURNING id";

const LOCK_QUOTA: &str = "INSERT INTO quotas (name, month, used) VALUES ($1, $2, 0)
     ON CONFLICT (name, month) DO UPDATE SET used = quotas.used RETURNING used";

const REMOVE_POSTS: &str = "DELETE FROM posts WHERE id = ANY (ARRAY(
         SELECT id FROM posts WHERE gone_at <= (SELECT now_ms()) ORDER BY gone_at LIMIT $1 FOR UPDATE SKIP LOCKED))";

/// The ledger in a database.
pub(in crate::queue) struct Posts(Database);

impl Posts {
    pub(in crate::queue) fn new(database: Database) -> Self {
        Self(database)
    }
}

/// A post that has ended.
#[derive(Clone)]
struct Ended {
    claim: Claim,
    lesson: Lesson,
    at: Instant,
}

/// What posts came to, until it is noted. As many as there were posts while the database was there: none begins without it.
#[derive(Default)]
pub(super) struct Ends {
    waiting: Mutex<Vec<Ended>>,
    more: Notify,
    /// Told when all are noted.
    none: Notify,
}

impl Ends {
    fn add(&self, claim: Claim, lesson: Lesson) {
        let ended = Ended { claim, lesson, at: Instant::now() };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
        self.more.notify_one();
    }

    fn first(&self) -> Vec<Ended> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().take(NOTED_AT_ONCE).cloned().collect()
    }

    /// Only one task takes any.
    fn noted(&self, count: usize) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..count);
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// What came of a claim's transaction.
enum Decided {
    Claimed(Claimed),
    Not(Unclaimed),
}

impl Ledger for Posts {
    fn claim(&self, intent: Intent) -> BoxFuture<'_, Result<Claimed, Unclaimed>> {
        let (sender, claimed) = oneshot::channel();
        let database = self.0.clone();
        // In a task of its own: whoever asked may have gone when it is noted, and the post would be under way for ever.
        tokio::spawn(async move {
            if let Err(Ok(Claimed { posts, .. })) = sender.send(database.claim(&intent).await) {
                posts.into_iter().for_each(|claim| database.0.ends.add(claim, Lesson::Unsent));
            }
        });
        Box::pin(async { claimed.await.unwrap_or_else(|_| Err(Unclaimed::Unavailable("the host stops".into()))) })
    }

    fn end(&self, claim: Claim, lesson: &Lesson) {
        self.0.0.ends.add(claim, lesson.clone());
    }

    fn known(&self) -> BoxFuture<'_, Result<Vec<Known>, String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

impl Database {
    async fn claim(&self, intent: &Intent) -> Result<Claimed, Unclaimed> {
        let mut attempt = 1;
        loop {
            let mut posts = Vec::new();
            let fault = match self.run(|session| self.try_claim(session, intent, &mut posts)).await {
                Ok(Decided::Claimed(claimed)) => return Ok(claimed),
                Ok(Decided::Not(unclaimed)) => return Err(unclaimed),
                Err(fault) => fault,
            };
            // Nobody knows whether they are there.
            posts.into_iter().for_each(|claim| self.0.ends.add(claim, Lesson::Unsent));
            if !matches!(fault, Fault::Conflict(_)) || attempt >= super::ATTEMPTS {
                return Err(Unclaimed::Unavailable(format!("{} {}", self.0.name, fault.into_reason())));
            }
            attempt += 1;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
        }
    }

    async fn try_claim(&self, session: Session, intent: &Intent, claims: &mut Vec<Claim>) -> Result<Decided, Fault> {
        let (lock, full, add) = tokio::try_join!(
            session.prepare_cached(LOCK_ROBOT),
            session.prepare_cached(FULL_UNTIL),
            session.prepare_cached(ADD_POSTS),
        )?;
        let lock_quota = session.prepare_cached(LOCK_QUOTA).await?;
        let robot = intent.robot.as_slice();
        let counts_for = i64::from(intent.rates.iter().map(|rate| rate.window_ms()).fold(intent.counts_for, u32::max));
        let (_, row) = tokio::try_join!(
            biased;
            session.batch_execute("BEGIN"),
            async { session.query_one(&lock, &[&robot, &FORGOTTEN_MS, &counts_for]).await },
        )?;
        let (now, shut_until): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (closing, counts_for): (Option<&str>, i64) = (row.try_get(2)?, row.try_get(3)?);
        let mut refused = None;
        if !intent.rates.is_empty()
            && shut_until > now
            && shut_until < now.saturating_add(FAR_MS)
            && let Some(closing) = closing.and_then(Closing::from_text)
        {
            refused = Some(Unclaimed::Shut(closing, read(shut_until.saturating_sub(now))));
        }
        for rate in &intent.rates {
            if refused.is_some() {
                break;
            }
            let window = i64::from(rate.window_ms());
            let others = i64::from(rate.count()) - i64::from(intent.messages);
            if others < 0 {
                refused = Some(Unclaimed::Full(read(window)));
            } else {
                let until =
                    session.query_opt(&full, &[&robot, &window, &stored(LATE_MS), &now, &others, &LEASE_MS]).await?;
                if let Some(until) = until {
                    refused = Some(Unclaimed::Full(read(until.try_get::<_, i64>(0)?.saturating_sub(now))));
                }
            }
        }
        let (month, mut used) = (quota::month(read(now)), None);
        if refused.is_none()
            && let Some(quota) = &intent.quota
        {
            let before: i64 = session.query_one(&lock_quota, &[&quota.name(), &month]).await?.try_get(0)?;
            if quota.allows(read(before), intent.messages, intent.is_urgent) {
                used = Some(read(before) + u64::from(intent.messages));
            } else {
                refused = Some(Unclaimed::Spent(read(before), quota::rest_of_month(read(now))));
            }
        }
        if let Some(refused) = refused {
            session.batch_execute("ROLLBACK").await?;
            session.done();
            return Ok(Decided::Not(refused));
        }
        if let (Some(quota), Some(used)) = (&intent.quota, used) {
            let count = session.prepare_cached("UPDATE quotas SET used = $3 WHERE name = $1 AND month = $2").await?;
            session.execute(&count, &[&quota.name(), &month, &stored(used)]).await?;
        }
        if let Some(seq) = intent.queued {
            let tried = session.prepare_cached("UPDATE events SET tried = true WHERE seq = $1 AND NOT tried").await?;
            session.execute(&tried, &[&seq]).await?;
        }
        let rows = session.query(&add, &[&robot, &self.0.host, &counts_for, &i32::from(intent.messages)]).await?;
        for row in rows {
            let counted = intent.quota.as_ref().map(|quota| (quota.name().to_owned(), month.clone()));
            claims.push(Claim { id: row.try_get(0)?, robot: intent.robot, counted });
        }
        session.batch_execute("COMMIT").await?;
        session.done();
        Ok(Decided::Claimed(Claimed { posts: std::mem::take(claims), used }))
    }

    /// Notes what posts came to: robots first and then months, as [`Self::try_claim`] locks them.
    async fn note(&self, session: Session, ends: &[Ended]) -> Result<(), Fault> {
        let ago = |ended: &Ended| i64::try_from(ended.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        session.batch_execute("BEGIN").await?;
        let mut closings: Vec<(&Ended, &Closing)> = ends
            .iter()
            .filter_map(|ended| match &ended.lesson {
                // What is wrong with a binding's settings is its own matter.
                Lesson::Shut(closing) if closing.kind != Kind::Configuration => Some((ended, closing)),
                _ => None,
            })
            .collect();
        closings.sort_by_key(|(ended, _)| ended.claim.robot);
        for (ended, closing) in closings {
            let sql =
                "INSERT INTO robots (robot, gone_at, shut_until, closing) VALUES ($1, now_ms() + $2, now_ms() + $3, $4)
                 ON CONFLICT (robot) DO UPDATE SET gone_at = greatest(robots.gone_at, excluded.gone_at),
                     shut_until = excluded.shut_until, closing = excluded.closing
                     WHERE excluded.shut_until > robots.shut_until OR robots.shut_until > now_ms() + $5";
            let sql = session.prepare_cached(sql).await?;
            let pause = i64::try_from(closing.pause.as_millis()).unwrap_or(i64::MAX).saturating_sub(ago(ended));
            session
                .execute(
                    &sql,
                    &[&ended.claim.robot.as_slice(), &FORGOTTEN_MS, &pause.max(0), &closing.to_text(), &FAR_MS],
                )
                .await?;
        }
        let is_unsent = |ended: &&Ended| ended.lesson == Lesson::Unsent;
        let unsent: Vec<i64> = ends.iter().filter(is_unsent).map(|ended| ended.claim.id).collect();
        let sent: Vec<&Ended> = ends.iter().filter(|ended| !is_unsent(ended)).collect();
        let ids: Vec<i64> = sent.iter().map(|ended| ended.claim.id).collect();
        let late = |ended: &Ended| if ended.lesson == Lesson::Unknown { stored(LATE_MS) } else { 0 };
        let agos: Vec<i64> = sent.iter().map(|ended| ago(ended).saturating_sub(late(ended))).collect();
        let remove =
            session.prepare_cached("DELETE FROM posts WHERE id = ANY ($1) AND ended_at IS NULL RETURNING id").await?;
        let end = "UPDATE posts SET ended_at = now_ms() - ended.ago, gone_at = now_ms() - ended.ago + counts_for
             FROM unnest($1::int8[], $2::int8[]) AS ended (id, ago)
             WHERE posts.id = ended.id AND posts.ended_at IS NULL RETURNING posts.id";
        let end = session.prepare_cached(end).await?;
        // What was noted before, by an attempt that seemed to fail, is not noted again.
        let mut noted: Vec<i64> = Vec::new();
        for row in session.query(&remove, &[&unsent]).await?.iter().chain(&session.query(&end, &[&ids, &agos]).await?) {
            noted.push(row.try_get(0)?);
        }
        // DingTalk counts no message that it refuses for another reason than its content.
        let is_uncounted = |ended: &&Ended| {
            matches!(ended.lesson, Lesson::Unsent | Lesson::Shut(_)) && noted.contains(&ended.claim.id)
        };
        let mut months: Vec<&(String, String)> =
            ends.iter().filter(is_uncounted).filter_map(|ended| ended.claim.counted.as_ref()).collect();
        months.sort_unstable();
        for same in months.chunk_by(|a, b| a == b) {
            let Some((name, month)) = same.first() else { continue };
            let sql = session
                .prepare_cached("UPDATE quotas SET used = greatest(used - $3, 0) WHERE name = $1 AND month = $2")
                .await?;
            session.execute(&sql, &[name, month, &i64::try_from(same.len()).unwrap_or(0)]).await?;
        }
        let remove = session.prepare_cached(REMOVE_POSTS).await?;
        session.execute(&remove, &[&(REMOVED_AT_ONCE * i64::try_from(ends.len()).unwrap_or(1))]).await?;
        session.batch_execute("COMMIT").await?;
        session.done();
        Ok(())
    }

    /// Waits until what posts came to is noted, for some seconds.
    pub(super) async fn flush(&self) {
        let flushed = async {
            loop {
                let none = self.0.ends.none.notified();
                if self.0.ends.is_empty() {
                    return;
                }
                none.await;
            }
        };
        if tokio::time::timeout(FLUSH, flushed).await.is_err() {
            tracing::warn!("{} cannot be told what some posts came to; they count for longer", self.0.name);
        }
    }

    /// Removes some of what has no meaning any more. Returns how much.
    pub(super) async fn forget_posts(&self) -> Result<u64, Fault> {
        // Of hosts that are gone: nobody will note their end.
        let orphans = "DELETE FROM posts WHERE id = ANY (ARRAY(
                 SELECT posts.id FROM posts LEFT JOIN hosts ON hosts.id = posts.host
                 WHERE ended_at IS NULL
                     AND greatest(begun_at, coalesce(hosts.leased_until, 0)) + counts_for + $1 <= (SELECT now_ms())
                 ORDER BY posts.id LIMIT 500 FOR UPDATE OF posts SKIP LOCKED))";
        let robots = "DELETE FROM robots WHERE robot = ANY (ARRAY(
                 SELECT robot FROM robots WHERE gone_at <= (SELECT now_ms()) AND shut_until <= (SELECT now_ms())
                 ORDER BY gone_at LIMIT 500 FOR UPDATE SKIP LOCKED))";
        // A year back is enough for whoever wants to know.
        let months = "DELETE FROM quotas WHERE month < to_char(to_timestamp(now_ms() / 1000.0) - interval '13 months', 'YYYY-MM')";
        self.run(async |session| {
            let orphans = session.execute(orphans, &[&(2 * stored(LATE_MS))]).await?;
            let gone = session.execute(REMOVE_POSTS, &[&500_i64]).await?;
            let robots = session.execute(robots, &[]).await?;
            session.execute(months, &[]).await?;
            session.done();
            Ok(orphans + gone + robots)
        })
        .await
    }
}

/// Notes ends until the database is let go of.
pub(super) async fn keep(database: Weak<Inner>, gone: CancellationToken) {
    let quiet = Quiet::default();
    loop {
        let Some(inner) = database.upgrade() else { return };
        let database_now = Database(inner);
        let ends = database_now.0.ends.first();
        let mut pause = None;
        if !ends.is_empty() {
            match database_now.run(|session| database_now.note(session, &ends)).await {
                Ok(()) => {
                    database_now.0.ends.noted(ends.len());
                    continue;
                }
                Err(fault) => {
                    pause = Some(AGAIN);
                    if let Some(more) = quiet.count("ends") {
                        let reason = fault.into_reason();
                        tracing::error!(more, "{} {reason}; what posts came to is noted later", database_now.0.name);
                    }
                }
            }
        } else {
            database_now.0.ends.none.notify_waiters();
        }
        let ends = Arc::clone(&database_now.0.ends);
        drop(database_now);
        tokio::select! {
            () = gone.cancelled() => return,
            () = tokio::time::sleep(pause.unwrap_or(Duration::MAX)) => {}
            () = ends.more.notified(), if pause.is_none() => {}
        }
    }
}
