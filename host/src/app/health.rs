//! The application's health as daprd checks it, for whoever asks for it: after so many failures in a row nothing
//! is delivered, after one success everything is.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

/// How the application's health is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// Path of the check.
    pub path: String,
    /// From one check to the next.
    pub interval: Duration,
    /// For one check; not longer than `interval`.
    pub timeout: Duration,
    /// So many failures in a row mean that the application is unhealthy.
    pub threshold: u32,
}

impl Default for HealthConfig {
    /// daprd's.
    fn default() -> Self {
        Self {
            path: "/healthz".into(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_millis(500),
            threshold: 3,
        }
    }
}

/// What the checks say so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// No check has succeeded yet, and too few have failed to complain.
    Starting,
    Healthy,
    Unhealthy,
}

impl Status {
    /// As in daprd, an application is not healthy before the first success.
    pub(super) fn is_healthy(self) -> bool {
        self == Self::Healthy
    }
}

/// The state of the checks.
struct Health {
    threshold: u32,
    failures: u32,
    status: Status,
}

impl Health {
    fn new(threshold: u32) -> Self {
        Self { threshold, failures: 0, status: Status::Starting }
    }

    /// Takes the result of one check. Gives the new status if it has changed.
    fn seen(&mut self, success: bool) -> Option<Status> {
        self.failures = if success { 0 } else { self.failures.saturating_add(1) };
        let status = match success {
            true => Status::Healthy,
            false if self.failures >= self.threshold => Status::Unhealthy,
            false => self.status,
        };
        let changed = status != self.status;
        self.status = status;
        changed.then_some(status)
    }
}

/// When to check, and what the log has to say of it.
pub(super) struct Checks {
    ticks: Interval,
    health: Health,
}

impl Checks {
    pub(super) fn new(config: &HealthConfig) -> Self {
        let mut ticks = tokio::time::interval(config.interval);
        // After a suspended machine wakes up, one check is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, health: Health::new(config.threshold) }
    }

    /// Waits for the time of the next check; the first one is due at once.
    pub(super) async fn due(&mut self) {
        self.ticks.tick().await;
    }

    /// Takes the result of a check, a failure with its reason. Gives the new status if it has changed.
    pub(super) fn seen(&mut self, result: &Result<(), String>) -> Option<Status> {
        let turn = self.health.seen(result.is_ok());
        match (result, turn) {
            (Ok(()), Some(_)) => tracing::info!("the application is healthy"),
            (Err(reason), Some(_)) => {
                let failures = self.health.threshold;
                tracing::warn!(reason, failures, "the application is unhealthy; nothing is delivered");
            }
            (Err(reason), None) => tracing::debug!(reason, "a health check of the application failed"),
            (Ok(()), None) => {}
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_after_failures_in_a_row_and_one_success() {
        let mut health = Health::new(3);
        let mut turns = Vec::new();
        for success in [false, false, true, false, false, true, false, false, false, false, true, true] {
            turns.push(health.seen(success));
        }
        let (up, down) = (Some(Status::Healthy), Some(Status::Unhealthy));
        assert_eq!(turns, [None, None, up, None, None, None, None, None, down, None, up, None]);
    }

    #[test]
    fn an_application_that_never_starts_is_reported_once() {
        let mut health = Health::new(2);
        assert!(!health.status.is_healthy());
        assert_eq!([health.seen(false), health.seen(false), health.seen(false)], [None, Some(Status::Unhealthy), None]);
        assert_eq!(health.seen(true), Some(Status::Healthy));
        assert!(health.status.is_healthy());
    }

    #[test]
    fn a_threshold_of_one() {
        let mut health = Health::new(1);
        assert_eq!([health.seen(true), health.seen(false)], [Some(Status::Healthy), Some(Status::Unhealthy)]);
    }
}
