//! What is special to a database: several hosts, their clocks, and its being gone.

mod attack;
mod groups;
mod hosts;
mod outage;
mod plans;
mod posts;
mod scale;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock;
use crate::queue::storage::{End, Storage};
use crate::queue::store::{Item, Room, Stored};
use crate::queue::tests::{Bench, Server, add, data, delivered, due, failed, heads, insert, insert_one, item, room};
use crate::queue::{Limits, Side};

/// A host of its own over a database.
async fn host(address: &Address) -> (Database, Events) {
    let database = Database::open(address, clock::system()).await.unwrap();
    let events = Events::new(database.clone(), Side::Inbox, Limits::default());
    (database, events)
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..12_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
