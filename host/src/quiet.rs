//! Log lines that strangers can cause: the first is said, the next ones are counted for a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the log may speak of one thing.
const EVERY: Duration = Duration::from_secs(10);

/// Things that are told apart; those above share one count, so that whoever invents names fills no memory.
const MAX_KEYS: usize = 1_024;

/// Counts what happens, key by key, and says when the log may speak of it.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<HashMap<String, (Instant, u64)>>);

impl Quiet {
    /// Counts one. `Some` if the log may speak now: of how many others it has not spoken.
    pub fn count(&self, key: &str) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if counts.len() < MAX_KEYS || counts.contains_key(key) { key } else { "" };
        match counts.get_mut(key) {
            Some((spoken, silent)) if spoken.elapsed() < EVERY => {
                *silent += 1;
                None
            }
            Some((spoken, silent)) => {
                *spoken = Instant::now();
                Some(std::mem::take(silent))
            }
            None => {
                counts.insert(key.to_owned(), (Instant::now(), 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_speaks_of_the_first_and_then_seldom() {
        let quiet = Quiet::default();
        assert_eq!(quiet.count("a"), Some(0));
        assert_eq!((quiet.count("a"), quiet.count("a")), (None, None));
        assert_eq!(quiet.count("b"), Some(0));
        let past = Instant::now().checked_sub(EVERY).unwrap();
        quiet.0.lock().unwrap().get_mut("a").unwrap().0 = past;
        assert_eq!((quiet.count("a"), quiet.count("a")), (Some(2), None));
    }

    #[test]
    fn names_that_are_invented_fill_no_memory() {
        let quiet = Quiet::default();
        let spoken = (0..400_000).filter(|number| quiet.count(&number.to_string()).is_some()).count();
        assert_eq!((spoken, quiet.0.lock().unwrap().len()), (MAX_KEYS + 1, MAX_KEYS + 1));
    }
}
