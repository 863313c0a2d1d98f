//! The files that are published.

use wasm_metadata::{AddMetadata, AddMetadataField, Revision};

use crate::{COMPONENTS, INTERFACES, INTERFACES_TEXT};

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
pub fn published(origin: &Origin) -> Result<Vec<(String, Vec<u8>)>, String> {
    let interfaces = ("dingtalk-binding.wit", INTERFACES);
    let wasm = COMPONENTS.iter().copied().chain([interfaces]);
    let wasm = wasm.map(|(name, bytes)| Ok((format!("{name}.wasm"), from(origin, bytes)?)));
    wasm.chain([Ok(("dingtalk-binding.wit".to_owned(), INTERFACES_TEXT.into()))]).collect()
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
