//! Events on their way in: whether there is room for them, and whether they are known.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_postgres::Row;

use super::events::{Events, ROW_BYTES};
use super::lease::LaneKey;
use super::pool::{Fault, Session};
use super::settle::END_LANE;
use super::{NEAR_MS, moved, read, stored};
use crate::event::digest;
use crate::queue::storage::Then;
use crate::queue::store::{Item, Stored};
use crate::queue::{QueueError, Side};

/// How often is looked how much there is.
const LOOK: Duration = Duration::from_secs(10);

/// How much there is, of all hosts as they were looked at, and of this one as it has added since.
#[derive(Default)]
pub(super) struct Usage {
    /// When it was looked at.
    at: Option<Instant>,
    all: u64,
    by_binding: HashMap<String, u64>,
}

impl Usage {
    fn add(&mut self, binding: &str, bytes: u64) {
        self.all = self.all.saturating_add(bytes);
        let own = self.by_binding.entry(binding.to_owned()).or_default();
        *own = own.saturating_add(bytes);
    }
}

/// An item as it is stored.
pub(super) struct Prepared {
    item: Item,
    expires: Option<i64>,
    metadata: String,
    trace: String,
    pub(super) lane: LaneKey,
    key: Option<Vec<u8>>,
    digest: Vec<u8>,
    pub(super) size: i64,
}

/// What became of an item.
pub(super) enum Inserted {
    Stored(Stored),
    /// The identifier is that of this other event.
    Other(i64),
}

const KNOWN: &str =
    "SELECT seq, state, reply, digest = $4 FROM events WHERE side = $1 AND binding = $2 AND msg_key = $3";

/// A lane that is there is locked in any case. One that comes before what waits need not wait for what that waits for.
const ADD_LANE: &str = "INSERT INTO lanes (side, binding, lane, conversation, due, rank, owner, leased_until)
     VALUES ($1, $2, $3, $4, now_ms(), $5, $6, now_ms() + $7)
     ON CONFLICT (side, binding, lane) DO UPDATE SET rank = excluded.rank, due = least(lanes.due, excluded.due)
         WHERE excluded.rank > lanes.rank";

const ADD_EVENT: &str =
    "INSERT INTO events (side, binding, msg_id, msg_key, conversation, lane, rank, accepted_at, state, expires_at,
         metadata, trace, data, digest, size)
     VALUES ($1, $2, $3, $4, $5, $6, $7, now_ms(), 'pending', now_ms() + $8, $9, $10, $11, $12, $13)
     ON CONFLICT (side, binding, msg_key) WHERE msg_key IS NOT NULL DO NOTHING
     RETURNING seq";

impl Events {
    pub(super) fn prepare(&self, item: Item, now: u64) -> Result<Prepared, QueueError> {
        let json = |pairs: &[(String, String)]| {
            serde_json::to_string(pairs)
                .map_err(|error| self.error(Fault::Other(format!("cannot be written: {error}"))))
        };
        let (metadata, trace) = (json(&item.event.metadata)?, json(&item.event.trace)?);
        let lane = self.lane(&item.event.binding, &item.conversation);
        let key = item.id.as_ref().map(|id| digest(id.as_bytes()).to_vec());
        let digest = item.event.digest().to_vec();
        let id = item.id.as_ref().map_or(0, String::len);
        let texts = item.event.data.len() + metadata.len() + trace.len() + id + 2 * item.conversation.len();
        let size = ROW_BYTES + texts as u64;
        let expires = item.expires_at.map(|time| moved(time, now, 0));
        Ok(Prepared { item, expires, metadata, trace, lane, key, digest, size: stored(size) })
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for these. What other hosts add is seen some seconds later.
    pub(super) async fn make_room(&self, items: &[Prepared]) -> Result<(), QueueError> {
        let is_to_look = {
            let mut usage = self.usage();
            let is_old = usage.at.is_none_or(|at| at.elapsed() >= LOOK);
            // The others need not wait for who looks.
            usage.at = if is_old { Some(Instant::now()) } else { usage.at };
            is_old
        };
        // If it cannot be looked at, nothing can be stored either.
        if is_to_look && let Ok(looked) = self.look_at_usage().await {
            *self.usage() = looked;
        }
        let mut usage = self.usage();
        let max_size = self.0.limits.max_size;
        let bytes = items.iter().map(|item| read(item.size)).sum();
        let Some(left) = max_size.checked_sub(usage.all).and_then(|left| left.checked_sub(bytes)) else {
            return Err(QueueError::Limit { place: self.place(), max_size });
        };
        for Prepared { item, .. } in items.iter().filter(|_| self.0.side == Side::Outbox) {
            let binding = &item.event.binding;
            // So one that floods the outbox gets the half of it, and two a third each.
            if usage.by_binding.get(binding).is_some_and(|own| *own > left) {
                return Err(QueueError::Share { place: self.place(), binding: binding.clone() });
            }
        }
        for Prepared { item, size, .. } in items {
            usage.add(&item.event.binding, read(*size));
        }
        Ok(())
    }

    async fn look_at_usage(&self) -> Result<Usage, Fault> {
        let sql = "SELECT binding, sum(size)::int8 FROM events WHERE side = $1 GROUP BY binding";
        self.0
            .database
            .run(async |session| {
                let sql = session.prepare_cached(sql).await?;
                let mut usage = Usage { at: Some(Instant::now()), ..Usage::default() };
                for row in session.query(&sql, &[&self.number()]).await? {
                    usage.add(row.try_get(0)?, read(row.try_get(1)?));
                }
                session.done();
                Ok(usage)
            })
            .await
    }

    /// All of these or none. In a task of its own: what is committed is known here, whoever has gone away.
    pub(super) async fn insert_whole(self, items: Vec<Item>, now: u64, then: Then) -> Result<(), QueueError> {
        let items = items.into_iter().map(|item| self.prepare(item, now));
        let items: Vec<Prepared> = items.collect::<Result<_, _>>()?;
        self.make_room(&items).await?;
        let mut marked = Marked::new(&self);
        let inserted = self.insert_all(&items, true, &mut marked).await.map_err(|fault| self.error(fault))?;
        let mut all = Vec::with_capacity(inserted.len());
        for inserted in inserted {
            match inserted {
                Inserted::Stored(stored) => all.push(stored),
                Inserted::Other(seq) => return Err(QueueError::OtherBody { side: self.0.side, seq }),
            }
        }
        then(all);
        drop(marked);
        Ok(())
    }

    /// What became of each of these. With `is_whole`, none is stored if one of them cannot be; it is the last then of which
    /// something is said.
    pub(super) async fn insert_all(
        &self,
        items: &[Prepared],
        is_whole: bool,
        marked: &mut Marked,
    ) -> Result<Vec<Inserted>, Fault> {
        let mut attempt = 1;
        loop {
            match self.0.database.run(|session| self.try_insert(session, items, is_whole, marked)).await {
                Err(Fault::Conflict(_)) if attempt < super::ATTEMPTS => attempt += 1,
                inserted => return inserted,
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
        }
    }

    async fn try_insert(
        &self,
        session: Session,
        items: &[Prepared],
        is_whole: bool,
        marked: &mut Marked,
    ) -> Result<Vec<Inserted>, Fault> {
        marked.clear();
        let (known, add_lane, add_event, end_lane) = tokio::try_join!(
            session.prepare_cached(KNOWN),
            session.prepare_cached(ADD_LANE),
            session.prepare_cached(ADD_EVENT),
            session.prepare_cached(END_LANE),
        )?;
        let (number, host) = (self.number(), self.host());
        let (mut inserted, mut needless) = (Vec::with_capacity(items.len()), Vec::new());
        for (index, prepared) in items.iter().enumerate() {
            let Prepared { item, expires, metadata, trace, lane, key, digest, size } = prepared;
            let (binding, data) = (item.event.binding.as_str(), &item.event.data[..]);
            let id = item.id.as_ref().map(String::as_bytes);
            let conversation = item.conversation.as_bytes();
            let look = || async {
                match key {
                    Some(key) => session.query_opt(&known, &[&number, &binding, key, digest]).await,
                    None => Ok(None),
                }
            };
            // All at once: one way to the database and back. In this order, so that the number comes after the lock.
            let lane_key = lane.lane.as_slice();
            let (_, before, _, seq) = tokio::try_join!(
                biased;
                async { if index == 0 { session.batch_execute("BEGIN").await } else { Ok(()) } },
                look(),
                async { session.execute(
                    &add_lane,
                    &[&number, &binding, &lane_key, &conversation, &item.rank, &host, &NEAR_MS],
                ).await },
                async { session.query_opt(
                    &add_event,
                    &[
                        &number, &binding, &id, key, &conversation, &lane_key, &item.rank, expires, metadata, trace,
                        &data, digest, size,
                    ],
                ).await },
            )?;
            if let Some(row) = seq {
                let seq = row.try_get(0)?;
                marked.add(seq);
                inserted.push(Inserted::Stored(Stored::New(seq)));
                continue;
            }
            // Committed by another transaction since, or removed.
            let before = match before {
                Some(before) => before,
                None => look().await?.ok_or_else(|| Fault::Conflict("was changed by others at that moment".into()))?,
            };
            let (seq, is_same) = (before.try_get(0)?, before.try_get::<_, bool>(3)?);
            if !is_same && is_whole {
                session.batch_execute("ROLLBACK").await?;
                session.done();
                return Ok(vec![Inserted::Other(seq)]);
            }
            inserted.push(if is_same { Inserted::Stored(known_event(&before)?) } else { Inserted::Other(seq) });
            needless.push(lane);
        }
        if marked.seqs.is_empty() {
            if !items.is_empty() {
                session.batch_execute("ROLLBACK").await?;
            }
        } else {
            for lane in needless {
                session.execute(&end_lane, &[&number, &lane.binding, &lane.lane.as_slice()]).await?;
            }
            session.batch_execute("COMMIT").await?;
        }
        session.done();
        Ok(inserted)
    }
}

fn known_event(row: &Row) -> Result<Stored, Fault> {
    let (seq, state): (i64, &str) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match state {
        "pending" => Stored::Pending(seq),
        "dead" => Stored::Dead(seq),
        _ => Stored::Delivered(seq, row.try_get::<_, Option<&[u8]>>(2)?.map(Bytes::copy_from_slice)),
    })
}

/// Events whose callbacks have not run, until this is dropped.
pub(super) struct Marked {
    events: Events,
    seqs: Vec<i64>,
}

impl Marked {
    pub(super) fn new(events: &Events) -> Self {
        Self { events: events.clone(), seqs: Vec::new() }
    }

    fn add(&mut self, seq: i64) {
        self.seqs.push(seq);
        self.events.inserting().insert(seq);
    }

    fn clear(&mut self) {
        let mut inserting = self.events.inserting();
        for seq in std::mem::take(&mut self.seqs) {
            inserting.remove(&seq);
        }
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        self.clear();
    }
}
