//! `spec.tracing` of a Configuration: who wants spans, as the file has it.

use dingtalk_binding::duration;
use dingtalk_binding::secret::Secret;

use super::environment::Environment;
use super::schema::{boolean, field, list, mapping, text};
use super::yaml::{Kind, Mistake, Node};
use crate::spans::settings::{Otel, Tracing};

/// What it says, and a warning for each thing that it says in vain, with its line.
pub(super) fn read(node: &Node<'_>, environment: Environment<'_>) -> Result<(Tracing, Vec<(u64, String)>), Mistake> {
    let mut warnings = Vec::new();
    let rate = text(node, "samplingRate", "spec.tracing.samplingRate")?;
    let stdout = boolean(node, "stdout", "spec.tracing.stdout")?;
    if let Some(zipkin) = mapping(node, "zipkin")?
        && text(zipkin, "endpointAddress", "spec.tracing.zipkin.endpointAddress")?.is_some_and(|text| !text.is_empty())
    {
        let what = "spec.tracing.zipkin: this host does not speak Zipkin's protocol, and sends nothing there; set \
                    spec.tracing.otel to an OpenTelemetry Collector (endpointAddress: host:4317, protocol: grpc), which \
                    can hand spans on to Zipkin, or to Jaeger, which takes them itself";
        warnings.push((zipkin.line, what.to_owned()));
    }
    let otel = match mapping(node, "otel")? {
        Some(otel) => self::otel(otel, environment)?,
        None => Otel::default(),
    };
    Ok((Tracing { rate, stdout, otel }, warnings))
}

fn otel(node: &Node<'_>, environment: Environment<'_>) -> Result<Otel, Mistake> {
    let expanded = |what: &str, text: String| {
        expand(&text, environment).map_err(|why| node.mistake(format!("spec.tracing.otel.{what}: {why}")))
    };
    let endpoint = text(node, "endpointAddress", "spec.tracing.otel.endpointAddress")?;
    let endpoint = endpoint.map(|text| expanded("endpointAddress", text)).transpose()?;
    let secure = match field(node, "isSecure").map(|value| &value.kind) {
        None | Some(Kind::Null) => None,
        Some(_) => Some(boolean(node, "isSecure", "spec.tracing.otel.isSecure")?),
    };
    let timeout = match text(node, "timeout", "spec.tracing.otel.timeout")? {
        None => None,
        Some(text) => {
            Some(duration::parse(&text).map_err(|why| node.mistake(format!("spec.tracing.otel.timeout: {why}")))?)
        }
    };
    let mut headers = Vec::new();
    for header in list(node, "headers", "spec.tracing.otel.headers")? {
        let (name, value) = self::header(header)?;
        headers.push((name, Secret::new(expanded("headers", value)?)));
    }
    let protocol = text(node, "protocol", "spec.tracing.otel.protocol")?;
    Ok(Otel { endpoint, secure, protocol, headers, timeout })
}

/// `name=value`, which daprd reads from a file, or name and value, as Kubernetes has them. No error shows a value.
fn header(node: &Node<'_>) -> Result<(String, String), Mistake> {
    let wrong =
        || node.mistake("an entry of spec.tracing.otel.headers must be a text name=value, or have a name and a value");
    if let Kind::Scalar(text) = &node.kind {
        return text.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.to_owned())).ok_or_else(wrong);
    }
    let part = |key| match field(node, key).map(|value| &value.kind) {
        Some(Kind::Scalar(text)) => Some(text.to_string()),
        _ => None,
    };
    part("name").zip(part("value")).ok_or_else(wrong)
}

/// `$NAME` and `${NAME}` stand for variables, as everywhere in daprd's file. One that is not set is a mistake: a token
/// that is empty would be refused elsewhere, and without a reason.
fn expand(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, next) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        if name.is_empty() || !name.chars().all(is_name) {
            return Err("a $ must be followed by the name of a variable; write ${NAME}".into());
        }
        let value = environment(name).and_then(|value| value.into_string().ok());
        let value = value.ok_or_else(|| format!("the variable {name} is not set, or is not UTF-8"))?;
        expanded.push_str(&value);
        rest = next;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::resources::yaml;

    fn of(spec: &str) -> Result<(Tracing, Vec<(u64, String)>), String> {
        let documents = yaml::read(spec).map_err(|mistake| mistake.reason)?;
        let environment = |name: &str| (name == "TOKEN").then(|| "S3CR3T".into());
        read(&documents[0], &environment).map_err(|mistake| mistake.reason)
    }

    #[test]
    fn what_daprd_reads() {
        let spec = "samplingRate: '0.5'\nstdout: true\notel:\n  endpointAddress: otel:4317\n  isSecure: false\n  \
                    protocol: grpc\n  timeout: 2s\n  headers:\n  - a=b=c\n  - {name: authorization, value: 'Bearer ${TOKEN}'}\n  \
                    - x=$TOKEN!\n";
        let (found, warnings) = of(spec).unwrap();
        assert!(warnings.is_empty() && found.stdout && found.rate.as_deref() == Some("0.5"));
        let Otel { endpoint, secure, protocol, headers, timeout } = found.otel;
        assert_eq!((endpoint.as_deref(), secure, protocol.as_deref()), (Some("otel:4317"), Some(false), Some("grpc")));
        assert_eq!(timeout, Some(Duration::from_secs(2)));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("a", "b=c"), ("authorization", "Bearer S3CR3T"), ("x", "S3CR3T!")]);
        assert_eq!(of("samplingRate: 1").unwrap().0.rate.as_deref(), Some("1"));
        assert_eq!(of("otel: {isSecure: null}").unwrap().0, Tracing::default());
    }

    #[test]
    fn zipkin_is_told_what_to_use_instead() {
        let (found, warnings) =
            of("samplingRate: '1'\nzipkin:\n  endpointAddress: http://localhost:9411/api/v2/spans\n").unwrap();
        assert_eq!((found.otel, warnings.len(), warnings[0].0), (Otel::default(), 1, 3));
        assert!(warnings[0].1.contains("set spec.tracing.otel to an OpenTelemetry Collector"), "{warnings:?}");
        assert_eq!(of("zipkin: {endpointAddress: ''}").unwrap().1, []);
    }

    #[test]
    fn mistakes_are_named_without_values() {
        for (spec, said) in [
            ("otel: {headers: [S3CR3T]}", "an entry of spec.tracing.otel.headers must be"),
            ("otel: {headers: [{name: a, secretKeyRef: {name: S3CR3T}}]}", "must be a text name=value"),
            ("otel: {headers: [a=$]}", "write ${NAME}"),
            ("otel: {headers: ['a=${MISSING}']}", "the variable MISSING is not set"),
            ("otel: {timeout: soon}", "spec.tracing.otel.timeout: \"soon\" is not a duration"),
            ("otel: {isSecure: perhaps}", "isSecure must be true or false"),
            ("otel: elsewhere", "otel must be a mapping"),
        ] {
            let error = of(spec).unwrap_err();
            assert!(error.contains(said) && !error.contains("S3CR3T"), "{spec}: {error}");
        }
    }
}
