//! Dapr's HTTP API for bindings and DingTalk's callbacks, for runtimes that give each request to a component: the routes
//! and answers of `dingtalk-host serve`, over one binding whose properties come from the environment.
//!
//! Pure functions, so that each version of WASI has a front of its own that is nothing but edges. A runtime may start a
//! fresh instance for each request, so nothing is remembered from one to the next.

#![allow(clippy::result_large_err, reason = "an answer is made once for a request, and moved to its end")]

pub mod service;
pub mod settings;
pub mod wire;
