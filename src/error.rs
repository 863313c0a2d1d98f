//! Everything that can go wrong, as in wit/types.wit, and the one place where it becomes text.
//!
//! The texts begin as Dapr's own binding begins them ("dingtalk webhook error: ", "send msg failed. …"), so
//! that alerts which look for those keep working; what Dapr leaves out (code, class, what to do) follows.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// Why a call failed; each variant is one decision for the caller. Mirrors `error` in wit/types.wit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// `invoke` before a successful `init`.
    NotInitialized,
    /// A property is missing or cannot be used.
    Configuration {
        /// The property in its documented spelling.
        property: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// The operation does not exist; these do.
    UnsupportedOperation(Vec<String>),
    /// Data or metadata cannot become a message; nothing was sent.
    InvalidMessage(String),
    /// The network failed, the destination was refused, or the time was up.
    Unreachable {
        /// What happened; names the host, never the URL.
        reason: String,
        /// What became of the message.
        outcome: Outcome,
    },
    /// The answer is no DingTalk result.
    UnexpectedAnswer(AnswerError),
    /// DingTalk refused the message.
    Rejected(Rejection),
    /// "get" without a reader of this `id`.
    NotReading(String),
    /// A callback was not accepted.
    CallbackRefused(Refusal),
    /// The handler did not take a message.
    HandlerFailed(String),
    /// "reply" without a `sessionWebhook` that may be posted to.
    InvalidSessionWebhook(String),
    /// "reply" after the end of the session, by the message's own word or by DingTalk's.
    ExpiredSessionWebhook,
}

/// Why a callback was not accepted. Mirrors `refusal` in wit/types.wit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The binding has nothing to verify with.
    Unverifiable,
    /// A header that proves the sender is missing.
    Unsigned,
    /// One of those headers occurs more than once.
    Ambiguous,
    /// The timestamp is not a number of milliseconds.
    BadTimestamp,
    /// The timestamp is too far from now.
    Expired,
    /// The signature or token is wrong.
    BadSignature,
    /// The signature has come with another message before.
    Reused,
    /// For another robot or organisation.
    WrongRobot,
    /// Longer than this many bytes.
    TooLarge(u64),
    /// Not `application/json`.
    WrongContentType,
    /// No message; says why.
    Malformed(String),
}

impl Refusal {
    /// The name in WIT, metadata and documentation, after "callback-refused.".
    fn name(&self) -> &'static str {
        match self {
            Self::Unverifiable => "callback-refused.unverifiable",
            Self::Unsigned => "callback-refused.unsigned",
            Self::Ambiguous => "callback-refused.ambiguous",
            Self::BadTimestamp => "callback-refused.bad-timestamp",
            Self::Expired => "callback-refused.expired",
            Self::BadSignature => "callback-refused.bad-signature",
            Self::Reused => "callback-refused.reused",
            Self::WrongRobot => "callback-refused.wrong-robot",
            Self::TooLarge(_) => "callback-refused.too-large",
            Self::WrongContentType => "callback-refused.wrong-content-type",
            Self::Malformed(_) => "callback-refused.malformed",
        }
    }
}

/// Whether a message may have arrived although the call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has not: sent again, it arrives once.
    NotSent,
    /// DingTalk may have posted the message, or the handler taken it.
    Unknown,
}

impl Outcome {
    /// The name in WIT, metadata and documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Unknown => "unknown",
        }
    }
}

/// An answer that is no DingTalk result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerError {
    /// An HTTP status other than 200.
    Status(u16),
    /// An HTML page.
    Html,
    /// Ended before it was complete.
    Truncated,
    /// Longer than this many bytes.
    Oversized(u64),
    /// Neither JSON nor HTML, or JSON of another shape.
    Malformed(String),
    /// A JSON object without `errcode`.
    MissingErrcode,
    /// The per-address throttle; wait this long.
    Throttled(Duration),
}

/// DingTalk received the message and refused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// DingTalk's error code.
    pub errcode: i64,
    /// DingTalk's text, redacted.
    pub errmsg: String,
    /// What the code means for the caller.
    pub class: RejectionClass,
    /// The security setting that refused, where the text tells.
    pub check: Option<SecurityCheck>,
    /// How long to wait, where DingTalk documents it.
    pub retry_after: Option<Duration>,
}

/// What a rejection means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionClass {
    /// Robot, URL, secret or security settings.
    Configuration,
    /// This message.
    Content,
    /// Too many in a short time.
    RateLimited,
    /// The month's allowance.
    Quota,
    /// DingTalk is busy.
    Busy,
    /// Not documented for robots.
    Unknown,
}

impl RejectionClass {
    /// The name in WIT, metadata and documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Content => "content",
            Self::RateLimited => "rate-limited",
            Self::Quota => "quota",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
        }
    }
}

/// The robot's security setting that refused a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityCheck {
    /// None of the keywords occurs.
    Keyword,
    /// The signature does not match.
    Signature,
    /// The signature's time is too far off.
    Timestamp,
    /// The sending address is not allowed.
    IpAddress,
}

impl SecurityCheck {
    /// The name in WIT, metadata and documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyword => "keyword",
            Self::Signature => "signature",
            Self::Timestamp => "timestamp",
            Self::IpAddress => "ip-address",
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Keyword => "put one of the robot's keywords into the message",
            Self::Signature => "check the property \"secret\" against the robot's settings",
            Self::Timestamp => "set this machine's clock; it may be off by one hour at most",
            Self::IpAddress => "add this machine's address to the robot's allow-list",
        }
    }
}

impl Error {
    /// A configuration error of `property`.
    pub fn configuration(property: &str, reason: impl Into<String>) -> Self {
        Self::Configuration { property: property.into(), reason: reason.into() }
    }

    /// The error's kind in metadata and documentation: the WIT case, and for answers the case below it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotInitialized => "not-initialized",
            Self::Configuration { .. } => "configuration",
            Self::UnsupportedOperation(_) => "unsupported-operation",
            Self::InvalidMessage(_) => "invalid-message",
            Self::Unreachable { .. } => "unreachable",
            Self::UnexpectedAnswer(answer) => match answer {
                AnswerError::Status(_) => "unexpected-answer.status",
                AnswerError::Html => "unexpected-answer.html",
                AnswerError::Truncated => "unexpected-answer.truncated",
                AnswerError::Oversized(_) => "unexpected-answer.oversized",
                AnswerError::Malformed(_) => "unexpected-answer.malformed",
                AnswerError::MissingErrcode => "unexpected-answer.missing-errcode",
                AnswerError::Throttled(_) => "unexpected-answer.throttled",
            },
            Self::Rejected(_) => "rejected",
            Self::NotReading(_) => "not-reading",
            Self::CallbackRefused(refusal) => refusal.name(),
            Self::HandlerFailed(_) => "handler-failed",
            Self::InvalidSessionWebhook(_) => "invalid-session-webhook",
            Self::ExpiredSessionWebhook => "expired-session-webhook",
        }
    }

    /// What became of the message.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unreachable { outcome, .. } => *outcome,
            Self::UnexpectedAnswer(answer) => answer.outcome(),
            // It may have failed after it had taken the message.
            Self::HandlerFailed(_) => Outcome::Unknown,
            _ => Outcome::NotSent,
        }
    }

    /// What a program needs to decide what to do, as metadata: `error` and `outcome` always, the rest where it
    /// applies (`property`, `statusCode`, `errcode`, `errmsg`, `class`, `check`, `retryAfter` in
    /// milliseconds).
    pub fn metadata(&self) -> Vec<(String, String)> {
        let mut metadata = vec![("error", self.name().to_owned()), ("outcome", self.outcome().name().to_owned())];
        match self {
            Self::Configuration { property, .. } => metadata.push(("property", property.clone())),
            Self::UnexpectedAnswer(AnswerError::Status(status)) => metadata.push(("statusCode", status.to_string())),
            Self::UnexpectedAnswer(AnswerError::Throttled(wait)) => {
                metadata.push(("statusCode", "200".into()));
                metadata.push(("retryAfter", wait.as_millis().to_string()));
            }
            Self::UnexpectedAnswer(_) => metadata.push(("statusCode", "200".into())),
            Self::Rejected(rejection) => {
                metadata.push(("statusCode", "200".into()));
                metadata.push(("errcode", rejection.errcode.to_string()));
                metadata.push(("errmsg", rejection.errmsg.clone()));
                metadata.push(("class", rejection.class.name().into()));
                metadata.extend(rejection.check.map(|check| ("check", check.name().into())));
                metadata.extend(rejection.retry_after.map(|wait| ("retryAfter", wait.as_millis().to_string())));
            }
            Self::NotInitialized
            | Self::UnsupportedOperation(_)
            | Self::Unreachable { .. }
            | Self::InvalidMessage(_)
            | Self::NotReading(_)
            | Self::CallbackRefused(_)
            | Self::HandlerFailed(_)
            | Self::InvalidSessionWebhook(_)
            | Self::ExpiredSessionWebhook => {}
        }
        metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Configuration { property, reason } = self {
            return write!(f, "dingtalk configuration error: property \"{property}\": {reason}");
        }
        f.write_str("dingtalk webhook error: ")?;
        match self {
            Self::Configuration { .. } => Ok(()),
            Self::NotInitialized => f.write_str("the binding has no configuration; call init first"),
            Self::UnsupportedOperation(supported) => {
                write!(f, "unsupported operation. supported operations: {}", supported.join(" "))
            }
            Self::InvalidMessage(reason) => write!(f, "invalid message: {reason}. Nothing was sent"),
            Self::Unreachable { reason, outcome: Outcome::NotSent } => write!(f, "{reason}. Nothing was sent"),
            Self::Unreachable { reason, outcome: Outcome::Unknown } => {
                write!(f, "{reason}. The message may have been posted")
            }
            Self::UnexpectedAnswer(answer) => {
                write!(f, "{answer}")?;
                match answer.outcome() {
                    Outcome::NotSent => Ok(()),
                    Outcome::Unknown => f.write_str(". The message may have been posted"),
                }
            }
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::NotReading(id) => {
                write!(f, "invalid component metadata.id {id}: nothing reads from the binding with this id")
            }
            Self::CallbackRefused(refusal) => write!(f, "callback refused: {refusal}"),
            Self::HandlerFailed(reason) => write!(f, "the message was not taken: {reason}"),
            Self::InvalidSessionWebhook(reason) => write!(f, "metadata sessionWebhook: {reason}. Nothing was sent"),
            Self::ExpiredSessionWebhook => {
                f.write_str("the session of this message has expired; send with \"create\" instead. Nothing was posted")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unverifiable => {
                "the binding cannot verify callbacks; set the property \"appSecret\" to the app's client secret"
            }
            Self::Unsigned => "it has no signature",
            Self::Ambiguous => "it has more than one signature",
            Self::BadTimestamp => "its timestamp is not a number of milliseconds",
            Self::Expired => {
                "its timestamp is too far from this machine's time; check the clock (property \"callbackMaxSkew\")"
            }
            Self::BadSignature => "its signature is wrong; compare the property \"appSecret\" with the app's settings",
            Self::Reused => "its signature or its msgId has come with another message before",
            Self::WrongRobot => {
                "it is for another robot or organisation (properties \"robotCode\" and \"chatbotCorpId\")"
            }
            Self::TooLarge(cap) => return write!(f, "its body is longer than {cap} bytes"),
            Self::WrongContentType => "its Content-Type is not application/json",
            Self::Malformed(reason) => return write!(f, "its body is no message: {reason}"),
        })
    }
}

impl core::error::Error for Error {}

impl AnswerError {
    /// Whether DingTalk can have posted the message before something answered like this.
    fn outcome(&self) -> Outcome {
        match self {
            // Seen in another place (303), or given up while something was under way (408).
            Self::Status(303 | 408) => Outcome::Unknown,
            // By HTTP's rules the request was not carried out.
            Self::Status(300..500) | Self::Throttled(_) => Outcome::NotSent,
            _ => Outcome::Unknown,
        }
    }
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status @ 300..400) => write!(
                f,
                "post failed. status:{status} (a redirect, which is not followed; set the property \"url\" to the final address)"
            ),
            Self::Status(status) => write!(f, "post failed. status:{status}"),
            Self::Html => f.write_str(
                "the answer is an HTML page, not a result: a proxy or gateway answered, or DingTalk throttles this address",
            ),
            Self::Truncated => f.write_str("the answer ended before it was complete"),
            Self::Oversized(cap) => write!(f, "the answer is longer than {cap} bytes, which no result is"),
            Self::Malformed(what) => write!(f, "the answer is not a result: {what}"),
            Self::MissingErrcode => {
                f.write_str("the answer has no errcode; check that the property \"url\" is a robot's webhook")
            }
            Self::Throttled(wait) => {
                write!(f, "DingTalk throttles this address; send again after {} s", wait.as_secs())
            }
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "send msg failed. {} (errcode {}, {}", self.errmsg, self.errcode, self.class.name())?;
        if let Some(check) = self.check {
            write!(f, ", {} check: {}", check.name(), check.advice())?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, ", send again after {} s", wait.as_secs())?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every kind one, with each outcome that it can have.
    fn all() -> Vec<Error> {
        let answers = [
            AnswerError::Status(404),
            AnswerError::Status(500),
            AnswerError::Html,
            AnswerError::Truncated,
            AnswerError::Oversized(1),
            AnswerError::Malformed("x".into()),
            AnswerError::MissingErrcode,
            AnswerError::Throttled(Duration::from_secs(1)),
        ];
        let rejection = Rejection {
            errcode: 1,
            errmsg: "x".into(),
            class: RejectionClass::Unknown,
            check: None,
            retry_after: None,
        };
        let mut all = vec![
            Error::NotInitialized,
            Error::configuration("url", "x"),
            Error::UnsupportedOperation(vec![]),
            Error::InvalidMessage("x".into()),
            Error::Unreachable { reason: "x".into(), outcome: Outcome::NotSent },
            Error::Unreachable { reason: "x".into(), outcome: Outcome::Unknown },
            Error::Rejected(rejection),
            Error::NotReading("x".into()),
            Error::CallbackRefused(Refusal::Unsigned),
            Error::HandlerFailed("x".into()),
            Error::InvalidSessionWebhook("x".into()),
            Error::ExpiredSessionWebhook,
        ];
        all.extend(answers.map(Error::UnexpectedAnswer));
        all
    }

    /// Name, and whether it was posted, of the documented errors.
    fn documented() -> Vec<(String, String)> {
        let lines = include_str!("../docs/errors.md").lines();
        let table =
            lines.skip_while(|line| !line.starts_with("| `error` |")).skip(2).take_while(|line| !line.is_empty());
        let cells = table.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
        cells.map(|cells| (cells[1].split('`').nth(1).unwrap().to_owned(), cells[4].to_owned())).collect()
    }

    #[test]
    fn every_error_says_what_became_of_the_message_and_so_does_its_documentation() {
        let documented = documented();
        for error in all() {
            let metadata = error.metadata();
            let outcome = metadata.iter().find(|(name, _)| name == "outcome").map(|(_, value)| value.as_str());
            let posted = match outcome.unwrap() {
                "not-sent" => "no",
                "unknown" => "perhaps",
                other => panic!("{other}"),
            };
            let name = error.name().split("callback-refused.").next().unwrap();
            let name = if name.is_empty() { "callback-refused.…" } else { name };
            assert!(documented.contains(&(name.to_owned(), posted.to_owned())), "{name}, {posted}: {documented:?}");
            let says_perhaps = error.to_string().ends_with(". The message may have been posted");
            assert_eq!(says_perhaps, error.outcome() == Outcome::Unknown && name != "handler-failed", "{error}");
        }
        // And nothing else is documented, except what only the host says.
        for (name, _) in documented {
            let host = ["missing-operation", "not-found", "overloaded", "stopped", "callback-refused.…"];
            assert!(all().iter().any(|error| error.name() == name) || host.contains(&name.as_str()), "{name}");
        }
    }

    /// The cases of a type of the contract.
    fn contract(kind: &str) -> Vec<&'static str> {
        let (_, from) = include_str!("../wit/types.wit").split_once(&format!(" {kind} {{\n")).expect(kind);
        let lines = from.lines().map(str::trim).take_while(|line| *line != "}");
        let cases = lines.filter(|line| !line.is_empty() && !line.starts_with("///"));
        cases.map(|line| line.split(['(', ',']).next().unwrap()).collect()
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let refusals = refusals().map(|refusal| refusal.name().strip_prefix("callback-refused.").unwrap());
        assert_eq!(refusals.to_vec(), contract("variant refusal"));
        assert_eq!([Outcome::NotSent, Outcome::Unknown].map(Outcome::name).to_vec(), contract("enum outcome"));
        use RejectionClass::*;
        let classes = [Configuration, Content, RateLimited, Quota, Busy, Unknown].map(RejectionClass::name);
        assert_eq!(classes.to_vec(), contract("enum rejection-class"));
        use SecurityCheck::*;
        let checks = [Keyword, Signature, Timestamp, IpAddress].map(SecurityCheck::name);
        assert_eq!(checks.to_vec(), contract("enum security-check"));
        let all = all();
        for (kind, prefix) in [("variant answer-error", "unexpected-answer."), ("variant error", "")] {
            for case in contract(kind) {
                let name = [prefix, case].concat();
                assert!(all.iter().any(|error| error.name().starts_with(&name)), "{name}");
            }
        }
    }

    fn refusals() -> [Refusal; 11] {
        use Refusal::*;
        [
            Unverifiable,
            Unsigned,
            Ambiguous,
            BadTimestamp,
            Expired,
            BadSignature,
            Reused,
            WrongRobot,
            TooLarge(131_072),
            WrongContentType,
            Malformed("it is not UTF-8".into()),
        ]
    }

    #[test]
    fn a_refused_callback_says_what_was_wrong_and_which_property_to_look_at() {
        let says = [
            "property \"appSecret\"",
            "no signature",
            "more than one signature",
            "not a number of milliseconds",
            "check the clock (property \"callbackMaxSkew\")",
            "compare the property \"appSecret\"",
            "has come with another message before",
            "properties \"robotCode\" and \"chatbotCorpId\"",
            "longer than 131072 bytes",
            "not application/json",
            "no message: it is not UTF-8",
        ];
        for (refusal, says) in refusals().into_iter().zip(says) {
            let text = Error::CallbackRefused(refusal).to_string();
            assert!(text.starts_with("dingtalk webhook error: callback refused: ") && text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_rejection_begins_as_in_dapr_and_goes_on_with_code_class_and_what_to_do() {
        let rejected = |errcode, class, check, seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            Error::Rejected(Rejection { errcode, errmsg: "no".into(), class, check, retry_after }).to_string()
        };
        for (check, advice) in [
            (SecurityCheck::Keyword, "keyword check: put one of the robot's keywords into the message"),
            (SecurityCheck::Signature, "signature check: check the property \"secret\" against the robot's settings"),
            (SecurityCheck::Timestamp, "timestamp check: set this machine's clock; it may be off by one hour at most"),
            (SecurityCheck::IpAddress, "ip-address check: add this machine's address to the robot's allow-list"),
        ] {
            assert_eq!(
                rejected(310_000, RejectionClass::Content, Some(check), None),
                format!("dingtalk webhook error: send msg failed. no (errcode 310000, content, {advice})")
            );
        }
        assert_eq!(
            rejected(130_101, RejectionClass::RateLimited, None, Some(600)),
            "dingtalk webhook error: send msg failed. no (errcode 130101, rate-limited, send again after 600 s)"
        );
    }

    #[test]
    fn an_answer_that_is_no_result_is_described_with_what_to_look_at() {
        for (answer, says) in [
            (AnswerError::Status(404), "post failed. status:404"),
            (
                AnswerError::Status(302),
                "post failed. status:302 (a redirect, which is not followed; set the property \"url\"",
            ),
            (AnswerError::Html, "an HTML page, not a result: a proxy or gateway answered"),
            (AnswerError::Truncated, "ended before it was complete"),
            (AnswerError::Oversized(65_536), "longer than 65536 bytes"),
            (AnswerError::Malformed("it is empty".into()), "not a result: it is empty"),
            (AnswerError::MissingErrcode, "no errcode; check that the property \"url\" is a robot's webhook"),
            (AnswerError::Throttled(Duration::from_secs(300)), "throttles this address; send again after 300 s"),
        ] {
            let text = Error::UnexpectedAnswer(answer).to_string();
            assert!(text.starts_with("dingtalk webhook error: ") && text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_status_says_whether_the_request_was_carried_out() {
        for (status, outcome) in [
            (204, Outcome::Unknown),
            (302, Outcome::NotSent),
            (303, Outcome::Unknown),
            (307, Outcome::NotSent),
            (400, Outcome::NotSent),
            (408, Outcome::Unknown),
            (429, Outcome::NotSent),
            (499, Outcome::NotSent),
            (500, Outcome::Unknown),
            (503, Outcome::Unknown),
        ] {
            assert_eq!(Error::UnexpectedAnswer(AnswerError::Status(status)).outcome(), outcome, "{status}");
        }
    }
}
