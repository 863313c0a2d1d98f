//! Puts a damaged store in order where no event is lost by it: indexes and lanes follow from the events.
//!
//! But for one thing: that a conversation waits for a message that says what came first in it is a lane's. After that, what comes
//! behind may overtake such a message.
//!
//! The events are copied into a new store, which then takes the damaged one's place. In its own place a store cannot
//! be repaired: SQLite rebuilds an index by emptying it first, and reads the damaged pages for that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{Store, beside, explain, private_file, schema};
use crate::queue::{QueueError, Side};

/// What the names of the files beside the store end in: the new store while it is made, and once it is whole.
const UNFINISHED: &str = "-unfinished";
const REBUILT: &str = "-rebuilt";

/// What the damaged store is called from then on; its journal, with `-wal` at the end.
const DAMAGED: &str = "-damaged";

/// Findings that are looked at. A damaged root is one for each page below it, and a store of a GiB has 260,000 pages.
const MOST_FINDINGS: usize = 1_000_000;

impl Store {
    /// What is damaged, as SQLite says it: first of all trees, which is all that counts here, then of rows, until it
    /// meets a damaged page there.
    pub(super) fn findings(&self, most: usize) -> Result<Vec<String>, QueueError> {
        let mut findings = Vec::new();
        let failed = |error| explain(self.side, &self.file, &error);
        let mut statement = self.connection.prepare(&format!("PRAGMA quick_check({most})")).map_err(failed)?;
        for said in statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)? {
            match said {
                Ok(said) => findings.extend(said.lines().map(|line| line.trim().to_owned())),
                Err(error) if findings.is_empty() => return Err(failed(error)),
                Err(_) => break,
            }
        }
        findings.retain(|line| !matches!(line.as_str(), "" | "ok" | "*** in database main ***"));
        Ok(findings)
    }

    /// The store that takes the place of this one, if all that is damaged follows from the events, and those can be
    /// read. Otherwise nothing is changed.
    pub(in crate::queue) fn put_in_order(&self) -> Result<Self, QueueError> {
        let findings = self.findings(MOST_FINDINGS)?;
        self.follows_from_events(&findings)?;
        let rebuilt = self.rebuild().and_then(|()| self.io("replaced", take_place(&self.file)));
        // Whatever came of it, and nothing if it was renamed.
        let _ = fs::remove_file(beside(&self.file, UNFINISHED));
        rebuilt?;
        let mut store = Self::connect(self.side, self.file.clone(), self.limits)?.make_ready()?;
        store.under_way.clone_from(&self.under_way);
        store.siblings.clone_from(&self.siblings);
        #[cfg(test)]
        store.commits.clone_from(&self.commits);
        tracing::error!(
            damage = findings.first().map_or("found while it was used", |first| first),
            "the {} was damaged and is put in order: it has every event; check the disk, and delete what has its name \
             and {DAMAGED} or {DAMAGED}-wal at the end",
            self.place()
        );
        Ok(store)
    }

    /// An error if there is something among the findings that could concern events. A page that belongs to two trees may.
    fn follows_from_events(&self, findings: &[String]) -> Result<(), QueueError> {
        let sql = "SELECT rootpage FROM sqlite_schema WHERE rootpage > 0 AND name NOT IN ('events', 'sqlite_sequence', 'posts', 'closings', 'quotas')";
        let roots: BTreeSet<String> =
            self.all(sql, [], |row| row.get::<_, i64>(0))?.iter().map(ToString::to_string).collect();
        let follows = |finding: &String| {
            let mut words = finding.split_whitespace();
            let is_of_no_event = match (words.next(), words.next()) {
                (Some("Tree"), Some(root)) => roots.contains(root),
                (Some("Freelist:" | "Page"), Some(_)) => true,
                // Of a row, or of how many there are.
                _ => finding.contains("lanes"),
            };
            // Where a page is used says the page before it; the map is for moving pages alone.
            let is_of_the_map = finding.contains("ptr map") || finding.contains("ptrmap");
            (is_of_no_event || is_of_the_map) && !finding.contains("2nd reference")
        };
        match findings.iter().find(|finding| !follows(finding)) {
            Some(finding) => Err(self.corrupt(finding)),
            None if findings.len() >= MOST_FINDINGS => Err(self.corrupt("in very many places")),
            None if self.version()? == schema::VERSION => Ok(()),
            None => Err(self.corrupt(findings.first().map_or("", |first| first))),
        }
    }

    /// Copies the events into a store of its own.
    fn rebuild(&self) -> Result<(), QueueError> {
        let unfinished = beside(&self.file, UNFINISHED);
        let started = match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => private_file(&unfinished),
        };
        self.io("rebuilt", started)?;
        let new = Self::connect(self.side, unfinished.clone(), self.limits)?;
        new.batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = MEMORY")?;
        new.bring_up_to_date(0)?;
        drop(new);
        let path = unfinished.to_str().ok_or_else(|| self.corrupt("its path is not UTF-8"))?;
        self.execute("ATTACH ?1 AS rebuilt", [path])?;
        // Synced below, all at once. By the order of the table: SQLite would otherwise copy the indexes as they are.
        let copied = self
            .batch("PRAGMA rebuilt.journal_mode = MEMORY; PRAGMA rebuilt.synchronous = OFF; PRAGMA rebuilt.cache_size = -65536")
            .and_then(|()| {
                self.transaction(|store| {
                    store.batch(
                        "INSERT INTO rebuilt.events SELECT * FROM main.events NOT INDEXED ORDER BY seq;
                         INSERT INTO rebuilt.lanes (binding, conversation, due, rank)
                             SELECT binding, conversation, 0, max(rank) FROM rebuilt.events WHERE state = 'pending'
                             GROUP BY binding, conversation;
                         DELETE FROM rebuilt.sqlite_sequence;
                         INSERT INTO rebuilt.sqlite_sequence SELECT * FROM main.sqlite_sequence;",
                    )?;
                    if store.side == Side::Outbox {
                        store.batch(
                            "INSERT INTO rebuilt.posts SELECT * FROM main.posts;
                             INSERT INTO rebuilt.closings SELECT * FROM main.closings;
                             INSERT INTO rebuilt.quotas SELECT * FROM main.quotas;",
                        )?;
                    }
                    Ok(())
                })
            });
        let detached = self.batch("DETACH rebuilt");
        copied.and(detached)?;
        let finish = || {
            File::options().write(true).open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, beside(&self.file, REBUILT))?;
            sync_directory(&self.file)
        };
        self.io("rebuilt", finish())
    }

    fn io<T>(&self, what: &str, result: io::Result<T>) -> Result<T, QueueError> {
        result.map_err(|error| QueueError::Io { place: self.place(), reason: format!("cannot be {what}: {error}") })
    }
}

/// Puts the store that was rebuilt in the place of the damaged one; also what an earlier host has not come to do. A
/// host that ends at any point here finds the rest to do at its next start.
pub(super) fn take_place(file: &Path) -> io::Result<()> {
    let rebuilt = beside(file, REBUILT);
    if !rebuilt.try_exists()? {
        return Ok(());
    }
    // The journal first: beside the new store it would be taken for that one's.
    for end in ["-wal", ""] {
        found(fs::rename(beside(file, end), beside(file, &format!("{DAMAGED}{end}"))))?;
    }
    found(fs::remove_file(beside(file, "-shm")))?;
    sync_directory(file)?;
    fs::rename(&rebuilt, file)?;
    sync_directory(file)
}

fn found(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Makes what was renamed beside the file outlast a power cut.
fn sync_directory(file: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Limits;

    fn created() -> (tempfile::TempDir, Store) {
        let dir = tempfile::TempDir::new().unwrap();
        let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
        (dir, store)
    }

    fn root(store: &Store, name: &str) -> i64 {
        store.number_for_test(&format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'")).unwrap()
    }

    #[test]
    fn what_could_concern_an_event_is_not_put_in_order() {
        let (_dir, store) = created();
        let (events, index) = (root(&store, "events"), root(&store, "events_pending"));
        for (finding, follows) in [
            (format!("Tree {index} page {index}: btreeInitPage() returns error code 11"), true),
            (format!("Tree {events} page {events}: btreeInitPage() returns error code 11"), false),
            (format!("Tree {events} page 9: Bad ptr map entry key=9 expected=(5,3) got=(1,0)"), true),
            (format!("Tree {events} page 9 cell 1: Failed to read ptrmap key=9"), true),
            (format!("Tree {index} page 9 cell 1: 2nd reference to page 12"), false),
            ("Freelist: size is 3 but should be 5".into(), true),
            ("Freelist: 2nd reference to page 12".into(), false),
            ("Page 12: never used".into(), true),
            ("row 3 missing from index lanes_due".into(), true),
            ("NULL value in lanes.binding".into(), true),
            ("NULL value in events.binding".into(), false),
            ("wrong # of entries in index events_msg_id".into(), false),
        ] {
            let found = store.follows_from_events(std::slice::from_ref(&finding));
            assert_eq!(found.is_ok(), follows, "{finding}");
            // One is enough.
            let beside = ["Page 12: never used".into(), finding.clone(), "Page 13: never used".into()];
            assert_eq!(store.follows_from_events(&beside), found, "{finding}");
            if let Err(error) = found {
                assert!(error.to_string().contains(&finding), "{error}");
            }
        }
    }

    #[test]
    fn damage_in_very_many_places_is_not_put_in_order() {
        let (_dir, store) = created();
        let mut findings = vec!["Page 12: never used".to_owned(); MOST_FINDINGS - 1];
        assert_eq!(store.follows_from_events(&findings), Ok(()));
        findings.push("Page 12: never used".into());
        let error = store.follows_from_events(&findings).unwrap_err();
        assert!(error.to_string().contains("in very many places"), "{error}");
    }

    #[test]
    fn a_damaged_store_of_an_older_host_is_not_put_in_order() {
        let (_dir, store) = created();
        store.batch_for_test("PRAGMA user_version = 1").unwrap();
        let error = store.follows_from_events(&["Page 12: never used".into()]).unwrap_err();
        assert!(error.to_string().contains("Page 12: never used"), "{error}");
    }

    #[test]
    fn a_store_that_was_not_finished_is_made_anew() {
        let (dir, store) = created();
        let unfinished = beside(&store.file, UNFINISHED);
        fs::write(&unfinished, [0xA5; 9_000]).unwrap();
        store.put_in_order().unwrap();
        assert!(!unfinished.exists() && beside(&store.file, DAMAGED).exists());
        // What cannot be removed is said, and nothing is changed.
        let store = Store::open(Side::Inbox, dir.path()).unwrap();
        fs::create_dir(&unfinished).unwrap();
        let error = store.put_in_order().err().unwrap();
        assert!(matches!(error, QueueError::Io { .. }) && error.to_string().contains("cannot be rebuilt"), "{error}");
        assert!(!beside(&store.file, REBUILT).exists());
    }

    #[test]
    fn a_damaged_store_that_cannot_be_set_aside_is_not_replaced() {
        let (_dir, store) = created();
        fs::create_dir(beside(&store.file, DAMAGED)).unwrap();
        let before = fs::read(&store.file).unwrap();
        let error = store.put_in_order().err().unwrap();
        assert!(matches!(error, QueueError::Io { .. }) && error.to_string().contains("cannot be replaced"), "{error}");
        assert!(fs::read(&store.file).unwrap() == before);
    }
}
