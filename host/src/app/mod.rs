//! The ways to the application: over HTTP or gRPC, as daprd takes events there, into a component, through daprd itself, or
//! onto standard output.
//!
//! What daprd does is kept where an application can see it: the request, the question whether it reads from a
//! binding, the health check. Two things differ, because they lose events: daprd asks once and believes the answer
//! until it is restarted, and it never asks again when nobody was listening yet.

mod component;
#[cfg(unix)]
mod dapr;
mod grpc;
mod health;
mod http;
mod peer;
mod print;
mod remote;
pub(crate) mod retry_after;
mod subscription;

#[cfg(test)]
mod tests;

pub use self::component::{ComponentApp, ComponentConfig, LoadError};
#[cfg(unix)]
pub use self::dapr::DaprApp;
pub use self::health::HealthConfig;
pub use self::print::PrintApp;
pub use self::remote::{ConfigError, Protocol, RemoteApp, RemoteConfig};
pub use self::subscription::{Direction, Subscription};

use crate::bindings::Binding;
use crate::event::{Answer, Application, BoxFuture, Event, Undelivered};
use crate::spans::said::Way;

/// Where events go.
pub enum App {
    /// To an application with a port.
    Remote(RemoteApp),
    /// To an application that is a component.
    Component(ComponentApp),
    /// To daprd, which reads events.
    #[cfg(unix)]
    Dapr(DaprApp),
    /// To standard output.
    Print(PrintApp),
}

impl App {
    /// There is a binding now, or another one of its name. Must be called within a tokio runtime.
    pub(crate) fn subscribe(&self, binding: &Binding) {
        match self {
            Self::Remote(app) => app.subscribe(binding.subscription().clone()),
            Self::Component(app) => app.subscribe(binding),
            #[cfg(unix)]
            Self::Dapr(_) => {}
            Self::Print(_) => {}
        }
    }

    /// There is no binding of this name any more.
    pub(crate) fn unsubscribe(&self, binding: &str) {
        match self {
            Self::Remote(app) => app.unsubscribe(binding),
            Self::Component(app) => app.unsubscribe(binding),
            #[cfg(unix)]
            Self::Dapr(_) => {}
            Self::Print(_) => {}
        }
    }
}

impl App {
    /// What a span says of it.
    pub(crate) fn way(&self) -> Way {
        match self {
            Self::Remote(app) => app.way(),
            Self::Component(_) => Way::Component,
            #[cfg(unix)]
            Self::Dapr(_) => Way::Dapr,
            Self::Print(_) => Way::Print,
        }
    }
}

impl Application for App {
    fn deliver<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Result<Answer, Undelivered>> {
        match self {
            Self::Remote(app) => app.deliver(event),
            Self::Component(app) => app.deliver(event),
            #[cfg(unix)]
            Self::Dapr(app) => app.deliver(event),
            Self::Print(app) => app.deliver(event),
        }
    }
}
