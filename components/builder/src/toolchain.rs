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
