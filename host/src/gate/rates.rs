//! What a robot takes, as its bindings say it. Pure.
//!
//! Each binding keeps its own rate. One that does not look back as far as another, or that is wider for a moment, would let
//! through one message too many beside it: 8 in 30 s, and 20 a minute, together send a 21st. So the widest rate of all its
//! bindings is the robot's, which all of them keep. What is narrower is a binding's own matter, and stands in nobody's way.

use super::rate::{MOST, Rate};

/// DingTalk's own limit is remembered at least, also of a robot that nobody limits: a binding with a rate may come, and must
/// know what was sent before it.
const LEAST_KEPT: u16 = 20;
const LEAST_WINDOW_S: u16 = 60;

/// The rates of a robot's bindings, and how many have each.
#[derive(Debug)]
pub(super) struct Rates {
    first: Option<Rate>,
    number: u32,
    /// The most messages that any rate has ever allowed, and the longest time that one looked back, in seconds: half the size.
    kept: u16,
    longest_s: u16,
    /// Those that are not the first. Boxed: there are rates for each robot, and hardly any has bindings that differ.
    #[expect(clippy::box_collection, reason = "a third of the size, for each robot")]
    others: Option<Box<Vec<(Rate, u32)>>>,
}

impl Default for Rates {
    fn default() -> Self {
        Self { first: None, number: 0, kept: LEAST_KEPT, longest_s: LEAST_WINDOW_S, others: None }
    }
}

impl Rates {
    /// A binding comes.
    pub(super) fn add(&mut self, rate: Rate) {
        self.kept = self.kept.max(rate.count());
        self.longest_s = self.longest_s.max(u16::try_from(rate.window_ms().div_ceil(1_000)).unwrap_or(u16::MAX));
        match self.first {
            None => (self.first, self.number) = (Some(rate), 1),
            Some(first) if first == rate => self.number = self.number.saturating_add(1),
            Some(_) => {
                let others = self.others.get_or_insert_default();
                match others.iter_mut().find(|(other, _)| *other == rate) {
                    Some((_, number)) => *number = number.saturating_add(1),
                    None => others.push((rate, 1)),
                }
            }
        }
    }

    /// One goes that had come.
    pub(super) fn remove(&mut self, rate: Rate) {
        if self.first == Some(rate) {
            self.number = self.number.saturating_sub(1);
            if self.number == 0 {
                let next = self.others.as_mut().and_then(|others| others.pop());
                (self.first, self.number) = next.map_or((None, 0), |(rate, number)| (Some(rate), number));
            }
        } else if let Some(others) = &mut self.others {
            others.iter_mut().filter(|(other, _)| *other == rate).for_each(|(_, number)| *number -= 1);
            others.retain(|(_, number)| *number > 0);
        }
        if self.others.as_ref().is_some_and(|others| others.is_empty()) {
            self.others = None;
        }
    }

    /// How many of the latest messages have a meaning for anybody.
    pub(super) fn kept(&self) -> u16 {
        self.kept
    }

    /// So many have one already.
    pub(super) fn keep_at_least(&mut self, messages: usize) {
        self.kept = self.kept.max(u16::try_from(messages).unwrap_or(u16::MAX).min(MOST));
    }

    /// For how many milliseconds they have one.
    pub(super) fn longest_ms(&self) -> u32 {
        u32::from(self.longest_s) * 1_000
    }

    /// What a binding with the rate `own` keeps: that, and the robot's.
    pub(super) fn of(&self, own: Rate) -> [Rate; 2] {
        let others = self.others.iter().flat_map(|others| others.iter()).map(|(rate, _)| *rate);
        let widest = self.first.into_iter().chain(others).max_by(|one, other| one.width(*other));
        [own, widest.unwrap_or(own)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gate::window::Window;

    fn rate(text: &str) -> Rate {
        Rate::parse(Some(text)).unwrap().unwrap()
    }

    #[test]
    fn the_widest_is_the_robots_until_it_has_gone() {
        let (minute, short, narrow) = (rate("20/1m"), rate("8/30s"), rate("30/10m"));
        let mut rates = Rates::default();
        assert_eq!(rates.of(short), [short, short]);
        for rate in [short, minute, narrow, minute] {
            rates.add(rate);
        }
        assert_eq!([short, minute, narrow].map(|own| rates.of(own)[1]), [minute; 3]);
        rates.remove(minute);
        assert_eq!(rates.of(short), [short, minute]);
        rates.remove(minute);
        assert_eq!(rates.of(narrow), [narrow, short]);
        rates.remove(short);
        rates.remove(narrow);
        assert!(rates.first.is_none() && rates.number == 0 && rates.others.is_none());
    }

    #[test]
    fn of_two_that_are_as_wide_it_is_the_one_that_lets_fewer_through_at_once() {
        let mut rates = Rates::default();
        for text in ["40/2m", "20/1m", "60/3m"] {
            rates.add(rate(text));
        }
        assert_eq!(rates.of(rate("40/2m")), [rate("40/2m"), rate("20/1m")]);
    }

    fn any_rate() -> impl Strategy<Value = Rate> {
        (1..12_u16, 1..6_u32).prop_map(|(count, seconds)| rate(&format!("{count}/{seconds}s")))
    }

    proptest! {
        /// As if all of them stood in a list.
        #[test]
        fn they_are_counted(steps in prop::collection::vec((any_rate(), any::<bool>()), 0..60)) {
            let (mut rates, mut list) = (Rates::default(), Vec::new());
            for (rate, comes) in steps {
                if comes {
                    rates.add(rate);
                    list.push(rate);
                } else if let Some(place) = list.iter().position(|known| *known == rate) {
                    rates.remove(rate);
                    list.swap_remove(place);
                }
                let widest = list.iter().copied().max_by(|one, other| one.width(*other));
                prop_assert_eq!(rates.of(rate)[1], widest.unwrap_or(rate));
            }
        }

        /// Whoever sends when: no stretch of the widest rate's window has one too many.
        #[test]
        fn bindings_with_different_rates_keep_the_widest_together(
            all in prop::collection::vec(any_rate(), 1..4),
            calls in prop::collection::vec((0..4_usize, 0..1_200_u64), 0..200),
        ) {
            let mut rates = Rates::default();
            all.iter().for_each(|rate| rates.add(*rate));
            let [_, widest] = rates.of(all[0]);
            let (mut window, mut now, mut sent) = (Window::default(), 0, Vec::new());
            for (which, pause) in calls {
                now += pause;
                if window.enter(now, &rates.of(all[which % all.len()]), 1).is_ok() {
                    window.leave(now, true, 20);
                    sent.push(now);
                }
            }
            for group in sent.windows(usize::from(widest.count()) + 1) {
                prop_assert!(group[group.len() - 1] - group[0] >= u64::from(widest.window_ms()), "{:?}", group);
            }
        }
    }
}
