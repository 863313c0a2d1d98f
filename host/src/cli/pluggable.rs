//! `dingtalk-host pluggable`: the binding as a component of a daprd that runs beside it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dingtalk_binding::duration;
use tokio_util::sync::CancellationToken;

use super::egress::EgressArgs;
use super::instances::InstancesArgs;
use super::logging::{LogArgs, LogLevel};
use super::receiving::{self, CallbackArgs, InboxArgs, OutboxArgs};
use super::signals::Ended;
use super::store::StoreArgs;
use super::{Failure, descriptors, shutdown, spans};
use crate::api::{Api, Server, Surface};
use crate::app::{App, DaprApp};
use crate::bindings::Bindings;
use crate::clock;
use crate::egress::Proxies;
use crate::input::Input;
use crate::pluggable::{self, DEFAULT_FOLDER, Pluggable};
use crate::sandbox::{Limits, Sandbox};
use crate::spans::Spans;
use crate::spans::settings::Tracing;

/// Serves daprd as a pluggable component, in place of its built-in DingTalk binding.
///
/// Must be started before daprd, which looks into the folder once. The component files are daprd's; what DingTalk sends
/// comes in at --callback-port, and goes to the application through daprd.
#[derive(Debug, Clone, Args)]
pub(super) struct PluggableArgs {
    /// Folder in which daprd looks for components, made if it is not there. Without this, the environment variable
    /// DAPR_COMPONENTS_SOCKETS_FOLDER names it, or else it is /tmp/dapr-components-sockets.
    #[arg(long, value_name = "DIRECTORY")]
    components_sockets_folder: Option<PathBuf>,
    /// Who may open the sockets, as an octal number: whoever may can send as every robot, and read what they receive.
    /// They get the folder's group.
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = parse_mode)]
    components_socket_mode: u32,
    /// Longest data of an operation, at most 16Mi.
    #[arg(long, value_name = "SIZE", default_value = "4Mi", value_parser = receiving::parse_body_size)]
    max_body_size: usize,
    #[command(flatten)]
    instances: InstancesArgs,
    #[command(flatten)]
    callbacks: CallbackArgs,
    /// Time for daprd to hand a message to the application and to acknowledge it.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_app_timeout)]
    app_timeout: Duration,
    #[command(flatten)]
    inbox: InboxArgs,
    #[command(flatten)]
    outbox: OutboxArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Seconds that calls in progress have to end once the process has been asked to.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    dapr_graceful_shutdown_seconds: u32,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What this process is called, beside a daprd that has a name of its own.
const NAME: &str = "dingtalk-host";

/// Dapr's runtime reads the first, its SDKs for components the others.
const FOLDERS: [&str; 3] =
    ["DAPR_COMPONENTS_SOCKETS_FOLDER", "DAPR_COMPONENT_SOCKETS_FOLDER", "DAPR_COMPONENT_SOCKET_FOLDER"];

/// The folder that the environment names. daprd looks into one: two that differ are a mistake.
fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, String> {
    let named = FOLDERS.iter().filter_map(|name| Some((name, variable(name).filter(|value| !value.is_empty())?)));
    let named: Vec<_> = named.collect();
    let Some((first, folder)) = named.first() else { return Ok(DEFAULT_FOLDER.into()) };
    if let Some((other, another)) = named.iter().find(|(_, value)| Path::new(value) != Path::new(folder)) {
        return Err(format!(
            "{first} names {}, and {other} names {}; set both alike, or use --components-sockets-folder",
            Path::new(folder).display(),
            Path::new(another).display()
        ));
    }
    Ok(folder.into())
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let wrong =
        || format!("{text} is no mode that lets anybody in; write for example 0660, or 0600 for this user alone");
    let is_octal = !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = if is_octal { u32::from_str_radix(text, 8).ok() } else { None };
    mode.filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600).ok_or_else(wrong)
}

fn parse_app_timeout(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        timeout => Ok(timeout),
    }
}

pub(super) async fn run(args: PluggableArgs) -> Result<(), Failure> {
    args.log.start(LogLevel::Info);
    // Before anything is read or served, so that no signal is missed.
    let mut ended = Ended::new()?;
    let grace = Duration::from_secs(args.dapr_graceful_shutdown_seconds.into());
    // Beside this task, which hears a signal even while a file or a disk lets the start wait.
    let starting = tokio::spawn(start(args));
    let end = async |serving: Serving| serving.pluggable.stop().await;
    let Some(started) = shutdown::started(starting, &mut ended, end).await? else { return Ok(()) };
    let Serving { sockets, callbacks, api, pluggable, spans } = started;
    let stop = CancellationToken::new();
    let calls = || api.calls() + pluggable.calls();
    let serving = async {
        let received = async {
            callbacks.run(Arc::clone(&api), stop.cancelled()).await;
            pluggable.stop().await;
        };
        tokio::join!(sockets.run(pluggable.clone(), stop.clone()), received);
    };
    let serving = spans::serve(serving, spans, &stop, grace);
    shutdown::serve(serving, stop.clone(), ended, grace, calls).await
}

/// What has been started.
struct Serving {
    sockets: pluggable::Server,
    callbacks: Server,
    api: Arc<Api>,
    pluggable: Pluggable,
    spans: Option<Spans>,
}

async fn start(args: PluggableArgs) -> Result<Serving, Failure> {
    let descriptors = descriptors::raise();
    let folder = match args.components_sockets_folder {
        Some(folder) => folder,
        None => folder(|name| env::var_os(name))?,
    };
    let limits = Limits { lifetime: args.instances.instances, ..Limits::for_messages_of(args.max_body_size) };
    let bindings = Bindings::behind_daprd(Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system())?);
    let database = args.store.open().await?;
    if let Some(outbox) = args.outbox.open(database.as_ref())? {
        bindings.with_outbox(outbox).await?;
    }
    let inbox = match &database {
        Some(database) => Some(args.inbox.open_in(database)),
        None => args.inbox.open()?,
    };
    let app = DaprApp::new(args.app_timeout);
    let input = Input::new(bindings, Some(App::Dapr(app.clone())), inbox, args.callbacks.callback_timeout);
    // The Configuration is daprd's: the variables alone.
    let spans = spans::start(&Tracing::default(), NAME)?;
    if let Some(spans) = &spans {
        input.trace(spans.clone());
    }
    let addresses: Vec<_> = args.callbacks.addresses().collect();
    let mut callbacks = Server::listen(&addresses).await?;
    callbacks.set_policy(Surface::Callbacks, Surface::Callbacks.policy(descriptors));
    // Whatever else can fail has succeeded: daprd must not find what is not served.
    let sockets =
        pluggable::Server::listen(&folder, args.components_socket_mode, args.max_body_size, descriptors).await?;
    if callbacks.addresses().is_empty() {
        tracing::info!("no --callback-port: nothing that people say to a robot comes in");
    }
    for (address, _) in callbacks.addresses() {
        tracing::info!(%address, "listening for callbacks");
    }
    for socket in sockets.paths() {
        tracing::info!(socket = %socket.display(), "listening for daprd");
    }
    let mut api = Api::new(input.clone(), NAME.into(), None, args.max_body_size);
    api.bindings_come = true;
    let api = Arc::new(api);
    let pluggable = Pluggable::new(input, app, Proxies::from_env(), args.egress.policy());
    Ok(Serving { sockets, callbacks, api, pluggable, spans })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        pluggable: PluggableArgs,
    }

    fn parsed(flags: &str) -> Result<PluggableArgs, String> {
        let words = std::iter::once("pluggable").chain(flags.split_whitespace());
        Command::try_parse_from(words).map(|command| command.pluggable).map_err(|error| error.to_string())
    }

    fn named(variables: &[(&str, &str)]) -> Result<PathBuf, String> {
        folder(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn any_of_the_three_variables_names_the_folder_and_they_must_agree() {
        assert_eq!(named(&[]), Ok("/tmp/dapr-components-sockets".into()));
        assert_eq!(named(&[(FOLDERS[0], "")]), Ok("/tmp/dapr-components-sockets".into()));
        for name in FOLDERS {
            assert_eq!(named(&[(name, "/run/a")]), Ok("/run/a".into()), "{name}");
        }
        assert_eq!(
            named(&[(FOLDERS[0], "/run/a"), (FOLDERS[1], "/run/a/"), (FOLDERS[2], "/run/a")]),
            Ok("/run/a".into())
        );
        let error = named(&[(FOLDERS[0], ""), (FOLDERS[1], "/run/a"), (FOLDERS[2], "/run/b")]).unwrap_err();
        assert_eq!(
            error,
            "DAPR_COMPONENT_SOCKETS_FOLDER names /run/a, and DAPR_COMPONENT_SOCKET_FOLDER names /run/b; set both alike, or \
             use --components-sockets-folder"
        );
    }

    #[test]
    fn modes_are_octal_and_leave_the_owner_in() {
        for (text, mode) in [("0660", 0o660), ("600", 0o600), ("0777", 0o777), ("00666", 0o666)] {
            assert_eq!(parse_mode(text), Ok(mode), "{text}");
        }
        for text in ["", "0", "0060", "660x", "0o660", "+660", "1660", "0880", "999", "77777777777777"] {
            assert!(parse_mode(text).unwrap_err().contains("write for example 0660"), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parsed("").is_ok());
        for (flags, named) in [
            ("--inbox-max-size 8Mi", "--inbox <DIRECTORY>"),
            ("--app-timeout 0s", "must be longer than 0"),
            ("--max-body-size 17Mi", "no binding sends more than 16Mi"),
            ("--components-socket-mode 9", "is no mode"),
            ("--callback-port 65536", "65536"),
        ] {
            let error = parsed(flags).unwrap_err();
            assert!(error.contains(named), "{flags}: {error}");
        }
    }
}
