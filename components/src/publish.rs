//! The files that are published.

use wasm_metadata::{AddMetadata, AddMetadataField, Revision};

use crate::{
    BINDING, BINDING_P3, DELIVERY, GATEWAY, GATEWAY_OPEN, GATEWAY_P3, GATEWAY_REMEMBER, GATEWAY_REMEMBER_SPIN,
    INTERFACES, INTERFACES_TEXT, NO_HANDLER, OUTPUT, REMEMBER, REMEMBER_SPIN,
};

/// What carries metadata.
const WASM: [(&str, &[u8]); 13] = [
    ("dingtalk-binding.wasm", BINDING),
    ("dingtalk-binding-p3.wasm", BINDING_P3),
    ("dingtalk-delivery.wasm", DELIVERY),
    ("dingtalk-gateway.wasm", GATEWAY),
    ("dingtalk-gateway-open.wasm", GATEWAY_OPEN),
    ("dingtalk-gateway-p3.wasm", GATEWAY_P3),
    ("dingtalk-gateway-remember.wasm", GATEWAY_REMEMBER),
    ("dingtalk-gateway-remember-spin.wasm", GATEWAY_REMEMBER_SPIN),
    ("dingtalk-no-handler.wasm", NO_HANDLER),
    ("dingtalk-output.wasm", OUTPUT),
    ("dingtalk-remember.wasm", REMEMBER),
    ("dingtalk-remember-spin.wasm", REMEMBER_SPIN),
    ("dingtalk-binding.wit.wasm", INTERFACES),
];

/// Where published files come from. Said when they are written and not when they are compiled, so that no commit has
/// everything built again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The URL of the sources, if not the `repository` of the manifests.
    pub source: Option<String>,
    /// The revision of the sources.
    pub revision: Option<String>,
}

/// Every file, by its name.
///
/// # Errors
///
/// If `origin` has a source that is no URL.
pub fn published(origin: &Origin) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    let wasm = WASM.into_iter().map(|(name, bytes)| Ok((name, from(origin, bytes)?)));
    wasm.chain([Ok(("dingtalk-binding.wit", INTERFACES_TEXT.into()))]).collect()
}

fn from(origin: &Origin, component: &[u8]) -> Result<Vec<u8>, String> {
    let mut add = AddMetadata::default();
    if let Some(source) = &origin.source {
        let source = source.parse().map_err(|error| format!("the source {source:?} is not a URL: {error:#}"))?;
        add.source = AddMetadataField::Set(source);
    }
    if let Some(revision) = &origin.revision {
        add.revision = AddMetadataField::Set(Revision::new(revision.clone()));
    }
    add.to_wasm(component).map_err(|error| format!("a component's metadata cannot be written: {error:#}"))
}
