//! Several hosts, one robot, one PostgreSQL, all of which are killed at random: the robot, which is shut for ten minutes after one
//! message too many, never is; it gets each message that was acknowledged once, and those of a conversation in order.
//!
//! `make outbox-kills` runs the large one, and prints its figures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::kills::{Port, body, number, try_post};
use super::{kill, strict, tail, team, texts};
use crate::support::server::Server;
use crate::support::{Host, PATIENCE, Resources, Robot, command};

const HOSTS: usize = 3;

struct Plan {
    messages: usize,
    senders: usize,
    rate: u32,
    window: Duration,
    /// Times between two kills of hosts, and between two crashes of the database.
    kills_every: Duration,
    crashes_every: Duration,
}

fn serve(resources: &Resources, url: &str, port: &Port) -> Host {
    let port = port.address().port().to_string();
    let resources = resources.path().to_str().unwrap();
    let flags =
        ["serve", "--resources-path", resources, "--dapr-http-port", &port, "--log-level", "info", "--print-events"];
    let mut command = command(&flags);
    command.env("DINGTALK_STORE", url);
    Host::spawn(command)
}

/// Sends one message after the other to whichever host takes it, each until it is acknowledged.
fn send_all(hosts: &[SocketAddr], sender: usize, each: usize, acknowledged: &AtomicUsize) {
    let mut turn = sender;
    for number in 0..each {
        let body = body(sender, number, true);
        let start = Instant::now();
        loop {
            turn += 1;
            match try_post(hosts[turn % hosts.len()], &body) {
                Some(200) => break,
                Some(status) => assert!(status >= 500, "{status}"),
                None => {}
            }
            assert!(start.elapsed() < PATIENCE, "{sender}/{number} is not acknowledged");
            std::thread::sleep(Duration::from_millis(20));
        }
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
}

/// A time around this one.
fn about(time: Duration) -> Duration {
    time.mul_f64(0.5 + fastrand::f64())
}

impl Plan {
    /// Nothing where there is no PostgreSQL.
    fn run(&self) -> Option<String> {
        let mut database = Server::start()?;
        let url = database.url("public");
        let robot = strict(self.rate, self.window);
        let rate = format!("{}/{}ms", self.rate, self.window.as_millis());
        let file = team(&robot.url(), &[("overflow", "queue"), ("rateLimit", &rate)]);
        let resources = Resources::new().with("team.yaml", &file);
        let ports: Vec<Port> = (0..HOSTS).map(|_| Port::new()).collect();
        let mut hosts: Vec<Option<Host>> = ports.iter().map(|port| Some(serve(&resources, &url, port))).collect();
        let addresses: Vec<SocketAddr> = ports.iter().map(Port::address).collect();
        let each = self.messages / self.senders;
        let all = each * self.senders;
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        let senders: Vec<_> = (0..self.senders)
            .map(|sender| {
                let (addresses, acknowledged) = (addresses.clone(), Arc::clone(&acknowledged));
                std::thread::spawn(move || send_all(&addresses, sender, each, &acknowledged))
            })
            .collect();
        let (mut kills, mut crashes) = (0, 0);
        let mut next_kill = Instant::now() + about(self.kills_every);
        let mut next_crash = Instant::now() + about(self.crashes_every);
        let mut progress = (Instant::now(), 0);
        loop {
            let stats = robot.stats();
            let log = || hosts.iter().flatten().map(|host| tail(&host.log())).collect::<Vec<_>>().join("\n---\n");
            assert!(stats.rejected.is_empty(), "{stats:?}\n{}", log());
            if stats.accepted as usize >= all {
                break;
            }
            if stats.accepted > progress.1 {
                progress = (Instant::now(), stats.accepted);
            }
            assert!(progress.0.elapsed() < PATIENCE, "{} of {all}\n{}", stats.accepted, log());
            if Instant::now() >= next_kill {
                let which = fastrand::usize(..HOSTS);
                if let Some(host) = hosts[which].take() {
                    kill(host);
                }
                hosts[which] = Some(serve(&resources, &url, &ports[which]));
                kills += 1;
                next_kill = Instant::now() + about(self.kills_every);
            }
            if Instant::now() >= next_crash {
                database.crash();
                std::thread::sleep(Duration::from_millis(fastrand::u64(0..500)));
                database.run();
                crashes += 1;
                next_crash = Instant::now() + about(self.crashes_every);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for sender in senders {
            sender.join().unwrap();
        }
        // Whatever is posted once more is shown to nobody.
        let took = begun.elapsed();
        self.check(&robot, each);
        for host in hosts.into_iter().flatten() {
            host.end();
        }
        self.check(&robot, each);
        let repeated = robot.stats().repeated;
        Some(format!(
            "{all} messages of {} senders to {HOSTS} hosts with one PostgreSQL at {}/{:?}: {kills} kills, {crashes} crashes of \
             the database, {took:.1?}; none refused, each seen once and in order, {repeated} posts repeated",
            self.senders, self.rate, self.window
        ))
    }

    fn check(&self, robot: &Robot, each: usize) {
        assert!(robot.stats().rejected.is_empty(), "{:?}", robot.stats());
        let mut by_sender = vec![Vec::new(); self.senders];
        for text in &texts(robot) {
            let (sender, number) = text.split_once('/').unwrap();
            by_sender[sender.parse::<usize>().unwrap()].push(number.parse::<usize>().unwrap());
        }
        for (sender, numbers) in by_sender.iter().enumerate() {
            assert!(numbers.iter().copied().eq(0..each), "of sender {sender}: {numbers:?}");
        }
        let times: Vec<u64> = robot.messages().iter().map(|message| message.received_at).collect();
        let (rate, window) = (self.rate as usize, self.window.as_millis() as u64);
        for group in times.windows(rate + 1) {
            assert!(group[rate] - group[0] >= window, "{group:?}");
        }
    }
}

#[test]
fn three_hosts_and_their_database_are_killed_and_the_robot_notices_nothing() {
    let plan = Plan {
        messages: 120,
        senders: 6,
        rate: 20,
        window: Duration::from_secs(1),
        kills_every: Duration::from_millis(1_500),
        crashes_every: Duration::from_secs(4),
    };
    if let Some(figures) = plan.run() {
        println!("{figures}");
    }
}

#[test]
#[ignore = "prints figures: minutes"]
fn many_messages_of_three_hosts_with_kills() {
    let plan = Plan {
        messages: number("OUTBOX_MESSAGES", 2_000),
        senders: 16,
        rate: 20,
        window: Duration::from_millis(number("OUTBOX_WINDOW_MS", 3_000) as u64),
        kills_every: Duration::from_secs(3),
        crashes_every: Duration::from_secs(15),
    };
    println!("{}", plan.run().expect("PostgreSQL is installed"));
}
