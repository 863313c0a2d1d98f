//! The application as a component of world `handler-app`: a fresh instance for each message, with limits on everything
//! that it can use, and no way out but to the hosts that a flag names.

mod contract;
mod load;
mod output;
mod store;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use dingtalk_api::delivery::{MAX_ANSWER, sessions};
use dingtalk_binding::endpoint::Origin;
use dingtalk_binding::secret::{Secret, redact};
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use self::contract::{HandlerApp, HandlerAppPre, HandlerError};
pub use self::load::LoadError;
use self::load::Reason;
use self::store::{FUEL, Limits, State};
use crate::bindings::{Binding, Bindings};
use crate::egress::{Egress, Policy, Proxies};
use crate::event::{Answer, Application, BoxFuture, Event, Undelivered};
use crate::quiet::Quiet;
use crate::sandbox::{Overload, Rule, Share, Slots};

/// Messages that are handled at once: as many as the inbox delivers.
const AT_ONCE: Rule = Rule { all: 64, each: 16 };

/// An application as a component, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentConfig {
    /// The component.
    pub file: PathBuf,
    /// For one message, answer included; and before that for a slot.
    pub timeout: Duration,
    /// Bytes of memory for one message.
    pub memory: usize,
    /// Whom it may send requests to.
    pub allowed_hosts: Vec<Origin>,
}

/// An application that runs beside the bindings.
pub struct ComponentApp {
    /// The file, as it was named.
    name: String,
    handler: HandlerAppPre<State>,
    /// By name.
    bindings: RwLock<BTreeMap<String, Reads>>,
    limits: Limits,
    timeout: Duration,
    egress: Egress,
    slots: Slots,
    /// Lines of which a message each could cause one.
    quiet: Quiet,
}

/// A binding that receives.
#[derive(Clone)]
struct Reads {
    /// What people say, and messages that were given up.
    messages: bool,
    dead_letters: bool,
    /// The property.
    id: String,
    share: Share,
}

impl ComponentApp {
    /// Compiles the component, looks whether it fits, and instantiates it once.
    pub async fn load(
        config: ComponentConfig,
        bindings: &Bindings,
        proxies: &Proxies,
        policy: &Policy,
    ) -> Result<Self, LoadError> {
        let file = config.file.display().to_string();
        let failed = |reason| LoadError { file: file.clone(), reason };
        if config.timeout.is_zero() {
            return Err(failed(Reason::NoTime("--app-timeout")));
        }
        let egress = Egress::to_hosts("--handler", &config.allowed_hosts, proxies, policy);
        let egress = egress.map_err(|reason| failed(Reason::Hosts(reason)))?;
        let path = config.file.clone();
        let handler = tokio::task::spawn_blocking(move || load::compile(&path)).await;
        let handler = handler.unwrap_or_else(|_| Err(Reason::Engine("compiling broke off".into()))).map_err(failed)?;
        let app = Self {
            name: file.clone(),
            handler,
            bindings: RwLock::default(),
            limits: Limits { memory: config.memory, fuel: FUEL },
            timeout: config.timeout,
            egress,
            slots: Slots::new(AT_ONCE),
            quiet: Quiet::default(),
        };
        app.start_once(&bindings.share()).await.map_err(|reason| failed(Reason::Start(reason)))?;
        for binding in bindings.all() {
            app.subscribe(&binding);
        }
        Ok(app)
    }

    /// From now on the application gets the events of this binding.
    pub(crate) fn subscribe(&self, binding: &Binding) {
        let mut bindings = self.bindings.write().unwrap_or_else(PoisonError::into_inner);
        let (messages, dead_letters) = (binding.direction().reads(), binding.subscription().takes_dead_letters());
        if messages || dead_letters {
            let reads = Reads { messages, dead_letters, id: binding.id().to_owned(), share: binding.share().clone() };
            bindings.insert(binding.name().to_owned(), reads);
        } else {
            bindings.remove(binding.name());
        }
    }

    /// The application gets no more events of this binding.
    pub(crate) fn unsubscribe(&self, binding: &str) {
        self.bindings.write().unwrap_or_else(PoisonError::into_inner).remove(binding);
    }

    /// Whether an instance comes about at all: before the first message, and with the types of its functions checked.
    async fn start_once(&self, share: &Share) -> Result<(), String> {
        let mut store = self.store(share, "", [].into()).map_err(|error| error.to_string())?;
        let started = {
            let started = pin!(self.handler.instantiate_async(&mut store));
            tokio::time::timeout(self.timeout, share.run(started)).await
        };
        match started {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if self.why(&error, &store).is_none() => {
                let reason = redact(&format!("{error:#}"), []);
                Err(format!("its functions are not those of wit/handler.wit, or it reached a limit: {reason}"))
            }
            Ok(Err(error)) => Err(self.explain(&error, &store)),
            Err(_) => Err(format!("it has not started within {:?}", self.timeout)),
        }
    }

    fn store(&self, share: &Share, binding: &str, secrets: Arc<[Secret]>) -> wasmtime::Result<Store<State>> {
        let engine = self.handler.engine();
        store::store(engine, &self.limits, self.egress.clone(), share.clone(), binding, secrets)
    }

    async fn handle(&self, event: &Event) -> Result<Answer, Undelivered> {
        let reads = self.bindings.read().unwrap_or_else(PoisonError::into_inner).get(&event.binding).cloned();
        let is_asked_for = |reads: &&Reads| if event.is_dead_letter() { reads.dead_letters } else { reads.messages };
        let Some(Reads { id, share, .. }) = reads.as_ref().filter(is_asked_for) else {
            return Err(self.not_subscribed(event, "no such binding was loaded"));
        };
        let slot = self.slots.take(share.id(), self.timeout).await;
        let _slot = slot.map_err(|overload| self.overloaded(overload))?;
        let stopped = |reason: String| Undelivered::Unreachable(format!("--handler {}: {reason}", self.name));
        let secrets: Arc<[Secret]> = sessions(&event.data).into();
        let store = self.store(share, &event.binding, Arc::clone(&secrets));
        let mut store = store.map_err(|error| stopped(format!("no store ({error})")))?;
        // What the caller of "get" has, or the callback had, of a trace.
        let metadata = event.metadata.iter().chain(&event.trace).cloned().collect();
        let wit = contract::Event { id: id.clone(), data: event.data.to_vec(), metadata };
        let ended = {
            let handling = pin!(async {
                let app: HandlerApp = self.handler.instantiate_async(&mut store).await?;
                app.dingtalk_binding_handler().call_handle(&mut store, &wit).await
            });
            tokio::time::timeout(self.timeout, share.run(handling)).await
        };
        match ended {
            Ok(Ok(Ok(Some(answer)))) if answer.len() > MAX_ANSWER => {
                Err(stopped(format!("its answer is longer than {} MiB; let it answer with less", MAX_ANSWER >> 20)))
            }
            Ok(Ok(Ok(answer))) => Ok(answer.filter(|answer| !answer.is_empty()).map(Bytes::from)),
            Ok(Ok(Err(HandlerError::Failed(reason)))) => {
                Err(Undelivered::Failed(redact(&reason, secrets.iter().map(Secret::expose))))
            }
            Ok(Ok(Err(HandlerError::NotReading))) => Err(self.not_subscribed(event, "it says so")),
            Ok(Ok(Err(HandlerError::Reused))) => Err(Undelivered::Reused),
            Ok(Err(error)) => {
                let reason = self.explain(&error, &store);
                if let Some(more) = self.quiet.count(&format!("{} {reason}", event.binding)) {
                    // The trap's own text is wasmtime's: function names and offsets, nothing of the message.
                    let (binding, trap) = (&event.binding, redact(&error.root_cause().to_string(), []));
                    tracing::error!(handler = self.name, binding, reason, trap, more, "the handler was stopped");
                }
                Err(stopped(reason))
            }
            Err(_) => Err(stopped(format!(
                "it has not answered within {:?}; let it answer sooner, or raise --app-timeout",
                self.timeout
            ))),
        }
    }

    fn not_subscribed(&self, event: &Event, reason: &str) -> Undelivered {
        let reason = format!("--handler {}: {reason}", self.name);
        Undelivered::NotSubscribed { binding: event.binding.clone(), reason }
    }

    fn overloaded(&self, overload: Overload) -> Undelivered {
        let limit = match overload {
            Overload::Binding { .. } => AT_ONCE.each,
            // Slots have no breakers.
            Overload::Host { .. } | Overload::Breaker(_) => AT_ONCE.all,
        };
        let reason = format!(
            "--handler {}: {overload} ({:?}); it handles {limit} messages at once at most, let it answer sooner",
            self.name, self.timeout
        );
        match overload {
            Overload::Binding { .. } => Undelivered::Unreachable(reason),
            // Nobody's message would fare better.
            Overload::Host { .. } | Overload::Breaker(_) => Undelivered::NoConnection(reason),
        }
    }

    /// What of a trap helps whoever wrote the application.
    fn explain(&self, error: &wasmtime::Error, store: &Store<State>) -> String {
        self.why(error, store).unwrap_or_else(|| {
            let answer = MAX_ANSWER >> 20;
            format!("it reached a limit (handles, or 2 MiB handed over at once; an answer may have {answer} MiB)")
        })
    }

    fn why(&self, error: &wasmtime::Error, store: &Store<State>) -> Option<String> {
        if store.data().memory.is_reached {
            let limit = size(self.limits.memory);
            return Some(format!("it wanted more than {limit} of memory; let it need less, or raise --handler-memory"));
        }
        if let Some(I32Exit(status)) = error.downcast_ref() {
            return Some(format!("it ended itself with status {status}; let it return a failure"));
        }
        Some(match error.downcast_ref::<Trap>()? {
            Trap::OutOfFuel => {
                format!("it used more than {} instructions, or does not end; let it compute less", self.limits.fuel)
            }
            Trap::StackOverflow => "it used more stack than one message may; let it recurse less".into(),
            Trap::UnreachableCodeReached => {
                "it broke off (a panic, an exception that nobody caught, or no memory); let it return a failure".into()
            }
            other => format!("it broke off ({other})"),
        })
    }
}

/// A size that an operator may have written in any of these.
fn size(bytes: usize) -> String {
    match bytes.trailing_zeros() {
        20.. => format!("{} MiB", bytes >> 20),
        10.. => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

impl Application for ComponentApp {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        Box::pin(self.handle(event))
    }
}
