//! Whoever reaches a port can try what he likes: silence, halves, floods, pages in somebody's browser. It costs little,
//! it ends, and everybody else is served meanwhile.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dingtalk_binding::secret::Secret;
use dingtalk_component::COMPONENT;
use dingtalk_host::api::{Api, Policy, Server, Surface};
use dingtalk_host::bindings::Bindings;
use dingtalk_host::clock;
use dingtalk_host::egress::Proxies;
use dingtalk_host::input::Input;
use dingtalk_host::resources::{BindingResource, Source};
use dingtalk_host::sandbox::Sandbox;
use tokio::runtime::Runtime;

use crate::support::held::Held;
use crate::support::{
    Connection, Host, PATIENCE, Resources, Robot, command, finish, forget_peak, limits, pause, peak, send, signal,
    stderr, wait,
};

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

/// HTTP/2's preface, and settings without any setting.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// An HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a request whose body follows, as a frame.
fn head(stream: u32) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(0x04, "/v1.0/bindings/ops"), (0x01, "localhost")] {
        block.extend(hpack(name, value));
    }
    frame(1, 4, stream, &block)
}

/// A header whose name is in HPACK's table.
pub fn hpack(name: u8, value: &str) -> Vec<u8> {
    [&[name, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// A server with both ports in this process, with limits that a test can wait for, and the binding `ops` of `url`.
struct Served {
    _runtime: Runtime,
    everything: SocketAddr,
    callbacks: SocketAddr,
    grpc: SocketAddr,
}

/// Clients are waited for as long as that.
const SILENCE: Duration = Duration::from_secs(3);

fn serve(url: &str) -> Served {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bindings = Bindings::new(Sandbox::new(COMPONENT, limits(), clock::system()).unwrap());
    let [everything, callbacks, grpc] = runtime.block_on(async {
        let binding = BindingResource {
            name: "ops".into(),
            component_type: "bindings.dingtalk.webhook".into(),
            version: "v1".into(),
            properties: [("id", "x"), ("url", url), ("timeout", "1m")].map(|(n, v)| (n.into(), Secret::new(v))).into(),
            ignore_errors: false,
            init_timeout: PATIENCE,
            source: Source { file: "ops.yaml".into(), line: 1 },
        };
        bindings.add(binding, &Proxies::none(), &dingtalk_host::egress::Policy::default()).await.unwrap();
        let input = Input::new(bindings, None, None, PATIENCE);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let addresses = [Surface::Everything, Surface::Callbacks, Surface::Grpc].map(|surface| (any, surface));
        let mut server = Server::listen(&addresses).await.unwrap();
        for surface in [Surface::Everything, Surface::Callbacks] {
            server.set_policy(surface, Policy { patience: SILENCE, ..surface.policy(1_024) });
        }
        let addresses = [0, 1, 2].map(|index| server.addresses()[index].0);
        let api = Arc::new(Api::new(input, "x".into(), None, 4 << 20));
        tokio::spawn(server.run(api, std::future::pending()));
        addresses
    });
    Served { _runtime: runtime, everything, callbacks, grpc }
}

/// Nobody is sent anything.
const NOBODY: &str = "http://127.0.0.1:9/robot/send?access_token=t";

/// How long it takes until the server has ended a connection on which `bytes` were sent, and no more.
fn time_to_end(address: SocketAddr, bytes: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(address).unwrap();
    let start = Instant::now();
    stream.write_all(bytes).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        match stream.read(&mut [0; 1_024]) {
            Ok(0) => return start.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return start.elapsed(),
            Err(error) => panic!("{error}: nothing has ended the connection"),
        }
    }
}

#[test]
fn every_connection_that_stands_still_is_ended() {
    let served = serve(NOBODY);
    let posted = b"POST /v1.0/bindings/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{";
    let begun: [&[u8]; 7] = [
        b"",
        b"PRI * HT",
        b"POST /v1.0/bind",
        posted,
        b"GET /v1.0/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        PREFACE,
        &[PREFACE, &head(1)].concat(),
    ];
    for address in [served.everything, served.callbacks, served.grpc] {
        std::thread::scope(|scope| {
            for bytes in begun {
                scope.spawn(move || time_to_end(address, bytes));
            }
        });
    }
    // Not before it had its time, where it was not an error. Taking leave is part of it.
    assert!(time_to_end(served.callbacks, b"") >= SILENCE / 4);
    assert!(time_to_end(served.everything, PREFACE) >= SILENCE / 4);
    assert!(time_to_end(served.grpc, PREFACE) >= SILENCE / 4);
}

#[test]
fn a_peer_that_dribbles_gains_no_time() {
    let served = serve(NOBODY);
    let mut stream = TcpStream::connect(served.callbacks).unwrap();
    let start = Instant::now();
    // A head without end, a byte now and then.
    while stream.write_all(b"G").is_ok() {
        assert!(start.elapsed() < PATIENCE, "nothing has ended the connection");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_peer_that_never_takes_its_answers_is_ended() {
    let served = serve(NOBODY);
    for address in [served.everything, served.callbacks] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let requests = b"GET /v1.0/nowhere HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1_000);
        let start = Instant::now();
        let ended = loop {
            assert!(start.elapsed() < PATIENCE, "nothing has ended the connection");
            match stream.write(&requests) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => break error,
                Ok(_) => {}
            }
        };
        assert!(
            matches!(ended.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
            "{ended}"
        );
    }
}

#[test]
fn the_callback_port_speaks_http1_alone() {
    let served = serve(NOBODY);
    // The answer to the preface, if any, is no HTTP/2.
    let mut stream = TcpStream::connect(served.callbacks).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(PREFACE).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    let mut stream = TcpStream::connect(served.everything).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(PREFACE).unwrap();
    let mut settings = [0; 9];
    stream.read_exact(&mut settings).unwrap();
    assert_eq!(settings[3], 4);
}

#[test]
fn a_call_may_take_longer_than_a_client_is_waited_for() {
    let held = Held::start();
    let served = serve(&held.url());
    let mut connection = Connection::open(served.everything);
    let length = CREATE.len();
    for _ in 0..2 {
        connection.write(format!(
            "POST /v1.0/bindings/ops HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{CREATE}"
        ));
        let waiting = held.receive();
        std::thread::sleep(SILENCE + Duration::from_millis(500));
        waiting.accept();
        assert_eq!(connection.read().status, 200);
    }
}

#[test]
fn a_head_has_at_most_16_kib() {
    let served = serve(NOBODY);
    for address in [served.everything, served.callbacks] {
        let of = |length| send(address, "GET", "/v1.0/healthz", &[("x", &"x".repeat(length))], b"").status;
        assert_eq!((of(12 << 10), of(17 << 10)), (204, 431));
    }
}

#[test]
fn a_request_has_one_host() {
    let served = serve(NOBODY);
    for address in [served.everything, served.callbacks] {
        for (hosts, status) in
            [("", 400), ("host: a\r\nhost: a\r\n", 400), ("host: a b\r\n", 400), ("host: a\r\n", 204)]
        {
            let mut connection = Connection::open(address);
            connection.write(format!("GET /v1.0/healthz HTTP/1.1\r\n{hosts}\r\n"));
            assert_eq!(connection.read().status, status, "{hosts:?}");
        }
    }
}

#[test]
fn who_has_sent_everything_and_says_so_is_answered() {
    let held = Held::start();
    let host = Host::serve(&Resources::binding("ops", &[("id", "x"), ("url", &held.url())]));
    let mut stream = TcpStream::connect(host.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = CREATE.len();
    write!(stream, "POST /v1.0/bindings/ops HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{CREATE}")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    held.receive().accept();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

#[test]
fn pages_in_a_browser_cannot_call_without_a_token() {
    let robot = Robot::start();
    let resources = Resources::of("ops", &robot);
    let call = |host: &Host, headers: &[(&str, &str)]| {
        let mut connection = Connection::open(host.address());
        let mut text = "POST /v1.0/bindings/ops HTTP/1.1\r\n".to_owned();
        if !headers.iter().any(|(name, _)| *name == "host") {
            text.push_str("host: localhost:3500\r\n");
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        connection.write(format!("{text}content-length: {}\r\n\r\n{CREATE}", CREATE.len()));
        connection.read()
    };
    let foreign: [(&[(&str, &str)], &str); 4] = [
        (&[("origin", "https://evil.example"), ("content-type", "text/plain")], "--allowed-origins"),
        (&[("origin", "null")], "--allowed-origins"),
        (&[("sec-fetch-site", "cross-site")], "--allowed-origins"),
        (&[("host", "rebound.example:3500")], "--allowed-hosts"),
    ];
    let host = Host::serve(&resources);
    for (headers, flag) in foreign {
        let reply = call(&host, headers);
        assert_eq!(reply.status, 403, "{headers:?}: {reply:?}");
        assert!(reply.body.contains(flag) && reply.body.contains("DAPR_API_TOKEN"), "{reply:?}");
    }
    assert_eq!(robot.stats().accepted, 0);
    assert_eq!(call(&host, &[]).status, 200);
    // Callbacks prove themselves, whatever name DingTalk knows this host by, and a health check changes nothing.
    let named = [("host", "robot.example")];
    let send = |method: &str, path: &str| {
        let mut connection = Connection::open(host.address());
        connection.write(format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", named[0].1));
        connection.read().status
    };
    assert_eq!((send("GET", "/v1.0/healthz"), send("POST", "/v1.0/bindings/none/callback")), (204, 404));

    let flags = ["--allowed-hosts", "x,rebound.example", "--allowed-origins", "https://evil.example"];
    let host = Host::serve_with(&resources, &flags, &[]);
    let statuses = foreign.map(|(headers, _)| call(&host, headers).status);
    assert_eq!(statuses, [200, 403, 403, 200], "what is listed may call");

    let host = Host::serve_with(&resources, &[], &[("DAPR_API_TOKEN", "t")]);
    for (headers, _) in foreign {
        assert_eq!(call(&host, &[headers, &[("dapr-api-token", "t")]].concat()).status, 200, "{headers:?}");
    }
}

/// Connections on each of which `bytes` were written, as far as the server takes them within a moment.
pub fn flood(address: SocketAddr, connections: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut streams: Vec<(TcpStream, usize)> = (0..connections)
        .filter_map(|_| {
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
            stream.set_nonblocking(true).unwrap();
            Some((stream, 0))
        })
        .collect();
    // In turn, until nobody takes any more.
    let mut quiet_since = Instant::now();
    let start = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(500) && start.elapsed() < Duration::from_secs(15) {
        for (stream, sent) in &mut streams {
            if let Ok(written @ 1..) = stream.write(&bytes[*sent..]) {
                *sent += written;
                quiet_since = Instant::now();
            }
        }
        pause();
    }
    streams.into_iter().map(|(stream, _)| stream).collect()
}

#[test]
fn no_flood_costs_more_than_64_mib() {
    let robot = Robot::start();
    let host = Host::serve_with(&Resources::of("ops", &robot), &["--callback-port", "0"], &[]);
    let pid = host.pid();
    let request = "POST /v1.0/bindings/ops HTTP/1.1\r\nhost: localhost\r\ncontent-length: 430000\r\n\r\n";
    let bodies = [request.as_bytes(), &vec![b' '; 429_999]].concat();
    let heads = [b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", vec![b'x'; 390_000].as_slice()].concat();
    let mut streams = PREFACE.to_vec();
    for stream in (1..400).step_by(2) {
        streams.extend(head(stream));
        streams.extend(frame(0, 0, stream, &[b' '; 16_000]));
    }
    let chunk = [b"1\r\nx\r\n".as_slice(); 50_000].concat();
    let chunks = [
        b"POST /v1.0/bindings/ops HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
        chunk.as_slice(),
    ]
    .concat();
    for (name, connections, bytes) in
        [("streams", 20, &streams), ("bodies", 400, &bodies), ("heads", 400, &heads), ("chunks", 100, &chunks)]
    {
        forget_peak(pid);
        let before = peak(pid);
        let flood = flood(host.address(), connections, bytes);
        // It is served meanwhile.
        assert_eq!(host.post("ops", CREATE).status, 200, "{name}");
        // A process that gave memory back has a lower peak than at first.
        let cost = peak(pid).saturating_sub(before);
        println!("{name}: {cost} MiB");
        assert!(cost <= 64, "{name}: {cost} MiB");
        drop(flood);
    }
}

#[test]
fn a_port_that_is_flooded_leaves_the_others_their_descriptors_and_takes_newcomers() {
    let robot = Robot::start();
    let resources = Resources::of("ops", &robot);
    let serve = command(&["serve", "--resources-path", resources.path().to_str().unwrap(), "--dapr-http-port", "0"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\" --callback-port 0"]).arg(serve.get_program());
    limited.args(serve.get_args()).stdin(Stdio::null());
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let host = Host::spawn(limited);
    let callbacks = host.callback_address();
    let start = Instant::now();
    let flood: Vec<TcpStream> =
        (0..300).filter_map(|_| TcpStream::connect_timeout(&callbacks, Duration::from_secs(5)).ok()).collect();
    for _ in 0..5 {
        assert_eq!(host.post("ops", CREATE).status, 200, "{}", host.log());
    }
    // Unsigned: refused by the component, which is what a genuine one reaches too.
    let reply = send(callbacks, "POST", "/v1.0/bindings/ops/callback", &[("content-type", "application/json")], b"{}");
    assert!(reply.status == 401 || reply.status == 403 || reply.status == 400, "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(35), "{:?}", start.elapsed());
    assert!(flood.len() > 200);
    assert!(host.log().lines().count() < 20, "{}", host.log());
}

#[test]
fn the_limit_for_open_files_is_raised() {
    let serve = command(&["serve", "--dapr-http-port", "0", "--resources-path"]);
    let resources = Resources::new();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -S -n 200; exec \"$0\" \"$@\""]).arg(serve.get_program());
    limited.args(serve.get_args()).arg(resources.path()).stdin(Stdio::null());
    let host = Host::spawn(limited);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let columns: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(columns[3], columns[4], "{line}");
}

#[test]
fn metadata_of_many_items_stops_nobody() {
    let robot = Robot::start();
    let host = Host::serve(&Resources::of("ops", &robot));
    let address = host.address();
    let items: Vec<String> = (0..250_000).map(|number| format!(r#""n{number}":"""#)).collect();
    let body = format!(r#"{{"operation":"create","metadata":{{{}}}}}"#, items.join(","));
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let body = body.clone();
            std::thread::spawn(move || send(address, "POST", "/v1.0/bindings/ops", &[], body.as_bytes()))
        })
        .collect();
    for call in calls {
        let reply = call.join().unwrap();
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(reply.body.contains("metadata has more than 1000 items"), "{reply:?}");
    }
}

#[test]
fn the_end_has_a_limit_whoever_is_connected() {
    let held = Held::start();
    let resources = Resources::binding("ops", &[("id", "x"), ("url", &held.url()), ("timeout", "5m")]);
    let host = Host::serve_with(&resources, &["--dapr-graceful-shutdown-seconds", "2"], &[]);
    let address = host.address();
    let call = std::thread::spawn(move || {
        let mut connection = Connection::open(address);
        connection.write(format!(
            "POST /v1.0/bindings/ops HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{CREATE}",
            CREATE.len()
        ));
        connection
    });
    let _waiting = held.receive();
    let _connection = call.join().unwrap();
    let start = Instant::now();
    host.terminate();
    host.wait_for_log("stopped after --dapr-graceful-shutdown-seconds");
    assert_eq!(host.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_second_signal_ends_at_once() {
    let held = Held::start();
    let resources = Resources::binding("ops", &[("id", "x"), ("url", &held.url()), ("timeout", "5m")]);
    let host = Host::serve_with(&resources, &["--dapr-graceful-shutdown-seconds", "3600"], &[]);
    let address = host.address();
    let _call = std::thread::spawn(move || {
        TcpStream::connect(address).and_then(|mut stream| {
            write!(
                stream,
                "POST /v1.0/bindings/ops HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{CREATE}",
                CREATE.len()
            )?;
            stream.read(&mut [0; 100])
        })
    });
    let _waiting = held.receive();
    host.terminate();
    while TcpStream::connect(address).is_ok() {
        pause();
    }
    host.interrupt();
    host.wait_for_log("stopped by a second signal");
    assert_eq!(host.wait().code(), Some(130));
}

#[test]
fn a_named_pipe_among_the_component_files_is_refused_by_name() {
    let resources = Resources::new();
    let pipe = resources.path().join("pipe.yaml");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = finish(
        command(&["serve", "--dapr-http-port", "0", "--resources-path", resources.path().to_str().unwrap()]),
        b"",
    );
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.contains("pipe.yaml is a named pipe, not a regular file"), "{error}");
}

#[test]
fn certificates_in_a_named_pipe_are_refused_by_name() {
    let resources =
        Resources::binding("ops", &[("id", "x"), ("url", "https://robot.example/robot/send?access_token=t")]);
    let dir = resources.path().join("certificates");
    std::fs::create_dir(&dir).unwrap();
    let pipe = dir.join("roots.pem");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (variable, value) in [("SSL_CERT_FILE", &pipe), ("SSL_CERT_DIR", &dir)] {
        let mut serve =
            command(&["serve", "--dapr-http-port", "0", "--resources-path", resources.path().to_str().unwrap()]);
        serve.env(variable, value);
        let output = finish(serve, b"");
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(error.contains(&format!("{variable}: {} is a named pipe", pipe.display())), "{error}");
    }
}

#[test]
fn a_start_that_waits_hears_a_signal() {
    let resources = Resources::new();
    // Another process has the inbox for itself, for longer than anybody waits for that.
    let inbox = rusqlite::Connection::open(resources.path().join("inbox.sqlite")).unwrap();
    inbox.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let path = resources.path().to_str().unwrap();
    let mut serve = command(&["serve", "--dapr-http-port", "0", "--resources-path", path, "--inbox", path]);
    serve.arg("--print-events");
    let mut child = serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Until it listens for signals, one ends it at once, which is as good.
    std::thread::sleep(Duration::from_secs(2));
    signal(&child, "TERM");
    let ended = wait(&mut child).expect("the host ends");
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(ended.code().is_none() || log.contains("stopped before anything was served"), "{ended} {log}");
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let robot = Robot::start();
    let resources = Resources::of("ops", &robot);
    let mut serve =
        command(&["serve", "--resources-path", resources.path().to_str().unwrap(), "--dapr-http-port", "0"]);
    serve.args(["--log-level", "debug"]);
    let mut child = serve.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let mut text = String::new();
    let address: SocketAddr = loop {
        let mut byte = [0];
        assert_eq!(log.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
        if let Some((_, rest)) = text.split_once("HTTP API is listening address=")
            && let Some(address) = rest.strip_suffix('\n')
        {
            break address.parse().unwrap();
        }
    };
    // Each has a line in the log: more than a pipe holds, and than waits in memory.
    let body = format!(r#"{{"operation":"{}"}}"#, "x".repeat(3_000));
    let missing = r#"{"operation":"get","data":1}"#;
    for call in 0..2_000 {
        let body = if call % 10 == 0 { body.as_str() } else { missing };
        let reply = send(address, "POST", "/v1.0/bindings/ops", &[], body.as_bytes());
        assert_eq!(reply.status, 500, "{reply:?}");
    }
    let reader = std::thread::spawn(move || {
        let mut rest = String::new();
        log.read_to_string(&mut rest).map(|_| rest)
    });
    assert_eq!(send(address, "GET", "/v1.0/healthz", &[], b"").status, 204);
    signal(&child, "TERM");
    assert!(wait(&mut child).is_some());
    let rest = reader.join().unwrap().unwrap();
    assert!(
        rest.contains("stopped; every call that was accepted has been answered"),
        "the end is said once there is room"
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_stops_the_start_and_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let resources = Resources::new();
    for name in ["DAPR_API_TOKEN", "APP_API_TOKEN", "NAMESPACE", "https_proxy", "DAPR_ENV_KEYS"] {
        let mut serve =
            command(&["serve", "--dapr-http-port", "0", "--resources-path", resources.path().to_str().unwrap()]);
        serve.env(name, std::ffi::OsString::from_vec(b"S3CR3T\xff".to_vec()));
        let output = finish(serve, b"");
        assert_eq!(output.status.code(), Some(1), "{name}");
        let error = stderr(&output);
        assert!(error.contains(&format!("{name} is not UTF-8")) && !error.contains("S3CR3T"), "{error}");
    }
    let store = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: env}\nspec: {type: secretstores.local.env, version: v1, metadata: []}\n";
    for item in ["envRef: TEAM_SECRET", "secretKeyRef: {name: TEAM_SECRET, key: TEAM_SECRET}"] {
        let resources = Resources::new();
        std::fs::write(resources.path().join("env.yaml"), store).unwrap();
        let binding = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: ops}}\nauth: {{secretStore: env}}\nspec: {{type: bindings.dingtalk.webhook, version: v1, metadata: [{{name: id, value: ops}}, {{name: secret, {item}}}]}}\n"
        );
        std::fs::write(resources.path().join("ops.yaml"), binding).unwrap();
        let mut serve =
            command(&["serve", "--dapr-http-port", "0", "--resources-path", resources.path().to_str().unwrap()]);
        serve.env("TEAM_SECRET", std::ffi::OsString::from_vec(b"S3CR3T\xff".to_vec()));
        let output = finish(serve, b"");
        assert_eq!(output.status.code(), Some(1), "{item}");
        let error = stderr(&output);
        let expected = "the environment variable \"TEAM_SECRET\" is not UTF-8; set it to UTF-8 text";
        assert!(error.contains(expected) && !error.contains("S3CR3T"), "{error}");
    }
}
