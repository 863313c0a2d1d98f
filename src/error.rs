//! What the errors of wit/types.wit are called, what they tell a program, and the one place where they become text.
//!
//! The texts begin as Dapr's own binding begins them ("dingtalk webhook error: ", "send msg failed. …"), so
//! that alerts which look for those keep working; what Dapr leaves out (code, class, what to do) follows.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

pub use crate::contract::{
    AnswerError, HandlerError, InvokeCause, InvokeError, Outcome, PropertyError, ReadError, ReceiveError, Refusal,
    Rejection, RejectionClass, SecurityCheck,
};

impl Outcome {
    /// The name in WIT, metadata and documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Unknown => "unknown",
        }
    }
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

impl PropertyError {
    /// That `property`, in its documented spelling, cannot be used, and what to write instead.
    pub fn new(property: &str, reason: impl Into<String>) -> Self {
        Self { property: property.into(), reason: reason.into() }
    }

    /// As [`InvokeError::metadata`].
    pub fn metadata(&self) -> Vec<(String, String)> {
        metadata([
            ("error", "configuration".into()),
            ("outcome", Outcome::NotSent.name().into()),
            ("property", self.property.clone()),
        ])
    }
}

impl InvokeCause {
    /// The error's kind in metadata and documentation: the WIT case, and for answers the case below it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotInitialized => "not-initialized",
            Self::UnsupportedOperation(_) => "unsupported-operation",
            Self::InvalidMessage(_) => "invalid-message",
            Self::InvalidSessionWebhook(_) => "invalid-session-webhook",
            Self::ExpiredSessionWebhook => "expired-session-webhook",
            Self::Unreachable(_) => "unreachable",
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
            Self::HandlerFailed(_) => "handler-failed",
        }
    }
}

impl From<InvokeCause> for InvokeError {
    /// With the outcome that the cause alone tells. Of what is unreachable only the transport knows more.
    fn from(cause: InvokeCause) -> Self {
        let outcome = match &cause {
            InvokeCause::UnexpectedAnswer(answer) => answer.outcome(),
            // It may have failed after it had taken the message.
            InvokeCause::HandlerFailed(_) | InvokeCause::Unreachable(_) => Outcome::Unknown,
            _ => Outcome::NotSent,
        };
        Self { cause, outcome }
    }
}

impl InvokeError {
    /// What a program needs to decide what to do, as metadata: `error` and `outcome` always, the rest where it
    /// applies (`statusCode`, `errcode`, `errmsg`, `class`, `check`, `retryAfter` in milliseconds).
    pub fn metadata(&self) -> Vec<(String, String)> {
        let mut items = vec![("error", self.cause.name().to_owned()), ("outcome", self.outcome.name().to_owned())];
        match &self.cause {
            InvokeCause::UnexpectedAnswer(AnswerError::Status(status)) => {
                items.push(("statusCode", status.to_string()));
            }
            InvokeCause::UnexpectedAnswer(AnswerError::Throttled(wait)) => {
                items.push(("statusCode", "200".into()));
                items.push(("retryAfter", wait.to_string()));
            }
            InvokeCause::UnexpectedAnswer(_) => items.push(("statusCode", "200".into())),
            InvokeCause::Rejected(rejection) => {
                items.push(("statusCode", "200".into()));
                items.push(("errcode", rejection.errcode.to_string()));
                items.push(("errmsg", rejection.errmsg.clone()));
                items.push(("class", rejection.class.name().into()));
                items.extend(rejection.check.map(|check| ("check", check.name().into())));
                items.extend(rejection.retry_after.map(|wait| ("retryAfter", wait.to_string())));
            }
            InvokeCause::NotInitialized
            | InvokeCause::UnsupportedOperation(_)
            | InvokeCause::InvalidMessage(_)
            | InvokeCause::InvalidSessionWebhook(_)
            | InvokeCause::ExpiredSessionWebhook
            | InvokeCause::Unreachable(_)
            | InvokeCause::NotReading(_)
            | InvokeCause::HandlerFailed(_) => {}
        }
        metadata(items)
    }
}

fn metadata(items: impl IntoIterator<Item = (&'static str, String)>) -> Vec<(String, String)> {
    items.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dingtalk configuration error: property \"{}\": {}", self.property, self.reason)
    }
}

impl fmt::Display for InvokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        let posted = match (&self.cause, self.outcome) {
            (InvokeCause::HandlerFailed(_), _) => "",
            (InvokeCause::ExpiredSessionWebhook, _) => ". Nothing was posted",
            (_, Outcome::Unknown) => ". The message may have been posted",
            (
                InvokeCause::InvalidMessage(_) | InvokeCause::InvalidSessionWebhook(_) | InvokeCause::Unreachable(_),
                Outcome::NotSent,
            ) => ". Nothing was sent",
            (_, Outcome::NotSent) => "",
        };
        write!(f, "{}{posted}", self.cause)
    }
}

impl fmt::Display for InvokeCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialized => f.write_str(NOT_INITIALIZED),
            Self::UnsupportedOperation(supported) => {
                write!(f, "unsupported operation. supported operations: {}", supported.join(" "))
            }
            Self::InvalidMessage(reason) => write!(f, "invalid message: {reason}"),
            Self::InvalidSessionWebhook(reason) => write!(f, "metadata sessionWebhook: {reason}"),
            Self::ExpiredSessionWebhook => {
                f.write_str("the session of this message has expired; send with \"create\" instead")
            }
            Self::Unreachable(reason) => write!(f, "post failed. {reason}"),
            Self::UnexpectedAnswer(answer) => answer.fmt(f),
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::NotReading(id) => not_reading(f, id),
            Self::HandlerFailed(reason) => not_taken(f, reason),
        }
    }
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::NotInitialized => f.write_str(NOT_INITIALIZED),
            Self::Refused(refusal) => write!(f, "callback refused: {refusal}"),
            Self::NotReading(id) => not_reading(f, id),
            Self::HandlerFailed(reason) => not_taken(f, reason),
        }
    }
}

const PREFIX: &str = "dingtalk webhook error: ";
const NOT_INITIALIZED: &str = "the binding has no configuration; call init first";

fn not_reading(f: &mut fmt::Formatter<'_>, id: &str) -> fmt::Result {
    write!(f, "invalid component metadata.id {id}: nothing reads from the binding with this id")
}

fn not_taken(f: &mut fmt::Formatter<'_>, reason: &str) -> fmt::Result {
    write!(f, "the message was not taken: {reason}")
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

impl core::error::Error for PropertyError {}
impl core::error::Error for InvokeError {}
impl core::error::Error for ReceiveError {}

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
                "unmarshal body failed. the answer is an HTML page, not a result: a proxy or gateway answered, or DingTalk throttles this address",
            ),
            Self::Truncated => f.write_str("unmarshal body failed. the answer ended before it was complete"),
            Self::Oversized(cap) => write!(f, "the answer is longer than {cap} bytes, which no result is"),
            Self::Malformed(what) => write!(f, "unmarshal body failed. the answer is not a result: {what}"),
            Self::MissingErrcode => {
                f.write_str("the answer has no errcode; check that the property \"url\" is a robot's webhook")
            }
            Self::Throttled(wait) => {
                write!(f, "DingTalk throttles this address; send again after {} s", wait / 1_000)
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
            write!(f, ", send again after {} s", wait / 1_000)?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every kind one, with each outcome that it can have.
    fn all() -> Vec<InvokeError> {
        let answers = [
            AnswerError::Status(404),
            AnswerError::Status(500),
            AnswerError::Html,
            AnswerError::Truncated,
            AnswerError::Oversized(1),
            AnswerError::Malformed("x".into()),
            AnswerError::MissingErrcode,
            AnswerError::Throttled(1_000),
        ];
        let rejection = Rejection {
            errcode: 1,
            errmsg: "x".into(),
            class: RejectionClass::Unknown,
            check: None,
            retry_after: None,
        };
        let mut all: Vec<InvokeError> = [
            InvokeCause::NotInitialized,
            InvokeCause::UnsupportedOperation(vec![]),
            InvokeCause::InvalidMessage("x".into()),
            InvokeCause::Rejected(rejection),
            InvokeCause::NotReading("x".into()),
            InvokeCause::HandlerFailed("x".into()),
            InvokeCause::InvalidSessionWebhook("x".into()),
            InvokeCause::ExpiredSessionWebhook,
        ]
        .map(InvokeError::from)
        .into();
        let unreachable = |outcome| InvokeError { cause: InvokeCause::Unreachable("x".into()), outcome };
        all.extend([Outcome::NotSent, Outcome::Unknown].map(unreachable));
        all.extend(answers.map(|answer| InvokeCause::UnexpectedAnswer(answer).into()));
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
            let name = error.cause.name();
            assert!(documented.contains(&(name.to_owned(), posted.to_owned())), "{name}, {posted}: {documented:?}");
            let says_perhaps = error.to_string().ends_with(". The message may have been posted");
            assert_eq!(says_perhaps, error.outcome == Outcome::Unknown && name != "handler-failed", "{error}");
        }
        // And nothing else is documented, except what only the host says.
        for (name, _) in documented {
            let others = [
                "missing-operation",
                "not-found",
                "overloaded",
                "withheld",
                "repeated",
                "outbox-unavailable",
                "stopped",
                "configuration",
            ];
            assert!(all().iter().any(|error| error.cause.name() == name) || others.contains(&name.as_str()), "{name}");
        }
    }

    // Alerts look for these.
    #[test]
    fn what_dapr_fails_with_too_begins_as_dapr_says_it() {
        let answer = |answer| InvokeCause::UnexpectedAnswer(answer);
        for (cause, beginning) in [
            (InvokeCause::Unreachable("x".into()), "post failed. x"),
            (answer(AnswerError::Status(302)), "post failed. status:302"),
            (answer(AnswerError::Status(500)), "post failed. status:500"),
            (answer(AnswerError::Html), "unmarshal body failed. the"),
            (answer(AnswerError::Truncated), "unmarshal body failed. the"),
            (answer(AnswerError::Malformed("x".into())), "unmarshal body failed. the"),
            (InvokeCause::NotReading("7".into()), "invalid component metadata.id 7"),
        ] {
            let text = InvokeError::from(cause).to_string();
            assert!(text.starts_with(&["dingtalk webhook error: ", beginning].concat()), "{text}");
        }
    }

    #[test]
    fn a_property_that_cannot_be_used_is_named_to_people_and_programs() {
        let error = PropertyError::new("url", "has no host");
        assert_eq!(error.to_string(), "dingtalk configuration error: property \"url\": has no host");
        let expected = [("error", "configuration"), ("outcome", "not-sent"), ("property", "url")];
        assert_eq!(error.metadata(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
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
        assert_eq!([Outcome::NotSent, Outcome::Unknown].map(Outcome::name).to_vec(), contract("enum outcome"));
        use RejectionClass::*;
        let classes = [Configuration, Content, RateLimited, Quota, Busy, Unknown].map(RejectionClass::name);
        assert_eq!(classes.to_vec(), contract("enum rejection-class"));
        use SecurityCheck::*;
        let checks = [Keyword, Signature, Timestamp, IpAddress].map(SecurityCheck::name);
        assert_eq!(checks.to_vec(), contract("enum security-check"));
        let all = all();
        for (kind, prefix) in [("variant answer-error", "unexpected-answer."), ("variant invoke-cause", "")] {
            for case in contract(kind) {
                let name = [prefix, case].concat();
                assert!(all.iter().any(|error| error.cause.name().starts_with(&name)), "{name}");
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
            let text = ReceiveError::Refused(refusal).to_string();
            assert!(text.starts_with("dingtalk webhook error: callback refused: ") && text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_rejection_begins_as_in_dapr_and_goes_on_with_code_class_and_what_to_do() {
        let rejected = |errcode, class, check, seconds: Option<u64>| {
            let retry_after = seconds.map(|seconds| seconds * 1_000);
            let rejection = Rejection { errcode, errmsg: "no".into(), class, check, retry_after };
            InvokeError::from(InvokeCause::Rejected(rejection)).to_string()
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
            (AnswerError::Throttled(300_000), "throttles this address; send again after 300 s"),
        ] {
            let text = InvokeError::from(InvokeCause::UnexpectedAnswer(answer)).to_string();
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
            assert_eq!(AnswerError::Status(status).outcome(), outcome, "{status}");
        }
    }
}
