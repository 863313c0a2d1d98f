//! What a span says. Names and attributes are daprd's where it has the same span; the others are OpenTelemetry's, or begin
//! with `dingtalk.`.
//!
//! A text is a name that the operator has given (a binding) or one of a fixed list. What a caller makes up, and what anybody
//! has written, is in none: no path that is not one of ours, no query, no header, no text of an error.

use std::borrow::Cow;

use dingtalk_api::grpc;
use http::{Method, StatusCode};
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use crate::bindings::InvokeError;
use crate::event::Undelivered;
use crate::sandbox::Response;

/// A name of a binding, in bytes. Kubernetes has 253.
const MAX_NAME: usize = 256;

/// In place of the name of a binding that there is not: whoever sends requests could invent as many as they like.
const NO_BINDING: &str = "{name}";

/// What begins.
#[derive(Debug, PartialEq)]
pub(crate) struct Said {
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) attributes: Vec<KeyValue>,
}

/// How it has ended.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ended {
    pub(super) attributes: Vec<KeyValue>,
    /// Of a failure.
    pub(super) failure: Option<Cow<'static, str>>,
}

/// The way by which the application gets events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Http,
    Grpc,
    Component,
    #[cfg_attr(not(unix), allow(dead_code))]
    Dapr,
    Print,
}

fn text(key: &'static str, value: impl Into<Cow<'static, str>>) -> KeyValue {
    KeyValue::new(key, value.into())
}

fn name_of(binding: Option<&str>) -> String {
    let name = binding.unwrap_or(NO_BINDING);
    name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or_default().to_owned()
}

/// What daprd says of everything that has to do with a binding.
fn of_binding(name: String, connection: impl Into<Cow<'static, str>>) -> Vec<KeyValue> {
    vec![text("db.system", "bindings"), text("db.name", name), text("db.connection_string", connection)]
}

/// A request over HTTP for `binding`, if there is one of that name; `below` is what follows in the path.
fn request(method: &Method, binding: Option<&str>, below: &str) -> Said {
    let known = [Method::POST, Method::PUT, Method::GET, Method::DELETE, Method::PATCH, Method::HEAD, Method::OPTIONS];
    let method = known.iter().find(|known| *known == method).map_or("_OTHER", Method::as_str).to_owned();
    let name = name_of(binding);
    let path = format!("/v1.0/bindings/{name}{below}");
    let api = format!("{method} {path}");
    let mut attributes = of_binding(name, "bindings");
    attributes.extend([
        text("db.statement", api.clone()),
        text("dapr.api", api),
        text("dapr.protocol", "http"),
        text("http.request.method", method),
        text("url.full", path.clone()),
    ]);
    Said { name: path.into(), kind: SpanKind::Server, attributes }
}

/// `InvokeBinding` over HTTP.
pub(crate) fn invoke(method: &Method, binding: Option<&str>) -> Said {
    request(method, binding, "")
}

/// The same where the path has the operation, if the binding has one of that name.
pub(crate) fn invoke_bare(method: &Method, binding: Option<&str>, operation: Option<&str>) -> Said {
    request(method, binding, &format!("/{}", operation.unwrap_or("{operation}")))
}

/// What the path of a callback ends with. No binding's name has a slash.
const CALLBACK: &str = "/callback";

/// A callback of DingTalk, or what claims to be one.
pub(crate) fn callback(method: &Method, binding: Option<&str>) -> Said {
    request(method, binding, CALLBACK)
}

/// Whether a span is that of a request that anybody can send.
pub(super) fn is_strangers(name: &str, kind: &SpanKind) -> bool {
    *kind == SpanKind::Server && name.ends_with(CALLBACK)
}

/// `InvokeBinding` over gRPC.
pub(crate) fn invoke_grpc(binding: Option<&str>) -> Said {
    const METHOD: &str = "/dapr.proto.runtime.v1.Dapr/InvokeBinding";
    let mut attributes = of_binding(name_of(binding), "bindings");
    attributes.extend([
        text("db.statement", METHOD),
        text("dapr.api", METHOD),
        text("dapr.protocol", "grpc"),
        text("rpc.service", "Dapr"),
    ]);
    Said { name: METHOD.into(), kind: SpanKind::Server, attributes }
}

/// One try of an operation: the sandbox, and what is posted from it. Both names are the binding's own.
pub(crate) fn operation(binding: &str, operation: &str, attempt: u32) -> Said {
    let name = name_of(Some(binding));
    let operation = operation.get(..operation.floor_char_boundary(MAX_NAME)).unwrap_or_default().to_owned();
    let span = format!("bindings/{name}/{operation}");
    let mut attributes = of_binding(name, "bindings");
    attributes.push(text("dingtalk.operation", operation));
    attributes.extend(again(attempt));
    Said { name: span.into(), kind: SpanKind::Client, attributes }
}

/// One try to hand an event to the application.
pub(crate) fn delivery(binding: &str, way: Way, attempt: u32) -> Said {
    let name = name_of(Some(binding));
    let connection: Cow<'static, str> = match way {
        Way::Http => format!("POST /{name}").into(),
        Way::Grpc => "/dapr.proto.runtime.v1.AppCallback/OnBindingEvent".into(),
        Way::Component => "handler".into(),
        Way::Dapr => "/dapr.proto.components.v1.InputBinding/Read".into(),
        Way::Print => "stdout".into(),
    };
    let span = format!("bindings/{name}");
    let mut attributes = of_binding(name, connection);
    attributes.push(text("rpc.service", "Dapr"));
    attributes.extend(again(attempt));
    Said { name: span.into(), kind: SpanKind::Client, attributes }
}

/// Which try it is, from the second one on.
fn again(attempt: u32) -> Option<KeyValue> {
    (attempt > 1).then(|| KeyValue::new("dingtalk.attempt", i64::from(attempt)))
}

/// A request over HTTP was answered.
pub(crate) fn answered(status: StatusCode) -> Ended {
    Ended { attributes: vec![text("dapr.status_code", status.as_str().to_owned())], failure: failure(status) }
}

/// daprd's words for it.
fn failure(status: StatusCode) -> Option<Cow<'static, str>> {
    let reason = status.canonical_reason().unwrap_or("Unknown");
    (status.as_u16() >= 400).then(|| format!("Code({}): {reason}", status.as_u16()).into())
}

/// A callback was answered; `result` is what the metrics call it.
pub(crate) fn called_back(status: StatusCode, result: &'static str) -> Ended {
    let mut ended = answered(status);
    ended.attributes.push(text("dingtalk.callback", result));
    ended
}

/// A request over gRPC was answered, with this of gRPC's codes.
pub(crate) fn answered_grpc(code: i32) -> Ended {
    let failure = (code != 0).then(|| grpc::name(code).into());
    Ended { attributes: vec![KeyValue::new("rpc.grpc.status_code", i64::from(code))], failure }
}

/// An operation has ended.
pub(crate) fn operated(result: &Result<Response, InvokeError>) -> Ended {
    match result {
        Ok(response) => Ended { attributes: errcode(&response.metadata).into_iter().collect(), failure: None },
        Err(error) => {
            let metadata = error.metadata();
            let item = |name: &str| metadata.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let error = item("error").unwrap_or_default();
            let mut attributes = vec![text("error.type", error.clone())];
            attributes.extend(item("class").map(|class| text("dingtalk.class", class)));
            attributes.extend(item("outcome").map(|outcome| text("dingtalk.outcome", outcome)));
            attributes.extend(errcode(&metadata));
            Ended { attributes, failure: Some(error.into()) }
        }
    }
}

/// DingTalk's number. Whatever else stands in its place is none.
fn errcode(metadata: &[(String, String)]) -> Option<KeyValue> {
    let (_, value) = metadata.iter().find(|(name, _)| name == "errcode")?;
    Some(KeyValue::new("dingtalk.errcode", value.parse::<i64>().ok()?))
}

/// The application has taken an event, or not.
pub(crate) fn delivered<T>(result: &Result<T, Undelivered>) -> Ended {
    let Err(error) = result else { return Ended::default() };
    let (kind, failure, status) = match error {
        Undelivered::NoConnection(_) => ("no-connection", None, None),
        Undelivered::Unreachable(_) => ("unreachable", None, None),
        Undelivered::Unhealthy => ("unhealthy", None, None),
        Undelivered::NotSubscribed { .. } => ("not-subscribed", None, None),
        Undelivered::Failed(_) => ("failed", None, None),
        Undelivered::Reused => ("reused", None, None),
        Undelivered::Refused { status, .. } => {
            let failure = StatusCode::from_u16(*status).ok().and_then(failure);
            ("refused", failure, Some(KeyValue::new("http.response.status_code", i64::from(*status))))
        }
        Undelivered::Status { code, .. } => {
            ("status", Some(grpc::name(*code).into()), Some(KeyValue::new("rpc.grpc.status_code", i64::from(*code))))
        }
    };
    let mut attributes = vec![text("error.type", kind)];
    attributes.extend(status);
    Ended { attributes, failure: Some(failure.unwrap_or(kind.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(attributes: &[KeyValue]) -> Vec<(String, String)> {
        attributes.iter().map(|one| (one.key.to_string(), one.value.to_string())).collect()
    }

    fn has(attributes: &[KeyValue], expected: &[(&str, &str)]) {
        let found = pairs(attributes);
        let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_request_says_what_daprd_says_of_it() {
        let said = invoke(&Method::POST, Some("team"));
        assert_eq!((&*said.name, said.kind), ("/v1.0/bindings/team", SpanKind::Server));
        has(
            &said.attributes,
            &[
                ("db.system", "bindings"),
                ("db.name", "team"),
                ("db.connection_string", "bindings"),
                ("db.statement", "POST /v1.0/bindings/team"),
                ("dapr.api", "POST /v1.0/bindings/team"),
                ("dapr.protocol", "http"),
                ("http.request.method", "POST"),
                ("url.full", "/v1.0/bindings/team"),
            ],
        );
        let said = invoke_grpc(Some("team"));
        assert_eq!(said.name, "/dapr.proto.runtime.v1.Dapr/InvokeBinding");
        has(
            &said.attributes,
            &[
                ("db.system", "bindings"),
                ("db.name", "team"),
                ("db.connection_string", "bindings"),
                ("db.statement", "/dapr.proto.runtime.v1.Dapr/InvokeBinding"),
                ("dapr.api", "/dapr.proto.runtime.v1.Dapr/InvokeBinding"),
                ("dapr.protocol", "grpc"),
                ("rpc.service", "Dapr"),
            ],
        );
    }

    #[test]
    fn what_strangers_make_up_is_in_no_span() {
        let said =
            [invoke(&"S3CR3T".parse().unwrap(), None), callback(&"S3CR3T".parse().unwrap(), None), invoke_grpc(None)];
        assert_eq!(said[1].name, "/v1.0/bindings/{name}/callback");
        assert!(!format!("{said:?}").contains("S3CR3T"));
        let said = [Some("create"), None].map(|operation| invoke_bare(&Method::POST, Some("team"), operation));
        assert_eq!(said[0].name, "/v1.0/bindings/team/create");
        assert_eq!(said[1].name, "/v1.0/bindings/team/{operation}");
        assert!(said.iter().all(|said| !is_strangers(&said.name, &said.kind)));
        let long = "长".repeat(1_000);
        assert!(operation(&long, &long, 2).attributes.iter().all(|one| one.value.as_str().len() <= MAX_NAME));
    }

    #[test]
    fn failures_have_the_names_of_the_documentation() {
        let refused =
            |status| delivered::<()>(&Err(Undelivered::Refused { status, body: "S3CR3T".into(), retry_after: None }));
        has(&refused(503).attributes, &[("error.type", "refused"), ("http.response.status_code", "503")]);
        assert_eq!(refused(503).failure.as_deref(), Some("Code(503): Service Unavailable"));
        assert_eq!(refused(302).failure.as_deref(), Some("refused"));
        let status = Undelivered::Status { code: 14, message: "S3CR3T".into(), retry_after: None };
        has(&delivered::<()>(&Err(status)).attributes, &[("error.type", "status"), ("rpc.grpc.status_code", "14")]);
        assert_eq!(delivered(&Ok(())), Ended::default());
        assert_eq!(answered(StatusCode::OK).failure, None);
        assert_eq!(answered(StatusCode::NOT_FOUND).failure.as_deref(), Some("Code(404): Not Found"));
        assert_eq!(answered_grpc(13).failure.as_deref(), Some("Internal"));
        has(
            &operated(&Err(InvokeError::NotFound("S3CR3T".into()))).attributes,
            &[("error.type", "not-found"), ("dingtalk.outcome", "not-sent")],
        );
    }

    #[test]
    fn only_a_number_is_an_errcode() {
        let metadata = |value: &str| vec![("errcode".to_owned(), value.to_owned())];
        let response = |value| operated(&Ok(Response { data: None, metadata: metadata(value) }));
        has(&response("0").attributes, &[("dingtalk.errcode", "0")]);
        assert_eq!(response("S3CR3T"), Ended::default());
    }
}
