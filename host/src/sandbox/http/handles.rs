//! What a component holds: the things behind its handles, bounded in number, and which of them live inside others.
//!
//! wasmtime knows which handle is of which kind, and that nobody uses one that is not his; here is what is behind it. A
//! number is given again as soon as it is free, the lowest first: which one a thing gets follows from what is held, and
//! from nothing that was.

use wasmtime::component::Resource;

use super::error::IoError;
use super::fields::Fields;
use super::request::{OutgoingBody, OutgoingRequest, RequestOptions};
use super::response::{FutureIncomingResponse, IncomingBody, IncomingResponse};
use super::streams::{InputStream, OutputStream, Pollable};

/// One kind of thing that can be held.
pub(super) trait Kind: Sized {
    fn wrap(self) -> Thing;
    fn unwrap(thing: Thing) -> Option<Self>;
    fn of(thing: &Thing) -> Option<&Self>;
    fn of_mut(thing: &mut Thing) -> Option<&mut Self>;
}

macro_rules! kinds {
    ($($kind:ident),*) => {
        /// Whatever can be held.
        pub(super) enum Thing {
            $($kind($kind),)*
        }

        $(impl Kind for $kind {
            fn wrap(self) -> Thing {
                Thing::$kind(self)
            }

            fn unwrap(thing: Thing) -> Option<Self> {
                if let Thing::$kind(thing) = thing { Some(thing) } else { None }
            }

            fn of(thing: &Thing) -> Option<&Self> {
                if let Thing::$kind(thing) = thing { Some(thing) } else { None }
            }

            fn of_mut(thing: &mut Thing) -> Option<&mut Self> {
                if let Thing::$kind(thing) = thing { Some(thing) } else { None }
            }
        })*
    };
}

kinds!(
    Fields,
    OutgoingRequest,
    OutgoingBody,
    RequestOptions,
    FutureIncomingResponse,
    IncomingResponse,
    IncomingBody,
    InputStream,
    OutputStream,
    Pollable,
    IoError
);

struct Held {
    thing: Thing,
    parent: Option<u32>,
    children: u32,
}

/// A component that reached the limit, or gave a thing away that others live in: its call ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandleError {
    #[error("the component holds too many handles")]
    Full,
    #[error("there is nothing behind a handle")]
    Absent,
    #[error("a handle was given away while others that were made from it are held")]
    HasChildren,
}

pub(super) struct Handles {
    held: Vec<Option<Held>>,
    limit: usize,
}

impl Handles {
    pub(super) fn new(limit: usize) -> Self {
        Self { held: Vec::new(), limit }
    }

    /// How many are held.
    pub(super) fn live(&self) -> usize {
        self.held.iter().flatten().count()
    }

    pub(super) fn push<K: Kind + 'static>(&mut self, thing: K) -> Result<Resource<K>, HandleError> {
        self.hold(Held { thing: thing.wrap(), parent: None, children: 0 })
    }

    /// One that lives inside `parent`, which cannot be given away before it.
    pub(super) fn push_child<K: Kind + 'static, P: 'static>(
        &mut self,
        thing: K,
        parent: &Resource<P>,
    ) -> Result<Resource<K>, HandleError> {
        let parent = parent.rep();
        let child = self.hold(Held { thing: thing.wrap(), parent: Some(parent), children: 0 })?;
        self.at(parent)?.children += 1;
        Ok(child)
    }

    pub(super) fn get<K: Kind + 'static>(&self, handle: &Resource<K>) -> Result<&K, HandleError> {
        let held = usize::try_from(handle.rep()).ok().and_then(|number| self.held.get(number)?.as_ref());
        held.and_then(|held| K::of(&held.thing)).ok_or(HandleError::Absent)
    }

    pub(super) fn get_mut<K: Kind + 'static>(&mut self, handle: &Resource<K>) -> Result<&mut K, HandleError> {
        K::of_mut(&mut self.at(handle.rep())?.thing).ok_or(HandleError::Absent)
    }

    pub(super) fn delete<K: Kind + 'static>(&mut self, handle: &Resource<K>) -> Result<K, HandleError> {
        if self.at(handle.rep())?.children > 0 {
            return Err(HandleError::HasChildren);
        }
        let slot = usize::try_from(handle.rep()).ok().and_then(|number| self.held.get_mut(number));
        let held = slot.and_then(Option::take).ok_or(HandleError::Absent)?;
        if let Some(parent) = held.parent {
            let children = &mut self.at(parent)?.children;
            *children = children.saturating_sub(1);
        }
        K::unwrap(held.thing).ok_or(HandleError::Absent)
    }

    fn at(&mut self, number: u32) -> Result<&mut Held, HandleError> {
        let held = usize::try_from(number).ok().and_then(|number| self.held.get_mut(number)?.as_mut());
        held.ok_or(HandleError::Absent)
    }

    fn hold<K: 'static>(&mut self, held: Held) -> Result<Resource<K>, HandleError> {
        let free = self.held.iter().position(Option::is_none).unwrap_or(self.held.len());
        if free >= self.limit {
            return Err(HandleError::Full);
        }
        let number = u32::try_from(free).map_err(|_| HandleError::Full)?;
        match self.held.get_mut(free) {
            Some(slot) => *slot = Some(held),
            None => self.held.push(Some(held)),
        }
        Ok(Resource::new_own(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error() -> IoError {
        IoError(None)
    }

    #[test]
    fn what_others_live_in_is_not_given_away_before_them() {
        let mut handles = Handles::new(3);
        let parent = handles.push(error()).unwrap();
        let children = [(); 2].map(|()| handles.push_child(error(), &parent).unwrap());
        assert_eq!(handles.push(error()).map(drop), Err(HandleError::Full));
        for child in &children {
            assert_eq!(handles.delete(&parent).map(drop), Err(HandleError::HasChildren));
            handles.delete(child).map(drop).unwrap();
        }
        handles.delete(&parent).map(drop).unwrap();
        assert_eq!(handles.live(), 0);
        assert_eq!(handles.delete(&parent).map(drop), Err(HandleError::Absent));
        assert_eq!(handles.get(&parent).map(drop), Err(HandleError::Absent));
    }

    proptest! {
        /// Whatever was held before, the same things held have the same numbers: nothing is passed on in their order.
        #[test]
        fn no_more_are_held_than_may_be_and_the_lowest_free_number_is_next(
            steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let mut handles = Handles::new(8);
            let mut held = std::collections::BTreeMap::new();
            for (takes, which) in steps {
                let free = (0..).find(|number| !held.contains_key(number)).unwrap();
                if takes {
                    match handles.push(error()) {
                        Ok(handle) => {
                            prop_assert_eq!(handle.rep(), free);
                            held.insert(free, handle);
                        }
                        Err(error) => prop_assert_eq!((error, held.len()), (HandleError::Full, 8)),
                    }
                } else if !held.is_empty() {
                    let number = *held.keys().nth(which.index(held.len())).unwrap();
                    let handle = held.remove(&number).unwrap();
                    prop_assert!(handles.delete(&handle).is_ok());
                }
                prop_assert_eq!(handles.live(), held.len());
            }
        }
    }
}
