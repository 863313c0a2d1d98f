//! What a tenant that calls without pause costs one that makes a call at a time.
//!
//! The host has one core and the robots' server the other, so that what is measured is how the host shares the one.
//! Times alone and beside the loud tenant alternate within one run: the ratio is what counts.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dingtalk_host::sandbox::{Limits, Sandbox};

use super::contender::{Call, Sandboxed};
use super::processes::this;
use super::robot::Robot;
use super::{Error, MESSAGE, median, runtime, sandbox, tenant, thousands, timed, url};

/// Makes this program the host of these measurements; its value is the robot's address.
pub(crate) const ROLE: &str = "DINGTALK_BENCH_NEIGHBOURS";

/// Calls that the loud tenant makes at once.
const AT_ONCE: usize = 64;
/// Calls of the quiet one in each round.
const CALLS: usize = 200;
const ROUNDS: usize = 5;

/// The load on one core and the host on the other.
pub(crate) fn measure() -> Result<(), Error> {
    let has_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    if !has_cores || Command::new("taskset").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("\nNOT MEASURED: a quiet tenant beside loud ones: it needs two cores and util-linux's taskset");
        return Ok(());
    }
    let robot = Robot::start(Some("1"))?;
    let measured = this(Some("0"))?.env(ROLE, robot.address.to_string()).status()?;
    if measured.success() { Ok(()) } else { Err("the neighbours could not be measured".into()) }
}

pub(crate) fn run(robot: &str) -> Result<(), Error> {
    runtime()?.block_on(beside(robot.parse()?))
}

/// Prints the quiet tenant's times beside each kind of load.
async fn beside(robots: SocketAddr) -> Result<(), Error> {
    let mut large = br#"{"msgtype":"text","text":{"content":""#.to_vec();
    large.resize(1 << 20, b'x');
    large.extend_from_slice(br#""}}"#);
    let sandbox = sandbox(Limits::for_messages_of(large.len()))?;
    println!(
        "\n| a quiet tenant beside | alone | beside | ratio (lowest to highest of {ROUNDS} rounds) | the loud one |"
    );
    println!("|---|---|---|---|---|");
    for (name, message) in [("64 small messages at once", MESSAGE.to_vec()), ("64 messages of 1 MB at once", large)] {
        let quiet = client(&sandbox, robots, MESSAGE.to_vec())?;
        let loud = client(&sandbox, robots, message)?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let alone = quiet_median(&quiet).await?;
            let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let callers: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    let (loud, stop, done) = (Arc::clone(&loud), Arc::clone(&stop), Arc::clone(&done));
                    tokio::spawn(async move {
                        while !stop.load(Ordering::Relaxed) {
                            loud.call().await?;
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok::<_, Error>(())
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (before, start) = (done.load(Ordering::Relaxed), Instant::now());
            let beside = quiet_median(&quiet).await?;
            let rate = (done.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            for caller in callers {
                caller.await??;
            }
            rounds.push((beside.as_secs_f64() / alone.as_secs_f64(), alone, beside, rate));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, alone, beside, rate) = rounds[ROUNDS / 2];
        let (alone, beside) = (alone.as_secs_f64() * 1e6, beside.as_secs_f64() * 1e6);
        let (low, high) = (rounds[0].0, rounds[ROUNDS - 1].0);
        println!(
            "| {name} | {alone:.0} µs | {beside:.0} µs | {ratio:.1} ({low:.1} to {high:.1}) | {}/s |",
            thousands(rate)
        );
    }
    Ok(())
}

fn client(sandbox: &Sandbox, robots: SocketAddr, message: Vec<u8>) -> Result<Arc<Sandboxed>, Error> {
    let tenant = tenant(sandbox, &url(robots))?;
    Ok(Arc::new(Sandboxed::of(sandbox.clone(), tenant, message)))
}

async fn quiet_median(client: &Arc<Sandboxed>) -> Result<Duration, Error> {
    let client = Arc::clone(client);
    // A task of its own, as a request to the host is.
    tokio::spawn(async move {
        let mut times = Vec::new();
        for _ in 0..CALLS {
            times.push(timed(client.call()).await?);
        }
        Ok(median(&mut times))
    })
    .await?
}
