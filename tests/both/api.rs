//! Dapr's HTTP API for bindings is daprd's, to the letter where a client sees it: statuses, error codes and
//! texts, header names, and what is accepted although it looks wrong.

use dingtalk_host::simulator::fault::{Fault, Times};
use serde_json::json;

use super::Server;
use crate::support::{Connection, Reply, Robot, send};

/// A message that the robot posts.
pub const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

/// A server with one binding, `mydingtalk`, and its robot.
fn start<S: Server>() -> (Robot, S) {
    let robot = Robot::start();
    let server = S::serve(&robot, None);
    (robot, server)
}

/// The error must be daprd's two members, `errorCode` first, and nothing more.
#[track_caller]
pub fn assert_error(reply: &Reply, status: u16, code: &str, message: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    assert_eq!(reply.body, format!(r#"{{"errorCode":"{code}","message":{}}}"#, json!(message)));
}

/// A failed operation: daprd's two members in daprd's order, then the details that this host adds.
#[track_caller]
pub fn assert_invoke_error(reply: &Reply, message: &str, error: &str) {
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
pub fn assert_success(reply: &Reply) {
    assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{reply:?}");
    assert_eq!(reply.metadata("errcode"), Some("0"), "{reply:?}");
}

/// What curl writes for the specification's examples.
pub fn curl(body: &str) -> String {
    format!(
        "POST /v1.0/bindings/mydingtalk HTTP/1.1\r\nHost: localhost:3500\r\nUser-Agent: curl/8.14.1\r\nAccept: \
         */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A connection on which a request has begun whose body comes in chunks.
pub fn in_chunks(host: &impl Server) -> Connection {
    let mut connection = Connection::open(host.address());
    connection
        .write("POST /v1.0/bindings/mydingtalk HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    connection
}

pub fn the_specifications_create_request_is_posted_signed_and_answered_200_with_an_empty_body<S: Server>() {
    let (robot, host) = start::<S>();
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
    assert_eq!(reply.header("content-type"), Some("application/json"));
    for (name, value) in [("statuscode", "200"), ("errcode", "0"), ("errmsg", "ok")] {
        assert_eq!(reply.metadata(name), Some(value), "{reply:?}");
    }
    let messages = robot.messages();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].signed && messages[0].shown.contains("Hi"), "{messages:?}");
}

pub fn the_specifications_get_request_fails_because_nothing_reads<S: Server>() {
    let (robot, host) = start::<S>();
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

pub fn post_and_put_do_the_same<S: Server>() {
    let (robot, host) = start::<S>();
    for method in ["POST", "PUT"] {
        let path = "/v1.0/bindings/mydingtalk";
        assert_success(&send(host.address(), method, path, &[], CREATE.as_bytes()));
        assert_eq!(send(host.address(), method, path, &[], b"[]").status, 400);
        assert_eq!(send(host.address(), method, path, &[], b"{}").status, 500);
    }
    assert_eq!(robot.stats().accepted, 2);
}

pub fn the_content_type_of_a_request_does_not_matter<S: Server>() {
    let (_robot, host) = start::<S>();
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
        let headers = [("content-type", content_type)];
        assert_success(&send(host.address(), "POST", "/v1.0/bindings/mydingtalk", &headers, CREATE.as_bytes()));
    }
}

pub fn data_reaches_the_robot_as_it_was_written<S: Server>() {
    let (robot, host) = start::<S>();
    let data = r#"{"msgtype":"text", "text":{"content":"<b>&amp; 你好"}, "z":12345678901234567890, "a":1.0}"#;
    assert_success(&host.invoke("mydingtalk", "create", data));
    assert_eq!(robot.messages()[0].message.get(), data);
}

pub fn a_body_that_cannot_be_decoded_is_malformed_and_nothing_is_sent<S: Server>() {
    let (robot, host) = start::<S>();
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

pub fn an_undecodable_body_is_found_before_an_unknown_name<S: Server>() {
    let (_robot, host) = start::<S>();
    let message = "failed deserializing HTTP body: EOF";
    assert_error(&host.post("nobody", ""), 400, "ERR_MALFORMED_REQUEST", message);
}

pub fn a_body_in_chunks_is_one_body<S: Server>() {
    let (robot, host) = start::<S>();
    let mut connection = in_chunks(&host);
    for chunk in [&CREATE[..7], &CREATE[7..]] {
        connection.write(format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    connection.write("0\r\n\r\n");
    assert_success(&connection.read());
    assert_eq!(robot.stats().accepted, 1);
}

pub fn a_client_that_waits_for_100_continue_is_told_to_go_on<S: Server>() {
    let (_robot, host) = start::<S>();
    let mut connection = Connection::open(host.address());
    connection.write(format!(
        "PUT /v1.0/bindings/mydingtalk HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        CREATE.len()
    ));
    assert_eq!(connection.read().status, 100);
    connection.write(CREATE);
    assert_success(&connection.read());
}

pub fn the_operation_is_checked_before_the_name_and_the_name_before_the_kind_of_operation<S: Server>() {
    let (robot, host) = start::<S>();
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

pub fn names_are_compared_with_regard_to_case<S: Server>() {
    let (_robot, host) = start::<S>();
    let message = "error invoking output binding MyDingTalk: couldn't find output binding MyDingTalk";
    assert_invoke_error(&host.post("MyDingTalk", CREATE), message, "not-found");
}

pub fn an_error_of_the_component_comes_with_its_metadata_as_headers_and_as_details<S: Server>() {
    let (robot, host) = start::<S>();
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
    assert_success(&host.post("mydingtalk", CREATE));
}

pub fn what_dingtalk_says_cannot_add_a_header<S: Server>() {
    let (robot, host) = start::<S>();
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

pub fn slashes_in_a_path_are_cleaned_up<S: Server>() {
    let (robot, host) = start::<S>();
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

pub fn another_method_or_path_is_a_service_invocation_without_a_target<S: Server>() {
    let (robot, host) = start::<S>();
    for (method, path) in [
        ("GET", "/v1.0/bindings/mydingtalk"),
        ("DELETE", "/v1.0/bindings/mydingtalk"),
        ("PATCH", "/v1.0/bindings/mydingtalk"),
        ("OPTIONS", "/v1.0/bindings/mydingtalk"),
        ("post", "/v1.0/bindings/mydingtalk"),
        ("POST", "/v1.0/bindings"),
        ("POST", "/v1.0/bindings/"),
        ("GET", "/v1.0/bindings/mydingtalk/create"),
        ("DELETE", "/v1.0/bindings/mydingtalk/create"),
        ("POST", "/v1.0/bindings/mydingtalk/create/more"),
        ("POST", "/v1.0/bindings/mydingtalk/callback/more"),
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

pub fn a_body_is_read_with_the_habits_of_gos_decoder<S: Server>() {
    let (robot, host) = start::<S>();
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

pub fn with_a_token_everything_but_health_asks_for_it<S: Server>() {
    let robot = Robot::start();
    let host = S::serve(&robot, Some("sesame"));
    let with = |method, path, token: Option<&str>| {
        let headers: Vec<(&str, &str)> = token.map(|token| ("dapr-api-token", token)).into_iter().collect();
        send(host.address(), method, path, &headers, CREATE.as_bytes())
    };
    let closed = [
        ("POST", "/v1.0/bindings/mydingtalk", 200),
        ("PUT", "/v1.0/bindings/mydingtalk", 200),
        ("GET", "/v1.0/metadata", 200),
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

pub fn health_is_204_unless_asked_about_another_application<S: Server>() {
    let (_robot, host) = start::<S>();
    let get = |path: &str| send(host.address(), "GET", path, &[], b"");
    for path in [
        "/v1.0/healthz",
        &format!("/v1.0/healthz?appid={}", S::APP_ID),
        &format!("/v1.0/healthz?x=1&appid={}", S::APP_ID.replace('-', "%2D")),
        "/v1.0/healthz/outbound",
    ] {
        let reply = get(path);
        assert_eq!((reply.status, reply.body.as_str()), (204, ""), "{path}");
        assert_eq!(reply.header("content-type"), None, "{path}");
    }
    let reply = get("/v1.0/healthz?appid=other");
    assert_error(&reply, 500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match");
}

pub fn trace_headers_are_taken_and_invalid_baggage_is_refused<S: Server>() {
    let (robot, host) = start::<S>();
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

pub fn one_connection_serves_many_requests_whatever_their_answer<S: Server>() {
    let (robot, host) = start::<S>();
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
