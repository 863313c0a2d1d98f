//! Hands messages to an application over HTTP, as `dingtalk-host serve --app-port` and daprd do: the `handler` of the
//! gateway. Where the application is comes from the environment; what is sent and what an answer means is
//! `dingtalk_api::delivery`'s business.
//!
//! Nothing is here but on WebAssembly: only there is it a component.

#![cfg(target_family = "wasm")]

mod component;
