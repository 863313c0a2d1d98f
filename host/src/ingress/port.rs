//! What one port may hold: connections, requests, bytes. Strangers that fill it leave the other ports, the way out and
//! the inbox what they need, and a newcomer takes the place of whoever has been silent for longest.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::body::Budget;
use super::connection::Activity;

/// A connection is not ended for a newcomer before it has had this time to say something.
const CHANCE: Duration = Duration::from_secs(1);

/// Until a full port is looked through again for somebody silent.
const PAUSE: Duration = Duration::from_millis(50);

/// What a port may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Connections at once. Each costs a file descriptor, up to 16 KiB for a head, and a task.
    pub connections: usize,
    /// How long a client is waited for: for its request, for the next one, or for it to take its answer.
    pub patience: Duration,
    /// Requests at once, with 16 KiB for a head and 8 KiB for a short body each.
    pub requests: usize,
    /// Bytes of longer bodies at once.
    pub bytes: usize,
    /// How long a body waits for its share of them.
    pub bytes_timeout: Duration,
}

/// A port in use.
pub(crate) struct Port {
    pub(crate) policy: Policy,
    pub(crate) budget: Budget,
    places: Arc<Semaphore>,
    requests: Semaphore,
    connections: Mutex<Vec<Weak<Activity>>>,
}

impl Port {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            budget: Budget::of(policy.bytes, policy.bytes_timeout),
            places: Arc::new(Semaphore::new(policy.connections)),
            requests: Semaphore::new(policy.requests),
            connections: Mutex::default(),
        }
    }

    /// A place for a connection that has been accepted, sooner or later.
    pub(crate) async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Some(place) = self.free() {
                return place;
            }
            self.evict();
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(place)) = tokio::time::timeout(PAUSE, place).await {
                return place;
            }
        }
    }

    /// A place, if there is one now.
    pub(crate) fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// A connection that has its place.
    pub(crate) fn enter(&self) -> Arc<Activity> {
        let activity = Arc::new(Activity::new());
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are forgotten once they are as many as can be open.
        if connections.len() >= 2 * self.policy.connections {
            connections.retain(|known| known.strong_count() > 0);
        }
        connections.push(Arc::downgrade(&activity));
        activity
    }

    /// Leave to work on one more request.
    pub(crate) fn request(&self) -> Option<SemaphorePermit<'_>> {
        self.requests.try_acquire().ok()
    }

    /// Ends the connection whose client has been waited for longest, if any has had its chance.
    fn evict(&self) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = connections.iter().filter_map(Weak::upgrade).filter_map(|one| Some((one.waiting()?, one)));
        let longest = waiting.max_by_key(|(waiting, _)| *waiting);
        if let Some((_, one)) = longest.filter(|(waiting, _)| *waiting >= CHANCE) {
            one.evict();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_whoever_has_been_silent_for_longest() {
        let patience = Duration::from_secs(30);
        let port = Port::new(Policy { connections: 2, patience, requests: 1, bytes: 1, bytes_timeout: patience });
        let places = [port.place().await, port.place().await];
        let working = port.enter();
        let call = working.call();
        let silent = port.enter();
        let newcomer = port.place();
        let ended = async {
            while silent.waiting().is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // As its task does.
            drop(places);
        };
        let start = tokio::time::Instant::now();
        let (_place, ()) = tokio::join!(newcomer, ended);
        assert!(start.elapsed() >= CHANCE, "{:?}", start.elapsed());
        drop(call);
        assert!(working.waiting().is_some(), "who has a call running keeps its place");
    }
}
