//! How a simulator is set up: address, robot, TLS, and where callbacks go.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dingtalk_binding::secret::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::fault;
use super::robot::RobotConfig;
use super::seen::Message;
use crate::clock::{self, Clock};
use dingtalk_api::caller::Allowed;

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
    /// Who may operate it, beside programs of this machine. The robot itself takes requests of everybody who has its
    /// token.
    pub allowed: Allowed,
    /// How many connections may be open at once. What they may do together follows from it.
    pub connections: usize,
}

/// How many connections are open at once where there are file descriptors for them.
pub const MAX_CONNECTIONS: usize = 512;

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
            allowed: Allowed::default(),
            connections: MAX_CONNECTIONS,
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
    pub(super) fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, Error> {
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

/// More attempts than anybody can want to wait for.
const MAX_RETRIES: u32 = 100;

/// Where callbacks go, and how patiently.
#[derive(Clone)]
pub struct CallbackConfig {
    /// The receiver; without one, nothing can be said until there is.
    pub url: Option<String>,
    /// How long an attempt may take, from connecting to the answer's last byte.
    pub timeout: Duration,
    /// How many attempts may follow the first.
    pub retries: u32,
    /// How long to wait between two attempts.
    pub retry_interval: Duration,
}

impl Default for CallbackConfig {
    /// 2.5 seconds, three retries, a second apart; no receiver.
    fn default() -> Self {
        Self { url: None, timeout: Duration::from_millis(2_500), retries: 3, retry_interval: Duration::from_secs(1) }
    }
}

impl CallbackConfig {
    /// What makes no sense, or would take too long; the error says what to change.
    pub fn check(&self) -> Result<(), String> {
        let longest = fault::LONGEST;
        if self.timeout.is_zero() || self.timeout > longest {
            return Err(format!("the callback timeout is more than 0 and at most {}s", longest.as_secs()));
        }
        if self.retry_interval > longest {
            return Err(format!("the interval between callbacks is at most {}s", longest.as_secs()));
        }
        if self.retries > MAX_RETRIES {
            return Err(format!("there are at most {MAX_RETRIES} retries of a callback"));
        }
        Ok(())
    }
}

impl fmt::Debug for CallbackConfig {
    /// Without path and query of the URL, which may hold something secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackConfig")
            .field("url", &self.url.is_some())
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .field("retry_interval", &self.retry_interval)
            .finish()
    }
}

/// As it stands in the simulator's URL.
pub(super) fn scheme(config: &Config) -> &'static str {
    if config.tls.is_some() { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_patience() {
        let check = |change: fn(&mut CallbackConfig)| {
            let mut config = CallbackConfig::default();
            assert!(config.check().is_ok());
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(check(|c| c.timeout = Duration::ZERO).contains("timeout is more than 0"));
        assert!(check(|c| c.timeout = Duration::from_secs(121)).contains("at most 120s"));
        assert!(check(|c| c.retry_interval = Duration::from_secs(121)).contains("at most 120s"));
        assert!(check(|c| c.retries = 101).contains("at most 100 retries"));
        let config = CallbackConfig { url: Some("http://h/S3CR3T".into()), ..CallbackConfig::default() };
        assert!(!format!("{config:?}").contains("S3CR3T"));
    }
}
