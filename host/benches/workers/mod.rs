//! For how long one request holds a thread that serves others too.
//!
//! A single thread serves; beside the requests runs a task that only takes its turns, and looks at the processor time
//! that the thread has used between two of them. Time that other programs took does not count, and neither does what
//! is done on other threads, where nobody waits for it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dingtalk_binding::signature;
use dingtalk_host::api::{Api, Server, Surface};
use dingtalk_host::app::{App, PrintApp};
use dingtalk_host::bindings::Bindings;
use dingtalk_host::egress::{Policy, Proxies};
use dingtalk_host::input::Input;
use dingtalk_host::resources::{self, Context};
use dingtalk_host::sandbox::Limits;
use rustix::time::ClockId;

use super::robot::Robot;
use super::{Error, median, properties, read_clock, sandbox, url};

/// The default of `--max-body-size`, and the longest callback.
const LONGEST: usize = 4 << 20;
const LONGEST_CALLBACK: usize = 128 << 10;
/// Longer bodies are decoded on a thread of their own.
const LONGEST_DECODED_HERE: usize = (256 << 10) - 1;
const ROUNDS: usize = 20;

/// Prints the longest turn of each kind of request.
pub(crate) fn measure() -> Result<(), Error> {
    let robot = Robot::start(None)?;
    println!("\n| longest turn of a request | median of {ROUNDS} | longest |\n|---|---|---|");
    for (name, request) in requests() {
        let mut turns = Vec::new();
        for _ in 0..ROUNDS {
            turns.push(longest_turn(robot.address, request())?);
        }
        let median = median(&mut turns).as_secs_f64() * 1e3;
        let longest = turns[ROUNDS - 1].as_secs_f64() * 1e3;
        println!("| {name} | {median:.1} ms | {longest:.1} ms |");
    }
    Ok(())
}

type Request = Box<dyn Fn() -> Vec<u8>>;

/// The most expensive requests of the allowed sizes.
fn requests() -> Vec<(&'static str, Request)> {
    let filled = |before: &str, part: &str, after: &str, length: usize| {
        let mut body = before.to_owned();
        while body.len() + part.len() + after.len() <= length {
            body.push_str(part);
        }
        body + after
    };
    let create = |body: String| -> Request { Box::new(move || post("/v1.0/bindings/bench", "", &body)) };
    let text = r#"{"operation":"create","data":{"msgtype":"text","text":{"content":""#;
    let members = r#"{"operation":"create","data":{"msgtype":"text","text":{"content":"Hi"},"more":["#;
    let metadata = |length: usize| {
        let item = length / 1_000 - 16;
        let items: Vec<String> = (0..1_000).map(|n| format!(r#""{n:04}":"{}""#, "x".repeat(item))).collect();
        format!(r#"{{"operation":"create","data":"Hi","metadata":{{{}}}}}"#, items.join(","))
    };
    let mut requests = vec![("a usual message", create(filled(text, "x", r#""}}}"#, 100)))];
    for length in [LONGEST_DECODED_HERE, LONGEST] {
        let name = |short, long| if length == LONGEST { long } else { short };
        requests.extend([
            (name("256 KiB of text", "4 MiB of text"), create(filled(text, "x", r#""}}}"#, length))),
            (name("256 KiB of escapes", "4 MiB of escapes"), create(filled(text, r"\u00e9", r#""}}}"#, length))),
            (name("256 KiB of items", "4 MiB of items"), create(filled(members, "[],", "0]}}", length))),
            (
                name("256 KiB as a short form", "4 MiB as a short form"),
                create(filled(r#"{"operation":"create","data":""#, r"\n# @1 ", r#""}"#, length)),
            ),
            (name("256 KiB of metadata", "4 MiB of metadata"), create(metadata(length))),
        ]);
    }
    requests.push((
        "a callback of 128 KiB",
        callback(filled(r#"{"text":{"content":""#, r"\n", r#""}}"#, LONGEST_CALLBACK)),
    ));
    requests.push(("a callback of 128 KiB of members", {
        let mut body = r#"{"text":{"content":"Hi"}"#.to_owned();
        for number in 0.. {
            let member = format!(r#","m{number}":0"#);
            if body.len() + member.len() >= LONGEST_CALLBACK {
                break;
            }
            body.push_str(&member);
        }
        callback(body + "}")
    }));
    requests
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn callback(body: String) -> Request {
    Box::new(move || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        let secret = properties("")[2].1;
        let mut headers = "content-type: application/json\r\n".to_owned();
        let _ = write!(headers, "timestamp: {now}\r\nsign: {}\r\n", signature::sign(secret, now));
        post("/v1.0/bindings/bench/callback", &headers, &body)
    })
}

/// Serves one request, and says how long its longest turn was.
fn longest_turn(robots: SocketAddr, request: Vec<u8>) -> Result<Duration, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let server = Server::listen(&[((Ipv4Addr::LOCALHOST, 0).into(), Surface::Everything)]).await?;
        let address = server.addresses()[0].0;
        let input = Input::new(
            bindings(robots).await?,
            Some(App::Print(PrintApp::new(io::sink())?)),
            None,
            Duration::from_secs(30),
        );
        let api = Arc::new(Api::new(input, "bench".into(), None, LONGEST));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(api, async {
            let _ = stopped.await;
        }));
        let client = tokio::task::spawn_blocking(move || -> Result<(), Error> {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(&request)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer.into()) }
        });
        let mut longest = Duration::ZERO;
        let mut before = processor_time();
        while !client.is_finished() {
            tokio::task::yield_now().await;
            let now = processor_time();
            longest = longest.max(now.saturating_sub(before));
            before = now;
        }
        client.await??;
        drop(stop);
        serving.await?;
        Ok(longest)
    })
}

async fn bindings(robots: SocketAddr) -> Result<Bindings, Error> {
    let dir = tempfile::tempdir()?;
    let mut yaml = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: bench\nspec:\n  type: \
                    bindings.dingtalk.webhook\n  version: v1\n  metadata:\n"
        .to_owned();
    // Its robots have no limit.
    for (name, value) in properties(&url(robots)).into_iter().chain([("rateLimit", "0")]) {
        writeln!(yaml, "  - name: {name}\n    value: \"{value}\"")?;
    }
    std::fs::write(dir.path().join("bench.yaml"), yaml)?;
    let context = Context { app_id: "bench", namespace: None, env: &|_| None };
    let loaded = resources::load_dirs(&[dir.path().to_owned()], &context)?;
    let bindings = Bindings::new(sandbox(Limits::for_messages_of(LONGEST))?);
    for binding in loaded.bindings {
        bindings.add(binding, &Proxies::none(), &Policy::default()).await?;
    }
    Ok(bindings)
}

/// What this thread has used.
fn processor_time() -> Duration {
    read_clock(ClockId::ThreadCPUTime)
}
