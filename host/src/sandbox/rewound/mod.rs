//! Instances that are used again: after each message the host writes back the memory that the instance had after `init`.
//!
//! The next message of the same tenant finds the memory byte for byte as `init` left it, which is what a fresh instance
//! gives, for a comparison of 64 KiB instead of making an instance, initialising it and taking it down. What else an instance
//! could remember is ruled out when the component is loaded ([`check`]) and after each call ([`Lease::end`]). An instance
//! that a call did not come back from is dropped: it is put back by the last step of a call that returned, and by nothing
//! else.
//!
//! The other way would be a fresh store and instance onto which the image is copied instead of running `init`. It has
//! nothing to rule out, neither globals nor the order of free handles, but it makes and takes down an instance for each
//! call, which is most of what a call costs beside its work: in a prototype 39 µs of a call's processor time against 26.
//! So instances are put back where everything that a component could leave behind is known, and fresh for all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

use super::admission::{Rule, Tally};
use super::engine::{common, link};
use super::exports::BindingPre;
use super::state::WasiHttp;
use super::{Handler, Instance, Limits, Sandbox, Tenant};
use crate::egress::{Exit, Reach};

mod check;
mod image;
mod memory;
mod stack;
#[cfg(test)]
mod tests;

use image::{Base, Image};
use memory::{Held, Memories};

/// Where a call's instance comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Instances {
    /// Made for the call.
    Fresh,
    /// One of the same tenant whose memory is as `init` left it, where there is one.
    #[default]
    Rewound,
}

impl Instances {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fresh, Self::Rewound];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Rewound => "rewound",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|instances| instances.name() == text)
            .ok_or_else(|| "must be fresh or rewound".into())
    }
}

/// Instances that exist at once, running or not, and those of one tenant: as many as operations may run, so that instances
/// are not what messages have too few of. Each takes its memory and what it used of its stack, some 100 KiB, 25 MiB for all;
/// with them come images, some KiB for each tenant that has any. Half of the places are for tenants that have none.
const PLACES: Rule = Rule { all: 256, each: 64 };

/// How long an instance is kept that nobody uses; and a tenant whose last message is longer ago begins with a fresh one:
/// making one to keep costs more than making one, which pays for those who send again soon.
const IDLE: Duration = Duration::from_secs(10);

/// Makes instances that can be used again, within [`PLACES`].
pub(super) struct Rewinder {
    binding: BindingPre,
    /// What is in a memory before `init`.
    base: OnceLock<Arc<Base>>,
    places: Mutex<Places>,
}

struct Places {
    tally: Tally,
    /// Of each tenant that has any.
    own: HashMap<u64, usize>,
}

impl Rewinder {
    /// `None` where the component, which the log says, or the host's part of it could remember something.
    pub(super) fn new(component: &[u8], limits: &Limits) -> wasmtime::Result<Option<Arc<Self>>> {
        if let Err(reason) = check::check(component) {
            tracing::warn!(%reason, "every call gets a fresh instance: this component's cannot be rewound");
            return Ok(None);
        }
        let component = Component::from_binary(&Engine::new(&config(limits))?, component)?;
        // Of wasmtime-wasi-http's handles it is not known how many there are.
        let Ok(binding) = link(&component, WasiHttp::Own) else {
            let reason = "it imports more than this host's own wasi:http";
            tracing::warn!(reason, "every call gets a fresh instance: this component's cannot be rewound");
            return Ok(None);
        };
        let places = Mutex::new(Places { tally: Tally::new(PLACES), own: HashMap::new() });
        Ok(Some(Arc::new(Self { binding, base: OnceLock::new(), places })))
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_place(self: &Arc<Self>, tenant: u64) -> Option<Place> {
        let mut places = self.places();
        let Places { tally, own } = &mut *places;
        let held = own.get(&tenant).copied().unwrap_or_default();
        if !tally.admits(held) {
            return None;
        }
        tally.take(own.entry(tenant).or_default());
        drop(places);
        Some(Place { rewinder: Arc::clone(self), tenant })
    }
}

/// The engine's settings where the host makes the memories. wasmtime makes them by itself in a pool, and where it maps
/// their first content.
fn config(limits: &Limits) -> Config {
    let mut config = common(limits);
    config.memory_init_cow(false).with_host_memory(Arc::new(Memories));
    config
}

/// One of [`PLACES`], until this is dropped.
struct Place {
    rewinder: Arc<Rewinder>,
    tenant: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.rewinder.places();
        let Places { tally, own } = &mut *places;
        if let Some(held) = own.get_mut(&self.tenant) {
            tally.give_back(held);
            if *held == 0 {
                own.remove(&self.tenant);
            }
        }
    }
}

/// One tenant's instances that wait for a message. With the tenant they are dropped.
pub(super) struct Shelf {
    rewinder: Arc<Rewinder>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By the time since when, the oldest first.
    instances: Vec<(Instant, Kept)>,
    /// What is in memory after `init`, as long as there is an instance.
    image: Option<Weak<Image>>,
    last_call: Option<Instant>,
    /// Whether a task waits for the oldest to be too old.
    is_swept: bool,
}

/// An instance whose memory is the image.
struct Kept {
    held: Held,
    image: Arc<Image>,
    place: Place,
}

impl Shelf {
    pub(super) fn new(rewinder: &Arc<Rewinder>) -> Arc<Self> {
        Arc::new(Self { rewinder: Arc::clone(rewinder), waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last, whose memory a processor may still have at hand; or else, whether one is worth making.
    fn take(&self) -> (Option<Kept>, bool) {
        let mut waiting = self.waiting();
        let now = Instant::now();
        let last = waiting.last_call.replace(now);
        let kept = waiting.instances.pop().map(|(_, kept)| kept);
        (kept, last.is_some_and(|last| now.duration_since(last) <= IDLE))
    }

    /// The tenant's image: the first one that was taken.
    fn image(&self, held: &mut Held) -> Option<Arc<Image>> {
        let (memory, base) = (held.memory(), self.rewinder.base.get()?);
        let mut waiting = self.waiting();
        let image = match waiting.image.as_ref().and_then(Weak::upgrade) {
            Some(image) => image,
            None => {
                let image = Arc::new(Image::of(memory, base)?);
                waiting.image = Some(Arc::downgrade(&image));
                image
            }
        };
        drop(waiting);
        // A component whose `init` does not always do the same is not one to put back.
        image.is(memory).then_some(image)
    }

    fn put(self: &Arc<Self>, kept: Kept) {
        let mut waiting = self.waiting();
        waiting.instances.push((Instant::now(), kept));
        if !std::mem::replace(&mut waiting.is_swept, true) {
            tokio::spawn(sweep(Sweep(Arc::downgrade(self))));
        }
    }
}

/// The task that drops a tenant's instances when they are too old, and ends with the last one.
struct Sweep(Weak<Shelf>);

async fn sweep(shelf: Sweep) {
    let mut at = Instant::now() + IDLE;
    loop {
        tokio::time::sleep_until(at).await;
        let Some(shelf) = shelf.0.upgrade() else { return };
        let mut waiting = shelf.waiting();
        let now = Instant::now();
        let old = waiting.instances.iter().take_while(|(since, _)| *since + IDLE <= now).count();
        let dropped: Vec<_> = waiting.instances.drain(..old).collect();
        match waiting.instances.first() {
            Some((since, _)) => at = *since + IDLE,
            None => {
                waiting.is_swept = false;
                drop(waiting);
                drop(dropped);
                return;
            }
        }
    }
}

/// The instance of one call.
pub(super) enum Lease {
    /// For this call alone.
    Fresh(Instance),
    /// To be kept, if it can be.
    Rewound(Running),
}

/// An instance in a call that will be put back.
pub(super) struct Running {
    held: Held,
    /// None until it is initialised, and where it cannot be put back.
    image: Option<Arc<Image>>,
    place: Place,
    shelf: Arc<Shelf>,
}

impl Lease {
    pub(super) fn instance(&mut self) -> &mut Instance {
        match self {
            Self::Fresh(instance) => instance,
            Self::Rewound(running) => running.held.instance(),
        }
    }

    /// Whether `init` has been called.
    pub(super) fn is_initialised(&self) -> bool {
        matches!(self, Self::Rewound(Running { image: Some(_), .. }))
    }

    /// To be called behind `init`, and before anything else.
    pub(super) fn initialised(&mut self) {
        if let Self::Rewound(Running { held, image, shelf, .. }) = self
            && image.is_none()
            && is_clean(held)
        {
            *image = shelf.image(held);
        }
    }

    /// To be called when the component has returned, whatever it answered: its instance is put back, if nothing is left of the
    /// call. In every other case it is dropped, and with it everything that it had.
    pub(super) fn end(self, sandbox: &Sandbox, tenant: &Tenant) {
        let Self::Rewound(Running { mut held, image: Some(image), place, shelf }) = self else { return };
        if !is_clean(&mut held) || !image.put_back(held.memory()) {
            return;
        }
        // Nobody is left in it: whom the call handed its message to, how far it reached, what the time was.
        let nowhere = sandbox.state(tenant, tenant.exit(Reach::Nowhere), None);
        *held.instance().store.data_mut() = nowhere;
        shelf.put(Kept { held, image, place });
    }
}

/// Whether a call that has returned left nothing behind but what is in a memory of the initial size.
///
/// The component has no resources of its own, and what it has a handle of is what the host gave it, and holds for it.
fn is_clean(held: &mut Held) -> bool {
    held.has_initial_size() && held.instance().store.data_mut().own_http().live_handles() == 0
}

impl Sandbox {
    /// An instance for a call, and whether it has been initialised.
    pub(super) async fn lease(
        &self,
        tenant: &Tenant,
        exit: Exit,
        reader: Option<Arc<dyn Handler>>,
    ) -> wasmtime::Result<Lease> {
        // A tenant that another sandbox made has nothing here.
        let shelf = tenant
            .shelf
            .as_ref()
            .filter(|shelf| self.rewinder.as_ref().is_some_and(|rewinder| Arc::ptr_eq(rewinder, &shelf.rewinder)));
        let Some(shelf) = shelf else { return Ok(Lease::Fresh(self.instantiate(tenant, exit, reader).await?)) };
        let (kept, is_worth_one) = shelf.take();
        if let Some(Kept { mut held, image, place }) = kept {
            let store = &mut held.instance().store;
            *store.data_mut() = self.state(tenant, exit, reader);
            self.limit(store)?;
            return Ok(Lease::Rewound(Running { held, image: Some(image), place, shelf: Arc::clone(shelf) }));
        }
        let place = if is_worth_one { shelf.rewinder.take_place(tenant.id()) } else { None };
        let Some(place) = place else { return Ok(Lease::Fresh(self.instantiate(tenant, exit, reader).await?)) };
        Ok(match Held::make(self.instantiate_of(&shelf.rewinder.binding, tenant, exit, reader)).await? {
            Ok(mut held) => {
                shelf.rewinder.base.get_or_init(|| Arc::new(Base::of(held.memory())));
                Lease::Rewound(Running { held, image: None, place, shelf: Arc::clone(shelf) })
            }
            // Of a module that is there more than once: it serves this call, and is not kept.
            Err(instance) => Lease::Fresh(instance),
        })
    }
}
