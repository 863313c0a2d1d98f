//! Dapr's component files → the bindings to run, with every secret fetched and every template filled in.
//!
//! What Dapr leaves silent is an error here: a document that cannot be read stops the load, and a secret that
//! cannot be read stops its binding, because the alternative is a binding that is missing, or one that sends
//! unsigned. No error, warning or `Debug` output contains a property's value.

mod configuration;
mod environment;
mod load;
mod resiliency;
mod schema;
mod secrets;
mod templates;
mod traces;
mod uuids;
pub(crate) mod watch;
mod yaml;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dingtalk_binding::secret::Secret;
use sha2::{Digest as _, Sha256};

use crate::event::Digest;
use crate::resiliency::Resiliency;

pub use configuration::{Configuration, load_configuration};
pub use environment::Environment;
use load::{Failed, load, yaml_files};
pub(crate) use schema::refuse_name;
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

#[cfg(test)]
mod tests;
