//! Files to bindings: which documents are meant for this application, and what their properties are once secrets are fetched
//! and templates filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dingtalk_binding::duration;
use dingtalk_binding::secret::Secret;

use super::schema::{Component, Head, Item};
use super::secrets::{Store, StoreKind};
use super::uuids::Uuids;
use super::{
    BindingFailure, BindingResource, Context, DEFAULT_INIT_TIMEOUT, Environment, LoadError, ResourceError, Resources,
    Source, environment, resiliency, secrets, templates, uuids, yaml,
};
use crate::resiliency::Resiliency;
use crate::{files, parallel};

/// The component files of a directory, in the order of their names.
pub(super) fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error: std::io::Error| LoadError::Unreadable {
        path: dir.to_owned(),
        reason: format!("cannot be read as a directory: {error}; create it or name another one"),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let is_yaml = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml"));
        // The directory itself says what it is, unless it is a link. A broken one stays in, and is reported when it is read.
        let is_dir = || match entry.file_type() {
            Ok(kind) if !kind.is_symlink() => kind.is_dir(),
            _ => path.is_dir(),
        };
        if is_yaml && !is_dir() {
            files.push(path);
        }
    }
    // They differ in their names alone: paths are compared part by part.
    files.sort_unstable_by(|one, other| one.file_name().cmp(&other.file_name()));
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
pub(super) type Failed<'a> = &'a mut dyn FnMut(LoadError) -> Result<(), LoadError>;

/// What one file has for this application.
#[derive(Default)]
struct Contents {
    bindings: Vec<Found>,
    stores: Vec<(StoreKind, Found)>,
    policies: Vec<Resiliency>,
    /// Stores of a kind that is not handled, and what is said of them.
    others: Vec<(String, String)>,
    warnings: Vec<String>,
    /// Components of this application, whatever their type.
    names: Vec<(String, Source)>,
    /// Documents that are left out, and why.
    left_out: Vec<(Option<String>, Source, &'static str)>,
}

/// Files that a thread reads before it takes the next ones: enough that a thread is worth it.
const BATCH: usize = 32;

/// Reads these files.
pub(super) fn load(
    files: &[PathBuf],
    context: &Context<'_>,
    uuids: &mut Uuids,
    failed: Failed<'_>,
) -> Result<Resources, LoadError> {
    let mut resources = Resources::default();
    let mut names = BTreeMap::new();
    let mut all = Contents::default();
    // Whichever thread was first: what is said of them has their order.
    for (contents, ended) in parallel::map(files, BATCH, |file| contents(file, context)) {
        for (name, source, reason) in &contents.left_out {
            tracing::debug!(component = name, %source, reason, "left out");
        }
        match unique(&mut names, &contents.names).and(ended) {
            Ok(()) => {
                let Contents { bindings, stores, policies, others, warnings, .. } = contents;
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
    for (kind, mut found) in all.stores {
        let opened = open(kind, &mut found, context, uuids, &mut resources);
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

/// Adds the components of one file to those of the files before it, none of which may have the same name.
fn unique(names: &mut BTreeMap<String, Source>, found: &[(String, Source)]) -> Result<(), LoadError> {
    for (name, source) in found {
        if let Some(first) = names.get(name) {
            return Err(LoadError::DuplicateName { name: name.clone(), first: first.clone(), second: source.clone() });
        }
        names.insert(name.clone(), source.clone());
    }
    Ok(())
}

/// Reads one file, up to the first mistake in it.
fn contents(file: &Path, context: &Context<'_>) -> (Contents, Result<(), LoadError>) {
    let mut contents = Contents::default();
    let ended = contents.read(file, context);
    (contents, ended)
}

impl Contents {
    fn read(&mut self, file: &Path, context: &Context<'_>) -> Result<(), LoadError> {
        let in_file = |mistake: yaml::Mistake| LoadError::Document {
            file: file.to_owned(),
            line: mistake.line,
            column: mistake.column,
            reason: mistake.reason,
        };
        let (text, _) = files::read(file).map_err(|reason| LoadError::Unreadable { path: file.to_owned(), reason })?;
        for document in yaml::read(&text).map_err(in_file)? {
            let here = Source { file: file.to_owned(), line: document.line };
            if let Some(found) = resiliency::read(&document, &here, context, &mut self.warnings).map_err(in_file)? {
                self.policies.push(found);
                continue;
            }
            let Some(head) = Head::read(&document).map_err(in_file)? else {
                self.left_out.push((None, here, "not a Component"));
                continue;
            };
            let source = Source { file: file.to_owned(), line: head.line };
            if let Some(reason) = applies_not(&head, context) {
                self.left_out.push((Some(head.name), source, reason));
                continue;
            }
            self.names.push((head.name.clone(), source.clone()));
            let store = StoreKind::of(&head.component_type);
            if store.is_none() && !is_binding(&head, &source, &mut self.warnings) {
                if head.component_type.to_ascii_lowercase().starts_with("secretstores.") {
                    let reason = format!(
                        "has the type {}, which is not handled by this host; use secretstores.local.file or secretstores.local.env",
                        head.component_type
                    );
                    self.others.push((head.name, reason));
                }
                continue;
            }
            let component = head.component().map_err(in_file)?;
            let found = Found { name: head.name, component_type: head.component_type, source, component };
            match store {
                Some(kind) => self.stores.push((kind, found)),
                None => self.bindings.push(found),
            }
        }
        Ok(())
    }
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
    found: &mut Found,
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
    let items = std::mem::take(&mut component.items);
    let properties = resolve(items, None, None, context, &mut uuid).map_err(|error| cannot(&error))?;
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
    let Component { version, init_timeout: limit, ignore_errors, secret_store, items } = component;
    let properties = if is_first_version(&version) {
        resolve(items, secret_store.as_deref(), Some(stores), context, &mut uuids.of(&name))
    } else {
        let (name, component_type, version) = (name.clone(), component_type.clone(), version.clone());
        Err(ResourceError::Version { name, component_type, version })
    };
    match properties {
        Ok(properties) => {
            let init_timeout = init_timeout(limit.as_deref()).unwrap_or_else(|reason| {
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
    items: Vec<Item>,
    store: Option<&str>,
    stores: Option<&Stores>,
    context: &Context<'_>,
    uuids: &mut uuids::Of<'_>,
) -> Result<Vec<(String, Secret)>, ResourceError> {
    let mut lines = BTreeMap::new();
    for item in &items {
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
    for mut item in items {
        let fetched = fetch(&mut item, store, stores, context.env);
        let Item { name, line, .. } = item;
        let value = match fetched {
            Ok(value) if !value.expose().contains('{') => value,
            Ok(value) => match templates::expand(value.expose().to_owned(), values, uuids.of_property(&name)) {
                Ok(text) => Secret::new(text),
                Err(templates::NoPodName) => return Err(ResourceError::PodName { property: name }),
            },
            Err(reason) => return Err(ResourceError::Unresolved { property: name, line, reason }),
        };
        properties.push((name, value));
    }
    Ok(properties)
}

/// The value of one item before templates, taken out of it. Dapr's precedence: an `envRef` counts where there is no value, and
/// a `secretKeyRef` replaces a value. The error is meant to follow the property's name.
fn fetch(
    item: &mut Item,
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
        return Ok(item.value.take().unwrap_or_else(|| Secret::new("")));
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
