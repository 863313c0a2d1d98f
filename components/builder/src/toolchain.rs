//! Finds a compiler that can produce WebAssembly.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::{Result, TARGET, variable};

/// A compiler that can produce WebAssembly.
pub(crate) struct Toolchain {
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    /// The standard library comes as sources and is compiled along.
    pub(crate) build_std: bool,
}

impl Toolchain {
    /// The toolchain in use where it has the target; otherwise the distribution's, which on Debian brings the
    /// standard library's sources (package rust-web-src).
    pub(crate) fn find() -> Result<Self> {
        let cargo = PathBuf::from(variable("CARGO")?);
        let rustc = PathBuf::from(variable("RUSTC")?);
        if has_target(&rustc) {
            return Ok(Self { cargo, rustc, build_std: false });
        }
        let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
        if cargo.exists() && has_target(&rustc) {
            return Ok(Self { cargo, rustc, build_std: false });
        }
        if cargo.exists() && has_sources(&rustc) {
            return Ok(Self { cargo, rustc, build_std: true });
        }
        Err(format!("no compiler for {TARGET}. Run `make toolchain` once, or: rustup target add {TARGET}"))
    }
}

/// The cargo of that toolchain. What the outer cargo (or clippy, or a coverage tool) says of itself must not reach it.
pub(crate) fn inner_cargo() -> Result<Command> {
    let toolchain = Toolchain::find()?;
    let mut cargo = Command::new(&toolchain.cargo);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let kept = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "RUSTUP_HOME"];
        if ["CARGO", "RUST", "CLIPPY"].iter().any(|prefix| text.starts_with(prefix))
            && !kept.iter().any(|prefix| text.starts_with(prefix))
        {
            cargo.env_remove(&name);
        }
    }
    cargo.env("RUSTC", &toolchain.rustc);
    Ok(cargo)
}

/// What `command` prints; its complaints are the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|error| format!("{name}: {error}"));
    }
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_string_lossy).collect();
    Err(format!("{name} {}:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

fn print(rustc: &Path, arguments: &[&str]) -> Option<PathBuf> {
    let output = Command::new(rustc).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn has_target(rustc: &Path) -> bool {
    print(rustc, &["--print", "target-libdir", "--target", TARGET]).is_some_and(|folder| {
        fs::read_dir(folder).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    })
}

fn has_sources(rustc: &Path) -> bool {
    print(rustc, &["--print", "sysroot"])
        .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/alloc/Cargo.toml").exists())
}

/// Debian's compiler comes without the linker for WebAssembly, rustup's toolchains bring it.
pub(crate) fn rust_lld() -> Option<PathBuf> {
    let rustc = env::var_os("RUSTC")?;
    let folder = print(Path::new(&rustc), &["--print", "target-libdir"])?;
    let linker = folder.parent()?.join("bin/rust-lld");
    linker.exists().then_some(linker)
}
