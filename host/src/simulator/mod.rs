//! A robot endpoint with DingTalk's rules, on a socket of this machine.
//!
//! For tests, demonstrations and people who have no group at hand: what DingTalk would refuse is refused here
//! with its code and text, what it would post is kept and shown, and failures come on request. The rules are
//! pure ([`robot`], `message`, `group`); `server` is their edge to sockets and the clock.
//!
//! It speaks too: what a person says to the robot ([`conversation`]) is sent to a receiver as DingTalk's
//! callback, genuine or forged ([`callback`]), and its reply is shown ([`outgoing`]).
//!
//! `POST /robot/send` is the robot, `POST /robot/sendBySession` the way to reply later. Beside them, for whoever
//! operates the simulator and therefore without a token: `GET /messages`, `DELETE /messages`, `PUT /fault`
//! (`{"fault":"status=503","times":2}`, `{"fault":null}`), `POST /say` (`{"text":"hello"}`),
//! `PUT /callback-url` (`{"url":"http://…"}`), `GET /stats`.

pub mod callback;
mod config;
pub mod conversation;
pub mod fault;
mod group;
mod listing;
mod message;
pub mod outgoing;
mod receiver;
mod recent;
pub mod refusal;
pub mod robot;
mod seen;
mod server;
mod session;
mod shared;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use config::{CallbackConfig, Config, Error, MAX_CONNECTIONS, OnMessage, OnSaid, Tls};
pub use seen::{Message, Stats, Via};

use conversation::Say;
use fault::{Fault, Times};
use outgoing::{Delivery, Said, Unsaid};
use receiver::Receiver;
use shared::Shared;

/// A running simulator. Stops when it is dropped.
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Starts listening; from here on requests are answered.
    pub async fn start(config: Config) -> Result<Self, Error> {
        config.robot.check().map_err(Error::Robot)?;
        config.callback.check().map_err(Error::Callback)?;
        let receiver = config.callback.url.as_deref().map(Receiver::new).transpose().map_err(Error::Callback)?;
        let tls = config.tls.as_ref().map(Tls::server_config).transpose()?;
        let listen = |source| Error::Listen { address: config.address, source };
        let listener = tokio::net::TcpListener::bind(config.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let stop = CancellationToken::new();
        let base = base(&config, address);
        let shared = Arc::new(Shared::new(config, base, receiver));
        let task = tokio::spawn(server::run(listener, tls, shared.clone(), stop.clone()));
        Ok(Self { address, shared, stop, task })
    }

    /// Where it listens, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a sender configures as its webhook: URL with access token. An address that means "all interfaces"
    /// becomes loopback.
    pub fn url(&self) -> String {
        let token = utf8_percent_encode(self.shared.config().robot.access_token.expose(), UNRESERVED);
        format!("{}/robot/send?access_token={token}", self.shared.base())
    }

    /// Says something to the robot, as `POST /say` does: sends the callback, and returns when it was answered or
    /// given up. Dropping the future ends the attempts.
    pub async fn say(&self, say: Say) -> Result<Said, Unsaid> {
        Ok(Delivery::prepare(&self.shared, say)?.run().await)
    }

    /// Where callbacks go from now on; the error says what a URL looks like.
    pub fn set_callback_url(&self, url: &str) -> Result<(), String> {
        self.shared.set_callback_url(Some(url))
    }

    /// What the group sees, the oldest first; at most the last 10 000 messages, and the last 32 MiB.
    pub fn messages(&self) -> Vec<Message> {
        self.shared.messages()
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// How many TCP connections were accepted: a client that keeps its connection needs one.
    pub fn connections(&self) -> u64 {
        self.shared.stats().connections
    }

    /// Lets the next requests to the robot fail; replaces an earlier fault.
    pub fn set_fault(&self, fault: Fault, times: Times) {
        self.shared.set_fault(Some((fault, times)));
    }

    /// Ends an earlier fault.
    pub fn clear_fault(&self) {
        self.shared.set_fault(None);
    }

    /// Takes no new connections, lets requests in progress finish (at most 2 seconds, faults that wait end at
    /// once), and returns when all is closed.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // An error could only tell that the task was cancelled, and it is over then too.
        let _ = (&mut self.task).await;
        self.shared.settle().await;
    }
}

/// The simulator's URL without a path. An address that means "all interfaces" becomes loopback.
fn base(config: &Config, address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("{}://{}", config::scheme(config), SocketAddr::new(ip, address.port()))
}

/// What a token is percent-encoded with: letters, digits and `-._~` stay readable.
const UNRESERVED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Drop for Simulator {
    fn drop(&mut self) {
        // Its connections are tasks of its own, and end with it; callbacks that nobody waits for are told.
        self.task.abort();
        self.stop.cancel();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("address", &self.address).finish_non_exhaustive()
    }
}
