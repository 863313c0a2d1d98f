//! Events: order, repetitions, dead letters, pauses, age, rank, and what is left of a host that dies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use super::*;
use crate::queue::store::Lane;
use crate::queue::{Counts, Selection, storage::Wake};

over_both! {
    a_conversation_is_delivered_in_its_order_and_waits_for_no_other,
    what_is_under_way_is_not_begun_again,
    what_is_stored_together_is_stored_whole_or_not_at_all,
    a_repetition_gets_what_became_of_the_first,
    an_identifier_of_another_message_is_refused,
    what_has_no_identifier_is_never_a_repetition,
    a_pause_is_kept_and_the_next_look_known,
    what_suffers_is_woken_alone_and_a_binding_alone,
    what_is_refused_is_dead_until_the_operator_puts_it_back_in_its_place,
    the_operator_drops_what_blocks_and_mistakes_change_nothing,
    what_is_too_old_is_dead_and_counts_anew_when_it_is_put_back,
    what_has_a_time_of_its_own_is_dead_after_that,
    what_was_delivered_is_known_for_a_day_and_then_forgotten,
    counts_and_the_oldest_are_of_what_waits,
    what_comes_first_comes_first_in_its_conversation_and_before_others,
    room_is_kept_to_and_no_binding_keeps_the_others_out,
    a_host_that_dies_loses_nothing_and_repeats_what_was_under_way,
    what_many_store_at_once_is_delivered_once_and_in_order,
    names_and_identifiers_of_any_length_and_kind_are_kept_apart,
    a_callback_comes_before_its_events_delivery,
    what_does_not_fit_is_not_stored,
    a_binding_that_floods_the_outbox_leaves_room_for_others,
    what_was_delivered_after_all_is_not_dead,
    messages_that_wait_become_one_and_each_is_known_again,
    nothing_that_people_wrote_is_left_after_delivery,
    after_the_end_nothing_is_taken,
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

async fn what_is_stored_together_is_stored_whole_or_not_at_all(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    add(&bench, &*storage, "known", "c").await;
    let mut other = item("other", "d");
    other.id = Some("known".into());
    let together = vec![item("1", "c"), item("2", "e"), other];
    let error = insert(&bench, &*storage, together).await.unwrap_err();
    assert!(matches!(error, QueueError::OtherBody { side: Side::Outbox, .. }), "{error}");
    assert_eq!(storage.counts().await.unwrap().pending, 1);
    assert_eq!(heads(&bench, &*storage).await, ["known"], "no lane without an event is left either");
    let stored = insert(&bench, &*storage, vec![item("1", "x"), item("known", "c"), item("2", "x"), item("1", "x")])
        .await
        .unwrap();
    let [Stored::New(first), Stored::Pending(_), Stored::New(second), Stored::Pending(again)] = stored[..] else {
        panic!("{stored:?}")
    };
    assert!(first < second && again == first);
    assert_eq!(insert(&bench, &*storage, Vec::new()).await.unwrap(), []);
}

async fn a_repetition_gets_what_became_of_the_first(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let again = async || insert_one(&bench, &*storage, item("m", "c")).await;
    let seq = add(&bench, &*storage, "m", "c").await;
    assert_eq!(again().await, Stored::Pending(seq));
    let other = Item::received(Event { binding: "other".into(), ..event("m", "c") });
    assert!(matches!(insert_one(&bench, &*storage, other).await, Stored::New(_)));
    heads(&bench, &*storage).await;
    end(&bench, &*storage, seq, End::Delivered(Some("yes".into()))).await;
    assert_eq!(again().await, Stored::Delivered(seq, Some("yes".into())));
    // What came of it is known: nothing changes it any more.
    end(&bench, &*storage, seq, End::Refused("no".into())).await;
    failed(&bench, &*storage, seq, 1, false).await;
    assert_eq!(again().await, Stored::Delivered(seq, Some("yes".into())));
    storage.forget_reply(seq).await.unwrap();
    assert_eq!(again().await, Stored::Delivered(seq, None));
    let dead = add(&bench, &*storage, "dead", "c").await;
    end(&bench, &*storage, dead, End::Refused("no".into())).await;
    assert_eq!(insert_one(&bench, &*storage, item("dead", "c")).await, Stored::Dead(dead));
    assert_eq!(storage.counts().await, Ok(Counts { pending: 1, dead: 1 }));
}

async fn an_identifier_of_another_message_is_refused(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let seq = add(&bench, &*storage, "m", "c").await;
    for is_delivered in [false, true] {
        if is_delivered {
            delivered(&bench, &*storage, seq).await;
        }
        let mut other = item("other", "c");
        other.id = Some("m".into());
        let error = insert(&bench, &*storage, vec![other]).await.unwrap_err();
        assert_eq!(error, QueueError::OtherBody { side: Side::Inbox, seq });
    }
}

async fn what_has_no_identifier_is_never_a_repetition(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    for _ in 0..2 {
        let plain = Item { id: None, ..item("x", "c") };
        assert!(matches!(insert_one(&bench, &*storage, plain).await, Stored::New(_)));
    }
    for _ in 0..2 {
        let head = due(&bench, &*storage, room()).await.heads.pop().unwrap();
        delivered(&bench, &*storage, head.seq).await;
    }
    let all = listed(&bench.operator(Side::Inbox), &[State::Pending, State::Delivered]);
    assert!(all.is_empty(), "nothing to recognise a repetition by: {all:?}");
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

async fn what_is_refused_is_dead_until_the_operator_puts_it_back_in_its_place(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let (one, two) = (add(&bench, &*storage, "1", "c").await, add(&bench, &*storage, "2", "c").await);
    heads(&bench, &*storage).await;
    end(&bench, &*storage, one, End::Refused("status 400\0".into())).await;
    assert_eq!(heads(&bench, &*storage).await, ["2"]);
    failed(&bench, &*storage, two, 20_000, false).await;
    let operator = bench.operator(Side::Inbox);
    let dead = listed(&operator, &[State::Dead]);
    assert_eq!((dead.len(), dead[0].seq, dead[0].attempts), (1, one, 1));
    assert!(dead[0].last_error.as_ref().unwrap().starts_with("status 400"));
    assert_eq!((dead[0].conversation_id.as_deref(), dead[0].data.as_deref()), (Some("c"), Some(&b"1"[..])));
    assert_eq!((dead[0].finished_at, dead[0].accepted_at, dead[0].size), (Some(NOW), NOW, 1));
    assert_eq!(dead[0].metadata.as_deref(), Some(&event("1", "c").metadata[..]));
    assert_eq!(operator.retry(&Selection::All), Ok(1));
    let head = due(&bench, &*storage, room()).await.heads.pop().unwrap();
    assert_eq!((head.seq, head.attempts), (one, 0), "before the one that waits");
    delivered(&bench, &*storage, one).await;
    assert_eq!(heads(&bench, &*storage).await, ["2"]);
    assert_eq!(operator.retry(&Selection::All), Ok(0));
}

async fn the_operator_drops_what_blocks_and_mistakes_change_nothing(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let mut seqs = Vec::new();
    for data in ["1", "2", "3"] {
        seqs.push(add(&bench, &*storage, data, "c").await);
    }
    let operator = bench.operator(Side::Inbox);
    let entries = listed(&operator, &[State::Pending]);
    assert_eq!(entries.iter().map(|entry| entry.waits_for).collect::<Vec<_>>(), [None, Some(seqs[0]), Some(seqs[0])]);
    assert!(entries[0].next_attempt_at.is_some() && entries[1].next_attempt_at.is_none());
    let error = operator.drop_events(&Selection::Seqs(vec![seqs[0], 99_999])).unwrap_err();
    assert!(matches!(error, QueueError::NoSuchEvent { seq: 99_999, .. }), "{error}");
    let error = operator.retry(&Selection::Seqs(vec![seqs[1]])).unwrap_err();
    assert!(matches!(error, QueueError::WrongState { state: State::Pending, .. }), "{error}");
    assert_eq!(operator.drop_events(&Selection::All), Ok(0), "only dead ones go without being named");
    assert_eq!(storage.counts().await.unwrap().pending, 3);
    assert_eq!(operator.drop_events(&Selection::Seqs(vec![seqs[0], seqs[1], seqs[0]])), Ok(2));
    assert!(operator.drop_events(&Selection::Seqs(vec![seqs[0]])).is_err(), "there is nothing left to drop");
    assert_eq!(insert_one(&bench, &*storage, item("1", "c")).await, Stored::Delivered(seqs[0], None));
    assert_eq!(heads(&bench, &*storage).await, ["3"]);
    let of_others = Listing { states: vec![State::Pending], binding: Some("other".into()), content: false, seq: None };
    operator.list(&of_others, |entry| panic!("{entry:?}")).unwrap().unwrap();
}

async fn what_is_too_old_is_dead_and_counts_anew_when_it_is_put_back(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    add(&bench, &*storage, "old", "c").await;
    bench.pass(1);
    add(&bench, &*storage, "new", "c").await;
    bench.pass(Limits::default().max_age_ms());
    let tidied = storage.tidy(bench.now()).await.unwrap();
    assert_eq!((tidied.expired, tidied.more), (1, true));
    assert_eq!(storage.tidy(bench.now()).await.unwrap().expired, 0);
    assert_eq!(
        (storage.counts().await, heads(&bench, &*storage).await),
        (Ok(Counts { pending: 1, dead: 1 }), vec!["new".into()])
    );
    let operator = bench.operator(Side::Inbox);
    let dead = listed(&operator, &[State::Dead]);
    assert_eq!(dead[0].last_error.as_deref(), Some(Side::Inbox.too_old()));
    assert_eq!(operator.retry(&Selection::All), Ok(1));
    assert_eq!(storage.tidy(bench.now()).await.unwrap().expired, 0);
}

async fn what_has_a_time_of_its_own_is_dead_after_that(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let with = |data: &str, expires_at| Item { expires_at, ..item(data, data) };
    let items =
        vec![with("soon", Some(bench.now() + 1_000)), with("later", Some(bench.now() + 1_001)), with("none", None)];
    insert(&bench, &*storage, items).await.unwrap();
    let mut times: Vec<_> = due(&bench, &*storage, room()).await.heads.iter().map(|head| head.expires_at).collect();
    times.sort();
    assert_eq!(times, [None, Some(NOW + 1_000), Some(NOW + 1_001)]);
    bench.pass(1_000);
    assert_eq!(storage.tidy(bench.now()).await.unwrap().expired, 1);
    assert_eq!(storage.counts().await, Ok(Counts { pending: 2, dead: 1 }));
    let dead = listed(&bench.operator(Side::Outbox), &[State::Dead]);
    assert_eq!(dead[0].last_error.as_deref(), Some(crate::queue::store::EXPIRED));
    // The operator means it.
    assert_eq!(bench.operator(Side::Outbox).retry(&Selection::All), Ok(1));
    assert_eq!(storage.tidy(bench.now()).await.unwrap().expired, 0);
    assert!(
        bench
            .operator(Side::Outbox)
            .list(&Listing { states: vec![State::Dead], binding: None, content: false, seq: None }, |_| panic!("none"))
            .is_ok()
    );
}

async fn what_was_delivered_is_known_for_a_day_and_then_forgotten(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let mut seqs = Vec::new();
    for number in 0..600 {
        seqs.push(item(&number.to_string(), &(number % 7).to_string()));
    }
    for stored in insert(&bench, &*storage, seqs).await.unwrap() {
        let Stored::New(seq) = stored else { panic!("{stored:?}") };
        delivered(&bench, &*storage, seq).await;
    }
    bench.pass(24 * 3_600_000);
    while storage.tidy(bench.now()).await.unwrap().more {}
    assert!(matches!(insert_one(&bench, &*storage, item("5", "5")).await, Stored::Delivered(..)));
    bench.pass(1);
    let mut steps = 0;
    while storage.tidy(bench.now()).await.unwrap().more {
        steps += 1;
    }
    assert!(steps > 1, "in steps, so that others come between");
    assert!(matches!(insert_one(&bench, &*storage, item("5", "5")).await, Stored::New(_)));
    assert_eq!(listed(&bench.operator(Side::Inbox), &[State::Pending, State::Delivered]).len(), 1);
}

async fn counts_and_the_oldest_are_of_what_waits(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    assert_eq!((storage.counts().await, storage.oldest().await), (Ok(Counts { pending: 0, dead: 0 }), Ok(None)));
    let one = add(&bench, &*storage, "1", "c").await;
    bench.pass(1_000);
    add(&bench, &*storage, "2", "d").await;
    assert_eq!((storage.counts().await.unwrap().pending, storage.oldest().await), (2, Ok(Some(NOW))));
    delivered(&bench, &*storage, one).await;
    assert_eq!((storage.counts().await.unwrap().pending, storage.oldest().await), (1, Ok(Some(NOW + 1_000))));
    assert_eq!(storage.passed_over().await, 0);
    // The other direction is another queue.
    let other = bench.open(Side::Outbox).await;
    assert_eq!((other.counts().await, other.oldest().await), (Ok(Counts { pending: 0, dead: 0 }), Ok(None)));
    assert!(heads(&bench, &*other).await.is_empty());
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

async fn names_and_identifiers_of_any_length_and_kind_are_kept_apart(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let names = [
        "".into(),
        "a".into(),
        "a\0".into(),
        "a\0b".into(),
        "\u{fffd}".into(),
        "长'\"\\%".into(),
        "x".repeat(100_000),
        format!("{}y", "x".repeat(99_999)),
    ];
    for name in &names {
        let item = Item { id: Some(name.clone()), conversation: name.clone(), ..item(name, name) };
        assert!(matches!(insert_one(&bench, &*storage, item).await, Stored::New(_)), "{}", name.len());
    }
    let all = due(&bench, &*storage, room()).await.heads;
    let conversations: BTreeSet<&str> = all.iter().map(|head| head.lane.1.as_str()).collect();
    assert_eq!(conversations, names.iter().map(String::as_str).collect());
    for head in &all {
        assert_eq!(data(&head.event), head.lane.1);
        assert_eq!(head.event.metadata("msgId"), Some(&*head.lane.1));
        delivered(&bench, &*storage, head.seq).await;
    }
    assert_eq!(storage.counts().await.unwrap().pending, 0);
    for name in &names {
        let item = Item { id: Some(name.clone()), conversation: name.clone(), ..item(name, name) };
        assert!(matches!(insert_one(&bench, &*storage, item).await, Stored::Delivered(..)));
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

async fn what_does_not_fit_is_not_stored(bench: Bench) {
    let bench = bench.with_limits(Limits { max_size: Limits::LEAST_SIZE, ..Limits::default() });
    let storage = bench.open(Side::Inbox).await;
    let mut stored = 0_u64;
    let error = loop {
        let large = Item { id: None, ..item(&"x".repeat(500_000), "c") };
        match insert(&bench, &*storage, vec![large]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100);
    };
    assert!(matches!(error, QueueError::Limit { .. }), "{error}");
    assert!(error.to_string().contains("--inbox-max-size"), "{error}");
    assert!(stored > 1 && storage.counts().await.unwrap().pending == stored);
}

async fn a_binding_that_floods_the_outbox_leaves_room_for_others(bench: Bench) {
    let bench = bench.with_limits(Limits { max_size: 2 * Limits::LEAST_SIZE, ..Limits::default() });
    let storage = bench.open(Side::Outbox).await;
    let large = |binding: &str, number: usize| {
        let event = Event { binding: binding.into(), ..event(&format!("{number}{}", "x".repeat(300_000)), "c") };
        Item { id: Some(format!("{binding}{number}")), ..Item::received(event) }
    };
    let flood = async |binding: &str| {
        for number in 0..200 {
            if let Err(error) = insert(&bench, &*storage, vec![large(binding, number)]).await {
                return (number, error);
            }
        }
        panic!("no end");
    };
    let (first, error) = flood("floods").await;
    assert!(matches!(&error, QueueError::Share { binding, .. } if binding == "floods"), "{error}");
    let (second, error) = flood("another").await;
    assert!(matches!(error, QueueError::Share { .. }), "{error}");
    assert!(first > 2 && second > 0 && second < first, "{first} {second}");
    insert_one(&bench, &*storage, large("third", 0)).await;
}

async fn what_was_delivered_after_all_is_not_dead(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let seq = add(&bench, &*storage, "1", "c").await;
    heads(&bench, &*storage).await;
    bench.pass(Limits::default().max_age_ms() + 1);
    storage.tidy(bench.now()).await.unwrap();
    assert_eq!(storage.counts().await, Ok(Counts { pending: 0, dead: 1 }));
    delivered(&bench, &*storage, seq).await;
    assert_eq!(storage.counts().await, Ok(Counts { pending: 0, dead: 0 }));
    assert_eq!(insert_one(&bench, &*storage, item("1", "c")).await, Stored::Delivered(seq, None));
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
    assert_eq!(storage.front(seqs[0], 7).await, Ok(Vec::new()), "seven are no more than seven");
    let front = storage.front(seqs[0], 6).await.unwrap();
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
    assert_eq!(storage.front(head.seq, 1).await, Ok(Vec::new()));
}

async fn nothing_that_people_wrote_is_left_after_delivery(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let mut secret = item("S3CR3T", "S3CR3T");
    secret.id = Some("id".into());
    let Stored::New(seq) = insert_one(&bench, &*storage, secret).await else { panic!("new") };
    failed(&bench, &*storage, seq, 0, false).await;
    delivered(&bench, &*storage, seq).await;
    let entry = listed(&bench.operator(Side::Inbox), &[State::Delivered]).pop().unwrap();
    assert_eq!((entry.seq, entry.msg_id.as_deref(), entry.attempts), (seq, Some("id"), 1));
    assert_eq!((entry.data.as_deref(), entry.conversation_id, entry.last_error), (Some(&b""[..]), None, None));
    assert_eq!(entry.metadata, Some(Vec::new()));
}

async fn after_the_end_nothing_is_taken(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    storage.close().await;
    let error = insert(&bench, &*storage, vec![item("1", "c")]).await.unwrap_err();
    assert_eq!(error, QueueError::Stopped);
    assert_eq!(storage.due(room(), bench.now()).await.err(), Some(QueueError::Stopped));
}
