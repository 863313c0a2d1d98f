//! Messages that wait and become one: which ones, in which order, and what is left of each.

use std::collections::BTreeMap;

use super::*;
use crate::event::DEAD_LETTER;
use crate::queue::store::{Lane, MOST_UNITED};
use crate::queue::{Counts, Selection};

over_both! {
    messages_that_wait_become_one_and_each_is_known_again,
    conversations_of_a_binding_become_one_message_in_order,
    a_conversation_from_which_something_is_delivered_stays_out,
    a_conversation_whose_earlier_message_is_not_fit_stays_out,
    what_has_changed_since_is_not_united,
    what_comes_behind_waits_unless_it_is_more_urgent_and_then_it_comes_first,
    what_is_left_of_a_conversation_has_a_rank_of_its_own,
    what_answers_a_dead_letter_stays_out,
    of_many_conversations_some_of_each_become_one,
}

/// From these conversations something is delivered, and nothing else is begun.
async fn deliver_from(bench: &Bench, storage: &dyn Storage, conversations: &[&str]) {
    let running: Vec<Lane> = conversations.iter().map(|name| ("team".to_owned(), (*name).to_owned())).collect();
    assert!(due(bench, storage, Room { running, in_all: 0, ..room() }).await.heads.is_empty());
}

/// What may become one with this message: the data of all of them, and their numbers.
async fn front(bench: &Bench, storage: &dyn Storage, seq: i64) -> (String, Vec<i64>) {
    let (seqs, data): (Vec<i64>, Vec<Bytes>) = storage.front(seq, 1, bench.now()).await.unwrap().into_iter().unzip();
    (String::from_utf8(data.join(&b' ')).unwrap(), seqs)
}

async fn messages_that_wait_become_one_and_each_is_known_again(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = Vec::new();
    for data in ["1", "2", "3", "4"] {
        seqs.push(add(&bench, &*storage, data, "c").await);
    }
    let expires_at = Some(bench.now() + 60_000);
    insert(&bench, &*storage, vec![Item { expires_at, ..item("5", "c") }, item("6", "c"), item("7", "d")])
        .await
        .unwrap();
    assert_eq!(heads(&bench, &*storage).await, ["1", "7"]);
    assert_eq!(storage.front(seqs[0], 7, bench.now()).await, Ok(Vec::new()), "seven are no more than seven");
    let front = storage.front(seqs[0], 6, bench.now()).await.unwrap();
    let wanted: Vec<(i64, Bytes)> = seqs.iter().zip(1..5).map(|(seq, data)| (*seq, data.to_string().into())).collect();
    assert_eq!(front, wanted, "what expires stays alone, and what is behind it");
    bench.operator(Side::Outbox).drop_events(&Selection::Seqs(vec![seqs[3]])).unwrap();
    assert_eq!(storage.unite(seqs.clone(), "all".into(), bench.now()).await, Ok(false), "one is gone");
    assert_eq!(storage.unite(seqs[..3].to_vec(), "1+2+3".into(), bench.now()).await, Ok(true));
    assert_eq!(storage.counts().await.unwrap().pending, 4);
    let mut first = heads(&bench, &*storage).await;
    assert_eq!(first.remove(0), "1+2+3");
    delivered(&bench, &*storage, seqs[0]).await;
    for (data, seq) in [("1", seqs[0]), ("2", seqs[1]), ("3", seqs[2])] {
        assert_eq!(insert_one(&bench, &*storage, item(data, "c")).await, Stored::Delivered(seq, None));
    }
    assert_eq!(heads(&bench, &*storage).await, ["5", "7"]);
    // What was tried is not among those that become one.
    let five = listed(&bench.operator(Side::Outbox), &[State::Pending])[0].seq;
    delivered(&bench, &*storage, five).await;
    let head = due(&bench, &*storage, room()).await.heads.into_iter().find(|head| head.lane.1 == "c").unwrap();
    failed(&bench, &*storage, head.seq, 0, false).await;
    assert_eq!(storage.front(head.seq, 1, bench.now()).await, Ok(Vec::new()));
}

async fn conversations_of_a_binding_become_one_message_in_order(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = BTreeMap::new();
    for data in ["a1", "b2", "c3", "a4", "b5", "c6"] {
        seqs.insert(data, add(&bench, &*storage, data, &data[..1]).await);
    }
    let event = Event { binding: "other".into(), ..event("o1", "a") };
    insert_one(&bench, &*storage, Item::received(event)).await;
    insert_one(&bench, &*storage, Item { rank: -1, ..item("l7", "l") }).await;
    // Whichever of them is begun comes first, then the others in their order.
    deliver_from(&bench, &*storage, &["c"]).await;
    assert_eq!(front(&bench, &*storage, seqs["c3"]).await.0, "c3 a1 b2 a4 b5 c6");
    deliver_from(&bench, &*storage, &["a"]).await;
    assert_eq!(storage.front(seqs["a1"], 7, bench.now()).await, Ok(Vec::new()), "seven are no more than seven");
    let one = Room { in_all: 1, by_binding: [("other".to_owned(), 0)].into(), ..room() };
    let head = due(&bench, &*storage, one).await.heads.pop().unwrap();
    assert_eq!(data(&head.event), "a1");
    let (text, front) = front(&bench, &*storage, head.seq).await;
    assert_eq!(text, "a1 b2 c3 a4 b5 c6", "of this binding, and of one rank");
    // All but the last one fit into one message.
    assert_eq!(storage.unite(front[..5].to_vec(), "a1+b2+c3+a4+b5".into(), bench.now()).await, Ok(true));
    assert_eq!(storage.counts().await, Ok(Counts { pending: 4, dead: 0 }));
    let running: Vec<Lane> = vec![("team".into(), "a".into()), ("other".into(), "a".into())];
    let next = due(&bench, &*storage, Room { running, ..room() }).await.heads;
    assert_eq!(next.iter().map(|head| data(&head.event)).collect::<Vec<_>>(), ["l7"], "what comes behind waits");
    failed(&bench, &*storage, head.seq, 0, false).await;
    assert_eq!(heads(&bench, &*storage).await, ["a1+b2+c3+a4+b5", "l7", "o1"], "and is tried again as it is");
    delivered(&bench, &*storage, head.seq).await;
    assert_eq!(heads(&bench, &*storage).await, ["c6", "l7", "o1"]);
    for data in ["a1", "b2", "c3", "a4", "b5"] {
        assert_eq!(insert_one(&bench, &*storage, item(data, &data[..1])).await, Stored::Delivered(seqs[data], None));
    }
    assert_eq!(insert_one(&bench, &*storage, item("c6", "c")).await, Stored::Pending(seqs["c6"]));
    // A conversation of which nothing was left begins anew.
    add(&bench, &*storage, "b8", "b").await;
    assert!(heads(&bench, &*storage).await.contains(&"b8".to_owned()));
}

async fn a_conversation_from_which_something_is_delivered_stays_out(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = BTreeMap::new();
    for data in ["a1", "b2", "c3", "b4"] {
        seqs.insert(data, add(&bench, &*storage, data, &data[..1]).await);
    }
    let one = Room { in_all: 1, ..room() };
    assert_eq!(due(&bench, &*storage, one.clone()).await.heads[0].seq, seqs["a1"]);
    let (text, before) = front(&bench, &*storage, seqs["a1"]).await;
    assert_eq!(text, "a1 b2 c3 b4");
    // One of them is begun while they are made into one.
    let running: Vec<Lane> = vec![("team".into(), "a".into())];
    assert_eq!(due(&bench, &*storage, Room { running, ..one.clone() }).await.heads[0].seq, seqs["b2"]);
    assert_eq!(storage.unite(before.clone(), "x".into(), bench.now()).await, Ok(false));
    assert_eq!(front(&bench, &*storage, seqs["a1"]).await.0, "a1 c3");
    // It ends without having been posted: its robot takes nothing.
    deliver_from(&bench, &*storage, &["a"]).await;
    assert_eq!(front(&bench, &*storage, seqs["a1"]).await, (text, before));
    deliver_from(&bench, &*storage, &["a", "b"]).await;
    let (_, without) = front(&bench, &*storage, seqs["a1"]).await;
    assert_eq!(storage.unite(without, "a1+c3".into(), bench.now()).await, Ok(true));
    delivered(&bench, &*storage, seqs["a1"]).await;
    delivered(&bench, &*storage, seqs["b2"]).await;
    assert_eq!(heads(&bench, &*storage).await, ["b4"]);
}

async fn a_conversation_whose_earlier_message_is_not_fit_stays_out(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let tried = add(&bench, &*storage, "c1", "c").await;
    let paused = add(&bench, &*storage, "p1", "p").await;
    heads(&bench, &*storage).await;
    failed(&bench, &*storage, tried, 0, false).await;
    failed(&bench, &*storage, paused, 30_000, false).await;
    let expires_at = Some(bench.now() + 60_000);
    let items = vec![
        item("a1", "a"),
        Item { expires_at, ..item("b1", "b") },
        item("b2", "b"),
        item("c2", "c"),
        item("d1", "d"),
        Item { rank: 1, ..item("d2", "d") },
        item("e1", "e"),
        Item { expires_at, ..item("e2", "e") },
        item("e3", "e"),
        item("p2", "p"),
    ];
    let stored = insert(&bench, &*storage, items).await.unwrap();
    let seqs: Vec<i64> =
        stored.iter().map(|stored| if let Stored::New(seq) = stored { *seq } else { panic!() }).collect();
    deliver_from(&bench, &*storage, &["a"]).await;
    let (text, fit) = front(&bench, &*storage, seqs[0]).await;
    assert_eq!(text, "a1 e1");
    for (unfit, why) in [
        (2, "one that expires comes first"),
        (3, "one that was tried does"),
        (4, "an urgent one does"),
        (8, "so it does"),
    ] {
        let with = vec![seqs[0], seqs[unfit]];
        assert_eq!(storage.unite(with, "x".into(), bench.now()).await, Ok(false), "{why}");
    }
    let pending = storage.counts().await.unwrap().pending;
    assert_eq!(storage.unite(fit, "a1+e1".into(), bench.now()).await, Ok(true));
    assert_eq!(storage.counts().await.unwrap().pending, pending - 1);
    assert_eq!(heads(&bench, &*storage).await, ["a1+e1", "b1", "c1", "d2"]);
    // Whatever becomes of it.
    end(&bench, &*storage, seqs[0], End::Refused("no".into())).await;
    assert_eq!(heads(&bench, &*storage).await, ["b1", "c1", "d2", "e2"]);
}

async fn what_has_changed_since_is_not_united(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let (one, two) = (add(&bench, &*storage, "a1", "a").await, add(&bench, &*storage, "b2", "b").await);
    deliver_from(&bench, &*storage, &["a"]).await;
    let unite = async || storage.unite(vec![one, two], "a1+b2".into(), bench.now()).await;
    let Stored::New(urgent) = insert_one(&bench, &*storage, Item { rank: 1, ..item("b3", "b") }).await else {
        panic!()
    };
    assert_eq!(unite().await, Ok(false), "something comes before it");
    let operator = bench.operator(Side::Outbox);
    operator.drop_events(&Selection::Seqs(vec![urgent])).unwrap();
    // An earlier one that was dead is put back.
    end(&bench, &*storage, two, End::Refused("no".into())).await;
    let three = add(&bench, &*storage, "b4", "b").await;
    operator.retry(&Selection::Seqs(vec![two])).unwrap();
    assert_eq!(storage.unite(vec![one, three], "a1+b4".into(), bench.now()).await, Ok(false));
    // Its delivery began, failed, and has ended.
    assert_eq!(unite().await, Ok(true));
    let four = add(&bench, &*storage, "c5", "c").await;
    failed(&bench, &*storage, four, 0, false).await;
    assert_eq!(storage.unite(vec![one, four], "x".into(), bench.now()).await, Ok(false));
    // The operator drops it.
    operator.drop_events(&Selection::Seqs(vec![four])).unwrap();
    assert_eq!(storage.unite(vec![one, four], "x".into(), bench.now()).await, Ok(false));
    assert_eq!(heads(&bench, &*storage).await, ["a1+b2"]);
    operator.drop_events(&Selection::Seqs(vec![one])).unwrap();
    assert_eq!(heads(&bench, &*storage).await, ["b4"]);
}

async fn what_comes_behind_waits_unless_it_is_more_urgent_and_then_it_comes_first(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = BTreeMap::new();
    for data in ["a1", "b2", "c3", "b4"] {
        seqs.insert(data, add(&bench, &*storage, data, &data[..1]).await);
    }
    deliver_from(&bench, &*storage, &["a"]).await;
    assert_eq!(storage.unite(vec![seqs["a1"], seqs["b2"]], "a1+b2".into(), bench.now()).await, Ok(true));
    bench.kill(storage);
    let storage = bench.open(Side::Outbox).await;
    assert_eq!(heads(&bench, &*storage).await, ["a1+b2", "c3"], "also for the next process");
    let Stored::New(urgent) = insert_one(&bench, &*storage, Item { rank: 1, ..item("b5", "b") }).await else {
        panic!()
    };
    assert_eq!(heads(&bench, &*storage).await, ["b5", "c3"]);
    deliver_from(&bench, &*storage, &["c"]).await;
    assert_eq!(front(&bench, &*storage, seqs["c3"]).await.0, "c3");
    assert_eq!(storage.unite(vec![seqs["c3"], seqs["a1"]], "x".into(), bench.now()).await, Ok(false));
    delivered(&bench, &*storage, urgent).await;
    assert_eq!(heads(&bench, &*storage).await, ["a1+b2", "c3"]);
    // It becomes part of another one, for which is waited from then on.
    deliver_from(&bench, &*storage, &["c"]).await;
    let (text, all) = front(&bench, &*storage, seqs["c3"]).await;
    assert_eq!(text, "c3 a1+b2");
    assert_eq!(storage.unite(vec![seqs["c3"], seqs["b4"]], "x".into(), bench.now()).await, Ok(false));
    assert_eq!(storage.unite(all, "c3+a1+b2".into(), bench.now()).await, Ok(true));
    add(&bench, &*storage, "a6", "a").await;
    assert_eq!(heads(&bench, &*storage).await, ["c3+a1+b2"]);
    // More that waits becomes part of the same one.
    deliver_from(&bench, &*storage, &["c"]).await;
    assert_eq!(front(&bench, &*storage, seqs["c3"]).await.0, "c3+a1+b2 b4 a6");
    delivered(&bench, &*storage, seqs["c3"]).await;
    assert_eq!(heads(&bench, &*storage).await, ["a6", "b4"]);
    for (data, seq) in [("a1", seqs["a1"]), ("b2", seqs["b2"])] {
        assert_eq!(insert_one(&bench, &*storage, item(data, &data[..1])).await, Stored::Delivered(seq, None));
    }
}

async fn what_is_left_of_a_conversation_has_a_rank_of_its_own(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let (one, two) = (add(&bench, &*storage, "a1", "a").await, add(&bench, &*storage, "b2", "b").await);
    insert_one(&bench, &*storage, Item { rank: -1, ..item("b3", "b") }).await;
    deliver_from(&bench, &*storage, &["a"]).await;
    assert_eq!(storage.unite(vec![one, two], "a1+b2".into(), bench.now()).await, Ok(true));
    bench.pass(1);
    add(&bench, &*storage, "d4", "d").await;
    delivered(&bench, &*storage, one).await;
    let first = due(&bench, &*storage, Room { in_all: 1, ..room() }).await.heads;
    assert_eq!(data(&first[0].event), "d4", "what is low comes last");
}

async fn what_answers_a_dead_letter_stays_out(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let answer = add(&bench, &*storage, "answer", DEAD_LETTER).await;
    let first = add(&bench, &*storage, "a1", "a").await;
    add(&bench, &*storage, "b2", "b").await;
    add(&bench, &*storage, "answer2", DEAD_LETTER).await;
    deliver_from(&bench, &*storage, &["a"]).await;
    assert_eq!(front(&bench, &*storage, first).await.0, "a1 b2");
    deliver_from(&bench, &*storage, &[DEAD_LETTER]).await;
    assert_eq!(front(&bench, &*storage, answer).await.0, "answer answer2");
}

async fn of_many_conversations_some_of_each_become_one(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let items = (0..900).map(|number| item(&format!("{number:03}"), &(number % 250).to_string())).collect();
    insert(&bench, &*storage, items).await.unwrap();
    let head = due(&bench, &*storage, Room { in_all: 1, ..room() }).await.heads.pop().unwrap();
    let (text, seqs) = front(&bench, &*storage, head.seq).await;
    assert_eq!(seqs.len(), MOST_UNITED);
    let mut by_conversation = BTreeMap::<usize, Vec<usize>>::new();
    for number in text.split(' ').map(|number| number.parse::<usize>().unwrap()) {
        by_conversation.entry(number % 250).or_default().push(number);
    }
    for (conversation, numbers) in by_conversation {
        let first: Vec<usize> = (conversation..900).step_by(250).take(numbers.len()).collect();
        assert_eq!(numbers, first);
    }
    assert_eq!(storage.unite(seqs, "all".into(), bench.now()).await, Ok(true));
    assert_eq!(storage.counts().await.unwrap().pending, 701);
}
