//! What it costs: figures to be looked at, with `--ignored --nocapture`.

use std::time::Instant;

use super::*;
use crate::gate::ledger::Ledger;
use crate::gate::ledger::{Claimed, Intent};
use crate::gate::lesson::Lesson;
use crate::queue::tests::ledger::intent;

const AT_ONCE: u64 = 16;

async fn per_second<F: Future<Output = ()> + Send + 'static>(
    what: &str,
    work: impl Fn(u64, u64) -> F + Clone + Send + 'static,
) {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..AT_ONCE {
        let work = work.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while begun.elapsed() < Duration::from_secs(5) {
                work(task, done).await;
                done += 1;
            }
            done
        });
    }
    let done: u64 = tasks.join_all().await.into_iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    println!("  {what}: {rate:.0}/s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures: half a minute"]
async fn what_sixteen_at_once_get_done() {
    for bench in [Some(Bench::files()), Bench::database().await].into_iter().flatten() {
        let name = if bench.address().is_some() { "PostgreSQL" } else { "SQLite" };
        let now = bench.now();
        let storage = bench.open(Side::Inbox).await;
        let shared = Arc::clone(&storage);
        per_second(&format!("{name}: inserts"), move |task, number| {
            let storage = Arc::clone(&shared);
            async move {
                let item = item(&format!("{task} {number}"), &format!("{task} {}", number % 100));
                storage.insert(vec![item], now, Box::new(drop)).await.unwrap();
            }
        })
        .await;
        let begun = Instant::now();
        let mut taken = 0_u64;
        while begun.elapsed() < Duration::from_secs(5) {
            let mut ends = tokio::task::JoinSet::new();
            for head in storage.due(room(), now).await.unwrap().heads {
                let storage = Arc::clone(&storage);
                taken += 1;
                ends.spawn(async move { storage.end(head.seq, End::Delivered(None), now).await.unwrap() });
            }
            ends.join_all().await;
        }
        println!("  {name}: due and end, 16 at once: {}/s", taken / 5);
        let ledger = bench.ledger().await;
        for robots in [1_u8, 16] {
            let ledger = Arc::clone(&ledger);
            per_second(&format!("{name}: claims and ends, {robots} robots"), move |task, _| {
                let ledger: Arc<dyn Ledger> = Arc::clone(&ledger);
                async move {
                    let robot = [u8::try_from(task).unwrap() % robots; 32];
                    let intent = Intent { robot, ..intent("0", None, 1) };
                    let Claimed { posts, .. } = ledger.claim(intent).await.unwrap();
                    posts.into_iter().for_each(|post| ledger.end(post, &Lesson::Unsent));
                }
            })
            .await;
        }
    }
}

#[tokio::test]
#[ignore = "prints figures: some minutes"]
async fn what_400_000_events_cost() {
    let Some(bench) = Bench::database().await else { return };
    let bench = bench.with_limits(Limits { max_size: 4 << 30, ..Limits::default() });
    plans::fill(&bench, 400_000);
    let events = bench.events(Side::Outbox).await;
    let busy =
        || crate::queue::store::Room { running: (0..32).map(|n| ("b1".to_owned(), n.to_string())).collect(), ..room() };
    for _ in 0..3 {
        let begun = Instant::now();
        let count = due(&bench, &events, busy()).await.heads.len();
        println!("  due: {count} heads in {:?}", begun.elapsed());
    }
    for what in ["insert", "insert", "counts", "oldest", "tidy"] {
        let begun = Instant::now();
        match what {
            "insert" => drop(add(&bench, &events, &format!("{begun:?}"), "c").await),
            "counts" => drop(events.counts().await.unwrap()),
            "oldest" => drop(events.oldest().await.unwrap()),
            _ => drop(events.tidy(0).await.unwrap()),
        }
        println!("  {what}: {:?}", begun.elapsed());
    }
    let now = bench.now();
    bench.sql(&format!(
        "INSERT INTO events (side, binding, msg_id, msg_key, conversation, lane, rank, accepted_at, state, metadata, trace, data,
             digest, size)
         SELECT 1, 'stuck', i::text::bytea, sha256(i::text::bytea), 'c', sha256('c'), 0, {now}, 'pending', '[]', '[]',
             repeat('x', 500)::bytea, sha256('x'), 1000 FROM generate_series(1, 400000) AS i;
         INSERT INTO lanes (side, binding, lane, conversation, due, rank) VALUES (1, 'stuck', sha256('c'), 'c', {now}, 0)"
    ));
    let mut seqs = Vec::new();
    for number in 0..50 {
        let event =
            crate::event::Event { binding: "stuck".into(), ..item(&format!("s{number}"), &format!("{number}")).event };
        let Stored::New(seq) = insert_one(&bench, &events, Item::received(event)).await else { panic!("new") };
        seqs.push(seq);
    }
    let running = vec![("stuck".to_owned(), "0".to_owned()), ("stuck".to_owned(), "c".to_owned())];
    due(&bench, &events, Room { running, by_binding: [("stuck".to_owned(), 0)].into(), ..room() }).await;
    for _ in 0..3 {
        let begun = Instant::now();
        let count = events.front(seqs[0], 20, 0).await.unwrap().len();
        println!("  front, beside 400,000 of a conversation that is under way: {count} in {:?}", begun.elapsed());
    }
    bench.pass(Limits::default().max_age_ms() + 1);
    let begun = Instant::now();
    println!("  tidy, a step of what is too old: {:?} {:?}", events.tidy(0).await.unwrap(), begun.elapsed());
}
