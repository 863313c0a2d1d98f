//! Tells of messages that were given up, whatever they died of: beside the posts, which wait for none of it.
//!
//! That a message was told is noted after it was: at least once. What is to be told survives a restart; how often that was
//! tried does not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::line::ToRobots;
use super::{DeadLetter, Told};
use crate::queue::QueueError;
use crate::queue::backoff;
use crate::queue::dispatcher::{Shared, ended, has_ended};

/// How often the store is looked at: messages also die of their age, of which nobody says so here.
const POLL: Duration = Duration::from_secs(2);

/// How often in all a message is told to somebody who does not take it. With the pauses between, a minute.
const ATTEMPTS: u32 = 8;

/// What is remembered of each kind: names of bindings are those of component files, and of some that are gone.
const MOST: usize = 1_024;

/// What is known of telling.
#[derive(Default)]
struct Known {
    /// Bindings of which nothing is told for a while: how often in a row that was in vain, and until when.
    paused: HashMap<String, (u32, Instant)>,
    /// How often a message was told in vain.
    failures: HashMap<i64, u32>,
    /// Those of which the store does not know yet that they are told.
    told: HashSet<(i64, u64)>,
}

impl Known {
    /// A binding of which something cannot be told now.
    fn pause(&mut self, binding: &str) {
        let (in_vain, until) = self.paused.entry(binding.to_owned()).or_insert((0, Instant::now()));
        *in_vain = in_vain.saturating_add(1);
        *until = Instant::now() + Duration::from_millis(backoff::pause(*in_vain, fastrand::f64()));
    }

    /// Something of it was told.
    fn resume(&mut self, binding: &str, seq: i64) {
        self.paused.remove(binding);
        self.failures.remove(&seq);
    }

    /// Another attempt was in vain. Returns whether it was the last one.
    fn fail(&mut self, seq: i64) -> bool {
        // The operator may have dropped them, and nobody says so.
        if self.failures.len() >= MOST {
            self.failures.clear();
        }
        let failures = self.failures.entry(seq).or_default();
        *failures = failures.saturating_add(1);
        *failures >= ATTEMPTS
    }

    /// The bindings that are left out now, and when the first of them is not any more.
    fn left_out(&self) -> (Vec<String>, Option<Instant>) {
        let now = Instant::now();
        let paused = || self.paused.iter().filter(|(_, (_, until))| now < *until);
        (paused().map(|(name, _)| name.clone()).collect(), paused().map(|(_, (_, until))| *until).min())
    }
}

/// Runs until the queue is stopped.
pub(super) async fn run(shared: Arc<Shared<ToRobots>>) {
    let mut stopping = shared.stopping.clone();
    let mut known = Known::default();
    while !has_ended(&stopping) {
        round(&shared, &mut known).await;
        let again = known.left_out().1.map_or(POLL, |until| until.saturating_duration_since(Instant::now()).min(POLL));
        tokio::select! {
            biased;
            () = ended(&mut stopping) => return,
            () = shared.line.died.notified() => {}
            () = sleep(again) => {}
        }
    }
}

/// Tells all that can be told now. Where that fails, the binding's next ones wait.
async fn round(shared: &Shared<ToRobots>, known: &mut Known) {
    while !has_ended(&shared.stopping) {
        let (left_out, _) = known.left_out();
        if left_out.len() >= MOST {
            return;
        }
        let letters = match shared.storage.letters(left_out).await {
            Ok(letters) => letters,
            Err(QueueError::Stopped) => return,
            Err(error) => {
                if let Some(more) = shared.quiet.count("letters") {
                    tracing::error!(%error, more, "the outbox cannot tell what was given up; trying again");
                }
                return;
            }
        };
        if letters.is_empty() || !tell(shared, known, letters).await {
            return;
        }
    }
}

/// Tells of some at once. Returns whether to go on.
async fn tell(shared: &Shared<ToRobots>, known: &mut Known, letters: Vec<DeadLetter>) -> bool {
    let mut telling = JoinSet::new();
    let (done, untold): (Vec<_>, Vec<_>) =
        letters.into_iter().partition(|letter| known.told.contains(&(letter.seq, letter.died_at)));
    for letter in untold {
        let consumer = Arc::clone(&shared.line.consumer);
        telling.spawn(async move {
            let told = consumer.tell(&letter).await;
            (letter, told)
        });
    }
    let mut is_well = true;
    for letter in done {
        is_well &= note(shared, known, &letter).await;
    }
    while let Some(ended) = telling.join_next().await {
        let Ok((letter, told)) = ended else {
            // A bug in whoever tells, for which nothing may spin.
            if let Some(more) = shared.quiet.count("telling panicked") {
                tracing::error!(more, "telling that a message was given up panicked; it will be tried again");
            }
            is_well = false;
            continue;
        };
        if is_over(shared, known, &letter, told) {
            known.resume(&letter.binding, letter.seq);
            known.told.insert((letter.seq, letter.died_at));
            is_well &= note(shared, known, &letter).await;
        } else {
            known.pause(&letter.binding);
        }
    }
    is_well
}

/// Notes that it is told.
async fn note(shared: &Shared<ToRobots>, known: &mut Known, letter: &DeadLetter) -> bool {
    let &DeadLetter { seq, died_at, .. } = letter;
    let noted = shared.storage.told(seq, died_at).await;
    match &noted {
        Ok(()) => {
            known.told.remove(&(seq, died_at));
        }
        Err(QueueError::Stopped) => {}
        Err(error) => {
            if let Some(more) = shared.quiet.count("told") {
                tracing::error!(seq, %error, more, "it cannot be noted whom a message's end was told; after a restart it may be told again");
            }
        }
    }
    noted.is_ok()
}

/// Whether nothing more is to be done to tell of a message.
fn is_over(shared: &Shared<ToRobots>, known: &mut Known, letter: &DeadLetter, told: Told) -> bool {
    let (seq, binding) = (letter.seq, &letter.binding);
    match told {
        Told::Done => true,
        Told::Later => false,
        Told::Failed(reason) => {
            let is_last = known.fail(seq);
            if let Some(more) = shared.quiet.count(&format!("untold {is_last} {binding}")) {
                if is_last {
                    tracing::error!(
                        binding,
                        seq,
                        reason,
                        more,
                        "nobody was told that a message was given up; see `outbox list`"
                    );
                } else {
                    tracing::warn!(binding, seq, reason, more, "that a message was given up is not told yet");
                }
            }
            is_last
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use tokio::sync::{Notify, watch};

    use super::super::{Consumer, Setback};
    use super::*;
    use crate::event::{BoxFuture, Event};
    use crate::queue::storage::{End, Storage, Then, Tidied, Wake};
    use crate::queue::store::{Due, Item, Room};
    use crate::queue::{Counts, Side};
    use crate::quiet::Quiet;

    /// A store of dead letters alone.
    #[derive(Default)]
    struct Letters {
        letters: Mutex<Vec<DeadLetter>>,
        /// How often it cannot be noted that one was told.
        fails: Mutex<u32>,
    }

    type Kept<T> = BoxFuture<'static, Result<T, QueueError>>;

    impl Storage for Letters {
        fn letters(&self, except: Vec<String>) -> Kept<Vec<DeadLetter>> {
            let letters = self.letters.lock().unwrap();
            let some = letters.iter().filter(|letter| !except.contains(&letter.binding)).take(2).cloned();
            let some = some.collect();
            Box::pin(async { Ok(some) })
        }
        fn told(&self, seq: i64, _: u64) -> Kept<()> {
            let mut fails = self.fails.lock().unwrap();
            if *fails > 0 {
                *fails -= 1;
                return Box::pin(async { Err(QueueError::OtherBody { side: Side::Outbox, seq: 0 }) });
            }
            self.letters.lock().unwrap().retain(|letter| letter.seq != seq);
            Box::pin(async { Ok(()) })
        }
        fn insert(&self, _: Vec<Item>, _: u64, _: Then) -> Kept<()> {
            panic!("nobody asks for it")
        }
        fn due(&self, _: Room, _: u64) -> Kept<Due> {
            panic!("nobody asks for it")
        }
        fn pass_on(&self, _: u64) -> BoxFuture<'_, bool> {
            panic!("nobody asks for it")
        }
        fn end(&self, _: i64, _: End, _: u64) -> Kept<()> {
            panic!("nobody asks for it")
        }
        fn forget_reply(&self, _: i64) -> Kept<()> {
            panic!("nobody asks for it")
        }
        fn wake(&self, _: Wake, _: u64) -> Kept<bool> {
            panic!("nobody asks for it")
        }
        fn tidy(&self, _: u64) -> Kept<Tidied> {
            panic!("nobody asks for it")
        }
        fn passed_over(&self) -> BoxFuture<'_, usize> {
            panic!("nobody asks for it")
        }
        fn counts(&self) -> Kept<Counts> {
            panic!("nobody asks for it")
        }
        fn oldest(&self) -> Kept<Option<u64>> {
            panic!("nobody asks for it")
        }
        fn close(&self) -> BoxFuture<'_, ()> {
            panic!("nobody asks for it")
        }
    }

    type Rule = Box<dyn Fn(&str, usize) -> Told + Send + Sync>;

    /// Tells by a rule: of the binding, and of how often it was asked for that message.
    struct App {
        rule: Rule,
        told: Mutex<Vec<(i64, Instant)>>,
    }

    impl Consumer for App {
        fn post<'a>(&'a self, _: i64, _: &'a Event) -> BoxFuture<'a, Result<(), Setback>> {
            panic!("nobody asks for it")
        }
        fn tell<'a>(&'a self, letter: &'a DeadLetter) -> BoxFuture<'a, Told> {
            Box::pin(async move {
                self.told.lock().unwrap().push((letter.seq, Instant::now()));
                (self.rule)(&letter.binding, self.times(letter.seq))
            })
        }
    }

    impl App {
        fn times(&self, seq: i64) -> usize {
            self.told.lock().unwrap().iter().filter(|(told, _)| *told == seq).count()
        }
    }

    struct Setup {
        app: Arc<App>,
        letters: Arc<Letters>,
        begun: Instant,
        stop: watch::Sender<bool>,
        running: tokio::task::JoinHandle<()>,
    }

    fn start(bindings: &[&str], fails: u32, rule: impl Fn(&str, usize) -> Told + Send + Sync + 'static) -> Setup {
        let letter = |(seq, binding): (i64, &&str)| DeadLetter {
            seq,
            binding: (*binding).to_owned(),
            uuid: None,
            reason: "no".into(),
            attempts: 1,
            body: Some(Bytes::new()),
            metadata: Vec::new(),
            trace: Vec::new(),
            died_at: 1,
        };
        let letters = Arc::new(Letters {
            letters: Mutex::new((1..).zip(bindings).map(letter).collect()),
            fails: Mutex::new(fails),
        });
        let app = Arc::new(App { rule: Box::new(rule), told: Mutex::default() });
        let (stop, stopping) = watch::channel(false);
        let shared = Shared {
            line: ToRobots::new(Arc::clone(&app) as Arc<dyn Consumer>, Arc::default()),
            side: Side::Outbox,
            storage: Arc::clone(&letters) as Arc<dyn Storage>,
            clock: Arc::new(|| 1),
            wake: Arc::<Notify>::default(),
            stopping,
            quiet: Quiet::default(),
        };
        let running = tokio::spawn(run(Arc::new(shared)));
        Setup { app, letters, begun: Instant::now(), stop, running }
    }

    impl Setup {
        fn left(&self) -> Vec<i64> {
            self.letters.letters.lock().unwrap().iter().map(|letter| letter.seq).collect()
        }

        /// How long it takes until so many are left, of a time that passes by itself.
        async fn until_left(&self, left: &[i64]) -> Duration {
            let done = async {
                while self.left() != left {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(3_600), done).await.expect("they are told");
            self.begun.elapsed()
        }

        async fn end(self) {
            self.stop.send_replace(true);
            tokio::time::timeout(Duration::from_secs(3_600), self.running).await.expect("it ends").unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_it_is_told_eight_times_and_delays_nobody_else() {
        let setup = start(&["bad", "bad", "bad", "good", "good", "good"], 0, |binding, _| match binding {
            "bad" => Told::Failed("500".into()),
            _ => Told::Done,
        });
        assert!(setup.until_left(&[1, 2, 3]).await < POLL);
        let took = setup.until_left(&[]).await;
        // Two at once, as the store gives them; then the third.
        assert!((60..240).contains(&took.as_secs()), "{took:?}");
        assert_eq!([1, 2, 3, 4].map(|seq| setup.app.times(seq)), [8, 8, 8, 1]);
        setup.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_told_yet_is_not_given_up() {
        let setup = start(&["absent"], 0, |_, times| if times < 100 { Told::Later } else { Told::Done });
        let took = setup.until_left(&[]).await;
        assert!(took > Duration::from_secs(1_000), "it is not asked all the time: {took:?}");
        assert_eq!(setup.app.times(1), 100);
        setup.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_noted_is_not_told_again() {
        let setup = start(&["team", "team"], 3, |_, _| Told::Done);
        setup.until_left(&[]).await;
        assert_eq!([1, 2].map(|seq| setup.app.times(seq)), [1, 1]);
        setup.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_survived_and_does_not_spin() {
        let setup = start(&["team", "other"], 0, |binding, times| {
            assert!(binding != "team" || times > 2, "a bug");
            Told::Done
        });
        let took = setup.until_left(&[]).await;
        assert!(took >= POLL * 2 && setup.app.times(1) == 3, "{took:?}");
        setup.end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_dies_is_told_at_once_and_what_nobody_reports_within_seconds() {
        let setup = start(&["absent"], 0, |binding, _| if binding == "absent" { Told::Later } else { Told::Done });
        // By now that one is asked for twice a minute.
        sleep(Duration::from_secs(600)).await;
        let letter = DeadLetter {
            seq: 9,
            binding: "team".into(),
            uuid: None,
            reason: String::new(),
            attempts: 0,
            body: None,
            metadata: Vec::new(),
            trace: Vec::new(),
            died_at: 1,
        };
        setup.letters.letters.lock().unwrap().push(letter);
        let begun = Instant::now();
        setup.until_left(&[1]).await;
        assert!(begun.elapsed() <= POLL + Duration::from_millis(20));
        setup.end().await;
    }
}
