//! What the application answers is said in the conversation once, now or later, and a mistake in it is named.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

use dingtalk_host::simulator::Via;
use dingtalk_host::simulator::conversation::Say;
use serde_json::{Value, json};

use crate::support::app::{Act, App, Gate};
use crate::support::held::Held;
use crate::support::receiving::{
    EMPTY, GET, PONG, Setup, assert_answer, assert_later, callback, start, start_with, talkative, text, until,
};
use crate::support::{Host, Resources, Robot, SECRET, component};

#[test]
fn a_slow_answer_is_kept_for_the_copy_that_comes_next() {
    let Setup { host, app, robot } = start_with(&[], &["--callback-timeout", "100ms"], &[]);
    let gate = app.answer_behind(Act::ok(PONG));
    assert_later(&callback(&host, &text("m")));
    assert_later(&callback(&host, &text("m")));
    let said = std::thread::scope(|scope| {
        let said = scope.spawn(|| robot.say(Say::text("take your time")));
        until("another attempt", || robot.stats().callback_attempts > 2);
        gate.open();
        said.join().unwrap()
    });
    assert_eq!(said.attempts[0].status, Some(503));
    assert!(said.shown.is_some_and(|shown| shown.contains("pong 1.0e2 你")));
    // Under load even an answer that is there may take longer than that.
    until("the answer that was kept", || {
        let reply = callback(&host, &text("m"));
        if reply.status == 200 {
            assert_answer(&reply, PONG);
        }
        reply.status == 200
    });
    assert_eq!(app.events().len(), 2, "one delivery for each message");
    assert_eq!(robot.messages().len(), 1);
}

#[test]
fn copies_at_once_are_one_delivery() {
    const COPIES: usize = 20;
    let Setup { host, app, .. } = start();
    let gate = Gate::default();
    let closed = gate.clone();
    app.answer_with(move |event| {
        if event.header("msgid") == ["copied"] {
            closed.pass();
        }
        Act::ok(PONG)
    });
    let replies = std::thread::scope(|scope| {
        let copies: Vec<_> = (0..COPIES).map(|_| scope.spawn(|| callback(&host, &text("copied")))).collect();
        app.wait_for_events(1);
        // Others are not concerned.
        assert_answer(&callback(&host, &text("another")), PONG);
        gate.open();
        copies.into_iter().map(|copy| copy.join().unwrap()).collect::<Vec<_>>()
    });
    for reply in &replies {
        assert_answer(reply, PONG);
    }
    assert_answer(&callback(&host, &text("copied")), PONG);
    assert_eq!(app.events().len(), 2);

    // Of copies at once whose delivery fails, none is acknowledged, and the next is delivered.
    app.answer(Act::Answer(500, String::new()));
    let failed = std::thread::scope(|scope| {
        let copies: Vec<_> = (0..COPIES).map(|_| scope.spawn(|| callback(&host, &text("failing")))).collect();
        copies.into_iter().map(|copy| copy.join().unwrap()).collect::<Vec<_>>()
    });
    failed.iter().for_each(assert_later);
    let before = app.events().len();
    app.answer(Act::ok(PONG));
    for _ in 0..2 {
        assert_answer(&callback(&host, &text("failing")), PONG);
    }
    assert_eq!(app.events().len(), before + 1);
    // Without an identifier, a copy is known by its bytes.
    for _ in 0..2 {
        assert_answer(&callback(&host, "{}"), PONG);
    }
    assert_eq!(app.events().len(), before + 2);
}

#[test]
fn an_answer_that_is_no_reply_says_nothing_and_a_mistake_in_one_is_named() {
    let Setup { host, app, robot } = start();
    for answer in ["", "ok", "<html><body>hello</body></html>", "{}", "[{\"msgtype\":\"text\"}]", "\"pong\"", EMPTY] {
        app.answer(Act::ok(answer));
        assert_answer(&callback(&host, &text(answer)), EMPTY);
    }
    app.answer(Act::Answer(204, String::new()));
    assert_answer(&callback(&host, &text("204")), EMPTY);
    app.answer(Act::Answer(201, PONG.into()));
    assert_answer(&callback(&host, &text("201")), PONG);
    assert!(!host.log().contains("wrong answer"), "{}", host.log());
    let long = json!({"msgtype": "text", "text": {"content": "x".repeat(20_000)}}).to_string();
    for (answer, field) in [
        (r#"{"msgtype":"link","link":{"title":"t"}}"#, "link"),
        (r#"{"msgtype":"text","text":{}}"#, "text.content is missing"),
        (r#"{"msgtype":"markdown","markdown":{"text":"x"}}"#, "markdown.title is missing"),
        (r#"{"to":"other"}"#, "\\\"to\\\""),
        (&long, "more than 20000"),
    ] {
        app.answer(Act::ok(answer));
        let said = robot.say(Say::text("hello"));
        assert_eq!((said.reply, said.shown, said.problem), (Some(json!({"msgtype": "empty"})), None, None));
        until("the mistake in the log", || {
            host.log()
                .lines()
                .any(|line| line.contains("wrong answer") && line.contains(field) && line.contains(&said.msg_id))
        });
    }
    assert_eq!(robot.messages().len(), 0);
}

#[test]
fn an_answer_can_be_data_for_other_bindings() {
    let (app, held) = (App::start(), Held::start());
    let [team, other, third] = [talkative(), Robot::start(), Robot::start()];
    let mut resources = Resources::of("team", &team);
    for (name, url) in [("other", other.url()), ("third", third.url()), ("held", held.url())] {
        let properties = [("id", name), ("url", &*url), ("secret", SECRET)];
        resources = resources.with(&format!("{name}.yaml"), &component(name, &properties));
    }
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    let count = AtomicU64::new(0);
    let answer = |to: &[&str], data: &str, concurrency: &str| {
        app.answer(Act::ok(&format!(r#"{{"to":{},"data":{data}{concurrency}}}"#, json!(to))));
        let id = format!("m{}", count.fetch_add(1, Ordering::SeqCst));
        assert_answer(&callback(&host, &text(&id)), EMPTY);
    };
    let shows = |robot: &Robot, text: &str| robot.messages().iter().any(|message| message.shown.contains(text));
    answer(&["other"], r#"{"message":"x1"}"#, "");
    until("the message", || shows(&other, "x1"));
    // As written, if it is DingTalk's own form.
    answer(&["other"], r#"{"msgtype":"text","text":{"content":"x\u0032"}, "n":1.0e2}"#, "");
    until("the message", || shows(&other, "x2"));
    assert_eq!(other.messages()[1].message.get(), r#"{"msgtype":"text","text":{"content":"x\u0032"}, "n":1.0e2}"#);

    // One after the other, up to the first failure.
    answer(&["held", "other"], r#"{"message":"x3"}"#, r#","concurrency":"sequential""#);
    let waiting = held.receive();
    assert!(!shows(&other, "x3"));
    waiting.accept();
    until("the message", || shows(&other, "x3"));
    answer(&["missing", "other"], r#"{"message":"x4"}"#, "");
    host.wait_for_log("couldn't find output binding missing");

    // All at once, whatever becomes of the others.
    answer(&["missing", "held", "other", "third"], r#"{"message":"x5"}"#, r#","concurrency":"parallel""#);
    let waiting = held.receive();
    until("the messages", || shows(&other, "x5") && shows(&third, "x5"));
    drop(waiting);
    assert!(!shows(&other, "x4"), "sent on after a failure");
    assert_eq!((team.messages().len(), other.messages().len(), third.messages().len()), (0, 4, 1));

    // A caller of "get" gets the answer, and the rest is done too.
    app.answer(Act::ok(r#"{"to":["third"],"data":"x6"}"#));
    assert_answer(&host.post("team", GET), r#"{"to":["third"],"data":"x6"}"#);
    until("the message", || shows(&third, "x6"));
}

#[test]
fn reply_posts_into_the_conversation_and_nowhere_else() {
    let robot = talkative();
    let app = App::start();
    let (url, hosts) = (robot.url(), format!("http://{}", robot.address()));
    let properties = [("id", "team"), ("url", &*url), ("secret", SECRET), ("sessionWebhookHosts", &*hosts)];
    let resources = Resources::binding("team", &properties);
    let host = Host::serve_with(&resources, &["--app-port", &app.port(), "--callback-timeout", "60s"], &[]);
    robot.set_callback_url(&host.callback_url("team"));
    robot.say(Say::text("hello"));
    let message: Value = serde_json::from_slice(&app.wait_for_events(1).body).unwrap();
    let webhook = message["sessionWebhook"].as_str().unwrap();
    let session = webhook.split_once("session=").unwrap().1;
    let expires = message["sessionWebhookExpiredTime"].to_string();
    let reply = |webhook: Value, expires: &str| {
        let metadata = json!({"sessionWebhook": webhook, "sessionWebhookExpiredTime": expires});
        host.post(
            "team",
            &json!({"operation": "reply", "data": {"message": "later"}, "metadata": metadata}).to_string(),
        )
    };
    let good = reply(json!(webhook), &expires);
    assert_eq!((good.status, good.body.as_str(), good.metadata("errcode")), (200, "", Some("0")), "{good:?}");
    let messages = robot.messages();
    assert_eq!((messages.len(), messages[0].via), (1, Via::Session));
    assert!(messages[0].shown.contains("later"));

    let witness = TcpListener::bind("127.0.0.1:0").unwrap();
    witness.set_nonblocking(true).unwrap();
    let elsewhere = witness.local_addr().unwrap();
    let mut answers = Vec::new();
    for wrong in [
        format!("http://{elsewhere}/robot/sendBySession?session={session}"),
        format!("https://{elsewhere}/robot/sendBySession?session={session}"),
        format!("http://{}@{elsewhere}/?session={session}", robot.address()),
        format!("http://localhost:{}/robot/sendBySession?session={session}", robot.address().port()),
        webhook.replace("http:", "https:"),
        format!("http://oapi.dingtalk.com/?session={session}"),
        format!("session={session}"),
        String::new(),
    ] {
        let refused = reply(json!(wrong), &expires);
        assert_eq!((refused.status, refused.metadata("error")), (500, Some("invalid-session-webhook")), "{refused:?}");
        assert!(refused.body.contains("Nothing was sent"), "{refused:?}");
        answers.push(refused);
    }
    for (time, error) in [("1684493546276", "expired-session-webhook"), (session, "invalid-session-webhook")] {
        let refused = reply(json!(webhook), time);
        assert_eq!((refused.status, refused.metadata("error")), (500, Some(error)), "{refused:?}");
        answers.push(refused);
    }
    // One that DingTalk does not know, in a text that repeats it.
    let unknown = format!("{webhook}0");
    let refused = reply(json!(unknown), &expires);
    assert_eq!((refused.status, refused.metadata("error")), (500, Some("expired-session-webhook")), "{refused:?}");
    assert_eq!(refused.metadata("outcome"), Some("not-sent"), "{refused:?}");
    answers.push(refused);
    robot.fail("echo".parse().unwrap(), dingtalk_host::simulator::fault::Times::ONCE);
    answers.push(reply(json!(webhook), &expires));
    for answer in &answers {
        assert!(!format!("{answer:?}").contains(session), "{answer:?}");
    }
    assert_eq!(witness.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody connected");
    assert_eq!(robot.messages().len(), 1);
    // Sessions do not widen where "create" goes, nor the robot's address where sessions may be.
    let log = host.end();
    assert!(!log.contains(session), "{log}");
}
