//! One process of the host: the store that an earlier one left, the bindings, the outbox. All of it the real one, in one
//! thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use dingtalk_binding::secret::Secret;
use tokio::runtime::Builder;
use tokio::time::sleep;

use super::application::{self, Underway};
use super::disk::SimulatedDisk;
use super::network::{self, Component, secret, token};
use super::sparing::Sparing;
use super::weather;
use super::world::{World, ms, note};
use crate::bindings::Bindings;
use crate::clock;
use crate::egress::{Policy, Proxies};
use crate::event::{BoxFuture, Event};
use crate::input::setback;
use crate::queue::lock::Lock;
use crate::queue::outbox::retry::Setback;
use crate::queue::outbox::{Consumer, DeadLetter, Outbox, Told, is_urgent};
use crate::queue::siblings::Groups;
use crate::queue::store::Store;
use crate::queue::writer::{Posts, Writer};
use crate::queue::{Limits, QueueError, Side};
use crate::resources::{BindingResource, Source};
use crate::sandbox::{self, Sandbox, StandIn};

/// Two of one robot, and one of another that has an allowance.
pub(super) const BINDINGS: [&str; 3] = ["alpha", "beta", "gamma"];
pub(super) const ROBOT_OF: [usize; 3] = [0, 0, 1];
const MERGES: [bool; 3] = [true, false, true];
pub(super) const QUOTA_OF: usize = 2;
pub(super) const QUOTA: u64 = 1_200;

/// How long the outbox may take at the end until nothing waits, when nothing is wrong any more: an hour until it is asked
/// again whether a robot is open, ten minutes until a binding is looked at, and what it takes to post the rest.
const LAST_MS: u64 = 2 * 60 * 60 * 1_000;
const LAST_EACH_MS: u64 = 6_000;

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Killed,
    Stopped,
    Finished,
}

/// By what the outbox posts, as `input::sending` does it.
struct Poster {
    world: Arc<World>,
    bindings: Weak<Bindings>,
}

impl Consumer for Poster {
    fn post<'a>(&'a self, seq: i64, message: &'a Event) -> BoxFuture<'a, Result<(), Setback>> {
        Box::pin(async move {
            let binding = index_of(&message.binding);
            let asked = {
                let mut state = self.world.state();
                let now = state.now();
                state.books.asks(binding, now)
            };
            self.world.check(asked);
            self.world.may_end("before the gate").await;
            let _call = Underway::begin(&self.world, binding);
            let posted = self.bindings.upgrade().unwrap().post_queued(seq, message).await;
            self.world.may_end("before the result is noted").await;
            posted.map(drop).map_err(|error| setback(&error, is_urgent(message)))
        })
    }

    fn siblings(&self) -> Option<Arc<Groups>> {
        self.bindings.upgrade().unwrap().siblings()
    }

    fn unites_above(&self, binding: &str) -> Option<usize> {
        self.bindings.upgrade().unwrap().unites_above(binding)
    }

    // Here, and not on a thread: that would come back when it likes.
    fn unite<'a>(&'a self, binding: &'a str, bodies: Vec<Bytes>) -> BoxFuture<'a, Option<(Bytes, usize)>> {
        let united = self.bindings.upgrade().unwrap().unite_here(binding, &bodies);
        Box::pin(async move {
            self.world.may_end("before messages become one").await;
            united
        })
    }

    fn tell<'a>(&'a self, _: &'a DeadLetter) -> BoxFuture<'a, Told> {
        Box::pin(async { Told::Done })
    }
}

fn index_of(binding: &str) -> usize {
    BINDINGS.iter().position(|name| *name == binding).unwrap()
}

/// The numbers of the letters in it, with which their texts begin.
pub(super) fn numbers_in(body: &[u8]) -> Vec<usize> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let texts = match body["text"]["content"].as_str() {
        Some(text) => vec![text],
        None => body["markdown"]["text"].as_str().unwrap().split("\n\n---\n\n").collect(),
    };
    let number = |text: &str| text.split(' ').next().unwrap()[1..].parse().unwrap();
    texts.into_iter().map(number).collect()
}

fn resource(index: usize) -> BindingResource {
    let robot = ROBOT_OF[index];
    let url = format!("http://127.0.0.1:1/robot/send?access_token={}", token(robot));
    let mut properties = vec![("id", BINDINGS[index].to_owned()), ("url", url), ("secret", secret(robot))];
    properties.push(("timeout", "10s".to_owned()));
    match index {
        // Short enough to let through a 21st beside the other binding of its robot, did it not keep that one's rate.
        1 => properties.push(("rateLimit", "8/30s".to_owned())),
        QUOTA_OF => properties.extend([("quota", QUOTA.to_string()), ("quotaReserve", "100".to_owned())]),
        _ => {}
    }
    if MERGES[index] {
        properties.push(("merge", "true".to_owned()));
    }
    BindingResource {
        name: BINDINGS[index].to_owned(),
        component_type: "bindings.dingtalk.webhook".to_owned(),
        version: "v1".to_owned(),
        properties: properties.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect(),
        ignore_errors: false,
        init_timeout: Duration::from_secs(5),
        source: Source { file: PathBuf::from("simulated.yaml"), line: 1 },
    }
}

/// The component is compiled once, and never run.
fn sandbox() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        Sandbox::new(dingtalk_component::COMPONENT, sandbox::Limits::default(), clock::system()).unwrap()
    })
}

/// A process, over what is in `dir`, until it ends; at `until` at the latest, in good order.
pub(super) fn live(world: &Arc<World>, dir: &Path, until: u64, pause: Duration) -> End {
    // A runtime of its own: what it had under way goes with it.
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        world.begin();
        let end = tokio::select! {
            biased;
            () = death(world) => End::Killed,
            end = run(world, dir, until) => end,
        };
        world.end(pause);
        end
    })
}

async fn death(world: &World) {
    while !world.state().is_dead {
        world.death.notified().await;
    }
}

pub(super) struct Process {
    world: Arc<World>,
    bindings: Arc<Bindings>,
    outbox: Outbox,
    writer: Writer,
}

impl Process {
    async fn open(world: &Arc<World>, dir: &Path) -> Result<Self, QueueError> {
        let clock = world.clock();
        let lock = Lock::take(Side::Outbox, dir)?;
        let store = Store::create(Side::Outbox, dir, Limits::default())?;
        // The machine goes on when a process ends, and has what was written, on its disk or not.
        store.batch_for_test("PRAGMA synchronous = OFF")?;
        let writer = Writer::over(store, lock, SimulatedDisk(Arc::clone(world)));
        let ledger = Posts::new(writer.clone(), Arc::clone(&clock));
        let outbox = Outbox::over(
            Arc::new(Sparing::new(writer.clone(), Arc::clone(world))),
            Arc::new(ledger),
            Arc::clone(&clock),
        );
        let component: Arc<dyn StandIn> = Arc::new(Component(Arc::clone(world)));
        let bindings = Arc::new(Bindings::new(sandbox().played_by(component, clock)));
        Ok(Self { world: Arc::clone(world), bindings, outbox, writer })
    }

    async fn load(&self, index: usize) {
        {
            let mut state = self.world.state();
            let now = state.now();
            state.books.loaded(index, now);
        }
        self.bindings.add(resource(index), &Proxies::none(), &Policy::default()).await.unwrap();
        note!(self.world.state(), "{} is loaded", BINDINGS[index]);
    }

    /// A file of a binding has changed, or was written again.
    pub(super) async fn reload(&self, index: usize) {
        self.load(index).await;
        let _ = self.outbox.hasten(BINDINGS[index]).await;
    }

    pub(super) fn remove(&self, index: usize) {
        self.world.state().books.removed(index);
        self.bindings.remove(BINDINGS[index]);
    }

    /// Compares what the outbox has counted of the month's messages.
    async fn check_quota(&self) {
        let count = |sql: &'static str| self.writer.run(move |store| store.number_for_test(sql));
        let used = count("SELECT ifnull(sum(used), 0) FROM quotas").await;
        let most = count("SELECT ifnull(max(used), 0) FROM quotas").await;
        if let (Ok(used), Ok(most)) = (used, most) {
            let checked = self.world.state().books.quota(used.unsigned_abs(), most.unsigned_abs());
            self.world.check(checked);
        }
    }
}

async fn run(world: &Arc<World>, dir: &Path, until: u64) -> End {
    let process = Arc::new(Process::open(world, dir).await.unwrap());
    let Process { bindings, outbox, .. } = &*process;
    tokio::spawn(network::run(Arc::clone(world)));
    // The disk may fail.
    while bindings.with_outbox(outbox.clone()).await.is_err() {
        note!(world.state(), "the host cannot begin yet");
        sleep(ms(1_000)).await;
    }
    for index in 0..BINDINGS.len() {
        process.load(index).await;
    }
    process.check_quota().await;
    outbox.start(Arc::new(Poster { world: Arc::clone(world), bindings: Arc::downgrade(bindings) }));
    let mut others = tokio::task::JoinSet::new();
    for index in 0..world.state().clients.len() {
        others.spawn(application::queue(Arc::clone(world), Arc::clone(bindings), index));
    }
    for binding in 0..BINDINGS.len() {
        others.spawn(application::post(Arc::clone(world), Arc::clone(bindings), binding));
    }
    others.spawn(weather::run(Arc::clone(world), Arc::clone(&process)));
    loop {
        let left = until.saturating_sub(world.now());
        let _ = tokio::time::timeout(ms(left), world.stop.notified()).await;
        if world.state().is_to_stop {
            note!(world.state(), "the host is told to stop");
            outbox.stop().await;
            return End::Stopped;
        }
        if world.now() >= until {
            break;
        }
    }
    others.shutdown().await;
    finish(&process).await
}

/// Nothing is wrong any more, and nobody sends: what waits is posted within its time.
async fn finish(process: &Process) -> End {
    let Process { world, outbox, .. } = process;
    {
        let mut state = world.state();
        note!(state, "the end begins");
        state.network.mend();
        state.disk = super::disk::Health::default();
        state.fuse = None;
    }
    for (index, name) in BINDINGS.into_iter().enumerate() {
        if process.bindings.get(name).is_none() {
            process.reload(index).await;
        }
    }
    let waiting = outbox.counts().await.unwrap().pending;
    let until = world.now() + LAST_MS + LAST_EACH_MS * waiting as u64;
    loop {
        let waiting = outbox.counts().await.unwrap().pending;
        if waiting == 0 {
            break;
        }
        if world.now() >= until {
            world.broken(format!("{waiting} messages wait in the outbox, and nothing happens to them"));
            return std::future::pending().await;
        }
        sleep(ms(30_000)).await;
    }
    // What was posted without the outbox.
    sleep(ms(60_000)).await;
    process.check_quota().await;
    let closed = {
        let state = world.state();
        state.books.close(state.latest())
    };
    world.check(closed);
    note!(world.state(), "the end");
    End::Finished
}
