//! Events: order, rank, pauses, room, and what is left of a host that dies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use super::*;
use crate::queue::store::Lane;
use crate::queue::{Counts, Selection, storage::Wake};

over_both! {
    a_conversation_is_delivered_in_its_order_and_waits_for_no_other,
    what_is_under_way_is_not_begun_again,
    a_pause_is_kept_and_the_next_look_known,
    what_suffers_is_woken_alone_and_a_binding_alone,
    what_comes_first_comes_first_in_its_conversation_and_before_others,
    room_is_kept_to_and_no_binding_keeps_the_others_out,
    a_host_that_dies_loses_nothing_and_repeats_what_was_under_way,
    what_many_store_at_once_is_delivered_once_and_in_order,
    a_callback_comes_before_its_events_delivery,
}

async fn a_conversation_is_delivered_in_its_order_and_waits_for_no_other(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let original = item("a1", "a");
    let event = original.event.clone();
    insert_one(&bench, &*storage, original).await;
    for (data, conversation) in [("a2", "a"), ("b1", "b"), ("b2", "b"), ("n1", "")] {
        add(&bench, &*storage, data, conversation).await;
    }
    let mut taken = Vec::new();
    let first = due(&bench, &*storage, room()).await.heads;
    assert!(first.iter().any(|head| *head.event == event && head.lane == ("team".into(), "a".into())));
    for head in first {
        taken.push(data(&head.event));
        delivered(&bench, &*storage, head.seq).await;
    }
    taken.sort();
    assert_eq!(taken, ["a1", "b1", "n1"]);
    assert_eq!(heads(&bench, &*storage).await, ["a2", "b2"]);
}

async fn what_is_under_way_is_not_begun_again(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let one = add(&bench, &*storage, "1", "c").await;
    add(&bench, &*storage, "2", "c").await;
    assert_eq!(heads(&bench, &*storage).await, ["1"]);
    let running: Vec<Lane> = vec![("team".into(), "c".into())];
    let busy = Room { running: running.clone(), ..room() };
    assert!(due(&bench, &*storage, busy.clone()).await.heads.is_empty());
    // The operator's doing, while it is under way.
    bench.operator(Side::Inbox).drop_events(&Selection::Seqs(vec![one])).unwrap();
    assert!(due(&bench, &*storage, busy).await.heads.is_empty(), "one at a time");
    failed(&bench, &*storage, one, 30_000, false).await;
    assert_eq!(heads(&bench, &*storage).await, ["2"], "the pause was that of the one that is gone");
}

async fn a_pause_is_kept_and_the_next_look_known(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    assert!(due(&bench, &*storage, room()).await.next.is_none());
    let seq = add(&bench, &*storage, "1", "c").await;
    for attempts in 0..3 {
        let head = due(&bench, &*storage, room()).await.heads.pop().unwrap();
        assert_eq!((head.seq, head.attempts), (seq, attempts));
        failed(&bench, &*storage, seq, 500, false).await;
        let later = due(&bench, &*storage, room()).await;
        assert_eq!((later.heads.len(), later.next), (0, Some(bench.now() + 500)));
        bench.pass(499);
        assert!(heads(&bench, &*storage).await.is_empty());
        bench.pass(1);
    }
    let entries = listed(&bench.operator(Side::Inbox), &[State::Pending]);
    assert_eq!((entries[0].attempts, entries[0].last_error.as_deref()), (3, Some("no")));
    // A clock that was set back lets nothing wait for longer than any pause.
    failed(&bench, &*storage, seq, 3_600_000, false).await;
    let mut looks = 0;
    while heads(&bench, &*storage).await.is_empty() {
        looks += 1;
        assert!(looks < 3);
    }
}

async fn what_suffers_is_woken_alone_and_a_binding_alone(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let mut seqs = Vec::new();
    for (binding, data, suffers) in [("team", "suffers", true), ("team", "own", false), ("other", "others", false)] {
        let item = Item::received(Event { binding: binding.into(), ..event(data, data) });
        let Stored::New(seq) = insert_one(&bench, &*storage, item).await else { panic!("new") };
        seqs.push((seq, suffers));
    }
    let wake = async |which: Wake| {
        heads(&bench, &*storage).await;
        for (seq, suffers) in &seqs {
            failed(&bench, &*storage, *seq, 30_000, *suffers).await;
        }
        while storage.wake(which.clone(), bench.now()).await.unwrap() {}
        heads(&bench, &*storage).await
    };
    assert_eq!(wake(Wake::Suffering).await, ["suffers"]);
    assert_eq!(wake(Wake::Binding("other".into())).await, ["others"]);
    assert_eq!(wake(Wake::Binding("none".into())).await, [""; 0]);
    assert_eq!(wake(Wake::All).await, ["others", "own", "suffers"]);
}

async fn what_comes_first_comes_first_in_its_conversation_and_before_others(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let with = |data: &str, conversation: &str, rank| Item { rank, ..item(data, conversation) };
    let items = vec![
        with("low", "c", -1),
        with("usual", "c", 0),
        with("usual 2", "c", 0),
        with("urgent", "c", 1),
        with("d", "d", 0),
    ];
    insert(&bench, &*storage, items).await.unwrap();
    let one = || Room { in_all: 1, ..room() };
    let mut taken = Vec::new();
    while let Some(head) = due(&bench, &*storage, one()).await.heads.pop() {
        taken.push(data(&head.event));
        delivered(&bench, &*storage, head.seq).await;
    }
    assert_eq!(taken[0], "urgent", "before another conversation's usual one");
    assert_eq!(taken[4], "low", "after it");
    taken.retain(|data| data != "d");
    assert_eq!(taken, ["urgent", "usual", "usual 2", "low"]);
    // And does not wait for what waits before it.
    let seq = add(&bench, &*storage, "fails", "c").await;
    heads(&bench, &*storage).await;
    failed(&bench, &*storage, seq, 30_000, false).await;
    insert_one(&bench, &*storage, with("more", "c", 0)).await;
    assert!(heads(&bench, &*storage).await.is_empty());
    insert_one(&bench, &*storage, with("urgent 2", "c", 1)).await;
    assert_eq!(heads(&bench, &*storage).await, ["urgent 2"]);
}

async fn room_is_kept_to_and_no_binding_keeps_the_others_out(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let mut items = Vec::new();
    for binding in ["a", "b", "c"] {
        for number in 0..20 {
            let data = format!("{binding}{number}");
            items.push(Item::received(Event { binding: binding.into(), ..event(&data, &data) }));
        }
    }
    insert(&bench, &*storage, items).await.unwrap();
    let count = |due: &Due| {
        let mut counts = BTreeMap::<String, usize>::new();
        due.heads.iter().for_each(|head| *counts.entry(head.lane.0.clone()).or_default() += 1);
        counts
    };
    let all = due(&bench, &*storage, room()).await;
    assert_eq!(count(&all), [("a".into(), 16), ("b".into(), 16), ("c".into(), 16)].into());
    let running: Vec<Lane> = all.heads.iter().filter(|head| head.lane.0 == "a").map(|head| head.lane.clone()).collect();
    let by_binding = HashMap::from([("a".to_owned(), 3), ("b".to_owned(), 0)]);
    let some = due(&bench, &*storage, Room { running: running.clone(), by_binding, a_binding: 5, ..room() }).await;
    assert_eq!(count(&some), [("a".into(), 3), ("c".into(), 5)].into());
    assert!(some.heads.iter().all(|head| !running.contains(&head.lane)));
    // With less room than there are bindings, each has its turn.
    let mut seen = BTreeSet::new();
    for turn in 0..60 {
        let few = due(&bench, &*storage, Room { in_all: 1, turn, ..room() }).await;
        assert_eq!(few.heads.len(), 1);
        seen.extend(few.heads.into_iter().map(|head| head.lane.0));
    }
    assert_eq!(seen.len(), 3);
    assert!(due(&bench, &*storage, Room { a_binding: 0, ..room() }).await.heads.is_empty());
}

async fn a_host_that_dies_loses_nothing_and_repeats_what_was_under_way(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let one = add(&bench, &*storage, "1", "c").await;
    for (data, conversation) in [("2", "c"), ("3", "d")] {
        add(&bench, &*storage, data, conversation).await;
    }
    assert_eq!(heads(&bench, &*storage).await, ["1", "3"]);
    delivered(&bench, &*storage, one).await;
    assert_eq!(
        due(&bench, &*storage, Room { running: vec![("team".into(), "d".into())], ..room() }).await.heads.len(),
        1
    );
    bench.kill(storage);
    let storage = bench.open(Side::Inbox).await;
    assert_eq!(heads(&bench, &*storage).await, ["2", "3"]);
    assert!(matches!(insert_one(&bench, &*storage, item("1", "c")).await, Stored::Delivered(..)));
    storage.close().await;
    let storage = bench.open(Side::Inbox).await;
    assert_eq!(heads(&bench, &*storage).await, ["2", "3"], "who ends in order makes nobody wait");
}

async fn what_many_store_at_once_is_delivered_once_and_in_order(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let bench = Arc::new(bench);
    let mut tasks = tokio::task::JoinSet::new();
    for conversation in 0..8 {
        for _ in 0..2 {
            let (storage, bench) = (Arc::clone(&storage), Arc::clone(&bench));
            tasks.spawn(async move {
                // The second of each pair repeats everything.
                for number in 0..12 {
                    let item = item(&format!("{conversation} {number:02}"), &conversation.to_string());
                    insert_one(&bench, &*storage, item).await;
                }
            });
        }
    }
    let taken = Arc::new(Mutex::new(Vec::new()));
    let deliver = async {
        let mut looks = 0;
        while taken.lock().unwrap().len() < 96 {
            looks += 1;
            assert!(looks < 5_000);
            for head in due(&bench, &*storage, room()).await.heads {
                taken.lock().unwrap().push(data(&head.event));
                delivered(&bench, &*storage, head.seq).await;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(deliver, async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap()
        }
    });
    assert_eq!(storage.counts().await, Ok(Counts { pending: 0, dead: 0 }));
    let mut by_conversation = BTreeMap::<String, Vec<String>>::new();
    for data in taken.lock().unwrap().iter() {
        by_conversation.entry(data[..1].into()).or_default().push(data.clone());
    }
    for taken in by_conversation.values() {
        assert!(taken.is_sorted() && taken.len() == 12, "{taken:?}");
    }
}

async fn a_callback_comes_before_its_events_delivery(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let called = Arc::new(Mutex::new(BTreeSet::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (storage, called, now) = (Arc::clone(&storage), Arc::clone(&called), bench.now());
        tasks.spawn(async move {
            for other in 0..25 {
                let item = item(&format!("{number} {other}"), &number.to_string());
                let called = Arc::clone(&called);
                let then = move |stored: Vec<Stored>| {
                    // Long enough for a look to come between, if one could.
                    std::thread::sleep(std::time::Duration::from_micros(300));
                    let Stored::New(seq) = stored[0] else { panic!("new") };
                    called.lock().unwrap().insert(seq);
                };
                storage.insert(vec![item], now, Box::new(then)).await.unwrap();
            }
        });
    }
    let mut taken = 0;
    for _ in 0..20_000 {
        for head in due(&bench, &*storage, room()).await.heads {
            assert!(called.lock().unwrap().contains(&head.seq));
            delivered(&bench, &*storage, head.seq).await;
            taken += 1;
        }
        if taken == 100 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(taken, 100);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}
