//! What is compared, each in a process of its own with nothing else in it: native Rust, and the sandbox as an application
//! calls it through the library. Dapr's binding (`dapr/`) takes the same orders.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dingtalk_binding::answer::Answer;
use dingtalk_binding::contract::InvokeRequest;
use dingtalk_binding::error::InvokeError;
use dingtalk_binding::operation;
use dingtalk_binding::settings::Settings;
use dingtalk_host::clock::{self, Clock};
use dingtalk_host::sandbox::{CallError, Instances, Limits, Request, Response, Sandbox, Tenant};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::processes::{Process, this};
use super::{Error, MESSAGE, SECRET, processor_time, properties, runtime, tenant, url};

/// Makes this program a contender; its value is which one.
pub(crate) const ROLE: &str = "DINGTALK_BENCH_CONTENDER";
pub(crate) const NATIVE: &str = "native";
pub(crate) const REWOUND: &str = "rewound";
pub(crate) const FRESH: &str = "fresh";

/// A contender, while it runs.
pub(crate) struct Contender {
    process: Process,
    pub(crate) name: &'static str,
}

/// A block of calls.
pub(crate) struct Block {
    pub(crate) calls: f64,
    /// Nanoseconds.
    pub(crate) took: f64,
    /// Nanoseconds of the processor.
    pub(crate) used: f64,
}

impl Contender {
    /// One of those in this file, with so many tenants.
    pub(crate) fn start(name: &'static str, robot: SocketAddr, tenants: usize) -> Result<Self, Error> {
        let mut process = Process::start(name, this(None)?.env(ROLE, name))?;
        process.tell(&format!("{robot} {tenants}"))?;
        Self::ready(name, process)
    }

    /// Dapr's binding, in the program that it was built into.
    pub(crate) fn dapr(name: &'static str, program: &std::path::Path, robot: SocketAddr) -> Result<Self, Error> {
        let mut process = Process::start(name, &mut std::process::Command::new(program))?;
        process.tell(&format!("{}\n{SECRET}\n{}", url(robot), str::from_utf8(MESSAGE)?))?;
        Self::ready(name, process)
    }

    fn ready(name: &'static str, mut process: Process) -> Result<Self, Error> {
        match process.answer()?.as_str() {
            "ready" => Ok(Self { process, name }),
            other => Err(format!("{name} is not ready: {other}").into()),
        }
    }

    /// Calls, so many at once, for this time, and until there were `at_least` so many.
    pub(crate) fn block(&mut self, at_once: usize, at_least: usize, time: Duration) -> Result<Block, Error> {
        let order = format!("block {at_once} {at_least} {}", time.as_millis());
        let [calls, took, used] = self.process.numbers(&order)?;
        Ok(Block { calls, took, used })
    }

    /// Bytes that it has in memory.
    pub(crate) fn resident(&mut self) -> Result<f64, Error> {
        let [bytes] = self.process.numbers("resident")?;
        Ok(bytes)
    }
}

pub(crate) fn run(kind: &str) -> Result<(), Error> {
    runtime()?.block_on(async {
        let served = serve(kind).await;
        // For whoever ordered: the other way would be a word among those of all processes.
        if let Err(error) = &served {
            println!("error {}", error.to_string().replace('\n', " "));
        }
        served
    })
}

async fn serve(kind: &str) -> Result<(), Error> {
    let mut orders = io::stdin().lock().lines();
    let first = orders.next().ok_or("there are no orders")??;
    let (robot, tenants) = first.split_once(' ').ok_or("there are no tenants")?;
    let (robot, tenants) = (robot.parse()?, tenants.parse()?);
    if kind == NATIVE {
        return obey(orders, Arc::new(Native::new(urls(robot, tenants))?)).await;
    }
    let lifetime = Instances::ALL.into_iter().find(|lifetime| lifetime.name() == kind).ok_or("there is no such one")?;
    obey(orders, Arc::new(Sandboxed::new(lifetime, robot, tenants)?)).await
}

async fn obey(orders: impl Iterator<Item = io::Result<String>>, client: Arc<impl Call>) -> Result<(), Error> {
    println!("ready");
    for order in orders {
        let order = order?;
        let words: Vec<&str> = order.split(' ').collect();
        match words.as_slice() {
            ["block", at_once, at_least, milliseconds] => {
                let time = Duration::from_millis(milliseconds.parse()?);
                let Block { calls, took, used } = block(&client, at_once.parse()?, at_least.parse()?, time).await?;
                println!("{calls} {took} {used}");
            }
            ["resident"] => println!("{}", resident()?),
            _ => return Err(format!("{order:?} is no order").into()),
        }
    }
    Ok(())
}

async fn block<C: Call>(client: &Arc<C>, at_once: usize, at_least: u64, time: Duration) -> Result<Block, Error> {
    let done = Arc::new(AtomicU64::new(0));
    let (before, start) = (processor_time(), Instant::now());
    let callers: Vec<_> = (0..at_once)
        .map(|_| {
            let (client, done) = (Arc::clone(client), Arc::clone(&done));
            tokio::spawn(async move {
                while start.elapsed() < time || done.load(Ordering::Relaxed) < at_least {
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
    let nanoseconds = |time: Duration| time.as_nanos() as f64;
    let (took, used) = (nanoseconds(start.elapsed()), nanoseconds(processor_time() - before));
    Ok(Block { calls: done.load(Ordering::Relaxed) as f64, took, used })
}

/// Bytes of memory that this process has, as the system says it.
fn resident() -> Result<u64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    Ok(kilobytes.ok_or("the system does not say")?.trim().parse::<u64>()? << 10)
}

/// Whoever can post a message.
pub(crate) trait Call: Send + Sync + 'static {
    fn call(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Each tenant has a token, and so a URL, of its own.
fn urls(robot: SocketAddr, tenants: usize) -> impl Iterator<Item = String> {
    (0..tenants).map(move |number| format!("{}-{number}", url(robot)))
}

/// The component's own rules around hyper-util's client, without a sandbox, and tenants that take turns.
pub(crate) struct Native {
    tenants: Vec<NativeTenant>,
    next: AtomicUsize,
    clock: Clock,
}

/// With a client of its own, as each has that is sandboxed.
struct NativeTenant {
    settings: Settings,
    origin: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Native {
    pub(crate) fn new(urls: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let tenant = |url: String| {
            let settings = Settings::parse(properties(&url))?;
            let origin = format!("http://{}:{}", settings.endpoint.origin().host(), settings.endpoint.origin().port());
            let client = Client::builder(TokioExecutor::new()).build_http();
            Ok::<_, Error>(NativeTenant { settings, origin, client })
        };
        let tenants = urls.into_iter().map(tenant).collect::<Result<_, _>>()?;
        Ok(Self { tenants, next: AtomicUsize::new(0), clock: clock::system() })
    }
}

impl Call for Native {
    async fn call(&self) -> Result<(), Error> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.tenants.len();
        let NativeTenant { settings, origin, client } = &self.tenants[turn];
        let request = InvokeRequest { operation: "create".into(), data: MESSAGE.to_vec(), metadata: Vec::new() };
        let post = operation::prepare(settings, false, &request, (self.clock)()).map_err(InvokeError::from)?;
        let post = post.ok_or("create posts nothing")?;
        let request = hyper::Request::post(format!("{origin}{}", post.target))
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Full::from(post.body.clone()))?;
        let (parts, body) = client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        let answer = Answer { status: parts.status.as_u16(), body, complete: true };
        operation::conclude(settings, &post, &answer).map_err(InvokeError::from)?;
        Ok(())
    }
}

/// The sandbox, and tenants that take turns.
pub(crate) struct Sandboxed {
    pub(crate) sandbox: Sandbox,
    pub(crate) tenants: Vec<Tenant>,
    next: AtomicUsize,
    message: Vec<u8>,
}

impl Sandboxed {
    pub(crate) fn of(sandbox: Sandbox, tenant: Tenant, message: Vec<u8>) -> Self {
        Self { sandbox, tenants: vec![tenant], next: AtomicUsize::new(0), message }
    }

    fn new(lifetime: Instances, robot: SocketAddr, tenants: usize) -> Result<Self, Error> {
        let sandbox = super::sandbox(Limits { lifetime, ..Limits::default() })?;
        let tenants = urls(robot, tenants).map(|url| tenant(&sandbox, &url)).collect::<Result<_, _>>()?;
        Ok(Self { sandbox, tenants, next: AtomicUsize::new(0), message: MESSAGE.to_vec() })
    }

    pub(crate) async fn invoke(&self, operation: &str) -> Result<Response, CallError<InvokeError>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.tenants.len();
        let request = Request { operation: operation.into(), data: self.message.clone(), metadata: Vec::new() };
        self.sandbox.invoke(&self.tenants[turn], request, None).await
    }
}

impl Call for Sandboxed {
    async fn call(&self) -> Result<(), Error> {
        self.invoke("create").await?;
        Ok(())
    }
}
