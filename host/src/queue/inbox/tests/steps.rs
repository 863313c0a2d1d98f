//! What is done some at a time is done to all: to more conversations and events than one step takes.

use super::*;
use crate::queue::store::Room;

/// The present of [`still`].
const NOW: u64 = 1_700_000_000_000;

/// More than two steps: 450 conversations of one binding and one of another, all of which wait for `due`.
fn waiting(due: u64) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 451)
         INSERT INTO events (binding, msg_id, conversation, accepted_at, state, metadata, trace, data)
         SELECT CASE i WHEN 451 THEN 'other' ELSE 'many' END, i, 'c' || i, {NOW}, 'pending', '[]', '[]', CAST(i AS BLOB)
             FROM n;
         INSERT INTO lanes (binding, conversation, due, suffers)
         SELECT binding, conversation, {due}, 1 FROM events WHERE binding <> 'team'"
    )
}

fn room() -> Room {
    Room { in_all: 10, a_binding: 10, ..Room::default() }
}

#[test]
fn what_waits_is_woken_step_by_step_until_nothing_is_left() {
    for wake in [Store::wake as fn(&Store, u64) -> _, Store::wake_all] {
        let dir = TempDir::new().unwrap();
        let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
        store.batch_for_test(&waiting(NOW + 30_000)).unwrap();
        let is_more: Vec<bool> = (0..4).map(|_| wake(&store, NOW).unwrap()).collect();
        assert_eq!(is_more, [true, true, false, false]);
        assert_eq!(store.number_for_test(&format!("SELECT count(*) FROM lanes WHERE due = {NOW}")), Ok(451));
    }
}

#[test]
fn a_clock_that_was_set_back_lets_nothing_wait() {
    let dir = TempDir::new().unwrap();
    let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
    store.batch_for_test(&waiting(NOW * 2)).unwrap();
    let next: Vec<_> = (0..4).map(|_| store.due(&room(), NOW).unwrap().next).collect();
    assert_eq!(next, [Some(NOW), Some(NOW), None, None], "the next look is at once while there are more");
    assert_eq!(store.number_for_test(&format!("SELECT count(*) FROM lanes WHERE due = {NOW}")), Ok(451));
}

#[test]
fn many_events_whose_conversation_makes_no_sense_are_all_set_aside() {
    let dir = TempDir::new().unwrap();
    let store = Store::create(Side::Inbox, dir.path(), Limits::default()).unwrap();
    for number in 0..250 {
        assert!(store.insert(&Item::received(event(&number.to_string(), "c")), NOW).is_ok());
    }
    store.batch_for_test("UPDATE events SET conversation = x'ff'; UPDATE lanes SET conversation = x'ff'").unwrap();
    for _ in 0..2 {
        assert!(store.due(&room(), NOW).unwrap().heads.is_empty());
    }
    assert_eq!(store.counts(), Ok(Counts { pending: 0, dead: 250 }));
    assert_eq!(store.number_for_test("SELECT count(*) FROM lanes"), Ok(0));
}

#[tokio::test]
async fn a_new_host_tries_everything_at_once_however_much_there_is() {
    let dir = TempDir::new().unwrap();
    let (_, clock) = still();
    let inbox = Inbox::open(dir.path(), clock, Limits::default()).unwrap();
    inbox.writer().unwrap().run(|store| store.batch_for_test(&waiting(NOW + 30_000))).await.unwrap();
    inbox.start(App::deciding(|_, _| Ok(None)));
    until_counts(&inbox, 0, 0).await;
    inbox.stop().await;
}

#[tokio::test]
async fn an_application_that_is_back_gets_everything_however_much_waited_for_it() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let inbox = Inbox::open(dir.path(), clock, Limits::default()).unwrap();
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    inbox.start(App::deciding(move |_, _| if up.load(Ordering::SeqCst) { Ok(None) } else { Err(down()) }));
    inbox.accept(event("first", "c")).await.unwrap();
    let writer = inbox.writer().unwrap();
    let attempts = || writer.run(|store| store.number_for_test("SELECT max(attempts) FROM events"));
    while attempts().await != Ok(1) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writer.run(|store| store.batch_for_test(&waiting(NOW + 30_000))).await.unwrap();
    is_up.store(true, Ordering::SeqCst);
    // The pause of the first is over, that of the others is not.
    now.fetch_add(1_100, Ordering::SeqCst);
    inbox.inner.queue.wake.notify_one();
    until_counts(&inbox, 0, 0).await;
    // Also the conversation that it came back with goes on.
    inbox.accept(event("second", "c")).await.unwrap();
    until_counts(&inbox, 0, 0).await;
    inbox.stop().await;
}
