//! What 400,000 events cost: figures to be looked at, with `--ignored --nocapture`.

use super::*;

const EVENTS: u64 = 400_000;

/// Events of half a kibibyte, in so many conversations, all in one state.
fn filled(dir: &TempDir, conversations: u64, state: &str) -> Store {
    let limits = Limits { max_size: 4 << 30, ..Limits::default() };
    let store = Store::create(dir.path(), limits).unwrap();
    store
        .batch_for_test(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {EVENTS})
             INSERT INTO events (binding, msg_id, conversation, accepted_at, state, finished_at, metadata, trace, data)
             SELECT 'team', 'msg' || i, 'conversation' || i % {conversations}, i, '{state}',
                 CASE WHEN '{state}' <> 'pending' THEN i END, '[]', '[]', randomblob(512) FROM n;
             INSERT INTO lanes (binding, conversation, due)
             SELECT DISTINCT binding, conversation, 1 FROM events WHERE state = 'pending'; PRAGMA wal_checkpoint(TRUNCATE)"
        ))
        .unwrap();
    store
}

/// How long `work` takes, also the first time.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    println!("  {what}: {:.1} ms", begun.elapsed().as_secs_f64() * 1_000.0);
    result
}

fn room() -> crate::inbox::store::Room {
    let running = (0..32).map(|number| ("team".to_owned(), format!("conversation{number}"))).collect();
    crate::inbox::store::Room { in_all: 64, a_binding: 16, by_binding: [].into(), running, turn: 0 }
}

#[test]
#[ignore = "prints figures: some minutes"]
fn what_400_000_events_cost() {
    for conversations in [1, 1_000, EVENTS] {
        println!("{EVENTS} pending in {conversations} conversations");
        let dir = TempDir::new().unwrap();
        let now = EVENTS + 1;
        drop(filled(&dir, conversations, "pending"));
        let limits = Limits { max_size: 4 << 30, ..Limits::default() };
        let store = timed("start", || Store::create(dir.path(), limits).unwrap());
        timed("wake_all", || store.transaction(|store| store.wake_all(now)).unwrap());
        timed("wake", || store.transaction(|store| store.wake(now)).unwrap());
        for _ in 0..2 {
            timed("due", || store.transaction(|store| store.due(&room(), now)).map(|due| due.heads.len()).unwrap());
        }
        timed("due after the clock was set back by a year", || {
            store.transaction(|store| store.due(&room(), 0)).map(|_| ()).unwrap_or(())
        });
        timed("counts", || store.transaction(Store::counts).unwrap());
        for number in 0..2 {
            let event = event(&format!("new{number}"), "conversation0");
            timed("insert", || store.transaction(|store| store.insert(&event, now)).map(|_| ()).unwrap());
        }
        timed("delivered", || store.transaction(|store| store.delivered(1, None, now)).unwrap());
        timed("failed", || store.transaction(|store| store.failed(2, "no", now + 9, true, now)).unwrap());
        let operator = operator(&dir);
        let list = |states: &[State], most: usize| {
            let mut seen = 0;
            let _ = operator.list(&Listing { states: states.to_vec(), binding: None, content: false }, |_| {
                seen += 1;
                if seen < most { Ok(()) } else { Err(io::Error::other("enough")) }
            });
        };
        timed("list: the first page", || list(&[State::Pending, State::Dead], 100));
        timed("list: all of it", || list(&[State::Pending, State::Dead], usize::MAX));
        timed("list: no dead one", || list(&[State::Dead], usize::MAX));
        timed("drop one", || operator.drop_events(&Selection::Seqs(vec![200_000])).unwrap());
        let old = Limits::default().max_age_ms() + now * 2;
        timed("expire: a step", || store.transaction(|store| store.expire(old)).unwrap());
        timed("expire: a step", || store.transaction(|store| store.expire(old)).unwrap());
        for state in ["dead", "delivered"] {
            let dir = TempDir::new().unwrap();
            let store = filled(&dir, conversations, state);
            println!("{EVENTS} {state} in {conversations} conversations");
            timed("counts", || store.transaction(Store::counts).unwrap());
            if state == "delivered" {
                for _ in 0..2 {
                    timed("purge: a step", || store.transaction(|store| store.purge(u64::MAX)).unwrap());
                }
                continue;
            }
            for action in ["retry", "drop"] {
                let beside = Store::create(dir.path(), limits).unwrap();
                let done = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let store = beside;
                    let done = &done;
                    let inserts = scope.spawn(move || {
                        let (mut times, mut refused) = (Vec::new(), 0);
                        while !done.load(Ordering::SeqCst) && times.len() < 100_000 {
                            let begun = Instant::now();
                            store.prepare(2_000);
                            let event = event(&format!("{action}{}", times.len()), "beside");
                            refused += usize::from(store.transaction(|store| store.insert(&event, now)).is_err());
                            times.push(begun.elapsed());
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        times.sort();
                        (times.len(), refused, times[times.len() / 2], times[times.len() - 1])
                    });
                    let operator = Operator::open(dir.path(), clock::system()).unwrap();
                    if action == "retry" {
                        timed("retry --all", || operator.retry(&Selection::All).unwrap());
                        store_dead(&operator);
                    } else {
                        timed("drop --all", || operator.drop_events(&Selection::All).unwrap());
                    }
                    done.store(true, Ordering::SeqCst);
                    println!("  inserts beside it (number, refused, median, longest): {:?}", inserts.join().unwrap());
                });
            }
        }
    }
}

/// What was put back is dead again.
fn store_dead(operator: &Operator) {
    operator.store_for_test().batch_for_test("UPDATE events SET state = 'dead' WHERE state = 'pending' AND seq <= 400000; DELETE FROM lanes WHERE conversation <> 'beside'").unwrap();
}
