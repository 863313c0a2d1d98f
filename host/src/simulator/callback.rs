//! The request in which DingTalk passes a message on: signed as it should be, or forged on request.
//!
//! Pure: a request is headers and bytes, so that what each forgery looks like is tested without a socket.
//!
//! DingTalk's signature covers the time and nothing else. Some forgeries are therefore valid by its rules, and
//! only a receiver that looks further can tell: [`Forgery::SwappedBody`], [`Forgery::WrongRobot`].
//!
//! Source: DingTalk open platform, "receive messages" of robots. For the `token` header, which custom robots
//! with Outgoing have instead, there are only other receivers' sources; it is not confirmed.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use dingtalk_binding::secret::Secret;
use dingtalk_binding::signature;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// What somebody else than DingTalk would send, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgery {
    /// `wrong-key`: signed with another secret, or with another token.
    WrongKey,
    /// `old-timestamp`: rightly signed, too long ago.
    OldTimestamp,
    /// `future-timestamp`: rightly signed, for later.
    FutureTimestamp,
    /// `replay`: the last genuine callback once more, byte for byte.
    Replay,
    /// `repeated-timestamp`: the header twice, both times with the same right value. A receiver and what stands
    /// in front of it may each read another one.
    RepeatedTimestamp,
    /// `repeated-sign`: the same with the signature.
    RepeatedSign,
    /// `swapped-body`: headers of the last genuine callback, another body. Valid by DingTalk's rules within the
    /// hour.
    SwappedBody,
    /// `oversized-body`: rightly signed, and very long.
    OversizedBody,
    /// `unsigned`: neither timestamp, signature nor token.
    Unsigned,
    /// `seconds`: the timestamp in seconds, and signed so.
    Seconds,
    /// `wrong-robot`: rightly signed, for another `robotCode` and `chatbotCorpId`.
    WrongRobot,
    /// `truncated-body`: the first half of the body, as if that were all.
    TruncatedBody,
    /// `not-json`: a form.
    NotJson,
    /// `wrong-content-type`: the right body as `text/plain`.
    WrongContentType,
    /// `unpadded-sign`: the signature without its last `=`: the same bytes in another text.
    UnpaddedSign,
    /// `lower-case-sign`: the signature in lower case, as after a careless comparison.
    LowerCaseSign,
}

impl Forgery {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::WrongKey,
        Self::OldTimestamp,
        Self::FutureTimestamp,
        Self::Replay,
        Self::RepeatedTimestamp,
        Self::RepeatedSign,
        Self::SwappedBody,
        Self::OversizedBody,
        Self::Unsigned,
        Self::Seconds,
        Self::WrongRobot,
        Self::TruncatedBody,
        Self::NotJson,
        Self::WrongContentType,
        Self::UnpaddedSign,
        Self::LowerCaseSign,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::WrongKey => "wrong-key",
            Self::OldTimestamp => "old-timestamp",
            Self::FutureTimestamp => "future-timestamp",
            Self::Replay => "replay",
            Self::RepeatedTimestamp => "repeated-timestamp",
            Self::RepeatedSign => "repeated-sign",
            Self::SwappedBody => "swapped-body",
            Self::OversizedBody => "oversized-body",
            Self::Unsigned => "unsigned",
            Self::Seconds => "seconds",
            Self::WrongRobot => "wrong-robot",
            Self::TruncatedBody => "truncated-body",
            Self::NotJson => "not-json",
            Self::WrongContentType => "wrong-content-type",
            Self::UnpaddedSign => "unpadded-sign",
            Self::LowerCaseSign => "lower-case-sign",
        }
    }

    /// Whether it is about time or signature, which a token has neither of.
    fn needs_signature(self) -> bool {
        matches!(
            self,
            Self::OldTimestamp
                | Self::FutureTimestamp
                | Self::RepeatedTimestamp
                | Self::RepeatedSign
                | Self::Seconds
                | Self::UnpaddedSign
                | Self::LowerCaseSign
        )
    }

    /// Whether it is made of an earlier callback.
    pub(crate) fn needs_previous(self) -> bool {
        matches!(self, Self::Replay | Self::SwappedBody)
    }

    /// Why it cannot be made with these credentials, and what to do.
    pub(crate) fn check(self, credentials: &Credentials) -> Result<(), String> {
        match credentials {
            Credentials::Token(_) if self.needs_signature() => Err(format!(
                "{self} is about timestamp and signature, and this robot sends a token instead; give it an app \
                 secret (--app-secret)"
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Forgery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Forgery {
    type Err = String;

    /// The error is a sentence that says what to write.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|forgery| forgery.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no forgery; there are {names}")
        })
    }
}

impl<'de> Deserialize<'de> for Forgery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a callback proves its origin with.
#[derive(Debug, Clone)]
pub(crate) enum Credentials {
    /// An app's secret: timestamp and signature.
    Secret(Secret),
    /// A custom robot's token, as it is.
    Token(Secret),
}

impl Credentials {
    fn headers(&self, timestamp: u64) -> Vec<(&'static str, String)> {
        match self {
            Self::Secret(secret) => {
                let sign = signature::sign(secret.expose(), timestamp);
                vec![(TIMESTAMP, timestamp.to_string()), (SIGN, sign)]
            }
            Self::Token(token) => vec![(TOKEN, token.expose().to_owned())],
        }
    }

    /// Somebody else's.
    fn wrong(&self) -> Self {
        let other = |secret: &Secret| Secret::new(format!("not-{}", secret.expose()));
        match self {
            Self::Secret(secret) => Self::Secret(other(secret)),
            Self::Token(token) => Self::Token(other(token)),
        }
    }
}

const TIMESTAMP: &str = "timestamp";
const SIGN: &str = "sign";
const TOKEN: &str = "token";

/// Whether a header's value must not be seen.
pub(crate) fn is_secret(header: &str) -> bool {
    header == SIGN || header == TOKEN
}

/// A request to the callback URL, complete but for what HTTP itself adds. No `Debug`: it holds signatures.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Callback {
    pub(crate) content_type: &'static str,
    /// In order; a name can occur twice.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// What follows it.
    pub(crate) blanks: usize,
}

/// As DingTalk sends it at `now`.
pub(crate) fn genuine(credentials: &Credentials, body: &Map<String, Value>, now: u64) -> Callback {
    let (headers, body) = (credentials.headers(now), bytes(body));
    Callback { content_type: "application/json; charset=utf-8", headers, body, blanks: 0 }
}

/// What a forgery is made with.
pub(crate) struct Means<'a> {
    pub(crate) credentials: &'a Credentials,
    /// The last genuine callback.
    pub(crate) previous: Option<&'a Callback>,
    /// How far old and future timestamps are away, in milliseconds.
    pub(crate) skew_ms: u64,
    /// How many bytes an oversized body has.
    pub(crate) size: usize,
}

/// As somebody else sends it at `now`. Without the previous callback that it needs, and with credentials that
/// [`Forgery::check`] refuses, it is a genuine one.
pub(crate) fn forged(forgery: Forgery, means: &Means<'_>, body: &Map<String, Value>, now: u64) -> Callback {
    let Means { credentials, previous, skew_ms, size } = *means;
    let mut callback = genuine(credentials, body, now);
    let twice = |callback: &mut Callback, name: &str| {
        let again: Vec<_> = callback.headers.iter().filter(|(known, _)| *known == name).cloned().collect();
        callback.headers.extend(again);
    };
    let respell = |callback: &mut Callback, spell: fn(&str) -> String| {
        for (_, sign) in callback.headers.iter_mut().filter(|(name, _)| *name == SIGN) {
            *sign = spell(sign);
        }
    };
    match forgery {
        Forgery::WrongKey => callback.headers = credentials.wrong().headers(now),
        Forgery::OldTimestamp => callback.headers = credentials.headers(now.saturating_sub(skew_ms)),
        Forgery::FutureTimestamp => callback.headers = credentials.headers(now.saturating_add(skew_ms)),
        Forgery::Replay => callback = previous.cloned().unwrap_or(callback),
        Forgery::RepeatedTimestamp => twice(&mut callback, TIMESTAMP),
        Forgery::RepeatedSign => twice(&mut callback, SIGN),
        Forgery::SwappedBody => {
            callback.headers = previous.map_or(callback.headers, |previous| previous.headers.clone());
        }
        Forgery::OversizedBody => {
            // Blanks after the object: nothing but its size is wrong with it.
            callback.blanks = size.saturating_sub(callback.body.len());
        }
        Forgery::Unsigned => callback.headers.clear(),
        Forgery::Seconds => callback.headers = credentials.headers(now / 1_000),
        Forgery::WrongRobot => {
            let mut other = body.clone();
            other.insert("robotCode".to_owned(), json!("another-robot"));
            other.insert("chatbotCorpId".to_owned(), json!("another-corporation"));
            callback.body = bytes(&other);
        }
        Forgery::TruncatedBody => callback.body.truncate(callback.body.len() / 2),
        Forgery::NotJson => callback.body = Bytes::from_static(b"msgtype=text&content=hello"),
        Forgery::WrongContentType => callback.content_type = "text/plain; charset=utf-8",
        Forgery::UnpaddedSign => respell(&mut callback, |sign| sign.trim_end_matches('=').to_owned()),
        Forgery::LowerCaseSign => respell(&mut callback, str::to_ascii_lowercase),
    }
    callback
}

fn bytes(body: &Map<String, Value>) -> Bytes {
    Value::Object(body.clone()).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// github.com/eryajf/chatgpt-dingtalk 3766c24, public/tools_test.go.
    const NOW: u64 = 1_684_493_546_276;
    const SECRET: &str = "client-secret-for-test";
    const SIGNATURE: &str = "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=";

    fn secret() -> Credentials {
        Credentials::Secret(Secret::new(SECRET))
    }

    fn token() -> Credentials {
        Credentials::Token(Secret::new("T0KEN"))
    }

    fn body(text: &str) -> Map<String, Value> {
        json!({"msgId": text, "robotCode": "r", "chatbotCorpId": "c"}).as_object().unwrap().clone()
    }

    fn forge(forgery: Forgery, credentials: &Credentials, previous: Option<&Callback>) -> Callback {
        let means = Means { credentials, previous, skew_ms: 3_600_001, size: 100 };
        forged(forgery, &means, &body("new"), NOW)
    }

    fn headers(callback: &Callback) -> Vec<(&str, &str)> {
        callback.headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    #[test]
    fn a_genuine_callback_has_the_published_signature() {
        let callback = genuine(&secret(), &body("x"), NOW);
        assert_eq!(headers(&callback), [("timestamp", "1684493546276"), ("sign", SIGNATURE)]);
        assert_eq!(callback.content_type, "application/json; charset=utf-8");
        assert_eq!(callback.body, r#"{"chatbotCorpId":"c","msgId":"x","robotCode":"r"}"#);
        assert_eq!(headers(&genuine(&token(), &body("x"), NOW)), [("token", "T0KEN")]);
    }

    #[test]
    fn only_what_is_forged_differs() {
        let genuine = genuine(&secret(), &body("new"), NOW);
        let verifies = |callback: &Callback, secret: &str| {
            let of = |name| callback.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
            signature::verify(secret, of("timestamp").unwrap(), of("sign").unwrap().as_bytes())
        };
        for forgery in Forgery::ALL {
            let callback = forge(forgery, &secret(), None);
            let same = (
                callback.content_type == genuine.content_type,
                callback.headers == genuine.headers,
                (&callback.body, callback.blanks) == (&genuine.body, 0),
            );
            let expected = match forgery {
                Forgery::Replay | Forgery::SwappedBody => (true, true, true),
                Forgery::WrongContentType => (false, true, true),
                Forgery::OversizedBody | Forgery::WrongRobot | Forgery::TruncatedBody | Forgery::NotJson => {
                    (true, true, false)
                }
                _ => (true, false, true),
            };
            assert_eq!(same, expected, "{forgery}");
        }
        let wrong = forge(Forgery::WrongKey, &secret(), None);
        assert_eq!(headers(&wrong)[0], ("timestamp", "1684493546276"));
        assert!(!verifies(&wrong, SECRET) && verifies(&wrong, "not-client-secret-for-test"));
        for (forgery, timestamp) in [
            (Forgery::OldTimestamp, "1684489946275"),
            (Forgery::FutureTimestamp, "1684497146277"),
            (Forgery::Seconds, "1684493546"),
        ] {
            let callback = forge(forgery, &secret(), None);
            assert_eq!(headers(&callback)[0], ("timestamp", timestamp));
            assert!(verifies(&callback, SECRET), "{forgery}");
        }
        let (time, sign) = (("timestamp", "1684493546276"), ("sign", SIGNATURE));
        assert_eq!(headers(&forge(Forgery::RepeatedTimestamp, &secret(), None)), [time, sign, time]);
        assert_eq!(headers(&forge(Forgery::RepeatedSign, &secret(), None)), [time, sign, sign]);
        assert_eq!(headers(&forge(Forgery::Unsigned, &secret(), None)), []);
        let unpadded = ("sign", SIGNATURE.trim_end_matches('='));
        assert_eq!(headers(&forge(Forgery::UnpaddedSign, &secret(), None))[1], unpadded);
        let lower = SIGNATURE.to_lowercase();
        assert_eq!(headers(&forge(Forgery::LowerCaseSign, &secret(), None))[1], ("sign", lower.as_str()));
    }

    #[test]
    fn forged_bodies() {
        let long = forge(Forgery::OversizedBody, &secret(), None);
        let long = [&long.body[..], &vec![b' '; long.blanks]].concat();
        assert_eq!(long.len(), 100);
        let read: Value = serde_json::from_slice(&long).unwrap();
        assert_eq!(read, Value::Object(body("new")));
        let other: Value = serde_json::from_slice(&forge(Forgery::WrongRobot, &secret(), None).body).unwrap();
        assert_eq!(
            other,
            json!({"msgId": "new", "robotCode": "another-robot", "chatbotCorpId": "another-corporation"})
        );
        for forgery in [Forgery::TruncatedBody, Forgery::NotJson] {
            let body = forge(forgery, &secret(), None).body;
            assert!(!body.is_empty() && serde_json::from_slice::<Value>(&body).is_err(), "{forgery}");
        }
    }

    #[test]
    fn some_are_made_of_the_previous_callback() {
        let previous = genuine(&secret(), &body("previous"), NOW - 5_000);
        assert!(forge(Forgery::Replay, &secret(), Some(&previous)) == previous);
        let swapped = forge(Forgery::SwappedBody, &secret(), Some(&previous));
        assert_eq!(swapped.headers, previous.headers);
        assert!(swapped.body != previous.body && swapped.body == bytes(&body("new")));
    }

    #[test]
    fn a_token_has_neither_time_nor_signature() {
        assert_eq!(headers(&forge(Forgery::WrongKey, &token(), None)), [("token", "not-T0KEN")]);
        assert_eq!(headers(&forge(Forgery::Unsigned, &token(), None)), []);
        for forgery in Forgery::ALL {
            assert!(forgery.check(&secret()).is_ok());
            // What changes nothing about a token must not pass for a forgery.
            let callback = forge(forgery, &token(), None);
            let unchanged = callback == genuine(&token(), &body("new"), NOW) && !forgery.needs_previous();
            assert_eq!(forgery.check(&token()).is_err(), unchanged, "{forgery}");
        }
        let error = Forgery::Seconds.check(&token()).unwrap_err();
        assert!(error.contains("--app-secret") && !error.contains("T0KEN"), "{error}");
    }

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for forgery in Forgery::ALL {
            assert_eq!(forgery.to_string().parse(), Ok(forgery));
        }
        let error = "magic".parse::<Forgery>().unwrap_err();
        assert!(error.contains("there are wrong-key, old-timestamp, "), "{error}");
    }
}
