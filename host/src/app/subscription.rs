//! Which bindings the application reads from: what the component file says of it, the question that daprd asks
//! the application, and for how long its answer is believed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dingtalk_api::delivery::target;
use dingtalk_binding::json::quoted;

use crate::event::{Event, Undelivered};

/// For how long a "no" holds. Short enough that an application which is replaced by one with the route gets the
/// next message but one; long enough that a busy group does not double the requests to one that will never read.
const NO_HOLDS: Duration = Duration::from_secs(5);

/// Which sides of a binding a component file asks for, with its item `direction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Nothing is said: both sides, and the application is asked whether it reads.
    #[default]
    Unstated,
    /// `input`.
    Input,
    /// `output`.
    Output,
    /// `input, output`.
    Both,
}

impl Direction {
    /// Reads the value of `direction`: `input`, `output` or both, separated by commas, in any case. The error is
    /// meant to follow the name of the item.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut input, mut output) = (false, false);
        for word in text.split(',') {
            match word.trim().to_ascii_lowercase().as_str() {
                "input" => input = true,
                "output" => output = true,
                // A comma too many, which daprd takes.
                "" => {}
                word => return Err(format!("has the unknown word {}; write input, output, or both", quoted(word))),
            }
        }
        Ok(match (input, output) {
            (true, true) => Self::Both,
            (true, false) => Self::Input,
            (false, true) => Self::Output,
            (false, false) => return Err("is empty; write input, output, or both separated by a comma".into()),
        })
    }

    /// Whether there is an input side.
    pub fn reads(self) -> bool {
        self != Self::Output
    }

    /// Whether there is an output side.
    pub fn writes(self) -> bool {
        self != Self::Input
    }

    /// Whether the application is asked if it reads. It is not where the file says `input`.
    pub fn probe(self) -> bool {
        self == Self::Unstated
    }
}

/// One binding towards the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The binding's name, which the binding shares: there may be ten thousand.
    pub binding: Arc<str>,
    /// Made by `target` alone, so that it is always fit for a request.
    route: Box<str>,
    /// As `route`, of messages that were given up.
    dead_letter_route: Option<Box<str>>,
    /// What the component file says.
    pub direction: Direction,
}

impl Subscription {
    /// `route` is the component file's item of that name; without one, or with an empty one, it is the binding's
    /// name.
    pub fn new(binding: impl Into<Arc<str>>, route: Option<&str>, direction: Direction) -> Self {
        let binding = binding.into();
        let route = target(route.filter(|route| !route.trim().is_empty()).unwrap_or(&binding));
        Self { binding, route: route.into(), dead_letter_route: None, direction }
    }

    /// With the component file's item `deadLetterRoute`: without one, or with an empty one, nobody is told of messages that
    /// were given up. The error is meant to follow its name.
    pub fn with_dead_letters(mut self, route: Option<&str>) -> Result<Self, String> {
        self.dead_letter_route = route.filter(|route| !route.trim().is_empty()).map(|route| target(route).into());
        let is_shared = self.direction.reads() && self.dead_letter_route.as_ref() == Some(&self.route);
        if is_shared {
            return Err("is the route of what people say, too; choose another one".into());
        }
        Ok(self)
    }

    /// Whether the application is told of messages that were given up.
    pub fn takes_dead_letters(&self) -> bool {
        self.dead_letter_route.is_some()
    }

    /// Where this event goes, if it goes anywhere.
    pub(super) fn route_of(&self, event: &Event) -> Option<&str> {
        if event.is_dead_letter() { self.dead_letter_route.as_deref() } else { Some(&self.route) }
    }

    /// Whether an event of this binding can be handed over without asking: it says that a message was given up, which the
    /// component file asks for.
    pub(super) fn takes_unasked(&self, event: &Event) -> Result<bool, Undelivered> {
        if event.is_dead_letter() && !self.takes_dead_letters() {
            return Err(self.not_subscribed("it has no deadLetterRoute; add one, or drop the event".into()));
        }
        Ok(event.is_dead_letter())
    }

    fn not_subscribed(&self, reason: String) -> Undelivered {
        Undelivered::NotSubscribed { binding: self.binding.to_string(), reason }
    }

    /// The path, and the query if any, under which the application takes its events.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The route without its query, which may hold a key.
    pub(super) fn path(&self) -> &str {
        self.route.split('?').next().unwrap_or_default()
    }
}

/// What the application answers to the question whether it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Reads,
    /// With what it has said instead, and what to do.
    ReadsNot(String),
}

/// What is known of the application's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Unknown,
    Reads,
    ReadsNot { since: Instant, reason: String },
}

/// What to do with an event.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Deliver,
    Refuse(String),
    Ask,
}

impl Known {
    fn from_verdict(verdict: Verdict, now: Instant) -> Self {
        match verdict {
            Verdict::Reads => Self::Reads,
            Verdict::ReadsNot(reason) => Self::ReadsNot { since: now, reason },
        }
    }

    fn next(&self, now: Instant) -> Next {
        match self {
            Self::Reads => Next::Deliver,
            Self::ReadsNot { since, reason } if now.saturating_duration_since(*since) < NO_HOLDS => {
                Next::Refuse(reason.clone())
            }
            Self::ReadsNot { .. } | Self::Unknown => Next::Ask,
        }
    }
}

/// A subscription and what is remembered of it.
pub(super) struct Subscriber {
    pub(super) subscription: Subscription,
    memory: Mutex<Memory>,
    /// Held while the application is asked: whoever comes meanwhile waits for the same answer.
    asking: tokio::sync::Mutex<()>,
}

struct Memory {
    known: Known,
    /// How often the application has been asked, and what came of the last time.
    asked: u64,
    last: Result<(), Undelivered>,
    /// The answer that the log has, so that it gets each change once.
    logged: Option<bool>,
}

impl Subscriber {
    pub(super) fn new(subscription: Subscription) -> Self {
        let memory = Memory { known: Known::Unknown, asked: 0, last: Ok(()), logged: None };
        Self { subscription, memory: Mutex::new(memory), asking: tokio::sync::Mutex::new(()) }
    }

    /// Whether the application reads. Polls `probe`, which gives its answer, only where nothing is known and nobody
    /// else is asking.
    pub(super) async fn reads(
        &self,
        now: impl Fn() -> Instant,
        probe: impl Future<Output = Result<Verdict, Undelivered>>,
    ) -> Result<(), Undelivered> {
        let direction = self.subscription.direction;
        if !direction.reads() {
            return Err(self.not_subscribed("its direction is output; add input to it".into()));
        }
        if !direction.probe() {
            return Ok(());
        }
        let asked = {
            let memory = self.memory();
            match memory.known.next(now()) {
                Next::Deliver => return Ok(()),
                Next::Refuse(reason) => return Err(self.not_subscribed(reason)),
                Next::Ask => memory.asked,
            }
        };
        let _asking = self.asking.lock().await;
        {
            let memory = self.memory();
            if memory.asked != asked {
                return memory.last.clone();
            }
        }
        let answer = probe.await;
        self.learn(answer, now())
    }

    /// After this, the application is asked again.
    pub(super) fn forget(&self) {
        self.memory().known = Known::Unknown;
    }

    fn learn(&self, answer: Result<Verdict, Undelivered>, now: Instant) -> Result<(), Undelivered> {
        let mut memory = self.memory();
        (memory.known, memory.last) = match answer {
            Ok(verdict) => (Known::from_verdict(verdict, now), Ok(())),
            Err(error) => (Known::Unknown, Err(error)),
        };
        if let Known::ReadsNot { reason, .. } = &memory.known {
            memory.last = Err(self.not_subscribed(reason.clone()));
        }
        memory.asked = memory.asked.wrapping_add(1);
        let reads = match memory.known {
            Known::Unknown => None,
            Known::Reads => Some(true),
            Known::ReadsNot { .. } => Some(false),
        };
        if reads.is_some() && memory.logged != reads {
            memory.logged = reads;
            match &memory.last {
                Ok(()) => {
                    tracing::info!(
                        binding = &*self.subscription.binding,
                        route = self.subscription.path(),
                        "the application reads from the binding"
                    );
                }
                Err(refusal) => tracing::info!("{refusal}"),
            }
        }
        memory.last.clone()
    }

    fn not_subscribed(&self, reason: String) -> Undelivered {
        self.subscription.not_subscribed(reason)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn directions() {
        for (text, expected) in [
            ("input", Direction::Input),
            (" OutPut ", Direction::Output),
            ("output, input", Direction::Both),
            ("input,INPUT", Direction::Input),
            ("input,", Direction::Input),
        ] {
            assert_eq!(Direction::parse(text), Ok(expected), "{text}");
        }
        for (text, named) in [("inptu", "\"inptu\""), ("input;output", "\"input;output\""), ("input, both", "\"both\"")]
        {
            assert!(Direction::parse(text).unwrap_err().contains(named), "{text}");
        }
        let secret = "SEC-5ecret_0f_the-robot";
        let error = Direction::parse(&format!("input, {secret}")).unwrap_err();
        assert!(
            error.contains("word a text of 23 characters;")
                && !error.to_lowercase().contains(&secret[..8].to_lowercase())
        );
        for text in ["", " ", ","] {
            assert!(Direction::parse(text).unwrap_err().contains("is empty"), "{text:?}");
        }
        let sides = |direction: Direction| (direction.reads(), direction.writes(), direction.probe());
        assert_eq!(sides(Direction::default()), (true, true, true));
        assert_eq!(sides(Direction::Input), (true, false, false));
        assert_eq!(sides(Direction::Output), (false, true, false));
        assert_eq!(sides(Direction::Both), (true, true, false));
    }

    #[test]
    fn the_route_is_the_name_unless_the_file_says_otherwise() {
        let route = |route| Subscription::new("team", route, Direction::Unstated).route;
        assert_eq!([route(None), route(Some("")), route(Some("/x"))], ["/team", "/team", "/x"].map(Box::from));
    }

    #[test]
    fn a_no_holds_for_a_while_and_a_yes_stays() {
        let now = Instant::now();
        assert_eq!(Known::Unknown.next(now), Next::Ask);
        assert_eq!(Known::Reads.next(now + Duration::from_secs(86_400)), Next::Deliver);
        let no = Known::from_verdict(Verdict::ReadsNot("404".into()), now);
        assert_eq!(no.next(now), Next::Refuse("404".into()));
        assert_eq!(no.next(now + NO_HOLDS - Duration::from_millis(1)), Next::Refuse("404".into()));
        assert_eq!(no.next(now + NO_HOLDS), Next::Ask);
    }

    fn unstated() -> Subscriber {
        Subscriber::new(Subscription::new("team", Some("in?key=S3CR3T"), Direction::Unstated))
    }

    #[tokio::test]
    async fn a_failed_question_is_asked_again() {
        let subscriber = unstated();
        let down = Undelivered::Unreachable("down".into());
        assert_eq!(subscriber.reads(Instant::now, async { Err(down.clone()) }).await, Err(down.clone()));
        assert_eq!(subscriber.reads(Instant::now, async { Ok(Verdict::Reads) }).await, Ok(()));
        assert_eq!(subscriber.reads(Instant::now, async { panic!("asked again") }).await, Ok(()));
        subscriber.forget();
        assert_eq!(subscriber.reads(Instant::now, async { Err(down.clone()) }).await, Err(down));
    }

    #[tokio::test]
    async fn the_refusal_says_what_to_do_and_shows_no_query() {
        let subscriber = unstated();
        let no = Verdict::ReadsNot(format!("it says no at {}; do this", subscriber.subscription.path()));
        let refusal = subscriber.reads(Instant::now, async { Ok(no) }).await.unwrap_err().to_string();
        assert!(refusal.contains("team") && refusal.contains("no at /in; do this"), "{refusal}");
        assert!(!refusal.contains("S3CR3T"), "{refusal}");
    }

    #[tokio::test]
    async fn who_comes_meanwhile_shares_the_question() {
        let subscriber = unstated();
        let asked = AtomicUsize::new(0);
        let ask = || {
            subscriber.reads(Instant::now, async {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Err(Undelivered::Unreachable("down".into()))
            })
        };
        let answers = tokio::join!(ask(), ask(), ask());
        assert!(answers.0.is_err() && answers.0 == answers.1 && answers.1 == answers.2);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn directions_are_obeyed_without_a_question() {
        let reads = async |direction| {
            let subscriber = Subscriber::new(Subscription::new("team", None, direction));
            subscriber.reads(Instant::now, async { panic!("asked") }).await
        };
        assert_eq!((reads(Direction::Input).await, reads(Direction::Both).await), (Ok(()), Ok(())));
        assert!(reads(Direction::Output).await.unwrap_err().to_string().contains("direction is output"));
    }
}
