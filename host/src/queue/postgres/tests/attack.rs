//! Three hosts over one database, which are killed, and whose database crashes, while messages come in and go out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::gate::ledger::{Claimed, Ledger, Unclaimed};
use crate::gate::lesson::Lesson;
use crate::queue::store::Lane;
use crate::queue::tests::ledger::intent;

const CONVERSATIONS: usize = 6;

/// What was seen, in the order in which it was.
#[derive(Default)]
struct Seen {
    /// Acknowledged insertions.
    accepted: Mutex<BTreeMap<usize, Vec<String>>>,
    /// When a delivery began, and of what.
    begun: Mutex<Vec<String>>,
    /// Deliveries whose end is stored, as far as their host has lived to note that here.
    ended: Mutex<BTreeSet<String>>,
    /// Deliveries that began after their end was stored.
    again: Mutex<Vec<String>>,
    /// Posts, when somebody had them.
    posts: Mutex<Vec<Instant>>,
    stop: AtomicBool,
    number: AtomicUsize,
}

/// One host, until it is killed: as its process would, it leaves everything where it is.
fn life(address: Address, seen: Arc<Seen>) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let database = loop {
            match Database::open(&address, clock::system()).await {
                Ok(database) => break database,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let events = Events::new(database.clone(), Side::Inbox, Limits::default());
        let ledger = Posts::new(database);
        tokio::join!(accepts(&events, &seen), delivers(&events, &seen), posts(&ledger, &seen));
    });
    tasks
}

async fn accepts(events: &Events, seen: &Seen) {
    while !seen.stop.load(Ordering::SeqCst) {
        let number = seen.number.fetch_add(1, Ordering::SeqCst);
        let (conversation, data) = (number % CONVERSATIONS, format!("{number:06}"));
        // Whoever repeats what was not acknowledged must not have it delivered twice.
        loop {
            let (sender, stored) = tokio::sync::oneshot::channel();
            let then = |stored: Vec<Stored>| drop(sender.send(stored));
            let item = item(&data, &conversation.to_string());
            if events.insert(vec![item], clock::system()(), Box::new(then)).await.is_ok() {
                stored.await.unwrap();
                seen.accepted.lock().unwrap().entry(conversation).or_default().push(data);
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
    }
}

async fn delivers(events: &Events, seen: &Seen) {
    let mut running: Vec<Lane> = Vec::new();
    loop {
        let room = crate::queue::store::Room { running: running.clone(), ..room() };
        let Ok(found) = events.due(room, clock::system()()).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        for head in found.heads {
            running.push(head.lane.clone());
            let data = data(&head.event);
            seen.begun.lock().unwrap().push(data.clone());
            if seen.ended.lock().unwrap().contains(&data) {
                seen.again.lock().unwrap().push(data.clone());
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..5))).await;
            let end = if fastrand::u8(0..10) == 0 {
                End::Failed { error: "no".into(), due: clock::system()() + 20, suffers: false }
            } else {
                End::Delivered(None)
            };
            while events.end(head.seq, end.clone(), clock::system()()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if end == End::Delivered(None) {
                seen.ended.lock().unwrap().insert(data);
            }
            running.pop();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn posts(ledger: &Posts, seen: &Seen) {
    loop {
        match ledger.claim(intent("20/3s", None, 1)).await {
            Ok(Claimed { posts, .. }) => {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
                seen.posts.lock().unwrap().push(Instant::now());
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
                posts.into_iter().for_each(|post| ledger.end(post, &Lesson::Counted));
            }
            Err(Unclaimed::Full(wait)) => tokio::time::sleep(Duration::from_millis(wait.clamp(1, 40))).await,
            Err(Unclaimed::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_out_of_order_and_never_is_one_too_many_whatever_dies() {
    let Some(mut server) = Server::start() else { return };
    server.sql("CREATE SCHEMA s");
    let address = Address::new(&server.url("s")).unwrap();
    let seen = Arc::new(Seen::default());
    let mut hosts: Vec<_> = (0..3).map(|_| life(address.clone(), Arc::clone(&seen))).collect();
    for step in 0..8 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        if step % 3 == 1 {
            server.crash();
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.run();
        } else {
            let host = step % hosts.len();
            hosts[host].abort_all();
            hosts[host] = life(address.clone(), Arc::clone(&seen));
        }
    }
    seen.stop.store(true, Ordering::SeqCst);
    // Leases of those who died have to end first.
    let left = async || server.sql("SELECT count(*) FROM s.events WHERE state = 'pending'");
    until("all is delivered", async || left().await == "0").await;
    drop(hosts);
    let accepted = seen.accepted.lock().unwrap().clone();
    let begun = seen.begun.lock().unwrap().clone();
    let count: usize = accepted.values().map(Vec::len).sum();
    assert!(count > 100, "{count}");
    assert_eq!(*seen.again.lock().unwrap(), Vec::<String>::new(), "delivered although its end was stored");
    for (conversation, accepted) in accepted {
        // The order in which each was begun for the first time is the order of its number in the database.
        let mut first = Vec::new();
        for data in begun.iter().filter(|data| data.parse::<usize>().unwrap() % CONVERSATIONS == conversation) {
            if !first.contains(data) {
                first.push(data.clone());
            }
        }
        let sql = format!(
            "SELECT convert_from(msg_id, 'UTF8') FROM s.events WHERE msg_id::text::bytea IS NOT NULL AND state = 'delivered' AND convert_from(msg_id, 'UTF8')::int % {CONVERSATIONS} = {conversation} ORDER BY seq"
        );
        let stored: Vec<String> = server.sql(&sql).lines().map(str::to_owned).collect();
        assert_eq!(first, stored);
        assert!(accepted.iter().all(|data| stored.contains(data)), "what was acknowledged is delivered");
        // A repetition is one of the last that began, never of one before it.
        let mut latest = 0;
        for data in begun.iter().filter(|data| data.parse::<usize>().unwrap() % CONVERSATIONS == conversation) {
            let place = stored.iter().position(|known| known == data).unwrap();
            assert!(place >= latest, "{data} after {}", stored[latest]);
            latest = place;
        }
    }
    let mut posts = seen.posts.lock().unwrap().clone();
    posts.sort();
    assert!(posts.len() > 20, "{}", posts.len());
    for group in posts.windows(21) {
        assert!(group[20] - group[0] >= Duration::from_secs(3), "{:?}", group[20] - group[0]);
    }
}
