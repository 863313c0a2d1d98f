//! The inbox as a whole: what it promises to DingTalk, to the application and to the operator.

mod delivery;
#[cfg(target_os = "linux")]
mod faults;
mod model;
mod operator;
mod repair;
mod scale;
mod space;
mod steps;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc as blocking;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use tokio::sync::Notify;

use super::*;
use crate::clock;
use crate::queue::store::Store;
use crate::queue::writer::Writer;
use crate::queue::{Entry, Listing, Operator, Selection, State};

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
    Undelivered::NoConnection("nobody listens".into())
}

fn status(status: u16) -> Undelivered {
    Undelivered::Refused { status, body: String::new(), retry_after: None }
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
    Inbox::open(dir.path(), clock::system(), Limits::default()).unwrap()
}

/// Opens again after the last handle was dropped without a stop.
async fn reopen(dir: &Path) -> Inbox {
    for _ in 0..2_000 {
        match Inbox::open(dir, clock::system(), Limits::default()) {
            Err(QueueError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
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

/// Keeps the writer's thread busy until it is told that it need not be any more.
async fn occupy(writer: &Writer) -> (blocking::Sender<()>, tokio::task::JoinHandle<Result<(), QueueError>>) {
    let (release, gate) = blocking::channel::<()>();
    let busy = tokio::spawn({
        let (writer, gate) = (writer.clone(), Mutex::new(gate));
        async move { writer.run(move |_| gate.lock().unwrap().recv().map_err(|_| QueueError::Stopped)).await }
    });
    tokio::task::yield_now().await;
    until("the thread is busy", || writer.queued() == 0).await;
    (release, busy)
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
    operator.listed(states)
}

fn operator(dir: &TempDir) -> Operator {
    Operator::open(Side::Inbox, dir.path(), clock::system()).unwrap()
}

const ALL: [State; 3] = [State::Pending, State::Dead, State::Delivered];

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
