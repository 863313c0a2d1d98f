//! Shut for a while, because DingTalk said so. Pure: time is passed in.

use super::lesson::{Closing, Kind, Lesson};

/// How long after its end a closing is remembered that nobody comes to find out about.
const FORGOTTEN_MS: u64 = 60 * 60 * 1_000;

/// Open, or shut until a moment.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// Boxed: there is a door for each robot and each binding, and hardly any of them is ever shut.
    shut: Option<Box<Shut>>,
}

#[derive(Debug)]
struct Shut {
    closing: Closing,
    until: u64,
    /// A message is on its way that will show whether it is still shut.
    probing: bool,
}

/// Why nobody may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Barred {
    /// What DingTalk has said.
    pub(super) closing: Closing,
    /// Until then at least; without a time, until a call that is under way has shown more.
    pub(super) until: Option<u64>,
}

/// Whether who passes is the one to show if the door is still shut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Probe(bool);

impl Door {
    /// Whether one may pass now.
    pub(super) fn look(&self, now: u64) -> Result<(), Barred> {
        let Some(shut) = &self.shut else { return Ok(()) };
        let barred = |until| Err(Barred { closing: shut.closing.clone(), until });
        match shut.closing.kind {
            _ if now < shut.until => barred(Some(shut.until)),
            // One at a time, or all that have waited would come at once.
            Kind::Quota | Kind::Configuration if shut.probing => barred(None),
            Kind::Rate | Kind::Quota | Kind::Configuration => Ok(()),
        }
    }

    /// Passes: [`Door::look`] has just said that one may.
    pub(super) fn pass(&mut self) -> Probe {
        match &mut self.shut {
            Some(shut) if shut.closing.kind != Kind::Rate => {
                shut.probing = true;
                Probe(true)
            }
            _ => {
                // It was over.
                self.shut = None;
                Probe(false)
            }
        }
    }

    /// The end of a call that has passed. `minds` are the closings that are this door's matter.
    pub(super) fn leave(&mut self, now: u64, Probe(probe): Probe, lesson: &Lesson, minds: impl Fn(Kind) -> bool) {
        match lesson {
            Lesson::Shut(closing) if minds(closing.kind) => {
                let pause = u64::try_from(closing.pause.as_millis()).unwrap_or(u64::MAX);
                let until = now.saturating_add(pause);
                match &mut self.shut {
                    // What it was shut for may be over or not: this says something else.
                    Some(shut) if probe && shut.closing.kind != closing.kind => {
                        shut.probing = false;
                        shut.until = shut.until.max(until);
                    }
                    // What began before the door was shut, and ends now, has nothing new to say.
                    Some(shut) if !probe && shut.until >= until => {}
                    _ => self.shut = Some(Box::new(Shut { closing: closing.clone(), until, probing: false })),
                }
            }
            Lesson::Counted if probe => self.shut = None,
            Lesson::Counted => {}
            // It has not been seen, or says nothing of what the door is shut for: the next one finds out.
            Lesson::Unsent | Lesson::Unknown | Lesson::Shut(_) => {
                if let Some(shut) = self.shut.as_mut().filter(|_| probe) {
                    shut.probing = false;
                }
            }
        }
    }

    /// Whether it says nothing to whoever comes at `now`.
    pub(super) fn is_open(&self, now: u64) -> bool {
        self.shut.as_ref().is_none_or(|shut| match shut.closing.kind {
            Kind::Rate => shut.until <= now,
            // Nobody has asked for so long that it may as well be asked again.
            Kind::Quota | Kind::Configuration => shut.until.saturating_add(FORGOTTEN_MS) <= now,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shut(kind: Kind, seconds: u64) -> Lesson {
        Lesson::Shut(Closing { errcode: 1, pause: Duration::from_secs(seconds), kind, check: None })
    }

    fn until(door: &Door, now: u64) -> Option<u64> {
        door.look(now).unwrap_err().until
    }

    #[test]
    fn a_penalty_ends_by_itself_for_everybody() {
        let mut door = Door::default();
        let probe = door.pass();
        door.leave(1_000, probe, &shut(Kind::Rate, 600), |_| true);
        assert_eq!(until(&door, 1_000), Some(601_000));
        assert_eq!(until(&door, 600_999), Some(601_000));
        assert!(!door.is_open(600_999) && door.is_open(601_000));
        for _ in 0..3 {
            door.look(601_000).unwrap();
            assert_eq!(door.pass(), Probe(false));
        }
    }

    #[test]
    fn of_what_people_end_one_message_finds_out() {
        let mut door = Door::default();
        let probe = door.pass();
        door.leave(0, probe, &shut(Kind::Configuration, 60), |_| true);
        assert_eq!(until(&door, 59_999), Some(60_000));
        door.look(60_000).unwrap();
        let probe = door.pass();
        assert_eq!(until(&door, 60_000), None, "while the first is under way");
        door.leave(60_001, probe, &Lesson::Unsent, |_| true);
        door.look(60_001).unwrap();
        let probe = door.pass();
        door.leave(60_002, probe, &shut(Kind::Configuration, 60), |_| true);
        assert_eq!(until(&door, 60_003), Some(120_002));
        // Cut off, busy, or throttled for another reason: that says nothing of it.
        for lesson in [Lesson::Unknown, shut(Kind::Rate, 1)] {
            door.look(200_000).unwrap();
            let probe = door.pass();
            door.leave(200_000, probe, &lesson, |kind| kind == Kind::Configuration);
            assert!(!door.is_open(200_000), "{lesson:?}");
        }
        let probe = door.pass();
        door.leave(200_003, probe, &Lesson::Counted, |_| true);
        assert!(door.is_open(200_003));
    }

    #[test]
    fn who_began_before_it_was_shut_neither_opens_nor_shortens_it() {
        let mut door = Door::default();
        let passes = [door.pass(), door.pass(), door.pass()];
        for (pass, lesson) in passes.into_iter().zip([shut(Kind::Rate, 600), Lesson::Counted, shut(Kind::Rate, 1)]) {
            door.leave(0, pass, &lesson, |_| true);
        }
        assert_eq!(until(&door, 0), Some(600_000));
    }

    #[test]
    fn a_door_is_shut_by_its_own_matters_alone() {
        let mut door = Door::default();
        let probe = door.pass();
        door.leave(0, probe, &shut(Kind::Configuration, 60), |kind| kind != Kind::Configuration);
        assert!(door.is_open(0));
    }
}
