//! One connection and the task that reads and writes on it, which does not outlive it for long.
//!
//! hyper's task ends in good order: it writes what it has, and TLS says goodbye. To a server that never reads, it would do so for
//! ever, with a descriptor and the message.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Executor as _, Read, Write};
use tokio::sync::oneshot;

use super::departure::Parcel;
use crate::sandbox::Executor;

/// What is buffered of an answer, and so the longest head that one may have. DingTalk's has some 500 bytes;
/// hyper's own limit is 400 KiB, for each of the calls at once.
const READ_BUFFER: usize = 32 << 10;

/// How long the task has for its end once nobody has the connection any more.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// What hyper reads from and writes to.
pub(super) trait Io: Read + Write + Unpin + Send + 'static {}

impl<T: Read + Write + Unpin + Send + 'static> Io for T {}

/// A connection, as whoever sends over it has it.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Parcel>,
    /// Goes with the connection, which tells its task.
    _owner: oneshot::Sender<Infallible>,
}

impl Connection {
    /// Over `io`, within a runtime.
    pub(super) async fn over(io: impl Io) -> hyper::Result<Self> {
        let (connection, task) = Self::with_task(io).await?;
        Executor.execute(task);
        Ok(connection)
    }

    /// The same, whose task nobody runs yet.
    pub(super) async fn with_task(io: impl Io) -> hyper::Result<(Self, impl Future<Output = ()> + Send)> {
        let (sender, task) = Builder::new().max_buf_size(READ_BUFFER).handshake(io).await?;
        let (owner, mut is_gone) = oneshot::channel();
        let task = async move {
            let mut task = pin!(task);
            tokio::select! {
                biased;
                _ = &mut task => return,
                _ = &mut is_gone => {}
            }
            let _ = tokio::time::timeout(LINGER, task).await;
        };
        Ok((Self { sender, _owner: owner }, task))
    }
}
