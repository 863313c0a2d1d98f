//! A queue's directory for one host alone: made if it is not there, locked for as long as the store is open.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use super::error::{Place, QueueError, Side};

/// Keeps other hosts out of a directory until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    side: Side,
    file: File,
}

impl Lock {
    /// Creates the directory, and locks it.
    pub(super) fn take(side: Side, dir: &Path) -> Result<Self, QueueError> {
        let unusable = |what: &str, error: &io::Error| QueueError::Directory {
            place: Place::new(side, dir),
            reason: format!("cannot be {what}: {error}; name a directory that this user can write to"),
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir).map_err(|error| unusable("created", &error))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(dir.join(format!("{side}.lock"))).map_err(|error| unusable("locked", &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { side, file }),
            Err(TryLockError::WouldBlock) => Err(QueueError::InUse { place: Place::new(side, dir) }),
            Err(TryLockError::Error(error)) => Err(unusable("locked", &error)),
        }
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process has a copy of it from its beginning until it runs its program, and the
    /// lock with it. A directory that had just been closed was found in use because of that.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "the {}'s lock could not be released; it goes with the process", self.side);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(Side::Inbox, dir.path()).unwrap();
        // As a child process has one.
        let copy = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::take(Side::Inbox, dir.path()), Err(QueueError::InUse { .. })));
        drop(lock);
        Lock::take(Side::Inbox, dir.path()).unwrap();
        drop(copy);
    }
}
