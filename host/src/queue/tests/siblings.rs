//! Bindings that keep one order between them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::*;
use crate::queue::Selection;
use crate::queue::siblings::{Siblings, group};
use crate::queue::store::{LOOKED_AT, Lane};

over_both! {
    what_was_queued_through_siblings_goes_out_in_one_order,
    what_is_urgent_in_one_comes_first_in_all_and_a_pause_is_kept_for_all,
    nobody_waits_for_one_that_is_held_for_its_own_sake,
    nothing_begins_while_a_sibling_delivers_from_the_conversation,
    what_stands_for_several_comes_before_what_siblings_have_behind_it,
    what_a_sibling_has_in_between_stays_between,
    bindings_that_become_siblings_never_wait_in_a_circle,
    one_conversation_among_many_that_wait_for_a_sibling_is_found,
    whatever_happens_the_order_is_kept_and_nothing_waits_for_ever,
}

const BINDINGS: [&str; 3] = ["team", "other", "third"];

fn siblings() -> Siblings {
    Siblings::new(group(&BINDINGS), HashSet::new())
}

/// For bindings that keep one order, while something is under way in these conversations.
fn shared(running: &[Lane]) -> Room {
    Room { siblings: siblings(), running: running.to_vec(), ..room() }
}

fn lane(binding: &str, conversation: &str) -> Lane {
    (binding.into(), conversation.into())
}

/// Stores it; its number. What it says begins with its conversation.
async fn queue(bench: &Bench, storage: &dyn Storage, binding: &str, text: &str, rank: i64) -> i64 {
    let item = Item { rank, ..item(text, &text[..1]) };
    let item = Item { event: Event { binding: binding.into(), ..item.event }, ..item };
    match insert_one(bench, storage, item).await {
        Stored::New(seq) => seq,
        other => panic!("{other:?}"),
    }
}

/// What is to be delivered now.
async fn begin(bench: &Bench, storage: &dyn Storage, room: Room) -> Vec<String> {
    let mut heads: Vec<String> = due(bench, storage, room).await.heads.iter().map(|head| data(&head.event)).collect();
    heads.sort();
    heads
}

async fn what_was_queued_through_siblings_goes_out_in_one_order(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = Vec::new();
    for (binding, text) in [("team", "a1"), ("other", "a2"), ("third", "a3"), ("team", "a4"), ("stranger", "a5")] {
        seqs.push(queue(&bench, &*storage, binding, text, 0).await);
    }
    queue(&bench, &*storage, "other", "b6", 0).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a1", "a5", "b6"], "another conversation, and a stranger");
    let around = [lane("other", "b"), lane("stranger", "a")];
    let none = due(&bench, &*storage, shared(&[&around[..], &[lane("team", "a")]].concat())).await;
    assert_eq!((none.heads.len(), none.next), (0, None), "what waits for a sibling is no reason to look again");
    for (seq, next) in seqs.iter().zip(["a2", "a3", "a4"]) {
        delivered(&bench, &*storage, *seq).await;
        assert_eq!(begin(&bench, &*storage, shared(&around)).await, [next], "at once");
    }
    assert_eq!(begin(&bench, &*storage, room()).await, ["a4", "a5", "b6"]);
}

async fn what_is_urgent_in_one_comes_first_in_all_and_a_pause_is_kept_for_all(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = BTreeMap::new();
    let queued = [("team", "a1 low", -1), ("other", "a2", 0), ("team", "a3", 0), ("third", "a4 high", 1)];
    for (binding, text, rank) in queued {
        seqs.insert(text, queue(&bench, &*storage, binding, text, rank).await);
    }
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a4 high"]);
    delivered(&bench, &*storage, seqs["a4 high"]).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a2"]);
    failed(&bench, &*storage, seqs["a2"], 20_000, false).await;
    let paused = due(&bench, &*storage, shared(&[])).await;
    assert_eq!((paused.heads.len(), paused.next), (0, Some(bench.now() + 20_000)));
    let urgent = queue(&bench, &*storage, "team", "a5 high", 1).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a5 high"], "need not wait for what waits before it");
    delivered(&bench, &*storage, urgent).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, [""; 0]);
    bench.pass(20_000);
    for text in ["a2", "a3", "a1 low"] {
        assert_eq!(begin(&bench, &*storage, shared(&[])).await, [text]);
        delivered(&bench, &*storage, seqs[text]).await;
    }
}

async fn nobody_waits_for_one_that_is_held_for_its_own_sake(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    for (binding, text) in [("team", "a1"), ("other", "a2"), ("third", "a3")] {
        queue(&bench, &*storage, binding, text, 0).await;
    }
    let held = |name: &str| {
        let siblings = Siblings::new(group(&BINDINGS), [name.to_owned()].into());
        Room { siblings, by_binding: [(name.to_owned(), 0)].into(), ..room() }
    };
    assert_eq!(begin(&bench, &*storage, held("team")).await, ["a2"]);
    assert_eq!(begin(&bench, &*storage, held("other")).await, ["a1"]);
    // Held for what concerns the robot.
    let closed = Room { by_binding: [("team".to_owned(), 0)].into(), ..shared(&[]) };
    assert_eq!(begin(&bench, &*storage, closed).await, [""; 0]);
}

async fn nothing_begins_while_a_sibling_delivers_from_the_conversation(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let one = queue(&bench, &*storage, "team", "a1", 0).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a1"]);
    queue(&bench, &*storage, "other", "a2 high", 1).await;
    let running = [lane("team", "a")];
    assert_eq!(begin(&bench, &*storage, shared(&running)).await, [""; 0]);
    // Whatever becomes of it meanwhile.
    bench.operator(Side::Outbox).drop_events(&Selection::Seqs(vec![one])).unwrap();
    assert_eq!(begin(&bench, &*storage, shared(&running)).await, [""; 0]);
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a2 high"]);
    // Of two in one look, one.
    queue(&bench, &*storage, "third", "b3", 0).await;
    queue(&bench, &*storage, "team", "b4", 0).await;
    assert_eq!(begin(&bench, &*storage, shared(&[lane("other", "a")])).await, ["b3"]);
}

async fn front(bench: &Bench, storage: &dyn Storage, seq: i64) -> String {
    let data: Vec<Bytes> =
        storage.front(seq, 1, bench.now()).await.unwrap().into_iter().map(|(_, data)| data).collect();
    String::from_utf8(data.join(&b' ')).unwrap()
}

async fn unite(bench: &Bench, storage: &dyn Storage, seqs: &[i64], text: &str) -> bool {
    storage.unite(seqs.to_vec(), text.to_owned().into(), bench.now()).await.unwrap()
}

async fn what_stands_for_several_comes_before_what_siblings_have_behind_it(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = BTreeMap::new();
    for (binding, text) in [("team", "a1"), ("team", "b2"), ("other", "b3"), ("other", "c4")] {
        seqs.insert(text, queue(&bench, &*storage, binding, text, 0).await);
    }
    let by_binding = [("other".to_owned(), 0)].into();
    assert_eq!(begin(&bench, &*storage, Room { in_all: 1, by_binding, ..shared(&[]) }).await, ["a1"]);
    assert!(unite(&bench, &*storage, &[seqs["a1"], seqs["b2"]], "a1+b2").await);
    assert_eq!(begin(&bench, &*storage, shared(&[lane("team", "a")])).await, ["c4"]);
    bench.kill(storage);
    let storage = bench.open(Side::Outbox).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a1+b2", "c4"], "also for the next process");
    let urgent = queue(&bench, &*storage, "third", "b5", 1).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["b5", "c4"], "before what it comes before");
    delivered(&bench, &*storage, urgent).await;
    delivered(&bench, &*storage, seqs["c4"]).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a1+b2"]);
    delivered(&bench, &*storage, seqs["a1"]).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["b3"]);
}

async fn what_a_sibling_has_in_between_stays_between(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = BTreeMap::new();
    let queued = [
        ("team", "a1", 0),
        ("team", "b2", 0),
        ("other", "b3", 0),
        ("team", "b4", 0),
        ("third", "c5", 0),
        ("team", "c6", 0),
        ("team", "d7", 0),
        ("other", "d8", 1),
        ("team", "e9", 0),
        ("other", "e0", -1),
    ];
    for (binding, text, rank) in queued {
        seqs.insert(text, queue(&bench, &*storage, binding, text, rank).await);
    }
    let only = |binding: &str| {
        let by_binding = BINDINGS.iter().filter(|name| **name != binding).map(|name| ((*name).to_owned(), 0)).collect();
        Room { in_all: 1, by_binding, ..shared(&[]) }
    };
    assert_eq!(begin(&bench, &*storage, only("team")).await, ["a1"]);
    assert_eq!(front(&bench, &*storage, seqs["a1"]).await, "a1 b2 e9");
    for (text, why) in [("b4", "b3 comes first"), ("c6", "c5 comes first"), ("d7", "d8 is more urgent")] {
        let with: Vec<i64> =
            if text == "b4" { vec![seqs["a1"], seqs["b2"], seqs["b4"]] } else { vec![seqs["a1"], seqs[text]] };
        assert!(!unite(&bench, &*storage, &with, "x").await, "{why}");
    }
    // While a sibling delivers from it, it stays out.
    let with_e = shared(&[lane("team", "a"), lane("other", "e")]);
    due(&bench, &*storage, Room { in_all: 0, ..with_e }).await;
    assert_eq!(front(&bench, &*storage, seqs["a1"]).await, "a1 b2");
    assert!(!unite(&bench, &*storage, &[seqs["a1"], seqs["e9"]], "x").await);
    // As without siblings.
    due(&bench, &*storage, Room { in_all: 0, running: vec![lane("team", "a")], ..room() }).await;
    assert_eq!(front(&bench, &*storage, seqs["a1"]).await, "a1 b2 b4 c6 d7 e9");
    // What has become one is part of another one, unless a sibling has something more urgent behind it.
    due(&bench, &*storage, Room { in_all: 0, ..shared(&[lane("team", "a")]) }).await;
    assert!(unite(&bench, &*storage, &[seqs["a1"], seqs["b2"]], "a1+b2").await);
    delivered(&bench, &*storage, seqs["d8"]).await;
    due(&bench, &*storage, Room { in_all: 0, ..shared(&[lane("team", "d")]) }).await;
    assert_eq!(front(&bench, &*storage, seqs["d7"]).await, "d7 a1+b2 e9");
    let urgent = queue(&bench, &*storage, "third", "bb", 1).await;
    assert_eq!(front(&bench, &*storage, seqs["d7"]).await, "d7 e9");
    delivered(&bench, &*storage, urgent).await;
    assert!(unite(&bench, &*storage, &[seqs["d7"], seqs["a1"]], "d7+a1+b2").await);
    let begun = begin(&bench, &*storage, shared(&[])).await;
    assert_eq!(begun, ["c5", "d7+a1+b2", "e9"], "b3 waits for the one that has b2 in it");
}

async fn bindings_that_become_siblings_never_wait_in_a_circle(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut seqs = BTreeMap::new();
    for (binding, text) in [("team", "a1"), ("other", "b2"), ("team", "b3"), ("other", "a4")] {
        seqs.insert(text, queue(&bench, &*storage, binding, text, 0).await);
    }
    assert_eq!(begin(&bench, &*storage, room()).await.len(), 4);
    due(&bench, &*storage, Room { in_all: 0, running: vec![lane("team", "a"), lane("other", "b")], ..room() }).await;
    assert!(unite(&bench, &*storage, &[seqs["a1"], seqs["b3"]], "a1+b3").await);
    assert!(unite(&bench, &*storage, &[seqs["b2"], seqs["a4"]], "b2+a4").await);
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["a1+b3"]);
    delivered(&bench, &*storage, seqs["a1"]).await;
    assert_eq!(begin(&bench, &*storage, shared(&[])).await, ["b2+a4"]);
}

async fn one_conversation_among_many_that_wait_for_a_sibling_is_found(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let many = 3 * LOOKED_AT;
    let of = |binding: &str, number: usize| {
        let item = item(&format!("{binding} {number}"), &number.to_string());
        Item { event: Event { binding: binding.into(), ..item.event }, ..item }
    };
    for binding in ["team", "other"] {
        let items = (0..many).map(|number| of(binding, number)).collect();
        insert(&bench, &*storage, items).await.unwrap();
        bench.pass(1);
    }
    insert_one(&bench, &*storage, of("other", many)).await;
    // Something of the sibling is under way, and the rest waits for its robot.
    let closed = Room { by_binding: [("team".to_owned(), 0)].into(), ..shared(&[]) };
    let mut looks = 0;
    loop {
        looks += 1;
        assert!(looks < 9);
        let heads = due(&bench, &*storage, closed.clone()).await.heads;
        if let Some(head) = heads.first() {
            assert_eq!((data(&head.event), heads.len()), (format!("other {many}"), 1));
            break;
        }
    }
    // Those that have waited for longest are looked at with every look.
    let head = due(&bench, &*storage, Room { in_all: 1, ..shared(&[]) }).await.heads.remove(0);
    let is_found = |heads: &[crate::queue::store::Head], of: &Lane| heads.iter().any(|head| head.lane.1 == of.1);
    if head.lane.0 == "team" {
        delivered(&bench, &*storage, head.seq).await;
        assert!(is_found(&due(&bench, &*storage, closed).await.heads, &head.lane));
    }
}

/// A message, as whoever looks from outside knows it.
struct Letter {
    seq: i64,
    binding: &'static str,
    conversation: &'static str,
    rank: i64,
    /// Those that it stands for, itself among them.
    stands_for: Vec<usize>,
    is_over: bool,
}

async fn whatever_happens_the_order_is_kept_and_nothing_waits_for_ever(bench: Bench) {
    const CONVERSATIONS: [&str; 4] = ["a", "b", "c", "d"];
    let steps = if bench.address().is_some() { 400 } else { 4_000 };
    let storage = bench.open(Side::Outbox).await;
    let mut random = fastrand::Rng::with_seed(17);
    let mut letters: Vec<Letter> = Vec::new();
    let mut running: BTreeSet<usize> = BTreeSet::new();
    let (mut united, mut begun) = (0, 0);
    for step in 0..2 * steps {
        // In the end, nothing is added any more.
        let is_end = step >= steps;
        if is_end && letters.iter().all(|letter| letter.is_over) {
            break;
        }
        let lanes: Vec<Lane> =
            running.iter().map(|number| lane(letters[*number].binding, letters[*number].conversation)).collect();
        match random.u32(..10) {
            0..4 if !is_end => {
                let (binding, conversation) = (BINDINGS[random.usize(..3)], CONVERSATIONS[random.usize(..4)]);
                let (number, rank) = (letters.len(), [-1, 0, 0, 0, 1][random.usize(..5)]);
                let seq = queue(&bench, &*storage, binding, &format!("{conversation}{number}"), rank).await;
                letters.push(Letter { seq, binding, conversation, rank, stands_for: vec![number], is_over: false });
            }
            0..7 => {
                let room = Room { in_all: random.usize(1..3), turn: step, ..shared(&lanes) };
                for head in due(&bench, &*storage, room).await.heads {
                    let number = letters.iter().position(|letter| letter.seq == head.seq).unwrap();
                    let stands_for = letters[number].stands_for.clone();
                    for part in &stands_for {
                        let part = &letters[*part];
                        let comes_before = |other: &&Letter| {
                            !other.is_over
                                && other.conversation == part.conversation
                                && !stands_for.iter().any(|number| letters[*number].seq == other.seq)
                                && (-other.rank, other.seq) < (-part.rank, part.seq)
                        };
                        let before = letters.iter().find(comes_before);
                        assert!(before.is_none(), "step {step}: {} before {}", part.seq, before.unwrap().seq);
                    }
                    let own = &letters[number];
                    assert!(
                        running.iter().all(|other| letters[*other].conversation != own.conversation),
                        "step {step}"
                    );
                    running.insert(number);
                    begun += 1;
                    // Mostly, it becomes one with others.
                    if random.u32(..4) > 0 && head.attempts == 0 {
                        let front = storage.front(head.seq, 1, bench.now()).await.unwrap();
                        let seqs: Vec<i64> = front.into_iter().map(|(seq, _)| seq).collect();
                        let count = if seqs.len() < 2 { 0 } else { random.usize(2..=seqs.len()) };
                        if count > 1 && unite(&bench, &*storage, &seqs[..count], "all").await {
                            united += 1;
                            for seq in &seqs[1..count] {
                                let other = letters.iter().position(|letter| letter.seq == *seq).unwrap();
                                let parts = letters[other].stands_for.clone();
                                letters[number].stands_for.extend(parts);
                            }
                        }
                    }
                }
            }
            _ => {
                let Some(number) = random.choice(&running).copied() else { continue };
                running.remove(&number);
                if random.u32(..3) == 0 && !is_end {
                    failed(&bench, &*storage, letters[number].seq, random.u64(..3), false).await;
                } else {
                    delivered(&bench, &*storage, letters[number].seq).await;
                    // And what it stands for, which is in nobody's way any more.
                    for part in letters[number].stands_for.clone() {
                        letters[part].is_over = true;
                    }
                }
                bench.pass(1);
            }
        }
    }
    assert_eq!(storage.counts().await.unwrap().pending, 0);
    assert!(united > steps / 80 && begun > steps / 10, "{united} of {begun}");
}
