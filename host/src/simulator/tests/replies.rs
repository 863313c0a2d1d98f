//! What the group sees of the answer to a callback, and of what is sent to its `sessionWebhook`.

use std::sync::atomic::Ordering;

use super::group::{Group, REPLY, attempt, ok};
use super::*;

#[tokio::test]
async fn only_messages_are_shown() {
    let group = Group::start().await;
    let long = format!("{REPLY}{}", " ".repeat(20_000));
    for (answer, problem) in [
        (r#"{"msgtype":"empty"}"#, None),
        (r#"{"msgtype":"markdown","markdown":{"title":"t"}}"#, Some("400403")),
        (r#"{"msgtype":"link","link":{"title":"t","text":"x","messageUrl":"m:"}}"#, Some("400105")),
        (r#"{"msgtype":"image"}"#, Some("400105")),
        ("", Some("40035")),
        ("thanks", Some("40035")),
        (&long, Some("460101")),
    ] {
        group.receiver.will([ok(answer)]);
        let said = group.say(Say::text("x")).await;
        assert_eq!((&said.attempts[..], &said.shown), (&[attempt(200)][..], &None), "{answer}");
        match problem {
            None => assert_eq!(said.problem, None),
            Some(code) => assert!(said.problem.as_ref().unwrap().contains(code), "{said:?}"),
        }
    }
    assert!(group.simulator.messages().is_empty());
    let stats = group.simulator.stats();
    assert_eq!((stats.replies, stats.replies_refused), (0, 6));
    for answer in [
        r##"{"msgtype":"markdown","markdown":{"title":"t","text":"# x"}}"##,
        r#"{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","singleTitle":"s","singleURL":"s:"}}"#,
        r#"{"msgtype":"feedCard","feedCard":{"links":[{"title":"t","messageURL":"m:","picURL":"p:"}]}}"#,
    ] {
        group.receiver.will([ok(answer)]);
        let said = group.say(Say::text("x")).await;
        assert!(said.shown.is_some() && said.problem.is_none(), "{said:?}");
    }
    assert_eq!(group.simulator.messages().len(), 3);
}

#[tokio::test]
async fn half_a_surrogate_pair_is_said_and_shown_as_one_replacement_character() {
    let group = Group::start().await;
    group.receiver.will([ok(r#"{"msgtype":"text","text":{"content":"\udc00"}}"#)]);
    let (status, said) = request("POST", &group.simulator, "/say", r#"{"text":"a\ud800"}"#).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["reply"]["text"]["content"], "\u{fffd}");
    assert_eq!(group.receiver.take_one().json()["text"]["content"], " a\u{fffd}");
    assert_eq!(group.shown(), ["[Zhang San] text\n    a\u{fffd}", "[simulated robot] text\n    \u{fffd}"]);
}

#[tokio::test]
async fn a_copy_is_sent_and_shown_once() {
    let group = Group::start().await;
    group.receiver.will([ok(REPLY), ok(REPLY)]);
    let first = group.say(Say::text("x")).await;
    let again = group.say(Say { msg_id: Some(first.msg_id.clone()), ..Say::text("x") }).await;
    assert_eq!((again.msg_id, again.reply, again.shown), (first.msg_id.clone(), first.reply, None));
    assert!(again.problem.unwrap().contains("shown before"));
    assert!(group.receiver.take().iter().all(|request| request.json()["msgId"] == json!(first.msg_id)));
    assert_eq!(group.shown().len(), 2);
}

#[tokio::test]
async fn a_session_takes_messages_until_it_expires() {
    let group = Group::start().await;
    group.say(Say::text("x")).await;
    let body = group.receiver.take_one().json();
    let webhook = body["sessionWebhook"].as_str().unwrap();
    let base = format!("http://{}/robot/sendBySession?session=", group.simulator.address());
    assert!(webhook.starts_with(&base), "{webhook}");
    group.shown();
    let posted = fetch("POST", webhook, REPLY).await;
    assert_eq!(posted, (200, json!({"errcode": 0, "errmsg": "ok"})));
    assert_eq!(group.shown(), ["[simulated robot] text\n    pong"]);
    assert_eq!(group.simulator.messages()[0].via, Via::Session);
    let (_, refused) = fetch("POST", webhook, r#"{"msgtype":"empty"}"#).await;
    assert_eq!(refused["errcode"], 400_105);
    let gone = json!({"errcode": 300_001, "errmsg": "session 不存在"});
    assert_eq!(fetch("POST", &format!("{base}0123"), REPLY).await, (200, gone.clone()));
    group.now.fetch_add(5_399_999, Ordering::Relaxed);
    assert_eq!(fetch("POST", webhook, REPLY).await.1["errcode"], 0);
    group.now.fetch_add(1, Ordering::Relaxed);
    assert_eq!(fetch("POST", webhook, REPLY).await, (200, gone));
    assert_eq!(group.simulator.stats().rejected, [(300_001, 2), (400_105, 1)].into());
    // Faults strike here too.
    group.simulator.set_fault(Fault::Status(503), Times::ONCE);
    assert_eq!(fetch("POST", webhook, REPLY).await.0, 503);
}
