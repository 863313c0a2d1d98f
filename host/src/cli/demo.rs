//! `dingtalk-host demo`: the whole way of a message, from Dapr's API through the sandbox to a simulated
//! group, over real sockets and with nothing to set up.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use dingtalk_binding::secret::Secret;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::logging::{LogArgs, LogLevel};
use super::{Failure, load};
use crate::api::{Api, Server, Surface};
use crate::input::Input;
use crate::resources;
use crate::sandbox::Limits;
use crate::simulator::robot::RobotConfig;
use crate::simulator::{Config, Simulator};

/// Sends one message of each kind to a simulated group and shows what arrives.
///
/// Starts the simulator and the API on free loopback ports, and fails unless every message arrives signed.
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    log: LogArgs,
}

/// The simulated robot's secret; its URL the simulator makes up itself.
const SECRET: &str = "SECsimulated00000000000000000000000000000000000000000000000000000000";

/// The specification's own request, then one message of every type that a robot can post.
const REQUESTS: [(&str, &str); 7] = [
    ("the specification's request", r#"{"data":{"message":"Hi"},"operation":"create"}"#),
    (
        "text that mentions someone",
        r#"{"data":"The build is green again","operation":"create","metadata":{"atMobiles":"13800000000"}}"#,
    ),
    (
        "markdown",
        r##"{"data":{"msgtype":"markdown","markdown":{"title":"Deployment","text":"# Deployment\n- version **1.4.2**\n- took 3 min"}},"operation":"create"}"##,
    ),
    (
        "link",
        r#"{"data":{"msgtype":"link","link":{"title":"Release notes","text":"What is new in 1.4.2","messageUrl":"https://example.com/notes","picUrl":""}},"operation":"create"}"#,
    ),
    (
        "actionCard with one button",
        r#"{"data":{"msgtype":"actionCard","actionCard":{"title":"Incident 17","text":"Disk 91 % full","singleTitle":"Open","singleURL":"https://example.com/17"}},"operation":"create"}"#,
    ),
    (
        "actionCard with several buttons",
        r#"{"data":{"msgtype":"actionCard","actionCard":{"title":"Approve?","text":"Deploy 1.4.3 to production","btnOrientation":"1","btns":[{"title":"Yes","actionURL":"https://example.com/yes"},{"title":"No","actionURL":"https://example.com/no"}]}},"operation":"create"}"#,
    ),
    (
        "feedCard",
        r#"{"data":{"msgtype":"feedCard","feedCard":{"links":[{"title":"Monday","messageURL":"https://example.com/1","picURL":"https://example.com/1.png"},{"title":"Tuesday","messageURL":"https://example.com/2","picURL":"https://example.com/2.png"}]}},"operation":"create"}"#,
    ),
];

pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    args.log.start(LogLevel::Warn);
    let robot = RobotConfig { secret: Some(Secret::new(SECRET)), ..RobotConfig::default() };
    let simulator = Simulator::start(Config { robot, ..Config::default() }).await?;

    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("dingtalk.yaml"), component(&simulator.url()))?;
    let paths = [folder.path().to_owned()];
    let resources = load::with_context("demo", |context| resources::load_dirs(&paths, context))?;
    let bindings = load::bindings(resources, Limits::default()).await?;
    let server = Server::listen(&[((Ipv4Addr::LOCALHOST, 0).into(), Surface::Everything)]).await?;
    let (address, _) = *server.addresses().first().ok_or("no address to listen on")?;
    let input = Input::new(bindings, None, None, Duration::from_secs(2));
    let api = Arc::new(Api::new(input, "demo".into(), None, 4 << 20));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(api, async {
        let _ = stopped.await;
    }));

    let mut out = std::io::stdout().lock();
    writeln!(out, "simulated DingTalk group: http://{}", simulator.address())?;
    writeln!(out, "Dapr's bindings API:      http://{address}/v1.0/bindings/mydingtalk\n")?;
    for (what, body) in REQUESTS {
        let (status, answer) = post(address, body).await?;
        writeln!(out, "POST {what}: {status}")?;
        if status != StatusCode::OK {
            return Err(format!("the API answered {status}: {answer}").into());
        }
    }
    writeln!(out, "\nThe group sees:\n")?;
    let messages = simulator.messages();
    for message in &messages {
        writeln!(out, "{}", message.shown)?;
    }
    let signed = messages.iter().filter(|message| message.signed).count();
    if signed != REQUESTS.len() {
        return Err(format!("{signed} of {} messages arrived signed", REQUESTS.len()).into());
    }
    writeln!(out, "\n{signed} messages, every signature verified, {} connection(s).", simulator.connections())?;
    let _ = stop.send(());
    serving.await?;
    simulator.stop().await;
    Ok(())
}

fn component(url: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: mydingtalk\nspec:\n  type: \
         bindings.dingtalk.webhook\n  version: v1\n  metadata:\n  - name: id\n    value: demo\n  - name: url\n    value: \
         {url:?}\n  - name: secret\n    value: {SECRET:?}\n"
    )
}

async fn post(address: SocketAddr, body: &'static str) -> Result<(StatusCode, String), Failure> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/v1.0/bindings/mydingtalk"))
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let (parts, body) = client.request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((parts.status, String::from_utf8_lossy(&body).into_owned()))
}
