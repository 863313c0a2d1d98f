//! Dapr's APIs for bindings, HTTP and gRPC, on sockets, and the route for DingTalk's callbacks. What a request means and how it is
//! answered is `dingtalk_api`'s business.

mod bindings;
mod callback;
mod grpc;
mod metadata;
mod metrics;
mod server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use dingtalk_api::caller::Allowed;
use dingtalk_api::caller::FLAGS;
pub use dingtalk_api::route::Lists;
use dingtalk_api::route::{Access, Route};
pub use dingtalk_api::status::ErrorStatus;
use dingtalk_api::{Answer, answer};
use dingtalk_binding::secret::Secret;
use http::{Request, StatusCode};
use hyper::body::Incoming;

use crate::ingress::connection::{self, Activity};
pub use crate::ingress::port::Policy;
use crate::input::Input;
use crate::quiet::Quiet;
use server::Seat;
pub use server::{ListenError, Server, Surface};

/// What the API serves and how.
pub struct Api {
    /// The bindings, and where their events go.
    pub input: Input,
    /// Names this host in `/v1.0/metadata` and for `/v1.0/healthz?appid=`.
    pub app_id: String,
    /// Dapr's namespace, a label of every metric.
    pub namespace: String,
    /// Whether bindings are initialised by somebody else while the host runs, so that one which is not there may come.
    pub bindings_come: bool,
    /// What clients must send as `dapr-api-token`, if anything.
    pub api_token: Option<Secret>,
    /// The longest request body, in bytes.
    pub max_body_size: usize,
    /// Attributes that clients have set with `PUT /v1.0/metadata/{key}`.
    attributes: Mutex<std::collections::BTreeMap<String, String>>,
    /// Who may call without a token, beside programs of this machine.
    pub allowed: Allowed,
    /// The form of a failed operation's status, where neither the call nor the binding chooses.
    pub error_status: ErrorStatus,
    /// Which of its routes there are.
    pub lists: Lists,
    /// Which methods of the gRPC API there are.
    pub grpc_lists: Lists,
    quiet: Quiet,
    /// How many calls are running.
    calls: AtomicUsize,
}

impl Api {
    /// An API over the bindings of `input`.
    pub fn new(input: Input, app_id: String, api_token: Option<Secret>, max_body_size: usize) -> Self {
        let (attributes, quiet) = (Mutex::default(), Quiet::default());
        let (allowed, lists, grpc_lists) = (Allowed::default(), Lists::default(), Lists::default());
        let (namespace, bindings_come, calls) = ("default".to_owned(), false, AtomicUsize::new(0));
        Self {
            input,
            app_id,
            namespace,
            bindings_come,
            api_token,
            max_body_size,
            attributes,
            allowed,
            error_status: ErrorStatus::default(),
            lists,
            grpc_lists,
            quiet,
            calls,
        }
    }

    /// How many calls are running.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call as running, here and on its connection, until the value is dropped.
    fn call<'a>(&'a self, seat: &'a Seat) -> Call<'a> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Call { api: self, _call: seat.activity.call() }
    }

    /// Who may ask.
    fn access(&self) -> Access<'_> {
        let Self { app_id, allowed, .. } = self;
        Access { app_id, token: self.api_token.as_ref(), allowed, names: &FLAGS }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, seat: &Seat) -> Answer {
        if seat.surface == Surface::Metrics {
            return self.metrics(&request, seat).await;
        }
        let (since, method) = (Instant::now(), request.method().clone());
        let answer = self.route(request, seat).await;
        self.input.metrics().answered(&method, answer.status(), since);
        answer
    }

    async fn route(&self, request: Request<Incoming>, seat: &Seat) -> Answer {
        let route = match self.access().route(&request, seat.entrance()) {
            Ok(route) => self.lists.permit(route),
            Err(answer) => return answer,
        };
        match route {
            Ok(Route::Health | Route::OutboundHealth) => answer::empty(StatusCode::NO_CONTENT),
            Ok(Route::Callback(name)) => self.callback(&name, request, seat).await,
            Ok(Route::Invoke(name, form)) => self.invoke(&name, form, request, seat).await,
            Ok(Route::Metadata) => self.metadata().await,
            Ok(Route::SetMetadata(key)) => self.set_metadata(key, request, seat).await,
            Err(answer) => answer,
        }
    }
}

/// A running call.
struct Call<'a> {
    api: &'a Api,
    _call: connection::Call<&'a Activity>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.api.calls.fetch_sub(1, Ordering::Relaxed);
    }
}
