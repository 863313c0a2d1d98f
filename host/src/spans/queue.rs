//! Spans on their way to whoever sends them: as many as there is room for. What finds none is left out and counted, at once,
//! so that neither calls nor memory feel a receiver that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

use super::said;
use crate::quiet::Quiet;

/// Spans that have ended and are not sent yet, those of the batch that is being sent among them. With some 2 KB for each,
/// they take 4 MB.
pub(super) const QUEUE: usize = 2_048;

/// Spans that are sent at once.
const BATCH: usize = 512;

/// What became of the spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    waiting: AtomicUsize,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    quiet: Quiet,
}

impl Counts {
    /// How many have been exported, failed, and dropped.
    pub(super) fn all(&self) -> [(&'static str, u64); 3] {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("exported", of(&self.exported)), ("failed", of(&self.failed)), ("dropped", of(&self.dropped))]
    }

    /// How many are not sent yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// One more waits, if fewer than `places` do.
    fn enter(&self, places: usize) -> bool {
        let entered =
            self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < places).then_some(now + 1));
        entered.is_ok()
    }

    /// So many wait no more; `rejected` of them were not taken.
    pub(super) fn sent(&self, spans: usize, rejected: usize) {
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let rejected = rejected.min(spans);
        self.exported.fetch_add((spans - rejected) as u64, Ordering::Relaxed);
        self.failed.fetch_add(rejected as u64, Ordering::Relaxed);
    }

    /// One is left out.
    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.quiet.count("dropped") {
            tracing::warn!(more, "spans are left out: too many wait for whoever takes them");
        }
    }
}

/// The SDK's batches, behind the door of [`QUEUE`].
#[derive(Debug)]
pub(super) struct Queue {
    batches: BatchSpanProcessor,
    counts: Arc<Counts>,
}

impl Queue {
    /// To `exporter`, which counts what it has sent.
    pub(super) fn new(exporter: impl SpanExporter + 'static, counts: Arc<Counts>) -> Self {
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(delay(std::env::var("OTEL_BSP_SCHEDULE_DELAY").ok().as_deref()));
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build();
        Self { batches, counts }
    }
}

/// How long a batch that is not full waits, by what the variable says. With 0, the SDK's thread would never rest.
fn delay(millis: Option<&str>) -> Duration {
    let millis = millis.and_then(|millis| millis.trim().parse().ok()).unwrap_or(5_000);
    Duration::from_millis(millis).clamp(Duration::from_millis(100), Duration::from_secs(60))
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        // Whoever reaches the port for callbacks can make these: the others keep half of the places.
        let places = if said::is_strangers(&span.name, &span.span_kind) { QUEUE / 2 } else { QUEUE };
        if self.counts.enter(places) { self.batches.on_end(span) } else { self.counts.drop_one() }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}
