//! Compiles a package to a core module, by a cargo of its own.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::toolchain::{self, Toolchain};
use crate::{Guest, Result, TARGET};

/// Compiles `guest` below `target_dir`, and says where the module is.
pub(crate) fn compile(root: &Path, target_dir: &Path, guest: &Guest<'_>) -> Result<PathBuf> {
    let mut cargo = toolchain::inner_cargo()?;
    cargo.current_dir(root);
    cargo.args(["rustc", "--package", guest.package, "--lib", "--crate-type", "cdylib", "--locked"]);
    cargo.arg("--features").arg(guest.features.join(","));
    cargo.args(["--profile", "component", "--target", TARGET, "--target-dir"]).arg(target_dir);
    if Toolchain::find()?.build_std {
        let library = if guest.std { "std,panic_abort" } else { "core,alloc" };
        cargo.env("RUSTC_BOOTSTRAP", "1").arg(format!("-Zbuild-std={library}"));
        if let Some(linker) = toolchain::rust_lld() {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
    cargo.arg("--");
    cargo.args(guest.stack_bytes.map(|bytes| format!("-Clink-arg=-zstack-size={bytes}")));
    let mut flags = remapped(root, target_dir);
    flags.extend(guest.rustflags.iter().copied().map(str::to_owned));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    toolchain::output(&mut cargo).map_err(|error| format!("{} does not compile: {error}", guest.package))?;
    let module = format!("{}.wasm", guest.package.replace('-', "_"));
    Ok(target_dir.join(TARGET).join("component").join(module))
}

/// Panic messages name source files. Without this the component would carry the paths of the machine that
/// built it, and be another one on every machine.
fn remapped(root: &Path, target_dir: &Path) -> Vec<String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    // Of two that fit, rustc takes the last.
    let mut flags = vec![
        format!("--remap-path-prefix={}=.", root.display()),
        format!("--remap-path-prefix={}=target", target_dir.display()),
    ];
    let registry = home.map(|home| home.join("registry/src"));
    for index in registry.iter().flat_map(fs::read_dir).flatten().flatten() {
        flags.push(format!("--remap-path-prefix={}=deps", index.path().display()));
    }
    flags
}
