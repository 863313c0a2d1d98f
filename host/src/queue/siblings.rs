//! Bindings that keep one order between them, and what comes first where several of them have messages of one conversation. Pure.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Of each binding that keeps one order with others, all of these, itself among them.
pub type Groups = HashMap<Arc<str>, Arc<[Arc<str>]>>;

/// Bindings of one group that keep their order: each conversation is looked for in all of them before anything goes out.
pub const MOST_SIBLINGS: usize = 16;

/// Which bindings keep one order now. Usually none does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::queue) struct Siblings {
    groups: Option<Arc<Groups>>,
    /// Those for which nobody waits: what holds them is their own matter, and may last for an hour or a month.
    apart: HashSet<String>,
}

impl Siblings {
    pub(in crate::queue) fn new(groups: Arc<Groups>, apart: HashSet<String>) -> Self {
        Self { groups: Some(groups), apart }
    }

    /// Whether nobody has any.
    pub(in crate::queue) fn is_empty(&self) -> bool {
        self.groups.is_none()
    }

    /// The others whose messages may come before those of this binding.
    pub(in crate::queue) fn of(&self, binding: &str) -> Vec<&str> {
        let group = self.groups.as_ref().and_then(|groups| groups.get(binding));
        let others = group.iter().flat_map(|group| group.iter()).map(|name| &**name);
        others.filter(|name| *name != binding && !self.apart.contains(*name)).collect()
    }
}

/// Where a message stands among those of its conversation, in whichever binding: the lesser position comes first.
///
/// What has become one message with others comes before what has its rank: all that it stands for came before that. And whatever
/// waits for a sibling waits for a lesser position, so that nothing ever waits in a circle, also where two bindings become siblings
/// of which each has made one message of what the other one has in the opposite order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::queue) struct Position {
    rank: Reverse<i64>,
    stands_alone: bool,
    seq: i64,
}

impl Position {
    pub(in crate::queue) fn new(rank: i64, stands_for_others: bool, seq: i64) -> Self {
        Self { rank: Reverse(rank), stands_alone: !stands_for_others, seq }
    }

    pub(in crate::queue) fn seq(&self) -> i64 {
        self.seq
    }

    /// Whether others wait for what it says of them.
    pub(in crate::queue) fn stands_for_others(&self) -> bool {
        !self.stands_alone
    }

    /// Of one that stands for itself alone.
    pub(in crate::queue) fn alone(rank: i64, seq: i64) -> Self {
        Self::new(rank, false, seq)
    }
}

/// Bindings of one robot.
#[cfg(test)]
pub(in crate::queue) fn group(names: &[&str]) -> Arc<Groups> {
    let group: Arc<[Arc<str>]> = names.iter().map(|&name| name.into()).collect();
    Arc::new(group.iter().map(|name| (Arc::clone(name), Arc::clone(&group))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_itself_for_a_stranger_or_for_one_that_is_held_for_its_own_sake() {
        let groups = group(&["a", "b"]);
        let siblings = Siblings::new(Arc::clone(&groups), HashSet::new());
        assert_eq!((siblings.of("a"), siblings.of("b")), (vec!["b"], vec!["a"]));
        assert!(siblings.of("c").is_empty() && Siblings::default().of("a").is_empty());
        let siblings = Siblings::new(groups, ["b".to_owned()].into());
        assert!(siblings.of("a").is_empty());
        assert_eq!(siblings.of("b"), ["a"], "the other way round, it waits");
    }

    #[test]
    fn rank_comes_first_then_what_stands_for_several_then_what_was_accepted_earlier() {
        let positions = [
            Position::new(1, true, 9),
            Position::alone(1, 8),
            Position::new(0, true, 6),
            Position::new(0, true, 7),
            Position::alone(0, 1),
            Position::alone(0, 2),
            Position::alone(-1, 0),
        ];
        assert!(positions.is_sorted());
    }
}
