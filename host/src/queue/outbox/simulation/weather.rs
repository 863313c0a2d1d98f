//! What goes wrong, and when.

use std::sync::Arc;

use super::host::{BINDINGS, Process};
use super::network::{FAULTS, Fault, ROBOTS};
use super::world::{World, ms, note, random_time};

const MINUTE_MS: u64 = 60_000;

/// The mean time between two things that go wrong.
const EVERY_MS: u64 = 12 * MINUTE_MS;

/// The most by which the host's clock is wrong.
const WRONG_MS: i64 = 20 * 60_000;

/// Lets things go wrong until the process ends.
pub(super) async fn run(world: Arc<World>, host: Arc<Process>) {
    loop {
        tokio::time::sleep(random_time(EVERY_MS)).await;
        match fastrand::u32(..100) {
            0..40 => break_network(&world),
            40..50 => others(&world),
            50..58 => set_clock(&world),
            58..64 => break_disk(&world),
            64..85 => end(&world),
            85..93 => host.reload(fastrand::usize(..BINDINGS.len())).await,
            _ => tokio::spawn(remove(Arc::clone(&world), Arc::clone(&host))).await.unwrap(),
        }
    }
}

fn break_network(world: &World) {
    let (robot, fault) = (fastrand::usize(..ROBOTS), FAULTS[fastrand::usize(..FAULTS.len())]);
    let time = match fault {
        Fault::Unreachable | Fault::Gateway => fastrand::u64(10_000..20 * MINUTE_MS),
        Fault::Lossy | Fault::Slow => fastrand::u64(30_000..30 * MINUTE_MS),
        Fault::Busy => fastrand::u64(1_000..4 * MINUTE_MS),
        Fault::Page => fastrand::u64(1_000..20_000),
        Fault::Quota => fastrand::u64(1_000..90 * MINUTE_MS),
        Fault::Token => fastrand::u64(MINUTE_MS..150 * MINUTE_MS),
    };
    let mut state = world.state();
    let now = state.now();
    note!(state, "robot {robot} is {fault:?} for {} s", time / 1_000);
    state.network.set(robot, fault, now + time);
}

/// Somebody else uses a robot, perhaps for too much.
fn others(world: &World) {
    let (robot, count) = (fastrand::usize(..ROBOTS), fastrand::u64(1..30));
    let mut state = world.state();
    let now = state.now();
    note!(state, "others have {count} messages for robot {robot}");
    (0..count).for_each(|_| state.network.add_other(now + fastrand::u64(..20_000), robot));
    world.sent.notify_one();
}

fn set_clock(world: &World) {
    let by = fastrand::i64(-8 * 60_000..8 * 60_000);
    let mut state = world.state();
    // A clock that is put forward makes what an earlier process noted older than it is: that no later process can know. So
    // none begins until it does not matter.
    if state.fuse.is_some() || (state.skew() + by).abs() > WRONG_MS {
        return;
    }
    note!(state, "the clock is set by {by} ms");
    state.set_clock(by);
    if by > 0 {
        state.is_fragile_until = (state.now() + 80_000).max(state.books.shut_until());
    }
}

fn break_disk(world: &World) {
    let mut state = world.state();
    let now = state.now();
    if fastrand::bool() {
        let time = fastrand::u64(1_000..10 * MINUTE_MS);
        note!(state, "the disk is full for {} s", time / 1_000);
        state.disk.full_until = now + time;
    } else {
        let time = fastrand::u64(500..40_000);
        note!(state, "the disk is broken for {time} ms");
        state.disk.broken_until = now + time;
    }
}

/// The process ends: at a moment like any other, at one at which something has just happened, or in good order.
fn end(world: &World) {
    let mut state = world.state();
    if state.now() < state.is_fragile_until || state.fuse.is_some() {
        return;
    }
    match fastrand::u32(..6) {
        0 => {
            state.is_to_stop = true;
            world.stop.notify_one();
        }
        1 => {
            drop(state);
            world.kill();
        }
        _ => state.fuse = Some(fastrand::u32(..400)),
    }
}

/// A binding's file is away for a while.
async fn remove(world: Arc<World>, host: Arc<Process>) {
    let index = fastrand::usize(..BINDINGS.len());
    note!(world.state(), "{} is removed", BINDINGS[index]);
    host.remove(index);
    tokio::time::sleep(ms(fastrand::u64(1_000..20 * MINUTE_MS))).await;
    host.reload(index).await;
}
