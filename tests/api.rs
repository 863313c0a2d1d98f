//! Dapr's HTTP API for bindings is daprd's, to the letter where a client sees it: statuses, error codes and
//! texts, header names, and what is accepted although it looks wrong.

use bytes::Bytes;
use dingtalk_host::simulator::fault::{Fault, Times};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use crate::support::held::Held;
use crate::support::{Connection, Host, PATIENCE, Reply, Resources, Robot, component, send};

/// A message that the robot posts.
const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

/// A host with one binding, `mydingtalk`, and its robot.
fn start() -> (Robot, Host) {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("mydingtalk", &robot));
    (robot, host)
}

/// The error must be daprd's two members, `errorCode` first, and nothing more.
#[track_caller]
fn assert_error(reply: &Reply, status: u16, code: &str, message: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    assert_eq!(reply.body, format!(r#"{{"errorCode":"{code}","message":{}}}"#, json!(message)));
}

/// A failed operation: daprd's two members in daprd's order, then the details that this host adds.
#[track_caller]
fn assert_invoke_error(reply: &Reply, message: &str, error: &str) {
    assert_eq!(reply.status, 500, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    let start = format!(r#"{{"errorCode":"ERR_INVOKE_OUTPUT_BINDING","message":{},"details":["#, json!(message));
    assert!(reply.body.starts_with(&start), "{reply:?}\n{start}");
    let details = &reply.json()["details"][0];
    assert_eq!(details["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
    assert_eq!(details["reason"], "ERR_INVOKE_OUTPUT_BINDING");
    assert_eq!(details["metadata"]["error"], error);
    assert_eq!(reply.metadata("error"), Some(error), "{reply:?}");
}

#[track_caller]
fn assert_success(reply: &Reply) {
    assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{reply:?}");
    assert_eq!(reply.metadata("errcode"), Some("0"), "{reply:?}");
}

/// What curl writes for the specification's examples.
fn curl(body: &str) -> String {
    format!(
        "POST /v1.0/bindings/mydingtalk HTTP/1.1\r\nHost: localhost:3500\r\nUser-Agent: curl/8.14.1\r\nAccept: \
         */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn the_specifications_create_request_is_posted_signed_and_answered_200_with_an_empty_body() {
    let (robot, host) = start();
    let mut connection = Connection::open(host.address());
    connection.write(curl(
        r#"{
        "data": {
          "message": "Hi"
        },
        "operation": "create"
      }"#,
    ));
    let reply = connection.read();
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    assert_eq!(reply.header("content-length"), Some("0"));
    let written: Vec<(&str, &str)> =
        reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for header in [
        ("Content-Type", "application/json"),
        ("Metadata.statuscode", "200"),
        ("Metadata.errcode", "0"),
        ("Metadata.errmsg", "ok"),
    ] {
        assert!(written.contains(&header), "{header:?} is not in {written:?}");
    }
    let messages = robot.messages();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].signed && messages[0].shown.contains("Hi"), "{messages:?}");
}

#[test]
fn the_specifications_get_request_fails_because_nothing_reads() {
    let (robot, host) = start();
    let mut connection = Connection::open(host.address());
    connection.write(curl(
        r#"{
        "data": {
          "message": "Hi"
        },
        "metadata": {},
        "operation": "get"
      }"#,
    ));
    let message = "error invoking output binding mydingtalk: dingtalk webhook error: invalid component metadata.id \
                   mydingtalk: nothing reads from the binding with this id";
    assert_invoke_error(&connection.read(), message, "not-reading");
    assert_eq!(robot.stats().requests, 0);
}

#[test]
fn post_and_put_do_the_same() {
    let (robot, host) = start();
    for method in ["POST", "PUT"] {
        let path = "/v1.0/bindings/mydingtalk";
        assert_success(&send(host.address(), method, path, &[], CREATE.as_bytes()));
        assert_eq!(send(host.address(), method, path, &[], b"[]").status, 400);
        assert_eq!(send(host.address(), method, path, &[], b"{}").status, 500);
    }
    assert_eq!(robot.stats().accepted, 2);
}

#[test]
fn the_content_type_of_a_request_does_not_matter() {
    let (_robot, host) = start();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        let headers = [("content-type", content_type)];
        assert_success(&send(host.address(), "POST", "/v1.0/bindings/mydingtalk", &headers, CREATE.as_bytes()));
    }
}

#[test]
fn data_reaches_the_robot_as_it_was_written() {
    let (robot, host) = start();
    let data = r#"{"msgtype":"text", "text":{"content":"<b>&amp; 你好"}, "z":12345678901234567890, "a":1.0}"#;
    assert_success(&host.invoke("mydingtalk", "create", data));
    assert_eq!(robot.messages()[0].message.get(), data);
}

#[test]
fn a_body_that_cannot_be_decoded_is_malformed_and_nothing_is_sent() {
    let (robot, host) = start();
    for body in [
        "{",
        "[]",
        "\"text\"",
        "7",
        "nonsense",
        r#"{"operation":"create""#,
        r#"{"operation":7,"data":{"message":"Hi"}}"#,
        r#"{"operation":["create"],"data":{"message":"Hi"}}"#,
        r#"{"operation":"create","data":{"message":"Hi"},"metadata":{"title":7}}"#,
        r#"{"operation":"create","data":{"message":"Hi"},"metadata":{"isAtAll":true}}"#,
        r#"{"operation":"create","data":{"message":"Hi"},"metadata":{"title":{"a":"b"}}}"#,
        r#"{"operation":"create","data":{"message":"Hi"},"metadata":"title"}"#,
        r#"{"operation":"create","data":}"#,
    ] {
        let reply = host.post("mydingtalk", body);
        let answer = reply.json();
        let message = answer["message"].as_str().unwrap();
        assert!(message.starts_with("failed deserializing HTTP body: "), "{body}: {message}");
        assert_error(&reply, 400, "ERR_MALFORMED_REQUEST", message);
    }
    for body in ["", " \r\n"] {
        let message = "failed deserializing HTTP body: EOF";
        assert_error(&host.post("mydingtalk", body), 400, "ERR_MALFORMED_REQUEST", message);
    }
    assert_eq!(robot.stats().requests, 0);
}

#[test]
fn an_undecodable_body_is_found_before_an_unknown_name() {
    let (_robot, host) = start();
    let message = "failed deserializing HTTP body: EOF";
    assert_error(&host.post("nobody", ""), 400, "ERR_MALFORMED_REQUEST", message);
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
    assert_eq!(robot.stats().accepted, 1);
}

/// A connection on which a request has begun whose body comes in chunks.
fn in_chunks(host: &Host) -> Connection {
    let mut connection = Connection::open(host.address());
    connection
        .write("POST /v1.0/bindings/mydingtalk HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    connection
}

#[test]
fn a_body_in_chunks_is_one_body() {
    let (robot, host) = start();
    let mut connection = in_chunks(&host);
    for chunk in [&CREATE[..7], &CREATE[7..]] {
        connection.write(format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    connection.write("0\r\n\r\n");
    assert_success(&connection.read());
    assert_eq!(robot.stats().accepted, 1);
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on() {
    let (_robot, host) = start();
    let mut connection = Connection::open(host.address());
    connection.write(format!(
        "PUT /v1.0/bindings/mydingtalk HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        CREATE.len()
    ));
    assert_eq!(connection.read().status, 100);
    connection.write(CREATE);
    assert_success(&connection.read());
}

#[test]
fn the_operation_is_checked_before_the_name_and_the_name_before_the_kind_of_operation() {
    let (robot, host) = start();
    let prefix = |name: &str| format!("error invoking output binding {name}: ");
    for (name, body, message, error) in [
        ("nobody", r#"{"data":1}"#, "operation field is missing from request", "missing-operation"),
        ("nobody", r#"{"operation":""}"#, "operation field is missing from request", "missing-operation"),
        ("mydingtalk", r#"{"operation":null}"#, "operation field is missing from request", "missing-operation"),
        ("mydingtalk", "null", "operation field is missing from request", "missing-operation"),
        ("nobody", r#"{"operation":"create"}"#, "couldn't find output binding nobody", "not-found"),
        ("nobody", r#"{"operation":"delete"}"#, "couldn't find output binding nobody", "not-found"),
        (
            "mydingtalk",
            r#"{"operation":"delete"}"#,
            "binding mydingtalk does not support operation delete. supported operations:create get reply",
            "unsupported-operation",
        ),
        (
            "mydingtalk",
            r#"{"operation":"Create"}"#,
            "binding mydingtalk does not support operation Create. supported operations:create get reply",
            "unsupported-operation",
        ),
    ] {
        assert_invoke_error(&host.post(name, body), &format!("{}{message}", prefix(name)), error);
    }
    assert_eq!(robot.stats().requests, 0);
}

#[test]
fn names_are_compared_with_regard_to_case() {
    let (_robot, host) = start();
    let message = "error invoking output binding MyDingTalk: couldn't find output binding MyDingTalk";
    assert_invoke_error(&host.post("MyDingTalk", CREATE), message, "not-found");
}

#[test]
fn an_error_of_the_component_comes_with_its_metadata_as_headers_and_as_details() {
    let (robot, host) = start();
    robot.fail(Fault::Rejected { errcode: 130_101, errmsg: "send too fast".into() }, Times::ONCE);
    let reply = host.post("mydingtalk", CREATE);
    let answer = reply.json();
    let message = answer["message"].as_str().unwrap();
    let start = "error invoking output binding mydingtalk: dingtalk webhook error: send msg failed. send too fast";
    assert!(message.starts_with(start), "{message}");
    assert_invoke_error(&reply, message, "rejected");
    for (name, value) in [
        ("statusCode", "200"),
        ("errcode", "130101"),
        ("errmsg", "send too fast"),
        ("class", "rate-limited"),
        ("retryAfter", "600000"),
    ] {
        assert_eq!(reply.metadata(name), Some(value), "{name}");
        assert_eq!(answer["details"][0]["metadata"][name], value, "{name}");
    }
    // As Go writes header names: the first letter, and nothing after the dot.
    let names: Vec<&str> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"Metadata.statuscode") && names.contains(&"Metadata.retryafter"), "{names:?}");
    assert_success(&host.post("mydingtalk", CREATE));
}

#[test]
fn what_dingtalk_says_cannot_add_a_header() {
    let (robot, host) = start();
    let evil = "坏\r\nx-evil: 1\r\n\r\n<script>\u{85}\u{2028}\u{7f}\t end";
    for errcode in [0, 310_000] {
        robot.fail(Fault::Rejected { errcode, errmsg: evil.into() }, Times::ONCE);
        let mut connection = Connection::open(host.address());
        connection.write(curl(CREATE));
        let reply = connection.read();
        assert_eq!(reply.status, if errcode == 0 { 200 } else { 500 }, "{reply:?}");
        assert_eq!(reply.header("x-evil"), None);
        assert_eq!(reply.metadata("errmsg"), Some("坏  x-evil: 1    <script>     end"));
        // The connection is still in step: the next answer is the next request's.
        connection.write(curl("{}"));
        assert_eq!(connection.read().metadata("error"), Some("missing-operation"));
    }
}

#[test]
fn slashes_in_a_path_are_cleaned_up() {
    let (robot, host) = start();
    let paths = [
        "/v1.0/bindings/mydingtalk/",
        "//v1.0/bindings/mydingtalk",
        "/v1.0//bindings///mydingtalk//",
        "/v1.0/bindings/mydingtalk?unknown=1",
    ];
    for path in paths {
        assert_success(&send(host.address(), "POST", path, &[], CREATE.as_bytes()));
    }
    assert_eq!(robot.stats().accepted, 4);
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
fn another_method_or_path_is_a_service_invocation_without_a_target() {
    let (robot, host) = start();
    for (method, path) in [
        ("GET", "/v1.0/bindings/mydingtalk"),
        ("DELETE", "/v1.0/bindings/mydingtalk"),
        ("PATCH", "/v1.0/bindings/mydingtalk"),
        ("OPTIONS", "/v1.0/bindings/mydingtalk"),
        ("post", "/v1.0/bindings/mydingtalk"),
        ("POST", "/v1.0/bindings"),
        ("POST", "/v1.0/bindings/"),
        ("POST", "/v1.0/bindings/mydingtalk/more"),
        ("POST", "/V1.0/bindings/mydingtalk"),
        ("POST", "/v1.0/publish/a/b"),
        ("POST", "/v1.0/healthz"),
        ("POST", "/v1.0/metadata"),
        ("GET", "/v1.0/metadata/key"),
        ("GET", "/"),
    ] {
        let reply = send(host.address(), method, path, &[], CREATE.as_bytes());
        let message = "failed getting app id either from the URL path or the header dapr-app-id";
        assert_error(&reply, 404, "ERR_DIRECT_INVOKE", message);
    }
    assert_eq!(robot.stats().requests, 0);
}

#[test]
fn a_body_is_read_with_the_habits_of_gos_decoder() {
    let (robot, host) = start();
    for body in [
        r#"{"OPERATION":"create","Data":{"message":"Hi"},"MetaData":{"title":"x"}}"#,
        r#"{"operation":"create","data":{"message":"Hi"}} and what follows"#,
        r#"{"operation":"create","data":{"message":"Hi"}}{"operation":"delete"}"#,
        r#"{"operation":"delete","operation":"create","data":1,"data":{"message":"Hi"}}"#,
        r#"{"operation":"create","operation":null,"data":{"message":"Hi"},"metadata":null,"unknown":[{}]}"#,
        r#"{"operation":"create","data":{"message":"Hi"},"metadata":{"title":null,"user-agent":"x"}}"#,
    ] {
        assert_success(&host.post("mydingtalk", body));
    }
    assert!(robot.messages().iter().all(|message| message.shown.contains("Hi")));
    assert_eq!(robot.stats().accepted, 6);
    let message = "error invoking output binding mydingtalk: operation field is missing from request";
    assert_invoke_error(&host.post("mydingtalk", "null"), message, "missing-operation");
}

#[test]
fn with_a_token_everything_but_health_asks_for_it() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("mydingtalk", &robot), &[], &[("DAPR_API_TOKEN", "sesame")]);
    let with = |method, path, token: Option<&str>| {
        let headers: Vec<(&str, &str)> = token.map(|token| ("dapr-api-token", token)).into_iter().collect();
        send(host.address(), method, path, &headers, CREATE.as_bytes())
    };
    let closed = [
        ("POST", "/v1.0/bindings/mydingtalk", 200),
        ("PUT", "/v1.0/bindings/mydingtalk", 200),
        ("GET", "/v1.0/metadata", 200),
        ("PUT", "/v1.0/metadata/key", 204),
        ("GET", "/nowhere", 404),
    ];
    for (method, path, status) in closed {
        for token in [None, Some(""), Some("Sesame"), Some("sesame2"), Some("sesam")] {
            let reply = with(method, path, token);
            assert_eq!((reply.status, reply.body.as_str()), (401, "invalid api token\n"), "{method} {path} {token:?}");
            assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        }
        assert_eq!(with(method, path, Some("sesame")).status, status, "{method} {path}");
    }
    for path in ["/v1.0/healthz", "/v1.0/healthz/outbound", "//v1.0/healthz/"] {
        assert_eq!(with("GET", path, None).status, 204, "{path}");
    }
    assert_eq!(robot.stats().accepted, 2);
    assert!(!host.log().contains("sesame"), "{}", host.log());
}

#[test]
fn health_is_204_unless_asked_about_another_application() {
    let (_robot, host) = start();
    let get = |path| send(host.address(), "GET", path, &[], b"");
    for path in [
        "/v1.0/healthz",
        "/v1.0/healthz?appid=dingtalk-host",
        "/v1.0/healthz?x=1&appid=dingtalk%2Dhost",
        "/v1.0/healthz/outbound",
    ] {
        let reply = get(path);
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{path}");
        assert_eq!(reply.header("content-type"), None, "{path}");
    }
    let reply = get("/v1.0/healthz?appid=other");
    assert_error(&reply, 500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match");
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
fn trace_headers_are_taken_and_invalid_baggage_is_refused() {
    let (robot, host) = start();
    let path = "/v1.0/bindings/mydingtalk";
    let trace = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "vendor=1"),
        ("baggage", "user=alice;p=1,tenant=%20x"),
    ];
    assert_success(&send(host.address(), "POST", path, &trace, CREATE.as_bytes()));
    let reply = send(host.address(), "POST", path, &[("baggage", "user")], CREATE.as_bytes());
    let message = "invalid baggage header: member 1 is not key=value";
    assert_error(&reply, 400, "ERR_MALFORMED_REQUEST", message);
    assert_eq!(robot.stats().accepted, 1);
}

#[test]
fn one_connection_serves_many_requests_whatever_their_answer() {
    let (robot, host) = start();
    let mut connection = Connection::open(host.address());
    for _ in 0..3 {
        connection.write(curl(CREATE));
        assert_success(&connection.read());
        connection.write(curl("{"));
        assert_eq!(connection.read().status, 400);
        connection.write(curl("{}"));
        assert_eq!(connection.read().status, 500);
        connection.write("GET /v1.0/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert_eq!(connection.read().status, 204);
        connection.write("GET /nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n");
        assert_eq!(connection.read().status, 404);
    }
    // Requests need not wait for answers; these come in order.
    connection.write(format!("{}{}{}", curl(CREATE), curl("{"), curl(CREATE)));
    assert_eq!([200, 400, 200], [(); 3].map(|()| connection.read().status));
    assert_eq!(robot.stats().accepted, 5);
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
