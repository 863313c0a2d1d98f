//! What the sandbox costs: calls in a second beside native Rust and Dapr's own binding, with one tenant and with thousands;
//! the phases of one call; the longest turn of one request; and what a loud tenant costs a quiet one.
//!
//! Machines are noisy, so what counts are ratios: those that are compared take turns within one run. Each is a process of
//! its own, and so is the robot (this program started again).
//!
//! `cargo bench -- tenants` measures one part alone: compare, tenants, phases, workers or neighbours. `sidecar` is only
//! measured when it is asked for: it needs Go, and builds a daprd.

#![allow(clippy::indexing_slicing, reason = "its own arrays of a known length")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{env, io};

use dingtalk_binding::settings::Settings;
use dingtalk_host::clock;
use dingtalk_host::egress::{Egress, Proxies};
use dingtalk_host::sandbox::{Limits, Sandbox, Tenant};
use rustix::time::{ClockId, clock_gettime};

mod compare;
mod contender;
mod neighbours;
mod phases;
mod processes;
mod robot;
mod sidecar;
mod tenants;
mod workers;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures and prints.
type Part = fn() -> Result<(), Error>;

const MESSAGE: &[u8] = br#"{"msgtype":"text","text":{"content":"The build is green again"}}"#;
const SECRET: &str = "SECbenchmark0123456789abcdef0123456789";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Error> {
    if let Ok(secret) = env::var(robot::ROLE) {
        return tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(robot::run(secret));
    }
    if let Ok(kind) = env::var(contender::ROLE) {
        return contender::run(&kind);
    }
    if let Ok(robot) = env::var(neighbours::ROLE) {
        return neighbours::run(&robot);
    }
    let parts: [(&str, Part); 6] = [
        ("compare", compare::measure),
        ("tenants", tenants::measure),
        ("phases", phases::measure),
        ("workers", workers::measure),
        ("neighbours", neighbours::measure),
        ("sidecar", sidecar::measure),
    ];
    let chosen: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = chosen.iter().find(|chosen| parts.iter().all(|(name, _)| name != chosen)) {
        return Err(format!("there is no part {unknown:?}").into());
    }
    for (name, measure) in parts {
        if chosen.is_empty() && name != "sidecar" || chosen.iter().any(|chosen| chosen == name) {
            measure()?;
        }
    }
    Ok(())
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn url(robot: SocketAddr) -> String {
    format!("http://{robot}/robot/send?access_token=benchmark-access-token")
}

fn properties(url: &str) -> [(&str, &str); 3] {
    [("id", "bench"), ("url", url), ("secret", SECRET)]
}

fn sandbox(limits: Limits) -> Result<Sandbox, Error> {
    Ok(Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system())?)
}

fn tenant(sandbox: &Sandbox, url: &str) -> Result<Tenant, Error> {
    tenant_with_way_to(sandbox, url, url)
}

/// One whose requests are refused on their way out, where its robot is not at `allowed`.
fn tenant_with_way_to(sandbox: &Sandbox, url: &str, allowed: &str) -> Result<Tenant, Error> {
    let settings = Settings::parse(properties(allowed))?;
    let egress = Egress::new("bench", &settings, &Proxies::none())?;
    let properties = properties(url).map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(sandbox.tenant(properties, egress, settings.timeout))
}

fn read_clock(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What this process has used of the processor, in its own code and in the kernel: what `getrusage` says too.
fn processor_time() -> Duration {
    read_clock(ClockId::ProcessCPUTime)
}

/// The same in every process.
fn monotonic() -> Duration {
    read_clock(ClockId::Monotonic)
}

async fn timed<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<Duration, E> {
    let start = Instant::now();
    call.await?;
    Ok(start.elapsed())
}

fn median<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values[values.len() / 2]
}

/// 12345.6 as 12,346.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let (first, rest) = digits.split_at(digits.len() % 3);
    let rest: Vec<&str> = (0..rest.len() / 3).map(|at| &rest[3 * at..3 * at + 3]).collect();
    [first].into_iter().filter(|first| !first.is_empty()).chain(rest).collect::<Vec<_>>().join(",")
}
