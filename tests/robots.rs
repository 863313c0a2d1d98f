//! A robot gets what it takes: not one message too many, nothing that it has refused for a time, no body above its limit, a
//! keyword where it wants one; and whoever asks for too much is told so in a way that programs understand.

use std::time::{Duration, Instant};

use dingtalk_binding::secret::Secret;
use dingtalk_host::simulator::fault::{Fault, Times};
use dingtalk_host::simulator::robot::RobotConfig;
use serde_json::json;

use crate::support::{Host, PATIENCE, Reply, Resources, Robot, SECRET, component, pause, send};

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;

/// One that takes `messages` a minute, and is shut for ten minutes after one more.
fn strict(messages: u32) -> Robot {
    Robot::with(RobotConfig { secret: Some(Secret::new(SECRET)), rate_limit: messages, ..Robot::config() })
}

fn team(robot: &Robot, more: &[(&str, &str)]) -> Resources {
    let url = robot.url();
    let mut properties = vec![("id", "team"), ("url", &url), ("secret", SECRET)];
    properties.extend(more);
    Resources::binding("team", &properties)
}

fn retry_after(reply: &Reply) -> Duration {
    Duration::from_millis(reply.metadata("retryAfter").unwrap().parse().unwrap())
}

#[test]
fn a_burst_is_never_one_message_too_many_for_the_robot() {
    let robot = strict(20);
    // What is given without the property.
    let resources = team(&robot, &[("rateLimit", "")]);
    let host = Host::serve(&resources);
    let address = host.address();
    let posting: Vec<_> = (0..60)
        .map(|_| {
            std::thread::spawn(move || {
                let http = [("dingtalk-error-status", "http")];
                send(address, "POST", "/v1.0/bindings/team", &http, CREATE.as_bytes())
            })
        })
        .collect();
    let replies: Vec<_> = posting.into_iter().map(|thread| thread.join().unwrap()).collect();
    let (taken, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
    assert_eq!((taken.len(), refused.len()), (20, 40), "{:?}", refused.first());
    for reply in refused {
        assert_eq!(
            (reply.status, reply.metadata("error"), reply.metadata("class"), reply.metadata("outcome")),
            (503, Some("withheld"), Some("rate-limited"), Some("not-sent")),
            "{reply:?}"
        );
        assert!(
            reply.body.contains("the robot takes 20 messages a minute (property \\\"rateLimit\\\"); send again after ")
        );
        let (wait, seconds) = (retry_after(reply), reply.header("retry-after").unwrap().parse::<u64>().unwrap());
        assert!(wait <= Duration::from_secs(60) && wait > Duration::from_secs(25), "{wait:?}");
        assert_eq!(seconds, wait.as_millis().div_ceil(1_000) as u64);
    }
    let stats = robot.stats();
    assert_eq!((stats.requests, stats.accepted), (20, 20), "the robot has not seen the others");
}

#[test]
fn who_can_wait_has_a_turn_in_the_order_of_arrival() {
    let robot = Robot::start();
    let resources = team(&robot, &[("rateLimit", "3/1s")]);
    let host = Host::serve(&resources);
    let begun = Instant::now();
    for number in 0..10 {
        let body = format!(r#"{{"operation":"create","data":{{"message":"{number}"}}}}"#);
        assert_eq!(host.post("team", &body).status, 200);
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    let said: Vec<_> = robot.messages().iter().map(|message| message.message.get().to_owned()).collect();
    for (number, said) in said.iter().enumerate() {
        assert!(said.contains(&format!("\"{number}\"")), "{said}");
    }
}

#[test]
fn what_dingtalk_refuses_for_a_time_is_not_sent_meanwhile() {
    for (fault, class, shuts) in [
        (Fault::Rejected { errcode: 130_101, errmsg: "too fast".into() }, "rate-limited", 600),
        (Fault::Rejected { errcode: 90_030, errmsg: "webhook over limit".into() }, "quota", 3_600),
        (Fault::Rejected { errcode: 300_005, errmsg: "token is not exist".into() }, "configuration", 3_600),
    ] {
        let robot = Robot::start();
        let resources = team(&robot, &[("rateLimit", "20/1m")]);
        let host = Host::serve(&resources);
        robot.fail(fault, Times::ONCE);
        let first = host.post("team", CREATE);
        assert_eq!((first.status, first.metadata("error")), (500, Some("rejected")), "{first:?}");
        let second = host.post("team", CREATE);
        assert_eq!(
            (second.status, second.metadata("error"), second.metadata("class"), second.metadata("errcode")),
            (500, Some("withheld"), Some(class), first.metadata("errcode")),
            "{second:?}"
        );
        let (wait, most) = (retry_after(&second), Duration::from_secs(shuts));
        assert!(wait <= most && wait > most - PATIENCE, "{wait:?}");
        assert_eq!(robot.stats().requests, 1);
    }
}

#[test]
fn a_mended_file_is_tried_at_once_and_another_binding_of_the_robot_was_never_kept_out() {
    let robot = Robot::start();
    let url = robot.url();
    let of = |name: &str, secret: &str| {
        component(name, &[("id", name), ("url", &url), ("secret", secret), ("rateLimit", "")])
    };
    let resources =
        Resources::new().with("wrong.yaml", &of("wrong", "SECwrong")).with("right.yaml", &of("right", SECRET));
    let host = Host::serve(&resources);
    assert_eq!(host.post("wrong", CREATE).metadata("check"), Some("signature"));
    let withheld = host.post("wrong", CREATE);
    assert_eq!(
        (withheld.metadata("error"), withheld.metadata("check")),
        (Some("withheld"), Some("signature")),
        "{withheld:?}"
    );
    let http = [("dingtalk-error-status", "http")];
    assert_eq!(send(host.address(), "POST", "/v1.0/bindings/wrong", &http, CREATE.as_bytes()).status, 401);
    assert!(withheld.body.contains("mend its component file"), "{withheld:?}");
    assert_eq!(host.post("right", CREATE).status, 200);
    resources.write("wrong.yaml", &of("wrong", SECRET));
    let begun = Instant::now();
    while host.post("wrong", CREATE).status != 200 {
        assert!(begun.elapsed() < PATIENCE, "{}", host.log());
        pause();
    }
}

#[test]
fn a_long_message_goes_out_in_parts_that_the_robot_takes() {
    let robot = Robot::start();
    let resources = team(&robot, &[("tooLong", "split"), ("rateLimit", "20/1m")]);
    let host = Host::serve(&resources);
    let text = "一个很长的消息 with words.\n\n".repeat(1_200);
    let body = json!({"operation": "create", "data": {"message": text}, "metadata": {"msgUuid": "u"}}).to_string();
    let reply = host.post("team", &body);
    assert_eq!((reply.status, reply.metadata("parts")), (200, Some("3")), "{reply:?}");
    let said: Vec<serde_json::Value> =
        robot.messages().iter().map(|message| serde_json::from_str(message.message.get()).unwrap()).collect();
    assert_eq!(said.len(), 3);
    let mut joined = String::new();
    for (index, said) in said.iter().enumerate() {
        let content = said["text"]["content"].as_str().unwrap();
        joined.push_str(content.strip_prefix(&format!("({}/3)\n", index + 1)).unwrap());
    }
    assert_eq!(joined, text);
    // The same again: DingTalk shows each part once.
    assert_eq!(host.post("team", &body).status, 200);
    assert_eq!((robot.messages().len(), robot.stats().repeated), (3, 3));
}

#[test]
fn a_part_that_fails_is_named_and_the_whole_can_be_sent_again() {
    let robot = strict(2);
    let resources = team(&robot, &[("tooLong", "split")]);
    let host = Host::serve(&resources);
    let body = json!({"operation": "create", "data": {"message": "word ".repeat(10_000)}}).to_string();
    let reply = host.post("team", &body);
    assert_eq!(
        (reply.status, reply.metadata("errcode"), reply.metadata("part"), reply.metadata("parts")),
        (500, Some("130101"), Some("3"), Some("3")),
        "{reply:?}"
    );
    assert_eq!(reply.metadata("outcome"), Some("unknown"));
    assert!(reply.body.contains("This was part 3 of 3; those before it were posted"), "{reply:?}");
}

#[test]
fn a_robot_with_keywords_gets_one() {
    let robot = Robot::with(RobotConfig { keywords: vec!["告警".into()], ..Robot::config() });
    let url = robot.url();
    let resources = Resources::binding("team", &[("id", "team"), ("url", &url), ("keywords", "告警, alert")]);
    let host = Host::serve(&resources);
    for metadata in ["{}", r#"{"msgtype":"markdown"}"#] {
        let body = format!(r#"{{"operation":"create","data":{{"message":"disk full"}},"metadata":{metadata}}}"#);
        let reply = host.post("team", &body);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let link = json!({"msgtype": "link", "link": {"title": "t", "text": "x", "messageUrl": "http://h"}});
    let refused = host.invoke("team", "create", &link.to_string());
    assert_eq!(refused.metadata("error"), Some("invalid-message"), "{refused:?}");
    assert_eq!(robot.stats().requests, 2, "it costs no post");
}

#[test]
fn a_status_says_what_happened_to_whoever_asks_for_it() {
    let robot = Robot::start();
    let status = |host: &Host, header: Option<&str>, binding: &str, body: &str| {
        let headers: Vec<_> = header.map(|form| ("dingtalk-error-status", form)).into_iter().collect();
        send(host.address(), "POST", &format!("/v1.0/bindings/{binding}"), &headers, body.as_bytes()).status
    };
    let resources = team(&robot, &[]).with(
        "own.yaml",
        &component("own", &[("id", "own"), ("url", &robot.url()), ("secret", SECRET), ("errorStatus", "http")]),
    );
    let host = Host::serve(&resources);
    let bad = r#"{"operation":"create","data":[]}"#;
    assert_eq!(status(&host, None, "team", bad), 500);
    assert_eq!(status(&host, Some("http"), "team", bad), 400);
    assert_eq!(status(&host, None, "own", bad), 400);
    assert_eq!(status(&host, Some("dapr"), "own", bad), 500);
    assert_eq!(status(&host, Some("http"), "none", CREATE), 404);
    assert_eq!(status(&host, Some("http"), "team", r#"{"data":1}"#), 400);
    assert_eq!(status(&host, Some("wrong"), "team", CREATE), 400);
    assert_eq!(robot.stats().requests, 0);
    assert_eq!(status(&host, Some("http"), "team", CREATE), 200);
    robot.fail(Fault::Status(500), Times::ONCE);
    assert_eq!(status(&host, Some("http"), "team", CREATE), 502);
    drop(host);
    let host = Host::serve_with(&resources, &["--error-status", "http"], &[]);
    assert_eq!(status(&host, None, "team", bad), 400);
    assert_eq!(status(&host, None, "none", CREATE), 404);
    // A request without an operation is said once.
    for _ in 0..3 {
        assert_eq!(status(&host, None, "team", r#"{"data":1}"#), 400);
    }
    host.wait_for_log("a request names no operation");
    assert_eq!(host.log().matches("a request names no operation").count(), 1);
}

#[test]
fn a_property_that_is_wrong_is_named_and_not_repeated() {
    let robot = Robot::start();
    for (property, says) in [
        ("rateLimit", "property \\\"rateLimit\\\" is not a number of messages in a time"),
        ("overflow", "property \\\"overflow\\\" is none of"),
        ("merge", "property \\\"merge\\\" is neither"),
        ("quota", "property \\\"quota\\\" is not a number"),
        ("tooLong", "property \\\"tooLong\\\" is none of"),
        ("errorStatus", "property \\\"errorStatus\\\" is neither"),
    ] {
        let resources = team(&robot, &[(property, "S3CR3T-in-the-wrong-place")]);
        let output = crate::support::run(&[
            "serve",
            "--resources-path",
            resources.path().to_str().unwrap(),
            "--dapr-http-port",
            "0",
        ]);
        let log = crate::support::stderr(&output).replace('"', "\\\"");
        assert!(!output.status.success() && log.contains(says) && !log.contains("S3CR3T"), "{property}: {log}");
    }
}
