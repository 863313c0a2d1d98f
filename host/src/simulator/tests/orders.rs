//! `POST /say` and `PUT /callback-url`: what can be ordered, and what is said of the rest.

use super::group::{Act, Group, REPLY, ok};
use super::*;

#[tokio::test]
async fn what_cannot_be_said_says_what_to_do() {
    let group = Group::with(|config| config.callback.url = None).await;
    let hello = json!({"text": "hello"});
    let (status, answer) = group.control("POST", "/say", hello.clone()).await;
    assert!(status == 409 && answer["error"].as_str().unwrap().contains("--callback-url"), "{status} {answer}");
    let (status, answer) = group.control("PUT", "/callback-url", json!({"url": "ftp://x"})).await;
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("http://"), "{status} {answer}");
    assert_eq!(group.control("PUT", "/callback-url", json!({"uri": "x"})).await.0, 400);
    assert_eq!(group.control("PUT", "/callback-url", json!({"url": group.receiver.url})).await.0, 204);
    assert_eq!(group.control("POST", "/say", hello.clone()).await.0, 200);
    for (order, reason) in [
        (json!({"text": 1}), "invalid type"),
        (json!({"txet": "x"}), "unknown field"),
        (json!({"text": "x", "wait": "no"}), "invalid type"),
        (json!({"audio": {}, "conversationType": "2"}), "only in 1:1"),
        (json!([]), "invalid type"),
    ] {
        let (status, answer) = group.control("POST", "/say", order.clone()).await;
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(reason), "{order}: {status} {answer}");
    }
    assert_eq!(group.control("GET", "/say", hello.clone()).await.0, 405);
    assert_eq!(group.control("POST", "/callback-url", hello.clone()).await.0, 405);
    assert_eq!(group.control("PUT", "/callback-url", json!({"url": null})).await.0, 204);
    assert_eq!(group.control("POST", "/say", hello).await.0, 409);
    assert_eq!(group.receiver.take().len(), 1);

    let unsigned = Group::with(|config| config.robot.app_secret = None).await;
    assert_eq!(unsigned.simulator.say(Say::text("x")).await, Err(Unsaid::NoCredentials));
    let too_long = Say { sender_nick: "x".repeat(257), ..Say::text("x") };
    assert!(matches!(group.simulator.say(too_long).await, Err(Unsaid::Order(_))));
}

#[tokio::test]
async fn nobody_has_to_wait() {
    let group = Group::start().await;
    group.receiver.will([Act::Hang, ok(REPLY)]);
    let (status, answer) = group.control("POST", "/say", json!({"text": "x", "wait": false})).await;
    assert_eq!(status, 202);
    until(|| group.receiver.requests.lock().unwrap().len() == 1).await;
    assert_eq!(group.receiver.take_one().json()["msgId"], answer["msgId"]);
    // The second is answered while the first still hangs.
    assert_eq!(group.control("POST", "/say", json!({"text": "x", "wait": false})).await.0, 202);
    until(|| group.simulator.stats().replies == 1).await;
}
