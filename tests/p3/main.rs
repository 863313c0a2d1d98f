//! The components for WASI 0.3 keep the promises of those for WASI 0.2, and that their calls overlap. `make p3` runs
//! these: wasmtime's features for WASI 0.3 are another build of it, which `make test` does not wait for.

// A test reports by panicking, and so do its helpers; and nothing of a test is reachable from outside.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../both/mod.rs"]
mod both;
mod callbacks;
mod gateway;
#[path = "../gateways/mod.rs"]
mod gateways;
mod overlap;
mod rules;
mod runtime;
mod same;
#[allow(dead_code, reason = "the host's tests need the rest")]
#[path = "../support/mod.rs"]
mod support;
mod way_out;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dingtalk_bench::{COMPONENT_P3, p3, wit};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Compiled once; every test has instances of its own.
static PREPARED: LazyLock<p3::Prepared> = LazyLock::new(|| p3::Prepared::new(COMPONENT_P3).unwrap());

fn create(data: &str) -> wit::InvokeRequest {
    wit::InvokeRequest { operation: "create".into(), data: data.into(), metadata: Vec::new() }
}

/// What comes of `work`: one that never ends must fail its test.
async fn ending<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("no end")
}

/// A handler from a function.
fn handler<F>(handle: impl Fn(wit::Event) -> F + Send + Sync + 'static) -> dingtalk_bench::Handle
where
    F: Future<Output = Result<Option<Vec<u8>>, wit::HandlerError>> + Send + 'static,
{
    Arc::new(move |event| Box::pin(handle(event)))
}
