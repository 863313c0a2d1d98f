//! `GET /v1.0/metadata` and `PUT /v1.0/metadata/{key}`, and the same over gRPC: what is loaded, and what clients say of
//! themselves.

use dingtalk_api::metadata::{Component, Metadata};
use dingtalk_api::{Answer, Problem, answer, metadata};
use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::Api;
use super::server::Seat;

/// The longest attribute, and how many: they are kept for as long as the process lives.
const MAX_ATTRIBUTE: usize = 4_096;
const MAX_ATTRIBUTES: usize = 256;

impl Api {
    pub(super) async fn metadata(&self) -> Answer {
        self.with_metadata(metadata::answer).await
    }

    /// What `tell` makes of all there is to know.
    pub(super) async fn with_metadata<T>(&self, tell: impl FnOnce(&Metadata<'_>) -> T) -> T {
        let mut extended = self.attributes.lock().map(|attributes| attributes.clone()).unwrap_or_default();
        let bindings = self.input.bindings().all();
        let refused: u64 = bindings.iter().map(|binding| binding.egress_refused()).sum();
        extended.insert("egressRefused".into(), refused.to_string());
        match self.input.inbox_counts().await {
            Some(Ok(counts)) => {
                extended.insert("inboxPending".into(), counts.pending.to_string());
                extended.insert("inboxDead".into(), counts.dead.to_string());
            }
            Some(Err(error)) => tracing::warn!(%error, "the inbox cannot be counted"),
            None => {}
        }
        match self.input.outbox_counts().await {
            Some(Ok(counts)) => {
                extended.insert("outboxPending".into(), counts.pending.to_string());
                extended.insert("outboxDead".into(), counts.dead.to_string());
            }
            Some(Err(error)) => tracing::warn!(%error, "the outbox cannot be counted"),
            None => {}
        }
        let components = bindings.iter().map(|binding| {
            let (reads, writes) = (self.input.reads(binding), binding.direction().writes());
            Component::new(binding.name(), binding.component_type(), binding.version(), reads, writes)
        });
        tell(&Metadata::new(&self.app_id, components.collect(), extended))
    }

    pub(super) async fn set_metadata(&self, key: String, request: Request<Incoming>, seat: &Seat) -> Answer {
        let (parts, body) = request.into_parts();
        let value = match self.body(&parts.headers, body, seat).await {
            Ok((value, _)) if value.len() > MAX_ATTRIBUTE => return too_long().into(),
            Ok((value, _)) => String::from_utf8_lossy(&value).into_owned(),
            Err(unread) => return self.unread(unread, |what| Problem::malformed(what)),
        };
        match self.set_attribute(key, value) {
            Ok(()) => answer::empty(StatusCode::NO_CONTENT),
            Err(problem) => problem.into(),
        }
    }

    pub(super) fn set_attribute(&self, key: String, value: String) -> Result<(), Problem> {
        if value.len() > MAX_ATTRIBUTE || key.len() > MAX_ATTRIBUTE {
            return Err(too_long());
        }
        if let Ok(mut attributes) = self.attributes.lock() {
            if attributes.len() >= MAX_ATTRIBUTES && !attributes.contains_key(&key) {
                return Err(Problem::malformed(format!("there are {MAX_ATTRIBUTES} attributes already")));
            }
            attributes.insert(key, value);
        }
        Ok(())
    }
}

fn too_long() -> Problem {
    Problem::malformed(format!("an attribute is longer than {MAX_ATTRIBUTE} bytes"))
}
