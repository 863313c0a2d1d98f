//! What DingTalk does not take now waits as long as it must, and what it will not take is kept for the operator.

use std::net::SocketAddr;
use std::time::Duration;

use dingtalk_host::simulator::Config;
use dingtalk_host::simulator::fault::{Fault, Times};

use super::{Bench, counts, create, kill, queued, tail, team, texts, until, until_counts};
use crate::support::{Robot, SECRET, TOKEN};

#[test]
fn a_message_that_will_not_be_taken_is_kept_with_the_reason_and_the_others_go_on() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    robot.fail(Fault::Rejected { errcode: 460_101, errmsg: "message too long".into() }, Times::ONCE);
    for text in ["bad", "good"] {
        queued(&host, text, &[]);
    }
    until_counts(&host, 0, 1);
    assert_eq!(texts(&robot), ["good"]);
    let dead = bench.listed(&[]);
    let error = dead[0]["lastError"].as_str().unwrap();
    assert!(error.contains("message too long (errcode 460101, content"), "{error}");
    host.wait_for_log("a message is given up; see `outbox list`");
}

#[test]
fn a_robot_that_stays_busy_is_asked_four_times() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    robot.fail(Fault::Rejected { errcode: -1, errmsg: "system busy".into() }, Times::Always);
    queued(&host, "x", &[]);
    until_counts(&host, 0, 1);
    assert_eq!(robot.stats().requests, 4);
    let error = bench.listed(&[])[0]["lastError"].as_str().unwrap().to_owned();
    assert!(error.contains("system busy (errcode -1, busy"), "{error}");
}

#[test]
fn a_wrong_token_holds_messages_and_a_mended_file_sends_them_at_once() {
    let robot = Robot::start();
    let wrong = robot.url().replace(TOKEN, "wr0ngt0k3n");
    // A binding without a rate has nothing that keeps it from asking again, but for the outbox.
    for rate in ["0", "20/1m"] {
        let before = (robot.stats().requests, texts(&robot).len());
        let file = |url: &str| team(url, &[("overflow", "queue"), ("rateLimit", rate)]);
        let bench = Bench::of(&file(&wrong));
        let host = bench.serve(&[]);
        for number in 0..3 {
            queued(&host, &format!("{number}"), &[]);
        }
        host.wait_for_log("messages wait in the outbox");
        assert!(host.log().contains("errcode 300005"), "{}", tail(&host.log()));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!((counts(&host), robot.stats().requests), ((3, 0), before.0 + 1), "at {rate}");
        bench.resources.write("team.yaml", &file(&robot.url()));
        until_counts(&host, 0, 0);
        assert_eq!(texts(&robot)[before.1..], ["0", "1", "2"]);
    }
}

#[test]
fn messages_of_a_binding_that_goes_wait_until_it_is_back() {
    let robot = Robot::start();
    robot.fail(Fault::Status(503), Times::Always);
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    queued(&host, "x", &[]);
    let file = bench.resources.path().join("team.yaml");
    let away = bench.outbox().join("team.yaml");
    std::fs::rename(&file, &away).unwrap();
    host.wait_for_log("component removed");
    robot.recover();
    host.wait_for_log("messages wait in the outbox");
    assert_eq!((counts(&host), robot.stats().accepted), ((1, 0), 0));
    std::fs::rename(&away, &file).unwrap();
    until_counts(&host, 0, 0);
    assert_eq!(texts(&robot), ["x"]);
}

#[test]
fn a_penalty_is_kept_over_a_kill() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[("rateLimit", "20/1m")]);
    let host = bench.serve(&[]);
    robot.fail(Fault::Rejected { errcode: 130_101, errmsg: "send too fast".into() }, Times::ONCE);
    queued(&host, "first", &[]);
    host.wait_for_log("messages wait in the outbox");
    // What the gate has learnt is noted beside: what is stored now was stored after it.
    queued(&host, "second", &[]);
    kill(host);
    let host = bench.serve(&[]);
    let direct = host.post("team", &create("now", &[("delivery", "direct")]));
    assert_eq!(
        (direct.metadata("error"), direct.metadata("class"), direct.metadata("errcode")),
        (Some("withheld"), Some("rate-limited"), Some("130101")),
        "{direct:?}"
    );
    let wait: u64 = direct.metadata("retryAfter").unwrap().parse().unwrap();
    assert!((500_000..=600_000).contains(&wait), "{wait}");
    assert_eq!((counts(&host), robot.stats().requests), ((2, 0), 1));
}

/// At this address, as one that was ended and begun again.
fn robot_at(address: SocketAddr) -> Robot {
    let secret = Some(dingtalk_binding::secret::Secret::new(SECRET));
    let robot = dingtalk_host::simulator::robot::RobotConfig { secret, ..Robot::config() };
    Robot::from(Config { address, robot, ..Config::default() })
}

#[test]
fn messages_wait_for_a_robot_that_is_away() {
    let robot = Robot::start();
    let address = robot.address();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    queued(&host, "before", &[]);
    until_counts(&host, 0, 0);
    drop(robot);
    for number in 0..5 {
        queued(&host, &format!("{number}"), &[]);
    }
    host.wait_for_log("messages wait in the outbox");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(counts(&host), (5, 0));
    let listed = bench.listed(&[]);
    assert_eq!(listed[0]["attempts"], 0, "what was not sent is no attempt: {listed:?}");
    let robot = robot_at(address);
    until_counts(&host, 0, 0);
    assert_eq!(texts(&robot), ["0", "1", "2", "3", "4"]);
}

#[test]
fn a_post_whose_end_is_not_known_is_repeated_and_seen_once() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    // The group has the message, and its sender no answer.
    robot.fail(Fault::Reset, Times::Next(2.try_into().unwrap()));
    queued(&host, "x", &[]);
    queued(&host, "y", &[]);
    until_counts(&host, 0, 0);
    let stats = robot.stats();
    assert_eq!((texts(&robot), stats.repeated), (vec!["x".to_owned(), "y".into()], 2), "{stats:?}");
    until(&host, "the log speaks of it", || host.log().contains("a message is not taken yet"));
}
