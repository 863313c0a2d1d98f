//! What is known of the messages of each binding, and of the signatures by each key: for as long as a callback can be
//! repeated, whatever happens to the binding's file meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::DELIVERIES;
use super::follow::SENDING;
use super::ids::Ids;
use super::reach::Reach;
use super::repeats::Repeats;
use super::signatures::Signatures;
use crate::bindings::{Binding, Bindings};
use crate::event::Digest;

/// Messages of one binding that are remembered, and as many signatures: for the two hours in which a callback can be
/// repeated by default, seven a second. Should they come faster, those that come last are remembered.
pub(super) const REMEMBERED: u64 = 50_000;

/// What is remembered of the messages of one binding. It stays when the binding is loaded again.
pub(super) struct Messages {
    pub(super) reach: Reach,
    pub(super) ids: Ids,
    pub(super) repeats: Repeats,
    pub(super) deliveries: Semaphore,
    /// Bytes of answers that calls may take.
    pub(super) sending: Semaphore,
}

impl Messages {
    fn new(window: Duration) -> Self {
        let reach = Reach::new(window);
        Self {
            ids: Ids::new(&reach),
            repeats: Repeats::new(&reach),
            deliveries: Semaphore::new(DELIVERIES),
            sending: Semaphore::new(SENDING),
            reach,
        }
    }

    async fn widen(&self, window: Duration, now: u64) {
        let renew = async || {
            self.ids.renew().await;
            self.repeats.renew().await;
        };
        self.reach.widen(window, now, renew).await;
    }
}

/// Memories of bindings that are no longer loaded, which may be loaded again in a moment; and of keys.
pub(super) const UNLOADED: usize = 64;

/// All memories.
#[derive(Default)]
pub(super) struct Memories {
    names: Mutex<Names>,
    keys: Mutex<Keys>,
}

/// By binding. Made at a binding's first message: most never receive any.
#[derive(Default)]
struct Names {
    messages: HashMap<String, Arc<Messages>>,
    gone: Gone<String>,
}

/// By key, the secret that verifies: a callback that was seen on its way to one robot of an app would be signed for all
/// of them, and one that was seen before a secret was replaced is good while the old one is known.
#[derive(Default)]
struct Keys {
    known: HashMap<Digest, Known>,
    gone: Gone<Digest>,
}

/// One key. Half the size that it could have: there may be ten thousand, and a table has room for more.
struct Known {
    /// Bindings that are loaded and take it.
    bindings: u32,
    /// The widest of theirs, in milliseconds; the longest is two days.
    window: u32,
    /// Made at the first message, too.
    signatures: Option<Arc<Signatures>>,
}

/// What is not loaded any more, the oldest first.
struct Gone<K>(VecDeque<K>);

impl<K> Default for Gone<K> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<K: PartialEq> Gone<K> {
    /// Adds one; the one that is too many.
    fn push(&mut self, key: K) -> Option<K> {
        self.0.retain(|known| *known != key);
        self.0.push_back(key);
        if self.0.len() > UNLOADED { self.0.pop_front() } else { None }
    }
}

impl Names {
    /// `name` is not loaded any more.
    fn unload(&mut self, name: &str, bindings: &Bindings) {
        if self.messages.contains_key(name)
            && let Some(oldest) = self.gone.push(name.to_owned())
            && bindings.get(&oldest).is_none()
        {
            self.messages.remove(&oldest);
        }
    }
}

fn millis(window: Duration) -> u32 {
    u32::try_from(window.as_millis()).unwrap_or(u32::MAX)
}

impl Keys {
    /// No binding that is loaded takes `key` any more.
    fn unload(&mut self, key: Digest) {
        let is_loaded = |known: &Known| known.bindings > 0;
        if let Some(oldest) = self.gone.push(key)
            && !self.known.get(&oldest).is_some_and(is_loaded)
        {
            self.known.remove(&oldest);
        }
    }
}

impl Memories {
    /// Has what is remembered already be remembered for as long as `binding` takes it: before it is asked for, and once
    /// more when it is loaded, for what was made in between.
    pub(super) async fn widen(&self, binding: &Binding, now: u64) {
        let window = binding.repeat_window();
        let messages = self.names().messages.get(binding.name()).cloned();
        if let Some(messages) = messages {
            messages.widen(window, now).await;
        }
        for key in binding.keys() {
            let signatures = self.keys().known.get(&key).and_then(|known| known.signatures.clone());
            if let Some(signatures) = signatures {
                signatures.widen(window, now).await;
            }
        }
    }

    /// `binding` is being loaded.
    pub(super) fn load(&self, binding: &Binding) {
        let mut keys = self.keys();
        for key in binding.keys() {
            let new = || Known { bindings: 0, window: 0, signatures: None };
            let known = keys.known.entry(key).or_insert_with(new);
            known.bindings = known.bindings.saturating_add(1);
            known.window = known.window.max(millis(binding.repeat_window()));
        }
    }

    /// `binding` is not loaded any more, or another one is in its place.
    pub(super) fn unload(&self, binding: &Binding, bindings: &Bindings) {
        let mut keys = self.keys();
        for key in binding.keys() {
            let Some(known) = keys.known.get_mut(&key) else { continue };
            known.bindings = known.bindings.saturating_sub(1);
            match (known.bindings, &known.signatures) {
                (0, Some(_)) => keys.unload(key),
                (0, None) => drop(keys.known.remove(&key)),
                _ => {}
            }
        }
        drop(keys);
        if bindings.get(binding.name()).is_none() {
            self.names().unload(binding.name(), bindings);
        }
    }

    /// The messages of `binding`, which one of `bindings` may have replaced since its callback came.
    pub(super) fn messages(&self, binding: &Binding, bindings: &Bindings) -> Arc<Messages> {
        let mut names = self.names();
        if let Some(messages) = names.messages.get(binding.name()) {
            return Arc::clone(messages);
        }
        let loaded = bindings.get(binding.name()).map(|loaded| loaded.repeat_window());
        let messages = Arc::new(Messages::new(binding.repeat_window().max(loaded.unwrap_or_default())));
        names.messages.insert(binding.name().to_owned(), Arc::clone(&messages));
        if loaded.is_none() {
            names.unload(binding.name(), bindings);
        }
        messages
    }

    /// The signatures by `key`, which `binding` takes: of all bindings that do, and for as long as any of them does.
    pub(super) fn signatures(&self, key: Digest, binding: &Binding) -> Arc<Signatures> {
        let mut keys = self.keys();
        let new = || Known { bindings: 0, window: millis(binding.repeat_window()), signatures: None };
        let known = keys.known.entry(key).or_insert_with(new);
        let (window, is_loaded) = (Duration::from_millis(known.window.into()), known.bindings > 0);
        let is_new = known.signatures.is_none();
        let signatures = Arc::clone(known.signatures.get_or_insert_with(|| Arc::new(Signatures::new(window))));
        if is_new && !is_loaded {
            keys.unload(key);
        }
        signatures
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are of messages and of keys, and how many of the keys have signatures.
    #[cfg(test)]
    pub(super) fn count(&self) -> [usize; 3] {
        let keys = self.keys();
        let signatures = keys.known.values().filter(|known| known.signatures.is_some()).count();
        [self.names().messages.len(), keys.known.len(), signatures]
    }
}
