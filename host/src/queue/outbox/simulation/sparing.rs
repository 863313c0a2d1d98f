//! The storage with a memory for one answer: that nothing is due. A dispatcher that has nothing to do asks every two seconds,
//! which is most of what a simulated day costs, and gets the same answer as long as nothing has changed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::host::numbers_in;
use super::world::{World, note};
use crate::event::BoxFuture;
use crate::queue::outbox::DeadLetter;
use crate::queue::siblings::Siblings;
use crate::queue::storage::{End, Storage, Then, Tidied, Wake};
use crate::queue::store::{Due, Item, Lane, Room};
use crate::queue::writer::Writer;
use crate::queue::{Counts, QueueError};

pub(super) struct Sparing {
    writer: Writer,
    nothing: Mutex<Option<Nothing>>,
    /// As of so many changes, nobody is to be told of a dead message.
    none_to_tell: Mutex<Option<u64>>,
    world: Arc<World>,
    /// The letters of what is under way.
    letters: Mutex<HashMap<i64, Vec<usize>>>,
}

/// Nothing was due, for whoever asked like this.
struct Nothing {
    /// How often the store had been changed.
    commits: u64,
    in_all: usize,
    by_binding: HashMap<String, usize>,
    running: Vec<Lane>,
    siblings: Siblings,
    now: u64,
    next: Option<u64>,
}

impl Nothing {
    fn of(commits: u64, room: &Room, now: u64) -> Self {
        let (mut running, siblings, next) = (room.running.clone(), room.siblings.clone(), None);
        running.sort();
        Self { commits, in_all: room.in_all, by_binding: room.by_binding.clone(), running, siblings, now, next }
    }

    /// Whether it is still so.
    fn holds(&self, asked: &Self) -> bool {
        let is_same =
            self.commits == asked.commits && self.in_all == asked.in_all && self.by_binding == asked.by_binding;
        // If the clock was set back, what waits for long is due.
        let is_early = self.now <= asked.now && self.next.is_none_or(|next| asked.now < next);
        is_same && is_early && self.running == asked.running && self.siblings == asked.siblings
    }
}

impl Sparing {
    pub(super) fn new(writer: Writer, world: Arc<World>) -> Self {
        let (nothing, none_to_tell, letters) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { writer, nothing, none_to_tell, world, letters }
    }

    /// A message is given up; its place goes to the next one once that is noted.
    async fn give_up(&self, seq: i64, reason: &str) {
        let numbers = self.letters.lock().unwrap()[&seq].clone();
        let checked = {
            let mut state = self.world.state();
            note!(state, "letter {numbers:?} is given up: {reason}");
            let (now, latest) = (state.now(), state.latest());
            numbers.into_iter().try_for_each(|number| state.books.given_up(number, reason, now, latest))
        };
        self.world.check(checked);
        self.world.may_end("before what was given up is noted").await;
    }

    fn commits(&self) -> u64 {
        self.writer.commits.load(Ordering::SeqCst)
    }
}

impl Storage for Sparing {
    fn insert(&self, items: Vec<Item>, now: u64, then: Then) -> BoxFuture<'_, Result<(), QueueError>> {
        self.writer.insert(items, now, then)
    }

    fn due(&self, room: Room, now: u64) -> BoxFuture<'_, Result<Due, QueueError>> {
        let asked = Nothing::of(self.commits(), &room, now);
        let known = self.nothing.lock().unwrap();
        if let Some(next) = known.as_ref().filter(|known| known.holds(&asked)).map(|known| known.next) {
            return Box::pin(std::future::ready(Ok(Due { heads: Vec::new(), next })));
        }
        drop(known);
        Box::pin(async move {
            let due = self.writer.due(room, now).await?;
            let letters = due.heads.iter().map(|head| (head.seq, numbers_in(&head.event.data)));
            self.letters.lock().unwrap().extend(letters);
            // Only if nothing was changed meanwhile, before it was answered or after.
            if due.heads.is_empty() && self.commits() == asked.commits {
                *self.nothing.lock().unwrap() = Some(Nothing { next: due.next, ..asked });
            }
            Ok(due)
        })
    }

    fn pass_on(&self, now: u64) -> BoxFuture<'_, bool> {
        self.writer.pass_on(now)
    }

    fn end(&self, seq: i64, end: End, now: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        Box::pin(async move {
            if let End::Refused(reason) = &end {
                self.give_up(seq, reason).await;
            }
            let ended = self.writer.end(seq, end, now).await;
            if ended.is_ok() {
                self.letters.lock().unwrap().remove(&seq);
            }
            ended
        })
    }

    fn front(&self, seq: i64, beyond: usize, now: u64) -> BoxFuture<'_, Result<Vec<(i64, Bytes)>, QueueError>> {
        self.writer.front(seq, beyond, now)
    }

    fn unite(&self, seqs: Vec<i64>, data: Bytes, now: u64) -> BoxFuture<'_, Result<bool, QueueError>> {
        Box::pin(async move {
            let (first, numbers) = (seqs[0], numbers_in(&data));
            let united = self.writer.unite(seqs, data, now).await;
            let mut state = self.world.state();
            note!(state, "letters {numbers:?} become one: {united:?}");
            state.books.count(if united == Ok(true) { "become one" } else { "do not become one" });
            if united == Ok(true) {
                let now = state.now();
                state.books.united(&numbers, now);
                self.letters.lock().unwrap().insert(first, numbers);
            }
            united
        })
    }

    fn forget_reply(&self, seq: i64) -> BoxFuture<'_, Result<(), QueueError>> {
        self.writer.forget_reply(seq)
    }

    fn wake(&self, which: Wake, now: u64) -> BoxFuture<'_, Result<bool, QueueError>> {
        self.writer.wake(which, now)
    }

    fn tidy(&self, now: u64) -> BoxFuture<'_, Result<Tidied, QueueError>> {
        self.writer.tidy(now)
    }

    fn letters(&self, except: Vec<String>) -> BoxFuture<'_, Result<Vec<DeadLetter>, QueueError>> {
        let commits = self.commits();
        if *self.none_to_tell.lock().unwrap() == Some(commits) {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        Box::pin(async move {
            let letters = self.writer.letters(except).await?;
            *self.none_to_tell.lock().unwrap() = (letters.is_empty() && self.commits() == commits).then_some(commits);
            Ok(letters)
        })
    }

    fn told(&self, seq: i64, died_at: u64) -> BoxFuture<'_, Result<(), QueueError>> {
        self.writer.told(seq, died_at)
    }

    fn passed_over(&self) -> BoxFuture<'_, usize> {
        self.writer.passed_over()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Counts, QueueError>> {
        self.writer.counts()
    }

    fn oldest(&self) -> BoxFuture<'_, Result<Option<u64>, QueueError>> {
        self.writer.oldest()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Storage::close(&self.writer)
    }
}
