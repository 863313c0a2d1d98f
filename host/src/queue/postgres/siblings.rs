//! What comes first in a conversation that several bindings have in common. Nothing here is asked where there are no siblings.

use std::collections::{HashMap, HashSet};

use super::NEAR_MS;
use super::events::Events;
use super::lanes::{COMES_FIRST, FREE, WAITS_FOR_NONE, size};
use super::lease::LaneKey;
use super::pool::{Fault, Session};
use crate::queue::siblings::Position;
use crate::queue::store::{LOOKED_AT, Room, URGENT};

/// Lanes of all bindings that are looked at in one look, and bindings of which more are than that.
const MOST_LOOKED_AT: usize = 8 * LOOKED_AT;
const FURTHER_AT_ONCE: usize = 4;

/// What is first in each of these conversations, what says what came before it, and whether another host may be delivering from it. $1
/// is the side, $2 this host; of a conversation of the binding that is asked for, what is first alone. A lease for no longer than $7 is
/// that of a host that may come first, and delivers nothing.
const POSITIONS: &str = "SELECT given.nth, given.is_own, found.is_busy, found.rank, found.stands, found.seq
     FROM unnest($3::int8[], $4::bool[], $5::text[], $6::bytea[]) AS given (nth, is_own, binding, lane)
     CROSS JOIN (SELECT now_ms() AS now OFFSET 0) AS clock CROSS JOIN LATERAL (
         (SELECT false AS is_busy, rank, EXISTS (SELECT FROM lanes WHERE lanes.behind = events.seq) AS stands, seq FROM events
             WHERE side = $1 AND binding = given.binding AND lane = given.lane AND state = 'pending'
             ORDER BY rank DESC, seq LIMIT 1)
         UNION ALL
         SELECT false, before.rank, true, before.seq FROM lanes CROSS JOIN LATERAL (
                 SELECT rank, seq FROM events WHERE events.seq = lanes.behind AND state = 'pending'
             ) AS before
             WHERE NOT given.is_own AND lanes.side = $1 AND lanes.binding = given.binding AND lanes.lane = given.lane
         UNION ALL
         SELECT true, 0, false, 0 FROM lanes
             WHERE NOT given.is_own AND lanes.side = $1 AND lanes.binding = given.binding AND lanes.lane = given.lane
                 AND owner <> $2 AND leased_until > clock.now + $7 AND leased_until <= clock.now + 60000
     ) AS found";

/// Which of the messages $2 stand for others while one of the bindings $3 has something more urgent in one of their conversations.
const PRECEDED: &str = "SELECT DISTINCT given.seq FROM unnest($2::int8[]) AS given (seq) CROSS JOIN LATERAL (
         SELECT rank FROM events WHERE events.seq = given.seq
     ) AS own CROSS JOIN LATERAL (
         SELECT lane FROM lanes WHERE lanes.behind = given.seq
     ) AS others CROSS JOIN unnest($3::text[]) AS siblings (binding)
     WHERE EXISTS (
         SELECT FROM events WHERE side = $1 AND events.binding = siblings.binding AND events.lane = others.lane
             AND state = 'pending' AND events.rank > own.rank
     )";

/// Lanes of the binding $3 that could be delivered from now, of each rank those behind a moment and a number.
const FURTHER: &str = "WITH clock AS MATERIALIZED (SELECT now_ms() AS now)
     SELECT first.id, first.lane, first.rank, first.due
     FROM clock CROSS JOIN unnest($4::int8[], $5::int8[], $6::int8[]) AS ranks (rank, due, id) CROSS JOIN LATERAL (
         SELECT id, lane, rank, due FROM lanes
         WHERE side = $1 AND binding = $3 AND rank = ranks.rank AND due <= (SELECT now FROM clock)
             AND (due, id) > (ranks.due, ranks.id) AND {FREE} AND {WAITS_FOR_NONE} AND {COMES_FIRST}
         ORDER BY due, id LIMIT $7
     ) AS first
     ORDER BY first.rank DESC, first.due, first.id LIMIT $7";

/// Where a look at lanes has ended: rank, time and number.
pub(super) type LookedAt = (i64, i64, i64);

/// How many lanes to choose from, if they have to be chosen from.
pub(super) struct Choice {
    pub(super) in_all: i64,
    pub(super) a_binding: i64,
    siblings: bool,
}

impl Choice {
    pub(super) fn of(room: &Room) -> Self {
        let siblings = !room.siblings.is_empty();
        let more = |number: usize, most: usize| if siblings && number > 0 { number.max(most) } else { number };
        let (in_all, a_binding) = (more(room.in_all, MOST_LOOKED_AT), more(room.a_binding, LOOKED_AT));
        Self { in_all: size(in_all), a_binding: size(a_binding), siblings }
    }

    pub(super) fn free(&self, free: usize) -> i64 {
        size(if self.siblings && free > 0 { free.max(LOOKED_AT) } else { free })
    }
}

/// What siblings have in some conversations.
#[derive(Default)]
struct Found {
    /// By the conversation's number.
    own: HashMap<usize, Position>,
    first: HashMap<usize, Position>,
    busy: HashSet<usize>,
}

type Candidates = Vec<(i64, LaneKey)>;

impl Events {
    /// Of these lanes those that come first among those of their siblings, as many as there is room for.
    pub(super) async fn in_turn(
        &self,
        session: &Session,
        room: &Room,
        candidates: Candidates,
    ) -> Result<Candidates, Fault> {
        if room.siblings.is_empty() {
            return Ok(candidates);
        }
        let number = candidates.len();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (_, lane) in &candidates {
            *counts.entry(lane.binding.clone()).or_default() += 1;
        }
        let mut begun = Begun { free: HashMap::new(), lanes: Vec::new(), room };
        let first = self.come_first(session, room, &candidates).await?;
        begun.take(candidates.into_iter().zip(first));
        let is_cut = |count: usize| count >= LOOKED_AT || number >= room.in_all.max(MOST_LOOKED_AT);
        counts.retain(|binding, count| {
            is_cut(*count) && begun.free(binding) > 0 && !room.siblings.of(binding).is_empty()
        });
        // In no particular order: each has its turn.
        let full: Vec<String> = counts.into_keys().collect();
        self.looked_at().retain(|binding, _| full.contains(binding));
        for binding in full.into_iter().take(FURTHER_AT_ONCE) {
            let further = self.further(session, room, &binding).await?;
            let first = self.come_first(session, room, &further).await?;
            begun.take(further.into_iter().zip(first));
        }
        Ok(begun.lanes)
    }

    /// Lanes of a binding behind those that were looked at last.
    async fn further(&self, session: &Session, room: &Room, binding: &str) -> Result<Candidates, Fault> {
        let sql = FURTHER.replace("{WAITS_FOR_NONE}", WAITS_FOR_NONE).replace("{COMES_FIRST}", COMES_FIRST);
        let further = session.prepare_cached(&sql.replace("{FREE}", FREE)).await?;
        let (from, due, id) = self.looked_at().get(binding).copied().unwrap_or((i64::MAX, i64::MIN, i64::MIN));
        let least = if room.urgent.contains(binding) { URGENT } else { i64::MIN };
        let ranks: Vec<i64> = self.ranks().iter().copied().filter(|rank| (least..=from).contains(rank)).collect();
        let behind = |rank: &i64| if *rank == from { (due, id) } else { (i64::MIN, i64::MIN) };
        let (dues, ids): (Vec<i64>, Vec<i64>) = ranks.iter().map(behind).unzip();
        let (number, most) = (self.number(), size(LOOKED_AT));
        let rows = session.query(&further, &[&number, &self.host(), &binding, &ranks, &dues, &ids, &most]).await?;
        let last = match rows.last().filter(|_| rows.len() == LOOKED_AT) {
            Some(row) => (row.try_get(2)?, row.try_get(3)?, row.try_get(0)?),
            None => (i64::MAX, i64::MIN, i64::MIN),
        };
        self.looked_at().insert(binding.to_owned(), last);
        let of = |row: &tokio_postgres::Row| {
            let lane = row.try_get::<_, &[u8]>(1)?.try_into().unwrap_or_default();
            Ok((row.try_get(0)?, LaneKey { side: number, binding: binding.to_owned(), lane }))
        };
        rows.iter().map(of).collect()
    }

    /// Of each of these lanes, whether it comes first and nothing of its conversation is under way.
    async fn come_first(&self, session: &Session, room: &Room, lanes: &[(i64, LaneKey)]) -> Result<Vec<bool>, Fault> {
        let siblings: Vec<Vec<&str>> = lanes.iter().map(|(_, lane)| room.siblings.of(&lane.binding)).collect();
        let asked = lanes.iter().zip(&siblings).enumerate().filter(|(_, (_, siblings))| !siblings.is_empty());
        let asked = asked.map(|(nth, ((_, lane), siblings))| (nth, lane, siblings.as_slice()));
        let found = self.positions(session, asked, true).await?;
        let mut preceded = HashSet::new();
        for (nth, (_, lane)) in lanes.iter().enumerate() {
            if let Some(position) = found.own.get(&nth).filter(|position| position.stands_for_others()) {
                let is_free = !found.busy.contains(&nth) && found.first.get(&nth).is_none_or(|first| position < first);
                if is_free {
                    preceded.extend(self.preceded(session, &[position.seq()], &room.siblings.of(&lane.binding)).await?);
                }
            }
        }
        let comes_first = |(nth, siblings): (usize, &Vec<&str>)| {
            let Some(position) = found.own.get(&nth) else { return true };
            let is_first = found.first.get(&nth).is_none_or(|first| position < first);
            siblings.is_empty() || is_first && !found.busy.contains(&nth) && !preceded.contains(&position.seq())
        };
        Ok(siblings.iter().enumerate().map(comes_first).collect())
    }

    /// What siblings have in each of these conversations; and, if it is asked for, what is first in it.
    async fn positions<'a>(
        &self,
        session: &Session,
        asked: impl Iterator<Item = (usize, &'a LaneKey, &'a [&'a str])>,
        with_own: bool,
    ) -> Result<Found, Fault> {
        let mut found = Found::default();
        let (mut nths, mut own, mut bindings, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let under_way: HashSet<LaneKey> = self.under_way().into_iter().collect();
        for (nth, lane, siblings) in asked {
            let names = siblings.iter().map(|name| (false, *name));
            for (is_own, binding) in names.chain(with_own.then_some((true, lane.binding.as_str()))) {
                let theirs = LaneKey { binding: binding.to_owned(), ..lane.clone() };
                if !is_own && under_way.contains(&theirs) {
                    found.busy.insert(nth);
                }
                nths.push(size(nth));
                own.push(is_own);
                bindings.push(binding);
                keys.push(lane.lane.as_slice());
            }
        }
        if nths.is_empty() {
            return Ok(found);
        }
        let positions = session.prepare_cached(POSITIONS).await?;
        let (number, host) = (self.number(), self.host());
        let rows = session.query(&positions, &[&number, &host, &nths, &own, &bindings, &keys, &NEAR_MS]).await?;
        for row in rows {
            let nth = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(usize::MAX);
            let position = Position::new(row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
            if row.try_get(2)? {
                found.busy.insert(nth);
            } else if row.try_get(1)? {
                found.own.insert(nth, position);
            } else {
                let first = found.first.entry(nth).or_insert(position);
                *first = position.min(*first);
            }
        }
        Ok(found)
    }

    /// Those that have to wait for what is more urgent in a conversation of which they say something.
    async fn preceded(&self, session: &Session, seqs: &[i64], siblings: &[&str]) -> Result<Vec<i64>, Fault> {
        let preceded = session.prepare_cached(PRECEDED).await?;
        let rows = session.query(&preceded, &[&self.number(), &seqs, &siblings]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Of these messages of one binding and one rank, those before which siblings have something in their conversations, or are
    /// delivering it.
    pub(super) async fn behind_siblings(
        &self,
        session: &Session,
        own: &LaneKey,
        seqs: &[i64],
    ) -> Result<HashSet<i64>, Fault> {
        let siblings = self.siblings().clone();
        let siblings = siblings.of(&own.binding);
        if siblings.is_empty() {
            return Ok(HashSet::new());
        }
        let read = session.prepare_cached("SELECT seq, lane, rank FROM events WHERE seq = ANY ($1)").await?;
        let rows = session.query(&read, &[&seqs]).await?;
        let (mut lanes, mut messages): (Vec<LaneKey>, Vec<(i64, usize, i64)>) = (Vec::new(), Vec::new());
        let mut numbers = HashMap::new();
        for row in rows {
            let lane = row.try_get::<_, &[u8]>(1)?.try_into().unwrap_or_default();
            let nth = *numbers.entry(lane).or_insert_with(|| {
                lanes.push(LaneKey { lane, ..own.clone() });
                lanes.len() - 1
            });
            messages.push((row.try_get(0)?, nth, row.try_get(2)?));
        }
        let asked = lanes.iter().enumerate().map(|(nth, lane)| (nth, lane, siblings.as_slice()));
        let found = self.positions(session, asked, false).await?;
        let mut behind: HashSet<i64> = self.preceded(session, seqs, &siblings).await?.into_iter().collect();
        let is_behind = |(seq, nth, rank): &(i64, usize, i64)| {
            let first = found.first.get(nth);
            found.busy.contains(nth) || first.is_some_and(|first| *first < Position::alone(*rank, *seq))
        };
        behind.extend(messages.iter().filter(|message| is_behind(message)).map(|(seq, ..)| *seq));
        Ok(behind)
    }
}

/// Lanes that are chosen, within the room.
struct Begun<'a> {
    free: HashMap<String, usize>,
    lanes: Candidates,
    room: &'a Room,
}

impl Begun<'_> {
    /// How many more of a binding.
    fn free(&self, binding: &str) -> usize {
        let all = self.room.by_binding.get(binding).copied().unwrap_or(self.room.a_binding);
        let own = self.free.get(binding).copied().unwrap_or(all);
        own.min(self.room.in_all.saturating_sub(self.lanes.len()))
    }

    fn take(&mut self, lanes: impl Iterator<Item = ((i64, LaneKey), bool)>) {
        for ((id, lane), comes_first) in lanes {
            let free = self.free(&lane.binding);
            if comes_first && free > 0 && !self.lanes.iter().any(|(known, _)| *known == id) {
                self.free.insert(lane.binding.clone(), free - 1);
                self.lanes.push((id, lane));
            }
        }
    }
}
