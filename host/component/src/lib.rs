//! The DingTalk binding as a built component: the bytes that a wasm runtime loads.

/// A WebAssembly component of world `dingtalk:component/binding@0.2.0`, compiled from `src/` and `wit/` at the
/// top of this repository.
pub const COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dingtalk-binding.wasm"));
