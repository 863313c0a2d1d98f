//! An application with a port: which bindings it reads from, and whether it is well. How it is asked, and how it gets its
//! events, is the business of `http` and `grpc`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dingtalk_api::delivery::target;
use dingtalk_api::limits::APP_TIMEOUT;
use dingtalk_binding::secret::Secret;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::grpc::Grpc;
use super::health::{Checks, HealthConfig, Status};
use super::http::Http;
use super::peer::Peer;
use super::subscription::{Subscriber, Subscription, Verdict};
use crate::event::{Answer, Application, BoxFuture, Event, Undelivered};
use crate::spans::said;

/// Between questions to an application that does not listen yet: it is usually started at the same time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest of these pauses, each of which is twice the one before.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// How the application is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// gRPC, without TLS.
    Grpc,
}

/// Where the application is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// How it is spoken to.
    pub protocol: Protocol,
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

impl RemoteConfig {
    /// daprd's defaults, with a minute for a delivery.
    pub fn new(port: u16) -> Self {
        Self {
            protocol: Protocol::Http,
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
    #[error("the application's token has characters that no header can carry; correct --app-token or APP_API_TOKEN")]
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

/// An application that is reached over the network.
pub struct RemoteApp {
    inner: Arc<Inner>,
    /// First questions, by binding; end with the subscription, or with this value.
    pub(super) asking: Mutex<BTreeMap<String, AbortOnDropHandle<()>>>,
    /// Ends with this value.
    _health: Option<AbortOnDropHandle<()>>,
}

struct Inner {
    way: Way,
    subscribers: RwLock<BTreeMap<String, Arc<Subscriber>>>,
    health: watch::Sender<Status>,
    now: Now,
}

enum Way {
    Http(Box<Http>),
    Grpc(Box<Grpc>),
}

impl Way {
    async fn deliver(&self, subscription: &Subscription, event: &Event) -> Result<Answer, Undelivered> {
        match self {
            Self::Http(way) => way.deliver(subscription, event).await,
            Self::Grpc(way) => way.deliver(event).await,
        }
    }

    /// daprd's question whether the application reads from a binding.
    async fn reads(&self, subscription: &Subscription) -> Result<Verdict, Undelivered> {
        match self {
            Self::Http(way) => way.reads(subscription).await,
            Self::Grpc(way) => way.reads(subscription).await,
        }
    }

    /// One health check; the error is why the application is not well.
    async fn check(&self, path: &str, limit: Duration) -> Result<(), String> {
        match self {
            Self::Http(way) => way.check(path, limit).await,
            Self::Grpc(way) => way.check(limit).await,
        }
    }
}

impl RemoteApp {
    /// Begins to check and to ask. Must be called within a tokio runtime.
    pub fn start(config: RemoteConfig, subscriptions: Vec<Subscription>) -> Result<Self, ConfigError> {
        Self::start_at(config, subscriptions, Arc::new(Instant::now))
    }

    pub(super) fn start_at(
        config: RemoteConfig,
        subscriptions: Vec<Subscription>,
        now: Now,
    ) -> Result<Self, ConfigError> {
        let RemoteConfig { protocol, address, port, token, probe_timeout, timeout, health } = config;
        let peer = Peer::new(address, port, token, probe_timeout, timeout)?;
        check_times(probe_timeout, timeout, health.as_ref())?;
        let way = match protocol {
            Protocol::Http => Way::Http(Box::new(Http::new(peer))),
            Protocol::Grpc => Way::Grpc(Box::new(Grpc::new(peer))),
        };
        let status = if health.is_some() { Status::Starting } else { Status::Healthy };
        let inner = Arc::new(Inner { way, subscribers: RwLock::default(), health: watch::Sender::new(status), now });
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
        let binding = subscription.binding.to_string();
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

    /// What a span says of the way.
    pub(super) fn way(&self) -> said::Way {
        match self.inner.way {
            Way::Http(_) => said::Way::Http,
            Way::Grpc(_) => said::Way::Grpc,
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

impl Application for RemoteApp {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(self.inner.deliver(event))
    }
}

impl Inner {
    async fn deliver(&self, event: &Event) -> Result<Answer, Undelivered> {
        let subscriber = self.known(&event.binding)?;
        if !subscriber.subscription.takes_unasked(event)? {
            self.ask(&subscriber).await?;
        }
        let answer = self.way.deliver(&subscriber.subscription, event).await;
        if matches!(answer, Err(Undelivered::NoConnection(_))) {
            // Another one may come up at this address.
            subscriber.forget();
        }
        answer
    }

    /// The subscriber of `binding`, if the application is healthy and reads from it.
    async fn subscriber(&self, binding: &str) -> Result<Arc<Subscriber>, Undelivered> {
        let subscriber = self.known(binding)?;
        self.ask(&subscriber).await?;
        Ok(subscriber)
    }

    /// The subscriber of `binding`, if the application is healthy.
    fn known(&self, binding: &str) -> Result<Arc<Subscriber>, Undelivered> {
        let known = self.subscribers.read().unwrap_or_else(PoisonError::into_inner).get(binding).cloned();
        let subscriber = known.ok_or_else(|| Undelivered::NotSubscribed {
            binding: binding.to_owned(),
            reason: "no such binding was loaded".to_owned(),
        })?;
        if !self.health.borrow().is_healthy() {
            return Err(Undelivered::Unhealthy);
        }
        Ok(subscriber)
    }

    async fn ask(&self, subscriber: &Subscriber) -> Result<(), Undelivered> {
        subscriber.reads(|| (self.now)(), self.way.reads(&subscriber.subscription)).await
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
            let result = self.way.check(&path, config.timeout).await;
            if let Some(status) = checks.seen(&result) {
                // It may be another one when it is back.
                let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
                subscribers.values().for_each(|subscriber| subscriber.forget());
                drop(subscribers);
                self.health.send_replace(status);
            }
        }
    }
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
