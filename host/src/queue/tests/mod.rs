//! What a queue promises, whatever keeps it: one suite over SQLite and PostgreSQL.

pub(super) mod ledger;
mod letters;
mod merging;
mod order;
mod promises;
pub(crate) mod server;
mod siblings;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tempfile::TempDir;

use super::lock::Lock;
use super::operator::{Listing, Operator, State};
use super::postgres::{Address, Database, Events, Posts};
use super::storage::{End, Storage};
use super::store::{Due, Item, Room, Store, Stored};
use super::writer::{self, Writer};
use super::{Entry, Limits, QueueError, Side};
use crate::clock::Clock;
use crate::event::Event;
use crate::gate::ledger::Ledger;
pub(super) use server::Server;

/// The present of a bench at its beginning.
pub(super) const NOW: u64 = 1_700_000_000_000;

/// One for all tests of this process. Ends with the process.
static SERVER: LazyLock<Option<Server>> = LazyLock::new(Server::start);

/// Time after which nothing of a dead host holds anybody up.
const LEASE_MS: u64 = 10_001;

/// A place to keep queues in, and its time, which passes when a test says so.
pub(super) struct Bench {
    kept: Kept,
    limits: Limits,
    now: Arc<AtomicU64>,
}

enum Kept {
    Files(TempDir),
    /// A schema of its own.
    Database(&'static Server, String),
}

impl Bench {
    pub(super) fn files() -> Self {
        Self::over(Kept::Files(TempDir::new().unwrap()))
    }

    /// Nothing where PostgreSQL is not installed.
    pub(super) async fn database() -> Option<Self> {
        static SCHEMAS: AtomicUsize = AtomicUsize::new(0);
        let server = SERVER.as_ref()?;
        let schema = format!("s{}", SCHEMAS.fetch_add(1, Ordering::SeqCst));
        server.sql(&format!("CREATE SCHEMA {schema}"));
        let bench = Self::over(Kept::Database(server, schema));
        // The tables, with a clock that stands still.
        drop(Database::open(&bench.address().unwrap(), bench.clock()).await.unwrap());
        bench.sql(&format!(
            "CREATE TABLE present (ms int8); INSERT INTO present VALUES ({NOW}); CREATE OR REPLACE FUNCTION now_ms() RETURNS int8
             LANGUAGE sql VOLATILE AS 'SELECT ms FROM present'"
        ));
        Some(bench)
    }

    fn over(kept: Kept) -> Self {
        Self { kept, limits: Limits::default(), now: Arc::new(AtomicU64::new(NOW)) }
    }

    pub(super) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    pub(super) fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Arc::new(move || now.load(Ordering::SeqCst))
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(super) fn address(&self) -> Option<Address> {
        match &self.kept {
            Kept::Files(_) => None,
            Kept::Database(server, schema) => Some(Address::new(&server.url(schema)).unwrap()),
        }
    }

    pub(super) fn server(&self) -> &'static Server {
        let Kept::Database(server, _) = &self.kept else { panic!("no database") };
        server
    }

    pub(super) fn url(&self) -> String {
        let Kept::Database(server, schema) = &self.kept else { panic!("no database") };
        server.url(schema)
    }

    /// SQL of the database.
    pub(super) fn sql(&self, sql: &str) -> String {
        let Kept::Database(server, schema) = &self.kept else { panic!("no database") };
        server.sql(&format!("SET search_path = {schema}; {sql}"))
    }

    pub(super) fn pass(&self, time: u64) {
        let now = self.now.fetch_add(time, Ordering::SeqCst) + time;
        if matches!(self.kept, Kept::Database(..)) {
            self.sql(&format!("UPDATE present SET ms = {now}"));
        }
    }

    /// A host's.
    pub(super) async fn open(&self, side: Side) -> Arc<dyn Storage> {
        match &self.kept {
            Kept::Files(_) => Arc::new(self.writer(side).await),
            Kept::Database(..) => Arc::new(self.events(side).await),
        }
    }

    /// Waits for a host that has just ended without saying so.
    async fn writer(&self, side: Side) -> Writer {
        let Kept::Files(dir) = &self.kept else { panic!("no files") };
        for _ in 0..2_000 {
            match Lock::take(side, dir.path()) {
                Err(QueueError::InUse { .. }) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                lock => {
                    let store = Store::create(side, dir.path(), self.limits).unwrap();
                    return Writer::start(store, lock.unwrap(), side, dir.path()).unwrap();
                }
            }
        }
        panic!("the lock is never released");
    }

    pub(super) async fn events(&self, side: Side) -> Events {
        let database = Database::open(&self.address().unwrap(), self.clock()).await.unwrap();
        Events::new(database, side, self.limits)
    }

    /// A host's.
    pub(super) async fn ledger(&self) -> Arc<dyn Ledger> {
        match &self.kept {
            Kept::Files(_) => Arc::new(writer::Posts::new(self.writer(Side::Outbox).await, self.clock())),
            Kept::Database(..) => {
                let database = Database::open(&self.address().unwrap(), self.clock()).await.unwrap();
                Arc::new(Posts::new(database))
            }
        }
    }

    pub(super) fn operator(&self, side: Side) -> Operator {
        match &self.kept {
            Kept::Files(dir) => Operator::open(side, dir.path(), self.clock()).unwrap(),
            Kept::Database(..) => Operator::open_in(side, &self.address().unwrap(), self.clock()).unwrap(),
        }
    }

    /// The host dies: it says nothing to anybody.
    pub(super) fn kill(&self, storage: Arc<dyn Storage>) {
        drop(storage);
        if matches!(self.kept, Kept::Database(..)) {
            self.pass(LEASE_MS);
        }
    }
}

/// Runs each of these over both.
macro_rules! over_both {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod sqlite {
            $( $(#[$attribute])* #[tokio::test] async fn $name() { super::$name(super::Bench::files()).await } )*
        }
        mod postgres {
            $( $(#[$attribute])* #[tokio::test] async fn $name() {
                let Some(bench) = super::Bench::database().await else { return };
                super::$name(bench).await
            } )*
        }
    };
}
pub(super) use over_both;

pub(super) fn event(data: &str, conversation: &str) -> Event {
    Event {
        binding: "team".into(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        metadata: vec![("msgId".into(), data.into()), ("conversationId".into(), conversation.into())],
        trace: vec![("traceparent".into(), "00-1-2-01".into())],
    }
}

pub(super) fn item(data: &str, conversation: &str) -> Item {
    Item::received(event(data, conversation))
}

pub(super) fn room() -> Room {
    Room { in_all: 64, a_binding: 16, ..Room::default() }
}

/// Stores these; what became of them.
pub(super) async fn insert(bench: &Bench, storage: &dyn Storage, items: Vec<Item>) -> Result<Vec<Stored>, QueueError> {
    let (sender, stored) = tokio::sync::oneshot::channel();
    let then = |stored| drop(sender.send(stored));
    storage.insert(items, bench.now(), Box::new(then)).await?;
    Ok(stored.await.unwrap())
}

pub(super) async fn insert_one(bench: &Bench, storage: &dyn Storage, item: Item) -> Stored {
    insert(bench, storage, vec![item]).await.unwrap().pop().unwrap()
}

/// The number of a new event.
pub(super) async fn add(bench: &Bench, storage: &dyn Storage, data: &str, conversation: &str) -> i64 {
    match insert_one(bench, storage, item(data, conversation)).await {
        Stored::New(seq) => seq,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn due(bench: &Bench, storage: &dyn Storage, room: Room) -> Due {
    storage.due(room, bench.now()).await.unwrap()
}

/// The data of what is to be delivered now.
pub(super) async fn heads(bench: &Bench, storage: &dyn Storage) -> Vec<String> {
    let mut heads: Vec<String> = due(bench, storage, room()).await.heads.iter().map(|head| data(&head.event)).collect();
    heads.sort();
    heads
}

pub(super) fn data(event: &Event) -> String {
    String::from_utf8(event.data.to_vec()).unwrap()
}

pub(super) async fn end(bench: &Bench, storage: &dyn Storage, seq: i64, end: End) {
    storage.end(seq, end, bench.now()).await.unwrap();
}

pub(super) async fn delivered(bench: &Bench, storage: &dyn Storage, seq: i64) {
    end(bench, storage, seq, End::Delivered(None)).await;
}

pub(super) async fn failed(bench: &Bench, storage: &dyn Storage, seq: i64, pause: u64, suffers: bool) {
    let due = bench.now() + pause;
    end(bench, storage, seq, End::Failed { error: "no".into(), due, suffers }).await;
}

pub(super) fn listed(operator: &Operator, states: &[State]) -> Vec<Entry> {
    operator.listed(states)
}
