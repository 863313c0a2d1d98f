//! The edge of callbacks: they are sent as DingTalk sends them, once more if need be, and the group sees what
//! comes back.
//!
//! How long DingTalk waits for a robot's answer, and how often it tries again, is not confirmed: 2.5 seconds
//! are what it documents for pushing events, the rest is made up.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dingtalk_binding::endpoint::Scheme;
use dingtalk_binding::{json, secret};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use super::callback::{self, Callback, Credentials, Forgery, Means};
use super::conversation::{self, Identity, Say};
use super::fault;
use super::robot::{MAX_BODY, Recent};
use super::server::{Shared, lock};
use super::session::Sessions;

/// More attempts than anybody can want to wait for.
const MAX_RETRIES: u32 = 100;

/// Where callbacks go, and how patiently.
#[derive(Clone)]
pub struct CallbackConfig {
    /// The receiver; without one, nothing can be said until there is.
    pub url: Option<String>,
    /// How long an attempt may take, from connecting to the answer's last byte.
    pub timeout: Duration,
    /// How many attempts may follow the first.
    pub retries: u32,
    /// How long to wait between two attempts.
    pub retry_interval: Duration,
}

impl Default for CallbackConfig {
    /// 2.5 seconds, three retries, a second apart; no receiver.
    fn default() -> Self {
        Self { url: None, timeout: Duration::from_millis(2_500), retries: 3, retry_interval: Duration::from_secs(1) }
    }
}

impl CallbackConfig {
    /// What makes no sense, or would take too long; the error says what to change.
    pub fn check(&self) -> Result<(), String> {
        let longest = fault::LONGEST;
        if self.timeout.is_zero() || self.timeout > longest {
            return Err(format!("the callback timeout is more than 0 and at most {}s", longest.as_secs()));
        }
        if self.retry_interval > longest {
            return Err(format!("the interval between callbacks is at most {}s", longest.as_secs()));
        }
        if self.retries > MAX_RETRIES {
            return Err(format!("there are at most {MAX_RETRIES} retries of a callback"));
        }
        Ok(())
    }
}

impl fmt::Debug for CallbackConfig {
    /// Without path and query of the URL, which may hold something secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackConfig")
            .field("url", &self.url.is_some())
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .field("retry_interval", &self.retry_interval)
            .finish()
    }
}

/// One attempt to deliver a callback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// The answer's HTTP status; `None` without an answer.
    pub status: Option<u16>,
    /// What went wrong; with a status that refuses, the beginning of the answer.
    pub error: Option<String>,
}

/// What became of something said.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// The message's id, the same in every attempt.
    pub msg_id: String,
    /// The attempts in order; the last one is how it ended.
    pub attempts: Vec<Attempt>,
    /// The answer's body, if it came with success and is JSON.
    pub reply: Option<Value>,
    /// What the group sees of the reply.
    pub shown: Option<String>,
    /// Why the group sees nothing of it, unless it says nothing.
    pub problem: Option<String>,
}

/// Why nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsaid {
    /// The order makes no sense.
    #[error("{0}")]
    Order(String),
    /// Nobody to send it to.
    #[error("there is no callback URL: start with --callback-url, or PUT /callback-url {{\"url\":\"http://…\"}}")]
    NoReceiver,
    /// DingTalk sends nothing that proves nothing.
    #[error("callbacks cannot be signed: start with --app-secret, --secret or --outgoing-token")]
    NoCredentials,
    /// The forgery is made of an earlier callback, and there is none.
    #[error("there is no earlier callback to make {0} of: say something genuine first")]
    NoPrevious(Forgery),
    /// The forgery does not go with the robot's credentials.
    #[error("{0}")]
    Forgery(String),
}

impl Unsaid {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Order(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::CONFLICT,
        }
    }
}

/// What is remembered of callbacks.
#[derive(Default)]
pub(super) struct Callbacks {
    pub(super) receiver: Option<Arc<Receiver>>,
    pub(super) sessions: Sessions,
    /// The last genuine one with its message's id.
    previous: Option<(String, Callback)>,
    /// Messages that the group has seen, by id: a copy is not said again.
    said: Recent,
    /// Messages whose reply the group has seen.
    answered: Recent,
}

impl Callbacks {
    pub(super) fn to(receiver: Option<Receiver>) -> Self {
        Self { receiver: receiver.map(Arc::new), ..Self::default() }
    }
}

/// A callback on its way.
pub(super) struct Delivery {
    shared: Arc<Shared>,
    receiver: Arc<Receiver>,
    credentials: Credentials,
    say: Say,
    msg_id: String,
    body: Map<String, Value>,
    previous: Option<Callback>,
}

impl Delivery {
    /// Makes a message of what is to be said, or says why that is not possible.
    pub(super) fn prepare(shared: &Arc<Shared>, say: Say) -> Result<Self, Unsaid> {
        say.check().map_err(Unsaid::Order)?;
        let robot = &shared.config().robot;
        let now = (shared.config().clock)();
        let mut callbacks = lock(&shared.callbacks);
        let receiver = callbacks.receiver.clone().ok_or(Unsaid::NoReceiver)?;
        let credentials = robot.credentials().ok_or(Unsaid::NoCredentials)?;
        let mut msg_id = say.msg_id.clone().unwrap_or_else(conversation::new_msg_id);
        let mut previous = None;
        if let Some(forgery) = say.forge {
            forgery.check(&credentials).map_err(Unsaid::Forgery)?;
            if forgery.needs_previous() {
                let (earlier_id, earlier) = callbacks.previous.clone().ok_or(Unsaid::NoPrevious(forgery))?;
                if forgery == Forgery::Replay {
                    msg_id = earlier_id;
                }
                previous = Some(earlier);
            }
        }
        let (session, session_expires) = callbacks.sessions.open(now);
        drop(callbacks);
        let session_webhook = format!("{}/robot/sendBySession?session={session}", shared.base());
        let identity = Identity { msg_id: msg_id.clone(), created_at: now, session_expires, session_webhook };
        let body = say.body(robot, &identity);
        Ok(Self { shared: shared.clone(), receiver, credentials, say, msg_id, body, previous })
    }

    pub(super) fn msg_id(&self) -> &str {
        &self.msg_id
    }

    /// Sends it until somebody takes or refuses it, or patience ends.
    pub(super) async fn run(self) -> Said {
        let config = &self.shared.config().callback;
        self.shared.count(|stats| stats.callbacks += 1);
        // Nobody in the group says a forgery.
        let new = self.say.forge.is_none() && lock(&self.shared.callbacks).said.insert(self.msg_id.clone());
        if new && let Some(shown) = self.say.shown() {
            self.shared.show_said(&shown);
        }
        let mut said =
            Said { msg_id: self.msg_id.clone(), attempts: Vec::new(), reply: None, shown: None, problem: None };
        for attempt in 0..=config.retries {
            if attempt > 0 {
                sleep(config.retry_interval).await;
            }
            self.shared.count(|stats| stats.callback_attempts += 1);
            let callback = self.callback();
            let outcome = self.receiver.send(&callback, config.timeout).await;
            let (status, body) = match outcome {
                Ok(answer) => answer,
                Err(error) => {
                    said.attempts.push(Attempt { status: None, error: Some(self.redact(&error, &callback)) });
                    continue;
                }
            };
            let excerpt = String::from_utf8_lossy(&body);
            if status.is_success() {
                said.attempts.push(Attempt { status: Some(status.as_u16()), error: None });
                self.take_reply(&body, &mut said);
                break;
            }
            let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            let what = if again { "failed" } else { "refused" };
            let error = self.redact(&format!("{what}: {excerpt}"), &callback);
            said.attempts.push(Attempt { status: Some(status.as_u16()), error: Some(error) });
            if !again {
                self.shared.count(|stats| stats.callback_refused += 1);
                break;
            }
        }
        // The text of an answer may hold what somebody wrote, and an id is enough to find it in /say's answer.
        tracing::debug!(msg_id = said.msg_id, attempts = said.attempts.len(), "a callback was answered or given up");
        said
    }

    /// As it is sent now: every attempt has a timestamp and a signature of its own.
    fn callback(&self) -> Callback {
        let now = (self.shared.config().clock)();
        match self.say.forge {
            None => {
                let callback = callback::genuine(&self.credentials, &self.body, now);
                lock(&self.shared.callbacks).previous = Some((self.msg_id.clone(), callback.clone()));
                callback
            }
            Some(forgery) => {
                let Say { skew_ms, size, .. } = self.say;
                let means = Means { credentials: &self.credentials, previous: self.previous.as_ref(), skew_ms, size };
                callback::forged(forgery, &means, &self.body, now)
            }
        }
    }

    fn take_reply(&self, body: &[u8], said: &mut Said) {
        said.reply = serde_json::from_slice(&json::mended(body)).ok();
        if let Some(forgery) = self.say.forge {
            // It goes to whoever sent the forgery.
            said.problem = Some(format!("the receiver took {forgery}; the group does not see its answer"));
            return;
        }
        let reply = self.shared.check_reply(body);
        match reply {
            Ok(None) => {}
            // DingTalk sends a message again only where it has no answer; so a second answer is never shown.
            Ok(Some(_)) if !lock(&self.shared.callbacks).answered.insert(self.msg_id.clone()) => {
                said.problem = Some("a reply to this message was shown before".to_owned());
            }
            Ok(Some(posted)) => said.shown = Some(self.shared.show_reply(posted)),
            Err(refusal) => {
                self.shared.count(|stats| stats.replies_refused += 1);
                said.problem = Some(format!(
                    "the reply is no message that DingTalk shows: {} {}; answer with text, markdown, actionCard or \
                     feedCard, or with {{\"msgtype\":\"empty\"}} to say nothing",
                    refusal.errcode, refusal.errmsg
                ));
            }
        }
    }

    /// A text from the receiver may repeat what it was sent.
    fn redact(&self, text: &str, callback: &Callback) -> String {
        let robot = &self.shared.config().robot;
        let known = [&robot.app_secret, &robot.outgoing_token, &robot.secret];
        let known = known.into_iter().flatten().chain([&robot.access_token]).map(|secret| secret.expose());
        let sent = callback.headers.iter().filter(|(name, _)| callback::is_secret(name));
        let session = self.body.get("sessionWebhook").and_then(Value::as_str);
        let session = session.and_then(|url| url.rsplit_once('=')).map(|(_, session)| session);
        secret::redact(text, known.chain(sent.map(|(_, value)| value.as_str())).chain(session))
    }
}

/// Who receives callbacks.
pub(super) struct Receiver {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Receiver {
    /// The error does not repeat the URL, which may hold something secret.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        Self::with(url, crate::egress::tls)
    }

    /// With what `trust` returns for the URL's scheme.
    pub(super) fn with(url: &str, trust: impl FnOnce(Scheme) -> rustls::ClientConfig) -> Result<Self, String> {
        let wrong = "the callback URL is not one: write for example http://127.0.0.1:8080/callback";
        let uri: Uri = url.parse().map_err(|_| wrong.to_owned())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err("the callback URL begins with http:// or https://".into()),
        };
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@') || authority.host().is_empty()) {
            return Err(wrong.into());
        }
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(trust(scheme)).https_or_http().enable_http1().build();
        // A connection for each attempt: none fails because the receiver closed an idle one.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { uri, client })
    }

    /// Status and body of the answer, or why there is none. Redirects are not followed.
    async fn send(&self, callback: &Callback, time: Duration) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::post(self.uri.clone()).header(CONTENT_TYPE, callback.content_type);
        for (name, value) in &callback.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| format!("{name} does not fit into a header"))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        let request = request.body(Full::from(callback.body.clone())).map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| {
                let what = if error.is_connect() { "no connection" } else { "no answer" };
                format!("{what}: {}", causes(&error))
            })?;
            let (head, mut body) = answer.into_parts();
            let mut read = BytesMut::new();
            // One byte more than a reply may have is enough to know that it is too long.
            while read.len() <= MAX_BODY
                && let Some(frame) = body.frame().await
            {
                let frame = frame.map_err(|error| format!("the answer broke off: {}", causes(&error)))?;
                if let Ok(data) = frame.into_data() {
                    let room = (MAX_BODY + 1).saturating_sub(read.len());
                    read.extend_from_slice(data.get(..room).unwrap_or(&data));
                }
            }
            Ok((head.status, read.freeze()))
        };
        timeout(time, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {time:?}")))
    }
}

/// What lies behind an error; hyper's own words only say where it happened.
fn causes(error: &dyn StdError) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_http_urls() {
        for url in ["http://127.0.0.1:1/x", "https://host/", "http://[::1]:8080/a?b=c"] {
            assert!(Receiver::new(url).is_ok(), "{url}");
        }
        for url in ["", "/path", "127.0.0.1:80", "ftp://h/S3CR3T", "http://", "http:///x", "http://u:S3CR3T@h/", "x y"]
        {
            let error = Receiver::new(url).err().unwrap();
            assert!(error.contains("http://") && !error.contains("S3CR3T"), "{url}: {error}");
        }
    }

    #[test]
    fn impossible_patience() {
        let check = |change: fn(&mut CallbackConfig)| {
            let mut config = CallbackConfig::default();
            assert!(config.check().is_ok());
            change(&mut config);
            config.check().unwrap_err()
        };
        assert!(check(|c| c.timeout = Duration::ZERO).contains("timeout is more than 0"));
        assert!(check(|c| c.timeout = Duration::from_secs(121)).contains("at most 120s"));
        assert!(check(|c| c.retry_interval = Duration::from_secs(121)).contains("at most 120s"));
        assert!(check(|c| c.retries = 101).contains("at most 100 retries"));
        let config = CallbackConfig { url: Some("http://h/S3CR3T".into()), ..CallbackConfig::default() };
        assert!(!format!("{config:?}").contains("S3CR3T"));
    }
}
