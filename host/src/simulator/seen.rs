//! What can be seen of a simulator from outside: the group's messages, and the counters.

use std::collections::BTreeMap;

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
