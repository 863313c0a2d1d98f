//! What the operator sees and changes.

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio_postgres::Row;

use super::events::{Clear, parsed};
use super::pool::{self, Fault, Session};
use super::settle::{lock_all, settle_all};
use super::{Address, PATIENCE, events, read, schema, target};
use crate::queue::error::Place;
use crate::queue::{Entry, Listing, QueueError, Selection, Side, State};

/// Events that are read at once, to be shown: some pages of a terminal.
const LIST_PAGE: i64 = 100;

/// Events that are changed in one transaction.
const CHANGED_AT_ONCE: usize = 500;

/// A direction's events in a database, beside the hosts that have them.
pub(in crate::queue) struct Remote {
    /// Until it is dropped.
    runtime: Option<Runtime>,
    pool: deadpool_postgres::Pool,
    name: String,
    side: Side,
}

impl Remote {
    pub(in crate::queue) fn open(side: Side, address: &Address) -> Result<Self, QueueError> {
        let target = target(address)?;
        let unusable = |reason| QueueError::Unusable { name: target.name.clone(), reason };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unusable(format!("cannot be used: {error}")))?;
        let pool = pool::new(&target).map_err(unusable)?;
        let remote = Self { runtime: Some(runtime), pool, name: target.name.clone(), side };
        let looked = remote.wait(async || {
            let session = Session::take(&remote.pool).await?;
            schema::look(&session).await?;
            session.done();
            Ok(())
        });
        let late = || Err(schema::Unprepared::Refused("does not answer".into()));
        looked.unwrap_or_else(late).map_err(|error| error.into_error(&remote.name))?;
        Ok(remote)
    }

    /// Waits for what is done with the database, for no longer than is usual; nothing, if it takes longer.
    fn wait<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> Option<T> {
        let runtime = self.runtime.as_ref()?;
        let done = || runtime.block_on(async { tokio::time::timeout(PATIENCE, work()).await.ok() });
        // The caller may be in a runtime of its own, which is not to be waited in.
        std::thread::scope(|scope| scope.spawn(done).join().unwrap_or(None))
    }

    fn run<T: Send, F: Future<Output = Result<T, Fault>>>(
        &self,
        work: impl FnOnce(Session) -> F + Send,
    ) -> Result<T, QueueError> {
        let done = self.wait(|| async { work(Session::take(&self.pool).await?).await });
        let late = || Err(Fault::Other(format!("does not answer within {} s", PATIENCE.as_secs())));
        let unusable = |fault: Fault| QueueError::Unusable { name: self.name.clone(), reason: fault.into_reason() };
        done.unwrap_or_else(late).map_err(unusable)
    }

    fn place(&self) -> Place {
        Place::in_database(self.side, &self.name)
    }

    /// Shows events to `each`, in order, until it says no.
    pub(in crate::queue) fn list(
        &self,
        listing: &Listing,
        mut each: impl FnMut(Entry) -> std::io::Result<()>,
    ) -> Result<std::io::Result<()>, QueueError> {
        let states: Vec<String> = listing.states.iter().map(|state| format!("state = '{state}'")).collect();
        let sql = format!(
            "SELECT events.seq, events.binding, state, attempts, accepted_at, finished_at, last_error, msg_id, events.conversation,
                 length(data)::int8, lanes.due,
                 (SELECT first.seq FROM events AS first WHERE first.side = events.side AND first.state = 'pending'
                     AND first.binding = events.binding AND first.lane = events.lane ORDER BY rank DESC, seq LIMIT 1),
                 CASE WHEN $3 THEN metadata END, CASE WHEN $3 THEN data END
             FROM events LEFT JOIN lanes
                 ON lanes.side = events.side AND lanes.binding = events.binding AND lanes.lane = events.lane
             WHERE events.side = $1 AND events.seq > $4 AND ($6::int8 IS NULL OR events.seq = $6) AND ($2::text IS NULL OR events.binding = $2) AND ({})
             ORDER BY events.seq LIMIT $5",
            states.join(" OR ")
        );
        let mut last = listing.seq.map_or(0, |seq| seq.saturating_sub(1));
        loop {
            let (sql, side) = (&sql, events::number(self.side));
            let page = self.run(|session| async move {
                let sql = session.prepare_cached(sql).await?;
                let rows = session
                    .query(&sql, &[&side, &listing.binding, &listing.content, &last, &LIST_PAGE, &listing.seq])
                    .await?;
                session.done();
                rows.iter().map(entry).collect::<Result<Vec<Entry>, Fault>>()
            })?;
            let Some(end) = page.last() else { return Ok(Ok(())) };
            last = end.seq;
            for entry in page {
                if let Err(error) = each(entry) {
                    return Ok(Err(error));
                }
            }
        }
    }

    /// Puts dead events back to where they were in their conversations. Returns how many.
    pub(in crate::queue) fn retry(&self, selection: &Selection) -> Result<usize, QueueError> {
        self.change(selection, &[State::Dead], "retry")
    }

    /// Gives events up, but keeps their identifiers. Returns how many.
    pub(in crate::queue) fn drop_events(&self, selection: &Selection) -> Result<usize, QueueError> {
        self.change(selection, &[State::Dead, State::Pending], "drop")
    }

    /// Changes the selected events, or none if one of them does not fit.
    fn change(&self, selection: &Selection, fitting: &[State], action: &'static str) -> Result<usize, QueueError> {
        let seqs = self.selected(selection, fitting, action)?;
        let states: Vec<&str> = fitting.iter().map(|state| state.as_str()).collect();
        for some in seqs.chunks(CHANGED_AT_ONCE) {
            let states = &states;
            let mut attempt = 1;
            loop {
                let changed = self.run(|session| async move {
                    let conflict = match self.change_some(session, some, states, action).await {
                        Ok(()) => None,
                        Err(Fault::Conflict(_)) if attempt < super::ATTEMPTS => Some(()),
                        Err(fault) => return Err(fault),
                    };
                    Ok(conflict)
                })?;
                if changed.is_none() {
                    break;
                }
                attempt += 1;
            }
        }
        Ok(seqs.len())
    }

    async fn change_some(&self, session: Session, seqs: &[i64], states: &[&str], action: &str) -> Result<(), Fault> {
        let side = events::number(self.side);
        session.batch_execute("BEGIN").await?;
        // A lane for each, to be locked: of dead ones there may be none yet. On lease to nobody.
        if action == "retry" {
            let lanes = "INSERT INTO lanes (side, binding, lane, conversation, due, rank)
                 SELECT DISTINCT ON (binding, lane) side, binding, lane, conversation, now_ms(), rank FROM events
                 WHERE side = $1 AND seq = ANY ($2) AND state = 'dead' ORDER BY binding, lane, rank DESC
                 ON CONFLICT (side, binding, lane) DO NOTHING";
            session.execute(lanes, &[&side, &seqs]).await?;
        }
        let rows = session
            .query("SELECT binding, lane FROM events WHERE side = $1 AND seq = ANY ($2)", &[&side, &seqs])
            .await?;
        let (mut bindings, mut lanes): (Vec<String>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        for row in &rows {
            bindings.push(row.try_get(0)?);
            lanes.push(row.try_get(1)?);
        }
        lock_all(&session, side, &bindings, &lanes).await?;
        if action == "retry" {
            let retry = "UPDATE events SET state = 'pending', attempts = 0, finished_at = NULL, retried_at = now_ms(), expires_at = NULL
                 WHERE side = $1 AND seq = ANY ($2) AND state = ANY ($3)";
            session.execute(retry, &[&side, &seqs, &states]).await?;
        } else {
            let clear = Clear::prepare(&session).await?;
            for &seq in seqs {
                clear.run(&session, seq, None, states).await?;
            }
        }
        settle_all(&session, side, &bindings, &lanes).await?;
        session.batch_execute("COMMIT").await?;
        session.done();
        Ok(())
    }

    /// Every selected event is there and in one of the `fitting` states. `All` means the dead ones.
    fn selected(&self, selection: &Selection, fitting: &[State], action: &'static str) -> Result<Vec<i64>, QueueError> {
        let side = events::number(self.side);
        let Selection::Seqs(seqs) = selection else {
            return self.run(|session| async move {
                let sql = "SELECT seq FROM events WHERE side = $1 AND state = 'dead' ORDER BY seq";
                let rows = session.query(sql, &[&side]).await?;
                session.done();
                Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
            });
        };
        let mut seqs = seqs.clone();
        seqs.sort_unstable();
        seqs.dedup();
        let wanted = &seqs;
        let found: Vec<(i64, String)> = self.run(|session| async move {
            let rows = session
                .query("SELECT seq, state FROM events WHERE side = $1 AND seq = ANY ($2)", &[&side, wanted])
                .await?;
            session.done();
            Ok(rows
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect::<Result<_, tokio_postgres::Error>>()?)
        })?;
        for &seq in &seqs {
            let place = self.place();
            match found.iter().find(|(known, _)| *known == seq) {
                None => return Err(QueueError::NoSuchEvent { place, seq }),
                Some((_, found)) => {
                    let state = state(found);
                    if !fitting.contains(&state) {
                        return Err(QueueError::WrongState { place, seq, state, action });
                    }
                }
            }
        }
        Ok(seqs)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Not waited for, which is not allowed in a runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn state(text: &str) -> State {
    match text {
        "pending" => State::Pending,
        "dead" => State::Dead,
        _ => State::Delivered,
    }
}

/// A row to be shown.
fn entry(row: &Row) -> Result<Entry, Fault> {
    let text = |index| {
        Ok::<_, Fault>(row.try_get::<_, Option<&[u8]>>(index)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    };
    let (seq, state): (i64, State) = (row.try_get(0)?, state(row.try_get(2)?));
    let (due, head): (Option<i64>, Option<i64>) = (row.try_get(10)?, row.try_get(11)?);
    let is_pending = state == State::Pending;
    Ok(Entry {
        seq,
        binding: row.try_get(1)?,
        state,
        attempts: u32::try_from(row.try_get::<_, i64>(3)?).unwrap_or(u32::MAX),
        accepted_at: read(row.try_get(4)?),
        finished_at: row.try_get::<_, Option<i64>>(5)?.map(read),
        last_error: row.try_get(6)?,
        msg_id: text(7)?,
        conversation_id: text(8)?.filter(|conversation| !conversation.is_empty()),
        size: read(row.try_get(9)?),
        next_attempt_at: due.filter(|_| is_pending && head == Some(seq)).map(read),
        waits_for: head.filter(|&head| is_pending && head != seq),
        metadata: row.try_get::<_, Option<&str>>(12)?.and_then(parsed),
        data: row.try_get::<_, Option<&[u8]>>(13)?.map(Bytes::copy_from_slice),
    })
}
