//! A queue on disk. Nothing outside this directory knows SQL, and everything here blocks.

mod hasten;
mod ledger;
mod letters;
mod operate;
mod queue;
mod repair;
mod schema;
mod siblings;
mod space;
mod unite;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension, Row};

use super::error::Place;
use super::siblings::Siblings;
use super::{Limits, QueueError, Side, State};
pub(super) use queue::{Due, EXPIRED, Head, Item, Lane, Room, Stored, URGENT};
#[cfg(test)]
pub(super) const FIRST_SCHEMA: &str = schema::STEPS[0];
pub(super) use siblings::LOOKED_AT;
pub(super) use space::LEAST_BYTES;
pub(super) use unite::{MOST_BYTES, MOST_LANES, MOST_READ, MOST_UNITED};

/// How long to wait for another process that writes. The `inbox` command writes for less than a second at a time,
/// even if it puts 100,000 events back.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after the file could not grow: a full disk is not emptied within milliseconds, and each attempt writes
/// a mebibyte.
const GROW_AGAIN: Duration = Duration::from_secs(1);

/// How long a delivered event's `msgId` is kept. DingTalk repeats a message within minutes if at all; a day also
/// covers a queue between it and the host.
pub(super) const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// An open store.
pub(super) struct Store {
    connection: Connection,
    side: Side,
    file: PathBuf,
    limits: Limits,
    /// Why the file could not grow the last time, and when that was.
    scarce: RefCell<Option<(QueueError, Instant)>>,
    /// What SQLite has found to be damaged since the store was opened.
    damage: OnceCell<QueueError>,
    /// The conversation whose first event could not be read because of that.
    unreadable: RefCell<Option<Lane>>,
    /// Events on damaged pages: neither delivered nor changed.
    passed_over: RefCell<BTreeSet<i64>>,
    /// The conversations from which something may be delivered at this moment: what was under way when somebody last asked what
    /// is due, and what that was. Nothing else can be, because one dispatcher asks.
    under_way: RefCell<HashSet<Lane>>,
    /// Whose messages could come before those of another binding then.
    siblings: RefCell<Siblings>,
    /// Up to where lanes were found to wait for those of siblings, of bindings of which more wait than are looked at at once.
    looked_at: RefCell<HashMap<(String, i64), (i64, i64)>>,
    /// Every statement that was used.
    #[cfg(test)]
    statements: RefCell<BTreeSet<String>>,
    /// Commits that changed something.
    #[cfg(test)]
    pub(super) commits: Arc<std::sync::atomic::AtomicU64>,
}

fn stored(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn read(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

impl Store {
    /// Opens the store in `dir`, creates it if there is none, checks it, puts it in order if it can be, and reserves the
    /// space that it needs.
    pub(super) fn create(side: Side, dir: &Path, limits: Limits) -> Result<Self, QueueError> {
        let file = dir.join(side.file());
        // A store of an earlier host that was rebuilt and not put in its place yet.
        let created = repair::take_place(&file).and_then(|()| private_file(&file));
        created.map_err(|error| io_error(side, &file, format!("cannot be created: {error}")))?;
        let store = Self::connect(side, file, limits)?;
        if store.version()? == 0 {
            // Before the journal mode, which writes the first page and thereby settles it.
            store.batch("PRAGMA auto_vacuum = INCREMENTAL")?;
        } else if let Some(finding) = store.findings(1)?.first() {
            // What is damaged is not written to.
            let error = store.corrupt(finding);
            return store.put_in_order().inspect_err(|why| {
                if !matches!(why, QueueError::Corrupt { .. }) {
                    tracing::error!(%error, "the {side} cannot be put in order now");
                }
            });
        }
        store.make_ready()
    }

    /// A store that is in order, as a host needs it.
    fn make_ready(self) -> Result<Self, QueueError> {
        self.batch("PRAGMA journal_mode = WAL")?;
        self.bring_up_to_date(self.version()?)?;
        if let Err(error) = self.reserve_journal().and_then(|()| self.end_growth()) {
            tracing::error!(%error, "no space can be reserved for noting what was delivered; it may be delivered again");
        }
        self.prepare(0);
        Ok(self)
    }

    /// Takes the steps that the store has not had.
    fn bring_up_to_date(&self, version: i64) -> Result<(), QueueError> {
        if version == schema::VERSION {
            return Ok(());
        }
        self.transaction(|store| {
            for step in schema::STEPS.iter().skip(usize::try_from(version).unwrap_or(0)) {
                store.batch(step)?;
            }
            if version == 0 && store.side == Side::Outbox {
                store.batch(schema::OUTBOX)?;
            }
            store.batch(&format!("PRAGMA user_version = {}", schema::VERSION))
        })
    }

    /// Makes room for so many bytes of events that are about to be stored. Without it, they are refused one by one.
    pub(super) fn prepare(&self, bytes: u64) {
        if self.scarce.borrow().as_ref().is_some_and(|(_, since)| since.elapsed() < GROW_AGAIN) {
            return;
        }
        let error = self.make_room(bytes).err();
        self.scarce.replace(error.map(|error| (error, Instant::now())));
    }

    /// Why nothing more is stored, if it is so: the file cannot grow.
    fn no_room(&self) -> QueueError {
        let known = self.scarce.borrow().as_ref().map(|(error, _)| error.clone());
        known.unwrap_or(QueueError::Full { place: self.place() })
    }

    /// Opens the store in `dir` beside a host that may be running.
    pub(super) fn open(side: Side, dir: &Path) -> Result<Self, QueueError> {
        let file = dir.join(side.file());
        let missing = || QueueError::Missing { place: Place::new(side, &file) };
        match fs::metadata(&file) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            Err(error) => {
                return Err(io_error(side, &file, format!("cannot be read: {error}")));
            }
        }
        // What is there may go to its place, whatever a host may store.
        let store = Self::connect(side, file.clone(), Limits { max_size: u64::MAX, ..Limits::default() })?;
        match store.version()? {
            0 => Err(missing()),
            schema::VERSION => Ok(store),
            _ => Err(QueueError::Older { place: store.place() }),
        }
    }

    fn connect(side: Side, file: PathBuf, limits: Limits) -> Result<Self, QueueError> {
        if is_empty(&file) && !is_empty(&beside(&file, "-wal")) {
            // SQLite would take the journal for a left-over and remove it.
            let reason = format!("it is empty, but {}-wal is not", side.file());
            return Err(QueueError::Corrupt { place: Place::new(side, &file), reason });
        }
        // Not SQLITE_OPEN_URI: a directory may have any name.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&file, flags).map_err(|error| explain(side, &file, &error))?;
        let store = Self {
            connection,
            side,
            file,
            limits,
            scarce: RefCell::default(),
            damage: OnceCell::new(),
            unreadable: RefCell::default(),
            passed_over: RefCell::default(),
            under_way: RefCell::default(),
            siblings: RefCell::default(),
            looked_at: RefCell::default(),
            #[cfg(test)]
            statements: RefCell::default(),
            #[cfg(test)]
            commits: Arc::default(),
        };
        store.connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| store.error(&error))?;
        // More than there are statements.
        store.connection.set_prepared_statement_cache_capacity(64);
        // SQLite would otherwise remove the journal at the end, and with it the space that is reserved there; and it
        // would do so although the store may be damaged.
        let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        store.connection.set_db_config(config, true).map_err(|error| store.error(&error))?;
        // FULL: on disk at every commit, also when the power fails. What is deleted is overwritten: people wrote it.
        // No temporary file: there may be no space for one.
        store.batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;
             PRAGMA journal_size_limit = {}; PRAGMA wal_autocheckpoint = {};",
            space::JOURNAL_BYTES,
            space::CHECKPOINT,
        ))?;
        Ok(store)
    }

    /// Which way its events go.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    fn place(&self) -> Place {
        Place::new(self.side, &self.file)
    }

    fn journal(&self) -> PathBuf {
        beside(&self.file, "-wal")
    }

    fn version(&self) -> Result<i64, QueueError> {
        let found: i64 = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(|error| self.error(&error))?;
        if !(0..=schema::VERSION).contains(&found) {
            return Err(QueueError::Newer { place: self.place(), found, known: schema::VERSION });
        }
        Ok(found)
    }

    fn corrupt(&self, finding: &str) -> QueueError {
        QueueError::Corrupt { place: self.place(), reason: one_line(finding) }
    }

    fn error(&self, error: &rusqlite::Error) -> QueueError {
        let error = explain(self.side, &self.file, error);
        if matches!(error, QueueError::Corrupt { .. }) && self.damage.set(error.clone()).is_ok() {
            tracing::error!(%error, "the {} takes no more messages; it delivers those that it can read", self.side);
        }
        error
    }

    /// Takes note of an event that is on a damaged page: all others must not wait for it.
    fn pass_over(&self, seq: i64, error: &QueueError) {
        if matches!(error, QueueError::Corrupt { .. }) && self.passed_over.borrow_mut().insert(seq) {
            tracing::error!(seq, %error, "an event cannot be read: it is neither delivered nor set aside, and those behind it wait");
        }
    }

    /// How many events are passed over.
    pub(super) fn passed_over(&self) -> usize {
        self.passed_over.borrow().len()
    }

    /// What is damaged, if that has been found: nothing may be acknowledged that is stored there.
    pub(super) fn damage(&self) -> Option<&QueueError> {
        self.damage.get()
    }

    fn batch(&self, sql: &str) -> Result<(), QueueError> {
        self.connection.execute_batch(sql).map_err(|error| self.error(&error))
    }

    fn prepared(&self, sql: &str) -> Result<CachedStatement<'_>, QueueError> {
        #[cfg(test)]
        self.statements.borrow_mut().insert(sql.to_owned());
        self.connection.prepare_cached(sql).map_err(|error| self.error(&error))
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, QueueError> {
        let mut statement = self.prepared(sql)?;
        statement.execute(values).map_err(|error| self.error(&error))
    }

    /// The first row, if there is one.
    fn first<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, QueueError> {
        let mut statement = self.prepared(sql)?;
        statement.query_row(values, map).optional().map_err(|error| self.error(&error))
    }

    fn all<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, QueueError> {
        let mut statement = self.prepared(sql)?;
        let rows = statement.query_map(values, map).map_err(|error| self.error(&error))?;
        rows.collect::<Result<_, _>>().map_err(|error| self.error(&error))
    }

    /// Everything that `work` does, or nothing of it.
    pub(super) fn transaction<T>(&self, work: impl FnOnce(&Self) -> Result<T, QueueError>) -> Result<T, QueueError> {
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
            tracing::error!(%error, "the {} cannot roll back", self.side);
        }
        #[cfg(test)]
        if result.is_ok() && self.connection.total_changes() != before {
            self.commits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        result
    }

    /// Removes some of what has been kept long enough, and gives some free space back. Returns whether there is
    /// more of either.
    pub(super) fn purge(&self, now: u64) -> Result<bool, QueueError> {
        let old = self.sizes("state = 'delivered' AND finished_at < ?1", stored(now.saturating_sub(KEPT_MS)))?;
        let removed = Self::first_fitting(old);
        for &seq in &removed {
            let delete = self.execute("DELETE FROM events WHERE seq = ?1", [seq]);
            delete.inspect_err(|error| self.pass_over(seq, error))?;
        }
        let is_spare = self.give_some_back()?;
        Ok(is_spare || !removed.is_empty())
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, more: Option<i64>) -> Result<(), QueueError> {
        let pages: i64 = self.first("PRAGMA page_count", [], |row| row.get(0))?.unwrap();
        let limit = more.map_or(1_000_000, |more| pages + more);
        self.all(&format!("PRAGMA max_page_count = {limit}"), [], |_| Ok(()))?;
        Ok(())
    }

    /// How SQLite goes about each statement that was used: the statement, and its plan.
    #[cfg(test)]
    pub(super) fn plans(&self) -> Vec<(String, Vec<String>)> {
        let plan = |sql: &String| {
            let mut statement = self.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let values = vec![rusqlite::types::Null; statement.parameter_count()];
            let rows = statement.query_map(rusqlite::params_from_iter(values), |row| row.get(3)).unwrap();
            (sql.clone(), rows.map(Result::unwrap).collect())
        };
        let statements = self.statements.borrow();
        statements.iter().filter(|sql| !sql.starts_with("PRAGMA")).map(plan).collect()
    }

    #[cfg(test)]
    pub(super) fn batch_for_test(&self, sql: &str) -> Result<(), QueueError> {
        self.batch(sql)
    }

    #[cfg(test)]
    pub(super) fn number_for_test(&self, sql: &str) -> Result<i64, QueueError> {
        Ok(self.first(sql, [], |row| row.get(0))?.unwrap())
    }
}

/// Text to be shown, whatever is there.
fn shown(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
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

/// A file that has the store's name and more.
fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
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

fn io_error(side: Side, file: &Path, reason: String) -> QueueError {
    QueueError::Io { place: Place::new(side, file), reason }
}

/// SQLite's failures in terms of what to do. Its texts name tables and columns, never values.
fn explain(side: Side, file: &Path, error: &rusqlite::Error) -> QueueError {
    let place = Place::new(side, file);
    let reason = one_line(&error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => QueueError::Full { place },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => QueueError::ReadOnly { place },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => QueueError::Corrupt { place, reason },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => QueueError::Busy { place },
        _ => QueueError::Io { place, reason: format!("cannot be used: {reason}") },
    }
}

/// SQLite puts several findings on several lines.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn what_sqlite_cannot_do_says_what_the_operator_can() {
        for (code, advice) in [
            (ffi::SQLITE_FULL, "free some"),
            (ffi::SQLITE_READONLY, "write"),
            (ffi::SQLITE_PERM, "write"),
            (ffi::SQLITE_CORRUPT, "move it away"),
            (ffi::SQLITE_NOTADB, "move it away"),
            (ffi::SQLITE_BUSY, "another process"),
            (ffi::SQLITE_LOCKED, "another process"),
            (ffi::SQLITE_IOERR, "cannot be used"),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let said = explain(Side::Inbox, Path::new("/var/inbox.sqlite"), &error).to_string();
            assert!(said.contains("/var/inbox.sqlite") && said.contains(advice), "{said}");
        }
    }

    #[test]
    fn the_operator_can_change_a_store_that_is_larger_than_usual() {
        let dir = tempfile::TempDir::new().unwrap();
        let usual = Limits::default();
        let store = Store::create(Side::Inbox, dir.path(), usual).unwrap();
        assert_eq!(store.limits, usual);
        // There is no option by which the operator could allow more.
        assert_eq!(Store::open(Side::Inbox, dir.path()).unwrap().limits.max_size, u64::MAX);
    }
}
