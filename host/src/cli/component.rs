//! `dingtalk-host component`: writes the embedded component, for other runtimes.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;

/// Writes the WebAssembly component that this host runs.
#[derive(Debug, Clone, Args)]
pub(super) struct ComponentArgs {
    /// File to write; standard output without it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &ComponentArgs) -> Result<(), String> {
    let component = dingtalk_component::COMPONENT;
    match &args.output {
        Some(path) => {
            std::fs::write(path, component).map_err(|error| format!("cannot write {}: {error}", path.display()))
        }
        None if io::stdout().is_terminal() => {
            Err("the component is binary; name a file with -o, or redirect standard output".into())
        }
        None => {
            let mut out = io::stdout().lock();
            out.write_all(component).and_then(|()| out.flush()).map_err(|error| format!("standard output: {error}"))
        }
    }
}
