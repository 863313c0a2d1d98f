//! The gateway's edges for WASI 0.2: each request that a runtime gives to `incoming-handler`.
//!
//! Nothing is here but on WebAssembly: only there is it a component.

#![cfg(target_family = "wasm")]

mod component;
