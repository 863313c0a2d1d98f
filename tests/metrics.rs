//! What is counted for whoever operates the host, and that nothing of it is secret or grows with what strangers send.

use std::net::{SocketAddr, TcpListener};

use dingtalk_host::simulator::fault::{Fault, Times};

use crate::support::app::{Act, App};
use crate::support::inbox_app::{self, APP_SECRET, message};
use crate::support::receiving::{self, signed, text};
use crate::support::{Host, Reply, Resources, Robot, SECRET, TOKEN, command, component, finish, send, stderr};

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

/// The address of --metrics-port.
fn address(host: &Host) -> SocketAddr {
    const MESSAGE: &str = "metrics are listening";
    host.wait_for_log(MESSAGE);
    let log = host.log();
    let line = log.lines().find(|line| line.contains(MESSAGE)).unwrap();
    line.split_once("address=").unwrap().1.trim().parse().unwrap()
}

pub fn get(host: &Host) -> Reply {
    send(address(host), "GET", "/metrics", &[], b"")
}

/// The number of a line, which is known by its beginning and by `labels`.
#[track_caller]
pub fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let start = format!("{name}{{");
    let mut lines =
        text.lines().filter(|line| line.starts_with(&start) && labels.iter().all(|label| line.contains(label)));
    let line = lines.next()?;
    assert_eq!(lines.next(), None, "{labels:?} name several lines of {name}");
    Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[track_caller]
fn assert_value(host: &Host, name: &str, labels: &[&str], expected: f64) {
    let text = get(host).body;
    assert_eq!(value(&text, name, labels), Some(expected), "{name} {labels:?}:\n{text}");
}

#[test]
fn operations_are_counted_as_daprd_counts_them_and_failures_by_their_class() {
    let robot = Robot::start();
    let host = Host::serve_with(
        &Resources::of("team", &robot),
        &["--metrics-port", "0", "--app-id", "shop"],
        &[("NAMESPACE", "prod")],
    );
    for _ in 0..3 {
        assert_eq!(host.post("team", CREATE).status, 200);
    }
    robot.fail(Fault::Rejected { errcode: 130_101, errmsg: "send too fast S3CR3T".into() }, Times::ONCE);
    assert_eq!(host.post("team", CREATE).status, 500);
    assert_eq!(host.post("team", r#"{"operation":"S3CR3T"}"#).status, 500);
    assert_eq!(host.post("S3CR3T", CREATE).status, 500);
    let reply = get(&host);
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("text/plain; version=0.0.4; charset=utf-8")),
        "{reply:?}"
    );
    let all = ["app_id=\"shop\"", "namespace=\"prod\""];
    for (name, labels, expected) in [
        (
            "dapr_component_output_binding_count",
            ["component=\"team\"", "operation=\"create\"", "success=\"true\""],
            3.0,
        ),
        (
            "dapr_component_output_binding_latencies_count",
            ["component=\"team\"", "operation=\"create\"", "success=\"true\""],
            3.0,
        ),
        (
            "dapr_component_output_binding_count",
            ["component=\"team\"", "operation=\"create\"", "success=\"false\""],
            1.0,
        ),
        ("dapr_component_output_binding_count", ["component=\"team\"", "operation=\"\"", "success=\"false\""], 1.0),
        ("dapr_component_output_binding_count", ["component=\"\"", "operation=\"\"", "success=\"false\""], 1.0),
        ("dingtalk_invoke_errors_total", ["error=\"rejected\"", "class=\"rate-limited\"", "outcome=\"not-sent\""], 1.0),
        (
            "dingtalk_invoke_errors_total",
            ["error=\"unsupported-operation\"", "component=\"team\"", "operation=\"\""],
            1.0,
        ),
        ("dingtalk_invoke_errors_total", ["error=\"not-found\"", "component=\"\"", "operation=\"\""], 1.0),
        ("dapr_http_server_request_count", ["method=\"POST\"", "path=\"\"", "status=\"200\""], 3.0),
        ("dapr_http_server_request_count", ["method=\"POST\"", "path=\"\"", "status=\"500\""], 3.0),
        ("dingtalk_bindings", ["", "", ""], 1.0),
        ("dapr_runtime_component_loaded", ["", "", ""], 1.0),
    ] {
        assert_value(&host, name, &[&labels[..], &all].concat(), expected);
    }
    let text = get(&host).body;
    for secret in [SECRET, TOKEN, "S3CR3T"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn callbacks_and_deliveries_are_counted_and_names_of_strangers_are_not() {
    let setup = receiving::start_with(&[], &["--metrics-port", "0"], &[]);
    let host = &setup.host;
    assert_eq!(receiving::callback(host, &text("m1")).status, 200);
    let post = |binding: &str, headers: &[(String, String)]| {
        receiving::post(host.address(), binding, headers, text("m2").as_bytes()).status
    };
    assert_eq!(post("team", &signed("SECanother")), 403);
    assert_eq!(post("team", &signed(SECRET)[..1]), 401);
    for number in 0..20 {
        assert_eq!(post(&format!("b{number}"), &signed(SECRET)), 404);
    }
    assert_value(host, "dingtalk_callbacks_total", &["component=\"team\"", "result=\"answered\""], 1.0);
    assert_value(host, "dingtalk_callbacks_total", &["component=\"team\"", "result=\"bad-signature\""], 1.0);
    assert_value(host, "dingtalk_callbacks_total", &["component=\"team\"", "result=\"unsigned\""], 1.0);
    assert_value(host, "dingtalk_callbacks_total", &["component=\"\"", "result=\"not-found\""], 20.0);
    assert_value(host, "dapr_component_input_binding_count", &["component=\"team\"", "success=\"true\""], 1.0);
    let calls = |kind: &str, state: &str| value(&get(host).body, "dingtalk_calls", &[kind, state]);
    assert_eq!(calls("kind=\"callback\"", "state=\"running\""), Some(0.0));
}

#[test]
fn the_inbox_tells_how_many_wait_and_for_how_long() {
    let resources =
        Resources::binding("team", &[("id", "team"), ("url", "http://127.0.0.1:9/"), ("appSecret", APP_SECRET)]);
    let (app, dir) = (inbox_app::App::absent(), tempfile::tempdir().unwrap());
    let (inbox, port) = (dir.path().join("inbox"), app.port().to_string());
    let more =
        ["--metrics-port", "0", "--inbox", inbox.to_str().unwrap(), "--app-port", &port, "--callback-timeout", "100ms"];
    let host = Host::serve_with(&resources, &more, &[]);
    assert_value(&host, "dingtalk_inbox_events", &["state=\"pending\""], 0.0);
    assert_value(&host, "dingtalk_inbox_oldest_seconds", &[], 0.0);
    receiving::until("a message is acknowledged", || {
        inbox_app::post(host.address(), &message("m1", "c")).status == 200
    });
    assert_value(&host, "dingtalk_inbox_events", &["state=\"pending\""], 1.0);
    receiving::until("it has waited for a while", || {
        value(&get(&host).body, "dingtalk_inbox_oldest_seconds", &[]).unwrap() >= 1.0
    });
    app.up();
    receiving::until("it is delivered", || {
        value(&get(&host).body, "dingtalk_inbox_events", &["state=\"pending\""]) == Some(0.0)
    });
    assert!(value(&get(&host).body, "dapr_component_input_binding_count", &["success=\"false\""]).unwrap() >= 1.0);
}

/// What was begun before its binding was taken away ends later, and is counted then.
#[test]
fn what_ends_late_brings_no_binding_back() {
    let (app, robot) = (App::start(), Robot::start());
    let resources = Resources::of("team", &robot).with(
        "resiliency.yaml",
        "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec:\n  policies:\n    circuitBreakers:\n      \
         b: {trip: consecutiveFailures > 3}\n  targets:\n    components:\n      team: {inbound: {circuitBreaker: b}}\n",
    );
    let arguments = ["--metrics-port", "0", "--app-port", &app.port(), "--callback-timeout", "60s"];
    let host = Host::serve_with(&resources, &arguments, &[]);
    let gate = app.answer_behind(Act::ok(""));
    std::thread::scope(|scope| {
        let callback = scope.spawn(|| receiving::callback(&host, &text("m1")));
        let get = scope.spawn(|| host.post("team", r#"{"operation":"get","data":{"message":"Hi"}}"#));
        app.wait_for_events(2);
        assert!(get_text(&host).contains("dapr_"), "served");
        std::fs::remove_file(resources.path().join("team.yaml")).unwrap();
        host.wait_for_log("component removed");
        gate.open();
        assert_eq!((callback.join().unwrap().status, get.join().unwrap().status), (200, 200));
    });
    assert!(!get_text(&host).contains("\"team\""), "{}", get_text(&host));
}

fn get_text(host: &Host) -> String {
    get(host).body
}

#[test]
fn a_binding_that_is_removed_leaves_the_metrics() {
    let robot = Robot::start();
    let resources =
        Resources::of("team", &robot).with("other.yaml", &component("other", &[("id", "o"), ("url", &robot.url())]));
    let host = Host::serve_with(&resources, &["--metrics-port", "0"], &[]);
    assert_eq!((host.post("team", CREATE).status, host.post("other", CREATE).status), (200, 500));
    assert_value(&host, "dapr_component_output_binding_count", &["component=\"other\""], 1.0);
    std::fs::remove_file(resources.path().join("other.yaml")).unwrap();
    host.wait_for_log("component removed");
    receiving::until("it is gone", || !get(&host).body.contains("\"other\""));
    assert_value(&host, "dapr_component_output_binding_count", &["component=\"team\""], 1.0);
    assert_value(&host, "dingtalk_component_changes_total", &["change=\"removed\""], 1.0);
}

#[test]
fn the_port_serves_metrics_to_programs_and_nothing_else() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot);
    let host = Host::serve_with(&resources, &["--metrics-port", "0"], &[("DAPR_API_TOKEN", "t0k3n")]);
    let ask =
        |method: &str, path: &str, headers: &[(&str, &str)]| send(address(&host), method, path, headers, b"").status;
    assert_eq!([ask("GET", "/", &[]), ask("GET", "/metrics", &[]), ask("HEAD", "/metrics", &[])], [200, 200, 200]);
    for (method, path, status) in [
        ("POST", "/metrics", 405),
        ("GET", "/v1.0/healthz", 404),
        ("GET", "/v1.0/metadata", 404),
        ("POST", "/v1.0/bindings/team", 404),
        ("POST", "/v1.0/bindings/team/callback", 404),
    ] {
        assert_eq!(ask(method, path, &[("dapr-api-token", "t0k3n")]), status, "{method} {path}");
    }
    assert_eq!(ask("GET", "/metrics", &[("origin", "https://evil.example")]), 403);
    assert_eq!(ask("GET", "/metrics", &[("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(send(host.address(), "GET", "/metrics", &[("dapr-api-token", "t0k3n")], b"").status, 404, "nor here");
}

#[test]
fn there_is_no_port_unless_it_is_asked_for() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot);
    for flags in [&[][..], &["--metrics-port", "0", "--enable-metrics=false"]] {
        let host = Host::serve_with(&resources, flags, &[]);
        assert!(!host.log().contains("metrics are listening"), "{}", host.log());
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let path = resources.path().to_str().unwrap();
    let mut start = command(&["serve", "--resources-path", path, "--dapr-http-port", "0"]);
    start.args(["--metrics-port", &port]);
    let output = finish(start, b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("choose another --metrics-port or --metrics-listen-address"),
        "{}",
        stderr(&output)
    );
}
