//! The binding as a pluggable component of Dapr: daprd finds its sockets in a folder, asks by reflection what is served
//! there, and takes it for the component type of the socket's name, in place of one that is built in.
//!
//! Each component file of daprd is an instance, whose name comes with every call. What DingTalk sends does not come
//! through daprd, but over HTTP as with `serve`; from there it goes into the stream that daprd reads.

mod frames;
mod instances;
mod server;
mod service;
mod socket;

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use self::instances::Instances;
pub use self::server::Server;
pub use self::socket::{DEFAULT_FOLDER, SocketError};
use crate::app::DaprApp;
use crate::egress::{Policy, Proxies};
use crate::input::Input;
use crate::quiet::Quiet;

/// What all sockets serve. Cheap to clone.
#[derive(Clone)]
pub struct Pluggable(Arc<Shared>);

struct Shared {
    input: Input,
    app: DaprApp,
    instances: Instances,
    /// Operations that are running.
    calls: TaskTracker,
    /// Streams that are open.
    streams: TaskTracker,
    quiet: Quiet,
}

impl Pluggable {
    /// Instances of `input`, whose events go to `app`. They may connect to what `policy` allows.
    pub fn new(input: Input, app: DaprApp, proxies: Proxies, policy: Policy) -> Self {
        let instances = Instances::new(input.clone(), proxies, policy);
        let (calls, streams) = (TaskTracker::new(), TaskTracker::new());
        Self(Arc::new(Shared { input, app, instances, calls, streams, quiet: Quiet::default() }))
    }

    /// How many operations are running.
    pub fn calls(&self) -> usize {
        self.0.calls.len()
    }

    /// Ends streams, once operations and deliveries that need them have ended. Nothing else may come in meanwhile.
    pub async fn stop(&self) {
        self.0.calls.close();
        self.0.calls.wait().await;
        self.0.input.stop().await;
        self.0.app.end();
        self.0.streams.close();
        self.0.streams.wait().await;
    }
}
