//! What tenants cost that do nothing: memory for each, the time until a host that has thousands is ready, and their first
//! message.
//!
//! `make bench-tenants` measures ten thousand in an optimised host; the test that always runs is smaller, and looks at memory
//! alone.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::egress::secured;
use crate::support::{PATIENCE, Resources, SECRET, command, component, listening, send};

/// Component files, one a tenant: robots of DingTalk's own host, none with the token of another.
fn resources(tenants: usize) -> Resources {
    let resources = Resources::new();
    for number in 0..tenants {
        let name = format!("tenant-{number:05}");
        let url = format!("https://oapi.dingtalk.com/robot/send?access_token={number:064x}");
        let secret = format!("SEC{number:064x}");
        let properties = [("id", name.as_str()), ("url", &url), ("secret", &secret)];
        resources.write(&format!("{name}.yaml"), &component(&name, &properties));
    }
    resources
}

/// `serve` with these files: this build's, or the program that the environment names.
fn serve(resources: &Resources) -> Command {
    let arguments = ["serve", "--resources-path", resources.path().to_str().unwrap(), "--dapr-http-port", "0"];
    let built = command(&arguments);
    let Some(program) = std::env::var_os("TENANTS_HOST") else { return built };
    let mut given = Command::new(program);
    given.args(arguments);
    for (name, value) in built.get_envs() {
        match value {
            Some(value) => given.env(name, value),
            None => given.env_remove(name),
        };
    }
    given
}

/// A host that is ready.
struct Ready {
    child: Child,
    after: Duration,
    address: SocketAddr,
}

impl Ready {
    fn start(resources: &Resources, environment: &[(&str, &str)]) -> Self {
        let mut command = serve(resources);
        command.envs(environment.iter().copied());
        let start = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        let mut after = None;
        while after.is_none() {
            let begin = text.len();
            assert!(log.read_line(&mut text).unwrap() > 0, "the host has ended:\n{text}");
            // The last of its ports.
            after = text[begin..].contains("gRPC API is listening").then(|| start.elapsed());
        }
        // What it says later must find a reader.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let address = text.lines().find_map(listening).unwrap();
        Self { child, after: after.unwrap(), address }
    }

    /// Bytes in memory, once they do not become fewer: an allocator gives back late what loading has freed.
    fn resident(&self) -> usize {
        let (start, mut lowest, mut since) = (Instant::now(), usize::MAX, Instant::now());
        while since.elapsed() < Duration::from_secs(3) && start.elapsed() < PATIENCE {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
            let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")).unwrap();
            let kilobytes: usize = kilobytes.trim().parse().unwrap();
            if kilobytes < lowest {
                (lowest, since) = (kilobytes, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        lowest << 10
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort();
    values[values.len() / 2]
}

/// Bytes that each of so many takes: what they add to a host with a few.
fn bytes_each(tenants: usize) -> usize {
    const FEW: usize = 100;
    let resident = |tenants| Ready::start(&resources(tenants), &[]).resident();
    resident(FEW + tenants).saturating_sub(resident(FEW)) / tenants
}

/// Times of a message to each of these, one after the other.
fn messages(host: &Ready, tenants: usize) -> Vec<Duration> {
    let body = br#"{"operation":"create","data":{"message":"Hi"}}"#;
    let time = |number| {
        let start = Instant::now();
        let path = format!("/v1.0/bindings/tenant-{number:05}");
        assert_eq!(send(host.address, "POST", &path, &[], body).status, 200);
        start.elapsed()
    };
    (0..tenants).map(time).collect()
}

/// Prints figures; see docs/performance.md.
#[test]
#[ignore = "a measurement: make bench-tenants"]
fn ten_thousand() {
    const TENANTS: usize = 10_000;
    println!("bytes each: {}", bytes_each(TENANTS));
    let all = resources(TENANTS);
    let starts: Vec<_> = (0..7).map(|_| Ready::start(&all, &[]).after).collect();
    println!("start: {:?}, of {starts:?}", median(starts.clone()));

    let secured = secured("127.0.0.1");
    let few = Resources::new();
    for number in 0..500 {
        let name = format!("tenant-{number:05}");
        let properties = [("id", name.as_str()), ("url", &secured.url()), ("secret", SECRET)];
        few.write(&format!("{name}.yaml"), &component(&name, &properties));
    }
    let host = Ready::start(&few, &[("SSL_CERT_FILE", secured.authority())]);
    let (first, second) = (messages(&host, 500), messages(&host, 500));
    println!("first message: {:?}, second: {:?}", median(first), median(second));
}
