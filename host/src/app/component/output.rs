//! What an application writes to standard output and standard error, as lines of the log.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dingtalk_binding::secret::{Secret, redact};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// What of a message's output is logged, of each of the two streams. The traceback of an exception has 1 to 3 KiB.
pub(super) const MAX_OUTPUT: usize = 8 << 10;

/// What a line counts beside its bytes: each is an event of the log, however short it is.
const LINE: usize = 128;

/// What may be written at once.
const CHUNK: usize = 64 << 10;

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    Error,
}

/// One stream of one message. Clones are the same stream; it ends with the last of them.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Lines>>);

impl Output {
    /// For a message of `binding`; `secrets` are blanked out.
    pub(super) fn new(stream: Stream, binding: &str, secrets: Arc<[Secret]>) -> Self {
        let lines = Lines { stream, binding: binding.to_owned(), secrets, line: Vec::new(), taken: 0, left_out: 0 };
        Self(Arc::new(Mutex::new(lines)))
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    /// That of WASI 0.3, which is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    /// Always: an application that writes without end is not to wait without end.
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

struct Lines {
    stream: Stream,
    binding: String,
    secrets: Arc<[Secret]>,
    /// The one that has not ended.
    line: Vec<u8>,
    taken: usize,
    left_out: usize,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        if self.left_out > 0 {
            self.left_out += bytes.len();
            return;
        }
        let mut parts = bytes.split_inclusive(|byte| *byte == b'\n');
        while let Some(part) = parts.next() {
            let cost = part.len() + if self.line.is_empty() { LINE } else { 0 };
            if self.taken + cost > MAX_OUTPUT {
                // Of a line that does not fit nothing is said: a session that is cut off would not be blanked out.
                let line = std::mem::take(&mut self.line);
                self.left_out = line.len() + part.len() + parts.map(<[u8]>::len).sum::<usize>();
                return;
            }
            self.taken += cost;
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") {
                self.say();
            }
        }
    }

    fn say(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = redact(String::from_utf8_lossy(&line).trim_end(), self.secrets.iter().map(Secret::expose));
        let binding = &self.binding;
        match self.stream {
            _ if line.is_empty() => {}
            Stream::Output => tracing::info!(binding, line, "written by the handler"),
            Stream::Error => tracing::warn!(binding, line, "written by the handler"),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.say();
        if self.left_out > 0 {
            let (binding, bytes) = (&self.binding, self.left_out);
            tracing::warn!(binding, bytes, "the handler wrote more than is logged of one message");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(stream: Stream, chunks: &[&str]) -> Vec<String> {
        let secrets = [Secret::new("S3SS10N")].into();
        let text = crate::quiet::logged(|| {
            let mut output = Output::new(stream, "team", secrets);
            for chunk in chunks {
                output.write(Bytes::copy_from_slice(chunk.as_bytes())).unwrap();
            }
        });
        // Without the time.
        text.lines().map(|line| line.split_once("Z").map_or("", |(_, rest)| rest).trim().to_owned()).collect()
    }

    #[test]
    fn each_line_is_one_of_the_log_however_it_was_written() {
        let lines = written(Stream::Output, &["one\ntw", "o\n\nsession S3S", "S10N \u{1b}[31m\r\nla", "st"]);
        let target = "INFO dingtalk_host::app::component::output: written by the handler binding=\"team\"";
        let expected =
            ["one", "two", "session [redacted]  [31m", "last"].map(|line| format!("{target} line=\"{line}\""));
        assert_eq!(lines, expected);
        let lines = written(Stream::Error, &["oh"]);
        assert!(lines.len() == 1 && lines[0].starts_with("WARN") && lines[0].ends_with("line=\"oh\""), "{lines:?}");
        assert!(written(Stream::Output, &["\n", " \n"]).is_empty());
    }

    #[test]
    fn what_is_written_without_end_is_counted() {
        // 7 lines of 1,024 bytes fit, or 63 of 2, each with 128 more.
        for (chunk, fit) in [("x".repeat(1023) + "\n", 7), ("x\n".into(), 63), ("x\n".repeat(4_096), 63)] {
            let lines = written(Stream::Output, &[&*chunk; 1_000]);
            assert_eq!(lines.len(), fit + 1, "{} bytes", chunk.len());
            assert!(lines[0].len() < 700, "{}", lines[0]);
            let line = chunk.split_inclusive('\n').next().unwrap().len();
            let end = format!("bytes={}", 1_000 * chunk.len() - fit * line);
            assert!(lines.last().unwrap().ends_with(&end), "{lines:?}");
        }
        // Nor is it kept where no line ends.
        let lines = written(Stream::Output, &[&*"x".repeat(1_000); 1_000]);
        assert!(lines.len() == 1 && lines[0].ends_with("bytes=1000000"), "{lines:?}");
    }

    #[test]
    fn a_session_that_does_not_fit_does_not_show_its_beginning() {
        for room in 0..300 {
            let before = "x".repeat(MAX_OUTPUT - room) + "\n";
            for (chunks, length) in [(&["session S3SS10N\n"][..], 16), (&["session S3S", "S10N"], 15)] {
                let lines = written(Stream::Output, &[&[&*before], chunks].concat());
                assert!(!lines.concat().contains("S3S"), "{room}: {lines:?}");
                let fits = room > 2 * LINE + length;
                assert_eq!(lines.last().unwrap().contains("session [redacted]"), fits, "{room}: {lines:?}");
                assert_eq!(lines.last().unwrap().contains("wrote more"), !fits, "{room}: {lines:?}");
            }
        }
    }
}
