//! Environment → application; event → request; what it answers → what the binding is told.

use std::fmt;
use std::time::Duration;

use dingtalk_api::delivery::{self, MAX_ANSWER, headers, target};
use dingtalk_api::trace::TRACE;
use dingtalk_binding::contract::Event;
use dingtalk_binding::duration;
use dingtalk_binding::error::HandlerError;
use dingtalk_binding::secret::Secret;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{StatusCode, Uri};

/// Where the application is: scheme, host and port, and what stands before the binding's name in the path.
pub const URL: &str = "DINGTALK_APP_URL";
/// How long it may take, as a Go duration.
pub const TIMEOUT: &str = "DINGTALK_APP_TIMEOUT";
/// What it is sent as `dapr-api-token`.
pub const TOKEN: &str = "APP_API_TOKEN";

/// The host's `--app-timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time that a runtime is asked to keep an instance for one message.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// An application that takes messages. Its `Debug` output shows no token.
#[derive(Debug)]
pub struct Application {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and port.
    pub authority: Authority,
    path: String,
    token: Option<Secret>,
    /// For one message, the answer included.
    pub timeout: Duration,
}

/// What an application has answered, as far as it is wanted.
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// More than [`MAX_ANSWER`] bytes.
    TooLong,
    /// It ended early.
    Broken,
    /// Its time was up.
    TooSlow,
}

impl Application {
    /// Reads the environment; `None` without an application. The error names the variable and never its value.
    pub fn of(environment: &[(String, String)]) -> Result<Option<Self>, String> {
        let value = |name| environment.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim());
        let url = value(URL);
        if url.is_empty() {
            return Ok(None);
        }
        let no_url = || format!("{URL} is no address of an application; write http://host:port");
        let uri: Uri = url.parse().map_err(|_| no_url())?;
        let http::uri::Parts { scheme: Some(scheme), authority: Some(authority), path_and_query, .. } =
            uri.into_parts()
        else {
            return Err(no_url());
        };
        let has_port = authority.as_str().len() > authority.host().len();
        let is_one = !authority.as_str().contains('@') && (!has_port || authority.port_u16().is_some());
        if !is_one || !(scheme == Scheme::HTTP || scheme == Scheme::HTTPS) {
            return Err(no_url());
        }
        let path = path_and_query.as_ref().map_or("", |path| path.as_str());
        if path.contains('?') {
            return Err(format!("{URL} has a query, which no name of a binding can follow; leave it out"));
        }
        let timeout = match value(TIMEOUT) {
            "" => DEFAULT_TIMEOUT,
            text => duration::parse(text)
                .ok()
                .filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT)
                .ok_or_else(|| format!("{TIMEOUT} is no duration between 1ms and 10m; write for example 10s"))?,
        };
        let token = value(TOKEN);
        if HeaderValue::try_from(token).is_err() {
            return Err(format!("{TOKEN} has characters that no HTTP header can carry"));
        }
        let token = Some(token).filter(|token| !token.is_empty()).map(Secret::new);
        Ok(Some(Self { scheme, authority, path: path.trim_end_matches('/').to_owned(), token, timeout }))
    }

    /// Path of a message of the binding `id`.
    pub fn path(&self, id: &str) -> String {
        format!("{}{}", self.path, target(id))
    }

    /// The headers of a message, as daprd and the host send them.
    pub fn headers(&self, event: &Event) -> HeaderMap {
        // The caller of "get" may have a trace, which the API has put into the metadata as Dapr does.
        let is_trace = |(name, _): &&(String, String)| TRACE.contains(&name.as_str());
        let trace: Vec<(String, String)> = event.metadata.iter().filter(is_trace).cloned().collect();
        let mut map = headers::from_metadata(&event.metadata).map;
        map.extend(headers::from_trace(&trace, || None));
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(Ok(token)) = self.token.as_ref().map(|token| HeaderValue::try_from(token.expose())) {
            map.insert("dapr-api-token", token);
        }
        map
    }

    /// What the binding is told of an answer.
    pub fn answered(&self, event: &Event, status: u16, body: Body) -> Result<Option<Vec<u8>>, HandlerError> {
        let Self { authority, .. } = self;
        let is_success = StatusCode::from_u16(status).is_ok_and(|status| status.is_success());
        let reason = match body {
            Body::Whole(body) if is_success => return Ok(Some(body).filter(|body| !body.is_empty())),
            Body::Whole(body) => {
                let text = delivery::refusal(&body, &event.data, self.token.as_ref());
                format!("fails to send binding event to http app channel, status code: {status} body: {text}")
            }
            _ if !is_success => {
                format!(
                    "fails to send binding event to http app channel, status code: {status} body: (it did not arrive as a whole)"
                )
            }
            Body::TooLong => {
                format!("the answer of {authority} is longer than {} MiB; let it answer with less", MAX_ANSWER >> 20)
            }
            Body::Broken => format!("the answer of {authority} broke off in its body; see the application's log"),
            Body::TooSlow => return Err(self.unreachable(Trouble::Slow)),
        };
        Err(HandlerError::Failed(reason))
    }

    /// What the binding is told where there is no answer.
    pub fn unreachable(&self, trouble: Trouble) -> HandlerError {
        let Self { authority, timeout, .. } = self;
        HandlerError::Failed(match trouble {
            Trouble::Denied => {
                format!("the runtime does not allow {authority}; add it to the hosts that this component may reach")
            }
            Trouble::NoConnection => format!("no connection to {authority}; is the application listening at {URL}?"),
            Trouble::Slow => {
                format!("{authority} has not answered within {timeout:?}; let it answer sooner, or raise {TIMEOUT}")
            }
            Trouble::Broken => {
                format!("{authority} closed the connection before it answered; see the application's log")
            }
        })
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The runtime's rule for the way out.
    Denied,
    /// Nobody is there.
    NoConnection,
    /// The time is up.
    Slow,
    /// The connection ended.
    Broken,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(body) => write!(f, "{} bytes", body.len()),
            Self::TooLong => f.write_str("too long"),
            Self::Broken => f.write_str("broken"),
            Self::TooSlow => f.write_str("too slow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Application>, String> {
        let environment: Vec<_> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Application::of(&environment)
    }

    fn application(variables: &[(&str, &str)]) -> Application {
        of(variables).unwrap().unwrap()
    }

    fn event(data: &str, metadata: &[(&str, &str)]) -> Event {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Event { id: "team".into(), data: data.into(), metadata }
    }

    #[test]
    fn where_the_application_is() {
        assert!(of(&[]).unwrap().is_none() && of(&[(URL, " ")]).unwrap().is_none());
        for (url, authority, path) in [
            ("http://127.0.0.1:6001", "127.0.0.1:6001", "/team"),
            ("http://127.0.0.1:6001/", "127.0.0.1:6001", "/team"),
            ("https://app.example/bots/a/", "app.example", "/bots/a/team"),
            ("http://[::1]:80/x", "[::1]:80", "/x/team"),
        ] {
            let application = application(&[(URL, url)]);
            assert_eq!(application.authority.as_str(), authority);
            assert_eq!(application.path("team"), path, "{url}");
            assert_eq!(application.timeout, Duration::from_secs(60));
        }
        assert_eq!(application(&[(URL, "http://a"), (TIMEOUT, "1.5s")]).timeout, Duration::from_millis(1_500));
    }

    #[test]
    fn the_variable_that_is_wrong_is_named_and_its_value_is_not_shown() {
        for (variable, value) in [
            (URL, "S3CR3T"),
            (URL, "/S3CR3T"),
            (URL, "ftp://S3CR3T"),
            (URL, "http://user:S3CR3T@host"),
            (URL, "http://host/?key=S3CR3T"),
            (URL, "http://host:port"),
            (TIMEOUT, "S3CR3T"),
            (TIMEOUT, "0s"),
            (TIMEOUT, "11m"),
            (TOKEN, "S3CR3T\n1"),
        ] {
            let first = [(URL, "http://a"), (variable, value)];
            let error = of(&first[usize::from(variable == URL)..]).expect_err(value);
            assert!(error.starts_with(variable) && !error.contains("S3CR3T"), "{error}");
        }
        let shown = format!("{:?}", application(&[(URL, "http://a"), (TOKEN, "S3CR3T")]));
        assert!(!shown.contains("S3CR3T"), "{shown}");
    }

    #[test]
    fn a_message_has_the_headers_of_daprs() {
        let application = application(&[(URL, "http://a"), (TOKEN, "t")]);
        let event = event("{}", &[("msgId", "1"), ("traceparent", "00-a-b-01"), ("Content-Type", "x")]);
        let headers = application.headers(&event);
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(text("msgid"), Some("1"));
        assert_eq!(text("traceparent"), Some("00-a-b-01"));
        assert_eq!(text("content-type"), Some("application/json"));
        assert_eq!(text("dapr-api-token"), Some("t"));
    }

    #[test]
    fn what_an_answer_means() {
        let application = application(&[(URL, "http://a:1"), (TOKEN, "S3CR3T")]);
        let event = event(r#"{"sessionWebhook":"https://oapi.dingtalk.com/robot/sendBySession?session=S3SS10N"}"#, &[]);
        let answered = |status, body| application.answered(&event, status, body);
        assert_eq!(answered(200, Body::Whole(b"x".to_vec())), Ok(Some(b"x".to_vec())));
        assert_eq!(answered(204, Body::Whole(Vec::new())), Ok(None));
        let reason = |status, body| match answered(status, body) {
            Err(HandlerError::Failed(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let refused = reason(500, Body::Whole(b"no S3CR3T S3SS10N".to_vec()));
        assert!(refused.contains("status code: 500 body: no ") && !refused.contains("S3"), "{refused}");
        for status in [300, 302, 404, 503] {
            assert!(reason(status, Body::Whole(Vec::new())).contains(&format!("status code: {status}")));
            assert!(reason(status, Body::Broken).contains("it did not arrive as a whole"));
        }
        assert!(reason(200, Body::TooLong).contains("longer than 1 MiB"));
        assert!(reason(200, Body::Broken).contains("broke off"));
        assert!(reason(200, Body::TooSlow).contains(TIMEOUT));
    }
}
