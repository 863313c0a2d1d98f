//! Dapr's `Resiliency` resource → the policies for bindings. Those for other applications and for actors, which there are
//! not, are passed over; what cannot be kept as it is written is an error, because a policy that is missing is only noticed
//! when it is needed.

use std::ops::RangeInclusive;
use std::time::Duration;

use dingtalk_binding::duration;

use super::schema::{API_VERSION, field, list, mapping, text};
use super::yaml::{Kind, Mistake, Node};
use super::{Context, Source};
use crate::resiliency::breaker::Settings;
use crate::resiliency::retry::{Pause, Retry};
use crate::resiliency::{Names, Resiliency, Sides};

const KIND: &str = "Resiliency";

/// Dapr's pause of a constant policy, and the longest one of an exponential.
const DURATION: Duration = Duration::from_secs(5);
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Reads a document, if it is one, and if it is for this application.
pub(super) fn read(
    document: &Node<'_>,
    source: &Source,
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<Resiliency>, Mistake> {
    let is = |key, expected| matches!(field(document, key).map(|node| &node.kind), Some(Kind::Scalar(text)) if text == expected);
    if !is("apiVersion", API_VERSION) || !is("kind", KIND) {
        return Ok(None);
    }
    let mut resiliency = Resiliency::default();
    if !applies(document, context)? {
        return Ok(Some(resiliency));
    }
    let Some(spec) = mapping(document, "spec")? else { return Ok(Some(resiliency)) };
    let mut warn =
        |node: &Node<'_>, what: &str| warnings.push(format!("{}:{}: {what}", source.file.display(), node.line));
    if let Some(policies) = mapping(spec, "policies")? {
        for (name, node) in entries(policies, "timeouts")? {
            let Kind::Scalar(written) = &node.kind else {
                return Err(node.mistake(format!("the timeout {name:?} must be a duration, for example 5s")));
            };
            resiliency.timeouts.insert(name.into(), time(written, node)?);
        }
        for (name, node) in entries(policies, "retries")? {
            resiliency.retries.insert(name.into(), retry(node, &mut warn)?);
        }
        for (name, node) in entries(policies, "circuitBreakers")? {
            resiliency.breakers.insert(name.into(), breaker(node)?);
        }
    }
    if let Some(targets) = mapping(spec, "targets")? {
        for (name, node) in entries(targets, "components")? {
            let sides = Sides { outbound: names(node, "outbound")?, inbound: names(node, "inbound")? };
            resiliency.components.insert(name.into(), sides);
        }
    }
    Ok(Some(resiliency))
}

fn applies(document: &Node<'_>, context: &Context<'_>) -> Result<bool, Mistake> {
    let mut scopes = list(document, "scopes", "scopes")?.iter().peekable();
    let in_scope = scopes.peek().is_none()
        || scopes.any(|scope| matches!(&scope.kind, Kind::Scalar(scope) if scope == context.app_id));
    let theirs = match mapping(document, "metadata")? {
        Some(metadata) => text(metadata, "namespace", "metadata.namespace")?.filter(|namespace| !namespace.is_empty()),
        None => None,
    };
    let ours = context.namespace.filter(|namespace| !namespace.is_empty());
    Ok(in_scope && (ours.is_none() || theirs.is_none() || ours == theirs.as_deref()))
}

/// The members of a mapping that is a member.
fn entries<'n>(node: &'n Node<'_>, key: &str) -> Result<Vec<(&'n str, &'n Node<'n>)>, Mistake> {
    Ok(match mapping(node, key)?.map(|node| &node.kind) {
        Some(Kind::Map(entries)) => entries.iter().map(|(name, node)| (name.as_ref(), node)).collect(),
        _ => Vec::new(),
    })
}

/// A duration, or a number of milliseconds.
fn time(written: &str, node: &Node<'_>) -> Result<Duration, Mistake> {
    match written.parse() {
        Ok(millis) => Ok(Duration::from_millis(millis)),
        Err(_) => duration::parse(written).map_err(|reason| node.mistake(reason)),
    }
}

fn time_of(node: &Node<'_>, key: &str, default: Duration) -> Result<Duration, Mistake> {
    match text(node, key, key)?.filter(|written| !written.is_empty()) {
        Some(written) => time(&written, field(node, key).unwrap_or(node)),
        None => Ok(default),
    }
}

fn number_of(node: &Node<'_>, key: &str) -> Result<Option<i64>, Mistake> {
    let Some(written) = text(node, key, key)?.filter(|written| !written.is_empty()) else { return Ok(None) };
    let place = field(node, key).unwrap_or(node);
    written.parse().map(Some).map_err(|_| place.mistake(format!("{key} must be a whole number")))
}

fn retry(node: &Node<'_>, warn: &mut impl FnMut(&Node<'_>, &str)) -> Result<Retry, Mistake> {
    let policy = text(node, "policy", "policy")?.unwrap_or_default();
    let pause = match policy.to_ascii_lowercase().as_str() {
        "" | "constant" => Pause::Constant(time_of(node, "duration", DURATION)?),
        "exponential" => Pause::Exponential(time_of(node, "maxInterval", MAX_INTERVAL)?),
        _ => {
            let place = field(node, "policy").unwrap_or(node);
            return Err(place.mistake("the policy of a retry must be constant or exponential"));
        }
    };
    // Less than nothing is without a limit.
    let max = number_of(node, "maxRetries")?.and_then(|max| u32::try_from(max).ok());
    let mut statuses = Vec::new();
    if let Some(matching) = mapping(node, "matching")? {
        if let Some(codes) = text(matching, "httpStatusCodes", "httpStatusCodes")? {
            let place = field(matching, "httpStatusCodes").unwrap_or(matching);
            for part in codes.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                let range = range(part).ok_or_else(|| {
                    place.mistake(
                        "httpStatusCodes must be statuses and ranges, separated by commas, for example 429,500-599",
                    )
                })?;
                statuses.push(range);
            }
        }
        if field(matching, "gRPCStatusCodes").is_some() {
            warn(matching, "gRPCStatusCodes are not followed by this host");
        }
    }
    Ok(Retry { pause, max, statuses })
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let of = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..600).contains(status));
    let range = of(first)?..=of(last)?;
    (!range.is_empty()).then_some(range)
}

fn breaker(node: &Node<'_>) -> Result<Settings, Mistake> {
    let default = Settings::default();
    let mut settings = Settings {
        open: time_of(node, "timeout", default.open)?,
        interval: time_of(node, "interval", default.interval)?,
        ..default
    };
    if let Some(trials) = number_of(node, "maxRequests")? {
        settings.trials = u32::try_from(trials).unwrap_or(default.trials).max(1);
    }
    // Dapr's default for none, and for nothing.
    if settings.open.is_zero() {
        settings.open = default.open;
    }
    if let Some(trip) = text(node, "trip", "trip")?.filter(|trip| !trip.trim().is_empty()) {
        let place = field(node, "trip").unwrap_or(node);
        settings.failures = failures(&trip).ok_or_else(|| {
            place.mistake("trip: this host understands \"consecutiveFailures > N\" and no other expression; write that")
        })?;
    }
    Ok(settings)
}

/// After more failures in a row than the result says.
fn failures(trip: &str) -> Option<u32> {
    let rest = trip.trim().strip_prefix("consecutiveFailures")?.trim_start();
    match rest.strip_prefix(">=") {
        Some(number) => number.trim().parse::<u32>().ok()?.checked_sub(1),
        None => rest.strip_prefix('>')?.trim().parse().ok(),
    }
}

fn names(target: &Node<'_>, side: &str) -> Result<Names, Mistake> {
    let Some(node) = mapping(target, side)? else { return Ok(Names::default()) };
    let of = |key| Ok(text(node, key, key)?.filter(|name| !name.is_empty()));
    Ok(Names { timeout: of("timeout")?, retry: of("retry")?, breaker: of("circuitBreaker")? })
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn of(rest: &str) -> Result<(Resiliency, Vec<String>), String> {
        // A first line that is a namespace belongs to the metadata.
        let (namespace, rest) = match rest.strip_prefix("namespace: ").and_then(|rest| rest.split_once('\n')) {
            Some((namespace, rest)) => (format!(", namespace: {namespace}"), rest),
            None => (String::new(), rest),
        };
        let text = format!("apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {{name: r{namespace}}}\n{rest}");
        let context = Context { app_id: "shop", namespace: Some("prod"), env: &|_| None };
        let source = Source { file: "r.yaml".into(), line: 1 };
        let mut warnings = Vec::new();
        let documents = yaml::read(&text).map_err(|mistake| mistake.reason)?;
        let found = read(&documents[0], &source, &context, &mut warnings);
        found.map(|found| (found.unwrap(), warnings)).map_err(|mistake| format!("{}:{}", mistake.line, mistake.reason))
    }

    /// The example of Dapr's documentation, for a component.
    const DOCUMENTED: &str = "spec:
  policies:
    timeouts: {general: 5s, quick: 250}
    retries:
      pubsubRetry: {policy: constant, duration: 5s, maxRetries: 10}
      important: {policy: exponential, maxInterval: 15s, maxRetries: -1}
      some: {maxRetries: 0, matching: {httpStatusCodes: \"429, 501-503\", gRPCStatusCodes: \"1\"}}
    circuitBreakers:
      simpleCB: {maxRequests: 2, interval: 8s, timeout: 45s, trip: consecutiveFailures >= 8}
      other: {}
  targets:
    apps: {appB: {timeout: general}}
    components:
      team:
        outbound: {timeout: general, retry: pubsubRetry, circuitBreaker: simpleCB}
        inbound: {retry: important}
";

    #[test]
    fn the_documented_policies() {
        let (read, warnings) = of(DOCUMENTED).unwrap();
        let seconds = Duration::from_secs;
        let timeouts = [("general", seconds(5)), ("quick", Duration::from_millis(250))];
        assert_eq!(read.timeouts, timeouts.map(|(name, time)| (name.to_owned(), time)).into());
        let retry = |pause, max, statuses| Retry { pause, max, statuses };
        assert_eq!(read.retries["pubsubRetry"], retry(Pause::Constant(seconds(5)), Some(10), vec![]));
        assert_eq!(read.retries["important"], retry(Pause::Exponential(seconds(15)), None, vec![]));
        assert_eq!(read.retries["some"], retry(Pause::Constant(seconds(5)), Some(0), vec![429..=429, 501..=503]));
        assert_eq!(
            read.breakers["simpleCB"],
            Settings { failures: 7, open: seconds(45), trials: 2, interval: seconds(8) }
        );
        assert_eq!(read.breakers["other"], Settings::default());
        let name = |name: &str| Some(name.to_owned());
        let outbound = Names { timeout: name("general"), retry: name("pubsubRetry"), breaker: name("simpleCB") };
        let inbound = Names { retry: name("important"), ..Names::default() };
        assert_eq!(read.components, [("team".to_owned(), Sides { outbound, inbound })].into());
        assert_eq!(warnings, ["r.yaml:10: gRPCStatusCodes are not followed by this host"]);
        assert!(read.missing().is_empty());
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        for (policies, said) in [
            ("timeouts: {a: soon}", "6:\"soon\" is not a duration"),
            ("timeouts: {a: [1]}", "6:the timeout \"a\" must be a duration"),
            ("retries: {a: {policy: linear}}", "6:the policy of a retry must be constant or exponential"),
            ("retries: {a: {maxRetries: many}}", "6:maxRetries must be a whole number"),
            ("retries: {a: {matching: {httpStatusCodes: 5xx}}}", "6:httpStatusCodes must be statuses and ranges"),
            ("retries: {a: {matching: {httpStatusCodes: 503-500}}}", "6:httpStatusCodes must be"),
            ("circuitBreakers: {a: {trip: \"totalFailures > 3\"}}", "6:trip: this host understands"),
            (
                "circuitBreakers: {a: {trip: \"consecutiveFailures > 3 || requests > 9\"}}",
                "6:trip: this host understands",
            ),
            ("circuitBreakers: {a: {trip: consecutiveFailures >= 0}}", "6:trip: this host understands"),
            ("circuitBreakers: {a: {timeout: x}}", "6:\"x\" is not a duration"),
        ] {
            let error = of(&format!("spec:\n  policies:\n    {policies}\n")).unwrap_err();
            assert!(error.starts_with(said), "{policies}: {error}");
        }
    }

    #[test]
    fn policies_of_others_are_left_out() {
        for rest in ["scopes: [other]\n", "namespace: test\n"] {
            let (read, _) = of(&format!("{rest}{DOCUMENTED}")).unwrap();
            assert_eq!(read, Resiliency::default(), "{rest}");
        }
    }
}
