//! What a call's metadata says about its delivery, and the message that waits for it. Pure.

use std::time::Duration;

use bytes::Bytes;
use dingtalk_api::invoke;
use dingtalk_api::trace::TRACE;
use dingtalk_binding::contract;
use dingtalk_binding::duration;
use dingtalk_binding::json;
use dingtalk_binding::message::{self, Options};

use crate::fit::merge::Merged;
use crate::queue::outbox::{Message, Priority};
use crate::sandbox::Request;

/// Bytes of a conversation's name: one of DingTalk's has 64.
const LONGEST_CONVERSATION: usize = 256;

/// Bytes of a `msgUuid`, which is kept for a day, and of an item of a trace's context.
const LONGEST_UUID: usize = 256;
const LONGEST_TRACE: usize = 512;

/// A body that is longer is not stored: DingTalk takes 20,000 bytes, and a message that waits takes room from others.
const LONGEST_BODY: usize = 128 << 10;

/// Below that a message could expire before it is looked at.
const LEAST_EXPIRY: Duration = Duration::from_secs(1);

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It is posted, and its call waits for that.
    Direct,
    /// It waits in the outbox.
    Queued,
}

/// What a call asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) delivery: Option<Delivery>,
    conversation: String,
    priority: Priority,
    expires: Option<Duration>,
}

impl Wish {
    /// Reads request metadata. The error names the item and what it takes.
    pub(super) fn parse<'a>(metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut wish = Self::default();
        for (name, value) in metadata {
            // gRPC's clients cannot send capitals, and these have none.
            match name.to_ascii_lowercase().as_str() {
                "delivery" => {
                    wish.delivery = match value.trim() {
                        "" => None,
                        "direct" => Some(Delivery::Direct),
                        "queued" => Some(Delivery::Queued),
                        _ => return Err("metadata delivery is neither \"direct\" nor \"queued\"".into()),
                    }
                }
                "conversation" if value.len() > LONGEST_CONVERSATION => {
                    return Err(format!("metadata conversation has more than {LONGEST_CONVERSATION} bytes"));
                }
                "conversation" => value.clone_into(&mut wish.conversation),
                "priority" => {
                    wish.priority = Priority::parse(value).map_err(|reason| format!("metadata priority {reason}"))?;
                }
                "expires" => {
                    let after = duration::parse(value.trim()).ok().filter(|after| *after >= LEAST_EXPIRY);
                    let wrong = "metadata expires is not a time of 1s or more; write for example \"10m\"";
                    wish.expires = Some(after.ok_or(wrong)?);
                }
                _ => {}
            }
        }
        Ok(wish)
    }

    /// Whether it may use what is reserved of the month's allowance.
    pub(super) fn is_urgent(&self) -> bool {
        self.priority == Priority::High
    }
}

/// `request` with a `msgUuid`, so that it can be posted again whatever became of it: its own, or a new one.
pub(super) fn with_uuid(mut request: Request, uuid: impl FnOnce() -> String) -> Request {
    if !invoke::has_uuid(&request) {
        request.metadata.push(("msgUuid".into(), uuid()));
    }
    request
}

/// What is stored of `request`, of which `wish` was read. The error says what is wrong with its message.
pub(super) fn message(binding: &str, request: Request, wish: &Wish) -> Result<Message, String> {
    let options = Options::parse(contract::pairs(&request.metadata))?;
    let body = message::shape(&request.data, &options)?;
    let uuid = uuid_of(&body).ok_or("its msgUuid is blank; write one, for example \"msgUuid\": \"order-17\"")?;
    if uuid.len() > LONGEST_UUID {
        return Err(format!(
            "its msgUuid has {} bytes, and can have {LONGEST_UUID} where it waits; make it shorter",
            uuid.len()
        ));
    }
    if body.len() > LONGEST_BODY {
        return Err(format!(
            "it has {} bytes, and DingTalk takes 20,000; make it shorter, or write tooLong: split",
            body.len()
        ));
    }
    let is_trace = |(name, value): &(String, String)| TRACE.contains(&name.as_str()) && value.len() <= LONGEST_TRACE;
    Ok(Message {
        binding: binding.to_owned(),
        body: Bytes::from(body),
        uuid,
        conversation: wish.conversation.clone(),
        priority: wish.priority,
        expires: wish.expires,
        trace: request.metadata.into_iter().filter(is_trace).collect(),
    })
}

/// The message that stands for several, with its own `msgUuid`, and how many they are.
pub(super) fn united(merged: Merged, uuid: String) -> Result<(Bytes, usize), String> {
    let options = Options::parse([("msgUuid", uuid.as_str())])?;
    Ok((Bytes::from(message::shape(&merged.body, &options)?), merged.count))
}

fn uuid_of(body: &[u8]) -> Option<String> {
    let [raw] = json::find(std::str::from_utf8(json::without_mark(body)).ok()?, ["msgUuid"]).ok()?;
    let raw = raw?;
    // A number is what it is written as: DingTalk may take it for a text.
    let uuid = serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned());
    Some(uuid).filter(|uuid| !uuid.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(data: &str, metadata: &[(&str, &str)]) -> Request {
        let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request { operation: "create".into(), data: data.into(), metadata }
    }

    #[test]
    fn a_call_says_how_it_is_to_be_delivered() {
        let wish = |items: &[(&'static str, &'static str)]| Wish::parse(items.iter().copied());
        assert_eq!(wish(&[("traceparent", "x"), ("title", "y")]), Ok(Wish::default()));
        let all =
            wish(&[("Delivery", "queued"), ("conversation", "c"), ("PRIORITY", "high"), ("expires", "10m")]).unwrap();
        assert!(all.is_urgent());
        let expires = Some(Duration::from_secs(600));
        let (delivery, conversation) = (Some(Delivery::Queued), "c".into());
        assert_eq!(all, Wish { delivery, conversation, priority: Priority::High, expires });
        for (name, value, says) in [
            ("delivery", "later", "neither \"direct\" nor \"queued\""),
            ("priority", "urgent", "none of \"high\""),
            ("expires", "soon", "not a time"),
            ("expires", "10ms", "1s or more"),
        ] {
            let error = wish(&[(name, value)]).unwrap_err();
            assert!(error.starts_with("metadata ") && error.contains(says) && !error.contains(value), "{error}");
        }
    }

    #[test]
    fn what_is_stored_has_an_id_its_own_or_a_new_one() {
        let stored = |data: &str, metadata: &[(&str, &str)]| {
            message("team", with_uuid(request(data, metadata), || "new".into()), &Wish::default())
        };
        let body = |message: &Message| String::from_utf8(message.body.to_vec()).unwrap();
        let made = stored("hello", &[("traceparent", "t")]).unwrap();
        assert_eq!((made.uuid.as_str(), made.trace.len()), ("new", 1));
        assert!(body(&made).contains("\"msgUuid\":\"new\"") && body(&made).contains("hello"));
        let own = r#"{"msgtype":"text","text":{"content":"a"},"msgUuid":"mine"}"#;
        let kept = stored(own, &[]).unwrap();
        assert_eq!((kept.uuid.as_str(), body(&kept).as_str()), ("mine", own), "byte for byte");
        assert_eq!(stored("a", &[("MSGUUID", "theirs")]).unwrap().uuid, "theirs");
        assert_eq!(stored(r#"{"msgUuid":17000}"#, &[]).unwrap().uuid, "17000");
        assert!(stored("", &[]).is_err(), "what is no message is not stored");
    }
}
