//! The inbox's directory for one host alone: made if it is not there, locked for as long as the store is open.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use super::error::InboxError;

/// Name of the lock in the directory.
const NAME: &str = "inbox.lock";

/// Keeps other hosts out of a directory until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Creates the directory, and locks it.
    pub(super) fn take(dir: &Path) -> Result<Self, InboxError> {
        let unusable = |what: &str, error: &io::Error| InboxError::Directory {
            dir: dir.to_owned(),
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
        let file = options.open(dir.join(NAME)).map_err(|error| unusable("locked", &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(InboxError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => Err(unusable("locked", &error)),
        }
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child process has a copy of it from its beginning until it runs its program, and the
    /// lock with it. A directory that had just been closed was found in use because of that.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the inbox's lock could not be released; it goes with the process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        // As a child process has one.
        let copy = lock.0.try_clone().unwrap();
        assert!(matches!(Lock::take(dir.path()), Err(InboxError::InUse { .. })));
        drop(lock);
        Lock::take(dir.path()).unwrap();
        drop(copy);
    }
}
