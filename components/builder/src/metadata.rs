//! What a component says of itself, in the sections that registries and scanners read.

use serde_json::Value;
use wasm_encoder::ComponentSection as _;
use wasm_metadata::{AddMetadata, AddMetadataField};

use crate::dependencies::Dependencies;
use crate::{Result, toolchain};

/// What a component says of itself.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: String,
    /// An SPDX expression.
    pub(crate) licence: String,
    /// Where the sources are, if that is known.
    pub(crate) source: Option<String>,
}

impl Metadata {
    /// What the manifest of `package` says.
    pub(crate) fn of(root: &std::path::Path, package: &str) -> Result<Self> {
        let mut cargo = toolchain::inner_cargo()?;
        cargo.current_dir(root).args(["metadata", "--locked", "--no-deps", "--format-version", "1"]);
        let workspace: Value = serde_json::from_str(&toolchain::output(&mut cargo)?)
            .map_err(|error| format!("cargo metadata: {error}"))?;
        let mut packages = workspace.get("packages").and_then(Value::as_array).into_iter().flatten();
        let manifest = packages
            .find(|manifest| manifest.get("name").and_then(Value::as_str) == Some(package))
            .ok_or_else(|| format!("the workspace has no package {package}"))?;
        let text = |key: &str| manifest.get(key).and_then(Value::as_str).map(str::to_owned);
        let required = |key: &str| text(key).ok_or_else(|| format!("{package}: the manifest has no \"{key}\""));
        Ok(Self {
            name: package.to_owned(),
            version: required("version")?,
            description: required("description")?,
            licence: required("license")?,
            source: text("repository"),
        })
    }

    /// `component` with this and its dependencies.
    pub(crate) fn stamped(&self, component: &[u8], dependencies: &Dependencies) -> Result<Vec<u8>> {
        let mut component = self.added(component)?;
        let dependencies = wasm_metadata::Dependencies::new(dependencies.version_info())
            .map_err(|error| format!("the dependencies of {}: {error:#}", self.name))?;
        dependencies.append_to_component(&mut component);
        Ok(component)
    }

    /// `component` with this.
    pub(crate) fn added(&self, component: &[u8]) -> Result<Vec<u8>> {
        let failed = |what: &dyn std::fmt::Display| format!("the metadata of {}: {what}", self.name);
        let mut add = AddMetadata::default();
        add.name = AddMetadataField::Set(self.name.clone());
        add.version = AddMetadataField::Set(wasm_metadata::Version::new(self.version.clone()));
        add.description = AddMetadataField::Set(wasm_metadata::Description::new(self.description.clone()));
        let licences = self.licence.parse().map_err(|error| failed(&format!("licence: {error:#}")))?;
        add.licenses = AddMetadataField::Set(licences);
        if let Some(source) = &self.source {
            let source = source.parse().map_err(|error| failed(&format!("repository: {error:#}")))?;
            add.source = AddMetadataField::Set(source);
        }
        add.to_wasm(component).map_err(|error| failed(&error))
    }
}
