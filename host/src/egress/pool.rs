//! Connections to one host, kept between calls.
//!
//! A connection is opened only when none is idle, and a call gives its own back before it ends. So there are
//! never more than calls at once: what a robot's server, its firewall, or this process's limit of descriptors sees
//! of a binding is bounded by what the sandbox lets run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use super::departure::Parcel;

/// Below the 75 s after which nginx, DingTalk's front or a gateway's, closes an idle connection: a request
/// that meets the closing server has an unknown outcome, which must stay rare.
const IDLE: Duration = Duration::from_secs(60);

/// Connections kept per host. As many as calls of one binding may run at once, so that a burst does not
/// open and close connections for each message.
const MAX_IDLE: usize = 64;

/// How long a call waits until its connection can be used again, once the answer is there. The connection's task
/// has then only to notice; only behind a server that answers before it has read the request is there more to wait for.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) type Connection = SendRequest<Parcel>;

/// The idle connections to one host.
#[derive(Default)]
pub(super) struct Pool(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The one that was used last at the end: the others can grow old and go.
    idle: Vec<(Instant, Connection)>,
    /// Whether somebody watches them grow old.
    is_watched: bool,
}

impl State {
    fn prune(&mut self) {
        self.idle.retain(|(since, connection)| since.elapsed() < IDLE && !connection.is_closed());
    }
}

impl Pool {
    /// An idle connection, if there is one.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut state = lock(&self.0);
        state.prune();
        state.idle.pop().map(|(_, connection)| connection)
    }

    /// Takes a connection back whose answer has been read, unless the server closes it.
    pub(super) async fn give(&self, mut connection: Connection) {
        // The usual case, without the cost of a timer.
        if !connection.is_ready() && !matches!(tokio::time::timeout(SETTLE, connection.ready()).await, Ok(Ok(()))) {
            return;
        }
        let mut state = lock(&self.0);
        if state.idle.len() < MAX_IDLE {
            state.idle.push((Instant::now(), connection));
        }
        if !state.is_watched {
            state.is_watched = true;
            tokio::spawn(watch(Arc::downgrade(&self.0)));
        }
    }
}

/// Ends connections that nobody uses, until there is none or the pool is gone.
async fn watch(pool: Weak<Mutex<State>>) {
    while let Some(pool) = pool.upgrade() {
        let oldest = {
            let mut state = lock(&pool);
            state.prune();
            let oldest = state.idle.first().map(|(since, _)| *since);
            state.is_watched = oldest.is_some();
            oldest
        };
        drop(pool);
        let Some(oldest) = oldest else { return };
        tokio::time::sleep_until((oldest + IDLE).into()).await;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
