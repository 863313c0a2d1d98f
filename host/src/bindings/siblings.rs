//! Which bindings keep one order: those that send to one robot with one secret. Whoever queues through two of them means one group
//! of people; a binding with another secret is left out, because DingTalk may refuse all that it sends for an hour.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dingtalk_binding::settings::Settings;
use sha2::{Digest as _, Sha256};

use crate::gate;
use crate::queue::siblings::{Groups, MOST_SIBLINGS};

/// What siblings have in common: half of a hash, because it lies beside ten thousand others and has a secret in it.
pub(super) type Key = [u8; 16];

/// Of whatever can queue messages with these settings.
pub(super) fn key(settings: &Settings) -> Key {
    let mut hash = Sha256::new_with_prefix(gate::key(&settings.endpoint));
    // No secret is none, and not an empty one.
    if let Some(secret) = &settings.secret {
        hash.update([1]);
        hash.update(secret.secret().expose());
    }
    hash.finalize().first_chunk().copied().unwrap_or_default()
}

/// By what they have in common.
#[derive(Default)]
pub(super) struct Siblings(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_key: HashMap<Key, Names>,
    /// How many keys have more than one name.
    shared: usize,
    /// What the outbox was told last, unless it has changed since. It asks with every look; ten thousand bindings are loaded between
    /// two of them.
    told: Option<Option<Arc<Groups>>>,
}

/// Most have no siblings.
enum Names {
    One(Arc<str>),
    Several(BTreeSet<Arc<str>>),
}

impl Siblings {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A binding is loaded, replaced or taken away.
    pub(super) fn change(&self, name: &Arc<str>, before: Option<Key>, now: Option<Key>) {
        if let Some(before) = before.filter(|_| before != now) {
            self.remove(&before, name);
        }
        if let Some(now) = now {
            self.add(now, name);
        }
    }

    fn add(&self, key: Key, name: &Arc<str>) {
        let mut known = self.lock();
        let known = &mut *known;
        let names = known.by_key.entry(key).or_insert_with(|| Names::One(Arc::clone(name)));
        match names {
            Names::One(only) if only == name => {}
            Names::One(only) => {
                *names = Names::Several([Arc::clone(only), Arc::clone(name)].into());
                known.shared += 1;
                known.told = None;
            }
            Names::Several(names) => {
                if names.insert(Arc::clone(name)) {
                    known.told = None;
                }
            }
        }
    }

    fn remove(&self, key: &Key, name: &str) {
        let mut known = self.lock();
        let known = &mut *known;
        match known.by_key.get_mut(key) {
            Some(Names::One(only)) if **only == *name => drop(known.by_key.remove(key)),
            Some(names @ Names::Several(_)) => {
                let Names::Several(several) = names else { return };
                if several.remove(name) {
                    known.told = None;
                }
                if several.len() == 1
                    && let Some(only) = several.pop_first()
                {
                    *names = Names::One(only);
                    known.shared -= 1;
                }
            }
            _ => {}
        }
    }

    /// Of each binding that has siblings, all that keep one order with it; nothing, if none has. Of a group, the first ones by name
    /// do, so that every host that has the same files says the same.
    pub(super) fn groups(&self) -> Option<Arc<Groups>> {
        let mut known = self.lock();
        if let Some(told) = &known.told {
            return told.clone();
        }
        let mut groups = Groups::new();
        for names in known.by_key.values().filter(|_| known.shared > 0) {
            if let Names::Several(names) = names {
                let group: Arc<[Arc<str>]> = names.iter().take(MOST_SIBLINGS).cloned().collect();
                groups.extend(group.iter().map(|name| (Arc::clone(name), Arc::clone(&group))));
            }
        }
        let groups = (!groups.is_empty()).then(|| Arc::new(groups));
        known.told = Some(groups.clone());
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(siblings: &Siblings, of: &str) -> Vec<String> {
        let groups = siblings.groups();
        let group = groups.as_ref().and_then(|groups| groups.get(of));
        group.iter().flat_map(|group| group.iter()).map(|name| name.to_string()).collect()
    }

    #[test]
    fn one_robot_and_one_secret_is_one_key_and_the_rest_does_not_matter() {
        let key = |url: &str, secret: &str, timeout: &str| {
            let properties = [("id", "x"), ("url", url), ("secret", secret), ("timeout", timeout)];
            key(&Settings::parse(properties).unwrap())
        };
        let robot = "https://oapi.dingtalk.com/robot/send?access_token=t";
        let own = key(robot, "SEC1", "");
        assert_eq!(own, key(&robot.replace("com/", "com:443/"), "SEC1", "3s"));
        assert_ne!(own, key(robot, "SEC2", ""));
        assert_ne!(own, key(robot, "", ""));
        assert_eq!(key(robot, "", ""), key(robot, "", "1s"));
        assert_ne!(own, key(&robot.replace("=t", "=u"), "SEC1", ""));
        assert_ne!(own, key(&robot.replace(".com", ".io"), "SEC1", ""));
    }

    #[test]
    fn bindings_come_and_go_and_who_is_left_alone_has_no_siblings() {
        let siblings = Siblings::default();
        let add = |key: u8, name: &str| siblings.add([key; 16], &name.into());
        assert!(siblings.groups().is_none());
        add(1, "a");
        add(2, "x");
        assert!(siblings.groups().is_none());
        add(1, "b");
        add(1, "b");
        assert_eq!((names(&siblings, "a"), names(&siblings, "x").len()), (vec!["a".into(), "b".into()], 0));
        assert!(Arc::ptr_eq(&siblings.groups().unwrap(), &siblings.groups().unwrap()), "known until it changes");
        add(1, "c");
        siblings.remove(&[1; 16], "a");
        siblings.remove(&[2; 16], "c");
        siblings.remove(&[9; 16], "c");
        assert_eq!((names(&siblings, "c"), names(&siblings, "a").len()), (vec!["b".into(), "c".into()], 0));
        siblings.remove(&[1; 16], "b");
        assert!(siblings.groups().is_none());
        siblings.remove(&[1; 16], "c");
        siblings.remove(&[2; 16], "x");
        let known = siblings.lock();
        assert_eq!((known.by_key.len(), known.shared), (0, 0));
    }

    #[test]
    fn of_a_large_group_the_first_ones_by_name_keep_one_order_and_loading_it_takes_no_longer_than_others() {
        let (one, many) = (Siblings::default(), Siblings::default());
        for number in (0..10_000_u32).rev() {
            one.add([1; 16], &format!("b{number:05}").into());
            let mut key = [0; 16];
            key[..4].copy_from_slice(&(number / 2).to_be_bytes());
            many.add(key, &format!("b{number:05}").into());
        }
        assert_eq!(one.groups().unwrap().len(), MOST_SIBLINGS);
        assert_eq!(names(&one, "b00015").len(), MOST_SIBLINGS);
        assert!(names(&one, "b00016").is_empty());
        assert_eq!(
            (many.groups().unwrap().len(), names(&many, "b09999")),
            (10_000, vec!["b09998".into(), "b09999".into()])
        );
    }
}
