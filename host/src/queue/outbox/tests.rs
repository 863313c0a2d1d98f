//! The outbox as a whole, against a consumer that follows a rule.

mod scale;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::retry::Kind;
use super::*;
use crate::clock;
use crate::queue::siblings::group;

type Rule = Box<dyn Fn(&str, usize) -> Result<(), Kind> + Send + Sync>;

/// Posts by a rule: of the text, and of how often it has seen it.
struct Robot {
    rule: Rule,
    unites_above: Option<usize>,
    groups: Option<Arc<Groups>>,
    seen: Mutex<Vec<String>>,
    taken: Mutex<Vec<String>>,
    given_up: Mutex<Vec<(i64, String)>>,
    united: AtomicUsize,
}

impl Robot {
    fn new(rule: impl Fn(&str, usize) -> Result<(), Kind> + Send + Sync + 'static) -> Self {
        Self {
            rule: Box::new(rule),
            unites_above: None,
            groups: None,
            seen: Mutex::default(),
            taken: Mutex::default(),
            given_up: Mutex::default(),
            united: AtomicUsize::new(0),
        }
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

impl Consumer for Robot {
    fn post<'a>(&'a self, _: i64, message: &'a Event) -> BoxFuture<'a, Result<(), Setback>> {
        Box::pin(async move {
            let text = String::from_utf8(message.data.to_vec()).unwrap();
            let times = {
                let mut seen = self.seen.lock().unwrap();
                seen.push(text.clone());
                seen.iter().filter(|known| **known == text).count()
            };
            (self.rule)(&text, times).map_err(|kind| Setback { kind, reason: format!("no {text}") })?;
            self.taken.lock().unwrap().push(text);
            Ok(())
        })
    }

    fn siblings(&self) -> Option<Arc<Groups>> {
        self.groups.clone()
    }

    fn unites_above(&self, _: &str) -> Option<usize> {
        self.unites_above
    }

    fn unite<'a>(&'a self, _: &'a str, bodies: Vec<Bytes>) -> BoxFuture<'a, Option<(Bytes, usize)>> {
        let some: Vec<_> = bodies.iter().take(3).map(|body| String::from_utf8(body.to_vec()).unwrap()).collect();
        self.united.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Some((Bytes::from(some.join("+")), some.len())) })
    }

    fn tell<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Told> {
        self.given_up.lock().unwrap().push((letter.seq, letter.reason.clone()));
        Box::pin(async { Told::Done })
    }
}

fn message(text: &str) -> Message {
    Message {
        binding: "team".into(),
        body: Bytes::copy_from_slice(text.as_bytes()),
        uuid: text.into(),
        conversation: String::new(),
        priority: Priority::Normal,
        expires: None,
        trace: Vec::new(),
    }
}

fn open(dir: &TempDir) -> Outbox {
    Outbox::open(dir.path(), clock::system(), Limits::default()).unwrap()
}

async fn until(mut done: impl FnMut() -> bool) {
    let done = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.expect("what is waited for comes");
}

async fn until_empty(outbox: &Outbox) {
    let empty = async {
        while outbox.counts().await.unwrap().pending > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), empty).await.expect("everything is posted or given up");
}

#[tokio::test]
async fn siblings_wait_for_each_other_but_not_for_what_is_ones_own_matter() {
    for (kind, wanted) in [
        (Kind::Held(Duration::from_millis(300)), ["first", "second"]),
        (Kind::Unsent, ["first", "second"]),
        (Kind::Barred(Duration::from_millis(300)), ["second", "first"]),
        (Kind::Reserved(Duration::from_millis(300)), ["second", "first"]),
    ] {
        let dir = TempDir::new().unwrap();
        let outbox = open(&dir);
        let rule = move |text: &str, times| if (text, times) == ("first", 1) { Err(kind) } else { Ok(()) };
        let robot = Arc::new(Robot { groups: Some(group(&["team", "other"])), ..Robot::new(rule) });
        outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
        outbox.accept(vec![message("first")]).await.unwrap();
        until(|| !robot.seen.lock().unwrap().is_empty()).await;
        outbox.accept(vec![Message { binding: "other".into(), ..message("second") }]).await.unwrap();
        until_empty(&outbox).await;
        assert_eq!(robot.taken(), wanted, "{kind:?}");
        outbox.stop().await;
    }
}

#[tokio::test]
async fn messages_go_out_in_order_and_by_rank() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    let of = |text: &str, priority| Message { priority, ..message(text) };
    for message in [
        of("1", Priority::Normal),
        of("low", Priority::Low),
        of("2", Priority::Normal),
        of("high", Priority::High),
        of("3", Priority::Normal),
    ] {
        outbox.accept(vec![message]).await.unwrap();
    }
    let robot = Arc::new(Robot::new(|_, _| Ok(())));
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    assert_eq!(robot.taken(), ["high", "1", "2", "3", "low"]);
}

#[tokio::test]
async fn of_conversations_what_is_urgent_comes_first() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    for number in 0..40 {
        let priority = if number == 39 { Priority::High } else { Priority::Normal };
        let conversation = format!("c{number}");
        outbox.accept(vec![Message { conversation, priority, ..message(&number.to_string()) }]).await.unwrap();
    }
    let robot = Arc::new(Robot::new(|_, _| Ok(())));
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    let first_sixteen = robot.seen.lock().unwrap().iter().take(16).cloned().collect::<Vec<_>>();
    assert!(first_sixteen.contains(&"39".to_owned()), "{first_sixteen:?}");
}

#[tokio::test]
async fn a_message_is_known_again_also_when_it_is_posted_or_given_up() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    assert_eq!(outbox.accept(vec![message("a"), message("bad")]).await, Ok(vec![Queued::New(1), Queued::New(2)]));
    assert_eq!(outbox.accept(vec![message("a")]).await, Ok(vec![Queued::Repeated(1)]));
    let other = Message { body: Bytes::from_static(b"other"), ..message("a") };
    let refused = outbox.accept(vec![message("new"), other]).await;
    assert_eq!(refused, Err(QueueError::OtherBody { side: Side::Outbox, seq: 1 }));
    assert_eq!(outbox.counts().await.unwrap().pending, 2, "all or none");
    let robot = Arc::new(Robot::new(|text, _| if text == "bad" { Err(Kind::Refused) } else { Ok(()) }));
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    assert_eq!(outbox.accept(vec![message("a")]).await, Ok(vec![Queued::Repeated(1)]));
    assert_eq!(outbox.accept(vec![message("bad")]).await, Ok(vec![Queued::Dead(2)]));
    until(|| !robot.given_up.lock().unwrap().is_empty()).await;
    assert_eq!(*robot.given_up.lock().unwrap(), [(2, "no bad".to_owned())]);
}

#[tokio::test]
async fn what_fails_in_a_moment_is_tried_again_and_what_is_held_makes_no_attempt() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    outbox.accept(vec![message("held"), message("busy"), message("lost"), message("gone")]).await.unwrap();
    let robot = Arc::new(Robot::new(|text, times| match (text, times) {
        ("held", 1..=3) => Err(Kind::Held(Duration::from_millis(20))),
        ("busy", 1) => Err(Kind::Busy),
        ("lost", 1) => Err(Kind::Unknown { is_repeatable: true }),
        ("gone", 1) => Err(Kind::Unsent),
        _ => Ok(()),
    }));
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    assert_eq!(robot.taken(), ["held", "busy", "lost", "gone"]);
    outbox.stop().await;
    let operator = super::super::Operator::open(Side::Outbox, dir.path(), clock::system()).unwrap();
    let mut attempts = Vec::new();
    let states = vec![super::super::State::Delivered];
    let listing = super::super::Listing { states, binding: None, content: false, seq: None };
    let listed = operator.list(&listing, |entry| {
        attempts.push(entry.attempts);
        Ok(())
    });
    listed.unwrap().unwrap();
    assert_eq!(attempts, [0, 1, 1, 0], "an attempt is what DingTalk may have seen");
}

#[tokio::test]
async fn what_waits_for_too_long_becomes_one_message_and_each_is_known_again() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    for text in ["1", "2", "3", "4", "5", "6", "7"] {
        outbox.accept(vec![message(text)]).await.unwrap();
    }
    let robot = Arc::new(Robot { unites_above: Some(4), ..Robot::new(|_, _| Ok(())) });
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    assert_eq!(robot.taken(), ["1+2+3", "4", "5", "6", "7"], "four are no more than go out");
    assert_eq!(robot.united.load(Ordering::SeqCst), 1);
    for (text, seq) in [("1", 1), ("2", 2), ("3", 3)] {
        assert_eq!(outbox.accept(vec![message(text)]).await, Ok(vec![Queued::Repeated(seq)]));
    }
}

#[tokio::test]
async fn what_waits_in_many_conversations_becomes_one_message_too() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    for number in 0..60 {
        let conversation = format!("c{}", number % 20);
        outbox.accept(vec![Message { conversation, ..message(&number.to_string()) }]).await.unwrap();
    }
    let robot = Arc::new(Robot { unites_above: Some(20), ..Robot::new(|_, _| Ok(())) });
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    let taken = robot.taken();
    assert!(robot.united.load(Ordering::SeqCst) > 5, "{taken:?}");
    let of_several = |text: &&String| {
        text.split('+').map(|number| number.parse::<usize>().unwrap() % 20).is_sorted_by(|a, b| a == b)
    };
    assert!(taken.iter().filter(of_several).count() < taken.len() - 5, "of several conversations: {taken:?}");
    let numbers: Vec<usize> = taken.join("+").split('+').map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers.len(), 60, "each once");
    for conversation in 0..20 {
        assert!(numbers.iter().filter(|number| **number % 20 == conversation).is_sorted(), "{taken:?}");
    }
    assert_eq!(outbox.accept(vec![message("59")]).await, Ok(vec![Queued::Repeated(60)]));
}

#[tokio::test]
async fn an_answer_to_a_dead_letter_becomes_one_with_no_other_message() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    for number in 0..30 {
        let conversation = format!("c{number}");
        outbox.accept(vec![Message { conversation, ..message(&number.to_string()) }]).await.unwrap();
    }
    outbox.accept_answers(vec![message("answer")]).await.unwrap();
    let robot = Arc::new(Robot { unites_above: Some(1), ..Robot::new(|_, _| Ok(())) });
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    let taken = robot.taken();
    assert!(taken.len() < 31 && taken.contains(&"answer".to_owned()), "{taken:?}");
}

#[tokio::test]
async fn a_message_that_was_tried_or_expires_stays_alone() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    let expires = Some(Duration::from_secs(600));
    for message in [message("1"), Message { expires, ..message("2") }, message("3"), message("4")] {
        outbox.accept(vec![message]).await.unwrap();
    }
    let rule = |text: &str, times| if text == "1" && times == 1 { Err(Kind::Busy) } else { Ok(()) };
    let robot = Arc::new(Robot { unites_above: Some(1), ..Robot::new(rule) });
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    assert_eq!(robot.taken(), ["1", "2", "3+4"]);
}

#[tokio::test]
async fn a_message_that_has_expired_is_given_up_and_not_posted() {
    let dir = TempDir::new().unwrap();
    let outbox = open(&dir);
    let expires = Some(Duration::from_millis(1));
    outbox.accept(vec![Message { expires, ..message("late") }, message("on time")]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let robot = Arc::new(Robot::new(|_, _| Ok(())));
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    assert_eq!(robot.taken(), ["on time"]);
    assert_eq!(outbox.counts().await.unwrap().dead, 1);
}

#[tokio::test]
async fn a_binding_that_floods_the_outbox_leaves_room_for_others() {
    let dir = TempDir::new().unwrap();
    let limits = Limits { max_size: Limits::LEAST_SIZE + (8 << 20), ..Limits::default() };
    let outbox = Outbox::open(dir.path(), clock::system(), limits).unwrap();
    let of = |binding: &str, number: usize| {
        let (binding, body) = (binding.to_owned(), Bytes::from(vec![b'x'; 100_000]));
        Message { binding, body, uuid: number.to_string(), ..message("") }
    };
    let mut taken = Vec::new();
    for binding in ["flood", "second", "third"] {
        let mut count = 0;
        loop {
            match outbox.accept(vec![of(binding, count)]).await {
                Ok(_) => count += 1,
                Err(error) => {
                    break assert!(matches!(error, QueueError::Share { .. } | QueueError::Limit { .. }), "{error}");
                }
            }
        }
        taken.push(count);
    }
    let [first, second, third] = taken[..] else { panic!("{taken:?}") };
    assert!(third > 5 && second > third && first > second, "each gets half of what is left: {taken:?}");
    let robot = Arc::new(Robot::new(|_, _| Ok(())));
    outbox.start(Arc::clone(&robot) as Arc<dyn Consumer>);
    until_empty(&outbox).await;
    assert!(outbox.accept(vec![of("flood", 999)]).await.is_ok(), "what is sent makes room");
}
