//! Spans: one for every call and every callback, those below them, and where they go, by OTLP, as daprd's users have it.

pub mod collector;

use std::collections::BTreeMap;
use std::time::Instant;

use dingtalk_host::simulator::conversation::Say;
use dingtalk_host::simulator::fault::{Fault, Times};
use http::Version;
use prost::Message;

use crate::grpc::client::{Client, binding, framed};
use crate::support::app::{Act, App};
use crate::support::{Host, PATIENCE, Reply, Resources, Robot, SECRET, TOKEN, component, receiving, send};
use collector::{Collector, LATER, Mood, SOON, Span};

const HI: &[u8] = br#"{"message":"c4n4ry w0rd5"}"#;

const CREATE: &str = r#"{"operation":"create","data":{"message":"c4n4ry w0rd5"}}"#;

/// The example of the W3C's text, sampled and not.
const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn endpoint(collector: &Collector) -> (&'static str, String) {
    ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address()))
}

/// With the variables alone, and over HTTP.
fn variables(collector: &Collector) -> [(&'static str, String); 3] {
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned());
    [endpoint(collector), protocol, (SOON.0, SOON.1.to_owned())]
}

fn serve(resources: &Resources, arguments: &[&str], variables: &[(&str, String)]) -> Host {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Host::serve_with(resources, arguments, &variables)
}

/// `--config` with this `spec.tracing`.
fn configuration(tracing: &str) -> Resources {
    let head = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  tracing:\n";
    Resources::new().with("config.yaml", &format!("{head}{tracing}"))
}

fn create(host: &Host, traceparent: Option<&str>) -> Reply {
    let headers: Vec<_> = traceparent.map(|value| ("traceparent", value)).into_iter().collect();
    send(host.address(), "POST", "/v1.0/bindings/team", &headers, CREATE.as_bytes())
}

#[track_caller]
fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

#[track_caller]
fn assert_attributes(span: &Span, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(span.attributes, expected, "{span:#?}");
}

/// The value of `dingtalk_spans_total`.
fn counted(host: &Host, result: &str) -> u64 {
    let log = host.log();
    let line = log.lines().find(|line| line.contains("metrics are listening")).unwrap();
    let address = line.split_once("address=").unwrap().1.trim().parse().unwrap();
    let metrics = send(address, "GET", "/metrics", &[], b"").body;
    let line = metrics.lines().find(|line| line.starts_with("dingtalk_spans_total{") && line.contains(result));
    line.unwrap_or_else(|| panic!("{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[track_caller]
fn wait_for_count(host: &Host, result: &str, least: u64) {
    receiving::until(&format!("{least} spans are {result}"), || counted(host, result) >= least);
}

#[test]
fn a_call_over_http_has_a_span_and_what_it_posts_one_below() {
    let (robot, collector) = (Robot::start(), Collector::start());
    let host = serve(&Resources::of("team", &robot), &["--app-id", "shop"], &variables(&collector));
    let reply = create(&host, Some(SAMPLED));
    assert_eq!(reply.status, 200);
    let spans = collector.wait_for(2);
    let (call, posted) = (named(&spans, "/v1.0/bindings/team"), named(&spans, "bindings/team/create"));
    assert_eq!((call.kind, posted.kind), (SERVER, CLIENT));
    assert_eq!((&*call.trace, &*call.parent), (&SAMPLED[3..35], &SAMPLED[36..52]));
    assert_eq!((&posted.trace, &posted.parent), (&call.trace, &call.id));
    assert_eq!(reply.header("traceparent"), Some(&*call.traceparent()));
    assert_attributes(
        call,
        &[
            ("dapr.api", "POST /v1.0/bindings/team"),
            ("dapr.protocol", "http"),
            ("dapr.status_code", "200"),
            ("db.connection_string", "bindings"),
            ("db.name", "team"),
            ("db.statement", "POST /v1.0/bindings/team"),
            ("db.system", "bindings"),
            ("http.request.method", "POST"),
            ("url.full", "/v1.0/bindings/team"),
        ],
    );
    assert_attributes(
        posted,
        &[
            ("db.connection_string", "bindings"),
            ("db.name", "team"),
            ("db.system", "bindings"),
            ("dingtalk.errcode", "0"),
            ("dingtalk.operation", "create"),
        ],
    );
    assert_eq!((&call.failure, &posted.failure), (&None, &None));
    assert_eq!(call.resource["service.name"], "shop");
    let post = &collector.posts()[0];
    assert_eq!((&*post.path, post.version), ("/v1/traces", Version::HTTP_11));
    assert_eq!(post.headers["content-type"], "application/x-protobuf");

    // A failure, by the names of docs/errors.md.
    robot.fail(Fault::Rejected { errcode: 130_101, errmsg: "S3CR3T".into() }, Times::ONCE);
    assert_eq!(create(&host, None).status, 500);
    let spans = collector.wait_for(4).split_off(2);
    let (call, posted) = (named(&spans, "/v1.0/bindings/team"), named(&spans, "bindings/team/create"));
    assert_eq!((&*call.parent, &posted.parent), ("", &call.id));
    assert_eq!(call.failure.as_deref(), Some("Code(500): Internal Server Error"));
    let of = |name: &str| posted.attribute(name).to_owned();
    assert_eq!(
        ["error.type", "dingtalk.class", "dingtalk.outcome", "dingtalk.errcode"].map(of),
        ["rejected", "rate-limited", "not-sent", "130101"]
    );
    assert_eq!(posted.failure.as_deref(), Some("rejected"));

    // What strangers make up, and what posts nothing.
    assert_eq!(host.post("S3CR3T", CREATE).status, 500);
    let spans = collector.wait_for(5).split_off(4);
    assert_eq!((spans[0].name.as_str(), spans[0].attribute("db.name")), ("/v1.0/bindings/{name}", "{name}"));
    let operations = ["create", "S3CR3T"].map(|operation| {
        let path = format!("/v1.0/bindings/team/{operation}?metadata.title=S3CR3T");
        send(host.address(), "POST", &path, &[], b"[]").status
    });
    assert_eq!(operations, [500, 500]);
    let spans = collector.wait_for(8).split_off(5);
    let call = named(&spans, "/v1.0/bindings/team/create");
    assert_eq!(call.attribute("url.full"), "/v1.0/bindings/team/create");
    assert_eq!(call.attribute("dapr.api"), "POST /v1.0/bindings/team/create");
    assert_eq!(named(&spans, "bindings/team/create").parent, call.id);
    named(&spans, "/v1.0/bindings/team/{operation}");
    host.end();
    let sent =
        collector.posts().iter().map(|post| String::from_utf8_lossy(&post.body).into_owned()).collect::<String>();
    for secret in ["S3CR3T", "c4n4ry", SECRET, TOKEN, "access_token", "sign"] {
        assert!(!sent.contains(secret), "{secret}");
    }
}

#[test]
fn a_call_over_grpc_has_a_span_whichever_form_its_parent_has() {
    let (robot, collector) = (Robot::start(), Collector::start());
    let host = serve(&Resources::of("team", &robot), &[], &[endpoint(&collector), (SOON.0, SOON.1.into())]);
    let mut client = Client::new(host.grpc_address());
    let request = |operation| binding("team", operation, HI, &[]);
    client.metadata = vec![("traceparent", SAMPLED.into())];
    let (_, head) = client.invoke(request("create")).unwrap();
    // The older form of the same.
    let binary = [("content-type", "application/grpc"), ("grpc-trace-bin", "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE")];
    let message = framed(&request("nothing").encode_to_vec());
    assert_eq!(client.raw("POST", "/dapr.proto.runtime.v1.Dapr/InvokeBinding", &binary, message).1, Some(13));
    let spans = collector.wait_for(3);
    let calls: Vec<_> = spans.iter().filter(|span| span.name.ends_with("/InvokeBinding")).collect();
    for span in &calls {
        assert_eq!((span.kind, &*span.trace, &*span.parent), (SERVER, &SAMPLED[3..35], &SAMPLED[36..52]), "{span:#?}");
    }
    assert_attributes(
        calls[0],
        &[
            ("dapr.api", "/dapr.proto.runtime.v1.Dapr/InvokeBinding"),
            ("dapr.protocol", "grpc"),
            ("db.connection_string", "bindings"),
            ("db.name", "team"),
            ("db.statement", "/dapr.proto.runtime.v1.Dapr/InvokeBinding"),
            ("db.system", "bindings"),
            ("rpc.grpc.status_code", "0"),
            ("rpc.service", "Dapr"),
        ],
    );
    assert_eq!(named(&spans, "bindings/team/create").parent, calls[0].id);
    assert_eq!((calls[1].attribute("rpc.grpc.status_code"), calls[1].failure.as_deref()), ("13", Some("Internal")));
    let binary = head.get_bin("grpc-trace-bin").unwrap().to_bytes().unwrap();
    let hex: String = binary.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, format!("0000{}01{}0201", calls[0].trace, calls[0].id));
    let post = &collector.posts()[0];
    assert_eq!(post.path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!((post.version, &post.headers["te"]), (Version::HTTP_2, &"trailers".parse().unwrap()));
}

#[test]
fn a_callback_and_its_delivery_have_spans_and_the_application_continues_the_trace() {
    let collector = Collector::start();
    let variables = variables(&collector);
    let environment: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let setup = receiving::start_with(&[], &[], &environment);
    let headers = [receiving::signed(SECRET), vec![("traceparent".to_owned(), SAMPLED.to_owned())]].concat();
    let body = receiving::text("m1");
    assert_eq!(receiving::post(setup.host.address(), "team", &headers, body.as_bytes()).status, 200);
    let spans = collector.wait_for(2);
    let (callback, delivery) = (named(&spans, "/v1.0/bindings/team/callback"), named(&spans, "bindings/team"));
    assert_eq!((callback.kind, delivery.kind), (SERVER, CLIENT));
    assert_eq!((&*callback.trace, &*callback.parent), (&SAMPLED[3..35], &SAMPLED[36..52]));
    assert_eq!((&delivery.trace, &delivery.parent), (&callback.trace, &callback.id));
    assert_eq!((callback.attribute("dingtalk.callback"), callback.attribute("dapr.status_code")), ("answered", "200"));
    assert_attributes(
        delivery,
        &[
            ("db.connection_string", "POST /team"),
            ("db.name", "team"),
            ("db.system", "bindings"),
            ("rpc.service", "Dapr"),
        ],
    );
    let event = setup.app.wait_for_events(1);
    assert_eq!(event.header("traceparent"), [delivery.traceparent()]);

    // A forgery is told of as the metrics tell it; "get" is delivered below its call; what the application does not
    // take is a failure.
    assert_eq!(receiving::post(setup.host.address(), "team", &receiving::signed("SECno"), b"{}").status, 403);
    setup.app.answer(Act::Answer(503, "S3CR3T".into()));
    assert_eq!(setup.host.post("team", receiving::GET).status, 500);
    let spans = collector.wait_for(5).split_off(2);
    let forged = named(&spans, "/v1.0/bindings/team/callback");
    assert_eq!((forged.attribute("dingtalk.callback"), forged.attribute("dapr.status_code")), ("bad-signature", "403"));
    let (call, delivery) = (named(&spans, "/v1.0/bindings/team"), named(&spans, "bindings/team"));
    assert_eq!((&delivery.parent, delivery.attribute("http.response.status_code")), (&call.id, "503"));
    assert_eq!(delivery.failure.as_deref(), Some("Code(503): Service Unavailable"));
}

#[test]
fn an_event_of_the_inbox_and_what_is_sent_on_belong_to_the_callbacks_trace() {
    let (collector, dir) = (Collector::start(), tempfile::tempdir().unwrap());
    let variables = variables(&collector);
    let environment: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let inbox = dir.path().join("inbox");
    let app = App::start();
    app.answer(Act::ok(r#"{"to":["team","S3CR3T"],"data":{"message":"on"},"concurrency":"parallel"}"#));
    let setup = receiving::start_for(app, &[], &["--inbox", inbox.to_str().unwrap()], &environment);
    assert_eq!(setup.robot.say(Say::text("ping")).attempts.len(), 1);
    let spans = collector.wait_for(3);
    let callback = named(&spans, "/v1.0/bindings/team/callback");
    for name in ["bindings/team", "bindings/team/create"] {
        let span = named(&spans, name);
        assert_eq!((&span.trace, &span.parent), (&callback.trace, &callback.id), "{name}");
    }
    assert!(setup.host.end().contains("was not sent on"));
    assert!(collector.spans().iter().all(|span| !format!("{span:?}").contains("S3CR3T")));
}

#[test]
fn the_caller_decides_and_for_traces_that_begin_here_the_rate() {
    let (robot, collector) = (Robot::start(), Collector::start());
    let file = |rate: &str| {
        configuration(&format!(
            "    samplingRate: \"{rate}\"\n    otel:\n      endpointAddress: {}\n      isSecure: false\n      protocol: http\n",
            collector.address()
        ))
    };
    let resources = Resources::of("team", &robot);
    let host = |configuration: &Resources| {
        let file = configuration.path().join("config.yaml");
        serve(&resources, &["--config", file.to_str().unwrap()], &[(SOON.0, SOON.1.into())])
    };
    // So seldom that it does not happen here.
    let seldom = file("0.000000000001");
    let of_seldom = host(&seldom);
    let reply = create(&of_seldom, None);
    let parent = reply.header("traceparent").unwrap();
    assert!(parent.ends_with("-00") && parent.len() == 55 && !parent.contains("-000000"), "{parent}");
    let parent = create(&of_seldom, Some(NOT_SAMPLED)).header("traceparent").unwrap().to_owned();
    assert!(parent.starts_with(&NOT_SAMPLED[..36]) && parent.ends_with("-00") && parent != NOT_SAMPLED, "{parent}");
    create(&of_seldom, Some(SAMPLED));
    assert!(of_seldom.end().contains("spans are sent"));
    let spans = collector.spans();
    assert!(spans.len() == 2 && spans.iter().all(|span| span.trace == SAMPLED[3..35]), "{spans:#?}");

    let always = file("1");
    let of_always = host(&always);
    create(&of_always, None);
    create(&of_always, Some(NOT_SAMPLED));
    of_always.end();
    assert_eq!(collector.spans().len(), 4, "those of the trace that has begun here");

    // Off is as it was: the caller's own is handed on, and nothing is answered.
    let off = file("0");
    let of_off = host(&off);
    assert_eq!(create(&of_off, Some(SAMPLED)).header("traceparent"), None);
    assert!(!of_off.end().contains("spans are sent"));
    assert_eq!(collector.spans().len(), 4);
}

#[test]
fn what_waits_is_sent_before_the_end() {
    let (robot, collector) = (Robot::start(), Collector::start());
    let host = serve(&Resources::of("team", &robot), &[], &[endpoint(&collector), (LATER.0, LATER.1.into())]);
    for _ in 0..3 {
        assert_eq!(create(&host, None).status, 200);
    }
    assert_eq!(collector.posts().len(), 0);
    let log = host.end();
    assert_eq!(collector.spans().len(), 6, "{log}");
    assert!(log.contains("every call that was accepted has been answered") && !log.contains("not sent"), "{log}");
}

#[test]
fn a_receiver_that_hangs_holds_neither_calls_nor_the_end_up_and_takes_no_memory() {
    let (robot, collector) = (Robot::start(), Collector::start());
    collector.feel(Mood::Hangs);
    let arguments = ["--metrics-port", "0", "--dapr-graceful-shutdown-seconds", "1"];
    let host = serve(&Resources::of("team", &robot), &arguments, &variables(&collector));
    create(&host, None);
    collector.wait_for_posts(1);
    // Each has one span, and none needs the sandbox.
    let mut connection = crate::support::Connection::open(host.address());
    let request = "POST /v1.0/bindings/none HTTP/1.1\r\nhost: localhost\r\ncontent-length: 28\r\n\r\n\
                   {\"operation\":\"x\",\"data\":null}";
    let length = request.len() - request.find("{").unwrap();
    let request = request.replace("28", &length.to_string());
    for _ in 0..2_500 {
        connection.write(&request);
        assert_eq!(connection.read().status, 500);
    }
    // 2,048 have found a place.
    assert!((450..=454).contains(&counted(&host, "dropped")), "{}", counted(&host, "dropped"));
    assert_eq!(counted(&host, "exported"), 0);
    let log = host.log();
    let lines = log.lines().filter(|line| line.contains("spans are left out")).count();
    assert!((1..=PATIENCE.as_secs()).contains(&(lines as u64)) && lines < 10, "{lines}");
    let start = Instant::now();
    let log = host.end();
    assert!(start.elapsed().as_secs() < 8, "the second of grace, not the ten of an export: {:?}", start.elapsed());
    assert!(log.contains("spans were not sent before the end"), "{log}");
}

#[test]
fn a_receiver_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    for protocol in ["grpc", "http/protobuf"] {
        let (robot, collector) = (Robot::start(), Collector::start());
        let mut variables = variables(&collector);
        variables[1].1 = protocol.into();
        let host = serve(&Resources::of("team", &robot), &["--metrics-port", "0"], &variables);
        collector.feel(Mood::Busy);
        assert_eq!(create(&host, None).status, 200);
        let asked = collector.wait_for_posts(2);
        assert!(asked[1].at - asked[0].at >= std::time::Duration::from_millis(250), "{protocol}");
        assert_eq!(asked[0].body, asked[1].body);
        collector.feel(Mood::Takes);
        collector.wait_for(2);
        wait_for_count(&host, "exported", 2);
        collector.feel(Mood::Refuses);
        create(&host, None);
        wait_for_count(&host, "failed", 2);
        let log = host.log();
        let said = if protocol == "grpc" { "it answers Unauthenticated" } else { "it answers 401 Unauthorized" };
        assert!(log.contains("spans were not sent") && log.contains(said) && !log.contains("S3CR3T"), "{log}");
        collector.feel(Mood::Rejects(1));
        create(&host, None);
        wait_for_count(&host, "failed", 3);
        wait_for_count(&host, "exported", 3);
    }
}

#[test]
fn a_receiver_that_is_away_is_named_and_changes_nothing() {
    let robot = Robot::start();
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr().unwrap();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "100".into()),
        (SOON.0, SOON.1.to_owned()),
    ];
    let host = serve(&Resources::of("team", &robot), &[], &variables);
    assert_eq!(create(&host, None).status, 200);
    host.wait_for_log("spans were not sent");
    let log = host.end();
    assert!(log.contains(&format!("receiver=\"http://{address}\"")) && log.contains("refused"), "{log}");
}

#[test]
fn headers_are_sent_to_the_receiver_and_shown_to_nobody() {
    const HEADER: &str = "c4n4ry-h34d3r";
    let (robot, collector) = (Robot::start(), Collector::start());
    let file = configuration(&format!(
        "    samplingRate: 1\n    stdout: true\n    otel:\n      endpointAddress: {}\n      isSecure: false\n      protocol: grpc\n      \
         headers: [\"authorization=Bearer ${{OTEL_TOKEN}}\"]\n",
        collector.address()
    ));
    let path = file.path().join("config.yaml");
    let variables = [("OTEL_TOKEN", HEADER.to_owned()), (SOON.0, SOON.1.to_owned())];
    let arguments = ["--config", path.to_str().unwrap(), "--metrics-port", "0"];
    let host = serve(&Resources::of("team", &robot), &arguments, &variables);
    create(&host, None);
    collector.feel(Mood::Refuses);
    create(&host, None);
    wait_for_count(&host, "failed", 1);
    assert_eq!(collector.posts()[0].headers["authorization"], format!("Bearer {HEADER}"));
    let log = host.end();
    assert!(log.contains("name=/v1.0/bindings/team trace_id="), "spec.tracing.stdout: {log}");
    for secret in [HEADER, "c4n4ry", SECRET, TOKEN] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn a_secure_receiver_is_known_by_the_authority_of_the_variable() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
    let mut tls = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (robot, collector) = (Robot::start(), Collector::secure(tls.into()));
    let authority = Resources::new().with("ca.pem", &cert.pem());
    let path = authority.path().join("ca.pem");
    let resources = Resources::of("team", &robot);
    for (protocol, version) in [("grpc", Version::HTTP_2), ("http/protobuf", Version::HTTP_11)] {
        let mut variables = variables(&collector).to_vec();
        // No scheme: TLS.
        variables[0].1 = format!("localhost:{}", collector.address().port());
        variables[1].1 = protocol.into();
        variables.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "100".into()));
        let host = serve(&resources, &[], &variables);
        create(&host, None);
        host.wait_for_log("spans were not sent");
        assert!(host.log().contains("certificate"), "{}", host.log());
        drop(host);
        variables.pop();
        variables.push(("OTEL_EXPORTER_OTLP_CERTIFICATE", path.to_str().unwrap().into()));
        let host = serve(&resources, &[], &variables);
        let before = collector.spans().len();
        create(&host, None);
        collector.wait_for(before + 2);
        assert_eq!(collector.posts().last().unwrap().version, version);
    }
}

#[test]
fn a_caller_that_goes_away_leaves_a_span_that_says_so() {
    let (robot, collector) = (Robot::start(), Collector::start());
    robot.fail(Fault::Hang, Times::ONCE);
    let resources = Resources::of("team", &robot);
    let host = serve(&resources, &[], &variables(&collector));
    let client = Client::new(host.grpc_address());
    let call = client.begin(binding("team", "create", HI, &[]));
    receiving::until("the robot is asked", || robot.stats().requests > 0);
    drop(call);
    let spans = collector.wait_for(2);
    for span in spans {
        assert_eq!(span.failure.as_deref(), Some("cancelled"), "{span:#?}");
    }
}

#[test]
fn a_file_that_wants_zipkin_is_told_what_to_use() {
    let robot = Robot::start();
    let file = configuration(
        "    samplingRate: \"1\"\n    zipkin:\n      endpointAddress: http://localhost:9411/api/v2/spans\n",
    );
    let path = file.path().join("config.yaml");
    let resources =
        Resources::of("team", &robot).with("other.yaml", &component("other", &[("id", "o"), ("url", &robot.url())]));
    let host = serve(&resources, &["--config", path.to_str().unwrap()], &[]);
    assert_eq!(create(&host, Some(SAMPLED)).header("traceparent"), None);
    let log = host.end();
    for said in ["config.yaml:9: spec.tracing.zipkin: ", "names nobody to send spans to"] {
        assert!(log.contains(said), "{said}: {log}");
    }
}
