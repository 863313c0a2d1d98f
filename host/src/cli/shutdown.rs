//! The end of a command that serves: a first signal, a time for what is running, and a second signal.

use std::pin::pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Failure;
use super::signals::Ended;

/// Waits for `serving`, which ends in order once `stop` is cancelled: on a signal it is, and has as long as `grace`.
/// `calls` says how many are running.
pub(super) async fn serve(
    serving: impl Future<Output = ()>,
    stop: CancellationToken,
    mut ended: Ended,
    grace: Duration,
    calls: impl Fn() -> usize,
) -> Result<(), Failure> {
    let mut serving = pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        _ = ended.wait() => {}
    }
    stop.cancel();
    tokio::select! {
        () = &mut serving => tracing::info!("stopped; every call that was accepted has been answered"),
        () = tokio::time::sleep(grace) => tracing::warn!(
            calls = calls(),
            "stopped after --dapr-graceful-shutdown-seconds; what calls in progress have sent may have arrived"
        ),
        status = ended.wait() => {
            tracing::warn!(calls = calls(), "stopped by a second signal");
            return Err(Failure::Signal(status));
        }
    }
    Ok(())
}
