//! What can be wrong with the inbox.

use std::path::PathBuf;

use super::State;

/// What is wrong with the inbox. No text contains anything of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboxError {
    /// Another process delivers from it.
    #[error("the inbox {} is in use by another host; stop that one, or name another directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory cannot be used.
    #[error("the inbox {} {reason}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What is wrong and what to do; follows the path.
        reason: String,
    },
    /// There is no store.
    #[error("there is no inbox {}; name the directory that the host was given with --inbox", file.display())]
    Missing {
        /// Where it was looked for.
        file: PathBuf,
    },
    /// The store is damaged.
    #[error(
        "the inbox {} is damaged ({reason}); restore it, or move it away together with the files beside it that have \
         its name and \"-wal\" or \"-shm\" at the end: what it has not delivered is in there",
        file.display()
    )]
    Corrupt {
        /// The store.
        file: PathBuf,
        /// SQLite's finding.
        reason: String,
    },
    /// A newer host has written it.
    #[error(
        "the inbox {} has schema {found}, and this host knows {known}; use the host that wrote it, or a newer one",
        file.display()
    )]
    Newer {
        /// The store.
        file: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that is known.
        known: i64,
    },
    /// The store is of an older host, and only a host that has it for itself can change that.
    #[error(
        "the inbox {} was written by an older host; start this host with it once, then ask again", file.display()
    )]
    Older {
        /// The store.
        file: PathBuf,
    },
    /// It is as large as it may become.
    #[error(
        "the inbox {} is as large as --inbox-max-size allows ({} bytes); let the application take messages, drop dead \
         ones (`inbox list`), or allow more: until then, DingTalk is not told that a message was taken",
        file.display(), max_size
    )]
    Limit {
        /// The store.
        file: PathBuf,
        /// Bytes on disk.
        max_size: u64,
    },
    /// A message that has the `msgId` of another one.
    #[error("the message has the msgId of another one, which is event {seq} of the inbox")]
    OtherBody {
        /// The other one.
        seq: i64,
    },
    /// No space is left.
    #[error(
        "the inbox {} cannot be written because no space is left; free some: until then, DingTalk is not told that a \
         message was taken",
        file.display()
    )]
    Full {
        /// The store.
        file: PathBuf,
    },
    /// It may not be written.
    #[error(
        "the inbox {} cannot be opened or written; let this user write to the file and its directory, and check that \
         the disk is not read-only: until then, DingTalk is not told that a message was taken",
        file.display()
    )]
    ReadOnly {
        /// The store.
        file: PathBuf,
    },
    /// Another process writes for too long.
    #[error(
        "the inbox {} is locked by another process for more than 10 s; find out which one has it open and end it",
        file.display()
    )]
    Busy {
        /// The store.
        file: PathBuf,
    },
    /// The disk, or SQLite, fails otherwise.
    #[error(
        "the inbox {} {reason}; check the disk: until it works, DingTalk is not told that a message was taken",
        file.display()
    )]
    Io {
        /// The store.
        file: PathBuf,
        /// What is wrong; follows the path.
        reason: String,
    },
    /// The host is being stopped.
    #[error("the inbox is closed because the host stops; DingTalk is not told that the message was taken")]
    Stopped,
    /// A number that is not in the store.
    #[error("the inbox {} has no event {seq}; see `inbox list --state all`; nothing was changed", file.display())]
    NoSuchEvent {
        /// The store.
        file: PathBuf,
        /// The number.
        seq: i64,
    },
    /// An event to which this cannot be done.
    #[error(
        "event {seq} of the inbox {} is {state}: there is nothing to {action}; nothing was changed",
        file.display()
    )]
    WrongState {
        /// The store.
        file: PathBuf,
        /// The number.
        seq: i64,
        /// Its state.
        state: State,
        /// `retry` or `drop`.
        action: &'static str,
    },
}
