//! Hands messages to an application over HTTP, as `dingtalk-host serve --app-port` and daprd do: the `handler` of the
//! gateway. Where the application is comes from the environment.

pub mod application;
#[cfg(target_family = "wasm")]
mod component;
