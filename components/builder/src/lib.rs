//! Builds components, for the build scripts that embed them: compiles a package of this repository for WebAssembly and
//! makes a component of it, without anything that its world does not name.
//!
//! Cargo runs such a script again whenever what it compiles, the contract or the lock file change: whatever uses a
//! component can never run against a stale one.

mod compile;
mod dependencies;
mod metadata;
mod package;
mod toolchain;

use std::path::{Path, PathBuf};
use std::{env, fs};

use dependencies::Dependencies;
use metadata::Metadata;
pub use package::Package;

/// What went wrong and what to do, for the one who builds.
pub type Result<T> = std::result::Result<T, String>;

/// The target that components are compiled for: it brings no import of its own.
const TARGET: &str = "wasm32-unknown-unknown";

/// A package of this repository that is compiled to a component.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// Its name.
    pub package: &'a str,
    /// The features that it is compiled with.
    pub features: &'a [&'a str],
    /// Whether it uses the standard library, or only `core` and `alloc`.
    pub std: bool,
    /// The room for its stack. Without a number rustc's, which is 1 MiB.
    pub stack_bytes: Option<u32>,
    /// Flags for rustc.
    pub rustflags: &'a [&'a str],
    /// Files and folders that it is compiled from, from the top of the repository, beside `wit`, the workspace's
    /// `Cargo.toml` and `Cargo.lock`.
    pub sources: &'a [&'a str],
}

/// The binding.
pub const BINDING: Guest<'static> = Guest {
    package: "dingtalk-binding",
    features: &["component"],
    std: false,
    // The deepest input (a message nested to serde_json's limit) needs 8 KiB; rustc's default of 1 MiB would be
    // cleared or remapped for every call. `tests/` runs that input against the built component.
    stack_bytes: Some(16 * 1024),
    // SHA-256 as a loop: 6 KB smaller, and a signature needs four blocks.
    rustflags: &["--cfg=sha2_backend_soft=\"compact\""],
    sources: &["src"],
};

/// The binding for WASI 0.3.
pub const BINDING_P3: Guest<'static> =
    Guest { package: "dingtalk-binding-p3", features: &[], sources: &["src", "components/binding-p3"], ..BINDING };

/// A built component.
#[derive(Debug)]
pub struct Component {
    bytes: Vec<u8>,
    dependencies: Dependencies,
}

impl AsRef<[u8]> for Component {
    /// What a runtime loads.
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where a build script finds what it compiles, and where it leaves it.
#[derive(Debug)]
pub struct Builder {
    /// The top of the repository.
    root: PathBuf,
    /// Where cargo wants the script's results.
    out: PathBuf,
    /// Where components are compiled.
    target: PathBuf,
}

impl Builder {
    /// For the build script of the package in `folder`, a path from the top of the repository.
    ///
    /// # Errors
    ///
    /// If cargo did not say what it says to build scripts.
    pub fn new(folder: &str) -> Result<Self> {
        let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
        let root = manifest.ancestors().nth(Path::new(folder).components().count());
        let root = root.ok_or_else(|| format!("{} is not {folder} of a repository", manifest.display()))?.to_path_buf();
        for input in ["wit", "Cargo.toml", "Cargo.lock"] {
            watch(&root.join(input));
        }
        let out = PathBuf::from(variable("OUT_DIR")?);
        // A target directory of its own (the outer cargo holds the lock of its own), shared by all profiles:
        // OUT_DIR is <target>/<profile>/build/<package>/out.
        let target = out.ancestors().nth(4).ok_or("OUT_DIR is not inside a target directory")?.join("component/build");
        Ok(Self { root, out, target })
    }

    /// Compiles `guest` to a component, which says of itself what the package's manifest says.
    ///
    /// # Errors
    ///
    /// If there is no compiler for WebAssembly, or the package does not compile to a component.
    pub fn component(&self, guest: &Guest<'_>) -> Result<Component> {
        let package = guest.package;
        for source in guest.sources {
            watch(&self.root.join(source));
        }
        let module = compile::compile(&self.root, &self.target, guest)?;
        let module = fs::read(&module).map_err(|error| format!("cannot read {}: {error}", module.display()))?;
        let component = wit_component::ComponentEncoder::default()
            .reject_legacy_names(false)
            .validate(true)
            .debug_names(false)
            .module(&module)
            .and_then(|encoder| encoder.encode())
            .map_err(|error| format!("the module of {package} does not make a component: {error:#}"))?;
        let dependencies = Dependencies::of(&self.root, package, guest.features)?;
        finished(&component, &Metadata::of(&self.root, package)?, dependencies)
    }

    /// The composition `bytes` of `parts`, which says that it is `name`, of the version of the script's package.
    ///
    /// # Errors
    ///
    /// If `bytes` is no component.
    pub fn composition(&self, name: &str, description: &str, bytes: &[u8], parts: &[&Component]) -> Result<Component> {
        let package = Metadata::of(&self.root, &variable("CARGO_PKG_NAME")?)?;
        let parts: Vec<_> = parts.iter().map(|part| &part.dependencies).collect();
        let dependencies = Dependencies::composed(name, &package.version, &parts)?;
        finished(bytes, &Metadata { name: name.into(), description: description.into(), ..package }, dependencies)
    }

    /// The interfaces in the folder `wit`, with the licence of the script's package.
    ///
    /// # Errors
    ///
    /// If they are no package that stands alone.
    pub fn interfaces(&self, description: &str) -> Result<Package> {
        Package::of(&self.root.join("wit"), description, Metadata::of(&self.root, &variable("CARGO_PKG_NAME")?)?)
    }

    /// Leaves `content` as `name` where `include_bytes!` of the package finds it.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.out.join(name);
        fs::write(&path, content).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// Ends a build script: an error becomes cargo's, on the one line that cargo reads.
pub fn report(result: Result<()>) {
    if let Err(error) = result {
        println!("cargo::error={}", error.replace('\n', " "));
    }
}

/// `component` with nothing around its parts but what `metadata` and `dependencies` say.
fn finished(component: &[u8], metadata: &Metadata, dependencies: Dependencies) -> Result<Component> {
    let bare = without_names(component).map_err(|error| format!("{} cannot be read: {error}", metadata.name))?;
    Ok(Component { bytes: metadata.stamped(&bare, &dependencies)?, dependencies })
}

/// Leaves out the custom sections around the modules and components inside: names of the component's inner parts, 6 KB
/// that only a debugger reads.
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

/// Has cargo run the script again when `path` changes.
fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn variable(name: &str) -> Result<String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
