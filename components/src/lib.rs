//! Every component that this repository publishes, as the bytes that a runtime loads. `components/publish` writes them.

mod publish;

pub use publish::{Origin, published};

/// The binding, of world `dingtalk:component/binding@0.2.0`: the component that the host runs.
pub const BINDING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wasm"));

/// The binding for WASI 0.3, of world `dingtalk:component-p3/binding@0.2.0`.
pub const BINDING_P3: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding-p3.wasm"));

/// A handler that takes no message, of world `dingtalk:binding/handler-app@0.2.0`.
pub const NO_HANDLER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-no-handler.wasm"));

/// The binding with that handler, for who only sends: its imports are WASI's alone.
pub const OUTPUT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-output.wasm"));

/// The package `dingtalk:binding` of wit/, for registries.
pub const INTERFACES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wit.wasm"));

/// The same package as one text.
pub const INTERFACES_TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wit"));
