//! `dingtalk-host pluggable` is what a daprd expects of a component on its sockets, for sending and for reading.

mod daprd;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;
use std::time::Duration;

use dingtalk_host::simulator::fault::{Fault, Times};
use tempfile::TempDir;
use tonic::Code;

use crate::support::receiving::{EMPTY, PONG, assert_answer, assert_later, post, signed, text, until};
use crate::support::{Host, Reply, Robot, SECRET, command, finish, forget_peak, peak, send, stderr};
use daprd::{Daprd, Reading, UNNAMED};

const SOCKETS: [&str; 2] = ["dingtalk.webhook.sock", "alicloud.dingtalk.webhook.sock"];

/// A robot that nobody asks.
const NOWHERE: &str = "http://127.0.0.1:9/robot/send?access_token=n0wh3r3t0k3n";

/// The folder in which daprd looks.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("sockets")
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Callbacks have longer than anything takes here, unless `arguments` say otherwise.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&["pluggable", "--callback-port", "0", "--log-level", "debug"]);
        command.arg("--components-sockets-folder").arg(self.path());
        if !arguments.contains(&"--callback-timeout") {
            command.args(["--callback-timeout", "60s"]);
        }
        command.args(arguments);
        command
    }

    fn start(&self, arguments: &[&str]) -> Host {
        Host::pluggable(self.command(arguments))
    }

    /// A start that must fail.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        refused(&finish(self.command(arguments), b""))
    }

    fn daprd(&self) -> Daprd {
        Daprd::connect(&self.socket(SOCKETS[0]))
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", stderr(output));
    stderr(output)
}

/// A component of `team`, which daprd has initialised.
fn team(arguments: &[&str]) -> (Folder, Host, Daprd) {
    let folder = Folder::new();
    let host = folder.start(arguments);
    let daprd = folder.daprd();
    daprd.init("team", &[("id", "team"), ("url", NOWHERE), ("secret", SECRET)]).unwrap();
    (folder, host, daprd)
}

/// DingTalk sends something, and waits for the answer.
fn sends(host: &Host, msg_id: &str) -> JoinHandle<Reply> {
    let (address, body) = (host.callback_address(), text(msg_id));
    std::thread::spawn(move || post(address, "team", &signed(SECRET), body.as_bytes()))
}

#[test]
fn daprd_finds_it_initialises_both_sides_sends_and_reads() {
    let (robot, folder) = (Robot::start(), Folder::new());
    let host = folder.start(&[]);
    for name in SOCKETS {
        let daprd = Daprd::connect(&folder.socket(name));
        let mut services = daprd.services_alpha();
        services.retain(|service| !service.starts_with("grpc.reflection."));
        services.sort();
        assert_eq!(services, ["dapr.proto.components.v1.InputBinding", "dapr.proto.components.v1.OutputBinding"]);
        assert!(daprd.file_of("dapr.proto.components.v1.InputBinding").unwrap() >= 1);
        daprd.ping();
    }
    let daprd = folder.daprd();
    let url = robot.url();
    let properties =
        [("id", "team"), ("url", &url), ("secret", SECRET), ("direction", "input, output"), ("route", "/x")];
    daprd.init("team", &properties).unwrap();
    assert_eq!(daprd.operations("team").unwrap(), ["create", "get", "reply"]);
    let sent = daprd.invoke("team", "create", r#"{"msgtype":"text","text":{"content":"Hi"}}"#).unwrap();
    let metadata = |name: &str| sent.metadata.get(name).map(String::as_str);
    assert_eq!((metadata("errcode"), metadata("statusCode"), &sent.data[..]), (Some("0"), Some("200"), &b""[..]));
    assert_eq!(robot.messages().len(), 1);

    // Dapr's own test of its pluggable input bindings.
    let mut reading = daprd.read("team").unwrap();
    let asking = std::thread::spawn(move || (daprd.invoke("team", "get", "hello world"), daprd));
    let event = reading.next();
    assert_eq!(event.data, b"hello world");
    reading.take(&event, "world hello");
    let (answer, _daprd) = asking.join().unwrap();
    let answer = answer.unwrap();
    assert_eq!((&answer.data[..], answer.content_type.as_str()), (&b"world hello"[..], "application/json"));

    let posted = sends(&host, "m1");
    let event = reading.next();
    assert_eq!((event.data.as_slice(), event.content_type.as_str()), (text("m1").as_bytes(), "application/json"));
    assert_eq!(event.metadata.get("msgid").map(String::as_str), Some("m1"), "{:?}", event.metadata);
    reading.take(&event, PONG);
    assert_answer(&posted.join().unwrap(), PONG);
    assert_eq!(send(host.callback_address(), "GET", "/v1.0/healthz", &[], b"").status, 204);
    assert!(!host.log().contains("n0wh3r3") && !host.log().contains(SECRET) && !host.log().contains("c4n4ry"));
}

#[test]
fn an_instance_has_the_name_of_its_component_file_or_none() {
    let (robots, folder) = ([Robot::start(), Robot::start(), Robot::start()], Folder::new());
    let _host = folder.start(&[]);
    let daprd = folder.daprd();
    for (name, robot) in ["one", "other", UNNAMED].iter().zip(&robots) {
        daprd.init(name, &[("id", "same"), ("url", &robot.url()), ("secret", SECRET)]).unwrap();
    }
    for (index, name) in ["one", "other", UNNAMED].iter().enumerate() {
        daprd.invoke(name, "create", "Hi").unwrap();
        assert_eq!(
            robots.each_ref().map(|robot| robot.messages().len()),
            [1, usize::from(index > 0), usize::from(index > 1)]
        );
    }
    // An empty name is none, and whoever gives none means the one called so.
    daprd.invoke("", "create", "Hi").unwrap();
    daprd.invoke("default", "create", "Hi").unwrap();
    assert_eq!(robots[2].messages().len(), 3);
    // Either socket leads to all of them: a name is daprd's, not a type's.
    Daprd::connect(&folder.socket(SOCKETS[1])).invoke("one", "create", "Hi").unwrap();
    assert_eq!(robots[0].messages().len(), 2);
}

#[test]
fn what_has_not_been_initialised_says_what_to_do() {
    let folder = Folder::new();
    let _host = folder.start(&[]);
    let daprd = folder.daprd();
    let expected =
        "component instance \"team\" is not initialised: this process has started after daprd did; restart daprd";
    for status in [
        daprd.invoke("team", "create", "Hi").unwrap_err(),
        daprd.operations("team").unwrap_err(),
        daprd.read("team").err().unwrap(),
    ] {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, expected));
    }
    let status = daprd.invoke("a/b", "create", "Hi").unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("the name of the component instance may not contain"), "{status:?}");
}

/// daprd's policies say what is tried again, and are not seen here.
#[test]
fn a_message_is_tried_once_unless_its_component_file_says_more() {
    let (robot, folder) = (Robot::start(), Folder::new());
    let _host = folder.start(&[]);
    let (daprd, url) = (folder.daprd(), robot.url());
    robot.fail(Fault::Rejected { errcode: -1, errmsg: "system busy".into() }, Times::Always);
    let properties = [("id", "team"), ("url", url.as_str()), ("secret", SECRET)];
    daprd.init("team", &properties).unwrap();
    let status = daprd.invoke("team", "create", "Hi").unwrap_err();
    assert_eq!((status.code(), robot.stats().requests), (Code::Unknown, 1), "{status:?}");
    daprd.init("team", &[&properties[..], &[("retries", "1")]].concat()).unwrap();
    let status = daprd.invoke("team", "create", "Hi").unwrap_err();
    assert_eq!((status.code(), robot.stats().requests), (Code::Unknown, 3), "{status:?}");
    assert!(status.message().contains("attempts=2"), "{status:?}");
}

#[test]
fn daprd_is_told_on_its_one_stream_of_a_message_that_was_given_up() {
    let (robot, folder, outbox) = (Robot::start(), Folder::new(), tempfile::tempdir().unwrap());
    let _host = folder.start(&["--outbox", outbox.path().to_str().unwrap()]);
    let (daprd, url) = (folder.daprd(), robot.url());
    let properties =
        [("id", "team"), ("url", url.as_str()), ("secret", SECRET), ("overflow", "queue"), ("deadLetterRoute", "any")];
    daprd.init("team", &properties).unwrap();
    let mut reading = daprd.read("team").unwrap();
    robot.fail(Fault::Rejected { errcode: 400_105, errmsg: String::new() }, Times::ONCE);
    let queued = daprd.invoke("team", "create", "Hi").unwrap();
    assert_eq!(queued.metadata.get("delivery").map(String::as_str), Some("queued"));
    let event = reading.next();
    let metadata = |name: &str| event.metadata.get(name).map(String::as_str);
    assert_eq!(
        (metadata("operation"), metadata("msguuid")),
        (Some("dead-letter"), queued.metadata.get("msgUuid").map(String::as_str))
    );
    let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
    assert_eq!(data["message"]["text"]["content"], "Hi");
    reading.take(&event, "");
}

/// DingTalk may give up on what is answered 404.
#[test]
fn a_callback_before_daprd_has_initialised_its_component_is_to_be_sent_again() {
    let folder = Folder::new();
    let host = folder.start(&[]);
    assert_later(&sends(&host, "m1").join().unwrap());
    host.wait_for_log("daprd has not initialised this component");
    let daprd = folder.daprd();
    daprd.init("team", &[("id", "team"), ("url", NOWHERE), ("secret", SECRET), ("direction", "output")]).unwrap();
    assert_eq!(sends(&host, "m1").join().unwrap().status, 404);
}

#[test]
fn another_init_replaces_the_binding_and_one_that_fails_does_not() {
    let (old, new, folder) = (Robot::start(), Robot::start(), Folder::new());
    let host = folder.start(&[]);
    let daprd = folder.daprd();
    daprd.init("team", &[("id", "team"), ("url", &old.url()), ("secret", SECRET)]).unwrap();
    let mut reading = daprd.read("team").unwrap();
    daprd.invoke("team", "create", "Hi 1").unwrap();
    let wrong: [&[(&str, &str)]; 3] = [
        &[("id", "team"), ("url", NOWHERE), ("secret", "SECn0t\nt0-be-s33n")],
        &[],
        &[("id", "team"), ("url", "https://169.254.169.254/robot/send?access_token=t0k3ns33n")],
    ];
    for wrong in wrong {
        for status in [daprd.init_input("team", wrong).unwrap_err(), daprd.init_output("team", wrong).unwrap_err()] {
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(!status.message().contains("s33n"), "{status:?}");
        }
    }
    assert!(!host.log().contains("s33n"));
    daprd.invoke("team", "create", "Hi 2").unwrap();
    assert_eq!(old.messages().len(), 2, "the one before stays");

    // A call that is under way ends where it began.
    old.fail(Fault::Delay(Duration::from_secs(1)), Times::Always);
    let (other, asked) = (folder.daprd(), old.stats().requests);
    let sending = std::thread::spawn(move || other.invoke("team", "create", "Hi 3"));
    until("the call", || old.stats().requests > asked);
    daprd.init("team", &[("id", "team"), ("url", &new.url()), ("secret", SECRET)]).unwrap();
    daprd.invoke("team", "create", "Hi 4").unwrap();
    sending.join().unwrap().unwrap();
    assert_eq!((old.messages().len(), new.messages().len()), (3, 1));
    // And the stream is still the one to read from.
    let posted = sends(&host, "m1");
    let event = reading.next();
    reading.take(&event, "");
    assert_answer(&posted.join().unwrap(), EMPTY);
}

#[test]
fn a_failed_operation_says_in_its_text_what_a_program_needs() {
    let (robot, folder) = (Robot::start(), Folder::new());
    let _host = folder.start(&[]);
    let daprd = folder.daprd();
    daprd.init("team", &[("id", "team"), ("url", &robot.url()), ("secret", SECRET)]).unwrap();
    daprd.init("wrong", &[("id", "w"), ("url", &robot.url()), ("secret", "SECwrong")]).unwrap();
    daprd.init("away", &[("id", "a"), ("url", NOWHERE)]).unwrap();
    for (name, operation, data, code, begins, ends) in [
        (
            "team",
            "",
            "",
            Code::InvalidArgument,
            "operation field is missing from request",
            "(error=missing-operation, outcome=not-sent)",
        ),
        (
            "team",
            "delete",
            "",
            Code::InvalidArgument,
            "binding team does not support operation delete. supported operations:create get reply",
            "(error=unsupported-operation, outcome=not-sent)",
        ),
        (
            "team",
            "create",
            "[1]",
            Code::InvalidArgument,
            "dingtalk webhook error: invalid message",
            "(error=invalid-message, outcome=not-sent)",
        ),
        (
            "team",
            "get",
            "{}",
            Code::FailedPrecondition,
            "dingtalk webhook error: ",
            "(error=not-reading, outcome=not-sent)",
        ),
        (
            "away",
            "create",
            "Hi",
            Code::Unavailable,
            "dingtalk webhook error: ",
            "(error=unreachable, outcome=not-sent)",
        ),
        (
            "wrong",
            "create",
            "Hi",
            Code::Unknown,
            "dingtalk webhook error: send msg failed. ",
            "errcode=310000, class=configuration, check=signature)",
        ),
    ] {
        let status = daprd.invoke(name, operation, data).unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(begins) && status.message().ends_with(ends), "{status:?}");
        assert!(!status.message().contains("t0k3n"), "{status:?}");
    }
    // Nobody knows whether it was posted: no client may take it for one to repeat.
    robot.fail(Fault::Reset, Times::Always);
    let status = daprd.invoke("team", "create", "Hi").unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    assert!(status.message().contains("outcome=unknown") && status.message().contains("msgUuid"), "{status:?}");
    robot.recover();
    daprd.init("input", &[("id", "i"), ("url", &robot.url()), ("direction", "input")]).unwrap();
    let status = daprd.invoke("input", "create", "Hi").unwrap_err();
    assert!(status.message().starts_with("couldn't find output binding input"), "{status:?}");
}

#[test]
fn acknowledgements_may_come_in_any_order_and_may_be_errors() {
    let (_folder, host, daprd) = team(&[]);
    let mut reading = daprd.read("team").unwrap();
    let posted: Vec<_> = ["m1", "m2", "m3", "m4"].map(|id| (id, sends(&host, id))).into();
    let mut events: Vec<_> = posted.iter().map(|_| reading.next()).collect();
    events.sort_by_key(|event| std::cmp::Reverse(event.metadata["msgid"].clone()));
    for (event, act) in events.iter().zip(["no", "http", "pong", ""]) {
        match act {
            "no" => reading.refuse(event, "error invoking app: it is tired"),
            "http" => {
                reading.refuse(event, "fails to send binding event to http app channel, status code: 422 body: never")
            }
            answer => reading.take(event, if answer.is_empty() { "" } else { PONG }),
        }
    }
    let replies: Vec<_> = posted.into_iter().map(|(id, posted)| (id, posted.join().unwrap())).collect();
    assert_answer(&replies[0].1, EMPTY);
    assert_answer(&replies[1].1, PONG);
    assert_later(&replies[2].1);
    assert_later(&replies[3].1);
    host.wait_for_log("the application has not taken the message: error invoking app: it is tired");
    host.wait_for_log("status code: 422 body: never");
}

#[test]
fn a_stream_that_breaks_loses_nothing_and_the_next_one_has_the_message() {
    let (folder, host, daprd) = team(&["--app-timeout", "60s"]);
    assert_later(&sends(&host, "m0").join().unwrap());
    host.wait_for_log("daprd has no Read stream open for it");
    let mut reading = daprd.read("team").unwrap();
    let posted = sends(&host, "m1");
    reading.next();
    drop(reading);
    assert_later(&posted.join().unwrap());
    host.wait_for_log("daprd has ended the stream before it acknowledged the message");
    // The application was restarted: daprd reads again, without a new Init.
    let mut reading = daprd.read("team").unwrap();
    let posted = sends(&host, "m1");
    let event = reading.next();
    reading.take(&event, "");
    assert_answer(&posted.join().unwrap(), EMPTY);

    // daprd itself was: for a time there are two.
    let other = folder.daprd();
    other.init("team", &[("id", "team"), ("url", NOWHERE), ("secret", SECRET)]).unwrap();
    let before = sends(&host, "m2");
    let to_old = reading.next();
    let mut newest = other.read("team").unwrap();
    let posted = sends(&host, "m3");
    let to_new = newest.next();
    newest.take(&to_new, "");
    reading.take(&to_old, "");
    assert_answer(&before.join().unwrap(), EMPTY);
    assert_answer(&posted.join().unwrap(), EMPTY);
    // Who says that no more comes is not waited for either.
    newest.close();
    assert!(newest.try_next().unwrap().is_none());
    let posted = sends(&host, "m4");
    let to_old = reading.next();
    reading.take(&to_old, "");
    assert_answer(&posted.join().unwrap(), EMPTY);
}

#[test]
fn a_daprd_that_does_not_acknowledge_has_as_long_as_the_flag_says() {
    let (_folder, host, daprd) = team(&["--app-timeout", "200ms"]);
    let mut reading = daprd.read("team").unwrap();
    let posted = sends(&host, "m1");
    let event = reading.next();
    assert_later(&posted.join().unwrap());
    host.wait_for_log("daprd has not acknowledged the message within 200ms");
    reading.take(&event, "");
    host.wait_for_log("daprd has acknowledged what was not waited for");
    for _ in 0..20_000 {
        reading.send("4711", Vec::new(), None);
    }
    // On a busy machine they take longer than the flag says.
    until("an acknowledgement in time", || {
        let posted = sends(&host, "m2");
        let event = reading.next();
        reading.take(&event, "");
        posted.join().unwrap().status == 200
    });
    assert!(host.log().matches("was not waited for").count() < 10);
}

#[test]
fn an_answer_that_is_too_long_is_told_and_the_stream_goes_on() {
    let (_folder, host, daprd) = team(&[]);
    let mut reading = daprd.read("team").unwrap();
    for length in [(1 << 20) + 1, 3 << 20, 20 << 20] {
        let posted = sends(&host, &format!("m{length}"));
        let event = reading.next();
        reading.send(&event.message_id, vec![b'x'; length], None);
        assert_later(&posted.join().unwrap());
    }
    host.wait_for_log("the application's answer is longer than 1 MiB");
    let posted = sends(&host, "m");
    let event = reading.next();
    reading.take(&event, "");
    assert_answer(&posted.join().unwrap(), EMPTY);
}

#[test]
fn messages_and_properties_have_limits() {
    let (robot, folder) = (Robot::start(), Folder::new());
    let _host = folder.start(&["--max-body-size", "1Mi"]);
    let daprd = folder.daprd();
    let url = robot.url();
    let long = "x".repeat(64 << 10);
    let refused = |properties: &[(&str, &str)]| daprd.init("team", properties).unwrap_err();
    let status = refused(&[("id", "team"), ("url", &url), ("secret", &long)]);
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "the properties have more than 64 KiB together")
    );
    let status = refused(&[("id", "team"), ("url", &url), ("secret", &"x".repeat(1 << 20))]);
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "the message is longer than 131072 bytes"));
    daprd.init("team", &[("id", "team"), ("url", &url), ("secret", SECRET)]).unwrap();
    let status = daprd.invoke("team", "create", "x".repeat(2 << 20)).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().ends_with("see --max-body-size"), "{status:?}");
    let items: Vec<(String, String)> = (0..1_001).map(|number| (number.to_string(), String::new())).collect();
    let mut items: Vec<_> = items.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let status = daprd.invoke_with("team", "create", "Hi", &items).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "metadata has more than 1000 items"));
    items.pop();
    daprd.invoke_with("team", "create", "Hi", &items).unwrap();
    assert_eq!(daprd.unknown(), "12", "UNIMPLEMENTED");
}

#[test]
fn items_are_refused_before_each_takes_a_hundred_bytes() {
    let folder = Folder::new();
    let host = folder.start(&["--max-body-size", "16Mi"]);
    let daprd = folder.daprd();
    daprd.init("team", &[("id", "team"), ("url", NOWHERE)]).unwrap();
    let many: Vec<(String, String)> = (0..1_200_000).map(|number| (format!("{number:x}"), String::new())).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    forget_peak(host.pid());
    let before = peak(host.pid());
    let status = daprd.invoke_with("team", "create", "Hi", &many).unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "metadata has more than 1000 items"));
    let grown = peak(host.pid()).saturating_sub(before);
    assert!(grown < 64, "{grown} MiB for a message of 13 MiB");
}

#[test]
fn sockets_are_for_the_group_and_the_folder_made_here_for_its_owner() {
    let folder = Folder::new();
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    let host = folder.start(&[]);
    assert_eq!(folder.files(), ["alicloud.dingtalk.webhook.sock", "dingtalk.webhook.sock"]);
    assert_eq!(mode(&folder.path()), 0o700);
    for name in SOCKETS {
        let path = folder.socket(name);
        assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(mode(&path), 0o660);
    }
    host.end();
    assert!(folder.files().is_empty());
    let _host = folder.start(&["--components-socket-mode", "600"]);
    assert_eq!(mode(&folder.socket(SOCKETS[1])), 0o600);
}

#[test]
fn the_environment_names_the_folder_as_daprd_and_its_sdks_read_it() {
    for name in ["DAPR_COMPONENTS_SOCKETS_FOLDER", "DAPR_COMPONENT_SOCKETS_FOLDER", "DAPR_COMPONENT_SOCKET_FOLDER"] {
        let folder = Folder::new();
        let mut command = command(&["pluggable"]);
        command.env(name, folder.path());
        let host = Host::pluggable(command);
        assert_eq!(folder.files().len(), 2, "{name}");
        assert!(host.log().contains("no --callback-port"), "{}", host.log());
    }
    let mut command = command(&["pluggable"]);
    command.env("DAPR_COMPONENTS_SOCKETS_FOLDER", "/a").env("DAPR_COMPONENT_SOCKET_FOLDER", "/b");
    let said = refused(&finish(command, b""));
    assert!(
        said.contains("DAPR_COMPONENTS_SOCKETS_FOLDER names /a, and DAPR_COMPONENT_SOCKET_FOLDER names /b"),
        "{said}"
    );
}

#[test]
fn two_processes_do_not_share_sockets_and_a_dead_ones_are_replaced() {
    let folder = Folder::new();
    let first = folder.start(&[]);
    let said = folder.refused(&[]);
    assert!(said.contains("another process listens here; stop it"), "{said}");
    folder.daprd().ping();
    let inode = |name: &str| std::fs::symlink_metadata(folder.socket(name)).unwrap().ino();
    let before = SOCKETS.map(inode);
    // kill -9
    drop(first);
    assert_eq!(folder.files().len(), 2, "left behind");
    let second = folder.start(&[]);
    folder.daprd().ping();
    assert!(second.log().contains("replaced: nobody listens on it any more"));
    assert_ne!(SOCKETS.map(inode), before);
    drop(second);
    std::fs::remove_file(folder.socket(SOCKETS[0])).unwrap();
    std::fs::write(folder.socket(SOCKETS[0]), "precious").unwrap();
    let said = folder.refused(&[]);
    assert!(said.contains("stands where the socket has to be, and is none; remove it"), "{said}");
    assert_eq!(std::fs::read_to_string(folder.socket(SOCKETS[0])).unwrap(), "precious");
}

#[test]
fn at_the_end_calls_have_their_time_the_sockets_go_first_and_streams_last() {
    let (robot, folder) = (Robot::start(), Folder::new());
    let host = folder.start(&["--dapr-graceful-shutdown-seconds", "60"]);
    let daprd = folder.daprd();
    daprd.init("team", &[("id", "team"), ("url", &robot.url()), ("secret", SECRET)]).unwrap();
    let mut reading = daprd.read("team").unwrap();
    let posted = sends(&host, "m1");
    let event = reading.next();
    let asking = std::thread::spawn(move || daprd.invoke("team", "get", "Hi"));
    let asked = reading.next();
    host.terminate();
    until("the end of the sockets", || folder.files().is_empty());
    // The stream is still there for what has begun.
    reading.take(&event, PONG);
    assert_answer(&posted.join().unwrap(), PONG);
    reading.take(&asked, "answer");
    assert_eq!(asking.join().unwrap().unwrap().data, b"answer");
    let status = reading.try_next().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("the component is stopping"), "{status:?}");
    assert_eq!(host.wait().code(), Some(0));
}

#[test]
fn a_second_signal_and_the_end_of_the_time_remove_the_sockets_too() {
    for second in [true, false] {
        let (folder, host, daprd) = team(&["--dapr-graceful-shutdown-seconds", if second { "600" } else { "1" }]);
        let mut reading = daprd.read("team").unwrap();
        let _posted = sends(&host, "m1");
        reading.next();
        host.interrupt();
        until("the end of the sockets", || folder.files().is_empty());
        if second {
            host.terminate();
        }
        assert_eq!(host.wait().code(), Some(if second { 143 } else { 0 }));
        assert!(folder.files().is_empty());
    }
}

#[test]
fn with_an_inbox_nothing_that_was_acknowledged_is_lost_when_it_is_killed() {
    let folder = Folder::new();
    let inbox = folder.0.path().join("inbox");
    let arguments = ["--inbox", inbox.to_str().unwrap(), "--callback-timeout", "200ms"];
    let properties = [("id", "team"), ("url", NOWHERE), ("secret", SECRET)];
    let host = folder.start(&arguments);
    let daprd = folder.daprd();
    daprd.init("team", &properties).unwrap();
    // Nobody reads: it is on disk, and DingTalk has its answer.
    assert_answer(&sends(&host, "m1").join().unwrap(), EMPTY);
    let mut reading = daprd.read("team").unwrap();
    let event = reading.next();
    assert_eq!(event.data, text("m1").as_bytes());
    assert_answer(&sends(&host, "m2").join().unwrap(), EMPTY);
    // Not acknowledged when everything ends.
    drop((host, reading, daprd));
    let _host = folder.start(&arguments);
    let daprd = folder.daprd();
    daprd.init("team", &properties).unwrap();
    let mut reading = daprd.read("team").unwrap();
    let mut given: Vec<Vec<u8>> = Vec::new();
    while given.len() < 2 {
        let event = reading.next();
        // In order: both are of no conversation, and of one binding.
        reading.take(&event, "");
        given.push(event.data);
    }
    assert_eq!(given, [text("m1").as_bytes(), text("m2").as_bytes()]);
}

/// A daprd keeps its connections for as long as it lives; one that is gone leaves its place.
#[test]
fn many_daprds_come_and_go() {
    let (folder, host, daprd) = team(&[]);
    let mut readings: Vec<(Daprd, Reading)> = Vec::new();
    for _ in 0..20 {
        let other = folder.daprd();
        let reading = other.read("team").unwrap();
        readings.push((other, reading));
    }
    // Of one instance at most eight streams are kept: the others were told.
    let ended = readings.iter_mut().take(12).map(|(_, reading)| reading.try_next().unwrap_err());
    assert!(ended.map(|status| status.message().to_owned()).all(|said| said.contains("8 newer streams")));
    let posted = sends(&host, "m1");
    let (_, newest) = readings.last_mut().unwrap();
    let event = newest.next();
    newest.take(&event, "");
    assert_answer(&posted.join().unwrap(), EMPTY);
    drop(readings);
    daprd.ping();
    until("the end of the streams", || host.log().matches("daprd reads no more on this stream").count() == 20);
    assert_later(&sends(&host, "m2").join().unwrap());
}

/// The steps of Dapr's own tests for bindings. They name no instance, and end after `read` without an acknowledgement.
#[test]
fn daprs_conformance_steps_pass_in_both_profiles() {
    let message = r#"{"msgtype":"text","text":{"content":"conformance"}}"#;
    for profile in [&["create"][..], &["get", "read"]] {
        let (robot, folder) = (Robot::start(), Folder::new());
        let _host = folder.start(&[]);
        let daprd = folder.daprd();
        let properties = [("id", "test_webhook_id"), ("url", &robot.url()), ("secret", SECRET)];
        daprd.init_output("", &properties).unwrap();
        let does = |step: &str| profile.contains(&step);
        if does("read") {
            daprd.init_input("", &properties).unwrap();
        }
        daprd.ping();
        let operations = daprd.operations("").unwrap();
        for step in profile.iter().filter(|step| **step != "read") {
            assert!(operations.iter().any(|operation| operation == step), "{operations:?}");
        }
        // Returns at once, whether anything comes or not.
        let reading = does("read").then(|| daprd.read("").unwrap());
        if does("create") {
            assert_eq!(daprd.invoke("", "create", message).unwrap().data, b"");
            assert_eq!(robot.messages().len(), 1);
        }
        if let Some(mut reading) = reading {
            let other = folder.daprd();
            let asking = std::thread::spawn(move || other.invoke("", "get", message));
            let event = reading.next();
            assert_eq!(event.data, message.as_bytes());
            reading.take(&event, "");
            assert_eq!(asking.join().unwrap().unwrap().data, b"");
        }
    }
}

#[test]
fn a_stream_keeps_its_connection_when_places_run_out_and_silent_ones_end() {
    let folder = Folder::new();
    let plain = folder.command(&[]);
    let mut limited = Command::new("sh");
    // A quarter of them are connections.
    limited.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    let host = Host::pluggable(limited);
    let daprd = folder.daprd();
    daprd.init("team", &[("id", "team"), ("url", NOWHERE), ("secret", SECRET)]).unwrap();
    let mut reading = daprd.read("team").unwrap();
    let others: Vec<_> = (0..40).map(|_| folder.daprd()).collect();
    others.last().unwrap().ping();
    until("the end of those beyond 32", || others.iter().filter(|other| other.is_closed()).count() >= 9);
    let posted = sends(&host, "m1");
    let event = reading.next();
    reading.take(&event, "");
    assert_answer(&posted.join().unwrap(), EMPTY);
}

#[test]
fn reflection_has_places_for_64_clients_at_once() {
    let folder = Folder::new();
    let _host = folder.start(&[]);
    let daprd = folder.daprd();
    let mut asking: Vec<_> = (0..64).map(|_| daprd.reflect().unwrap()).collect();
    let status = daprd.reflect().err().unwrap();
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "too many clients ask for reflection at once")
    );
    asking.pop();
    until("a place", || daprd.reflect().is_ok());
}
