//! simulation

mod application;
mod books;
mod disk;
mod host;
mod network;
mod sparing;
mod weather;
mod world;

use std::time::Duration;

use host::End;
use world::{World, ms};

/// So many hours of a seed: what happened, line by line, or what was broken and what came before it.
fn simulate(seed: u64, hours: u64) -> Result<String, String> {
    let dir = tempfile::TempDir::new().unwrap();
    // The one source of chance, that of the host's back-off too. It is this thread's.
    fastrand::seed(seed);
    let world = World::new(seed, hours);
    let until = hours * 60 * 60 * 1_000;
    while !world.is_broken() {
        let pause = ms(fastrand::u64(50..if fastrand::bool() { 1_000 } else { 240_000 }));
        if host::live(&world, dir.path(), until, pause) == End::Finished {
            break;
        }
    }
    world.result()
}

fn report(result: Result<String, String>) -> String {
    result.unwrap_or_else(|broken| panic!("{broken}"))
}

#[test]
fn try_it() {
    let seed = std::env::var("SIMULATION_SEED").map_or(1, |seed| seed.parse().unwrap());
    let hours = std::env::var("SIMULATION_HOURS").map_or(24, |seed| seed.parse().unwrap());
    let start = std::time::Instant::now();
    let trace = report(simulate(seed, hours));
    eprintln!("{} lines, {} bytes, {:?}", trace.lines().count(), trace.len(), start.elapsed());
    if let Ok(file) = std::env::var("SIMULATION_TRACE") {
        std::fs::write(file, trace).unwrap();
    }
    let _ = Duration::ZERO;
}
