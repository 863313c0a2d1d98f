//! Events over HTTP, as daprd delivers them.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use dingtalk_api::delivery::{self, MAX_ANSWER, headers, target};
use dingtalk_api::limits::APP_TIMEOUT;
use dingtalk_api::unread::Unread;
use dingtalk_binding::secret::{Secret, redact};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::health::{Checks, HealthConfig, Status};
use super::retry_after;
use super::subscription::{Subscriber, Subscription};
use crate::event::{Answer, Application, BoxFuture, Event, Undelivered};

/// Below the 5 s after which Node's and uvicorn's servers close an idle connection: an event that meets the closing
/// server has to be delivered again, and the application may see it twice.
const IDLE: Duration = Duration::from_secs(4);

/// The application is on this machine or next to it. Longer, a wrong address would look like a slow application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between questions to an application that does not listen yet: it is usually started at the same time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest of these pauses, each of which is twice the one before.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Where the application is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// IP address, with or without brackets, or host name.
    pub address: String,
    /// The application's port.
    pub port: u16,
    /// Sent as `dapr-api-token`, so that the application can tell this host from others.
    pub token: Option<Secret>,
    /// For the question whether the application reads from a binding.
    pub probe_timeout: Duration,
    /// For one delivery, the answer included.
    pub timeout: Duration,
    /// The health check; without one, the application counts as healthy.
    pub health: Option<HealthConfig>,
}

impl HttpConfig {
    /// daprd's defaults, with a minute for a delivery.
    pub fn new(port: u16) -> Self {
        Self {
            address: "127.0.0.1".into(),
            port,
            token: None,
            probe_timeout: Duration::from_secs(3),
            timeout: APP_TIMEOUT,
            health: None,
        }
    }
}

/// A configuration that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The address is neither an IP address nor a host name.
    #[error("the application's address {0:?} is neither an IP address nor a host name; correct --app-channel-address")]
    Address(String),
    /// The token cannot be a header's value. It is not shown.
    #[error(
        "the application's token has characters that no HTTP header can carry; correct --app-token or APP_API_TOKEN"
    )]
    Token,
    /// A time limit of zero.
    #[error("{0} must be longer than 0")]
    NoTime(&'static str),
    /// The health check would overlap with the next one.
    #[error(
        "one health check may take {timeout:?}, which is longer than the {interval:?} from one to the next; lower \
         --app-health-probe-timeout or raise --app-health-probe-interval"
    )]
    HealthTimeout {
        /// For one check.
        timeout: Duration,
        /// From one check to the next.
        interval: Duration,
    },
    /// No failure at all would already be one too many.
    #[error("--app-health-threshold must be at least 1")]
    HealthThreshold,
}

/// Gives the time; replaced in tests, so that nothing waits for an answer to become old.
pub(super) type Now = Arc<dyn Fn() -> Instant + Send + Sync>;

/// An application that is reached over HTTP.
pub struct HttpApp {
    inner: Arc<Inner>,
    /// First questions, by binding; end with the subscription, or with this value.
    pub(super) asking: Mutex<BTreeMap<String, AbortOnDropHandle<()>>>,
    /// Ends with this value.
    _health: Option<AbortOnDropHandle<()>>,
}

struct Inner {
    client: Client<HttpConnector, Full<Bytes>>,
    authority: Authority,
    port: u16,
    token: Option<(HeaderValue, Secret)>,
    probe_timeout: Duration,
    timeout: Duration,
    subscribers: RwLock<BTreeMap<String, Arc<Subscriber>>>,
    health: watch::Sender<Status>,
    now: Now,
}

impl HttpApp {
    /// Begins to check and to ask. Must be called within a tokio runtime.
    pub fn start(config: HttpConfig, subscriptions: Vec<Subscription>) -> Result<Self, ConfigError> {
        Self::start_at(config, subscriptions, Arc::new(Instant::now))
    }

    pub(super) fn start_at(
        config: HttpConfig,
        subscriptions: Vec<Subscription>,
        now: Now,
    ) -> Result<Self, ConfigError> {
        let HttpConfig { address, port, token, probe_timeout, timeout, health } = config;
        let authority = authority(&address, port).ok_or(ConfigError::Address(address))?;
        let token = token.filter(|token| !token.expose().is_empty()).map(sensitive).transpose()?;
        check_times(probe_timeout, timeout, health.as_ref())?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            // As Go writes them: some applications compare header names so.
            .http1_title_case_headers(true)
            .build(connector);
        let status = if health.is_some() { Status::Starting } else { Status::Healthy };
        let (subscribers, health_status) = (RwLock::default(), watch::Sender::new(status));
        let inner =
            Inner { client, authority, port, token, probe_timeout, timeout, subscribers, health: health_status, now };
        let inner = Arc::new(inner);
        let check = |config| AbortOnDropHandle::new(tokio::spawn(Arc::clone(&inner).check_health(config)));
        let app = Self { _health: health.map(check), inner, asking: Mutex::default() };
        for subscription in subscriptions {
            app.subscribe(subscription);
        }
        Ok(app)
    }

    /// From now on the application is asked whether it reads from this binding, and gets its events. Must be called
    /// within a tokio runtime.
    pub fn subscribe(&self, subscription: Subscription) {
        let binding = subscription.binding.clone();
        let probe = subscription.direction.probe();
        let mut subscribers = self.inner.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.insert(binding.clone(), Arc::new(Subscriber::new(subscription)));
        drop(subscribers);
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asks for the one before is ended with it.
        asking.remove(&binding);
        if probe {
            let ask = Arc::clone(&self.inner).ask_early(binding.clone());
            asking.insert(binding, AbortOnDropHandle::new(tokio::spawn(ask)));
        }
    }

    /// The application is no longer asked about this binding.
    pub fn unsubscribe(&self, binding: &str) {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(binding);
        self.inner.subscribers.write().unwrap_or_else(PoisonError::into_inner).remove(binding);
    }

    /// Whether the application is healthy and reads from `binding`. Asks it if need be.
    #[cfg(test)]
    pub(super) async fn reads(&self, binding: &str) -> Result<(), Undelivered> {
        self.inner.subscriber(binding).await.map(|_| ())
    }
}

impl Application for HttpApp {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(self.inner.deliver(event))
    }
}

impl Inner {
    async fn deliver(&self, event: &Event) -> Result<Answer, Undelivered> {
        let subscriber = self.subscriber(&event.binding).await?;
        let request = self.event_request(subscriber.subscription.route(), event);
        let (mut status, mut retry_after) = (None, None);
        let exchange = async {
            let response = self.client.request(request).await?;
            status = Some(response.status());
            let value = response.headers().get(RETRY_AFTER);
            retry_after = value.and_then(|value| retry_after::parse(value.as_bytes(), SystemTime::now()));
            Ok::<_, ClientError>(read(response).await)
        };
        let outcome = timeout(self.timeout, exchange).await;
        // Whatever becomes of its body, an answer that says no is one.
        if let Some(status) = status.filter(|status| !status.is_success()) {
            let body = match outcome {
                Ok(Ok(Ok(body))) => {
                    let token = self.token.as_ref().map(|(_, token)| token);
                    delivery::refusal(&body, &event.data, token)
                }
                Ok(Ok(Err(why))) => delivery::not_whole(why),
                _ => delivery::not_whole(Unread::Incomplete),
            };
            return Err(Undelivered::Refused { status: status.as_u16(), body, retry_after });
        }
        let unreachable = |what: String| Err(Undelivered::Unreachable(what));
        match outcome {
            Ok(Ok(Ok(body))) => Ok(Some(body).filter(|body| !body.is_empty())),
            Ok(Ok(Err(Unread::TooLong))) => unreachable(delivery::too_long(&self.authority)),
            Ok(Ok(Err(_))) => unreachable(delivery::broken_off(&self.authority)),
            Ok(Err(error)) => {
                if error.is_connect() {
                    // Another one may come up at this address.
                    subscriber.forget();
                }
                Err(self.failure(&error))
            }
            Err(_) => unreachable(self.no_answer(self.timeout, "--app-timeout")),
        }
    }

    /// The subscriber of `binding`, if the application is healthy and reads from it.
    async fn subscriber(&self, binding: &str) -> Result<Arc<Subscriber>, Undelivered> {
        let known = self.subscribers.read().unwrap_or_else(PoisonError::into_inner).get(binding).cloned();
        let subscriber = known.ok_or_else(|| Undelivered::NotSubscribed {
            binding: binding.to_owned(),
            reason: "no such binding was loaded".to_owned(),
        })?;
        if !self.health.borrow().is_healthy() {
            return Err(Undelivered::Unhealthy);
        }
        subscriber.reads(|| (self.now)(), self.options(subscriber.subscription.route())).await?;
        Ok(subscriber)
    }

    /// daprd's question whether there is somebody at a route.
    async fn options(&self, route: &str) -> Result<u16, Undelivered> {
        let request = self.request(Method::OPTIONS, route, Bytes::new());
        self.status(request, self.probe_timeout, "--app-binding-options-timeout").await
    }

    /// The status alone. The body of an answer is not read: its connection is closed if there is more of it than
    /// came with the head.
    async fn status(&self, request: Request<Full<Bytes>>, limit: Duration, flag: &str) -> Result<u16, Undelivered> {
        match timeout(limit, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response.status().as_u16()),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => Err(Undelivered::Unreachable(self.no_answer(limit, flag))),
        }
    }

    fn event_request(&self, route: &str, event: &Event) -> Request<Full<Bytes>> {
        let headers::Headers { map, left_out } = headers::from_metadata(&event.metadata);
        for name in left_out {
            tracing::debug!(binding = event.binding, header = %name, "left out: too long for a header");
        }
        let mut request = self.request(Method::POST, route, event.data.clone());
        let headers = request.headers_mut();
        headers.extend(map);
        headers.extend(headers::from_trace(&event.trace, || Some(new_traceparent())));
        // hyper leaves it out for an empty body, and some servers answer such a POST with 411.
        headers.insert(CONTENT_LENGTH, event.data.len().into());
        request
    }

    fn request(&self, method: Method, route: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(route);
        let headers = request.headers_mut();
        // daprd's, whatever the data is.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((token, _)) = &self.token {
            headers.insert("dapr-api-token", token.clone());
        }
        request
    }

    fn uri(&self, route: &str) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        // `target` makes nothing else, see its property test.
        parts.path_and_query = Some(route.parse().unwrap_or_else(|_| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).unwrap_or_default()
    }

    fn no_answer(&self, limit: Duration, flag: &str) -> String {
        delivery::no_answer(&self.authority, limit, flag)
    }

    fn failure(&self, error: &ClientError) -> Undelivered {
        let reason = self.explain(error);
        if error.is_connect() { Undelivered::NoConnection(reason) } else { Undelivered::Unreachable(reason) }
    }

    fn redact(&self, text: &str) -> String {
        redact(text, self.token.iter().map(|(_, token)| token.expose()))
    }

    /// What an error of the client means, and what to do. The texts of other crates are shown only where they tell
    /// of names and addresses.
    fn explain(&self, error: &ClientError) -> String {
        let first: &(dyn StdError + 'static) = error;
        let chain = || std::iter::successors(Some(first), |cause: &&(dyn StdError + 'static)| (*cause).source());
        let kind = chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        let Self { authority, port, .. } = self;
        if error.is_connect() {
            return match kind {
                Some(io::ErrorKind::ConnectionRefused) => {
                    format!("{authority} refuses connections; is the application listening on --app-port {port}?")
                }
                Some(io::ErrorKind::TimedOut) => {
                    format!("connecting to {authority} took too long; correct --app-channel-address or --app-port")
                }
                _ => {
                    let reason = chain().last().map(ToString::to_string).unwrap_or_default();
                    let reason = self.redact(&reason);
                    format!("no connection to {authority} ({reason}); correct --app-channel-address or --app-port")
                }
            };
        }
        let mut hyper = chain().filter_map(|cause| cause.downcast_ref::<hyper::Error>());
        if hyper.any(hyper::Error::is_parse) {
            return format!(
                "the answer of {authority} is not HTTP/1.1; does --app-port {port} belong to the application?"
            );
        }
        delivery::closed(authority)
    }

    /// Asks until the application has answered, so that the log says early whether it reads; and again whenever it
    /// has become healthy.
    async fn ask_early(self: Arc<Self>, binding: String) {
        let mut health = self.health.subscribe();
        // Errors of `wait_for` would mean that the sender is gone, which is in `self`.
        while health.wait_for(|status| status.is_healthy()).await.is_ok() {
            let mut pause = FIRST_PAUSE;
            while let Err(Undelivered::NoConnection(reason) | Undelivered::Unreachable(reason)) =
                self.subscriber(&binding).await.map(|_| ())
            {
                if pause == FIRST_PAUSE {
                    tracing::info!(binding, reason, "waiting for the application");
                }
                tokio::time::sleep(pause).await;
                pause = LAST_PAUSE.min(pause * 2);
            }
            if health.wait_for(|status| !status.is_healthy()).await.is_err() {
                break;
            }
        }
    }

    async fn check_health(self: Arc<Self>, config: HealthConfig) {
        let path = target(&config.path);
        let mut checks = Checks::new(&config);
        loop {
            checks.due().await;
            let result = self.check(&path, config.timeout).await;
            if let Some(status) = checks.seen(&result) {
                // It may be another one when it is back.
                let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
                subscribers.values().for_each(|subscriber| subscriber.forget());
                drop(subscribers);
                self.health.send_replace(status);
            }
        }
    }

    async fn check(&self, path: &str, limit: Duration) -> Result<(), String> {
        let request = self.request(Method::GET, path, Bytes::new());
        match self.status(request, limit, "--app-health-probe-timeout").await {
            Ok(200..=299) => Ok(()),
            Ok(status) => Err(format!("GET {} gives {status}", path.split('?').next().unwrap_or_default())),
            Err(Undelivered::NoConnection(reason) | Undelivered::Unreachable(reason)) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A trace that begins here, not sampled. Never all zeros, which W3C forbids: the version digit of a random UUID is
/// within both ids.
fn new_traceparent() -> String {
    let trace = Uuid::new_v4().simple().to_string();
    let parent = Uuid::new_v4().simple().to_string();
    format!("00-{trace}-{}-00", parent.get(..16).unwrap_or_default())
}

/// A body, as far as it is wanted.
async fn read(response: Response<Incoming>) -> Result<Bytes, Unread> {
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Unread::Incomplete) };
        // Trailers are nothing to anybody.
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_ANSWER {
            return Err(Unread::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

fn authority(address: &str, port: u16) -> Option<Authority> {
    let address = address.trim();
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = match bare.unwrap_or(address).parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(address)) if bare.is_none() => address.to_string(),
        Ok(IpAddr::V4(_)) => return None,
        Err(_) => {
            let is_name = !address.is_empty()
                && address.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
            is_name.then(|| address.to_owned())?
        }
    };
    format!("{host}:{port}").parse().ok()
}

fn sensitive(token: Secret) -> Result<(HeaderValue, Secret), ConfigError> {
    let mut value = HeaderValue::try_from(token.expose()).map_err(|_| ConfigError::Token)?;
    value.set_sensitive(true);
    Ok((value, token))
}

fn check_times(probe: Duration, delivery: Duration, health: Option<&HealthConfig>) -> Result<(), ConfigError> {
    for (duration, flag) in [(probe, "--app-binding-options-timeout"), (delivery, "--app-timeout")] {
        if duration.is_zero() {
            return Err(ConfigError::NoTime(flag));
        }
    }
    let Some(&HealthConfig { interval, timeout, threshold, .. }) = health else { return Ok(()) };
    if interval.is_zero() {
        return Err(ConfigError::NoTime("--app-health-probe-interval"));
    }
    if timeout.is_zero() {
        return Err(ConfigError::NoTime("--app-health-probe-timeout"));
    }
    if timeout > interval {
        return Err(ConfigError::HealthTimeout { timeout, interval });
    }
    if threshold == 0 {
        return Err(ConfigError::HealthThreshold);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (address, expected) in [
            ("127.0.0.1", "127.0.0.1:6001"),
            ("::1", "[::1]:6001"),
            ("[::1]", "[::1]:6001"),
            (" app.local ", "app.local:6001"),
            ("my_app", "my_app:6001"),
        ] {
            assert_eq!(authority(address, 6001).map(|found| found.to_string()).as_deref(), Some(expected), "{address}");
        }
        for address in ["", "http://app", "app:80", "user@app", "a b", "app/x", "[app]", "[127.0.0.1]", "::1]"] {
            assert_eq!(authority(address, 6001), None, "{address}");
        }
    }

    #[test]
    fn a_trace_that_begins_here_is_one_of_its_own() {
        let text = new_traceparent();
        let parts: Vec<_> = text.split('-').collect();
        assert_eq!((parts.len(), parts[0], parts[1].len(), parts[2].len(), parts[3]), (4, "00", 32, 16, "00"));
        for id in &parts[1..3] {
            assert!(
                id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && id.bytes().any(|b| b != b'0'),
                "{id}"
            );
        }
        assert_ne!(new_traceparent(), text);
    }

    #[test]
    fn times_that_make_no_sense() {
        let second = Duration::from_secs(1);
        let health = |change: fn(&mut HealthConfig)| {
            let mut config = HealthConfig::default();
            change(&mut config);
            check_times(second, second, Some(&config)).map_err(|error| error.to_string())
        };
        assert_eq!(health(|_| ()), Ok(()));
        assert_eq!(health(|config| config.timeout = config.interval), Ok(()));
        for (change, flag) in [
            ((|config| config.timeout = config.interval * 2) as fn(&mut HealthConfig), "--app-health-probe-interval"),
            (|config| config.timeout = Duration::ZERO, "--app-health-probe-timeout"),
            (|config| config.interval = Duration::ZERO, "--app-health-probe-interval"),
            (|config| config.threshold = 0, "--app-health-threshold"),
        ] {
            assert!(health(change).unwrap_err().contains(flag), "{flag}");
        }
        assert_eq!(
            check_times(Duration::ZERO, second, None),
            Err(ConfigError::NoTime("--app-binding-options-timeout"))
        );
        assert_eq!(check_times(second, Duration::ZERO, None), Err(ConfigError::NoTime("--app-timeout")));
    }
}
