//! Tracing of the commands that serve: when it begins, and that what waits is sent before the end.

use std::env;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::spans::Spans;
use crate::spans::settings::{self, Tracing};

/// What makes spans, if a file or a variable wants any. Must be called within a tokio runtime.
pub(super) fn start(file: &Tracing, service: &str) -> Result<Option<Spans>, Failure> {
    let (settings, warnings) = settings::settings(file, service, &|name| env::var_os(name))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(settings.map(|settings| Spans::start(&settings)).transpose()?)
}

/// Waits for `serving`, which ends in order once `stop` is cancelled; then sends the spans that wait, in what is left of
/// `grace`.
pub(super) async fn serve(
    serving: impl Future<Output = ()>,
    spans: Option<Spans>,
    stop: &CancellationToken,
    grace: Duration,
) {
    let Some(spans) = spans else { return serving.await };
    let asked = async {
        stop.cancelled().await;
        // In case that calls take all of the time.
        spans.flush();
        Instant::now()
    };
    let ((), asked) = tokio::join!(serving, asked);
    // Before the whole of it is over, so that the log does not say that calls were cut off.
    spans.stop((grace.saturating_sub(asked.elapsed()) / 10) * 9).await;
}
