//! `--print-events`: each event as a line of JSON, for trying a binding out and for pipes.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::event::{Answer, Application, BoxFuture, Event, Undelivered};

/// An application that prints. Answers nothing.
pub struct PrintApp {
    lines: mpsc::Sender<Line>,
}

/// A line to print, and where to say how that went.
struct Line {
    text: Vec<u8>,
    printed: oneshot::Sender<io::Result<()>>,
}

impl PrintApp {
    /// Prints to `out`, which is flushed after each line. The error is that of a thread that cannot start.
    ///
    /// The thread is its own instead of the runtime's: a reader that has stopped reading blocks the write without
    /// end, and the runtime would wait for its own threads when the process is told to stop.
    pub fn new(out: impl Write + Send + 'static) -> io::Result<Self> {
        // One line waits at most; everybody else waits with its event, as with an application.
        let (lines, waiting) = mpsc::channel(1);
        std::thread::Builder::new().name("print-events".into()).spawn(move || print(out, waiting))?;
        Ok(Self { lines })
    }

    async fn print(&self, event: &Event) -> Result<Answer, Undelivered> {
        let closed = |error: &str| Undelivered::Unreachable(format!("standard output is closed: {error}"));
        let text = line(event).map_err(|error| Undelivered::Unreachable(format!("cannot be printed: {error}")))?;
        let (printed, done) = oneshot::channel();
        let gone = "nothing prints any more";
        self.lines.send(Line { text, printed }).await.map_err(|_| closed(gone))?;
        match done.await {
            Ok(Ok(())) => Ok(None),
            Ok(Err(error)) => Err(closed(&error.to_string())),
            Err(_) => Err(closed(gone)),
        }
    }
}

impl Application for PrintApp {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(self.print(event))
    }
}

fn print(mut out: impl Write, mut lines: mpsc::Receiver<Line>) {
    while let Some(Line { text, printed }) = lines.blocking_recv() {
        let result = out.write_all(&text).and_then(|()| out.flush());
        // Whoever waited may have given up.
        let _ = printed.send(result);
    }
}

/// The event in one line: `binding`, `metadata`, and `data` as it was written, or `data_base64`.
fn line(event: &Event) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Printed<'a> {
        binding: &'a str,
        #[serde(serialize_with = "object")]
        metadata: &'a [(String, String)],
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data_base64: Option<String>,
    }
    let data = one_line(&event.data);
    let data_base64 = data.is_none().then(|| STANDARD.encode(&event.data));
    let printed = Printed { binding: &event.binding, metadata: &event.metadata, data, data_base64 };
    let mut text = serde_json::to_vec(&printed)?;
    text.push(b'\n');
    Ok(text)
}

fn object<S: Serializer>(pairs: &&[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// JSON as it was written, without line breaks: in valid JSON they can only stand between tokens.
fn one_line(data: &[u8]) -> Option<Box<RawValue>> {
    let json: &RawValue = serde_json::from_slice(data).ok()?;
    let text = json.get().replace(['\n', '\r'], " ");
    RawValue::from_string(text).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn event(data: impl Into<Bytes>) -> Event {
        let metadata = vec![("msgId".to_owned(), "1".to_owned()), ("nick".to_owned(), "\"张\n".to_owned())];
        Event { binding: "team".into(), data: data.into(), metadata, trace: Vec::new() }
    }

    fn printed(data: &'static str) -> String {
        String::from_utf8(line(&event(data)).unwrap()).unwrap()
    }

    #[test]
    fn data_stays_as_written() {
        let head = r#"{"binding":"team","metadata":{"msgId":"1","nick":"\"张\n"},"#;
        for (data, rest) in [
            (r#"{"b":1.0, "a":12345678901234567890.10}"#, r#""data":{"b":1.0, "a":12345678901234567890.10}}"#),
            ("{\n  \"a\": \"x\\n\"\r\n}\n", r#""data":{   "a": "x\n"  }}"#),
            (r#""\ud800""#, r#""data":"\ud800"}"#),
            ("null", r#""data":null}"#),
            ("hello", r#""data_base64":"aGVsbG8="}"#),
            ("\"a\nb\"", r#""data_base64":"ImEKYiI="}"#),
            ("{} {}", r#""data_base64":"e30ge30="}"#),
            ("", r#""data_base64":""}"#),
        ] {
            assert_eq!(printed(data), format!("{head}{rest}\n"), "{data:?}");
        }
        assert!(line(&event(&b"\"\xff\""[..])).unwrap().ends_with(b"\"data_base64\":\"Iv8i\"}\n"));
    }

    /// Keeps what is written, and what had been flushed.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            let mut kept = self.0.lock().unwrap();
            kept.1 = kept.0.len();
            Ok(())
        }
    }

    #[tokio::test]
    async fn each_event_is_on_its_way_when_it_is_delivered() {
        let sink = Sink::default();
        let app = PrintApp::new(sink.clone()).unwrap();
        for count in 1..=3 {
            assert_eq!(app.deliver(&event("{}")).await, Ok(None));
            let (text, flushed) = sink.0.lock().unwrap().clone();
            assert_eq!((text.split(|b| *b == b'\n').count() - 1, flushed), (count, text.len()));
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_closed_output_is_an_error_each_time() {
        let app = PrintApp::new(Closed).unwrap();
        for _ in 0..2 {
            let error = app.deliver(&event("{}")).await.unwrap_err().to_string();
            assert_eq!(error, "error invoking app: standard output is closed: broken pipe");
        }
    }

    proptest! {
        #[test]
        fn one_line_of_json_whatever_the_data(data: Vec<u8>) {
            let text = line(&event(data.clone())).unwrap();
            prop_assert_eq!(text.iter().position(|b| *b == b'\n'), Some(text.len() - 1));
            let value: Value = serde_json::from_slice(&text).unwrap();
            match value.get("data_base64") {
                Some(encoded) => prop_assert_eq!(STANDARD.decode(encoded.as_str().unwrap()).unwrap(), data),
                None => prop_assert_eq!(&value["data"], &serde_json::from_slice::<Value>(&data).unwrap()),
            }
        }
    }
}
