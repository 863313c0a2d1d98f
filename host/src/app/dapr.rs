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

/// What daprd says of an application that has not taken an event. Of an answer over HTTP it tells the status, which says
/// whether trying again makes sense.
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
    refused().unwrap_or_else(|| Undelivered::Failed(fit(text)))
}

impl Application for DaprApp {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(self.hand_over(event))
    }
}
