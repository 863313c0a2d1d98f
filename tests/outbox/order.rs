//! What is queued keeps its order within its conversation, and what is urgent comes first.

use std::time::{Duration, Instant};

use dingtalk_host::simulator::fault::{Fault, Times};
use serde_json::{Value, json};

use super::{Bench, create, kill, queued, texts, until, until_counts};
use crate::support::{Robot, SECRET, component};

/// DingTalk has not taken the message, and may in a moment.
fn busy() -> Fault {
    Fault::Rejected { errcode: -1, errmsg: "system busy".into() }
}

#[test]
fn a_message_that_waits_is_not_overtaken_by_those_behind_it() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    robot.fail(busy(), Times::Next(2.try_into().unwrap()));
    for number in 0..10 {
        queued(&host, &format!("{number}"), &[]);
    }
    until_counts(&host, 0, 0);
    assert_eq!(texts(&robot), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(robot.stats().faults, 2);
}

#[test]
fn two_files_of_one_robot_and_one_secret_are_one_queue_and_one_with_another_secret_is_not() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let url = robot.url();
    let write = |name: &str, secret: &str| {
        let file = component(name, &[("id", name), ("url", &url), ("secret", secret), ("overflow", "queue")]);
        bench.resources.write(&format!("{name}.yaml"), &file);
    };
    write("alerts", SECRET);
    write("wrong", "SECwrong");
    let host = bench.serve(&[]);
    let queue = |name: &str, text: &str| {
        let reply = host.post(name, &create(text, &[]));
        assert_eq!((reply.status, reply.metadata("delivery")), (200, Some("queued")), "{reply:?}");
    };
    queue("wrong", "never");
    until(&host, "the wrong secret is refused", || !robot.stats().rejected.is_empty());
    robot.fail(busy(), Times::Next(3.try_into().unwrap()));
    for number in 0..12 {
        queue(["team", "alerts", "alerts", "team"][number % 4], &number.to_string());
    }
    until_counts(&host, 1, 0);
    assert_eq!(texts(&robot), (0..12).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(robot.stats().faults, 3);
}

#[test]
fn conversations_do_not_wait_for_each_other_and_keep_their_orders() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    robot.fail(busy(), Times::Always);
    queued(&host, "a0", &[("conversation", "a")]);
    until(&host, "a0 is tried", || robot.stats().faults > 0);
    robot.recover();
    for number in 1..4 {
        queued(&host, &format!("a{number}"), &[("conversation", "a")]);
        queued(&host, &format!("b{number}"), &[("conversation", "b")]);
    }
    until_counts(&host, 0, 0);
    let all = texts(&robot);
    let of = |letter: char| all.iter().filter(|text| text.starts_with(letter)).cloned().collect::<Vec<_>>();
    assert_eq!((of('a').join(" "), of('b').join(" ")), ("a0 a1 a2 a3".into(), "b1 b2 b3".into()), "{all:?}");
    assert_eq!(all[0], "b1", "a0 waits for a moment");
}

#[test]
fn what_is_urgent_overtakes_what_waits() {
    let robot = Robot::start();
    // Whatever waits for the rate.
    let bench = Bench::new(&robot, &[("rateLimit", "1/2s")]);
    let host = bench.serve(&[]);
    queued(&host, "first", &[]);
    until(&host, "the first is sent", || robot.stats().accepted == 1);
    for (text, priority, conversation) in [
        ("low", "low", ""),
        ("normal", "normal", ""),
        ("usual", "", ""),
        ("elsewhere", "high", "another"),
        ("high", "high", ""),
    ] {
        queued(&host, text, &[("priority", priority), ("conversation", conversation)]);
    }
    until_counts(&host, 0, 0);
    let mut all = texts(&robot);
    // Of two conversations, either may come first.
    all[1..3].sort();
    assert_eq!(all, ["first", "elsewhere", "high", "normal", "usual", "low"]);
}

#[test]
fn what_is_late_is_not_sent_any_more() {
    let robot = Robot::start();
    robot.fail(Fault::Status(503), Times::Always);
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    queued(&host, "late", &[("expires", "1s")]);
    queued(&host, "in time", &[("expires", "10m")]);
    queued(&host, "whenever", &[]);
    let begun = Instant::now();
    // Nothing is posted meanwhile; the time goes on while no host runs.
    kill(host);
    std::thread::sleep(Duration::from_millis(1_100).saturating_sub(begun.elapsed()));
    robot.recover();
    let host = bench.serve(&[]);
    until_counts(&host, 0, 1);
    assert_eq!(texts(&robot), ["in time", "whenever"]);
    let dead = bench.listed(&["--state", "dead"]);
    let error = dead[0]["lastError"].as_str().unwrap();
    assert_eq!((dead.len(), error), (1, "it was not sent by the time of its metadata item \"expires\""));
}

#[test]
fn a_long_message_goes_out_in_order_though_the_host_is_killed_between_its_parts() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[("tooLong", "split"), ("rateLimit", "1/2s")]);
    let host = bench.serve(&[]);
    let text = "一个很长的消息 with words.\n\n".repeat(1_200);
    let body = json!({"operation": "create", "data": {"message": text}, "metadata": {"msgUuid": "u"}}).to_string();
    let reply = host.post("team", &body);
    assert_eq!(
        (reply.status, reply.metadata("parts"), reply.metadata("id")),
        (200, Some("3"), Some("1,2,3")),
        "{reply:?}"
    );
    queued(&host, "after it", &[]);
    until(&host, "the first part is sent", || robot.stats().accepted >= 1);
    kill(host);
    let host = bench.serve(&["--log-level", "info"]);
    // The same again is no new message.
    assert_eq!(host.post("team", &body).metadata("id"), Some("1,2,3"));
    until_counts(&host, 0, 0);
    let said = texts(&robot);
    assert_eq!((said.len(), said[3].as_str()), (4, "after it"), "{said:?}");
    let part = |index: usize| said[index].strip_prefix(&format!("({}/3)\n", index + 1)).unwrap();
    assert_eq!([0, 1, 2].map(part).concat(), text);
    let ids: Vec<Value> = robot.messages().iter().map(|message| json!(message.msg_uuid)).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}
