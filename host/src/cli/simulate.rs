//! `dingtalk-host simulate`: a robot endpoint for the terminal, see [`crate::simulator`].

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dingtalk_binding::secret::Secret;

use crate::simulator::fault::{Fault, Times};
use crate::simulator::refusal::ErrorTexts;
use crate::simulator::robot::{AddressRange, RobotConfig};
use crate::simulator::{self, Config, Simulator, Tls};

/// Simulates DingTalk's group robot endpoint: enforces its rules and prints what the group would see.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8099)]
    port: u16,
    /// Address to listen on. Whoever reaches it can read all messages.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen_address: IpAddr,
    /// The robot's access token, made up.
    #[arg(long, value_name = "TOKEN", default_value = "simulated-access-token", value_parser = secret)]
    access_token: Secret,
    /// The robot's signing secret; with it, every request must be signed.
    #[arg(long, value_parser = secret)]
    secret: Option<Secret>,
    /// A keyword; with any, each message must contain one. Repeatable, at most 10.
    #[arg(long = "keyword", value_name = "KEYWORD")]
    keywords: Vec<String>,
    /// An IPv4 address or block (10.0.0.0/8) that may send; with any, nobody else may. Repeatable.
    #[arg(long = "allow-ip", value_name = "ADDRESS")]
    allowed_addresses: Vec<AddressRange>,
    /// Messages per minute; 0 is unlimited.
    #[arg(long, value_name = "MESSAGES", default_value_t = 20)]
    rate_limit: u32,
    /// How long the robot stays limited after one message too many.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = dingtalk_binding::duration::parse)]
    penalty: Duration,
    /// Texts of refusals: as DingTalk's servers answer today, or the older English ones.
    #[arg(long, value_enum, default_value_t = ErrorTexts::Current)]
    error_texts: ErrorTexts,
    /// Fail instead of answering: delay=DURATION, reset, half-body, html, throttled, status=CODE,
    /// redirect=URL, oversized, empty, missing-errcode, string-errcode, rejected=CODE:TEXT, echo, hang.
    #[arg(long)]
    fault: Option<Fault>,
    /// For how many requests: a number or "always".
    #[arg(long, value_name = "TIMES", default_value = "1", requires = "fault")]
    fault_times: Times,
    /// PEM file with the server's certificate; serves HTTPS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// Why the simulator did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PEM file cannot be read.
    #[error("{option}: cannot read {}: {source}", path.display())]
    Read {
        /// The command line option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// See [`simulator::Error`].
    #[error(transparent)]
    Simulator(#[from] simulator::Error),
    /// Nobody would see the messages.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The process could not be ended from outside in an orderly way.
    #[error("cannot wait for SIGINT and SIGTERM: {0}")]
    Signal(io::Error),
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(args: SimulateArgs) -> Result<(), Error> {
    let fault = args.fault.clone().map(|fault| (fault, args.fault_times));
    // Before the first message can come, so that no signal is missed.
    let ended = Ended::new().map_err(Error::Signal)?;
    let simulator = Simulator::start(config(args)?).await?;
    if let Some((fault, times)) = fault {
        simulator.set_fault(fault, times);
    }
    print(&format!("simulated DingTalk robot: {}", simulator.url())).map_err(Error::Output)?;
    ended.wait().await;
    simulator.stop().await;
    Ok(())
}

fn config(args: SimulateArgs) -> Result<Config, Error> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificates), Some(key)) => Some(Tls {
            certificates: read("--tls-cert", certificates)?,
            // Bytes that are no text are no PEM, which is what the error will say.
            key: Secret::new(String::from_utf8_lossy(&read("--tls-key", key)?)),
        }),
        _ => None,
    };
    Ok(Config {
        address: (args.listen_address, args.port).into(),
        robot: RobotConfig {
            access_token: args.access_token,
            secret: args.secret,
            keywords: args.keywords,
            allowed_addresses: args.allowed_addresses,
            rate_limit: args.rate_limit,
            penalty: args.penalty,
            error_texts: args.error_texts,
            ..RobotConfig::default()
        },
        tls,
        on_message: Some(Arc::new(|message| {
            if let Err(error) = print(&message.shown) {
                tracing::warn!(%error, "cannot show a message on standard output");
            }
        })),
        ..Config::default()
    })
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { option, path: path.to_owned(), source })
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a clap value parser")]
fn secret(value: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(value))
}

/// One entry, visible at once even in a pipe.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// The signals that end the simulator.
struct Ended {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Ended {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    #[cfg(unix)]
    async fn wait(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn wait(self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
