//! `kill -9` in the middle of a burst: the robot, which is shut for ten minutes after one message too many, never is; it gets
//! each message that was acknowledged once, in the order of the acknowledgements.
//!
//! `make outbox-kills` runs the large ones, which take long, and prints their figures.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpSocket;

use super::{Bench, counts, kill, strict, tail, texts};
use crate::support::{Host, PATIENCE, Robot};

/// What is sent, and what happens meanwhile.
struct Plan {
    messages: usize,
    senders: usize,
    /// So many of them are `curl`, with its own way to try again.
    curls: usize,
    /// Each sender has one. Without, all messages are one after the other.
    has_conversations: bool,
    rate: u32,
    window: Duration,
    /// Time from one kill to the next, and how often at most.
    kills: Option<(Range<Duration>, usize)>,
}

/// What came of it.
struct Figures {
    kills: usize,
    /// Kills after which the window was found in the middle of a burst: something had been posted within it.
    in_a_burst: usize,
    repeated: u64,
    /// From the first message that the group saw to the last.
    took: Duration,
    /// During which no host was listening.
    down: Duration,
    accepted_in: Duration,
    /// In one window: in all, and while a host was up.
    throughput: [f64; 2],
}

/// A port that stays the same from one host to the next, because it is bound here and never listened on.
pub(super) struct Port(TcpSocket);

impl Port {
    pub(super) fn new() -> Self {
        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(port)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

fn text(sender: usize, number: usize) -> String {
    format!("{sender}/{number}")
}

pub(super) fn body(sender: usize, number: usize, has_conversation: bool) -> String {
    let mut metadata = json!({"msgUuid": format!("uuid-{sender}-{number}")});
    if has_conversation {
        metadata["conversation"] = json!(format!("sender {sender}"));
    }
    json!({"operation": "create", "data": {"message": text(sender, number)}, "metadata": metadata}).to_string()
}

/// The status of an answer; `None` if the connection broke or did not come about.
pub(super) fn try_post(address: SocketAddr, body: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head = format!(
        "POST /v1.0/bindings/team HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let (_, rest) = answer.split_at_checked("HTTP/1.1 ".len())?;
    // All of it: half a head acknowledges nothing.
    let is_whole = answer.windows(4).any(|window| window == b"\r\n\r\n");
    std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok().filter(|_| is_whole)
}

/// Sends one message after the other, each until it is acknowledged.
fn send_all(address: SocketAddr, sender: usize, each: usize, has_conversation: bool) {
    for number in 0..each {
        let body = body(sender, number, has_conversation);
        let start = Instant::now();
        loop {
            match try_post(address, &body) {
                Some(200) => break,
                Some(status) => assert!(status >= 500, "{status}"),
                None => {}
            }
            assert!(start.elapsed() < PATIENCE, "{sender}/{number} is not acknowledged");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The same by `curl`, a process for all of them. It has ended well if every message was acknowledged.
fn curl(address: SocketAddr, sender: usize, each: usize, has_conversation: bool) -> Child {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let one = |number: usize| {
        format!(
            "url = \"http://{address}/v1.0/bindings/team\"\ndata = \"{}\"\nretry = 100\nretry-all-errors\nretry-delay = \
             1\nfail\nsilent\noutput = \"/dev/null\"\n",
            quoted(&body(sender, number, has_conversation))
        )
    };
    let config = (0..each).map(one).collect::<Vec<_>>().join("next\n");
    let mut curl = Command::new("curl");
    curl.args(["--disable", "--fail-early", "--config", "-"]).env_remove("http_proxy").env_remove("ALL_PROXY");
    let mut child = curl.stdin(Stdio::piped()).spawn().expect("curl is there");
    child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    child
}

impl Plan {
    fn serve(&self, bench: &Bench, port: &Port) -> Host {
        let port = port.address().port().to_string();
        bench.serve(&["--dapr-http-port", &port, "--log-level", "info"])
    }

    fn run(&self) -> Figures {
        let each = self.messages / self.senders;
        let robot = strict(self.rate, self.window);
        let rate = format!("{}/{}ms", self.rate, self.window.as_millis());
        let bench = Bench::new(&robot, &[("rateLimit", &rate)]);
        let (port, mut host) = {
            let port = Port::new();
            let host = self.serve(&bench, &port);
            (port, host)
        };
        let address = port.address();
        let begun = Instant::now();
        let accepted_in = Arc::new(Mutex::new(Duration::ZERO));
        let senders: Vec<_> = (0..self.senders)
            .map(|sender| {
                let (is_curl, has_conversation) = (sender < self.curls, self.has_conversations);
                let accepted_in = Arc::clone(&accepted_in);
                std::thread::spawn(move || {
                    match is_curl {
                        true => assert!(curl(address, sender, each, has_conversation).wait().unwrap().success()),
                        false => send_all(address, sender, each, has_conversation),
                    }
                    let mut last = accepted_in.lock().unwrap();
                    *last = begun.elapsed().max(*last);
                })
            })
            .collect();
        let (mut kills, mut in_a_burst, mut down) = (0, 0, Duration::ZERO);
        let all = (each * self.senders) as u64;
        let is_done = |host: &Host| robot.stats().accepted >= all && counts(host) == (0, 0);
        let mut progress = (Instant::now(), 0);
        let mut killed = Instant::now();
        let next = || {
            self.kills.as_ref().map(|(range, most)| {
                let (from, to) = (range.start.as_millis() as u64, range.end.as_millis() as u64);
                (Duration::from_millis(fastrand::u64(from..to)), *most)
            })
        };
        let mut wait = next();
        while !is_done(&host) {
            let accepted = robot.stats().accepted;
            if accepted > progress.1 {
                progress = (Instant::now(), accepted);
            }
            assert!(progress.0.elapsed() < PATIENCE, "{accepted} of {all}\n{}", tail(&host.log()));
            assert!(robot.stats().rejected.is_empty(), "{:?}\n{}", robot.stats(), tail(&host.log()));
            if let Some((wait_for, most)) = wait
                && killed.elapsed() >= wait_for
                && kills < most
                && accepted < all
            {
                kill(host);
                (killed, kills) = (Instant::now(), kills + 1);
                let since = crate::support::witness::now() - self.window.as_millis() as u64;
                in_a_burst += usize::from(robot.messages().last().is_some_and(|last| last.received_at > since));
                host = self.serve(&bench, &port);
                down += killed.elapsed();
                killed = Instant::now();
                wait = next();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for sender in senders {
            sender.join().unwrap();
        }
        self.check(&robot, each);
        host.end();

        let stats = robot.stats();
        let seen = robot.messages();
        let took = Duration::from_millis(seen[seen.len() - 1].received_at - seen[0].received_at);
        // What the first window has is there without waiting.
        let waited = all as f64 - f64::from(self.rate);
        let throughput = [took, took.saturating_sub(down)].map(|time| waited / time.div_duration_f64(self.window));
        let accepted_in = *accepted_in.lock().unwrap();
        Figures { kills, in_a_burst, repeated: stats.repeated, took, down, accepted_in, throughput }
    }

    /// Each message once, in the order in which its sender was told that it is queued.
    fn check(&self, robot: &Robot, each: usize) {
        assert!(robot.stats().rejected.is_empty(), "{:?}", robot.stats());
        let seen = texts(robot);
        assert_eq!(seen.len(), each * self.senders, "each once");
        let mut by_sender = vec![Vec::new(); self.senders];
        for text in &seen {
            let (sender, number) = text.split_once('/').unwrap();
            by_sender[sender.parse::<usize>().unwrap()].push(number.parse::<usize>().unwrap());
        }
        for (sender, numbers) in by_sender.iter().enumerate() {
            assert!(numbers.iter().copied().eq(0..each), "of sender {sender}: {numbers:?}");
        }
        // And by the robot's own clock never one too many, be it refused for that or not.
        let times: Vec<u64> = robot.messages().iter().map(|message| message.received_at).collect();
        let window = self.window.as_millis() as u64;
        for group in times.windows(self.rate as usize + 1) {
            assert!(group[self.rate as usize] - group[0] >= window, "{group:?}");
        }
    }

    fn report(&self, what: &str) {
        let Figures { kills, in_a_burst, repeated, took, down, accepted_in, throughput: [all, up] } = self.run();
        println!(
            "{what}: {} messages of {} senders ({} curl) at {}/{:?}: accepted within {accepted_in:.1?}, sent within \
             {took:.1?} with {kills} kills ({in_a_burst} within a window of a post; {down:.1?} without a host); none refused, \
             each seen once and in order; {repeated} posts repeated; {all:.2} a window, {up:.2} while a host was up",
            self.messages, self.senders, self.curls, self.rate, self.window
        );
    }
}

#[test]
fn a_rate_limited_burst_is_sent_once_and_in_order_though_the_host_is_killed() {
    let kills = Some((Duration::from_millis(200)..Duration::from_millis(1_200), 6));
    for (has_conversations, senders) in [(true, 4), (false, 1)] {
        let window = Duration::from_secs(1);
        let (messages, kills) = (400 / 2, kills.clone());
        let plan = Plan { messages, senders, curls: 0, has_conversations, rate: 40, window, kills };
        let figures = plan.run();
        println!("{} kills, {} in a burst, {:?}", figures.kills, figures.in_a_burst, figures.took);
        assert!(figures.kills >= 2 && figures.in_a_burst > 0, "no kill came at the moment that this is about");
    }
}

/// A number from the environment, for whoever has more or less time.
pub(super) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// DingTalk's 20 messages, within a shorter time.
fn large(senders: usize, curls: usize, has_conversations: bool, kills: bool) -> Plan {
    let window = Duration::from_millis(number("OUTBOX_WINDOW_MS", 3_000) as u64);
    let (from, to) = (number("OUTBOX_KILLS_FROM_MS", 2_000), number("OUTBOX_KILLS_TO_MS", 8_000));
    let range = Duration::from_millis(from as u64)..Duration::from_millis(to as u64);
    let kills = kills.then_some((range, usize::MAX));
    Plan { messages: number("OUTBOX_MESSAGES", 10_000), senders, curls, has_conversations, rate: 20, window, kills }
}

#[test]
#[ignore = "prints figures: half an hour"]
fn ten_thousand_messages_of_sixteen_senders_with_kills() {
    large(16, 4, true, true).report("with kills");
}

#[test]
#[ignore = "prints figures: half an hour"]
fn ten_thousand_messages_of_one_sender_with_kills() {
    large(1, 0, false, true).report("one sender, with kills");
}

#[test]
#[ignore = "prints figures: half an hour"]
fn ten_thousand_messages_of_sixteen_senders_without_kills() {
    large(16, 4, true, false).report("without kills");
}
