//! Dead messages of an outbox: told of until somebody has said so, and not again.

use super::*;
use crate::queue::Selection;
use crate::queue::outbox::DeadLetter;

over_both! {
    what_a_message_dies_of_is_told_with_all_that_there_is_of_it,
    what_was_told_is_not_told_again_unless_it_dies_again,
    the_inbox_tells_of_nothing,
}

async fn letters(storage: &dyn Storage, except: &[&str]) -> Vec<DeadLetter> {
    storage.letters(except.iter().map(|&name| name.to_owned()).collect()).await.unwrap()
}

fn seqs(letters: &[DeadLetter]) -> Vec<i64> {
    letters.iter().map(|letter| letter.seq).collect()
}

async fn dies(bench: &Bench, storage: &dyn Storage, seq: i64) {
    end(bench, storage, seq, End::Refused("no\0".into())).await;
}

/// A host that tells of something has two minutes for it, if there are others.
fn pass_telling(bench: &Bench) {
    bench.pass(120_001);
}

async fn what_a_message_dies_of_is_told_with_all_that_there_is_of_it(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let refused = add(&bench, &*storage, "refused", "a").await;
    let late = Item { expires_at: Some(bench.now() + 500), ..item("late", "b") };
    let Stored::New(late) = insert_one(&bench, &*storage, late).await else { panic!("it is new") };
    add(&bench, &*storage, "waits", "c").await;
    assert_eq!(letters(&*storage, &[]).await, []);
    failed(&bench, &*storage, refused, 0, false).await;
    dies(&bench, &*storage, refused).await;
    let died_at = bench.now();
    bench.pass(1_000);
    while storage.tidy(bench.now()).await.unwrap().more {}
    let told = letters(&*storage, &[]).await;
    assert_eq!(seqs(&told), [refused, late]);
    let DeadLetter { binding, uuid, reason, attempts, body, metadata, trace, .. } = &told[0];
    assert_eq!((binding.as_str(), uuid.as_deref(), *attempts), ("team", Some("refused"), 2));
    assert_eq!(reason.trim_end_matches(['\0', '\u{fffd}']), "no");
    assert_eq!(body.as_deref(), Some(&b"refused"[..]));
    assert_eq!((metadata, trace), (&event("refused", "a").metadata, &event("refused", "a").trace));
    // Its clock may go on while the test runs.
    assert!((died_at..died_at + 1_000).contains(&told[0].died_at), "{} {died_at}", told[0].died_at);
    assert!(told[1].reason.contains("expires"), "{}", told[1].reason);
    // DingTalk takes 20,000 bytes: what is far longer is told of without them.
    let long = insert_one(&bench, &*storage, item(&"x".repeat((1 << 20) + 1), "d")).await;
    let Stored::New(long) = long else { panic!("it is new") };
    dies(&bench, &*storage, long).await;
    let told = letters(&*storage, &[]).await;
    assert_eq!(told.iter().find(|letter| letter.seq == long).unwrap().body, None);
}

async fn what_was_told_is_not_told_again_unless_it_dies_again(bench: Bench) {
    let storage = bench.open(Side::Outbox).await;
    let mut all = Vec::new();
    for number in ["1", "2", "3"] {
        let seq = add(&bench, &*storage, number, number).await;
        dies(&bench, &*storage, seq).await;
        all.push(seq);
    }
    let told = letters(&*storage, &[]).await;
    assert_eq!(seqs(&told), all);
    pass_telling(&bench);
    assert_eq!(letters(&*storage, &["team"]).await, []);
    assert_eq!(seqs(&letters(&*storage, &["gone", "x\"y"]).await), all, "nobody has said that they are told");
    storage.told(all[2], told[2].died_at).await.unwrap();
    pass_telling(&bench);
    assert_eq!(seqs(&letters(&*storage, &[]).await), all[..2]);
    // It is put back and dies once more, while its first end is being told.
    bench.operator(Side::Outbox).retry(&Selection::Seqs(vec![all[0], all[2]])).unwrap();
    bench.pass(1_000);
    for seq in [all[0], all[2]] {
        dies(&bench, &*storage, seq).await;
    }
    storage.told(all[0], told[0].died_at).await.unwrap();
    pass_telling(&bench);
    assert_eq!(seqs(&letters(&*storage, &[]).await), all);
}

async fn the_inbox_tells_of_nothing(bench: Bench) {
    let storage = bench.open(Side::Inbox).await;
    let seq = add(&bench, &*storage, "1", "c").await;
    dies(&bench, &*storage, seq).await;
    assert_eq!(letters(&*storage, &[]).await, []);
}
