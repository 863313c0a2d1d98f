//! Writes the component to the file named by the only argument, creating its folder: what `make component`
//! runs, without compiling a host.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let Some(path) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: dingtalk-component FILE");
        return ExitCode::FAILURE;
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let written =
        folder.map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, dingtalk_component::COMPONENT));
    if let Err(error) = written {
        eprintln!("cannot write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    println!("{}: {} bytes", path.display(), dingtalk_component::COMPONENT.len());
    ExitCode::SUCCESS
}
