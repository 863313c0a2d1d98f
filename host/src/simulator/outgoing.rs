//! The edge of callbacks: they are sent as DingTalk sends them, once more if need be, and the group sees what
//! comes back.
//!
//! How long DingTalk waits for a robot's answer, and how often it tries again, is not confirmed: 2.5 seconds
//! are what it documents for pushing events, the rest is made up.

use std::sync::Arc;

use dingtalk_binding::{json, secret};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::sleep;

use super::callback::{self, Callback, Credentials, Forgery, Means};
use super::conversation::{self, Identity, Say};
use super::receiver::Receiver;
use super::shared::{Shared, lock};

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
        let new = self.say.forge.is_none() && lock(&self.shared.callbacks).said.insert(&self.msg_id);
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
            Ok(Some(_)) if !lock(&self.shared.callbacks).answered.insert(&self.msg_id) => {
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
