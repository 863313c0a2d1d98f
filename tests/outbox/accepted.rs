//! Whoever is told that a message is queued need not send it again, and may.

use dingtalk_host::simulator::fault::{Fault, Times};
use serde_json::json;

use super::{Bench, assert_refused, counts, create, kill, queued, team, texts, until_counts};
use crate::grpc::client::{Client, binding};
use crate::support::{Host, Resources, Robot, finish, stderr};

/// While it lasts, nothing that is posted reaches the robot.
const AWAY: Fault = Fault::Status(503);

#[test]
fn what_is_answered_is_on_disk_and_sent_once() {
    let robot = Robot::start();
    robot.fail(AWAY, Times::Always);
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    let reply = host.post("team", &create("first", &[]));
    let uuid = reply.metadata("msgUuid").unwrap().to_owned();
    assert_eq!(
        (reply.status, reply.body.as_str(), reply.metadata("delivery"), reply.metadata("id")),
        (200, "", Some("queued"), Some("1")),
        "{reply:?}"
    );
    assert!(uuid.len() == 36, "{uuid}");
    let own = host.post("team", &create("second", &[("msgUuid", "order-17")]));
    assert_eq!((own.metadata("id"), own.metadata("msgUuid")), (Some("2"), Some("order-17")));
    kill(host);

    assert_eq!(robot.stats().accepted, 0);
    robot.recover();
    let host = bench.serve(&[]);
    until_counts(&host, 0, 0);
    let seen: Vec<_> = robot.messages().into_iter().map(|message| message.msg_uuid.unwrap()).collect();
    assert_eq!(seen, [uuid, "order-17".into()]);
    assert_eq!(texts(&robot), ["first", "second"]);
    assert_eq!(robot.stats().repeated, 0);
}

#[test]
fn a_msg_uuid_is_sent_once_and_refused_with_another_body() {
    let robot = Robot::start();
    robot.fail(AWAY, Times::Always);
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    let again = |host: &Host| queued(host, "paid", &[("msgUuid", "order-17")]);
    let other = |host: &Host| {
        let other = host.post("team", &create("S3CR3T", &[("msgUuid", "order-17")]));
        assert_refused(
            &other,
            "repeated",
            "the message has the msgUuid of another one, which is event 1 of the outbox",
        );
        assert!(!other.body.contains("S3CR3T") && !host.log().contains("S3CR3T"));
    };
    for _ in 0..3 {
        assert_eq!(again(&host), 1);
    }
    other(&host);
    assert_eq!(counts(&host), (1, 0));
    robot.recover();
    until_counts(&host, 0, 0);
    // After it was sent, and by the next process.
    assert_eq!(again(&host), 1);
    other(&host);
    kill(host);
    let host = bench.serve(&[]);
    assert_eq!(again(&host), 1);
    other(&host);
    assert_eq!(queued(&host, "last", &[]), 2);
    until_counts(&host, 0, 0);
    assert_eq!((texts(&robot), robot.stats().repeated), (vec!["paid".to_owned(), "last".into()], 0));
}

#[test]
fn a_message_that_was_given_up_is_not_queued_again_under_its_msg_uuid() {
    let robot = Robot::start();
    robot.fail(Fault::Rejected { errcode: 460_101, errmsg: "no".into() }, Times::ONCE);
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    queued(&host, "bad", &[("msgUuid", "order-17")]);
    until_counts(&host, 0, 1);
    let again = host.post("team", &create("bad", &[("msgUuid", "order-17")]));
    assert_refused(&again, "repeated", "was queued before as 1, and was given up");
    assert_eq!(robot.stats().requests, 1);
}

#[test]
fn a_call_chooses_its_delivery() {
    let robot = Robot::start();
    let bench = Bench::of(&team(&robot.url(), &[]));
    let host = bench.serve(&[]);
    let direct = host.post("team", &create("direct", &[]));
    assert_eq!((direct.status, direct.metadata("delivery"), robot.stats().accepted), (200, None, 1), "{direct:?}");
    queued(&host, "queued", &[("delivery", "queued")]);
    until_counts(&host, 0, 0);
    let wrong = host.post("team", &create("wrong", &[("delivery", "S3CR3T")]));
    assert_refused(&wrong, "invalid-message", "metadata delivery is neither \\\"direct\\\" nor \\\"queued\\\"");
    host.end();

    bench.resources.write("team.yaml", &team(&robot.url(), &[("overflow", "queue")]));
    let host = bench.serve(&[]);
    let direct = host.post("team", &create("direct again", &[("delivery", "direct")]));
    assert_eq!((direct.status, direct.metadata("delivery")), (200, None), "{direct:?}");
    assert_eq!(texts(&robot), ["direct", "queued", "direct again"]);
}

#[test]
fn what_is_no_message_is_refused_at_once() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    for (data, metadata, says) in [
        (json!([]), json!({}), "object"),
        (json!({"message": "x"}), json!({"priority": "urgent"}), "metadata priority is none of"),
        (json!({"message": "x"}), json!({"expires": "10ms"}), "metadata expires is not a time of 1s or more"),
        (json!({"message": "x"}), json!({"conversation": "c".repeat(257)}), "more than 256 bytes"),
    ] {
        let body = json!({"operation": "create", "data": data, "metadata": metadata}).to_string();
        assert_refused(&host.post("team", &body), "invalid-message", says);
    }
    assert_eq!((counts(&host), robot.stats().requests), ((0, 0), 0));
}

#[test]
fn without_an_outbox_it_is_said_what_is_missing() {
    let robot = Robot::start();
    let resources = Resources::of("team", &robot);
    let host = Host::serve(&resources);
    let reply = host.post("team", &create("x", &[("delivery", "queued")]));
    assert_refused(&reply, "invalid-message", "needs an outbox; start the host with --outbox DIRECTORY");
    for (property, value) in [("overflow", "queue"), ("quota", "100")] {
        resources.write("team.yaml", &team(&robot.url(), &[(property, value)]));
        let path = resources.path().to_str().unwrap();
        let serve = crate::support::command(&["serve", "--resources-path", path, "--dapr-http-port", "0"]);
        let output = finish(serve, b"");
        let says = format!("property \"{property}\" needs an outbox; start the host with --outbox DIRECTORY");
        assert!(!output.status.success() && stderr(&output).contains(&says), "{}", stderr(&output));
    }
}

#[test]
fn over_grpc_it_is_the_same() {
    let robot = Robot::start();
    let bench = Bench::new(&robot, &[]);
    let host = bench.serve(&[]);
    let client = Client::new(host.grpc_address());
    let metadata = [("msgUuid", "order-17"), ("conversation", "c"), ("priority", "high"), ("expires", "10m")];
    let call = |text: &str| binding("team", "create", text.as_bytes(), &metadata);
    for _ in 0..2 {
        let (answer, _) = client.invoke(call("paid")).unwrap();
        let mut metadata: Vec<_> = answer.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
        metadata.sort();
        assert_eq!(metadata, ["delivery=queued", "id=1", "msgUuid=order-17"]);
    }
    let refused = client.invoke(call("another")).unwrap_err();
    assert!(refused.message.contains("which is event 1 of the outbox"), "{refused:?}");
    assert_eq!(refused.details.get("error").map(String::as_str), Some("repeated"), "{refused:?}");
    until_counts(&host, 0, 0);
    assert_eq!(texts(&robot), ["paid"]);
}
