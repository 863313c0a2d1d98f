//! Spans: what was asked of this host, what it posted and what it delivered, with times and outcomes, for OpenTelemetry.
//!
//! `settings` decides which are made and where they go, `said` what one says; both are pure. The SDK samples, counts ids
//! and batches; `queue` bounds what waits, `otlp` sends it. Where tracing is off there is no [`Spans`], and nothing here is
//! called.

mod log;
mod otlp;
mod queue;
pub(crate) mod said;
pub mod settings;

use std::sync::Arc;
use std::time::Duration;

use dingtalk_api::trace::{self, TRACE};
use http::header::{HeaderMap, HeaderValue};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanContext, Status, Tracer, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio_util::sync::CancellationToken;

use otlp::Otlp;
use queue::{Counts, Queue};
use said::{Ended, Said};
use settings::Settings;

/// W3C's limit, and daprd's: a longer `tracestate` is left out of what is handed on. It waits with its span.
const MAX_TRACESTATE: usize = 512;

/// Makes spans. Clones make the same.
#[derive(Clone)]
pub struct Spans(Arc<Inner>);

struct Inner {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    counts: Arc<Counts>,
    stopping: CancellationToken,
}

impl Spans {
    /// Makes and sends spans from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the receiver's certificates cannot be used.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let (counts, stopping) = (Arc::new(Counts::default()), CancellationToken::new());
        let attributes = settings.attributes.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attributes(attributes)
            .with_service_name(settings.service.clone())
            .build();
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource)
            // daprd's: who calls decides, and for traces that begin here the rate.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.rate))));
        if settings.stdout {
            provider = provider.with_simple_exporter(log::Log);
        }
        if let Some(receiver) = &settings.receiver {
            let otlp = Otlp::new(receiver, Arc::clone(&counts), stopping.clone())?;
            provider = provider.with_span_processor(Queue::new(otlp, Arc::clone(&counts)));
            let (receiver, protocol) = (otlp::shown(receiver), receiver.protocol.name());
            tracing::info!(receiver, protocol, rate = settings.rate, service = settings.service, "spans are sent");
        }
        let provider = provider.build();
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION"));
        let tracer = provider.tracer_with_scope(scope.build());
        Ok(Self(Arc::new(Inner { tracer, provider, counts, stopping })))
    }

    /// Begins a span below the one that `trace` names, or a trace of its own.
    pub(crate) fn begin(&self, said: Said, trace: &[(String, String)]) -> Span {
        let Said { name, kind, attributes } = said;
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Pairs(trace));
        let builder = self.0.tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        let span = builder.start_with_context(&self.0.tracer, &parent);
        Span { span, is_over: false }
    }

    /// How many have been exported, failed, and dropped.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        self.0.counts.all()
    }

    /// Sends what waits, without waiting for it.
    pub fn flush(&self) {
        let provider = self.0.provider.clone();
        // Blocks: no thread of the runtime's.
        let _ = std::thread::Builder::new().spawn(move || drop(provider.force_flush()));
    }

    /// Sends what waits, and no more after `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.0.stopping.cancel();
        let (done, ended) = tokio::sync::oneshot::channel();
        let provider = self.0.provider.clone();
        let ending = move || {
            let _ = provider.shutdown_with_timeout(limit);
            let _ = done.send(());
        };
        let _ = std::thread::Builder::new().spawn(ending);
        let _ = tokio::time::timeout(limit, ended).await;
        let spans = self.0.counts.waiting();
        if spans > 0 {
            tracing::warn!(spans, "spans were not sent before the end");
        }
    }
}

/// Something that goes on. A value that is dropped before it has ended says so.
pub(crate) struct Span {
    span: opentelemetry_sdk::trace::Span,
    is_over: bool,
}

impl Span {
    /// Puts this span in place of the one that `trace` names.
    pub(crate) fn put(&self, trace: &mut Vec<(String, String)>) {
        trace.retain(|(name, _)| *name != TRACE[0] && *name != TRACE[1]);
        trace.extend(self.pairs());
    }

    /// `traceparent`, and `tracestate` if there is any.
    fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        let context = self.span.span_context();
        let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        let parent = (TRACE[0].to_owned(), traceparent(context));
        std::iter::once(parent).chain(state.map(|state| (TRACE[1].to_owned(), state)))
    }

    /// Tells a client over HTTP which span was its own, as daprd does.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let [parent, state, _] = TRACE;
        for (name, value) in self.pairs() {
            let name = if name == parent { parent } else { state };
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }

    /// The same in gRPC's older form.
    pub(crate) fn binary(&self) -> Vec<u8> {
        // Its own identifiers are valid.
        trace::to_binary(&traceparent(self.span.span_context())).unwrap_or_default()
    }

    /// It has ended.
    pub(crate) fn end(mut self, ended: Ended) {
        let Ended { attributes, failure } = ended;
        self.span.set_attributes(attributes);
        if let Some(failure) = failure {
            self.span.set_status(Status::error(failure));
        }
        self.is_over = true;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // The caller has gone, or a time limit was over.
        if !self.is_over {
            self.span.set_status(Status::error("cancelled"));
        }
        self.span.end();
    }
}

fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
}

/// What the SDK reads a parent from.
struct Pairs<'a>(&'a [(String, String)]);

impl Extractor for Pairs<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| name == key)?;
        Some(value.as_str()).filter(|value| key != TRACE[1] || value.len() <= MAX_TRACESTATE)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}
