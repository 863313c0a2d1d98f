//! `dingtalk-host demo`: the whole way of a message, from Dapr's API through the sandbox to a simulated group, and
//! from there to an application and back, over real sockets and with nothing to set up.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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
use crate::app::{App, RemoteApp, RemoteConfig};
use crate::egress::Policy;
use crate::input::Input;
use crate::resources;
use crate::sandbox::Limits;
use crate::simulator::conversation::Say;
use crate::simulator::robot::RobotConfig;
use crate::simulator::{Config, Simulator, Via};

/// Sends one message of each kind to a simulated group, lets someone there speak to the robot, and shows the group.
///
/// Starts the simulator, the API and an example application on free loopback ports, and fails unless every message
/// arrives signed and the application's answers appear in the group.
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    /// The example application; without it, the one that was built beside this program.
    #[arg(long, value_name = "FILE")]
    application: Option<PathBuf>,
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

/// What someone in the group says to the robot, and what the example application answers.
const CONVERSATION: [(&str, &str); 2] = [("ping", "pong"), ("is the build green?", "said: is the build green?")];

pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    args.log.start(LogLevel::Warn);
    let robot = RobotConfig { secret: Some(Secret::new(SECRET)), ..RobotConfig::default() };
    let simulator = Simulator::start(Config { robot, ..Config::default() }).await?;
    let mut application = Application::start(args.application)?;

    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("dingtalk.yaml"), component(&simulator.url()))?;
    let paths = [folder.path().to_owned()];
    let resources = load::with_context("demo", |context| resources::load_dirs(&paths, context))?;
    let bindings = load::bindings(resources, Limits::default(), &Policy::default(), None).await?;
    let app = App::Remote(RemoteApp::start(
        RemoteConfig::new(application.port),
        bindings.all().iter().map(|binding| binding.subscription().clone()).collect(),
    )?);
    let server = Server::listen(&[((Ipv4Addr::LOCALHOST, 0).into(), Surface::Everything)]).await?;
    let (address, _) = *server.addresses().first().ok_or("no address to listen on")?;
    let input = Input::new(bindings, Some(app), None, Duration::from_secs(2));
    let api = Arc::new(Api::new(input.clone(), "demo".into(), None, 4 << 20));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(api, async {
        let _ = stopped.await;
    }));
    simulator.set_callback_url(&format!("http://{address}/v1.0/bindings/mydingtalk/callback"))?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "simulated DingTalk group: http://{}", simulator.address())?;
    writeln!(out, "Dapr's bindings API:      http://{address}/v1.0/bindings/mydingtalk")?;
    writeln!(out, "example application:      http://127.0.0.1:{}/mydingtalk\n", application.port)?;
    for (what, body) in REQUESTS {
        let (status, answer) = post(address, body).await?;
        writeln!(out, "POST {what}: {status}")?;
        if status != StatusCode::OK {
            return Err(format!("the API answered {status}: {answer}").into());
        }
    }
    writeln!(out, "\nThe group sees:\n")?;
    for message in simulator.messages() {
        writeln!(out, "{}", message.shown)?;
    }
    writeln!(out, "\nSomeone mentions the robot, the application answers:\n")?;
    for (words, expected) in CONVERSATION {
        let said = simulator.say(Say::text(words)).await?;
        writeln!(out, "[Zhang San] @robot {words}")?;
        match said.shown {
            Some(shown) if shown.contains(expected) => writeln!(out, "{shown}")?,
            _ => {
                return Err(format!("the answer to {words:?} does not appear in the group: {:?}", said.attempts).into());
            }
        }
    }
    let messages = simulator.messages();
    let signed = messages.iter().filter(|message| message.signed).count();
    if signed != REQUESTS.len() {
        return Err(format!("{signed} of {} messages arrived signed", REQUESTS.len()).into());
    }
    let replies = messages.iter().filter(|message| message.via == Via::Reply).count();
    writeln!(
        out,
        "\n{signed} messages, every signature verified; {replies} callbacks verified and answered; {} connection(s).",
        simulator.connections()
    )?;
    let _ = stop.send(());
    serving.await?;
    input.stop().await;
    simulator.stop().await;
    application.stop()?;
    Ok(())
}

/// The example application as a process of its own; ends with the value.
struct Application {
    process: Child,
    port: u16,
}

impl Application {
    /// Starts it on a free port, which it prints.
    fn start(file: Option<PathBuf>) -> Result<Self, Failure> {
        let file = match file {
            Some(file) => file,
            None => std::env::current_exe()?
                .with_file_name("examples")
                .join(format!("echo{}", std::env::consts::EXE_SUFFIX)),
        };
        let process = Command::new(&file).arg("0").stdout(Stdio::piped()).spawn().map_err(|error| {
            let hint = "build it with `cargo build --example echo`, or name it with --application";
            format!("cannot start the example application {}: {error}; {hint}", file.display())
        })?;
        let mut application = Self { process, port: 0 };
        let mut line = String::new();
        if let Some(output) = application.process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        application.port = port.ok_or_else(|| format!("{} did not say where it listens: {line:?}", file.display()))?;
        Ok(application)
    }

    fn stop(&mut self) -> std::io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(|_| ())
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // Already ended, or about to be an orphan.
        let _ = self.stop();
    }
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
