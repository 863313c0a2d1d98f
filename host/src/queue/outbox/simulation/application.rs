//! Who sends: some that queue one message after the other within a conversation, and some that post without the outbox.

use std::sync::Arc;
use std::time::Duration;

use super::books::Letter;
use super::host::{BINDINGS, QUOTA_OF};
use super::world::{World, ms, note, one_in, random_time};
use crate::bindings::{Bindings, CREATE, InvokeError};
use crate::sandbox::{Request, Response};

const MINUTE_MS: u64 = 60_000;

/// The mean pause of who queues, and of who does not.
const QUEUES_EVERY_MS: u64 = 14 * MINUTE_MS;
const POSTS_EVERY_MS: u64 = 11 * MINUTE_MS;

/// Who queues messages of one conversation. What it remembers outlives the host.
#[derive(Clone)]
pub(super) struct Client {
    binding: usize,
    conversation: String,
    /// Of which it does not know whether it is stored. It goes on only when it does.
    unsettled: Option<usize>,
    /// What it may repeat without a reason.
    last: Option<usize>,
}

impl Client {
    pub(super) fn all() -> Vec<Self> {
        // The first two are of one robot, and have two in common.
        let conversations = [["", "sales", "plant"], ["", "sales", "shift"], ["", "orders", "claims"]];
        let of = |(binding, names): (usize, [&str; 3])| {
            names.map(|name| Self { binding, conversation: name.to_owned(), unsettled: None, last: None })
        };
        conversations.into_iter().enumerate().flat_map(of).collect()
    }
}

/// One call: the whole of the application's way to the host.
async fn call(
    world: &Arc<World>,
    bindings: &Bindings,
    number: usize,
    limit: Option<Duration>,
) -> Option<Result<Response, InvokeError>> {
    let (name, request) = {
        let mut state = world.state();
        let wall = state.wall();
        let letter = &mut state.books.letters[number];
        (letter.sent_first, letter.sent_last) = (letter.sent_first.min(wall), letter.sent_last.max(wall));
        let mut metadata = vec![("delivery", if letter.is_queued { "queued" } else { "direct" }.to_owned())];
        if letter.is_queued {
            metadata.push(("conversation", letter.conversation.clone()));
        }
        metadata.push(("priority", ["low", "normal", "high"][usize::try_from(letter.rank + 1).unwrap()].to_owned()));
        metadata.extend(letter.uuid.iter().map(|uuid| ("msgUuid", uuid.clone())));
        metadata.extend(letter.expires.iter().map(|after| ("expires", format!("{after}ms"))));
        let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let data = letter.text.clone().into_bytes();
        (BINDINGS[letter.binding], Request { operation: CREATE.into(), data, metadata })
    };
    let called = bindings.invoke(name, request, None);
    match limit {
        Some(limit) => tokio::time::timeout(limit, called).await.ok(),
        None => Some(called.await),
    }
}

fn named(error: &InvokeError, name: &str) -> String {
    error.metadata().into_iter().find(|(known, _)| known == name).map(|(_, value)| value).unwrap_or_default()
}

/// A new message to be queued.
fn write(world: &World, client: &Client) -> usize {
    let mut state = world.state();
    let number = state.books.letters.len();
    // Characters that become two: longer than a robot takes, and short enough to be stored without a thread.
    let text = if one_in(60) { "\"".repeat(12_000) } else { "x".repeat(fastrand::usize(..40)) };
    let letter = Letter {
        binding: client.binding,
        is_queued: true,
        conversation: client.conversation.clone(),
        rank: [-1, 0, 0, 0, 0, 1][fastrand::usize(..6)],
        uuid: (fastrand::u32(..10) < 6).then(|| format!("own-{number}")),
        expires: one_in(8).then(|| fastrand::u64(MINUTE_MS / 2..40 * MINUTE_MS)),
        text: format!("m{number} {text}"),
        sent_first: u64::MAX,
        ..Letter::default()
    };
    note!(
        state,
        "letter {number} of {} {:?}, rank {}, {} expires {:?}, {} bytes",
        BINDINGS[client.binding],
        letter.conversation,
        letter.rank,
        letter.uuid.as_deref().unwrap_or("-"),
        letter.expires,
        letter.text.len()
    );
    state.books.write(letter)
}

/// Queues messages for ever.
pub(super) async fn queue(world: Arc<World>, bindings: Arc<Bindings>, index: usize) {
    loop {
        let is_unsettled = world.state().clients[index].unsettled.is_some();
        tokio::time::sleep(random_time(if is_unsettled { 20_000 } else { QUEUES_EVERY_MS })).await;
        let burst = if one_in(10) { fastrand::u32(5..25) } else { 1 };
        for _ in 0..burst {
            let client = world.state().clients[index].clone();
            let number = match (client.unsettled, client.last) {
                (Some(unsettled), _) => unsettled,
                (None, Some(last)) if one_in(30) => last,
                _ => write(&world, &client),
            };
            {
                // Without a msgUuid, what is sent again would be another message.
                let mut state = world.state();
                let may_be_repeated = state.books.letters[number].uuid.is_some();
                state.clients[index].unsettled = may_be_repeated.then_some(number);
            }
            queue_one(&world, &bindings, index, number).await;
        }
    }
}

async fn queue_one(world: &Arc<World>, bindings: &Bindings, index: usize, number: usize) {
    // Now and then, who calls does not wait for the answer.
    let limit = one_in(40).then(|| ms(fastrand::u64(..10)));
    let called = call(world, bindings, number, limit).await;
    let mut state = world.state();
    if state.is_dead {
        return;
    }
    let (now, wall) = (state.now(), state.wall());
    let has_uuid = state.books.letters[number].uuid.is_some();
    let (mut is_known, mut checked) = (!has_uuid, Ok(()));
    match called {
        Some(Ok(response)) => {
            let id = response.metadata.iter().find(|(name, _)| name == "id").map(|(_, id)| id.clone()).unwrap();
            note!(state, "letter {number} is queued as {id}");
            checked = state.books.accepted(number, &id, now, wall);
            is_known = true;
        }
        Some(Err(error)) => {
            note!(state, "letter {number} is not queued: {}", named(&error, "error"));
            assert_eq!(named(&error, "outcome"), "not-sent", "{error}");
            // Given up before, or the binding is not there: the application leaves it at that.
            is_known |= named(&error, "error") != "outbox-unavailable";
            let letter = &mut state.books.letters[number];
            letter.is_withdrawn = is_known && letter.id.is_none() && named(&error, "error") != "repeated";
        }
        None => note!(state, "nobody waits for letter {number}"),
    }
    let is_stored = state.books.letters[number].id.is_some();
    if is_known {
        let client = &mut state.clients[index];
        (client.unsettled, client.last) = (None, (has_uuid && is_stored).then_some(number).or(client.last));
    }
    drop(state);
    world.check(checked);
}

/// Posts without the outbox, for ever.
pub(super) async fn post(world: Arc<World>, bindings: Arc<Bindings>, binding: usize) {
    loop {
        tokio::time::sleep(random_time(POSTS_EVERY_MS)).await;
        let burst = if one_in(8) { fastrand::u32(5..20) } else { 1 };
        for _ in 0..burst {
            tokio::spawn(post_one(Arc::clone(&world), Arc::clone(&bindings), binding));
            if one_in(2) {
                tokio::time::sleep(ms(fastrand::u64(..300))).await;
            }
        }
    }
}

async fn post_one(world: Arc<World>, bindings: Arc<Bindings>, binding: usize) {
    let number = {
        let mut state = world.state();
        let number = state.books.letters.len();
        note!(state, "letter {number} of {}, not queued", BINDINGS[binding]);
        let rank = i64::from(one_in(4));
        let (text, sent_first) = (format!("m{number} direct"), u64::MAX);
        state.books.write(Letter { binding, rank, text, sent_first, ..Letter::default() })
    };
    // Now and then, who calls goes away.
    let limit = one_in(8).then(|| ms(fastrand::u64(..9_000)));
    let _call = Underway::begin(&world, binding);
    let called = call(&world, &bindings, number, limit).await;
    let mut state = world.state();
    if state.is_dead {
        return;
    }
    let (is_posted, may_be) = match &called {
        Some(Ok(_)) => (true, true),
        Some(Err(error)) => (false, named(error, "outcome") == "unknown"),
        None => (false, true),
    };
    if called.is_none() && binding == QUOTA_OF {
        state.books.cut_off();
    }
    let said = match &called {
        Some(Ok(_)) => "ok".to_owned(),
        Some(Err(error)) => format!("{} {}", named(error, "error"), named(error, "class")),
        None => "nobody waits".to_owned(),
    };
    note!(state, "letter {number}: {said}");
    if said == "withheld quota" {
        state.books.count("withheld for the quota");
    }
    let checked = state.books.posted(number, is_posted, may_be);
    drop(state);
    world.check(checked);
}

/// A call that may claim a part of the month's messages.
pub(super) struct Underway<'a>(&'a World, u64);

impl<'a> Underway<'a> {
    pub(super) fn begin(world: &'a World, binding: usize) -> Self {
        let calls = u64::from(binding == QUOTA_OF);
        world.state().books.calls += calls;
        Self(world, calls)
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if !state.is_dead {
            state.books.calls -= self.1;
        }
    }
}
