//! The inbox on disk, and the only file that knows SQL. Everything here blocks.
//!
//! A *lane* is a conversation of a binding that has pending events: its first one is what is delivered next, at
//! the lane's time. Lanes are stored beside the events so that finding what is due costs as little with 100,000
//! pending events as with one.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};

use super::backoff::LONGEST_MS;
use super::{Counts, Entry, InboxError, Listing, Selection, State};
use crate::event::Event;

/// Name of the store in the directory.
const FILE: &str = "inbox.sqlite";

/// SQLite's name for the journal beside it.
const JOURNAL: &str = "inbox.sqlite-wal";

/// The schema below. A file of a newer host has a greater one.
const SCHEMA_VERSION: i64 = 1;

/// How long to wait for another process that writes. The `inbox` command writes for less than a second, even if it
/// puts 100,000 events back.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a delivered event's `msgId` is kept. DingTalk repeats a message within minutes if at all; a day also
/// covers a queue between it and the host.
pub(super) const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// Rows and pages that one step of the purge removes: some milliseconds, in which nothing else is written.
const PURGE_STEP: i64 = 500;

const SCHEMA: &str = "
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    binding TEXT NOT NULL,
    msg_id TEXT,
    -- Empty for events without a conversation, and after delivery.
    conversation TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'dead', 'delivered')),
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    finished_at INTEGER,
    reply BLOB,
    metadata TEXT NOT NULL,
    trace TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX events_msg_id ON events (binding, msg_id) WHERE msg_id IS NOT NULL;
CREATE INDEX events_pending ON events (binding, conversation, seq) WHERE state = 'pending';
CREATE INDEX events_dead ON events (seq) WHERE state = 'dead';
CREATE INDEX events_delivered ON events (finished_at) WHERE state = 'delivered';
CREATE TABLE lanes (
    id INTEGER PRIMARY KEY,
    binding TEXT NOT NULL,
    conversation TEXT NOT NULL,
    -- When the first event may be tried.
    due INTEGER NOT NULL,
    -- Whether it waits only because the application was not there.
    suffers INTEGER NOT NULL DEFAULT 0,
    UNIQUE (binding, conversation)
);
CREATE INDEX lanes_due ON lanes (binding, due);
";

/// An open store.
pub(super) struct Store {
    connection: Connection,
    file: PathBuf,
    /// Commits that changed something.
    #[cfg(test)]
    pub(super) commits: Arc<std::sync::atomic::AtomicU64>,
}

/// What became of an event that was to be stored.
pub(super) enum Stored {
    New(i64),
    /// Known, and still to be delivered.
    Pending(i64),
    /// Known, and refused for good.
    Dead(i64),
    /// Known and taken.
    Delivered(i64, Option<Bytes>),
}

/// A conversation, as the deliveries under way are known by. Not the lane's row: that one goes and comes back.
pub(super) type Lane = (String, String);

/// The first event of a lane.
pub(super) struct Head {
    pub(super) seq: i64,
    pub(super) lane: Lane,
    /// How often it has failed.
    pub(super) attempts: u32,
    pub(super) event: Arc<Event>,
}

/// What is to be delivered now, and when to look again.
#[derive(Default)]
pub(super) struct Due {
    pub(super) heads: Vec<Head>,
    /// The earliest later time at which a lane becomes due.
    pub(super) next: Option<u64>,
}

/// How many deliveries may begin.
#[derive(Clone)]
pub(super) struct Room {
    pub(super) in_all: usize,
    /// For a binding that is not in `by_binding`.
    pub(super) a_binding: usize,
    pub(super) by_binding: HashMap<String, usize>,
    /// Under way already.
    pub(super) running: Vec<Lane>,
    /// At which binding to begin, so that the last ones are not always the ones for which there is no room.
    pub(super) turn: usize,
}

fn stored(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn read(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

impl Store {
    /// Opens the store in `dir`, creates it if there is none, and checks it.
    pub(super) fn create(dir: &Path) -> Result<Self, InboxError> {
        let file = dir.join(FILE);
        private_file(&file)
            .map_err(|error| InboxError::Io { file: file.clone(), reason: format!("cannot be created: {error}") })?;
        let store = Self::connect(file)?;
        let version = store.version()?;
        if version == 0 {
            // Before the journal mode, which writes the first page and thereby settles it.
            store.batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;")?;
            store.transaction(|store| {
                store.batch(SCHEMA)?;
                store.batch(&format!("PRAGMA user_version = {SCHEMA_VERSION}"))
            })?;
        }
        store.check()?;
        store.keep_journal(false)?;
        Ok(store)
    }

    /// Opens the store in `dir` beside a host that may be running.
    pub(super) fn open(dir: &Path) -> Result<Self, InboxError> {
        let file = dir.join(FILE);
        let missing = || InboxError::Missing { file: file.clone() };
        match fs::metadata(&file) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            Err(error) => {
                return Err(InboxError::Io { reason: format!("cannot be read: {error}"), file });
            }
        }
        let store = Self::connect(file.clone())?;
        if store.version()? == 0 {
            return Err(missing());
        }
        Ok(store)
    }

    fn connect(file: PathBuf) -> Result<Self, InboxError> {
        if is_empty(&file) && !is_empty(&file.with_file_name(JOURNAL)) {
            // SQLite would take the journal for a left-over and remove it.
            return Err(InboxError::Corrupt { file, reason: format!("it is empty, but {JOURNAL} is not") });
        }
        // Not SQLITE_OPEN_URI: a directory may have any name.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&file, flags).map_err(|error| explain(&file, &error))?;
        let store = Self {
            connection,
            file,
            #[cfg(test)]
            commits: Arc::default(),
        };
        store.connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| store.error(&error))?;
        store.keep_journal(true)?;
        // FULL: on disk at every commit, also when the power fails. What is deleted is overwritten: people wrote it.
        // The journal goes back to a few megabytes after a burst.
        store.batch("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA journal_size_limit = 4194304;")?;
        Ok(store)
    }

    /// Whether the journal is left as it is at the end. Otherwise it is written into the store and removed, which it
    /// must not be while the store may be damaged: it has messages that were acknowledged.
    fn keep_journal(&self, keep: bool) -> Result<(), InboxError> {
        let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        self.connection.set_db_config(config, keep).map(|_| ()).map_err(|error| self.error(&error))
    }

    fn version(&self) -> Result<i64, InboxError> {
        let found: i64 = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(|error| self.error(&error))?;
        if !(0..=SCHEMA_VERSION).contains(&found) {
            return Err(InboxError::Newer { file: self.file.clone(), found, known: SCHEMA_VERSION });
        }
        Ok(found)
    }

    fn check(&self) -> Result<(), InboxError> {
        let said: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| self.error(&error))?;
        if said == "ok" {
            return Ok(());
        }
        Err(InboxError::Corrupt { file: self.file.clone(), reason: one_line(&said) })
    }

    fn error(&self, error: &rusqlite::Error) -> InboxError {
        explain(&self.file, error)
    }

    fn batch(&self, sql: &str) -> Result<(), InboxError> {
        self.connection.execute_batch(sql).map_err(|error| self.error(&error))
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, InboxError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| self.error(&error))?;
        statement.execute(values).map_err(|error| self.error(&error))
    }

    /// The first row, if there is one.
    fn first<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, InboxError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| self.error(&error))?;
        statement.query_row(values, map).optional().map_err(|error| self.error(&error))
    }

    fn all<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, InboxError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| self.error(&error))?;
        let rows = statement.query_map(values, map).map_err(|error| self.error(&error))?;
        rows.collect::<Result<_, _>>().map_err(|error| self.error(&error))
    }

    /// Everything that `work` does, or nothing of it.
    pub(super) fn transaction<T>(&self, work: impl FnOnce(&Self) -> Result<T, InboxError>) -> Result<T, InboxError> {
        #[cfg(test)]
        let before = self.connection.total_changes();
        // IMMEDIATE: a transaction that starts by reading could not go on to write after another process did.
        self.batch("BEGIN IMMEDIATE")?;
        let result = work(self).and_then(|result| self.batch("COMMIT").map(|()| result));
        // Some failures, a full disk among them, end the transaction by themselves.
        if result.is_err()
            && !self.connection.is_autocommit()
            && let Err(error) = self.batch("ROLLBACK")
        {
            tracing::error!(%error, "the inbox cannot roll back");
        }
        #[cfg(test)]
        if result.is_ok() && self.connection.total_changes() != before {
            self.commits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        result
    }

    /// Stores an event, unless its `msgId` is known.
    pub(super) fn insert(&self, event: &Event, now: u64) -> Result<Stored, InboxError> {
        let msg_id = event.metadata("msgId").filter(|id| !id.is_empty());
        if let Some(msg_id) = msg_id {
            let known = self.first(
                "SELECT seq, state, reply FROM events WHERE binding = ?1 AND msg_id = ?2",
                params![event.binding, msg_id],
                |row| Ok((row.get(0)?, state(row, 1)?, row.get::<_, Option<Vec<u8>>>(2)?)),
            )?;
            if let Some((seq, state, reply)) = known {
                return Ok(match state {
                    State::Pending => Stored::Pending(seq),
                    State::Dead => Stored::Dead(seq),
                    State::Delivered => Stored::Delivered(seq, reply.map(Bytes::from)),
                });
            }
        }
        let conversation = event.metadata("conversationId").unwrap_or_default();
        self.execute(
            "INSERT INTO events (binding, msg_id, conversation, accepted_at, state, metadata, trace, data)
             VALUES (?1, ?2, ?3, ?4, 'pending', ?5, ?6, ?7)",
            params![
                event.binding,
                msg_id,
                conversation,
                stored(now),
                self.pairs_to_text(&event.metadata)?,
                self.pairs_to_text(&event.trace)?,
                &event.data[..],
            ],
        )?;
        let seq = self.connection.last_insert_rowid();
        self.add_lane(&event.binding, conversation, now)?;
        Ok(Stored::New(seq))
    }

    fn pairs_to_text(&self, pairs: &[(String, String)]) -> Result<String, InboxError> {
        serde_json::to_string(pairs)
            .map_err(|error| InboxError::Io { file: self.file.clone(), reason: format!("cannot be written: {error}") })
    }

    fn add_lane(&self, binding: &str, conversation: &str, due: u64) -> Result<(), InboxError> {
        self.execute(
            "INSERT INTO lanes (binding, conversation, due) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![binding, conversation, stored(due)],
        )?;
        Ok(())
    }

    /// The first pending event of a conversation.
    fn head(&self, binding: &str, conversation: &str) -> Result<Option<i64>, InboxError> {
        self.first(
            "SELECT seq FROM events WHERE binding = ?1 AND conversation = ?2 AND state = 'pending'
             ORDER BY seq LIMIT 1",
            params![binding, conversation],
            |row| row.get(0),
        )
    }

    /// Says when the lane's first event is due, or removes a lane without events.
    fn settle(&self, binding: &str, conversation: &str, due: u64, suffers: bool) -> Result<(), InboxError> {
        if self.head(binding, conversation)?.is_none() {
            self.execute("DELETE FROM lanes WHERE binding = ?1 AND conversation = ?2", params![binding, conversation])?;
            return Ok(());
        }
        self.execute(
            "UPDATE lanes SET due = ?3, suffers = ?4 WHERE binding = ?1 AND conversation = ?2",
            params![binding, conversation, stored(due), suffers],
        )?;
        Ok(())
    }

    /// The events to deliver now, as far as there is room.
    pub(super) fn due(&self, room: &Room, now: u64) -> Result<Due, InboxError> {
        // One index look-up a binding, however many lanes there are.
        let mut bindings: Vec<String> = self.all(
            "WITH RECURSIVE names (name) AS (
                 SELECT min(binding) FROM lanes
                 UNION ALL
                 SELECT (SELECT min(binding) FROM lanes WHERE binding > name) FROM names WHERE name IS NOT NULL
             ) SELECT name FROM names WHERE name IS NOT NULL",
            [],
            |row| row.get(0),
        )?;
        let count = bindings.len().max(1);
        bindings.rotate_left(room.turn % count);
        let mut due = Due::default();
        for binding in &bindings {
            // A lane that waits for longer than any pause met a clock that was set back since.
            self.execute(
                "UPDATE lanes SET due = ?2 WHERE binding = ?1 AND due > ?3",
                params![binding, stored(now), stored(now.saturating_add(LONGEST_MS))],
            )?;
            let next: Option<i64> = self
                .first(
                    "SELECT min(due) FROM lanes WHERE binding = ?1 AND due > ?2",
                    params![binding, stored(now)],
                    |row| row.get(0),
                )?
                .flatten();
            due.next = [due.next, next.map(read)].into_iter().flatten().min();
            let free = room.by_binding.get(binding).copied().unwrap_or(room.a_binding);
            let free = free.min(room.in_all.saturating_sub(due.heads.len()));
            if free > 0 {
                self.heads(binding, free, room, now, &mut due.heads)?;
            }
        }
        Ok(due)
    }

    fn heads(
        &self,
        binding: &str,
        free: usize,
        room: &Room,
        now: u64,
        heads: &mut Vec<Head>,
    ) -> Result<(), InboxError> {
        // Those under way may be among them, and are passed over.
        let running = room.running.iter().filter(|(running, _)| running == binding).count();
        let conversations: Vec<String> = self.all(
            "SELECT conversation FROM lanes WHERE binding = ?1 AND due <= ?2 ORDER BY due, id LIMIT ?3",
            params![binding, stored(now), i64::try_from(free + running).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
        let waiting = conversations
            .into_iter()
            .filter(|conversation| !room.running.iter().any(|lane| lane.0 == binding && lane.1 == *conversation));
        for conversation in waiting.take(free) {
            let Some(seq) = self.head(binding, &conversation)? else {
                self.settle(binding, &conversation, now, false)?;
                continue;
            };
            match self.load(seq, binding, &conversation)? {
                Some(head) => heads.push(head),
                None => self.refused(seq, "the host cannot read it back from the inbox", now)?,
            }
        }
        Ok(())
    }

    /// A pending event; `None` if it does not make sense.
    fn load(&self, seq: i64, binding: &str, conversation: &str) -> Result<Option<Head>, InboxError> {
        let row = self.first("SELECT attempts, metadata, trace, data FROM events WHERE seq = ?1", [seq], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, Vec<u8>>(3)?))
        })?;
        let Some((attempts, metadata, trace, data)) = row else { return Ok(None) };
        let (Ok(metadata), Ok(trace)) = (serde_json::from_str(&metadata), serde_json::from_str(&trace)) else {
            return Ok(None);
        };
        let event = Arc::new(Event { binding: binding.to_owned(), data: Bytes::from(data), metadata, trace });
        Ok(Some(Head { seq, lane: (binding.to_owned(), conversation.to_owned()), attempts, event }))
    }

    fn pending_lane(&self, seq: i64) -> Result<Option<Lane>, InboxError> {
        self.first("SELECT binding, conversation FROM events WHERE seq = ?1 AND state = 'pending'", [seq], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    /// The application has taken a pending event. Nothing happens to one that is not pending: the operator was
    /// faster.
    pub(super) fn delivered(&self, seq: i64, reply: Option<&[u8]>, now: u64) -> Result<(), InboxError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.clear(seq, reply, now)?;
            self.settle(&binding, &conversation, now, false)?;
        }
        Ok(())
    }

    /// Leaves of an event what a repetition needs: nothing, if it has no `msgId`.
    fn clear(&self, seq: i64, reply: Option<&[u8]>, now: u64) -> Result<(), InboxError> {
        self.execute("DELETE FROM events WHERE seq = ?1 AND msg_id IS NULL", [seq])?;
        self.execute(
            "UPDATE events SET state = 'delivered', finished_at = ?2, reply = ?3, conversation = '', last_error = NULL,
                 metadata = '[]', trace = '[]', data = x''
             WHERE seq = ?1",
            params![seq, stored(now), reply],
        )?;
        Ok(())
    }

    /// The reply went elsewhere: a repetition must not have it again.
    pub(super) fn forget_reply(&self, seq: i64) -> Result<(), InboxError> {
        self.execute("UPDATE events SET reply = NULL WHERE seq = ?1", [seq])?;
        Ok(())
    }

    /// The application refuses a pending event for good.
    pub(super) fn refused(&self, seq: i64, error: &str, now: u64) -> Result<(), InboxError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.execute(
                "UPDATE events SET state = 'dead', attempts = attempts + 1, last_error = ?2, finished_at = ?3
                 WHERE seq = ?1",
                params![seq, error, stored(now)],
            )?;
            self.settle(&binding, &conversation, now, false)?;
        }
        Ok(())
    }

    /// A pending event is to be tried again at `due`.
    pub(super) fn failed(&self, seq: i64, error: &str, due: u64, suffers: bool, now: u64) -> Result<(), InboxError> {
        if let Some((binding, conversation)) = self.pending_lane(seq)? {
            self.execute(
                "UPDATE events SET attempts = attempts + 1, last_error = ?2 WHERE seq = ?1",
                params![seq, error],
            )?;
            // The operator may have put an earlier one before it.
            let is_head = self.head(&binding, &conversation)? == Some(seq);
            self.settle(&binding, &conversation, if is_head { due } else { now }, suffers && is_head)?;
        }
        Ok(())
    }

    /// The application of a binding is back: what only waited for that is due.
    pub(super) fn wake(&self, binding: &str, now: u64) -> Result<(), InboxError> {
        self.execute(
            "UPDATE lanes SET due = ?2, suffers = 0 WHERE binding = ?1 AND suffers = 1 AND due > ?2",
            params![binding, stored(now)],
        )?;
        Ok(())
    }

    /// A new process: everything is due.
    pub(super) fn wake_all(&self, now: u64) -> Result<(), InboxError> {
        self.execute("UPDATE lanes SET due = ?1, suffers = 0 WHERE due > ?1", [stored(now)])?;
        Ok(())
    }

    /// Removes some of what has been kept long enough, and gives some free space back. Returns whether there is
    /// more of either.
    pub(super) fn purge(&self, now: u64) -> Result<bool, InboxError> {
        let removed = self.execute(
            "DELETE FROM events WHERE seq IN (
                 SELECT seq FROM events WHERE state = 'delivered' AND finished_at < ?1 LIMIT ?2)",
            params![stored(now.saturating_sub(KEPT_MS)), PURGE_STEP],
        )?;
        self.all(&format!("PRAGMA incremental_vacuum({PURGE_STEP})"), [], |_| Ok(()))?;
        let free: i64 = self.first("PRAGMA freelist_count", [], |row| row.get(0))?.unwrap_or(0);
        Ok(free > 0 || i64::try_from(removed).unwrap_or(0) == PURGE_STEP)
    }

    pub(super) fn counts(&self) -> Result<Counts, InboxError> {
        let count = |state: &str| {
            let sql = format!("SELECT count(*) FROM events WHERE state = '{state}'");
            self.first(&sql, [], |row| row.get(0)).map(|count| read(count.unwrap_or(0)))
        };
        Ok(Counts { pending: count("pending")?, dead: count("dead")? })
    }

    /// Shows events to `each`, in order, until it says no.
    pub(super) fn list(
        &self,
        listing: &Listing,
        mut each: impl FnMut(Entry) -> std::io::Result<()>,
    ) -> Result<std::io::Result<()>, InboxError> {
        let shown = |state| listing.states.contains(&state);
        let sql = "SELECT seq, events.binding, state, attempts, accepted_at, finished_at, last_error, msg_id,
                       events.conversation, length(data), due,
                       (SELECT min(seq) FROM events AS first WHERE first.state = 'pending'
                            AND first.binding = events.binding AND first.conversation = events.conversation),
                       CASE WHEN ?5 THEN metadata END, CASE WHEN ?5 THEN data END
                   FROM events LEFT JOIN lanes
                       ON lanes.binding = events.binding AND lanes.conversation = events.conversation
                   WHERE (?1 IS NULL OR events.binding = ?1)
                       AND (state = 'pending' AND ?2 OR state = 'dead' AND ?3 OR state = 'delivered' AND ?4)
                   ORDER BY seq";
        let mut statement = self.connection.prepare(sql).map_err(|error| self.error(&error))?;
        let mut rows = statement
            .query(params![
                listing.binding,
                shown(State::Pending),
                shown(State::Dead),
                shown(State::Delivered),
                listing.content
            ])
            .map_err(|error| self.error(&error))?;
        while let Some(row) = rows.next().map_err(|error| self.error(&error))? {
            let entry = entry(row).map_err(|error| self.error(&error))?;
            if let Err(error) = each(entry) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Puts dead events back to where they were in their conversations. Returns how many.
    pub(super) fn retry(&self, selection: &Selection, now: u64) -> Result<usize, InboxError> {
        let selected = self.selected(selection, &[State::Dead], "retry")?;
        for seq in &selected {
            let lane = self.first("SELECT binding, conversation FROM events WHERE seq = ?1", [seq], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?;
            let Some((binding, conversation)) = lane else { continue };
            self.execute(
                "UPDATE events SET state = 'pending', attempts = 0, finished_at = NULL WHERE seq = ?1",
                [seq],
            )?;
            self.add_lane(&binding, &conversation, now)?;
            if self.head(&binding, &conversation)? == Some(*seq) {
                self.settle(&binding, &conversation, now, false)?;
            }
        }
        Ok(selected.len())
    }

    /// Gives events up, but keeps their `msgId`. Returns how many.
    pub(super) fn drop_events(&self, selection: &Selection, now: u64) -> Result<usize, InboxError> {
        let selected = self.selected(selection, &[State::Dead, State::Pending], "drop")?;
        for seq in &selected {
            let lane = self.pending_lane(*seq)?;
            self.clear(*seq, None, now)?;
            if let Some((binding, conversation)) = lane {
                self.settle(&binding, &conversation, now, false)?;
            }
        }
        Ok(selected.len())
    }

    /// Every selected event is there and in one of the `fitting` states. `All` means the dead ones.
    fn selected(&self, selection: &Selection, fitting: &[State], action: &'static str) -> Result<Vec<i64>, InboxError> {
        let Selection::Seqs(seqs) = selection else {
            return self.all("SELECT seq FROM events WHERE state = 'dead' ORDER BY seq", [], |row| row.get(0));
        };
        let mut seqs = seqs.clone();
        seqs.sort_unstable();
        seqs.dedup();
        for &seq in &seqs {
            let file = self.file.clone();
            match self.first("SELECT state FROM events WHERE seq = ?1", [seq], |row| state(row, 0))? {
                None => return Err(InboxError::NoSuchEvent { file, seq }),
                Some(state) if !fitting.contains(&state) => {
                    return Err(InboxError::WrongState { file, seq, state, action });
                }
                Some(_) => {}
            }
        }
        Ok(seqs)
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, more: Option<i64>) -> Result<(), InboxError> {
        let pages: i64 = self.first("PRAGMA page_count", [], |row| row.get(0))?.unwrap();
        let limit = more.map_or(1_000_000, |more| pages + more);
        self.all(&format!("PRAGMA max_page_count = {limit}"), [], |_| Ok(()))?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn batch_for_test(&self, sql: &str) -> Result<(), InboxError> {
        self.batch(sql)
    }

    #[cfg(test)]
    pub(super) fn number_for_test(&self, sql: &str) -> Result<i64, InboxError> {
        Ok(self.first(sql, [], |row| row.get(0))?.unwrap())
    }
}

fn state(row: &Row<'_>, index: usize) -> rusqlite::Result<State> {
    // The table's CHECK knows no others.
    Ok(match row.get_ref(index)?.as_str()? {
        "dead" => State::Dead,
        "delivered" => State::Delivered,
        _ => State::Pending,
    })
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let seq: i64 = row.get(0)?;
    let state = state(row, 2)?;
    let head: Option<i64> = row.get(11)?;
    let is_pending = state == State::Pending;
    let metadata: Option<String> = row.get(12)?;
    Ok(Entry {
        seq,
        binding: row.get(1)?,
        state,
        attempts: row.get(3)?,
        accepted_at: read(row.get(4)?),
        finished_at: row.get::<_, Option<i64>>(5)?.map(read),
        last_error: row.get(6)?,
        msg_id: row.get(7)?,
        conversation_id: Some(row.get::<_, String>(8)?).filter(|conversation| !conversation.is_empty()),
        size: read(row.get(9)?),
        next_attempt_at: row.get::<_, Option<i64>>(10)?.filter(|_| is_pending && head == Some(seq)).map(read),
        waits_for: head.filter(|&head| is_pending && head != seq),
        metadata: metadata.and_then(|text| serde_json::from_str(&text).ok()),
        data: row.get::<_, Option<Vec<u8>>>(13)?.map(Bytes::from),
    })
}

/// Whether there is nothing in the file, or no file.
fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.len() == 0)
}

/// Creates the file if it is not there, and keeps others out of it. SQLite gives its journal the same mode.
fn private_file(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    keep_private(&file)
}

#[cfg(unix)]
fn keep_private(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 == 0 { Ok(()) } else { file.set_permissions(fs::Permissions::from_mode(0o600)) }
}

#[cfg(not(unix))]
fn keep_private(_: &File) -> std::io::Result<()> {
    Ok(())
}

/// SQLite's failures in terms of what to do. Its texts name tables and columns, never values.
fn explain(file: &Path, error: &rusqlite::Error) -> InboxError {
    let file = file.to_owned();
    let reason = one_line(&error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => InboxError::Full { file },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => InboxError::ReadOnly { file },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => InboxError::Corrupt { file, reason },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => InboxError::Busy { file },
        _ => InboxError::Io { file, reason: format!("cannot be used: {reason}") },
    }
}

/// SQLite puts several findings on several lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
