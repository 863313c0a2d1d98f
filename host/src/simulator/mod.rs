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
pub mod conversation;
pub mod fault;
mod group;
mod message;
pub mod outgoing;
pub mod refusal;
pub mod robot;
mod server;
mod session;
#[cfg(test)]
mod speaking_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use dingtalk_binding::secret::Secret;

use crate::clock::{self, Clock};

use conversation::Say;
use fault::{Fault, Times};
use outgoing::{CallbackConfig, Delivery, Receiver, Said, Unsaid};
use robot::RobotConfig;
use server::Shared;

/// Called with every message that the group sees, in the order of their sequence.
pub type OnMessage = Arc<dyn Fn(&Message) + Send + Sync>;

/// Called with what a person said, as the group sees it, before the callback is sent.
pub type OnSaid = Arc<dyn Fn(&str) + Send + Sync>;

/// A simulator to be.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The robot's setup.
    pub robot: RobotConfig,
    /// With these, HTTPS; without, HTTP.
    pub tls: Option<Tls>,
    /// The time by which signatures, rate and penalty are judged.
    pub clock: Clock,
    /// Receives what the group sees. May call the simulator, must not block for long.
    pub on_message: Option<OnMessage>,
    /// Receives what people say. The same holds.
    pub on_said: Option<OnSaid>,
    /// Where callbacks go.
    pub callback: CallbackConfig,
}

impl Default for Config {
    /// HTTP on a free loopback port, the default robot, the system's clock.
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            robot: RobotConfig::default(),
            tls: None,
            clock: clock::system(),
            on_message: None,
            on_said: None,
            callback: CallbackConfig::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("address", &self.address)
            .field("robot", &self.robot)
            .field("tls", &self.tls.is_some())
            .field("callback", &self.callback)
            .finish_non_exhaustive()
    }
}

/// A server's certificate with its key, in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate, then those that lead to the authority.
    pub certificates: Vec<u8>,
    /// The private key.
    pub key: Secret,
}

impl Tls {
    fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, Error> {
        let wrong = |what: &str| Error::Tls(what.to_owned());
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.certificates)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Tls(format!("the certificate is not PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(wrong("there is no certificate; it starts with -----BEGIN CERTIFICATE-----"));
        }
        // The parser's error could repeat a part of the key.
        let key = PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes())
            .map_err(|_| wrong("there is no private key in PEM; it starts with -----BEGIN PRIVATE KEY-----"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
            .map_err(|error| Error::Tls(format!("certificate and key do not serve: {error}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The robot's setup is impossible.
    #[error("the simulated robot cannot be set up: {0}")]
    Robot(String),
    /// Callbacks cannot be sent like this.
    #[error("callbacks cannot be set up: {0}")]
    Callback(String),
    /// Certificate or key cannot be used.
    #[error("TLS certificate and key: {0}")]
    Tls(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address or port")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// How a message came to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Sent to `/robot/send`.
    Webhook,
    /// In the answer to a callback.
    Reply,
    /// Sent to the `sessionWebhook` of a callback.
    Session,
}

/// A message that the group sees.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// 1 for the first message, and so on; not reset by deleting messages.
    pub sequence: u64,
    /// In milliseconds since the Unix epoch.
    pub received_at: u64,
    /// How it came.
    pub via: Via,
    /// "text", "link", "markdown", "actionCard" or "feedCard".
    pub msgtype: &'static str,
    /// The body as it was received, byte for byte.
    pub message: Box<RawValue>,
    /// The sender's key against duplicates.
    pub msg_uuid: Option<String>,
    /// As the group shows it; no control characters except line breaks.
    pub shown: String,
    /// Whether a signature was checked; false where the robot has no secret.
    pub signed: bool,
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// TCP connections accepted, those for reading messages included.
    pub connections: u64,
    /// Requests to the robot, those to a `sessionWebhook` included.
    pub requests: u64,
    /// Messages of these requests that the group saw.
    pub accepted: u64,
    /// Messages with the `msgUuid` of an earlier one.
    pub repeated: u64,
    /// Requests that met a fault, whatever else became of them.
    pub faults: u64,
    /// Requests that the robot refused, by error code.
    pub rejected: BTreeMap<i64, u64>,
    /// Messages to the receiver of callbacks, forgeries included.
    pub callbacks: u64,
    /// Attempts to deliver them.
    pub callback_attempts: u64,
    /// Callbacks that the receiver refused for good: a status that is neither success nor a reason to retry.
    pub callback_refused: u64,
    /// Replies that the group saw.
    pub replies: u64,
    /// Replies that are no message.
    pub replies_refused: u64,
}

/// A running simulator. Stops when it is dropped.
pub struct Simulator {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<()>,
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
        let (stop, stopped) = watch::channel(());
        let base = base(&config, address);
        let shared = Arc::new(Shared::new(config, base, receiver));
        let task = tokio::spawn(server::run(listener, tls, shared.clone(), stopped));
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

    /// What the group sees, the oldest first; at most the last 10 000 messages.
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
        let _ = self.stop.send(());
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
    format!("{}://{}", server::scheme(config), SocketAddr::new(ip, address.port()))
}

/// What a token is percent-encoded with: letters, digits and `-._~` stay readable.
const UNRESERVED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl Drop for Simulator {
    fn drop(&mut self) {
        // Its connections are tasks of its own, and end with it.
        self.task.abort();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("address", &self.address).finish_non_exhaustive()
    }
}
