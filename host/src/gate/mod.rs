//! Within a robot's limits: who posts to it now, who waits, and who is refused, because DingTalk shuts a robot for ten minutes
//! after one message too many, and because what DingTalk refuses for hours need not be asked every second.
//!
//! `window` and `door` decide, as pure functions of state and time; `lesson` says what the end of a call means to them.
//! Here is who shares them, and who waits. Two bindings of one robot share its window, its widest
//! rate and its penalties. What is wrong with one binding's
//! settings is its own matter: the door of another one with the right secret stays open, and a file that is mended brings a
//! new binding with a new door.

mod door;
pub(crate) mod ledger;
pub(crate) mod lesson;
mod pass;
mod policy;
pub mod quota;
pub mod rate;
mod rates;
mod window;
mod withheld;

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dingtalk_binding::endpoint::Endpoint;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::event::{Digest, digest};
use crate::quiet::Quiet;
use door::{Barred, Door, Probe};
use ledger::{Claimed, Intent, Ledger, Unclaimed};
use lesson::{Closing, Kind, Lesson};
use pass::Probes;
use rate::Rate;
use rates::Rates;
use window::Window;
use withheld::Why;

pub use pass::Pass;
pub use policy::{Overflow, Policy};
pub use withheld::Withheld;

/// Calls that wait for one robot at once, and for all: each holds its message, and a request of its port.
const WAITING_EACH: usize = 64;
const WAITING: usize = 256;

/// Where the milliseconds of this process begin: what an earlier one did was before that.
const BEGINNING_MS: u64 = 2 * LONGEST_WINDOW_MS as u64;

/// For how long a message that waits in an outbox stands among the calls that wait.
const QUEUES_FOR: Duration = Duration::from_secs(60);

/// Within which a post must be noted.
const NOTED_WITHIN: Duration = Duration::from_secs(10);

/// How long one is told to wait while what remembers posts cannot be asked.
const UNAVAILABLE_MS: u64 = 5_000;

/// The longest window of a rate, after which nothing of a robot has a meaning.
const LONGEST_WINDOW_MS: u32 = 60 * 60 * 1_000;

/// A call whose end is not known may reach DingTalk later than that: its bytes are on their way.
pub(crate) const LATE_MS: u64 = 15_000;

/// How long one is told to wait while another one finds out what is known of a closing.
const FINDING_OUT_MS: u64 = 5_000;

/// Robots beside those in use, and as many again, before those that nobody uses are forgotten.
const SWEEP: usize = 64;

/// All robots that are posted to. Cheap to clone.
#[derive(Clone)]
pub struct Robots(Arc<Inner>);

struct Inner {
    by_key: Mutex<Known>,
    waiting: AtomicUsize,
    /// When the milliseconds were [`BEGINNING_MS`].
    origin: Instant,
    /// What remembers beyond this process, if anything does.
    ledger: OnceLock<Arc<dyn Ledger>>,
    /// Lines of which a call each could cause one.
    quiet: Quiet,
}

#[derive(Default)]
struct Known {
    robots: HashSet<ByKey>,
    /// When there are so many, those that nobody uses are looked for: each time would be a look at all for each of them.
    sweep_at: usize,
}

/// A robot that is found by its key, which it has itself: there may be ten thousand.
struct ByKey(Arc<Robot>);

impl Borrow<Digest> for ByKey {
    fn borrow(&self) -> &Digest {
        &self.0.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

/// What all bindings of one robot share.
struct Robot {
    /// Of its address, which has its token in it.
    key: Digest,
    state: Mutex<State>,
}

/// One for each rate: who has to wait for long must not stand before those who need not.
type Queues = Vec<(Rate, Arc<Queue>)>;

/// Those who wait for one robot at one rate.
#[derive(Default)]
struct Queue {
    /// Held by the first of them; the others stand behind it in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    /// A call has ended, and may have made room sooner than was thought.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// Of a robot that was posted to.
    window: Option<Box<Window>>,
    door: Door,
    rates: Rates,
    /// Made when somebody has to wait: most robots never see that.
    queues: Option<Box<Queues>>,
}

/// One binding's way to its robot.
pub struct Gate {
    robots: Robots,
    robot: Arc<Robot>,
    /// For what is wrong with this binding.
    door: Mutex<Door>,
    policy: Policy,
}

impl Robots {
    /// None yet.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            by_key: Mutex::default(),
            waiting: AtomicUsize::new(0),
            origin: Instant::now(),
            ledger: OnceLock::new(),
            quiet: Quiet::default(),
        }))
    }

    /// The way to the robot behind `endpoint`.
    pub fn gate(&self, endpoint: &Endpoint, policy: Policy) -> Gate {
        let robot = lock(&self.0.by_key).robot(key(endpoint), self.now());
        policy.rate.into_iter().for_each(|rate| lock(&robot.state).rates.add(rate));
        Gate { robots: self.clone(), robot, door: Mutex::default(), policy }
    }

    /// From now on, posts are noted in `ledger`, and what an earlier process has left there counts. Once.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) async fn remember(&self, ledger: Arc<dyn Ledger>) -> Result<(), String> {
        let known = ledger.known().await?;
        let now = self.now();
        for ledger::Known { robot, posts, shut } in known {
            let robot = lock(&self.0.by_key).robot(robot, now);
            let mut state = lock(&robot.state);
            state.rates.keep_at_least(posts.len());
            let keep = state.rates.kept();
            for ago in posts {
                let window = state.window();
                window.pass(1);
                window.leave(now.saturating_add_signed(-ago), true, keep);
            }
            if let Some((closing, left)) = shut {
                let closing = Closing { pause: Duration::from_millis(left), ..closing };
                state.door.leave(now, Probe::default(), &Lesson::Shut(closing), |_| true);
            }
        }
        // Who comes second is not heard: there is one outbox.
        let _ = self.0.ledger.set(ledger);
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.origin.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(BEGINNING_MS)
    }

    /// When it is so late.
    fn instant(&self, ms: u64) -> Instant {
        self.0.origin + Duration::from_millis(ms.saturating_sub(BEGINNING_MS))
    }

    /// How many calls wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }
}

impl Known {
    fn robot(&mut self, key: Digest, now: u64) -> Arc<Robot> {
        if self.robots.len() >= self.sweep_at {
            // A robot that was taken away and comes back within its window must find it as it was.
            self.robots.retain(|ByKey(robot)| Arc::strong_count(robot) > 1 || !lock(&robot.state).is_idle(now));
            self.sweep_at = 2 * self.robots.len() + SWEEP;
        }
        if let Some(ByKey(robot)) = self.robots.get(&key) {
            return Arc::clone(robot);
        }
        let robot = Arc::new(Robot { key, state: Mutex::default() });
        self.robots.insert(ByKey(Arc::clone(&robot)));
        robot
    }
}

impl Default for Robots {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn window(&mut self) -> &mut Window {
        self.window.get_or_insert_default()
    }

    /// How many wait at this rate.
    fn waiting(&self, rate: Rate) -> usize {
        let mut queues = self.queues.iter().flat_map(|queues| queues.iter());
        queues.find(|(known, _)| *known == rate).map_or(0, |(_, queue)| queue.waiting.load(Ordering::Acquire))
    }

    fn queue(&mut self, rate: Rate) -> Arc<Queue> {
        let queues = self.queues.get_or_insert_default();
        // Rates come and go with files.
        queues.retain(|(known, queue)| *known == rate || Arc::strong_count(queue) > 1);
        match queues.iter().find(|(known, _)| *known == rate) {
            Some((_, queue)) => Arc::clone(queue),
            None => {
                let queue = Arc::<Queue>::default();
                queues.push((rate, Arc::clone(&queue)));
                queue
            }
        }
    }

    fn is_idle(&self, now: u64) -> bool {
        self.window.as_ref().is_none_or(|window| window.is_idle(now, LONGEST_WINDOW_MS)) && self.door.is_open(now)
    }
}

/// What a robot is known by: a hash, because it lives longer than the binding, and its address has the token in it.
pub(crate) fn key(endpoint: &Endpoint) -> Digest {
    let origin = endpoint.origin();
    digest(format!("{}:{}\n{}", origin.host(), origin.port(), endpoint.robot()).as_bytes())
}

/// Why one may not begin now.
struct Stopped {
    why: Why,
    /// When to ask again; without a time, when a call has ended.
    until: Option<u64>,
}

impl Gate {
    /// Leave to post so many messages, after waiting no longer than `limit`. All or none: part of a message would be worse
    /// than nothing. What is urgent may use what is reserved of the month's allowance.
    pub async fn enter(&self, messages: u16, limit: Duration, is_urgent: bool) -> Result<Pass<'_>, Withheld> {
        let waits = self.policy.overflow == Overflow::Wait;
        self.enter_noted(messages, limit, waits, is_urgent, None).await
    }

    /// Leave to post one message that can wait elsewhere: now, or not. Only behind calls that wait it does so too, in the order in
    /// which they came, because they would always come before it otherwise.
    pub async fn enter_for_queue(&self, seq: i64, is_urgent: bool) -> Result<Pass<'_>, Withheld> {
        let ahead = self.policy.rate.is_some_and(|rate| lock(&self.robot.state).waiting(rate) > 0);
        let limit = if ahead { QUEUES_FOR } else { Duration::ZERO };
        self.enter_noted(1, limit, ahead, is_urgent, Some(seq)).await
    }

    async fn enter_noted(
        &self,
        messages: u16,
        limit: Duration,
        waits: bool,
        is_urgent: bool,
        queued: Option<i64>,
    ) -> Result<Pass<'_>, Withheld> {
        let Some(ledger) = self.robots.0.ledger.get() else { return self.enter_here(messages, limit, waits).await };
        let begun = Instant::now();
        loop {
            let pass = self.enter_here(messages, limit.saturating_sub(begun.elapsed()), waits).await?;
            match self.note(ledger, pass, is_urgent, queued).await {
                Ok(pass) => match self.shut_meanwhile() {
                    None => return Ok(pass),
                    Some(withheld) => return Err(withheld),
                },
                Err(withheld) => {
                    let rest = limit.saturating_sub(begun.elapsed());
                    let is_over_soon = matches!(withheld.why, Why::Rate(_)) && withheld.wait <= rest;
                    if !waits || !is_over_soon {
                        return Err(withheld);
                    }
                }
            }
        }
    }

    /// While something was noted, DingTalk may have said that it takes nothing: the ledger knows that of the robot alone, and later.
    fn shut_meanwhile(&self) -> Option<Withheld> {
        let (rate, now) = (self.policy.rate?, self.robots.now());
        let own = lock(&self.door).look(now);
        let Barred { closing, until } = own.and_then(|()| lock(&self.robot.state).door.look(now)).err()?;
        // Without a time, this one is to find out.
        until.map(|_| self.withheld(Stopped { why: Why::Shut(closing), until }, rate, now, 0))
    }

    /// Notes what is about to be posted.
    async fn note<'a>(
        &'a self,
        ledger: &Arc<dyn Ledger>,
        mut pass: Pass<'a>,
        is_urgent: bool,
        queued: Option<i64>,
    ) -> Result<Pass<'a>, Withheld> {
        let Policy { rate, quota, .. } = &self.policy;
        let intent = Intent {
            robot: self.robot.key,
            rates: self
                .rates()
                .map(Vec::from)
                .map(|mut rates| {
                    rates.dedup();
                    rates
                })
                .unwrap_or_default(),
            messages: pass.left,
            counts_for: lock(&self.robot.state).rates.longest_ms(),
            quota: quota.as_deref().cloned(),
            is_urgent,
            queued,
        };
        let messages = pass.left;
        // A disk that hangs must not hold a call for longer than it may take.
        let claimed = tokio::time::timeout(NOTED_WITHIN, ledger.claim(intent)).await;
        let late = || Err(Unclaimed::Unavailable(format!("the outbox took more than {} s", NOTED_WITHIN.as_secs())));
        let unclaimed = match claimed.unwrap_or_else(|_| late()) {
            Ok(Claimed { posts, used }) => {
                if let (Some(quota), Some(used)) = (quota, used)
                    && let Some(share) = quota.reached(used, messages)
                    // Where the count goes back and forth over it.
                    && self.robots.0.quiet.count(&format!("{share} {}", quota.name())).is_some()
                {
                    let (name, limit) = (quota.name(), quota.limit());
                    tracing::warn!(quota = name, used, limit, "{share} % of the month's messages are used");
                }
                pass.claims = Some((Arc::clone(ledger), posts));
                return Ok(pass);
            }
            Err(unclaimed) => unclaimed,
        };
        let (why, wait) = match (unclaimed, rate) {
            (Unclaimed::Full(wait), Some(rate)) => {
                lock(&self.robot.state).window().use_up(self.robots.now().saturating_add(wait));
                (Why::Rate(*rate), wait)
            }
            // Without a rate there is none to use up.
            (Unclaimed::Full(wait), None) => (Why::Waiting(usize::from(messages)), wait),
            (Unclaimed::Shut(closing, wait), _) => {
                let closing = Closing { pause: Duration::from_millis(wait), ..closing };
                let lesson = Lesson::Shut(closing.clone());
                lock(&self.robot.state).door.leave(self.robots.now(), Probe::default(), &lesson, |_| true);
                (Why::Shut(closing), wait)
            }
            (Unclaimed::Spent(used, wait), _) => {
                (Why::Spent { used, limit: quota.as_ref().map_or(0, |quota| quota.limit()) }, wait)
            }
            (Unclaimed::Unavailable(reason), _) => (Why::Unavailable(reason), UNAVAILABLE_MS),
        };
        Err(Withheld { why, wait: Duration::from_millis(wait.max(1)) })
    }

    /// As [`Self::enter`], as far as this process knows.
    async fn enter_here(&self, messages: u16, limit: Duration, waits: bool) -> Result<Pass<'_>, Withheld> {
        let Some(rate) = self.policy.rate else { return Ok(self.pass(messages, Probes::default())) };
        let now = self.robots.now();
        // Nobody overtakes those who wait.
        let ahead = lock(&self.robot.state).waiting(rate);
        let stopped = match self.try_enter(rate, messages, ahead) {
            Ok(pass) => return Ok(pass),
            Err(stopped) => stopped,
        };
        let until = now.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let others = ahead + usize::from(messages.saturating_sub(1));
        if !waits || !self.is_worth_waiting(&stopped, rate, now, others, until) {
            return Err(self.withheld(stopped, rate, now, others));
        }
        let queue = lock(&self.robot.state).queue(rate);
        let _place = match self.robots.place(&queue) {
            Ok(place) => place,
            Err(number) => {
                return Err(self.withheld(Stopped { why: Why::Waiting(number), ..stopped }, rate, now, others));
            }
        };
        let waited = tokio::time::timeout(limit, self.wait(&queue, rate, messages, until)).await;
        waited.unwrap_or(Err(stopped)).map_err(|stopped| self.withheld(stopped, rate, self.robots.now(), others))
    }

    /// Whether so many messages can ever be let through at once.
    pub fn holds(&self, messages: usize) -> bool {
        self.rates().into_iter().flatten().all(|rate| messages <= usize::from(rate.count()))
    }

    /// How many messages go out in a minute; nothing, where there is no limit.
    pub fn a_minute(&self) -> Option<usize> {
        let a_minute = |rate: Rate| u64::from(rate.count()) * 60_000 / u64::from(rate.window_ms()).max(1);
        let count = self.rates()?.into_iter().map(a_minute).min()?;
        Some(usize::try_from(count).unwrap_or(usize::MAX).max(1))
    }

    /// What it keeps to.
    fn rates(&self) -> Option<[Rate; 2]> {
        self.policy.rate.map(|rate| lock(&self.robot.state).rates.of(rate))
    }

    async fn wait(&self, queue: &Queue, rate: Rate, messages: u16, limit: u64) -> Result<Pass<'_>, Stopped> {
        let _turn = queue.turn.lock().await;
        loop {
            // Before looking: an end between the look and the wait must not be missed.
            let ended = queue.ended.notified();
            let stopped = match self.try_enter(rate, messages, 0) {
                Ok(pass) => return Ok(pass),
                Err(stopped) => stopped,
            };
            // What has been learnt since may have made it hopeless: those behind need not wait for that.
            let others = usize::from(messages.saturating_sub(1));
            if !self.is_worth_waiting(&stopped, rate, self.robots.now(), others, limit) {
                return Err(stopped);
            }
            match stopped.until {
                Some(until) => {
                    let _ = tokio::time::timeout_at(self.robots.instant(until), ended).await;
                }
                None => ended.await,
            }
        }
    }

    /// Whether it may be over until `limit`. What only people end is not waited for.
    fn is_worth_waiting(&self, stopped: &Stopped, rate: Rate, now: u64, others: usize, limit: u64) -> bool {
        let passes = !matches!(&stopped.why, Why::Shut(closing) if closing.kind != Kind::Rate);
        passes && self.earliest(stopped, rate, now, others) <= limit
    }

    fn withheld(&self, stopped: Stopped, rate: Rate, now: u64, others: usize) -> Withheld {
        let wait = self.earliest(&stopped, rate, now, others).saturating_sub(now).max(1);
        Withheld { why: stopped.why, wait: Duration::from_millis(wait) }
    }

    /// When a call with so many `others` before it can begin at the earliest.
    fn earliest(&self, stopped: &Stopped, rate: Rate, now: u64, others: usize) -> u64 {
        let mut state = lock(&self.robot.state);
        let rates = state.rates.of(rate);
        let window = state.window().earliest(now, &rates, others);
        let stopped = match (&stopped.why, stopped.until) {
            (_, Some(until)) => until,
            (Why::Shut(_), None) => now + FINDING_OUT_MS,
            _ => now,
        };
        stopped.max(window)
    }

    /// Begins, unless something stops it, or `ahead` others come first.
    fn try_enter(&self, rate: Rate, messages: u16, ahead: usize) -> Result<Pass<'_>, Stopped> {
        let now = self.robots.now();
        let barred = |Barred { closing, until }| Stopped { why: Why::Shut(closing), until };
        let mut own = lock(&self.door);
        own.look(now).map_err(barred)?;
        let mut state = lock(&self.robot.state);
        state.door.look(now).map_err(barred)?;
        if ahead > 0 {
            return Err(Stopped { why: Why::Rate(rate), until: None });
        }
        let rates = state.rates.of(rate);
        if let Err(full) = state.window().enter(now, &rates, messages) {
            // Where all of them are under way, nobody knows when one ends.
            let others = usize::from(messages.saturating_sub(1));
            let until = Some(state.window().earliest(now, &rates, others));
            let until = until.filter(|_| !state.window().is_under_way(&rates, messages));
            return Err(Stopped { why: Why::Rate(full), until });
        }
        let probes = Probes { own: own.pass(), robot: state.door.pass() };
        Ok(Pass { gate: self, probes, left: messages, is_running: false, claims: None })
    }

    /// Begins whatever the rate; others count it.
    fn pass(&self, messages: u16, probes: Probes) -> Pass<'_> {
        lock(&self.robot.state).window().pass(messages);
        Pass { gate: self, probes, left: messages, is_running: false, claims: None }
    }

    fn leave(&self, probes: Probes, lesson: &Lesson) {
        let now = self.robots.now();
        let is_own = |kind| kind == Kind::Configuration;
        lock(&self.door).leave(now, probes.own, lesson, is_own);
        let mut state = lock(&self.robot.state);
        let keep = state.rates.kept();
        let ended = if *lesson == Lesson::Unknown { now + LATE_MS } else { now };
        state.window().leave(ended, *lesson != Lesson::Unsent, keep);
        state.door.leave(now, probes.robot, lesson, |kind| !is_own(kind));
        for (_, queue) in state.queues.iter().flat_map(|queues| queues.iter()) {
            queue.ended.notify_one();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.policy.rate.into_iter().for_each(|rate| lock(&self.robot.state).rates.remove(rate));
    }
}

impl Robots {
    /// A place among those who wait, or how many of them are too many.
    fn place<'a>(&'a self, queue: &'a Queue) -> Result<Place<'a>, usize> {
        let take = |number: &AtomicUsize, limit| {
            let more = |number: usize| (number < limit).then_some(number + 1);
            number.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
        };
        let (each, all) = (&queue.waiting, &self.0.waiting);
        if !take(each, WAITING_EACH) {
            return Err(WAITING_EACH);
        }
        if !take(all, WAITING) {
            each.fetch_sub(1, Ordering::AcqRel);
            return Err(WAITING);
        }
        Ok(Place { each, all })
    }
}

/// A place among those who wait.
struct Place<'a> {
    each: &'a AtomicUsize,
    all: &'a AtomicUsize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.each.fetch_sub(1, Ordering::AcqRel);
        self.all.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
