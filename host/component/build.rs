//! Compiles the component, so that whatever uses it can never run against a stale one: cargo runs this again
//! whenever the component's sources, its contract or the lock file change.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "wasm32-unknown-unknown";

/// The deepest input (a message nested to serde_json's limit) needs 8 KiB; rustc's default of 1 MiB would be
/// cleared or remapped for every call. `tests/` runs that input against the built component.
const STACK_BYTES: u32 = 16 * 1024;

type Result<T> = std::result::Result<T, String>;

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={}", error.replace('\n', " "));
    }
}

fn build() -> Result<()> {
    let root = absolute(&PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../.."))?;
    for input in ["src", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let out = PathBuf::from(variable("OUT_DIR")?);
    // A target directory of its own (the outer cargo holds the lock of its own), shared by all profiles:
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let target_dir = out.ancestors().nth(4).ok_or("OUT_DIR is not inside a target directory")?.join("component/build");
    compile(&root, &target_dir)?;
    let module = target_dir.join(TARGET).join("component/dingtalk_binding.wasm");
    let module = fs::read(&module).map_err(|error| format!("cannot read {}: {error}", module.display()))?;
    let component = wit_component::ComponentEncoder::default()
        .reject_legacy_names(false)
        .validate(true)
        .debug_names(false)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| format!("the compiled module does not make a component: {error:#}"))?;
    let component = without_names(&component).map_err(|error| format!("the component cannot be read: {error}"))?;
    let path = out.join("dingtalk-binding.wasm");
    fs::write(&path, component).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Leaves out the custom sections around the core module: names of the component's inner parts, 6 KB that only a
/// debugger reads.
fn without_names(component: &[u8]) -> std::result::Result<Vec<u8>, wasmparser::BinaryReaderError> {
    let mut bare = wasm_encoder::Component::new();
    let mut depth = 0_u32;
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        let payload = payload?;
        if depth == 0
            && let Some((id, range)) = payload.as_section()
            && id != wasm_encoder::ComponentSectionId::CoreCustom as u8
        {
            // In memory, so its positions fit.
            let range = range.start as usize..range.end as usize;
            bare.section(&wasm_encoder::RawSection { id, data: component.get(range).unwrap_or_default() });
        }
        match payload {
            wasmparser::Payload::ModuleSection { .. } | wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(bare.finish())
}

fn compile(root: &Path, target_dir: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let mut cargo = Command::new(&toolchain.cargo);
    // What the outer cargo (or clippy, or a coverage tool) says of itself must not reach the inner one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let kept = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "RUSTUP_HOME"];
        if ["CARGO", "RUST", "CLIPPY"].iter().any(|prefix| text.starts_with(prefix))
            && !kept.iter().any(|prefix| text.starts_with(prefix))
        {
            cargo.env_remove(&name);
        }
    }
    cargo.env("RUSTC", &toolchain.rustc).current_dir(root);
    cargo.args([
        "rustc",
        "--package",
        "dingtalk-binding",
        "--features",
        "component",
        "--lib",
        "--crate-type",
        "cdylib",
        "--locked",
    ]);
    cargo.args(["--profile", "component", "--target", TARGET, "--target-dir"]).arg(target_dir);
    if toolchain.build_std {
        cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=core,alloc");
        if let Some(linker) = rust_lld() {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
    cargo.arg("--").arg(format!("-Clink-arg=-zstack-size={STACK_BYTES}"));
    let mut flags = remapped(root);
    // SHA-256 as a loop: 6 KB smaller, and a signature needs four blocks.
    flags.push("--cfg=sha2_backend_soft=\"compact\"".into());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let output = cargo.output().map_err(|error| format!("cannot run {}: {error}", toolchain.cargo.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("the component does not compile:\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Panic messages name source files. Without this the component would carry the paths of the machine that
/// built it, and be another one on every machine.
fn remapped(root: &Path) -> Vec<String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=.", root.display())];
    let registry = home.map(|home| home.join("registry/src"));
    for index in registry.iter().flat_map(fs::read_dir).flatten().flatten() {
        flags.push(format!("--remap-path-prefix={}=deps", index.path().display()));
    }
    flags
}

/// A compiler that can produce WebAssembly.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// The standard library comes as sources and is compiled along.
    build_std: bool,
}

impl Toolchain {
    /// The toolchain in use where it has the target; otherwise the distribution's, which on Debian brings the
    /// standard library's sources (package rust-web-src).
    fn find() -> Result<Self> {
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
fn rust_lld() -> Option<PathBuf> {
    let rustc = env::var_os("RUSTC")?;
    let folder = print(Path::new(&rustc), &["--print", "target-libdir"])?;
    let linker = folder.parent()?.join("bin/rust-lld");
    linker.exists().then_some(linker)
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))
}
