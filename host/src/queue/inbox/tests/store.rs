//! The files: full, damaged, newer, old, large, and whose they are.

use super::*;

#[tokio::test]
async fn nothing_that_people_wrote_is_left_after_delivery_and_the_rest_goes_after_a_day() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let inbox = Inbox::open(dir.path(), Arc::clone(&clock), Limits::default()).unwrap();
    inbox.start(App::echo());
    let secret = format!("S3CR3T{}", "x".repeat(50_000));
    for number in 0..150 {
        let metadata = vec![("msgId".into(), number.to_string()), ("sessionWebhook".into(), "S3CR3T".into())];
        let event = Event { metadata, ..event(&secret, "") };
        // With a reply too short to hold anything of it: the echo goes late and is not kept.
        inbox.accept(event).await.unwrap();
    }
    until_counts(&inbox, 0, 0).await;
    inbox.stop().await;
    let file = dir.path().join("inbox.sqlite");
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"S3CR3T"));
    assert_eq!(listed(&operator(&dir), &ALL).len(), 150);
    for (later, left) in [(24 * 3_600_000, 150), (1, 0)] {
        now.fetch_add(later, Ordering::SeqCst);
        let inbox = Inbox::open(dir.path(), Arc::clone(&clock), Limits::default()).unwrap();
        let moment = (inbox.inner.queue.clock)();
        let writer = inbox.writer().unwrap();
        while writer.run(move |store| store.purge(moment)).await.unwrap() {}
        // With a way to the thread still in somebody's hands.
        inbox.stop().await;
        drop(writer);
        assert_eq!(listed(&operator(&dir), &ALL).len(), left);
    }
    assert!(std::fs::metadata(&file).unwrap().len() < 4 << 20, "the space is given back");
}

#[tokio::test]
async fn a_hundred_thousand_pending_events_are_as_easy_as_one() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let writer = inbox.writer().unwrap();
    // Half of them in one conversation, half in one each.
    let sql = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
               INSERT INTO events (binding, msg_id, conversation, accepted_at, state, metadata, trace, data)
               SELECT 'team', i, CASE WHEN i % 2 THEN 'one' ELSE 'c' || i END, 1, 'pending', '[]', '[]', x'61' FROM n;
               INSERT INTO lanes (binding, conversation, due) SELECT DISTINCT binding, conversation, 1 FROM events;";
    writer.run(|store| store.batch_for_test(sql)).await.unwrap();
    let app = App::echo();
    let begun = Instant::now();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until("a thousand", || app.taken.lock().unwrap().len() >= 1_000).await;
    // A look at the store that reads all of them takes 50 ms and more, and each delivery needs one.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    inbox.stop().await;
}

#[test]
fn a_damaged_store_is_refused_with_what_to_do() {
    for damage in [0..100, 4_096..40_000] {
        let dir = TempDir::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let inbox = open(&dir);
            for number in 0..200 {
                inbox.accept(event(&number.to_string(), "c")).await.unwrap();
            }
            inbox.stop().await;
        });
        let file = dir.path().join("inbox.sqlite");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[damage].fill(0xA5);
        std::fs::write(&file, &bytes).unwrap();
        let error = Inbox::open(dir.path(), clock::system(), Limits::default()).unwrap_err();
        assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("inbox.sqlite") && said.contains("move it away"), "{said}");
        assert!(!said.contains('\n'), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing is repaired by chance");
    }
}

#[tokio::test]
async fn a_newer_store_a_second_host_and_a_missing_store_are_refused() {
    let dir = TempDir::new().unwrap();
    let missing = Operator::open(Side::Inbox, dir.path(), clock::system()).unwrap_err();
    assert!(matches!(missing, QueueError::Missing { .. }), "{missing}");
    let inbox = open(&dir);
    let second = Inbox::open(dir.path(), clock::system(), Limits::default()).unwrap_err();
    assert_eq!(second, QueueError::InUse { place: crate::queue::Place::new(Side::Inbox, dir.path()) });
    inbox.writer().unwrap().run(|store| store.batch_for_test("PRAGMA user_version = 5")).await.unwrap();
    inbox.stop().await;
    let newer = Inbox::open(dir.path(), clock::system(), Limits::default()).unwrap_err();
    assert!(matches!(newer, QueueError::Newer { found: 5, known: 4, .. }), "{newer}");
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("a/b");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let inbox = Inbox::open(&dir, clock::system(), Limits::default()).unwrap();
    inbox.accept(event("1", "c")).await.unwrap();
    assert_eq!(mode(&dir), 0o700);
    for name in ["inbox.sqlite", "inbox.sqlite-wal", "inbox.sqlite-shm", "inbox.lock"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    inbox.stop().await;
    let file = dir.join("inbox.sqlite");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    Inbox::open(&dir, clock::system(), Limits::default()).unwrap();
    assert_eq!(mode(&file), 0o600);
}

#[tokio::test]
async fn an_inbox_that_cannot_be_looked_at_is_not_called_missing() {
    let parent = TempDir::new().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Operator::open(Side::Inbox, &file, clock::system()).unwrap_err();
    assert!(matches!(error, QueueError::Io { .. }), "{error}");
    assert!(error.to_string().contains("cannot be read"), "{error}");
}

#[tokio::test]
async fn an_accepted_event_has_the_number_that_the_operator_sees() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let mut numbers = Vec::new();
    for data in ["1", "2", "3"] {
        numbers.push(inbox.accept(event(data, "c")).await.unwrap().seq());
    }
    let entries = listed(&operator(&dir), &[State::Pending]);
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), numbers);
}

#[tokio::test]
async fn a_journal_without_its_store_is_not_taken_for_a_left_over() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    inbox.accept(event("1", "c")).await.unwrap();
    inbox.stop().await;
    let path = |name: &str| dir.path().join(format!("inbox.sqlite{name}"));
    std::fs::write(path(""), "").unwrap();
    let journal = std::fs::read(path("-wal")).unwrap();
    let error = Inbox::open(dir.path(), clock::system(), Limits::default()).unwrap_err();
    assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
    assert!(std::fs::read(path("-wal")).unwrap() == journal);
}

#[test]
fn an_empty_file_is_no_inbox_to_the_operator() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("inbox.sqlite"), "").unwrap();
    let error = Operator::open(Side::Inbox, dir.path(), clock::system()).unwrap_err();
    assert!(matches!(error, QueueError::Missing { .. }), "{error}");
}

#[test]
fn a_reply_that_went_elsewhere_is_not_given_to_a_repetition() {
    let dir = TempDir::new().unwrap();
    let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
    assert!(store.insert(&Item::received(event("m", "c")), 1).is_ok());
    store.delivered(1, Some(b"reply"), 2).unwrap();
    let again = || store.insert(&Item::received(event("m", "c")), 3).unwrap();
    assert!(matches!(again(), Stored::Delivered(1, Some(_))));
    store.forget_reply(1).unwrap();
    assert!(matches!(again(), Stored::Delivered(1, None)));
}
