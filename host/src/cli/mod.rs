//! The command line: one file a subcommand. Flags are daprd's where daprd has one.

mod app;
mod component;
mod demo;
mod egress;
mod inbox;
mod invoke;
mod load;
mod logging;
mod quantity;
mod serve;
mod signals;
pub mod simulate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    Invoke(invoke::InvokeArgs),
    Component(component::ComponentArgs),
    Inbox(inbox::InboxArgs),
    Simulate(simulate::SimulateArgs),
    Demo(demo::DemoArgs),
}

/// Parses the command line and runs it. Exit status: 0 done; 1 failed, with the reason on standard error; 2 a
/// command line that makes no sense.
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let done = match command {
        Command::Serve(args) => run(Threads::Many, serve::run(args)),
        Command::Invoke(args) => run(Threads::One, invoke::run(args)),
        Command::Component(args) => component::run(&args).map_err(Into::into),
        Command::Inbox(args) => inbox::run(&args),
        Command::Simulate(args) => run(Threads::Many, async { Ok(simulate::run(args).await?) }),
        Command::Demo(args) => run(Threads::Many, demo::run(args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(Failure::Because(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why a subcommand failed.
enum Failure {
    /// The user has seen it already.
    Reported,
    Because(Box<dyn std::error::Error>),
}

impl<E: Into<Box<dyn std::error::Error>>> From<E> for Failure {
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
    builder.enable_all().build()?.block_on(command)
}
