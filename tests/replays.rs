//! Whoever has seen a genuine callback, on a wire without TLS or in a log, can send its headers again, for an hour and
//! with any body. What is genuine is delivered once, and nothing else is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::{Act, App};
use crate::support::receiving::{
    EMPTY, PONG, REFUSED, Setup, assert_answer, assert_later, callback, post, signed, signed_at, start, start_with,
    talkative, text, until,
};
use crate::support::witness::now;
use crate::support::{Connection, Host, Reply, Resources, SECRET, component};

/// What nobody said, under the `msgId` of what somebody did.
fn forged(msg_id: &str) -> String {
    json!({"msgtype": "text", "text": {"content": "transfer everything"}, "msgId": msg_id}).to_string()
}

#[track_caller]
fn assert_refused(reply: &Reply) {
    assert_eq!((reply.status, reply.body.as_str()), (403, REFUSED), "{reply:?}");
}

#[test]
fn while_the_application_is_away_nobody_can_put_another_body_under_a_message() {
    let Setup { host, mut app, .. } = start();
    app.answer(Act::ok(PONG));
    app.stop();
    let seen = signed(SECRET);
    let send = |body: &str| post(host.address(), "team", &seen, body.as_bytes());
    assert_later(&send(&text("m1")));
    assert_refused(&send(&forged("m1")));
    app.restart();
    assert_refused(&send(&forged("m1")));
    // Not even with a signature of its own.
    assert_refused(&callback(&host, &forged("m1")));
    host.wait_for_log("its signature or its msgId has come with another message before");
    // DingTalk's repetition is the message that was said. No reply is for whoever sends another one.
    for _ in 0..2 {
        assert_answer(&send(&text("m1")), PONG);
        assert_refused(&send(&forged("m1")));
    }
    let events = app.events();
    assert_eq!(events.iter().map(|event| String::from_utf8_lossy(&event.body)).collect::<Vec<_>>(), [text("m1")]);
}

#[test]
fn a_signature_that_was_seen_at_one_robot_is_none_for_another_one_with_the_same_secret() {
    let (app, robot) = (App::start(), talkative());
    app.answer(Act::ok(PONG));
    let of = |name: &str| component(name, &[("id", name), ("url", &robot.url()), ("appSecret", "of-both")]);
    let resources = Resources::new().with("a.yaml", &of("a")).with("b.yaml", &of("b"));
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    let seen = signed("of-both");
    let send = |name: &str, body: &str| post(host.address(), name, &seen, body.as_bytes());
    assert_answer(&send("a", &text("m1")), PONG);
    std::thread::sleep(MOMENT);
    assert_refused(&send("b", &forged("m2")));
    // The message itself may be meant for both.
    assert_answer(&send("b", &text("m1")), PONG);
    let targets: Vec<String> = app.events().into_iter().map(|event| event.target).collect();
    assert_eq!(targets, ["/a", "/b"]);
}

#[test]
fn what_waits_in_the_inbox_keeps_its_body_too() {
    let directory = tempfile::tempdir().unwrap();
    let inbox = directory.path().join("inbox");
    let arguments = ["--callback-timeout", "500ms", "--inbox", inbox.to_str().unwrap()];
    let Setup { host, mut app, .. } = start_with(&[], &arguments, &[]);
    app.stop();
    let seen = signed(SECRET);
    let send = |body: &str| post(host.address(), "team", &seen, body.as_bytes());
    until("the message on disk", || send(&text("m1")).status == 200);
    assert_refused(&send(&forged("m1")));
    app.restart();
    app.wait_for_events(1);
    assert_refused(&send(&forged("m1")));
    until("the copy's answer", || send(&text("m1")).status == 200);
    let events = app.events();
    assert_eq!(events.iter().map(|event| String::from_utf8_lossy(&event.body)).collect::<Vec<_>>(), [text("m1")]);
}

#[test]
fn messages_without_a_usable_id_are_known_by_their_bytes() {
    both_ways(known_by_their_bytes);
}

fn known_by_their_bytes(arguments: &[&str]) {
    let Setup { host, app, .. } = start_with(&[], arguments, &[]);
    app.answer(Act::ok(PONG));
    let mut delivered = 0;
    for id in [None, Some(json!(null)), Some(json!("")), Some(json!(" \t")), Some(json!(0)), Some(json!(["m1"]))] {
        for said in ["one", "another"] {
            let mut message = json!({"msgtype": "text", "text": {"content": said}, "unlike": id});
            if let (Some(id), Value::Object(members)) = (&id, &mut message) {
                members.insert("msgId".into(), id.clone());
            }
            delivered += 1;
            // It, and its replay.
            for _ in 0..2 {
                assert_answer(&callback(&host, &message.to_string()), PONG);
                assert_eq!(app.events().len(), delivered, "{message}");
            }
        }
    }
}

#[test]
fn long_replies_push_no_message_out_of_the_memory() {
    let Setup { host, app, .. } = start();
    let reply = json!({"msgtype": "text", "text": {"content": "x".repeat(19_000)}}).to_string();
    app.answer(Act::ok(&reply));
    // Of such replies, 220 are remembered.
    const MESSAGES: usize = 260;
    for number in 0..MESSAGES {
        assert_answer(&callback(&host, &text(&format!("m{number}"))), &reply);
    }
    for number in 0..MESSAGES {
        let copy = callback(&host, &text(&format!("m{number}")));
        assert!(copy.status == 200 && (copy.body == reply || copy.body == EMPTY), "{copy:?}");
    }
    assert_eq!(app.events().len(), MESSAGES, "what was delivered was forgotten with its reply");
}

#[test]
fn a_second_member_that_go_would_read_for_the_first_is_no_way_around_a_check() {
    let Setup { host, app, .. } = start_with(&[("robotCode", "r1")], &[], &[]);
    for (body, name) in [
        ("{\"robotCode\":\"r1\",\"msgId\":\"1\",\"m\u{17f}gId\":\"2\"}", "msgId"),
        (r#"{"robotCode":"r1","msgId":"1","M\u017FGID":"2"}"#, "msgId"),
        (r#"{"robotCode":"r1","msgtype":"text","m\u017fgtype":"file"}"#, "msgtype"),
        (r#"{"robotCode":"r1","msgtype":"text","text":{"content":"a","CONTENT":"b"}}"#, "text.content"),
    ] {
        let reply = callback(&host, body);
        assert_eq!(reply.status, 400, "{reply:?}");
        let message = format!("the body is no message: the member {name} occurs more than once");
        assert_eq!(reply.json()["message"], message, "{body}");
    }
    assert_answer(&callback(&host, r#"{"robotCode":"r1","m\u0131gId":"2"}"#), EMPTY);
    assert_eq!(app.events().len(), 1);
}

#[test]
fn while_a_secret_is_rotated_callbacks_of_both_are_taken() {
    let properties = [("appSecret", "n3w-s3cret"), ("previousAppSecret", "0ld-s3cret")];
    let Setup { host, app, robot } = start_with(&properties, &[], &[]);
    for (count, secret) in ["0ld-s3cret", "n3w-s3cret", "0ld-s3cret"].into_iter().enumerate() {
        assert_answer(&post(host.address(), "team", &signed(secret), text(&format!("m{count}")).as_bytes()), EMPTY);
        assert_eq!(app.events().len(), count + 1);
    }
    for secret in [SECRET, "0ld-s3cre", "n3w-s3cret0ld-s3cret", ""] {
        assert_refused(&post(host.address(), "team", &signed(secret), text("x").as_bytes()));
    }
    // It is no token.
    let token = [("content-type", "application/json"), ("token", "0ld-s3cret")];
    let token = token.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(post(host.address(), "team", &token, text("x").as_bytes()).status, 401);
    // Nor is it what messages are signed with: the robot has looked.
    assert_eq!(host.invoke("team", "create", r#"{"message":"Hi"}"#).status, 200);
    assert_eq!((robot.messages().len(), app.events().len()), (1, 3));
    host.wait_for_log("callbacks signed with previousAppSecret are taken");
    assert!(!host.log().contains("s3cret"), "{}", host.log());
}

type Properties<'a> = &'a [(&'a str, &'a str)];

/// The host that serves `team` with these properties, and what rewrites its file and waits until that is taken over.
fn reloading(properties: Properties<'_>, arguments: &[&str]) -> (Setup, impl Fn(&Setup, Properties<'_>)) {
    let (app, robot) = (App::start(), talkative());
    app.answer(Act::ok(PONG));
    let url = robot.url();
    let of =
        move |properties: Properties<'_>| component("team", &[&[("id", "team"), ("url", &url)], properties].concat());
    let resources = Resources::new().with("team.yaml", &of(properties));
    let port = app.port();
    let arguments = [&["--app-port", &port, "--callback-timeout", "60s"], arguments].concat();
    let host = Host::serve_with(&resources, &arguments, &[]);
    let rewrite = move |setup: &Setup, properties: Properties<'_>| {
        let replaced = || setup.host.log().matches("component replaced").count();
        let before = replaced();
        resources.write("team.yaml", &of(properties));
        until("the new file", || replaced() > before);
    };
    (Setup { host, app, robot }, rewrite)
}

/// As it is, and with an inbox, where what is refused must not even be stored.
fn both_ways(test: impl Fn(&[&str])) {
    let directory = tempfile::tempdir().unwrap();
    let inbox = directory.path().join("inbox");
    for arguments in [&[][..], &["--inbox", inbox.to_str().unwrap()]] {
        test(arguments);
    }
}

#[test]
fn a_rotation_forgets_nothing_that_was_seen_under_the_old_secret() {
    both_ways(|arguments| {
        let (setup, rewrite) = reloading(&[("appSecret", "0ld-s3cret")], arguments);
        let (old, new) = (signed("0ld-s3cret"), signed("n3w-s3cret"));
        let send = |seen: &[(String, String)], body: &str| post(setup.host.address(), "team", seen, body.as_bytes());
        assert_answer(&send(&old, &text("m1")), PONG);
        rewrite(&setup, &[("appSecret", "n3w-s3cret"), ("previousAppSecret", "0ld-s3cret")]);
        std::thread::sleep(MOMENT);
        assert_refused(&send(&old, &forged("m2")));
        assert_refused(&send(&old, &forged("m1")));
        // DingTalk's own repetition.
        assert_answer(&send(&old, &text("m1")), PONG);
        assert_eq!(setup.app.events().len(), 1);

        // What was seen of the new one stays as well when the old one goes, and when it comes back.
        assert_answer(&send(&new, &text("m3")), PONG);
        rewrite(&setup, &[("appSecret", "n3w-s3cret")]);
        std::thread::sleep(MOMENT);
        assert_refused(&send(&new, &forged("m4")));
        assert_refused(&send(&old, &text("m1")));
        rewrite(&setup, &[("appSecret", "0ld-s3cret"), ("previousAppSecret", "n3w-s3cret")]);
        for seen in [&old, &new] {
            assert_refused(&send(seen, &forged("m4")));
        }
        assert_eq!(setup.app.events().len(), 2);
    });
}

#[test]
fn a_wider_window_forgets_nothing_and_makes_nothing_good_again() {
    both_ways(|arguments| {
        let narrow = [("appSecret", SECRET), ("callbackMaxSkew", "1m")];
        let (setup, rewrite) = reloading(&narrow, arguments);
        let (seen, old) = (signed(SECRET), signed_at(SECRET, now() - 120_000));
        let send = |seen: &[(String, String)], body: &str| post(setup.host.address(), "team", seen, body.as_bytes());
        assert_answer(&send(&seen, &text("m1")), PONG);
        assert_refused(&send(&old, &text("m0")));
        std::thread::sleep(MOMENT);
        // Whatever was delivered two minutes ago under a window of one, nobody knows any more.
        for window in ["30m", "1m", "1h"] {
            rewrite(&setup, &[("appSecret", SECRET), ("callbackMaxSkew", window)]);
            assert_refused(&send(&seen, &forged("m2")));
            assert_refused(&send(&seen, &forged("m1")));
            assert_refused(&send(&old, &text("m0")));
            assert_answer(&send(&seen, &text("m1")), PONG);
        }
        setup.host.wait_for_log("it was too old when callbackMaxSkew became longer");
        assert_eq!(setup.app.events().len(), 1);
        // What was in time is taken.
        assert_answer(&send(&signed_at(SECRET, now() - 30_000), &text("m3")), PONG);
        assert_eq!(setup.app.events().len(), 2);
    });
}

/// One signature for as many messages as are asked for.
fn of_one_millisecond<const N: usize>(host: &Host) -> [(Connection, String, String); N] {
    let headers: String = signed(SECRET).iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    std::array::from_fn(|number| {
        let body = text(&format!("of one millisecond, {number}"));
        let start = format!("POST /v1.0/bindings/team/callback HTTP/1.1\r\nhost: {}\r\n", host.address());
        (Connection::open(host.address()), format!("{start}{headers}content-length: {}\r\n\r\n", body.len()), body)
    })
}

/// Longer than the moment for which a signature may come with other messages.
const MOMENT: Duration = Duration::from_millis(1_200);

#[test]
fn of_two_messages_of_one_millisecond_the_one_that_had_to_wait_is_genuine_too() {
    // All but one of the callbacks that may run at once.
    const BEFORE: usize = 63;
    let Setup { host, app, .. } = start();
    let gate = app.answer_behind(Act::ok(PONG));
    std::thread::scope(|scope| {
        let (host, gate) = (&host, &gate);
        for number in 0..BEFORE {
            scope.spawn(move || callback(host, &text(&format!("before {number}"))));
        }
        app.wait_for_events(BEFORE);
        let mut pair = of_one_millisecond::<2>(host);
        for (connection, head, body) in &mut pair {
            connection.write(format!("{head}{body}"));
        }
        // One of them runs, the other one waits until the host has room.
        app.wait_for_events(BEFORE + 1);
        std::thread::sleep(MOMENT);
        gate.open();
        for (connection, ..) in &mut pair {
            assert_answer(&connection.read(), PONG);
        }
    });
    assert_eq!(app.events().len(), BEFORE + 2);
}

#[test]
fn a_message_counts_from_its_head_and_not_from_the_end_of_its_body() {
    let Setup { host, app, .. } = start();
    app.answer(Act::ok(PONG));
    let [(mut slow, head, body), (mut quick, other_head, other_body), (mut late, late_head, late_body)] =
        of_one_millisecond(&host);
    slow.write(&head);
    quick.write(format!("{other_head}{other_body}"));
    assert_answer(&quick.read(), PONG);
    std::thread::sleep(MOMENT);
    slow.write(&body);
    assert_answer(&slow.read(), PONG);
    // One that came when the moment was over is refused as before.
    late.write(format!("{late_head}{late_body}"));
    assert_refused(&late.read());
    assert_eq!(app.events().len(), 2);
}
