//! Between host and robots: what is lost, late or answered by somebody else, and the robots themselves, which are the
//! simulator's.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dingtalk_binding::answer::Answer;
use dingtalk_binding::contract;
use dingtalk_binding::error::{AnswerError, InvokeCause, InvokeError, Outcome, RejectionClass};
use dingtalk_binding::failure::Failure;
use dingtalk_binding::operation::{self, Post};
use dingtalk_binding::secret::Secret;
use dingtalk_binding::settings::Settings;
use serde_json::Value;
use tokio::sync::oneshot;

use super::books::{Departure, Kind, Told};
use super::host::{BINDINGS, ROBOT_OF, numbers_in};
use super::world::{World, ms, note, one_in};
use crate::event::BoxFuture;
use crate::sandbox::{CallError, Overload, Request, Response, StandIn};
use crate::simulator::fault;
use crate::simulator::robot::{Received, Robot, RobotConfig, Verdict};

pub(super) const ROBOTS: usize = 2;

/// How long after its call has ended a request may still arrive: the host promises nothing beyond that.
const LATEST_MS: u64 = 14_900;

/// What can be wrong between host and robot, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Unreachable,
    Lossy,
    Slow,
    Busy,
    Page,
    Gateway,
    Quota,
    Token,
}

pub(super) const FAULTS: [Fault; 8] = [
    Fault::Unreachable,
    Fault::Lossy,
    Fault::Slow,
    Fault::Busy,
    Fault::Page,
    Fault::Gateway,
    Fault::Quota,
    Fault::Token,
];

pub(super) fn token(robot: usize) -> String {
    format!("token{robot}")
}

pub(super) fn secret(robot: usize) -> String {
    format!("SECsimulated{robot}")
}

pub(super) struct Network {
    robots: Vec<Side>,
    /// By when it happens, and in which order it began.
    under_way: BTreeMap<(u64, u64), Item>,
    last: u64,
}

/// A robot's side of the network.
struct Side {
    robot: Robot,
    faults: [u64; FAULTS.len()],
    /// When the host's requests of the last minute arrived.
    arrived: VecDeque<u64>,
    /// For so long somebody else's messages may be what is too much.
    others_until: u64,
    shut_until: u64,
}

impl Side {
    fn has(&self, fault: Fault, now: u64) -> bool {
        self.faults[fault as usize] > now
    }
}

enum Item {
    Request(Packet),
    Answer(oneshot::Sender<Answer>, Answer),
    /// Somebody else posts to the robot.
    Other(usize),
}

struct Packet {
    robot: usize,
    letters: Vec<usize>,
    query: String,
    body: Vec<u8>,
    is_answered: bool,
    reply: oneshot::Sender<Answer>,
}

impl Network {
    pub(super) fn new() -> Self {
        let side = |number| {
            let access_token = Secret::new(token(number));
            let config = RobotConfig { access_token, secret: Some(Secret::new(secret(number))), ..Default::default() };
            let robot = Robot::new(config);
            Side { robot, faults: [0; FAULTS.len()], arrived: VecDeque::new(), others_until: 0, shut_until: 0 }
        };
        Self { robots: (0..ROBOTS).map(side).collect(), under_way: BTreeMap::new(), last: 0 }
    }

    pub(super) fn set(&mut self, robot: usize, fault: Fault, until: u64) {
        self.robots[robot].faults[fault as usize] = until;
    }

    /// Nothing is wrong any more.
    pub(super) fn mend(&mut self) {
        self.robots.iter_mut().for_each(|side| side.faults = [0; FAULTS.len()]);
    }

    fn add(&mut self, at: u64, item: Item) -> u64 {
        self.last += 1;
        self.under_way.insert((at, self.last), item);
        self.last
    }

    /// Somebody else has a message for the robot.
    pub(super) fn add_other(&mut self, at: u64, robot: usize) {
        self.add(at, Item::Other(robot));
    }

    /// There is no answer: the caller sees the connection break, or nothing at all.
    fn lose(&mut self, now: u64, reply: oneshot::Sender<Answer>) {
        if one_in(2) {
            let nobody_waits_for = Answer { status: 200, body: Vec::new(), complete: true };
            self.add(now + 60_000, Item::Answer(reply, nobody_waits_for));
        }
    }

    /// A call has ended: its request arrives soon, if it ever does.
    fn hurry(&mut self, id: u64, now: u64) {
        let key = self.under_way.keys().find(|(at, key)| *key == id && *at > now + LATEST_MS).copied();
        if let Some(item) = key.and_then(|key| self.under_way.remove(&key)) {
            self.under_way.insert((now + LATEST_MS - fastrand::u64(..5_000), id), item);
        }
    }

    /// The host's process has ended.
    pub(super) fn ended(&mut self, now: u64) {
        let ids: Vec<u64> = self.under_way.keys().map(|(_, id)| *id).collect();
        ids.into_iter().for_each(|id| self.hurry(id, now));
    }
}

/// Lets arrive what is under way, until the process ends.
pub(super) async fn run(world: Arc<World>) {
    loop {
        let next = world.state().network.under_way.first_key_value().map(|(key, _)| *key);
        let Some((at, id)) = next else {
            world.sent.notified().await;
            continue;
        };
        let now = world.now();
        if now < at {
            let _ = tokio::time::timeout(ms(at - now), world.sent.notified()).await;
            continue;
        }
        let item = world.state().network.under_way.remove(&(at, id));
        match item {
            Some(Item::Request(packet)) => arrive(&world, packet, at),
            Some(Item::Answer(reply, answer)) => drop(reply.send(answer)),
            Some(Item::Other(robot)) => other(&world, robot, at),
            None => {}
        }
    }
}

fn receive(robot: &mut Robot, query: &str, body: &[u8], time: u64) -> Verdict {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    robot.receive(&Received { method: "POST", content_type: Some("application/json"), query, body, peer }, time)
}

/// Somebody else's message. Nobody is told what became of it.
fn other(world: &World, robot: usize, at: u64) {
    let mut state = world.state();
    let time = state.robot_time(at);
    let signature = dingtalk_binding::signature::sign(&secret(robot), time);
    let sign: String = percent_encoding::utf8_percent_encode(&signature, percent_encoding::NON_ALPHANUMERIC).collect();
    let query = format!("access_token={}&timestamp={time}&sign={sign}", token(robot));
    let side = &mut state.network.robots[robot];
    let verdict = receive(&mut side.robot, &query, br#"{"msgtype":"text","text":{"content":"other"}}"#, time);
    side.others_until = at + 60_000;
    if matches!(verdict, Verdict::Rejected(_)) && side.shut_until <= at {
        side.shut_until = at + 600_000;
    }
}

/// A request of the host's.
fn arrive(world: &World, packet: Packet, at: u64) {
    let Packet { robot, letters, query, body, is_answered, reply } = packet;
    let mut state = world.state();
    let time = state.robot_time(at);
    let side = &mut state.network.robots[robot];
    while side.arrived.front().is_some_and(|time| time + 60_000 <= at) {
        side.arrived.pop_front();
    }
    side.arrived.push_back(at);
    let arrived = side.arrived.len();
    let json = |errcode, errmsg: &str| (200, fault::result(errcode, errmsg));
    let mut broken = (arrived > 20).then(|| format!("{arrived} messages arrived at robot {robot} within a minute"));
    let mut is_shown = false;
    let (status, text) = if side.has(Fault::Page, at) {
        (200, fault::throttled())
    } else if side.has(Fault::Gateway, at) {
        (502, "<html>".to_owned())
    } else if side.has(Fault::Quota, at) {
        json(90_030, "quota exceeded")
    } else if side.has(Fault::Busy, at) && fastrand::u32(..10) < 8 {
        json(-1, "system busy")
    } else {
        let query = if side.has(Fault::Token, at) { query.replace(&token(robot), "another") } else { query };
        match receive(&mut side.robot, &query, &body, time) {
            Verdict::Accepted(_) => {
                is_shown = true;
                json(0, "ok")
            }
            Verdict::Repeated => json(0, "ok"),
            Verdict::Rejected(refusal) => {
                if refusal.errcode == 130_101 && side.shut_until <= at {
                    side.shut_until = at + 600_000;
                    if side.others_until <= at {
                        broken.get_or_insert(format!("robot {robot} refuses letter {letters:?} for its rate"));
                    }
                }
                json(refusal.errcode, &refusal.errmsg)
            }
        }
    };
    let said: String = text.chars().filter(char::is_ascii).take(40).collect();
    note!(
        state,
        "robot {robot} has letter {letters:?} at {at}: {arrived}, {status} {said}{}",
        if is_shown { ", shown" } else { "" }
    );
    if is_answered {
        let answer = Answer { status, body: text.into_bytes(), complete: true };
        state.network.add(at + fastrand::u64(1..60), Item::Answer(reply, answer));
    } else {
        state.network.lose(at, reply);
    }
    let shown = if is_shown { state.books.all_shown(&letters) } else { Ok(()) };
    drop(state);
    world.check(broken.map_or(Ok(()), Err));
    world.check(shown);
}

/// What an instance of the component does: the same functions, with the network of the simulation between them.
pub(super) struct Component(pub(super) Arc<World>);

/// A call under way. Should it be cut off, its request arrives soon or never.
struct Call<'a> {
    world: &'a World,
    /// Until the books know its end.
    departure: Option<Departure>,
    /// On the network, unless it was lost.
    packet: Option<u64>,
}

impl Call<'_> {
    fn told(mut self, told: &Told) {
        self.end(told, "is told");
    }

    fn end(&mut self, told: &Told, how: &str) {
        let Some(departure) = self.departure.take() else { return };
        let mut state = self.world.state();
        if state.is_dead {
            return;
        }
        let now = state.now();
        if let Some(id) = self.packet.take() {
            state.network.hurry(id, now);
        }
        note!(state, "letter {:?} {how} {told:?}", departure.letters);
        let result = state.books.told(departure, told, now);
        drop(state);
        self.world.check(result);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.end(&Told::Unknown, "is cut off:");
    }
}

impl StandIn for Component {
    fn invoke<'a>(
        &'a self,
        properties: &'a [(String, String)],
        request: Request,
    ) -> BoxFuture<'a, Result<Response, CallError<InvokeError>>> {
        Box::pin(async move {
            self.0.may_end("before a post").await;
            if one_in(500) {
                return Err(CallError::Overloaded(Overload::Host { running: 1, waiting: None }));
            }
            let settings = Settings::parse(contract::pairs(properties)).map_err(CallError::Init)?;
            let wall = self.0.state().wall();
            let post = operation::prepare(&settings, false, &request, wall);
            let post = post.map_err(|cause| CallError::Binding(cause.into()))?.unwrap();
            let result = self.post(&settings, &post).await;
            result.map(|metadata| Response { data: None, metadata }).map_err(CallError::Binding)
        })
    }
}

impl Component {
    async fn post(&self, settings: &Settings, post: &Post<'_>) -> Result<Vec<(String, String)>, InvokeError> {
        let world = &self.0;
        let binding = BINDINGS.iter().position(|name| *name == settings.id).unwrap();
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        let letters = numbers_in(&post.body);
        let began = world.state().begin(&letters, binding, body["msgUuid"].as_str());
        let departure = match began {
            Ok(departure) => departure,
            Err(what) => {
                world.broken(what);
                return std::future::pending().await;
            }
        };
        let (call, answer) = self.depart(departure, ROBOT_OF[binding], post);
        let Some(answer) = answer else {
            tokio::time::sleep(ms(fastrand::u64(1..50))).await;
            call.told(&Told::Unsent);
            return Err(Failure::Refused.explain(post));
        };
        let answered = tokio::time::timeout(post.timeout, answer).await;
        let concluded = match answered {
            Ok(Ok(answer)) => operation::conclude(settings, post, &answer).map_err(InvokeError::from),
            Ok(Err(_)) => Err(Failure::Closed.explain(post)),
            Err(_) => Err(Failure::Timeout.explain(post)),
        };
        call.told(&told(&concluded));
        world.may_end("after an answer").await;
        concluded
    }

    fn depart(
        &self,
        departure: Departure,
        robot: usize,
        post: &Post<'_>,
    ) -> (Call<'_>, Option<oneshot::Receiver<Answer>>) {
        let world = &*self.0;
        let mut state = world.state();
        let now = state.now();
        let letters = departure.letters.clone();
        let mut call = Call { world, departure: Some(departure), packet: None };
        let side = &state.network.robots[robot];
        if side.has(Fault::Unreachable, now) || one_in(1_000) {
            note!(state, "letter {letters:?} finds no connection");
            return (call, None);
        }
        let trouble = if side.has(Fault::Lossy, now) { 4 } else { 300 };
        let delay = match side.has(Fault::Slow, now) {
            true => fastrand::u64(500..24_000),
            false if one_in(trouble) => fastrand::u64(100..24_000),
            false => fastrand::u64(1..60),
        };
        let (reply, answer) = oneshot::channel();
        let (is_lost, is_answered) = (one_in(trouble), !one_in(trouble));
        note!(state, "letter {letters:?} leaves, {delay} ms{}", if is_lost { ", lost" } else { "" });
        if is_lost {
            state.network.lose(now, reply);
        } else {
            let query = post.target.split_once('?').unwrap().1.to_owned();
            let packet = Packet { robot, letters, query, body: post.body.clone(), is_answered, reply };
            call.packet = Some(state.network.add(now + delay, Item::Request(packet)));
            world.sent.notify_one();
        }
        (call, Some(answer))
    }
}

/// What a result says, by DingTalk's documentation.
fn told(result: &Result<Vec<(String, String)>, InvokeError>) -> Told {
    let shut = |kind, seconds| Told::Shut(kind, Duration::from_secs(seconds));
    let Err(InvokeError { cause, outcome }) = result else { return Told::Accepted };
    match cause {
        InvokeCause::Rejected(rejection) => match rejection.errcode {
            -1 => Told::Busy,
            130_101 => shut(Kind::Rate, 600),
            90_030 => shut(Kind::Quota, 3_600),
            300_005 => shut(Kind::Configuration, 3_600),
            _ => {
                assert_eq!(rejection.class, RejectionClass::Content, "{rejection:?}");
                Told::Content
            }
        },
        InvokeCause::UnexpectedAnswer(AnswerError::Throttled(_)) => shut(Kind::Rate, 300),
        _ if *outcome == Outcome::NotSent => Told::Unsent,
        _ => Told::Unknown,
    }
}
