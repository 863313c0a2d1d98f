//! Posts and months: what counts is what was sent, or may have been.

use std::time::Duration;

use super::*;
use crate::gate::ledger::{Claimed, Intent, Unclaimed};
use crate::gate::lesson::{Closing, Kind, Lesson};
use crate::gate::quota::Quota;
use crate::gate::rate::Rate;

over_both! {
    a_months_messages_are_counted_and_what_was_not_sent_is_given_back,
    a_new_month_has_a_new_allowance,
    what_dingtalk_may_know_by_its_identifier_stays_alone,
}

pub(in crate::queue) fn intent(rate: &str, quota: Option<&str>, messages: u16) -> Intent {
    Intent {
        queued: None,
        robot: [7; 32],
        rates: Rate::parse(Some(rate)).unwrap().into_iter().collect(),
        messages,
        counts_for: 60_000,
        quota: Quota::parse(quota, None, quota.map(|_| "acme"), String::new).unwrap(),
        is_urgent: false,
    }
}

pub(in crate::queue) fn closing(kind: Kind) -> Closing {
    Closing { errcode: 1, pause: Duration::from_secs(600), kind, check: None }
}

/// An end is noted in its own time.
pub(in crate::queue) async fn until<T: PartialEq + std::fmt::Debug>(wanted: T, mut look: impl AsyncFnMut() -> T) {
    let mut seen = look().await;
    for _ in 0..1_000 {
        if seen == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        seen = look().await;
    }
    panic!("{seen:?}, never {wanted:?}");
}

async fn a_months_messages_are_counted_and_what_was_not_sent_is_given_back(bench: Bench) {
    let ledger = bench.ledger().await;
    let claim = async |messages| ledger.claim(intent("0", Some("5"), messages)).await;
    let Claimed { posts, used } = claim(3).await.unwrap();
    assert_eq!((posts.len(), used), (3, Some(3)));
    assert!(matches!(claim(3).await, Err(Unclaimed::Spent(3, _))));
    let lessons = [Lesson::Unsent, Lesson::Shut(closing(Kind::Quota)), Lesson::Counted];
    for (post, lesson) in posts.into_iter().zip(&lessons) {
        ledger.end(post, lesson);
    }
    // Of the three, one has reached somebody.
    let used = async || match claim(5).await {
        Err(Unclaimed::Spent(used, _)) => used,
        other => panic!("{other:?}"),
    };
    until(1, used).await;
    assert_eq!(claim(4).await.unwrap().used, Some(5));
    let rest = match claim(1).await {
        Err(Unclaimed::Spent(5, rest)) => rest,
        other => panic!("{other:?}"),
    };
    assert_eq!(rest, crate::gate::quota::rest_of_month(bench.now()));
}

async fn a_new_month_has_a_new_allowance(bench: Bench) {
    let ledger = bench.ledger().await;
    assert_eq!(ledger.claim(intent("0", Some("2"), 2)).await.unwrap().used, Some(2));
    bench.pass(crate::gate::quota::rest_of_month(bench.now()) - 1);
    assert!(matches!(ledger.claim(intent("0", Some("2"), 1)).await, Err(Unclaimed::Spent(2, 1))));
    bench.pass(1);
    let Claimed { posts, used } = ledger.claim(intent("0", Some("2"), 1)).await.unwrap();
    assert_eq!(used, Some(1));
    assert_eq!(posts[0].counted.as_ref().unwrap().1, crate::gate::quota::month(bench.now()));
}

async fn what_dingtalk_may_know_by_its_identifier_stays_alone(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let first = add(&bench, &*storage, "1", "c").await;
    add(&bench, &*storage, "2", "c").await;
    assert_eq!(storage.front(first, 1, bench.now()).await.unwrap().len(), 2);
    storage.close().await;
    drop(storage);
    let ledger = bench.ledger().await;
    ledger.claim(Intent { queued: Some(first), ..intent("0", None, 1) }).await.unwrap();
    drop(ledger);
    // Whatever becomes of the host then.
    let storage = bench.open(Side::Outbox).await;
    assert_eq!(storage.front(first, 1, bench.now()).await, Ok(Vec::new()));
}
