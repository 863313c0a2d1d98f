//! The inbox as a whole: what it promises to DingTalk, to the application and to the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as blocking;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::clock;

type Rule = Box<dyn Fn(String, u32) -> BoxFuture<'static, Result<Answer, Undelivered>> + Send + Sync>;

/// An application that follows a rule: of the data, and of how often it has seen them.
struct App {
    rule: Rule,
    seen: Mutex<Vec<String>>,
    taken: Mutex<Vec<String>>,
    late: Mutex<Vec<(String, Bytes)>>,
    running: AtomicUsize,
}

impl App {
    fn new(
        rule: impl Fn(String, u32) -> BoxFuture<'static, Result<Answer, Undelivered>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            rule: Box::new(rule),
            seen: Mutex::default(),
            taken: Mutex::default(),
            late: Mutex::default(),
            running: AtomicUsize::new(0),
        })
    }

    /// Decides at once.
    fn deciding(rule: impl Fn(&str, u32) -> Result<Answer, Undelivered> + Send + Sync + 'static) -> Arc<Self> {
        Self::new(move |data, times| {
            let result = rule(&data, times);
            Box::pin(async move { result })
        })
    }

    /// Decides whenever `release` is told.
    fn held(
        release: &Arc<Notify>,
        rule: impl Fn(&str) -> Result<Answer, Undelivered> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let gate = Arc::clone(release);
        Self::new(move |data, _| {
            let (gate, result) = (Arc::clone(&gate), rule(&data));
            Box::pin(async move {
                gate.notified().await;
                result
            })
        })
    }

    /// Takes everything and says what it was.
    fn echo() -> Arc<Self> {
        Self::deciding(|data, _| Ok(Some(Bytes::from(format!("re {data}")))))
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }

    fn seen(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Consumer for App {
    fn consume<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(async move {
            let data = text(event);
            let times = {
                let mut seen = self.seen.lock().unwrap();
                seen.push(data.clone());
                seen.iter().filter(|known| **known == data).count()
            };
            self.running.fetch_add(1, Ordering::SeqCst);
            let result = (self.rule)(data.clone(), u32::try_from(times).unwrap()).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            if result.is_ok() {
                self.taken.lock().unwrap().push(data);
            }
            result
        })
    }

    fn reply_late<'a>(&'a self, event: &'a Event, reply: Bytes) -> BoxFuture<'a, ()> {
        self.late.lock().unwrap().push((text(event), reply));
        Box::pin(async {})
    }
}

fn text(event: &Event) -> String {
    String::from_utf8(event.data.to_vec()).unwrap()
}

fn event(data: &str, conversation: &str) -> Event {
    Event {
        binding: "team".into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        metadata: vec![("msgId".into(), data.into()), ("conversationId".into(), conversation.into())],
        trace: vec![("traceparent".into(), "00-1-2-01".into())],
    }
}

fn down() -> Undelivered {
    Undelivered::Unreachable("nobody listens".into())
}

fn status(status: u16) -> Undelivered {
    Undelivered::Refused { status, body: String::new() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A clock that only moves when told.
fn still() -> (Arc<AtomicU64>, Clock) {
    let now = Arc::new(AtomicU64::new(1_700_000_000_000));
    let clock = Arc::clone(&now);
    (now, Arc::new(move || clock.load(Ordering::SeqCst)))
}

fn open(dir: &TempDir) -> Inbox {
    Inbox::open(dir.path(), clock::system()).unwrap()
}

/// Opens again after the last handle was dropped without a stop.
async fn reopen(dir: &Path) -> Inbox {
    for _ in 0..2_000 {
        match Inbox::open(dir, clock::system()) {
            Err(InboxError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the lock is never released");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..5_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    panic!("never: {what}");
}

async fn until_counts(inbox: &Inbox, pending: u64, dead: u64) {
    let mut counts = None;
    for _ in 0..2_000 {
        counts = Some(inbox.counts().await.unwrap());
        if counts == Some(Counts { pending, dead }) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{counts:?}, not {pending} pending and {dead} dead");
}

fn listed(operator: &Operator, states: &[State]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let listing = Listing { states: states.to_vec(), binding: None, content: true };
    operator
        .list(&listing, |entry| {
            entries.push(entry);
            Ok(())
        })
        .unwrap()
        .unwrap();
    entries
}

fn operator(dir: &TempDir) -> Operator {
    Operator::open(dir.path(), clock::system()).unwrap()
}

const ALL: [State; 3] = [State::Pending, State::Dead, State::Delivered];

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
    let (first, second) =
        tokio::join!(inbox.accept(event("m", "c")), inbox.accept(Event { data: "other".into(), ..event("m", "c") }));
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
    let inbox = Inbox::open(dir.path(), clock).unwrap();
    let app = App::deciding(|data, times| if data == "a1" && times < 4 { Err(status(500)) } else { Ok(None) });
    for (data, conversation) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("none1", ""), ("none2", "")] {
        inbox.accept(event(data, conversation)).await.unwrap();
    }
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    until_counts(&inbox, 2, 0).await;
    for (times, pause) in [(2, 600), (3, 1_200), (4, 2_400)] {
        let before = app.seen();
        now.fetch_add(pause * 6 / 10, Ordering::SeqCst);
        inbox.inner.wake.notify_one();
        inbox.counts().await.unwrap();
        assert_eq!(app.seen(), before, "attempt {times} is early");
        now.fetch_add(pause * 4 / 10, Ordering::SeqCst);
        inbox.inner.wake.notify_one();
        until("the next attempt", || app.seen() > before).await;
        if times < 4 {
            let attempts = move |store: &Store| store.number_for_test("SELECT max(attempts) FROM events");
            let inbox = &inbox;
            let stored = || async move { inbox.writer().unwrap().run(attempts, |n| n).await.unwrap() };
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
    let inbox = Inbox::open(dir.path(), clock).unwrap();
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
        inbox.inner.wake.notify_one();
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
            inbox.inner.wake.notify_one();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    until_counts(&inbox, 0, 0).await;
}

#[tokio::test]
async fn a_refused_event_is_kept_for_the_operator_and_retried_in_its_place() {
    let dir = TempDir::new().unwrap();
    // Still, so that the second event's pause is not over before the first is put back.
    let (_, clock) = still();
    let inbox = Inbox::open(dir.path(), Arc::clone(&clock)).unwrap();
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
    let operator = Operator::open(dir.path(), clock).unwrap();
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
    assert!(matches!(error, InboxError::NoSuchEvent { seq: 99, .. }), "{error}");
    let error = operator.retry(&Selection::Seqs(vec![2])).unwrap_err();
    assert!(matches!(error, InboxError::WrongState { seq: 2, state: State::Pending, .. }), "{error}");
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
    let (release, gate) = blocking::channel::<()>();
    let writer = inbox.writer().unwrap();
    let busy = tokio::spawn({
        let writer = writer.clone();
        let gate = Mutex::new(gate);
        async move { writer.run(move |_| gate.lock().unwrap().recv().map_err(|_| InboxError::Stopped), |()| ()).await }
    });
    tokio::task::yield_now().await;
    until("the thread is busy", || writer.queued() == 0).await;
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
async fn a_full_disk_is_told_and_overcome_without_a_restart() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    inbox.accept(event("before", "c")).await.unwrap();
    let writer = inbox.writer().unwrap();
    writer.run(|store| store.limit_pages(Some(3)), |()| ()).await.unwrap();
    let large = || Event { data: vec![b'x'; 100_000].into(), ..event("large", "c") };
    // Together with one that fits: it must not suffer.
    let (failed, fits) = tokio::join!(inbox.accept(large()), inbox.accept(event("small", "c")));
    let error = failed.unwrap_err();
    assert!(matches!(error, InboxError::Full { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("inbox.sqlite") && said.contains("no space is left; free some"), "{said}");
    fits.unwrap();
    assert_eq!(inbox.accept(large()).await.unwrap_err(), error);
    writer.run(|store| store.limit_pages(None), |()| ()).await.unwrap();
    assert!(!inbox.accept(large()).await.unwrap().is_repeated());
    assert_eq!(inbox.counts().await, Ok(Counts { pending: 3, dead: 0 }));
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_is_kept_and_the_event_not_repeated() {
    let dir = TempDir::new().unwrap();
    let inbox = open(&dir);
    let writer = inbox.writer().unwrap();
    let sql = "CREATE TRIGGER broken BEFORE UPDATE ON events BEGIN SELECT raise(FAIL, 'no'); END";
    writer.run(|store| store.batch_for_test(sql), |()| ()).await.unwrap();
    let app = App::echo();
    inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
    let first = inbox.accept(event("1", "c")).await.unwrap();
    assert_eq!(first.reply(soon()).await, Some("re 1".into()), "the callback need not wait for it");
    let again = inbox.accept(event("1", "c")).await.unwrap();
    assert_eq!(again.reply(soon()).await, Some("re 1".into()));
    inbox.accept(event("2", "c")).await.unwrap();
    assert_eq!(inbox.counts().await, Ok(Counts { pending: 2, dead: 0 }));
    writer.run(|store| store.batch_for_test("DROP TRIGGER broken"), |()| ()).await.unwrap();
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
    until("it is stopping", || *inbox.inner.stopping.borrow()).await;
    assert!(!stopping.is_finished());
    release.notify_one();
    stopping.await.unwrap();
    assert_eq!(inbox.accept(event("3", "c")).await.unwrap_err(), InboxError::Stopped);
    let inbox = open(&dir);
    assert_eq!((app.taken().as_slice(), inbox.counts().await.unwrap().pending), (&["1".to_owned()][..], 1));
}

#[tokio::test]
async fn nothing_that_people_wrote_is_left_after_delivery_and_the_rest_goes_after_a_day() {
    let dir = TempDir::new().unwrap();
    let (now, clock) = still();
    let inbox = Inbox::open(dir.path(), Arc::clone(&clock)).unwrap();
    inbox.start(App::echo());
    let secret = format!("S3CR3T{}", "x".repeat(50_000));
    for number in 0..10 {
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
    assert_eq!(listed(&operator(&dir), &ALL).len(), 10);
    for (later, left) in [(store::KEPT_MS, 10), (1, 0)] {
        now.fetch_add(later, Ordering::SeqCst);
        let inbox = Inbox::open(dir.path(), Arc::clone(&clock)).unwrap();
        let moment = (inbox.inner.clock)();
        let writer = inbox.writer().unwrap();
        while writer.run(move |store| store.purge(moment), |more| more).await.unwrap() {}
        // With a way to the thread still in somebody's hands.
        inbox.stop().await;
        drop(writer);
        assert_eq!(listed(&operator(&dir), &ALL).len(), left);
    }
    assert!(std::fs::metadata(&file).unwrap().len() < 100_000, "the space is given back");
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
    writer.run(|store| store.batch_for_test(sql), |()| ()).await.unwrap();
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
        let error = Inbox::open(dir.path(), clock::system()).unwrap_err();
        assert!(matches!(error, InboxError::Corrupt { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("inbox.sqlite") && said.contains("move it away"), "{said}");
        assert!(!said.contains('\n'), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing is repaired by chance");
    }
}

#[tokio::test]
async fn a_newer_store_a_second_host_and_a_missing_store_are_refused() {
    let dir = TempDir::new().unwrap();
    let missing = Operator::open(dir.path(), clock::system()).unwrap_err();
    assert!(matches!(missing, InboxError::Missing { .. }), "{missing}");
    let inbox = open(&dir);
    let second = Inbox::open(dir.path(), clock::system()).unwrap_err();
    assert_eq!(second, InboxError::InUse { dir: dir.path().to_owned() });
    inbox.writer().unwrap().run(|store| store.batch_for_test("PRAGMA user_version = 2"), |()| ()).await.unwrap();
    inbox.stop().await;
    let newer = Inbox::open(dir.path(), clock::system()).unwrap_err();
    assert!(matches!(newer, InboxError::Newer { found: 2, known: 1, .. }), "{newer}");
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("a/b");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let inbox = Inbox::open(&dir, clock::system()).unwrap();
    inbox.accept(event("1", "c")).await.unwrap();
    assert_eq!(mode(&dir), 0o700);
    for name in ["inbox.sqlite", "inbox.sqlite-wal", "inbox.sqlite-shm", "inbox.lock"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    inbox.stop().await;
    let file = dir.join("inbox.sqlite");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    Inbox::open(&dir, clock::system()).unwrap();
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn debug_shows_no_event() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = TempDir::new().unwrap();
        let inbox = open(&dir);
        let accepted = inbox.accept(event("S3CR3T", "S3CR3T")).await.unwrap();
        let entries = listed(&operator(&dir), &ALL);
        let shown = format!("{inbox:?} {accepted:?} {entries:?} {:?}", operator(&dir));
        assert!(!shown.contains("S3CR3T"), "{shown}");
    });
}

/// What can happen in the life of an inbox.
#[derive(Debug, Clone)]
enum Step {
    /// A message comes in, to be taken after so many failures, or refused then.
    Accept { conversation: u8, failures: u32, is_refused: bool },
    /// One that came before comes again.
    Repeat(prop::sample::Index),
    /// The clock goes on.
    Pass(u64),
    /// The process dies and another one begins.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3u8, 0..3u32, prop::bool::weighted(0.2))
            .prop_map(|(conversation, failures, is_refused)| Step::Accept { conversation, failures, is_refused }),
        1 => any::<prop::sample::Index>().prop_map(Step::Repeat),
        3 => (0..2_000u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// The model: each conversation's events in order, without the refused ones; each taken, none before an earlier
    /// one, none a second time (the restarts here are between a result and the next delivery).
    #[test]
    fn order_is_kept_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = TempDir::new().unwrap();
            let (now, clock) = still();
            // The data are "conversation number failures refused".
            let app = App::deciding(|data, times| {
                let words: Vec<u32> = data.split(' ').map(|word| word.parse().unwrap()).collect();
                match (times > words[2], words[3] == 1) {
                    (false, _) => Err(if words[1].is_multiple_of(2) { down() } else { status(503) }),
                    (true, true) => Err(status(422)),
                    (true, false) => Ok(Some("r".into())),
                }
            });
            let start = || {
                let inbox = Inbox::open(dir.path(), Arc::clone(&clock)).unwrap();
                inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
                inbox
            };
            let mut inbox = start();
            let mut sent: Vec<Event> = Vec::new();
            let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut dead = 0;
            for step in steps {
                match step {
                    Step::Accept { conversation, failures, is_refused } => {
                        let data = format!("{conversation} {} {failures} {}", sent.len(), u8::from(is_refused));
                        let event = event(&data, &conversation.to_string());
                        assert!(!inbox.accept(event.clone()).await.unwrap().is_repeated());
                        sent.push(event);
                        if is_refused {
                            dead += 1;
                        } else {
                            wanted.entry(conversation.to_string()).or_default().push(data);
                        }
                    }
                    Step::Repeat(index) if !sent.is_empty() => {
                        assert!(inbox.accept(index.get(&sent).clone()).await.unwrap().is_repeated());
                    }
                    Step::Repeat(_) => {}
                    Step::Pass(time) => {
                        now.fetch_add(time, Ordering::SeqCst);
                        inbox.inner.wake.notify_one();
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Step::Restart => {
                        inbox.stop().await;
                        inbox = start();
                    }
                }
            }
            let mut counts = inbox.counts().await.unwrap();
            for _ in 0..5_000 {
                if counts.pending == 0 {
                    break;
                }
                now.fetch_add(1_000, Ordering::SeqCst);
                inbox.inner.wake.notify_one();
                tokio::time::sleep(Duration::from_millis(1)).await;
                counts = inbox.counts().await.unwrap();
            }
            assert_eq!(counts, Counts { pending: 0, dead });
            let mut taken: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for data in app.taken() {
                taken.entry(data.split(' ').next().unwrap().to_owned()).or_default().push(data);
            }
            assert_eq!(taken, wanted);
        });
    }
}
