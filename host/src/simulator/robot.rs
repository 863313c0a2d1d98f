//! DingTalk's rules for a group robot, as a state machine over requests and time.
//!
//! No socket and no clock, so that every rule, the ten-minute penalty included, is tested in microseconds.
//! A wrong client must fail here exactly as it would fail at DingTalk: nothing is taken on trust, and what
//! DingTalk is not known to do is marked "not confirmed".
//!
//! Sources: DingTalk open platform, "custom robots" and "customize robot security settings"; the limit of
//! 20 000 bytes from answers seen by users. The order in which DingTalk looks at a request is not confirmed
//! beyond "access before content".

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use dingtalk_binding::secret::Secret;
use dingtalk_binding::{json, signature};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::callback::Credentials;
use super::message::{self, Typed};
use super::recent::Recent;
use super::refusal::{ErrorTexts, Reason, Refusal};

/// The largest body, in bytes. That the whole body counts, as written, is not confirmed.
pub const MAX_BODY: usize = 20_000;

/// How far `timestamp` may be from the time of receipt, in milliseconds, in both directions.
pub const TIMESTAMP_WINDOW: u64 = 3_600_000;

/// "At most 10 keywords."
const MAX_KEYWORDS: usize = 10;

/// How the robot was set up in its group.
#[derive(Debug, Clone)]
pub struct RobotConfig {
    /// The name that the group sees.
    pub name: String,
    /// What `access_token` has to be.
    pub access_token: Secret,
    /// With a secret, every request must be signed.
    pub secret: Option<Secret>,
    /// With keywords (at most 10), one of them must occur in every message.
    pub keywords: Vec<String>,
    /// With addresses, nobody else may send.
    pub allowed_addresses: Vec<AddressRange>,
    /// Messages within `rate_window`; 0 is unlimited. DingTalk's limit is 20.
    pub rate_limit: u32,
    /// The span over which the rate is counted. DingTalk says "per minute"; that the minute slides is not
    /// confirmed. A shorter one is a faster clock, for tests.
    pub rate_window: Duration,
    /// How long the robot stays limited after one message too many. DingTalk's is 10 minutes.
    pub penalty: Duration,
    /// The generation of error texts.
    pub error_texts: ErrorTexts,
    /// What callbacks are signed with. `None`: `secret`, unless there is a token.
    pub app_secret: Option<Secret>,
    /// What callbacks carry instead of a signature, as those of a custom robot with Outgoing do.
    pub outgoing_token: Option<Secret>,
    /// The robot's code in callbacks; empty, as custom robots have none, leaves it out.
    pub robot_code: String,
    /// The robot's organisation in callbacks; empty leaves it out.
    pub chatbot_corp_id: String,
}

impl Default for RobotConfig {
    /// DingTalk's limits, a token for everybody to see, and no further security setting.
    fn default() -> Self {
        Self {
            name: "simulated robot".into(),
            access_token: Secret::new("simulated-access-token"),
            secret: None,
            keywords: Vec::new(),
            allowed_addresses: Vec::new(),
            rate_limit: 20,
            rate_window: Duration::from_secs(60),
            penalty: Duration::from_secs(600),
            error_texts: ErrorTexts::Current,
            app_secret: None,
            outgoing_token: None,
            robot_code: "simulated-robot-code".into(),
            chatbot_corp_id: "simulated-corporation".into(),
        }
    }
}

impl RobotConfig {
    /// What DingTalk would not let anybody set up; the error says what to change.
    pub fn check(&self) -> Result<(), String> {
        if self.access_token.expose().is_empty() {
            return Err("the access token is empty: give the robot one".into());
        }
        if self.secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
            return Err("the secret is empty: give one, or none for a robot without signatures".into());
        }
        if self.keywords.len() > MAX_KEYWORDS {
            return Err(format!("there are {} keywords: a robot has at most {MAX_KEYWORDS}", self.keywords.len()));
        }
        if self.keywords.iter().any(String::is_empty) {
            return Err("a keyword is empty and would occur in every message: leave it out".into());
        }
        if self.rate_window.is_zero() {
            return Err(
                "the rate's window has no length: give one, or a rate limit of 0 for a robot without limit".into()
            );
        }
        if self.app_secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
            return Err("the app secret is empty: give one, or none to sign callbacks with the secret".into());
        }
        // It becomes a header's value.
        let visible =
            |token: &Secret| !token.expose().is_empty() && token.expose().bytes().all(|b| b.is_ascii_graphic());
        if self.outgoing_token.as_ref().is_some_and(|token| !visible(token)) {
            return Err("the outgoing token is empty or has other than visible ASCII characters: give another".into());
        }
        Ok(())
    }

    /// What callbacks prove their origin with, if there is anything.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        match (&self.app_secret, &self.outgoing_token, &self.secret) {
            (Some(secret), _, _) | (None, None, Some(secret)) => Some(Credentials::Secret(secret.clone())),
            (None, Some(token), _) => Some(Credentials::Token(token.clone())),
            (None, None, None) => None,
        }
    }
}

/// An IPv4 address, or a block of them ("192.168.0.0/16"); DingTalk's allow-list takes no IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: u32,
    mask: u32,
}

impl AddressRange {
    /// Whether the address is in the block. An IPv4 address mapped into IPv6 is the IPv4 address; other
    /// IPv6 addresses are in no block.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits() & self.mask == self.first,
            IpAddr::V6(_) => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no IPv4 address or block; write for example 192.168.1.7 or 10.0.0.0/8");
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length: u32 = length.parse().ok().filter(|&n| digits && n <= 32).ok_or_else(wrong)?;
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        Ok(Self { first: address.to_bits() & mask, mask })
    }
}

/// A request as it came.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The `Content-Type` header.
    pub content_type: Option<&'a str>,
    /// The query as written, without the question mark.
    pub query: &'a str,
    /// The body as written.
    pub body: &'a [u8],
    /// Who sent it.
    pub peer: IpAddr,
}

impl fmt::Debug for Received<'_> {
    /// Without the query, which holds token and signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("method", &self.method)
            .field("content_type", &self.content_type)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The group sees a new message.
    Accepted(Posted),
    /// A message with this `msgUuid` was posted before: answered like the first time, shown once.
    Repeated,
    /// Refused.
    Rejected(Refusal),
}

/// A message for the group.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Its type as sent, "text" for example.
    pub msgtype: &'static str,
    /// The body, byte for byte.
    pub message: Box<RawValue>,
    /// The sender's key against duplicates.
    pub msg_uuid: Option<String>,
    /// What the group sees, one or more lines.
    pub shown: String,
    /// Whether it carried a signature that was checked; false where the robot has no secret.
    pub signed: bool,
}

/// A robot with what it remembers.
#[derive(Debug)]
pub struct Robot {
    config: RobotConfig,
    /// When the messages of the last window were posted.
    posted: VecDeque<u64>,
    limited_until: Option<u64>,
    uuids: Recent,
}

impl Robot {
    /// A robot that nobody has used. Takes any configuration; [`RobotConfig::check`] tells whether it makes
    /// sense.
    pub fn new(config: RobotConfig) -> Self {
        Self { config, posted: VecDeque::new(), limited_until: None, uuids: Recent::default() }
    }

    /// Decides about a request received at `now`, in milliseconds since the Unix epoch.
    pub fn receive(&mut self, request: &Received<'_>, now: u64) -> Verdict {
        self.decide(request, now).unwrap_or_else(|reason| Verdict::Rejected(reason.refusal(self.config.error_texts)))
    }

    /// Decides about a message for the session behind a `sessionWebhook`. It needs no signature; that access
    /// token, addresses, keywords and rate do not matter there either is not confirmed.
    pub(crate) fn receive_in_session(&mut self, request: &Received<'_>, is_open: impl Fn(&str) -> bool) -> Verdict {
        let decide = || {
            check_form(request)?;
            let session = parameter(request.query, "session").filter(|session| !session.is_empty());
            if !is_open(&session.ok_or_else(|| Reason::Absent("session".into()))?) {
                return Err(Reason::Session);
            }
            self.post(&object(request.body)?, request.body)
        };
        match decide() {
            Ok(posted) => self.once(posted),
            Err(reason) => Verdict::Rejected(reason.refusal(self.config.error_texts)),
        }
    }

    /// What the answer to a callback says: a message, nothing (`None`), or something that DingTalk would not
    /// show. The limits of messages hold for it; that DingTalk looks at keywords and rate is not confirmed.
    pub(crate) fn reply(&self, body: &[u8]) -> Result<Option<Posted>, Refusal> {
        let decide = || {
            let object = object(body)?;
            match object.get("msgtype").and_then(Value::as_str) {
                Some("empty") => Ok(None),
                // Not among the types of replies.
                Some("link") => Err(Reason::MessageType),
                _ => self.post(&object, body).map(Some),
            }
        };
        decide().map_err(|reason: Reason| reason.refusal(self.config.error_texts))
    }

    /// A message whose `msgUuid` was posted before is not posted again.
    fn once(&mut self, posted: Posted) -> Verdict {
        match &posted.msg_uuid {
            Some(uuid) if !self.uuids.insert(uuid) => Verdict::Repeated,
            _ => Verdict::Accepted(posted),
        }
    }

    fn decide(&mut self, request: &Received<'_>, now: u64) -> Result<Verdict, Reason> {
        check_form(request)?;
        let token = parameter(request.query, "access_token").filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| Reason::Absent("access_token".into()))?;
        if token != self.config.access_token.expose() {
            return Err(Reason::Token);
        }
        // The token names the robot, and it is the robot that is limited: whatever else is wrong with the
        // request does not matter until the penalty is over. That it is looked at this early is not confirmed.
        if self.limited_until.is_some_and(|until| now < until) {
            return Err(Reason::TooFast(self.config.rate_limit));
        }
        let object = object(request.body)?;
        if !self.may_send(request.peer) {
            return Err(Reason::Address(request.peer.to_canonical()));
        }
        let signed = self.check_signature(request.query, now)?;
        if !self.has_keyword(&object) {
            return Err(Reason::Keyword);
        }
        let posted = Posted { signed, ..self.post(&object, request.body)? };
        // Before the rate: a repetition posts nothing. That it does not count is not confirmed.
        if posted.msg_uuid.as_deref().is_some_and(|uuid| self.uuids.contains(uuid)) {
            return Ok(Verdict::Repeated);
        }
        self.count(now)?;
        Ok(self.once(posted))
    }

    /// What the group would see of a message.
    fn post(&self, object: &Map<String, Value>, body: &[u8]) -> Result<Posted, Reason> {
        let Typed { content, mentions, uuid } = message::parse(object)?;
        // What is parsed already is parsed again as it stands: a message is kept as written.
        let message: Box<RawValue> = serde_json::from_slice(body).map_err(|_| Reason::Absent("json".into()))?;
        Ok(Posted {
            msgtype: content.msgtype(),
            message,
            msg_uuid: uuid,
            shown: super::group::render(&self.config.name, &content, &mentions),
            signed: false,
        })
    }

    fn may_send(&self, peer: IpAddr) -> bool {
        self.config.allowed_addresses.is_empty()
            || self.config.allowed_addresses.iter().any(|range| range.contains(peer))
    }

    /// Whether there was a signature to check.
    fn check_signature(&self, query: &str, now: u64) -> Result<bool, Reason> {
        let Some(secret) = &self.config.secret else { return Ok(false) };
        // Of a parameter that occurs twice, DingTalk is reported to read the first. Which of its two texts a
        // missing parameter gets is not confirmed; the one for a wrong signature says that both must be there.
        let timestamp = parameter(query, "timestamp").ok_or(Reason::Signature)?;
        let sign = parameter(query, "sign").ok_or(Reason::Signature)?;
        let digits = timestamp.bytes().all(|b| b.is_ascii_digit());
        let time: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(Reason::Timestamp)?;
        if time.abs_diff(now) > TIMESTAMP_WINDOW {
            return Err(Reason::Timestamp);
        }
        // Whether DingTalk tolerates a signature that was percent-encoded twice is not confirmed; here it fails.
        if !signature::verify(secret.expose(), &timestamp, sign.as_bytes()) {
            return Err(Reason::Signature);
        }
        Ok(true)
    }

    fn has_keyword(&self, message: &Map<String, Value>) -> bool {
        if self.config.keywords.is_empty() {
            return true;
        }
        let texts = message::texts(message);
        self.config.keywords.iter().any(|keyword| texts.iter().any(|text| text.contains(keyword.as_str())))
    }

    /// Counts a message that is to be posted, or starts the penalty. Only posted messages count; that refused
    /// ones do not is not confirmed.
    fn count(&mut self, now: u64) -> Result<(), Reason> {
        if self.config.rate_limit == 0 {
            return Ok(());
        }
        let window = u64::try_from(self.config.rate_window.as_millis()).unwrap_or(u64::MAX);
        while self.posted.front().is_some_and(|posted| posted.saturating_add(window) <= now) {
            self.posted.pop_front();
        }
        if self.posted.len() >= self.config.rate_limit as usize {
            let penalty = u64::try_from(self.config.penalty.as_millis()).unwrap_or(u64::MAX);
            self.limited_until = Some(now.saturating_add(penalty));
            return Err(Reason::TooFast(self.config.rate_limit));
        }
        self.posted.push_back(now);
        Ok(())
    }
}

/// What any request that posts a message has to be.
fn check_form(request: &Received<'_>) -> Result<(), Reason> {
    if request.method != "POST" {
        return Err(Reason::Method);
    }
    if !request.content_type.is_some_and(is_json) {
        return Err(Reason::ContentType);
    }
    Ok(())
}

/// A body that is short enough and a JSON object.
fn object(body: &[u8]) -> Result<Map<String, Value>, Reason> {
    if body.len() > MAX_BODY {
        return Err(Reason::TooLong);
    }
    match serde_json::from_slice(&json::mended(body)) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Reason::Absent("json".into())),
    }
}

/// `application/json`, in any case and with any parameters.
fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// The first parameter of this name, decoded as a form: `+` is a space, and so a signature whose `+` was not
/// percent-encoded is a wrong one.
fn parameter(query: &str, name: &str) -> Option<String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
        .find(|(found, _)| decode(found) == name)
        .map(|(_, value)| decode(value))
}

#[cfg(test)]
mod tests;
