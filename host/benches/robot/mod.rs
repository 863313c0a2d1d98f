//! The robot that everybody posts to: a process of its own, so that it costs all the same.
//!
//! It takes whatever comes, and looks at one message in a thousand as DingTalk looks at all: a contender that does not sign,
//! or sends no JSON, is found out, and the robot still takes more than anybody here sends.

use std::convert::Infallible;
use std::io::{self, BufRead};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde::de::IgnoredAny;

use super::processes::{Process, this};
use super::{Error, SECRET, monotonic, processor_time};

/// Makes this program the robot; its value is the robot's secret.
pub(crate) const ROLE: &str = "DINGTALK_BENCH_ROBOT";
/// In the path of requests of which the robot keeps when they came and when they were answered.
pub(crate) const STAMPED: &str = "stamped";
const LOOKED_AT: u64 = 1_000;

/// The robot, while it runs.
pub(crate) struct Robot {
    process: Process,
    pub(crate) address: SocketAddr,
}

/// What it has seen so far.
pub(crate) struct Seen {
    pub(crate) connections: f64,
    pub(crate) messages: f64,
    /// Nanoseconds of the processor.
    pub(crate) used: f64,
}

impl Robot {
    pub(crate) fn start(core: Option<&str>) -> Result<Self, Error> {
        let mut process = Process::start("the robot", this(core)?.env(ROLE, SECRET))?;
        let port = process.answer()?.parse()?;
        Ok(Self { process, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    pub(crate) fn seen(&mut self) -> Result<Seen, Error> {
        let [connections, messages, used] = self.process.numbers("seen")?;
        Ok(Seen { connections, messages, used })
    }

    /// When each stamped message came and was answered, since this was asked last.
    pub(crate) fn stamps(&mut self) -> Result<Vec<[Duration; 2]>, Error> {
        self.process.tell("stamps")?;
        let answer = self.process.answer()?;
        let stamps = answer.split_whitespace().map(|stamp| Ok(Duration::from_nanos(stamp.parse()?)));
        let stamps = stamps.collect::<Result<Vec<_>, Error>>()?;
        Ok(stamps.chunks_exact(2).map(|stamp| [stamp[0], stamp[1]]).collect())
    }
}

#[derive(Default)]
struct Known {
    secret: String,
    connections: AtomicU64,
    messages: AtomicU64,
    stamps: Mutex<Vec<[Duration; 2]>>,
}

impl Known {
    fn stamps(&self) -> MutexGuard<'_, Vec<[Duration; 2]>> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) async fn run(secret: String) -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    let known = Arc::new(Known { secret, ..Known::default() });
    let asked = Arc::clone(&known);
    std::thread::spawn(move || {
        for order in io::stdin().lock().lines().map_while(Result::ok) {
            if order == "stamps" {
                let stamps: Vec<_> = std::mem::take(&mut *asked.stamps()).concat();
                println!("{}", stamps.iter().map(|stamp| stamp.as_nanos().to_string()).collect::<Vec<_>>().join(" "));
            } else {
                let [connections, messages] = [&asked.connections, &asked.messages].map(|n| n.load(Ordering::Relaxed));
                println!("{connections} {messages} {}", processor_time().as_nanos());
            }
        }
        std::process::exit(0);
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        known.connections.fetch_add(1, Ordering::Relaxed);
        let known = Arc::clone(&known);
        tokio::spawn(async move {
            let answer = service_fn(|request| async { Ok::<_, Infallible>(answer(&known, request).await) });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(known: &Known, request: hyper::Request<hyper::body::Incoming>) -> hyper::Response<Full<Bytes>> {
    let arrived = request.uri().path().contains(STAMPED).then(monotonic);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let is_looked_at = known.messages.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKED_AT);
    let answer = if is_looked_at
        && !(is_signed(&head.uri, &known.secret) && serde_json::from_slice::<IgnoredAny>(&body).is_ok())
    {
        Bytes::from_static(br#"{"errcode":310000,"errmsg":"this is no signed message"}"#)
    } else {
        Bytes::from_static(br#"{"errcode":0,"errmsg":"ok"}"#)
    };
    if let Some(arrived) = arrived {
        known.stamps().push([arrived, monotonic()]);
    }
    hyper::Response::new(answer.into())
}

/// By another implementation than the contenders'.
fn is_signed(uri: &hyper::Uri, secret: &str) -> bool {
    let Ok(url) = url::Url::parse(&format!("http://robot{uri}")) else { return false };
    let parameter = |wanted| url.query_pairs().find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned());
    let (Some(timestamp), Some(sign)) = (parameter("timestamp"), parameter("sign")) else { return false };
    let Ok(sign) = base64::engine::general_purpose::STANDARD.decode(sign) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::verify(&key, format!("{timestamp}\n{secret}").as_bytes(), &sign).is_ok()
}
