//! The promises, and whether they are kept: what the application was told of each message, what was posted, what a group has
//! seen. Kept by what is seen from outside of the host, with its documentation in mind and without its state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::host::{BINDINGS, QUOTA, QUOTA_OF, ROBOT_OF};

/// What the host has been told is on its disk after that long, unless the disk fails.
const KEPT_MS: u64 = 5_000;

/// What is accepted while a message is on its way out comes too late to be posted before it.
const ON_ITS_WAY_MS: u64 = 10_000;

/// Busy answers after which a message is not posted again: one, and three to further attempts.
const BUSY: u32 = 4;

/// The outbox asks the gate no more often than that in ten seconds, for one binding.
const ASKED: usize = 1_000;

/// A message as the application knows it.
#[derive(Debug, Default)]
pub(super) struct Letter {
    pub(super) binding: usize,
    pub(super) is_queued: bool,
    pub(super) conversation: String,
    /// The higher one goes first.
    pub(super) rank: i64,
    /// The application's own `msgUuid`.
    pub(super) uuid: Option<String>,
    /// After which time, for the outbox.
    pub(super) expires: Option<u64>,
    pub(super) text: String,
    /// The host's clock when it was handed over for the first time, and when last.
    pub(super) sent_first: u64,
    pub(super) sent_last: u64,
    /// Its number in the outbox, once the application has been told so.
    pub(super) id: Option<String>,
    pub(super) accepted: Option<u64>,
    /// The host's clock then.
    pub(super) accepted_at: Option<u64>,
    /// The application was told that it is not there, and has left it at that.
    pub(super) is_withdrawn: bool,
    pub(super) seen_uuid: Option<String>,
    pub(super) posts: u32,
    pub(super) under_way: u32,
    pub(super) busy: u32,
    pub(super) is_shown: bool,
    /// The host knows that it has arrived, or has given it up.
    pub(super) is_settled: bool,
    /// It knew it, and was killed before that had to be noted: it may know it still.
    pub(super) is_unsettled: bool,
    pub(super) refused: bool,
    pub(super) given_up: Option<String>,
    /// It was posted while nobody had to wait for another binding of its robot.
    pub(super) is_unbound: bool,
}

impl Letter {
    fn lane(&self) -> (usize, String) {
        (self.binding, self.conversation.clone())
    }

    /// Where it stands among those of its conversation, whichever binding has them; unknown until the application was told.
    fn place(&self) -> Option<(i64, u64)> {
        Some((-self.rank, self.id.as_ref()?.parse().ok()?))
    }

    /// Whether it may be too late for it, if the host's clock has shown `wall`.
    fn is_expired(&self, wall: u64) -> bool {
        let from = self.accepted_at.unwrap_or(u64::MAX).min(self.sent_first);
        self.expires.is_some_and(|after| from + after <= wall)
    }

    /// Whether it must be.
    fn is_late(&self, wall: u64) -> bool {
        let from = self.accepted_at.unwrap_or(u64::MAX).max(self.sent_last);
        self.is_queued && self.expires.is_some_and(|after| from.saturating_add(after + ON_ITS_WAY_MS) <= wall)
    }
}

/// What came of a post, as its sender knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Accepted,
    Content,
    Busy,
    Unknown,
    Unsent,
    Shut(Kind, Duration),
}

impl Told {
    fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Content => "content",
            Self::Busy => "busy",
            Self::Unknown => "unknown",
            Self::Unsent => "unsent",
            Self::Shut(Kind::Rate, _) => "shut for its rate",
            Self::Shut(Kind::Quota, _) => "shut for its quota",
            Self::Shut(Kind::Configuration, _) => "shut for its settings",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rate,
    Quota,
    Configuration,
}

/// A post under way.
#[derive(Debug, Clone)]
pub(super) struct Departure {
    /// More than one, if those that waited have become one.
    pub(super) letters: Vec<usize>,
    number: u64,
    binding: usize,
    generation: u32,
    at: u64,
}

/// Why nobody has to wait for a binding.
#[derive(Debug, Clone, Copy, Default)]
struct Apart {
    is_refused: bool,
    is_away: bool,
    /// The last time that one of these was so.
    until: Option<u64>,
}

impl Apart {
    /// Whether a message may be posted now that was begun while it was so.
    fn was_lately(&self, now: u64) -> bool {
        self.is_refused || self.is_away || self.until.is_some_and(|until| now < until + ON_ITS_WAY_MS)
    }

    /// It is no more.
    fn end(&mut self, now: u64) {
        if self.is_refused || self.is_away {
            *self = Self { until: Some(now), ..Self::default() };
        }
    }
}

/// DingTalk has said that a robot takes nothing.
#[derive(Debug)]
struct Shut {
    kind: Kind,
    robot: usize,
    /// Whose settings are wrong, and how often it had been loaded.
    binding: Option<(usize, u32)>,
    at: u64,
    until: u64,
    /// Whether it may be on the host's disk.
    is_noted: bool,
}

/// What the host was told lately, and would not know any more if it ended now.
#[derive(Debug, Clone, Copy)]
enum Lately {
    Settled(usize),
    /// A message of the quota was not counted.
    GivenBack,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) letters: Vec<Letter>,
    /// Which of a conversation wait, in the order in which they are to go.
    waiting: BTreeMap<(usize, String), BTreeSet<(i64, usize)>>,
    under_way: BTreeMap<u64, Departure>,
    last: u64,
    /// The last one shown of each conversation and rank.
    shown: BTreeMap<(usize, String, i64), usize>,
    /// And the highest number in the outbox of those of them that had to wait for other bindings.
    bound: BTreeMap<(usize, String, i64), u64>,
    /// For these, no other binding of their robot has to wait: DingTalk refuses all that they send, or their files are away.
    apart: [Apart; BINDINGS.len()],
    shuts: Vec<Shut>,
    generations: [u32; BINDINGS.len()],
    lately: VecDeque<(u64, Lately)>,
    /// When the disk last failed.
    failed: Option<u64>,
    asked: [VecDeque<u64>; BINDINGS.len()],
    /// Calls of the binding with the quota that may have claimed a part of it.
    pub(super) calls: u64,
    used: u64,
    /// And what may be counted beside that: what was given back, which the host had no time to note.
    unsure: u64,
    pub(super) counts: Counts,
}

/// How often something was seen, so that a simulation in which nothing happens is no success.
pub(super) type Counts = BTreeMap<&'static str, u64>;

fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Books {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The application has a message to send.
    pub(super) fn write(&mut self, letter: Letter) -> usize {
        self.letters.push(letter);
        self.letters.len() - 1
    }

    /// The application was told that it is stored.
    pub(super) fn accepted(&mut self, number: usize, id: &str, now: u64, wall: u64) -> Result<(), String> {
        let letter = &mut self.letters[number];
        let before = letter.id.replace(id.to_owned()).unwrap_or_else(|| id.to_owned());
        require(before == id, || format!("letter {number} was {before} in the outbox, and is {id} now"))?;
        if letter.accepted.is_none() {
            letter.accepted = Some(now);
            letter.accepted_at = Some(wall);
            if !letter.is_settled && !letter.is_unsettled {
                self.wait(number);
            }
        }
        Ok(())
    }

    fn wait(&mut self, number: usize) {
        let letter = &self.letters[number];
        self.waiting.entry(letter.lane()).or_default().insert((-letter.rank, number));
    }

    fn settle(&mut self, number: usize, now: u64) {
        let letter = &mut self.letters[number];
        letter.is_settled = true;
        let lane = letter.lane();
        if let Some(waiting) = self.waiting.get_mut(&lane) {
            waiting.remove(&(-self.letters[number].rank, number));
        }
        self.lately.push_back((now, Lately::Settled(number)));
        while self.lately.front().is_some_and(|(at, _)| self.is_kept(*at, now)) {
            self.lately.pop_front();
        }
    }

    /// Whether what is tried until it is noted has been noted.
    fn is_kept(&self, at: u64, now: u64) -> bool {
        now >= at.max(self.failed.unwrap_or(0)) + KEPT_MS
    }

    /// The outbox asks whether it may post something of a binding.
    pub(super) fn asks(&mut self, binding: usize, now: u64) -> Result<(), String> {
        let asked = &mut self.asked[binding];
        while asked.front().is_some_and(|time| time + 10_000 <= now) {
            asked.pop_front();
        }
        asked.push_back(now);
        require(asked.len() <= ASKED, || format!("the gate of {} is asked without a pause", BINDINGS[binding]))
    }

    /// A message is posted.
    pub(super) fn begin(
        &mut self,
        numbers: &[usize],
        binding: usize,
        uuid: Option<&str>,
        now: u64,
        (wall, latest): (u64, u64),
    ) -> Result<Departure, String> {
        for number in numbers {
            self.may_begin(*number, numbers, binding, uuid, now, (wall, latest))?;
        }
        self.is_open(binding, numbers[0], now)?;
        self.count("posts");
        if numbers.len() > 1 {
            self.count("posts of several");
            let conversation = |number: &usize| self.letters[*number].conversation.clone();
            if numbers.iter().map(conversation).collect::<BTreeSet<_>>().len() > 1 {
                self.count("posts of several conversations");
            }
        }
        self.last += 1;
        let generation = self.generations[binding];
        let departure = Departure { letters: numbers.to_vec(), number: self.last, binding, generation, at: now };
        for number in numbers {
            let letter = &mut self.letters[*number];
            letter.posts += 1;
            letter.under_way += 1;
        }
        self.under_way.insert(self.last, departure.clone());
        self.used += u64::from(binding == QUOTA_OF);
        Ok(departure)
    }

    fn may_begin(
        &mut self,
        number: usize,
        together: &[usize],
        binding: usize,
        uuid: Option<&str>,
        now: u64,
        (wall, latest): (u64, u64),
    ) -> Result<(), String> {
        let letter = &mut self.letters[number];
        require(letter.binding == binding, || format!("letter {number} is posted by {}", BINDINGS[binding]))?;
        require(letter.under_way == 0, || format!("letter {number} is posted while it is under way"))?;
        require(!letter.is_withdrawn, || {
            format!("letter {number} is posted, of which it was said that it is not stored")
        })?;
        require(!letter.is_settled, || format!("letter {number} is posted again, though the host knows its end"))?;
        require(letter.is_queued || letter.posts == 0, || {
            format!("letter {number} is posted again, though it is not queued")
        })?;
        if letter.is_queued {
            let uuid = uuid.ok_or_else(|| format!("letter {number} is posted without a msgUuid"))?;
            // Several have one of their own, which they keep.
            let own = letter.uuid.as_deref().filter(|_| together.len() == 1).unwrap_or(uuid);
            let seen = letter.seen_uuid.get_or_insert_with(|| uuid.to_owned());
            let holds = own == uuid && seen == uuid;
            require(holds, || format!("letter {number} is posted with another msgUuid than before"))?;
        }
        let letter = &self.letters[number];
        require(letter.busy < BUSY, || format!("letter {number} is posted after {BUSY} busy answers"))?;
        require(!letter.is_late(wall), || format!("letter {number} is posted after its time"))?;
        for &(_, other) in self.waiting.get(&letter.lane()).into_iter().flatten() {
            if other == number {
                break;
            }
            // Of those it comes before, as it stands.
            if together.iter().take_while(|one| **one != number).any(|one| *one == other) {
                continue;
            }
            let before = &self.letters[other];
            let is_waiting =
                before.accepted.is_some_and(|time| time + ON_ITS_WAY_MS <= now) && !before.is_expired(latest);
            let is_first = letter.is_queued && (-before.rank, other) < (-letter.rank, number);
            require(!is_waiting || !is_first, || format!("letter {number} is posted before letter {other}"))?;
        }
        self.comes_first(number, now, latest)
    }

    /// Whether no other binding of its robot has something that comes before it in its conversation.
    fn comes_first(&mut self, number: usize, now: u64, latest: u64) -> Result<(), String> {
        let letter = &self.letters[number];
        let Some(own) = letter.place().filter(|_| letter.is_queued) else { return Ok(()) };
        let (binding, conversation) = letter.lane();
        let is_unbound = letter.is_unbound || self.is_unbound(binding, now);
        let (mut behind, mut beside) = (0, 0);
        for sibling in (0..BINDINGS.len()).filter(|other| *other != binding && ROBOT_OF[*other] == ROBOT_OF[binding]) {
            for &(_, other) in self.waiting.get(&(sibling, conversation.clone())).into_iter().flatten() {
                let before = &self.letters[other];
                let Some(place) = before.place() else { continue };
                let is_waiting =
                    before.accepted.is_some_and(|time| time + ON_ITS_WAY_MS <= now) && !before.is_expired(latest);
                behind += u64::from(place > own);
                let is_first = is_waiting && place < own;
                beside += u64::from(is_first);
                require(!is_first || is_unbound, || {
                    format!("letter {number} is posted before letter {other} of {}", BINDINGS[sibling])
                })?;
            }
        }
        if behind > 0 {
            self.count("before another binding's");
        }
        if beside > 0 {
            self.count("past another binding's that is held");
        }
        self.letters[number].is_unbound |= is_unbound;
        Ok(())
    }

    /// Whether what is begun by a binding now need not wait for another one of its robot.
    fn is_unbound(&self, binding: usize, now: u64) -> bool {
        let is_sibling = |other: &usize| *other != binding && ROBOT_OF[*other] == ROBOT_OF[binding];
        (0..BINDINGS.len()).filter(is_sibling).any(|sibling| self.apart[sibling].was_lately(now))
    }

    /// These are one message from now on, which keeps its place.
    pub(super) fn united(&mut self, numbers: &[usize], now: u64) {
        if numbers
            .iter()
            .any(|number| self.letters[*number].is_unbound || self.is_unbound(self.letters[*number].binding, now))
        {
            numbers.iter().for_each(|number| self.letters[*number].is_unbound = true);
        }
    }

    /// Whether nothing that DingTalk has said stands against a post.
    fn is_open(&mut self, binding: usize, number: usize, now: u64) -> Result<(), String> {
        let (robot, generation) = (ROBOT_OF[binding], self.generations[binding]);
        self.shuts.retain(|shut| now < shut.until || shut.kind != Kind::Rate);
        for shut in &self.shuts {
            let concerns = match shut.binding {
                Some(own) => own == (binding, generation),
                None => shut.robot == robot,
            };
            if !concerns {
                continue;
            }
            let is_over = now >= shut.until;
            require(is_over, || format!("letter {number} is posted at {now} though the robot is {shut:?}"))?;
            let others = |other: &&Departure| match shut.binding {
                Some(own) => own == (other.binding, other.generation),
                None => ROBOT_OF[other.binding] == robot,
            };
            let other = self.under_way.values().filter(others).find(|other| other.at >= shut.until);
            require(other.is_none(), || {
                format!("letter {number} is posted beside another one that finds out: {shut:?}")
            })?;
        }
        Ok(())
    }

    /// What came of it.
    pub(super) fn told(&mut self, departure: Departure, told: &Told, now: u64) -> Result<(), String> {
        let Departure { letters, number: id, binding, generation, at } = departure;
        if self.under_way.remove(&id).is_none() {
            return Ok(());
        }
        self.count(told.name());
        for number in letters {
            let letter = &mut self.letters[number];
            letter.under_way -= 1;
            match told {
                Told::Accepted => {
                    if letter.is_queued && self.apart[binding].is_refused {
                        self.apart[binding].end(now);
                    }
                    require(letter.is_shown, || format!("letter {number} is said to be shown, and is not"))?;
                    self.settle(number, now);
                }
                Told::Content => letter.refused = true,
                Told::Busy => letter.busy += 1,
                Told::Unknown | Told::Unsent | Told::Shut(..) => {}
            }
        }
        if matches!(told, Told::Unsent | Told::Shut(..)) && binding == QUOTA_OF {
            self.used -= 1;
            self.lately.push_back((now, Lately::GivenBack));
        }
        let robot = ROBOT_OF[binding];
        match told {
            Told::Accepted | Told::Content => self.shuts.retain(|shut| {
                let is_own = shut.binding.is_some_and(|own| own == (binding, generation));
                at < shut.until || !(is_own || shut.binding.is_none() && shut.robot == robot)
            }),
            Told::Shut(kind, pause) => {
                self.apart[binding].is_refused |= *kind == Kind::Configuration;
                let binding = (*kind == Kind::Configuration).then_some((binding, generation));
                let until = now + u64::try_from(pause.as_millis()).unwrap();
                self.shuts.push(Shut { kind: *kind, robot, binding, at: now, until, is_noted: true });
            }
            _ => {}
        }
        Ok(())
    }

    /// A group sees what these say.
    pub(super) fn all_shown(&mut self, numbers: &[usize]) -> Result<(), String> {
        numbers.iter().try_for_each(|number| self.shown(*number))
    }

    fn shown(&mut self, number: usize) -> Result<(), String> {
        self.count("shown");
        let letter = &mut self.letters[number];
        require(!letter.is_shown, || format!("letter {number} is shown twice"))?;
        letter.is_shown = true;
        // What was given up while it was under way may arrive at any time.
        if letter.is_queued && letter.given_up.is_none() {
            let place = (letter.binding, letter.conversation.clone(), letter.rank);
            let (is_unbound, own, binding) = (letter.is_unbound, letter.place(), letter.binding);
            let last = self.shown.insert(place.clone(), number).filter(|last| *last > number);
            require(last.is_none(), || format!("letter {number} is shown after letter {last:?} of its conversation"))?;
            let Some((_, id)) = own else { return Ok(()) };
            for sibling in
                (0..BINDINGS.len()).filter(|other| *other != binding && ROBOT_OF[*other] == ROBOT_OF[binding])
            {
                let last = self.bound.get(&(sibling, place.1.clone(), place.2)).copied().unwrap_or(0);
                require(last < id, || {
                    format!("letter {number} is {id} in the outbox, and shown after {last} of {}", BINDINGS[sibling])
                })?;
            }
            if !is_unbound {
                let last = self.bound.entry(place).or_default();
                *last = id.max(*last);
            }
        }
        Ok(())
    }

    /// The host posts it no more, and says why.
    pub(super) fn given_up(&mut self, number: usize, reason: &str, now: u64, wall: u64) -> Result<(), String> {
        let letter = &mut self.letters[number];
        let is_expired = letter.is_expired(wall);
        let is_busy = letter.busy >= BUSY;
        require(letter.refused || is_expired || is_busy, || {
            format!("letter {number} is given up after {} busy answers: {reason}", letter.busy)
        })?;
        letter.given_up = Some(reason.to_owned());
        self.count(if is_expired { "expired" } else { "given up" });
        self.settle(number, now);
        Ok(())
    }

    /// The disk fails.
    pub(super) fn disk_failed(&mut self, now: u64) {
        self.failed = Some(now);
        // What is noted about now may be lost, and is not noted again.
        let is_lost = |(at, lately): &(u64, Lately)| matches!(lately, Lately::GivenBack) && at + KEPT_MS > now;
        self.unsure += u64::try_from(self.lately.iter().filter(|entry| is_lost(entry)).count()).unwrap();
        self.lately.retain(|entry| !is_lost(entry));
        self.shuts.iter_mut().filter(|shut| shut.at + KEPT_MS > now).for_each(|shut| shut.is_noted = false);
    }

    /// A process has begun. Of what is over, it does not know that one message is to find out whether it is.
    pub(super) fn begun(&mut self, now: u64) {
        self.shuts.retain(|shut| now < shut.until);
    }

    /// A call that may have claimed a part of the month's messages has gone without a trace.
    pub(super) fn cut_off(&mut self) {
        self.unsure += 1;
    }

    /// A binding was loaded again: it knows nothing of what was wrong with the one before.
    pub(super) fn loaded(&mut self, binding: usize, now: u64) {
        self.generations[binding] += 1;
        self.apart[binding].end(now);
    }

    /// Its file is away.
    pub(super) fn removed(&mut self, binding: usize) {
        self.apart[binding].is_away = true;
    }

    /// The process has ended: what it had no time to note is unknown to the next one.
    pub(super) fn ended(&mut self, now: u64) {
        for (at, lately) in std::mem::take(&mut self.lately) {
            match lately {
                Lately::GivenBack if now < at + KEPT_MS => self.unsure += 1,
                Lately::GivenBack => {}
                _ if self.is_kept(at, now) => {}
                Lately::Settled(number) => {
                    let letter = &mut self.letters[number];
                    // Should it have been given up, that may be noted or not.
                    (letter.is_settled, letter.is_unsettled) = (false, true);
                    self.count("unsettled by a kill");
                }
            }
        }
        self.shuts.retain(|shut| shut.kind != Kind::Configuration && shut.is_noted && now >= shut.at + KEPT_MS);
        // How often DingTalk was busy is kept in memory.
        self.letters.iter_mut().for_each(|letter| letter.busy = 0);
        for letter in self.under_way.values().flat_map(|departure| &departure.letters) {
            self.letters[*letter].under_way = 0;
        }
        self.under_way.clear();
        self.apart.iter_mut().for_each(|apart| apart.end(now));
        self.unsure += std::mem::take(&mut self.calls);
        self.asked.iter_mut().for_each(VecDeque::clear);
    }

    /// What the outbox says of the month's messages, and of the fullest month. Nothing of it may be under way.
    pub(super) fn quota(&self, used: u64, most: u64) -> Result<(), String> {
        require(most <= QUOTA, || format!("{most} of {QUOTA} messages of a month are used"))?;
        let holds = (self.used..=self.used + self.unsure).contains(&used);
        require(holds, || format!("{used} messages are counted, and not {} and up to {} more", self.used, self.unsure))
    }

    /// Nothing waits any more.
    pub(super) fn close(&self, wall: u64) -> Result<(), String> {
        for (number, letter) in self.letters.iter().enumerate().filter(|(_, letter)| letter.accepted.is_some()) {
            let is_excused = letter.refused || letter.given_up.is_some() || letter.is_expired(wall);
            require(letter.is_shown || is_excused, || format!("letter {number} was accepted, and is not shown"))?;
        }
        Ok(())
    }

    /// What the application was told of a message that it did not queue.
    pub(super) fn posted(&self, number: usize, is_posted: bool, may_be: bool) -> Result<(), String> {
        let letter = &self.letters[number];
        require(!is_posted || letter.is_shown, || format!("letter {number} is said to be posted, and is not"))?;
        require(may_be || !letter.is_shown, || format!("letter {number} is said not to be sent, and is shown"))
    }

    /// Until when anything is shut.
    pub(super) fn shut_until(&self) -> u64 {
        self.shuts.iter().map(|shut| shut.until).max().unwrap_or(0)
    }
}
