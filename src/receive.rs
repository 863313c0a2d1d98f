//! One callback from request to reply, without what happens outside: [`receive`] says what to hand to the handler,
//! [`answer`] what DingTalk is answered after that.

use alloc::vec::Vec;

use crate::contract::{Event, Reply};
use crate::error::{HandlerError, ReceiveError, Refusal};
use crate::settings::Settings;
use crate::{callback, json, reply};

/// The message to hand to the handler, of a callback at `now` to a binding that is `reading` or not.
pub fn receive<'h>(
    settings: &Settings,
    reading: bool,
    headers: impl Iterator<Item = (&'h str, &'h [u8])> + Clone,
    mut body: Vec<u8>,
    now: u64,
) -> Result<Event, ReceiveError> {
    let metadata = callback::accept(&settings.callbacks, headers, &body, now).map_err(ReceiveError::Refused)?;
    // After the check, so that nobody learns without a signature whether anything reads.
    if !reading {
        return Err(ReceiveError::NotReading(settings.id.clone()));
    }
    json::mend(&mut body);
    Ok(Event { id: settings.id.clone(), data: body, metadata: metadata.0 })
}

/// What DingTalk is answered after the handler has.
pub fn answer(settings: &Settings, handled: Result<Option<Vec<u8>>, HandlerError>) -> Result<Reply, ReceiveError> {
    let answer = handled.map_err(|error| match error {
        HandlerError::Failed(reason) => ReceiveError::HandlerFailed(reason),
        HandlerError::NotReading => ReceiveError::NotReading(settings.id.clone()),
        HandlerError::Reused => ReceiveError::Refused(Refusal::Reused),
    })?;
    // A mistake in a reply was the handler's to report; DingTalk posts nothing.
    let reply = answer.as_deref().and_then(|answer| reply::of(answer).ok().flatten()).unwrap_or(reply::EMPTY);
    let mut body = reply.as_bytes().to_vec();
    json::mend(&mut body);
    Ok(Reply { status: 200, content_type: "application/json".into(), body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;
    use alloc::string::String;

    use crate::operation::is_called;

    const SECRET: &str = "client-secret-for-test";
    const TIME: u64 = 1_684_493_546_276;
    const SIGN: &str = "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU=";
    const JSON: (&str, &str) = ("Content-Type", "application/json; charset=utf-8");

    fn settings() -> Settings {
        Settings::parse([("id", "team"), ("url", "https://h/p"), ("appSecret", SECRET)]).unwrap()
    }

    fn received(sign: &str, reading: bool, body: &[u8]) -> Result<Event, ReceiveError> {
        let headers = [JSON, ("timestamp", "1684493546276"), ("sign", sign)];
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        receive(&settings(), reading, headers, body.to_vec(), TIME)
    }

    #[test]
    fn nobody_learns_without_a_signature_whether_anything_reads() {
        for reading in [true, false] {
            let forged = received("bm8=", reading, b"{}");
            assert_eq!(forged, Err(ReceiveError::Refused(Refusal::BadSignature)), "{reading}");
        }
        assert_eq!(received(SIGN, false, b"{}"), Err(ReceiveError::NotReading("team".into())));
        let event = received(SIGN, true, br#"{"msgId":"1","x":"\ud800"}"#).unwrap();
        assert_eq!(event.id, "team");
        assert_eq!(event.metadata, [("msgId".to_owned(), "1".to_owned())]);
        assert_eq!(event.data, br#"{"msgId":"1","x":"\ufffd"}"#);
    }

    #[test]
    fn no_callback_can_be_taken_for_what_a_caller_says() {
        let body = br#"{"msgId":"1","msgtype":"text","operation":"get","text":{"content":"x","operation":"get"}}"#;
        let event = received(SIGN, true, body).unwrap();
        assert!(event.metadata.len() == 3 && !is_called(&event), "{event:?}");
    }

    #[test]
    fn dingtalk_is_answered_with_a_message_or_with_nothing() {
        let answered = |message: Option<&str>| {
            let reply = answer(&settings(), Ok(message.map(|message| message.as_bytes().to_vec()))).unwrap();
            assert_eq!((reply.status, reply.content_type.as_str()), (200, "application/json"));
            String::from_utf8(reply.body).unwrap()
        };
        for nothing in [None, Some(""), Some("{}"), Some(r#"{"msgtype":"text"}"#), Some(reply::EMPTY)] {
            assert_eq!(answered(nothing), reply::EMPTY, "{nothing:?}");
        }
        let message = r#"{"msgtype":"text","text":{"content":"pong"}}"#;
        assert_eq!(answered(Some(message)), message);
        let half = r#"{"msgtype":"text","text":{"content":"pong \udfff"}}"#;
        assert_eq!(answered(Some(half)), half.replace("udfff", "ufffd"));
        for (error, expected) in [
            (HandlerError::Failed("no".into()), ReceiveError::HandlerFailed("no".into())),
            (HandlerError::NotReading, ReceiveError::NotReading("team".into())),
            (HandlerError::Reused, ReceiveError::Refused(Refusal::Reused)),
        ] {
            assert_eq!(answer(&settings(), Err(error)), Err(expected));
        }
    }
}
