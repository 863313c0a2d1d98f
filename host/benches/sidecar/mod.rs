//! Whole sidecars over HTTP: `tests/dapr` has daprd, and starts this program as the robot of both.

use std::process::Command;

use super::Error;

pub(crate) fn measure() -> Result<(), Error> {
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/dapr/run");
    let arguments = ["bench", env!("CARGO_BIN_EXE_dingtalk-host")];
    let measured = Command::new(run).args(arguments).env("BENCH_ROBOT", std::env::current_exe()?).status()?;
    if measured.success() { Ok(()) } else { Err("the sidecars could not be measured".into()) }
}
