//! `GET /v1.0/metadata` and `Dapr/GetMetadata`: what SDKs read to learn that the sidecar is up and what it serves.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Serialize;

use crate::answer::{self, Answer};

/// The version that clients are told.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One binding, as it is listed.
#[derive(Debug, Serialize)]
pub struct Component<'a> {
    /// In the component file.
    pub name: &'a str,
    /// As the component file spells it.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// As in the component file.
    pub version: &'a str,
    /// Which sides it has.
    pub capabilities: Vec<&'static str>,
}

impl<'a> Component<'a> {
    /// A binding of this type and version, and which sides it has.
    pub fn new(name: &'a str, kind: &'a str, version: &'a str, reads: bool, writes: bool) -> Self {
        let sides = [(reads, "INPUT_BINDING"), (writes, "OUTPUT_BINDING")];
        let capabilities = sides.iter().filter(|(has, _)| *has).map(|(_, side)| *side).collect();
        Self { name, kind, version, capabilities }
    }
}

/// What is loaded, and what clients have said of themselves.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata<'a> {
    /// The application's name.
    pub id: &'a str,
    /// Of this project.
    pub runtime_version: &'static str,
    /// Every binding.
    pub components: Vec<Component<'a>>,
    /// Attributes.
    pub extended: BTreeMap<String, String>,
    /// Always the same.
    pub actor_runtime: ActorRuntime,
}

/// There are no actors here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActorRuntime {
    runtime_status: &'static str,
    host_ready: bool,
}

impl<'a> Metadata<'a> {
    /// Of the application called `id`. `extended` gets the version beside what it has.
    pub fn new(id: &'a str, components: Vec<Component<'a>>, mut extended: BTreeMap<String, String>) -> Self {
        extended.insert("daprRuntimeVersion".into(), VERSION.into());
        let actor_runtime = ActorRuntime { runtime_status: "DISABLED", host_ready: false };
        Self { id, runtime_version: VERSION, components, extended, actor_runtime }
    }
}

/// As HTTP has it.
pub fn answer(metadata: &Metadata<'_>) -> Answer {
    answer::json(StatusCode::OK, serde_json::to_vec(metadata).unwrap_or_default())
}
