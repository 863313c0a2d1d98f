//! One delivery for a message, however often DingTalk sends it.
//!
//! DingTalk repeats a callback that was not answered in its time, and whoever saw one can send it again. Copies
//! that come while the first is being delivered wait for its result; later ones get the same result. Only success
//! is remembered: what failed is delivered when it is sent again.
//!
//! That a message was delivered is remembered apart from its reply, which is larger: long replies push out each
//! other, and no message. A copy whose reply is gone is acknowledged without one.

use std::sync::Arc;

use bytes::Bytes;
use moka::policy::EvictionPolicy;
use moka::{future, sync};

use super::memory::REMEMBERED;
use super::reach::{self, Reach};
use crate::event::{Answer, Digest};

/// Memory for the replies of one binding. One has 100 bytes to 20 KB, and is wanted by a copy of its message,
/// seconds later: the longest ones of the last 200 messages, and the usual ones of 10,000.
const REPLY_BYTES: u64 = 4 << 20;

/// What a reply takes beside its text, roughly.
const ENTRY_BYTES: usize = 256;

/// The messages of one binding that were delivered lately.
pub(super) struct Repeats {
    delivered: future::Cache<Digest, ()>,
    replies: sync::Cache<Digest, Bytes>,
}

impl Repeats {
    /// Remembers a message as far as `reach`.
    pub(super) fn new(reach: &Reach) -> Self {
        Self::within(REMEMBERED, REPLY_BYTES, reach)
    }

    /// Both keep the newest, which are about to be repeated; moka's default policy might not take them in.
    fn within(messages: u64, reply_bytes: u64, reach: &Reach) -> Self {
        let delivered = future::Cache::builder().max_capacity(messages).eviction_policy(EvictionPolicy::lru());
        let replies = sync::Cache::builder()
            .max_capacity(reply_bytes)
            .weigher(|_: &Digest, reply: &Bytes| u32::try_from(ENTRY_BYTES + reply.len()).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru());
        let (delivered, replies) = (delivered.expire_after(reach.clone()), replies.expire_after(reach.clone()));
        Self { delivered: delivered.build(), replies: replies.build() }
    }

    /// Everything is kept for as long as it would be if it came now.
    pub(super) async fn renew(&self) {
        reach::renew(&self.delivered, async |(message, ())| self.delivered.get(&*message).await).await;
        reach::renew(&self.replies, async |(message, _)| self.replies.get(&*message)).await;
    }

    /// Runs `deliver` unless this message is being delivered, or has been.
    pub(super) async fn once<E>(
        &self,
        message: Digest,
        deliver: impl Future<Output = Result<Answer, E>>,
    ) -> Result<Answer, E>
    where
        E: Clone + Send + Sync + 'static,
    {
        let mut own = None;
        let delivery = async {
            let reply = deliver.await?;
            // Before the message counts as delivered: from then on copies look for it.
            if let Some(reply) = &reply {
                self.replies.insert(message, reply.clone());
            }
            own = Some(reply);
            Ok(())
        };
        self.delivered.try_get_with(message, delivery).await.map_err(|error: Arc<E>| E::clone(&error))?;
        Ok(own.unwrap_or_else(|| self.replies.get(&message)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::event::{Undelivered, digest};

    const HOUR: Duration = Duration::from_secs(3600);

    async fn answered(reply: Answer) -> Result<Answer, Undelivered> {
        Ok(reply)
    }

    fn message(number: u32) -> Digest {
        digest(&number.to_be_bytes())
    }

    #[tokio::test]
    async fn copies_at_once_are_one_delivery_with_one_result() {
        let (repeats, delivered) = (Repeats::new(&Reach::new(HOUR)), AtomicUsize::new(0));
        let copy = || {
            repeats.once(message(1), async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let number = delivered.fetch_add(1, Ordering::SeqCst);
                answered(Some(Bytes::from(format!("reply {number}")))).await
            })
        };
        let (a, b, c) = tokio::join!(copy(), copy(), copy());
        assert_eq!((&a, &b, &c), (&Ok(Some("reply 0".into())), &a, &a));
        assert_eq!((copy().await, delivered.load(Ordering::SeqCst)), (a, 1));
    }

    #[tokio::test]
    async fn a_failed_delivery_may_be_tried_again() {
        let repeats = Repeats::new(&Reach::new(HOUR));
        let failed = repeats.once(message(1), async { Err(Undelivered::Unhealthy) }).await;
        assert_eq!(failed, Err(Undelivered::Unhealthy));
        assert_eq!(repeats.once(message(1), answered(None)).await, Ok(None));
        assert_eq!(repeats.once(message(1), async { Err(Undelivered::Unhealthy) }).await, Ok(None));
    }

    #[tokio::test]
    async fn long_replies_push_out_each_other_and_no_message() {
        let repeats = Repeats::within(1_000, 100 * 1024, &Reach::new(HOUR));
        let mut delivered = 0;
        for round in ["first", "copy"] {
            for number in 0..900 {
                let reply = Bytes::from(vec![0; 1024]);
                let answer = repeats.once(message(number), async {
                    delivered += 1;
                    answered(Some(reply.clone())).await
                });
                let answer = answer.await.unwrap();
                // The sender of the first has its reply in any case.
                assert!(round == "copy" || answer == Some(reply), "{number}");
                repeats.replies.run_pending_tasks();
            }
        }
        assert_eq!(delivered, 900, "a message was delivered twice because of another one's reply");
        let last = repeats.once(message(899), async { Err(Undelivered::Unhealthy) }).await;
        assert_eq!(last.unwrap().map(|reply| reply.len()), Some(1024), "the newest replies are there for copies");
        assert!(repeats.replies.weighted_size() <= 100 * 1024, "{}", repeats.replies.weighted_size());
    }

    #[tokio::test]
    async fn a_copy_whose_reply_is_gone_is_answered_without_one() {
        let repeats = Repeats::within(10, 1024, &Reach::new(HOUR));
        let long = Bytes::from(vec![0; 2048]);
        assert_eq!(repeats.once(message(1), answered(Some(long.clone()))).await, Ok(Some(long)));
        repeats.replies.run_pending_tasks();
        assert_eq!(repeats.once(message(1), async { Err(Undelivered::Unhealthy) }).await, Ok(None));
    }

    #[tokio::test]
    async fn messages_are_bounded_and_the_newest_stay() {
        let repeats = Repeats::within(100, 1024, &Reach::new(HOUR));
        for number in 0..1_000 {
            repeats.once(message(number), answered(None)).await.unwrap();
            repeats.delivered.run_pending_tasks().await;
        }
        assert!(repeats.delivered.entry_count() <= 100, "{}", repeats.delivered.entry_count());
        let known = |number| repeats.delivered.contains_key(&message(number));
        assert!(known(999) && known(950) && !known(0));
    }

    #[tokio::test]
    async fn a_message_is_forgotten_in_the_end() {
        let repeats = Repeats::new(&Reach::late(Duration::from_millis(1), Duration::ZERO));
        let _ = repeats.once(message(1), answered(Some("1".into()))).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(repeats.once(message(1), answered(None)).await, Ok(None));
    }
}
