//! What is known of the messages of each binding: for as long as a callback can be repeated, whatever happens to the
//! binding's file meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::ids::Ids;
use super::repeats::Repeats;
use super::signatures::Signatures;
use super::{DELIVERIES, SENDING};
use crate::bindings::Bindings;
use crate::event::Digest;

/// Messages of one binding that are remembered, and as many signatures: for the two hours in which a callback can be
/// repeated by default, seven a second. Should they come faster, those that come last are remembered.
pub(super) const REMEMBERED: u64 = 50_000;

/// More than the longest time from a callback's arrival to the moment at which it is remembered: its body, its turn
/// and its verification have limits, which are shorter in all.
const DELAY: Duration = Duration::from_secs(60);

/// For how long that is to be remembered whose signature is good for `window`.
fn lifetime(window: Duration) -> Duration {
    window + DELAY
}

/// What is remembered of the messages of one binding.
pub(super) struct Memory {
    /// Where callbacks have any: a token is the same for every message.
    pub(super) signatures: Option<Arc<Signatures>>,
    pub(super) messages: Arc<Messages>,
    /// What it was made for: a binding that is loaded again may differ.
    pub(super) key: Option<Digest>,
    pub(super) lifetime: Duration,
}

/// The part that stays when a binding is loaded again with another secret.
pub(super) struct Messages {
    pub(super) ids: Ids,
    pub(super) repeats: Repeats,
    pub(super) deliveries: Semaphore,
    /// Bytes of answers that calls may take.
    pub(super) sending: Semaphore,
}

/// Memories of bindings that are no longer loaded, which may be loaded again in a moment.
pub(super) const UNLOADED: usize = 64;

/// All memories.
#[derive(Default)]
pub(super) struct Memories {
    /// By binding. Made at a binding's first message: most never receive any.
    pub(super) by_name: Mutex<HashMap<String, Arc<Memory>>>,
    /// By key: a callback that was seen on its way to one robot of an app would be signed for all of them.
    pub(super) by_key: Mutex<HashMap<Digest, (Duration, Arc<Signatures>)>>,
}

impl Memories {
    /// That of the binding called `name`, as it is loaded now.
    pub(super) fn of(&self, name: &str, bindings: &Bindings) -> Option<Arc<Memory>> {
        let binding = bindings.get(name)?;
        let (key, lifetime) = (binding.key(), lifetime(binding.repeat_window()));
        let mut memories = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let known = memories.get(name);
        if let Some(memory) = known.filter(|memory| memory.key == key && memory.lifetime == lifetime) {
            return Some(Arc::clone(memory));
        }
        // With another secret, the messages are the same ones. Those that were remembered for a shorter time would be
        // forgotten while they can still be repeated.
        let kept = known.filter(|memory| memory.lifetime >= lifetime).map(|memory| Arc::clone(&memory.messages));
        let messages = kept.unwrap_or_else(|| {
            Arc::new(Messages {
                ids: Ids::new(lifetime),
                repeats: Repeats::new(lifetime),
                deliveries: Semaphore::new(DELIVERIES),
                sending: Semaphore::new(SENDING),
            })
        });
        let signatures = key.map(|key| self.signatures(key, bindings));
        let memory = Arc::new(Memory { signatures, messages, key, lifetime });
        let loaded = bindings.all();
        if memories.len() >= loaded.len() + UNLOADED {
            memories.retain(|name, _| loaded.iter().any(|binding| binding.name() == name));
        }
        memories.insert(name.to_owned(), Arc::clone(&memory));
        Some(memory)
    }

    /// Those by one key, remembered for as long as the binding with the widest window takes them.
    fn signatures(&self, key: Digest, bindings: &Bindings) -> Arc<Signatures> {
        let bindings = bindings.all();
        let sharing = bindings.iter().filter(|binding| binding.key() == Some(key));
        let window = sharing.map(|binding| binding.repeat_window()).max().unwrap_or_default();
        let lifetime = lifetime(window);
        let mut signatures = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = signatures.get(&key).filter(|(known, _)| *known >= lifetime) {
            return Arc::clone(known);
        }
        if signatures.len() >= bindings.len() + UNLOADED {
            signatures.retain(|key, _| bindings.iter().any(|binding| binding.key() == Some(*key)));
        }
        let new = Arc::new(Signatures::new(lifetime));
        signatures.insert(key, (lifetime, Arc::clone(&new)));
        new
    }
}
