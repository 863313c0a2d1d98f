//! The ledger of several hosts.

use super::*;
use crate::gate::LATE_MS;
use crate::gate::ledger::{Claimed, Intent, Ledger, Unclaimed};
use crate::gate::lesson::{Kind, Lesson};
use crate::gate::rate::Rate;
use crate::queue::tests::ledger::{closing, intent, until};

/// A host's ledger, and how to wait until all ends are noted.
async fn ledger(bench: &Bench) -> (Posts, Database) {
    let database = Database::open(&bench.address().unwrap(), bench.clock()).await.unwrap();
    (Posts::new(database.clone()), database)
}

async fn full((ledger, database): &(Posts, Database), rate: &str, messages: u16) -> Option<u64> {
    match ledger.claim(intent(rate, None, messages)).await {
        Ok(Claimed { posts, .. }) => {
            posts.into_iter().for_each(|post| ledger.end(post, &Lesson::Unsent));
            database.flush().await;
            None
        }
        Err(Unclaimed::Full(wait)) => Some(wait),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_post_counts_for_every_host_from_its_beginning_until_a_window_after_its_end() {
    let Some(bench) = Bench::database().await else { return };
    let (one, two) = (ledger(&bench).await, ledger(&bench).await);
    let first = one.0.claim(intent("2/1m", None, 1)).await.unwrap().posts.pop().unwrap();
    let second = two.0.claim(intent("2/1m", None, 1)).await.unwrap().posts.pop().unwrap();
    // Under way: now is the earliest at which they could end.
    assert_eq!(full(&one, "2/1m", 1).await, Some(60_000));
    bench.pass(5_000);
    one.0.end(first, &Lesson::Counted);
    two.0.end(second, &Lesson::Unknown);
    one.1.flush().await;
    two.1.flush().await;
    // Here, time passes between the end and its note, and there it does not.
    let ended = "SELECT string_agg((ended_at - (SELECT ms FROM present))::text, ' ' ORDER BY id) FROM posts";
    let ended: Vec<i64> = bench.sql(ended).split(' ').map(|ago| ago.parse().unwrap()).collect();
    assert!((-2_000..=0).contains(&ended[0]) && (13_000..=15_000).contains(&ended[1]), "{ended:?}");
    bench.sql("UPDATE posts SET ended_at = (SELECT ms FROM present) + CASE WHEN ended_at > (SELECT ms FROM present) THEN 15000 ELSE 0 END");
    bench.pass(1_000);
    assert_eq!(full(&one, "2/1m", 1).await, Some(59_000));
    assert_eq!((full(&one, "3/1m", 1).await, full(&one, "3/1m", 4).await), (None, Some(60_000)));
    bench.pass(58_999);
    assert_eq!(full(&one, "2/1m", 1).await, Some(1));
    bench.pass(1);
    assert_eq!(full(&one, "2/1m", 1).await, None);
    // Of the other one nobody knows when it arrived.
    assert_eq!(full(&two, "2/1m", 2).await, Some(LATE_MS));
}

#[tokio::test]
async fn each_rate_that_the_robot_has_is_kept() {
    let Some(bench) = Bench::database().await else { return };
    let one = ledger(&bench).await;
    let sent = one.0.claim(intent("0", None, 4)).await.unwrap().posts;
    sent.into_iter().for_each(|post| one.0.end(post, &Lesson::Counted));
    one.1.flush().await;
    bench.sql("UPDATE posts SET ended_at = (SELECT ms FROM present)");
    bench.pass(31_000);
    let both = |first: &str, second: &str, messages| {
        let rates = [first, second].iter().filter_map(|rate| Rate::parse(Some(rate)).unwrap()).collect();
        one.0.claim(Intent { rates, ..intent("0", None, messages) })
    };
    assert_eq!(both("2/30s", "4/1m", 1).await, Err(Unclaimed::Full(29_000)));
    assert_eq!(both("4/1m", "2/30s", 1).await, Err(Unclaimed::Full(29_000)));
    assert!(both("2/30s", "5/1m", 1).await.is_ok());
}

#[tokio::test]
async fn of_a_host_that_died_what_was_under_way_counts_until_it_must_be_over() {
    let Some(bench) = Bench::database().await else { return };
    let one = Database::open(&bench.address().unwrap(), bench.clock()).await.unwrap();
    let two = ledger(&bench).await;
    let posts = Posts::new(one.clone());
    posts.claim(intent("1/1m", None, 1)).await.unwrap();
    for _ in 0..20 {
        bench.pass(9_000);
        one.renew().await.unwrap();
        assert_eq!(full(&two, "1/1m", 1).await, Some(60_000), "a call may take minutes");
    }
    drop((posts, one));
    let rest = 10_000 + LATE_MS + 60_000;
    bench.pass(rest - 1);
    assert_eq!(full(&two, "1/1m", 1).await, Some(1));
    bench.pass(1);
    assert_eq!(full(&two, "1/1m", 1).await, None);
}

#[tokio::test]
async fn what_one_host_has_learnt_of_a_robot_all_know() {
    let Some(bench) = Bench::database().await else { return };
    let (one, two) = (bench.ledger().await, bench.ledger().await);
    let shut = async || match two.claim(intent("20/1m", None, 1)).await {
        Err(Unclaimed::Shut(closing, wait)) => Some((closing.errcode, closing.kind, wait)),
        Ok(Claimed { posts, .. }) => {
            posts.into_iter().for_each(|post| two.end(post, &Lesson::Unsent));
            None
        }
        Err(other) => panic!("{other:?}"),
    };
    let post = one.claim(intent("20/1m", None, 1)).await.unwrap().posts.pop().unwrap();
    one.end(post, &Lesson::Shut(closing(Kind::Configuration)));
    let post = one.claim(intent("20/1m", None, 1)).await.unwrap().posts.pop().unwrap();
    assert_eq!(shut().await, None, "a binding's settings are its own matter");
    one.end(post, &Lesson::Shut(closing(Kind::Rate)));
    until(true, async || shut().await.is_some()).await;
    let (errcode, kind, wait) = shut().await.unwrap();
    assert!(errcode == 1 && kind == Kind::Rate && (590_000..=600_000).contains(&wait), "{wait}");
    // Who has no limit is not kept by it.
    assert!(two.claim(intent("0", None, 1)).await.is_ok());
    bench.pass(600_000);
    assert_eq!(shut().await, None);
}

#[tokio::test]
async fn a_claim_that_nobody_waits_for_any_more_is_given_back() {
    let Some(bench) = Bench::database().await else { return };
    let ledger = bench.ledger().await;
    for _ in 0..20 {
        drop(ledger.claim(intent("1/1m", Some("1"), 1)));
    }
    until("0|0".to_owned(), async || bench.sql("SELECT (SELECT count(*) FROM posts), (SELECT sum(used) FROM quotas)"))
        .await;
}

#[tokio::test]
async fn what_has_no_meaning_any_more_is_removed() {
    let Some(bench) = Bench::database().await else { return };
    let (one, events) = (bench.ledger().await, bench.events(Side::Outbox).await);
    for _ in 0..3 {
        let posts = one.claim(intent("0", Some("100"), 10)).await.unwrap().posts;
        posts.into_iter().skip(1).for_each(|post| one.end(post, &Lesson::Counted));
    }
    until("3".to_owned(), async || bench.sql("SELECT count(*) FROM posts WHERE ended_at IS NULL")).await;
    drop(one);
    let tables = "SELECT (SELECT count(*) FROM posts), (SELECT count(*) FROM robots), (SELECT count(*) FROM quotas)";
    bench.pass(50_000);
    while events.tidy(bench.now()).await.unwrap().more {}
    assert_eq!(bench.sql(tables), "30|1|1");
    bench.pass(4 * 3_600_000);
    while events.tidy(bench.now()).await.unwrap().more {}
    assert_eq!(bench.sql(tables), "0|0|1");
    bench.pass(420 * 24 * 3_600_000);
    events.tidy(bench.now()).await.unwrap();
    assert_eq!(bench.sql(tables), "0|0|0");
}

/// Whoever claims when: in no stretch of one window are there more than the rate allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_one_too_many_over_several_hosts() {
    let Some(bench) = Bench::database().await else { return };
    bench.sql("CREATE OR REPLACE FUNCTION now_ms() RETURNS int8 LANGUAGE sql VOLATILE AS 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8'");
    let sent = Arc::new(Mutex::new(Vec::new()));
    let begun = std::time::Instant::now();
    let mut hosts = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let ledger = bench.ledger().await;
        for _ in 0..4 {
            let (ledger, sent) = (Arc::clone(&ledger), Arc::clone(&sent));
            hosts.spawn(async move {
                while begun.elapsed() < Duration::from_secs(7) {
                    match ledger.claim(intent("20/2s", None, 1)).await {
                        Ok(Claimed { posts, .. }) => {
                            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..30))).await;
                            // DingTalk has it at some time of the call.
                            sent.lock().unwrap().push(begun.elapsed());
                            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..30))).await;
                            posts.into_iter().for_each(|post| ledger.end(post, &Lesson::Counted));
                        }
                        Err(Unclaimed::Full(wait)) => {
                            tokio::time::sleep(Duration::from_millis(wait.clamp(1, 50))).await
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
    }
    while let Some(done) = hosts.join_next().await {
        done.unwrap();
    }
    let mut sent = sent.lock().unwrap().clone();
    sent.sort();
    assert!(sent.len() >= 40, "{}", sent.len());
    for group in sent.windows(21) {
        assert!(group[20] - group[0] >= Duration::from_secs(2), "{group:?}");
    }
}
