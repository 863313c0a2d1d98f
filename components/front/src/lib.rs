//! Dapr's HTTP API for bindings and DingTalk's callbacks, for runtimes that give each request to `incoming-handler`: the
//! routes and answers of `dingtalk-host serve`, over one binding whose properties come from the environment.
//!
//! A runtime may start a fresh instance for each request, so nothing is remembered from one to the next.

#[cfg(target_family = "wasm")]
mod component;
pub mod settings;
