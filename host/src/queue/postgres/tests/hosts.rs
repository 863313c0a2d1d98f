//! Several hosts over one database.

use std::collections::HashMap;

use super::*;
use crate::event::Event;
use crate::queue::siblings::{Siblings, group};
use crate::queue::storage::Wake;
use crate::queue::tests::event;

#[tokio::test]
async fn a_conversation_is_delivered_by_one_host_at_a_time() {
    let Some(bench) = Bench::database().await else { return };
    let (one, two) = (bench.events(Side::Inbox).await, bench.events(Side::Inbox).await);
    let first = add(&bench, &one, "1", "c").await;
    add(&bench, &two, "2", "c").await;
    add(&bench, &two, "3", "d").await;
    // Whoever accepted the first message of a conversation comes first, for a while.
    assert_eq!((heads(&bench, &two).await, heads(&bench, &one).await), (vec!["3".into()], vec!["1".into()]));
    bench.pass(9_999);
    assert!(heads(&bench, &two).await == ["3"], "its own, of which it has just said that nothing is under way");
    delivered(&bench, &one, first).await;
    assert!(heads(&bench, &two).await == ["3"], "who has delivered comes first");
    bench.pass(u64::try_from(NEAR_MS).unwrap());
    assert_eq!(heads(&bench, &two).await, ["2", "3"]);
    assert!(heads(&bench, &one).await.is_empty());
}

#[tokio::test]
async fn what_a_host_delivers_stays_its_own_while_it_says_so_and_goes_to_others_when_it_dies() {
    let Some(bench) = Bench::database().await else { return };
    let (one, two) = (bench.events(Side::Inbox).await, bench.events(Side::Inbox).await);
    let seq = add(&bench, &one, "1", "c").await;
    assert_eq!(heads(&bench, &one).await, ["1"]);
    for _ in 0..5 {
        bench.pass(9_000);
        one.database().renew().await.unwrap();
        assert!(heads(&bench, &two).await.is_empty());
    }
    drop(one);
    bench.pass(9_999);
    assert!(heads(&bench, &two).await.is_empty());
    bench.pass(1);
    let head = due(&bench, &two, room()).await.heads.pop().unwrap();
    assert_eq!((head.seq, head.attempts), (seq, 0));
}

#[tokio::test]
async fn a_host_that_was_cut_off_does_not_disturb_the_one_that_took_over() {
    let Some(bench) = Bench::database().await else { return };
    let (one, two, three) =
        (bench.events(Side::Inbox).await, bench.events(Side::Inbox).await, bench.events(Side::Inbox).await);
    let (first, second) = (add(&bench, &one, "1", "c").await, add(&bench, &one, "2", "c").await);
    heads(&bench, &one).await;
    bench.pass(10_000);
    assert_eq!(heads(&bench, &two).await, ["1"]);
    // It was delivered, whoever says so; but the lane is the other one's until that has ended, too.
    delivered(&bench, &one, first).await;
    assert!(heads(&bench, &three).await.is_empty() && heads(&bench, &one).await.is_empty());
    failed(&bench, &two, first, 30_000, false).await;
    let head = due(&bench, &two, room()).await.heads.pop().unwrap();
    assert_eq!((head.seq, head.attempts), (second, 0), "the failure was that of one that is delivered");
    // And the other way round: what failed there is under way here.
    bench.pass(10_000);
    assert_eq!(heads(&bench, &three).await, ["2"]);
    failed(&bench, &two, second, 30_000, false).await;
    bench.pass(9_000);
    assert!(heads(&bench, &one).await.is_empty());
    delivered(&bench, &three, second).await;
    assert_eq!(three.counts().await.unwrap().pending, 0);
}

#[tokio::test]
async fn a_host_that_ends_gives_back_what_it_has() {
    let Some(bench) = Bench::database().await else { return };
    let (one, two) = (bench.events(Side::Inbox).await, bench.events(Side::Inbox).await);
    add(&bench, &one, "1", "c").await;
    assert_eq!(heads(&bench, &one).await, ["1"]);
    one.close().await;
    assert_eq!(heads(&bench, &two).await, ["1"]);
}

#[tokio::test]
async fn hosts_whose_clocks_differ_agree_on_every_time() {
    let Some(bench) = Bench::database().await else { return };
    let address = bench.address().unwrap();
    let mut hosts = Vec::new();
    for hours in [0_u64, 5] {
        let clock = bench.clock();
        let clock: Clock = Arc::new(move || clock() - hours * 3_600_000);
        let database = Database::open(&address, Arc::clone(&clock)).await.unwrap();
        hosts.push((Events::new(database, Side::Outbox, Limits::default()), clock));
    }
    let [(right, right_clock), (wrong, wrong_clock)] = &hosts[..] else { panic!("two") };
    let expires_at = Some(wrong_clock() + 60_000);
    let then = Box::new(drop::<Vec<Stored>>);
    wrong.insert(vec![Item { expires_at, ..item("1", "c") }], wrong_clock(), then).await.unwrap();
    assert_eq!((wrong.oldest().await, right.oldest().await), (Ok(Some(wrong_clock())), Ok(Some(right_clock()))));
    let head = wrong.due(room(), wrong_clock()).await.unwrap().heads.pop().unwrap();
    assert_eq!(head.expires_at, expires_at);
    let due = wrong_clock() + 1_000;
    wrong.end(head.seq, End::Failed { error: "no".into(), due, suffers: false }, wrong_clock()).await.unwrap();
    assert_eq!(wrong.due(room(), wrong_clock()).await.unwrap().next, Some(due));
    assert_eq!(right.due(room(), right_clock()).await.unwrap().next, Some(right_clock() + 1_000));
    bench.pass(u64::try_from(NEAR_MS).unwrap());
    let head = right.due(room(), right_clock()).await.unwrap().heads.pop().unwrap();
    assert_eq!(head.expires_at, Some(right_clock() + 58_000));
    bench.pass(57_999);
    assert_eq!(right.tidy(right_clock()).await.unwrap().expired, 0);
    bench.pass(1);
    assert_eq!(wrong.tidy(wrong_clock()).await.unwrap().expired, 1);
}

#[tokio::test]
async fn hosts_that_start_together_make_the_tables_once() {
    let Some(bench) = Bench::database().await else { return };
    bench.sql("DROP TABLE events, lanes, hosts, robots, posts, quotas, dingtalk_version; DROP FUNCTION now_ms");
    let address = bench.address().unwrap();
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let address = address.clone();
        starts.spawn(async move { Database::open(&address, clock::system()).await.map(drop) });
    }
    while let Some(started) = starts.join_next().await {
        started.unwrap().unwrap();
    }
    assert_eq!(bench.sql("SELECT count(*), max(version) FROM dingtalk_version"), "1|2");
}

#[tokio::test]
async fn a_newer_schema_and_a_server_that_may_lose_what_it_was_told_are_refused() {
    let Some(bench) = Bench::database().await else { return };
    let address = bench.address().unwrap();
    let open = async |address: &Address| Database::open(address, clock::system()).await.unwrap_err().to_string();
    bench.sql("UPDATE dingtalk_version SET version = 3");
    let error = open(&address).await;
    assert!(error.contains("has schema 3, and this host knows 2; use the host that wrote it"), "{error}");
    let operator = crate::queue::Operator::open_in(Side::Inbox, &address, clock::system()).unwrap_err();
    assert!(operator.to_string().contains("has schema 3"), "{operator}");
    bench.sql("UPDATE dingtalk_version SET version = 2");
    let url =
        |options: &str| Address::new(&bench.url().replace("options=", &format!("options=-c%20{options}%20"))).unwrap();
    let error = open(&url("synchronous_commit%3Doff")).await;
    assert!(error.contains("synchronous_commit = off"), "{error}");
    let nowhere = Address::new(&bench.url().replace("search_path%3D", "search_path%3Dno_such_")).unwrap();
    let error = open(&nowhere).await;
    assert!(error.contains("has no schema of the URL's search_path; create it"), "{error}");
    bench.sql("DROP TABLE dingtalk_version");
    let operator = crate::queue::Operator::open_in(Side::Inbox, &address, clock::system()).unwrap_err();
    assert!(operator.to_string().contains("has no tables of this host"), "{operator}");
}

#[tokio::test]
async fn a_user_needs_the_schema_and_no_more() {
    let Some(bench) = Bench::database().await else { return };
    let server = bench.server();
    for sql in [
        "CREATE ROLE least LOGIN",
        "CREATE DATABASE least",
        "REVOKE ALL ON DATABASE least FROM public",
        "GRANT CONNECT ON DATABASE least TO least",
    ] {
        server.sql(sql);
    }
    let url = |user: &str| {
        let url = server.url("x");
        let (before, _) = url.split_once("?").unwrap();
        Address::new(&before.replace("postgres@", &format!("{user}@")).replace("/postgres", "/least")).unwrap()
    };
    let error = Database::open(&url("least"), clock::system()).await.unwrap_err().to_string();
    assert!(error.contains("does not allow this user what is needed") && error.contains("grant it"), "{error}");
    server.sql_in("least", "CREATE SCHEMA dingtalk AUTHORIZATION least");
    let database = Database::open(&url("least"), clock::system()).await.unwrap();
    let events = Events::new(database, Side::Inbox, Limits::default());
    let bench_now = |stored: Vec<Stored>| assert!(matches!(stored[0], Stored::New(_)));
    events.insert(vec![item("1", "c")], 0, Box::new(bench_now)).await.unwrap();
    assert_eq!(events.due(room(), 0).await.unwrap().heads.len(), 1);
    let error = Database::open(&url("nobody"), clock::system()).await.unwrap_err().to_string();
    assert!(error.contains("does not let this user in (28000)") && !error.contains("nobody"), "{error}");
}

/// So that they meet.
const NOBODY_COMES_FIRST: &str = "CREATE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.due <= now_ms() AND NEW.leased_until < now_ms() + 9000 THEN NEW.owner = NULL; NEW.leased_until = 0; END IF; RETURN NEW; END'; CREATE TRIGGER meet BEFORE INSERT OR UPDATE ON lanes FOR EACH ROW EXECUTE FUNCTION meet()";

/// However often two hosts look and end at the same time, what one has ended no other one begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_never_begun_again_by_a_host_that_looks_at_that_moment() {
    let Some(bench) = Bench::database().await else { return };
    bench.sql(NOBODY_COMES_FIRST);
    let bench = Arc::new(bench);
    let first = bench.events(Side::Inbox).await;
    let count = 150;
    let items = (0..count).map(|number| item(&format!("{number:03}"), &(number % 3).to_string())).collect();
    insert(&bench, &first, items).await.unwrap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let mut hosts = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (bench, taken) = (Arc::clone(&bench), Arc::clone(&taken));
        hosts.spawn(async move {
            let host = bench.events(Side::Inbox).await;
            while host.counts().await.unwrap().pending > 0 {
                for head in due(&bench, &host, room()).await.heads {
                    taken.lock().unwrap().push(data(&head.event));
                    delivered(&bench, &host, head.seq).await;
                }
            }
        });
    }
    while let Some(done) = hosts.join_next().await {
        done.unwrap();
    }
    let taken = taken.lock().unwrap().clone();
    assert_eq!(taken.len(), count, "each once");
    for conversation in 0..3 {
        let of = |data: &&String| data.parse::<usize>().unwrap() % 3 == conversation;
        assert!(taken.iter().filter(of).is_sorted());
    }
}

#[tokio::test]
async fn who_wakes_waits_for_nobody_who_has_a_lane_locked() {
    let Some(bench) = Bench::database().await else { return };
    let one = bench.events(Side::Inbox).await;
    let (first, second) = (add(&bench, &one, "1", "c").await, add(&bench, &one, "2", "d").await);
    heads(&bench, &one).await;
    for seq in [first, second] {
        failed(&bench, &one, seq, 30_000, false).await;
    }
    let session = Session::take(&one.database().0.pool).await.unwrap();
    session.batch_execute("BEGIN; SELECT FROM lanes WHERE conversation = 'c' FOR UPDATE").await.unwrap();
    assert!(!one.wake(Wake::All, bench.now()).await.unwrap());
    assert_eq!(heads(&bench, &one).await, ["2"]);
    drop(session);
}

/// However often two hosts make one message of several at the same time, each goes out once, and in its conversation's order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_have_messages_become_one_at_the_same_time_lose_and_double_none() {
    let Some(bench) = Bench::database().await else { return };
    bench.sql(NOBODY_COMES_FIRST);
    let bench = Arc::new(bench);
    let first = bench.events(Side::Outbox).await;
    let (count, conversations) = (240, 24);
    let items = (0..count).map(|number| item(&format!("{number:03}"), &(number % conversations).to_string())).collect();
    insert(&bench, &first, items).await.unwrap();
    let taken = Arc::new(Mutex::new(Vec::new()));
    let united = Arc::new(Mutex::new([0_usize; 2]));
    let mut hosts = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (bench, taken, united) = (Arc::clone(&bench), Arc::clone(&taken), Arc::clone(&united));
        hosts.spawn(async move {
            let host = bench.events(Side::Outbox).await;
            // As a dispatcher asks: while what it has begun is under way.
            let (mut posts, mut running) = (tokio::task::JoinSet::new(), HashMap::new());
            while host.counts().await.unwrap().pending > 0 || !posts.is_empty() {
                let busy: Vec<_> = running.values().cloned().collect();
                let some = Room { in_all: 4_usize.saturating_sub(busy.len()), running: busy, ..room() };
                for head in due(&bench, &host, some).await.heads {
                    let (bench, host, lane) = (Arc::clone(&bench), host.clone(), head.lane.clone());
                    let (taken, united) = (Arc::clone(&taken), Arc::clone(&united));
                    let post = posts.spawn(async move {
                        let mut text = data(&head.event);
                        let front = host.front(head.seq, 1, bench.now()).await.unwrap();
                        let (seqs, bodies): (Vec<i64>, Vec<_>) = front.into_iter().take(5).unzip();
                        if seqs.len() > 1 {
                            let all = String::from_utf8(bodies.join(&b' ')).unwrap();
                            let is_united = host.unite(seqs, all.clone().into(), bench.now()).await.unwrap();
                            united.lock().unwrap()[usize::from(is_united)] += 1;
                            text = if is_united { all } else { text };
                        }
                        taken.lock().unwrap().push(text);
                        delivered(&bench, &host, head.seq).await;
                    });
                    running.insert(post.id(), lane);
                }
                if let Some(done) = posts.join_next_with_id().await {
                    running.remove(&done.unwrap().0);
                }
            }
        });
    }
    while let Some(done) = hosts.join_next().await {
        done.unwrap();
    }
    let taken: Vec<usize> = taken.lock().unwrap().join(" ").split(' ').map(|number| number.parse().unwrap()).collect();
    assert_eq!(taken.len(), count, "each once");
    for conversation in 0..conversations {
        let of = |number: &&usize| *number % conversations == conversation;
        let numbers: Vec<&usize> = taken.iter().filter(of).collect();
        assert!(numbers.is_sorted() && numbers.len() == count / conversations, "{numbers:?}");
    }
    let [refused, united] = *united.lock().unwrap();
    assert!(united > 10, "{united} and {refused}");
}

/// What another host has on lease is not taken, whenever it was: before the look, or between that and the change.
#[tokio::test]
async fn what_another_host_delivers_becomes_part_of_no_message() {
    let Some(bench) = Bench::database().await else { return };
    bench.sql(NOBODY_COMES_FIRST);
    let (one, two) = (bench.events(Side::Outbox).await, bench.events(Side::Outbox).await);
    for data in ["a1", "b2", "c3"] {
        add(&bench, &one, data, data).await;
    }
    let single = || Room { in_all: 1, ..room() };
    let first = due(&bench, &one, single()).await.heads.pop().unwrap();
    let before: Vec<i64> = one.front(first.seq, 1, 0).await.unwrap().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(before.len(), 3);
    let other = due(&bench, &two, single()).await.heads.pop().unwrap();
    assert_eq!(one.unite(before.clone(), "x".into(), 0).await, Ok(false));
    let without: Vec<i64> = one.front(first.seq, 1, 0).await.unwrap().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(without, [before[0], before[2]]);
    // And it has what it took on lease for itself: who lost that changes nothing.
    bench.pass(10_000);
    let lost = due(&bench, &two, Room { running: vec![other.lane.clone()], ..single() }).await.heads.pop().unwrap();
    assert_eq!(lost.seq, first.seq);
    assert_eq!(one.unite(without, "x".into(), 0).await, Ok(false));
}

#[tokio::test]
async fn a_database_of_an_older_host_gets_what_is_missing_and_keeps_what_it_has() {
    let Some(bench) = Bench::database().await else { return };
    let before = bench.events(Side::Outbox).await;
    let seqs = [add(&bench, &before, "a1", "a").await, add(&bench, &before, "b2", "b").await];
    add(&bench, &before, "b3", "b").await;
    before.close().await;
    bench.sql("DROP INDEX lanes_behind; ALTER TABLE lanes DROP COLUMN behind; UPDATE dingtalk_version SET version = 1");
    bench.pass(10_001);
    let events = bench.events(Side::Outbox).await;
    assert_eq!(bench.sql("SELECT version FROM dingtalk_version"), "2");
    assert_eq!(due(&bench, &events, Room { in_all: 1, ..room() }).await.heads[0].seq, seqs[0]);
    assert_eq!(events.unite(seqs.to_vec(), "a1+b2".into(), 0).await, Ok(true));
    assert_eq!(heads(&bench, &events).await, ["a1+b2"]);
}

#[tokio::test]
async fn siblings_keep_one_order_over_all_hosts() {
    let Some(bench) = Bench::database().await else { return };
    let (one, two) = (bench.events(Side::Outbox).await, bench.events(Side::Outbox).await);
    let shared = || Room { siblings: Siblings::new(group(&["team", "other"]), [].into()), ..room() };
    let begin = async |host: &Events| {
        let heads = due(&bench, host, shared()).await.heads;
        heads.iter().map(|head| data(&head.event)).collect::<Vec<_>>()
    };
    let of_other = |data: &str, rank| {
        let event = Event { binding: "other".into(), ..event(data, &data[..1]) };
        Item { rank, ..Item::received(event) }
    };
    let first = add(&bench, &one, "a1", "a").await;
    insert_one(&bench, &two, of_other("a2", 0)).await;
    assert_eq!((begin(&two).await, begin(&one).await), (vec![], vec!["a1".to_owned()]));
    insert_one(&bench, &two, of_other("a3 urgent", 1)).await;
    for _ in 0..3 {
        assert!(begin(&two).await.is_empty(), "the first is under way elsewhere");
        bench.pass(7_000);
        one.database().renew().await.unwrap();
    }
    // A message elsewhere that is not under way is in nobody's way, whoever comes first for a while.
    insert_one(&bench, &two, of_other("b4", 0)).await;
    add(&bench, &one, "b5", "b").await;
    assert_eq!(begin(&two).await, ["b4"]);
    // Whoever had it dies.
    drop(one);
    bench.pass(10_001);
    assert_eq!(begin(&two).await, ["a3 urgent", "b4"]);
    for head in due(&bench, &two, shared()).await.heads {
        delivered(&bench, &two, head.seq).await;
    }
    bench.pass(u64::try_from(NEAR_MS).unwrap());
    let heads = due(&bench, &two, shared()).await.heads;
    assert_eq!(heads.iter().map(|head| data(&head.event)).collect::<Vec<_>>(), ["a1", "b5"]);
    assert!(heads.iter().any(|head| head.seq == first));
}
