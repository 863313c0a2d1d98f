//! `--config`: what Dapr's Configuration says is done, or said to be left out.

use crate::support::{Host, Reply, Resources, Robot, command, component, finish, send, stderr};

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

fn configuration(spec: &str) -> Resources {
    let text = format!("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: dingtalk\nspec:\n{spec}");
    Resources::new().with("config.yaml", &text)
}

fn serve(robot: &Robot, configuration: &Resources, more: &[&str]) -> (Host, Resources) {
    let resources = Resources::of("team", robot);
    let file = configuration.path().join("config.yaml");
    let host = Host::serve_with(&resources, &[&["--config", file.to_str().unwrap()], more].concat(), &[]);
    (host, resources)
}

#[track_caller]
fn assert_no_route(reply: &Reply) {
    assert_eq!((reply.status, &reply.json()["errorCode"]), (404, &"ERR_DIRECT_INVOKE".into()), "{reply:?}");
}

#[test]
fn a_route_that_is_denied_or_not_allowed_is_not_there() {
    let robot = Robot::start();
    let get = |host: &Host, path: &str| send(host.address(), "GET", path, &[], b"");
    let only_bindings =
        configuration("  api:\n    allowed:\n    - name: bindings\n      version: v1\n      protocol: http\n");
    let (host, _resources) = serve(&robot, &only_bindings, &[]);
    assert_eq!(host.post("team", CREATE).status, 200);
    assert_no_route(&get(&host, "/v1.0/metadata"));
    assert_no_route(&send(host.address(), "PUT", "/v1.0/metadata/key", &[], b"value"));
    assert_eq!(get(&host, "/v1.0/healthz").status, 204);

    let no_bindings =
        configuration("  api:\n    denied:\n    - name: bindings\n      version: v1\n      protocol: http\n");
    let (host, _resources) = serve(&robot, &no_bindings, &[]);
    assert_no_route(&host.post("team", CREATE));
    assert_eq!(get(&host, "/v1.0/metadata").status, 200);
    // It proves itself, and Dapr has no name for it.
    let callback = send(host.address(), "POST", "/v1.0/bindings/team/callback", &[], b"{}");
    assert_ne!(callback.status, 404, "{callback:?}");
    assert_eq!(robot.stats().accepted, 1);
}

#[test]
fn a_rule_that_names_nothing_denies_nothing_and_is_told() {
    let robot = Robot::start();
    let typo = configuration("  api:\n    denied:\n    - name: binding\n      version: v1\n      protocol: http\n");
    let (host, _resources) = serve(&robot, &typo, &[]);
    host.wait_for_log("config.yaml:8: this rule of spec.api.denied names nothing that is here");
    assert_eq!(host.post("team", CREATE).status, 200);
}

#[test]
fn metrics_and_hot_reload_can_be_switched_off() {
    let robot = Robot::start();
    let off = configuration("  metrics:\n    enabled: false\n  features:\n  - name: HotReload\n    enabled: false\n");
    let (host, resources) = serve(&robot, &off, &["--metrics-port", "0"]);
    assert!(!host.log().contains("metrics are listening"), "{}", host.log());
    resources.write("other.yaml", &component("other", &[("id", "o"), ("url", &robot.url())]));
    host.hang_up();
    host.wait_for_log("component loaded binding=\"other\"");
    let lines: Vec<String> = host.log().lines().map(str::to_owned).collect();
    let place = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    assert!(place("SIGHUP") < place("component loaded binding=\"other\""), "not before it was asked: {lines:#?}");
}

#[test]
fn a_file_that_is_no_configuration_stops_the_start() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot);
    let path = resources.path().to_str().unwrap();
    for (text, said) in [
        ("a: [", "config.yaml:1:4: not valid YAML"),
        ("kind: Configuration", "config.yaml:1:1: there is no document with apiVersion"),
    ] {
        let wrong = Resources::new().with("config.yaml", text);
        let file = wrong.path().join("config.yaml");
        let start =
            command(&["serve", "--resources-path", path, "--dapr-http-port", "0", "--config", file.to_str().unwrap()]);
        let output = finish(start, b"");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
}
