//! With `serve --inbox`, nothing that was acknowledged is lost: not when the host is killed, not while the
//! application is away, slow or refuses, and not when the disk is full.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::inbox_app::{APP_SECRET, Answer, App, EMPTY, message, post, reply, try_post};
use crate::support::witness::{Witness, now};
use crate::support::{Host, PATIENCE, Resources, command, finish, run, send, stderr, stdout};

/// The binding `team`, an application, and a directory for the inbox that is not there yet.
struct Bench {
    resources: Resources,
    dir: TempDir,
    /// Elsewhere than in `dir`.
    inbox: Option<PathBuf>,
    app: App,
}

impl Bench {
    fn new(app: App) -> Self {
        Self::with(app, &[])
    }

    fn with(app: App, more: &[(&str, &str)]) -> Self {
        let mut properties =
            vec![("id", "team"), ("url", "http://127.0.0.1:9/robot/send?access_token=t"), ("appSecret", APP_SECRET)];
        properties.extend_from_slice(more);
        Self { resources: Resources::binding("team", &properties), dir: tempfile::tempdir().unwrap(), inbox: None, app }
    }

    fn inbox(&self) -> PathBuf {
        self.inbox.clone().unwrap_or_else(|| self.dir.path().join("inbox"))
    }

    fn store(&self) -> PathBuf {
        self.inbox().join("inbox.sqlite")
    }

    /// A host; callbacks are answered within 100 ms unless `more` says otherwise.
    fn serve(&self, more: &[&str]) -> Host {
        Host::spawn(self.command(more))
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = command(&["serve", "--resources-path", self.resources.path().to_str().unwrap()]);
        command.args(["--dapr-http-port", "0", "--log-level", "debug", "--inbox"]).arg(self.inbox());
        if !more.contains(&"--print-events") {
            command.args(["--app-port", &self.app.port().to_string()]);
        }
        if !more.contains(&"--callback-timeout") {
            command.args(["--callback-timeout", "100ms"]);
        }
        command.args(more);
        command
    }

    /// A start that must fail; what it says about it.
    #[track_caller]
    fn refused(&self) -> String {
        let output = finish(self.command(&[]), b"");
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""), "{}", stderr(&output));
        stderr(&output)
    }

    /// `dingtalk-host inbox` with this directory: exit status, standard output, standard error.
    fn operate(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let inbox = self.inbox();
        let output = run(&[&["inbox", arguments[0], "--inbox", inbox.to_str().unwrap()], &arguments[1..]].concat());
        (output.status.code(), stdout(&output), stderr(&output))
    }

    /// What `inbox list --output json` shows.
    #[track_caller]
    fn listed(&self, more: &[&str]) -> Vec<Value> {
        let (status, text, error) = self.operate(&[&["list", "--output", "json"], more].concat());
        assert_eq!((status, error.as_str()), (Some(0), ""));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Kills the process as nothing can prevent: SIGKILL, and nothing of it is left when this returns.
fn kill(host: Host) {
    drop(host);
}

/// Waits for `condition`.
#[track_caller]
fn until(host: &Host, what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}\n{}", tail(&host.log()));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The end of a log that may be long.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// How many events wait and how many are dead, as the metadata say.
fn counts(host: &Host) -> (u64, u64) {
    let metadata = send(host.address(), "GET", "/v1.0/metadata", &[], b"").json();
    let count = |name: &str| metadata["extended"][name].as_str().unwrap().parse().unwrap();
    (count("inboxPending"), count("inboxDead"))
}

#[track_caller]
fn until_counts(host: &Host, pending: u64, dead: u64) {
    until(host, &format!("{pending} pending and {dead} dead"), || counts(host) == (pending, dead));
}

/// Sends a message, which is acknowledged without a reply; again, as DingTalk does, if a busy disk has not stored it in
/// the short time that callbacks have here.
#[track_caller]
fn acknowledged(host: &Host, msg_id: &str, conversation: &str) {
    taken(host, &message(msg_id, conversation));
}

#[track_caller]
fn taken(host: &Host, message: &Value) {
    let start = Instant::now();
    let send = || post(host.address(), message);
    let mut reply = send();
    while reply.status == 503 && start.elapsed() < PATIENCE {
        reply = send();
    }
    assert_eq!((reply.status, reply.body.as_str()), (200, EMPTY), "{reply:?}\n{}", tail(&host.log()));
}

// --- kill -9

/// What the killed host's senders know.
struct Senders {
    address: Mutex<SocketAddr>,
    enough: AtomicBool,
    /// By conversation, in the order of acknowledgement.
    acknowledged: Vec<Mutex<Vec<String>>>,
    /// Copies of messages that were not acknowledged at once.
    copies: AtomicUsize,
}

impl Senders {
    /// Sends one message after the other to a conversation, each until it is acknowledged, as DingTalk would.
    fn run(&self, conversation: usize, least: usize) {
        for number in 0.. {
            if number >= least && self.enough.load(Ordering::SeqCst) {
                break;
            }
            let msg_id = format!("m{conversation}-{number}");
            let start = Instant::now();
            loop {
                let address = *self.address.lock().unwrap();
                let reply = try_post(address, &message(&msg_id, &format!("c{conversation}")));
                if reply.is_some_and(|reply| reply.status == 200) {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "{msg_id} is not acknowledged");
                self.copies.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
            self.acknowledged[conversation].lock().unwrap().push(msg_id);
        }
    }

    fn all(&self) -> BTreeSet<String> {
        self.acknowledged.iter().flat_map(|messages| messages.lock().unwrap().clone()).collect()
    }
}

#[test]
fn a_thousand_acknowledged_messages_reach_the_application_though_the_host_is_killed_a_hundred_times() {
    const KILLS: usize = 100;
    const CONVERSATIONS: usize = 8;
    const EACH: usize = 125;
    let start = Instant::now();
    // Mostly quick; slow for a moment, failing for a moment.
    let app = App::answering(move |_| match start.elapsed().as_millis() / 150 % 5 {
        0 => Answer::status(200).after(Duration::from_millis(120)),
        1 => Answer::status(500),
        _ => Answer::status(200),
    });
    let bench = Bench::new(app);
    let serve = || bench.serve(&["--callback-timeout", "40ms"]);
    let mut host = serve();
    let senders = Arc::new(Senders {
        address: Mutex::new(host.address()),
        enough: AtomicBool::new(false),
        acknowledged: (0..CONVERSATIONS).map(|_| Mutex::default()).collect(),
        copies: AtomicUsize::new(0),
    });
    let threads: Vec<_> = (0..CONVERSATIONS)
        .map(|conversation| {
            let senders = Arc::clone(&senders);
            std::thread::spawn(move || senders.run(conversation, EACH))
        })
        .collect();
    let mut between = 0;
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..150)));
        let acknowledged = senders.all();
        kill(host);
        let taken: BTreeSet<String> = bench.app.taken_ids().into_iter().collect();
        between += usize::from(!acknowledged.is_subset(&taken));
        host = serve();
        *senders.address.lock().unwrap() = host.address();
    }
    let killed = start.elapsed();
    senders.enough.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    until_counts(&host, 0, 0);

    let acknowledged = senders.all();
    let taken = bench.app.taken_ids();
    let distinct: BTreeSet<String> = taken.iter().cloned().collect();
    println!(
        "{} messages acknowledged in {:?} with {KILLS} kills ({:?}), of which {between} came between an \
         acknowledgement and its delivery; {} copies sent by DingTalk, {} deliveries repeated",
        acknowledged.len(),
        start.elapsed(),
        killed,
        senders.copies.load(Ordering::SeqCst),
        taken.len() - distinct.len(),
    );
    assert!(acknowledged.len() >= CONVERSATIONS * EACH);
    assert!(between > 0, "no kill came at the moment that this is about");
    let lost: Vec<_> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    for (conversation, messages) in senders.acknowledged.iter().enumerate() {
        assert_eq!(bench.app.first_of(&format!("c{conversation}")), *messages.lock().unwrap());
    }
    // A host that was killed leaves nothing behind that keeps it from ending well.
    host.end();
}

// --- the application is away, slow, or back

#[test]
fn without_an_application_messages_are_acknowledged_in_time_and_delivered_when_it_comes() {
    let bench = Bench::new(App::absent());
    let host = bench.serve(&["--callback-timeout", "500ms"]);
    let start = Instant::now();
    acknowledged(&host, "m1", "c");
    // DingTalk waits for 2.5 s.
    assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
    kill(host);
    let host = bench.serve(&[]);
    acknowledged(&host, "m2", "c");
    assert_eq!((counts(&host), bench.app.given()), ((2, 0), vec![]));
    bench.app.up();
    until_counts(&host, 0, 0);
    assert_eq!(bench.app.taken_ids(), ["m1", "m2"]);

    // The other way round: the host comes back to an application that is there.
    bench.app.down();
    acknowledged(&host, "m3", "c");
    kill(host);
    bench.app.up();
    until_counts(&bench.serve(&[]), 0, 0);
    assert_eq!(bench.app.taken_ids(), ["m1", "m2", "m3"]);
}

#[test]
fn a_reply_in_time_answers_the_callback_and_a_repetition_is_one_delivery_with_the_same_answer() {
    let count = AtomicUsize::new(0);
    let app = App::answering(move |delivery| {
        let count = count.fetch_add(1, Ordering::SeqCst) + 1;
        // Long enough for copies to come meanwhile.
        Answer::reply(&format!("{} is number {count}", delivery.msg_id)).after(Duration::from_millis(300))
    });
    let bench = Bench::new(app);
    let serve = || bench.serve(&["--callback-timeout", "50s"]);
    let host = serve();
    let address = host.address();
    let copies: Vec<_> = (0..4).map(|_| std::thread::spawn(move || post(address, &message("m1", "c")).body)).collect();
    let expected = reply("m1 is number 1");
    for copy in copies {
        assert_eq!(copy.join().unwrap(), expected);
    }
    // Killed before that is written, the host would have to deliver again.
    until_counts(&host, 0, 0);
    let repeated = |host: &Host| post(host.address(), &message("m1", "c")).body;
    assert_eq!(repeated(&host), expected);
    kill(host);
    let host = serve();
    assert_eq!(repeated(&host), expected);
    host.end();
    let host = serve();
    assert_eq!((repeated(&host), bench.app.taken_ids()), (expected, vec!["m1".to_owned()]));
    assert_eq!(post(host.address(), &message("m2", "c")).body, reply("m2 is number 2"));
}

/// A message from a session that ends at `expires`.
fn in_session(msg_id: &str, session: &Witness, expires: u64) -> Value {
    let mut message = message(msg_id, "c");
    message["sessionWebhook"] = json!(session.url(&format!("/robot/sendBySession?session={msg_id}")));
    message["sessionWebhookExpiredTime"] = json!(expires);
    message
}

#[test]
fn a_late_reply_goes_to_the_session_once_and_to_nobody_after_its_end() {
    let session = Witness::start();
    let app = App::answering(|delivery| Answer::reply(&delivery.msg_id).after(Duration::from_millis(500)));
    let bench = Bench::with(app, &[("sessionWebhookHosts", &session.url(""))]);
    let host = bench.serve(&["--callback-timeout", "50ms"]);
    let late = in_session("late", &session, now() + 3_600_000);
    let expired = in_session("expired", &session, now() - 1);
    for message in [&late, &expired] {
        taken(&host, message);
    }
    until_counts(&host, 0, 0);
    host.wait_for_log("a late reply was not posted");
    let error = host.log().lines().find(|line| line.contains("a late reply was not posted")).unwrap().to_owned();
    assert!(error.contains("ERROR") && error.contains("has expired") && error.contains("expired"), "{error}");
    // What the session has had must not be said again as the answer to a copy, before and after a restart.
    taken(&host, &late);
    host.end();
    let host = bench.serve(&[]);
    taken(&host, &late);
    host.end();
    let posted: Vec<_> = session.received().into_iter().map(|post| (post.target, post.body)).collect();
    assert_eq!(posted, [("/robot/sendBySession?session=late".to_owned(), reply("late").into_bytes())]);
    assert_eq!(bench.app.taken_ids(), ["late", "expired"]);
}

#[test]
fn a_failing_conversation_keeps_its_order_and_does_not_stop_the_others() {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let app = App::answering(move |delivery| {
        let fails = delivery.conversation == "bad" && failing.load(Ordering::SeqCst);
        Answer::status(if fails { 500 } else { 200 })
    });
    let bench = Bench::new(app);
    let host = bench.serve(&[]);
    for number in 1..=3 {
        acknowledged(&host, &format!("bad{number}"), "bad");
        acknowledged(&host, &format!("good{number}"), "good");
        acknowledged(&host, &format!("other{number}"), &format!("other{number}"));
    }
    until_counts(&host, 3, 0);
    assert_eq!(bench.app.first_of("good"), ["good1", "good2", "good3"]);
    let tries = || bench.app.given().into_iter().filter(|delivery| delivery.conversation == "bad");
    until(&host, "bad1 is tried again", || tries().count() >= 2);
    assert!(tries().all(|delivery| delivery.msg_id == "bad1"), "{:?}", bench.app.given());
    let first = &bench.listed(&["--state", "pending"])[0];
    assert_eq!((&first["msgId"], &first["state"]), (&json!("bad1"), &json!("pending")));
    assert!(first["lastError"].as_str().unwrap().contains("500"), "{first}");

    fails.store(false, Ordering::SeqCst);
    let recovered = Instant::now();
    until_counts(&host, 0, 0);
    println!("after {:?} everything is delivered that waited for status 500 to end", recovered.elapsed());
    // After so few failures the pause is 2 s at most; the rest is for a machine that does much else.
    assert!(recovered.elapsed() < Duration::from_secs(20), "{:?}", recovered.elapsed());
    assert_eq!(bench.app.first_of("bad"), ["bad1", "bad2", "bad3"]);
    assert_eq!(bench.app.taken().len(), 9);
}

#[test]
fn after_a_while_without_the_application_all_conversations_go_on_within_seconds_and_in_order() {
    let bench = Bench::new(App::start());
    let host = bench.serve(&["--callback-timeout", "20ms"]);
    acknowledged(&host, "first", "c0");
    until_counts(&host, 0, 0);
    bench.app.down();
    for number in 0..40 {
        acknowledged(&host, &format!("m{number}"), &format!("c{}", number % 20));
    }
    assert_eq!(counts(&host), (40, 0));
    let attempts = || bench.listed(&[]).iter().map(|event| event["attempts"].as_u64().unwrap()).sum::<u64>();
    until(&host, "it was tried in vain", || attempts() >= 4);
    bench.app.up();
    let recovered = Instant::now();
    until_counts(&host, 0, 0);
    println!("after {:?} everything is delivered that waited for the application", recovered.elapsed());
    assert!(recovered.elapsed() < Duration::from_secs(20), "{:?}", recovered.elapsed());
    for conversation in 1..20 {
        let expected = [format!("m{conversation}"), format!("m{}", conversation + 20)];
        assert_eq!(bench.app.first_of(&format!("c{conversation}")), expected);
    }
    assert_eq!(bench.app.taken().len(), 41);
}

#[test]
fn a_host_that_is_told_to_stop_ends_soon_and_the_next_one_delivers_the_rest() {
    // An application that hangs must not keep the host from ending either.
    let app = App::answering(|delivery| match delivery.conversation.as_str() {
        "hangs" => Answer::status(200).after(PATIENCE),
        _ => Answer::status(500),
    });
    let bench = Bench::new(app);
    let host = bench.serve(&[]);
    for number in 1..=3 {
        acknowledged(&host, &format!("fails{number}"), "fails");
        acknowledged(&host, &format!("hangs{number}"), "hangs");
    }
    assert_eq!(counts(&host), (6, 0));
    let told = Instant::now();
    let log = host.end();
    println!("the host ended {:?} after it was told to", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}\n{}", told.elapsed(), tail(&log));
    assert_eq!(bench.listed(&["--state", "pending"]).len(), 6);

    bench.app.answers(|_| Answer::status(200));
    let host = bench.serve(&[]);
    until_counts(&host, 0, 0);
    // The one under way counts as taken twice: the host could not know.
    assert_eq!(bench.app.first_of("hangs"), ["hangs1", "hangs2", "hangs3"]);
    assert_eq!(bench.app.first_of("fails"), ["fails1", "fails2", "fails3"]);
}

/// The identifiers of the events that a host with `--print-events` has printed.
fn printed(host: &Host) -> Vec<String> {
    let log = host.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|event| event["metadata"]["msgId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_was_acknowledged_before_is_printed_after_the_restart() {
    let bench = Bench::new(App::absent());
    let host = bench.serve(&[]);
    for msg_id in ["m1", "m2", "m3"] {
        acknowledged(&host, msg_id, "c");
    }
    kill(host);
    let print = || bench.serve(&["--print-events"]);
    let host = print();
    until(&host, "three events are printed", || printed(&host).len() == 3);
    until_counts(&host, 0, 0);
    assert_eq!(printed(&host), ["m1", "m2", "m3"]);
    acknowledged(&host, "m4", "c");
    until(&host, "four events are printed", || printed(&host) == ["m1", "m2", "m3", "m4"]);
    until_counts(&host, 0, 0);
    kill(host);
    let host = print();
    acknowledged(&host, "m4", "c");
    assert_eq!(printed(&host), Vec::<String>::new());
}

#[test]
fn messages_of_a_binding_whose_file_goes_wait_and_are_delivered_when_it_is_back() {
    let bench = Bench::new(App::absent());
    let file = bench.resources.path().join("team.yaml");
    let away = bench.dir.path().join("team.yaml");
    let host = bench.serve(&[]);
    for msg_id in ["m1", "m2"] {
        acknowledged(&host, msg_id, "c");
    }
    std::fs::rename(&file, &away).unwrap();
    host.wait_for_log("component removed");
    assert_eq!(post(host.address(), &message("m3", "c")).status, 404);
    bench.app.up();
    host.wait_for_log("there is no such binding; bring its component file back");
    assert_eq!((bench.app.given(), counts(&host)), (Vec::new(), (2, 0)));
    std::fs::rename(&away, &file).unwrap();
    until_counts(&host, 0, 0);
    acknowledged(&host, "m3", "c");
    until_counts(&host, 0, 0);
    assert_eq!(bench.app.taken_ids(), ["m1", "m2", "m3"]);
}

// --- the operator

#[test]
fn what_the_application_refuses_for_good_waits_for_the_operator() {
    let refuses = Arc::new(AtomicBool::new(true));
    let refusing = Arc::clone(&refuses);
    let app = App::answering(move |delivery| {
        if delivery.msg_id.starts_with("poison") && refusing.load(Ordering::SeqCst) {
            return Answer { body: "no such ticket".into(), ..Answer::status(422) };
        }
        Answer::status(200)
    });
    let bench = Bench::new(app);
    let host = bench.serve(&[]);
    for msg_id in ["before", "poison1", "between", "poison2", "after"] {
        acknowledged(&host, msg_id, "c");
    }
    until_counts(&host, 0, 2);
    assert_eq!(bench.app.taken_ids(), ["before", "between", "after"], "{}", tail(&host.log()));

    let dead = bench.listed(&[]);
    let shown: Vec<_> = dead.iter().map(|event| (&event["seq"], &event["state"], &event["msgId"])).collect();
    let (is_dead, poison) = (json!("dead"), [json!("poison1"), json!("poison2")]);
    assert_eq!(shown, [(&json!(2), &is_dead, &poison[0]), (&json!(4), &is_dead, &poison[1])]);
    for event in &dead {
        let error = event["lastError"].as_str().unwrap();
        assert!(error.contains("422") && error.contains("no such ticket"), "{error}");
        assert!(event.get("data").is_none(), "people wrote it: {event}");
    }
    let (status, text, _) = bench.operate(&["list"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((status, lines.len()), (Some(0), 2), "{text}");
    for part in ["2 dead", "binding=\"team\"", "msgId=\"poison1\"", "422", "no such ticket"] {
        assert!(lines[0].contains(part), "{part}: {text}");
    }

    // A copy of a dead one is taken and changes nothing.
    acknowledged(&host, "poison1", "c");
    assert_eq!(counts(&host), (0, 2));
    for action in ["retry", "drop"] {
        let (status, said, error) = bench.operate(&[action, "2", "4711"]);
        assert_eq!((status, said.as_str()), (Some(1), ""));
        assert!(error.contains("4711"), "{error}");
    }
    assert_eq!(bench.listed(&["--state", "dead"]).len(), 2, "a mistake changes nothing");

    refuses.store(false, Ordering::SeqCst);
    assert_eq!(bench.operate(&["retry", "2"]).0, Some(0));
    until_counts(&host, 0, 1);
    assert_eq!(bench.app.taken_ids(), ["before", "between", "after", "poison1"]);
    assert_eq!(bench.operate(&["drop", "4"]).0, Some(0));
    assert_eq!((counts(&host), bench.listed(&[])), ((0, 0), vec![]));

    // Copies of what was delivered or dropped, before and after a restart.
    let given = bench.app.given();
    for msg_id in ["before", "poison1", "poison2"] {
        acknowledged(&host, msg_id, "c");
    }
    host.end();
    let host = bench.serve(&[]);
    for msg_id in ["before", "poison1", "poison2"] {
        acknowledged(&host, msg_id, "c");
    }
    acknowledged(&host, "last", "c");
    until_counts(&host, 0, 0);
    let mut expected: Vec<_> = given.into_iter().map(|delivery| delivery.msg_id).collect();
    expected.push("last".to_owned());
    assert_eq!(bench.app.given().into_iter().map(|delivery| delivery.msg_id).collect::<Vec<_>>(), expected);
}

// --- the store

/// Every file of the inbox that has something to lose, with its bytes.
fn files(inbox: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(inbox).unwrap().map(|entry| entry.unwrap());
    let files = files.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()));
    files.filter(|(name, bytes)| !bytes.is_empty() && !name.ends_with("-shm")).collect()
}

#[test]
fn a_damaged_store_stops_the_start_and_is_left_as_it_is() {
    for (damage, killed) in [("header", false), ("page", false), ("header", true), ("page", true), ("all", true)] {
        let bench = Bench::new(App::absent());
        let host = bench.serve(&["--callback-timeout", "10ms"]);
        for number in 0..30 {
            // Each has a page to itself: most of them are in the store alone in the end.
            let mut message = message(&format!("m{number}"), "c");
            message["text"]["content"] = json!("x".repeat(3_000));
            taken(&host, &message);
        }
        // Ended well, everything is in the file; killed, most is in the journal beside it.
        if killed {
            kill(host);
            let host = bench.serve(&[]);
            host.end();
            let host = bench.serve(&["--callback-timeout", "10ms"]);
            acknowledged(&host, "last", "c");
            kill(host);
            assert!(files(&bench.inbox()).contains_key("inbox.sqlite-wal"));
        } else {
            host.end();
        }
        let mut bytes = std::fs::read(bench.store()).unwrap();
        match damage {
            "header" => bytes[..64].fill(0x5a),
            "page" => bytes[8_192..].fill(0x5a),
            // Of an empty file SQLite believes that the journal is left over, and removes it.
            _ => bytes.clear(),
        }
        std::fs::write(bench.store(), &bytes).unwrap();
        let before = files(&bench.inbox());
        // Somebody may look first. Whether the list can be read depends on where the damage is.
        bench.operate(&["list"]);
        let error = bench.refused();
        assert!(error.contains(bench.store().to_str().unwrap()), "{damage}: {error}");
        assert!(error.contains("is damaged") && error.contains("restore it, or move it away"), "{damage}: {error}");
        let after = files(&bench.inbox());
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{damage} {killed}");
        assert!(after == before, "{damage}, killed {killed}: a file was changed");
    }
}

/// Where in the file the first page of a table or an index is.
fn root(store: &Path, name: &str) -> u64 {
    let connection = rusqlite::Connection::open(store).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let page: i64 = connection.query_row(sql, [name], |row| row.get(0)).unwrap();
    (u64::try_from(page).unwrap() - 1) * 4_096
}

#[cfg(target_os = "linux")]
#[test]
fn damage_in_an_index_or_the_table_of_conversations_loses_nothing_and_stops_nothing() {
    use std::os::unix::fs::FileExt;
    let bench = Bench::new(App::absent());
    let mut host = bench.serve(&[]);
    let destroy = |at: u64| {
        let file = std::fs::File::options().write(true).open(bench.store()).unwrap();
        file.write_all_at(&[0xA5; 4_096], at).unwrap();
    };
    let mut number = 0;
    let mut more = |host: &Host| {
        for _ in 0..10 {
            acknowledged(host, &format!("m{number}"), &format!("c{}", number % 5));
            number += 1;
        }
    };
    more(&host);
    for name in ["lanes", "events_pending", "events_msg_id"] {
        host.end();
        let at = root(&bench.store(), name);
        destroy(at);
        host = bench.serve(&[]);
        let said = host.log();
        assert!(said.contains("was damaged and is put in order: it has every event; check the disk"), "{name}: {said}");
        more(&host);
    }
    // While it runs; more than SQLite remembers of the file goes through its hands first.
    host.end();
    let at = root(&bench.store(), "lanes");
    host = bench.serve(&[]);
    for number in 0..40 {
        let mut message = message(&format!("large{number}"), "large");
        message["text"]["content"] = json!("x".repeat(100_000));
        taken(&host, &message);
    }
    destroy(at);
    bench.app.up();
    until_counts(&host, 0, 0);
    more(&host);
    until_counts(&host, 0, 0);
    for conversation in 0..5 {
        let expected: Vec<_> = (conversation..50).step_by(5).map(|number| format!("m{number}")).collect();
        assert_eq!(bench.app.first_of(&format!("c{conversation}")), expected, "{}", tail(&host.log()));
    }
    assert_eq!(bench.app.taken_ids().len(), 90, "{}", tail(&host.log()));
    host.end();
    assert!(bench.inbox().join("inbox.sqlite-damaged").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_store_that_is_damaged_while_the_host_runs_acknowledges_nothing_more_and_what_is_readable_is_delivered() {
    use std::os::unix::fs::FileExt;
    let bench = Bench::new(App::absent());
    let host = bench.serve(&[]);
    // More than SQLite remembers of the file and keeps in the journal: the first one is in the store alone.
    for number in 0..80 {
        let mut message = message(&format!("m{number}"), &format!("c{number}"));
        message["text"]["content"] = json!(if number == 0 { "a" } else { "x" }.repeat(60_000));
        taken(&host, &message);
    }
    let bytes = std::fs::read(bench.store()).unwrap();
    let page = bytes.chunks(4_096).position(|page| page[4..].iter().all(|byte| *byte == b'a')).unwrap();
    let file = std::fs::File::options().write(true).open(bench.store()).unwrap();
    file.write_all_at(&[0xA5; 4_096], page as u64 * 4_096).unwrap();
    bench.app.up();
    until_counts(&host, 1, 0);
    assert!(!bench.app.taken_ids().contains(&"m0".to_owned()));
    let start = Instant::now();
    for number in 0..30 {
        let reply = post(host.address(), &message(&format!("new{number}"), "c1"));
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    }
    let seconds = start.elapsed().as_secs();
    let log = host.log();
    let lines = log.lines().filter(|line| line.contains("a message was not taken ")).count() as u64;
    assert!((1..=1 + seconds / 10).contains(&lines), "{lines} lines in {seconds} s");
    assert!(log.contains("the inbox takes no more messages; it delivers those that it can read"), "{}", tail(&log));
}

#[test]
fn a_second_host_is_kept_out_of_the_inbox() {
    let bench = Bench::new(App::start());
    let host = bench.serve(&[]);
    let error = bench.refused();
    assert!(error.contains(bench.inbox().to_str().unwrap()) && error.contains("in use by another host"), "{error}");
    acknowledged(&host, "m1", "c");
    until_counts(&host, 0, 0);
    kill(host);
    bench.serve(&[]).end();
}

#[cfg(unix)]
#[test]
fn directory_and_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new(App::absent());
    let host = bench.serve(&[]);
    acknowledged(&host, "m1", "c");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&bench.inbox()), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(bench.inbox()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["inbox.lock", "inbox.sqlite", "inbox.sqlite-shm", "inbox.sqlite-wal"]);
}

/// A file may not become longer than a limit, as a disk that is full: the limit can be lifted without a restart.
#[cfg(target_os = "linux")]
#[test]
fn without_space_messages_are_not_acknowledged_and_with_space_they_are_again() {
    let bench = Bench::new(App::absent());
    let host = Host::spawn(bench.command(&[]));
    acknowledged(&host, "m0", "c");
    let limit = |bytes: &str| {
        let pid = host.pid().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status();
        assert!(limited.unwrap().success());
    };
    // As long as the journal is already; the store is shorter.
    limit("4194304");
    let large = |number: usize| {
        let mut message = message(&format!("large{number}"), "c");
        message["text"]["content"] = json!("x".repeat(60_000));
        message
    };
    let mut all = vec!["m0".to_owned()];
    let (mut number, start) = (0, Instant::now());
    let reply = loop {
        let reply = post(host.address(), &large(number));
        if reply.status == 200 {
            all.push(format!("large{number}"));
            number += 1;
        } else if host.log().contains("a message was not taken ") {
            break reply;
        }
        assert!(start.elapsed() < PATIENCE, "{reply:?}\n{}", tail(&host.log()));
    };
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    assert!(!reply.body.contains("inbox"), "a stranger learns nothing: {reply:?}");
    let error = host.log().lines().find(|line| line.contains("a message was not taken ")).unwrap().to_owned();
    assert!(error.contains("ERROR") && error.contains(bench.store().to_str().unwrap()), "{error}");
    assert!(error.contains("DingTalk is not told that a message was taken"), "{error}");
    assert!(all.len() > 1 && bench.app.given().is_empty());

    // A healthy application makes room by itself.
    bench.app.up();
    until_counts(&host, 0, 0);
    assert_eq!(bench.app.taken_ids(), all, "each once");
    taken(&host, &large(number));
    all.push(format!("large{number}"));
    until_counts(&host, 0, 0);
    assert_eq!(bench.app.taken_ids(), all);
}

/// A volume of its own, which is full of what another program wrote.
#[cfg(target_os = "linux")]
#[test]
fn on_a_volume_that_others_have_filled_the_inbox_is_emptied_and_taken_up_again() {
    struct Volume(TempDir);
    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        }
    }
    let mut bench = Bench::new(App::absent());
    let dir = std::mem::replace(&mut bench.dir, tempfile::tempdir().unwrap());
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(dir.path()).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        println!("SKIPPED: a volume of 16 MiB cannot be mounted without root; other tests limit the files instead");
        return;
    }
    let volume = Volume(dir);
    bench.inbox = Some(volume.0.path().join("inbox"));
    let host = bench.serve(&[]);
    let large = |number: usize| {
        let mut message = message(&format!("large{number}"), "c");
        message["text"]["content"] = json!("x".repeat(60_000));
        message
    };
    let mut all = Vec::new();
    let mut filler = std::fs::File::create(volume.0.path().join("filler")).unwrap();
    let mut fill = || while std::io::Write::write(&mut filler, &[1; 4_096]).is_ok_and(|written| written > 0) {};
    for number in 0..20 {
        taken(&host, &large(number));
        all.push(format!("large{number}"));
    }
    fill();
    let start = Instant::now();
    while !host.log().contains("a message was not taken ") {
        let number = all.len();
        if post(host.address(), &large(number)).status == 200 {
            all.push(format!("large{number}"));
        }
        fill();
        assert!(start.elapsed() < PATIENCE, "{}", tail(&host.log()));
    }
    // Also a start needs no space.
    kill(host);
    let host = bench.serve(&[]);
    fill();
    bench.app.up();
    until_counts(&host, 0, 0);
    assert_eq!(bench.app.taken_ids(), all, "each once");
    host.end();
    fill();
    let host = bench.serve(&[]);
    fill();
    let last = all.len();
    taken(&host, &large(last));
    all.push(format!("large{last}"));
    until_counts(&host, 0, 0);
    assert_eq!(bench.app.taken_ids(), all);
}

// --- an application that can take nothing now

/// How many requests an application gets in the first 10 s that answers `status` to 600 conversations.
fn attempts_at(status: u16, headers: &'static str) -> usize {
    let bench = Bench::new(App::answering(move |_| Answer { headers, ..Answer::status(status) }));
    let host = bench.serve(&["--callback-timeout", "1ms"]);
    std::thread::scope(|scope| {
        for sender in 0..20 {
            let host = &host;
            scope.spawn(move || {
                for number in 0..30 {
                    let _ = try_post(
                        host.address(),
                        &message(&format!("m{sender}-{number}"), &format!("c{sender}-{number}")),
                    );
                }
            });
        }
    });
    until(&host, "the first attempt", || !bench.app.given().is_empty());
    let first = bench.app.given()[0].at;
    std::thread::sleep(Duration::from_secs(10).saturating_sub(first.elapsed()));
    let given = bench.app.given().iter().filter(|delivery| delivery.at <= first + Duration::from_secs(10)).count();
    println!("{status} {headers:?}: {given} attempts in 10 s, {:?} wait", counts(&host));
    assert!(counts(&host).0 > 300, "{:?}", counts(&host));
    bench.app.answers(|_| Answer::status(200));
    given
}

#[test]
fn an_application_that_can_take_nothing_now_gets_at_most_20_attempts_in_10_s() {
    for status in [503, 429] {
        let given = attempts_at(status, "");
        assert!((1..=20).contains(&given), "{status}: {given}");
    }
}

#[test]
fn an_application_is_left_alone_for_as_long_as_it_asks() {
    let given = attempts_at(503, "Retry-After: 60\r\n");
    // What had begun when it said so; nothing after.
    assert!((1..=16).contains(&given), "{given}");
}

#[test]
fn the_size_of_the_inbox_is_limited_and_so_is_the_age_of_what_waits() {
    let bench = Bench::new(App::absent());
    let host = bench.serve(&["--inbox-max-size", "8Mi", "--inbox-max-age", "1m"]);
    let mut message = message("large", "c");
    message["text"]["content"] = json!("x".repeat(100_000));
    let start = Instant::now();
    for number in 0.. {
        message["msgId"] = json!(format!("large{number}"));
        post(host.address(), &message);
        if host.log().contains("--inbox-max-size allows") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{}", tail(&host.log()));
    }
    let size: u64 = std::fs::read_dir(bench.inbox()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 9 << 20, "{size}");
    host.end();
    for (flag, value, says) in
        [("--inbox-max-size", "1Mi", "it needs 8Mi for itself"), ("--inbox-max-age", "1s", "1s is less than 1m")]
    {
        let output = finish(bench.command(&[flag, value]), b"");
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}
