//! One message for a signature.
//!
//! DingTalk signs the time and not the body, so that whoever has seen one callback can put its headers before any
//! other body for as long as the time is good. Here a signature belongs to the message with which it came first.
//! Only in the first moment may it come with others: two messages can be signed in one millisecond, and must not be
//! lost.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// Messages that are signed in the same millisecond arrive together, give or take a connection that has to be made.
const TOGETHER: Duration = Duration::from_secs(1);

/// Signatures of one binding that are remembered: with two messages a second, those of more than an hour.
const CAPACITY: u64 = 10_000;

/// More messages than DingTalk signs for one robot in a millisecond.
const MESSAGES: usize = 64;

/// What is remembered of one signature.
struct Use {
    first: Instant,
    /// Hashes: a sender chooses the length of what it sends. Under keys of this process, so that nobody finds two
    /// messages with one hash.
    messages: Vec<u64>,
}

/// The signatures of one binding.
pub(super) struct Signatures {
    used: Cache<String, Arc<Mutex<Use>>>,
    hash: RandomState,
}

impl Signatures {
    /// Remembers a signature for `lifetime`, after which its time is over anyway.
    pub(super) fn new(lifetime: Duration) -> Self {
        let used = Cache::builder().max_capacity(CAPACITY).eviction_policy(EvictionPolicy::lru());
        Self { used: used.time_to_live(lifetime).build(), hash: RandomState::new() }
    }

    /// Whether the signature of `timestamp` may come with `message` at `now`.
    pub(super) fn allow(&self, timestamp: &str, message: &[u8], now: Instant) -> bool {
        let message = self.hash.hash_one(message);
        let first = || Arc::new(Mutex::new(Use { first: now, messages: Vec::new() }));
        let used = self.used.get_with_by_ref(timestamp, first);
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.messages.contains(&message) {
            return true;
        }
        let together = now.saturating_duration_since(used.first) <= TOGETHER && used.messages.len() < MESSAGES;
        if together {
            used.messages.push(message);
        }
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(3600);

    #[test]
    fn a_signature_belongs_to_the_message_with_which_it_came() {
        let (signatures, now) = (Signatures::new(LIFETIME), Instant::now());
        let later = now + TOGETHER + Duration::from_millis(1);
        assert!(signatures.allow("1", b"a", now));
        assert!(!signatures.allow("1", b"b", later), "another message");
        assert!(signatures.allow("1", b"a", later), "the same message again");
        assert!(signatures.allow("2", b"b", later), "another signature");
        assert!(!signatures.allow("2", b"a", later + LIFETIME / 2));
    }

    #[test]
    fn messages_of_one_millisecond_pass_together() {
        let (signatures, now) = (Signatures::new(LIFETIME), Instant::now());
        assert!(signatures.allow("1", b"a", now) && signatures.allow("1", b"b", now + TOGETHER));
        let later = now + TOGETHER + Duration::from_millis(1);
        assert!(signatures.allow("1", b"a", later) && signatures.allow("1", b"b", later));
        assert!(!signatures.allow("1", b"c", later));
        let passed = (0..1_000).filter(|number| signatures.allow("2", number.to_string().as_bytes(), now)).count();
        assert_eq!(passed, MESSAGES);
    }
}
