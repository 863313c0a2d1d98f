//! Never more messages than a rate allows, in any stretch of time. Pure: time is passed in, as milliseconds of a clock that
//! does not go back.
//!
//! A message counts from the moment at which its call begins until one window after the call has ended: when DingTalk
//! received it lies between, and only DingTalk knows where.

use std::collections::VecDeque;

use super::rate::Rate;

/// What was sent lately, and what is being sent.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// When the calls ended that count, in order, as milliseconds since `base`. Half the size of whole times: there is a
    /// window for each robot.
    ended: VecDeque<u32>,
    base: u64,
    under_way: u32,
    used_up_until: u64,
}

/// Offsets are kept below that, which is 24 days.
const FAR: u64 = 1 << 31;

impl Window {
    /// Begins so many calls if all `rates` allow them all now; the error is the first that does not.
    pub(super) fn enter(&mut self, now: u64, rates: &[Rate], calls: u16) -> Result<(), Rate> {
        let is_full = |rate: &Rate| self.count(now, *rate) + usize::from(calls) > usize::from(rate.count());
        let full = rates.iter().copied().find(|rate| now < self.used_up_until || is_full(rate));
        if full.is_none() {
            self.pass(calls);
        }
        full.map_or(Ok(()), Err)
    }

    /// Until then, others have used up what the robot takes.
    pub(super) fn use_up(&mut self, until: u64) {
        self.used_up_until = self.used_up_until.max(until);
    }

    /// Begins so many calls whatever the rate; others count them.
    pub(super) fn pass(&mut self, calls: u16) {
        self.under_way = self.under_way.saturating_add(u32::from(calls));
    }

    /// Ends a call that may have brought DingTalk a message, if it `counts`. `keep` is the most that anybody's rate looks at.
    pub(super) fn leave(&mut self, now: u64, counts: bool, keep: u16) {
        self.under_way = self.under_way.saturating_sub(1);
        if !counts || keep == 0 {
            return;
        }
        if self.ended.is_empty() {
            self.base = now;
        }
        self.rebase(now);
        if let Some(earlier @ 1..) = self.base.checked_sub(now) {
            let earlier = u32::try_from(earlier).unwrap_or(u32::MAX);
            self.ended.iter_mut().for_each(|offset| *offset = offset.saturating_add(earlier));
            self.base = now;
        }
        while self.ended.len() >= usize::from(keep) {
            self.ended.pop_front();
        }
        if self.ended.capacity() == 0 {
            self.ended.reserve_exact(usize::from(keep));
        }
        // In its place: of a call whose end nobody has seen, it is later than that of calls which end meanwhile, and those must
        // not count for as long as it does.
        let offset = u32::try_from(now.saturating_sub(self.base)).unwrap_or(u32::MAX);
        let place = self.ended.partition_point(|ended| *ended <= offset);
        self.ended.insert(place, offset);
    }

    /// When the caller that has `ahead` others before it can begin at the earliest; `now`, if it need not wait.
    pub(super) fn earliest(&self, now: u64, rates: &[Rate], ahead: usize) -> u64 {
        let earliest = rates.iter().map(|rate| self.earliest_at(now, *rate, ahead)).max();
        earliest.unwrap_or(now).max(self.used_up_until)
    }

    fn earliest_at(&self, now: u64, rate: Rate, ahead: usize) -> u64 {
        let (count, window) = (usize::from(rate.count()), u64::from(rate.window_ms()));
        let taken = self.count(now, rate);
        // So many of those that count have to go first.
        let Some(nth) = (taken + ahead).checked_sub(count) else { return now };
        let live = self.live(now, rate);
        match live.clone().nth(nth) {
            Some(ended) => ended + window,
            // Of those, some have not even ended, or not begun.
            None => {
                let rounds = 1 + (nth - live.count()) / count;
                now.saturating_add(window.saturating_mul(u64::try_from(rounds).unwrap_or(u64::MAX)))
            }
        }
    }

    /// Whether so many are under way that there is no room for `calls` before one of them ends: nobody knows when.
    pub(super) fn is_under_way(&self, rates: &[Rate], calls: u16) -> bool {
        rates.iter().any(|rate| self.under_way.saturating_add(u32::from(calls)) > u32::from(rate.count()))
    }

    /// Whether nothing of it has a meaning for anybody who looks back for `window_ms`.
    pub(super) fn is_idle(&self, now: u64, window_ms: u32) -> bool {
        let last = self.ended.back().map(|last| self.base + u64::from(*last));
        self.under_way == 0 && self.used_up_until <= now && last.is_none_or(|last| last + u64::from(window_ms) <= now)
    }

    fn count(&self, now: u64, rate: Rate) -> usize {
        usize::try_from(self.under_way).unwrap_or(usize::MAX).saturating_add(self.live(now, rate).count())
    }

    /// When those calls ended that still count.
    fn live(&self, now: u64, rate: Rate) -> impl Iterator<Item = u64> + Clone + '_ {
        let window = u64::from(rate.window_ms());
        let ended = self.ended.iter().map(|offset| self.base + u64::from(*offset));
        ended.skip_while(move |ended| ended + window <= now)
    }

    fn rebase(&mut self, now: u64) {
        if now.saturating_sub(self.base) < FAR {
            return;
        }
        // Nothing that is so old counts: the longest window is an hour.
        let first = self.ended.front().copied().unwrap_or_default();
        self.ended.retain(|offset| now.saturating_sub(self.base + u64::from(*offset)) < FAR / 2);
        let first = self.ended.front().copied().unwrap_or(first);
        self.ended.iter_mut().for_each(|offset| *offset -= first);
        self.base += u64::from(first);
        if self.ended.is_empty() {
            self.base = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(Some(text)).unwrap().unwrap()
    }

    #[test]
    fn a_message_counts_until_one_window_after_its_end() {
        let (mut window, rate) = (Window::default(), rate("2/1m"));
        assert!(
            window.enter(0, &[rate], 1).is_ok()
                && window.enter(10, &[rate], 1).is_ok()
                && window.enter(20, &[rate], 1).is_err()
        );
        assert_eq!(window.earliest(20, &[rate], 0), 60_020, "both are under way");
        window.leave(5_000, true, 2);
        assert_eq!(window.earliest(5_000, &[rate], 0), 65_000);
        assert_eq!(window.earliest(5_000, &[rate], 1), 65_000, "one is under way: it ends now at the earliest");
        window.leave(6_000, false, 2);
        assert_eq!(window.earliest(6_000, &[rate], 0), 6_000);
        assert_eq!(window.earliest(6_000, &[rate], 1), 65_000);
        assert!(
            window.enter(6_000, &[rate], 1).is_ok()
                && window.enter(64_999, &[rate], 1).is_err()
                && window.enter(65_000, &[rate], 1).is_ok()
        );
    }

    #[test]
    fn one_whose_end_is_not_known_does_not_hold_up_those_after_it() {
        let (late, rate) = (15_000, rate("3/1s"));
        for before in [0, 1] {
            let mut window = Window::default();
            for _ in 0..before {
                window.pass(1);
                window.leave(0, true, 3);
            }
            window.pass(1);
            window.leave(2_000 + late, true, 3);
            // Two of three are free, each second.
            for now in (2_000..2_000 + late).step_by(1_000) {
                assert!(
                    window.enter(now, &[rate], 2).is_ok() && window.enter(now, &[rate], 1).is_err(),
                    "{before}: {now}"
                );
                window.leave(now, true, 3);
                window.leave(now, true, 3);
            }
            assert!(window.enter(2_999 + late, &[rate], 3).is_err() && window.enter(3_000 + late, &[rate], 3).is_ok());
        }
    }

    #[test]
    fn who_has_no_limit_counts_for_who_has() {
        let (mut window, rate) = (Window::default(), rate("1/1m"));
        window.pass(1);
        assert!(window.enter(0, &[rate], 1).is_err());
        window.leave(0, true, 1);
        assert!(window.enter(59_999, &[rate], 1).is_err() && window.enter(60_000, &[rate], 1).is_ok());
        window.leave(60_000, true, 0);
        assert!(window.is_idle(60_000, 60_000), "where nobody has a limit, nothing is kept");
    }

    #[test]
    fn a_robot_that_is_used_for_months_goes_on() {
        let (mut window, rate) = (Window::default(), rate("2/1m"));
        let day = 24 * 60 * 60 * 1_000;
        let mut now = 0;
        for _ in 0..100 {
            now += day;
            assert!(
                window.enter(now, &[rate], 1).is_ok()
                    && window.enter(now, &[rate], 1).is_ok()
                    && window.enter(now, &[rate], 1).is_err()
            );
            window.leave(now, true, 2);
            window.leave(now + 1, true, 2);
            assert!(window.enter(now + 59_999, &[rate], 1).is_err());
        }
        // And where it never rests for a whole window.
        for step in 0..400_000_u64 {
            let at = now + day + step * 30_000;
            assert!(window.enter(at, &[rate], 1).is_ok(), "{step}");
            window.leave(at, true, 2);
            assert!(step == 0 || window.enter(at, &[rate], 1).is_err(), "{step}");
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Enter,
        /// Ends the call that has been under way for as long as that is long, having reached DingTalk or not, at a moment
        /// between, or so much later, where nobody has seen that.
        Leave {
            which: usize,
            counts: bool,
            at: u64,
            late: u64,
        },
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Enter),
            4 => (0..8_usize, prop::bool::weighted(0.8), 0..=100_u64, prop_oneof![4 => Just(0), 1 => 0..2_000_u64])
                .prop_map(|(which, counts, at, late)| Step::Leave { which, counts, at, late }),
            3 => prop_oneof![0..50_u64, 0..3_000_u64].prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever begins and ends in which order, and whenever within its call a message arrives: in no stretch of one
        /// window there is one too many. And nobody waits for longer than has to be.
        #[test]
        fn never_one_too_many(count in 1..6_u16, steps in prop::collection::vec(step(), 0..300)) {
            let rate = rate(&format!("{count}/1s"));
            let mut window = Window::default();
            let (mut now, mut calls, mut arrived) = (7_u64, Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Wait(time) => now += time,
                    Step::Enter => {
                        let earliest = window.earliest(now, &[rate], 0);
                        let entered = window.enter(now, &[rate], 1).is_ok();
                        prop_assert_eq!(entered, earliest == now);
                        if entered {
                            calls.push(now);
                        }
                    }
                    Step::Leave { which, counts, at, late } => {
                        if calls.is_empty() { continue; }
                        let begun = calls.remove(which % calls.len());
                        if counts {
                            arrived.push(begun + (now + late - begun) * at / 100);
                        }
                        window.leave(now + late, counts, count);
                    }
                }
            }
            // Those under way may have arrived too.
            arrived.extend(calls);
            arrived.sort_unstable();
            for group in arrived.windows(usize::from(count) + 1) {
                prop_assert!(group[usize::from(count)] - group[0] >= 1_000, "{:?}", group);
            }
        }

        /// A wait that was told is enough if nobody else comes, and no moment less is.
        #[test]
        fn the_wait_that_is_told_is_the_wait(count in 1..5_u16, ended in prop::collection::vec(0..1_500_u64, 0..20)) {
            let rate = rate(&format!("{count}/1s"));
            let mut window = Window::default();
            let mut now = 0;
            for pause in ended {
                now += pause;
                if window.enter(now, &[rate], 1).is_ok() {
                    window.leave(now, true, count);
                }
            }
            let earliest = window.earliest(now, &[rate], 0);
            prop_assert!(earliest == now || window.enter(earliest - 1, &[rate], 1).is_err());
            prop_assert!(window.enter(earliest, &[rate], 1).is_ok());
        }
    }
}
