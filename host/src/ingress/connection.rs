//! One connection: what it is doing, and when that has lasted too long.
//!
//! A connection is in one of two states. While a call runs, its time is the call's, which has limits of its own.
//! Otherwise the connection waits for its client: to say what it speaks, to send a head, a body, the next request, or
//! to take an answer. That has one limit, counted from the last thing that the server did, so that nobody extends it
//! by sending, or taking, a byte now and then.

use std::ops::Deref;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After a connection was told that it ends: for its client to take the last answer and to confirm the end.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection is doing.
pub(crate) struct Activity {
    state: Mutex<State>,
    evicted: Notify,
}

struct State {
    /// Calls that are running. With HTTP/2 there can be several.
    calls: usize,
    /// Since when the client is waited for, if no call is running.
    since: Instant,
    evicted: bool,
}

impl Activity {
    pub(crate) fn new() -> Self {
        let state = State { calls: 0, since: Instant::now(), evicted: false };
        Self { state: Mutex::new(state), evicted: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server did something: it is the client's turn.
    pub(crate) fn touch(&self) {
        self.state().since = Instant::now();
    }

    /// A call begins, and ends when the value is dropped.
    pub(crate) fn call(&self) -> Call<&Self> {
        Call::begin(self)
    }

    /// For how long the client has been waited for; `None` while a call is running, or if the connection ends anyway.
    pub(crate) fn waiting(&self) -> Option<Duration> {
        let state = self.state();
        (state.calls == 0 && !state.evicted).then(|| state.since.elapsed())
    }

    /// Returns when the connection has to end at once.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Ends the connection at once.
    pub(crate) fn evict(&self) {
        self.state().evicted = true;
        self.evicted.notify_one();
    }

    /// Returns when the client has been waited for as long as `limit`.
    async fn waited(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let until = {
                let state = self.state();
                if state.calls > 0 { now + limit } else { state.since + limit }
            };
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// A running call.
pub(crate) struct Call<A: Deref<Target = Activity>>(A);

impl<A: Deref<Target = Activity>> Call<A> {
    /// One that keeps the connection's state as `activity` does.
    pub(crate) fn begin(activity: A) -> Self {
        activity.state().calls += 1;
        Self(activity)
    }
}

impl<A: Deref<Target = Activity>> Drop for Call<A> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.calls -= 1;
        state.since = Instant::now();
    }
}

/// Serves `connection` until it ends by itself, its client was waited for as long as `limit`, taking leave included,
/// its place is needed, or the server stops; the last leaves it the time to answer what it has begun.
pub(crate) async fn hold<C: GracefulConnection>(
    connection: C,
    activity: &Activity,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    let mut limit = limit.saturating_sub(LINGER);
    let mut is_ending = false;
    loop {
        tokio::select! {
            // The connection first: a request that has arrived before the end is to be seen before leave is taken, which
            // closes a connection that has read nothing.
            biased;
            done = connection.as_mut() => return done,
            () = activity.evicted() => return Ok(()),
            () = activity.waited(limit) => {
                if is_ending {
                    return Ok(());
                }
            }
            () = stop.cancelled(), if !is_ending => {}
        }
        // An HTTP/2 client is told, so that it sends its next request elsewhere.
        connection.as_mut().graceful_shutdown();
        activity.touch();
        (limit, is_ending) = (LINGER, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    /// How long `waited` takes while `script` runs.
    async fn waited(activity: &Activity, script: impl Future<Output = ()>) -> Duration {
        let start = Instant::now();
        let script = async {
            script.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = activity.waited(LIMIT) => start.elapsed(),
            () = script => LIMIT * 1_000,
        }
    }

    #[tokio::test]
    async fn who_does_nothing_is_waited_for_as_long_as_the_limit() {
        assert!(waited(&Activity::new(), async {}).await >= LIMIT);
    }

    #[tokio::test]
    async fn a_call_is_not_waiting_and_the_time_counts_from_its_end() {
        let activity = Activity::new();
        let script = async {
            let call = activity.call();
            assert_eq!(activity.waiting(), None);
            tokio::time::sleep(LIMIT * 3).await;
            drop(call);
        };
        assert!(waited(&activity, script).await >= LIMIT * 4);
    }

    #[tokio::test]
    async fn the_time_counts_from_what_the_server_did_last() {
        let activity = Activity::new();
        let script = async {
            tokio::time::sleep(LIMIT / 2).await;
            activity.touch();
        };
        assert!(waited(&activity, script).await >= LIMIT * 3 / 2);
    }
}
