//! With `serve --store`, several hosts share one PostgreSQL: what one has accepted another one delivers when it dies, and
//! together they post no more than a robot takes.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::inbox_app::{APP_SECRET, App, message, post};
use crate::support::server::Server;
use crate::support::{Host, PATIENCE, Resources, Robot, SECRET, command, finish, run, send, stderr, stdout};

fn until(host: &Host, what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}\n{}", host.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn serve(resources: &Resources, url: &str, more: &[&str]) -> Command {
    let mut command = command(&["serve", "--resources-path", resources.path().to_str().unwrap()]);
    command.args(["--dapr-http-port", "0", "--callback-timeout", "500ms"]).args(more).env("DINGTALK_STORE", url);
    command
}

#[test]
fn what_a_host_has_accepted_another_one_delivers_when_it_dies() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE SCHEMA s");
    let url = server.url("s");
    let properties =
        [("id", "team"), ("url", "http://127.0.0.1:9/robot/send?access_token=t"), ("appSecret", APP_SECRET)];
    let resources = Resources::binding("team", &properties);
    let (away, app) = (App::absent(), App::start());
    let start = |app: &App| Host::spawn(serve(&resources, &url, &["--app-port", &app.port().to_string()]));
    let one = start(&away);
    for id in ["1", "2", "3"] {
        assert_eq!(post(one.address(), &message(id, "c")).status, 200);
    }
    let list = || {
        let output = run(&["inbox", "list", "--output", "json", "--store", &url]);
        assert_eq!(stderr(&output), "");
        stdout(&output).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(
        list().iter().map(|event| event["msgId"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
        ["1", "2", "3"]
    );
    let two = start(&app);
    // Killed: it says nothing to anybody.
    drop(one);
    until(&two, "all are delivered", || app.taken_ids() == ["1", "2", "3"]);
    assert_eq!(post(two.address(), &message("2", "c")).status, 200);
    until(&two, "nothing waits", || list().is_empty());
    assert_eq!(app.taken_ids(), ["1", "2", "3"], "a repetition is known by all hosts");
    assert!(!two.log().contains("postgres@"), "{}", two.log());
}

#[test]
fn two_hosts_together_post_no_more_than_their_robot_takes() {
    let Some(server) = Server::start() else { return };
    server.sql("CREATE SCHEMA s");
    let robot = Robot::start();
    let resources = Resources::new();
    let properties =
        [("id", "team"), ("url", &*robot.url()), ("secret", SECRET), ("rateLimit", "5/1h"), ("overflow", "refuse")];
    resources.write("team.yaml", &crate::support::component("team", &properties));
    let file = resources.path().join("password");
    fs::write(&file, "not needed\n").unwrap();
    let flags = ["--store-password-file", file.to_str().unwrap()];
    let hosts = [(); 2].map(|()| Host::spawn(serve(&resources, &server.url("s"), &flags)));
    let call = |host: &Host, text: &str| {
        let body = json!({"operation": "create", "data": text}).to_string();
        send(host.address(), "POST", "/v1.0/bindings/team", &[], body.as_bytes())
    };
    let mut refused = 0;
    for number in 0..8 {
        let reply = call(&hosts[number % 2], &number.to_string());
        refused += usize::from(reply.status == 500);
    }
    assert_eq!((robot.messages().len(), refused), (5, 3));
}

#[test]
fn a_database_that_cannot_be_used_stops_the_start_and_a_password_is_never_shown() {
    let resources =
        Resources::binding("team", &[("id", "team"), ("url", "http://127.0.0.1:9/robot/send?access_token=t")]);
    for (url, says) in [
        ("postgres://us3r:S3CR3T@127.0.0.1:9/robots", "--store: database robots at 127.0.0.1:9 cannot be used"),
        ("postgres://us3r:S3CR3T@127.0.0.1:port/robots", "--store: the value cannot be read as a URL"),
    ] {
        let output = finish(serve(&resources, url, &[]), b"");
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(says) && !error.contains("S3CR3T") && !error.contains("us3r"), "{error}");
        for side in ["inbox", "outbox"] {
            let output = run(&[side, "list", "--store", url]);
            let error = stderr(&output);
            assert!(output.status.code() == Some(1) && !error.contains("S3CR3T") && !error.contains("us3r"), "{error}");
        }
    }
    let dir = resources.path().to_str().unwrap();
    let output = finish(serve(&resources, "postgres://us3r:S3CR3T@h/d", &["--outbox", dir]), b"");
    let error = stderr(&output);
    assert!(output.status.code() == Some(2) && error.contains("--store <URL>") && !error.contains("S3CR3T"), "{error}");
    let output = finish(serve(&resources, "postgres://us3r:S3CR3T@h/d", &["--help"]), b"");
    assert!(!stdout(&output).contains("S3CR3T"));
}
