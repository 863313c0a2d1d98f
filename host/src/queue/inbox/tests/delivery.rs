//! From the acknowledgement to the application's answer.

use super::*;

#[tokio::test]
async fn an_accepted_event_is_delivered_unchanged_and_its_reply_returned() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let original = Arc::new(Mutex::new(None));
    struct Keeps(Arc<Mutex<Option<Event>>>);
    impl Consumer for Keeps {
        fn consume<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
            *self.0.lock().unwrap() = Some(event.clone());
            Box::pin(async { Ok(Some("yes".into())) })
        }
        fn reply_late<'a>(&'a self, _: &'a Event, _: Bytes) -> BoxFuture<'a, ()> {
            panic!("somebody waits");
        }
    }
    inbox.start(Arc::new(Keeps(Arc::clone(&original))));
    let sent = Event { data: vec![0, 255, 10].into(), ..event("m1", "c1") };
    let accepted = inbox.accept(sent.clone()).await.unwrap();
    assert!(!accepted.is_repeated());
    assert_eq!(accepted.reply(soon()).await, Some("yes".into()));
    assert_eq!(original.lock().unwrap().take(), Some(sent));
    inbox.stop().await;
    assert!(inbox.inner.desk.is_empty());
}

#[tokio::test]
async fn what_was_accepted_survives_the_process() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    for data in ["1", "2", "3"] {
        inbox.accept(event(data, "c")).await.unwrap();
    }
    // The files as they are at this moment are what kill -9 leaves.
    let copy = TempDir::new().unwrap();
    for name in ["inbox.sqlite", "inbox.sqlite-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    drop(inbox);
    for dir in [dir.path(), copy.path()] {
        let inbox = reopen(dir).await;
        let app = App::echo();
        inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
        until_counts(&inbox, 0, 0).await;
        inbox.stop().await;
        assert_eq!(app.taken(), ["1", "2", "3"]);
        assert_eq!(app.late.lock().unwrap().len(), 3, "their callbacks are long over");
    }
}

#[tokio::test]
async fn a_repetition_is_delivered_once_and_gets_the_same_reply() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let app = App::echo();
    let (first, second) = tokio::join!(inbox.accept(event("m", "c")), inbox.accept(event("m", "c")));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.seq(), first.is_repeated(), second.is_repeated()), (second.seq(), false, true));
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    let replies = tokio::join!(first.reply(soon()), second.reply(soon()));
    assert_eq!(replies, (Some("re m".into()), Some("re m".into())));
    inbox.stop().await;
    let inbox = open(&dir);
    let third = inbox.accept(event("m", "c")).await.unwrap();
    assert_eq!(third.reply(Instant::now()).await, Some("re m".into()));
    // Another binding's message is another message.
    let other = Event { binding: "other".into(), ..event("m", "c") };
    assert!(!inbox.accept(other).await.unwrap().is_repeated());
    assert_eq!((app.taken().len(), app.late.lock().unwrap().len()), (1, 0));
}

#[tokio::test]
async fn events_without_an_id_are_never_repetitions() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let app = App::echo();
    let plain = || Event { metadata: Vec::new(), ..event("x", "") };
    for _ in 0..2 {
        assert!(!inbox.accept(plain()).await.unwrap().is_repeated());
    }
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken(), ["x", "x"]);
    assert!(listed(&operator(&dir), &ALL).is_empty(), "nothing to recognise a repetition by");
}

#[tokio::test]
async fn a_conversation_waits_for_its_first_event_and_others_do_not() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let inbox = Inbox::open(dir.path(), clock, Limits::default()).unwrap();
    let app = App::deciding(|data, times| if data == "a1" && times < 4 { Err(status(500)) } else { Ok(None) });
    for (data, conversation) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("none1", ""), ("none2", "")] {
        inbox.accept(event(data, conversation)).await.unwrap();
    }
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 2, 0).await;
    for (times, pause) in [(2, 600), (3, 1_200), (4, 2_400)] {
        let before = app.seen();
        now.fetch_add(pause * 6 / 10, Ordering::SeqCst);
        inbox.inner.queue.wake.notify_one();
        inbox.counts().await.unwrap();
        assert_eq!(app.seen(), before, "attempt {times} is early");
        now.fetch_add(pause * 4 / 10, Ordering::SeqCst);
        inbox.inner.queue.wake.notify_one();
        until("the next attempt", || app.seen() > before).await;
        if times < 4 {
            let attempts = move |store: &Store| store.number_for_test("SELECT max(attempts) FROM events");
            let inbox = &inbox;
            let stored = || async move { inbox.writer().unwrap().run(attempts).await.unwrap() };
            while stored().await < times {}
        }
    }
    until_counts(&inbox, 0, 0).await;
    let taken = app.taken();
    assert_eq!(taken.iter().filter(|data| data.starts_with('a')).collect::<Vec<_>>(), ["a1", "a2"]);
    assert_eq!(taken.iter().filter(|data| data.starts_with('n')).collect::<Vec<_>>(), ["none1", "none2"]);
}

#[tokio::test]
async fn what_hangs_does_not_stop_the_rest() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&release);
    let app = App::new(move |data, _| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            if data.starts_with("hangs") {
                gate.acquire().await.unwrap().forget();
            }
            Ok(None)
        })
    });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    for binding in 0..5 {
        for number in 0..20 {
            let data = format!("hangs {binding} {number}");
            let event = Event { binding: format!("b{binding}"), ..event(&data, &data) };
            inbox.accept(event).await.unwrap();
            if binding == 0 {
                until("16 of one binding", || app.running.load(Ordering::SeqCst) == 16.min(number + 1)).await;
            }
        }
        if binding == 0 {
            let quick = inbox.accept(Event { binding: "quick".into(), ..event("quick", "q") }).await.unwrap();
            quick.reply(soon()).await;
            assert_eq!(app.taken(), ["quick"]);
        }
    }
    until("64 in all", || app.running.load(Ordering::SeqCst) == 64).await;
    inbox.counts().await.unwrap();
    assert_eq!(app.running.load(Ordering::SeqCst), 64);
    release.add_permits(100);
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken().len(), 101);
}

#[tokio::test]
async fn an_application_that_is_back_gets_everything_at_once() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let inbox = Inbox::open(dir.path(), clock, Limits::default()).unwrap();
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let app = App::deciding(move |_, _| if up.load(Ordering::SeqCst) { Ok(None) } else { Err(down()) });
    for number in 0..6 {
        let number = number.to_string();
        inbox.accept(event(&number, &number)).await.unwrap();
    }
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    // The first ones begin before the first failure is known; afterwards it is one at a time and not at once.
    let mut attempts = 0;
    for _ in 0..40 {
        now.fetch_add(500, Ordering::SeqCst);
        inbox.inner.queue.wake.notify_one();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let seen = app.seen();
        assert!(attempts == 0 || seen <= attempts + 1, "{seen} after {attempts}");
        attempts = seen;
    }
    assert!(app.taken().is_empty());
    until("the gate", || app.running.load(Ordering::SeqCst) == 0).await;
    is_up.store(true, Ordering::SeqCst);
    // One longest pause at most until the first success; the others follow without the clock's moving.
    for _ in 0..80 {
        if app.taken().is_empty() {
            now.fetch_add(500, Ordering::SeqCst);
            inbox.inner.queue.wake.notify_one();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    until_counts(&inbox, 0, 0).await;
}

#[tokio::test]
async fn a_reply_after_the_deadline_is_sent_late_and_only_once() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let release = Arc::new(Notify::new());
    let app = App::held(&release, |data| Ok((data != "silent").then(|| "late".into())));
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    for data in ["m", "silent"] {
        let accepted = inbox.accept(event(data, "c")).await.unwrap();
        assert_eq!(accepted.reply(Instant::now() + Duration::from_millis(5)).await, None);
        release.notify_one();
        until_counts(&inbox, 0, 0).await;
    }
    inbox.stop().await;
    assert_eq!(*app.late.lock().unwrap(), [("m".to_owned(), Bytes::from("late"))]);
    let again = open(&dir).accept(event("m", "c")).await.unwrap();
    assert_eq!(again.reply(soon()).await, None, "a repetition would show it a second time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_goes_exactly_one_way_however_deadline_and_answer_race() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let app = App::new(|data, _| {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..3_000))).await;
            Ok(Some(Bytes::from(data)))
        })
    });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    let mut callbacks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let inbox = inbox.clone();
        callbacks.spawn(async move {
            let data = number.to_string();
            let accepted = inbox.accept(event(&data, &data)).await.unwrap();
            match number % 4 {
                // The callback's connection breaks at some time.
                0 => {
                    let wait = Duration::from_micros(fastrand::u64(0..20_000));
                    tokio::time::timeout(wait, accepted.reply(soon())).await.ok().flatten()
                }
                _ => accepted.reply(Instant::now() + Duration::from_micros(fastrand::u64(0..20_000))).await,
            }
        });
    }
    let mut ways: Vec<String> = Vec::new();
    while let Some(reply) = callbacks.join_next().await {
        ways.extend(reply.unwrap().map(|reply| String::from_utf8(reply.to_vec()).unwrap()));
    }
    until_counts(&inbox, 0, 0).await;
    inbox.stop().await;
    assert!(inbox.inner.desk.is_empty());
    ways.extend(app.late.lock().unwrap().iter().map(|(data, _)| data.clone()));
    assert_eq!(ways.len(), 200);
    assert_eq!(ways.into_iter().collect::<BTreeSet<_>>().len(), 200);
}

#[tokio::test]
async fn a_callback_that_goes_away_with_the_reply_in_hand_makes_it_a_late_one() {
    let (desk, mut late) = Desk::new();
    let event = Arc::new(event("m", "c"));
    let tickets = (desk.join(1), desk.join(1));
    desk.begin(1);
    assert_eq!(desk.answer(1, &event, Some("r".into())), None, "two wait for it");
    drop(tickets.0);
    assert!(late.try_recv().is_err());
    drop(tickets.1);
    let sent = late.try_recv().unwrap();
    assert_eq!((sent.seq, sent.reply), (1, "r".into()));
    assert_eq!(desk.join(1).wait(soon()).await, None, "it is on another way");
    desk.end(1);
    assert!(desk.is_empty());
}

#[tokio::test]
async fn callbacks_at_a_time_share_a_commit() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let writer = inbox.writer().unwrap();
    let (release, busy) = occupy(&writer).await;
    let mut callbacks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let inbox = inbox.clone();
        callbacks.spawn(async move { inbox.accept(event(&number.to_string(), "c")).await.unwrap() });
    }
    until("all are queued", || writer.queued() == 100).await;
    let before = writer.commits.load(Ordering::SeqCst);
    release.send(()).unwrap();
    busy.await.unwrap().unwrap();
    assert_eq!(callbacks.join_all().await.len(), 100);
    assert_eq!(writer.commits.load(Ordering::SeqCst) - before, 1);
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_is_kept_and_the_event_not_repeated() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let writer = inbox.writer().unwrap();
    let sql = "CREATE TRIGGER broken BEFORE UPDATE ON events BEGIN SELECT raise(FAIL, 'no'); END";
    writer.run(|store| store.batch_for_test(sql)).await.unwrap();
    let app = App::echo();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    let first = inbox.accept(event("1", "c")).await.unwrap();
    assert_eq!(first.reply(soon()).await, Some("re 1".into()), "the callback need not wait for it");
    let again = inbox.accept(event("1", "c")).await.unwrap();
    assert_eq!(again.reply(soon()).await, Some("re 1".into()));
    inbox.accept(event("2", "c")).await.unwrap();
    assert_eq!(inbox.counts().await, Ok(Counts { pending: 2, dead: 0 }));
    writer.run(|store| store.batch_for_test("DROP TRIGGER broken")).await.unwrap();
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken(), ["1", "2"]);
}

#[tokio::test]
async fn a_consumer_that_panics_stops_nothing() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let app = App::deciding(|data, times| if data == "1" && times == 1 { panic!("a bug") } else { Ok(None) });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    for data in ["1", "2"] {
        inbox.accept(event(data, "c")).await.unwrap();
    }
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken(), ["1", "2"]);
}

#[tokio::test]
async fn stopping_waits_for_what_is_under_way_and_begins_nothing() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let release = Arc::new(Notify::new());
    let app = App::held(&release, |_| Ok(None));
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    for data in ["1", "2"] {
        inbox.accept(event(data, "c")).await.unwrap();
    }
    until("1 is under way", || app.seen() == 1).await;
    let stopping = tokio::spawn({
        let inbox = inbox.clone();
        async move { inbox.stop().await }
    });
    until("it is stopping", || *inbox.inner.queue.stopping.borrow()).await;
    assert!(!stopping.is_finished());
    release.notify_one();
    stopping.await.unwrap();
    assert_eq!(inbox.accept(event("3", "c")).await.unwrap_err(), QueueError::Stopped);
    let inbox = open(&dir);
    assert_eq!((app.taken().as_slice(), inbox.counts().await.unwrap().pending), (&["1".to_owned()][..], 1));
}

#[tokio::test]
async fn what_is_not_taken_is_one_line_for_each_binding_however_often_it_is_tried() {
    let (log, _guard) = crate::quiet::log();
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let app = App::deciding(|data, times| match data {
        "panics" if times < 3 => panic!("a bug"),
        "poison" => Err(status(422)),
        _ if times < 3 => Err(status(500)),
        _ => Ok(None),
    });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    for binding in ["a", "b"] {
        for number in 0..10 {
            let name = format!("{binding}{number}");
            let event = |data: &str| Event {
                binding: binding.into(),
                data: Bytes::copy_from_slice(data.as_bytes()),
                ..event(&format!("{name}{data}"), &format!("{name}{data}"))
            };
            inbox.accept(event(&name)).await.unwrap();
            inbox.accept(event("poison")).await.unwrap();
        }
    }
    inbox.accept(event("panics", "panics")).await.unwrap();
    until_counts(&inbox, 0, 20).await;
    assert_eq!(app.seen(), 20 * 3 + 20 + 3);
    for (line, count) in [("is not taken yet", 2), ("refuses an event for good", 2), ("panicked", 1)] {
        assert_eq!(log.count(line), count, "{}", log.text());
    }
    assert!(log.text().contains("more=0"), "{}", log.text());
    inbox.stop().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_read_or_written_is_one_line_in_the_log_whatever_is_tried() {
    let (log, _guard) = crate::quiet::log();
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    inbox.accept(event("m", "c")).await.unwrap();
    let app = App::echo();
    let break_it = "CREATE TRIGGER broken BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'broken'); END";
    inbox.writer().unwrap().run(move |store| store.batch_for_test(break_it)).await.unwrap();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until("it is delivered", || app.seen() == 1).await;
    let gone = "ALTER TABLE lanes RENAME TO gone";
    inbox.writer().unwrap().run(move |store| store.batch_for_test(gone)).await.unwrap();
    for _ in 0..20 {
        inbox.inner.queue.wake.notify_one();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((log.count("what is to be delivered"), log.count("cannot be stored")), (1, 1));
    inbox.stop().await;
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_does_not_hold_up_the_end_of_the_host() {
    for is_stopped in [true, false] {
        let (log, _guard) = crate::quiet::log();
        let dir = TempDir::new().unwrap();
        let inbox = open(&dir);
        inbox.accept(event("m", "c")).await.unwrap();
        let break_it = "CREATE TRIGGER broken BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'broken'); END";
        inbox.writer().unwrap().run(move |store| store.batch_for_test(break_it)).await.unwrap();
        inbox.start(App::echo());
        until("the result is not stored", || log.count("cannot be stored") == 1).await;
        assert_eq!(log.count("is lost"), 0);
        if is_stopped {
            inbox.stop().await;
        }
        drop(inbox);
        until("it is given up", || log.count("is lost") == 1).await;
        drop(reopen(dir.path()).await);
        assert_eq!(log.count("cut off"), 0, "{}", log.text());
    }
}

#[tokio::test]
async fn callbacks_that_go_away_leave_nothing_behind_and_take_nothing_from_the_others() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let (gone, waiting) = (inbox.accept(event("1", "c")).await.unwrap(), inbox.accept(event("1", "c")).await.unwrap());
    drop(gone);
    assert!(!inbox.inner.desk.is_empty());
    inbox.start(App::echo());
    assert_eq!(waiting.reply(soon()).await, Some("re 1".into()));
    inbox.stop().await;
    let inbox = open(&dir);
    drop(inbox.accept(event("2", "c")).await.unwrap());
    assert!(inbox.inner.desk.is_empty(), "each message that waits would take memory");
}

#[tokio::test]
async fn a_binding_whose_events_hang_has_16_under_way_and_others_go_on() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let inbox = Inbox::open(dir.path(), clock, Limits::default()).unwrap();
    let app = App::held(&Arc::default(), |_| Ok(None));
    for number in 0..40 {
        let number = number.to_string();
        inbox.accept(event(&number, &number)).await.unwrap();
    }
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until("16 are under way", || app.seen() == 16).await;
    // Nothing speaks against the application any more.
    now.fetch_add(5_000, Ordering::SeqCst);
    for number in 1..=3 {
        let data = format!("other {number}");
        inbox.accept(Event { binding: "other".into(), ..event(&data, &data) }).await.unwrap();
        until("the other binding's", || app.seen.lock().unwrap().contains(&data)).await;
        assert_eq!(app.seen(), 16 + number);
    }
}

#[tokio::test]
async fn what_only_waited_for_the_application_is_due_when_that_is_back_and_nothing_else_is() {
    let dir = TempDir::new().unwrap();
    let (_, clock) = still();
    let inbox = Inbox::open(dir.path(), Arc::clone(&clock), Limits::default()).unwrap();
    let [waits, own] = [event("waits", "a"), event("own", "b")];
    let (waits, own) = (inbox.accept(waits).await.unwrap().seq(), inbox.accept(own).await.unwrap().seq());
    let now = clock();
    let work = move |store: &Store| {
        store.failed(waits, "nobody listens", now + 30_000, true, now)?;
        store.failed(own, "status 500", now + 30_000, false, now)?;
        store.wake(now)?;
        let room = crate::queue::store::Room { in_all: 10, a_binding: 10, ..Default::default() };
        store.due(&room, now)
    };
    let due = inbox.writer().unwrap().run(work).await.unwrap();
    assert_eq!(due.heads.iter().map(|head| head.seq).collect::<Vec<_>>(), [waits]);
    assert_eq!(due.next, Some(now + 30_000));
}

/// Its pause may be the longest: whoever has brought the binding back does not wait for it.
#[tokio::test]
async fn a_binding_that_is_back_has_its_events_tried_at_once_and_no_other_has() {
    let dir = TempDir::new().unwrap();
    let (_, clock) = still();
    let inbox = Inbox::open(dir.path(), clock, Limits::default()).unwrap();
    let app = App::deciding(|data, times| {
        if times == 1 {
            Err(Undelivered::Failed("not yet".into()))
        } else {
            Ok(Some(Bytes::copy_from_slice(data.as_bytes())))
        }
    });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    inbox.accept(event("team's", "c")).await.unwrap();
    inbox.accept(Event { binding: "other".into(), ..event("other's", "c") }).await.unwrap();
    until("both have failed", || app.seen() == 2).await;
    // Whose result is stored: nothing is due any more, and time stands still.
    until_attempts(&inbox, &dir, [1, 1]).await;
    inbox.hasten("team").await.unwrap();
    until_counts(&inbox, 1, 0).await;
    assert_eq!(app.taken(), ["team's"]);
}

async fn until_attempts(inbox: &Inbox, dir: &TempDir, expected: [u32; 2]) {
    let operator = Operator::open(Side::Inbox, dir.path(), clock::system()).unwrap();
    for _ in 0..2_000 {
        let attempts: Vec<u32> = listed(&operator, &[State::Pending]).iter().map(|entry| entry.attempts).collect();
        if attempts == expected {
            return;
        }
        inbox.counts().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never {expected:?}");
}
