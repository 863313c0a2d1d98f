//! `dingtalk-host invoke`: one operation from the shell.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dingtalk_binding::contract;
use serde::Serialize;
use serde_json::value::RawValue;

use super::egress::EgressArgs;
use super::logging::{LogArgs, LogLevel};
use super::{Failure, lines, load};
use crate::bindings::InvokeError;
use crate::egress::MAX_REQUEST_BODY;
use crate::resources;
use crate::sandbox::{Instances, Limits, Request, Response};

/// Performs one operation of a binding and prints the answer.
///
/// Exit status: 0 if the operation succeeded, 1 if not.
#[derive(Debug, Clone, Args)]
pub(super) struct InvokeArgs {
    /// Component file of the binding.
    #[arg(long, value_name = "FILE")]
    component: PathBuf,
    /// Name of the binding, if the file has several.
    #[arg(long)]
    name: Option<String>,
    /// Directory with the secret stores that the component refers to. Repeatable.
    #[arg(long, value_name = "DIRECTORY", value_delimiter = ',')]
    resources_path: Vec<PathBuf>,
    /// Operation to perform.
    #[arg(long, default_value = "create")]
    operation: String,
    /// Input of the operation: a message as JSON, or text.
    #[arg(long, conflicts_with = "data_file", allow_hyphen_values = true)]
    data: Option<String>,
    /// File with the input; "-" is standard input.
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// Option of this call, as NAME=VALUE. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Name of the application: decides with `scopes`, fills in `{appID}`.
    #[arg(long, value_name = "ID", default_value = "dingtalk-host", env = "APP_ID")]
    app_id: String,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// Lines "name: value", then the data, if any.
    Text,
    /// One object with data and metadata, or error and metadata.
    Json,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE, for example msgtype=markdown".into()),
    }
}

pub(super) async fn run(args: InvokeArgs) -> Result<(), Failure> {
    args.log.start(LogLevel::Warn);
    let data = read_data(&args)?;
    let mut resources = load::with_context(&args.app_id, |context| {
        resources::load_file(&args.component, &args.resources_path, context)
    })?;
    let file = args.component.display();
    let names: Vec<String> = resources
        .bindings
        .iter()
        .map(|binding| &binding.name)
        .chain(resources.failures.iter().map(|failure| &failure.name))
        .cloned()
        .collect();
    let name = match (args.name, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => name,
        (None, [name]) => name.clone(),
        (_, []) => return Err(format!("{file} has no DingTalk binding for the application {}", args.app_id).into()),
        (_, names) => return Err(format!("choose a binding of {file} with --name: {}", names.join(", ")).into()),
    };
    resources.bindings.retain(|binding| binding.name == name);
    resources.failures.retain(|failure| failure.name == name);
    // Only this binding matters, so that it may not be left out.
    resources.bindings.iter_mut().for_each(|binding| binding.ignore_errors = false);
    resources.failures.iter_mut().for_each(|failure| failure.ignore_errors = false);
    let limits = Limits { instances: 1, lifetime: Instances::Fresh, ..Limits::for_messages_of(data.len()) };
    let bindings = load::bindings_without_outbox(resources, limits, &args.egress.policy()).await?;
    let request = Request { operation: args.operation, data, metadata: args.metadata };
    let result = bindings.invoke(&name, request, None).await;
    print(args.output, &result)?;
    result.map(|_| ()).map_err(|_| Failure::Reported)
}

fn read_data(args: &InvokeArgs) -> Result<Vec<u8>, String> {
    let Some(path) = &args.data_file else {
        return args
            .data
            .clone()
            .map(String::into_bytes)
            .ok_or_else(|| "there is no input; give it with --data or --data-file".to_owned());
    };
    if path.as_os_str() == "-" {
        return read_all(io::stdin().lock()).map_err(|error| format!("standard input: {error}"));
    }
    // A pipe is as good as a file here.
    let file = fs::File::open(path).and_then(read_all);
    file.map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn read_all(source: impl Read) -> io::Result<Vec<u8>> {
    let (mut data, limit) = (Vec::new(), MAX_REQUEST_BODY);
    source.take(limit as u64 + 1).read_to_end(&mut data)?;
    if data.len() > limit {
        return Err(io::Error::other(format!("no binding sends more than {} MiB", limit >> 20)));
    }
    Ok(data)
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    metadata: std::collections::BTreeMap<&'a str, &'a str>,
}

fn print(output: Output, result: &Result<Response, InvokeError>) -> Result<(), Failure> {
    let metadata = match result {
        Ok(response) => response.metadata.clone(),
        Err(error) => error.metadata(),
    };
    let data = result.as_ref().ok().and_then(|response| response.data.as_deref());
    let mut out = io::stdout().lock();
    match (output, result) {
        (Output::Json, _) => {
            let answer = Answer {
                error: result.as_ref().err().map(ToString::to_string),
                data: data.map(as_json).transpose()?,
                metadata: contract::pairs(&metadata).collect(),
            };
            serde_json::to_writer(&mut out, &answer)?;
            writeln!(out)?;
        }
        (Output::Text, Ok(_)) => {
            for (name, value) in &metadata {
                writeln!(out, "{name}: {value}")?;
            }
            if let Some(data) = data {
                out.write_all(data)?;
                writeln!(out)?;
            }
        }
        (Output::Text, Err(error)) => lines::write(format!("error: {error}\n").as_bytes()),
    }
    out.flush()?;
    Ok(())
}

/// Data as it is where it is JSON, otherwise as a JSON string.
pub(super) fn as_json(data: &[u8]) -> Result<Box<RawValue>, serde_json::Error> {
    serde_json::from_slice(data).or_else(|_| serde_json::value::to_raw_value(&String::from_utf8_lossy(data)))
}
