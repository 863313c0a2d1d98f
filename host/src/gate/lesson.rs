//! What the end of a call says about the robot: whether its message counts, and for how long nothing more is to be sent.

use std::time::Duration;

use dingtalk_binding::error::{
    AnswerError, InvokeCause, InvokeError, Outcome, Rejection, RejectionClass, SecurityCheck,
};

/// What is to be learnt from one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// Nothing has reached DingTalk: as if there had been no call.
    Unsent,
    /// DingTalk has looked at the message, and taken it or refused it for its content.
    Counted,
    /// It may have the message, and has said nothing about this robot.
    Unknown,
    /// DingTalk takes nothing from this robot for a while.
    Shut(Closing),
}

/// For how long nothing is sent, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closing {
    /// DingTalk's code, or [`THROTTLED`].
    pub(crate) errcode: i64,
    /// Until then; for what ends at a moment of the calendar, see `kind`.
    pub(crate) pause: Duration,
    /// What would end it.
    pub(crate) kind: Kind,
    /// The robot's setting that has refused, where it is known.
    pub(crate) check: Option<SecurityCheck>,
}

impl Closing {
    /// For a store. How long it lasts stands beside it.
    pub(crate) fn to_text(&self) -> String {
        format!("{} {}", self.kind.name(), self.errcode)
    }

    /// Reads [`Self::to_text`]; nothing, if it is not of that form. Without the setting that has refused, which belongs to a
    /// binding and is in no store.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (kind, errcode) = text.split_once(' ')?;
        let kind = [Kind::Rate, Kind::Quota, Kind::Configuration].into_iter().find(|known| known.name() == kind)?;
        Some(Self { errcode: errcode.parse().ok()?, pause: Duration::ZERO, kind, check: None })
    }
}

impl Kind {
    /// The name of DingTalk's refusals of this kind.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate-limited",
            Self::Quota => "quota",
            Self::Configuration => "configuration",
        }
    }
}

/// The number in the page by which DingTalk says that it blocks an address. It is no error code.
pub(crate) const THROTTLED: i64 = 1_111;

/// What a closing is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Too much was sent in a short time: it ends by itself.
    Rate,
    /// The month's allowance is used up: it ends with the month, or when somebody buys more.
    Quota,
    /// Something is set up wrong: it ends when that is mended.
    Configuration,
}

/// After a closing that only people end, one message is let through this often, to see whether they have. DingTalk counts
/// nothing that it refuses so.
const PROBE: Duration = Duration::from_secs(60 * 60);

/// The same where what is wrong is not in the component file, so that no new file will say that it is mended: this
/// machine's clock, and the list of addresses.
const PROBE_ELSEWHERE: Duration = Duration::from_secs(60);

/// Nothing that an answer says keeps a robot shut for longer.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What is to be learnt from a call's error.
pub(crate) fn of(error: &InvokeError) -> Lesson {
    let shut = |errcode, pause: Duration, kind| {
        Lesson::Shut(Closing { errcode, pause: pause.min(LONGEST), kind, check: None })
    };
    match &error.cause {
        InvokeCause::Rejected(Rejection { errcode, class, check, retry_after, .. }) => match class {
            RejectionClass::RateLimited => {
                // Every code of this class has a time; should one have none, the shortest.
                let pause = retry_after.map_or(Duration::from_secs(1), Duration::from_millis);
                shut(*errcode, pause, Kind::Rate)
            }
            RejectionClass::Quota => shut(*errcode, PROBE, Kind::Quota),
            RejectionClass::Configuration => {
                let pause = match check {
                    Some(SecurityCheck::Timestamp | SecurityCheck::IpAddress) => PROBE_ELSEWHERE,
                    _ => PROBE,
                };
                Lesson::Shut(Closing { errcode: *errcode, pause, kind: Kind::Configuration, check: *check })
            }
            RejectionClass::Content => Lesson::Counted,
            RejectionClass::Busy | RejectionClass::Unknown => Lesson::Unknown,
        },
        InvokeCause::UnexpectedAnswer(AnswerError::Throttled(pause)) => {
            shut(THROTTLED, Duration::from_millis(*pause), Kind::Rate)
        }
        // Something has answered: what it did before, nobody knows.
        InvokeCause::UnexpectedAnswer(_) => Lesson::Unknown,
        _ if error.outcome == Outcome::NotSent => Lesson::Unsent,
        _ => Lesson::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(errcode: i64, class: RejectionClass, check: Option<SecurityCheck>, seconds: Option<u64>) -> Lesson {
        let retry_after = seconds.map(|seconds| seconds * 1_000);
        of(&InvokeCause::Rejected(Rejection { errcode, errmsg: "no".into(), class, check, retry_after }).into())
    }

    #[test]
    fn a_refusal_shuts_for_as_long_as_it_lasts() {
        use RejectionClass::*;
        for (errcode, class, check, says, seconds, kind) in [
            (130_101, RateLimited, None, Some(600), 600, Kind::Rate),
            (410_100, RateLimited, None, Some(600), 600, Kind::Rate),
            (90_018, RateLimited, None, Some(1), 1, Kind::Rate),
            (7, RateLimited, None, Some(1_000_000), 3_600, Kind::Rate),
            (90_030, Quota, None, None, 3_600, Kind::Quota),
            (300_005, Configuration, None, None, 3_600, Kind::Configuration),
            (310_000, Configuration, Some(SecurityCheck::Signature), None, 3_600, Kind::Configuration),
            (310_000, Configuration, Some(SecurityCheck::Timestamp), None, 60, Kind::Configuration),
            (310_000, Configuration, Some(SecurityCheck::IpAddress), None, 60, Kind::Configuration),
        ] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(rejected(errcode, class, check, says), Lesson::Shut(Closing { errcode, pause, kind, check }));
        }
        let throttled = InvokeCause::UnexpectedAnswer(AnswerError::Throttled(300_000));
        let closing = Closing { errcode: THROTTLED, pause: Duration::from_secs(300), kind: Kind::Rate, check: None };
        assert_eq!(of(&throttled.into()), Lesson::Shut(closing));
    }

    #[test]
    fn other_answers_count_and_what_was_not_sent_does_not() {
        use RejectionClass::*;
        for (class, lesson) in [(Content, Lesson::Counted), (Busy, Lesson::Unknown), (Unknown, Lesson::Unknown)] {
            assert_eq!(rejected(1, class, None, None), lesson);
        }
        assert_eq!(of(&InvokeCause::UnexpectedAnswer(AnswerError::Html).into()), Lesson::Unknown);
        // Answered, and by HTTP's rules not carried out: whoever answered may count it all the same.
        assert_eq!(of(&InvokeCause::UnexpectedAnswer(AnswerError::Status(404)).into()), Lesson::Unknown);
        assert_eq!(of(&InvokeCause::InvalidMessage("x".into()).into()), Lesson::Unsent);
        let unreachable = |outcome| of(&InvokeError { cause: InvokeCause::Unreachable("x".into()), outcome });
        assert_eq!([Outcome::NotSent, Outcome::Unknown].map(unreachable), [Lesson::Unsent, Lesson::Unknown]);
    }
}
