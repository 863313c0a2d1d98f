//! One delivery for a message, however often DingTalk sends it.
//!
//! DingTalk repeats a callback that was not answered in its time, and whoever saw one can send it again. Copies
//! that come while the first is being delivered wait for its result; later ones get the same result. Only success
//! is remembered: what failed is delivered when it is sent again.

use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use crate::event::{Answer, Undelivered};

/// Memory for the messages of one binding. An entry has an identifier and a reply, 100 bytes to 20 KB: some
/// 10,000 messages, which is 90 minutes of two a second.
const CAPACITY_BYTES: u64 = 4 << 20;

/// What an entry takes beside its texts, roughly.
const ENTRY_BYTES: usize = 256;

/// What a delivery ended with: the reply, if any.
pub(super) type Outcome = Result<Answer, Undelivered>;

/// The messages of one binding that were delivered lately.
pub(super) struct Repeats(Cache<String, Answer>);

impl Repeats {
    /// Remembers a message for `lifetime`.
    pub(super) fn new(lifetime: Duration) -> Self {
        Self::within(CAPACITY_BYTES, lifetime)
    }

    fn within(capacity: u64, lifetime: Duration) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity)
            .weigher(|message: &String, reply: &Answer| {
                let bytes = ENTRY_BYTES + message.len() + reply.as_ref().map_or(0, Bytes::len);
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            // The newest is the one that is about to be repeated; the default policy might not take it in.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(lifetime);
        Self(cache.build())
    }

    /// Runs `deliver` unless this message is being delivered, or has been.
    pub(super) async fn once(&self, message: String, deliver: impl Future<Output = Outcome>) -> Outcome {
        self.0.try_get_with(message, deliver).await.map_err(|error| error.as_ref().clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn copies_at_once_are_one_delivery_with_one_result() {
        let (repeats, delivered) = (Repeats::new(HOUR), AtomicUsize::new(0));
        let copy = || {
            repeats.once("m".into(), async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let number = delivered.fetch_add(1, Ordering::SeqCst);
                Ok(Some(Bytes::from(format!("reply {number}"))))
            })
        };
        let (a, b, c) = tokio::join!(copy(), copy(), copy());
        assert_eq!((&a, &b, &c), (&Ok(Some("reply 0".into())), &a, &a));
        assert_eq!((copy().await, delivered.load(Ordering::SeqCst)), (a, 1));
    }

    #[tokio::test]
    async fn a_failed_delivery_may_be_tried_again() {
        let repeats = Repeats::new(HOUR);
        let failed = repeats.once("m".into(), async { Err(Undelivered::Unhealthy) }).await;
        assert_eq!(failed, Err(Undelivered::Unhealthy));
        assert_eq!(repeats.once("m".into(), async { Ok(None) }).await, Ok(None));
        assert_eq!(repeats.once("m".into(), async { Err(Undelivered::Unhealthy) }).await, Ok(None));
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_newest_stay() {
        let repeats = Repeats::within(100 * 1024, HOUR);
        for number in 0..1_000 {
            let reply = Some(Bytes::from(vec![0; 1024]));
            repeats.once(format!("m{number}"), async { Ok(reply) }).await.unwrap();
            repeats.0.run_pending_tasks().await;
        }
        let Repeats(cache) = repeats;
        assert!(cache.weighted_size() <= 100 * 1024, "{}", cache.weighted_size());
        assert!(cache.contains_key("m999") && cache.contains_key("m990") && !cache.contains_key("m0"));
    }

    #[tokio::test]
    async fn a_message_is_forgotten_in_the_end() {
        let repeats = Repeats::new(Duration::from_millis(1));
        let _ = repeats.once("m".into(), async { Ok(Some("1".into())) }).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(repeats.once("m".into(), async { Ok(None) }).await, Ok(None));
    }
}
