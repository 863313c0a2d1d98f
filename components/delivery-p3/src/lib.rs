//! Hands messages to an application over HTTP, as `dingtalk-delivery` does for WASI 0.2: the `handler` of the gateway for
//! WASI 0.3. Messages overlap in one instance.
//!
//! Nothing is here but on WebAssembly: only there is it a component.

#![cfg(target_family = "wasm")]

mod component;
