//! Log lines that strangers can cause: the first is said, the next ones are counted for a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the log may speak of one thing.
const EVERY: Duration = Duration::from_secs(10);

/// Things that are told apart; those above share one count, so that whoever invents names fills no memory.
const MAX_KEYS: usize = 1_024;

/// What happened: when the log spoke of it, and of how many it has not spoken since.
type Counts = BTreeMap<String, (Instant, u64)>;

/// Counts what happens, key by key, and says when the log may speak of it. Boxed: of two in every tenant, most stay empty.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<Option<Box<Counts>>>);

impl Quiet {
    /// Counts one. `Some` if the log may speak now: of how many others it has not spoken.
    pub fn count(&self, key: &str) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.get_or_insert_default();
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

/// What `work` logs on this thread, one line for each event.
#[cfg(test)]
pub(crate) fn logged<T>(work: impl FnOnce() -> T) -> String {
    let (log, guard) = log();
    let _ = work();
    drop(guard);
    log.text()
}

/// Takes what is logged on this thread until the guard is dropped.
#[cfg(test)]
pub(crate) fn log() -> (Log, tracing::subscriber::DefaultGuard) {
    // While one log is the only subscriber, the first thread to write a line decides for all whether anybody wants it:
    // that of another test, which has no subscriber, would switch it off. Beside a second one, each thread is asked.
    static NOWHERE: std::sync::Once = std::sync::Once::new();
    NOWHERE.call_once(|| {
        let nowhere = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
        tracing::subscriber::set_global_default(nowhere).unwrap();
    });
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

/// Lines of a log, in memory.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Log(std::sync::Arc<Mutex<Vec<u8>>>);

#[cfg(test)]
impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines that contain `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.text().lines().filter(|line| line.contains(text)).count()
    }
}

#[cfg(test)]
impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
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
        quiet.0.lock().unwrap().as_mut().unwrap().get_mut("a").unwrap().0 = past;
        assert_eq!((quiet.count("a"), quiet.count("a")), (Some(2), None));
    }

    #[test]
    fn names_that_are_invented_fill_no_memory() {
        let quiet = Quiet::default();
        let spoken = (0..400_000).filter(|number| quiet.count(&number.to_string()).is_some()).count();
        assert_eq!((spoken, quiet.0.lock().unwrap().as_ref().unwrap().len()), (MAX_KEYS + 1, MAX_KEYS + 1));
    }
}
