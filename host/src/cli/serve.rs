//! `dingtalk-host serve`: Dapr's HTTP API for bindings, DingTalk's callbacks, and the way to the application.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use dingtalk_binding::duration;
use dingtalk_binding::secret::Secret;
use tokio_util::task::AbortOnDropHandle;

use super::app::AppArgs;
use super::egress::EgressArgs;
use super::logging::{LogArgs, LogLevel};
use super::reload::{self, Reload};
use super::signals::{Ended, Hangup};
use super::{Failure, descriptors, load, quantity};
use crate::api::{Allowed, Api, Server, Surface};
use crate::clock;
use crate::egress::MAX_REQUEST_BODY;
use crate::inbox::{self, Inbox};
use crate::input::Input;
use crate::resources::{self, Configuration, Loader};
use crate::sandbox::Limits;

/// Serves Dapr's bindings API over HTTP, and hands what DingTalk sends to the application.
///
/// With the environment variable DAPR_API_TOKEN set, clients must send it as `dapr-api-token`; callbacks prove
/// themselves by their signature.
#[derive(Debug, Clone, Args)]
pub(super) struct ServeArgs {
    /// Directory with component files. Repeatable.
    #[arg(long, value_name = "DIRECTORY", required = true, value_delimiter = ',')]
    resources_path: Vec<PathBuf>,
    /// File with Dapr's Configuration: lists of the API's routes, whether there are metrics and hot reload.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the HTTP API; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 3500, env = "DAPR_HTTP_PORT")]
    dapr_http_port: u16,
    /// Addresses to listen on, separated by commas. Whoever reaches one can send as every robot.
    #[arg(long, value_name = "ADDRESSES", default_value = "127.0.0.1", value_delimiter = ',', value_parser = parse_address)]
    dapr_listen_addresses: Vec<IpAddr>,
    /// Name of the application: decides with `scopes`, fills in `{appID}`.
    #[arg(long, value_name = "ID", default_value = "dingtalk-host", env = "APP_ID")]
    app_id: String,
    /// Longest request body, at most 16Mi.
    #[arg(long, value_name = "SIZE", default_value = "4Mi", value_parser = parse_body_size)]
    max_body_size: usize,
    /// Port for DingTalk's callbacks and health checks alone, to be reached from outside; 0 takes a free one.
    /// The API's port takes callbacks too.
    #[arg(long, value_name = "PORT")]
    callback_port: Option<u16>,
    /// Addresses of --callback-port, separated by commas.
    #[arg(long, value_name = "ADDRESSES", default_value = "127.0.0.1", value_delimiter = ',', value_parser = parse_address)]
    callback_listen_addresses: Vec<IpAddr>,
    /// Time in which a callback is answered. DingTalk documents 2.5s for what it pushes.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_callback_timeout)]
    callback_timeout: Duration,
    /// Directory in which messages are kept until the application has taken them. With it, a callback is
    /// acknowledged once its message is on disk; a reply that takes longer goes to the message's session.
    #[arg(long, value_name = "DIRECTORY", requires = "application")]
    inbox: Option<PathBuf>,
    /// How much the inbox may take on disk, at least 8Mi. Beyond it, messages are not acknowledged.
    #[arg(long, value_name = "SIZE", default_value = "256Mi", value_parser = parse_inbox_size, requires = "inbox")]
    inbox_max_size: u64,
    /// How long the inbox tries to deliver a message. Then it is dead: see `inbox list`.
    #[arg(long, value_name = "DURATION", default_value = "72h", value_parser = parse_inbox_age, requires = "inbox")]
    inbox_max_age: Duration,
    /// Seconds that calls in progress have to end once the process has been asked to.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    dapr_graceful_shutdown_seconds: u32,
    /// Names by which clients without a token may call the API, beside localhost and the address that they reach,
    /// separated by commas; * is any. Without this, a web page whose name points here could.
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    allowed_hosts: Vec<String>,
    /// Origins (https://host:port) of web pages that may call the API without a token, separated by commas; * is any.
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    /// Serve metrics on --metrics-port.
    #[arg(
        long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true"
    )]
    enable_metrics: bool,
    /// Port for metrics in Prometheus' format, daprd's is 9090; 0 takes a free one. Without this, none are served.
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Address of --metrics-port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = parse_address)]
    metrics_listen_address: IpAddr,
    /// Take over what is changed, added or removed in component files and secrets files while running. SIGHUP has them
    /// read again in any case.
    #[arg(
        long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true"
    )]
    enable_hot_reload: bool,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    app: AppArgs,
}

/// Above a minute, whoever waits has gone.
fn parse_callback_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text)?;
    if timeout < Duration::from_millis(1) || timeout > Duration::from_secs(60) {
        return Err(format!("{text} is not between 1ms and 1m"));
    }
    Ok(timeout)
}

fn parse_body_size(text: &str) -> Result<usize, String> {
    let size = quantity::parse(text)?;
    if size > MAX_REQUEST_BODY {
        return Err(format!("no binding sends more than {}Mi", MAX_REQUEST_BODY >> 20));
    }
    Ok(size)
}

fn parse_inbox_size(text: &str) -> Result<u64, String> {
    let size = quantity::parse(text)? as u64;
    if size < inbox::Limits::LEAST_SIZE {
        return Err(format!("an inbox needs {}Mi for itself", inbox::Limits::LEAST_SIZE >> 20));
    }
    Ok(size)
}

/// Below a minute, an application that restarts would lose messages to the list of dead ones.
fn parse_inbox_age(text: &str) -> Result<Duration, String> {
    let age = duration::parse(text)?;
    if age < Duration::from_secs(60) {
        return Err(format!("{text} is less than 1m"));
    }
    Ok(age)
}

/// As daprd takes them: IPv6 with or without brackets.
fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_err(|_| format!("{text:?} is not an IP address; write for example 127.0.0.1 or [::1]"))
}

pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    args.log.start(LogLevel::Info);
    // Before anything is read or served, so that no signal is missed.
    let mut ended = Ended::new()?;
    let hangup = Hangup::new()?;
    let grace = Duration::from_secs(args.dapr_graceful_shutdown_seconds.into());
    // Beside this task, which hears a signal even while a file, a disk or a name server lets the start wait.
    let Serving { server, api, input, reload } = tokio::select! {
        started = tokio::spawn(start(args)) => started??,
        _ = ended.wait() => {
            tracing::info!("stopped before anything was served");
            return Ok(());
        }
    };
    // Until the process is asked to end.
    let reloading = AbortOnDropHandle::new(tokio::spawn(reload.run(input.clone(), hangup)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = async {
        let stopped = async {
            let _ = stopped.await;
        };
        server.run(Arc::clone(&api), stopped).await;
        input.stop().await;
    };
    let mut serving = pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        _ = ended.wait() => {}
    }
    drop((stop, reloading));
    tokio::select! {
        () = &mut serving => tracing::info!("stopped; every call that was accepted has been answered"),
        () = tokio::time::sleep(grace) => tracing::warn!(
            calls = api.calls(),
            "stopped after --dapr-graceful-shutdown-seconds; what calls in progress have sent may have arrived"
        ),
        status = ended.wait() => {
            tracing::warn!(calls = api.calls(), "stopped by a second signal");
            return Err(Failure::Signal(status));
        }
    }
    Ok(())
}

/// What has been started.
struct Serving {
    server: Server,
    api: Arc<Api>,
    input: Input,
    reload: Reload,
}

async fn start(args: ServeArgs) -> Result<Serving, Failure> {
    let descriptors = descriptors::raise();
    let configuration = match &args.config {
        Some(file) => load::with_context(&args.app_id, |context| resources::load_configuration(file, context))?,
        None => Configuration::default(),
    };
    for warning in &configuration.warnings {
        tracing::warn!("{warning}");
    }
    let mut loader = Loader::new(args.resources_path.clone());
    let mut resources = load::with_context(&args.app_id, |context| loader.load(context))?;
    let policy = args.egress.policy();
    let is_watching = args.enable_hot_reload && configuration.hot_reload != Some(false);
    let files = reload::Files::new(loader, args.resources_path, args.app_id.clone(), is_watching);
    let mut reload = Reload::new(files, &resources, policy.clone());
    let resiliency = std::mem::take(&mut resources.resiliency);
    let bindings = load::bindings(resources, Limits::for_messages_of(args.max_body_size), &policy).await?;
    reload.begin(&bindings);
    if bindings.all().is_empty() {
        tracing::warn!("there is no DingTalk binding in --resources-path; every call will fail");
    }
    let limits = inbox::Limits { max_size: args.inbox_max_size, max_age: args.inbox_max_age };
    let inbox = args.inbox.map(|dir| Inbox::open(&dir, clock::system(), limits)).transpose()?;
    let app = args.app.start(&bindings, &policy).await?;
    if inbox.is_some() && app.is_none() {
        return Err(
            "--inbox: there is no application to deliver to; set --app-port, --handler or --print-events".into()
        );
    }
    let input = Input::new(bindings, app, inbox, args.callback_timeout);
    input.set_resiliency(resiliency);
    let api_token = env::var("DAPR_API_TOKEN").ok().filter(|token| !token.is_empty()).map(Secret::new);
    let mut api = Api::new(input.clone(), args.app_id, api_token, args.max_body_size);
    api.lists = configuration.lists;
    if let Some(namespace) = env::var("NAMESPACE").ok().filter(|namespace| !namespace.is_empty()) {
        api.namespace = namespace;
    }
    api.allowed = Allowed { hosts: args.allowed_hosts, origins: args.allowed_origins };
    let everything = args.dapr_listen_addresses.iter().map(|&ip| (ip, args.dapr_http_port, Surface::Everything));
    let port = args.callback_port;
    let callbacks = args.callback_listen_addresses.iter().filter_map(|&ip| Some((ip, port?, Surface::Callbacks)));
    let metrics = args.metrics_port.filter(|_| args.enable_metrics && configuration.metrics != Some(false));
    let metrics = metrics.map(|port| (args.metrics_listen_address, port, Surface::Metrics));
    let addresses: Vec<(SocketAddr, Surface)> =
        everything.chain(callbacks).chain(metrics).map(|(ip, port, surface)| ((ip, port).into(), surface)).collect();
    for (address, surface) in &addresses {
        // Before anybody can reach it.
        if *surface == Surface::Everything && !address.ip().to_canonical().is_loopback() && api.api_token.is_none() {
            tracing::warn!(%address, "reachable from other machines without a token; set DAPR_API_TOKEN");
        }
    }
    let mut server = Server::listen(&addresses).await?;
    for surface in Surface::ALL {
        server.set_policy(surface, surface.policy(descriptors));
    }
    for (address, surface) in server.addresses() {
        match surface {
            Surface::Everything => tracing::info!(%address, "HTTP API is listening"),
            Surface::Callbacks => tracing::info!(%address, "listening for callbacks"),
            Surface::Metrics => tracing::info!(%address, "metrics are listening"),
        }
    }
    Ok(Serving { server, api: Arc::new(api), input, reload })
}
