//! A tenant's clients: each made for its first request, and dropped once it has had none for some minutes, so that a tenant
//! that sends nothing has none.
//!
//! A client that somebody uses is never dropped, and there is never a second one to the same host beside it: a request under
//! way is not cut, and its connection comes back to the pool that bounds them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use dingtalk_binding::endpoint::Origin;
use tokio::time::Instant;

use super::client::Client;

/// After its last request. Longer than connections are kept, so that none is lost by it; what is made again then is
/// a TLS session, and some 20 µs of work.
const KEPT: Duration = Duration::from_secs(300);

/// Those that there are. Most tenants have never had one.
#[derive(Default)]
pub(super) struct Clients(OnceLock<Arc<Entries>>);

type Entries = Mutex<Vec<Entry>>;

struct Entry {
    origin: Origin,
    client: Arc<Client>,
    used: Instant,
}

impl Clients {
    /// The one to `origin`, which `make` makes where there is none. Within a runtime.
    pub(super) fn to(
        &self,
        origin: &Origin,
        make: impl FnOnce() -> Result<Client, String>,
    ) -> Result<Arc<Client>, String> {
        let all = self.0.get_or_init(Arc::default);
        let mut entries = lock(all);
        if let Some(entry) = entries.iter_mut().find(|entry| entry.origin == *origin) {
            entry.used = Instant::now();
            return Ok(Arc::clone(&entry.client));
        }
        let client = Arc::new(make()?);
        if entries.is_empty() {
            tokio::spawn(watch(Arc::downgrade(all)));
        }
        entries.push(Entry { origin: origin.clone(), client: Arc::clone(&client), used: Instant::now() });
        Ok(client)
    }
}

/// Drops clients that nobody uses, until there is none or their tenant is gone.
async fn watch(clients: Weak<Entries>) {
    while let Some(clients) = clients.upgrade() {
        let oldest = {
            let mut entries = lock(&clients);
            let now = Instant::now();
            for entry in entries.iter_mut() {
                // Whoever has it took it under this lock, and nobody else can.
                if Arc::strong_count(&entry.client) > 1 {
                    entry.used = now;
                }
            }
            entries.retain(|entry| now.duration_since(entry.used) < KEPT);
            entries.shrink_to_fit();
            entries.iter().map(|entry| entry.used).min()
        };
        drop(clients);
        let Some(oldest) = oldest else { return };
        tokio::time::sleep_until(oldest + KEPT).await;
    }
}

fn lock(entries: &Entries) -> MutexGuard<'_, Vec<Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::client::Proxies;
    use super::super::resolver::Policy;
    use super::*;

    fn origin(url: &str) -> Origin {
        let settings = dingtalk_binding::settings::Settings::parse([("id", "x"), ("url", url)]).unwrap();
        settings.endpoint.origin().clone()
    }

    fn take(clients: &Clients, origin: &Origin) -> Arc<Client> {
        let make = || Client::new(origin, Duration::from_secs(5), &Proxies::none(), &Policy::default());
        clients.to(origin, make).unwrap()
    }

    /// Whether there is still this one, or `None` if there is none.
    fn has(clients: &Clients, client: &Weak<Client>) -> bool {
        let entries = lock(clients.0.get().unwrap());
        entries.iter().any(|entry| std::ptr::eq(Arc::as_ptr(&entry.client), client.as_ptr()))
    }

    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_one_client_to_a_host_until_it_has_not_been_used_for_minutes() {
        let clients = Clients::default();
        let (one, other) = (origin("http://127.0.0.1:1/"), origin("http://127.0.0.1:2/"));
        let first = Arc::downgrade(&take(&clients, &one));
        pass(KEPT / 2).await;
        assert!(Arc::ptr_eq(&take(&clients, &one), &first.upgrade().unwrap()));
        let second = Arc::downgrade(&take(&clients, &other));
        pass(KEPT * 3 / 4).await;
        // Used since, though made more than its time ago.
        assert!(has(&clients, &first) && has(&clients, &second));
        take(&clients, &one);
        pass(KEPT / 2).await;
        assert!(has(&clients, &first) && !has(&clients, &second));
        pass(KEPT).await;
        assert_eq!((first.strong_count(), second.strong_count()), (0, 0));
        assert_eq!(lock(clients.0.get().unwrap()).capacity(), 0);
        // Whoever watched has gone; for the next one there is another.
        let third = Arc::downgrade(&take(&clients, &one));
        assert!(has(&clients, &third));
        pass(2 * KEPT).await;
        assert_eq!(third.strong_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_used_stays_and_has_no_second_beside_it() {
        let clients = Clients::default();
        let one = origin("http://127.0.0.1:1/");
        let used = take(&clients, &one);
        for _ in 0..10 {
            pass(KEPT).await;
            assert!(Arc::ptr_eq(&take(&clients, &one), &used));
        }
        let weak = Arc::downgrade(&used);
        pass(KEPT / 2).await;
        drop(used);
        pass(2 * KEPT).await;
        assert_eq!(weak.strong_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_tenant_its_clients_go() {
        let clients = Clients::default();
        let weak = Arc::downgrade(&take(&clients, &origin("http://127.0.0.1:1/")));
        drop(clients);
        assert_eq!(weak.strong_count(), 0);
    }
}
