//! The command line: one file a subcommand. Flags are daprd's where daprd has one.

mod allocator;
mod app;
mod component;
mod demo;
mod descriptors;
mod egress;
mod instances;
mod invoke;
mod lines;
mod load;
mod logging;
#[cfg(unix)]
mod pluggable;
mod quantity;
mod queue;
mod receiving;
mod reload;
mod serve;
mod shutdown;
mod signals;
pub mod simulate;
mod spans;
mod store;
mod variables;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::shown::shown;

/// Runs the DingTalk group robot binding, a sandboxed WebAssembly component.
#[derive(Debug, Parser)]
#[command(name = "dingtalk-host", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    #[cfg(unix)]
    Pluggable(pluggable::PluggableArgs),
    Invoke(invoke::InvokeArgs),
    Component(component::ComponentArgs),
    Inbox(queue::InboxArgs),
    Outbox(queue::OutboxArgs),
    Simulate(simulate::SimulateArgs),
    Demo(demo::DemoArgs),
}

/// The command line as it is declared: the documentation is held against it.
#[doc(hidden)]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs it. Exit status: 0 done; 1 failed, with the reason on standard error; 2 a
/// command line that makes no sense; 130 and 143 ended by a second signal.
pub fn main() -> ExitCode {
    allocator::give_back_soon();
    let status = variables::check().map_err(Into::into).and_then(|()| dispatch());
    let status = match status {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(Failure::Usage) => ExitCode::from(2),
        Err(Failure::Signal(status)) => ExitCode::from(status),
        Err(Failure::Because(error)) => {
            lines::write(format!("error: {}\n", shown(&error.to_string())).as_bytes());
            ExitCode::FAILURE
        }
    };
    lines::flush();
    status
}

fn dispatch() -> Result<(), Failure> {
    let command = match Cli::try_parse() {
        Ok(Cli { command }) => command,
        Err(error) if error.use_stderr() => {
            lines::write(shown(&error.render().to_string()).as_bytes());
            return Err(Failure::Usage);
        }
        // Help was asked for.
        Err(error) => error.exit(),
    };
    match command {
        Command::Serve(args) => run(Threads::Many, serve::run(args)),
        #[cfg(unix)]
        Command::Pluggable(args) => run(Threads::Many, pluggable::run(args)),
        Command::Invoke(args) => run(Threads::One, invoke::run(args)),
        Command::Component(args) => component::run(&args).map_err(Into::into),
        Command::Inbox(args) => queue::run_inbox(&args),
        Command::Outbox(args) => queue::run_outbox(&args),
        Command::Simulate(args) => run(Threads::Many, async { Ok(simulate::run(args).await?) }),
        Command::Demo(args) => run(Threads::Many, demo::run(args)),
    }
}

/// Why a subcommand failed.
enum Failure {
    /// The user has seen it already.
    Reported,
    /// So has he what is wrong with the command line.
    Usage,
    /// A second signal has ended it before it was done.
    Signal(u8),
    Because(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Because(error.into())
    }
}

enum Threads {
    /// One call: starting more threads than it uses would only cost time.
    One,
    Many,
}

fn run(threads: Threads, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.enable_all().build()?;
    let done = runtime.block_on(command);
    // Whatever still waits then, for a disk, a name server or a pipe, must not keep the process.
    runtime.shutdown_background();
    done
}
