//! Which spans are made and where they go: what a Configuration's `spec.tracing` and OpenTelemetry's variables come to, by
//! daprd's rules. Nothing is read here, and nothing sent.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use dingtalk_binding::secret::Secret;
use http::Uri;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use percent_encoding::percent_decode_str;

/// daprd's, where a file names a receiver and no rate.
const RATE: f64 = 1e-4;

/// OpenTelemetry's, for one batch and all tries to send it.
const USUAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Spans wait meanwhile, and their places are counted.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Attributes of the resource, and headers: each batch has them.
const MAX_PAIRS: usize = 64;

/// A text that the operator gives, in bytes.
const MAX_TEXT: usize = 4 << 10;

/// OTLP's path for spans.
const TRACES: &str = "/v1/traces";

/// OTLP's variables: the one for spans, which counts, and the one for everything.
type Variable = [&'static str; 2];

const ENDPOINT: Variable = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOL: Variable = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const INSECURE: Variable = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
const HEADERS: Variable = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUT: Variable = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const CERTIFICATE: Variable = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const COMPRESSION: Variable = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const CLIENT_CERTIFICATE: Variable =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];

/// What a file's `spec.tracing` says. `Debug` shows no header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tracing {
    /// Which part of the traces that begin here is sampled, as written.
    pub rate: Option<String>,
    /// Whether spans are logged.
    pub stdout: bool,
    /// Where they are sent.
    pub otel: Otel,
}

/// `spec.tracing.otel`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Otel {
    /// Host and port.
    pub endpoint: Option<String>,
    /// Whether by TLS, if it says so.
    pub secure: Option<bool>,
    /// `grpc` or `http`.
    pub protocol: Option<String>,
    /// What the receiver wants to see.
    pub headers: Vec<(String, Secret)>,
    /// For one batch.
    pub timeout: Option<Duration>,
}

/// How OTLP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// As gRPC.
    Grpc,
    /// As protobuf in HTTP/1.1.
    Http,
}

impl Protocol {
    /// daprd's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Grpc => 4317,
            Self::Http => 4318,
        }
    }
}

/// Whoever takes spans. `Debug` shows no value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// How.
    pub protocol: Protocol,
    /// Where, with the path that is posted to.
    pub url: Uri,
    /// What it wants to see, each marked as sensitive.
    pub headers: HeaderMap,
    /// For one batch and all tries.
    pub timeout: Duration,
    /// Authorities that are trusted beside the system's.
    pub certificate: Option<PathBuf>,
}

/// Which spans are made, and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Above 0, at most 1.
    pub rate: f64,
    /// Whether they are logged.
    pub stdout: bool,
    /// Where they are sent, if anywhere.
    pub receiver: Option<Receiver>,
    /// Who makes them.
    pub service: String,
    /// What else is said of it.
    pub attributes: Vec<(String, String)>,
}

/// What was found, and what was found in vain.
pub type Found = (Option<Settings>, Vec<String>);

/// Names and values.
type Pairs = Vec<(String, String)>;

/// Reads an environment variable.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The settings of a host that is called `service` unless a variable says otherwise; none where no span is to be made.
///
/// # Errors
///
/// If a receiver is named that cannot be understood. The texts show no value.
pub fn settings(file: &Tracing, service: &str, environment: Environment<'_>) -> Result<Found, String> {
    let variables = Variables(environment);
    let mut warnings = Vec::new();
    let (receiver, usual) = match file.otel.endpoint.as_deref().filter(|text| !text.is_empty()) {
        Some(endpoint) => (of_file(endpoint, &file.otel, &mut warnings)?, RATE),
        // Only then does daprd look at them, and a variable alone means every trace.
        None => (variables.receiver(&file.otel, &mut warnings)?, 1.0),
    };
    let named = receiver.is_some();
    let rate = match file.rate.as_deref() {
        None | Some("") if named => usual,
        None | Some("") => RATE,
        Some(text) => text.trim().parse().ok().filter(|rate: &f64| !rate.is_nan()).unwrap_or_else(|| {
            warnings.push(format!("spec.tracing.samplingRate is no number; it is taken as {RATE}, as daprd does"));
            RATE
        }),
    };
    if rate <= 0.0 {
        return Ok((None, warnings));
    }
    if !named && !file.stdout {
        if file.rate.is_some() && warnings.is_empty() {
            warnings.push(
                "spec.tracing has a samplingRate and names nobody to send spans to, so that none are made; set \
                 spec.tracing.otel, or OTEL_EXPORTER_OTLP_ENDPOINT"
                    .into(),
            );
        }
        return Ok((None, warnings));
    }
    let receiver = match receiver {
        Some(receiver) => Some(variables.tls(receiver, &mut warnings)?),
        None => None,
    };
    let (named, attributes) = variables.resource()?;
    let service = named.unwrap_or_else(|| service.to_owned());
    Ok((Some(Settings { rate: rate.min(1.0), stdout: file.stdout, receiver, service, attributes }), warnings))
}

fn of_file(endpoint: &str, otel: &Otel, warnings: &mut Vec<String>) -> Result<Option<Receiver>, String> {
    let protocol = match otel.protocol.as_deref().unwrap_or_default() {
        "grpc" => Protocol::Grpc,
        "http" => Protocol::Http,
        "" => {
            warnings
                .push("spec.tracing.otel has no protocol, so that no spans are sent; set it to grpc or http".into());
            return Ok(None);
        }
        _ => return Err("spec.tracing.otel.protocol must be grpc or http".into()),
    };
    let at = |what: String| format!("spec.tracing.otel.endpointAddress {what}");
    let url = url(endpoint, otel.secure, protocol, Base::Whole(TRACES)).map_err(at)?;
    let pairs = otel.headers.iter().map(|(name, value)| (name.as_str(), value.expose()));
    let headers = headers(pairs, "spec.tracing.otel.headers")?;
    Ok(Some(Receiver { protocol, url, headers, timeout: timeout(otel.timeout), certificate: None }))
}

/// The process's environment, as far as it is OpenTelemetry's.
struct Variables<'a>(Environment<'a>);

impl Variables<'_> {
    /// The value, if there is one.
    fn text(&self, name: &str) -> Result<Option<String>, String> {
        match (self.0)(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) if text.len() > MAX_TEXT => {
                Err(format!("{name} is longer than {MAX_TEXT} bytes; shorten it"))
            }
            Some(Ok(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            // Without what was there: it may be the beginning of a secret.
            Some(Err(_)) => Err(format!("{name} is not UTF-8; set it to UTF-8 text")),
        }
    }

    /// The first of the two that there is, with its name.
    fn of(&self, variable: Variable) -> Result<Option<(&'static str, String)>, String> {
        for name in variable {
            if let Some(text) = self.text(name)? {
                return Ok(Some((name, text)));
            }
        }
        Ok(None)
    }

    fn receiver(&self, file: &Otel, warnings: &mut Vec<String>) -> Result<Option<Receiver>, String> {
        let Some((variable, endpoint)) = self.of(ENDPOINT)? else { return Ok(None) };
        let protocol = match self.of(PROTOCOL)? {
            None => Protocol::Grpc,
            Some((_, text)) if text == "grpc" => Protocol::Grpc,
            Some((name, text)) if text.starts_with("http") => {
                if text == "http/json" {
                    warnings.push(format!("{name}: http/json is sent as http/protobuf, as daprd does"));
                }
                Protocol::Http
            }
            Some((name, _)) => return Err(format!("{name} must be grpc or http/protobuf")),
        };
        let insecure = self.of(INSECURE)?.is_some_and(|(_, text)| text.eq_ignore_ascii_case("true"));
        let secure = if insecure { Some(false) } else { file.secure };
        // One for spans alone is the whole of it.
        let base = if variable == ENDPOINT[0] { Base::Whole("/") } else { Base::Below };
        // A scheme says it all, as OpenTelemetry has it.
        let secure = secure.filter(|_| !endpoint.contains("://"));
        let url = url(&endpoint, secure, protocol, base).map_err(|what| format!("{variable} {what}"))?;
        let said = self.of(HEADERS)?;
        let (name, said) = match &said {
            Some((name, text)) => (*name, pairs(text).map_err(|what| format!("{name} {what}"))?),
            None => ("spec.tracing.otel.headers", Vec::new()),
        };
        let of_file = file.headers.iter().map(|(name, value)| (name.as_str(), value.expose()));
        let headers = headers(of_file.chain(said.iter().map(|(name, value)| (name.as_str(), value.as_str()))), name)?;
        let said = match self.of(TIMEOUT)? {
            Some((name, text)) => {
                let wrong = |_| format!("{name} must be a number of milliseconds");
                Some(Duration::from_millis(text.parse().map_err(wrong)?))
            }
            None => file.timeout,
        };
        Ok(Some(Receiver { protocol, url, headers, timeout: timeout(said), certificate: None }))
    }

    /// What Go's exporter reads itself, whoever has named the receiver.
    fn tls(&self, mut receiver: Receiver, warnings: &mut Vec<String>) -> Result<Receiver, String> {
        if receiver.url.scheme() == Some(&Scheme::HTTPS) {
            receiver.certificate = self.of(CERTIFICATE)?.map(|(_, path)| path.into());
        }
        if let Some((name, _)) = self.of(COMPRESSION)?.filter(|(_, text)| text != "none") {
            warnings.push(format!("{name} is not followed: spans are sent as they are"));
        }
        if let Some((name, _)) = self.of(CLIENT_CERTIFICATE)? {
            warnings.push(format!("{name} is not followed: prove who this is by headers, or by a proxy beside it"));
        }
        Ok(receiver)
    }

    /// The name of the service, if one is given, and its other attributes.
    fn resource(&self) -> Result<(Option<String>, Pairs), String> {
        const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let said = self.text(ATTRIBUTES)?.unwrap_or_default();
        let mut attributes = pairs(&said).map_err(|what| format!("{ATTRIBUTES} {what}"))?;
        let mut service = None;
        attributes.retain(|(name, value)| {
            let is_name = name == "service.name";
            if is_name {
                service = Some(value.clone());
            }
            !is_name
        });
        Ok((self.text("OTEL_SERVICE_NAME")?.or(service), attributes))
    }
}

fn timeout(said: Option<Duration>) -> Duration {
    said.filter(|limit| !limit.is_zero()).unwrap_or(USUAL_TIMEOUT).min(LONGEST_TIMEOUT)
}

/// What becomes of an address's path, for HTTP.
enum Base {
    /// It is all there is; without one it is this.
    Whole(&'static str),
    /// The spans' own is below it.
    Below,
}

/// The error is meant to follow the name of what has `text`, which is not shown: a password may stand in it.
fn url(text: &str, secure: Option<bool>, protocol: Protocol, base: Base) -> Result<Uri, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::HTTP), rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::HTTPS), rest),
        Some(_) => return Err("has a scheme other than http and https; write host:port".into()),
        None => (None, text),
    };
    if let (Some(scheme), Some(secure)) = (&scheme, secure)
        && (*scheme == Scheme::HTTPS) != secure
    {
        return Err("has a scheme that isSecure contradicts; write host:port".into());
    }
    let (authority, path) =
        rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
    let wrong = || "is no host:port; write for example collector:4317".to_owned();
    if authority.contains('@') || path.contains(['?', '#']) {
        return Err("has a user, a query or a fragment; give secrets as headers".into());
    }
    let mut authority: Authority = authority.parse().map_err(|_| wrong())?;
    if authority.host().is_empty() {
        return Err(wrong());
    }
    if authority.port_u16().is_none() {
        if authority.as_str().len() != authority.host().len() {
            return Err(wrong());
        }
        if scheme.is_none() {
            authority = format!("{authority}:{}", protocol.port()).parse().map_err(|_| wrong())?;
        }
    }
    let scheme = scheme.unwrap_or(if secure == Some(false) { Scheme::HTTP } else { Scheme::HTTPS });
    let path = match (protocol, base) {
        (Protocol::Grpc, _) => "/opentelemetry.proto.collector.trace.v1.TraceService/Export".to_owned(),
        (Protocol::Http, Base::Whole(usual)) if path.is_empty() => usual.to_owned(),
        (Protocol::Http, Base::Whole(_)) => path,
        (Protocol::Http, Base::Below) => format!("{}{TRACES}", path.trim_end_matches('/')),
    };
    let path: PathAndQuery = path.parse().map_err(|_| wrong())?;
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().map_err(|_| wrong())
}

/// `name=value,…` with escaped values. The error is meant to follow the name of what has it, and shows no value.
fn pairs(text: &str) -> Result<Pairs, String> {
    let mut pairs = Vec::new();
    for (index, pair) in text.split(',').map(str::trim).enumerate().filter(|(_, pair)| !pair.is_empty()) {
        let wrong = || format!("has an entry {} that is no name=value", index + 1);
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| wrong())?;
        if name.trim().is_empty() {
            return Err(wrong());
        }
        pairs.push((name.trim().to_owned(), value.into_owned()));
    }
    if pairs.len() > MAX_PAIRS {
        return Err(format!("has more than {MAX_PAIRS} entries"));
    }
    Ok(pairs)
}

/// The errors name `source` and, once it is known to be a name, the header, but no value.
fn headers<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, source: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (index, (name, value)) in pairs.enumerate() {
        if index >= MAX_PAIRS {
            return Err(format!("{source} has more than {MAX_PAIRS} entries"));
        }
        let name = HeaderName::try_from(name)
            .map_err(|_| format!("{source}: entry {} has a name that no header can have", index + 1))?;
        let ours = [
            header::CONNECTION,
            header::CONTENT_ENCODING,
            header::CONTENT_LENGTH,
            header::CONTENT_TYPE,
            header::HOST,
            header::TE,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ];
        if ours.contains(&name) {
            return Err(format!("{source}: {name} is set by the host itself; remove it"));
        }
        let wrong = |_| format!("{source}: the value of {name} has characters that no header can carry");
        let mut value = HeaderValue::try_from(value).map_err(wrong)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOR_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const FOR_SPANS: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";

    fn of(file: &Tracing, variables: &[(&str, &str)]) -> Result<Found, String> {
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        settings(file, "shop", &environment)
    }

    fn file(rate: Option<&str>, endpoint: &str, protocol: &str) -> Tracing {
        let otel = Otel {
            endpoint: Some(endpoint.into()).filter(|text: &String| !text.is_empty()),
            protocol: Some(protocol.into()),
            ..Otel::default()
        };
        Tracing { rate: rate.map(str::to_owned), stdout: false, otel }
    }

    #[track_caller]
    fn receiver(found: Result<Found, String>) -> Receiver {
        found.unwrap().0.unwrap().receiver.unwrap()
    }

    #[track_caller]
    fn warning(found: Result<Found, String>) -> String {
        let (settings, warnings) = found.unwrap();
        assert_eq!(settings, None);
        warnings.join("\n")
    }

    const GRPC: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

    #[test]
    fn a_file_names_the_receiver() {
        for (endpoint, protocol, secure, url) in [
            ("otel:4317", "grpc", None, format!("https://otel:4317{GRPC}")),
            ("otel:4317", "grpc", Some(false), format!("http://otel:4317{GRPC}")),
            ("otel", "grpc", Some(true), format!("https://otel:4317{GRPC}")),
            ("otel", "http", Some(false), "http://otel:4318/v1/traces".into()),
            ("[::1]:1", "http", None, "https://[::1]:1/v1/traces".into()),
            ("http://otel/a/b", "http", None, "http://otel/a/b".into()),
            ("HTTPS://otel", "http", Some(true), "https://otel/v1/traces".into()),
        ] {
            let mut said = file(Some("1"), endpoint, protocol);
            said.otel.secure = secure;
            let found = receiver(of(&said, &[(FOR_ALL, "elsewhere:1"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=b")]));
            assert_eq!(found.url.to_string(), url);
            assert!(found.headers.is_empty(), "the variables are another receiver's");
        }
    }

    #[test]
    fn variables_name_it_where_no_file_does() {
        for (variable, endpoint, protocol, more, url) in [
            (FOR_ALL, "http://otel:4317", "", "", format!("http://otel:4317{GRPC}")),
            (FOR_ALL, "https://otel:4317/x", "grpc", "true", format!("https://otel:4317{GRPC}")),
            (FOR_ALL, "otel:4317", "grpc", "true", format!("http://otel:4317{GRPC}")),
            (FOR_ALL, "otel:4317", "grpc", "false", format!("https://otel:4317{GRPC}")),
            (FOR_ALL, "http://otel:4318/", "http/protobuf", "", "http://otel:4318/v1/traces".into()),
            (FOR_ALL, "http://otel/a", "http/protobuf", "", "http://otel/a/v1/traces".into()),
            (FOR_SPANS, "http://otel/a", "http/protobuf", "", "http://otel/a".into()),
            (FOR_SPANS, "http://otel", "http/protobuf", "", "http://otel/".into()),
        ] {
            let variables = [
                (variable, endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_INSECURE", more),
            ];
            assert_eq!(receiver(of(&Tracing::default(), &variables)).url.to_string(), url, "{endpoint}");
        }
        let both = [(FOR_ALL, "a:1"), (FOR_SPANS, "b:2"), ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "TRUE")];
        assert_eq!(receiver(of(&Tracing::default(), &both)).url.to_string(), format!("http://b:2{GRPC}"));
        let secret = "Basic%20dTpw, b c=";
        let variables = [
            (FOR_ALL, "http://otel:1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", &*format!("Authorization={secret}")),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ];
        let error = of(&Tracing::default(), &variables).unwrap_err();
        assert_eq!(error, "OTEL_EXPORTER_OTLP_HEADERS: entry 2 has a name that no header can have");
        let variables =
            [variables[0], ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20dTpw=, b=2"), variables[2]];
        let found = receiver(of(&Tracing::default(), &variables));
        assert_eq!(found.headers["authorization"], "Basic dTpw=");
        assert!(found.headers.values().all(HeaderValue::is_sensitive) && found.headers.len() == 2);
        assert_eq!(found.timeout, Duration::from_millis(1_500));
        assert!(!format!("{found:?}").contains("dTpw"), "{found:?}");
    }

    #[test]
    fn rates_are_daprds() {
        let rate = |file: &Tracing, variables: &[(&str, &str)]| of(file, variables).unwrap().0.map(|found| found.rate);
        let variable = [(FOR_ALL, "http://otel:1")];
        for (text, expected) in
            [(None, Some(1e-4)), (Some("1"), Some(1.0)), (Some(" 0.25"), Some(0.25)), (Some("7"), Some(1.0))]
        {
            assert_eq!(rate(&file(text, "otel:1", "grpc"), &variable), expected, "{text:?}");
        }
        assert_eq!(rate(&Tracing::default(), &variable), Some(1.0), "a variable alone means every trace");
        assert_eq!(rate(&file(Some("0.5"), "", ""), &variable), Some(0.5));
        for off in ["0", "0.0", "-1"] {
            assert_eq!(rate(&file(Some(off), "otel:1", "grpc"), &variable), None, "{off}");
        }
        for odd in ["often", "NaN"] {
            let (found, warnings) = of(&file(Some(odd), "otel:1", "grpc"), &[]).unwrap();
            assert!(found.unwrap().rate == 1e-4 && warnings[0].contains("samplingRate is no number"), "{odd}");
        }
    }

    #[test]
    fn without_a_receiver_there_are_no_spans_and_a_word() {
        assert_eq!(of(&Tracing::default(), &[]), Ok((None, Vec::new())));
        assert_eq!(of(&file(Some("0"), "", ""), &[]), Ok((None, Vec::new())));
        assert!(warning(of(&file(Some("1"), "", ""), &[])).contains("set spec.tracing.otel, or OTEL_EXPORTER"));
        assert!(warning(of(&file(Some("1"), "otel:1", ""), &[])).contains("has no protocol"));
        let logged = Tracing { stdout: true, rate: Some("1".into()), ..Tracing::default() };
        let (found, warnings) = of(&logged, &[]).unwrap();
        assert!(found.unwrap().receiver.is_none() && warnings.is_empty());
    }

    #[test]
    fn the_service_has_a_name_and_attributes() {
        let of = |variables: &[(&str, &str)]| {
            let found = of(&file(Some("1"), "otel:1", "grpc"), variables).unwrap().0.unwrap();
            (found.service, found.attributes)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(of(&[]), ("shop".into(), vec![]));
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a, k=1%2C2");
        assert_eq!(of(&[attributes]), ("a".into(), vec![pair("k", "1,2")]));
        assert_eq!(of(&[attributes, ("OTEL_SERVICE_NAME", "b")]).0, "b");
    }

    #[test]
    fn what_cannot_be_understood_is_named_and_not_shown() {
        let pairs = vec!["a=S3CR3T"; MAX_PAIRS + 1].join(",");
        for (variables, said) in [
            (vec![(FOR_ALL, "ftp://S3CR3T")], "OTEL_EXPORTER_OTLP_ENDPOINT has a scheme other than"),
            (vec![(FOR_ALL, "http://S3CR3T@otel")], "has a user, a query or a fragment"),
            (vec![(FOR_ALL, "http://otel/?S3CR3T")], "has a user, a query or a fragment"),
            (vec![(FOR_ALL, "S3CR3T:port")], "is no host:port"),
            (vec![(FOR_ALL, ":4317")], "is no host:port"),
            (vec![(FOR_ALL, "a:1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "S3CR3T")], "PROTOCOL must be grpc or"),
            (vec![(FOR_ALL, "a:1"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "S3CR3T")], "TIMEOUT must be a number"),
            (vec![(FOR_ALL, "a:1"), ("OTEL_EXPORTER_OTLP_HEADERS", "S3CR3T")], "HEADERS has an entry 1 that is no"),
            (vec![(FOR_ALL, "a:1"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=S3CR3T%0A")], "no header can carry"),
            (vec![(FOR_ALL, "a:1"), ("OTEL_EXPORTER_OTLP_HEADERS", "Host=S3CR3T")], "is set by the host itself"),
            (vec![(FOR_ALL, "a:1"), ("OTEL_EXPORTER_OTLP_HEADERS", &pairs)], "more than 64 entries"),
            (vec![(FOR_ALL, "a:1"), ("OTEL_RESOURCE_ATTRIBUTES", "=S3CR3T")], "has an entry 1"),
        ] {
            let error = of(&Tracing::default(), &variables).unwrap_err();
            assert!(error.contains(said) && !error.contains("S3CR3T"), "{said}: {error}");
        }
        let mut contradiction = file(Some("1"), "https://otel", "http");
        contradiction.otel.secure = Some(false);
        assert!(of(&contradiction, &[]).unwrap_err().contains("isSecure contradicts"));
        assert!(of(&file(Some("1"), "otel", "udp"), &[]).unwrap_err().contains("must be grpc or http"));
    }

    #[test]
    fn gos_own_variables() {
        let secure = file(Some("1"), "otel:1", "grpc");
        let certificate = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem");
        assert_eq!(receiver(of(&secure, &[certificate])).certificate, Some("/ca.pem".into()));
        let (_, warnings) = of(
            &secure,
            &[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"), ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/c")],
        )
        .unwrap();
        assert!(warnings[0].contains("COMPRESSION is not followed") && warnings[1].contains("CLIENT_CERTIFICATE"));
        assert_eq!(timeout(Some(Duration::from_secs(3_600))), LONGEST_TIMEOUT);
        assert_eq!(timeout(Some(Duration::ZERO)), USUAL_TIMEOUT);
    }
}
