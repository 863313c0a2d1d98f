//! With `serve --outbox`, what is queued is on disk when it is answered, and reaches its robot once, in order and within its
//! limits: also when the host is killed, the robot is away or set up wrong, and the disk is full.

mod accepted;
mod counts;
#[cfg(target_os = "linux")]
mod hosts;
mod kills;
mod operator;
mod order;
mod quota;
mod refused;
mod secrets;
mod space;
mod together;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use dingtalk_binding::secret::Secret;
use dingtalk_host::simulator::robot::RobotConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Host, PATIENCE, Reply, Resources, Robot, SECRET, command, component, run, send, stderr, stdout};

/// A folder with the binding `team` of a robot, and a directory for the outbox that is not there yet.
pub struct Bench {
    pub resources: Resources,
    dir: TempDir,
    /// Elsewhere than in `dir`.
    outbox: Option<PathBuf>,
}

impl Bench {
    /// Whatever is created goes through the outbox.
    pub fn new(robot: &Robot, more: &[(&str, &str)]) -> Self {
        Self::of(&team(&robot.url(), &[&[("overflow", "queue")], more].concat()))
    }

    /// With this component file.
    pub fn of(team: &str) -> Self {
        let resources = Resources::new().with("team.yaml", team);
        Self { resources, dir: tempfile::tempdir().unwrap(), outbox: None }
    }

    pub fn outbox(&self) -> PathBuf {
        self.outbox.clone().unwrap_or_else(|| self.dir.path().join("outbox"))
    }

    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = command(&["serve", "--resources-path", self.resources.path().to_str().unwrap(), "--outbox"]);
        command.arg(self.outbox());
        for [flag, value] in [["--dapr-http-port", "0"], ["--log-level", "debug"]] {
            if !more.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command.args(more);
        command
    }

    pub fn serve(&self, more: &[&str]) -> Host {
        Host::spawn(self.command(more))
    }

    /// `dingtalk-host outbox` with this directory: exit status, standard output, standard error.
    pub fn operate(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let outbox = self.outbox();
        let output = run(&[&["outbox", arguments[0], "--outbox", outbox.to_str().unwrap()], &arguments[1..]].concat());
        (output.status.code(), stdout(&output), stderr(&output))
    }

    /// What `outbox list --output json` shows.
    #[track_caller]
    pub fn listed(&self, more: &[&str]) -> Vec<Value> {
        let (status, text, error) = self.operate(&[&["list", "--output", "json"], more].concat());
        assert_eq!((status, error.as_str()), (Some(0), ""));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The component file of the binding `team`.
pub fn team(url: &str, more: &[(&str, &str)]) -> String {
    component("team", &[&[("id", "team"), ("url", url), ("secret", SECRET)], more].concat())
}

/// A robot that takes so many messages in so long a time, and none for ten minutes after one more.
pub fn strict(messages: u32, window: Duration) -> Robot {
    let secret = Some(Secret::new(SECRET));
    Robot::with(RobotConfig { secret, rate_limit: messages, rate_window: window, ..Robot::config() })
}

/// A request that creates a text message.
pub fn create(text: &str, metadata: &[(&str, &str)]) -> String {
    let metadata: serde_json::Map<_, _> = metadata.iter().map(|&(name, value)| (name.into(), value.into())).collect();
    json!({"operation": "create", "data": {"message": text}, "metadata": metadata}).to_string()
}

/// Has a message queued; its number.
#[track_caller]
pub fn queued(host: &Host, text: &str, metadata: &[(&str, &str)]) -> u64 {
    let reply = host.post("team", &create(text, metadata));
    assert_eq!((reply.status, reply.metadata("delivery")), (200, Some("queued")), "{reply:?}\n{}", tail(&host.log()));
    reply.metadata("id").unwrap().parse().unwrap()
}

#[track_caller]
pub fn assert_refused(reply: &Reply, error: &str, says: &str) {
    assert_eq!(
        (reply.status, reply.metadata("error"), reply.metadata("outcome")),
        (500, Some(error), Some("not-sent")),
        "{reply:?}"
    );
    assert!(reply.body.contains(says), "{reply:?}");
}

/// What the group has seen.
pub fn texts(robot: &Robot) -> Vec<String> {
    let text = |message: &str| {
        let message: Value = serde_json::from_str(message).unwrap();
        message["text"]["content"].as_str().unwrap().to_owned()
    };
    robot.messages().iter().map(|message| text(message.message.get())).collect()
}

/// How many messages wait and how many are dead, as the metadata say.
pub fn counts(host: &Host) -> (u64, u64) {
    let metadata = send(host.address(), "GET", "/v1.0/metadata", &[], b"").json();
    let count = |name: &str| metadata["extended"][name].as_str().unwrap().parse().unwrap();
    (count("outboxPending"), count("outboxDead"))
}

#[track_caller]
pub fn until_counts(host: &Host, pending: u64, dead: u64) {
    until(host, &format!("{pending} pending and {dead} dead"), || counts(host) == (pending, dead));
}

/// Waits for `condition`.
#[track_caller]
pub fn until(host: &Host, what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}\n{}", tail(&host.log()));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The end of a log that may be long.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Kills the process as nothing can prevent: SIGKILL, and nothing of it is left when this returns.
pub fn kill(host: Host) {
    drop(host);
}
