//! What does not fit is refused, and nothing that was taken is lost: the outbox empties itself and takes messages again.

use std::io::Write;
use std::process::Command;
use std::time::Instant;

use dingtalk_host::simulator::fault::{Fault, Times};
use tempfile::TempDir;

use super::{Bench, assert_refused, create, kill, queued, tail, texts, until_counts};
use crate::support::{Host, PATIENCE, Reply, Robot, SECRET, component};

/// A message of 19,000 bytes that begins with its number.
fn large(number: usize) -> String {
    format!("{number} {}", "x".repeat(19_000))
}

/// The numbers of the messages that the group has seen.
fn numbers(robot: &Robot) -> Vec<usize> {
    texts(robot).iter().map(|text| text.split(' ').next().unwrap().parse().unwrap()).collect()
}

/// Queues messages until one is refused; how many were taken, and what is said of that one.
fn fill(host: &Host, first: usize, mut beside: impl FnMut()) -> (usize, Reply) {
    let (start, mut number) = (Instant::now(), first);
    loop {
        let reply = host.post("team", &create(&large(number), &[]));
        if reply.status != 200 {
            return (number, reply);
        }
        number += 1;
        beside();
        assert!(start.elapsed() < PATIENCE, "{}", tail(&host.log()));
    }
}

#[test]
fn what_is_above_the_limit_is_refused_and_the_rest_is_sent() {
    let (robot, other) = (Robot::start(), Robot::start());
    robot.fail(Fault::Status(503), Times::Always);
    let bench = Bench::new(&robot, &[]);
    let url = other.url();
    let properties = [("id", "other"), ("url", &url), ("secret", SECRET), ("overflow", "queue")];
    bench.resources.write("other.yaml", &component("other", &properties));
    let host = bench.serve(&["--outbox-max-size", "8Mi", "--log-level", "info"]);
    let (count, refused) = fill(&host, 0, || ());
    assert!(count > 10, "{count}");
    assert_refused(&refused, "outbox-unavailable", "binding team has as many messages in the outbox ");
    // One that floods it leaves room for others.
    assert_eq!(host.post("other", &create("of another", &[])).status, 200);
    let files = std::fs::read_dir(bench.outbox()).unwrap();
    let size: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 9 << 20, "{size}");
    robot.recover();
    until_counts(&host, 0, 0);
    queued(&host, &large(count), &[]);
    until_counts(&host, 0, 0);
    assert_eq!(numbers(&robot), (0..=count).collect::<Vec<_>>(), "each once, in order");
    assert_eq!(texts(&other), ["of another"]);
}

/// A volume of its own, which is full of what another program wrote.
#[cfg(target_os = "linux")]
#[test]
fn on_a_full_volume_messages_are_refused_and_those_before_are_sent() {
    struct Volume(TempDir);
    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        }
    }
    let robot = Robot::start();
    let mut bench = Bench::new(&robot, &[]);
    let dir = std::mem::replace(&mut bench.dir, tempfile::tempdir().unwrap());
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(dir.path()).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        println!(
            "SKIPPED: a volume of 16 MiB cannot be mounted without root; the test before this one limits the file"
        );
        return;
    }
    let volume = Volume(dir);
    bench.outbox = Some(volume.0.path().join("outbox"));
    robot.fail(Fault::Status(503), Times::Always);
    let host = bench.serve(&[]);
    for number in 0..5 {
        queued(&host, &large(number), &[]);
    }
    let mut filler = std::fs::File::create(volume.0.path().join("filler")).unwrap();
    let mut others = || while filler.write(&[1; 4_096]).is_ok_and(|written| written > 0) {};
    others();
    let (count, refused) = fill(&host, 5, &mut others);
    assert_refused(&refused, "outbox-unavailable", "cannot be written because no space is left; free some");
    // Also a start needs no space.
    kill(host);
    let host = bench.serve(&[]);
    others();
    robot.recover();
    until_counts(&host, 0, 0);
    queued(&host, &large(count), &[]);
    until_counts(&host, 0, 0);
    assert_eq!(numbers(&robot), (0..=count).collect::<Vec<_>>(), "each once, in order");
}
