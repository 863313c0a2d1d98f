//! A binding reaches its own robot and nothing else, over connections that it keeps and shares with nobody,
//! through TLS and proxies as the operator set them up.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dingtalk_binding::error::{Error, Outcome};
use dingtalk_binding::secret::Secret;
use dingtalk_binding::settings::Settings;
use dingtalk_component::COMPONENT;
use dingtalk_host::clock;
use dingtalk_host::egress::{Egress, Proxies};
use dingtalk_host::sandbox::{CallError, Limits, Request, Sandbox};
use dingtalk_host::simulator::robot::RobotConfig;
use dingtalk_host::simulator::{Config, Tls};

use crate::support::{Host, Resources, Robot, SECRET, command, component, stderr};

const HI: &str = r#"{"message":"Hi"}"#;

/// The real component, initialised with one team's properties behind another team's egress: as if it had been
/// altered to carry secrets elsewhere.
#[test]
fn a_binding_cannot_reach_the_robot_of_another_one() {
    let (ours, theirs) = (Robot::start(), Robot::start());
    let sandbox = Sandbox::new(COMPONENT, Limits::default(), clock::system()).unwrap();
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
        Err(CallError::Binding(Error::Unreachable { reason, outcome: Outcome::NotSent })) => {
            assert!(reason.contains("egress policy") && reason.contains(&theirs.address().to_string()), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(egress.refused(), 1);
    assert_eq!((ours.stats().connections, theirs.stats().connections), (0, 0));
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

/// A certificate authority of this test and a robot with a certificate of it.
struct Secured {
    robot: Robot,
    /// The authority's certificate, as a file for SSL_CERT_FILE.
    authority: tempfile::NamedTempFile,
}

fn secured(name: &str) -> Secured {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&key).unwrap();
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    authority.write_all(certificate.pem().as_bytes()).unwrap();
    let issuer = rcgen::Issuer::new(parameters, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let tls = Tls { certificates: certificate.pem().into_bytes(), key: Secret::new(key.serialize_pem()) };
    let robot = RobotConfig { secret: Some(Secret::new(SECRET)), ..Robot::config() };
    Secured { robot: Robot::from(Config { robot, tls: Some(tls), ..Config::default() }), authority }
}

impl Secured {
    fn url(&self) -> String {
        let url = self.robot.url();
        assert!(url.starts_with("https://"), "{url}");
        url
    }

    fn resources(&self) -> Resources {
        Resources::binding("team", &[("id", "team"), ("url", &self.url()), ("secret", SECRET)])
    }

    fn authority(&self) -> &str {
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
