//! One connection, read from and written to by whoever sends over it.
//!
//! hyper gives a connection two halves: what takes requests, and what reads and writes, its driver. The usual way is a task
//! for the second one. Here the call polls both: two tasks that wait for each other cost four turns at the processor a message,
//! on threads that may have to be woken for it. A connection that nobody uses is not polled, so that it is looked at
//! before it is used.

use std::time::Duration;

use hyper::Request;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Read, Write};

use super::departure::Parcel;
use super::driver::Driver;
use super::{Received, read};

/// What is buffered of an answer, and so the longest head that one may have. DingTalk's has some 500 bytes;
/// hyper's own limit is 400 KiB, for each of the calls at once.
const READ_BUFFER: usize = 32 << 10;

/// How long a call waits until its connection can be used again, once the answer is there: behind a server that answers
/// before it has read the request there is more to do.
const SETTLE: Duration = Duration::from_secs(1);

/// What hyper reads from and writes to.
pub(super) trait Io: Read + Write + Unpin + Send + 'static {}

impl<T: Read + Write + Unpin + Send + 'static> Io for T {}

/// A connection, as whoever sends over it has it.
pub(super) struct Connection {
    /// Goes first: that tells the driver that there is no more to come.
    sender: SendRequest<Parcel>,
    driver: Driver,
}

impl Connection {
    /// Over `io`, within a runtime.
    pub(super) async fn over(io: impl Io) -> hyper::Result<Self> {
        let (sender, driver) = Builder::new().max_buf_size(READ_BUFFER).handshake(io).await?;
        let driver = Box::pin(async { driver.await.unwrap_or_default() });
        Ok(Self { sender, driver: Driver::new(driver) })
    }

    /// Sends `request` and reads the answer, to its end or one byte past the `longest` that may be.
    pub(super) async fn send(
        &mut self,
        request: Request<Parcel>,
        longest: usize,
    ) -> Result<http::Response<Received>, Box<TrySendError<Request<Parcel>>>> {
        let Self { sender, driver } = self;
        let exchange = async {
            let (parts, body) = sender.try_send_request(request).await?.into_parts();
            Ok(http::Response::from_parts(parts, read(body, longest).await))
        };
        driver.run(exchange).await
    }

    /// Waits until it can take another request. Whether it can.
    pub(super) async fn settle(&mut self) -> bool {
        let Self { sender, driver } = self;
        // The usual case, without the cost of a timer.
        if driver.look() && sender.is_ready() {
            return true;
        }
        matches!(tokio::time::timeout(SETTLE, driver.run(sender.ready())).await, Ok(Ok(())))
    }

    /// Whether it has ended while nobody used it, and has said so.
    pub(super) fn has_died(&mut self) -> bool {
        self.driver.has_news() && !self.is_alive()
    }

    /// Whether it can still be used: the server has not closed it, as far as this machine has heard.
    pub(super) fn is_alive(&mut self) -> bool {
        self.driver.look() && self.sender.is_ready()
    }
}
