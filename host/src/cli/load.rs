//! From component files to bindings that run: what `serve`, `invoke` and `demo` share.

use std::collections::VecDeque;
use std::env;
use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};

use crate::bindings::{Bindings, InitError};
use crate::clock;
use crate::egress::{Policy, Proxies};
use crate::parallel;
use crate::queue::Outbox;
use crate::resources::{BindingResource, Context, Resources};
use crate::sandbox::{Limits, PrepareError, Sandbox};
use crate::shown::shown;

/// A start that must not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("{0}; set spec.ignoreErrors to start without this binding")]
    Resource(String),
    #[error("{0}; set spec.ignoreErrors to start without this binding")]
    Init(#[from] InitError),
    /// The outbox cannot be read.
    #[error("{0}")]
    Outbox(String),
    /// A defect.
    #[error("a binding's initialisation was broken off: {0}")]
    BrokenOff(#[from] JoinError),
    /// A defect.
    #[error("a binding's initialisation has not ended")]
    Shared,
}

/// Calls `read` with the process's own environment.
pub(super) fn with_context<T>(app_id: &str, read: impl FnOnce(&Context<'_>) -> T) -> T {
    let namespace = env::var("NAMESPACE").ok();
    read(&Context { app_id, namespace: namespace.as_deref(), env: &|name| env::var_os(name) })
}

/// Prepares the sandbox and initialises every binding, which may then connect to what `policy` allows. One that fails stops the start, unless it says
/// `ignoreErrors`.
pub(super) async fn bindings(
    resources: Resources,
    limits: Limits,
    policy: &Policy,
    outbox: Option<Outbox>,
) -> Result<Bindings, StartError> {
    let loaded = Bindings::new(sandbox(limits)?);
    if let Some(outbox) = outbox {
        loaded.with_outbox(outbox).await.map_err(StartError::Outbox)?;
    }
    load(loaded, resources, policy).await
}

/// As [`bindings`], for who has no outbox and one call: what component files say of an outbox has no effect.
pub(super) async fn bindings_without_outbox(
    resources: Resources,
    limits: Limits,
    policy: &Policy,
) -> Result<Bindings, StartError> {
    load(Bindings::without_outbox(sandbox(limits)?), resources, policy).await
}

fn sandbox(limits: Limits) -> Result<Sandbox, PrepareError> {
    Sandbox::new(dingtalk_component::COMPONENT, limits, clock::system())
}

async fn load(loaded: Bindings, resources: Resources, policy: &Policy) -> Result<Bindings, StartError> {
    let Resources { bindings, failures, warnings, .. } = resources;
    for warning in warnings {
        tracing::warn!("{}", shown(&warning));
    }
    for failure in failures {
        if !failure.ignore_errors {
            return Err(StartError::Resource(failure.to_string()));
        }
        tracing::error!("{}", shown(&failure.to_string()));
    }
    initialise(Arc::new(loaded), bindings, &Proxies::from_env(), policy).await
}

/// Bindings that a task initialises before it takes the next ones.
const BATCH: usize = 16;

/// Initialises these bindings, as many at once as there are cores. What is said of them, and which one's error ends the start,
/// has their order nevertheless.
async fn initialise(
    loaded: Arc<Bindings>,
    resources: Vec<BindingResource>,
    proxies: &Proxies,
    policy: &Policy,
) -> Result<Bindings, StartError> {
    let mut resources = resources.into_iter().peekable();
    let (mut tasks, most) = (VecDeque::new(), 2 * parallel::cores());
    loop {
        while tasks.len() < most && resources.peek().is_some() {
            let batch: Vec<_> = resources.by_ref().take(BATCH).collect();
            let (loaded, proxies, policy) = (Arc::clone(&loaded), proxies.clone(), policy.clone());
            tasks.push_back(Task(tokio::spawn(async move {
                let mut done = Vec::with_capacity(batch.len());
                for resource in batch {
                    let (name, ignore_errors) = (resource.name.clone(), resource.ignore_errors);
                    done.push((name, ignore_errors, loaded.prepare(resource, &proxies, &policy).await));
                }
                done
            })));
        }
        let Some(mut task) = tasks.pop_front() else { break };
        for (name, ignore_errors, prepared) in (&mut task.0).await? {
            match prepared.said() {
                Ok(binding) => {
                    loaded.insert(binding);
                    tracing::info!(binding = name, "component loaded");
                }
                Err(error) if ignore_errors => tracing::error!("{}", shown(&error.to_string())),
                Err(error) => return Err(error.into()),
            }
        }
    }
    // Whoever has helped is done.
    Arc::into_inner(loaded).ok_or(StartError::Shared)
}

/// Ends with the value: after an error, nobody is there for what the others would come to.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
