//! File descriptors: as many as the operator lets the process have.

/// Raises the limit as far as it can be raised, and returns it. Service managers start processes with a low limit for
/// the sake of programs that `select` no more, and leave it to the others to raise it.
#[cfg(unix)]
pub(super) fn raise() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    match raised {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit for open files cannot be raised");
            limit.current.unwrap_or(u64::MAX)
        }
    }
}

#[cfg(not(unix))]
pub(super) fn raise() -> u64 {
    8_192
}
