//! `GET /v1.0/metadata`: what SDKs read to learn that the sidecar is up and what it serves.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Serialize;

use crate::answer::{self, Answer};

/// The version that clients are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One binding, as it is listed.
#[derive(Debug, Serialize)]
pub struct Component<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    version: &'a str,
    capabilities: Vec<&'static str>,
}

impl<'a> Component<'a> {
    /// A binding of this type and version, and which sides it has.
    pub fn new(name: &'a str, kind: &'a str, version: &'a str, reads: bool, writes: bool) -> Self {
        let sides = [(reads, "INPUT_BINDING"), (writes, "OUTPUT_BINDING")];
        let capabilities = sides.iter().filter(|(has, _)| *has).map(|(_, side)| *side).collect();
        Self { name, kind, version, capabilities }
    }
}

/// The whole document. `extended` gets the version beside what it has.
pub fn answer(id: &str, components: Vec<Component<'_>>, mut extended: BTreeMap<String, String>) -> Answer {
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
    #[serde(rename_all = "camelCase")]
    struct ActorRuntime {
        runtime_status: &'static str,
        host_ready: bool,
    }
    extended.insert("daprRuntimeVersion".into(), VERSION.into());
    let actor_runtime = ActorRuntime { runtime_status: "DISABLED", host_ready: false };
    let metadata = Metadata { id, runtime_version: VERSION, components, extended, actor_runtime };
    answer::json(StatusCode::OK, serde_json::to_vec(&metadata).unwrap_or_default())
}
