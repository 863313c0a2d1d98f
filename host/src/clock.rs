//! The time of day as a value that can be replaced: signatures and rate limits depend on it, and a test that
//! needs the hour to pass must not wait for it.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Gives the time in milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's clock.
pub fn system() -> Clock {
    Arc::new(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    })
}

/// When something arrived. What waits for its turn afterwards has been in time all the same.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// For spans, which a clock that is set does not change.
    pub instant: Instant,
    /// The time of day, as [`Clock`] gives it.
    pub time: u64,
}

impl Arrival {
    /// Now.
    pub fn now(clock: &Clock) -> Self {
        Self { instant: Instant::now(), time: clock() }
    }
}
