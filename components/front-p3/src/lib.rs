//! The gateway's edges for WASI 0.3: each request that a runtime gives to `wasi:http/handler`. Requests overlap in one
//! instance.
//!
//! Nothing is here but on WebAssembly: only there is it a component.

#![cfg(target_family = "wasm")]

mod component;
