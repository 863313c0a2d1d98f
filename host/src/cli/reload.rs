//! Hot reload: bindings follow their files while the host runs. What fails leaves everything as it was, and is said once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::load;
use super::signals::Hangup;
use crate::bindings::Bindings;
use crate::egress::{Policy, Proxies};
use crate::event::Digest;
use crate::input::Input;
use crate::resources::watch::{self, Settling, Sight};
use crate::resources::{LoadError, Loader, Resources};
use crate::shown::shown;

/// From one look at the files to the next. A change is taken over after two that see the same: within 2 s.
const EVERY: Duration = Duration::from_secs(1);

/// After what somebody has asked for with a signal, so that nobody asks without end.
const PAUSE: Duration = Duration::from_millis(250);

/// Until a binding that could not be initialised is tried again though nothing has changed: the host may have been
/// overloaded.
const AGAIN: Duration = Duration::from_secs(30);

/// The files, and what is known of them.
pub(super) struct Files {
    loader: Loader,
    dirs: Vec<PathBuf>,
    secrets_files: Vec<PathBuf>,
    app_id: String,
    /// Whether they are looked at without being asked.
    is_watching: bool,
    settling: Settling<Result<Sight, String>>,
}

/// What reading them gave.
enum Read {
    /// What can be used, and what cannot be read.
    Loaded(Resources, Vec<LoadError>),
    /// Why they are not looked at.
    TooMuch(String),
}

impl Files {
    /// `loader` reads `dirs`, for the application `app_id`.
    pub(super) fn new(loader: Loader, dirs: Vec<PathBuf>, app_id: String, is_watching: bool) -> Self {
        Self { loader, dirs, secrets_files: Vec::new(), app_id, is_watching, settling: Settling::default() }
    }

    /// Reads the files if they have changed and are complete, or if they are `wanted` and complete. Blocks.
    fn read(&mut self, wanted: bool) -> Option<Read> {
        let before = self.look();
        let too_much = before.as_ref().err().cloned();
        let is_to_be_read = self.settling.seen(before);
        match too_much {
            Some(reason) if is_to_be_read && !wanted => {
                let afterwards = self.look();
                self.settling.read(afterwards);
                return Some(Read::TooMuch(reason));
            }
            _ if !is_to_be_read && !wanted => return None,
            _ => {}
        }
        let (resources, errors) = load::with_context(&self.app_id, |context| self.loader.reload(context));
        let afterwards = self.look();
        if !self.settling.read(afterwards) {
            return None;
        }
        self.secrets_files.clone_from(&resources.secrets_files);
        Some(Read::Loaded(resources, errors))
    }

    fn look(&self) -> Result<Sight, String> {
        watch::look(&self.dirs, &self.secrets_files)
    }
}

/// The files, and the bindings that have come of them.
pub(super) struct Reload {
    files: Files,
    running: Running,
    /// Those of the start, until it is known which could be initialised.
    started: Vec<(String, Digest)>,
}

/// What has come of the files, beside the bindings that run.
struct Running {
    /// Those that could not be initialised.
    failed: BTreeMap<String, Digest>,
    /// What the log has of the files as they are.
    said: BTreeSet<String>,
    proxies: Proxies,
    policy: Policy,
}

impl Reload {
    /// `resources` is what the start has read; see [`Reload::begin`].
    pub(super) fn new(mut files: Files, resources: &Resources, policy: Policy) -> Self {
        files.secrets_files.clone_from(&resources.secrets_files);
        let started = resources.bindings.iter().map(|binding| (binding.name.clone(), binding.digest())).collect();
        let failures = resources.failures.iter().map(ToString::to_string);
        let said = resources.warnings.iter().cloned().chain(failures).collect();
        let proxies = Proxies::from_env();
        Self { files, running: Running { failed: BTreeMap::new(), said, proxies, policy }, started }
    }

    /// The start has initialised `bindings`.
    pub(super) fn begin(&mut self, bindings: &Bindings) {
        let started = std::mem::take(&mut self.started).into_iter();
        self.running.failed = started.filter(|(name, _)| bindings.get(name).is_none()).collect();
    }

    /// Has the bindings of `input` follow the files for as long as it is polled. `hangup` has them read at once.
    pub(super) async fn run(self, input: Input, mut hangup: Hangup) {
        let Self { mut files, mut running, .. } = self;
        let mut wanted = false;
        let mut again = (!running.failed.is_empty()).then(|| Instant::now() + AGAIN);
        loop {
            let next = (files.is_watching || wanted).then(|| Instant::now() + EVERY);
            tokio::select! {
                () = hangup.wait() => {
                    tracing::info!("SIGHUP: component and secrets files are read again");
                    // Whoever asks wants to hear it again.
                    running.said.clear();
                    running.failed.clear();
                    wanted = true;
                }
                () = sleep_until(next) => {}
            }
            if again.is_some_and(|again| again <= Instant::now()) {
                again = None;
                files.settling.forget();
            }
            // A file system that does not answer holds up nothing else.
            let read = tokio::task::spawn_blocking(move || {
                let read = files.read(wanted);
                (files, read)
            });
            let read = match read.await {
                Ok((back, read)) => {
                    files = back;
                    read
                }
                Err(error) => {
                    tracing::error!(%error, "component files are not looked at any more");
                    return;
                }
            };
            match read {
                None => continue,
                Some(Read::TooMuch(reason)) => {
                    running.say([(Level::Error, format!("changes are not taken over: {reason}; send SIGHUP for that"))])
                }
                Some(Read::Loaded(resources, errors)) => {
                    running.follow(&input, resources, errors).await;
                    again = (!running.failed.is_empty()).then(|| Instant::now() + AGAIN);
                }
            }
            if std::mem::take(&mut wanted) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What is to be said of a binding that cannot become what its file says.
fn rest(input: &Input, name: &str) -> &'static str {
    if input.bindings().get(name).is_some() { "; it goes on as it was" } else { "" }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Warning,
    Error,
}

impl Running {
    /// Adds, replaces and removes bindings until they are those of the files.
    async fn follow(&mut self, input: &Input, resources: Resources, errors: Vec<LoadError>) {
        let Resources { bindings, failures, warnings, resiliency, .. } = resources;
        let kept = |what: String| (Level::Error, format!("{what}; bindings go on as they were"));
        let warnings = warnings.into_iter().map(|warning| (Level::Warning, warning));
        let errors = errors.iter().map(|error| kept(error.to_string()));
        let is_whole = errors.len() == 0;
        let unusable = failures.iter().map(|failure| {
            let rest = rest(input, &failure.name);
            (Level::Error, format!("{failure}{rest}"))
        });
        let lines: Vec<_> = warnings.chain(errors).chain(unusable).collect();
        self.say(lines);
        if is_whole {
            input.set_resiliency(resiliency);
        }
        let mut named: BTreeSet<String> = failures.into_iter().map(|failure| failure.name).collect();
        let mut failed = BTreeMap::new();
        for binding in bindings {
            let (name, source, digest) = (binding.name.clone(), binding.source.clone(), binding.digest());
            named.insert(name.clone());
            let before = input.bindings().get(&name).map(|running| running.digest());
            if before == Some(digest) {
                continue;
            }
            match input.add(binding, &self.proxies, &self.policy).await {
                Ok(()) => {
                    let change = if before.is_some() { "replaced" } else { "loaded" };
                    input.metrics().changed(change);
                    tracing::info!(binding = name, "component {change}");
                }
                Err(error) => {
                    if self.failed.get(&name) != Some(&digest) {
                        tracing::error!("{}{}", shown(&format!("{source}: {error}")), rest(input, &name));
                    }
                    input.metrics().changed("failed");
                    failed.insert(name, digest);
                }
            }
        }
        self.failed = failed;
        // A binding that is missing may be in the file that cannot be read.
        if is_whole {
            for binding in input.bindings().all() {
                let name = binding.name();
                if !named.contains(name) {
                    input.remove(name);
                    input.metrics().changed("removed");
                    tracing::info!(binding = name, "component removed");
                }
            }
        }
    }

    /// Logs what has not been said of the files as they are.
    fn say(&mut self, lines: impl IntoIterator<Item = (Level, String)>) {
        let mut said = BTreeSet::new();
        for (level, line) in lines {
            if !self.said.contains(&line) && !said.contains(&line) {
                match level {
                    Level::Warning => tracing::warn!("{}", shown(&line)),
                    Level::Error => tracing::error!("{}", shown(&line)),
                }
            }
            said.insert(line);
        }
        self.said = said;
    }
}
