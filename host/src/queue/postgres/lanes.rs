//! Which conversations have something to deliver, when, and which host delivers it.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Row;

use super::events::{Events, parsed};
use super::lease::LaneKey;
use super::pool::{Fault, Session};
use super::siblings::Choice;
use super::{LEASE_MS, moved, read, stored};
use crate::event::{Event, digest};
use crate::queue::Side;
use crate::queue::backoff::LONGEST_MS;
use crate::queue::storage::Wake;
use crate::queue::store::{Due, Head, Room, URGENT};

/// Lanes that are made due in one statement.
const HASTENED_AT_ONCE: i64 = 500;

/// What is said of an event that makes no sense.
const UNREADABLE: &str = "the host cannot read it back from the store; see the `list` subcommand";

/// Bindings that have lanes: a look-up in an index for each, however many lanes there are. $1 is the side.
const NAMES: &str = "names (name) AS (
         SELECT min(binding) FROM lanes WHERE side = $1
         UNION ALL
         SELECT (SELECT min(binding) FROM lanes WHERE side = $1 AND binding > names.name) FROM names WHERE name IS NOT NULL
     )";

/// Rows that are chosen first and changed then are named by an array: a join would have the planner read all others, too.
///
/// Whether a lane is on lease to no other host. $2 is this one. A lease that is longer than any met a clock that was set back.
pub(super) const FREE: &str =
    "(owner IS NULL OR owner = $2 OR leased_until <= clock.now OR leased_until > clock.now + 60000)";

/// Whether a lane need not wait for an event of another one that says what came before its own; what is more urgent need not.
pub(super) const WAITS_FOR_NONE: &str = "(lanes.behind IS NULL OR NOT EXISTS (
         SELECT FROM events AS before WHERE before.seq = lanes.behind AND before.state = 'pending' AND before.rank >= coalesce((
             SELECT rank FROM events WHERE events.side = lanes.side AND events.binding = lanes.binding
                 AND events.lane = lanes.lane AND state = 'pending' ORDER BY rank DESC, seq LIMIT 1
         ), -1)
     ))";

/// Whether a lane's first event, if it says what others do, need not wait for what is more urgent in one of their lanes.
pub(super) const COMES_FIRST: &str =
    "(NOT EXISTS (SELECT FROM lanes AS any_lane WHERE any_lane.behind IS NOT NULL) OR NOT EXISTS (
         SELECT FROM lanes AS others WHERE others.behind = (
             SELECT seq FROM events WHERE events.side = lanes.side AND events.binding = lanes.binding
                 AND events.lane = lanes.lane AND state = 'pending' ORDER BY rank DESC, seq LIMIT 1
         ) AND EXISTS (
             SELECT FROM events WHERE events.side = others.side AND events.binding = others.binding
                 AND events.lane = others.lane AND state = 'pending'
                 AND events.rank > (SELECT rank FROM events AS head WHERE head.seq = others.behind)
         )
     ))";

impl Events {
    /// Ranks of lanes.
    pub(super) fn ranks(&self) -> &'static [i64] {
        match self.side() {
            Side::Inbox => &[0],
            Side::Outbox => &[1, 0, -1],
        }
    }

    /// Lanes whose first events may be delivered now, without any lock; from each binding as many as there is room for, and
    /// of all of them as many, where none comes before another one's first. And when the next lane is due.
    async fn candidates(&self, session: &Session, room: &Room) -> Result<(Vec<(i64, LaneKey)>, Next), Fault> {
        let lanes = format!(
            "WITH RECURSIVE {NAMES}, clock AS MATERIALIZED (SELECT now_ms() AS now)
             SELECT lane.id, names.name, lane.lane FROM names
                 CROSS JOIN clock
                 LEFT JOIN unnest($3::text[], $4::int8[], $11::int8[]) AS known (binding, free, least) ON known.binding = names.name
                 CROSS JOIN LATERAL (
                     SELECT id, lane, row_number() OVER (ORDER BY rank DESC, due, id) AS nth FROM (
                         SELECT first.* FROM unnest($6::int8[]) AS ranks (rank) CROSS JOIN LATERAL (
                             SELECT id, lane, rank, due FROM lanes
                             WHERE side = $1 AND binding = names.name AND rank = ranks.rank AND due <= (SELECT now FROM clock)
                                 AND ranks.rank >= coalesce(known.least, ranks.rank) AND {FREE} AND {WAITS_FOR_NONE}
                                 AND {COMES_FIRST}
                                 AND NOT EXISTS (SELECT FROM unnest($7::text[], $8::bytea[]) AS running (binding, lane)
                                     WHERE running.binding = lanes.binding AND running.lane = lanes.lane)
                             ORDER BY due, id LIMIT least(coalesce(known.free, $5), $9)
                         ) AS first
                     ) AS all_ranks
                     ORDER BY rank DESC, due, id LIMIT least(coalesce(known.free, $5), $9)
                 ) AS lane
             ORDER BY lane.nth, hashtext(names.name || $10::int8) LIMIT $9"
        );
        let next = format!(
            "WITH RECURSIVE {NAMES}, clock AS MATERIALIZED (SELECT now_ms() AS now)
             SELECT (SELECT now FROM clock), min(soonest), max(latest) FROM names
                 CROSS JOIN unnest($2::int8[]) AS ranks (rank)
                 CROSS JOIN LATERAL (
                     SELECT (SELECT min(due) FROM lanes WHERE side = $1 AND binding = names.name AND rank = ranks.rank
                                AND due > (SELECT now FROM clock)),
                            (SELECT max(due) FROM lanes WHERE side = $1 AND binding = names.name AND rank = ranks.rank)
                 ) AS times (soonest, latest)
             WHERE name <> ALL ($3::text[])"
        );
        let (lanes, next) = tokio::try_join!(session.prepare_cached(&lanes), session.prepare_cached(&next))?;
        let choice = Choice::of(room);
        let (bindings, free): (Vec<&str>, Vec<i64>) =
            room.by_binding.iter().map(|(binding, free)| (binding.as_str(), choice.free(*free))).unzip();
        let least = |binding: &&str| if room.urgent.contains(*binding) { URGENT } else { i64::MIN };
        let least: Vec<i64> = bindings.iter().map(least).collect();
        let (running, keys): (Vec<&str>, Vec<Vec<u8>>) = room
            .running
            .iter()
            .map(|(binding, conversation)| (binding.as_str(), digest(conversation.as_bytes()).to_vec()))
            .unzip();
        // Whoever has said so of a binding knows until when, or tells of an end.
        let closed: Vec<&str> =
            bindings.iter().zip(&free).filter(|(_, free)| **free == 0).map(|(name, _)| *name).collect();
        let (number, ranks) = (self.number(), self.ranks());
        let (Choice { a_binding, in_all, .. }, turn) = (choice, size(room.turn));
        let (lanes, next) = tokio::try_join!(
            async {
                session
                    .query(
                        &lanes,
                        &[
                            &number,
                            &self.host(),
                            &bindings,
                            &free,
                            &a_binding,
                            &ranks,
                            &running,
                            &keys,
                            &in_all,
                            &turn,
                            &least,
                        ],
                    )
                    .await
            },
            async { session.query_one(&next, &[&number, &ranks, &closed]).await },
        )?;
        let of = |row: &Row| {
            let lane = row.try_get::<_, &[u8]>(2)?.try_into().unwrap_or_default();
            Ok((row.try_get(0)?, LaneKey { side: number, binding: row.try_get(1)?, lane }))
        };
        let lanes = lanes.iter().map(of).collect::<Result<_, tokio_postgres::Error>>()?;
        Ok((lanes, Next { now: next.try_get(0)?, soonest: next.try_get(1)?, latest: next.try_get(2)? }))
    }

    /// Takes lanes on lease, as far as they are still to be had.
    async fn lease(&self, session: &Session, candidates: Vec<(i64, LaneKey)>) -> Result<Vec<i64>, Fault> {
        let (candidates, lanes): (Vec<i64>, Vec<LaneKey>) = candidates.into_iter().unzip();
        // Before anybody can see it: none of them becomes part of another message from now on.
        self.busy().extend(lanes);
        // The inner look comes after the lock, and sees the row as it is then.
        let sql = format!(
            "WITH clock AS MATERIALIZED (SELECT now_ms() AS now), free AS MATERIALIZED (
                 SELECT id FROM lanes CROSS JOIN clock WHERE id = ANY ($1) AND due <= clock.now AND {FREE} AND {WAITS_FOR_NONE}
                 ORDER BY id FOR UPDATE OF lanes SKIP LOCKED
             )
             UPDATE lanes SET owner = $2, leased_until = (SELECT now FROM clock) + $3 WHERE id = ANY (ARRAY(SELECT id FROM free))
             RETURNING id"
        );
        let lease = session.prepare_cached(&sql).await?;
        let rows = session.query(&lease, &[&candidates, &self.host(), &LEASE_MS]).await?;
        let mut leased: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let place = |id: &i64| candidates.iter().position(|candidate| candidate == id);
        leased.sort_by_key(place);
        Ok(leased)
    }

    /// The first events of lanes that this host has on lease: read after that, so that they are what is first.
    async fn heads(&self, session: &Session, leased: &[i64]) -> Result<Vec<Row>, Fault> {
        let sql = "SELECT now_ms(), lanes.binding, lanes.conversation, first.* FROM unnest($1::int8[]) WITH ORDINALITY AS wanted (id, nth)
                 JOIN lanes ON lanes.id = wanted.id
                 LEFT JOIN LATERAL (
                     SELECT seq, attempts, metadata, trace, data, expires_at, rank FROM events
                     WHERE side = $2 AND events.binding = lanes.binding AND events.lane = lanes.lane AND state = 'pending'
                     ORDER BY rank DESC, seq LIMIT 1
                 ) AS first ON true
             ORDER BY wanted.nth";
        let heads = session.prepare_cached(sql).await?;
        Ok(session.query(&heads, &[&leased, &self.number()]).await?)
    }

    /// See [`crate::queue::storage::Storage::due`].
    pub(super) async fn look(&self, room: &Room, here: u64) -> Result<Due, Fault> {
        let running: Vec<LaneKey> =
            room.running.iter().map(|(binding, conversation)| self.lane(binding, conversation)).collect();
        // What is not under way any more need not be kept from others.
        self.database().held().retain(|_, lane| lane.side != self.number() || running.contains(lane));
        self.busy().clone_from(&running);
        self.siblings().clone_from(&room.siblings);
        let (rows, next) = self
            .database()
            .run(async |session| {
                let (candidates, mut next) = self.candidates(&session, room).await?;
                let candidates = self.in_turn(&session, room, candidates).await?;
                let longest = stored(LONGEST_MS);
                if next.latest.is_some_and(|latest| latest > next.now.saturating_add(longest)) {
                    // It waits for longer than any pause: the clock was set back since.
                    self.hasten(&session, &Hasten::After(longest)).await?;
                    next.soonest = Some(next.now);
                }
                let mut rows = Vec::new();
                if !candidates.is_empty() {
                    let leased = self.lease(&session, candidates).await?;
                    if !leased.is_empty() {
                        rows = self.heads(&session, &leased).await?;
                    }
                }
                session.done();
                Ok((rows, next))
            })
            .await?;
        let mut due = Due { heads: Vec::new(), next: next.soonest.map(|soonest| local(soonest, next.now, here)) };
        for row in rows {
            match self.head(&row, here)? {
                Found::Head(head) if self.is_inserting(head.seq) => {
                    // Its callback comes first. It stays on lease to this host, and is found again.
                    due.next = Some(here);
                }
                Found::Head(head) => {
                    self.database().held().insert(head.seq, self.lane(&head.lane.0, &head.lane.1));
                    due.heads.push(*head);
                }
                Found::Unreadable(binding, seq) => {
                    tracing::error!(binding, seq, UNREADABLE);
                    self.refuse(seq, UNREADABLE).await?;
                    due.next = Some(here);
                }
                Found::Nothing(lane) => self.settle_alone(&lane).await?,
            }
        }
        // The others are held by now.
        *self.busy() = running;
        Ok(due)
    }

    fn head(&self, row: &Row, here: u64) -> Result<Found, Fault> {
        let (there, binding): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        let conversation: Vec<u8> = row.try_get(2)?;
        let Some(seq) = row.try_get::<_, Option<i64>>(3)? else {
            let lane = digest(&conversation);
            return Ok(Found::Nothing(LaneKey { side: self.number(), binding, lane }));
        };
        let (attempts, expires_at): (i64, Option<i64>) = (row.try_get(4)?, row.try_get(8)?);
        let (metadata, trace): (&str, &str) = (row.try_get(5)?, row.try_get(6)?);
        let read =
            (u32::try_from(attempts).ok(), parsed(metadata), parsed(trace), String::from_utf8(conversation).ok());
        let (Some(attempts), Some(metadata), Some(trace), Some(conversation)) = read else {
            return Ok(Found::Unreadable(binding, seq));
        };
        let data = Bytes::copy_from_slice(row.try_get(7)?);
        let event = Arc::new(Event { binding: binding.clone(), data, metadata, trace });
        let expires_at = expires_at.map(|time| local(time, there, here));
        Ok(Found::Head(Box::new(Head {
            seq,
            lane: (binding, conversation),
            rank: row.try_get(9)?,
            attempts,
            expires_at,
            event,
        })))
    }

    /// See [`crate::queue::storage::Storage::wake`].
    pub(super) async fn wake_some(&self, which: &Wake) -> Result<bool, Fault> {
        let which = match which {
            Wake::All => Hasten::After(0),
            Wake::Suffering => Hasten::Suffering,
            Wake::Binding(name) => Hasten::Binding(name),
        };
        self.database()
            .run(async |session| {
                let is_more = self.hasten(&session, &which).await?;
                session.done();
                Ok(is_more)
            })
            .await
    }

    /// Makes some lanes due. Returns whether there may be more. What others have locked is theirs to settle.
    async fn hasten(&self, session: &Session, which: &Hasten<'_>) -> Result<bool, Fault> {
        let of = |later: &str, names: &str| {
            format!(
                "WITH RECURSIVE {NAMES}, clock AS MATERIALIZED (SELECT now_ms() AS now), chosen AS MATERIALIZED (
                     SELECT lanes.id FROM {names} CROSS JOIN unnest($2::int8[]) AS ranks (rank) CROSS JOIN LATERAL (
                         SELECT id FROM lanes WHERE side = $1 AND binding = names.name AND rank = ranks.rank
                             AND due > (SELECT now FROM clock) + {later}
                         ORDER BY due LIMIT {HASTENED_AT_ONCE} FOR UPDATE SKIP LOCKED
                     ) AS lanes LIMIT {HASTENED_AT_ONCE}
                 )
                 UPDATE lanes SET due = (SELECT now FROM clock), suffers = false WHERE id = ANY (ARRAY(SELECT id FROM chosen))"
            )
        };
        let (number, ranks) = (self.number(), self.ranks());
        let changed = match which {
            Hasten::After(later) => {
                let sql = session.prepare_cached(&of("$3::int8", "names")).await?;
                session.execute(&sql, &[&number, &ranks, later]).await?
            }
            Hasten::Binding(name) => {
                let sql = session.prepare_cached(&of("0", "(SELECT $3::text AS name) AS names")).await?;
                session.execute(&sql, &[&number, &ranks, name]).await?
            }
            Hasten::Suffering => {
                let sql = format!(
                    "WITH clock AS MATERIALIZED (SELECT now_ms() AS now), chosen AS MATERIALIZED (
                         SELECT id FROM lanes WHERE side = $1 AND suffers AND due > (SELECT now FROM clock)
                         ORDER BY due LIMIT {HASTENED_AT_ONCE} FOR UPDATE SKIP LOCKED
                     )
                     UPDATE lanes SET due = (SELECT now FROM clock), suffers = false WHERE id = ANY (ARRAY(SELECT id FROM chosen))"
                );
                let sql = session.prepare_cached(&sql).await?;
                session.execute(&sql, &[&number]).await?
            }
        };
        Ok(changed >= read(HASTENED_AT_ONCE))
    }
}

/// Which lanes are to be due.
enum Hasten<'a> {
    /// Those that are due after so many milliseconds from now.
    After(i64),
    Suffering,
    Binding(&'a str),
}

/// The database's present, and when lanes are due that are not yet.
struct Next {
    now: i64,
    soonest: Option<i64>,
    latest: Option<i64>,
}

/// What is first in a lane.
enum Found {
    Head(Box<Head>),
    Unreadable(String, i64),
    Nothing(LaneKey),
}

/// A time of the database's clock on this host's.
fn local(time: i64, there: i64, here: u64) -> u64 {
    read(moved(read(time), read(there), stored(here)))
}

pub(super) fn size(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
