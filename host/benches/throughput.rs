//! What the sandbox costs: the phases of one instance, calls per second next to a native client that sends the same
//! signed request to the same server, the longest turn of one request, and what a loud tenant costs a quiet one.
//!
//! Machines are noisy, so what counts is the ratio: native and sandboxed rounds alternate within one run. The
//! server is a process of its own (this program started again), so that it costs both the same.
//!
//! `cargo bench -- workers` measures one part alone: throughput, workers or neighbours.

#![allow(clippy::indexing_slicing, reason = "its own arrays of a known length")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, io};

use bytes::Bytes;
use dingtalk_binding::answer::Answer;
use dingtalk_binding::contract::InvokeRequest;
use dingtalk_binding::error::InvokeError;
use dingtalk_binding::operation;
use dingtalk_binding::settings::Settings;
use dingtalk_host::clock::{self, Clock};
use dingtalk_host::egress::{Egress, Proxies};
use dingtalk_host::sandbox::{Limits, Request, Sandbox, Tenant};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};

mod neighbours;
mod workers;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Makes this program the server, which ends when its standard input does.
const SERVER: &str = "DINGTALK_BENCH_SERVER";
/// Makes this program the host of `neighbours`; its value is the server's address.
const NEIGHBOURS: &str = "DINGTALK_BENCH_NEIGHBOURS";
const MESSAGE: &[u8] = br#"{"msgtype":"text","text":{"content":"The build is green again"}}"#;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1_500);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Error> {
    if env::var_os(SERVER).is_some() {
        return tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve());
    }
    if let Ok(robots) = env::var(NEIGHBOURS) {
        return runtime()?.block_on(neighbours::measure(robots.parse()?));
    }
    let parts: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted("throughput") {
        with_server(None, |address| runtime()?.block_on(measure(address)))?;
    }
    if wanted("workers") {
        with_server(None, workers::measure)?;
    }
    if wanted("neighbours") {
        // The load on one core and the host on the other.
        with_server(Some("1"), |address| {
            let measured = on_core(Some("0"))?.env(NEIGHBOURS, address.to_string()).status()?;
            if measured.success() { Ok(()) } else { Err("the neighbours could not be measured".into()) }
        })?;
    }
    Ok(())
}

fn with_server(core: Option<&str>, measure: impl FnOnce(SocketAddr) -> Result<(), Error>) -> Result<(), Error> {
    let (server, address) = start_server(core)?;
    let measured = measure(address);
    stop_server(server)?;
    measured
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// This program once more, on one core if its number is given.
fn on_core(core: Option<&str>) -> io::Result<Command> {
    let program = env::current_exe()?;
    Ok(match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", core]).arg(program);
            command
        }
        None => Command::new(program),
    })
}

fn start_server(core: Option<&str>) -> Result<(Child, SocketAddr), Error> {
    let mut server = on_core(core)?.env(SERVER, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut port = String::new();
    BufReader::new(server.stdout.take().ok_or("the server has no output")?).read_line(&mut port)?;
    Ok((server, SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse()?))))
}

fn stop_server(mut server: Child) -> io::Result<()> {
    drop(server.stdin.take());
    server.wait()?;
    Ok(())
}

async fn serve() -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    std::thread::spawn(|| {
        let _ = io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let answer = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(hyper::Response::new(Full::<Bytes>::from(r#"{"errcode":0,"errmsg":"ok"}"#)))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/robot/send?access_token=benchmark-access-token")
}

fn properties(url: &str) -> [(&str, &str); 3] {
    [("id", "bench"), ("url", url), ("secret", "SECbenchmark0123456789abcdef0123456789")]
}

fn sandbox(limits: Limits) -> Result<Sandbox, Error> {
    Ok(Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system())?)
}

fn tenant(sandbox: &Sandbox, address: SocketAddr) -> Result<Tenant, Error> {
    let url = url(address);
    let properties = properties(&url);
    let settings = Settings::parse(properties)?;
    let egress = Egress::new("bench", &settings, &Proxies::none())?;
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Ok(sandbox.tenant(properties, egress, settings.timeout))
}

async fn measure(address: SocketAddr) -> Result<(), Error> {
    let settings = Settings::parse(properties(&url(address)))?;
    let sandbox = sandbox(Limits::default())?;
    let tenant = tenant(&sandbox, address)?;
    let native = Arc::new(Native {
        settings,
        address,
        client: Client::builder(TokioExecutor::new()).build_http(),
        clock: clock::system(),
    });
    let sandboxed = Arc::new(Sandboxed { sandbox, tenant, message: MESSAGE.to_vec() });

    phases(&sandboxed).await?;
    println!("\n{:<22} {:>12} {:>12} {:>8}", "calls at once", "native", "sandboxed", "ratio");
    let (mut natives, mut sandboxeds) = (Vec::new(), Vec::new());
    for _ in 0..2_000 {
        natives.push(timed(native.call()).await?);
        sandboxeds.push(timed(sandboxed.call()).await?);
    }
    let (a, b) = (median(&mut natives).as_secs_f64(), median(&mut sandboxeds).as_secs_f64());
    println!("{:<22} {:>9.0} µs {:>9.0} µs {:>8.2}", "1, median time", a * 1e6, b * 1e6, a / b);
    for at_once in [1, 16, 64] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let native = throughput(at_once, &native).await?;
            let sandboxed = throughput(at_once, &sandboxed).await?;
            rounds.push((sandboxed / native, native, sandboxed));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, native, sandboxed) = rounds[ROUNDS / 2];
        let (low, high) = (rounds[0].0, rounds[ROUNDS - 1].0);
        println!("{at_once:<22} {native:>10.0}/s {sandboxed:>10.0}/s {ratio:>8.2}  ({low:.2} to {high:.2})");
    }
    Ok(())
}

async fn phases(sandboxed: &Sandboxed) -> Result<(), Error> {
    let request = || Request { operation: "create".into(), data: b"null".to_vec(), metadata: Vec::new() };
    let mut phases: [Vec<Duration>; 4] = Default::default();
    for _ in 0..5_000 {
        let times = sandboxed.sandbox.phases(&sandboxed.tenant, request()).await?;
        for (phase, time) in phases.iter_mut().zip(times) {
            phase.push(time);
        }
    }
    println!("one instance, median of 5,000");
    let names = ["instantiate", "init", "invoke (refused before sending)", "drop"];
    for (name, mut times) in names.into_iter().zip(phases) {
        println!("{name:<34} {:>6.1} µs", median(&mut times).as_secs_f64() * 1e6);
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

async fn timed(call: impl Future<Output = Result<(), Error>>) -> Result<Duration, Error> {
    let start = Instant::now();
    call.await?;
    Ok(start.elapsed())
}

trait Call: Send + Sync + 'static {
    fn call(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

struct Native {
    settings: Settings,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    clock: Clock,
}

impl Call for Native {
    async fn call(&self) -> Result<(), Error> {
        let request = InvokeRequest { operation: "create".into(), data: MESSAGE.to_vec(), metadata: Vec::new() };
        let post = operation::prepare(&self.settings, false, &request, (self.clock)()).map_err(InvokeError::from)?;
        let post = post.ok_or("create posts nothing")?;
        let request = hyper::Request::post(format!("http://{}{}", self.address, post.target))
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Full::from(post.body.clone()))?;
        let (parts, body) = self.client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        let answer = Answer { status: parts.status.as_u16(), body, complete: true };
        operation::conclude(&self.settings, &post, &answer).map_err(InvokeError::from)?;
        Ok(())
    }
}

struct Sandboxed {
    sandbox: Sandbox,
    tenant: Tenant,
    message: Vec<u8>,
}

impl Call for Sandboxed {
    async fn call(&self) -> Result<(), Error> {
        let request = Request { operation: "create".into(), data: self.message.clone(), metadata: Vec::new() };
        self.sandbox.invoke(&self.tenant, request, None).await?;
        Ok(())
    }
}

/// Calls per second with `at_once` callers.
async fn throughput<C: Call>(at_once: usize, client: &Arc<C>) -> Result<f64, Error> {
    let done = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let callers: Vec<_> = (0..at_once)
        .map(|_| {
            let (client, done) = (Arc::clone(client), Arc::clone(&done));
            tokio::spawn(async move {
                while start.elapsed() < ROUND {
                    client.call().await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}
