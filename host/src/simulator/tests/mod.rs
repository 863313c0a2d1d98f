//! The simulator over real sockets: what clients and receivers see, byte for byte, and what the group sees. One file
//! for each side of it; here is what they share.

mod callbacks;
mod faults;
mod group;
mod orders;
mod replies;
mod robot;
mod running;
mod strangers;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use dingtalk_binding::secret::Secret;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::robot::RobotConfig;
use super::*;

const TEXT: &str = r#"{"msgtype":"text","text":{"content":"hello"}}"#;

const OK: &str = r#"{"errcode":0,"errmsg":"ok"}"#;

async fn start() -> Simulator {
    Simulator::start(Config::default()).await.unwrap()
}

/// A request on a connection of its own, and everything that comes back until the connection ends.
async fn raw(simulator: &Simulator, request: &str) -> io::Result<String> {
    exchange(TcpStream::connect(simulator.address()).await.unwrap(), request).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: robot.test\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const SEND: &str = "/robot/send?access_token=simulated-access-token";

/// Status line, headers in lower case, body.
fn split(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

async fn send(simulator: &Simulator) -> (u16, String, String) {
    split(&raw(simulator, &post(SEND, TEXT)).await.unwrap())
}

/// Sends as a client does.
async fn request(method: &str, simulator: &Simulator, path: &str, body: &str) -> (u16, Value) {
    fetch(method, &format!("http://{}{path}", simulator.address()), body).await
}

async fn fetch(method: &str, url: &str, body: &str) -> (u16, Value) {
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// Polls, because what is waited for happens in another task; fails rather than waiting for ever.
async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), met).await.unwrap();
}

/// A certificate of its own for a server on this machine, and a client that trusts it.
fn secured() -> (Tls, rustls::ClientConfig) {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let trusting = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Tls { certificates: cert.pem().into(), key: Secret::new(signing_key.serialize_pem()) }, trusting)
}
