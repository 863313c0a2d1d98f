//! `dingtalk-host serve`: Dapr's HTTP API for output bindings.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dingtalk_binding::secret::Secret;

use super::logging::{LogArgs, LogLevel};
use super::signals::Ended;
use super::{Failure, load, quantity};
use crate::api::{Api, Server};
use crate::egress::MAX_REQUEST_BODY;
use crate::resources;
use crate::sandbox::Limits;

/// Serves Dapr's bindings API over HTTP.
///
/// With the environment variable DAPR_API_TOKEN set, clients must send it as `dapr-api-token`.
#[derive(Debug, Clone, Args)]
pub(super) struct ServeArgs {
    /// Directory with component files. Repeatable.
    #[arg(long, value_name = "DIRECTORY", required = true, value_delimiter = ',')]
    resources_path: Vec<PathBuf>,
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
    #[command(flatten)]
    log: LogArgs,
}

fn parse_body_size(text: &str) -> Result<usize, String> {
    let size = quantity::parse(text)?;
    if size > MAX_REQUEST_BODY {
        return Err(format!("no binding sends more than {}Mi", MAX_REQUEST_BODY >> 20));
    }
    Ok(size)
}

/// As daprd takes them: IPv6 with or without brackets.
fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    bare.parse().map_err(|_| format!("{text:?} is not an IP address; write for example 127.0.0.1 or [::1]"))
}

pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    args.log.start(LogLevel::Info);
    // Before anything is served, so that no signal is missed.
    let ended = Ended::new()?;
    let resources = load::with_context(&args.app_id, |context| resources::load_dirs(&args.resources_path, context))?;
    let bindings = load::bindings(resources, Limits::for_messages_of(args.max_body_size)).await?;
    if bindings.iter().next().is_none() {
        tracing::warn!("there is no DingTalk binding in --resources-path; every call will fail");
    }
    let api_token = env::var("DAPR_API_TOKEN").ok().filter(|token| !token.is_empty()).map(Secret::new);
    let api = Arc::new(Api::new(bindings, args.app_id, api_token, args.max_body_size));
    let addresses: Vec<SocketAddr> =
        args.dapr_listen_addresses.iter().map(|&address| (address, args.dapr_http_port).into()).collect();
    for address in &addresses {
        // Before anybody can reach it.
        if !address.ip().to_canonical().is_loopback() && api.api_token.is_none() {
            tracing::warn!(%address, "reachable from other machines without a token; set DAPR_API_TOKEN");
        }
    }
    let server = Server::listen(&addresses).await?;
    for address in server.addresses() {
        tracing::info!(%address, "HTTP API is listening");
    }
    server.run(api, ended.wait()).await;
    tracing::info!("stopped; every call that was accepted has been answered");
    Ok(())
}
