//! Log lines on standard error, so that standard output stays for answers and messages.

use clap::{Args, ValueEnum};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::Log;

/// daprd's levels.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone, Args)]
pub(super) struct LogArgs {
    /// Least important level that is logged.
    #[arg(long, value_enum, env = "DAPR_LOG_LEVEL")]
    log_level: Option<LogLevel>,
    /// Log lines as JSON objects.
    #[arg(long)]
    log_as_json: bool,
}

impl LogArgs {
    /// Starts logging, at `default` unless the command line says otherwise.
    pub(super) fn start(&self, default: LogLevel) {
        let level = match self.log_level.unwrap_or(default) {
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Info => Level::INFO,
            LogLevel::Warn => Level::WARN,
            LogLevel::Error => Level::ERROR,
        };
        // Our own lines only: at their debug levels, HTTP and WebAssembly libraries print requests and
        // arguments, which hold tokens and signatures.
        let ours = Targets::new().with_target("dingtalk_host", level).with_default(LevelFilter::OFF);
        let registry = tracing_subscriber::registry().with(ours);
        if self.log_as_json {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(|| Log)).init();
        } else {
            registry.with(fmt::layer().with_writer(|| Log).with_ansi(false)).init();
        }
    }
}
