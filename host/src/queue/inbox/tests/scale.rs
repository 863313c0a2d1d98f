//! What 400,000 events cost: figures to be looked at, with `--ignored --nocapture`.

use super::*;

const EVENTS: u64 = 400_000;

/// Events of half a kibibyte, in so many conversations, all in one state.
fn filled(dir: &TempDir, events: u64, conversations: u64, state: &str) -> Store {
    let limits = Limits { max_size: 4 << 30, ..Limits::default() };
    let store = Store::create(Side::Inbox, dir.path(), limits).unwrap();
    store
        .batch_for_test(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events})
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

fn room() -> crate::queue::store::Room {
    let running = (0..32).map(|number| ("team".to_owned(), format!("conversation{number}"))).collect();
    crate::queue::store::Room { in_all: 64, a_binding: 16, running, ..Default::default() }
}

#[test]
#[ignore = "prints figures: some minutes"]
fn what_400_000_events_cost() {
    for conversations in [1, 1_000, EVENTS] {
        println!("{EVENTS} pending in {conversations} conversations");
        let dir = TempDir::new().unwrap();
        let now = EVENTS + 1;
        drop(filled(&dir, EVENTS, conversations, "pending"));
        let limits = Limits { max_size: 4 << 30, ..Limits::default() };
        let store = timed("start", || Store::create(Side::Inbox, dir.path(), limits).unwrap());
        timed("wake_all", || store.transaction(|store| store.wake_all(now)).unwrap());
        timed("wake", || store.transaction(|store| store.wake(now)).unwrap());
        for _ in 0..2 {
            timed("due", || store.transaction(|store| store.due(&room(), now)).map(|due| due.heads.len()).unwrap());
        }
        store.batch_for_test("UPDATE lanes SET due = 9e12").unwrap();
        timed("due after the clock was set back", || {
            store.transaction(|store| store.due(&room(), now)).map(drop).unwrap()
        });
        timed("counts", || store.transaction(Store::counts).unwrap());
        for number in 0..2 {
            let event = event(&format!("new{number}"), "conversation0");
            timed("insert", || {
                store.transaction(|store| store.insert(&Item::received(event.clone()), now)).map(|_| ()).unwrap()
            });
        }
        timed("delivered", || store.transaction(|store| store.delivered(1, None, now)).unwrap());
        timed("failed", || store.transaction(|store| store.failed(2, "no", now + 9, true, now)).unwrap());
        let operator = operator(&dir);
        let list = |states: &[State], most: usize| {
            let mut seen = 0;
            let _ =
                operator.list(&Listing { states: states.to_vec(), binding: None, content: false, seq: None }, |_| {
                    seen += 1;
                    if seen < most { Ok(()) } else { Err(std::io::Error::other("enough")) }
                });
        };
        timed("list: the first page", || list(&[State::Pending, State::Dead], 100));
        timed("list: all of it", || list(&[State::Pending, State::Dead], usize::MAX));
        timed("list: no dead one", || list(&[State::Dead], usize::MAX));
        timed("drop one", || operator.drop_events(&Selection::Seqs(vec![200_000])).unwrap());
        store.batch_for_test("UPDATE lanes SET due = 9e12, suffers = 1").unwrap();
        timed("wake_all, all due later: a step", || store.transaction(|store| store.wake_all(now)).unwrap());
        timed("wake, all due later: a step", || store.transaction(|store| store.wake(now)).unwrap());
        let old = Limits::default().max_age_ms() + now * 2;
        timed("expire: a step", || store.transaction(|store| store.expire(old)).unwrap());
        timed("expire: a step", || store.transaction(|store| store.expire(old)).unwrap());
        for state in ["dead", "delivered"] {
            let dir = TempDir::new().unwrap();
            // A tenth to be put back and dropped: that takes as long as there are events.
            let events = if state == "dead" { EVENTS / 10 } else { EVENTS };
            let store = filled(&dir, events, conversations, state);
            println!("{events} {state} in {conversations} conversations");
            timed("counts", || store.transaction(Store::counts).unwrap());
            if state == "delivered" {
                for _ in 0..2 {
                    timed("purge: a step", || store.transaction(|store| store.purge(u64::MAX)).unwrap());
                }
                continue;
            }
            for action in ["retry", "drop"] {
                let beside = Store::create(Side::Inbox, dir.path(), limits).unwrap();
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
                            refused += usize::from(
                                store.transaction(|store| store.insert(&Item::received(event.clone()), now)).is_err(),
                            );
                            times.push(begun.elapsed());
                            std::thread::sleep(Duration::from_millis(20));
                        }
                        times.sort();
                        (times.len(), refused, times[times.len() / 2], times[times.len() - 1])
                    });
                    let operator = Operator::open(Side::Inbox, dir.path(), clock::system()).unwrap();
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

/// Whatever is done to a store reads what it needs by an index, however much else is there. Exceptions: counts are read
/// from the smallest index that has them, all dead ones from theirs if they are asked for, and a name that makes no sense is looked for among all lanes.
#[test]
fn no_statement_reads_all_events() {
    let dir = TempDir::new().unwrap();
    let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
    for (number, conversation) in ["c", "c", "c", "d", "e", "f"].iter().enumerate() {
        assert!(store.insert(&Item::received(event(&number.to_string(), conversation)), 1).is_ok());
    }
    assert!(store.insert(&Item::received(event("0", "c")), 1).is_ok());
    store.delivered(1, Some(b"reply"), 2).unwrap();
    store.forget_reply(1).unwrap();
    store.failed(2, "no", 50_000, true, 2).unwrap();
    store.refused(4, "no", 2).unwrap();
    store
        .batch_for_test(
            "UPDATE events SET data = 7 WHERE seq = 5; UPDATE lanes SET conversation = x'ff' WHERE conversation = 'f'",
        )
        .unwrap();
    store.wake(3).unwrap();
    store.wake_all(3).unwrap();
    store.due(&room(), 3).map(drop).unwrap();
    store.counts().unwrap();
    store.prepare(3 << 20);
    store.drop_events(&Selection::Seqs(vec![2]), 4).unwrap();
    assert_eq!(store.retry(&Selection::All, 4), Ok(2));
    assert!(store.expire(1 << 40).unwrap() > 0 && store.purge(1 << 40).unwrap());
    let (operator, mut shown) = (operator(&dir), 0);
    for states in [&ALL[..], &ALL[..1], &ALL[1..2]] {
        let listing = Listing { states: states.to_vec(), binding: None, content: true, seq: None };
        operator
            .list(&listing, |_| {
                shown += 1;
                Ok(())
            })
            .unwrap()
            .unwrap();
    }
    assert!(shown > 0);
    let plans = [store.plans(), operator.store_for_test().plans()].concat();
    assert!(plans.len() > 30, "{}", plans.len());
    for (sql, plan) in plans {
        for step in &plan {
            let is_count = sql.starts_with("SELECT count(*) FROM events INDEXED BY");
            let is_all_dead = sql == "SELECT seq FROM events WHERE state = 'dead' ORDER BY seq";
            let is_search_for_names = sql == "SELECT id, binding, conversation FROM lanes";
            let reads_all =
                step.contains("SCAN") && !["SCAN names", "SCAN growth", "SCAN CONSTANT ROW"].contains(&step.as_str());
            assert!(!reads_all || is_count || is_all_dead || is_search_for_names, "{step}: {sql}");
            assert!(!step.contains("TEMP B-TREE"), "{step}: {sql}");
        }
        let is_list_of_dead = sql.contains("(state = 'dead')");
        assert!(!is_list_of_dead || plan.concat().contains("INDEX events_dead (seq>?)"), "{plan:?}: {sql}");
        let is_events_by_condition = sql.starts_with("SELECT seq, length(data)") && !sql.contains("WHERE seq");
        assert!(!is_events_by_condition || plan.concat().contains("USING INDEX"), "{plan:?}: {sql}");
    }
}
