//! Queues and ledger in one PostgreSQL, for any number of hosts. What is special to that:
//!
//! **Leases.** A host that delivers from a conversation has its lane on lease, and renews that while the delivery runs. No
//! other host delivers from the lane before the lease has ended, 10 s after the last word of a host that died. A host
//! that is cut off from the database for longer goes on with what it delivers, and another one may begin with it again: at
//! least once, as ever. A new conversation is on lease for 2 s to the host that accepted its message, where the
//! callback waits for a reply.
//!
//! **Clocks.** Every time that is stored, and every time that something is compared with, is the database's (`now_ms()`).
//! What comes as a time of this host's clock is taken as so many milliseconds from this host's present, and counted from the
//! database's present; what goes out, the other way round. Hosts' clocks may differ by hours.
//!
//! **Locks.** Whoever adds an event to a conversation, or changes a pending one, has its lane's row locked until the
//! transaction ends: numbers within a conversation are in the order of the commits, and what a host reads once it has the
//! lane on lease is what holds. `due` waits for no lock, and passes over what others have locked.

mod address;
mod events;
mod group;
mod insert;
mod lanes;
mod lease;
mod ledger;
mod letters;
mod operate;
mod pool;
mod schema;
mod settle;
mod siblings;
mod unite;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::QueueError;
use crate::clock::Clock;
pub use address::Address;
pub(super) use events::Events;
pub(super) use ledger::Posts;
pub(super) use operate::Remote;

use lease::Held;
use pool::{Fault, PATIENCE, Session};

/// For how long a lane or a host is taken for alive after its host's last word.
const LEASE_MS: i64 = 10_000;

/// For how long the host that has accepted a message, or delivered one, comes first.
const NEAR_MS: i64 = 2_000;

/// Attempts at a transaction that others are in the way of.
const ATTEMPTS: usize = 4;

/// A database with the tables in it. A handle: clones are the same, which ends with the last of them.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    pool: Pool,
    /// For errors.
    name: String,
    /// Of this run of this host, by which others know it.
    host: Uuid,
    clock: Clock,
    held: Mutex<Held>,
    /// What the ledger has to note, see there.
    ends: Arc<ledger::Ends>,
    /// Ends the tasks beside, with the last handle.
    _alive: DropGuard,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl Database {
    /// Connects, and makes the tables, or what of them an older host has not made. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached or used, or a newer host has made the tables.
    pub async fn open(address: &Address, clock: Clock) -> Result<Self, QueueError> {
        let target = target(address)?;
        let (name, schema) = (target.name.clone(), target.schema);
        let unusable = |reason| QueueError::Unusable { name: name.clone(), reason };
        let pool = pool::new(&target).map_err(unusable)?;
        // Longer than a single lock may be waited for while several hosts start.
        let prepared = tokio::time::timeout(4 * PATIENCE, async {
            let session = Session::take(&pool).await?;
            schema::prepare(&session, schema).await?;
            session.done();
            Ok(())
        });
        let late = || Err(schema::Unprepared::Refused("does not answer".into()));
        prepared.await.unwrap_or_else(|_| late()).map_err(|error| error.into_error(&name))?;
        let gone = CancellationToken::new();
        let database = Self(Arc::new(Inner {
            pool,
            name: target.name,
            host: Uuid::new_v4(),
            clock,
            held: Mutex::default(),
            ends: Arc::default(),
            _alive: gone.clone().drop_guard(),
        }));
        database.renew().await.map_err(|fault| unusable(fault.into_reason()))?;
        tokio::spawn(lease::keep(Arc::downgrade(&database.0), gone.clone()));
        tokio::spawn(ledger::keep(Arc::downgrade(&database.0), gone));
        Ok(database)
    }

    /// One transaction, or one statement, of a connection of its own; `work` ends it. Given up after [`PATIENCE`].
    async fn run<T, F: Future<Output = Result<T, Fault>>>(&self, work: impl FnOnce(Session) -> F) -> Result<T, Fault> {
        let done = async { work(Session::take(&self.0.pool).await?).await };
        let late = || Err(Fault::Other(format!("does not answer within {} s", PATIENCE.as_secs())));
        tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| late())
    }

    /// As [`Self::run`], and again if others were in the way.
    async fn run_again<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        mut work: impl FnMut(Session) -> F,
    ) -> Result<T, Fault> {
        let mut attempt = 1;
        loop {
            match self.run(&mut work).await {
                Err(Fault::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
                result => return result,
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await;
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it holds the lock.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(address: &Address) -> Result<address::Target, QueueError> {
    // Checked when the address was made.
    address.target().map_err(|reason| QueueError::Unusable { name: "the database's URL".into(), reason })
}

/// A time or a size as it is stored.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// `time` of a clock whose present is `here`, as the one whose present is `there` has it.
fn moved(time: u64, here: u64, there: i64) -> i64 {
    there.saturating_add(stored(time).saturating_sub(stored(here)))
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
