//! Bindings follow their files while the host runs: what is added, changed and removed is taken over, what cannot be used
//! leaves everything as it was, and nobody who is served notices more than that.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::held::Held;
use crate::support::{Host, PATIENCE, Reply, Resources, Robot, SECRET, component, pause, send};

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

fn of(name: &str, robot: &Robot) -> String {
    component(name, &[("id", name), ("url", &robot.url()), ("secret", SECRET)])
}

/// Posts to `binding` until the answer is as `wanted`.
#[track_caller]
fn until(host: &Host, binding: &str, what: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
    let start = Instant::now();
    loop {
        let reply = host.post(binding, CREATE);
        if wanted(&reply) {
            return reply;
        }
        assert!(start.elapsed() < PATIENCE, "{binding} {what}: {reply:?}\n{}", host.log());
        pause();
    }
}

#[track_caller]
fn until_posts(host: &Host, binding: &str) {
    until(host, binding, "posts", |reply| reply.status == 200);
}

#[track_caller]
fn until_gone(host: &Host, binding: &str) {
    let gone = until(host, binding, "is gone", |reply| reply.status == 500);
    assert_eq!(
        gone.json()["message"],
        format!("error invoking output binding {binding}: couldn't find output binding {binding}")
    );
}

fn lines(host: &Host, text: &str) -> usize {
    host.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn bindings_come_change_and_go_with_their_files() {
    let (first, second) = (Robot::start(), Robot::start());
    let resources =
        Resources::new().with("stays.yaml", &of("stays", &first).replace("value: \"stays\"", "value: \"{uuid}\""));
    let host = Host::serve(&resources);
    until_gone(&host, "team");
    resources.write("team.yaml", &of("team", &first));
    until_posts(&host, "team");
    let loaded = send(host.address(), "GET", "/v1.0/metadata", &[], b"").json();
    assert_eq!(loaded["components"].as_array().unwrap().len(), 2, "{loaded}");

    resources.write("team.yaml", &of("team", &second));
    until(&host, "team", "posts to the second robot", |_| second.stats().accepted > 0);
    std::fs::remove_file(resources.path().join("team.yaml")).unwrap();
    until_gone(&host, "team");

    let before = first.stats().accepted;
    assert_eq!(host.post("stays", CREATE).status, 200);
    assert_eq!(first.stats().accepted, before + 1);
    host.wait_for_log("component removed");
    // What has not changed is left alone, though its file has a template that could give it another value each time.
    let changes = ["component loaded", "component replaced", "component removed"].map(|change| lines(&host, change));
    assert_eq!(changes, [2, 1, 1], "{}", host.log());
    let of_stays =
        host.log().lines().filter(|line| line.contains(": component ") && line.contains("\"stays\"")).count();
    assert_eq!(of_stays, 1, "{}", host.log());
}

#[test]
fn a_call_ends_on_the_binding_on_which_it_began() {
    let (held, robot) = (Held::start(), Robot::start());
    let resources = Resources::binding("team", &[("id", "team"), ("url", &held.url())]);
    let host = Host::serve(&resources);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| host.post("team", CREATE));
        let waiting = held.receive();
        resources.write("team.yaml", &of("team", &robot));
        host.wait_for_log("component replaced");
        assert_eq!(host.post("team", CREATE).status, 200);
        assert_eq!(robot.stats().accepted, 1);
        std::fs::remove_file(resources.path().join("team.yaml")).unwrap();
        host.wait_for_log("component removed");
        waiting.accept();
        let reply = call.join().unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    });
}

#[test]
fn a_bad_file_leaves_the_old_binding_and_says_so_once() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot).with("other.yaml", &of("other", &robot));
    let host = Host::serve(&resources);
    let bad = |text: &str, said: &str| {
        resources.write("team.yaml", text);
        host.wait_for_log(said);
        assert_eq!(host.post("team", CREATE).status, 200, "{}", host.log());
    };
    let team = of("team", &robot);
    // No YAML any more; no value that makes sense; a secret that does not exist.
    bad(&format!("{team}  - {{ name: x, value: [S3CR3T\n"), "team.yaml:");
    bad(
        &team.replace("\"http:", "\"ftp:"),
        "team.yaml:1: [INIT_COMPONENT_FAILURE]: initialization error occurred for team",
    );
    bad(
        &format!("{}    secretKeyRef: {{name: nothing, key: S3CR3T}}\n", team.replace(SECRET, "")),
        "it refers to the secret \"nothing\", but the component names no secret store",
    );
    // Meanwhile others follow their files, but none that is missing is taken away: it may be in the file that is not read.
    bad("a: [", "team.yaml:1:");
    resources.write("third.yaml", &of("third", &robot));
    until_posts(&host, "third");
    std::fs::remove_file(resources.path().join("other.yaml")).unwrap();
    resources.write("fourth.yaml", &of("fourth", &robot));
    until_posts(&host, "fourth");
    assert_eq!(host.post("other", CREATE).status, 200);
    resources.write("team.yaml", &team);
    until_gone(&host, "other");
    assert_eq!(host.post("team", CREATE).status, 200);
    assert_eq!(lines(&host, "team.yaml:1:4: not valid YAML"), 1, "{}", host.log());
    assert_eq!(lines(&host, "component replaced"), 0, "it was never another one: {}", host.log());
    let log = host.end();
    assert!(log.contains("bindings go on as they were") && log.contains("it goes on as it was"), "{log}");
    assert!(!log.contains("S3CR3T") && !log.contains(SECRET), "{log}");
}

#[test]
fn a_secret_that_changes_in_its_store_is_taken_over() {
    let robot = Robot::start();
    let yaml = format!(
        "{}  - name: secret\n    secretKeyRef: {{name: robot}}\nauth:\n  secretStore: local\n",
        component("team", &[("id", "team"), ("url", &robot.url())])
    );
    let store = component("local", &[("secretsFile", "secrets.json")])
        .replace("bindings.dingtalk.webhook", "secretstores.local.file");
    let resources = Resources::new()
        .with("team.yaml", &yaml)
        .with("store.yaml", &store)
        .with("secrets.json", r#"{"robot": "SECanother"}"#);
    let host = Host::serve(&resources);
    let refused = host.post("team", CREATE);
    assert_eq!((refused.status, refused.metadata("errcode")), (500, Some("310000")), "{refused:?}");
    // A store that cannot be read leaves the secret that was read before.
    resources.write("secrets.json", "{\"robot\": ");
    host.wait_for_log("is not valid JSON");
    assert_eq!(host.post("team", CREATE).metadata("errcode"), Some("310000"));
    resources.write("secrets.json", &format!("{{\"robot\": \"{SECRET}\"}}"));
    until_posts(&host, "team");
    assert!(!host.end().contains(SECRET));
}

/// As Kubernetes replaces a ConfigMap's files: all at once, by a link.
#[test]
fn a_config_map_is_taken_over() {
    let robot = Robot::start();
    let resources = Resources::new();
    let link = |to: &str, name: &str| symlink(to, resources.path().join(name)).unwrap();
    let version = |name: &str, files: &[(&str, &str)]| {
        std::fs::create_dir(resources.path().join(name)).unwrap();
        for (file, text) in files {
            resources.write(&Path::new(name).join(file).to_string_lossy(), text);
        }
    };
    version("..1", &[("team.yaml", &component("team", &[("id", "team"), ("url", "http://127.0.0.1:9/")]))]);
    version("..2", &[("team.yaml", &of("team", &robot))]);
    link("..1", "..data");
    link("..data/team.yaml", "team.yaml");
    let host = Host::serve(&resources);
    assert_eq!(host.post("team", CREATE).status, 500);
    link("..2", "..data_tmp");
    std::fs::rename(resources.path().join("..data_tmp"), resources.path().join("..data")).unwrap();
    until_posts(&host, "team");
}

#[test]
fn without_hot_reload_files_are_read_when_somebody_asks() {
    let (first, second) = (Robot::start(), Robot::start());
    let resources = Resources::of("team", &first);
    let host = Host::serve_with(&resources, &["--enable-hot-reload=false"], &[]);
    resources.write("team.yaml", &of("team", &second));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(host.post("team", CREATE).status, 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(second.stats().accepted, 0);
    host.hang_up();
    until(&host, "team", "posts to the second robot", |_| second.stats().accepted > 0);
    // Each time it is asked, what is wrong is said.
    resources.write("team.yaml", "a: [");
    for times in 1..3 {
        host.hang_up();
        let start = Instant::now();
        while lines(&host, "team.yaml:1:") < times {
            assert!(start.elapsed() < PATIENCE, "{}", host.log());
            pause();
        }
    }
}
