//! A month's allowance is not exceeded, and a part of it is kept for what is urgent: by every binding of its name, also by
//! those of the next process.

use super::{Bench, counts, create, kill, queued, team, texts, until_counts};
use crate::support::{Host, Reply, Robot, component};

const QUOTA: [(&str, &str); 3] = [("quota", "10"), ("quotaReserve", "2"), ("quotaName", "acme")];

fn direct(host: &Host, text: &str, priority: &str) -> Reply {
    host.post("team", &create(text, &[("delivery", "direct"), ("priority", priority)]))
}

#[track_caller]
fn assert_spent(host: &Host, priority: &str, used: u64) {
    let reply = direct(host, "x", priority);
    assert_eq!(
        (reply.status, reply.metadata("error"), reply.metadata("class"), reply.metadata("outcome")),
        (500, Some("withheld"), Some("quota"), Some("not-sent")),
        "{reply:?}"
    );
    assert!(reply.body.contains(&format!("{used} of the month's 10 messages are used")), "{reply:?}");
}

#[test]
fn the_month_has_so_many_messages_and_some_of_them_are_for_what_is_urgent() {
    let robot = Robot::start();
    let bench = Bench::of(&team(&robot.url(), &QUOTA));
    // Another robot of the organisation.
    let other = Robot::start();
    let url = other.url();
    let properties = [&[("id", "other"), ("url", &url), ("secret", crate::support::SECRET)], &QUOTA[..]].concat();
    bench.resources.write("other.yaml", &component("other", &properties));
    let host = bench.serve(&[]);
    for number in 0..6 {
        assert_eq!(direct(&host, &format!("{number}"), "").status, 200);
    }
    assert!(!host.log().contains("of the month's messages are used"));
    for _ in 0..2 {
        assert_eq!(host.post("other", &create("of the other", &[])).status, 200);
    }
    host.wait_for_log("70 % of the month's messages are used");
    // The ninth.
    assert_spent(&host, "", 8);
    assert_eq!(direct(&host, "urgent", "high").status, 200);
    host.wait_for_log("90 % of the month's messages are used");
    kill(host);

    let host = bench.serve(&[]);
    assert_spent(&host, "normal", 9);
    // What is queued waits.
    queued(&host, "waits", &[("delivery", "queued")]);
    host.wait_for_log("only urgent messages leave the outbox");
    assert_eq!(direct(&host, "urgent again", "high").status, 200);
    host.wait_for_log("100 % of the month's messages are used");
    assert_spent(&host, "high", 10);
    host.end();

    let host = bench.serve(&[]);
    assert_spent(&host, "high", 10);
    assert_eq!((counts(&host), robot.stats().accepted + other.stats().accepted), ((1, 0), 10));
    // Somebody has bought more, and says so.
    bench.resources.write("team.yaml", &team(&robot.url(), &[("quota", "1000"), ("quotaName", "acme")]));
    until_counts(&host, 0, 0);
    assert_eq!(texts(&robot).last().map(String::as_str), Some("waits"));
    assert_eq!(host.log().matches("70 %").count(), 0, "each share once");
}
