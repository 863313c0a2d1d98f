//! Dapr's resiliency policies, kept for messages on their way out and for events on their way in, and never so that a
//! message is posted twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dingtalk_host::simulator::conversation::Say;
use dingtalk_host::simulator::fault::{Fault, Times};

use crate::metrics::{get, value};
use crate::support::app::{Act, App};
use crate::support::held::Held;
use crate::support::receiving::{callback, talkative, text, until};
use crate::support::witness::Witness;
use crate::support::{Host, Reply, Resources, Robot, SECRET, command, component, finish, stderr};

const CREATE: &str = r#"{"operation":"create","data":{"message":"Hi"}}"#;
const WITH_UUID: &str = r#"{"operation":"create","data":{"message":"Hi"},"metadata":{"msgUuid":"u1"}}"#;

const RETRY: &str = "    retries:\n      again: {policy: constant, duration: 10ms, maxRetries: 3}\n";

/// Policies, and which of them the binding `team` has.
fn resiliency(policies: &str, target: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: policies\nspec:\n  policies:\n{policies}  \
         targets:\n    components:\n      team:\n        {target}\n"
    )
}

fn serve(robot: &Robot, policies: &str, target: &str) -> (Host, Resources) {
    let resources = Resources::of("team", robot).with("resiliency.yaml", &resiliency(policies, target));
    (Host::serve(&resources), resources)
}

/// Messages of the group are no requests to its robot.
fn requests(robot: &Robot) -> u64 {
    robot.stats().requests
}

#[test]
fn what_was_not_sent_is_tried_again() {
    let robot = Robot::start();
    let (host, _resources) = serve(&robot, RETRY, "outbound: {retry: again}");
    let busy = || Fault::Rejected { errcode: -1, errmsg: "system busy".into() };
    robot.fail(busy(), Times::Next(2.try_into().unwrap()));
    let reply = host.post("team", CREATE);
    assert_eq!((reply.status, requests(&robot), robot.stats().accepted), (200, 3, 1), "{reply:?}");
    robot.fail(busy(), Times::Always);
    let reply = host.post("team", CREATE);
    assert_eq!((reply.status, reply.metadata("errcode"), requests(&robot)), (500, Some("-1"), 3 + 4), "{reply:?}");
    // Waiting for minutes is for the caller to decide, and a message that is at fault stays so.
    for errcode in [130_101, 400_105] {
        let before = requests(&robot);
        robot.fail(Fault::Rejected { errcode, errmsg: String::new() }, Times::Always);
        assert_eq!(host.post("team", CREATE).status, 500);
        assert_eq!(requests(&robot), before + 1, "{errcode}");
    }
}

#[test]
fn what_may_have_been_posted_is_tried_again_with_a_uuid_and_shown_once() {
    let robot = Robot::start();
    let (host, _resources) = serve(&robot, RETRY, "outbound: {retry: again}");
    for (number, (fault, body)) in
        [(Fault::HalfBody, WITH_UUID), (Fault::HalfBody, CREATE), (Fault::Reset, CREATE)].into_iter().enumerate()
    {
        // The group sees the message, and nobody learns of it.
        robot.fail(fault, Times::ONCE);
        let reply = host.post("team", body);
        let number = number as u64 + 1;
        assert_eq!((reply.status, requests(&robot)), (200, 2 * number), "{reply:?}");
        let seen = (robot.stats().repeated, robot.messages().len() as u64);
        assert_eq!(seen, (number, number), "the group has each message once");
    }
    // Who is told that it is not known what became of it can send it again.
    robot.fail(Fault::Reset, Times::Always);
    let reply = host.post("team", CREATE);
    assert_eq!((reply.metadata("outcome"), robot.messages().len()), (Some("unknown"), 4), "{reply:?}");
    let uuid = reply.metadata("msgUuid").unwrap();
    assert!(
        reply.body.contains(&format!("(the host has given it the msgUuid {uuid}); send it again only with")),
        "{reply:?}"
    );
    robot.recover();
    let again = CREATE.replace("}}", &format!(r#"}},"metadata":{{"msgUuid":"{uuid}"}}}}"#));
    assert_eq!((host.post("team", &again).status, robot.messages().len()), (200, 4));
}

#[test]
fn an_answer_that_is_sent_on_is_tried_again_and_shown_once_too() {
    let (app, robot) = (App::start(), talkative());
    let resources =
        Resources::of("team", &robot).with("resiliency.yaml", &resiliency(RETRY, "outbound: {retry: again}"));
    let host = Host::serve_with(&resources, &["--app-port", &app.port()], &[]);
    app.answer(Act::ok(r#"{"to":["team"],"data":{"message":"Hi"}}"#));
    robot.fail(Fault::Reset, Times::ONCE);
    assert_eq!(callback(&host, &text("1")).status, 200);
    until("it was tried again", || robot.stats().repeated == 1);
    assert_eq!(robot.messages().len(), 1);
}

#[test]
fn without_retries_a_message_is_posted_byte_for_byte() {
    let message = r#"{"msgtype" :"text", "text":{"content":"po\u006eg"}}"#;
    let body = format!(r#"{{"operation":"create","data":{message}}}"#);
    for (policies, target, is_kept) in [
        ("    timeouts: {long: 60s}\n", "outbound: {timeout: long}", true),
        ("    retries: {never: {policy: constant, duration: 1s, maxRetries: 0}}\n", "outbound: {retry: never}", true),
        (RETRY, "inbound: {retry: again}", true),
        (RETRY, "outbound: {retry: again}", false),
    ] {
        let witness = Witness::start();
        let url = witness.url("/robot/send?access_token=t0ken");
        let resources = Resources::binding("team", &[("id", "team"), ("url", &url)])
            .with("resiliency.yaml", &resiliency(policies, target));
        let host = Host::serve(&resources);
        assert_eq!(host.post("team", &body).status, 200);
        let posted = String::from_utf8(witness.received().swap_remove(0).body).unwrap();
        assert_eq!(posted == message, is_kept, "{target}: {posted}");
        assert!(is_kept || posted.starts_with("{\"msgUuid\":\""), "{posted}");
    }
}

#[test]
fn a_timeout_ends_an_attempt_and_says_what_became_of_it() {
    let held = Held::start();
    let url = held.url();
    let resources = Resources::binding("team", &[("id", "team"), ("url", &url)])
        .with("resiliency.yaml", &resiliency("    timeouts: {short: 300ms}\n", "outbound: {timeout: short}"));
    let host = Host::serve(&resources);
    let start = Instant::now();
    let reply = host.post("team", CREATE);
    assert!(start.elapsed() < Duration::from_secs(25), "not the binding's own 30 s: {:?}", start.elapsed());
    let told = (reply.status, reply.metadata("error"), reply.metadata("outcome"));
    assert_eq!(told, (500, Some("stopped"), Some("unknown")), "{reply:?}");
    assert!(reply.body.contains("it did not end within "), "{reply:?}");
    drop(held.receive());
}

#[test]
fn an_open_circuit_breaker_sends_nothing() {
    let robot = Robot::start();
    let policies = "    circuitBreakers:\n      breaks: {trip: consecutiveFailures > 1, timeout: 2s}\n";
    let (host, _resources) = serve(&robot, policies, "outbound: {circuitBreaker: breaks}");
    robot.fail(Fault::Status(503), Times::Always);
    let failed = |reply: &Reply| assert_eq!(reply.metadata("error"), Some("unexpected-answer.status"), "{reply:?}");
    failed(&host.post("team", CREATE));
    failed(&host.post("team", CREATE));
    let reply = host.post("team", CREATE);
    assert_eq!((reply.status, reply.metadata("outcome")), (500, Some("not-sent")), "{reply:?}");
    assert!(reply.body.contains("circuit breaker is open. Nothing was sent"), "{reply:?}");
    assert_eq!(requests(&robot), 2);
    // A request that makes no sense says nothing of the robot.
    assert_eq!(host.post("team", r#"{"operation":"x"}"#).metadata("error"), Some("unsupported-operation"));
    robot.recover();
    until("it is tried again", || host.post("team", CREATE).status == 200);
}

#[test]
fn policies_follow_their_file_and_a_bad_one_leaves_them() {
    let robot = Robot::start();
    let (host, resources) = serve(&robot, RETRY, "outbound: {retry: again}");
    robot.fail(Fault::Rejected { errcode: -1, errmsg: String::new() }, Times::Always);
    let attempts = || {
        let before = requests(&robot);
        host.post("team", CREATE);
        requests(&robot) - before
    };
    assert_eq!(attempts(), 4);
    let breaker = "    circuitBreakers:\n      b: {trip: totalFailures > 3}\n";
    resources.write("resiliency.yaml", &resiliency(breaker, "outbound: {circuitBreaker: b}"));
    host.wait_for_log("resiliency.yaml:8:17: trip: this host understands");
    assert_eq!(attempts(), 4);
    resources.write(
        "resiliency.yaml",
        &resiliency(&RETRY.replace("maxRetries: 3", "maxRetries: 1"), "outbound: {retry: again}"),
    );
    until("the new policy applies", || attempts() == 2);
}

#[test]
fn events_are_handed_over_again_as_the_policy_says() {
    let (app, robot) = (App::start(), Robot::start());
    let resources = Resources::new()
        .with("team.yaml", &component("team", &[("id", "team"), ("url", &robot.url()), ("secret", SECRET)]))
        .with("resiliency.yaml", &resiliency(RETRY, "inbound: {retry: again}"));
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    let failures = AtomicUsize::new(2);
    app.answer_with(move |_| {
        let left = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Act::Answer(500, String::new()) } else { Act::ok("") }
    });
    assert_eq!(callback(&host, &text("m1")).status, 200);
    assert_eq!(app.events().len(), 3);
    // What the application will never take is not handed over again.
    app.answer(Act::Answer(422, String::new()));
    assert_eq!(callback(&host, &text("m2")).status, 503);
    assert_eq!(app.events().len(), 4);
}

/// As a client's own calls are: `other` has the policies of `team`, and the inbox is too late for its callback.
#[test]
fn what_an_answer_asks_for_is_under_the_policies_of_whom_it_is_for_and_is_counted() {
    let (app, robot) = (App::start(), talkative());
    let url = robot.url();
    let origin = url.split("/robot/").next().unwrap();
    let properties = [("id", "team"), ("url", url.as_str()), ("secret", SECRET)];
    let policies = resiliency(RETRY, "outbound: {retry: again}\n      other:\n        outbound: {retry: again}");
    let resources = Resources::new()
        .with("team.yaml", &component("team", &[&properties[..], &[("sessionWebhookHosts", origin)]].concat()))
        .with("other.yaml", &component("other", &properties))
        .with("resiliency.yaml", &policies);
    let dir = tempfile::tempdir().unwrap();
    let inbox = dir.path().to_str().unwrap().to_owned();
    let more = ["--app-port", &app.port(), "--metrics-port", "0", "--inbox", &inbox, "--callback-timeout", "100ms"];
    let host = Host::serve_with(&resources, &more, &[]);
    robot.set_callback_url(&host.callback_url("team"));
    let busy = || Fault::Rejected { errcode: -1, errmsg: "system busy".into() };
    let forward = |data: &str| Act::ok(&format!(r#"{{"to":["other"],"data":{data}}}"#));
    let twice = Times::Next(2.try_into().unwrap());

    robot.fail(busy(), twice);
    app.answer(forward(r#"{"message":"first"}"#));
    assert_eq!(callback(&host, &text("m1")).status, 200);
    until("it is sent on", || robot.stats().accepted == 1);
    assert_eq!(requests(&robot), 3);
    assert_output(&host, "other", "create", "true", 1.0);

    // A message that is at fault stays so.
    robot.fail(Fault::Rejected { errcode: 400_105, errmsg: String::new() }, Times::ONCE);
    app.answer(forward(r#"{"message":"refused"}"#));
    assert_eq!(callback(&host, &text("m0")).status, 200);
    host.wait_for_log("an answer was not sent on");
    assert_output(&host, "other", "create", "false", 1.0);
    assert_eq!((requests(&robot), robot.messages().len()), (4, 1));

    // Whether it was posted nobody knows: it is sent again, with its own uuid or one that is made for it.
    for (number, data) in
        [(1, r#"{"message":"second"}"#), (2, r#"{"msgtype":"text","text":{"content":"third"},"msgUuid":"u1"}"#)]
    {
        robot.fail(Fault::HalfBody, Times::ONCE);
        app.answer(forward(data));
        assert_eq!(callback(&host, &text(&format!("again-{number}"))).status, 200);
        until("it is sent on", || requests(&robot) == 4 + 2 * number);
        assert_output(&host, "other", "create", "true", 1.0 + number as f64);
        let seen = (robot.stats().repeated, robot.messages().len() as u64);
        assert_eq!(seen, (number, 1 + number), "the group has each message once");
    }

    // What is not there is nobody's.
    app.answer(Act::ok(r#"{"to":["none"],"data":1}"#));
    assert_eq!(callback(&host, &text("m4")).status, 200);
    host.wait_for_log("couldn't find output binding none");
    let none = ["component=\"\"", "operation=\"\"", "success=\"false\""];
    until("it is counted", || value(&get(&host).body, "dapr_component_output_binding_count", &none) == Some(1.0));

    // A reply that comes late.
    let gate = app.answer_behind(Act::ok(r#"{"msgtype":"text","text":{"content":"see you"}}"#));
    let said = robot.say(Say::text("hello"));
    assert_eq!(said.attempts.last().unwrap().status, Some(200));
    robot.fail(busy(), twice);
    gate.open();
    until("the reply is posted", || robot.messages().iter().any(|message| message.shown.contains("see you")));
    assert_output(&host, "team", "reply", "true", 1.0);
}

/// So many operations of `component` have ended like this, sooner or later.
#[track_caller]
fn assert_output(host: &Host, component: &str, operation: &str, success: &str, expected: f64) {
    let labels = [("component", component), ("operation", operation), ("success", success)];
    let labels = labels.map(|(label, value)| format!("{label}=\"{value}\""));
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    let what = format!("{expected} of {labels:?}");
    until(&what, || value(&get(host).body, "dapr_component_output_binding_count", &labels) == Some(expected));
}

/// Whatever became of its answer: it may have acted on the event.
#[test]
fn get_is_handed_to_the_application_once() {
    let (app, robot) = (App::start(), Robot::start());
    let policies = format!("{RETRY}    timeouts: {{short: 300ms}}\n");
    let resources = Resources::of("team", &robot)
        .with("resiliency.yaml", &resiliency(&policies, "outbound: {retry: again, timeout: short}"));
    let host = Host::serve_with(&resources, &["--app-port", &app.port()], &[]);
    let gate = app.answer_behind(Act::ok(""));
    let reply = host.post("team", r#"{"operation":"get","data":{"message":"Hi"}}"#);
    assert_eq!((reply.status, reply.metadata("error")), (500, Some("stopped")), "{reply:?}");
    assert_eq!(app.events().len(), 1);
    gate.open();
}

/// That is another attempt at the event, not at the operation.
#[test]
fn what_get_hands_over_is_handed_over_again_as_the_inbound_policy_says() {
    let (app, robot) = (App::start(), Robot::start());
    let resources =
        Resources::of("team", &robot).with("resiliency.yaml", &resiliency(RETRY, "inbound: {retry: again}"));
    let host = Host::serve_with(&resources, &["--app-port", &app.port()], &[]);
    let failures = AtomicUsize::new(2);
    app.answer_with(move |_| {
        let left = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Act::Answer(500, String::new()) } else { Act::ok("") }
    });
    let get = || host.post("team", r#"{"operation":"get","data":{"message":"Hi"}}"#).status;
    assert_eq!((get(), app.events().len()), (200, 3));
    app.answer(Act::Answer(422, String::new()));
    assert_eq!((get(), app.events().len()), (500, 4));
}

#[test]
fn a_policy_that_cannot_be_kept_stops_the_start() {
    let robot = Robot::start();
    for (policies, target, said) in [
        ("    timeouts: {a: soon}\n", "{}", "resiliency.yaml:7:19: \"soon\" is not a duration"),
        ("    retries: {a: {policy: linear}}\n", "{}", "the policy of a retry must be constant or exponential"),
    ] {
        let resources = Resources::of("team", &robot).with("resiliency.yaml", &resiliency(policies, target));
        let path = resources.path().to_str().unwrap();
        let output = finish(command(&["serve", "--resources-path", path, "--dapr-http-port", "0"]), b"");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    let (host, _resources) = serve(&robot, "    timeouts: {a: 1s}\n", "outbound: {retry: gone}");
    host.wait_for_log("a target names the retry policy \"gone\", which no file has");
}
