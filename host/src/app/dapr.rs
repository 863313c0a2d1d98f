//! daprd as the way to the application: events go down the stream that it has opened with `Read`, acknowledgements come
//! back in any order.
//!
//! daprd does not come back to a stream that has ended, so that none is ended here before the process is. A stream
//! belongs to a name: the binding behind it can be replaced while it is open.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dingtalk_api::delivery::{self, MAX_ANSWER, headers};
use dingtalk_api::grpc;
use dingtalk_dapr::components::{ReadRequest, ReadResponse};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::event::{Answer, Application, BoxFuture, Event, Undelivered};
use crate::quiet::Quiet;

/// Events on their way into a stream. Each may have 128 KiB, and its sender waits for more than its place here.
const QUEUE: usize = 4;

/// Streams of one name. Each daprd that reads has one, and those that it has forgotten are gone with its connection.
const MAX_STREAMS: usize = 8;

/// What gRPC for Go, and with it daprd, takes as one message. A longer one would end the stream.
const MAX_MESSAGE: usize = 4 << 20;

/// daprd's words for an application with a health check that fails.
const UNHEALTHY: &str = "app is not in a healthy state";

/// What daprd puts before the status of an application that says no.
const REFUSED: &str = "fails to send binding event to http app channel, status code: ";

/// What daprd puts before the status of an application over gRPC.
const STATUS: &str = "error invoking app: rpc error: code = ";

/// An application behind daprd. Cheap to clone.
#[derive(Clone)]
pub struct DaprApp(Arc<Inner>);

struct Inner {
    timeout: Duration,
    /// By name, the newest last.
    streams: Mutex<HashMap<String, Vec<Arc<Stream>>>>,
    /// Identifiers are never used twice, so that none can be acknowledged on another stream.
    next: AtomicU64,
    /// Lines of which a message each could cause one.
    quiet: Quiet,
}

/// An open stream.
struct Stream {
    events: mpsc::Sender<Result<ReadResponse, Status>>,
    /// `None` once it has ended.
    pending: Mutex<Option<Pending>>,
    ended: CancellationToken,
}

type Pending = HashMap<u64, oneshot::Sender<ReadRequest>>;

impl Stream {
    fn pending(&self) -> MutexGuard<'_, Option<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.pending().is_some() && !self.events.is_closed()
    }

    /// From now on `id` can be acknowledged. `None` if the stream has ended.
    fn expect(self: &Arc<Self>, id: u64) -> Option<Expected> {
        let (acknowledged, acknowledgement) = oneshot::channel();
        self.pending().as_mut()?.insert(id, acknowledged);
        Some(Expected { stream: Arc::clone(self), id, acknowledgement })
    }

    /// Hands an acknowledgement to whoever waits for it, if anybody does.
    fn acknowledge(&self, acknowledgement: ReadRequest) -> bool {
        let Ok(id) = acknowledgement.message_id.parse() else { return false };
        let waiting = self.pending().as_mut().and_then(|pending| pending.remove(&id));
        waiting.is_some_and(|waiting| waiting.send(acknowledgement).is_ok())
    }

    /// Whoever waits for an acknowledgement waits no longer.
    fn end(&self) {
        self.pending().take();
        self.ended.cancel();
    }
}

/// An event that has not been acknowledged. Dropped, it is not waited for.
struct Expected {
    stream: Arc<Stream>,
    id: u64,
    acknowledgement: oneshot::Receiver<ReadRequest>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(pending) = self.stream.pending().as_mut() {
            pending.remove(&self.id);
        }
    }
}

/// The side of a stream that daprd speaks with. Dropped, the stream has ended.
pub(crate) struct Reader {
    app: DaprApp,
    name: String,
    stream: Arc<Stream>,
}

impl Reader {
    /// Takes what daprd says of an event.
    pub(crate) fn acknowledge(&self, acknowledgement: ReadRequest) {
        if !self.stream.acknowledge(acknowledgement)
            && let Some(more) = self.app.0.quiet.count(&format!("unknown {}", self.name))
        {
            tracing::warn!(
                binding = self.name,
                more,
                "daprd has acknowledged what was not waited for: too late, twice, or never sent"
            );
        }
    }

    /// Returns when nobody reads any more, or the host has ended the stream.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.stream.events.closed() => {}
            () = self.stream.ended.cancelled() => {}
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stream.end();
        let mut streams = self.app.streams();
        if let Some(all) = streams.get_mut(&self.name) {
            all.retain(|one| !Arc::ptr_eq(one, &self.stream));
            if all.is_empty() {
                streams.remove(&self.name);
            }
        }
    }
}

impl DaprApp {
    /// daprd has `timeout` for an event, acknowledgement included.
    pub fn new(timeout: Duration) -> Self {
        let (streams, next, quiet) = (Mutex::default(), AtomicU64::new(1), Quiet::default());
        Self(Arc::new(Inner { timeout, streams, next, quiet }))
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Stream>>>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// daprd reads events of `name`: from now on they go to this stream.
    pub(crate) fn open(&self, name: &str) -> (Reader, mpsc::Receiver<Result<ReadResponse, Status>>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        let (pending, ended) = (Mutex::new(Some(Pending::new())), CancellationToken::new());
        let stream = Arc::new(Stream { events, pending, ended });
        let mut streams = self.streams();
        let all = streams.entry(name.to_owned()).or_default();
        all.retain(|one| one.is_open());
        if all.len() >= MAX_STREAMS {
            let oldest = all.remove(0);
            leave(&oldest, &format!("{MAX_STREAMS} newer streams read from this component instance"));
        }
        all.push(Arc::clone(&stream));
        (Reader { app: self.clone(), name: name.to_owned(), stream }, receiver)
    }

    /// Ends every stream: the process ends.
    pub(crate) fn end(&self) {
        for stream in self.streams().values().flatten() {
            leave(stream, "the component is stopping; daprd reads again once it has been restarted");
        }
    }

    fn newest(&self, name: &str) -> Option<Arc<Stream>> {
        self.streams().get(name)?.iter().rev().find(|one| one.is_open()).cloned()
    }

    async fn hand_over(&self, event: &Event) -> Result<Answer, Undelivered> {
        let Some(stream) = self.newest(&event.binding) else {
            return Err(Undelivered::NotSubscribed {
                binding: event.binding.clone(),
                reason:
                    "daprd has no Read stream open for it: the application is not there yet, is unhealthy or does not \
                         read from this binding, or daprd has to be restarted because this process was"
                        .into(),
            });
        };
        let gone = || Undelivered::Unreachable("daprd has ended the stream before it acknowledged the message".into());
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let message = self.message(event, id)?;
        let mut expected = stream.expect(id).ok_or_else(gone)?;
        let mut is_sent = false;
        let exchange = async {
            tokio::select! {
                () = stream.ended.cancelled() => return None,
                sent = stream.events.send(Ok(message)) => sent.ok()?,
            }
            is_sent = true;
            tracing::debug!(binding = event.binding, msg_id = event.logged_id(), message_id = id, "sent to daprd");
            tokio::select! {
                acknowledgement = &mut expected.acknowledgement => acknowledgement.ok(),
                // Nobody reads what is left, so that nobody acknowledges it.
                () = stream.events.closed() => expected.acknowledgement.try_recv().ok(),
            }
        };
        match tokio::time::timeout(self.0.timeout, exchange).await {
            Ok(Some(acknowledgement)) => outcome(acknowledgement, event),
            Ok(None) => Err(gone()),
            Err(_) => {
                let what = if is_sent { "acknowledged" } else { "taken" };
                Err(Undelivered::Unreachable(format!(
                    "daprd has not {what} the message within {:?}; let the application answer sooner, or raise --app-timeout",
                    self.0.timeout
                )))
            }
        }
    }

    /// An event as daprd takes it. It makes headers of the metadata for an application with HTTP, so that they are
    /// written as for one without daprd.
    fn message(&self, event: &Event, id: u64) -> Result<ReadResponse, Undelivered> {
        let headers::Headers { map, left_out } = headers::from_metadata(&event.metadata);
        for name in left_out {
            tracing::debug!(binding = event.binding, header = %name, "left out: too long for a header");
        }
        let trace = headers::from_trace(&event.trace, || None);
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let items = map.iter().chain(&trace).map(|(name, value)| (name.as_str().to_owned(), text(value)));
        let metadata: BTreeMap<String, String> = items.collect();
        let message = ReadResponse {
            data: event.data.to_vec(),
            metadata,
            content_type: "application/json".into(),
            message_id: id.to_string(),
        };
        if message.encoded_len() > MAX_MESSAGE {
            return Err(Undelivered::Failed(format!(
                "it is longer than the {} MiB that daprd takes from a component; send less",
                MAX_MESSAGE >> 20
            )));
        }
        Ok(message)
    }
}

/// Ends a stream, and says why if there is room for it.
fn leave(stream: &Stream, why: &str) {
    let _ = stream.events.try_send(Err(Status::unavailable(why)));
    stream.end();
}

/// What an acknowledgement says.
fn outcome(acknowledgement: ReadRequest, event: &Event) -> Result<Answer, Undelivered> {
    let ReadRequest { response_data, response_error, .. } = acknowledgement;
    match response_error {
        Some(error) => Err(refusal(&error.message, event)),
        None if response_data.len() > MAX_ANSWER => Err(Undelivered::Unreachable(format!(
            "the application's answer is longer than {} MiB; let it answer with less",
            MAX_ANSWER >> 20
        ))),
        None => Ok(Some(response_data).filter(|data| !data.is_empty()).map(Into::into)),
    }
}

/// What daprd says of an application that has not taken an event. It tells the status, which says whether trying again
/// makes sense.
fn refusal(text: &str, event: &Event) -> Undelivered {
    let fit = |text: &str| delivery::refusal(text.as_bytes(), &event.data, None);
    if text == UNHEALTHY {
        return Undelivered::Unhealthy;
    }
    let refused = || {
        let (status, body) = text.strip_prefix(REFUSED)?.split_once(" body: ")?;
        let status = status.parse().ok().filter(|status| (100..=999).contains(status))?;
        Some(Undelivered::Refused { status, body: fit(body), retry_after: None })
    };
    let status = || {
        let (said, message) = text.strip_prefix(STATUS)?.split_once(" desc = ")?;
        let code = (1..=16).find(|&code| grpc::name(code) == said)?;
        Some(Undelivered::Status { code, message: fit(message), retry_after: None })
    };
    refused().or_else(status).unwrap_or_else(|| Undelivered::Failed(fit(text)))
}

impl Application for DaprApp {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(self.hand_over(event))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::event::Scope;
    use crate::quiet::log;

    type Events = mpsc::Receiver<Result<ReadResponse, Status>>;

    const LIMIT: Duration = Duration::from_secs(60);

    fn event(data: &str) -> Event {
        let metadata = vec![("msgId".to_owned(), "m1".to_owned()), ("senderNick".into(), "张三\n".into())];
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = vec![("traceparent".to_owned(), traceparent.to_owned())];
        Event { binding: "team".into(), data: Bytes::copy_from_slice(data.as_bytes()), metadata, trace }
    }

    fn deliver(app: &DaprApp, data: &str) -> JoinHandle<Result<Answer, Undelivered>> {
        let (app, event) = (app.clone(), event(data));
        tokio::spawn(async move { app.deliver(&event).await })
    }

    /// Not for ever: twice as long as a delivery may take.
    async fn received(events: &mut Events) -> Result<ReadResponse, Status> {
        tokio::time::timeout(2 * LIMIT, events.recv()).await.expect("something in time").unwrap()
    }

    async fn next(events: &mut Events) -> ReadResponse {
        received(events).await.unwrap()
    }

    fn answer(event: &ReadResponse, data: &str) -> ReadRequest {
        ReadRequest { response_data: data.into(), message_id: event.message_id.clone(), response_error: None }
    }

    fn error(message: &str) -> ReadRequest {
        let response_error = Some(dingtalk_dapr::components::AckResponseError { message: message.into() });
        ReadRequest { response_data: Vec::new(), message_id: "1".into(), response_error }
    }

    #[tokio::test]
    async fn an_event_goes_down_with_its_metadata_as_headers_and_the_answer_comes_back() {
        let app = DaprApp::new(LIMIT);
        let (reader, mut events) = app.open("team");
        let delivery = deliver(&app, "hello world");
        let sent = next(&mut events).await;
        assert_eq!((sent.data.as_slice(), sent.content_type.as_str()), (&b"hello world"[..], "application/json"));
        let metadata = |name: &str| sent.metadata.get(name).map(String::as_str);
        assert_eq!((metadata("msgid"), metadata("sendernick")), (Some("m1"), Some("%E5%BC%A0%E4%B8%89%0A")));
        assert_eq!(metadata("traceparent"), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        reader.acknowledge(answer(&sent, "world hello"));
        assert_eq!(delivery.await.unwrap().unwrap().unwrap(), "world hello");
    }

    #[tokio::test]
    async fn acknowledgements_find_their_events_in_any_order() {
        let app = DaprApp::new(LIMIT);
        let (reader, mut events) = app.open("team");
        let deliveries: Vec<_> = (0..100).map(|number| deliver(&app, &number.to_string())).collect();
        let mut sent = Vec::new();
        for _ in 0..100 {
            sent.push(next(&mut events).await);
        }
        for event in sent.iter().rev() {
            reader.acknowledge(answer(event, &format!("to {}", String::from_utf8_lossy(&event.data))));
        }
        for (number, delivery) in deliveries.into_iter().enumerate() {
            assert_eq!(delivery.await.unwrap().unwrap().unwrap(), format!("to {number}"));
        }
        let mut ids: Vec<_> = sent.into_iter().map(|event| event.message_id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 100);
    }

    #[tokio::test]
    async fn the_newest_stream_has_the_events_and_older_ones_keep_their_acknowledgements() {
        let app = DaprApp::new(LIMIT);
        let (old, mut old_events) = app.open("team");
        let first = deliver(&app, "1");
        let to_old = next(&mut old_events).await;
        let (new, mut new_events) = app.open("team");
        let second = deliver(&app, "2");
        let to_new = next(&mut new_events).await;
        // On the other stream, each is unknown.
        new.acknowledge(answer(&to_old, "wrong"));
        old.acknowledge(answer(&to_old, "from the old one"));
        new.acknowledge(answer(&to_new, ""));
        assert_eq!(first.await.unwrap().unwrap().unwrap(), "from the old one");
        assert_eq!(second.await.unwrap(), Ok(None));
        drop((new, new_events));
        let third = deliver(&app, "3");
        let to_old = next(&mut old_events).await;
        old.acknowledge(answer(&to_old, ""));
        assert_eq!(third.await.unwrap(), Ok(None), "the old one is the newest again");
    }

    #[tokio::test]
    async fn without_a_stream_nobody_reads_and_another_names_stream_is_none() {
        let app = DaprApp::new(LIMIT);
        let (_reader, _events) = app.open("other");
        let refused = deliver(&app, "1").await.unwrap().unwrap_err();
        assert!(
            matches!(&refused, Undelivered::NotSubscribed { reason, .. } if reason.contains("no Read stream open"))
        );
        assert!(!refused.is_final());
    }

    #[tokio::test]
    async fn a_stream_that_breaks_ends_what_it_has_not_acknowledged() {
        let app = DaprApp::new(LIMIT);
        let (reader, mut events) = app.open("team");
        let delivery = deliver(&app, "1");
        next(&mut events).await;
        drop((reader, events));
        let failed = delivery.await.unwrap().unwrap_err();
        assert!(failed.to_string().contains("daprd has ended the stream before it acknowledged"), "{failed}");
        assert_eq!((failed.is_final(), failed.scope()), (false, Scope::Binding));
        assert!(app.streams().is_empty());
    }

    #[tokio::test]
    async fn who_reads_no_more_is_noticed_without_an_acknowledgement() {
        let app = DaprApp::new(LIMIT);
        let (_reader, mut events) = app.open("team");
        let delivery = deliver(&app, "1");
        next(&mut events).await;
        drop(events);
        assert!(delivery.await.unwrap().unwrap_err().to_string().contains("daprd has ended the stream"));
        assert!(matches!(deliver(&app, "2").await.unwrap(), Err(Undelivered::NotSubscribed { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_or_not_acknowledged_in_time_is_given_up_and_leaves_nothing() {
        let app = DaprApp::new(LIMIT);
        let (reader, mut events) = app.open("team");
        let deliveries: Vec<_> = (0..QUEUE + 1).map(|number| deliver(&app, &number.to_string())).collect();
        let mut said = Vec::new();
        for delivery in deliveries {
            said.push(delivery.await.unwrap().unwrap_err().to_string());
        }
        let count =
            |what: &str| said.iter().filter(|text| text.contains(&format!("daprd has not {what} the message"))).count();
        assert_eq!((count("acknowledged"), count("taken")), (QUEUE, 1), "{said:?}");
        assert!(said[0].contains("within 60s") && said[0].contains("--app-timeout"), "{}", said[0]);
        assert!(reader.stream.pending().as_ref().unwrap().is_empty());
        // Too late.
        let first = next(&mut events).await;
        reader.acknowledge(answer(&first, "late"));
        let cancelled = deliver(&app, "cancelled");
        tokio::task::yield_now().await;
        cancelled.abort();
        assert!(cancelled.await.is_err());
        assert!(reader.stream.pending().as_ref().unwrap().is_empty());
    }

    #[test]
    fn what_daprd_says_of_the_application_is_told_apart() {
        let said = |text: &str| outcome(error(text), &event("{}")).unwrap_err();
        let refused = said("fails to send binding event to http app channel, status code: 422 body: no such thing");
        assert_eq!(refused, Undelivered::Refused { status: 422, body: "no such thing".into(), retry_after: None });
        assert!(refused.is_final());
        let text = "fails to send binding event to http app channel, status code: 503 body: ";
        assert_eq!((said(text).is_final(), said(text).to_string().as_str()), (false, text));
        assert_eq!(said("app is not in a healthy state"), Undelivered::Unhealthy);
        let status = said("error invoking app: rpc error: code = InvalidArgument desc = no: such desc = thing");
        let message = "no: such desc = thing".to_owned();
        assert_eq!(status, Undelivered::Status { code: 3, message, retry_after: None });
        assert!(status.is_final());
        let text = "error invoking app: rpc error: code = Unavailable desc = connection refused";
        assert_eq!(
            (said(text).scope(), said(text).to_string().as_str()),
            (Scope::Application { retry_after: None }, text)
        );
        for text in [
            "error invoking app: rpc error: code = OK desc = ",
            "error invoking app: rpc error: code = Wrong desc = x",
            "error invoking app: rpc error: code = Unknown",
            "",
            "fails to send binding event to http app channel, status code: 4x2 body: ",
            "fails to send binding event to http app channel, status code: 1 body: ",
        ] {
            assert_eq!(said(text), Undelivered::Failed(text.into()), "{text}");
        }
    }

    #[test]
    fn an_error_has_an_end_and_shows_no_session() {
        let event = event(r#"{"sessionWebhook":"https://oapi.dingtalk.com/robot/sendBySession?session=S3CR3TS3CR3T"}"#);
        for start in ["", "fails to send binding event to http app channel, status code: 500 body: "] {
            let text = format!("{start}session=S3CR3TS3CR3T {}", "x".repeat(100_000));
            let said = outcome(error(&text), &event).unwrap_err().to_string();
            assert!(said.len() < 1_000 && !said.contains("S3CR3T") && said.contains("[redacted]"), "{said}");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_either_way_is_told_and_the_stream_goes_on() {
        let app = DaprApp::new(LIMIT);
        let (reader, mut events) = app.open("team");
        let failed = deliver(&app, &"x".repeat(4 << 20)).await.unwrap().unwrap_err();
        assert!(failed.to_string().contains("longer than the 4 MiB that daprd takes"), "{failed}");
        for (length, is_taken) in [(MAX_ANSWER, true), (MAX_ANSWER + 1, false)] {
            let delivery = deliver(&app, &"x".repeat((4 << 20) - 4_096));
            let sent = next(&mut events).await;
            reader.acknowledge(answer(&sent, &"y".repeat(length)));
            assert_eq!(delivery.await.unwrap().is_ok(), is_taken, "{length}");
        }
    }

    #[test]
    fn acknowledgements_of_nothing_cost_nothing_and_are_logged_once() {
        let app = DaprApp::new(LIMIT);
        let (reader, _events) = app.open("team");
        let (lines, _guard) = log();
        for id in 0..400_000 {
            reader.acknowledge(ReadRequest { message_id: format!("{id}"), ..ReadRequest::default() });
        }
        for id in ["", "-1", "0x1", "99999999999999999999999", " 1"] {
            reader.acknowledge(ReadRequest { message_id: id.into(), ..ReadRequest::default() });
        }
        assert!(reader.stream.pending().as_ref().unwrap().is_empty());
        // Once in 10 seconds, on a machine that takes its time.
        assert!((1..10).contains(&lines.count("was not waited for")), "{}", lines.text());
    }

    #[tokio::test]
    async fn the_ninth_stream_ends_the_oldest_and_says_so() {
        let app = DaprApp::new(LIMIT);
        let mut streams: Vec<_> = (0..=MAX_STREAMS).map(|_| app.open("team")).collect();
        let (oldest, mut events) = streams.remove(0);
        oldest.ended().await;
        let why = received(&mut events).await.unwrap_err();
        assert!(why.message().contains("8 newer streams"), "{why:?}");
        assert_eq!(app.streams().get("team").unwrap().len(), MAX_STREAMS);
    }

    #[tokio::test]
    async fn at_the_end_every_stream_is_told_why() {
        let app = DaprApp::new(LIMIT);
        let (reader, mut events) = app.open("team");
        let delivery = deliver(&app, "1");
        next(&mut events).await;
        app.end();
        reader.ended().await;
        assert!(received(&mut events).await.unwrap_err().message().contains("is stopping"));
        assert!(delivery.await.unwrap().is_err());
    }
}
