//! What the template `{uuid}` stands for: one value for each place where it is written, for the life of the process.
//! With a fresh one at each reading, every binding that has it would be another one whenever a file changes.

use std::collections::BTreeMap;

use uuid::Uuid;

/// Values that are kept though nothing refers to them any more: their component may come back.
const UNUSED: usize = 1_000;

/// A component, one of its properties in lower case, and which of the templates in it.
type Place = (String, String, usize);

/// The values so far.
#[derive(Debug, Default)]
pub(super) struct Uuids {
    /// With the number of the reading that asked last.
    known: BTreeMap<Place, (Uuid, u64)>,
    reading: u64,
}

impl Uuids {
    /// Those of one component.
    pub(super) fn of(&mut self, component: &str) -> Of<'_> {
        Of { uuids: self, component: component.to_owned() }
    }

    /// A reading is at its end. Should names that come and go have left too many values, only those go on that it has
    /// asked for.
    pub(super) fn forget_others(&mut self) {
        let reading = self.reading;
        let unused = self.known.values().filter(|(_, asked)| *asked != reading).count();
        if unused > UNUSED {
            self.known.retain(|_, (_, asked)| *asked == reading);
        }
        self.reading += 1;
    }
}

/// The values of one component.
pub(super) struct Of<'a> {
    uuids: &'a mut Uuids,
    component: String,
}

impl Of<'_> {
    /// Those of one property, one after the other.
    pub(super) fn of_property(&mut self, property: &str) -> impl FnMut() -> Uuid {
        let (component, property) = (self.component.clone(), property.to_lowercase());
        let mut number = 0;
        let Uuids { known, reading } = &mut *self.uuids;
        move || {
            number += 1;
            let place = (component.clone(), property.clone(), number);
            let entry = known.entry(place).or_insert_with(|| (Uuid::new_v4(), *reading));
            entry.1 = *reading;
            entry.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(uuids: &mut Uuids, component: &str, property: &str) -> [Uuid; 2] {
        let mut of = uuids.of(component);
        let mut next = of.of_property(property);
        [next(), next()]
    }

    #[test]
    fn a_place_keeps_its_value_and_no_two_places_share_one() {
        let mut uuids = Uuids::default();
        let places = [("a", "id"), ("a", "url"), ("b", "id")];
        let first = places.map(|(component, property)| take(&mut uuids, component, property));
        let different: std::collections::BTreeSet<_> = first.iter().flatten().collect();
        assert_eq!(different.len(), 6);
        uuids.forget_others();
        assert_eq!(places.map(|(component, property)| take(&mut uuids, component, property)), first);
        assert_eq!(take(&mut uuids, "a", "ID"), first[0]);
    }

    #[test]
    fn values_of_names_that_come_and_go_fill_no_memory() {
        let mut uuids = Uuids::default();
        let stays = take(&mut uuids, "stays", "id");
        for number in 0..2 * UNUSED {
            assert_eq!(take(&mut uuids, "stays", "id"), stays);
            take(&mut uuids, &format!("b{number}"), "id");
            uuids.forget_others();
        }
        assert!(uuids.known.len() <= UNUSED + 4, "{}", uuids.known.len());
    }
}
