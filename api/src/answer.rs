//! What daprd's HTTP API answers, in one place: error bodies, metadata headers, statuses.

use bytes::Bytes;
use dingtalk_binding::contract;
use dingtalk_binding::secret::is_hidden;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::problem::{Kind, Problem};

/// One HTTP answer, complete.
pub type Answer = Response<Bytes>;

/// The domain under which daprd files its own error details.
pub(crate) const ERROR_DOMAIN: &str = "dapr.io";

/// Nothing but a status.
pub fn empty(status: StatusCode) -> Answer {
    with_status(status, Bytes::new())
}

/// JSON, or whatever a binding returns: daprd calls it JSON in any case.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = with_status(status, body.into());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Plain text as Go's `http.Error` writes it.
pub fn text(status: StatusCode, text: &str) -> Answer {
    let mut answer = with_status(status, Bytes::from(format!("{text}\n")));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// daprd's error body. `details` follows the form of Dapr's richer errors and is absent where `metadata` is
/// empty, as in the errors that every daprd client knows.
pub fn error(status: StatusCode, code: &str, message: &str, metadata: &[(String, String)]) -> Answer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        error_code: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<[Detail<'a>; 1]>,
    }
    #[derive(Serialize)]
    struct Detail<'a> {
        #[serde(rename = "@type")]
        kind: &'static str,
        reason: &'a str,
        domain: &'static str,
        metadata: std::collections::BTreeMap<&'a str, &'a str>,
    }
    let details = (!metadata.is_empty()).then(|| {
        let metadata = contract::pairs(metadata).collect();
        [Detail { kind: "type.googleapis.com/google.rpc.ErrorInfo", reason: code, domain: ERROR_DOMAIN, metadata }]
    });
    let body = serde_json::to_vec(&Body { error_code: code, message, details }).unwrap_or_default();
    with_metadata(json(status, body), metadata)
}

impl From<Problem> for Answer {
    fn from(Problem { kind, reason, message, details, status }: Problem) -> Self {
        let (status, wait) = match kind {
            Kind::Malformed | Kind::TooLong | Kind::TooSlow => (StatusCode::BAD_REQUEST, None),
            Kind::Refused => (StatusCode::FORBIDDEN, None),
            Kind::Failed => status.of(&details),
            Kind::Busy => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
        };
        let mut answer = error(status, reason, &message, &details);
        if let Some(seconds) = wait {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

/// Adds `metadata.*` headers. What cannot be a header is left out, as Go's net/http does; line breaks become
/// spaces, so that no value can add a header of its own.
pub fn with_metadata(mut answer: Answer, metadata: &[(String, String)]) -> Answer {
    for (name, value) in metadata {
        let name = HeaderName::try_from(format!("metadata.{name}"));
        let value: String = value.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}

fn with_status(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}
