//! What of the API only the host can do: limits that a flag sets, what it remembers, and how it speaks HTTP.

use bytes::Bytes;
use dingtalk_host::simulator::fault::{Fault, Times};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use crate::both::api::{CREATE, assert_error, assert_invoke_error, assert_success, curl, in_chunks};
use crate::grpc::client::{self, binding};
use crate::support::held::Held;
use crate::support::{Connection, Host, PATIENCE, Reply, Resources, Robot, component, send};

/// A host with one binding, `mydingtalk`, and its robot.
fn start() -> (Robot, Host) {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("mydingtalk", &robot));
    (robot, host)
}

#[test]
fn a_body_above_the_limit_is_too_large_and_one_at_the_limit_is_not() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("mydingtalk", &robot), &["--max-body-size", "1Ki"], &[]);
    let padded = |length: usize| format!("{CREATE}{}", " ".repeat(length - CREATE.len()));
    assert_success(&host.post("mydingtalk", &padded(1024)));
    let declared = host.post("mydingtalk", &padded(1025));
    // Without a length up front, the host must count.
    let mut connection = in_chunks(&host);
    let body = padded(1025);
    connection.write(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    for reply in [declared, connection.read()] {
        let message = "failed deserializing HTTP body: stream too large (more than 1024 bytes, see --max-body-size)";
        assert_error(&reply, 400, "ERR_MALFORMED_REQUEST", message);
    }
    // The same where the body is data.
    let bare = |length: usize| {
        let path = "/v1.0/bindings/mydingtalk/create";
        send(host.address(), "POST", path, &[], format!("{:length$}", "Hi").as_bytes())
    };
    assert_success(&bare(1024));
    assert!(bare(1025).body.contains("stream too large (more than 1024 bytes, see --max-body-size)"));
    assert_eq!(robot.stats().accepted, 2);
}

#[test]
fn a_request_without_an_operation_is_said_once_for_each_binding_with_what_to_write() {
    let robot = Robot::start();
    let resources = Resources::of("mydingtalk", &robot)
        .with("b.yaml", &component("another", &[("id", "b"), ("url", &robot.url())]));
    let host = Host::serve(&resources);
    let long = "x".repeat(1_000);
    for _ in 0..3 {
        for name in ["mydingtalk", "another", "made-up", "invented", &long] {
            assert_eq!(host.post(name, r#"{"message":"S3CR3T"}"#).metadata("error"), Some("missing-operation"));
        }
    }
    let log = host.end();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("a request names no operation; ")).collect();
    let of = |name: &str| told.iter().filter(|line| line.contains(&format!("binding={name:?}"))).count();
    assert_eq!((of("mydingtalk"), of("another"), of("made-up"), told.len()), (1, 1, 1, 3), "{log}");
    let write = r#"write {"operation": "create", "data": …} as the body for /v1.0/bindings/{name}, or send what is data there as the body for /v1.0/bindings/{name}/create"#;
    for line in told {
        assert!(line.contains(" WARN ") && line.contains(write), "{line}");
    }
    assert!(!log.contains("S3CR3T"), "{log}");
    // Whoever speaks gRPC has no body to write.
    let host = Host::serve(&resources);
    let client = client::Client::new(host.grpc_address());
    client.invoke(binding("another", "", b"{}", &[])).unwrap_err();
    host.wait_for_log("a request names no operation; set the field operation of InvokeBindingRequest, to \"create\"");
}

#[test]
fn no_operation_is_done_at_the_callback_port() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("mydingtalk", &robot), &["--callback-port", "0"], &[]);
    for path in
        ["/v1.0/bindings/mydingtalk/create", "/v1.0/bindings/mydingtalk/%63allback", "/v1.0/bindings/mydingtalk"]
    {
        let reply = send(host.callback_address(), "POST", path, &[], CREATE.as_bytes());
        assert_eq!((reply.status, reply.body.as_str()), (404, ""), "{path}");
    }
    assert_eq!(robot.stats().requests, 0);
}

#[test]
fn a_name_is_unescaped_as_go_unescapes_queries() {
    let robot = Robot::start();
    let properties = [("id", "x"), ("url", &*robot.url()), ("secret", crate::support::SECRET)];
    let host = Host::serve(&Resources::new().with("a.yaml", &component("我的 robot", &properties)));
    for name in ["%E6%88%91%E7%9A%84+robot", "%e6%88%91%e7%9a%84%20robot"] {
        assert_success(&host.post(name, CREATE));
    }
    let message = "error invoking output binding my robot+: couldn't find output binding my robot+";
    assert_invoke_error(&host.post("my%20robot%2B", CREATE), message, "not-found");
    for (name, escape) in [("a%zz", "%zz"), ("a%4", "%4"), ("%", "%")] {
        let reply = host.post(name, CREATE);
        assert_eq!(reply.status, 400, "{reply:?}");
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
        let message = format!("failed to unescape request parameter \"name\". Error: invalid URL escape \"{escape}\"");
        assert_eq!(reply.body.trim_end(), message);
    }
    assert_eq!(robot.stats().accepted, 2);
}

#[test]
fn metadata_lists_what_is_loaded_and_keeps_what_clients_set() {
    let robot = Robot::start();
    let resources = Resources::of("b", &robot).with(
        "a.yaml",
        &component("a", &[("id", "a"), ("url", &robot.url())]).replace("dingtalk", "AliCloud.DingTalk"),
    );
    let host = Host::serve_with(&resources, &["--app-id", "shop"], &[]);
    let get = || send(host.address(), "GET", "/v1.0/metadata", &[], b"");
    let reply = get();
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    // daprd's order of members.
    assert!(reply.body.starts_with(r#"{"id":"shop","runtimeVersion":""#), "{}", reply.body);
    let metadata = reply.json();
    let loaded = |name: &str, kind: &str| json!({"name": name, "type": kind, "version": "v1", "capabilities": ["OUTPUT_BINDING"]});
    // The type in the file's own spelling.
    let expected = [loaded("a", "bindings.AliCloud.DingTalk.webhook"), loaded("b", "bindings.dingtalk.webhook")];
    assert_eq!(metadata["components"], json!(expected));
    assert_eq!(metadata["extended"]["daprRuntimeVersion"], metadata["runtimeVersion"]);
    assert_eq!(metadata["actorRuntime"]["runtimeStatus"], "DISABLED");
    for secret in [crate::support::TOKEN, crate::support::SECRET, "/robot/send"] {
        assert!(!reply.body.contains(secret), "{}", reply.body);
    }

    let reply = send(host.address(), "PUT", "/v1.0/metadata/cli+PID%21", &[], b"12345");
    assert_eq!((reply.status, reply.body.as_str(), reply.header("content-type")), (204, "", None));
    assert_eq!(get().json()["extended"]["cli PID!"], "12345");
    assert_eq!(send(host.address(), "PUT", "/v1.0/metadata/cli+PID%21", &[], b"6").status, 204);
    assert_eq!(get().json()["extended"]["cli PID!"], "6");
}

#[test]
fn what_clients_set_as_metadata_is_bounded() {
    let (_robot, host) = start();
    let put = |key: usize, value: &str| {
        send(host.address(), "PUT", &format!("/v1.0/metadata/k{key}"), &[], value.as_bytes()).status
    };
    assert_eq!(put(0, &"x".repeat(4_097)), 400);
    assert_eq!(put(0, &"x".repeat(4_096)), 204);
    assert!((1..256).all(|key| put(key, "x") == 204));
    assert_eq!((put(256, "x"), put(255, "y")), (400, 204));
}

#[test]
fn http_2_without_tls_and_negotiation_is_served_too() {
    let (robot, host) = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers = runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
        let call = |body: &'static str| {
            let request = hyper::Request::post(format!("http://{}/v1.0/bindings/mydingtalk", host.address()));
            let answer = client.request(request.body(Full::from(body)).unwrap());
            async {
                let (parts, body) = answer.await.unwrap().into_parts();
                (parts, body.collect().await.unwrap().to_bytes())
            }
        };
        let calls = async { tokio::join!(call(CREATE), call(CREATE), call("{}")) };
        tokio::time::timeout(PATIENCE, calls).await.unwrap()
    });
    let (first, second, third) = answers;
    for (parts, body) in [first, second] {
        assert_eq!((parts.version, parts.status.as_u16()), (hyper::Version::HTTP_2, 200));
        assert_eq!(parts.headers["metadata.errcode"], "0");
        assert!(body.is_empty());
    }
    assert_eq!(third.0.status, 500);
    assert_eq!(robot.stats().accepted, 2);
}

#[test]
fn clients_that_leave_disturb_nobody() {
    let held = Held::start();
    let robot = Robot::start();
    let resources = Resources::of("mydingtalk", &robot)
        .with("held.yaml", &component("held", &[("id", "held"), ("url", &held.url())]));
    let host = Host::serve(&resources);
    // Before anything, in the head, in the body, and while the call is under way.
    drop(Connection::open(host.address()));
    for part in [20, curl(CREATE).len() - 3] {
        let mut connection = Connection::open(host.address());
        connection.write(&curl(CREATE)[..part]);
    }
    let mut connection = Connection::open(host.address());
    connection.write(curl(CREATE).replace("mydingtalk", "held"));
    let waiting = held.receive();
    drop(connection);
    for _ in 0..3 {
        assert_success(&host.post("mydingtalk", CREATE));
    }
    drop(waiting);
    assert_success(&host.post("mydingtalk", CREATE));
    assert_eq!(robot.stats().accepted, 4, "half a request is no message");
}

#[test]
fn names_of_headers_are_written_as_go_writes_them() {
    let (robot, host) = start();
    let names = |reply: Reply| reply.headers.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    // The first letter, and nothing after the dot.
    let written = names(host.post("mydingtalk", CREATE));
    for name in ["Content-Type", "Metadata.statuscode", "Metadata.errcode", "Metadata.errmsg"] {
        assert!(written.iter().any(|known| known == name), "{name} is not in {written:?}");
    }
    robot.fail(Fault::Rejected { errcode: 130_101, errmsg: "send too fast".into() }, Times::ONCE);
    let written = names(host.post("mydingtalk", CREATE));
    assert!(written.iter().any(|name| name == "Metadata.retryafter"), "{written:?}");
}

#[test]
fn setting_metadata_asks_for_the_token_too() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("mydingtalk", &robot), &[], &[("DAPR_API_TOKEN", "sesame")]);
    for (token, status) in [("wrong", 401), ("sesame", 204)] {
        let reply = send(host.address(), "PUT", "/v1.0/metadata/key", &[("dapr-api-token", token)], b"value");
        assert_eq!(reply.status, status);
    }
}
