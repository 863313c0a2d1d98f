//! What an inbox may take: of a volume that is full, of its limits, and of a store that is damaged or old.

use super::*;

fn large(number: u64) -> Event {
    let zeros = "0".repeat(100_000);
    Event { data: format!("{zeros}{number}").into(), ..event(&format!("large {number}"), "c") }
}

async fn limit_pages(inbox: &Inbox, more: Option<i64>) {
    inbox.writer().unwrap().run(move |store| store.limit_pages(more)).await.unwrap();
}

async fn number(inbox: &Inbox, sql: &'static str) -> i64 {
    inbox.writer().unwrap().run(move |store| store.number_for_test(sql)).await.unwrap()
}

async fn change(inbox: &Inbox, sql: &'static str) {
    inbox.writer().unwrap().run(move |store| store.batch_for_test(sql)).await.unwrap();
}

/// Stores large events until one is refused; how many, and why.
async fn fill(inbox: &Inbox) -> (u64, QueueError) {
    for number in 0..10_000 {
        if let Err(error) = inbox.accept(large(number)).await {
            return (number, error);
        }
    }
    panic!("it is never full");
}

/// Stores an event as soon as there is room.
async fn accept_soon(inbox: &Inbox, event: &Event) -> Accepted {
    for _ in 0..2_000 {
        match inbox.accept(event.clone()).await {
            Ok(accepted) => return accepted,
            Err(QueueError::Full { .. } | QueueError::Limit { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is never room");
}

#[tokio::test]
async fn a_full_volume_is_told_and_a_healthy_application_empties_the_inbox_without_more_space() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    limit_pages(&inbox, Some(0)).await;
    let (count, error) = fill(&inbox).await;
    assert!(count > 1 && matches!(error, QueueError::Full { .. }), "{count} {error}");
    let said = error.to_string();
    assert!(said.contains("inbox.sqlite") && said.contains("no space is left; free some"), "{said}");
    // What is refused does not take with it what fits.
    let (failed, fits) = tokio::join!(inbox.accept(large(count)), inbox.accept(event("small", "c")));
    assert_eq!((failed.unwrap_err(), fits.unwrap().is_repeated()), (error, false));
    // Nothing that is left is free for events; marks have it.
    assert!(number(&inbox, "PRAGMA freelist_count").await >= 256);
    let app = App::deciding(|data, times| if data == "small" && times < 2 { Err(status(500)) } else { Ok(None) });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken().len() as u64, count + 1);
    accept_soon(&inbox, &large(count)).await;
    inbox.stop().await;
}

#[tokio::test]
async fn on_a_full_volume_the_operator_can_drop_and_retry_what_is_dead() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    limit_pages(&inbox, Some(0)).await;
    let (count, _) = fill(&inbox).await;
    let app = App::deciding(|data, _| if data.ends_with('1') { Ok(None) } else { Err(status(400)) });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until("all are tried", || app.seen() as u64 == count).await;
    until_counts(&inbox, 0, count - app.taken().len() as u64).await;
    limit_pages(&inbox, Some(0)).await;
    let operator = operator(&dir);
    assert_eq!(operator.retry(&Selection::Seqs(vec![1])), Ok(1));
    until("it was tried again", || app.seen() as u64 == count + 1).await;
    until_counts(&inbox, 0, count - app.taken().len() as u64).await;
    assert!(operator.drop_events(&Selection::All).unwrap() > 0);
    assert_eq!(inbox.counts().await.unwrap(), Counts { pending: 0, dead: 0 });
    accept_soon(&inbox, &large(count)).await;
}

#[tokio::test]
async fn a_reply_never_takes_the_space_that_marks_need() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    limit_pages(&inbox, Some(0)).await;
    for number in 0..20 {
        inbox.accept(event(&number.to_string(), "c")).await.unwrap();
    }
    let deliver = |store: &crate::queue::store::Store| {
        (1..=20).try_for_each(|seq| store.delivered(seq, Some(&vec![b'r'; 200_000]), 1))
    };
    inbox.writer().unwrap().run(deliver).await.unwrap();
    assert_eq!(inbox.counts().await.unwrap(), Counts { pending: 0, dead: 0 });
    let kept = number(&inbox, "SELECT count(*) FROM events WHERE reply IS NOT NULL").await;
    assert!((1..20).contains(&kept), "{kept}: as many as there is room for");
    assert!(number(&inbox, "PRAGMA freelist_count").await >= 256);
}

#[tokio::test]
async fn the_inbox_grows_to_its_limit_and_no_further() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { max_size: 12 << 20, ..Limits::default() };
    let inbox = Inbox::open(dir.path(), clock::system(), limits).unwrap();
    let (count, error) = fill(&inbox).await;
    assert!(count > 20 && matches!(error, QueueError::Limit { max_size: 12_582_912, .. }), "{count} {error}");
    assert!(error.to_string().contains("--inbox-max-size"), "{error}");
    let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
    let total = size("inbox.sqlite") + size("inbox.sqlite-wal") + size("inbox.sqlite-shm");
    // The index of the journal is not counted.
    assert!(total <= limits.max_size + (1 << 20), "{total}");
    let app = App::echo();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 0, 0).await;
    accept_soon(&inbox, &large(count)).await;
}

#[tokio::test]
async fn the_journal_is_as_long_after_the_end_as_before_and_holds_nothing() {
    let dir = TempDir::new().unwrap();
    let journal = dir.path().join("inbox.sqlite-wal");
    let inbox = open(&dir);
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), 4 << 20);
    inbox.accept(event("S3CR3T", "c")).await.unwrap();
    inbox.stop().await;
    assert_eq!(std::fs::read(&journal).unwrap(), vec![0; 4 << 20]);
    assert_eq!(open(&dir).counts().await.unwrap().pending, 1);
}

#[tokio::test]
async fn what_is_not_taken_for_too_long_is_dead_and_has_another_time_after_a_retry() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let limits = Limits { max_age: Duration::from_secs(3_600), ..Limits::default() };
    let inbox = Inbox::open(dir.path(), Arc::clone(&clock), limits).unwrap();
    inbox.accept(event("old", "c")).await.unwrap();
    now.fetch_add(3_600_000, Ordering::SeqCst);
    inbox.accept(event("new", "c")).await.unwrap();
    let app = App::deciding(|data, times| if data == "new" && times > 1 { Ok(None) } else { Err(down()) });
    let expire = || async {
        let moment = now.load(Ordering::SeqCst);
        inbox.writer().unwrap().run(move |store| store.expire(moment)).await.unwrap()
    };
    assert_eq!(expire().await, 0, "not before its time");
    now.fetch_add(1, Ordering::SeqCst);
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 1, 1).await;
    let dead = listed(&operator(&dir), &[State::Dead]);
    assert_eq!((dead.len(), dead[0].msg_id.as_deref()), (1, Some("old")));
    assert!(dead[0].last_error.as_ref().unwrap().contains("--inbox-max-age"), "{:?}", dead[0].last_error);
    let operator = Operator::open(Side::Inbox, dir.path(), clock).unwrap();
    assert_eq!(operator.retry(&Selection::All), Ok(1));
    assert_eq!(expire().await, 0);
    now.fetch_add(3_600_001, Ordering::SeqCst);
    assert!(expire().await >= 1);
}

#[tokio::test]
async fn what_is_damaged_and_too_old_keeps_nothing_else_from_being_set_aside_and_removed() {
    let damages = [
        "UPDATE events SET conversation = x'ff' WHERE msg_id = 'bad'",
        "UPDATE events SET conversation = CAST(x'ff' AS TEXT), binding = 7.5 WHERE msg_id = 'bad'",
        "UPDATE events SET data = 7, metadata = x'ff', trace = 1, attempts = 'many' WHERE msg_id = 'bad'",
    ];
    for damage in damages {
        let dir = TempDir::new().unwrap();
        let (now, clock) = still();
        let inbox = Inbox::open(dir.path(), Arc::clone(&clock), Limits::default()).unwrap();
        for data in ["bad", "good"] {
            inbox.accept(event(data, data)).await.unwrap();
        }
        change(&inbox, damage).await;
        // Not even tried: the application is down for as long as that.
        now.fetch_add(Limits::default().max_age_ms() + 1, Ordering::SeqCst);
        let moment = clock();
        let expired = inbox.writer().unwrap().run(move |store| store.expire(moment)).await;
        assert_eq!(expired, Ok(2), "{damage}");
        let dead = listed(&operator(&dir), &[State::Dead]);
        let shown: Vec<_> = dead.iter().map(|entry| (entry.seq, entry.msg_id.as_deref())).collect();
        assert_eq!(shown, [(1, Some("bad")), (2, Some("good"))], "{damage}");
        // The operator can do to it what is done to others.
        let operator = Operator::open(Side::Inbox, dir.path(), clock).unwrap();
        assert_eq!(operator.retry(&Selection::All), Ok(2), "{damage}");
        inbox.start(App::echo());
        until_counts(&inbox, 0, 1).await;
        assert_eq!(operator.drop_events(&Selection::Seqs(vec![1])), Ok(1), "{damage}");
        until_counts(&inbox, 0, 0).await;
        inbox.stop().await;
    }
}

/// Destroys the middle of what the data of a [`large`] event are in, all of which are `byte`.
fn destroy_data(dir: &TempDir, byte: u8) {
    let file = dir.path().join("inbox.sqlite");
    let mut bytes = std::fs::read(&file).unwrap();
    let is_its = |page: &usize| bytes[page * 4_096 + 4..][..4_000].iter().all(|other| *other == byte);
    let pages: Vec<usize> = (0..bytes.len() / 4_096).filter(is_its).collect();
    let middle = pages[pages.len() / 2] * 4_096;
    bytes[middle..middle + 4_096].fill(0xA5);
    std::fs::write(&file, &bytes).unwrap();
}

#[tokio::test]
async fn events_on_damaged_pages_that_are_too_old_keep_nothing_else_from_being_set_aside_and_removed() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let inbox = Inbox::open(dir.path(), Arc::clone(&clock), Limits::default()).unwrap();
    inbox.accept(event("delivered", "d")).await.unwrap();
    let moment = clock();
    inbox.writer().unwrap().run(move |store| store.delivered(1, None, moment)).await.unwrap();
    for byte in ["0", "1"] {
        let damaged = Event { data: byte.repeat(100_000).into(), ..event(byte, byte) };
        inbox.accept(damaged).await.unwrap();
        for number in 0..3 {
            inbox.accept(event(&format!("{byte} {number}"), &number.to_string())).await.unwrap();
        }
    }
    inbox.stop().await;
    let inbox = Inbox::open(dir.path(), clock, Limits::default()).unwrap();
    destroy_data(&dir, b'0');
    destroy_data(&dir, b'1');
    change(&inbox, "PRAGMA shrink_memory").await;
    now.fetch_add(Limits::default().max_age_ms() + 1, Ordering::SeqCst);
    let (log, _guard) = crate::quiet::log();
    inbox.start(App::deciding(|_, _| Err(down())));
    until_counts(&inbox, 2, 6).await;
    let delivered = || number(&inbox, "SELECT count(*) FROM events WHERE state = 'delivered'");
    for _ in 0..2_000 {
        if delivered().await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(delivered().await, 0);
    // The writer's thread names the two; here is the sum of the others.
    assert_eq!(log.count("not taken within --inbox-max-age"), 1, "{}", log.text());
}

#[tokio::test]
async fn rows_that_make_no_sense_are_set_aside_and_the_others_delivered() {
    let damages = [
        "UPDATE events SET data = 7 WHERE msg_id = 'bad'",
        "UPDATE events SET data = 'text' WHERE msg_id = 'bad'",
        "UPDATE events SET metadata = x'ff' WHERE msg_id = 'bad'",
        "UPDATE events SET metadata = CAST(x'ff' AS TEXT) WHERE msg_id = 'bad'",
        "UPDATE events SET metadata = '{' WHERE msg_id = 'bad'",
        "UPDATE events SET trace = 'x' WHERE msg_id = 'bad'",
        "UPDATE events SET attempts = -1 WHERE msg_id = 'bad'",
        "UPDATE events SET attempts = 'many' WHERE msg_id = 'bad'",
        "UPDATE events SET conversation = x'ff' WHERE msg_id = 'bad';
         UPDATE lanes SET conversation = x'ff' WHERE conversation = 'b' AND binding = 'team'",
        "UPDATE events SET conversation = CAST(x'ff' AS TEXT) WHERE msg_id = 'bad';
         UPDATE lanes SET conversation = CAST(x'ff' AS TEXT) WHERE conversation = 'b' AND binding = 'team'",
        "UPDATE events SET binding = x'ff' WHERE msg_id = 'bad'; UPDATE lanes SET binding = x'ff' WHERE conversation = 'b' AND binding = 'team'",
        "UPDATE lanes SET due = 'never' WHERE conversation = 'b' AND binding = 'team'; UPDATE events SET data = 1 WHERE msg_id = 'bad'",
    ];
    for damage in damages {
        let dir = TempDir::new().unwrap();
        let inbox = open(&dir);
        for (data, conversation) in [("bad", "b"), ("good", "g")] {
            inbox.accept(event(data, conversation)).await.unwrap();
        }
        inbox.accept(Event { binding: "other".into(), ..event("elsewhere", "b") }).await.unwrap();
        change(&inbox, damage).await;
        let app = App::echo();
        inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
        until(damage, || app.taken().len() == 2).await;
        until_counts(&inbox, 0, 1).await;
        // The operator sees which one.
        let dead = listed(&operator(&dir), &[State::Dead]);
        assert_eq!((dead.len(), dead[0].seq, dead[0].msg_id.as_deref()), (1, 1, Some("bad")), "{damage}");
        assert!(dead[0].last_error.as_ref().unwrap().contains("cannot read it back"), "{damage}");
        inbox.accept(event("next", "g")).await.unwrap();
        until_counts(&inbox, 0, 1).await;
        inbox.stop().await;
    }
}

#[tokio::test]
async fn a_store_that_is_found_to_be_damaged_takes_nothing_more_and_delivers_what_it_can_read() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    inbox.accept(large(1)).await.unwrap();
    for number in 2..5 {
        inbox.accept(event(&number.to_string(), &number.to_string())).await.unwrap();
    }
    inbox.stop().await;
    let inbox = open(&dir);
    // The data of the first event are in pages of their own.
    destroy_data(&dir, b'0');
    // The check at the start has read the pages, and SQLite would go on with what it remembers.
    change(&inbox, "PRAGMA shrink_memory").await;
    inbox.accept(event("before it is found", "5")).await.unwrap();
    let app = App::echo();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 1, 0).await;
    let mut taken = app.taken();
    taken.sort();
    assert_eq!(taken, ["2", "3", "4", "before it is found"]);
    for data in ["new", "2"] {
        let error = inbox.accept(event(data, "c")).await.unwrap_err();
        assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
    }
    // Its conversation is the only one that waits.
    assert_eq!(number(&inbox, "SELECT count(*) FROM lanes").await, 1);
    inbox.stop().await;
    assert!(matches!(Inbox::open(dir.path(), clock::system(), Limits::default()), Err(QueueError::Corrupt { .. })));
}

#[tokio::test]
async fn a_known_id_with_another_body_is_another_message_also_after_delivery_and_a_restart() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let other = || Event { data: "other".into(), ..event("m", "c") };
    inbox.accept(event("m", "c")).await.unwrap();
    assert_eq!(inbox.accept(other()).await.unwrap_err(), QueueError::OtherBody { side: Side::Inbox, seq: 1 });
    inbox.start(App::echo());
    until_counts(&inbox, 0, 0).await;
    inbox.stop().await;
    let inbox = open(&dir);
    assert_eq!(inbox.accept(other()).await.unwrap_err(), QueueError::OtherBody { side: Side::Inbox, seq: 1 });
    assert!(inbox.accept(event("m", "c")).await.unwrap().is_repeated());
}

/// What a host before this schema wrote.
fn older(dir: &TempDir, sql: &str) {
    let connection = rusqlite::Connection::open(dir.path().join("inbox.sqlite")).unwrap();
    connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;").unwrap();
    connection.execute_batch(crate::queue::store::FIRST_SCHEMA).unwrap();
    connection.execute_batch("PRAGMA user_version = 1").unwrap();
    connection.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn an_older_store_is_brought_up_to_date_by_a_host_and_not_by_the_operator() {
    let dir = TempDir::new().unwrap();
    older(
        &dir,
        "INSERT INTO events (binding, msg_id, conversation, accepted_at, state, metadata, trace, data)
             VALUES ('team', 'm', 'c', 1, 'pending', '[]', '[]', x'61');
         INSERT INTO lanes (binding, conversation, due) VALUES ('team', 'c', 1);",
    );
    let error = Operator::open(Side::Inbox, dir.path(), clock::system()).unwrap_err();
    assert!(matches!(error, QueueError::Older { .. }), "{error}");
    let limits = Limits { max_age: Duration::MAX, ..Limits::default() };
    let inbox = Inbox::open(dir.path(), clock::system(), limits).unwrap();
    // Of what is older than the column, the body is not known.
    assert!(inbox.accept(event("m", "c")).await.unwrap().is_repeated());
    let app = App::echo();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken(), ["a"]);
    assert_eq!(number(&inbox, "PRAGMA user_version").await, 4);
}

#[tokio::test]
async fn a_step_of_growth_that_was_cut_off_is_ended_by_the_next_host() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    change(&inbox, "INSERT INTO growth (data) VALUES (randomblob(1048576))").await;
    inbox.stop().await;
    let inbox = open(&dir);
    assert_eq!(number(&inbox, "SELECT count(*) FROM growth").await, 0);
    assert!(number(&inbox, "PRAGMA freelist_count").await >= 512);
}

#[tokio::test]
async fn a_list_that_nobody_reads_on_does_not_let_the_journal_grow() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    for number in 0..300 {
        inbox.accept(event(&format!("e{number}"), "c")).await.unwrap();
    }
    let (going_on, paused) = blocking::channel::<()>();
    let (reached, at_first) = blocking::channel::<()>();
    let operator = operator(&dir);
    let list = std::thread::spawn(move || {
        let listing = Listing { states: ALL.to_vec(), binding: None, content: true, seq: None };
        let mut seqs = Vec::new();
        operator
            .list(&listing, |entry| {
                if seqs.is_empty() {
                    reached.send(()).unwrap();
                    paused.recv().unwrap();
                }
                seqs.push(entry.seq);
                Ok(())
            })
            .unwrap()
            .unwrap();
        seqs
    });
    tokio::task::spawn_blocking(move || at_first.recv().unwrap()).await.unwrap();
    for number in 0..200 {
        inbox.accept(large(number)).await.unwrap();
    }
    // 20 MiB went through it.
    let journal = std::fs::metadata(dir.path().join("inbox.sqlite-wal")).unwrap().len();
    assert!(journal < 8 << 20, "{journal}");
    going_on.send(()).unwrap();
    let seqs = list.join().unwrap();
    assert_eq!(seqs[..300], (1..=300).collect::<Vec<_>>()[..]);
}

/// A host that gave everything back would have to grow its file again for the next few messages, on a volume that may
/// be full by then.
#[tokio::test]
async fn what_is_given_back_leaves_room_for_the_next_messages() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    for number in 0..60 {
        inbox.accept(large(number)).await.unwrap();
    }
    inbox.start(App::deciding(|_, _| Ok(None)));
    until_counts(&inbox, 0, 0).await;
    let now = (inbox.inner.queue.clock)();
    while inbox.writer().unwrap().run(move |store| store.purge(now)).await.unwrap() {}
    let (pages, free) = (number(&inbox, "PRAGMA page_count").await, number(&inbox, "PRAGMA freelist_count").await);
    // The reserve and two steps of growth stay, and little beside them.
    assert!(free >= 3 * 256 && pages < 4 * 256, "{free} of {pages}");
    inbox.stop().await;
}

#[tokio::test]
async fn the_smallest_inbox_has_room_and_is_no_larger_than_it_may_be() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { max_size: Limits::LEAST_SIZE, ..Limits::default() };
    assert_eq!(limits.max_size, 8 << 20);
    let inbox = Inbox::open(dir.path(), clock::system(), limits).unwrap();
    for number in 0..5 {
        inbox.accept(large(number)).await.unwrap();
    }
    let size = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
    inbox.stop().await;
    assert!(size("inbox.sqlite") + size("inbox.sqlite-wal") <= limits.max_size);
}

#[tokio::test]
async fn after_the_file_could_not_grow_it_is_tried_again_after_a_second_and_not_before() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    limit_pages(&inbox, Some(0)).await;
    let (count, _) = fill(&inbox).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let begun = Instant::now();
    assert!(matches!(inbox.accept(large(count)).await, Err(QueueError::Full { .. })));
    limit_pages(&inbox, None).await;
    accept_soon(&inbox, &large(count)).await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_file_grows_by_what_is_needed_and_one_step() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    for number in 0..40 {
        inbox.accept(large(number)).await.unwrap();
        let free = self::number(&inbox, "PRAGMA freelist_count").await;
        // The reserve, one step, and what one event needs.
        assert!((256..256 + 256 + 50).contains(&free), "{free}");
    }
}

#[tokio::test]
async fn what_one_transaction_stores_fits_into_the_journal() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let writer = inbox.writer().unwrap();
    // Room for all of them: the file need not grow in between, which would be commits too.
    for number in 100..130 {
        inbox.accept(large(number)).await.unwrap();
    }
    writer.run(|store| (1..=30).try_for_each(|seq| store.delivered(seq, None, 1))).await.unwrap();
    let (release, busy) = occupy(&writer).await;
    let mut callbacks = tokio::task::JoinSet::new();
    for number in 0..30 {
        let inbox = inbox.clone();
        callbacks.spawn(async move { inbox.accept(large(number)).await.unwrap() });
    }
    until("all are queued", || writer.queued() == 30).await;
    let before = writer.commits.load(Ordering::SeqCst);
    release.send(()).unwrap();
    busy.await.unwrap().unwrap();
    callbacks.join_all().await;
    // The eleventh passes one MiB.
    assert_eq!(writer.commits.load(Ordering::SeqCst) - before, 3);
}
