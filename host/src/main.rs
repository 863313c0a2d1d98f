//! The `dingtalk-host` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dingtalk_host::cli::main()
}
