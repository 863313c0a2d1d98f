//! The word of a host that it is alive: for itself, and for the lanes that it delivers from.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pool::Fault;
use super::{Database, Inner, LEASE_MS};
use crate::event::Digest;
use crate::quiet::Quiet;

/// From one word to the next: three are lost before a lease ends.
const EVERY: Duration = Duration::from_millis(2_500);

/// After one that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// A word that takes longer comes too late; the next one may be faster.
const LONGEST: Duration = Duration::from_secs(3);

/// A conversation as the tables know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) side: i16,
    pub(super) binding: String,
    pub(super) lane: Digest,
}

/// The lanes that this host delivers from, by the event that is under way.
pub(super) type Held = HashMap<i64, LaneKey>;

/// Hosts that are gone for so long have no posts that count.
const FORGOTTEN_MS: i64 = 4 * 60 * 60 * 1_000;

impl Database {
    /// This host is alive.
    pub(super) async fn renew(&self) -> Result<(), Fault> {
        let held: Vec<LaneKey> = self.held().values().cloned().collect();
        self.run(async |session| {
            let host = session
                .prepare_cached(
                    "INSERT INTO hosts (id, leased_until) VALUES ($1, now_ms() + $2)
                     ON CONFLICT (id) DO UPDATE SET leased_until = excluded.leased_until",
                )
                .await?;
            session.execute(&host, &[&self.0.host, &LEASE_MS]).await?;
            if !held.is_empty() {
                let lanes = session
                    .prepare_cached(
                        "UPDATE lanes SET leased_until = now_ms() + $5
                         FROM unnest($2::int2[], $3::text[], $4::bytea[]) AS held (side, binding, lane)
                         WHERE lanes.side = held.side AND lanes.binding = held.binding AND lanes.lane = held.lane
                             AND lanes.owner = $1",
                    )
                    .await?;
                let sides: Vec<i16> = held.iter().map(|lane| lane.side).collect();
                let bindings: Vec<&str> = held.iter().map(|lane| lane.binding.as_str()).collect();
                let keys: Vec<&[u8]> = held.iter().map(|lane| lane.lane.as_slice()).collect();
                session.execute(&lanes, &[&self.0.host, &sides, &bindings, &keys, &LEASE_MS]).await?;
            }
            let forget = session.prepare_cached("DELETE FROM hosts WHERE leased_until < now_ms() - $1").await?;
            session.execute(&forget, &[&FORGOTTEN_MS]).await?;
            session.done();
            Ok(())
        })
        .await
    }
}

/// Until the database is let go of.
pub(super) async fn keep(database: Weak<Inner>, gone: CancellationToken) {
    let quiet = Quiet::default();
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = gone.cancelled() => return,
        }
        let Some(inner) = database.upgrade() else { return };
        let database = Database(inner);
        let late = || Err(Fault::Other(format!("does not answer within {} s", LONGEST.as_secs())));
        pause = match tokio::time::timeout(LONGEST, database.renew()).await.unwrap_or_else(|_| late()) {
            Ok(()) => EVERY,
            Err(fault) => {
                if let Some(more) = quiet.count("lease") {
                    let reason = fault.into_reason();
                    tracing::error!(
                        more,
                        "{} {reason}; after {} s without it, other hosts take over what this one delivers",
                        database.0.name,
                        LEASE_MS / 1_000
                    );
                }
                AGAIN
            }
        };
    }
}
