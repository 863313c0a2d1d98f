//! Dead events, and what the operator does about them.

use super::*;

#[tokio::test]
async fn a_refused_event_is_kept_for_the_operator_and_retried_in_its_place() {
    let dir = TempDir::new().unwrap();
    // Still, so that the second event's pause is not over before the first is put back.
    let (_, clock) = still();
    let inbox = Inbox::open(dir.path(), Arc::clone(&clock), Limits::default()).unwrap();
    let is_open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&is_open);
    let app = App::deciding(move |data, _| match (data, gate.load(Ordering::SeqCst)) {
        (_, true) => Ok(Some("late".into())),
        ("1", false) => Err(status(400)),
        _ => Err(status(500)),
    });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    let first = inbox.accept(event("1", "c")).await.unwrap();
    assert_eq!(first.reply(soon()).await, None, "at once, not at the deadline");
    inbox.accept(event("2", "c")).await.unwrap();
    until("the second was tried", || app.seen() > 1).await;
    until_counts(&inbox, 1, 1).await;
    let repeated = inbox.accept(event("1", "c")).await.unwrap();
    assert!(repeated.is_repeated());
    assert_eq!(repeated.reply(soon()).await, None);
    let operator = Operator::open(Side::Inbox, dir.path(), clock).unwrap();
    let dead = listed(&operator, &[State::Dead]);
    assert_eq!((dead.len(), dead[0].seq, dead[0].attempts), (1, 1, 1));
    assert!(dead[0].last_error.as_ref().unwrap().contains("400"), "{:?}", dead[0].last_error);
    assert_eq!((dead[0].conversation_id.as_deref(), dead[0].data.as_deref()), (Some("c"), Some(&b"1"[..])));
    is_open.store(true, Ordering::SeqCst);
    assert_eq!(operator.retry(&Selection::All), Ok(1));
    // The host notices by itself.
    until("both are taken", || app.taken().len() == 2).await;
    assert_eq!(app.taken(), ["1", "2"]);
    until("late replies", || app.late.lock().unwrap().len() == 2).await;
}

#[tokio::test]
async fn the_operator_drops_what_blocks_and_mistakes_change_nothing() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    for data in ["1", "2", "3"] {
        inbox.accept(event(data, "c")).await.unwrap();
    }
    let operator = operator(&dir);
    let entries = listed(&operator, &[State::Pending]);
    assert_eq!(entries.iter().map(|entry| entry.waits_for).collect::<Vec<_>>(), [None, Some(1), Some(1)]);
    assert!(entries[0].next_attempt_at.is_some() && entries[1].next_attempt_at.is_none());
    let error = operator.drop_events(&Selection::Seqs(vec![1, 99])).unwrap_err();
    assert!(matches!(error, QueueError::NoSuchEvent { seq: 99, .. }), "{error}");
    let error = operator.retry(&Selection::Seqs(vec![2])).unwrap_err();
    assert!(matches!(error, QueueError::WrongState { seq: 2, state: State::Pending, .. }), "{error}");
    assert_eq!(operator.drop_events(&Selection::All), Ok(0), "only dead ones go without being named");
    assert_eq!(listed(&operator, &[State::Pending]).len(), 3);
    assert_eq!(operator.drop_events(&Selection::Seqs(vec![1, 2, 1])), Ok(2));
    assert!(operator.drop_events(&Selection::Seqs(vec![1])).is_err(), "there is nothing left to drop");
    assert!(inbox.accept(event("1", "c")).await.unwrap().is_repeated());
    let app = App::echo();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken(), ["3"]);
}

#[tokio::test]
async fn dropping_the_event_under_way_lets_the_next_one_follow_after_it() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let release = Arc::new(Notify::new());
    let gate = Arc::clone(&release);
    let app = App::new(move |data, _| {
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            if data == "1" {
                gate.notified().await;
                return Err(status(500));
            }
            Ok(None)
        })
    });
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    inbox.accept(event("1", "c")).await.unwrap();
    until("1 is under way", || app.seen() == 1).await;
    operator(&dir).drop_events(&Selection::Seqs(vec![1])).unwrap();
    inbox.accept(event("2", "c")).await.unwrap();
    inbox.counts().await.unwrap();
    assert_eq!(app.seen(), 1, "one at a time, although the store has forgotten the first");
    release.notify_one();
    until_counts(&inbox, 0, 0).await;
    assert_eq!(app.taken(), ["2"]);
}
