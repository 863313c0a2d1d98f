//! A file to a component that can handle messages: every reason why it cannot is found before a port is open.

use std::path::Path;
use std::time::Instant;

use dingtalk_binding::secret::redact;
use wasmtime::component::Component;

use super::contract::{HANDLER, HandlerAppPre};
use super::store::{self, State};
use crate::files;

/// The largest file. A Python application has 18 MiB, with large libraries some 100.
const MAX_FILE: u64 = 256 << 20;

/// Names of exports that an error shows.
const MAX_NAMES: usize = 8;

/// Why a file is no application.
#[derive(Debug, thiserror::Error)]
#[error("--handler {file}: {reason}")]
pub struct LoadError {
    pub(super) file: String,
    pub(super) reason: Reason,
}

/// What is wrong with it, and what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error("{0}; it must be a component of world dingtalk:binding/handler-app")]
    Unreadable(String),
    #[error("is no WebAssembly; name a component of world dingtalk:binding/handler-app")]
    NotWasm,
    #[error("is a core module and no component; make one of it with the component tools of its language")]
    Module,
    #[error("cannot be compiled: {0}; build it again, for WASI 0.2 and without async")]
    Compile(String),
    #[error(
        "does not export {HANDLER}, but {0}; build it for the world dingtalk:binding/handler-app of the folder wit/"
    )]
    World(String),
    #[error("does not fit: {0}; an application may import WASI 0.2 and nothing else, and exports {HANDLER}")]
    Link(String),
    #[error("does not start: {0}")]
    Start(String),
    #[error("--handler-allowed-hosts: {0}")]
    Hosts(String),
    #[error("{0} must be longer than 0")]
    NoTime(&'static str),
    #[error("the host cannot prepare an engine: {0}")]
    Engine(String),
}

/// Reads and compiles `file`, or takes it out of the cache of compiled code. Takes long: not for a runtime's thread.
pub(super) fn compile(file: &Path) -> Result<HandlerAppPre<State>, Reason> {
    let (bytes, _) = files::read_up_to(MAX_FILE, file).map_err(Reason::Unreadable)?;
    // To whoever waits: the first time takes long, docs/receiving.md says how long.
    tracing::info!(handler = %file.display(), bytes = bytes.len(), "compiling the handler, unless it is in the cache");
    let start = Instant::now();
    let prepared = prepare(&bytes)?;
    let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(handler = %file.display(), milliseconds, "the handler is compiled");
    Ok(prepared)
}

/// Compiles a component and looks whether it fits.
pub(super) fn prepare(bytes: &[u8]) -> Result<HandlerAppPre<State>, Reason> {
    match (bytes.get(..4), bytes.get(4..8)) {
        (Some(b"\0asm"), Some(&[1, 0, 0, 0])) => return Err(Reason::Module),
        (Some(b"\0asm"), _) => {}
        _ => return Err(Reason::NotWasm),
    }
    let engine = store::engine().map_err(|error| Reason::Engine(shown(&error)))?;
    let component = Component::from_binary(&engine, bytes).map_err(|error| Reason::Compile(shown(&error)))?;
    let exports: Vec<String> =
        component.component_type().exports(&engine).map(|(name, _)| redact(name, [])).take(MAX_NAMES).collect();
    if !component.component_type().exports(&engine).any(|(name, _)| name == HANDLER) {
        let none = "nothing".to_owned();
        return Err(Reason::World(if exports.is_empty() { none } else { exports.join(", ") }));
    }
    let linker = store::linker(&engine).map_err(|error| Reason::Engine(shown(&error)))?;
    let fits = linker.instantiate_pre(&component).and_then(HandlerAppPre::new);
    fits.map_err(|error| Reason::Link(shown(&error)))
}

/// The texts of a file's author may be in it.
fn shown(error: &wasmtime::Error) -> String {
    redact(&format!("{error:#}"), [])
}
