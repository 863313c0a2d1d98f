//! A message from DingTalk on its way to the application, and what can become of it: the words in which the
//! sandbox, the inbox and the ways to the application speak of it.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use dingtalk_api::{delivery, grpc};
use dingtalk_binding::json;
use sha2::{Digest as _, Sha256};

use crate::spans::Span;

/// A received message. Its `Debug` output shows neither data nor metadata: people wrote them.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// The name of the binding that received it.
    pub binding: String,
    /// The message as it was received, byte for byte.
    pub data: Bytes,
    /// What the binding says about it, in the binding's order: `msgId`, `conversationId` and so on.
    pub metadata: Vec<(String, String)>,
    /// W3C trace context to hand on, names as in [`dingtalk_api::trace::TRACE`], as far as there is any.
    pub trace: Vec<(String, String)>,
}

/// The metadata item that says what an event comes from, where that is no person: no callback has it.
const OPERATION: &str = "operation";

/// What it says of a message of the outbox that was given up; also the conversation of such events.
pub const DEAD_LETTER: &str = "dead-letter";

/// Bytes of a `msgId` that a log line shows. DingTalk's have 24; a body of nothing else has 128 KiB.
const LOGGED_ID: usize = 128;

/// SHA-256 of a message: what it is known by.
pub type Digest = [u8; 32];

/// The digest of these bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

impl Event {
    /// That a message of `binding` was given up: `data` and `metadata` say which one, and why.
    pub fn dead_letter(binding: String, data: Bytes, mut metadata: Vec<(String, String)>) -> Self {
        metadata.insert(0, (OPERATION.to_owned(), DEAD_LETTER.to_owned()));
        Self { binding, data, metadata, trace: Vec::new() }
    }

    /// Whether it says that a message was given up. Nothing that comes from outside does: "get" says so of its events, and of
    /// a callback the item is not handed on.
    pub fn is_dead_letter(&self) -> bool {
        self.metadata(OPERATION) == Some(DEAD_LETTER)
    }

    /// DingTalk's identifier for a log line: as it is, but no longer than that of any genuine message.
    pub fn logged_id(&self) -> Option<&str> {
        self.metadata("msgId").and_then(|id| id.get(..id.floor_char_boundary(LOGGED_ID)))
    }

    /// What the message is known by, with an identifier or without.
    pub fn digest(&self) -> Digest {
        digest(&self.data)
    }

    /// Leaves out DingTalk's identifier unless it is one: a text that is not blank, and that was readable. `0` or `""`
    /// may stand in every message of a sender that has no identifiers, and the second one would be lost.
    pub fn keep_usable_id(&mut self) {
        let is_text = || {
            let [raw] = json::find(std::str::from_utf8(&self.data).ok()?, ["msgId"]).ok()?;
            raw.map(|raw| raw.starts_with('"'))
        };
        let id = self.metadata("msgId").filter(|id| !id.trim().is_empty() && !id.contains('\u{fffd}'));
        if id.is_none() || is_text() != Some(true) {
            self.metadata.retain(|(name, _)| name != "msgId");
        }
    }

    /// The same event, handed on below `span`.
    pub(crate) fn below(&self, span: &Span) -> Self {
        let mut event = self.clone();
        span.put(&mut event.trace);
        event
    }

    /// The value of a metadata item, its name as documented.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.metadata.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event of {:?}, {} bytes", self.binding, self.data.len())
    }
}

/// What an application answered: the body of its answer, if that has one.
pub type Answer = Option<Bytes>;

/// A future that can be kept in a `dyn` type.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever takes events: the application over HTTP or as a component, or standard output.
pub trait Application: Send + Sync + 'static {
    /// Hands `event` over once and waits for the answer. May be given the same event again after it failed.
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>>;
}

/// Why the application has not taken an event. The texts never contain the event, unless the application repeats it
/// in a refusal; its session is blanked out then too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// No connection came about. Says why, and names the application's address.
    #[error("error invoking app: {0}")]
    NoConnection(String),
    /// The connection broke, or no answer came in time. Says which, and names the application's address.
    #[error("error invoking app: {0}")]
    Unreachable(String),
    /// The application's health check fails.
    #[error("app is not in a healthy state")]
    Unhealthy,
    /// The application does not read from this binding.
    #[error("the application does not read from binding {binding} ({reason})")]
    NotSubscribed {
        /// The binding.
        binding: String,
        /// What the application answered to the question, and what to do.
        reason: String,
    },
    /// The application says that it could not, and why.
    #[error("the application has not taken the message: {0}")]
    Failed(String),
    /// The application, which remembers messages itself, says that it is another one's.
    #[error("the application says that signature or msgId belongs to another message")]
    Reused,
    /// The application answered with a status that says no.
    #[error("{}", delivery::refused(*status, body))]
    Refused {
        /// HTTP status.
        status: u16,
        /// The beginning of the answer, fit for a log line.
        body: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The application answered with a gRPC status that says no.
    #[error("error invoking app: rpc error: code = {} desc = {message}", grpc::name(*code))]
    Status {
        /// Its number.
        code: i32,
        /// What it says, fit for a log line.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
}

/// gRPC's statuses that blame what was sent, whatever state the server is in: INVALID_ARGUMENT, ALREADY_EXISTS and
/// OUT_OF_RANGE.
const FINAL: [i32; 3] = [3, 6, 11];

/// Those that speak of the server: RESOURCE_EXHAUSTED and UNAVAILABLE.
const OVERLOADED: [i32; 2] = [8, 14];

/// There is no such method: nobody there reads.
const UNIMPLEMENTED: i32 = 12;

/// To whom a failure applies, as far as can be told from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To this event. Others may be taken.
    Event,
    /// Perhaps to all events of the binding, if none of them is taken.
    Binding,
    /// To every event: nobody listens, or whoever does says that it can take nothing now.
    Application {
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
}

impl Undelivered {
    /// Whether the same event will be refused again, however often it is tried. A status of 4xx says that the
    /// request is at fault, except those that speak of credentials, of routes that a starting application does
    /// not have yet, and of time.
    pub fn is_final(&self) -> bool {
        if let Self::Status { code, .. } = self {
            return FINAL.contains(code);
        }
        matches!(self, Self::Refused { status: 400..=499, .. } | Self::Reused)
            && !matches!(self, Self::Refused { status: 401 | 403 | 404 | 405 | 407 | 408 | 421 | 423 | 425 | 429, .. })
    }

    /// What the failure says about the events that come next. 500 and the like may be one event's fault; 429, 502, 503
    /// and 504 speak of the server or what is before it.
    pub fn scope(&self) -> Scope {
        match self {
            Self::NoConnection(_) | Self::Unhealthy => Scope::Application { retry_after: None },
            Self::Refused { status: 429 | 502 | 503 | 504, retry_after, .. } => {
                Scope::Application { retry_after: *retry_after }
            }
            Self::Status { code, retry_after, .. } if OVERLOADED.contains(code) => {
                Scope::Application { retry_after: *retry_after }
            }
            Self::Unreachable(_) | Self::NotSubscribed { .. } | Self::Status { code: UNIMPLEMENTED, .. } => {
                Scope::Binding
            }
            Self::Status { .. } | Self::Refused { .. } | Self::Failed(_) | Self::Reused => Scope::Event,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_blames_the_event_is_final() {
        let refused = |status| Undelivered::Refused { status, body: String::new(), retry_after: None };
        for status in [400, 402, 406, 409, 410, 411, 413, 414, 415, 422, 451] {
            assert!(refused(status).is_final(), "{status}");
        }
        for status in [301, 302, 401, 403, 404, 405, 408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(!refused(status).is_final(), "{status}");
        }
        assert!(!Undelivered::Unhealthy.is_final());
        assert!(!Undelivered::Failed("x".into()).is_final() && Undelivered::Reused.is_final());
        assert!(!Undelivered::Unreachable("x".into()).is_final());
    }

    #[test]
    fn a_log_line_shows_the_beginning_of_an_identifier() {
        let logged = |id: &str| {
            let metadata = vec![("msgId".to_owned(), id.to_owned())];
            let event = Event { binding: "b".into(), data: Bytes::new(), metadata, trace: Vec::new() };
            event.logged_id().map(str::to_owned)
        };
        assert_eq!(logged("msgyFHoCnNu3VTxw5Kd9SKA==").as_deref(), Some("msgyFHoCnNu3VTxw5Kd9SKA=="));
        assert_eq!(logged(&"x".repeat(100_000)), Some("x".repeat(LOGGED_ID)));
        assert_eq!(logged(&"长".repeat(100_000)), Some("长".repeat(LOGGED_ID / 3)));
    }

    #[test]
    fn only_a_text_that_is_not_blank_is_an_identifier() {
        let id = |data: &str, decoded: Option<&str>| {
            let metadata = decoded.map(|id| ("msgId".to_owned(), id.to_owned())).into_iter().collect();
            let mut event = Event { binding: "b".into(), data: data.to_owned().into(), metadata, trace: Vec::new() };
            event.keep_usable_id();
            event.metadata("msgId").map(str::to_owned)
        };
        assert_eq!(id(r#"{"msgId":"m1=="}"#, Some("m1==")).as_deref(), Some("m1=="));
        assert_eq!(id(r#"{"msg\u0049d":"\u006d1"}"#, Some("m1")).as_deref(), Some("m1"));
        for (data, decoded) in [
            ("{}", None),
            (r#"{"msgId":null}"#, None),
            (r#"{"msgId":["m1"]}"#, None),
            (r#"{"msgId":0}"#, Some("0")),
            (r#"{"msgId":""}"#, Some("")),
            (r#"{"msgId":" \u3000\n"}"#, Some(" \u{3000}\n")),
            (r#"{"msgId":"\ud800"}"#, Some("\u{fffd}")),
        ] {
            assert_eq!(id(data, decoded), None, "{data}");
        }
    }

    #[test]
    fn only_what_speaks_of_the_server_applies_to_every_event() {
        let retry_after = Some(Duration::from_secs(7));
        for status in 300..=599 {
            let scope = Undelivered::Refused { status, body: String::new(), retry_after }.scope();
            let expected = match status {
                429 | 502 | 503 | 504 => Scope::Application { retry_after },
                _ => Scope::Event,
            };
            assert_eq!(scope, expected, "{status}");
        }
        let everybody = Scope::Application { retry_after: None };
        assert_eq!(Undelivered::NoConnection("x".into()).scope(), everybody);
        assert_eq!(Undelivered::Unhealthy.scope(), everybody);
        // It may hang, or break, with this event alone.
        assert_eq!(Undelivered::Unreachable("x".into()).scope(), Scope::Binding);
        assert_eq!(Undelivered::Failed("x".into()).scope(), Scope::Event);
    }

    #[test]
    fn what_grpcs_statuses_say() {
        let retry_after = Some(Duration::from_secs(7));
        for code in 1..=17 {
            let status = Undelivered::Status { code, message: "m".into(), retry_after };
            let name = grpc::name(code);
            assert_eq!(status.to_string(), format!("error invoking app: rpc error: code = {name} desc = m"));
            assert_eq!(status.is_final(), ["InvalidArgument", "AlreadyExists", "OutOfRange"].contains(&name), "{name}");
            let expected = match name {
                "ResourceExhausted" | "Unavailable" => Scope::Application { retry_after },
                "Unimplemented" => Scope::Binding,
                _ => Scope::Event,
            };
            assert_eq!(status.scope(), expected, "{name}");
        }
    }

    #[test]
    fn debug_shows_nothing_of_what_people_wrote() {
        let event = Event {
            binding: "team".into(),
            data: "S3CR3T".into(),
            metadata: vec![("text".into(), "S3CR3T".into())],
            trace: Vec::new(),
        };
        assert_eq!(format!("{event:?}"), "event of \"team\", 6 bytes");
        assert_eq!(event.metadata("text"), Some("S3CR3T"));
    }
}
