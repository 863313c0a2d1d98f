//! Messages that wait become one.

use bytes::Bytes;
use tokio_postgres::Row;

use super::events::{CLEAR, Events, REMOVE, ROW_BYTES};
use super::lanes::FREE;
use super::lease::LaneKey;
use super::pool::{Fault, Session};
use super::settle::{lock_all, settle_all};
use super::stored;
use crate::event::{DEAD_LETTER, digest};
use crate::queue::store::{MOST_BYTES, MOST_LANES, MOST_READ, MOST_UNITED};

/// How many wait for the binding of $2, up to $3.
const WAITING: &str = "SELECT count(*) FROM (SELECT FROM events WHERE side = $1 AND state = 'pending'
         AND binding = (SELECT binding FROM events WHERE seq = $2) LIMIT $3) AS waiting";

/// Conversations beside that of $1 whose first message has the same rank and could be delivered now, the longest due first. $2 is
/// this host, $3 are the conversations from which it delivers, $4 is that of answers to dead letters: nobody is told that one of
/// them was given up, so that nothing becomes one with them.
const BESIDE: &str = "SELECT lanes.lane FROM events AS this CROSS JOIN (SELECT now_ms() AS now OFFSET 0) AS clock CROSS JOIN LATERAL (
         SELECT lane, due, id FROM lanes
         WHERE side = this.side AND binding = this.binding AND rank = this.rank AND due <= clock.now AND lane <> this.lane
             AND this.lane <> $4 AND lane <> $4 AND NOT lane = ANY ($3) AND {FREE}
             AND (behind IS NULL OR behind = $1 OR NOT EXISTS (
                 SELECT FROM events AS before WHERE before.seq = lanes.behind AND before.state = 'pending'))
         ORDER BY due, id LIMIT $5
     ) AS lanes WHERE this.seq = $1 ORDER BY lanes.due, lanes.id";

/// What is pending in the conversation of $1, and in each of $2, in its order: the first $3 of each.
const FRONT: &str = "SELECT given.nth, front.seq, front.is_fit, front.length FROM events AS this
         CROSS JOIN LATERAL unnest(array_prepend(this.lane, $2::bytea[])) WITH ORDINALITY AS given (lane, nth)
         CROSS JOIN LATERAL (
             SELECT seq, NOT tried AND attempts = 0 AND expires_at IS NULL AND rank = this.rank AND {LEADS} AS is_fit,
                 length(data)::int8 AS length
             FROM events
             WHERE side = this.side AND binding = this.binding AND lane = given.lane AND state = 'pending'
             ORDER BY rank DESC, seq LIMIT $3
         ) AS front
     WHERE this.seq = $1 AND this.state = 'pending' ORDER BY given.nth, front.seq";

const READ: &str = "SELECT data FROM unnest($1::int8[]) WITH ORDINALITY AS given (seq, nth)
         JOIN events ON events.seq = given.seq ORDER BY given.nth";

/// How many of these are fit, and come first in their conversations but for others of these. $2 is the binding.
const ARE_FIRST: &str = "SELECT coalesce(sum(found.number), 0)::int8 FROM (
         SELECT lane, array_agg(seq) AS seqs, count(*) AS number FROM events
         WHERE seq = ANY ($1) AND side = $3 AND binding = $2 AND state = 'pending'
             AND NOT tried AND attempts = 0 AND expires_at IS NULL AND {LEADS}
             AND rank = (SELECT rank FROM events AS first WHERE first.seq = ($1::int8[])[1])
         GROUP BY lane
     ) AS given CROSS JOIN LATERAL (
         SELECT count(*) AS number FROM (
             SELECT seq FROM events WHERE side = $3 AND binding = $2 AND lane = given.lane AND state = 'pending'
             ORDER BY rank DESC, seq LIMIT given.number
         ) AS first WHERE first.seq = ANY (given.seqs)
     ) AS found";

/// Whether this host, $4, has the conversation $3 on lease, nobody else one of $5, and none of those waits for another message
/// than $6.
const ARE_FREE: &str = "SELECT EXISTS (
             SELECT FROM lanes WHERE side = $1 AND binding = $2 AND lane = $3 AND owner = $4 AND leased_until > now_ms()
         ) AND NOT EXISTS (
             SELECT FROM lanes WHERE side = $1 AND binding = $2 AND lane = ANY ($5) AND (
                 owner <> $4 AND leased_until > now_ms()
                 OR behind <> $6 AND EXISTS (SELECT FROM events WHERE seq = lanes.behind AND state = 'pending')
             )
         )";

/// Whether an event, if it says what others do, need not wait for what is more urgent in one of their conversations.
const LEADS: &str = "NOT EXISTS (SELECT FROM lanes AS behind WHERE behind.behind = events.seq AND EXISTS (
         SELECT FROM events AS more WHERE more.side = behind.side AND more.binding = behind.binding
             AND more.lane = behind.lane AND more.state = 'pending' AND more.rank > events.rank))";

/// A message that waits, where it may become one with others.
struct Waiting {
    /// Of which of the conversations that were asked for.
    nth: i64,
    seq: i64,
    is_fit: bool,
    bytes: usize,
}

impl Waiting {
    fn of(row: &Row) -> Result<Self, Fault> {
        let bytes = usize::try_from(row.try_get::<_, i64>(3)?).unwrap_or(usize::MAX);
        Ok(Self { nth: row.try_get(0)?, seq: row.try_get(1)?, is_fit: row.try_get(2)?, bytes })
    }
}

/// Of the first ones of some conversations, those that may become one, `seq` first.
fn fitting(waiting: Vec<Waiting>, seq: i64) -> Vec<i64> {
    let mut ended = None;
    let is_fit = |waiting: &Waiting| {
        if !waiting.is_fit {
            ended = Some(waiting.nth);
        }
        ended != Some(waiting.nth)
    };
    let mut front: Vec<Waiting> = waiting.into_iter().filter(is_fit).collect();
    if front.first().is_none_or(|first| first.seq != seq) {
        return Vec::new();
    }
    front.sort_by_key(|waiting| (waiting.seq != seq, waiting.seq));
    let mut bytes = 0_usize;
    let fits = |waiting: &Waiting| {
        bytes = bytes.saturating_add(waiting.bytes);
        bytes <= MOST_BYTES
    };
    front.into_iter().take(MOST_UNITED).take_while(fits).map(|waiting| waiting.seq).collect()
}

impl Events {
    /// See [`crate::queue::storage::Storage::front`].
    pub(super) async fn front_of(&self, seq: i64, beyond: usize) -> Result<Vec<(i64, Bytes)>, Fault> {
        self.database()
            .run(async |session| {
                let waiting = session.prepare_cached(WAITING).await?;
                let beyond = i64::try_from(beyond).unwrap_or(i64::MAX);
                let count: i64 = session
                    .query_one(&waiting, &[&self.number(), &seq, &beyond.saturating_add(1)])
                    .await?
                    .try_get(0)?;
                let front = if count > beyond { self.read_front(&session, seq).await? } else { Vec::new() };
                session.done();
                Ok(front)
            })
            .await
    }

    async fn read_front(&self, session: &Session, seq: i64) -> Result<Vec<(i64, Bytes)>, Fault> {
        let beside = session.prepare_cached(&BESIDE.replace("{FREE}", FREE)).await?;
        let Some(own) = self.lane_of(session, seq).await? else { return Ok(Vec::new()) };
        let is_beside = |lane: &LaneKey| lane.side == own.side && lane.binding == own.binding;
        let busy = self.under_way().into_iter().filter(is_beside);
        let busy: Vec<Vec<u8>> = busy.map(|lane| lane.lane.to_vec()).collect();
        let answers = digest(DEAD_LETTER.as_bytes());
        let most = i64::try_from(MOST_LANES).unwrap_or(i64::MAX);
        let rows = session.query(&beside, &[&seq, &self.host(), &busy, &answers.as_slice(), &most]).await?;
        let others: Vec<&[u8]> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        // Of one conversation as many as become one; of many, some of each.
        let each = (MOST_READ / (others.len() + 1)).clamp(1, MOST_UNITED);
        let each = i64::try_from(each).unwrap_or(i64::MAX);
        let front = session.prepare_cached(&FRONT.replace("{LEADS}", LEADS)).await?;
        let rows = session.query(&front, &[&seq, &others, &each]).await?;
        let mut waiting: Vec<Waiting> = rows.iter().map(Waiting::of).collect::<Result<_, _>>()?;
        let fit: Vec<i64> = waiting.iter().filter(|waiting| waiting.is_fit).map(|waiting| waiting.seq).collect();
        let behind = self.behind_siblings(session, &own, &fit).await?;
        waiting.iter_mut().for_each(|waiting| waiting.is_fit &= !behind.contains(&waiting.seq));
        let seqs = fitting(waiting, seq);
        let read = session.prepare_cached(READ).await?;
        let rows = session.query(&read, &[&seqs]).await?;
        // One may be gone since: what comes behind it may be of its conversation.
        if rows.len() != seqs.len() {
            return Ok(Vec::new());
        }
        let pair = |(seq, row): (i64, &Row)| Ok((seq, Bytes::copy_from_slice(row.try_get(0)?)));
        seqs.into_iter().zip(&rows).map(pair).collect()
    }

    /// See [`crate::queue::storage::Storage::unite`]. Only while this host has the first one's conversation on lease and no other host
    /// has one of theirs, which none can take before the end of the transaction.
    pub(super) async fn unite_all(&self, seqs: &[i64], data: &[u8]) -> Result<bool, Fault> {
        let Some((first, others)) = seqs.split_first() else { return Ok(false) };
        self.database()
            .run_again(|session| async move {
                let Some(own) = self.lane_of(&session, *first).await? else {
                    session.done();
                    return Ok(false);
                };
                let beside = self.lanes_of(&session, others, &own).await?;
                session.batch_execute("BEGIN").await?;
                let mut lanes = beside.clone();
                lanes.push(own.lane.to_vec());
                let bindings = vec![own.binding.clone(); lanes.len()];
                lock_all(&session, own.side, &bindings, &lanes).await?;
                let is_fit = self.may_unite(&session, seqs, &own, &beside).await?;
                if is_fit {
                    let put = session.prepare_cached("UPDATE events SET data = $2 WHERE seq = $1").await?;
                    session.execute(&put, &[first, &data]).await?;
                    let none: Option<&[u8]> = None;
                    let (size, pending) = (stored(ROW_BYTES), ["pending"].as_slice());
                    let all = |sql: &str| sql.replace("seq = $1", "seq = ANY ($1)");
                    let clear = session.prepare_cached(&all(CLEAR)).await?;
                    session.execute(&clear, &[&others, &none, &size, &pending]).await?;
                    let remove = session.prepare_cached(&all(REMOVE)).await?;
                    session.execute(&remove, &[&others, &pending]).await?;
                    // They wait for it now, and so do those that waited for one of them.
                    let wait = "UPDATE lanes SET behind = $1 WHERE behind = ANY ($2)
                             OR side = $3 AND binding = $4 AND lane = ANY ($5)";
                    let wait = session.prepare_cached(wait).await?;
                    session.execute(&wait, &[first, &others, &own.side, &own.binding, &beside]).await?;
                    let bindings = vec![own.binding.clone(); beside.len()];
                    settle_all(&session, own.side, &bindings, &beside).await?;
                }
                session.batch_execute("COMMIT").await?;
                session.done();
                Ok(is_fit)
            })
            .await
    }

    /// The conversations of these beside this one.
    async fn lanes_of(&self, session: &Session, seqs: &[i64], own: &LaneKey) -> Result<Vec<Vec<u8>>, Fault> {
        let sql = "SELECT DISTINCT lane FROM events WHERE seq = ANY ($1) AND side = $2 AND binding = $3 AND lane <> $4";
        let sql = session.prepare_cached(sql).await?;
        let rows = session.query(&sql, &[&seqs, &own.side, &own.binding, &own.lane.as_slice()]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Whether all is still so that these may become one, with their lanes locked.
    async fn may_unite(
        &self,
        session: &Session,
        seqs: &[i64],
        own: &LaneKey,
        beside: &[Vec<u8>],
    ) -> Result<bool, Fault> {
        let (side, binding, host) = (own.side, own.binding.as_str(), self.host());
        let are_first = session.prepare_cached(&ARE_FIRST.replace("{LEADS}", LEADS)).await?;
        let count: i64 = session.query_one(&are_first, &[&seqs, &binding, &side]).await?.try_get(0)?;
        let are_free = session.prepare_cached(ARE_FREE).await?;
        let free: bool = session
            .query_one(&are_free, &[&side, &binding, &own.lane.as_slice(), &host, &beside, &seqs.first()])
            .await?
            .try_get(0)?;
        // After the lock: whoever of this host takes a lane on lease says so before, and finds what is first in it after that.
        let is_busy = |lane: &LaneKey| {
            lane.side == own.side
                && lane.binding == own.binding
                && beside.iter().any(|key| key.as_slice() == lane.lane.as_slice())
        };
        let is_free = free && usize::try_from(count) == Ok(seqs.len()) && !self.under_way().iter().any(is_busy);
        Ok(is_free && self.behind_siblings(session, own, seqs).await?.is_empty())
    }
}
