//! How much waits is there to be seen, for people and for Prometheus.

use dingtalk_host::simulator::fault::{Fault, Times};

use super::{Bench, counts, queued, until_counts};
use crate::metrics::{get, value};
use crate::support::Robot;

#[test]
fn what_waits_and_what_is_dead_is_counted() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&["--metrics-port", "0"]);
    let is = |name: &str, labels: &[&str]| value(&get(&host).body, name, labels).unwrap();
    assert_eq!(counts(&host), (0, 0));
    robot.fail(Fault::Rejected { errcode: 460_101, errmsg: "no".into() }, Times::ONCE);
    queued(&host, "dead", &[]);
    until_counts(&host, 0, 1);
    robot.fail(Fault::Status(503), Times::Always);
    for text in ["a", "b", "c"] {
        queued(&host, text, &[]);
    }
    assert_eq!(counts(&host), (3, 1));
    let messages = ["pending", "dead"].map(|state| is("dingtalk_outbox_messages", &[&format!("state=\"{state}\"")]));
    assert_eq!(messages, [3.0, 1.0]);
    super::until(&host, "the oldest becomes older", || is("dingtalk_outbox_oldest_seconds", &[]) > 0.0);
    robot.recover();
    until_counts(&host, 0, 1);
    assert_eq!(is("dingtalk_outbox_messages", &["state=\"pending\""]), 0.0);
    assert_eq!(is("dingtalk_outbox_oldest_seconds", &[]), 0.0);
}
