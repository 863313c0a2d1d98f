//! Events: repetitions, dead letters, age, space, and what is left of them.

use std::collections::BTreeSet;

use super::*;
use crate::queue::{Counts, Selection};

over_both! {
    what_is_stored_together_is_stored_whole_or_not_at_all,
    a_repetition_gets_what_became_of_the_first,
    an_identifier_of_another_message_is_refused,
    what_has_no_identifier_is_never_a_repetition,
    what_is_refused_is_dead_until_the_operator_puts_it_back_in_its_place,
    the_operator_drops_what_blocks_and_mistakes_change_nothing,
    what_is_too_old_is_dead_and_counts_anew_when_it_is_put_back,
    what_has_a_time_of_its_own_is_dead_after_that,
    what_was_delivered_is_known_for_a_day_and_then_forgotten,
    counts_and_the_oldest_are_of_what_waits,
    names_and_identifiers_of_any_length_and_kind_are_kept_apart,
    what_does_not_fit_is_not_stored,
    a_binding_that_floods_the_outbox_leaves_room_for_others,
    what_was_delivered_after_all_is_not_dead,
    nothing_that_people_wrote_is_left_after_delivery,
    after_the_end_nothing_is_taken,
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
