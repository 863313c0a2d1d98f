//! The promises of the components that others run: compositions of the binding, in a host that is nothing but wasmtime.
//! A binary of its own: `make demo` builds what the host's tests need, and composing is no part of it.

// A test reports by panicking, and so do its helpers; and nothing of a test is reachable from outside.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod interfaces;
mod metadata;
mod output;
#[path = "../support/plain.rs"]
mod plain;
mod sending;
