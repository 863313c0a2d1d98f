//! What is counted and measured for whoever operates the host, in Prometheus' text format.
//!
//! What Dapr counts has Dapr's name, labels and buckets, so that its dashboards and alerts go on working; the rest begins
//! with `dingtalk_`. A label's value is a name that the operator has given (the application, a binding) or one of a fixed
//! list: whoever sends requests can neither write into the text nor make it longer.

use std::collections::HashMap;
use std::time::Instant;

use http::{Method, StatusCode};
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::MetricFamily;
use prometheus::{
    Error, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Dapr's, in milliseconds.
const BUCKETS: [f64; 34] = [
    1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 25.0, 30.0, 40.0, 50.0, 65.0, 80.0, 100.0, 130.0, 160.0,
    200.0, 250.0, 300.0, 400.0, 500.0, 650.0, 800.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0, 50_000.0,
    100_000.0,
];

const COMPONENT: &str = "component";

/// What is counted for as long as the process lives.
pub struct Metrics(Option<Families>);

/// Clones count the same.
#[derive(Clone)]
struct Families {
    output: Timed,
    input: Timed,
    requests: Timed,
    loaded: IntCounter,
    errors: IntCounterVec,
    retries: IntCounterVec,
    callbacks: IntCounterVec,
    changes: IntCounterVec,
}

/// How often something was done, and how long it took.
#[derive(Clone)]
struct Timed {
    count: IntCounterVec,
    latency: HistogramVec,
}

/// What is as it is at one moment.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Bindings that are loaded.
    pub(crate) bindings: usize,
    /// By binding: requests to other destinations that were refused.
    pub(crate) egress_refused: Vec<(String, u64)>,
    /// By binding and limit: calls that were stopped.
    pub(crate) stopped: Vec<(String, &'static str, u64)>,
    /// By kind and state: calls.
    pub(crate) calls: Vec<(&'static str, &'static str, usize)>,
    /// If there is an inbox, and it can be read.
    pub(crate) inbox: Option<QueueState>,
    /// The same for an outbox.
    pub(crate) outbox: Option<QueueState>,
    /// By what became of them: spans, where there are any.
    pub(crate) spans: Option<[(&'static str, u64); 3]>,
}

/// What an inbox or an outbox holds.
#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) pending: u64,
    pub(crate) dead: u64,
    /// For how long the one has waited that has waited for longest.
    pub(crate) oldest_ms: u64,
}

impl Metrics {
    /// Nothing is counted yet.
    pub(crate) fn new() -> Self {
        Self(Families::new().inspect_err(|error| tracing::error!(%error, "nothing is counted")).ok())
    }

    /// A binding was initialised and is served.
    pub(crate) fn loaded(&self, bindings: usize) {
        if let Some(families) = &self.0 {
            families.loaded.inc_by(bindings as u64);
        }
    }

    /// A component file was followed: `change` is `loaded`, `replaced`, `removed` or `failed`.
    pub(crate) fn changed(&self, change: &'static str) {
        if let Some(families) = &self.0 {
            count(&families.changes, &[change]);
        }
    }

    /// An operation that began at `since` has ended. What is not one of the binding's names and operations is empty.
    pub(crate) fn invoked(&self, call: (&str, &str), since: Instant, failure: Option<&[(String, String)]>) {
        let Some(families) = &self.0 else { return };
        let (component, operation) = call;
        let success = if failure.is_none() { "true" } else { "false" };
        families.output.observe(&[component, operation, success], since);
        if let Some(metadata) = failure {
            let of = |wanted: &str| metadata.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value);
            count(&families.errors, &[component, operation, of("error"), of("class"), of("outcome")]);
        }
    }

    /// An operation took so many attempts more than one.
    pub(crate) fn retried(&self, (component, operation): (&str, &str), times: u32) {
        let Some(families) = self.0.as_ref().filter(|_| times > 0) else { return };
        if let Ok(counter) = families.retries.get_metric_with_label_values(&[component, operation]) {
            counter.inc_by(times.into());
        }
    }

    /// The application has taken an event, or not, that was handed to it at `since`.
    pub(crate) fn delivered(&self, component: &str, since: Instant, success: bool) {
        if let Some(families) = &self.0 {
            families.input.observe(&[component, if success { "true" } else { "false" }], since);
        }
    }

    /// A callback was answered; `result` is why it was refused, or `answered`.
    pub(crate) fn callback(&self, component: &str, result: &'static str) {
        if let Some(families) = &self.0 {
            count(&families.callbacks, &[component, result]);
        }
    }

    /// A request that came at `since` was answered.
    pub(crate) fn answered(&self, method: &Method, status: StatusCode, since: Instant) {
        let Some(families) = &self.0 else { return };
        let known = [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
            Method::HEAD,
            Method::OPTIONS,
            Method::CONNECT,
            Method::TRACE,
        ];
        let method = if known.contains(method) { method.as_str() } else { "UNKNOWN" };
        families.requests.observe(&[method, "", status.as_str()], since);
    }

    /// This binding is gone: names that come and go fill no memory.
    pub(crate) fn forget(&self, component: &str) {
        let Some(families) = &self.0 else { return };
        for timed in [&families.output, &families.input] {
            forget(&timed.count, component);
            forget(&timed.latency, component);
        }
        forget(&families.errors, component);
        forget(&families.retries, component);
        forget(&families.callbacks, component);
    }

    /// All of it as text, each line with `labels`.
    pub(crate) fn text(&self, labels: &[(&str, &str)], state: &State) -> Result<String, Error> {
        let labels = labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let registry = Registry::new_custom(None, Some(labels))?;
        if let Some(families) = &self.0 {
            families.clone().register(&registry)?;
        }
        state.register(&registry)?;
        let mut families = registry.gather();
        // As Dapr writes them, and the same at every scrape.
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            let mut labels = metric.take_label();
            labels.sort_by(|one, other| one.name().cmp(other.name()));
            metric.set_label(labels);
        }
        TextEncoder::new().encode_to_string(&families)
    }
}

impl Families {
    fn new() -> Result<Self, Error> {
        let call = [COMPONENT, "operation", "success"];
        Ok(Self {
            output: Timed::new(
                ["dapr_component_output_binding_count", "dapr_component_output_binding_latencies"],
                "The number of operations invoked on the output binding component.",
                "The latency of the response from the output binding component.",
                &call,
            )?,
            input: Timed::new(
                ["dapr_component_input_binding_count", "dapr_component_input_binding_latencies"],
                "The number of incoming events arriving from the input binding component.",
                "The triggered app event processing latency.",
                &[COMPONENT, "success"],
            )?,
            requests: Timed::new(
                ["dapr_http_server_request_count", "dapr_http_server_latency"],
                "Count of HTTP requests processed by the server.",
                "HTTP request end-to-end latency in server.",
                &["method", "path", "status"],
            )?,
            loaded: IntCounter::new("dapr_runtime_component_loaded", "The number of successfully loaded components.")?,
            errors: counter(
                "dingtalk_invoke_errors_total",
                "Operations that failed, by the names of docs/errors.md.",
                &[COMPONENT, "operation", "error", "class", "outcome"],
            )?,
            retries: counter(
                "dingtalk_retries_total",
                "Attempts of operations beyond the first.",
                &[COMPONENT, "operation"],
            )?,
            callbacks: counter(
                "dingtalk_callbacks_total",
                "Callbacks, by what they were answered or why they were refused.",
                &[COMPONENT, "result"],
            )?,
            changes: counter(
                "dingtalk_component_changes_total",
                "Changes of component files that were taken over, or failed.",
                &["change"],
            )?,
        })
    }

    fn register(self, registry: &Registry) -> Result<(), Error> {
        let Self { output, input, requests, loaded, errors, retries, callbacks, changes } = self;
        for Timed { count, latency } in [output, input, requests] {
            registry.register(Box::new(count))?;
            registry.register(Box::new(latency))?;
        }
        registry.register(Box::new(loaded))?;
        for counter in [errors, retries, callbacks, changes] {
            registry.register(Box::new(counter))?;
        }
        Ok(())
    }
}

impl State {
    fn register(&self, registry: &Registry) -> Result<(), Error> {
        let Self { bindings, egress_refused, stopped, calls, inbox, outbox, spans } = self;
        let refused = counter(
            "dingtalk_egress_refused_total",
            "Requests to destinations that the binding may not reach, since it was loaded.",
            &[COMPONENT],
        )?;
        for (component, number) in egress_refused {
            refused.get_metric_with_label_values(&[component])?.inc_by(*number);
        }
        let limits = counter(
            "dingtalk_limits_hit_total",
            "Calls that were stopped by a limit of the sandbox, since the binding was loaded.",
            &[COMPONENT, "limit"],
        )?;
        for (component, limit, number) in stopped {
            limits.get_metric_with_label_values(&[component.as_str(), *limit])?.inc_by(*number);
        }
        let running = IntGaugeVec::new(Opts::new("dingtalk_calls", "Calls now."), &["kind", "state"])?;
        for (kind, state, number) in calls {
            running.get_metric_with_label_values(&[kind, state])?.set(gauge(*number as u64));
        }
        registry.register(Box::new(refused))?;
        registry.register(Box::new(limits))?;
        registry.register(Box::new(running))?;
        let loaded = IntGauge::new("dingtalk_bindings", "Bindings that are loaded now.")?;
        loaded.set(gauge(*bindings as u64));
        registry.register(Box::new(loaded))?;
        let version = Opts::new("dingtalk_build_info", "Always 1.").const_label("version", env!("CARGO_PKG_VERSION"));
        let build = IntGauge::with_opts(version)?;
        build.set(1);
        registry.register(Box::new(build))?;
        if let Some(spans) = spans {
            let all = counter("dingtalk_spans_total", "Spans, by what became of them.", &["result"])?;
            for (result, number) in spans {
                all.get_metric_with_label_values(&[*result])?.inc_by(*number);
            }
            registry.register(Box::new(all))?;
        }
        for (state, [events, counts], [oldest, tells]) in [
            (
                inbox,
                ["dingtalk_inbox_events", "Events in the inbox now."],
                [
                    "dingtalk_inbox_oldest_seconds",
                    "For how long the pending event has waited that has waited for longest; 0 without one.",
                ],
            ),
            (
                outbox,
                ["dingtalk_outbox_messages", "Messages in the outbox now."],
                [
                    "dingtalk_outbox_oldest_seconds",
                    "For how long the pending message has waited that has waited for longest; 0 without one.",
                ],
            ),
        ] {
            let Some(QueueState { pending, dead, oldest_ms }) = state else { continue };
            let events = IntGaugeVec::new(Opts::new(events, counts), &["state"])?;
            events.get_metric_with_label_values(&["pending"])?.set(gauge(*pending));
            events.get_metric_with_label_values(&["dead"])?.set(gauge(*dead));
            registry.register(Box::new(events))?;
            let oldest = IntGauge::new(oldest, tells)?;
            oldest.set(gauge(oldest_ms / 1_000));
            registry.register(Box::new(oldest))?;
        }
        Ok(())
    }
}

impl Timed {
    fn new([count, latency]: [&str; 2], counts: &str, takes: &str, labels: &[&str]) -> Result<Self, Error> {
        let times = HistogramOpts::new(latency, takes).buckets(BUCKETS.to_vec());
        Ok(Self { count: counter(count, counts, labels)?, latency: HistogramVec::new(times, labels)? })
    }

    fn observe(&self, labels: &[&str], since: Instant) {
        count(&self.count, labels);
        // It fails for a wrong number of labels only.
        if let Ok(latency) = self.latency.get_metric_with_label_values(labels) {
            latency.observe(since.elapsed().as_secs_f64() * 1_000.0);
        }
    }
}

fn counter(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn count(counter: &IntCounterVec, labels: &[&str]) {
    // It fails for a wrong number of labels only.
    if let Ok(counter) = counter.get_metric_with_label_values(labels) {
        counter.inc();
    }
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Takes the lines of one binding out.
fn forget<B: MetricVecBuilder>(family: &MetricVec<B>, component: &str) {
    for metric in family.collect().iter().flat_map(MetricFamily::get_metric) {
        let labels: HashMap<&str, &str> =
            metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
        if labels.get(COMPONENT) == Some(&component) {
            // It was there a moment ago.
            let _ = family.remove(&labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [(&str, &str); 2] = [("app_id", "shop"), ("namespace", "default")];

    fn lines(metrics: &Metrics, state: &State) -> Vec<String> {
        let text = metrics.text(&LABELS, state).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn names_labels_and_buckets_are_daprs() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        metrics.invoked(("team", "create"), now, None);
        metrics.delivered("team", now, false);
        metrics.answered(&Method::POST, StatusCode::OK, now);
        metrics.loaded(2);
        let lines = lines(&metrics, &State::default());
        let has = |line: &str| assert!(lines.iter().any(|known| known == line), "{line}\n{lines:#?}");
        has(
            r#"dapr_component_output_binding_count{app_id="shop",component="team",namespace="default",operation="create",success="true"} 1"#,
        );
        has(
            r#"dapr_component_output_binding_latencies_count{app_id="shop",component="team",namespace="default",operation="create",success="true"} 1"#,
        );
        has(
            r#"dapr_component_input_binding_count{app_id="shop",component="team",namespace="default",success="false"} 1"#,
        );
        has(
            r#"dapr_http_server_request_count{app_id="shop",method="POST",namespace="default",path="",status="200"} 1"#,
        );
        has(r#"dapr_runtime_component_loaded{app_id="shop",namespace="default"} 2"#);
        let buckets: Vec<&str> = lines
            .iter()
            .filter(|line| line.starts_with("dapr_component_output_binding_latencies_bucket"))
            .filter_map(|line| line.split_once("le=\"")?.1.split('"').next())
            .collect();
        assert_eq!((buckets.len(), buckets[0], buckets[33], buckets[34]), (35, "1", "100000", "+Inf"));
    }

    #[test]
    fn a_failure_is_told_by_the_names_of_the_documentation() {
        let metrics = Metrics::new();
        let failure = [("error", "rejected"), ("outcome", "not-sent"), ("errmsg", "S3CR3T"), ("class", "quota")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        metrics.invoked(("team", "create"), Instant::now(), Some(&failure));
        metrics.callback("team", "bad-signature");
        let lines = lines(&metrics, &State::default());
        let errors: Vec<_> = lines.iter().filter(|line| line.starts_with("dingtalk_invoke_errors_total")).collect();
        assert_eq!(
            errors,
            [
                r#"dingtalk_invoke_errors_total{app_id="shop",class="quota",component="team",error="rejected",namespace="default",operation="create",outcome="not-sent"} 1"#
            ]
        );
        assert!(lines.contains(&r#"dingtalk_callbacks_total{app_id="shop",component="team",namespace="default",result="bad-signature"} 1"#.to_owned()));
        assert!(!lines.concat().contains("S3CR3T"));
    }

    #[test]
    fn what_is_now_is_told_as_it_is() {
        let state = State {
            bindings: 3,
            egress_refused: vec![("a\"b".into(), 7)],
            stopped: vec![("team".into(), "time", 2)],
            calls: vec![("operation", "running", 5)],
            inbox: Some(QueueState { pending: 4, dead: 1, oldest_ms: 61_999 }),
            outbox: Some(QueueState { pending: 5, dead: 2, oldest_ms: 7_000 }),
            spans: Some([("exported", 6), ("failed", 0), ("dropped", 9)]),
        };
        let lines = lines(&Metrics::new(), &state).join("\n");
        for line in [
            r#"dingtalk_bindings{app_id="shop",namespace="default"} 3"#,
            r#"dingtalk_egress_refused_total{app_id="shop",component="a\"b",namespace="default"} 7"#,
            r#"dingtalk_limits_hit_total{app_id="shop",component="team",limit="time",namespace="default"} 2"#,
            r#"dingtalk_calls{app_id="shop",kind="operation",namespace="default",state="running"} 5"#,
            r#"dingtalk_inbox_events{app_id="shop",namespace="default",state="pending"} 4"#,
            r#"dingtalk_inbox_events{app_id="shop",namespace="default",state="dead"} 1"#,
            r#"dingtalk_inbox_oldest_seconds{app_id="shop",namespace="default"} 61"#,
            r#"dingtalk_outbox_messages{app_id="shop",namespace="default",state="dead"} 2"#,
            r#"dingtalk_outbox_oldest_seconds{app_id="shop",namespace="default"} 7"#,
            r#"dingtalk_spans_total{app_id="shop",namespace="default",result="dropped"} 9"#,
            r#"dingtalk_spans_total{app_id="shop",namespace="default",result="failed"} 0"#,
        ] {
            assert!(lines.contains(line), "{line}\n{lines}");
        }
    }

    #[test]
    fn bindings_that_are_gone_leave_nothing() {
        let (metrics, now) = (Metrics::new(), Instant::now());
        let empty = lines(&metrics, &State::default());
        for component in ["stays", "goes"] {
            metrics.invoked((component, "create"), now, Some(&[]));
            metrics.delivered(component, now, true);
            metrics.callback(component, "answered");
        }
        let both = lines(&metrics, &State::default());
        metrics.forget("goes");
        let left = lines(&metrics, &State::default());
        assert_eq!(left.iter().filter(|line| line.contains("goes")).count(), 0);
        assert_eq!(both.len() - left.len(), left.len() - empty.len());
    }

    #[test]
    fn methods_that_are_invented_are_one() {
        let metrics = Metrics::new();
        for method in ["BREW", "WHEN", "post"] {
            metrics.answered(&method.parse().unwrap(), StatusCode::NOT_FOUND, Instant::now());
        }
        let counts: Vec<String> = lines(&metrics, &State::default())
            .into_iter()
            .filter(|line| line.starts_with("dapr_http_server_request_count"))
            .collect();
        assert!(
            counts.len() == 1 && counts[0].contains(r#"method="UNKNOWN""#) && counts[0].ends_with(" 3"),
            "{counts:?}"
        );
    }
}
