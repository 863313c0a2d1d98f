//! The end of a command that serves: during its start, or later by a first signal, a time for what is running, and a second
//! signal.

use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::signals::Ended;

/// How long a start that is to end has for that. It may wait for a file, a disk or a name server.
const START_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What has been started; nothing, if a signal came first. Then `end` ends in order what the start has come to nevertheless: a
/// queue's journal would be left to the next start.
pub(super) async fn started<T>(
    starting: JoinHandle<Result<T, Failure>>,
    ended: &mut Ended,
    end: impl AsyncFnOnce(T),
) -> Result<Option<T>, Failure> {
    let mut starting = starting;
    tokio::select! {
        started = &mut starting => return Ok(Some(started??)),
        _ = ended.wait() => {}
    }
    let folded = async {
        if let Ok(Ok(started)) = starting.await {
            end(started).await;
        }
    };
    let _ = tokio::time::timeout(START_ENDS_WITHIN, folded).await;
    tracing::info!("stopped before anything was served");
    Ok(None)
}

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
