//! One body for an identifier.
//!
//! DingTalk repeats a callback with the same `msgId`. Whoever has seen one can send another body with its headers
//! and its `msgId`: while the application is away or the disk is full, that would be delivered as genuine, and the
//! repetition of the genuine one be taken for a copy of it. Here an identifier belongs to the body with which it
//! came first, whatever became of that one.

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::memory::REMEMBERED;
use super::reach::{self, Reach};
use crate::event::{Digest, digest};

/// The identifiers of one binding. Kept as hashes, because a sender chooses how long they are.
pub(super) struct Ids(Cache<Digest, Digest>);

impl Ids {
    /// Remembers an identifier as far as `reach`.
    pub(super) fn new(reach: &Reach) -> Self {
        let ids = Cache::builder().max_capacity(REMEMBERED).eviction_policy(EvictionPolicy::lru());
        Self(ids.expire_after(reach.clone()).build())
    }

    /// Whether `id` may come with `message`.
    pub(super) fn allow(&self, id: &str, message: Digest) -> bool {
        self.0.get_with(digest(id.as_bytes()), || message) == message
    }

    /// Everything is kept for as long as it would be if it came now.
    pub(super) async fn renew(&self) {
        reach::renew(&self.0, async |(id, _)| self.0.get(&*id)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_identifier_belongs_to_the_body_with_which_it_came_first() {
        let ids = Ids::new(&Reach::new(HOUR));
        let [genuine, forged] = [digest(b"genuine"), digest(b"forged")];
        assert!(ids.allow("m1", genuine));
        assert!(!ids.allow("m1", forged));
        assert!(ids.allow("m1", genuine), "a forgery has changed what is remembered");
        assert!(ids.allow("m2", forged));
    }

    #[test]
    fn four_hundred_thousand_identifiers_stay_within_bounds_and_the_newest_are_known() {
        let ids = Ids::new(&Reach::new(HOUR));
        let mut most = 0;
        for number in 0..400_000_u32 {
            assert!(ids.allow(&format!("m{number}"), digest(b"first")));
            if number % 10_000 == 0 {
                most = most.max(ids.0.iter().count());
            }
        }
        // Moka makes room for some hundred at once.
        assert!(most < usize::try_from(REMEMBERED).unwrap() + 2_000, "{most} were kept");
        assert!(!ids.allow("m399999", digest(b"second")) && !ids.allow("m360000", digest(b"second")));
    }
}
