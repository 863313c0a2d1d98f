//! A queue as the operator sees it, also while a host has it.

use std::fmt;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::postgres::{Address, Remote};
use super::store::Store;
use super::{QueueError, Side};
use crate::clock::Clock;

/// The store as the operator sees it, also while a host has it.
pub struct Operator {
    kept: Kept,
    clock: Clock,
}

/// Where the events are.
enum Kept {
    Files(Box<Store>),
    Database(Remote),
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("operator")
    }
}

impl Operator {
    /// Opens the store in `dir`.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be used.
    pub fn open(side: Side, dir: &Path, clock: Clock) -> Result<Self, QueueError> {
        Ok(Self { kept: Kept::Files(Box::new(Store::open(side, dir)?)), clock })
    }

    /// Opens the one in a database, with the database's clock. Blocks.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached, or has no tables of a host.
    pub fn open_in(side: Side, address: &Address, clock: Clock) -> Result<Self, QueueError> {
        Ok(Self { kept: Kept::Database(Remote::open(side, address)?), clock })
    }

    #[cfg(test)]
    pub(super) fn store_for_test(&self) -> &Store {
        match &self.kept {
            Kept::Files(store) => store,
            Kept::Database(_) => panic!("there are no files"),
        }
    }

    /// All in these states, with their content.
    #[cfg(test)]
    pub(super) fn listed(&self, states: &[State]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let listing = Listing { states: states.to_vec(), binding: None, content: true, seq: None };
        let listed = self.list(&listing, |entry| {
            entries.push(entry);
            Ok(())
        });
        listed.unwrap().unwrap();
        entries
    }

    /// Shows events to `each`, in order. An error of `each` ends that, and is the inner result.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn list(
        &self,
        listing: &Listing,
        each: impl FnMut(Entry) -> io::Result<()>,
    ) -> Result<io::Result<()>, QueueError> {
        match &self.kept {
            Kept::Files(store) => store.list(listing, each),
            Kept::Database(remote) => remote.list(listing, each),
        }
    }

    /// Puts dead events back to their places in their conversations, due at once. A running host notices within
    /// seconds. Returns how many.
    ///
    /// # Errors
    ///
    /// If one is not there or not dead; then nothing is changed.
    pub fn retry(&self, selection: &Selection) -> Result<usize, QueueError> {
        match &self.kept {
            Kept::Files(store) => store.retry(selection, (self.clock)()),
            Kept::Database(remote) => remote.retry(selection),
        }
    }

    /// Gives up dead events, and pending ones that are named. A repetition of them is not accepted. A delivery under
    /// way is not interrupted. Returns how many.
    ///
    /// # Errors
    ///
    /// If one is not there or delivered; then nothing is changed.
    pub fn drop_events(&self, selection: &Selection) -> Result<usize, QueueError> {
        match &self.kept {
            Kept::Files(store) => store.drop_events(selection, (self.clock)()),
            Kept::Database(remote) => remote.drop_events(selection),
        }
    }
}

/// Which events to show.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Those in one of these states.
    pub states: Vec<State>,
    /// Those of this binding only.
    pub binding: Option<String>,
    /// Whether to show what people wrote.
    pub content: bool,
    /// This one only.
    pub seq: Option<i64>,
}

/// Which events to change.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Every dead one.
    All,
    /// These.
    Seqs(Vec<i64>),
}

/// What has become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It will be delivered.
    Pending,
    /// The application has refused it for good.
    Dead,
    /// The application has taken it, or the operator has dropped it.
    Delivered,
}

impl State {
    /// As the command line writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Dead => "dead",
            Self::Delivered => "delivered",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event in the store. Times are in milliseconds since the Unix epoch.
pub struct Entry {
    /// Its number: the order of acceptance.
    pub seq: i64,
    /// The binding that received it.
    pub binding: String,
    /// What has become of it.
    pub state: State,
    /// How often the application has not taken it.
    pub attempts: u32,
    /// When it was stored.
    pub accepted_at: u64,
    /// When it was delivered, dropped or refused for good.
    pub finished_at: Option<u64>,
    /// When it will be tried; only for the first pending one of its conversation.
    pub next_attempt_at: Option<u64>,
    /// The event of its conversation that comes first.
    pub waits_for: Option<i64>,
    /// Why it was not taken the last time.
    pub last_error: Option<String>,
    /// DingTalk's identifier.
    pub msg_id: Option<String>,
    /// DingTalk's identifier of the conversation.
    pub conversation_id: Option<String>,
    /// Bytes of data.
    pub size: u64,
    /// If asked for.
    pub metadata: Option<Vec<(String, String)>>,
    /// If asked for.
    pub data: Option<Bytes>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} event {} of {:?}", self.state, self.seq, self.binding)
    }
}

/// How full the inbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Events to deliver.
    pub pending: u64,
    /// Events that wait for the operator.
    pub dead: u64,
}
