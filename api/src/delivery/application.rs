//! Environment → application; event → request; what it answers → what the binding is told.

use std::fmt;
use std::time::Duration;

use super::{headers, target};
use crate::delivery;
use crate::limits::APP_TIMEOUT;
use crate::unread::Unread;
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

/// The longest time that a runtime is asked to keep an instance for one message.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// An application that takes messages. Its `Debug` output shows where it is, and neither path nor token.
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

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "application at {}://{}", self.scheme, self.authority)
    }
}

impl Application {
    /// Reads the environment; `None` without an application. The error is a variable and what is wrong with it, never its
    /// value.
    pub fn of(environment: &[(String, String)]) -> Result<Option<Self>, (&'static str, String)> {
        let value = |name| environment.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.trim());
        let url = value(URL);
        if url.is_empty() {
            return Ok(None);
        }
        let no_url = || (URL, "is no address of an application; write http://host:port".to_owned());
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
            return Err((URL, "has a query, which no name of a binding can follow; leave it out".into()));
        }
        let timeout = match value(TIMEOUT) {
            "" => APP_TIMEOUT,
            text => duration::parse(text)
                .ok()
                .filter(|timeout| !timeout.is_zero() && *timeout <= MAX_TIMEOUT)
                .ok_or_else(|| (TIMEOUT, "is no duration between 1ms and 10m; write for example 10s".to_owned()))?,
        };
        let token = value(TOKEN);
        if HeaderValue::try_from(token).is_err() {
            return Err((TOKEN, "has characters that no HTTP header can carry; take them out".into()));
        }
        let token = Some(token).filter(|token| !token.is_empty()).map(Secret::new);
        Ok(Some(Self { scheme, authority, path: path.trim_end_matches('/').to_owned(), token, timeout }))
    }

    /// The one that takes messages; the error is for the binding.
    pub fn taking(environment: &[(String, String)]) -> Result<Self, HandlerError> {
        let wrong = |(variable, reason)| HandlerError::Failed(format!("environment variable {variable}: {reason}"));
        Self::of(environment).map_err(wrong)?.ok_or(HandlerError::NotReading)
    }

    /// Path of a message of the binding `id`.
    pub fn path(&self, id: &str) -> String {
        format!("{}{}", self.path, target(id))
    }

    /// The headers of a message, as daprd and the host send them.
    pub fn headers(&self, event: &Event) -> HeaderMap {
        let mut map = headers::from_metadata(&event.metadata).map;
        // The caller of "get" may have a trace, which the API has put into the metadata as Dapr does.
        map.extend(headers::from_trace(&event.metadata, || None));
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(Ok(token)) = self.token.as_ref().map(|token| HeaderValue::try_from(token.expose())) {
            map.insert("dapr-api-token", token);
        }
        map
    }

    /// What the binding is told of an answer.
    pub fn answered(
        &self,
        event: &Event,
        status: u16,
        body: Result<Vec<u8>, Unread>,
    ) -> Result<Option<Vec<u8>>, HandlerError> {
        let is_success = StatusCode::from_u16(status).is_ok_and(|status| status.is_success());
        let reason = match body {
            Ok(body) if is_success => return Ok(Some(body).filter(|body| !body.is_empty())),
            Ok(body) => delivery::refused(status, &delivery::refusal(&body, &event.data, self.token.as_ref())),
            Err(why) if !is_success => delivery::refused(status, &delivery::not_whole(why)),
            Err(Unread::TooLong) => delivery::too_long(&self.authority),
            Err(Unread::Incomplete) => delivery::broken_off(&self.authority),
            Err(Unread::TooSlow) => return Err(self.unreachable(Trouble::Slow)),
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
            Trouble::NotTrusted => {
                format!(
                    "the certificate of {authority} is not trusted, or it speaks no TLS; correct {URL} or its certificate"
                )
            }
            Trouble::Refused => format!("the runtime takes no request to {authority}; correct {URL}"),
            Trouble::Slow => delivery::no_answer(authority, *timeout, TIMEOUT),
            Trouble::Broken => delivery::closed(authority),
        })
    }
}

/// An `error-code` of wasi:http as a [`Trouble`]. A macro, because each version of WASI has a type of its own for the same
/// cases.
#[macro_export]
macro_rules! trouble_of {
    ($codes:ident, $code:expr) => {
        match $code {
            $codes::HttpRequestDenied | $codes::DestinationIpProhibited => {
                $crate::delivery::application::Trouble::Denied
            }
            $codes::ConnectionRefused
            | $codes::DestinationNotFound
            | $codes::DestinationUnavailable
            | $codes::DestinationIpUnroutable
            | $codes::DnsTimeout
            | $codes::DnsError(_)
            | $codes::ConnectionTimeout => $crate::delivery::application::Trouble::NoConnection,
            $codes::TlsCertificateError | $codes::TlsProtocolError => {
                $crate::delivery::application::Trouble::NotTrusted
            }
            $codes::HttpResponseTimeout | $codes::ConnectionReadTimeout => $crate::delivery::application::Trouble::Slow,
            _ => $crate::delivery::application::Trouble::Broken,
        }
    };
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The runtime's rule for the way out.
    Denied,
    /// Nobody is there.
    NoConnection,
    /// There is no TLS connection with it.
    NotTrusted,
    /// The runtime cannot make a request of it.
    Refused,
    /// The time is up.
    Slow,
    /// The connection ended.
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Application>, (&'static str, String)> {
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
            let (named, reason) = of(&first[usize::from(variable == URL)..]).expect_err(value);
            assert!(named == variable && !reason.contains("S3CR3T"), "{named}: {reason}");
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
        assert_eq!(answered(200, Ok(b"x".to_vec())), Ok(Some(b"x".to_vec())));
        assert_eq!(answered(204, Ok(Vec::new())), Ok(None));
        let reason = |status, body| match answered(status, body) {
            Err(HandlerError::Failed(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let refused = reason(500, Ok(b"no S3CR3T S3SS10N".to_vec()));
        assert!(refused.contains("status code: 500 body: no ") && !refused.contains("S3"), "{refused}");
        for status in [300, 302, 404, 503] {
            assert!(reason(status, Ok(Vec::new())).contains(&format!("status code: {status}")));
            assert!(reason(status, Err(Unread::Incomplete)).contains("it did not arrive as a whole"));
        }
        assert!(reason(200, Err(Unread::TooLong)).contains("longer than 1 MiB"));
        assert!(reason(200, Err(Unread::Incomplete)).contains("broke off"));
        assert!(reason(200, Err(Unread::TooSlow)).contains(TIMEOUT));
    }
}
