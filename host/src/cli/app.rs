//! Flags that say where events go. Names, notation and defaults are daprd's where daprd has the flag.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{StringValueParser, TypedValueParser};
use clap::{ArgAction, Args};
use dingtalk_binding::duration;
use dingtalk_binding::endpoint::Origin;
use dingtalk_binding::secret::Secret;
use dingtalk_binding::session;

use super::quantity;
use crate::app::{
    App, ComponentApp, ComponentConfig, ConfigError, HealthConfig, LoadError, PrintApp, Protocol, RemoteApp,
    RemoteConfig,
};
use crate::bindings::Bindings;
use crate::egress::{Policy, Proxies};

/// Where received messages go.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Application")]
pub(super) struct AppArgs {
    /// Port of the application that takes received messages; 0 is none.
    #[arg(long, value_name = "PORT", group = "application")]
    app_port: Option<u16>,
    /// Address of the application: IP address or host name.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    app_channel_address: String,
    /// Protocol that the application speaks: http, or grpc without TLS.
    #[arg(long, value_name = "PROTOCOL", default_value = "http", value_parser = parse_protocol)]
    app_protocol: Protocol,
    /// Sent to the application as `dapr-api-token`. Everybody on the machine can read it in the command line; the
    /// environment variable is better.
    #[arg(long, value_name = "TOKEN", env = "APP_API_TOKEN", hide_env_values = true, value_parser = StringValueParser::new().map(Secret::new))]
    app_token: Option<Secret>,
    /// Time for the application to take one message and answer.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    app_timeout: Duration,
    /// Time for the application to answer whether it reads from a binding: a duration, or a number of seconds.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_seconds_or_duration)]
    app_binding_options_timeout: Duration,
    /// Check the application's health, and deliver only while it is healthy.
    #[arg(
        long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = false, default_missing_value = "true", requires = "app_port"
    )]
    enable_app_health_check: bool,
    /// Path of the health check over HTTP; any status from 200 to 299 is healthy.
    #[arg(long, value_name = "PATH", default_value = "/healthz")]
    app_health_check_path: String,
    /// Seconds from one health check to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    app_health_probe_interval: u32,
    /// Milliseconds for one health check, not more than the interval.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500)]
    app_health_probe_timeout: u32,
    /// So many failed health checks in a row make the application unhealthy; one that succeeds makes it healthy.
    #[arg(long, value_name = "CHECKS", default_value_t = 3)]
    app_health_threshold: u32,
    /// Print received messages to standard output, one line of JSON each, instead of sending them to an application.
    #[arg(long, group = "application")]
    print_events: bool,
    /// Hand received messages to this component of world dingtalk:binding/handler-app, which the host runs itself, one
    /// fresh instance a message, instead of sending them to an application.
    #[arg(long, value_name = "FILE", group = "application")]
    handler: Option<PathBuf>,
    /// Hosts that the component of --handler may send requests to, separated by commas: host[:port] for https,
    /// http://host[:port] for a test server. Without this, none.
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', value_parser = parse_host, requires = "handler")]
    handler_allowed_hosts: Vec<Origin>,
    /// Memory of the component of --handler for one message, at most 4Gi.
    #[arg(long, value_name = "SIZE", default_value = "128Mi", value_parser = parse_memory, requires = "handler")]
    handler_memory: usize,
}

/// Why events cannot go where the flags say.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("--print-events: no thread for standard output: {0}")]
    Print(io::Error),
}

impl AppArgs {
    /// Begins to speak with the application, if the flags name one. Must be called within a tokio runtime.
    pub(super) async fn start(self, bindings: &Bindings, policy: &Policy) -> Result<Option<App>, AppError> {
        if self.print_events {
            return Ok(Some(App::Print(PrintApp::new(io::stdout()).map_err(AppError::Print)?)));
        }
        if let Some(file) = self.handler {
            let config = ComponentConfig {
                file,
                timeout: self.app_timeout,
                memory: self.handler_memory,
                allowed_hosts: self.handler_allowed_hosts,
            };
            let app = ComponentApp::load(config, bindings, &Proxies::from_env(), policy).await?;
            return Ok(Some(App::Component(app)));
        }
        let Some(config) = self.config() else { return Ok(None) };
        Ok(Some(App::Remote(RemoteApp::start(
            config,
            bindings.all().iter().map(|binding| binding.subscription().clone()).collect(),
        )?)))
    }

    fn config(self) -> Option<RemoteConfig> {
        let health = self.enable_app_health_check.then(|| HealthConfig {
            path: self.app_health_check_path,
            interval: Duration::from_secs(self.app_health_probe_interval.into()),
            timeout: Duration::from_millis(self.app_health_probe_timeout.into()),
            threshold: self.app_health_threshold,
        });
        Some(RemoteConfig {
            protocol: self.app_protocol,
            address: self.app_channel_address,
            port: self.app_port.filter(|port| *port != 0)?,
            token: self.app_token.filter(|token| !token.expose().is_empty()),
            probe_timeout: self.app_binding_options_timeout,
            timeout: self.app_timeout,
            health,
        })
    }
}

fn parse_protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "http" => Ok(Protocol::Http),
        "grpc" => Ok(Protocol::Grpc),
        "grpcs" | "https" | "h2c" => Err(format!(
            "this host speaks with applications without TLS, and HTTP/1.1 or gRPC, {text} is not supported; write http or grpc"
        )),
        _ => Err("write http or grpc".into()),
    }
}

fn parse_host(text: &str) -> Result<Origin, String> {
    let parsed = session::parse_hosts(text).ok().filter(|hosts| hosts.len() == 1).and_then(|mut hosts| hosts.pop());
    parsed.ok_or_else(|| "is not a host; write for example api.example.com or 10.0.0.7:8443".into())
}

/// Below a page, nothing runs; above 4Gi, no 32-bit memory is.
fn parse_memory(text: &str) -> Result<usize, String> {
    let size = quantity::parse(text)?;
    if !(64 << 10..=4 << 30).contains(&size) {
        return Err(format!("{text} is not between 64Ki and 4Gi"));
    }
    Ok(size)
}

/// daprd's flag is a duration; the number is what its annotation's neighbours are written in.
fn parse_seconds_or_duration(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => duration::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::clock;
    use crate::sandbox::{Limits, Sandbox};

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        app: AppArgs,
    }

    fn parsed(flags: &str) -> Result<AppArgs, String> {
        let words = std::iter::once("serve").chain(flags.split_whitespace());
        Command::try_parse_from(words).map(|command| command.app).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_daprds() {
        let config = parsed("--app-port 6001").unwrap().config().unwrap();
        assert_eq!(config, RemoteConfig::new(6001));
        let config = parsed("--app-port 6001 --enable-app-health-check").unwrap().config().unwrap();
        assert_eq!(config.health, Some(HealthConfig::default()));
        let config = parsed("--app-port 6001 --app-protocol grpc").unwrap().config().unwrap();
        assert_eq!(config, RemoteConfig { protocol: Protocol::Grpc, ..RemoteConfig::new(6001) });
        for flags in ["", "--app-port 0"] {
            assert_eq!(parsed(flags).unwrap().config(), None, "{flags}");
        }
    }

    #[test]
    fn every_flag_arrives() {
        let flags = "--app-port 80 --app-channel-address app.local --app-protocol http --app-token S3CR3T \
                     --app-timeout 1m30s --app-binding-options-timeout 10 --enable-app-health-check=true \
                     --app-health-check-path /up --app-health-probe-interval 7 --app-health-probe-timeout 70 \
                     --app-health-threshold 9";
        let args = parsed(flags).unwrap();
        assert!(!format!("{args:?}").contains("S3CR3T"));
        let health = HealthConfig {
            path: "/up".into(),
            interval: Duration::from_secs(7),
            timeout: Duration::from_millis(70),
            threshold: 9,
        };
        let expected = RemoteConfig {
            protocol: Protocol::Http,
            address: "app.local".into(),
            port: 80,
            token: Some(Secret::new("S3CR3T")),
            probe_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(90),
            health: Some(health),
        };
        assert_eq!(args.config(), Some(expected));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (flags, named) in [
            ("--app-port 1 --print-events", "--print-events"),
            ("--app-port 1 --handler a.wasm", "'--app-port <PORT>' cannot be used with '--handler <FILE>'"),
            ("--print-events --handler a.wasm", "--handler"),
            ("--handler-memory 64Mi", "--handler <FILE>"),
            ("--handler-allowed-hosts a", "--handler <FILE>"),
            ("--handler a.wasm --handler-allowed-hosts a,b/c", "is not a host; write for example api.example.com"),
            ("--handler a.wasm --handler-allowed-hosts ,", "is not a host"),
            ("--handler a.wasm --handler-memory 1Ki", "is not between 64Ki and 4Gi"),
            ("--handler a.wasm --handler-memory 5Gi", "is not between 64Ki and 4Gi"),
            ("--enable-app-health-check", "--app-port"),
            ("--app-port 65536", "65536"),
            ("--app-protocol grpcs", "grpcs is not supported; write http or grpc"),
            ("--app-protocol https", "https is not supported"),
            ("--app-protocol carrier-pigeon", "write http or grpc"),
            ("--app-timeout 60", "is not a duration"),
            ("--app-binding-options-timeout soon", "is not a duration"),
        ] {
            let error = parsed(flags).unwrap_err();
            assert!(error.contains(named), "{flags}: {error}");
        }
    }

    #[tokio::test]
    async fn flags_become_an_application() {
        let sandbox = Sandbox::new(dingtalk_component::COMPONENT, Limits::default(), clock::system()).unwrap();
        let bindings = Bindings::new(sandbox);
        let start = async |flags| parsed(flags).unwrap().start(&bindings, &Policy::default()).await;
        assert!(matches!(start("").await, Ok(None)));
        assert!(matches!(start("--print-events").await, Ok(Some(App::Print(_)))));
        assert!(matches!(start("--app-port 1").await, Ok(Some(App::Remote(_)))));
        let error = async |flags| start(flags).await.err().unwrap().to_string();
        let wrong = error("--app-port 1 --app-channel-address http://app").await;
        assert!(wrong.contains("--app-channel-address"), "{wrong}");
        let wrong = error("--handler no/such.wasm").await;
        assert!(wrong.starts_with("--handler no/such.wasm: cannot be read"), "{wrong}");
        let wrong = error("--handler a.wasm --app-timeout 0s").await;
        assert_eq!(wrong, "--handler a.wasm: --app-timeout must be longer than 0");
        let wrong = error("--handler a.wasm --handler-allowed-hosts 169.254.169.254").await;
        assert!(wrong.contains("--handler-allowed-hosts: 169.254.169.254 is the address of a cloud's"), "{wrong}");
    }
}
