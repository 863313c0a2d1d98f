//! Spans as lines of the log, for who tries tracing out: `spec.tracing.stdout`.

use std::time::Duration;

use opentelemetry::trace::Status;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

use super::said;

/// Writes what daprd writes: name, identifiers and times; but for callbacks.
#[derive(Debug)]
pub(super) struct Log;

impl SpanExporter for Log {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        // Anybody can send a callback; a line for each would be theirs to fill the log with.
        for span in batch.into_iter().filter(|span| !said::is_strangers(&span.name, &span.span_kind)) {
            let took = span.end_time.duration_since(span.start_time).unwrap_or(Duration::ZERO);
            let failure = match &span.status {
                Status::Error { description } => Some(description.as_ref()),
                Status::Ok | Status::Unset => None,
            };
            tracing::info!(
                name = %span.name,
                trace_id = %span.span_context.trace_id(),
                span_id = %span.span_context.span_id(),
                parent_id = %span.parent_span_id,
                microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                failure,
                "span"
            );
        }
        Ok(())
    }
}
