//! Insertions that are committed together.

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::super::pool::Session;
use super::*;
use crate::queue::QueueError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_at_once_is_committed_together_and_each_has_an_answer_of_its_own() {
    let Some(bench) = Bench::database().await else { return };
    let events = bench.events(Side::Outbox).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..60 {
        let (events, now) = (events.clone(), bench.now());
        tasks.spawn(async move {
            let (sender, stored) = oneshot::channel();
            // Every third one is a repetition, and every tenth one has the identifier of another message.
            let mut item = item(&format!("{}", number - u32::from(number % 3 == 2)), "c");
            if number % 10 == 9 {
                item.id = Some("0".into());
            }
            let (data, id) = (data(&item.event), item.id.clone().unwrap());
            let result = events.insert(vec![item], now, Box::new(|stored| drop(sender.send(stored)))).await;
            (data, id, result.map(|()| stored))
        });
    }
    let (mut new, mut refused) = (HashMap::new(), 0);
    let mut known = Vec::new();
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            (data, id, Err(QueueError::OtherBody { .. })) => {
                assert!(id == "0" && data != "0" || id == data, "{id} {data}");
                refused += 1;
            }
            (_, id, Ok(stored)) => match stored.await.unwrap()[..] {
                [Stored::New(seq)] => assert_eq!(new.insert(id, seq), None),
                [Stored::Pending(seq)] => known.push((id, seq)),
                ref other => panic!("{other:?}"),
            },
            (_, _, Err(error)) => panic!("{error}"),
        }
    }
    assert!(known.iter().all(|(id, seq)| new[id] == *seq), "{known:?} {new:?}");
    assert!(refused >= 5, "{refused}");
    let rows: usize = bench.sql("SELECT count(*) FROM events").parse().unwrap();
    assert_eq!(rows, new.len());
    let transactions: usize = bench.sql("SELECT count(DISTINCT xmin::text) FROM events").parse().unwrap();
    assert!(transactions < rows / 2, "{transactions} for {rows}");
    // In the order in which they are numbered, and nothing is left of the groups.
    let order = bench.sql("SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM events WHERE state = 'pending'");
    assert_eq!(order.split(' ').count(), rows);
    assert!(events.0.groups.lock().unwrap().is_empty() && events.inserting().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_that_is_held_up_holds_up_no_other() {
    let Some(bench) = Bench::database().await else { return };
    let events = bench.events(Side::Outbox).await;
    add(&bench, &events, "1", "held").await;
    let (sender, release) = oneshot::channel::<()>();
    let (ready, is_held) = oneshot::channel();
    let database = Database::open(&bench.address().unwrap(), bench.clock()).await.unwrap();
    let holder = tokio::spawn(async move {
        let hold = async |session: Session| {
            session.batch_execute("BEGIN; SELECT FROM lanes FOR UPDATE").await?;
            ready.send(()).unwrap();
            release.await.unwrap();
            session.batch_execute("ROLLBACK").await?;
            session.done();
            Ok(())
        };
        database.run(hold).await
    });
    is_held.await.unwrap();
    let waiting = {
        let (events, item, now) = (events.clone(), item("2", "held"), bench.now());
        tokio::spawn(async move { events.insert(vec![item], now, Box::new(drop)).await })
    };
    until("it waits", async || !events.0.groups.lock().unwrap().is_empty()).await;
    add(&bench, &events, "3", "free").await;
    assert!(!holder.is_finished());
    sender.send(()).unwrap();
    // Or the lock has taken too long, where the machine is busy.
    let _ = waiting.await.unwrap();
    holder.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_loses_nothing() {
    let Some(bench) = Bench::database().await else { return };
    let events = bench.events(Side::Outbox).await;
    let (called, stored) = std::sync::mpsc::channel();
    for number in 0..20 {
        let (events, item, now, called) = (events.clone(), item(&number.to_string(), "c"), bench.now(), called.clone());
        let then = Box::new(move |_| called.send(()).unwrap());
        let mut insertion = Box::pin(async move { events.insert(vec![item], now, then).await });
        // It is begun, and nobody waits for its end.
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut insertion).await;
    }
    drop(called);
    // Ends when the last of them has been called, or is gone.
    let called = tokio::task::spawn_blocking(move || stored.iter().count()).await.unwrap();
    let rows: usize = bench.sql("SELECT count(*) FROM events").parse().unwrap();
    assert_eq!(called, rows);
    assert!(rows > 0);
}
