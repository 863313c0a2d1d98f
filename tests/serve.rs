//! The process keeps what it promises to whoever operates it: component files as Dapr has them, secrets from
//! where they are kept, a start that fails with a reason, and an end that cuts nothing off.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use dingtalk_binding::secret::Secret;
use dingtalk_host::simulator::robot::RobotConfig;

use crate::support::held::Held;
use crate::support::{
    Connection, Host, PATIENCE, Resources, Robot, SECRET, command, component, finish, run, send, stderr, stdout,
};

/// The specification's component file.
const SPECIFIED: &str = r#"apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: <NAME>
  namespace: <NAMESPACE>
spec:
  type: bindings.nacos
  version: v1
  metadata:
  - name: id
    value: "test_webhook_id"
  - name: url
    value: "dingtalk.aliyun.com:8080/post/message"
  - name: secret
    value: "LTAI4G8KxxxxxxxxxxxxxbwZLBr"
"#;

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

/// A component whose secret is where `reference` (a YAML mapping's members) says.
fn referring(name: &str, robot: &Robot, store: &str, reference: &str) -> String {
    let component = component(name, &[("id", name), ("url", &robot.url())]);
    format!("{component}  - name: secret\n    {reference}\nauth:\n  secretStore: {store}\n")
}

fn store(name: &str, kind: &str, properties: &[(&str, &str)]) -> String {
    component(name, properties).replace("bindings.dingtalk.webhook", &format!("secretstores.local.{kind}"))
}

/// A start that must fail; returns what it says about it.
#[track_caller]
fn refused(resources: &Resources, arguments: &[&str]) -> String {
    let path = resources.path().to_str().unwrap();
    let mut command = command(&["serve", "--resources-path", path, "--dapr-http-port", "0"]);
    command.args(arguments);
    let output = finish(command, b"");
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{}", stderr(&output));
    stderr(&output)
}

#[track_caller]
fn assert_posts(host: &Host, binding: &str, robot: &Robot) {
    let before = robot.stats().accepted;
    let reply = host.post(binding, CREATE);
    assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{reply:?}\n{}", host.log());
    assert_eq!(robot.stats().accepted, before + 1);
    assert!(robot.messages().iter().all(|message| message.signed));
}

fn metadata(host: &Host) -> serde_json::Value {
    send(host.address(), "GET", "/v1.0/metadata", &[], b"").json()
}

#[test]
fn the_specifications_component_file_serves_the_specifications_request() {
    let robot =
        Robot::with(RobotConfig { secret: Some(Secret::new("LTAI4G8KxxxxxxxxxxxxxbwZLBr")), ..Robot::config() });
    let yaml = SPECIFIED
        .replace("<NAME>", "mydingtalk")
        .replace("<NAMESPACE>", "default")
        .replace("dingtalk.aliyun.com:8080/post/message", &robot.url());
    let host = Host::serve(&Resources::new().with("dingtalk.yaml", &yaml));
    host.wait_for_log("the type bindings.nacos is taken for bindings.dingtalk.webhook");
    assert_posts(&host, "mydingtalk", &robot);
    assert!(robot.messages()[0].shown.contains("Hi"));
}

#[test]
fn the_specifications_component_file_loads_with_nothing_but_its_placeholders_filled_in() {
    let yaml = SPECIFIED.replace("<NAME>", "mydingtalk").replace("<NAMESPACE>", "default");
    let host = Host::serve(&Resources::new().with("dingtalk.yaml", &yaml));
    let component = &metadata(&host)["components"][0];
    assert_eq!((&component["name"], &component["type"]), (&"mydingtalk".into(), &"bindings.nacos".into()));
    assert!(!host.log().contains("plain http"), "a url without a scheme means https: {}", host.log());
}

#[test]
fn every_binding_reaches_its_own_robot_wherever_it_is_defined() {
    let (first, second, third) = (Robot::start(), Robot::start(), Robot::start());
    let of = |name: &str, robot: &Robot| component(name, &[("id", name), ("url", &robot.url()), ("secret", SECRET)]);
    let one = Resources::new()
        .with("both.yaml", &format!("{}---\n{}", of("first", &first), of("second", &second)))
        .with("readme.txt", "no component");
    let other = Resources::new().with("third.yml", &of("third", &third));
    let host = Host::serve_with(&one, &["--resources-path", other.path().to_str().unwrap()], &[]);
    for (name, robot) in [("first", &first), ("second", &second), ("third", &third), ("first", &first)] {
        assert_posts(&host, name, robot);
    }
    assert_eq!([&first, &second, &third].map(|robot| robot.stats().accepted), [2, 1, 1]);
}

#[test]
fn the_examples_component_file_sends() {
    let robot = Robot::start();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/dapr/self-hosted/components");
    let mut serve = command(&["serve", "--resources-path", folder, "--dapr-http-port", "0", "--log-level", "debug"]);
    serve.envs([("ROBOT_URL", robot.url().as_str()), ("ROBOT_SECRET", SECRET)]);
    assert_posts(&Host::spawn(serve), "team", &robot);
}

#[test]
fn values_come_from_the_environment() {
    let robot = Robot::start();
    let yaml = component("env", &[("id", "env")])
        + "  - name: url\n    envRef: ROBOT_URL\n  - name: secret\n    envRef: ROBOT_SECRET\n";
    let resources = Resources::new().with("env.yaml", &yaml);
    let host = Host::serve_with(&resources, &[], &[("ROBOT_URL", &robot.url()), ("ROBOT_SECRET", SECRET)]);
    assert_posts(&host, "env", &robot);
}

#[test]
fn secrets_come_from_a_file() {
    let robot = Robot::start();
    let reference = "secretKeyRef: {name: robots:ops, key: robots:ops}";
    let resources = Resources::new()
        .with("file.yaml", &referring("file", &robot, "vault", reference))
        .with("store.yaml", &store("vault", "file", &[("secretsFile", "secrets.json")]))
        .with("secrets.json", &format!(r#"{{"robots":{{"ops":"{SECRET}"}}}}"#));
    let secrets = resources.path().join("secrets.json");
    for (mode, warns) in [(0o600, false), (0o644, true)] {
        std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(mode)).unwrap();
        let host = Host::serve(&resources);
        assert_posts(&host, "file", &robot);
        assert_eq!(host.log().contains("can be read by other users"), warns, "{}", host.log());
    }
}

#[test]
fn secrets_come_from_the_secret_store_of_the_environment() {
    let robot = Robot::start();
    let resources = Resources::new()
        .with("a.yaml", &referring("env", &robot, "vault", "secretKeyRef: {name: SECRET}"))
        .with("b.yaml", &store("vault", "env", &[("prefix", "ROBOT_")]));
    let host = Host::serve_with(&resources, &[], &[("ROBOT_SECRET", SECRET)]);
    assert_posts(&host, "env", &robot);
}

#[test]
fn a_secret_that_is_missing_stops_the_start_and_the_reason_says_where_to_look() {
    let robot = Robot::start();
    let resources = |yaml: String| {
        Resources::new()
            .with("robot.yaml", &yaml)
            .with("file.yaml", &store("vault", "file", &[("secretsFile", "secrets.json")]))
            .with("env.yaml", &store("environment", "env", &[]))
            .with("secrets.json", r#"{"other":"S3CR3T"}"#)
    };
    for (store, reference, reason) in [
        ("vault", "secretKeyRef: {name: robot}", "secret \"robot\""),
        ("environment", "secretKeyRef: {name: ROBOT_SECRET}", "\"ROBOT_SECRET\" is not set"),
        ("nowhere", "secretKeyRef: {name: robot}", "the secret store \"nowhere\" (auth.secretStore) does not exist"),
        ("vault", "envRef: ROBOT_SECRET", "the environment variable \"ROBOT_SECRET\" is not set"),
    ] {
        let error = refused(&resources(referring("ops", &robot, store, reference)), &[]);
        for text in ["error: ", "robot.yaml:1: component \"ops\"", "property \"secret\"", reason, "spec.ignoreErrors"] {
            assert!(error.contains(text), "{text:?} is not in: {error}");
        }
        assert!(!error.contains("S3CR3T"), "{error}");
    }
    assert_eq!(robot.stats().requests, 0, "nothing goes out unsigned instead");
}

#[test]
fn with_ignore_errors_the_other_bindings_run() {
    let robot = Robot::start();
    let lenient = |yaml: String| yaml.replace("spec:\n", "spec:\n  ignoreErrors: true\n");
    let resources = Resources::of("good", &robot)
        .with("secret.yaml", &lenient(referring("unresolved", &robot, "nowhere", "secretKeyRef: {name: x}")))
        .with("url.yaml", &lenient(component("invalid", &[("id", "x"), ("url", "ftp://example.com")])));
    let host = Host::serve(&resources);
    assert_posts(&host, "good", &robot);
    for name in ["unresolved", "invalid"] {
        let reply = host.post(name, CREATE);
        assert_eq!(reply.status, 500);
        assert!(reply.body.contains(&format!("couldn't find output binding {name}")), "{reply:?}");
        assert!(host.log().lines().any(|line| line.contains("ERROR") && line.contains(name)), "{}", host.log());
    }
}

#[test]
fn a_property_that_cannot_be_used_stops_the_start() {
    for (properties, reason) in [
        (&[("id", "x")][..], "property \"url\": missing webhook url"),
        (&[("url", "https://example.com/T0K3N")], "property \"id\": missing webhook id"),
        (&[("id", "x"), ("url", "ftp://example.com/T0K3N")], "property \"url\": the scheme"),
        (&[("id", "x"), ("url", "https://example.com/T0K3N"), ("timeout", "soon")], "property \"timeout\": \"soon\""),
    ] {
        let error = refused(&Resources::binding("ops", properties), &[]);
        let start = "error: [INIT_COMPONENT_FAILURE]: initialization error occurred for ops \
                     (bindings.dingtalk.webhook/v1): ";
        assert!(error.contains(start) && error.contains(reason), "{error}");
        assert!(!error.contains("T0K3N"), "{error}");
    }
}

#[test]
fn two_components_with_one_name_stop_the_start_and_both_files_are_named() {
    let robot = Robot::start();
    let resources = Resources::of("ops", &robot)
        .with("other.yaml", &format!("kind: List\n---\n{}", component("ops", &[("id", "x"), ("url", "h")])));
    let error = refused(&resources, &[]);
    for text in ["duplicate component name \"ops\"", "ops.yaml:1", "other.yaml:3"] {
        assert!(error.contains(text), "{text:?} is not in: {error}");
    }
}

#[test]
fn files_that_cannot_be_read_stop_the_start() {
    let yaml = component("ops", &[("id", "x"), ("url", "h")]);
    let error = refused(&Resources::new().with("bad.yaml", &format!("{yaml}  - : [\n")), &[]);
    assert!(error.contains("bad.yaml:1"), "line and column: {error}");
    let resources = Resources::new().with("file", "");
    for name in ["missing", "file"] {
        let path = resources.path().join(name);
        let error = refused(&Resources::new(), &["--resources-path", path.to_str().unwrap()]);
        assert!(error.contains(&format!("{} cannot be read as a directory", path.display())), "{error}");
    }
}

#[test]
fn without_a_binding_the_host_says_so_and_serves() {
    let resources = Resources::new().with("other.yaml", &component("x", &[]).replace("dingtalk.webhook", "redis"));
    let host = Host::serve(&resources);
    host.wait_for_log("type bindings.redis is not handled by this host");
    host.wait_for_log("there is no DingTalk binding in --resources-path");
    assert_eq!(send(host.address(), "GET", "/v1.0/healthz", &[], b"").status, 204);
    assert!(host.post("x", CREATE).body.contains("couldn't find output binding x"));
}

#[test]
fn scopes_and_namespaces_choose_the_components() {
    let robot = Robot::start();
    let scoped = |name: &str| format!("{}scopes: [shop]\n", component(name, &[("id", name), ("url", &robot.url())]));
    let resources = Resources::of("everywhere", &robot)
        .with("scoped.yaml", &scoped("shops"))
        .with("namespace.yaml", &scoped("tests").replace("metadata:\n  name", "metadata:\n  namespace: test\n  name"));
    let loaded = |app_id: &str, environment: &[(&str, &str)]| {
        let host = Host::serve_with(&resources, &["--app-id", app_id], environment);
        let components = metadata(&host)["components"].as_array().unwrap().clone();
        components.iter().map(|component| component["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(loaded("shop", &[]), ["everywhere", "shops", "tests"]);
    assert_eq!(loaded("shop", &[("NAMESPACE", "production")]), ["everywhere", "shops"]);
    assert_eq!(loaded("office", &[]), ["everywhere"]);
}

#[test]
fn a_port_that_is_taken_stops_the_start() {
    let taken = Host::serve(&Resources::new());
    let (resources, port) = (Resources::new(), taken.address().port().to_string());
    let path = resources.path().to_str().unwrap();
    let output = run(&["serve", "--resources-path", path, "--dapr-http-port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains(&format!("error: cannot listen on {}", taken.address())), "{error}");
    assert!(error.contains("--dapr-http-port"), "{error}");
}

#[test]
fn an_address_that_others_reach_wants_a_token() {
    // An address that is reserved for documentation: no machine has it, so that nothing listens anywhere.
    let arguments = ["--dapr-listen-addresses", "192.0.2.1"];
    let warning = "reachable from other machines without a token; set DAPR_API_TOKEN";
    let error = refused(&Resources::new(), &arguments);
    assert!(error.contains("WARN") && error.contains(warning) && error.contains("192.0.2.1"), "{error}");
    let host = Host::serve(&Resources::new());
    assert!(!host.log().contains(warning), "{}", host.log());
}

#[test]
fn plain_http_to_another_machine_is_warned_of() {
    let warning = "the url is plain http: the access token and every message travel readable; use https";
    let far = [("id", "far"), ("url", "http://robot.example/robot/send?access_token=T0K3N")];
    let near = [("id", "near"), ("url", "http://localhost:1/robot/send?access_token=T0K3N")];
    let host = Host::serve(&Resources::binding("far", &far).with("near.yaml", &component("near", &near)));
    let log = host.log();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains(warning)).collect();
    assert!(matches!(warned.as_slice(), [line] if line.contains("robot.example")), "{log}");
    assert!(!log.contains("T0K3N"), "{log}");
}

/// Waits until nobody listens at `address`.
#[track_caller]
fn wait_until_closed(address: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(start.elapsed() < PATIENCE, "{address} is still listened on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_call_in_flight_is_answered_before_the_process_ends() {
    for interrupt in [false, true] {
        let held = Held::start();
        let host = Host::serve(&Resources::binding("held", &[("id", "x"), ("url", &held.url())]));
        let address = host.address();
        let call = std::thread::spawn(move || send(address, "POST", "/v1.0/bindings/held", &[], CREATE.as_bytes()));
        let waiting = held.receive();
        if interrupt {
            host.interrupt()
        } else {
            host.terminate()
        }
        wait_until_closed(address);
        assert!(!call.is_finished(), "{}", host.log());
        waiting.accept();
        let reply = call.join().unwrap();
        assert_eq!((reply.status, reply.metadata("errmsg")), (200, Some("ok")), "{reply:?}");
        host.wait_for_log("stopped; every call that was accepted has been answered");
        assert_eq!(host.wait().code(), Some(0));
    }
}

#[test]
fn connections_without_a_call_do_not_hold_up_the_end() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("ops", &robot));
    let begun = |bytes: &str| {
        let mut connection = Connection::open(host.address());
        connection.write(bytes);
        connection
    };
    let mut idle = begun("GET /v1.0/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(idle.read().status, 204);
    // HTTP/2 with empty settings, and never a word again.
    let started = [begun(""), begun("POST /v1.0/bind"), begun("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")];
    let head =
        "POST /v1.0/bindings/ops HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
    let mut half = begun(head);
    // The others came before, so that from here on the host is known to serve them all.
    assert_eq!(half.read().status, 100);
    half.write("{");
    let start = Instant::now();
    host.terminate();
    assert_eq!(host.wait().code(), Some(0));
    // The host's own limits for heads and bodies are 10 and 60 seconds.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    drop((idle, started, half));
}

#[test]
fn a_request_that_is_on_its_way_at_the_end_is_still_answered() {
    let held = Held::start();
    let host = Host::serve(&Resources::binding("held", &[("id", "x"), ("url", &held.url())]));
    let mut connection = Connection::open(host.address());
    let (first, rest) = CREATE.split_at(9);
    let head = "POST /v1.0/bindings/held HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length";
    connection.write(format!("{head}: {}\r\n\r\n", CREATE.len()));
    // From here on the host is known to read the body.
    assert_eq!(connection.read().status, 100);
    connection.write(first);
    host.terminate();
    wait_until_closed(host.address());
    connection.write(rest);
    held.receive().accept();
    let reply = connection.read();
    assert_eq!((reply.status, reply.metadata("errmsg")), (200, Some("ok")), "{reply:?}");
    drop(connection);
    assert_eq!(host.wait().code(), Some(0));
}

#[test]
fn log_lines_are_json_on_request() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("ops", &robot), &["--log-as-json"], &[]);
    assert_posts(&host, "ops", &robot);
    assert_eq!(host.invoke("ops", "get", "1").status, 500);
    host.terminate();
    host.wait_for_log("stopped");
    let log = host.log();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("invocation failed")), "{log}");
    assert_eq!(host.wait().code(), Some(0));
}
