//! The promises of the components that others run: compositions of the binding, in a host that is nothing but wasmtime.
//! A binary of its own: `make demo` builds what the host's tests need, and composing is no part of it.

// A test reports by panicking, and so do its helpers; and nothing of a test is reachable from outside.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../both/mod.rs"]
mod both;
mod gateway;
#[path = "../gateways/mod.rs"]
mod gateways;
mod interfaces;
mod metadata;
mod output;
mod remember;
mod runtime;
mod sending;
#[allow(dead_code, reason = "the host's tests need the rest")]
#[path = "../support/mod.rs"]
mod support;
