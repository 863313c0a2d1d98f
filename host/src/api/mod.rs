//! Dapr's HTTP API for bindings, to the letter where a client can see it, and the route for DingTalk's callbacks.
//!
//! Deliberate differences are listed in docs/dapr.md.

mod bindings;
mod callback;
mod metadata;
mod reply;
mod request;
mod server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dingtalk_binding::secret::Secret;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;

use crate::ingress::caller;
pub use crate::ingress::caller::Allowed;
use crate::ingress::connection;
pub use crate::ingress::port::Policy;
use crate::input::Input;
use crate::quiet::Quiet;
use reply::Reply;
use server::Seat;
pub use server::{ListenError, Server, Surface};

/// What the API serves and how.
pub struct Api {
    /// The bindings, and where their events go.
    pub input: Input,
    /// Names this host in `/v1.0/metadata` and for `/v1.0/healthz?appid=`.
    pub app_id: String,
    /// What clients must send as `dapr-api-token`, if anything.
    pub api_token: Option<Secret>,
    /// The longest request body, in bytes.
    pub max_body_size: usize,
    /// Attributes that clients have set with `PUT /v1.0/metadata/{key}`.
    attributes: Mutex<std::collections::BTreeMap<String, String>>,
    /// Who may call without a token, beside programs of this machine.
    pub allowed: Allowed,
    quiet: Quiet,
    /// How many calls are running.
    calls: AtomicUsize,
}

impl Api {
    /// An API over the bindings of `input`.
    pub fn new(input: Input, app_id: String, api_token: Option<Secret>, max_body_size: usize) -> Self {
        let (attributes, quiet, allowed) = (Mutex::default(), Quiet::default(), Allowed::default());
        Self { input, app_id, api_token, max_body_size, attributes, allowed, quiet, calls: AtomicUsize::new(0) }
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

    async fn answer(self: Arc<Self>, request: Request<Incoming>, seat: &Seat) -> Reply {
        if let Err(what) = caller::host(request.version(), request.uri(), request.headers()) {
            return reply::text(StatusCode::BAD_REQUEST, what);
        }
        let path = clean(request.uri().path());
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let method = request.method().clone();
        // daprd leaves health checks open, so that a probe needs no secret.
        match (&method, segments.as_slice()) {
            (&Method::GET, ["v1.0", "healthz"]) => return self.healthz(request.uri().query().unwrap_or_default()),
            (&Method::GET, ["v1.0", "healthz", "outbound"]) => return reply::empty(StatusCode::NO_CONTENT),
            // Nor has DingTalk the token: a callback proves itself.
            (_, ["v1.0", "bindings", name, "callback"]) => {
                return match query_unescape(name) {
                    Ok(name) => self.callback(&name, request, seat).await,
                    Err(_) => reply::text(StatusCode::BAD_REQUEST, "failed to unescape request parameter \"name\""),
                };
            }
            _ if seat.surface == Surface::Callbacks => return reply::empty(StatusCode::NOT_FOUND),
            _ => {}
        }
        if !self.authorised(&request) {
            return reply::text(StatusCode::UNAUTHORIZED, "invalid api token");
        }
        // Whoever knows the token is no page in somebody's browser.
        if self.api_token.is_none()
            && let Err(stranger) = self.allowed.check(request.uri(), request.headers(), seat.address)
        {
            let what = stranger.explained("set DAPR_API_TOKEN, or ");
            return reply::error(StatusCode::FORBIDDEN, "ERR_CALLER_REFUSED", &what, &[]);
        }
        match (&method, segments.as_slice()) {
            (&Method::POST | &Method::PUT, ["v1.0", "bindings", name]) => match query_unescape(name) {
                Ok(name) => self.invoke(&name, request, seat).await,
                Err(escape) => {
                    let what =
                        format!("failed to unescape request parameter \"name\". Error: invalid URL escape {escape:?}");
                    reply::text(StatusCode::BAD_REQUEST, &what)
                }
            },
            (&Method::GET, ["v1.0", "metadata"]) => self.metadata().await,
            (&Method::PUT, ["v1.0", "metadata", key]) => match query_unescape(key) {
                Ok(key) => self.set_metadata(key, request, seat).await,
                Err(_) => reply::text(StatusCode::BAD_REQUEST, "failed to unescape request parameter \"key\""),
            },
            // daprd takes whatever it does not know for a service invocation without a target.
            _ => {
                let message = "failed getting app id either from the URL path or the header dapr-app-id";
                reply::error(StatusCode::NOT_FOUND, "ERR_DIRECT_INVOKE", message, &[])
            }
        }
    }

    fn healthz(&self, query: &str) -> Reply {
        let asked = query.split('&').find_map(|parameter| parameter.strip_prefix("appid="));
        match asked.map(query_unescape) {
            Some(Ok(app_id)) if app_id != self.app_id => {
                let message = "dapr app-id does not match";
                reply::error(StatusCode::INTERNAL_SERVER_ERROR, "ERR_HEALTH_APPID_NOT_MATCH", message, &[])
            }
            _ => reply::empty(StatusCode::NO_CONTENT),
        }
    }

    fn authorised(&self, request: &Request<Incoming>) -> bool {
        let Some(token) = &self.api_token else { return true };
        let given = request.headers().get("dapr-api-token").map_or(b"".as_slice(), |value| value.as_bytes());
        given.ct_eq(token.expose().as_bytes()).into()
    }
}

/// A running call.
struct Call<'a> {
    api: &'a Api,
    _call: connection::Call<'a>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.api.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The path with repeated slashes made one and one trailing slash removed.
fn clean(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && clean.ends_with('/')) {
            clean.push(c);
        }
    }
    if clean.len() > 1 && clean.ends_with('/') {
        clean.pop();
    }
    clean
}

/// Go's `url.QueryUnescape`: percent escapes, and `+` for a space. The error is the bad escape.
fn query_unescape(text: &str) -> Result<String, String> {
    let text = text.replace('+', " ");
    for (at, _) in text.match_indices('%') {
        let digits = text.get(at + 1..at + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(text.chars().skip(text.get(..at).unwrap_or_default().chars().count()).take(3).collect());
        }
    }
    Ok(percent_decode_str(&text).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_as_daprd_cleans_them() {
        for (path, expected) in [
            ("/v1.0/bindings/x", "/v1.0/bindings/x"),
            ("//v1.0///bindings/x/", "/v1.0/bindings/x"),
            ("/v1.0/bindings/x//", "/v1.0/bindings/x"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(clean(path), expected);
        }
    }

    #[test]
    fn names_as_go_unescapes_them() {
        assert_eq!(query_unescape("my+ding%20talk%E4%BD%A0").as_deref(), Ok("my ding talk你"));
        for (name, escape) in [("a%zz", "%zz"), ("%", "%"), ("你%4", "%4"), ("%%41", "%%4")] {
            assert_eq!(query_unescape(name).unwrap_err(), escape, "{name}");
        }
    }
}
