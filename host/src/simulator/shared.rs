//! What all connections and callbacks of a simulator share: the robot, what the group saw, the fault that was ordered,
//! and what is remembered of callbacks. Everything in it is bounded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::callback::Callback;
use super::config::Config;
use super::fault::{Fault, Times};
use super::receiver::Receiver;
use super::recent::Recent;
use super::refusal::Refusal;
use super::robot::{Posted, Received, Robot, Verdict};
use super::seen::{Message, Messages, Stats, Via};
use super::session::Sessions;
use crate::ingress::body::Budget;
use crate::ingress::port::{Policy, Port};

/// How many callbacks may be on their way that nobody waits for.
const MAX_BACKGROUND: usize = 64;
/// Of the connections, one in so many may be occupied by requests that meet a fault which takes time, and one in so
/// many by orders that wait for their callback. The others are left for newcomers: whoever stopped the robot's answers
/// can still be told to end that.
const REQUESTS: usize = 2;
const WAITING: usize = 4;
/// How long a client is waited for. Above the 90 s for which Go's clients keep idle connections.
const PATIENCE: Duration = Duration::from_secs(120);
/// The bytes that long bodies may have in memory at once, those for the robot and those of orders each.
const MAX_BYTES: usize = 8 << 20;
/// How long a long body waits for its share of them.
const BYTES_PATIENCE: Duration = Duration::from_secs(5);
/// How long requests in progress may take when the simulator stops.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// What is remembered of callbacks.
#[derive(Default)]
pub(super) struct Callbacks {
    pub(super) receiver: Option<Arc<Receiver>>,
    pub(super) sessions: Sessions,
    /// The last genuine one with its message's id.
    pub(super) previous: Option<(String, Callback)>,
    /// Messages that the group has seen, by id: a copy is not said again.
    pub(super) said: Recent,
    /// Messages whose reply the group has seen.
    pub(super) answered: Recent,
}

impl Callbacks {
    pub(super) fn to(receiver: Option<Receiver>) -> Self {
        Self { receiver: receiver.map(Arc::new), ..Self::default() }
    }
}

/// What all connections share.
pub(super) struct Shared {
    config: Config,
    /// Where it listens, as a URL without a path.
    base: String,
    pub(super) state: Mutex<State>,
    /// Held while a message is decided about and handed to `on_message`, so that messages come in order and
    /// the callback may still read `state`.
    delivery: Mutex<()>,
    /// Held only to read and write what is remembered, never while something is sent or shown.
    pub(super) callbacks: Mutex<Callbacks>,
    /// For callbacks that nobody waits for.
    pub(super) background: Arc<Semaphore>,
    /// For those that a client waits for.
    pub(super) waiting: Arc<Semaphore>,
    pub(super) port: Port,
    /// For the bodies of orders. An order keeps its share as long as its callback is on its way, which is why the
    /// robot's bodies have shares of their own.
    pub(super) orders: Budget,
}

pub(super) struct State {
    robot: Robot,
    pub(super) messages: Messages,
    sequence: u64,
    fault: Option<(Fault, Times)>,
    pub(super) stats: Stats,
}

/// A thread that panicked while it held the lock leaves counters and messages that are still good to read.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(config: Config, base: String, receiver: Option<Receiver>) -> Self {
        let state = State {
            robot: Robot::new(config.robot.clone()),
            messages: Messages::default(),
            sequence: 0,
            fault: None,
            stats: Stats::default(),
        };
        let connections = config.connections.max(1);
        let policy = Policy {
            connections,
            patience: PATIENCE,
            requests: (connections / REQUESTS).max(1),
            bytes: MAX_BYTES,
            bytes_timeout: BYTES_PATIENCE,
        };
        Self {
            config,
            base,
            state: Mutex::new(state),
            delivery: Mutex::new(()),
            callbacks: Mutex::new(Callbacks::to(receiver)),
            background: Arc::new(Semaphore::new(MAX_BACKGROUND)),
            waiting: Arc::new(Semaphore::new((connections / WAITING).max(1))),
            port: Port::new(policy),
            orders: Budget::of(MAX_BYTES, BYTES_PATIENCE),
        }
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Where callbacks go from now on. The error says what a URL looks like.
    pub(super) fn set_callback_url(&self, url: Option<&str>) -> Result<(), String> {
        let receiver = url.map(Receiver::new).transpose()?.map(Arc::new);
        lock(&self.callbacks).receiver = receiver;
        Ok(())
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.state).stats);
    }

    /// Waits until no callback is on its way that nobody waits for; they end when the simulator stops.
    pub(super) async fn settle(&self) {
        let all = u32::try_from(MAX_BACKGROUND).unwrap_or(u32::MAX);
        let _ = timeout(GRACE, self.background.acquire_many(all)).await;
    }

    /// Shows what a person said.
    pub(super) fn show_said(&self, shown: &str) {
        let _delivery = lock(&self.delivery);
        if let Some(on_said) = &self.config.on_said {
            on_said(shown);
        }
    }

    /// What the answer to a callback says; see [`Robot::reply`].
    pub(super) fn check_reply(&self, body: &[u8]) -> Result<Option<Posted>, Refusal> {
        lock(&self.state).robot.reply(body)
    }

    /// Shows a reply in the group, and tells what is shown.
    pub(super) fn show_reply(&self, posted: Posted) -> String {
        let _delivery = lock(&self.delivery);
        let now = (self.config.clock)();
        let message = {
            let mut state = lock(&self.state);
            state.stats.replies += 1;
            state.keep(posted, Via::Reply, now)
        };
        if let Some(on_message) = &self.config.on_message {
            on_message(&message);
        }
        message.shown
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn messages(&self) -> Vec<Message> {
        lock(&self.state).messages.since(0).cloned().collect()
    }

    pub(super) fn stats(&self) -> Stats {
        lock(&self.state).stats.clone()
    }

    pub(super) fn set_fault(&self, fault: Option<(Fault, Times)>) {
        lock(&self.state).fault = fault;
    }

    /// Counts a request to the robot and takes the fault that it meets, if any.
    pub(super) fn take_fault(&self) -> Option<Fault> {
        let mut state = lock(&self.state);
        state.stats.requests += 1;
        let (fault, times) = state.fault.take()?;
        state.stats.faults += 1;
        state.fault = times.less_one().map(|times| (fault.clone(), times));
        Some(fault)
    }

    /// Lets the robot decide and, if it accepts, shows the message. Code and text of the answer.
    pub(super) fn receive(&self, request: &Received<'_>, via: Via) -> Refusal {
        let _delivery = lock(&self.delivery);
        let now = (self.config.clock)();
        let (answer, shown) = self.decide(request, via, now);
        if let (Some(message), Some(on_message)) = (shown, &self.config.on_message) {
            on_message(&message);
        }
        answer
    }

    fn decide(&self, request: &Received<'_>, via: Via, now: u64) -> (Refusal, Option<Message>) {
        let ok = || Refusal { errcode: 0, errmsg: "ok".into() };
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let verdict = match via {
            Via::Session => {
                let is_open = |session: &str| lock(&self.callbacks).sessions.is_open(session, now);
                state.robot.receive_in_session(request, is_open)
            }
            Via::Webhook | Via::Reply => state.robot.receive(request, now),
        };
        match verdict {
            Verdict::Accepted(posted) => {
                state.stats.accepted += 1;
                (ok(), Some(state.keep(posted, via, now)))
            }
            Verdict::Repeated => {
                state.stats.repeated += 1;
                (ok(), None)
            }
            Verdict::Rejected(refusal) => {
                *state.stats.rejected.entry(refusal.errcode).or_default() += 1;
                (refusal, None)
            }
        }
    }
}

impl State {
    /// Adds a message to those that the group saw.
    fn keep(&mut self, posted: Posted, via: Via, now: u64) -> Message {
        self.sequence += 1;
        let message = Message {
            sequence: self.sequence,
            received_at: now,
            via,
            msgtype: posted.msgtype,
            message: posted.message,
            msg_uuid: posted.msg_uuid,
            shown: posted.shown,
            signed: posted.signed,
        };
        self.messages.push(message.clone());
        message
    }
}
