//! The application's answer to an event → what follows from it.

use std::borrow::Cow;

use bytes::Bytes;
use dingtalk_binding::{json, reply};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::Answer;

/// What an answer asks for.
#[derive(Debug)]
pub(super) enum Wish {
    /// Nothing to say.
    Nothing,
    /// A message for the conversation.
    Reply(Bytes),
    /// Data for other bindings, as Dapr documents it.
    Forward(Forward),
}

/// `{"to":[…],"data":…,"concurrency":…}`.
#[derive(Debug, Deserialize)]
pub(super) struct Forward {
    /// Names of output bindings; each gets the operation `create`.
    pub(super) to: Vec<String>,
    /// What they get, as it is written.
    #[serde(default)]
    pub(super) data: Option<Box<RawValue>>,
    /// One after the other, up to the first failure, unless this says `parallel`.
    #[serde(default)]
    pub(super) concurrency: Concurrency,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Concurrency {
    #[default]
    #[serde(alias = "SEQUENTIAL")]
    Sequential,
    #[serde(alias = "PARALLEL")]
    Parallel,
}

/// Reads an answer. The error names what is wrong with a reply, or with where to send data on.
pub(super) fn read(answer: &Answer) -> Result<Wish, String> {
    let Some(answer) = answer else { return Ok(Wish::Nothing) };
    let answer = match json::mended(answer) {
        Cow::Borrowed(_) => answer.clone(),
        Cow::Owned(mended) => mended.into(),
    };
    if reply::of(&answer).map_err(|reason| format!("the reply cannot be given: {reason}"))?.is_some() {
        return Ok(Wish::Reply(answer));
    }
    // An object only: a derived reader takes an array for the members in their order.
    let text = std::str::from_utf8(&answer).unwrap_or_default();
    let mut to = None;
    let read = json::members(text, &mut |name, value| {
        if json::is(name, "to") && value != "null" {
            to = Some(());
        }
    });
    if read.is_err() || to.is_none() {
        return Ok(Wish::Nothing);
    }
    let forward = serde_json::from_str(text).map(Wish::Forward);
    forward.map_err(|error| format!("the answer has \"to\", but cannot be sent on: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(answer: &str) -> Result<Wish, String> {
        read(&Some(Bytes::copy_from_slice(answer.as_bytes())))
    }

    #[test]
    fn replies_pass_as_they_are() {
        let text = r#" {"msgtype":"text", "text":{"content":"1\u0030"}}"#;
        assert!(matches!(wish(text), Ok(Wish::Reply(reply)) if reply == text));
        let error = wish(r#"{"msgtype":"text","text":{}}"#).unwrap_err();
        assert_eq!(error, "the reply cannot be given: text.content is missing or empty");
    }

    #[test]
    fn half_a_surrogate_pair_keeps_neither_a_reply_nor_data_back() {
        let mended = r#"{"msgtype":"text","text":{"content":"\ufffd"}}"#;
        let Ok(Wish::Reply(reply)) = wish(r#"{"msgtype":"text","text":{"content":"\ud800"}}"#) else {
            panic!("no reply");
        };
        assert_eq!(reply, mended);
        let Ok(Wish::Forward(forward)) = wish(r#"{"to":["a\ud800"],"data":"\udc00"}"#) else { panic!("not sent on") };
        assert_eq!((forward.to, forward.data.unwrap().get()), (vec!["a\u{fffd}".to_owned()], r#""\ufffd""#));
    }

    #[test]
    fn data_for_other_bindings() {
        let Ok(Wish::Forward(forward)) = wish(r#"{"to":["a","b"],"data":{"x": 1.0},"concurrency":"parallel"}"#) else {
            panic!("not sent on");
        };
        assert_eq!((forward.to, forward.concurrency), (vec!["a".to_owned(), "b".into()], Concurrency::Parallel));
        assert_eq!(forward.data.unwrap().get(), r#"{"x": 1.0}"#);
        let Ok(Wish::Forward(forward)) = wish(r#"{"to":[]}"#) else { panic!("not sent on") };
        assert_eq!((forward.concurrency, forward.data.is_none()), (Concurrency::Sequential, true));
        for wrong in [r#"{"to":"a"}"#, r#"{"to":[1]}"#, r#"{"to":["a"],"concurrency":"later"}"#] {
            assert!(wish(wrong).unwrap_err().starts_with("the answer has \"to\""), "{wrong}");
        }
    }

    #[test]
    fn anything_else_asks_for_nothing() {
        assert!(matches!(read(&None), Ok(Wish::Nothing)));
        for answer in ["", "ok", "{}", "[1]", r#"{"to":null}"#, r#"{"msgtype":"empty"}"#, "{\"to\":", "\u{0}"] {
            assert!(matches!(wish(answer), Ok(Wish::Nothing)), "{answer}");
        }
    }
}
