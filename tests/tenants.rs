//! What tenants cost that do nothing: memory for each, the time until a host that has thousands is ready, and their first
//! message.
//!
//! `make bench-tenants` measures ten thousand in an optimised host; the test that always runs is smaller, and looks at memory
//! alone.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::egress::{Certified, certified, secured};
use crate::support::{Host, PATIENCE, Resources, SECRET, command, component, listening, send};

/// Component files, one a tenant: robots of DingTalk's own host, none with the token of another.
fn resources(tenants: usize) -> Resources {
    let resources = Resources::new();
    for number in 0..tenants {
        let name = format!("tenant-{number:05}");
        let url = format!("https://oapi.dingtalk.com/robot/send?access_token={number:064x}");
        let secret = format!("SEC{number:064x}");
        let properties = [("id", name.as_str()), ("url", &url), ("secret", &secret)];
        resources.write(&format!("{name}.yaml"), &component(&name, &properties));
    }
    resources
}

/// `serve` with these files: this build's, or the program that the environment names.
fn serve(resources: &Resources) -> Command {
    let arguments = ["serve", "--resources-path", resources.path().to_str().unwrap(), "--dapr-http-port", "0"];
    let built = command(&arguments);
    let Some(program) = std::env::var_os("TENANTS_HOST") else { return built };
    let mut given = Command::new(program);
    given.args(arguments);
    for (name, value) in built.get_envs() {
        match value {
            Some(value) => given.env(name, value),
            None => given.env_remove(name),
        };
    }
    given
}

/// A host that is ready.
struct Ready {
    child: Child,
    after: Duration,
    address: SocketAddr,
}

impl Ready {
    fn start(resources: &Resources, environment: &[(&str, &str)]) -> Self {
        let mut command = serve(resources);
        command.envs(environment.iter().copied());
        let start = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        let mut after = None;
        while after.is_none() {
            let begin = text.len();
            assert!(log.read_line(&mut text).unwrap() > 0, "the host has ended:\n{text}");
            // The last of its ports.
            after = text[begin..].contains("gRPC API is listening").then(|| start.elapsed());
        }
        // What it says later must find a reader.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let address = text.lines().find_map(listening).unwrap();
        Self { child, after: after.unwrap(), address }
    }

    /// Bytes in memory, once they do not become fewer: an allocator gives back late what loading has freed.
    fn resident(&self) -> usize {
        let (start, mut lowest, mut since) = (Instant::now(), usize::MAX, Instant::now());
        while since.elapsed() < Duration::from_secs(3) && start.elapsed() < PATIENCE {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
            let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")).unwrap();
            let kilobytes: usize = kilobytes.trim().parse().unwrap();
            if kilobytes < lowest {
                (lowest, since) = (kilobytes, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        lowest << 10
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort();
    values[values.len() / 2]
}

/// Bytes that each of so many takes: what they add to a host with a few.
fn bytes_each(tenants: usize) -> usize {
    const FEW: usize = 100;
    let resident = |tenants| Ready::start(&resources(tenants), &[]).resident();
    resident(FEW + tenants).saturating_sub(resident(FEW)) / tenants
}

/// Times of a message to each of these, one after the other.
fn messages(host: &Ready, tenants: usize) -> Vec<Duration> {
    let body = br#"{"operation":"create","data":{"message":"Hi"}}"#;
    let time = |number| {
        let start = Instant::now();
        let path = format!("/v1.0/bindings/tenant-{number:05}");
        assert_eq!(send(host.address, "POST", &path, &[], body).status, 200);
        start.elapsed()
    };
    (0..tenants).map(time).collect()
}

/// Prints figures; see docs/performance.md.
#[test]
#[ignore = "a measurement: make bench-tenants"]
fn ten_thousand() {
    const TENANTS: usize = 10_000;
    println!("bytes each: {}", bytes_each(TENANTS));
    let all = resources(TENANTS);
    let starts: Vec<_> = (0..7).map(|_| Ready::start(&all, &[]).after).collect();
    println!("start: {:?}, of {starts:?}", median(starts.clone()));

    let secured = secured("127.0.0.1");
    let few = Resources::new();
    for number in 0..500 {
        let name = format!("tenant-{number:05}");
        let properties = [("id", name.as_str()), ("url", &secured.url()), ("secret", SECRET)];
        few.write(&format!("{name}.yaml"), &component(&name, &properties));
    }
    let host = Ready::start(&few, &[("SSL_CERT_FILE", secured.authority())]);
    let (first, second) = (messages(&host, 500), messages(&host, 500));
    println!("first message: {:?}, second: {:?}", median(first), median(second));
}

/// A server of this test that counts who resumes what: one answer, and then the connection ends.
fn handshakes(certified: &Certified, version: &'static rustls::SupportedProtocolVersion) -> (SocketAddr, Seen) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let (chain, key) = (vec![certified.certificate.der().clone()], certified.key.serialize_der().try_into().unwrap());
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let kinds = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::Stream::new(&mut connection, &mut socket);
            let mut message = Vec::new();
            let mut buffer = [0; 4096];
            // The body of "Hi" ends with the last brace.
            while !message.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(length) if length > 0 => message.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&message).into_owned();
            let tenant = if text.contains("access_token=one") { "one" } else { "two" };
            let answer =
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 27\r\n\r\n{\"errcode\":0,\"errmsg\":\"ok\"}";
            // Before whoever asks can have the answer.
            kinds.lock().unwrap().push((tenant, stream.conn.handshake_kind().unwrap()));
            let _ = stream.write_all(answer.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    (address, seen)
}

type Seen = Arc<Mutex<Vec<(&'static str, rustls::HandshakeKind)>>>;

/// Over TLS 1.3, and over 1.2, each with the tickets that servers give.
#[test]
fn no_tenant_resumes_the_session_of_another_one() {
    use rustls::HandshakeKind::{Full, Resumed};
    let certified = certified("127.0.0.1");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (address, seen) = handshakes(&certified, version);
        let mut resources = Resources::new();
        for tenant in ["one", "two"] {
            let url = format!("https://{address}/robot/send?access_token={tenant}");
            resources = resources.with(&format!("{tenant}.yaml"), &component(tenant, &[("id", tenant), ("url", &url)]));
        }
        let authority = certified.authority.path().to_str().unwrap();
        let host = Host::serve_with(&resources, &[], &[("SSL_CERT_FILE", authority)]);
        for tenant in ["one", "two", "one", "two", "two", "one"] {
            let reply = host.invoke(tenant, "create", r#"{"message":"Hi"}"#);
            assert_eq!(reply.status, 200, "{reply:?}\n{}", host.log());
        }
        let seen = seen.lock().unwrap().clone();
        let expected =
            [("one", Full), ("two", Full), ("one", Resumed), ("two", Resumed), ("two", Resumed), ("one", Resumed)];
        assert_eq!(seen, expected);
    }
}

/// `ten_thousand` measures it exactly: pages of an allocator are more to fewer tenants.
#[test]
fn a_tenant_that_does_nothing_takes_some_two_kilobytes() {
    let bytes = bytes_each(2_000);
    assert!(bytes <= 3 << 10, "{bytes}");
}
