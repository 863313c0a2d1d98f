//! From component files to bindings that run: what `serve`, `invoke` and `demo` share.

use std::env;

use crate::bindings::{Bindings, InitError};
use crate::clock;
use crate::egress::{Policy, Proxies};
use crate::queue::Outbox;
use crate::resources::{Context, Resources};
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
    let proxies = Proxies::from_env();
    for binding in bindings {
        let (name, ignore_errors) = (binding.name.clone(), binding.ignore_errors);
        match loaded.add(binding, &proxies, policy).await {
            Ok(_) => tracing::info!(binding = name, "component loaded"),
            Err(error) if ignore_errors => tracing::error!("{}", shown(&error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(loaded)
}
