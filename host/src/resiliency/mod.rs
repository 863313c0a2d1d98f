//! Dapr's resiliency policies: which applies to a binding, and what is remembered from one call to the next.
//!
//! What is to be done again, and what counts as a failure, is decided where it is known what failed; a message is never
//! posted twice because of a policy.

pub mod breaker;
pub mod retry;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use breaker::{Breaker, Refused, Settings, Ticket};
use retry::Retry;

/// Whose policy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Operations of the binding.
    Outbound,
    /// Events on their way to the application.
    Inbound,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Outbound => "Outbound",
            Self::Inbound => "Inbound",
        }
    }
}

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resiliency {
    /// By name: for one attempt.
    pub timeouts: BTreeMap<String, Duration>,
    /// By name.
    pub retries: BTreeMap<String, Retry>,
    /// By name.
    pub breakers: BTreeMap<String, Settings>,
    /// By binding.
    pub components: BTreeMap<String, Sides>,
}

/// The policies of one binding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sides {
    /// For operations.
    pub outbound: Names,
    /// For events.
    pub inbound: Names,
}

/// The names of policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Of a time limit.
    pub timeout: Option<String>,
    /// Of a retry policy.
    pub retry: Option<String>,
    /// Of a circuit breaker.
    pub breaker: Option<String>,
}

/// What applies to one direction of one binding.
#[derive(Debug, Clone, Default, PartialEq)]
struct Policy {
    timeout: Option<Duration>,
    retry: Option<Retry>,
    breaker: Option<Settings>,
}

impl Resiliency {
    /// Takes `other` in, whose policies count where both have one of a name.
    pub fn extend(&mut self, other: Self) {
        let Self { timeouts, retries, breakers, components } = other;
        self.timeouts.extend(timeouts);
        self.retries.extend(retries);
        self.breakers.extend(breakers);
        self.components.extend(components);
    }

    /// Names in targets that no policy has, each with its kind.
    pub fn missing(&self) -> Vec<(&'static str, &str)> {
        let names = self.components.values().flat_map(|sides| [&sides.outbound, &sides.inbound]);
        let mut missing = Vec::new();
        for Names { timeout, retry, breaker } in names {
            missing.extend(
                timeout.as_deref().filter(|name| !self.timeouts.contains_key(*name)).map(|name| ("timeout", name)),
            );
            missing
                .extend(retry.as_deref().filter(|name| !self.retries.contains_key(*name)).map(|name| ("retry", name)));
            missing.extend(
                breaker
                    .as_deref()
                    .filter(|name| !self.breakers.contains_key(*name))
                    .map(|name| ("circuit breaker", name)),
            );
        }
        missing
    }

    fn policy(&self, component: &str, direction: Direction) -> Policy {
        let defaults;
        let names = match (self.components.get(component), direction) {
            (Some(sides), Direction::Outbound) => &sides.outbound,
            (Some(sides), Direction::Inbound) => &sides.inbound,
            (None, _) => {
                defaults = self.defaults(direction);
                &defaults
            }
        };
        Policy {
            timeout: names.timeout.as_ref().and_then(|name| self.timeouts.get(name)).copied(),
            retry: names.retry.as_ref().and_then(|name| self.retries.get(name)).cloned(),
            breaker: names.breaker.as_ref().and_then(|name| self.breakers.get(name)).copied(),
        }
    }

    /// Policies whose names say that they are for every binding that is no target: the most special one counts.
    fn defaults(&self, direction: Direction) -> Names {
        // Where there are no policies, as with nearly everybody, making their names was a fiftieth of a call's time.
        if self.timeouts.is_empty() && self.retries.is_empty() && self.breakers.is_empty() {
            return Names::default();
        }
        let direction = direction.name();
        let levels = [
            format!("BindingComponent{direction}"),
            format!("Component{direction}"),
            "Component".into(),
            String::new(),
        ];
        let first = |kind: &str, is_known: &dyn Fn(&str) -> bool| {
            levels.iter().map(|level| format!("Default{level}{kind}Policy")).find(|name| is_known(name))
        };
        Names {
            timeout: first("Timeout", &|name| self.timeouts.contains_key(name)),
            retry: first("Retry", &|name| self.retries.contains_key(name)),
            breaker: first("CircuitBreaker", &|name| self.breakers.contains_key(name)),
        }
    }
}

/// One breaker for all calls of one direction of a binding.
type Shared = Arc<Mutex<Breaker>>;

/// The policies in force, and the breakers.
#[derive(Debug, Default)]
pub struct Resilience {
    policies: Mutex<Arc<Resiliency>>,
    breakers: Mutex<HashMap<(String, Direction), Shared>>,
}

impl Resilience {
    /// From now on. Breakers whose policy stays keep what they know.
    pub fn set(&self, policies: Resiliency) {
        *lock(&self.policies) = Arc::new(policies);
    }

    /// A binding is gone.
    pub fn forget(&self, component: &str) {
        lock(&self.breakers).retain(|(known, _), _| known != component);
    }

    /// What is begun now.
    pub fn course(&self, component: &str, direction: Direction) -> Course {
        let policies = Arc::clone(&lock(&self.policies));
        let Policy { timeout, retry, breaker } = policies.policy(component, direction);
        let breaker = breaker.map(|settings| self.breaker((component.to_owned(), direction), settings));
        Course { timeout, retry, breaker, begun: Instant::now(), failures: 0 }
    }

    /// Whether what fails may be tried again.
    pub fn retries(&self, component: &str, direction: Direction) -> bool {
        let retry = lock(&self.policies).policy(component, direction).retry;
        retry.is_some_and(|retry| retry.max != Some(0))
    }

    fn breaker(&self, whose: (String, Direction), settings: Settings) -> Shared {
        let mut breakers = lock(&self.breakers);
        let known = breakers.get(&whose).filter(|known| lock(known).settings() == settings);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let new = Arc::new(Mutex::new(Breaker::new(settings, Instant::now())));
        breakers.insert(whose, Arc::clone(&new));
        new
    }
}

/// One thing to be done, with as many attempts as its policy allows.
#[derive(Debug)]
pub struct Course {
    timeout: Option<Duration>,
    retry: Option<Retry>,
    breaker: Option<Shared>,
    begun: Instant,
    failures: u32,
}

impl Course {
    /// For one attempt.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// If it may be tried again at all.
    pub fn retry(&self) -> Option<&Retry> {
        self.retry.as_ref()
    }

    /// Leave for one attempt. Dropped without an end, the attempt was broken off: one client that goes away, or gives a
    /// call no time, must not keep the others out.
    pub fn begin(&self) -> Result<Leave, Refused> {
        let Some(breaker) = &self.breaker else { return Ok(Leave(None)) };
        let ticket = lock(breaker).begin(Instant::now())?;
        Ok(Leave(Some((Arc::clone(breaker), ticket))))
    }

    /// The attempt has failed, and may be made again: the pause before that, unless it was the last one.
    pub fn again(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        self.retry.as_ref()?.next(self.failures, self.begun.elapsed(), fastrand::f64())
    }
}

/// An attempt under way.
#[derive(Debug)]
pub struct Leave(Option<(Shared, Ticket)>);

impl Leave {
    /// How it ended, as far as the breaker is concerned.
    pub fn end(mut self, succeeded: bool) {
        if let Some((breaker, ticket)) = self.0.take() {
            lock(&breaker).end(ticket, succeeded, Instant::now());
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some((breaker, ticket)) = self.0.take() {
            lock(&breaker).cancel(ticket, Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::retry::Pause;
    use super::*;

    fn retry(max: u32) -> Retry {
        Retry { pause: Pause::Constant(Duration::ZERO), max: Some(max), statuses: Vec::new() }
    }

    fn with(breaker: Settings) -> Resiliency {
        let names = Names { breaker: Some("b".into()), ..Names::default() };
        Resiliency {
            breakers: [("b".to_owned(), breaker)].into(),
            components: [("team".to_owned(), Sides { outbound: names, ..Sides::default() })].into(),
            ..Resiliency::default()
        }
    }

    #[test]
    fn a_target_has_its_own_policies_and_others_the_most_special_default() {
        let mut policies = Resiliency::default();
        let expected = |policies: &Resiliency, component: &str, direction, max: Option<u32>| {
            let found = policies.policy(component, direction).retry.and_then(|retry| retry.max);
            assert_eq!(found, max, "{component} {direction:?}");
        };
        expected(&policies, "team", Direction::Outbound, None);
        for (name, max) in [
            ("DefaultRetryPolicy", 1),
            ("DefaultComponentRetryPolicy", 2),
            ("DefaultComponentOutboundRetryPolicy", 3),
            ("DefaultBindingComponentOutboundRetryPolicy", 4),
        ] {
            policies.retries.insert(name.into(), retry(max));
            expected(&policies, "team", Direction::Outbound, Some(max));
            expected(&policies, "team", Direction::Inbound, Some(max.min(2)));
        }
        policies.retries.insert("own".into(), retry(9));
        let outbound = Names { retry: Some("own".into()), timeout: Some("none".into()), ..Names::default() };
        policies.components.insert("team".into(), Sides { outbound, ..Sides::default() });
        expected(&policies, "team", Direction::Outbound, Some(9));
        expected(&policies, "team", Direction::Inbound, None);
        expected(&policies, "other", Direction::Outbound, Some(4));
        assert_eq!(policies.missing(), [("timeout", "none")]);
    }

    #[test]
    fn a_breaker_is_one_for_all_calls_of_a_binding_until_its_policy_changes() {
        let resilience = Resilience::default();
        let settings = Settings { failures: 0, ..Settings::default() };
        resilience.set(with(settings));
        let begin = |component| resilience.course(component, Direction::Outbound).begin().map(|leave| leave.end(false));
        resilience.course("team", Direction::Outbound).begin().unwrap().end(true);
        assert_eq!(begin("team"), Ok(()), "which has failed");
        assert_eq!(begin("team"), Err(Refused::Open));
        assert_eq!(begin("other"), Ok(()));
        assert_eq!(resilience.course("team", Direction::Inbound).begin().map(drop), Ok(()));
        resilience.set(with(settings));
        assert_eq!(begin("team"), Err(Refused::Open), "the same policy, read again");
        resilience.set(with(Settings { failures: 1, ..settings }));
        assert_eq!(begin("team"), Ok(()));
        resilience.set(with(settings));
        assert_eq!(begin("team"), Ok(()));
        assert_eq!(begin("team"), Err(Refused::Open));
        resilience.forget("team");
        for _ in 0..10 {
            assert_eq!(resilience.course("team", Direction::Outbound).begin().map(drop), Ok(()), "broken off");
        }
        assert_eq!(begin("team"), Ok(()));
    }

    #[test]
    fn a_course_ends_with_its_retries() {
        let resilience = Resilience::default();
        let retries = [("DefaultRetryPolicy".to_owned(), retry(2))].into();
        resilience.set(Resiliency { retries, ..Resiliency::default() });
        let mut course = resilience.course("team", Direction::Outbound);
        assert_eq!(
            [course.again(), course.again(), course.again()],
            [Some(Duration::ZERO), Some(Duration::ZERO), None]
        );
        assert_eq!(Resilience::default().course("team", Direction::Outbound).again(), None);
        assert!(resilience.retries("team", Direction::Outbound));
        let never = [("DefaultRetryPolicy".to_owned(), retry(0))].into();
        resilience.set(Resiliency { retries: never, ..Resiliency::default() });
        assert!(!resilience.retries("team", Direction::Outbound));
        assert!(!Resilience::default().retries("team", Direction::Outbound));
    }
}
