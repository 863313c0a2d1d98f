//! What `dapr.proto.runtime.v1.Dapr` answers.

use serde_json::Value;
use tonic::Code;

use super::client::{Client, Refused, binding, framed};
use crate::support::app::{Act, App};
use crate::support::{Host, Resources, Robot, SECRET, component};

const INVOKE: &str = "/dapr.proto.runtime.v1.Dapr/InvokeBinding";

/// Written as no serialiser would.
const TEXT: &str = "{\"msgtype\" :\"text\",\n\"text\":{\"content\":\"\\u4f60 1.0e2 <b>\"}}";

fn client(host: &Host) -> Client {
    Client::new(host.grpc_address())
}

#[test]
fn data_arrives_byte_for_byte_and_the_answer_says_what_https_does() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("ops", &robot));
    let (answer, head) = client(&host).invoke(binding("ops", "create", TEXT.as_bytes(), &[])).unwrap();
    assert_eq!(robot.messages()[0].message.get(), TEXT);
    assert!(answer.data.is_empty());
    for (name, value) in [("statusCode", "200"), ("errcode", "0"), ("errmsg", "ok")] {
        assert_eq!(answer.metadata.get(name).map(String::as_str), Some(value), "{answer:?}");
        let name = format!("metadata.{}", name.to_lowercase());
        assert_eq!(head.get(&name).unwrap(), value, "{head:?}");
    }
    // Bytes that are no JSON at all; over HTTP the envelope can have none.
    client(&host)
        .invoke(binding("ops", "create", "Hi 你".as_bytes(), &[("msgtype", "markdown"), ("title", "t")]))
        .unwrap();
    assert_eq!(robot.messages()[1].msgtype, "markdown");
}

#[test]
fn every_failure_is_told_as_over_http() {
    let robot = Robot::start();
    let resources = Resources::of("ops", &robot)
        .with("away.yaml", &component("away", &[("id", "a"), ("url", "http://127.0.0.1:9/robot/send?access_token=t")]))
        .with("in.yaml", &component("in", &[("id", "i"), ("url", &robot.url()), ("direction", "input")]));
    let host = Host::serve(&resources);
    let client = client(&host);
    for (name, operation, data, expected) in [
        ("ops", "", "{}", "operation field is missing from request"),
        ("none", "create", "{}", "couldn't find output binding none"),
        ("none", "", "{}", "operation field is missing from request"),
        ("in", "create", "{}", "couldn't find output binding in"),
        ("OPS", "create", "{}", "couldn't find output binding OPS"),
        ("ops", "delete", "{}", "binding ops does not support operation delete. supported operations:create get reply"),
        ("ops", "create", "[1]", "dingtalk webhook error: "),
        ("ops", "create", r#"{"msgtype":"file"}"#, "dingtalk webhook error: send msg failed. "),
        ("ops", "get", "{}", "dingtalk webhook error: invalid component metadata.id ops"),
        ("away", "create", r#"{"message":"x"}"#, "dingtalk webhook error: "),
    ] {
        let refused = client.invoke(binding(name, operation, data.as_bytes(), &[])).unwrap_err();
        let start = format!("error invoking output binding {name}: {expected}");
        assert!(refused.message.starts_with(&start), "{operation} of {name}: {refused:?}");
        assert_eq!(refused.code, Code::Internal);
        assert_eq!((refused.reason.as_str(), refused.domain.as_str()), ("ERR_INVOKE_OUTPUT_BINDING", "dapr.io"));
        let body = format!(r#"{{"operation":"{operation}","data":{data}}}"#);
        let http = host.post(name, &body).json();
        assert_eq!(http["message"], refused.message);
        assert_eq!(http["errorCode"], refused.reason);
        let details: Value = serde_json::to_value(&refused.details).unwrap();
        assert_eq!(http["details"][0]["metadata"], details, "{operation} of {name}");
    }
}

#[test]
fn the_token_is_wanted_for_everything() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("ops", &robot), &[], &[("DAPR_API_TOKEN", "t0k3n")]);
    let with = |token: Option<&str>| {
        let mut client = client(&host);
        client.metadata = token.map(|token| ("dapr-api-token", token.to_owned())).into_iter().collect();
        client
    };
    for (token, why) in [
        (None, "missing api token in request metadata"),
        (Some("t0k3"), "authentication error: api token mismatch"),
        (Some(""), "authentication error: api token mismatch"),
    ] {
        let client = with(token);
        let calls: [Refused; 3] = [
            client.create("ops", r#"{"message":"x"}"#).unwrap_err(),
            client.get_metadata().unwrap_err(),
            client.set_metadata("a", "b").unwrap_err(),
        ];
        for refused in calls {
            assert_eq!((refused.code, refused.message.as_str()), (Code::Unauthenticated, "Unauthorized"));
            assert_eq!((refused.reason.as_str(), refused.domain.as_str()), ("Unauthorized", "dapr.io"));
            assert_eq!((&*refused.details["http.code"], &*refused.details["http.error_message"]), ("401", why));
        }
    }
    // Who has no token learns nothing of what there is.
    let grpc = [("content-type", "application/grpc")];
    assert_eq!(with(None).raw("POST", "/a.B/C", &grpc, framed(b"")).1, Some(16));
    assert_eq!(robot.stats().accepted, 0);
    with(Some("t0k3n")).create("ops", r#"{"message":"x"}"#).unwrap();
    assert_eq!(with(Some("t0k3n")).get_metadata().unwrap().id, "dingtalk-host");
}

#[test]
fn what_is_not_served_is_unimplemented() {
    let host = Host::serve(&Resources::new());
    let client = client(&host);
    let grpc = [("content-type", "application/grpc")];
    for path in ["/dapr.proto.runtime.v1.Dapr/GetState", "/grpc.health.v1.Health/Check", "/x", "/"] {
        let (http, code, message) = client.raw("POST", path, &grpc, framed(b""));
        assert_eq!((http, code), (200, Some(12)), "{path}");
        assert!(message.contains(path) && message.contains("InvokeBinding, GetMetadata, SetMetadata"), "{message}");
    }
    let (http, code, message) =
        client.raw("POST", INVOKE, &[grpc[0], ("grpc-encoding", "deflate")], [1, 0, 0, 0, 1, 0].to_vec());
    assert_eq!((http, code), (200, Some(12)), "{message}");
    assert_eq!(client.raw("GET", INVOKE, &grpc, Vec::new()), (405, None, String::new()));
    assert_eq!(client.raw("POST", INVOKE, &[("content-type", "application/json")], b"{}".to_vec()).0, 415);
    assert_eq!(client.raw("POST", INVOKE, &[], Vec::new()).0, 415);
}

#[test]
fn what_is_no_message_is_told_as_go_tells_it() {
    let host = Host::serve(&Resources::new());
    let client = client(&host);
    let send = |body: Vec<u8>| client.raw("POST", INVOKE, &[("content-type", "application/grpc+proto")], body);
    for (body, code, what) in [
        (framed(b"\x0a\x05robo"), 13, "grpc: error unmarshalling request: a field is cut off"),
        (framed(b"\x0a\x01\xff"), 13, "UTF-8"),
        (vec![], 13, "Missing request message"),
        (vec![0, 0, 0, 0, 9, 1], 13, ""),
        (framed(&[0x1a, 0].repeat(1_001)), 3, "metadata has more than 1000 items"),
    ] {
        let (http, found, message) = send(body);
        assert_eq!((http, found), (200, Some(code)), "{message}");
        assert!(message.contains(what), "{message}");
    }
    // After the message comes nothing that belongs to the call.
    let (_, code, message) = send([framed(b""), framed(b"\x0a\x05robo")].concat());
    assert!(code == Some(13) && message.contains("operation field is missing"), "{message}");
}

#[test]
fn metadata_is_what_http_says_it_is() {
    let robot = Robot::start();
    let resources = Resources::of("ops", &robot).with(
        "in.yaml",
        &component("in", &[("id", "i"), ("url", &robot.url()), ("secret", SECRET), ("direction", "input")]),
    );
    let host = Host::serve_with(&resources, &["--print-events", "--app-id", "shop"], &[]);
    let client = client(&host);
    client.set_metadata("colour", "red").unwrap();
    let http = crate::support::send(host.address(), "GET", "/v1.0/metadata", &[], b"").json();
    let grpc = client.get_metadata().unwrap();
    assert_eq!((http["id"].as_str(), http["runtimeVersion"].as_str()), (Some("shop"), Some(&*grpc.runtime_version)));
    assert_eq!(grpc.id, "shop");
    assert_eq!(serde_json::to_value(&grpc.extended_metadata).unwrap(), http["extended"]);
    assert_eq!(grpc.extended_metadata["colour"], "red");
    let components: Vec<Value> = grpc
        .registered_components
        .into_iter()
        .map(|one| serde_json::json!({"name": one.name, "type": one.r#type, "version": one.version, "capabilities": one.capabilities}))
        .collect();
    assert_eq!(Value::from(components.clone()), http["components"]);
    assert_eq!(components[0]["capabilities"], serde_json::json!(["INPUT_BINDING"]));
    // DISABLED
    assert_eq!(grpc.actor_runtime.unwrap().runtime_status, 1);
    let refused = client.set_metadata("long", &"x".repeat(4_097)).unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (Code::InvalidArgument, "ERR_MALFORMED_REQUEST"));
    assert!(refused.message.contains("longer than 4096 bytes"), "{refused:?}");
}

#[test]
fn the_calls_metadata_goes_to_the_application_with_get_but_for_the_token() {
    let (app, robot) = (App::start(), Robot::start());
    let environment = [("DAPR_API_TOKEN", "cl13nt-t0k3n"), ("APP_API_TOKEN", "4pp-t0k3n")];
    let host = Host::serve_with(&Resources::of("ops", &robot), &["--app-port", &app.port()], &environment);
    app.answer(Act::ok("an answer"));
    let mut client = client(&host);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client.metadata = [
        ("dapr-api-token", "cl13nt-t0k3n"),
        ("x-kind", "the call's"),
        ("x-both", "the call's"),
        ("traceparent", trace),
        ("baggage", "a=1"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec();
    let request = binding("ops", "get", b"\0\xff", &[("x-both", "the request's"), ("traceparent", "x")]);
    let (answer, _) = client.invoke(request).unwrap();
    assert_eq!(answer.data, b"an answer");
    let event = app.wait_for_events(1);
    assert_eq!(event.body, b"\0\xff");
    for (name, value) in [
        ("x-kind", "the call's"),
        ("x-both", "the request's"),
        ("traceparent", trace),
        ("baggage", "a=1"),
        ("dapr-authority", &*host.grpc_address().to_string()),
        ("dapr-api-token", "4pp-t0k3n"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(event.header(name), [value], "{name}");
    }
    assert!(!format!("{event:?}").contains("cl13nt"), "{event:?}");
    client.metadata.push(("baggage", "nothing".into()));
    let refused = client.invoke(binding("ops", "get", b"x", &[])).unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument);
    assert!(refused.message.starts_with("invalid baggage header: "), "{refused:?}");
}

#[test]
fn the_configuration_says_which_methods_there_are() {
    let robot = Robot::start();
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: dingtalk\nspec:\n  api:\n    denied:\n    \
                - name: bindings\n      version: v1\n      protocol: grpc\n";
    let configuration = Resources::new().with("config.yaml", text);
    let file = configuration.path().join("config.yaml");
    let host = Host::serve_with(&Resources::of("ops", &robot), &["--config", file.to_str().unwrap()], &[]);
    let refused = client(&host).create("ops", r#"{"message":"Hi"}"#).unwrap_err();
    assert_eq!((refused.code, refused.message.as_str()), (Code::Unimplemented, "Not Implemented"));
    client(&host).get_metadata().unwrap();
    // A rule is for one protocol.
    assert_eq!(host.post("ops", r#"{"operation":"create","data":{"message":"Hi"}}"#).status, 200);
    assert_eq!(robot.stats().accepted, 1);
}
