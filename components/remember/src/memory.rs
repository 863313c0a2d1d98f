//! What is kept of a message, where, and what it says of the next one.
//!
//! Stores have no end of life for a key, so there are only so many keys: a message has the one that its identifier
//! leads to, and takes it from an older one. Whoever sends millions of messages makes us forget, never grow.

use dingtalk_binding::contract::Event;
use dingtalk_binding::operation::is_called;
use sha2::{Digest, Sha256};

/// Keys of one binding. At one message a second, the message before a repetition an hour later is forgotten in one of
/// 18 cases.
const SLOTS: u32 = 1 << 16;

/// The longest answer that is kept: a reply of DingTalk's has 20,000 bytes at most.
const MAX_ANSWER: usize = 32 << 10;

const HASH: usize = 32;

/// What an entry begins with, so that a later form can be told apart.
const FORM: u8 = 1;

/// A message that can be known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it is kept.
    pub key: String,
    id: [u8; HASH],
    body: [u8; HASH],
}

/// What is known of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it has not come, or is forgotten.
    Nothing,
    /// It has come, and was answered with this.
    Answered(Option<Vec<u8>>),
    /// Its identifier has come with another body.
    Another,
}

impl Message {
    /// One of DingTalk's with an identifier: without, a message cannot be told from another one that says the same. What the
    /// caller of "get" names is no message of DingTalk's, and must not take the place of one.
    pub fn of(event: &Event) -> Option<Self> {
        if is_called(event) {
            return None;
        }
        let (_, id) = event.metadata.iter().find(|(name, value)| name == "msgId" && !value.trim().is_empty())?;
        let id: [u8; HASH] = Sha256::digest(id.as_bytes()).into();
        let [a, b, c, d, ..] = id;
        let slot = u32::from_be_bytes([a, b, c, d]) % SLOTS;
        // Of its binding alone: nobody else can take its place. A name of any length and kind makes a key that every
        // store takes.
        let [e, f, g, h, i, j, k, l, ..]: [u8; HASH] = Sha256::digest(event.id.as_bytes()).into();
        let binding = u64::from_be_bytes([e, f, g, h, i, j, k, l]);
        let key = format!("dingtalk.{binding:016x}.{slot:04x}");
        Some(Self { key, id, body: Sha256::digest(&event.data).into() })
    }

    /// What `entry`, which was kept under the key, says of this message.
    pub fn known(&self, entry: Option<&[u8]>) -> Known {
        let Some((&FORM, rest)) = entry.and_then(<[u8]>::split_first) else { return Known::Nothing };
        let Some((id, rest)) = rest.split_at_checked(HASH) else { return Known::Nothing };
        let Some((body, answer)) = rest.split_at_checked(HASH) else { return Known::Nothing };
        if id != self.id {
            return Known::Nothing;
        }
        if body != self.body {
            return Known::Another;
        }
        Known::Answered(Some(answer.to_vec()).filter(|answer| !answer.is_empty()))
    }

    /// What is kept once it was answered. An answer that is too long for a reply is none when the message comes again.
    pub fn entry(&self, answer: Option<&[u8]>) -> Vec<u8> {
        let answer = answer.filter(|answer| answer.len() <= MAX_ANSWER).unwrap_or_default();
        [&[FORM], &self.id[..], &self.body[..], answer].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(id: &str, msg_id: Option<&str>, data: &[u8]) -> Event {
        let metadata = msg_id.map(|msg_id| ("msgId".to_owned(), msg_id.to_owned())).into_iter().collect();
        Event { id: id.into(), data: data.to_vec(), metadata }
    }

    fn message(id: &str, msg_id: &str, data: &[u8]) -> Message {
        Message::of(&event(id, Some(msg_id), data)).unwrap()
    }

    #[test]
    fn what_has_no_identifier_cannot_be_known_again() {
        for msg_id in [None, Some(""), Some(" ")] {
            assert_eq!(Message::of(&event("team", msg_id, b"x")), None);
        }
    }

    #[test]
    fn a_copy_gets_the_answer_and_another_body_is_another_message() {
        let first = message("team", "m1", b"hello");
        for answer in [None, Some(&b"pong"[..])] {
            let entry = first.entry(answer);
            assert_eq!(first.known(Some(&entry)), Known::Answered(answer.map(<[u8]>::to_vec)));
            assert_eq!(message("team", "m1", b"evil").known(Some(&entry)), Known::Another);
            assert_eq!(message("team", "m2", b"hello").known(Some(&entry)), Known::Nothing);
        }
        assert_eq!(first.known(None), Known::Nothing);
    }

    #[test]
    fn the_same_message_of_another_binding_has_a_place_of_its_own() {
        assert_ne!(message("team", "m1", b"x").key, message("other", "m1", b"x").key);
    }

    #[test]
    fn messages_take_no_more_keys_than_there_are() {
        let keys: std::collections::HashSet<_> =
            (0..400_000).map(|number| message("team", &number.to_string(), b"").key).collect();
        assert!(keys.len() <= SLOTS as usize, "{}", keys.len());
        assert!(keys.len() > SLOTS as usize * 9 / 10, "they are not spread: {}", keys.len());
        let longest = first_entry();
        assert!(longest <= MAX_ANSWER + 2 * HASH + 1, "{longest}");
    }

    fn first_entry() -> usize {
        let message = message("team", "m1", b"x");
        [0, 1, MAX_ANSWER, MAX_ANSWER + 1, 1 << 20]
            .map(|length| message.entry(Some(&vec![b'x'; length])).len())
            .into_iter()
            .max()
            .unwrap()
    }

    proptest! {
        #[test]
        fn what_somebody_else_has_put_there_is_no_memory(entry: Vec<u8>) {
            let known = message("team", "m1", b"x").known(Some(&entry));
            prop_assert_eq!(known, Known::Nothing);
        }

        #[test]
        fn keys_are_letters_digits_and_dots(id: String, msg_id in "\\PC+") {
            if let Some(message) = Message::of(&event(&id, Some(&msg_id), b"")) {
                prop_assert!(message.key.len() < 40);
                prop_assert!(message.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.'), "{}", message.key);
            }
        }
    }
}
