//! How many messages are on disk in a second: figures to be looked at, with `--ignored --nocapture`.

use tokio::time::Instant;

use super::*;

const MESSAGES: usize = 20_000;

/// Messages of half a kibibyte, each told to be stored before its sender goes on to the next.
async fn accepted(senders: usize, is_posting: bool) {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    if is_posting {
        outbox.start(Arc::new(Robot::new(|_, _| Err(Kind::Held(Duration::from_secs(60))))));
    }
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..senders {
        let outbox = outbox.clone();
        tasks.spawn(async move {
            for number in 0..MESSAGES / senders {
                let text = format!("{sender}/{number}");
                let body = Bytes::from(format!("{text}{}", "x".repeat(512)));
                let conversation = sender.to_string();
                let queued = outbox.accept(vec![Message { body, conversation, ..message(&text) }]).await.unwrap();
                assert!(matches!(queued[..], [Queued::New(_)]));
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let rate = MESSAGES as f64 / begun.elapsed().as_secs_f64();
    println!("{senders} at once, {}: {rate:.0} messages a second", if is_posting { "held" } else { "not posted" });
    outbox.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures: a minute"]
async fn how_many_messages_are_accepted_in_a_second() {
    for senders in [1, 16, 64, 256] {
        for is_posting in [false, true] {
            accepted(senders, is_posting).await;
        }
    }
}
