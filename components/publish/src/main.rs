//! Writes what this repository publishes into the folder named by the only argument, creating it: what `make component`
//! runs, without compiling a host. The environment says where it comes from: `SOURCE_URL` and `SOURCE_REVISION`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use dingtalk_components::{Origin, published};

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: dingtalk-publish FOLDER");
        return ExitCode::FAILURE;
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> Result<(), String> {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let files = published(&Origin { source: variable("SOURCE_URL"), revision: variable("SOURCE_REVISION") })?;
    fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, &bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        println!("{}: {} bytes", path.display(), bytes.len());
    }
    Ok(())
}
