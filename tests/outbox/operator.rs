//! The operator sees what waits and what is dead, and decides about it, beside a host that runs and without one.

use dingtalk_host::simulator::fault::{Fault, Times};
use serde_json::json;

use super::{Bench, queued, texts, until, until_counts};
use crate::support::Robot;

#[test]
fn dead_messages_are_shown_sent_after_all_or_dropped() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    let refuse = Fault::Rejected { errcode: 460_101, errmsg: "refused".into() };
    robot.fail(refuse.clone(), Times::Next(3.try_into().unwrap()));
    for (text, id) in [("one", "u1"), ("two", "u2"), ("three", "u3"), ("four", "u4")] {
        queued(&host, text, &[("msgUuid", id), ("conversation", "c"), ("priority", "high")]);
    }
    until_counts(&host, 0, 3);
    assert_eq!(texts(&robot), ["four"]);

    let (status, text, _) = bench.operate(&["list"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((status, lines.len()), (Some(0), 3), "{text}");
    for part in ["1 dead", "binding=\"team\"", "msgUuid=\"u1\"", "conversation=\"c\"", "errcode 460101"] {
        assert!(lines[0].contains(part), "{part}: {text}");
    }
    assert!(!text.contains("\"one\""), "people wrote it: {text}");
    let (status, text, _) = bench.operate(&["show", "2"]);
    assert!(status == Some(0) && text.contains("two") && text.contains("\"priority\": \"high\""), "{text}");
    let (_, text, _) = bench.operate(&["show", "2", "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&shown["msgUuid"], &shown["data"]["text"]["content"]), (&json!("u2"), &json!("two")));

    // A mistake changes nothing.
    for arguments in [&["retry", "1", "4711"][..], &["drop", "1", "4711"], &["retry", "4"], &["show", "4711"]] {
        let (status, said, error) = bench.operate(arguments);
        assert_eq!((status, said.as_str()), (Some(1), ""), "{error}");
        assert!(error.contains(arguments[arguments.len() - 1]), "{error}");
    }
    until_counts(&host, 0, 3);

    assert_eq!(bench.operate(&["retry", "2"]).1, "1 message put back\n");
    until_counts(&host, 0, 2);
    assert_eq!(texts(&robot), ["four", "two"]);
    assert_eq!(bench.operate(&["drop", "1"]).1, "1 message dropped\n");
    until_counts(&host, 0, 1);
    // What was dropped is not taken again.
    queued(&host, "one", &[("msgUuid", "u1"), ("conversation", "c"), ("priority", "high")]);

    // Without a host too.
    host.end();
    assert_eq!(bench.operate(&["retry", "--all"]).1, "1 message put back\n");
    assert_eq!(bench.listed(&["--state", "pending"])[0]["msgUuid"], "u3");
    let host = bench.serve(&[]);
    until_counts(&host, 0, 0);
    assert_eq!(texts(&robot), ["four", "two", "three"]);
}

#[test]
fn a_message_that_waits_can_be_dropped_and_those_behind_it_are_sent() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    robot.fail(Fault::Status(503), Times::Always);
    for text in ["first", "second"] {
        queued(&host, text, &[]);
    }
    until(&host, "the first is tried", || bench.listed(&[])[0]["attempts"].as_u64() > Some(0));
    let waiting = bench.listed(&["--state", "pending"]);
    assert_eq!((waiting.len(), &waiting[1]["waitsFor"]), (2, &json!(1)), "{waiting:?}");
    assert_eq!(bench.operate(&["drop", "1"]).1, "1 message dropped\n");
    robot.recover();
    until_counts(&host, 0, 0);
    assert_eq!(texts(&robot), ["second"]);
}
