//! What outlives the host's process: time, what is under way, the books, the trace. And when the process ends.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::application::Client;
use super::books::{Books, Counts, Departure};
use super::network::Network;
use crate::clock::Clock;
use crate::gate::quota;

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// The first moment of a month in China.
const MONTH: u64 = 1_796_054_400_000;

/// How much of the trace is shown when a promise was broken.
const SHOWN: usize = 80;

pub(super) struct World {
    state: Mutex<State>,
    /// The process has ended.
    pub(super) death: Notify,
    /// It is to end in good order.
    pub(super) stop: Notify,
    /// Something else is under way.
    pub(super) sent: Notify,
}

pub(super) struct State {
    pub(super) seed: u64,
    /// Which process it is.
    pub(super) life: u32,
    /// What the present process does has no effect any more.
    pub(super) is_dead: bool,
    /// At so many more of the moments at which a process can end, this one does.
    pub(super) fuse: Option<u32>,
    /// Ends gently.
    pub(super) is_to_stop: bool,
    /// Until then, a process that begins would be told a wrong time of what was before it: none ends.
    pub(super) is_fragile_until: u64,
    pub(super) books: Books,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) disk: super::disk::Health,
    /// When the present process began, by its own time and by that of the world.
    origin: Option<Instant>,
    begun: u64,
    epoch: u64,
    skew: i64,
    latest: u64,
    trace: String,
    broken: Option<String>,
}

impl State {
    /// Milliseconds since the beginning, which nobody can set.
    pub(super) fn now(&self) -> u64 {
        let passed = self.origin.map_or(0, |origin| u64::try_from(origin.elapsed().as_millis()).unwrap());
        self.begun + passed
    }

    /// What the host's clock shows.
    pub(super) fn wall(&self) -> u64 {
        (self.epoch + self.now()).checked_add_signed(self.skew).unwrap()
    }

    /// What a robot's clock shows at a moment of the world's.
    pub(super) fn robot_time(&self, at: u64) -> u64 {
        self.epoch + at
    }

    /// Notes in the books that a message is posted, and looks whether it may be.
    pub(super) fn begin(&mut self, letters: &[usize], binding: usize, uuid: Option<&str>) -> Result<Departure, String> {
        let (now, wall, latest) = (self.now(), self.wall(), self.latest());
        self.books.begin(letters, binding, uuid, now, (wall, latest))
    }

    /// The latest time that it has shown.
    pub(super) fn latest(&self) -> u64 {
        self.latest.max(self.wall())
    }

    /// Sets it.
    pub(super) fn set_clock(&mut self, by: i64) {
        self.latest = self.latest();
        self.skew += by;
    }

    pub(super) fn skew(&self) -> i64 {
        self.skew
    }

    pub(super) fn note(&mut self, text: std::fmt::Arguments<'_>) {
        let now = self.now();
        let (hours, minutes, millis) = (now / HOUR_MS, now / 60_000 % 60, now % 60_000);
        let (seconds, millis) = (millis / 1_000, millis % 1_000);
        let life = self.life;
        writeln!(self.trace, "{hours:02}:{minutes:02}:{seconds:02}.{millis:03} #{life} {text}").unwrap();
    }

    /// The process ends here and now: nothing that it does from now on is seen by anybody.
    fn die(&mut self, why: &str) {
        if !self.is_dead {
            self.note(format_args!("killed {why}"));
            self.books.count("processes");
            self.is_dead = true;
        }
    }
}

/// A line of the trace.
macro_rules! note {
    ($state:expr, $($text:tt)*) => { $state.note(format_args!($($text)*)) };
}
pub(super) use note;

impl World {
    /// The month ends three hours before the end.
    pub(super) fn new(seed: u64, hours: u64) -> Arc<Self> {
        let epoch = MONTH - hours.saturating_sub(3) * HOUR_MS;
        assert_ne!(quota::month(MONTH - 1), quota::month(MONTH));
        Arc::new(Self {
            state: Mutex::new(State {
                seed,
                life: 0,
                is_dead: true,
                fuse: None,
                is_to_stop: false,
                is_fragile_until: 0,
                books: Books::default(),
                network: Network::new(),
                clients: Client::all(),
                disk: super::disk::Health::default(),
                origin: None,
                begun: 0,
                epoch,
                skew: 0,
                latest: 0,
                trace: String::new(),
                broken: None,
            }),
            death: Notify::new(),
            stop: Notify::new(),
            sent: Notify::new(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn now(&self) -> u64 {
        self.state().now()
    }

    pub(super) fn clock(self: &Arc<Self>) -> Clock {
        let world = Arc::clone(self);
        Arc::new(move || world.state().wall())
    }

    /// A process begins.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.origin = Some(Instant::now());
        state.life += 1;
        (state.is_dead, state.is_to_stop, state.fuse) = (false, false, None);
        note!(state, "a process begins");
        let now = state.now();
        state.books.begun(now);
    }

    /// It has ended, and nothing runs for so long.
    pub(super) fn end(&self, pause: Duration) {
        let mut state = self.state();
        state.die("at its end");
        let now = state.now();
        let state = &mut *state;
        state.books.ended(now);
        state.network.ended(now);
        (state.begun, state.origin) = (now + u64::try_from(pause.as_millis()).unwrap(), None);
    }

    /// A promise was broken. The first is what is told.
    pub(super) fn broken(&self, what: String) {
        let mut state = self.state();
        if state.broken.is_none() {
            note!(state, "BROKEN {what}");
            state.broken = Some(what);
        }
        state.die("because of that");
        self.death.notify_one();
    }

    /// What a check has found.
    pub(super) fn check(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.broken(what);
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.state().broken.is_some()
    }

    /// A moment at which the process may end. Nothing comes after that.
    pub(super) async fn may_end(&self, what: &str) {
        if self.ends(what) {
            std::future::pending::<()>().await;
        }
        // Others may come first.
        if fastrand::u32(..16) == 0 {
            tokio::task::yield_now().await;
        }
    }

    fn ends(&self, what: &str) -> bool {
        let mut state = self.state();
        if state.is_dead {
            return true;
        }
        match &mut state.fuse {
            None => return false,
            Some(0) => {}
            Some(left) => {
                *left -= 1;
                return false;
            }
        }
        state.die(what);
        self.death.notify_one();
        true
    }

    /// The process ends at once.
    pub(super) fn kill(&self) {
        self.state().die("at any moment");
        self.death.notify_one();
    }

    /// All that has happened.
    pub(super) fn trace(&self) -> String {
        self.state().trace.clone()
    }

    /// All that has happened and how often, or what is to be shown of it.
    pub(super) fn result(&self) -> Result<(String, Counts), String> {
        let state = self.state();
        let Some(broken) = &state.broken else { return Ok((state.trace.clone(), state.books.counts.clone())) };
        let lines: Vec<&str> = state.trace.lines().collect();
        let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        let (seed, hours) = (state.seed, state.now() / HOUR_MS);
        Err(format!("seed {seed}, hour {hours}: {broken}\nbefore that:\n{last}\nSIMULATION_SEED={seed} repeats it"))
    }
}

pub(super) fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// One of so many times, on average.
pub(super) fn one_in(times: u32) -> bool {
    fastrand::u32(..times) == 0
}

/// A time that is `mean` milliseconds long on average, as those between independent events are.
pub(super) fn random_time(mean: u64) -> Duration {
    let mean = Duration::from_millis(mean).as_secs_f64();
    ms(u64::try_from(Duration::from_secs_f64(-mean * (1.0 - fastrand::f64()).ln()).as_millis()).unwrap() + 1)
}
