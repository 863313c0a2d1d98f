//! One message for a signature.
//!
//! DingTalk signs the time and not the body, so that whoever has seen one callback can put its headers before any
//! other body for as long as the time is good. Here a signature belongs to the message with which it came first.
//! Only in the first moment may it come with others: two messages can be signed in one millisecond, and must not be
//! lost. When a message *arrived* decides that: one that waited here for its turn has been in time.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::memory::REMEMBERED;
use super::reach::{self, Reach};
use crate::event::Digest;

/// Messages that are signed in the same millisecond arrive together, give or take a connection that has to be made.
const TOGETHER: Duration = Duration::from_secs(1);

/// More messages than DingTalk signs for one robot in a millisecond.
const MESSAGES: usize = 64;

/// What is remembered of one signature.
struct Use {
    first: Instant,
    /// Hashes under keys of this process, so that nobody finds two messages with one. At most 25 MB
    /// in all, where digests would take 100.
    messages: Vec<u64>,
}

/// The signatures by one key.
pub(super) struct Signatures {
    pub(super) reach: Reach,
    used: Cache<String, Arc<Mutex<Use>>>,
    hash: RandomState,
}

impl Signatures {
    /// Remembers a signature while its time is good: for `window`.
    pub(super) fn new(window: Duration) -> Self {
        Self::within(Reach::new(window))
    }

    pub(super) fn within(reach: Reach) -> Self {
        let used = Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru());
        Self { used: used.expire_after(reach.clone()).build(), hash: RandomState::new(), reach }
    }

    /// From `now` on, remembers for `window`, should that be longer.
    pub(super) async fn widen(&self, window: Duration, now: u64) {
        let renew = async || reach::renew(&self.used, async |(time, _)| self.used.get(&*time)).await;
        self.reach.widen(window, now, renew).await;
    }

    /// Whether the signature of `timestamp` may come with `message`, which arrived at `arrived`.
    pub(super) fn allow(&self, timestamp: &str, message: Digest, arrived: Instant) -> bool {
        let message = self.hash.hash_one(message);
        let first = || Arc::new(Mutex::new(Use { first: arrived, messages: Vec::new() }));
        let used = self.used.get_with_by_ref(timestamp, first);
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.messages.contains(&message) {
            return true;
        }
        let together = arrived.saturating_duration_since(used.first) <= TOGETHER && used.messages.len() < MESSAGES;
        if together {
            // Those that wait for their turn need not get it in the order in which they came.
            used.first = used.first.min(arrived);
            used.messages.push(message);
        }
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::digest;

    const LIFETIME: Duration = Duration::from_secs(3600);
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn a_signature_belongs_to_the_message_with_which_it_came() {
        let (signatures, now) = (Signatures::new(LIFETIME), Instant::now());
        let later = now + TOGETHER + MOMENT;
        let [a, b] = [digest(b"a"), digest(b"b")];
        assert!(signatures.allow("1", a, now));
        assert!(!signatures.allow("1", b, later), "another message");
        assert!(signatures.allow("1", a, later), "the same message again");
        assert!(signatures.allow("2", b, later), "another signature");
        assert!(!signatures.allow("2", a, later + LIFETIME / 2));
    }

    #[test]
    fn messages_of_one_millisecond_pass_together() {
        let (signatures, now) = (Signatures::new(LIFETIME), Instant::now());
        let [a, b, c] = [digest(b"a"), digest(b"b"), digest(b"c")];
        assert!(signatures.allow("1", a, now) && signatures.allow("1", b, now + TOGETHER));
        let later = now + TOGETHER + MOMENT;
        assert!(signatures.allow("1", a, later) && signatures.allow("1", b, later));
        assert!(!signatures.allow("1", c, later));
        let passed = (0..1_000_u32).filter(|number| signatures.allow("2", digest(&number.to_be_bytes()), now)).count();
        assert_eq!(passed, MESSAGES);
    }

    #[test]
    fn a_message_that_arrived_in_time_passes_however_late_its_turn_comes() {
        let (signatures, now) = (Signatures::new(LIFETIME), Instant::now());
        let [a, b, c] = [digest(b"a"), digest(b"b"), digest(b"c")];
        // Arrived second, asked about first: nothing but the arrivals counts.
        assert!(signatures.allow("1", b, now + TOGETHER));
        assert!(signatures.allow("1", a, now));
        assert!(!signatures.allow("1", c, now + TOGETHER + MOMENT), "the first to arrive begins the moment");
    }
}
