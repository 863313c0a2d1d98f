//! A store that is damaged where the events do not depend on it: indexes and lanes.

use super::*;

/// What belongs to no event, by the name of the tree.
const DERIVED: [&str; 9] = [
    "events_msg_id",
    "events_pending",
    "events_dead",
    "events_delivered",
    "events_waiting",
    "lanes",
    "sqlite_autoindex_lanes_1",
    "lanes_due",
    "growth",
];

async fn root(inbox: &Inbox, name: &'static str) -> u64 {
    let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{name}'");
    inbox.writer().unwrap().run(move |store| store.number_for_test(&sql)).await.unwrap().try_into().unwrap()
}

/// Destroys a page of the file, counted from 1.
fn destroy(dir: &Path, page: u64) {
    use std::io::{Seek, Write};
    let mut file = std::fs::File::options().write(true).open(dir.join("inbox.sqlite")).unwrap();
    file.seek(std::io::SeekFrom::Start((page - 1) * 4_096)).unwrap();
    file.write_all(&[0xA5; 4_096]).unwrap();
}

/// 600 events in 300 conversations, 2 of them dead and 2 delivered: each index has several pages.
async fn fill(dir: &TempDir) -> Inbox {
    let inbox = open(dir);
    for number in 0..600 {
        inbox.accept(event(&format!("{number:03}"), &format!("conversation {}", number % 300))).await.unwrap();
    }
    let sql = "UPDATE events SET state = 'dead' WHERE seq IN (100, 400);
               UPDATE events SET state = 'delivered', finished_at = 9e15 WHERE seq IN (101, 401);
               DELETE FROM lanes WHERE conversation IN ('conversation 99', 'conversation 100')";
    inbox.writer().unwrap().run(move |store| store.batch_for_test(sql)).await.unwrap();
    inbox
}

/// Everything is there that was there before, in order, and new events are stored.
async fn check(inbox: &Inbox, app: &Arc<App>, damage: &str) {
    until_counts(inbox, 0, 2).await;
    let mut taken = app.taken();
    assert_eq!(taken.len(), 596, "{damage}");
    for conversation in (0..300).filter(|number| !matches!(number, 99 | 100)) {
        let of = [format!("{conversation:03}"), format!("{:03}", conversation + 300)];
        assert_eq!(taken.iter().filter(|data| of.contains(data)).cloned().collect::<Vec<_>>(), of, "{damage}");
    }
    for known in ["000", "100", "599"] {
        let again = inbox.accept(event(known, &format!("conversation {}", known.parse::<u32>().unwrap() % 300))).await;
        assert!(again.unwrap().is_repeated(), "{damage}");
    }
    let new = inbox.accept(event("new", "conversation 7")).await.unwrap();
    assert_eq!((new.is_repeated(), new.seq()), (false, 601), "{damage}: a number is never used twice");
    until_counts(inbox, 0, 2).await;
    taken = app.taken();
    assert_eq!(taken.last().map(String::as_str), Some("new"), "{damage}");
}

#[tokio::test]
async fn damage_that_concerns_no_event_is_put_in_order_at_the_start() {
    let template = TempDir::new().unwrap();
    let inbox = fill(&template).await;
    let mut damages = vec![("the map of pages", 2)];
    for name in DERIVED {
        damages.push((name, root(&inbox, name).await));
    }
    inbox.stop().await;
    let bytes = std::fs::read(template.path().join("inbox.sqlite")).unwrap();
    damages.push(("free pages", u32::from_be_bytes(bytes[32..36].try_into().unwrap()).into()));
    for (name, page) in damages {
        let dir = TempDir::new().unwrap();
        for file in ["inbox.sqlite", "inbox.sqlite-wal"] {
            std::fs::copy(template.path().join(file), dir.path().join(file)).unwrap();
        }
        destroy(dir.path(), page);
        let damaged = std::fs::read(dir.path().join("inbox.sqlite")).unwrap();
        let (log, guard) = crate::quiet::log();
        let opened = Inbox::open(dir.path(), clock::system(), Limits::default());
        let inbox = opened.unwrap_or_else(|error| panic!("{name}: {error} {}", log.text()));
        assert_eq!(log.count("was damaged and is put in order"), 1, "{name}: {}", log.text());
        assert!(
            log.text().contains("inbox.sqlite was damaged") && log.text().contains("-damaged-wal"),
            "{}",
            log.text()
        );
        drop(guard);
        let app = App::echo();
        inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
        check(&inbox, &app, name).await;
        inbox.stop().await;
        assert!(std::fs::read(dir.path().join("inbox.sqlite-damaged")).unwrap() == damaged, "{name}");
        let (log, guard) = crate::quiet::log();
        open(&dir).stop().await;
        assert_eq!(log.text(), "", "{name}: the new one is whole");
        drop(guard);
    }
}

#[tokio::test]
async fn damage_that_concerns_no_event_is_put_in_order_while_the_host_runs() {
    for name in ["events_msg_id", "events_pending", "events_waiting", "lanes", "sqlite_autoindex_lanes_1", "lanes_due"]
    {
        let dir = TempDir::new().unwrap();
        let inbox = fill(&dir).await;
        let page = root(&inbox, name).await;
        inbox.stop().await;
        let inbox = open(&dir);
        destroy(dir.path(), page);
        // The check at the start has read the pages, and SQLite would go on with what it remembers.
        inbox.writer().unwrap().run(|store| store.batch_for_test("PRAGMA shrink_memory")).await.unwrap();
        let (log, guard) = crate::quiet::log();
        // Whatever finds the damage fails: nothing is acknowledged then.
        let found = (inbox.accept(event("000", "conversation 0")).await.map(drop), inbox.counts().await.map(drop));
        for error in [found.0.err(), found.1.err()].into_iter().flatten() {
            assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
        }
        let app = App::echo();
        inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
        println!("{name}");
        check(&inbox, &app, name).await;
        // The writer's thread says the rest.
        assert!(log.count("cannot tell what is to be delivered") <= 1, "{}", log.text());
        drop(guard);
        assert!(dir.path().join("inbox.sqlite-damaged").exists(), "{name}");
        inbox.stop().await;
        open(&dir).stop().await;
    }
}

/// A host may end between any two steps of the exchange.
#[tokio::test]
async fn an_exchange_that_was_cut_off_is_ended_by_the_next_host() {
    for moved in 0..3 {
        let dir = TempDir::new().unwrap();
        let inbox = fill(&dir).await;
        inbox.stop().await;
        let path = |name: &str| dir.path().join(format!("inbox.sqlite{name}"));
        std::fs::copy(path(""), path("-rebuilt")).unwrap();
        for name in ["", "-wal"] {
            std::fs::write(path(name), [0xA5; 40_000]).unwrap();
        }
        for name in ["-wal", ""].iter().take(moved) {
            std::fs::rename(path(name), path(&format!("-damaged{name}"))).unwrap();
        }
        let inbox = open(&dir);
        let app = App::echo();
        inbox.start(Arc::clone(&app) as Arc<dyn Consumer>);
        check(&inbox, &app, "cut off").await;
        inbox.stop().await;
        assert!(!path("-rebuilt").exists());
        for name in ["-damaged", "-damaged-wal"] {
            assert_eq!(std::fs::read(path(name)).unwrap(), [0xA5; 40_000]);
        }
    }
}

/// A page of events and one of an index: what is left is for people to judge.
#[tokio::test]
async fn damage_that_concerns_events_too_is_not_put_in_order() {
    let dir = TempDir::new().unwrap();
    let inbox = fill(&dir).await;
    let pages = [root(&inbox, "lanes").await, root(&inbox, "events").await];
    inbox.stop().await;
    for page in pages {
        destroy(dir.path(), page);
    }
    let before = std::fs::read(dir.path().join("inbox.sqlite")).unwrap();
    let (log, _guard) = crate::quiet::log();
    let error = Inbox::open(dir.path(), clock::system(), Limits::default()).unwrap_err();
    assert_eq!(log.text(), "", "the error says it");
    assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
    assert!(std::fs::read(dir.path().join("inbox.sqlite")).unwrap() == before);
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert!(!names.iter().any(|name| name.to_str().unwrap().len() > "inbox.sqlite-wal".len()), "{names:?}");
}
