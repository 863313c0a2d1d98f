//! Which keys were seen lately: the last so many, each as its SHA-256, because a stranger may choose how long a key is.

use std::collections::{HashSet, VecDeque};

use crate::event::{Digest, digest};

/// How many keys are remembered. How long DingTalk remembers a `msgUuid` is not confirmed.
pub(super) const MAX_KEYS: usize = 10_000;

/// The last keys, so that a long run does not fill the memory.
#[derive(Debug, Default)]
pub(super) struct Recent {
    known: HashSet<Digest>,
    order: VecDeque<Digest>,
}

impl Recent {
    pub(super) fn contains(&self, key: &str) -> bool {
        self.known.contains(&digest(key.as_bytes()))
    }

    /// Remembers a key; false if it was known, which changes nothing.
    pub(super) fn insert(&mut self, key: &str) -> bool {
        let key = digest(key.as_bytes());
        if self.known.contains(&key) {
            return false;
        }
        if self.order.len() >= MAX_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(key);
        self.order.push_back(key);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_keys_are_known_whatever_their_length() {
        let mut recent = Recent::default();
        let long = "k".repeat(1 << 20);
        assert!(recent.insert(&long) && !recent.insert(&long) && !recent.contains(&long[1..]));
        // What is kept of a key is as long for each.
        assert_eq!(size_of_val(&recent.order[0]), 32);
        for index in 0..400_000_u32 {
            assert!(recent.insert(&index.to_string()));
        }
        assert_eq!((recent.known.len(), recent.order.len()), (MAX_KEYS, MAX_KEYS));
        assert!(!recent.contains(&long) && !recent.contains("389999") && recent.contains("390000"));
    }
}
