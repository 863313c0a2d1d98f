//! What can be wrong with a queue.

use std::fmt;
use std::path::{Path, PathBuf};

use super::State;

/// A direction in which messages wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// From DingTalk to the application.
    Inbox,
    /// From the application to DingTalk.
    Outbox,
}

impl Side {
    /// As flags, subcommands and files are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Outbox => "outbox",
        }
    }

    /// Name of the store in its directory.
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Inbox => "inbox.sqlite",
            Self::Outbox => "outbox.sqlite",
        }
    }

    /// Why an event is dead for which nothing else was the reason.
    pub(super) fn too_old(self) -> &'static str {
        match self {
            Self::Inbox => "the application did not take it within --inbox-max-age",
            Self::Outbox => "it could not be sent within --outbox-max-age",
        }
    }

    /// By which a message is recognised.
    fn identifier(self) -> &'static str {
        match self {
            Self::Inbox => "msgId",
            Self::Outbox => "msgUuid",
        }
    }

    /// How what waits becomes less.
    fn what_makes_room(self) -> &'static str {
        match self {
            Self::Inbox => "let the application take messages",
            Self::Outbox => "wait until messages are sent",
        }
    }

    /// What follows from not being able to store.
    fn until_then(self) -> &'static str {
        match self {
            Self::Inbox => "until then, DingTalk is not told that a message was taken",
            Self::Outbox => "until then, no message is taken for it",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A queue, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    side: Side,
    container: Container,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Container {
    Path(PathBuf),
    /// By its name for errors.
    Database(String),
}

impl Place {
    pub(super) fn new(side: Side, path: &Path) -> Self {
        Self { side, container: Container::Path(path.to_owned()) }
    }

    pub(super) fn in_database(side: Side, name: &str) -> Self {
        Self { side, container: Container::Database(name.to_owned()) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.container {
            Container::Path(path) => write!(f, "{} {}", self.side, path.display()),
            Container::Database(name) => write!(f, "{} in {name}", self.side),
        }
    }
}

/// What is wrong with a queue. No text contains anything of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Another process delivers from it.
    #[error("the {place} is in use by another host; stop that one, or name another directory")]
    InUse {
        /// The directory.
        place: Place,
    },
    /// The directory cannot be used.
    #[error("the {place} {reason}")]
    Directory {
        /// The directory.
        place: Place,
        /// What is wrong and what to do; follows the path.
        reason: String,
    },
    /// There is no store.
    #[error("there is no {place}; name the directory that the host was given with --{}", place.side)]
    Missing {
        /// Where it was looked for.
        place: Place,
    },
    /// The store is damaged.
    #[error(
        "the {place} is damaged ({reason}); restore it, or move it away together with the files beside it that have \
         its name and \"-wal\" or \"-shm\" at the end: what it has not delivered is in there"
    )]
    Corrupt {
        /// The store.
        place: Place,
        /// SQLite's finding.
        reason: String,
    },
    /// A newer host has written it.
    #[error("the {place} has schema {found}, and this host knows {known}; use the host that wrote it, or a newer one")]
    Newer {
        /// The store.
        place: Place,
        /// Its schema.
        found: i64,
        /// The newest schema that is known.
        known: i64,
    },
    /// The store is of an older host, and only a host that has it for itself can change that.
    #[error("the {place} was written by an older host; start this host with it once, then ask again")]
    Older {
        /// The store.
        place: Place,
    },
    /// It is as large as it may become.
    #[error(
        "the {place} is as large as --{side}-max-size allows ({max_size} bytes); {}, drop dead ones (`{side} list`), or \
         allow more: {}",
        place.side.what_makes_room(),
        place.side.until_then(),
        side = place.side
    )]
    Limit {
        /// The store.
        place: Place,
        /// Bytes on disk.
        max_size: u64,
    },
    /// One binding has as much in it as is left for all others.
    #[error(
        "binding {binding} has as many messages in the {place} as it may: as much as is left for all others; wait until some are \
         sent, drop dead ones (`outbox list`), or allow more (--{}-max-size)",
        place.side
    )]
    Share {
        /// The store.
        place: Place,
        /// The binding.
        binding: String,
    },
    /// A message that has the identifier of another one.
    #[error(
        "the message has the {} of another one, which is event {seq} of the {side}; send it with one of its own",
        side.identifier()
    )]
    OtherBody {
        /// Where the other one is.
        side: Side,
        /// The other one.
        seq: i64,
    },
    /// No space is left.
    #[error("the {place} cannot be written because no space is left; free some: {}", place.side.until_then())]
    Full {
        /// The store.
        place: Place,
    },
    /// It may not be written.
    #[error(
        "the {place} cannot be opened or written; let this user write to the file and its directory, and check that \
         the disk is not read-only: {}",
        place.side.until_then()
    )]
    ReadOnly {
        /// The store.
        place: Place,
    },
    /// Another process writes for too long.
    #[error("the {place} is locked by another process for more than 10 s; find out which one has it open and end it")]
    Busy {
        /// The store.
        place: Place,
    },
    /// The disk, or SQLite, fails otherwise.
    #[error("the {place} {reason}; check the disk: {}", place.side.until_then())]
    Io {
        /// The store.
        place: Place,
        /// What is wrong; follows the path.
        reason: String,
    },
    /// A database in which queues are cannot be used.
    #[error("{name} {reason}")]
    Unusable {
        /// Which one: nothing of its user.
        name: String,
        /// What is wrong and what to do; follows the name.
        reason: String,
    },
    /// The database of a queue that is in use cannot be used now.
    #[error("the {place} {reason}; {}", place.side.until_then())]
    Database {
        /// Which one.
        place: Place,
        /// What is wrong; follows the name.
        reason: String,
    },
    /// The host is being stopped.
    #[error("the host stops, and takes no more messages")]
    Stopped,
    /// A number that is not in the store.
    #[error("the {place} has no event {seq}; see `{} list --state all`; nothing was changed", place.side)]
    NoSuchEvent {
        /// The store.
        place: Place,
        /// The number.
        seq: i64,
    },
    /// An event to which this cannot be done.
    #[error("event {seq} of the {place} is {state}: there is nothing to {action}; nothing was changed")]
    WrongState {
        /// The store.
        place: Place,
        /// The number.
        seq: i64,
        /// Its state.
        state: State,
        /// `retry` or `drop`.
        action: &'static str,
    },
}
