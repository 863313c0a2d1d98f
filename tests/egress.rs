//! A binding reaches its own robot and nothing else, over connections that it keeps and shares with nobody,
//! through TLS and proxies as the operator set them up.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dingtalk_binding::error::{InvokeCause, InvokeError, Outcome};
use dingtalk_binding::secret::Secret;
use dingtalk_binding::settings::Settings;
use dingtalk_component::COMPONENT;
use dingtalk_host::clock;
use dingtalk_host::egress::{Egress, Lookup, Policy, Proxies};
use dingtalk_host::event::BoxFuture;
use dingtalk_host::sandbox::{CallError, Limits, Request, Response, Sandbox};
use dingtalk_host::simulator::fault::{Fault, Times};
use dingtalk_host::simulator::robot::RobotConfig;
use dingtalk_host::simulator::{Config, Tls};

use crate::support::{Host, PATIENCE, Resources, Robot, SECRET, command, component, limits, run, stderr};

const HI: &str = r#"{"message":"Hi"}"#;

/// The real component, initialised with one team's properties behind another team's egress: as if it had been
/// altered to carry secrets elsewhere.
#[test]
fn a_binding_cannot_reach_the_robot_of_another_one() {
    let (ours, theirs) = (Robot::start(), Robot::start());
    let sandbox = Sandbox::new(COMPONENT, limits(), clock::system()).unwrap();
    let our_url = ours.url();
    let settings = Settings::parse([("id", "ours"), ("url", our_url.as_str())]).unwrap();
    let egress = Egress::new("ours", &settings, &Proxies::none()).unwrap();
    let properties = [("id", "theirs"), ("url", &theirs.url()), ("secret", SECRET)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    let tenant = sandbox.tenant(properties, egress.clone(), Duration::from_secs(30));
    let request = Request { operation: "create".into(), data: HI.into(), metadata: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(sandbox.invoke(&tenant, request, None)) {
        Err(CallError::Binding(InvokeError { cause: InvokeCause::Unreachable(reason), outcome: Outcome::NotSent })) => {
            assert!(reason.contains("egress policy") && reason.contains(&theirs.address().to_string()), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(egress.refused(), 1);
    assert_eq!((ours.stats().connections, theirs.stats().connections), (0, 0));
}

/// Answers for every name what it is told to, and the last of it again and again.
struct Answers(Mutex<Vec<&'static str>>);

impl Lookup for Answers {
    fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
        Box::pin(async move { Ok(answer.split(' ').map(|ip| ip.parse().unwrap()).collect()) })
    }
}

/// A sandbox and a binding of it behind a resolver of this test.
struct Behind {
    sandbox: Sandbox,
    properties: Vec<(String, String)>,
    egress: Egress,
    runtime: tokio::runtime::Runtime,
}

impl Behind {
    fn new(limits: Limits, properties: &[(&str, &str)], networks: &[&str], answers: &[&'static str]) -> Self {
        let networks: Vec<_> = networks.iter().map(|network| network.parse().unwrap()).collect();
        let policy = Policy::allowing(&networks).resolved_by(Arc::new(Answers(Mutex::new(answers.to_vec()))));
        let settings = Settings::parse(properties.iter().copied()).unwrap();
        Self {
            sandbox: Sandbox::new(COMPONENT, limits, clock::system()).unwrap(),
            properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            egress: Egress::within("x", &settings, &Proxies::none(), &policy).unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    fn invoke(
        &self,
        operation: &str,
        data: &str,
        metadata: &[(&str, &str)],
    ) -> Result<Response, CallError<InvokeError>> {
        let settings = Settings::parse(self.properties.iter().map(|(n, v)| (n.as_str(), v.as_str()))).unwrap();
        let tenant = self.sandbox.tenant(self.properties.clone(), self.egress.clone(), settings.timeout);
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request { operation: operation.into(), data: data.into(), metadata };
        self.runtime.block_on(self.sandbox.invoke(&tenant, request, None))
    }
}

/// The text of a call that failed before anything was sent.
fn not_sent(result: Result<Response, CallError<InvokeError>>) -> String {
    match result {
        Err(CallError::Binding(InvokeError { cause: InvokeCause::Unreachable(reason), outcome: Outcome::NotSent })) => {
            reason
        }
        Err(CallError::Stopped { reason, outcome: Outcome::NotSent }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_reaches_the_addresses_that_it_may_and_no_other() {
    let robot = Robot::start();
    let url = robot.url().replace("127.0.0.1", "gateway.internal");
    let properties = [("id", "x"), ("url", url.as_str()), ("secret", SECRET)];
    let behind = |networks: &[&str], answer| Behind::new(limits(), &properties, networks, &[answer]);
    for (networks, answer, reasons) in [
        (&[] as &[&str], "127.0.0.1", ["a loopback address", "--egress-allow-networks 127.0.0.1"]),
        (&[], "::ffff:127.0.0.1", ["a loopback address", "--egress-allow-networks 127.0.0.1"]),
        (&["10.0.0.0/8"], "192.168.0.1", ["a private address", "--egress-allow-networks 192.168.0.1"]),
        (&["0.0.0.0/0"], "169.254.169.254", ["cloud's metadata service", "no binding may reach"]),
        (&["0.0.0.0/0"], "0.0.0.0", ["an unspecified address", "no binding may reach"]),
        (&["::/0"], "64:ff9b::a9fe:a9fe", ["cloud's metadata service", "no binding may reach"]),
    ] {
        let behind = behind(networks, answer);
        let reason = not_sent(behind.invoke("create", HI, &[]));
        assert!(reason.contains("gateway.internal resolves to"), "{reason}");
        assert!(reasons.iter().all(|expected| reason.contains(expected)), "{answer}: {reason}");
        assert!(!reason.contains("robot/send"), "{reason}");
        assert_eq!(behind.egress.refused(), 1);
    }
    assert_eq!(robot.stats().connections, 0);
    behind(&["127.0.0.0/8"], "127.0.0.1").invoke("create", HI, &[]).unwrap();
    behind(&["127.0.0.0/8"], "169.254.169.254 127.0.0.1 10.0.0.1").invoke("create", HI, &[]).unwrap();
    assert_eq!(robot.messages().len(), 2);
}

#[test]
fn localhost_and_addresses_need_no_permission() {
    let robot = Robot::start();
    for host in ["localhost", "robot.localhost", "127.0.0.1"] {
        let url = robot.url().replace("127.0.0.1", host);
        let properties = [("id", "x"), ("url", url.as_str()), ("secret", SECRET)];
        Behind::new(limits(), &properties, &[], &["127.0.0.1"]).invoke("create", HI, &[]).unwrap();
    }
    assert_eq!(robot.messages().len(), 3);
}

#[test]
fn a_name_that_changes_its_address_is_judged_again() {
    let robot = Robot::start();
    // Each call needs a connection of its own.
    robot.fail(Fault::Reset, Times::Always);
    let url = robot.url().replace("127.0.0.1", "rebinding.example.com");
    let properties = [("id", "x"), ("url", url.as_str()), ("secret", SECRET)];
    let behind = Behind::new(limits(), &properties, &["127.0.0.0/8"], &["127.0.0.1", "169.254.169.254"]);
    match behind.invoke("create", HI, &[]) {
        Err(CallError::Binding(InvokeError { cause: InvokeCause::Unreachable(_), outcome: Outcome::Unknown })) => {}
        other => panic!("{other:?}"),
    }
    assert!(not_sent(behind.invoke("create", HI, &[])).contains("169.254.169.254"));
    assert_eq!(robot.stats().connections, 1);
}

#[test]
fn the_host_of_a_session_is_judged_by_its_address_too() {
    let robot = Robot::start();
    let host = format!("sessions.internal:{}", robot.address().port());
    let hosts = format!("http://{host}");
    let properties = [("id", "x"), ("url", "http://127.0.0.1:1/"), ("sessionWebhookHosts", hosts.as_str())];
    let webhook = format!("http://{host}/robot/sendBySession?session=S3SS10N");
    let behind = Behind::new(limits(), &properties, &[], &["127.0.0.1"]);
    let reason = not_sent(behind.invoke("reply", HI, &[("sessionWebhook", &webhook)]));
    assert!(reason.contains("sessions.internal resolves to 127.0.0.1"), "{reason}");
    assert!(!reason.contains("S3SS10N"), "{reason}");
    assert_eq!(robot.stats().connections, 0);
}

#[test]
fn an_address_that_is_never_reached_stops_the_start() {
    for (property, value) in [
        ("url", "http://169.254.169.254/latest/meta-data?t=T0K3N"),
        ("url", "http://[::ffff:100.100.100.200]/"),
        ("sessionWebhookHosts", "[fd00:ec2::254]:8443"),
    ] {
        let url = if property == "url" { value } else { "https://oapi.dingtalk.com/robot/send?access_token=T" };
        let hosts = if property == "url" { "" } else { value };
        let resources = Resources::binding("team", &[("id", "x"), ("url", url), ("sessionWebhookHosts", hosts)]);
        let output = run(&["serve", "--resources-path", resources.path().to_str().unwrap(), "--dapr-http-port", "0"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(property) && text.contains("metadata service, which no binding may reach"), "{text}");
        assert!(!text.contains("T0K3N") && !text.contains("latest"), "{text}");
    }
    let output = run(&["serve", "--resources-path", ".", "--egress-allow-networks", "10.0.0.0/8,169.254.0.0/16"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("link-local address is never reached"), "{}", stderr(&output));
}

#[test]
fn a_call_that_is_stopped_before_it_sends_says_so() {
    let robot = Robot::start();
    let url = robot.url();
    let properties = [("id", "x"), ("url", url.as_str()), ("secret", SECRET)];
    // A usual message takes 60,000 instructions, this one some millions.
    let limits = Limits { fuel: 1_000_000, ..limits() };
    let behind = Behind::new(limits, &properties, &[], &["127.0.0.1"]);
    let reason = not_sent(behind.invoke("create", &format!("{{\"message\":\"{}\"}}", "x".repeat(500_000)), &[]));
    assert!(reason.contains("more instructions"), "{reason}");
    assert_eq!(robot.stats().requests, 0);
    behind.invoke("create", HI, &[]).unwrap();
}

#[test]
fn a_call_whose_time_ends_before_there_is_a_connection_says_that_nothing_was_sent() {
    // Accepts and says nothing, so that no TLS connection comes about.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let properties = [("id", "x"), ("url", url.as_str()), ("timeout", "300ms"), ("connectTimeout", "10s")];
    let behind = Behind::new(limits(), &properties, &[], &["127.0.0.1"]);
    let reason = not_sent(behind.invoke("create", HI, &[]));
    assert!(reason.contains("took longer than 300 ms"), "{reason}");
}

#[test]
fn no_answer_is_endless() {
    let endless: [(&str, &[u8], &[u8]); 4] = [
        ("a head of one long line", b"HTTP/1.1 200 OK\r\nX: ", &[b'x'; 4096]),
        ("a head of many lines", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        ("heads that are not final", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        ("a body of small chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ];
    for (what, head, more) in endless {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.set_write_timeout(Some(PATIENCE)).unwrap();
            client.write_all(head).unwrap();
            let mut written = 0_usize;
            // Until the client goes.
            while client.write_all(more).is_ok() {
                written += more.len();
            }
            written
        });
        let url = format!("http://{address}/");
        let properties = [("id", "x"), ("url", url.as_str()), ("timeout", "2s")];
        let behind = Behind::new(limits(), &properties, &[], &["127.0.0.1"]);
        let result = behind.invoke("create", HI, &[]);
        assert!(matches!(result, Err(CallError::Binding(_))), "{what}: {result:?}");
        drop(behind);
        server.join().unwrap();
    }
}

/// A server that answers before it has read the message, and then neither reads it nor closes: such a connection can
/// never be used again, and waiting for it must not cost the answer.
#[test]
fn an_answer_that_comes_before_the_message_was_read_counts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut clients = Vec::new();
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"errcode\":0,\"errmsg\":\"ok\"}");
            clients.push(client);
        }
    });
    let properties = [("id", "x"), ("url", url.as_str()), ("timeout", "800ms")];
    let behind = Behind::new(
        Limits { lifetime: limits().lifetime, ..Limits::for_messages_of(8 << 20) },
        &properties,
        &[],
        &["127.0.0.1"],
    );
    let message = format!("{{\"message\":\"{}\"}}", "x".repeat(8 << 20));
    // A busy machine may need longer than the call's time for a message of this size, several times in a row.
    let start = Instant::now();
    while let Err(error) = behind.invoke("create", &message, &[]) {
        assert!(start.elapsed() < PATIENCE, "{error}");
    }
}

#[test]
fn a_connection_serves_call_after_call() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("team", &robot));
    for _ in 0..50 {
        assert_eq!(host.invoke("team", "create", HI).status, 200);
    }
    assert_eq!((robot.messages().len(), robot.stats().connections), (50, 1));
}

#[test]
fn calls_at_once_open_no_more_connections_than_there_are_calls() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("team", &robot));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert_eq!(host.invoke("team", "create", HI).status, 200);
                }
            });
        }
    });
    assert_eq!(robot.messages().len(), 200);
    assert!((1..=8).contains(&robot.stats().connections), "{}", robot.stats().connections);
}

#[test]
fn two_bindings_never_share_a_connection() {
    let robot = Robot::start();
    let yaml = |name| component(name, &[("id", name), ("url", &robot.url()), ("secret", SECRET)]);
    let host = Host::serve(&Resources::new().with("all.yaml", &format!("{}---\n{}", yaml("one"), yaml("two"))));
    for _ in 0..10 {
        assert_eq!(host.invoke("one", "create", HI).status, 200);
        assert_eq!(host.invoke("two", "create", HI).status, 200);
    }
    assert_eq!((robot.messages().len(), robot.stats().connections), (20, 2));
}

/// An authority, and a certificate that it gave.
pub struct Certified {
    /// The authority's certificate, as a file for SSL_CERT_FILE.
    pub authority: tempfile::NamedTempFile,
    pub certificate: rcgen::Certificate,
    pub key: rcgen::KeyPair,
}

/// A certificate for this name or address.
pub fn certified(name: &str) -> Certified {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    authority.write_all(certificate.pem().as_bytes()).unwrap();
    let issuer = rcgen::Issuer::new(parameters, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Certified { authority, certificate, key }
}

/// A certificate authority of this test and a robot with a certificate of it.
pub struct Secured {
    robot: Robot,
    /// The authority's certificate, as a file for SSL_CERT_FILE.
    authority: tempfile::NamedTempFile,
}

pub fn secured(name: &str) -> Secured {
    let Certified { authority, certificate, key } = certified(name);
    let tls = Tls { certificates: certificate.pem().into_bytes(), key: Secret::new(key.serialize_pem()) };
    let robot = RobotConfig { secret: Some(Secret::new(SECRET)), ..Robot::config() };
    Secured { robot: Robot::from(Config { robot, tls: Some(tls), ..Config::default() }), authority }
}

impl Secured {
    pub fn url(&self) -> String {
        let url = self.robot.url();
        assert!(url.starts_with("https://"), "{url}");
        url
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.robot.address()
    }

    fn resources(&self) -> Resources {
        Resources::binding("team", &[("id", "team"), ("url", &self.url()), ("secret", SECRET)])
    }

    pub fn authority(&self) -> &str {
        self.authority.path().to_str().unwrap()
    }
}

#[test]
fn tls_with_the_operators_authority() {
    let secured = secured("127.0.0.1");
    let host = Host::serve_with(&secured.resources(), &[], &[("SSL_CERT_FILE", secured.authority())]);
    for _ in 0..5 {
        let reply = host.invoke("team", "create", HI);
        assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{reply:?}");
    }
    assert_eq!((secured.robot.messages().len(), secured.robot.stats().connections), (5, 1));
}

/// While a connection takes long to come about, others become free again and again. Whoever waits for its own must not
/// leave one behind by taking another's, or a slow network makes connections pile up.
#[test]
fn slow_connections_do_not_pile_up() {
    const CALLERS: usize = 3;
    let secured = secured("127.0.0.1");
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = secured.url().replace(&secured.robot.address().to_string(), &relay.local_addr().unwrap().to_string());
    let opened = Arc::new(AtomicUsize::new(0));
    let (count, robot) = (Arc::clone(&opened), secured.robot.address());
    std::thread::spawn(move || {
        for client in relay.incoming().map_while(Result::ok) {
            // The first is there at once; with the others, TLS takes its time.
            let slow = count.fetch_add(1, Ordering::SeqCst) > 0;
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(if slow { 500 } else { 0 }));
                let server = TcpStream::connect(robot).unwrap();
                let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || io::copy(&mut from_server, &mut to_client));
                let _ = io::copy(&mut &client, &mut &server);
            });
        }
    });
    let resources = Resources::binding("team", &[("id", "team"), ("url", &url), ("secret", SECRET)]);
    let host = Host::serve_with(&resources, &[], &[("SSL_CERT_FILE", secured.authority())]);
    assert_eq!(host.invoke("team", "create", HI).status, 200);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(host.invoke("team", "create", HI).status, 200);
                }
            });
        }
    });
    assert_eq!(secured.robot.messages().len(), 1 + 10 * CALLERS);
    let opened = opened.load(Ordering::SeqCst);
    assert!(opened <= CALLERS, "{opened}");
}

#[test]
fn an_unknown_authority_is_not_trusted_and_nothing_is_sent() {
    let secured = secured("127.0.0.1");
    let host = Host::serve(&secured.resources());
    let reply = host.invoke("team", "create", HI);
    assert_eq!(
        (reply.status, reply.metadata("error"), reply.metadata("outcome")),
        (500, Some("unreachable"), Some("not-sent"))
    );
    assert!(reply.body.contains("certificate of 127.0.0.1"), "{}", reply.body);
    assert_eq!(secured.robot.stats().requests, 0);
}

/// One that hangs up during the handshake, and one that answers it in plain text.
#[test]
fn where_no_tls_is_spoken_the_operator_reads_so_and_nothing_is_sent() {
    for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                // Read, so that closing is no reset.
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(answer);
            }
        });
        let properties = [("id", "x"), ("url", url.as_str())];
        let reason = not_sent(Behind::new(limits(), &properties, &[], &["127.0.0.1"]).invoke("create", HI, &[]));
        assert!(reason.contains("no TLS connection to 127.0.0.1"), "{reason}");
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let secured = secured("oapi.dingtalk.com");
    let host = Host::serve_with(&secured.resources(), &[], &[("SSL_CERT_FILE", secured.authority())]);
    let reply = host.invoke("team", "create", HI);
    assert_eq!(
        (reply.status, reply.metadata("error"), reply.metadata("outcome")),
        (500, Some("unreachable"), Some("not-sent"))
    );
    assert_eq!(secured.robot.stats().requests, 0);
}

/// A proxy that forwards plain requests and tunnels others, and remembers the first line of each.
struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || relay(client, &seen));
            }
        });
        Self { address, heads }
    }

    fn url(&self) -> String {
        format!("http://user:pr0xyp4ss@{}", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn relay(client: TcpStream, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    seen.lock().unwrap().push(head.clone());
    let line = head.lines().next()?.to_owned();
    let target = line.split(' ').nth(1)?;
    let mut client = client;
    let mut server;
    if line.starts_with("CONNECT ") {
        server = TcpStream::connect(target).ok()?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    } else {
        let authority = target.strip_prefix("http://")?.split('/').next()?;
        server = TcpStream::connect(authority).ok()?;
        // The robot takes the absolute form as well; every server must.
        server.write_all(head.as_bytes()).ok()?;
    }
    server.write_all(reader.buffer()).ok()?;
    let (mut from_server, mut to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
    std::io::copy(&mut client, &mut server).ok()?;
    Some(())
}

#[test]
fn https_goes_through_a_tunnel_of_the_proxy() {
    let (secured, proxy) = (secured("127.0.0.1"), Proxy::start());
    let environment = [("SSL_CERT_FILE", secured.authority()), ("HTTPS_PROXY", &proxy.url())];
    let host = Host::serve_with(&secured.resources(), &[], &environment);
    for _ in 0..3 {
        let reply = host.invoke("team", "create", HI);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1, "one tunnel for all: {heads:?}");
    assert!(heads[0].starts_with(&format!("CONNECT {} ", secured.robot.address())), "{heads:?}");
    assert!(heads[0].to_lowercase().contains("proxy-authorization: basic "), "{heads:?}");
    assert!(!heads[0].contains("access_token"), "the proxy sees the host and nothing else: {heads:?}");
    assert!(!host.log().contains("pr0xyp4ss"));
}

#[test]
fn plain_http_is_forwarded_by_the_proxy() {
    let (robot, proxy) = (Robot::start(), Proxy::start());
    let host = Host::serve_with(&Resources::of("team", &robot), &[], &[("HTTP_PROXY", &proxy.url())]);
    let reply = host.invoke("team", "create", HI);
    assert_eq!(reply.status, 200, "{reply:?}");
    let heads = proxy.heads();
    assert!(heads[0].starts_with(&format!("POST http://{}/robot/send?", robot.address())), "{heads:?}");
    assert!(heads[0].to_lowercase().contains("proxy-authorization: basic "), "{heads:?}");
    assert_eq!(robot.messages().len(), 1);
}

#[test]
fn no_proxy_goes_directly() {
    let (robot, proxy) = (Robot::start(), Proxy::start());
    let environment = [("HTTP_PROXY", proxy.url()), ("NO_PROXY", "127.0.0.1".to_owned())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let host = Host::serve_with(&Resources::of("team", &robot), &[], &environment);
    assert_eq!(host.invoke("team", "create", HI).status, 200);
    assert_eq!((proxy.heads().len(), robot.messages().len()), (0, 1));
}

#[test]
fn a_proxy_that_is_gone_is_an_error_before_anything_is_sent() {
    let robot = Robot::start();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let host = Host::serve_with(&Resources::of("team", &robot), &[], &[("HTTP_PROXY", &format!("http://{gone}"))]);
    let reply = host.invoke("team", "create", HI);
    assert_eq!(
        (reply.status, reply.metadata("error"), reply.metadata("outcome")),
        (500, Some("unreachable"), Some("not-sent"))
    );
    assert!(reply.body.contains("proxy"), "{}", reply.body);
}

#[test]
fn a_proxy_of_an_unknown_kind_stops_the_start() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot);
    let mut serve =
        command(&["serve", "--resources-path", resources.path().to_str().unwrap(), "--dapr-http-port", "0"]);
    let output = serve.env("ALL_PROXY", "socks5://user:pr0xyp4ss@127.0.0.1:1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("socks5://, which is not supported"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("pr0xyp4ss"));
}
