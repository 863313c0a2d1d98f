//! Every component that this repository publishes, as the bytes that a runtime loads. `components/publish` writes them.

/// The binding, of world `dingtalk:component/binding@0.2.0`: the component that the host runs.
pub const BINDING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wasm"));

/// The binding for WASI 0.3, of world `dingtalk:component-p3/binding@0.2.0`.
pub const BINDING_P3: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding-p3.wasm"));

/// A handler that takes no message, of world `dingtalk:binding/handler-app@0.2.0`.
pub const NO_HANDLER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-no-handler.wasm"));

/// The binding with that handler, for who only sends: its imports are WASI's alone.
pub const OUTPUT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-output.wasm"));

/// All of them, with the names of their files.
pub const ALL: [(&str, &[u8]); 4] = [
    ("dingtalk-binding.wasm", BINDING),
    ("dingtalk-binding-p3.wasm", BINDING_P3),
    ("dingtalk-no-handler.wasm", NO_HANDLER),
    ("dingtalk-output.wasm", OUTPUT),
];
