//! `dingtalk-host pluggable` is what a daprd expects of a component on its sockets, for sending and for reading.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::daprd::Daprd;
use crate::support::receiving::{EMPTY, assert_answer, post, signed, text};
use crate::support::{Host, Robot, SECRET, command};

const SOCKET: &str = "dingtalk.webhook.sock";

/// The component's process, and the folder in which daprd finds it.
struct Component {
    host: Host,
    folder: TempDir,
}

impl Component {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(&["pluggable", "--callback-port", "0", "--log-level", "debug"]);
        command.arg("--components-sockets-folder").arg(folder.path()).args(arguments);
        Self { host: Host::pluggable(command), folder }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn daprd(&self) -> Daprd {
        Daprd::connect(&self.socket(SOCKET))
    }
}

#[test]
fn daprd_finds_it_initialises_both_sides_sends_and_reads() {
    let robot = Robot::start();
    let component = Component::start(&["--callback-timeout", "60s"]);
    let daprd = component.daprd();
    let services = daprd.services_alpha();
    for service in ["dapr.proto.components.v1.InputBinding", "dapr.proto.components.v1.OutputBinding"] {
        assert!(services.iter().any(|found| found == service), "{services:?}");
    }
    let url = robot.url();
    daprd.init("team", &[("id", "team"), ("url", &url), ("secret", SECRET), ("direction", "input, output")]).unwrap();
    assert_eq!(daprd.operations("team").unwrap(), ["create", "get", "reply"]);
    let sent = daprd.invoke("team", "create", r#"{"msgtype":"text","text":{"content":"Hi"}}"#).unwrap();
    assert_eq!(sent.metadata.get("errcode").map(String::as_str), Some("0"), "{sent:?}");
    assert_eq!(robot.messages().len(), 1);

    let mut reading = daprd.read("team").unwrap();
    let (address, body) = (component.host.callback_address(), text("m1"));
    let posted = std::thread::spawn(move || post(address, "team", &signed(SECRET), body.as_bytes()));
    let event = reading.next();
    assert_eq!(event.data, text("m1").as_bytes());
    reading.take(&event, "");
    assert_answer(&posted.join().unwrap(), EMPTY);
}
