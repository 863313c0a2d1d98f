//! Connections to one host, kept between calls.
//!
//! A connection is opened only when none is idle, and a call gives its own back before it ends. So there are
//! never more than calls at once: what a robot's server, its firewall, or this process's limit of descriptors sees
//! of a binding is bounded by what the sandbox lets run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::rt::Executor as _;
use tokio::time::Instant;

use super::connection::Connection;
use crate::sandbox::Executor;

/// Below the 75 s after which nginx, DingTalk's front or a gateway's, closes an idle connection: a request
/// that meets the closing server has an unknown outcome, which must stay rare.
const IDLE: Duration = Duration::from_secs(60);

/// How often idle connections are asked whether their server has closed them. Until then, each has a descriptor, and what its
/// server goes on sending.
const LOOKED_AT: Duration = Duration::from_secs(5);

/// Connections kept per host. As many as calls of one binding may run at once, so that a burst does not
/// open and close connections for each message.
const MAX_IDLE: usize = 64;

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
    /// Those that are too old, and those that their server has closed.
    fn prune(&mut self, now: Instant) -> Vec<(Instant, Connection)> {
        self.idle.extract_if(.., |(since, connection)| *since + IDLE <= now || connection.has_died()).collect()
    }
}

impl Pool {
    /// An idle connection, if there is one.
    pub(super) fn take(&self) -> Option<Connection> {
        loop {
            let (since, mut connection) = lock(&self.0).idle.pop()?;
            // Whoever watches may be late.
            if since.elapsed() < IDLE && connection.is_alive() {
                return Some(connection);
            }
        }
    }

    /// Takes a connection back whose answer has been read, unless the server closes it.
    pub(super) async fn give(&self, mut connection: Connection) {
        if !connection.settle().await {
            return;
        }
        let mut state = lock(&self.0);
        if state.idle.len() < MAX_IDLE {
            state.idle.push((Instant::now(), connection));
        }
        if !state.is_watched {
            state.is_watched = true;
            // In its tenant's turns, as whatever it begins.
            Executor.execute(watch(Arc::downgrade(&self.0)));
        }
    }
}

/// Ends connections that nobody uses, until there is none or the pool is gone.
async fn watch(pool: Weak<Mutex<State>>) {
    while let Some(pool) = pool.upgrade() {
        let now = Instant::now();
        let (oldest, ended) = {
            let mut state = lock(&pool);
            let ended = state.prune(now);
            let oldest = state.idle.first().map(|(since, _)| *since);
            state.is_watched = oldest.is_some();
            (oldest, ended)
        };
        drop((pool, ended));
        let Some(oldest) = oldest else { return };
        tokio::time::sleep_until((oldest + IDLE).min(now + LOOKED_AT)).await;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::super::departure::Parcel;
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    /// A connection, and the server's end of it, which takes a kilobyte until somebody reads.
    async fn connect() -> (Connection, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1024);
        (Connection::over(TokioIo::new(ours)).await.unwrap(), theirs)
    }

    /// Sends a request whose body has so many bytes, and reads the answer to its end.
    async fn exchange(connection: &mut Connection, bytes: usize) {
        let body = Parcel::new(vec![b'x'; bytes].into(), Arc::default());
        let answer = connection.send(hyper::Request::post("/").body(body).unwrap(), 1_000).await;
        let (data, _) = answer.map_err(|error| error.into_error()).unwrap().into_body().into_parts();
        assert_eq!(data, Bytes::from_static(b"ok"));
    }

    /// Reads of a request what fits, and answers it.
    async fn answer(server: &mut DuplexStream) {
        let _ = server.read(&mut [0; 1024]).await.unwrap();
        server.write_all(ANSWER).await.unwrap();
    }

    /// A connection that has served a call, and is given back.
    async fn used(pool: &Pool) -> DuplexStream {
        let (mut connection, mut server) = connect().await;
        tokio::join!(exchange(&mut connection, 1), answer(&mut server));
        pool.give(connection).await;
        server
    }

    /// Whether the client has closed its end.
    async fn is_closed(server: &mut DuplexStream) -> bool {
        settle().await;
        matches!(tokio::time::timeout(Duration::ZERO, server.read(&mut [0])).await, Ok(Ok(0)))
    }

    /// Lets the connections' tasks and the pool's run, without time passing.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_reads_the_message_costs_the_call_a_second_and_no_more() {
        let pool = Pool::default();
        let (mut connection, mut server) = connect().await;
        tokio::join!(exchange(&mut connection, 10_000), answer(&mut server));
        let start = Instant::now();
        pool.give(connection).await;
        assert!(start.elapsed() <= Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(pool.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_the_server_has_closed_is_not_used() {
        let pool = Pool::default();
        let (first, second) = (used(&pool).await, used(&pool).await);
        drop(second);
        settle().await;
        assert!(pool.take().is_some(), "the other one is gone too");
        assert!(pool.take().is_none());
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_a_server_closes_or_talks_on_is_closed_within_seconds_though_nobody_sends() {
        let pool = Pool::default();
        let (closes, mut talks, mut other) = (used(&pool).await, used(&pool).await, used(&pool).await);
        drop(closes);
        talks.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        tokio::time::sleep(LOOKED_AT + Duration::from_secs(1)).await;
        assert!(is_closed(&mut talks).await && !is_closed(&mut other).await);
        assert_eq!(lock(&pool.0).idle.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_was_used_last_is_used_next() {
        let pool = Pool::default();
        let (mut first, mut second) = (used(&pool).await, used(&pool).await);
        drop(pool.take());
        assert!(is_closed(&mut second).await && !is_closed(&mut first).await);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_are_closed_before_a_server_would_and_not_while_they_are_used() {
        let pool = Pool::default();
        let mut first = used(&pool).await;
        tokio::time::sleep(Duration::from_secs(40)).await;
        let mut second = used(&pool).await;
        assert!(!is_closed(&mut first).await && !is_closed(&mut second).await);
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert!(is_closed(&mut first).await && !is_closed(&mut second).await, "65 s and 25 s");
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(is_closed(&mut second).await, "65 s");
        // Whoever watched has gone: there was nothing left to watch.
        let mut third = used(&pool).await;
        tokio::time::sleep(Duration::from_secs(65)).await;
        assert!(is_closed(&mut third).await, "after a pause");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_connections_are_kept_than_calls_of_a_binding_may_run() {
        let pool = Pool::default();
        let mut servers = Vec::new();
        for _ in 0..MAX_IDLE + 10 {
            servers.push(used(&pool).await);
        }
        let mut open = 0;
        for server in &mut servers {
            open += usize::from(!is_closed(server).await);
        }
        assert_eq!(open, MAX_IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_pool_its_connections_end() {
        let pool = Pool::default();
        let mut server = used(&pool).await;
        drop(pool);
        assert!(is_closed(&mut server).await);
    }
}
