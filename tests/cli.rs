//! The commands beside `serve` do what their help says, so that scripts can rely on them: answers on standard
//! output, reasons on standard error, the outcome in the exit status.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};

use dingtalk_component::COMPONENT;
use dingtalk_host::simulator::fault::{Fault, Times};
use serde_json::{Value, json};

use crate::support::{
    Host, PATIENCE, Resources, Robot, SECRET, command, component, finish, run, send, signal, stderr, stdout, wait,
};

const MESSAGE: &str = r#"{"message":"Hi"}"#;

/// `invoke` with a component file of `robot`.
struct Invoke {
    robot: Robot,
    resources: Resources,
}

impl Invoke {
    fn new() -> Self {
        let robot = Robot::start();
        Self { resources: Resources::of("ops", &robot), robot }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&["invoke", "--component", self.resources.path().join("ops.yaml").to_str().unwrap()]);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments), b"")
    }

    fn shown(&self) -> Vec<String> {
        self.robot.messages().into_iter().map(|message| message.shown).collect()
    }
}

/// Success with the answer to a message that was posted, and nothing to complain about.
#[track_caller]
fn assert_posted(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((&*stdout(output), &*stderr(output)), ("statusCode: 200\nerrcode: 0\nerrmsg: ok\n", ""));
}

/// A failure with a reason on standard error and nothing on standard output.
#[track_caller]
fn assert_failed(output: &Output, status: i32, reason: &str) {
    assert_eq!((output.status.code(), &*stdout(output)), (Some(status), ""), "{output:?}");
    let error = stderr(output);
    assert!(error.starts_with("error: ") && error.contains(reason), "{reason:?} is not in: {error}");
}

#[test]
fn invoke_posts_and_prints_the_answer() {
    let invoke = Invoke::new();
    assert_posted(&invoke.run(&["--data", MESSAGE]));
    assert_posted(&invoke.run(&["--operation", "create", "--data", "- plain text, hyphen first"]));
    let shown = invoke.shown();
    assert!(shown[0].contains("Hi") && shown[1].contains("- plain text, hyphen first"), "{shown:?}");
    assert!(invoke.robot.messages().iter().all(|message| message.signed));
}

#[test]
fn invoke_posts_at_once_what_a_host_with_an_outbox_would_queue() {
    let invoke = Invoke::new();
    let url = invoke.robot.url();
    let write = |more: &[(&str, &str)]| {
        let all = [&[("id", "ops"), ("url", &url), ("secret", SECRET)], more].concat();
        invoke.resources.write("ops.yaml", &component("ops", &all));
    };
    write(&[("overflow", "queue"), ("merge", "true"), ("deadLetterRoute", "dead")]);
    assert_posted(&invoke.run(&["--data", MESSAGE]));
    assert_posted(&invoke.run(&["--data", MESSAGE, "--metadata", "delivery=direct"]));
    assert_failed(
        &invoke.run(&["--data", MESSAGE, "--metadata", "delivery=queued"]),
        1,
        "metadata delivery: queued needs an outbox; ask a host that was started with --outbox",
    );
    write(&[("quota", "5000"), ("quotaReserve", "100")]);
    let output = invoke.run(&["--data", MESSAGE]);
    assert_eq!((output.status.code(), invoke.shown().len()), (Some(0), 3), "{output:?}");
    assert!(stderr(&output).contains("does not count towards the property quota"), "{output:?}");
    write(&[("quota", "many")]);
    assert_failed(&invoke.run(&["--data", MESSAGE]), 1, "property \"quota\"");
}

#[test]
fn invoke_prints_json_on_request() {
    let invoke = Invoke::new();
    let output = invoke.run(&["--output", "json", "--data", MESSAGE]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    assert_eq!(stdout(&output), "{\"metadata\":{\"errcode\":\"0\",\"errmsg\":\"ok\",\"statusCode\":\"200\"}}\n");

    invoke.robot.fail(Fault::Rejected { errcode: -1, errmsg: "系统繁忙\n".into() }, Times::ONCE);
    let output = invoke.run(&["--output", "json", "--data", MESSAGE]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(1), ""), "the answer says it");
    let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(answer["error"].as_str().unwrap().contains("send msg failed. 系统繁忙"), "{answer}");
    let expected = json!({
        "error": "rejected", "outcome": "not-sent", "statusCode": "200", "errcode": "-1", "errmsg": "系统繁忙 ",
        "class": "busy"
    });
    assert_eq!(answer["metadata"], expected);
    assert_eq!(stdout(&output).lines().count(), 1, "one object, one line");
}

#[test]
fn invoke_reads_its_input_from_a_file_or_from_standard_input() {
    let invoke = Invoke::new();
    let file = invoke.resources.path().join("message.json");
    // As a Windows editor writes it.
    std::fs::write(&file, "\u{feff}{\"message\":\"from a file\"}\r\n").unwrap();
    assert_posted(&invoke.run(&["--data-file", file.to_str().unwrap()]));
    assert_posted(&finish(invoke.command(&["--data-file", "-"]), "from 标准输入\n".as_bytes()));
    let shown = invoke.shown();
    assert!(shown[0].contains("from a file") && shown[1].contains("from 标准输入"), "{shown:?}");
}

#[test]
fn invoke_hands_metadata_on() {
    let invoke = Invoke::new();
    let arguments = ["--data", "# Done = *good*", "--metadata", "msgtype=markdown", "--metadata", "title=a=b"];
    assert_posted(&invoke.run(&arguments));
    for _ in 0..2 {
        assert_posted(&invoke.run(&["--data", MESSAGE, "--metadata", "msgUuid=one"]));
    }
    let message: Value = serde_json::from_str(invoke.robot.messages()[0].message.get()).unwrap();
    assert_eq!(message, json!({"msgtype": "markdown", "markdown": {"title": "a=b", "text": "# Done = *good*"}}));
    let stats = invoke.robot.stats();
    assert_eq!((stats.accepted, stats.repeated), (2, 1));
}

#[test]
fn invoke_fails_with_the_reason_and_sends_nothing_for_input_that_cannot_work() {
    let invoke = Invoke::new();
    let missing = invoke.resources.path().join("missing");
    let missing = missing.to_str().unwrap();
    for (arguments, status, reason) in [
        (&[][..], 1, "there is no input; give it with --data or --data-file"),
        (&["--data", ""], 1, "data is empty"),
        (&["--data", "[1]"], 1, "data is the JSON array"),
        (&["--data", "{\"msgtype\""], 1, "data starts like a JSON object and is none"),
        (&["--data", "x", "--metadata", "msgtype=poem"], 1, "metadata msgtype"),
        (
            &["--data", "x", "--operation", "delete"],
            1,
            "does not support operation delete. supported operations:create get reply",
        ),
        (&["--data", "x", "--operation", ""], 1, "operation field is missing from request"),
        (&["--data", "x", "--operation", "get"], 1, "invalid component metadata.id ops"),
        (&["--data", "x", "--name", "other"], 1, "--name: ops"),
        (&["--data", "x", "--component", "x"], 2, "--component"),
        (&["--data-file", missing], 1, "cannot read "),
        (&["--data", "x", "--data-file", "-"], 2, "cannot be used with"),
        (&["--data", "x", "--metadata", "title"], 2, "write NAME=VALUE"),
        (&["--data", "x", "--metadata", "=x"], 2, "write NAME=VALUE"),
        (&["--data", "x", "--output", "xml"], 2, "text, json"),
        (&["x"], 2, "unexpected argument"),
    ] {
        assert_failed(&invoke.run(arguments), status, reason);
    }
    assert_failed(&finish(invoke.command(&["--data-file", "-"]), b"\xff"), 1, "data is not UTF-8");
    let output = run(&["invoke", "--component", missing, "--data", "x"]);
    assert_failed(&output, 1, &format!("{missing} cannot be read"));
    assert_eq!(invoke.robot.stats().requests, 0);
}

#[test]
fn invoke_reports_what_the_robot_refuses() {
    let invoke = Invoke::new();
    let resources = Resources::binding("ops", &[("id", "ops"), ("url", &invoke.robot.url()), ("secret", "SECwrong")]);
    let unsigned = Invoke { resources, robot: Robot::start() };
    let output = unsigned.run(&["--data", MESSAGE]);
    assert_failed(&output, 1, "check the property \"secret\" against the robot's settings");
    for secret in ["SECwrong", crate::support::TOKEN] {
        assert!(!stderr(&output).contains(secret), "{output:?}");
    }
    let stats = invoke.robot.stats();
    assert_eq!((stats.accepted, stats.rejected.get(&310_000)), (0, Some(&1)));
}

#[test]
fn invoke_chooses_among_several_bindings_by_name() {
    let (first, second) = (Robot::start(), Robot::start());
    let of = |name: &str, robot: &Robot| component(name, &[("id", name), ("url", &robot.url()), ("secret", SECRET)]);
    let broken = component("broken", &[("id", "x"), ("url", "ftp://h")]);
    let resources =
        Resources::new().with("robots.yaml", &[of("first", &first), of("second", &second), broken].join("---\n"));
    let file = resources.path().join("robots.yaml");
    let invoke = |arguments: &[&str]| {
        let mut command = command(&["invoke", "--component", file.to_str().unwrap(), "--data", MESSAGE]);
        command.args(arguments);
        finish(command, b"")
    };
    assert_failed(&invoke(&[]), 1, "with --name: first, second, broken");
    assert_failed(&invoke(&["--name", "third"]), 1, "with --name: first, second, broken");
    assert_failed(&invoke(&["--name", "broken"]), 1, "property \"url\": the scheme");
    // The other bindings of the file do not matter, be they broken.
    assert_posted(&invoke(&["--name", "second"]));
    assert_eq!((first.stats().requests, second.stats().accepted), (0, 1));
}

#[test]
fn invoke_takes_secrets_from_the_stores_of_a_folder() {
    let robot = Robot::start();
    let yaml = component("ops", &[("id", "ops"), ("url", &robot.url())])
        + "  - name: secret\n    secretKeyRef: {name: SECRET}\nauth: {secretStore: vault}\n";
    let store =
        component("vault", &[("prefix", "ROBOT_")]).replace("bindings.dingtalk.webhook", "secretstores.local.env");
    let (resources, stores) = (Resources::new().with("ops.yaml", &yaml), Resources::new().with("store.yaml", &store));
    let invoke = Invoke { robot, resources };
    assert_failed(&invoke.run(&["--data", MESSAGE]), 1, "the secret store \"vault\"");
    let mut command = invoke.command(&["--data", MESSAGE, "--resources-path", stores.path().to_str().unwrap()]);
    command.env("ROBOT_SECRET", SECRET);
    assert_posted(&finish(command, b""));
}

#[test]
fn component_writes_the_component_to_a_file_or_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("binding.wasm");
    std::fs::write(&path, vec![0; 2 * COMPONENT.len()]).unwrap();
    let output = run(&["component", "-o", path.to_str().unwrap()]);
    assert_eq!((output.status.code(), &*stdout(&output), &*stderr(&output)), (Some(0), "", ""));
    assert!(std::fs::read(&path).unwrap() == COMPONENT);

    let output = run(&["component"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == COMPONENT, "{} bytes", output.stdout.len());

    let nowhere = folder.path().join("missing/binding.wasm");
    let output = run(&["component", "--output", nowhere.to_str().unwrap()]);
    assert_failed(&output, 1, &format!("cannot write {}", nowhere.display()));
}

#[test]
fn demo_shows_every_kind_of_message_in_the_group() {
    let output = run(&["demo"]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""), "{output:?}");
    let text = stdout(&output);
    let (before, group) = text.split_once("The group sees:").unwrap();
    assert_eq!(before.matches(": 200 OK").count(), 7, "{text}");
    for message in
        ["Hi", "The build is green again", "Deployment", "Release notes", "Incident 17", "Approve?", "Monday"]
    {
        assert!(group.contains(message), "{message:?} is not in: {text}");
    }
    assert!(group.contains("7 messages, every signature verified; 2 callbacks verified and answered"), "{text}");
    let (_, answered) = group.split_once("[Zhang San] @robot ping").unwrap();
    assert!(answered.contains("pong") && answered.contains("Zhang San said: is the build green?"), "{text}");
}

/// The example application as a process; ends with the value.
struct Example(Child);

impl Example {
    fn start() -> (Self, SocketAddr) {
        let host = Path::new(env!("CARGO_BIN_EXE_dingtalk-host"));
        let example = host.with_file_name("examples").join("echo");
        let mut child = Command::new(example).arg("0").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Self(child), line.trim().strip_prefix("listening on ").unwrap().parse().unwrap())
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_answers_as_the_documentation_shows() {
    let (_example, address) = Example::start();
    let host = Host::serve_with(
        &Resources::binding("mydingtalk", &[("id", "x"), ("url", "http://127.0.0.1:1/")]),
        &["--app-port", &address.port().to_string()],
        &[],
    );
    let get = |data: &str| {
        let reply = host.invoke("mydingtalk", "get", data);
        (reply.status, reply.body)
    };
    let said = r#"{"msgtype":"text","text":{"content":"somebody said: Hi"}}"#.to_owned();
    assert_eq!(get(r#"{"message":"Hi"}"#), (200, said));
    let pong = r#"{"msgtype":"text","text":{"content":"pong"}}"#.to_owned();
    assert_eq!(get(r#"{"msgtype":"text","senderNick":"Li Si","text":{"content":" ping "}}"#), (200, pong));
    let sent = r#"{"msgtype":"text","text":{"content":"Li Si sent picture"}}"#.to_owned();
    assert_eq!(get(r#"{"msgtype":"picture","senderNick":"Li Si","content":{"downloadCode":"x"}}"#), (200, sent));
    assert_eq!(get(r#"{"errorCode":20001,"errorMessage":"quota"}"#), (200, String::new()));
    let (status, body) = get("7");
    assert_eq!(status, 500);
    assert!(body.contains("status code: 422"), "{body}");
}

/// `dingtalk-host simulate` as a process.
struct Simulate {
    child: Child,
    lines: Receiver<String>,
}

impl Simulate {
    fn start(arguments: &[&str]) -> Self {
        let mut command = command(&["simulate", "--port", "0"]);
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let (found, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| found.send(line)));
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line on standard output")
    }

    fn end(&mut self, name: &str) -> ExitStatus {
        signal(&self.child, name);
        wait(&mut self.child).expect("the simulator ends")
    }
}

impl Drop for Simulate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn simulate_prints_its_url_serves_it_and_ends_on_a_signal() {
    for end in ["TERM", "INT"] {
        let mut simulate = Simulate::start(&["--secret", SECRET]);
        let line = simulate.line();
        let url = line.strip_prefix("simulated DingTalk robot: ").unwrap_or_else(|| panic!("{line}"));
        let robot = Robot::start();
        let resources = Resources::binding("ops", &[("id", "ops"), ("url", url), ("secret", SECRET)]);
        let invoke = Invoke { robot, resources };
        assert_posted(&invoke.run(&["--data", "from one process to another"]));
        while !simulate.line().contains("from one process to another") {}

        let address = url.strip_prefix("http://").unwrap().split_once('/').unwrap().0.parse().unwrap();
        let messages = send(address, "GET", "/messages", &[], b"");
        assert_eq!(messages.status, 200);
        assert!(messages.body.contains("from one process to another"), "{messages:?}");
        assert_eq!(simulate.end(end).code(), Some(0));
    }
}

#[test]
fn a_group_that_nobody_watches_stops_nobody() {
    let mut simulate = command(&["simulate", "--port", "0", "--rate-limit", "0"]);
    let mut simulate = simulate.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = BufReader::new(simulate.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let (_, url) = line.split_once("http://").unwrap();
    let (address, target) = url.trim().split_once('/').unwrap();
    let (address, target) = (address.parse().unwrap(), format!("/{target}"));
    let json = [("Content-Type", "application/json")];
    // More than a pipe holds, and than waits in memory.
    let body = json!({"msgtype": "text", "text": {"content": "x".repeat(19_000)}}).to_string();
    for _ in 0..100 {
        let reply = send(address, "POST", &target, &json, body.as_bytes());
        assert_eq!((reply.status, reply.json()["errcode"].as_i64()), (200, Some(0)), "{reply:?}");
    }
    assert!(send(address, "GET", "/messages", &[], b"").body.contains("\"sequence\":100,"));
    signal(&simulate, "TERM");
    let ended = wait(&mut simulate);
    let _ = simulate.kill();
    assert!(ended.is_some_and(|ended| ended.success()), "{ended:?}");
}

#[test]
fn simulate_fails_on_request() {
    let simulate = Simulate::start(&["--fault", "rejected=-1:busy", "--fault-times", "2"]);
    let line = simulate.line();
    let url = line.strip_prefix("simulated DingTalk robot: ").unwrap();
    let invoke = Invoke { robot: Robot::start(), resources: Resources::binding("ops", &[("id", "ops"), ("url", url)]) };
    for _ in 0..2 {
        assert_failed(&invoke.run(&["--data", MESSAGE]), 1, "send msg failed. busy (errcode -1, busy)");
    }
    assert_posted(&invoke.run(&["--data", MESSAGE]));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let robot = Robot::start();
    let output = run(&["simulate", "--port", &robot.address().port().to_string()]);
    assert_failed(&output, 1, &format!("cannot listen on {}", robot.address()));
}

#[test]
fn every_command_explains_itself() {
    for arguments in [&[][..], &["serve"], &["pluggable"], &["invoke"], &["component"], &["simulate"], &["demo"]] {
        for help in ["--help", "-h"] {
            let output = run(&[arguments, &[help]].concat());
            assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""), "{arguments:?} {help}");
            assert!(stdout(&output).contains("Usage: dingtalk-host"), "{output:?}");
        }
    }
    let help = stdout(&run(&["--help"]));
    for name in ["serve", "pluggable", "invoke", "component", "simulate", "demo"] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
    }
}

#[test]
fn every_command_tells_its_version() {
    for arguments in [&["--version"][..], &["-V"], &["serve", "--version"], &["simulate", "--version"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        let name =
            if arguments.len() == 2 { format!("dingtalk-host-{}", arguments[0]) } else { "dingtalk-host".into() };
        assert_eq!(stdout(&output), format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_with_status_2() {
    for arguments in [
        &["unknown"][..],
        &["serve"],
        &["invoke", "--data", "x"],
        &["serve", "--resources-path", "x", "--dapr-listen-addresses", "localhost"],
        &["serve", "--resources-path", "x", "--max-body-size", "4MB"],
        &["serve", "--resources-path", "x", "--dapr-http-port", "65536"],
        &["pluggable", "--components-socket-mode", "0"],
        &["simulate", "--fault", "flood"],
    ] {
        assert_failed(&run(arguments), 2, "");
    }
    let output = run(&[]);
    assert_eq!((output.status.code(), &*stdout(&output)), (Some(2), ""));
    assert!(stderr(&output).contains("Usage: dingtalk-host"));
}
