//! The bot of examples/bots/rust, built as its reader builds it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";

/// The component, built once for all tests.
pub fn component() -> &'static [u8] {
    static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
    BUILT.get_or_init(|| built(&root().join("examples/bots/rust"), "bot"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The component of the package `name` in `folder`, which is in no workspace.
pub fn built(folder: &Path, name: &str) -> Vec<u8> {
    // With each other's dependencies.
    let target = root().join("target/bots");
    let mut cargo = toolchain();
    cargo.args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(&target);
    cargo.current_dir(folder);
    // Of the cargo that runs this test, nothing is meant for this one.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_others = ["CARGO", "RUST", "CLIPPY"].iter().any(|prefix| text.starts_with(prefix));
        let kept = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "RUSTUP_HOME"];
        let is_set = cargo.get_envs().any(|(set, _)| set == name);
        if of_others && !is_set && !kept.iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{name} does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
    let module = std::fs::read(target.join(TARGET).join(format!("release/{name}.wasm"))).unwrap();
    // What `wasm-tools component new` does.
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// A cargo that can build for WebAssembly: the one in use, or the distribution's, with the target or the sources of the
/// standard library. As host/component/build.rs chooses.
fn toolchain() -> Command {
    let print = |rustc: &str, arguments: &[&str]| {
        let output = Command::new(rustc).args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
    };
    let has_target = |rustc: &str| {
        let folder = print(rustc, &["--print", "target-libdir", "--target", TARGET]);
        folder.and_then(|folder| std::fs::read_dir(folder).ok()).is_some_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
        })
    };
    if has_target("rustc") {
        return Command::new("cargo");
    }
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo.env("RUSTC", "/usr/bin/rustc");
    if !has_target("/usr/bin/rustc") {
        cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        let linker = print("rustc", &["--print", "target-libdir"]).unwrap().parent().unwrap().join("bin/rust-lld");
        if linker.exists() {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
    cargo
}
