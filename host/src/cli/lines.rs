//! Standard error, and standard output where strangers decide how much comes, without waiting for whoever reads it: a
//! log that stands still stops no call.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What waits to be written, at most. A pipe takes 64 KiB by itself.
const MAX_BYTES: usize = 1 << 20;

/// What is written at once, at most: where several processes write to one pipe, none of them breaks another one's line.
const AT_ONCE: usize = 4_096;

/// At the end of the process, for what waits to be written.
pub(super) const FLUSH: Duration = Duration::from_secs(1);

/// Lines on their way out.
#[derive(Default)]
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that found no room. The next ones are lost too until everything is written, so that the log says once
    /// where there is a gap.
    lost: u64,
    is_writing: bool,
}

static LINES: LazyLock<Option<&'static Lines>> =
    LazyLock::new(|| Lines::start("log", io::stderr(), |lost| tracing::error!(lost, "{GAP}")).ok());

const GAP: &str = "log lines were lost here: standard error was not read";

/// Writes a line, or several, with its line break.
pub(super) fn write(text: &[u8]) {
    match *LINES {
        Some(lines) => lines.push(text),
        // No thread: then it may take its time.
        None => {
            let _ = io::stderr().write_all(text);
        }
    }
}

/// Waits until everything is written, but not for long.
pub(super) fn flush() {
    if let Some(lines) = *LINES {
        lines.flush(FLUSH);
    }
}

/// What the log's formatter writes to.
pub(super) struct Log;

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        write(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines that a thread called `name` writes to `out`; `gap` says how many were lost. The error is that of a thread
    /// that cannot start.
    pub(super) fn start(
        name: &str,
        mut out: impl Write + Send + 'static,
        gap: impl Fn(u64) + Send + 'static,
    ) -> io::Result<&'static Self> {
        let lines: &'static Self = Box::leak(Box::default());
        let writer = std::thread::Builder::new().name(name.into());
        writer.spawn(move || lines.write(&mut out, gap))?;
        Ok(lines)
    }

    /// Adds a line, or several, with its line break.
    pub(super) fn push(&self, text: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.lost > 0 || waiting.bytes + text.len() > MAX_BYTES {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += text.len();
        waiting.lines.push_back(text.to_owned());
        self.changed.notify_all();
    }

    /// Waits until everything is written, but not for longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty() || waiting.lost > 0;
        // Whether it was in time or not makes no difference.
        drop(self.changed.wait_timeout_while(self.waiting(), limit, is_busy));
    }

    /// Writes lines as they come; `gap` says how many were lost.
    fn write(&self, out: &mut impl Write, gap: impl Fn(u64)) {
        loop {
            let mut waiting = self.waiting();
            while waiting.lines.is_empty() && waiting.lost == 0 {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            if let Some(mut lines) = waiting.lines.pop_front() {
                // As ten thousand come when as many bindings are loaded.
                while let Some(next) = waiting.lines.pop_front_if(|next| lines.len() + next.len() <= AT_ONCE) {
                    lines.extend_from_slice(&next);
                }
                waiting.bytes -= lines.len();
                waiting.is_writing = true;
                drop(waiting);
                // Nobody reads any more: nobody misses it.
                let _ = out.write_all(&lines);
                self.waiting().is_writing = false;
            } else {
                let lost = std::mem::take(&mut waiting.lost);
                drop(waiting);
                gap(lost);
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{self, Receiver, SyncSender};

    use super::*;

    /// Takes a line when the test asks for one.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // The test has ended.
            let _ = self.0.send(text.to_owned());
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Arc<Lines>, Receiver<Vec<u8>>) {
        let lines = Arc::new(Lines::default());
        let (sender, pipe) = mpsc::sync_channel(0);
        let (writer, says) = (Arc::clone(&lines), Arc::clone(&lines));
        std::thread::spawn(move || {
            writer.write(&mut Pipe(sender), |lost| says.push(format!("lost {lost}").as_bytes()));
        });
        (lines, pipe)
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody_and_says_how_much_was_lost() {
        let (lines, pipe) = start();
        let line = vec![b'x'; 1_000];
        for _ in 0..3_000 {
            lines.push(&line);
        }
        assert!(lines.waiting().bytes <= MAX_BYTES);
        lines.flush(Duration::from_millis(1));
        let mut written = 0;
        let gap = loop {
            let text = String::from_utf8(pipe.recv().unwrap()).unwrap();
            match text.strip_prefix("lost ") {
                Some(lost) => break lost.parse::<usize>().unwrap(),
                None => {
                    assert!(text.len() <= AT_ONCE, "{}", text.len());
                    written += text.len() / line.len();
                }
            }
        };
        assert_eq!(written + gap, 3_000);
        assert!(written >= MAX_BYTES / 1_000);
        lines.push(b"later");
        assert_eq!(pipe.recv().unwrap(), b"later");
        lines.flush(Duration::from_secs(60));
        assert!(lines.waiting().lines.is_empty());
    }
}
