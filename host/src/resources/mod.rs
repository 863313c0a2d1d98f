//! Dapr's component files → the bindings to run, with every secret fetched and every template filled in.
//!
//! What Dapr leaves silent is an error here: a document that cannot be read stops the load, and a secret that
//! cannot be read stops its binding, because the alternative is a binding that is missing, or one that sends
//! unsigned. No error, warning or `Debug` output contains a property's value.

mod configuration;
mod environment;
mod resiliency;
mod schema;
mod secrets;
mod templates;
mod uuids;
pub(crate) mod watch;
mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dingtalk_binding::duration;
use dingtalk_binding::secret::Secret;
use sha2::{Digest as _, Sha256};

use crate::event::Digest;
use crate::files;
use crate::resiliency::Resiliency;

pub use configuration::{Configuration, load_configuration};
pub use environment::Environment;
pub(crate) use schema::refuse_name;
use schema::{Component, Head, Item};
use secrets::{Store, StoreKind};
use uuids::Uuids;

/// Dapr's time for initialisation where none, or none that makes sense, is given.
pub(crate) const DEFAULT_INIT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the files are read for.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Decides with `scopes`, and is what `{appID}` stands for.
    pub app_id: &'a str,
    /// The environment's `NAMESPACE`; components of another one are left out.
    pub namespace: Option<&'a str>,
    /// For `envRef`, `secretstores.local.env`, `POD_NAME` and `DAPR_ENV_KEYS`.
    pub env: Environment<'a>,
}

/// What the files contain for this application, in the order of the files.
#[derive(Debug, Default)]
pub struct Resources {
    /// Bindings whose properties are complete. Their meaning is checked when they are initialised.
    pub bindings: Vec<BindingResource>,
    /// Bindings that cannot be started; whether that stops the host is `ignore_errors`' decision.
    pub failures: Vec<BindingFailure>,
    /// What works, but probably not as meant. Each names its file.
    pub warnings: Vec<String>,
    /// Policies for bindings.
    pub resiliency: Resiliency,
    /// Where secrets files are, or would be: what else than the component files decides over the bindings.
    pub secrets_files: Vec<PathBuf>,
}

/// A binding, ready to be initialised.
#[derive(Debug)]
pub struct BindingResource {
    /// `metadata.name`: the name in the API's path.
    pub name: String,
    /// `spec.type` in the file's spelling, as Dapr's metadata API shows it.
    pub component_type: String,
    /// `spec.version` in the file's spelling, possibly empty.
    pub version: String,
    /// Names as written, unique without regard to case; secrets fetched, templates filled in.
    pub properties: Vec<(String, Secret)>,
    /// Whether the host runs on without this binding if its initialisation fails.
    pub ignore_errors: bool,
    /// Time for the initialisation.
    pub init_timeout: Duration,
    /// Where it stands.
    pub source: Source,
}

impl BindingResource {
    /// What the binding that runs is known by: it is another one if its type, its version or a property is another.
    /// Where the file is, and what is to happen if it fails, do not matter to it.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update(text.len().to_le_bytes());
            hash.update(text);
        };
        add(&self.component_type);
        add(&self.version);
        for (name, value) in &self.properties {
            add(name);
            add(value.expose());
        }
        hash.finalize().into()
    }
}

/// A binding that cannot be started.
#[derive(Debug)]
pub struct BindingFailure {
    /// `metadata.name`.
    pub name: String,
    /// `spec.type` in the file's spelling.
    pub component_type: String,
    /// `spec.version` in the file's spelling, possibly empty.
    pub version: String,
    /// Whether the host runs on without this binding.
    pub ignore_errors: bool,
    /// Where it stands.
    pub source: Source,
    /// Why.
    pub error: ResourceError,
}

impl fmt::Display for BindingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: component {:?} ({}): {}", self.source, self.name, self.component_type, self.error)
    }
}

/// The place of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file, as the given path leads to it.
    pub file: PathBuf,
    /// First line of the component's document, counted from 1.
    pub line: u64,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Why nothing could be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A directory or file cannot be read.
    #[error("{} {reason}", path.display())]
    Unreadable {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong and what to do; follows the path.
        reason: String,
    },
    /// A document is no YAML or no Component.
    #[error("{}:{line}:{column}: {reason}", file.display())]
    Document {
        /// The file.
        file: PathBuf,
        /// Counted from 1; 0 if unknown.
        line: u64,
        /// Counted from 1; 0 if unknown.
        column: u64,
        /// What is wrong and what to do; contains no value of the file.
        reason: String,
    },
    /// Two components have one name.
    #[error(
        "duplicate component name {name:?}: defined at {first} and at {second}; rename one, or give them different scopes"
    )]
    DuplicateName {
        /// `metadata.name` of both.
        name: String,
        /// Where the name occurs first.
        first: Source,
        /// Where it occurs again.
        second: Source,
    },
}

/// Why one binding cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// `spec.version` is none of "", v0, v1.
    #[error("couldn't find binding {name} ({component_type}/{version}); write \"version: v1\"")]
    Version {
        /// `metadata.name`.
        name: String,
        /// `spec.type`.
        component_type: String,
        /// `spec.version`.
        version: String,
    },
    /// Two properties have one name.
    #[error(
        "key {property} is duplicate in the metadata (lines {first_line} and {second_line}; names are compared without regard to case); remove one"
    )]
    DuplicateProperty {
        /// The name in lower case.
        property: String,
        /// Line of the first entry.
        first_line: u64,
        /// Line of the second entry.
        second_line: u64,
    },
    /// An `envRef` or `secretKeyRef` yields nothing.
    #[error("property {property:?} (line {line}): {reason}")]
    Unresolved {
        /// The property that needs it.
        property: String,
        /// Line of the property.
        line: u64,
        /// Which variable, or which store, secret and key; why it yields nothing, and what to do.
        reason: String,
    },
    /// `{podName}` without a pod name; begins with Dapr's text.
    #[error(
        "failed to parse metadata: property {property} refers to {{podName}} but podName is not set; set the environment variable POD_NAME"
    )]
    PodName {
        /// The property that needs it.
        property: String,
    },
}

/// Loads every `*.yaml` and `*.yml` of each directory, sorted by name, without subdirectories.
///
/// # Errors
///
/// If a directory or file cannot be read, a document is no YAML or no Component, or two components that apply
/// to this application have one name. What concerns one binding only is in [`Resources::failures`].
pub fn load_dirs(paths: &[PathBuf], context: &Context<'_>) -> Result<Resources, LoadError> {
    Loader::new(paths.to_vec()).load(context)
}

/// Reads the same directories again and again. What a template `{uuid}` stands for stays.
#[derive(Debug)]
pub struct Loader {
    dirs: Vec<PathBuf>,
    uuids: Uuids,
}

impl Loader {
    /// For these directories.
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs, uuids: Uuids::default() }
    }

    /// As [`load_dirs`].
    ///
    /// # Errors
    ///
    /// As [`load_dirs`].
    pub fn load(&mut self, context: &Context<'_>) -> Result<Resources, LoadError> {
        self.read(context, &mut Err)
    }

    /// As [`Loader::load`], for who has bindings already and wants to keep them: what cannot be read is left out, and
    /// the reasons are returned beside what can. Of components with one name, none is taken.
    pub fn reload(&mut self, context: &Context<'_>) -> (Resources, Vec<LoadError>) {
        let mut errors = Vec::new();
        let read = self.read(context, &mut |error| {
            errors.push(error);
            Ok(())
        });
        let mut resources = read.unwrap_or_default();
        let is_twice = |name: &str| {
            errors.iter().any(|error| matches!(error, LoadError::DuplicateName { name: twice, .. } if twice == name))
        };
        resources.bindings.retain(|binding| !is_twice(&binding.name));
        resources.failures.retain(|failure| !is_twice(&failure.name));
        (resources, errors)
    }

    fn read(&mut self, context: &Context<'_>, failed: Failed<'_>) -> Result<Resources, LoadError> {
        let mut files = Vec::new();
        for dir in &self.dirs {
            match yaml_files(dir) {
                Ok(found) => files.extend(found),
                Err(error) => failed(error)?,
            }
        }
        load(&files, context, &mut self.uuids, failed)
    }
}

/// Loads the bindings of one file, whatever its name. Secret stores are looked for in that file and in the
/// directories `stores`.
///
/// # Errors
///
/// As [`load_dirs`].
pub fn load_file(path: &Path, stores: &[PathBuf], context: &Context<'_>) -> Result<Resources, LoadError> {
    let mut files = vec![path.to_owned()];
    let itself = path.canonicalize().ok();
    for dir in stores {
        files.extend(yaml_files(dir)?.into_iter().filter(|file| file.canonicalize().ok() != itself));
    }
    let mut resources = load(&files, context, &mut Uuids::default(), &mut Err)?;
    resources.bindings.retain(|binding| binding.source.file == path);
    resources.failures.retain(|failure| failure.source.file == path);
    Ok(resources)
}

fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error: std::io::Error| LoadError::Unreadable {
        path: dir.to_owned(),
        reason: format!("cannot be read as a directory: {error}; create it or name another one"),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_yaml = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml"));
        // A broken link stays in, and is reported when it is read.
        if is_yaml && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A component of this application, before its properties are resolved.
struct Found {
    name: String,
    component_type: String,
    source: Source,
    component: Component,
}

/// The secret stores by name. `Err` says why one cannot be used; it follows the store's name.
type Stores = BTreeMap<String, Result<Store, String>>;

/// What becomes of a file that cannot be used: its error ends the load, or it is left out.
type Failed<'a> = &'a mut dyn FnMut(LoadError) -> Result<(), LoadError>;

/// What one file has for this application.
#[derive(Default)]
struct Contents {
    bindings: Vec<Found>,
    stores: Vec<(StoreKind, Found)>,
    policies: Vec<Resiliency>,
    /// Stores of a kind that is not handled, and what is said of them.
    others: Vec<(String, String)>,
    warnings: Vec<String>,
}

fn load(
    files: &[PathBuf],
    context: &Context<'_>,
    uuids: &mut Uuids,
    failed: Failed<'_>,
) -> Result<Resources, LoadError> {
    let mut resources = Resources::default();
    let mut names = BTreeMap::new();
    let mut all = Contents::default();
    for file in files {
        match contents(file, context, &mut names) {
            Ok(Contents { bindings, stores, policies, others, warnings }) => {
                policies.into_iter().for_each(|policies| resources.resiliency.extend(policies));
                all.bindings.extend(bindings);
                all.stores.extend(stores);
                all.others.extend(others);
                resources.warnings.extend(warnings);
            }
            Err(error) => failed(error)?,
        }
    }
    let mut stores: Stores = all.others.into_iter().map(|(name, reason)| (name, Err(reason))).collect();
    for (kind, found) in all.stores {
        let opened = open(kind, &found, context, uuids, &mut resources);
        if let Err(reason) = &opened {
            resources.warnings.push(format!("{}: secret store {:?} {reason}", found.source, found.name));
        }
        stores.insert(found.name, opened);
    }
    for found in all.bindings {
        finish(found, &stores, context, uuids, &mut resources);
    }
    for (kind, name) in resources.resiliency.missing() {
        resources.warnings.push(format!("Resiliency: a target names the {kind} policy {name:?}, which no file has"));
    }
    uuids.forget_others();
    Ok(resources)
}

/// Reads one file. `names` has the components of this application so far.
fn contents(file: &Path, context: &Context<'_>, names: &mut BTreeMap<String, Source>) -> Result<Contents, LoadError> {
    let mut contents = Contents::default();
    let in_file = |mistake: yaml::Mistake| LoadError::Document {
        file: file.to_owned(),
        line: mistake.line,
        column: mistake.column,
        reason: mistake.reason,
    };
    let (text, _) = files::read(file).map_err(|reason| LoadError::Unreadable { path: file.to_owned(), reason })?;
    for document in yaml::read(&text).map_err(in_file)? {
        let here = Source { file: file.to_owned(), line: document.line };
        if let Some(found) = resiliency::read(&document, &here, context, &mut contents.warnings).map_err(in_file)? {
            contents.policies.push(found);
            continue;
        }
        let Some(head) = Head::read(&document).map_err(in_file)? else {
            tracing::debug!(file = %file.display(), line = document.line, "not a Component; left out");
            continue;
        };
        let source = Source { file: file.to_owned(), line: head.line };
        if let Some(reason) = applies_not(&head, context) {
            tracing::debug!(component = head.name, %source, reason, "left out");
            continue;
        }
        if let Some(first) = names.get(&head.name) {
            return Err(LoadError::DuplicateName { name: head.name, first: first.clone(), second: source });
        }
        names.insert(head.name.clone(), source.clone());
        let store = StoreKind::of(&head.component_type);
        if store.is_none() && !is_binding(&head, &source, &mut contents.warnings) {
            if head.component_type.to_ascii_lowercase().starts_with("secretstores.") {
                let reason = format!(
                    "has the type {}, which is not handled by this host; use secretstores.local.file or secretstores.local.env",
                    head.component_type
                );
                contents.others.push((head.name, reason));
            }
            continue;
        }
        let component = head.component().map_err(in_file)?;
        let found = Found { name: head.name, component_type: head.component_type, source, component };
        match store {
            Some(kind) => contents.stores.push((kind, found)),
            None => contents.bindings.push(found),
        }
    }
    Ok(contents)
}

/// Why a component is not for this application, if so.
fn applies_not(head: &Head<'_, '_>, context: &Context<'_>) -> Option<&'static str> {
    let ours = context.namespace.filter(|namespace| !namespace.is_empty());
    if let (Some(ours), Some(theirs)) = (ours, &head.namespace)
        && ours != theirs
    {
        return Some("another namespace");
    }
    let in_scope = head.scopes.is_empty() || head.scopes.iter().any(|scope| scope == context.app_id);
    (!in_scope).then_some("out of scope")
}

/// Whether the component is a DingTalk binding; warns where the type is not the one to write.
fn is_binding(head: &Head<'_, '_>, source: &Source, warnings: &mut Vec<String>) -> bool {
    let Head { name, component_type, .. } = head;
    match component_type.to_ascii_lowercase().as_str() {
        "bindings.dingtalk.webhook" | "bindings.alicloud.dingtalk.webhook" => true,
        "bindings.nacos" => {
            warnings.push(format!(
                "{source}: component {name:?}: the type bindings.nacos is taken for bindings.dingtalk.webhook, as \
                 the specification's example has it; write \"type: bindings.dingtalk.webhook\", which Dapr knows too"
            ));
            true
        }
        _ => {
            warnings.push(format!(
                "{source}: component {name:?} is left out: type {component_type} is not handled by this host"
            ));
            false
        }
    }
}

/// Opens a secret store. The error is meant to follow the store's name.
fn open(
    kind: StoreKind,
    found: &Found,
    context: &Context<'_>,
    uuids: &mut Uuids,
    resources: &mut Resources,
) -> Result<Store, String> {
    let Found { name, component, source, component_type } = found;
    if !is_first_version(&component.version) {
        return Err(format!(
            "cannot be used: there is no {component_type}/{}; write \"version: v1\"",
            component.version
        ));
    }
    let cannot = |error: &dyn fmt::Display| format!("cannot be used: {error}");
    let mut uuid = uuids.of(name);
    let properties = resolve(&component.items, None, None, context, &mut uuid).map_err(|error| cannot(&error))?;
    let beside = source.file.parent().unwrap_or(Path::new(""));
    resources.secrets_files.extend(secrets::files(kind, &properties, beside));
    let mut remarks = Vec::new();
    let store = Store::open(kind, &properties, beside, &mut remarks).map_err(|error| cannot(&error));
    let warnings = &mut resources.warnings;
    warnings.extend(remarks.into_iter().map(|remark| format!("{source}: secret store {name:?}: {remark}")));
    store
}

fn finish(found: Found, stores: &Stores, context: &Context<'_>, uuids: &mut Uuids, resources: &mut Resources) {
    let Found { name, component_type, source, component } = found;
    let Component { version, ignore_errors, .. } = component;
    let properties = if is_first_version(&version) {
        let store = component.secret_store.as_deref();
        resolve(&component.items, store, Some(stores), context, &mut uuids.of(&name))
    } else {
        let (name, component_type, version) = (name.clone(), component_type.clone(), version.clone());
        Err(ResourceError::Version { name, component_type, version })
    };
    match properties {
        Ok(properties) => {
            let init_timeout = init_timeout(component.init_timeout.as_deref()).unwrap_or_else(|reason| {
                resources
                    .warnings
                    .push(format!("{source}: component {name:?}: spec.initTimeout: {reason}; 5s is used"));
                DEFAULT_INIT_TIMEOUT
            });
            resources.bindings.push(BindingResource {
                name,
                component_type,
                version,
                properties,
                ignore_errors,
                init_timeout,
                source,
            });
        }
        Err(error) => {
            resources.failures.push(BindingFailure { name, component_type, version, ignore_errors, source, error });
        }
    }
}

/// Dapr's notion of the first version.
fn is_first_version(version: &str) -> bool {
    matches!(version.to_ascii_lowercase().as_str(), "" | "v0" | "v1")
}

fn init_timeout(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(DEFAULT_INIT_TIMEOUT) };
    let timeout = duration::parse(text)?;
    if timeout.is_zero() { Err(format!("{text:?} is no time at all")) } else { Ok(timeout) }
}

/// The properties of `items`: duplicates refused, references fetched, templates filled in. Without `stores`
/// (for a store's own metadata) a `secretKeyRef` is refused.
fn resolve(
    items: &[Item],
    store: Option<&str>,
    stores: Option<&Stores>,
    context: &Context<'_>,
    uuids: &mut uuids::Of<'_>,
) -> Result<Vec<(String, Secret)>, ResourceError> {
    let mut lines = BTreeMap::new();
    for item in items {
        let property = item.name.to_lowercase();
        if let Some(first_line) = lines.insert(property.clone(), item.line) {
            return Err(ResourceError::DuplicateProperty { property, first_line, second_line: item.line });
        }
    }
    // The start has refused one that is no text.
    let pod_name = (context.env)("POD_NAME").and_then(|name| name.into_string().ok());
    let values = templates::Values {
        pod_name: pod_name.as_deref(),
        namespace: context.namespace.filter(|namespace| !namespace.is_empty()),
        app_id: context.app_id,
    };
    let mut properties = Vec::with_capacity(items.len());
    for item in items {
        let value = fetch(item, store, stores, context.env).map_err(|reason| ResourceError::Unresolved {
            property: item.name.clone(),
            line: item.line,
            reason,
        })?;
        let value = templates::expand(value.expose().to_owned(), values, uuids.of_property(&item.name))
            .map_err(|templates::NoPodName| ResourceError::PodName { property: item.name.clone() })?;
        properties.push((item.name.clone(), Secret::new(value)));
    }
    Ok(properties)
}

/// The value of one item before templates. Dapr's precedence: an `envRef` counts where there is no value, and
/// a `secretKeyRef` replaces a value. The error is meant to follow the property's name.
fn fetch(
    item: &Item,
    store: Option<&str>,
    stores: Option<&Stores>,
    environment: Environment<'_>,
) -> Result<Secret, String> {
    if item.value.is_none()
        && let Some(variable) = &item.env_ref
    {
        return environment::env_ref(variable, environment)
            .map_err(|reason| format!("the environment variable {variable:?} {reason}"));
    }
    let Some(reference) = &item.secret_key_ref else {
        return Ok(item.value.clone().unwrap_or_else(|| Secret::new("")));
    };
    let name = reference.name.as_deref().ok_or("its secretKeyRef has no name; add the name of the secret")?;
    let stores = stores.ok_or("a secret store's own metadata cannot use secretKeyRef; use value or envRef")?;
    let store = store.ok_or_else(|| {
        format!(
            "it refers to the secret {name:?}, but the component names no secret store; add \"auth: {{secretStore: \
             <name of a secret store component>}}\""
        )
    })?;
    let opened = match stores.get(store) {
        Some(Ok(opened)) => opened,
        Some(Err(reason)) => return Err(format!("the secret store {store:?} {reason}")),
        None => {
            let known: Vec<String> = stores.keys().map(|name| format!("{name:?}")).collect();
            return Err(format!(
                "the secret store {store:?} (auth.secretStore) does not exist for this application; {}",
                if known.is_empty() { "there is none".into() } else { format!("there are: {}", known.join(", ")) }
            ));
        }
    };
    let key = reference.key.as_deref();
    opened.get(name, key, environment).map_err(|reason| {
        format!("secret {name:?}, key {:?}, of the secret store {store:?} {reason}", key.unwrap_or(name))
    })
}

#[cfg(test)]
mod tests;
