//! `dingtalk-host simulate`: a robot endpoint for the terminal, see [`crate::simulator`].

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{StringValueParser, TypedValueParser};
use dingtalk_binding::secret::Secret;

use super::descriptors;
use super::lines::{FLUSH, Lines};
use super::logging::{LogArgs, LogLevel};
use super::signals::Ended;
use crate::api::Allowed;
use crate::files;
use crate::simulator::fault::{Fault, Times};

use crate::simulator::refusal::ErrorTexts;
use crate::simulator::robot::{AddressRange, RobotConfig};
use crate::simulator::{self, CallbackConfig, Config, Simulator, Tls};

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
    #[arg(long, value_name = "TOKEN", default_value = "simulated-access-token", value_parser = StringValueParser::new().map(Secret::new))]
    access_token: Secret,
    /// The robot's signing secret; with it, every request must be signed.
    #[arg(long, value_parser = StringValueParser::new().map(Secret::new))]
    secret: Option<Secret>,
    /// A keyword; with any, each message must contain one. Repeatable, at most 10.
    #[arg(long = "keyword", value_name = "KEYWORD")]
    keywords: Vec<String>,
    /// An IPv4 address or block (10.0.0.0/8) that may send; with any, nobody else may. Repeatable.
    #[arg(long = "allow-ip", value_name = "ADDRESS")]
    allowed_addresses: Vec<AddressRange>,
    /// Messages within --rate-window; 0 is unlimited.
    #[arg(long, value_name = "MESSAGES", default_value_t = 20)]
    rate_limit: u32,
    /// Over which time the rate is counted: DingTalk's is a minute, and tests need not wait for that.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = dingtalk_binding::duration::parse)]
    rate_window: Duration,
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
    /// Where callbacks go, http:// or https://. What POST /say is told, `{"text":"hello"}` for example, is sent
    /// there as DingTalk's callback. PUT /callback-url changes it. With `"forge"` it is forged: wrong-key,
    /// old-timestamp, future-timestamp, replay, repeated-timestamp, repeated-sign, swapped-body,
    /// oversized-body, unsigned, seconds, wrong-robot, truncated-body, not-json, wrong-content-type,
    /// unpadded-sign, lower-case-sign.
    #[arg(long, value_name = "URL", value_parser = StringValueParser::new().map(Secret::new))]
    callback_url: Option<Secret>,
    /// The secret that signs callbacks [default: the value of --secret, unless there is an outgoing token].
    #[arg(long, value_name = "SECRET", value_parser = StringValueParser::new().map(Secret::new))]
    app_secret: Option<Secret>,
    /// The token that callbacks carry where no app secret signs them, as from a custom robot with Outgoing.
    #[arg(long, value_name = "TOKEN", value_parser = StringValueParser::new().map(Secret::new))]
    outgoing_token: Option<Secret>,
    /// The robot's code in callbacks; empty leaves it out.
    #[arg(long, value_name = "CODE", default_value = "simulated-robot-code")]
    robot_code: String,
    /// The id of the robot's organisation in callbacks; empty leaves it out.
    #[arg(long, value_name = "ID", default_value = "simulated-corporation")]
    chatbot_corp_id: String,
    /// How long the answer to a callback may take; at most 2m.
    #[arg(long, value_name = "DURATION", default_value = "2.5s", value_parser = dingtalk_binding::duration::parse)]
    callback_timeout: Duration,
    /// How often a callback is sent again after a timeout, a lost connection, or a status of 429 or 5xx; at most
    /// 100 times.
    #[arg(long, value_name = "TIMES", default_value_t = 3)]
    callback_retries: u32,
    /// How long to wait before sending it again; at most 2m.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = dingtalk_binding::duration::parse)]
    callback_retry_interval: Duration,
    /// PEM file with the server's certificate; serves HTTPS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Names by which clients may operate the simulator, beside localhost and the address that they reach, separated
    /// by commas; * is any. Without this, a web page whose name points here could.
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
    /// Origins (https://host:port) of web pages that may operate it, separated by commas; * is any.
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    #[command(flatten)]
    log: LogArgs,
}

/// Of the process's file descriptors, one in so many is for connections to the simulator. The others are for callbacks.
const DESCRIPTORS: u64 = 2;

/// Why the simulator did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PEM file cannot be read.
    #[error("{option}: {} {reason}", path.display())]
    Read {
        /// The command line option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
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
    args.log.start(LogLevel::Warn);
    let fault = args.fault.clone().map(|fault| (fault, args.fault_times));
    let group = Lines::start("group", Shown, |lost| {
        tracing::warn!(lost, "messages are missing on standard output, which was not read; GET /messages has the last");
    });
    let group = group.map_err(Error::Output)?;
    let mut config = config(args, group)?;
    let descriptors = usize::try_from(descriptors::raise() / DESCRIPTORS).unwrap_or(usize::MAX);
    config.connections = descriptors.clamp(1, simulator::MAX_CONNECTIONS);
    // Before the first message can come, so that no signal is missed.
    let mut ended = Ended::new().map_err(Error::Signal)?;
    let simulator = Simulator::start(config).await?;
    if let Some((fault, times)) = fault {
        simulator.set_fault(fault, times);
    }
    writeln!(Shown, "simulated DingTalk robot: {}", simulator.url()).map_err(Error::Output)?;
    let _ = ended.wait().await;
    simulator.stop().await;
    group.flush(FLUSH);
    Ok(())
}

fn config(args: SimulateArgs, group: &'static Lines) -> Result<Config, Error> {
    let show = |text: &str| group.push(format!("{text}\n").as_bytes());
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
            rate_window: args.rate_window,
            penalty: args.penalty,
            error_texts: args.error_texts,
            app_secret: args.app_secret,
            outgoing_token: args.outgoing_token,
            robot_code: args.robot_code,
            chatbot_corp_id: args.chatbot_corp_id,
            ..RobotConfig::default()
        },
        tls,
        on_message: Some(Arc::new(move |message| show(&message.shown))),
        on_said: Some(Arc::new(show)),
        callback: CallbackConfig {
            url: args.callback_url.map(|url| url.expose().to_owned()),
            timeout: args.callback_timeout,
            retries: args.callback_retries,
            retry_interval: args.callback_retry_interval,
        },
        allowed: Allowed { hosts: args.allowed_hosts, origins: args.allowed_origins },
        ..Config::default()
    })
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let read = files::read_bytes(path).map(|(bytes, _)| bytes);
    read.map_err(|reason| Error::Read { option, path: path.to_owned(), reason })
}

/// Standard output: each entry is visible at once, even in a pipe.
struct Shown;

impl Write for Shown {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        let written = out.write_all(text).and_then(|()| out.flush());
        if let Err(error) = &written {
            tracing::warn!(%error, "cannot show a message on standard output");
        }
        written.map(|()| text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn config(args: SimulateArgs) -> Result<Config, Error> {
        super::config(args, Lines::start("group", io::sink(), |_| ()).unwrap())
    }

    fn parse(args: &[&str]) -> Result<SimulateArgs, String> {
        let args = std::iter::once("simulate").chain(args.iter().copied());
        Command::try_parse_from(args).map(|command| command.args).map_err(|error| error.to_string())
    }

    #[test]
    fn dingtalks_limits_are_the_default() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.fault.clone(), args.fault_times), (None, Times::ONCE));
        let config = config(args).unwrap();
        assert_eq!(config.address.to_string(), "127.0.0.1:8099");
        assert_eq!(config.robot.access_token.expose(), "simulated-access-token");
        let RobotConfig { rate_limit, rate_window, penalty, .. } = config.robot;
        assert_eq!((rate_limit, rate_window.as_secs(), penalty.as_secs()), (20, 60, 600));
        let CallbackConfig { url, timeout, retries, retry_interval } = config.callback;
        assert_eq!((url, timeout.as_millis(), retries, retry_interval.as_millis()), (None, 2_500, 3, 1_000));
        assert!(config.robot.secret.is_none() && config.robot.keywords.is_empty() && config.tls.is_none());
    }

    #[test]
    fn every_flag() {
        let args = parse(&[
            "--port=0",
            "--listen-address=::1",
            "--access-token=T",
            "--secret=SECRET1",
            "--keyword=a",
            "--keyword=b",
            "--allow-ip=10.0.0.0/8",
            "--rate-limit=0",
            "--rate-window=3s",
            "--penalty=1m30s",
            "--error-texts=english",
            "--fault=status=503",
            "--fault-times=always",
            "--callback-url=https://h/SECRET2",
            "--app-secret=SECRET3",
            "--outgoing-token=SECRET4",
            "--robot-code=code",
            "--chatbot-corp-id=corp",
            "--callback-timeout=500ms",
            "--callback-retries=0",
            "--callback-retry-interval=1m",
            "--allowed-hosts=simulator,*.test",
            "--allowed-origins=https://a.example",
        ])
        .unwrap();
        assert!(!format!("{args:?}").contains("SECRET"));
        assert_eq!((args.fault.clone(), args.fault_times), (Some(Fault::Status(503)), Times::Always));
        let Config { address, robot, callback, allowed, .. } = config(args).unwrap();
        assert_eq!(
            (allowed.hosts.join(" "), allowed.origins.join(" ")),
            ("simulator *.test".into(), "https://a.example".into())
        );
        assert_eq!((robot.robot_code.as_str(), robot.chatbot_corp_id.as_str()), ("code", "corp"));
        assert_eq!(
            (robot.app_secret.unwrap().expose(), robot.outgoing_token.unwrap().expose()),
            ("SECRET3", "SECRET4")
        );
        assert_eq!((callback.url.as_deref(), callback.retries), (Some("https://h/SECRET2"), 0));
        assert_eq!((callback.timeout.as_millis(), callback.retry_interval.as_secs()), (500, 60));
        assert_eq!(address.to_string(), "[::1]:0");
        assert_eq!((robot.access_token.expose(), robot.secret.unwrap().expose()), ("T", "SECRET1"));
        assert_eq!((robot.keywords, robot.rate_limit, robot.penalty.as_secs()), (vec!["a".into(), "b".into()], 0, 90));
        assert_eq!(robot.rate_window.as_secs(), 3);
        assert_eq!((robot.allowed_addresses.len(), robot.error_texts), (1, ErrorTexts::English));
    }

    #[test]
    fn every_forgery_is_named_where_people_look() {
        let help = <Command as clap::CommandFactory>::command().render_long_help().to_string();
        let documentation = include_str!("../../../docs/simulator.md");
        for forgery in crate::simulator::callback::Forgery::ALL {
            let name = forgery.to_string();
            assert!(help.contains(&name) && documentation.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn mistakes_name_the_flag_and_what_to_write() {
        for (args, flag, reason) in [
            (&["--penalty=10"][..], "--penalty", "is not a duration"),
            (&["--rate-window=1"], "--rate-window", "is not a duration"),
            (&["--allow-ip=::1"], "--allow-ip", "write for example 192.168.1.7"),
            (&["--fault=flood"], "--fault", "there are delay=DURATION"),
            (&["--fault=html", "--fault-times=0"], "--fault-times", "a number from 1"),
            (&["--fault-times=2"], "--fault", "required"),
            (&["--callback-timeout=3"], "--callback-timeout", "is not a duration"),
            (&["--callback-retries=-1"], "--callback-retries", "invalid"),
            (&["--tls-cert=x"], "--tls-key", "required"),
            (&["--error-texts=german"], "--error-texts", "current, english"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(flag) && error.contains(reason), "{args:?}: {error}");
        }
        let args = parse(&["--tls-cert=/nonexistent/cert.pem", "--tls-key=/nonexistent/key.pem"]).unwrap();
        let error = config(args).unwrap_err().to_string();
        assert!(error.starts_with("--tls-cert: /nonexistent/cert.pem cannot be read: "), "{error}");
    }
}
