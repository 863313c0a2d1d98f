//! What can be seen of a simulator from outside: the group's messages, and the counters.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use serde_json::value::RawValue;

/// How a message came to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Sent to `/robot/send`.
    Webhook,
    /// In the answer to a callback.
    Reply,
    /// Sent to the `sessionWebhook` of a callback.
    Session,
}

/// A message that the group sees.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// 1 for the first message, and so on; not reset by deleting messages.
    pub sequence: u64,
    /// In milliseconds since the Unix epoch.
    pub received_at: u64,
    /// How it came.
    pub via: Via,
    /// "text", "link", "markdown", "actionCard" or "feedCard".
    pub msgtype: &'static str,
    /// The body as it was received, byte for byte.
    pub message: Box<RawValue>,
    /// The sender's key against duplicates.
    pub msg_uuid: Option<String>,
    /// As the group shows it; no control characters except line breaks.
    pub shown: String,
    /// Whether a signature was checked; false where the robot has no secret.
    pub signed: bool,
}

impl Message {
    /// What it takes to keep it, about.
    fn size(&self) -> usize {
        let uuid = self.msg_uuid.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.message.get().len() + self.shown.len() + uuid
    }
}

/// How many messages are kept.
const MAX_MESSAGES: usize = 10_000;
/// How many bytes they may have together: at least the last hundred messages, however long.
const MAX_BYTES: usize = 32 << 20;

/// The last messages of the group, in the order of their sequence.
#[derive(Default)]
pub(super) struct Messages {
    kept: VecDeque<Message>,
    bytes: usize,
}

impl Messages {
    /// Adds one; the oldest go where there is no room.
    pub(super) fn push(&mut self, message: Message) {
        self.bytes += message.size();
        self.kept.push_back(message);
        while self.kept.len() > MAX_MESSAGES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.size());
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// From this sequence on.
    pub(super) fn since(&self, sequence: u64) -> impl Iterator<Item = &Message> {
        self.kept.range(self.kept.partition_point(|message| message.sequence < sequence)..)
    }

    /// The sequence of the last one; 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.kept.back().map_or(0, |message| message.sequence)
    }
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// TCP connections accepted, those for reading messages included.
    pub connections: u64,
    /// Requests to the robot, those to a `sessionWebhook` included.
    pub requests: u64,
    /// Messages of these requests that the group saw.
    pub accepted: u64,
    /// Messages with the `msgUuid` of an earlier one.
    pub repeated: u64,
    /// Requests that met a fault, whatever else became of them.
    pub faults: u64,
    /// Requests that the robot refused, by error code.
    pub rejected: BTreeMap<i64, u64>,
    /// Messages to the receiver of callbacks, forgeries included.
    pub callbacks: u64,
    /// Attempts to deliver them.
    pub callback_attempts: u64,
    /// Callbacks that the receiver refused for good: a status that is neither success nor a reason to retry.
    pub callback_refused: u64,
    /// Replies that the group saw.
    pub replies: u64,
    /// Replies that are no message.
    pub replies_refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(messages: &mut Messages, sequence: u64, shown: String) {
        messages.push(Message {
            sequence,
            received_at: 0,
            via: Via::Webhook,
            msgtype: "text",
            message: RawValue::NULL.to_owned(),
            msg_uuid: None,
            shown,
            signed: false,
        });
    }

    fn sequences(messages: &Messages) -> (Option<u64>, u64, usize) {
        (messages.since(0).next().map(|message| message.sequence), messages.last(), messages.since(0).count())
    }

    #[test]
    fn as_many_are_kept_as_have_room_by_number_and_by_bytes() {
        let mut messages = Messages::default();
        assert_eq!(sequences(&messages), (None, 0, 0));
        (1..=10_001).for_each(|sequence| push(&mut messages, sequence, String::new()));
        assert_eq!(sequences(&messages), (Some(2), 10_001, 10_000));
        assert_eq!(messages.since(9_000).next().unwrap().sequence, 9_000);
        (10_002..=10_101).for_each(|sequence| push(&mut messages, sequence, "x".repeat(1 << 20)));
        assert_eq!(sequences(&messages), (Some(10_071), 10_101, 31));
        messages.clear();
        assert_eq!(sequences(&messages), (None, 0, 0));
        (1..=31).for_each(|sequence| push(&mut messages, sequence, "x".repeat(1 << 20)));
        assert_eq!(sequences(&messages), (Some(1), 31, 31), "clearing makes room");
    }
}
