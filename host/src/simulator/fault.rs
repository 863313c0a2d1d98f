//! Failures on request: what networks, proxies and overloaded servers do to a client, by name.
//!
//! One notation for the command line and for `PUT /fault`: `status=503`, `delay=500ms`, `html`.
//!
//! What becomes of the message is part of a fault. [`Fault::Delay`], [`Fault::StringErrcode`],
//! [`Fault::Reset`] and [`Fault::HalfBody`] strike after the robot has decided: the group sees an accepted
//! message, and the client must find out, or say that it does not know. All others stand in front of the
//! robot: it never hears of the message.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::refusal::Refusal;
use super::robot::MAX_BODY;

/// The longest answer that a client of DingTalk reads ought to be below this; [`Fault::Oversized`] is above.
const OVERSIZED: usize = 64 * 1024 + 1;

/// The longest [`Fault::Delay`], and how long [`Fault::Hang`] holds a connection.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);

/// The longest fault in text. It is kept, and sent as an answer however often; a URL fits into a header.
const MAX_TEXT: usize = 8 << 10;

/// One way to fail. Its text form is what [`Fault::from_str`] reads and `Display` writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `delay=500ms`: the usual answer, this much later (at most 2 minutes). The group sees the message
    /// before the client has its answer.
    Delay(Duration),
    /// `reset`: the connection is reset instead of an answer. The group sees the message.
    Reset,
    /// `half-body`: the usual answer with its `Content-Length`, half of its body, and the end of the
    /// connection. The group sees the message.
    HalfBody,
    /// `html`: status 200 and a page, as from DingTalk's throttle or a proxy.
    Html,
    /// `throttled`: DingTalk's other throttle, status 1111 in JSON without an `errcode`.
    Throttled,
    /// `status=503`: this HTTP status (200 to 599). The body claims success, so that a client which looks at
    /// nothing else is caught.
    Status(u16),
    /// `redirect=https://…`: status 307 with this `Location`.
    Redirect(String),
    /// `oversized`: a success of more than 64 KiB.
    Oversized,
    /// `empty`: status 200 without a body.
    Empty,
    /// `missing-errcode`: an object with `errmsg` "ok" alone.
    MissingErrcode,
    /// `string-errcode`: the usual answer, its `errcode` written as a text, as DingTalk's documentation does.
    StringErrcode,
    /// `rejected=130101:send too fast`: this code and text.
    Rejected {
        /// The code; 0 would be a success for a message that the group never sees.
        errcode: i64,
        /// The text.
        errmsg: String,
    },
    /// `echo`: a refusal whose text repeats URL (with token and signature) and body: clients must redact it.
    Echo,
    /// `hang`: no answer until the client leaves, or for 2 minutes.
    Hang,
}

impl Fault {
    /// Whether the robot decides about the message first; see the module.
    pub fn reaches_robot(&self) -> bool {
        matches!(self, Self::Delay(_) | Self::Reset | Self::HalfBody | Self::StringErrcode)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delay(delay) => write!(f, "delay={}ms", delay.as_millis()),
            Self::Reset => f.write_str("reset"),
            Self::HalfBody => f.write_str("half-body"),
            Self::Html => f.write_str("html"),
            Self::Throttled => f.write_str("throttled"),
            Self::Status(status) => write!(f, "status={status}"),
            Self::Redirect(location) => write!(f, "redirect={location}"),
            Self::Oversized => f.write_str("oversized"),
            Self::Empty => f.write_str("empty"),
            Self::MissingErrcode => f.write_str("missing-errcode"),
            Self::StringErrcode => f.write_str("string-errcode"),
            Self::Rejected { errcode, errmsg } => write!(f, "rejected={errcode}:{errmsg}"),
            Self::Echo => f.write_str("echo"),
            Self::Hang => f.write_str("hang"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    /// The error is a sentence that says what to write.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("the fault is too long: at most {MAX_TEXT} bytes"));
        }
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let fault = match (name, value) {
            ("delay", Some(value)) => {
                let delay = dingtalk_binding::duration::parse(value)?;
                if delay > LONGEST {
                    return Err(format!("the delay {value} is too long: at most {}s", LONGEST.as_secs()));
                }
                return Ok(Self::Delay(delay));
            }
            ("status", Some(value)) => {
                // A 1xx status is no answer: the client would wait on.
                let status = value.parse().ok().filter(|status| (200..600).contains(status));
                let status = status.ok_or_else(|| format!("the status {value:?} is not a number from 200 to 599"))?;
                return Ok(Self::Status(status));
            }
            ("redirect", Some(value)) => {
                let good = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
                return if good {
                    Ok(Self::Redirect(value.into()))
                } else {
                    Err(format!("the location {value:?} is not a URL: write visible ASCII characters without spaces"))
                };
            }
            ("rejected", Some(value)) => {
                let (errcode, errmsg) = value.split_once(':').unwrap_or((value, ""));
                let errcode = errcode.parse().map_err(|_| {
                    format!("the error code {errcode:?} is not a whole number; write for example rejected=-1:busy")
                })?;
                return Ok(Self::Rejected { errcode, errmsg: errmsg.into() });
            }
            ("delay" | "status" | "redirect" | "rejected", None) => {
                return Err(format!("the fault {name:?} needs a value, for example delay=500ms, status=503"));
            }
            ("reset", None) => Self::Reset,
            ("half-body", None) => Self::HalfBody,
            ("html", None) => Self::Html,
            ("throttled", None) => Self::Throttled,
            ("oversized", None) => Self::Oversized,
            ("empty", None) => Self::Empty,
            ("missing-errcode", None) => Self::MissingErrcode,
            ("string-errcode", None) => Self::StringErrcode,
            ("echo", None) => Self::Echo,
            ("hang", None) => Self::Hang,
            _ => {
                return Err(format!(
                    "{text:?} is no fault; there are delay=DURATION, reset, half-body, html, throttled, status=CODE, \
                     redirect=URL, oversized, empty, missing-errcode, string-errcode, rejected=CODE:TEXT, echo, hang"
                ));
            }
        };
        Ok(fault)
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// For how many requests to the robot a fault stays. In text `3` or `always`, in JSON `3` or `"always"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// The next so many.
    Next(NonZeroU32),
    /// Until it is changed.
    Always,
}

impl Times {
    /// The next request only.
    pub const ONCE: Self = Self::Next(NonZeroU32::MIN);

    /// What is left after one request.
    pub(crate) fn less_one(self) -> Option<Self> {
        match self {
            Self::Next(times) => NonZeroU32::new(times.get() - 1).map(Self::Next),
            Self::Always => Some(Self::Always),
        }
    }
}

impl FromStr for Times {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self::Always),
            _ => text
                .parse()
                .map(Self::Next)
                .map_err(|_| format!("{text:?} is not a number of requests; write a number from 1, or \"always\"")),
        }
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// DingTalk's result for a refusal or, with code 0, a success.
pub(crate) fn result(errcode: i64, errmsg: &str) -> String {
    json!({"errcode": errcode, "errmsg": errmsg}).to_string()
}

/// The same with the code as a text.
pub(crate) fn string_result(errcode: i64, errmsg: &str) -> String {
    json!({"errcode": errcode.to_string(), "errmsg": errmsg}).to_string()
}

/// The page of [`Fault::Html`].
pub(crate) const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Too many requests</title></head>\
     <body><p>Your address has been blocked, please try again later.</p></body></html>\n";

/// The body of [`Fault::Throttled`]; members as DingTalk documents them, the identifier is made up.
pub(crate) fn throttled() -> String {
    json!({"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": "0123456789abcdef"}).to_string()
}

/// The body of [`Fault::Oversized`].
pub(crate) fn oversized() -> String {
    result(0, &"x".repeat(OVERSIZED))
}

/// The refusal of [`Fault::Echo`]. The code is the one for a parameter that DingTalk cannot use. Of the body, as much as
/// a message can have: a client that does not take its answer holds no more.
pub(crate) fn echo(url: &str, body: &[u8]) -> Refusal {
    let body = body.get(..MAX_BODY).unwrap_or(body);
    Refusal { errcode: 40_035, errmsg: format!("不合法的参数 {url} {}", String::from_utf8_lossy(body)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        for (text, fault) in [
            ("delay=500ms", Fault::Delay(Duration::from_millis(500))),
            ("reset", Fault::Reset),
            ("half-body", Fault::HalfBody),
            ("html", Fault::Html),
            ("throttled", Fault::Throttled),
            ("status=503", Fault::Status(503)),
            ("redirect=https://h/p?a=b", Fault::Redirect("https://h/p?a=b".into())),
            ("oversized", Fault::Oversized),
            ("empty", Fault::Empty),
            ("missing-errcode", Fault::MissingErrcode),
            ("string-errcode", Fault::StringErrcode),
            ("rejected=-1:a:b=c", Fault::Rejected { errcode: -1, errmsg: "a:b=c".into() }),
            ("echo", Fault::Echo),
            ("hang", Fault::Hang),
        ] {
            assert_eq!(text.parse(), Ok(fault.clone()), "{text}");
            assert_eq!(fault.to_string(), text);
            let json = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
        }
        assert_eq!("delay=1m1s".parse::<Fault>().unwrap().to_string(), "delay=61000ms");
        assert!(format!("rejected=1:{}", "x".repeat(8_181)).parse::<Fault>().is_ok());
        assert_eq!("rejected=88".parse(), Ok(Fault::Rejected { errcode: 88, errmsg: String::new() }));
    }

    #[test]
    fn anything_else_is_explained() {
        for (text, reason) in [
            ("", "is no fault; there are delay=DURATION, reset"),
            ("Reset", "is no fault"),
            ("reset=1", "is no fault"),
            ("delay", "needs a value"),
            ("delay=5", "is not a duration"),
            ("delay=3m", "at most 120s"),
            ("status=abc", "from 200 to 599"),
            ("status=101", "from 200 to 599"),
            ("status=600", "from 200 to 599"),
            ("redirect=", "is not a URL"),
            ("redirect=a\r\nb", "is not a URL"),
            ("rejected=x:y", "is not a whole number"),
            (&format!("rejected=1:{}", "x".repeat(8_182)), "at most 8192 bytes"),
        ] {
            let error = text.parse::<Fault>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn times() {
        assert_eq!("always".parse(), Ok(Times::Always));
        assert_eq!("1".parse(), Ok(Times::ONCE));
        assert_eq!(Times::ONCE.less_one(), None);
        assert_eq!("2".parse::<Times>().unwrap().less_one(), Some(Times::ONCE));
        assert_eq!(Times::Always.less_one(), Some(Times::Always));
        for wrong in ["0", "-1", "", "Always", "1.5"] {
            assert!(wrong.parse::<Times>().is_err(), "{wrong}");
        }
        for (json, good) in [("2", true), ("\"2\"", true), ("\"always\"", true), ("0", false), ("true", false)] {
            assert_eq!(serde_json::from_str::<Times>(json).is_ok(), good, "{json}");
        }
    }
}
