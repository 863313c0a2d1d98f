//! Space for what must always be possible: to note that an event was delivered, to set one aside, to drop one.
//!
//! A full volume must not stop the deliveries that would empty it. So what they write goes to space that the store
//! has already, whatever other programs do to the volume:
//!
//! - **Pages.** Of the file's pages, [`RESERVE`] are kept free for them: an event is only stored where more are. The
//!   file grows ahead of the events, step by step, and a step counts when its pages are in the file, not before.
//! - **Journal.** SQLite writes a journal that is there already from its beginning, once all of it is in the store.
//!   It is made as long as it is to become before the first event, and left in place at the end of the host.
//!
//! This needs a file system that overwrites in place, as ext4 does; Btrfs and ZFS write elsewhere first.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};

use rusqlite::params;

use super::Store;
use crate::queue::QueueError;

/// Bytes of a page: SQLite's default since 2016.
pub(super) const PAGE: u64 = 4_096;

/// Pages that no event may take. A mark makes its event smaller, and needs some pages for a moment while a table
/// or an index is put in order; 1 MiB is many times that.
pub(super) const RESERVE: u64 = 256;

/// Pages by which the file grows. One step is about five hundred short messages.
const STEP: u64 = 256;

/// How long the journal is made, and goes back to after a burst. It holds what is written between two checkpoints
/// ([`CHECKPOINT`]) and, after the last of them, one step of growth.
pub(super) const JOURNAL_BYTES: u64 = 4 << 20;

/// After how many pages in the journal they are written into the store. Half the journal: the other half is for the
/// transaction that passes this mark.
pub(super) const CHECKPOINT: u64 = JOURNAL_BYTES / PAGE / 2;

/// Pages beside those of the data that an insertion may need, in the table and its indexes.
const OVERHEAD: u64 = 16;

/// Pages that one step of the purge gives back: some milliseconds, in which nothing else is written, and less than
/// half the journal.
const GIVE_BACK: u64 = 200;

/// The pages that so many bytes of events need at most.
fn pages_for(bytes: u64) -> u64 {
    // An overflow page has 4 bytes for the number of the next one.
    bytes.div_ceil(PAGE - 4) + OVERHEAD
}

/// What the files take on disk when nothing is in them.
pub(in crate::queue) const LEAST_BYTES: u64 = JOURNAL_BYTES + (RESERVE + 2 * STEP) * PAGE;

impl Store {
    fn count_of(&self, pragma: &str) -> Result<u64, QueueError> {
        let count: Option<i64> = self.first(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    /// Whether so many bytes more can be kept without touching the reserve.
    pub(super) fn has_room(&self, bytes: u64) -> Result<bool, QueueError> {
        Ok(self.count_of("freelist_count")? >= RESERVE + pages_for(bytes))
    }

    /// Bytes of events that it could still take if the volume has room for them.
    pub(super) fn left(&self) -> Result<u64, QueueError> {
        let most = self.limits.max_size.saturating_sub(JOURNAL_BYTES) / PAGE;
        let used = self.count_of("page_count")?.saturating_sub(self.count_of("freelist_count")?);
        Ok(most.saturating_sub(used + RESERVE + STEP).saturating_mul(PAGE))
    }

    /// Lets the file grow until so many bytes of events fit. Not in a transaction.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), QueueError> {
        if self.has_room(bytes)? {
            return Ok(());
        }
        let missing = (RESERVE + pages_for(bytes)).saturating_sub(self.count_of("freelist_count")?);
        let pages = self.count_of("page_count")?;
        let most = self.limits.max_size.saturating_sub(JOURNAL_BYTES) / PAGE;
        let wanted = (pages + missing).min(most.saturating_sub(STEP));
        let grown = self.grow(wanted);
        self.end_growth()?;
        grown?;
        if self.has_room(bytes)? {
            return Ok(());
        }
        Err(QueueError::Limit { place: self.place(), max_size: self.limits.max_size })
    }

    /// Lets the file grow to so many pages and up to one step more. The first steps take what is free in the file
    /// already. Random bytes, so that no file system stores less than that.
    fn grow(&self, wanted: u64) -> Result<(), QueueError> {
        let blob = i64::try_from(STEP * PAGE).unwrap_or(i64::MAX);
        while self.count_of("page_count")? < wanted {
            // Each step begins with an empty journal, and has to fit into it.
            self.checkpoint()?;
            self.transaction(|store| store.execute("INSERT INTO growth (data) VALUES (randomblob(?1))", [blob]))?;
        }
        Ok(())
    }

    /// Frees the pages of the steps if they are in the file, and takes the last step back otherwise. Also what a
    /// host that was killed in the middle of a step leaves to the next one.
    pub(super) fn end_growth(&self) -> Result<(), QueueError> {
        if self.first("SELECT 1 FROM growth LIMIT 1", [], |_| Ok(()))?.is_none() {
            return Ok(());
        }
        let in_file = self.checkpoint();
        // There is nothing of people's in them.
        self.batch("PRAGMA secure_delete = OFF")?;
        let freed = self.transaction(|store| store.batch("DELETE FROM growth"));
        self.batch("PRAGMA secure_delete = ON")?;
        freed?;
        if in_file.is_err() {
            // Without them at its end, the journal can be written into the store again.
            self.give_back(STEP + OVERHEAD)?;
            self.checkpoint()?;
        }
        in_file
    }

    /// Writes the journal into the store. Without an error, what readers allow of it.
    fn checkpoint(&self) -> Result<(), QueueError> {
        self.all("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map(drop)
    }

    fn give_back(&self, pages: u64) -> Result<(), QueueError> {
        self.all(&format!("PRAGMA incremental_vacuum({pages})"), [], |_| Ok(())).map(drop)
    }

    /// Gives some of the pages back to the volume that more than one step of growth would replace. Returns whether
    /// there are more.
    pub(super) fn give_some_back(&self) -> Result<bool, QueueError> {
        let spare = |store: &Self| Ok(store.count_of("freelist_count")?.saturating_sub(RESERVE + 2 * STEP));
        let pages = spare(self)?.min(GIVE_BACK);
        if pages > 0 {
            self.give_back(pages)?;
        }
        Ok(spare(self)? > 0)
    }

    /// Makes the journal as long as it is to be. SQLite takes zeros for the end of what is in it.
    pub(super) fn reserve_journal(&self) -> Result<(), QueueError> {
        let extend = || -> io::Result<()> {
            // No locks are on this file that closing it could release: those are on the two others.
            let mut journal = OpenOptions::new().write(true).create(true).truncate(false).open(self.journal())?;
            // If it has just been cut to nothing, that must be on the disk before anything is written where the frames
            // were: after a power cut some of them could be there and later ones be zeros, and SQLite would write those
            // old pages into the store.
            journal.sync_all()?;
            let mut length = journal.seek(SeekFrom::End(0))?;
            let zeros = [0; 16 * PAGE as usize];
            while length < JOURNAL_BYTES {
                journal.write_all(&zeros)?;
                length += zeros.len() as u64;
            }
            journal.sync_all()
        };
        extend().map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => QueueError::Full { place: self.place() },
            _ => QueueError::Io {
                place: self.place(),
                reason: format!("cannot reserve space in {}-wal: {error}", self.side.file()),
            },
        })
    }

    /// At the end of a host: everything goes into the store, and nothing of it stays in the journal. Where space is
    /// scarce the journal is left as it is: another program could take what it gives up for a moment.
    pub(in crate::queue) fn close(self) -> Result<(), QueueError> {
        self.checkpoint()?;
        if matches!(*self.scarce.borrow(), Some((QueueError::Full { .. }, _))) {
            return Ok(());
        }
        self.all("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.reserve_journal()
    }

    /// Of rows with their sizes, those that one transaction may change: it fits into the rest of the journal.
    pub(super) fn first_fitting(rows: Vec<(i64, u64)>) -> Vec<i64> {
        let mut bytes = 0;
        let fits = move |&(_, size): &(i64, u64)| {
            let first = bytes == 0;
            bytes += size + 2 * PAGE;
            first || bytes <= JOURNAL_BYTES / 4
        };
        rows.into_iter().take_while(fits).map(|(seq, _)| seq).collect()
    }

    /// Rows of events with what they take on disk, without those that are passed over.
    pub(super) fn sizes(&self, condition: &str, value: i64) -> Result<Vec<(i64, u64)>, QueueError> {
        let sql = format!(
            "SELECT seq, length(data) + length(metadata) + ifnull(length(reply), 0) FROM events WHERE {condition} LIMIT ?2"
        );
        let passed_over = self.passed_over.borrow();
        let most = i64::try_from(500 + passed_over.len()).unwrap_or(i64::MAX);
        let mut rows = self.all(&sql, params![value, most], |row| Ok((row.get(0)?, super::read(row.get(1)?))))?;
        rows.retain(|(seq, _)| !passed_over.contains(seq));
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_changes_what_fits_into_the_journal_and_at_least_one_row() {
        assert_eq!(Store::first_fitting(Vec::new()), Vec::<i64>::new());
        assert_eq!(Store::first_fitting(vec![(1, 100 << 20), (2, 0)]), [1]);
        let small = (0..500).map(|seq| (seq, 100)).collect();
        let fitting = Store::first_fitting(small).len() as u64;
        assert!(fitting * (100 + 2 * PAGE) <= JOURNAL_BYTES / 4 && fitting > 100, "{fitting}");
    }
}
