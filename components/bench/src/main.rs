//! What the component for WASI 0.3 costs beside the one for WASI 0.2, in one run: `make bench-p3`.
//!
//! Rounds of both alternate, since machines are noisy. The robot's server is a process of its own (this program started
//! again), so that it costs both the same.

#![allow(clippy::indexing_slicing, reason = "its own arrays of a known length")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, io};

use bytes::Bytes;
use dingtalk_bench::{COMPONENT_P2, COMPONENT_P3, Calls, Tenant, crossings, p2, p3, wit};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Makes this program the server, which ends when its standard input does.
const SERVER: &str = "DINGTALK_BENCH_SERVER";
const MESSAGE: &[u8] = br#"{"msgtype":"text","text":{"content":"The build is green again"}}"#;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1_500);
/// Calls of which the median is taken.
const SERIAL: usize = 2_000;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With what a trap has behind it.
            let mut cause: Option<&dyn std::error::Error> = Some(&*error);
            while let Some(error) = cause {
                eprintln!("{error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    if env::var_os(SERVER).is_some() {
        return tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve());
    }
    let mut server =
        Command::new(env::current_exe()?).env(SERVER, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut port = String::new();
    BufReader::new(server.stdout.take().ok_or("the server has no output")?).read_line(&mut port)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.trim().parse()?));
    let measured = tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(address));
    drop(server.stdin.take());
    server.wait()?;
    measured
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

fn request() -> wit::InvokeRequest {
    wit::InvokeRequest { operation: "create".into(), data: MESSAGE.to_vec(), metadata: Vec::new() }
}

/// An answer that is no success would be measured as a fast one.
fn sent(answer: Result<wit::InvokeResponse, wit::InvokeError>) -> Result<(), Error> {
    answer.map(drop).map_err(|error| format!("{error:?}").into())
}

async fn measure(address: SocketAddr) -> Result<(), Error> {
    let url = format!("http://{address}/robot/send?access_token=T0K3N");
    let tenant = Tenant::new(&[("id", "bench"), ("url", &url), ("secret", "SEC")])?;
    let one_by_one = Arc::new(OneByOne { prepared: p2::Prepared::new(COMPONENT_P2)?, tenant: tenant.clone() });
    let overlapping = Arc::new(Overlapping { prepared: p3::Prepared::new(COMPONENT_P3)?, tenant: tenant.clone() });

    println!("| | WASI 0.2 | WASI 0.3 |\n|---|---|---|");
    println!("| bytes | {} | {} |", COMPONENT_P2.len(), COMPONENT_P3.len());
    let fuel = [OneByOne::fuel(COMPONENT_P2, &tenant).await?, Overlapping::fuel(COMPONENT_P3, &tenant).await?];
    println!("| instructions a message | {} | {} |", fuel[0], fuel[1]);
    let [old, new] = [crossings_of::<OneByOne>(&tenant).await?, crossings_of::<Overlapping>(&tenant).await?];
    println!("| calls out of the component a message | {old} | {new} |");

    let mut serial = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (times, kind) in serial.iter_mut().zip([true, false]) {
            for _ in 0..SERIAL / ROUNDS {
                let start = Instant::now();
                if kind {
                    one_by_one.call().await?
                } else {
                    overlapping.call().await?
                }
                times.push(start.elapsed());
            }
        }
    }
    let [old, new] = serial.map(|mut times| median(&mut times).as_secs_f64() * 1e6);
    println!("| one call at a time, each in a fresh instance: median | {old:.0} µs | {new:.0} µs |");

    for at_once in [1, 16, 64] {
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            rounds[0].push(fresh(at_once, &one_by_one).await?);
            rounds[1].push(fresh(at_once, &overlapping).await?);
        }
        print_row(&format!("fresh instances, {at_once} at once"), rounds);
    }
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rounds[0].push(one_by_one.kept().await?);
        rounds[1].push(overlapping.kept(1).await?);
    }
    print_row("one instance, one call after another", rounds);
    for at_once in [16, 64] {
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            rounds[1].push(overlapping.kept(at_once).await?);
        }
        print_row(&format!("one instance, {at_once} calls in it at once"), rounds);
    }
    Ok(())
}

/// Calls a second, and the processor time that each took.
#[derive(Clone, Copy)]
struct Rate {
    calls: f64,
    cpu: f64,
}

impl Rate {
    fn of(done: u64, wall: Duration, cpu: Duration) -> Self {
        Self { calls: done as f64 / wall.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / done as f64 }
    }
}

fn print_row(name: &str, rounds: [Vec<Rate>; 2]) {
    let [old, new] = rounds.map(|mut rounds| {
        rounds.sort_by(|a, b| a.calls.total_cmp(&b.calls));
        match (rounds.first(), rounds.get(rounds.len() / 2), rounds.last()) {
            (Some(low), Some(middle), Some(high)) => format!(
                "{:.0}/s ({:.0} to {:.0}), {:.0} µs of processor time",
                middle.calls, low.calls, high.calls, middle.cpu
            ),
            _ => "not possible".into(),
        }
    });
    println!("| {name} | {old} | {new} |");
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Processor time of all threads of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or_default())
}

/// Calls a second with `at_once` callers, each call in a fresh instance.
async fn fresh<C: Call>(at_once: usize, client: &Arc<C>) -> Result<Rate, Error> {
    let done = Arc::new(AtomicU64::new(0));
    let (start, before) = (Instant::now(), cpu());
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
    Ok(Rate::of(done.load(Ordering::Relaxed), start.elapsed(), cpu() - before))
}

trait Call: Send + Sync + 'static {
    const COMPONENT: &[u8];

    /// One call in a fresh instance.
    fn call(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// The instructions of one call in a fresh instance of `component`, without those of `init`.
    fn fuel(component: &[u8], tenant: &Tenant) -> impl Future<Output = Result<u64, Error>>;
}

/// How often one message leaves the component, and of these how often to the component model's own functions.
async fn crossings_of<C: Call>(tenant: &Tenant) -> Result<String, Error> {
    let plain = C::fuel(C::COMPONENT, tenant).await?;
    let (mut all, mut built_in) = (0, 0);
    for (position, import) in crossings::imports(C::COMPONENT)?.iter().enumerate() {
        let counting = crossings::counting(C::COMPONENT, position)?;
        // To the nearest: a message takes a few instructions more or less, with the time that it is signed at.
        let more = C::fuel(&counting, tenant).await?.saturating_sub(plain);
        let calls = more.saturating_add(crossings::FUEL / 2) / crossings::FUEL;
        if calls > 0 && env::args().any(|argument| argument == "--list") {
            println!("{calls} {} {}", import.module, import.name);
        }
        all += calls;
        if import.is_built_in() {
            built_in += calls;
        }
    }
    Ok(format!("{all}, {built_in} of them to the component model's own functions"))
}

struct OneByOne {
    prepared: p2::Prepared,
    tenant: Tenant,
}

impl Call for OneByOne {
    const COMPONENT: &[u8] = COMPONENT_P2;

    async fn call(&self) -> Result<(), Error> {
        sent(self.prepared.instance(&self.tenant, Calls::ONE).await?.invoke(&request()).await?)
    }

    async fn fuel(component: &[u8], tenant: &Tenant) -> Result<u64, Error> {
        let prepared = p2::Prepared::new(component)?;
        let mut instance = prepared.instance(tenant, Calls::many(1)).await?;
        let before = instance.fuel()?;
        sent(instance.invoke(&request()).await?)?;
        Ok(before - instance.fuel()?)
    }
}

impl OneByOne {
    /// Calls a second of one instance, one after another.
    async fn kept(&self) -> Result<Rate, Error> {
        let mut instance = self.prepared.instance(&self.tenant, Calls::many(1)).await?;
        let (start, before, mut done) = (Instant::now(), cpu(), 0);
        while start.elapsed() < ROUND {
            sent(instance.invoke(&request()).await?)?;
            done += 1;
        }
        Ok(Rate::of(done, start.elapsed(), cpu() - before))
    }
}

struct Overlapping {
    prepared: p3::Prepared,
    tenant: Tenant,
}

impl Call for Overlapping {
    const COMPONENT: &[u8] = COMPONENT_P3;

    async fn call(&self) -> Result<(), Error> {
        let mut instance = self.prepared.bare(&self.tenant, Calls::ONE).await?;
        // Entered once for both: entering costs more than `init`.
        let calls = async |calling: p3::Calling<'_>| {
            calling.init(self.tenant.properties.clone()).await?.map_err(|error| format!("{error:?}"))?;
            sent(calling.invoke(request()).await?)
        };
        instance.run(calls).await?
    }

    async fn fuel(component: &[u8], tenant: &Tenant) -> Result<u64, Error> {
        let prepared = p3::Prepared::new(component)?;
        let mut instance = prepared.instance(tenant, Calls::many(1)).await?;
        let before = instance.fuel()?;
        sent(instance.invoke(request()).await?)?;
        Ok(before - instance.fuel()?)
    }
}

impl Overlapping {
    /// Calls a second of one instance that has `at_once` of them in it.
    async fn kept(&self, at_once: usize) -> Result<Rate, Error> {
        let mut instance = self.prepared.instance(&self.tenant, Calls::many(at_once)).await?;
        let (start, before) = (Instant::now(), cpu());
        let callers = instance
            .run(async |calling| {
                join_all((0..at_once).map(|_| async move {
                    let mut done = 0_u64;
                    while start.elapsed() < ROUND {
                        sent(calling.invoke(request()).await?)?;
                        done += 1;
                    }
                    Ok::<_, Error>(done)
                }))
                .await
            })
            .await?;
        let mut done = 0;
        for caller in callers {
            done += caller?;
        }
        Ok(Rate::of(done, start.elapsed(), cpu() - before))
    }
}
