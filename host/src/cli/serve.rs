//! `dingtalk-host serve`: Dapr's HTTP and gRPC APIs for bindings, DingTalk's callbacks, and the way to the application.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use dingtalk_binding::secret::Secret;
use tokio_util::sync::CancellationToken;

use super::app::AppArgs;
use super::egress::EgressArgs;
use super::instances::InstancesArgs;
use super::logging::{LogArgs, LogLevel};
use super::receiving::{self, CallbackArgs, InboxArgs, OutboxArgs};
use super::reload::{self, Reload};
use super::signals::{Ended, Hangup};
use super::store::StoreArgs;
use super::{Failure, descriptors, load, shutdown, spans};
use crate::api::{Allowed, Api, ErrorStatus, Server, Surface};
use crate::input::Input;
use crate::resources::{self, Configuration, Loader};
use crate::sandbox::Limits;
use crate::shown::shown;
use crate::spans::Spans;

/// Serves Dapr's bindings API over HTTP and gRPC, and hands what DingTalk sends to the application.
///
/// With the environment variable DAPR_API_TOKEN set, clients must send it as `dapr-api-token`; callbacks prove
/// themselves by their signature.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("inbox", |inbox| inbox.requires("application")))]
pub(super) struct ServeArgs {
    /// Directory with component files. Repeatable.
    #[arg(long, value_name = "DIRECTORY", required = true, value_delimiter = ',')]
    resources_path: Vec<PathBuf>,
    /// File with Dapr's Configuration: lists of the API's routes, whether there are metrics and hot reload, where spans
    /// are sent.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the HTTP API; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 3500, env = "DAPR_HTTP_PORT")]
    dapr_http_port: u16,
    /// Port of the gRPC API; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 50001, env = "DAPR_GRPC_PORT")]
    dapr_grpc_port: u16,
    /// Addresses of both ports to listen on, separated by commas. Whoever reaches one can send as every robot.
    #[arg(long, value_name = "ADDRESSES", default_value = "127.0.0.1", value_delimiter = ',', value_parser = receiving::parse_address)]
    dapr_listen_addresses: Vec<IpAddr>,
    /// Name of the application: decides with `scopes`, fills in `{appID}`.
    #[arg(long, value_name = "ID", default_value = "dingtalk-host", env = "APP_ID")]
    app_id: String,
    /// Longest request body, at most 16Mi.
    #[arg(long, value_name = "SIZE", default_value = "4Mi", value_parser = receiving::parse_body_size)]
    max_body_size: usize,
    /// Status of a failed operation: dapr is always 500; http says what happened, for clients that send again after each
    /// 5xx. A binding's property errorStatus and a call's header dingtalk-error-status come first.
    #[arg(long, value_name = "FORM", default_value = "dapr", value_parser = ErrorStatus::parse)]
    error_status: ErrorStatus,
    #[command(flatten)]
    instances: InstancesArgs,
    #[command(flatten)]
    callbacks: CallbackArgs,
    #[command(flatten)]
    inbox: InboxArgs,
    #[command(flatten)]
    outbox: OutboxArgs,
    #[command(flatten)]
    store: StoreArgs,
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
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = receiving::parse_address)]
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

pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    args.log.start(LogLevel::Info);
    // Before anything is read or served, so that no signal is missed.
    let mut ended = Ended::new()?;
    let hangup = Hangup::new()?;
    let grace = Duration::from_secs(args.dapr_graceful_shutdown_seconds.into());
    // Beside this task, which hears a signal even while a file, a disk or a name server lets the start wait.
    let starting = tokio::spawn(start(args));
    let started = shutdown::started(starting, &mut ended, async |serving: Serving| serving.input.stop().await).await?;
    let Some(Serving { server, api, input, reload, spans }) = started else { return Ok(()) };
    let stop = CancellationToken::new();
    // Files are followed until the process is asked to end.
    tokio::spawn(stop.clone().run_until_cancelled_owned(reload.run(input.clone(), hangup)));
    let serving = async {
        server.run(Arc::clone(&api), stop.cancelled()).await;
        input.stop().await;
    };
    let serving = spans::serve(serving, spans, &stop, grace);
    shutdown::serve(serving, stop.clone(), ended, grace, || api.calls()).await
}

/// What has been started.
struct Serving {
    server: Server,
    api: Arc<Api>,
    input: Input,
    reload: Reload,
    spans: Option<Spans>,
}

async fn start(args: ServeArgs) -> Result<Serving, Failure> {
    let descriptors = descriptors::raise();
    let configuration = match &args.config {
        Some(file) => load::with_context(&args.app_id, |context| resources::load_configuration(file, context))?,
        None => Configuration::default(),
    };
    for warning in &configuration.warnings {
        tracing::warn!("{}", shown(warning));
    }
    let mut loader = Loader::new(args.resources_path.clone());
    let mut resources = load::with_context(&args.app_id, |context| loader.load(context))?;
    let policy = args.egress.policy();
    let is_watching = args.enable_hot_reload && configuration.hot_reload != Some(false);
    let files = reload::Files::new(loader, args.resources_path, args.app_id.clone(), is_watching);
    let mut reload = Reload::new(files, &resources, policy.clone());
    let resiliency = std::mem::take(&mut resources.resiliency);
    let database = args.store.open().await?;
    let outbox = args.outbox.open(database.as_ref())?;
    let limits = Limits { lifetime: args.instances.instances, ..Limits::for_messages_of(args.max_body_size) };
    let bindings = load::bindings(resources, limits, &policy, outbox).await?;
    reload.begin(&bindings);
    if bindings.all().is_empty() {
        tracing::warn!("there is no DingTalk binding in --resources-path; every call will fail");
    }
    let inbox = args.inbox.open()?;
    let app = args.app.start(&bindings, &policy).await?;
    if inbox.is_some() && app.is_none() {
        return Err(
            "--inbox: there is no application to deliver to; set --app-port, --handler or --print-events".into()
        );
    }
    // Without an application, the database has what goes out alone.
    let shared = database.filter(|_| app.is_some()).map(|database| args.inbox.open_in(&database));
    let input = Input::new(bindings, app, inbox.or(shared), args.callbacks.callback_timeout);
    input.set_resiliency(resiliency);
    let spans = spans::start(&configuration.tracing, &args.app_id)?;
    if let Some(spans) = &spans {
        input.trace(spans.clone());
    }
    let api_token = env::var("DAPR_API_TOKEN").ok().filter(|token| !token.is_empty()).map(Secret::new);
    let mut api = Api::new(input.clone(), args.app_id, api_token, args.max_body_size);
    (api.lists, api.grpc_lists) = (configuration.lists, configuration.grpc_lists);
    if let Some(namespace) = env::var("NAMESPACE").ok().filter(|namespace| !namespace.is_empty()) {
        api.namespace = namespace;
    }
    api.error_status = args.error_status;
    api.allowed = Allowed { hosts: args.allowed_hosts, origins: args.allowed_origins };
    let ports = [(args.dapr_http_port, Surface::Everything), (args.dapr_grpc_port, Surface::Grpc)];
    let apis = ports
        .iter()
        .flat_map(|&(port, surface)| args.dapr_listen_addresses.iter().map(move |&ip| ((ip, port).into(), surface)));
    let metrics = args.metrics_port.filter(|_| args.enable_metrics && configuration.metrics != Some(false));
    let metrics = metrics.map(|port| ((args.metrics_listen_address, port).into(), Surface::Metrics));
    let addresses: Vec<(SocketAddr, Surface)> = apis.chain(args.callbacks.addresses()).chain(metrics).collect();
    for (address, surface) in &addresses {
        // Before anybody can reach it.
        if matches!(surface, Surface::Everything | Surface::Grpc)
            && !address.ip().to_canonical().is_loopback()
            && api.api_token.is_none()
        {
            tracing::warn!(%address, "reachable from other machines without a token; set DAPR_API_TOKEN");
        }
    }
    let mut server = Server::listen(&addresses).await?;
    for surface in Surface::COUNTED {
        server.set_policy(surface, surface.policy(descriptors));
    }
    for (address, surface) in server.addresses() {
        match surface {
            Surface::Everything => tracing::info!(%address, "HTTP API is listening"),
            Surface::Callbacks => tracing::info!(%address, "listening for callbacks"),
            Surface::Grpc => tracing::info!(%address, "gRPC API is listening"),
            Surface::Metrics => tracing::info!(%address, "metrics are listening"),
        }
    }
    Ok(Serving { server, api: Arc::new(api), input, reload, spans })
}
