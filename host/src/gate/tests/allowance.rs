//! The month's allowance over many messages, with an outbox that is closed and opened again, and in processes that are killed.
//!
//! What holds: a host that is ended and started again knows exactly how many messages it has posted, and posts exactly as many
//! as the allowance has. After a kill the count is never too low, and too high by no more than what was under way.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;
use crate::gate::quota::Quota;
use crate::queue::{Limits, Outbox};

/// 2026-11-01 in China.
const NOVEMBER: u64 = 1_793_462_400_000;
/// Calls at once, of several bindings: enough that they share commits.
const AT_ONCE: u64 = 128;
const ROBOTS: u64 = 4;

/// A host's gates.
struct Process {
    outbox: Outbox,
    gates: Vec<Arc<Gate>>,
    /// Seconds since [`NOVEMBER`], two for each message: those of an hour ago are forgotten meanwhile.
    clock: Arc<AtomicU64>,
}

impl Process {
    async fn open(dir: &Path, (limit, reserve): (u64, u64), clock: &Arc<AtomicU64>) -> Self {
        let now = Arc::clone(clock);
        let outbox = Outbox::open(dir, Arc::new(move || NOVEMBER + now.load(SeqCst) * 1_000), Limits::default());
        let (outbox, robots) = (outbox.unwrap(), Robots::new());
        robots.remember(outbox.ledger()).await.unwrap();
        let text = |number: u64| Some(number.to_string());
        let quota = Quota::parse(text(limit).as_deref(), text(reserve).as_deref(), Some("acme"), String::new).unwrap();
        let quota = quota.map(Arc::new);
        let gate = |robot: u64| {
            let policy = Policy { rate: None, overflow: Overflow::Queue, quota: quota.clone() };
            Arc::new(robots.gate(&Endpoint::parse(&format!("{URL}{robot}")).unwrap(), policy))
        };
        Self { outbox, gates: (0..ROBOTS).map(gate).collect(), clock: Arc::clone(clock) }
    }

    /// Posts until so many messages have counted or the allowance is used up; how many have counted. One of five comes to
    /// nothing, and one of ten has no known end. `sent` is told of each that DingTalk may have, when it may have it.
    async fn post(&self, most: u64, is_urgent: bool, sent: impl Fn() + Clone + Send + 'static) -> u64 {
        let (counted, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..AT_ONCE {
            let gate = Arc::clone(&self.gates[usize::try_from(task % ROBOTS).unwrap()]);
            let (counted, begun, clock) = (Arc::clone(&counted), Arc::clone(&begun), Arc::clone(&self.clock));
            let sent = sent.clone();
            tasks.spawn(async move {
                while counted.load(SeqCst) + AT_ONCE <= most {
                    let mut pass = match gate.enter(1, Duration::ZERO, is_urgent).await {
                        Ok(pass) => pass,
                        Err(Withheld { why: Why::Spent { .. }, .. }) => return,
                        Err(withheld) => panic!("{withheld}"),
                    };
                    clock.fetch_add(2, SeqCst);
                    let lesson = match begun.fetch_add(1, SeqCst) % 10 {
                        0 => Lesson::Unsent,
                        // Refused for what is set up: DingTalk does not count it.
                        1 => shut(300_005, 3_600, Kind::Configuration),
                        2 => Lesson::Unknown,
                        _ => Lesson::Counted,
                    };
                    pass.begin();
                    tokio::task::yield_now().await;
                    if matches!(lesson, Lesson::Unknown | Lesson::Counted) {
                        sent();
                        counted.fetch_add(1, SeqCst);
                    }
                    pass.end(&lesson);
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        counted.load(SeqCst)
    }
}

/// What the store has noted, read by nothing that is tested.
fn used(dir: &Path) -> u64 {
    let store = rusqlite::Connection::open(dir.join("outbox.sqlite")).unwrap();
    let used: i64 = store.query_row("SELECT sum(used) FROM quotas WHERE name = 'acme'", [], |row| row.get(0)).unwrap();
    used.try_into().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Uses up an allowance of so many messages, a tenth of it kept for what is urgent, in so many processes one after the other.
fn use_up(limit: u64, restarts: u64) {
    let (dir, begun) = (tempfile::TempDir::new().unwrap(), Instant::now());
    let (allowance, clock) = ((limit, limit / 10), Arc::new(AtomicU64::new(0)));
    let (mut counted, mut processes, mut attempts) = (0, 0, 0);
    for is_urgent in [false, true] {
        let most = if is_urgent { limit } else { limit - limit / 10 };
        // Whoever is told that it is used up, while others are about to give their places back, comes again.
        while counted < most {
            let runtime = runtime();
            counted += runtime.block_on(async {
                let process = Process::open(dir.path(), allowance, &clock).await;
                let counted = process.post(limit / restarts, is_urgent, || ()).await;
                attempts = clock.load(SeqCst) / 2;
                process.outbox.stop().await;
                counted
            });
            processes += 1;
            assert_eq!(used(dir.path()), counted, "after process {processes}");
            assert!(counted <= most);
        }
    }
    println!("{counted} messages of {attempts} attempts in {processes} processes, in {:?}", begun.elapsed());
    assert!(processes >= restarts);
    let month = super::super::quota::month(NOVEMBER + clock.load(SeqCst) * 1_000);
    assert_eq!((counted, month.as_str()), (limit, "2026-11"), "all of it, within the month");
}

#[test]
fn a_month_has_exactly_its_messages_over_restarts() {
    use_up(10_000, 5);
}

#[test]
#[ignore = "prints figures: some minutes"]
fn a_month_has_exactly_its_million_messages_over_restarts() {
    use_up(1_000_000, 25);
}

const DIR: &str = "ALLOWANCE_DIR";
const LIMIT: &str = "ALLOWANCE_LIMIT";

#[test]
#[ignore = "the process that the tests here kill"]
fn posts_until_it_is_killed() {
    let (Some(dir), Ok(limit)) = (std::env::var_os(DIR), std::env::var(LIMIT)) else { return };
    let (dir, limit) = (Path::new(&dir), limit.parse().unwrap());
    // A byte for each message that DingTalk may have: it is there though this process is killed at once.
    let sent = Arc::new(OpenOptions::new().append(true).create(true).open(dir.join("sent")).unwrap());
    runtime().block_on(async {
        let process = Process::open(dir, (limit, 0), &Arc::new(AtomicU64::new(0))).await;
        process.post(u64::MAX, false, move || (&*sent).write_all(b".").unwrap()).await;
        process.outbox.stop().await;
    });
    File::create(dir.join("ended")).unwrap();
}

/// Uses up an allowance in processes of which all but the last are killed.
fn use_up_with_kills(limit: u64, kills: u64) {
    let (dir, begun) = (tempfile::TempDir::new().unwrap(), Instant::now());
    let sent = || std::fs::metadata(dir.path().join("sent")).map_or(0, |file| file.len());
    let ended = || dir.path().join("ended").exists();
    let (mut killed, mut over) = (0, Vec::new());
    while !ended() {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "gate::tests::allowance::posts_until_it_is_killed"])
            .envs([(DIR, dir.path().to_str().unwrap()), (LIMIT, &limit.to_string())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let at = sent() + limit / (kills + 1) / 2 + fastrand::u64(0..limit / (kills + 1));
        let is_over = || ended() || process_has_ended(&mut process);
        wait_until(is_over, || killed < kills && sent() >= at);
        if !ended() {
            process.kill().unwrap();
            killed += 1;
        }
        process.wait().unwrap();
        // Not known to the count: none. In the count and not sent: what was under way in any of them.
        let (used, sent) = (used(dir.path()), sent());
        let before = over.last().copied().unwrap_or(0);
        assert!((sent..=sent + before + 2 * AT_ONCE).contains(&used), "{sent} were sent, {used} are counted");
        over.push(used - sent);
    }
    let sent = sent();
    println!("{sent} of {limit} messages with {killed} kills in {:?}; counted and not sent: {over:?}", begun.elapsed());
    assert!(killed > 0 && sent <= limit && used(dir.path()) == limit);
    assert!(sent + killed * 2 * AT_ONCE >= limit);
}

fn process_has_ended(process: &mut std::process::Child) -> bool {
    process.try_wait().unwrap().is_some()
}

fn wait_until(mut one: impl FnMut() -> bool, other: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !one() && !other() {
        assert!(begun.elapsed() < Duration::from_secs(300));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_count_is_never_too_low_after_a_kill_and_too_high_by_no_more_than_was_under_way() {
    use_up_with_kills(6_000, 3);
}

#[test]
#[ignore = "prints figures: some minutes"]
fn a_million_are_never_too_few_with_kills() {
    use_up_with_kills(1_000_000, 25);
}
