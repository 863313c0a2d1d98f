//! `GET /v1.0/metadata` and `PUT /v1.0/metadata/{key}`: what SDKs read to learn that the sidecar is up and
//! what it serves.

use std::collections::BTreeMap;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;

use super::Api;
use super::bindings::malformed;
use super::reply::{self, Reply};
use super::server::Seat;

/// The longest attribute, and how many: they are kept for as long as the process lives.
const MAX_ATTRIBUTE: usize = 4_096;
const MAX_ATTRIBUTES: usize = 256;

impl Api {
    pub(super) async fn metadata(&self) -> Reply {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata<'a> {
            id: &'a str,
            runtime_version: &'static str,
            components: Vec<Component<'a>>,
            extended: BTreeMap<String, String>,
            actor_runtime: ActorRuntime,
        }
        #[derive(Serialize)]
        struct Component<'a> {
            name: &'a str,
            #[serde(rename = "type")]
            kind: &'a str,
            version: &'a str,
            capabilities: Vec<&'static str>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ActorRuntime {
            runtime_status: &'static str,
            host_ready: bool,
        }
        let mut extended = self.attributes.lock().map(|attributes| attributes.clone()).unwrap_or_default();
        extended.insert("daprRuntimeVersion".into(), env!("CARGO_PKG_VERSION").into());
        let refused: u64 = self.input.bindings().iter().map(|(_, binding)| binding.egress_refused()).sum();
        extended.insert("egressRefused".into(), refused.to_string());
        match self.input.inbox_counts().await {
            Some(Ok(counts)) => {
                extended.insert("inboxPending".into(), counts.pending.to_string());
                extended.insert("inboxDead".into(), counts.dead.to_string());
            }
            Some(Err(error)) => tracing::warn!(%error, "the inbox cannot be counted"),
            None => {}
        }
        let components = self.input.bindings().iter().map(|(name, binding)| {
            let sides =
                [(self.input.reads(binding), "INPUT_BINDING"), (binding.direction().writes(), "OUTPUT_BINDING")];
            Component {
                name,
                kind: binding.component_type(),
                version: binding.version(),
                capabilities: sides.iter().filter(|(has, _)| *has).map(|(_, side)| *side).collect(),
            }
        });
        let metadata = Metadata {
            id: &self.app_id,
            runtime_version: env!("CARGO_PKG_VERSION"),
            components: components.collect(),
            extended,
            actor_runtime: ActorRuntime { runtime_status: "DISABLED", host_ready: false },
        };
        reply::json(StatusCode::OK, serde_json::to_vec(&metadata).unwrap_or_default())
    }

    pub(super) async fn set_metadata(&self, key: String, request: Request<Incoming>, seat: &Seat) -> Reply {
        let (parts, body) = request.into_parts();
        let value = match self.body(&parts.headers, body, seat).await {
            Ok((value, _)) if value.len() > MAX_ATTRIBUTE => return malformed(&too_long()),
            Ok((value, _)) => String::from_utf8_lossy(&value).into_owned(),
            Err(unread) => return self.unread(&unread, ""),
        };
        if value.len() > MAX_ATTRIBUTE || key.len() > MAX_ATTRIBUTE {
            return malformed(&too_long());
        }
        if let Ok(mut attributes) = self.attributes.lock() {
            if attributes.len() >= MAX_ATTRIBUTES && !attributes.contains_key(&key) {
                return malformed(&format!("there are {MAX_ATTRIBUTES} attributes already"));
            }
            attributes.insert(key, value);
        }
        reply::empty(StatusCode::NO_CONTENT)
    }
}

fn too_long() -> String {
    format!("an attribute is longer than {MAX_ATTRIBUTE} bytes")
}
