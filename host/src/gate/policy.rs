//! What a binding's file says about its gate.

use std::sync::Arc;

use super::quota::Quota;
use super::rate::Rate;

/// What becomes of a message that is one too many: the property `overflow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// Its call waits, for as long as a call may take.
    #[default]
    Wait,
    /// Its call fails at once, and says when to send again.
    Refuse,
    /// It is no call's business: every message goes through the outbox.
    Queue,
}

impl Overflow {
    /// Reads a property. The error is meant to follow its name.
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        match text.map(str::trim).unwrap_or_default() {
            "" | "wait" => Ok(Self::Wait),
            "refuse" => Ok(Self::Refuse),
            "queue" => Ok(Self::Queue),
            _ => Err("is none of \"wait\", \"refuse\", \"queue\"".into()),
        }
    }
}

/// What a binding's file says about its gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How many messages. Without one the gate is open to this binding, whatever is learnt; what it sends counts for others.
    pub rate: Option<Rate>,
    /// What becomes of others.
    pub overflow: Overflow,
    /// The month's allowance of which its messages are a part.
    pub quota: Option<Arc<Quota>>,
}
