//! Dapr's `Configuration` resource, as far as this host does what it says.
//!
//! What would loosen nothing if it is left out is left out with a warning. What is there to keep somebody out is not: it is
//! an error where it cannot be done.

use std::path::{Path, PathBuf};

use dingtalk_api::grpc;
use dingtalk_api::route::{self, Lists};

use super::schema::{API_VERSION, boolean, field, list, mapping, text};
use super::yaml::{self, Kind, Mistake, Node};
use super::{Context, LoadError, traces};
use crate::files;
use crate::spans::settings::Tracing;

const KIND: &str = "Configuration";

/// What a configuration says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Which routes of the HTTP API there are.
    pub lists: Lists,
    /// Which methods of the gRPC API there are.
    pub grpc_lists: Lists,
    /// Whether metrics are served, if it says so.
    pub metrics: Option<bool>,
    /// Whether component files are followed, if it says so.
    pub hot_reload: Option<bool>,
    /// Which spans are wanted.
    pub tracing: Tracing,
    /// What it says in vain. Each names its file.
    pub warnings: Vec<String>,
}

/// Reads the configuration in `path`.
///
/// # Errors
///
/// If the file cannot be read, is no YAML, has no `Configuration` or several, or has a rule that cannot be kept.
pub fn load_configuration(path: &Path, context: &Context<'_>) -> Result<Configuration, LoadError> {
    let (text, _) = files::read(path).map_err(|reason| LoadError::Unreadable { path: path.to_owned(), reason })?;
    read(&text, path, context).map_err(|mistake| LoadError::Document {
        file: PathBuf::from(path),
        line: mistake.line,
        column: mistake.column,
        reason: mistake.reason,
    })
}

fn read(text_of_file: &str, path: &Path, context: &Context<'_>) -> Result<Configuration, Mistake> {
    let mut found = None;
    for document in &yaml::read(text_of_file)? {
        let is = |key, expected| matches!(field(document, key).map(|node| &node.kind), Some(Kind::Scalar(text)) if text == expected);
        if !is("apiVersion", API_VERSION) || !is("kind", KIND) {
            continue;
        }
        if found.is_some() {
            return Err(document.mistake("there are two Configurations in this file; remove one"));
        }
        found = Some(configuration(document, path, context)?);
    }
    let none = || Mistake {
        line: 1,
        column: 1,
        reason: format!("there is no document with apiVersion {API_VERSION} and kind {KIND}; name the right file"),
    };
    found.ok_or_else(none)
}

fn configuration(document: &Node<'_>, path: &Path, context: &Context<'_>) -> Result<Configuration, Mistake> {
    let mut configuration = Configuration::default();
    let ours = context.namespace.filter(|namespace| !namespace.is_empty());
    let theirs = match mapping(document, "metadata")? {
        Some(metadata) => text(metadata, "namespace", "metadata.namespace")?.filter(|namespace| !namespace.is_empty()),
        None => None,
    };
    if let (Some(ours), Some(theirs)) = (ours, theirs)
        && ours != theirs
    {
        return Err(document.mistake(format!(
            "the configuration is of the namespace {theirs:?}, and this host is in {ours:?}; set NAMESPACE, or name another file"
        )));
    }
    let Some(spec) = mapping(document, "spec")? else { return Ok(configuration) };
    let Kind::Map(entries) = &spec.kind else { return Ok(configuration) };
    let mut warn = |line: u64, what: &str| {
        configuration.warnings.push(format!("{}:{line}: {what}", path.display()));
    };
    let mut tracing = Tracing::default();
    let mut features = None;
    let mut metrics = None;
    for (name, node) in entries {
        match name.to_ascii_lowercase().as_str() {
            "api" | "features" => {}
            "metric" | "metrics" => {
                if has_other_than(node, &["enabled"]) {
                    warn(
                        node.line,
                        &format!("spec.{name}: only \"enabled\" is followed; buckets and labels are Dapr's defaults"),
                    );
                }
                if field(node, "enabled").is_some() {
                    metrics = Some(boolean(node, "enabled", "metrics.enabled")?);
                }
            }
            "tracing" if matches!(node.kind, Kind::Null) => {}
            "tracing" => {
                let (said, in_vain) = traces::read(node, context.env)?;
                tracing = said;
                for (line, what) in in_vain {
                    warn(line, &what);
                }
            }
            "accesscontrol" | "secrets" | "components" => {
                // Who may call other applications, read secrets by the API, or have a component of another kind: nobody.
                tracing::debug!(spec = %name, "there is nothing that it would limit");
            }
            _ => warn(node.line, &format!("spec.{name} is not followed by this host")),
        }
    }
    if let Some(api) = mapping(spec, "api")? {
        let mut rules = |key| rules(api, key, path, &mut configuration.warnings);
        let ([allowed, grpc_allowed], [denied, grpc_denied]) = (rules("allowed")?, rules("denied")?);
        configuration.lists = Lists { allowed, denied };
        configuration.grpc_lists = Lists { allowed: grpc_allowed, denied: grpc_denied };
    }
    for feature in list(spec, "features", "spec.features")? {
        if text(feature, "name", "the name of a feature")?.as_deref() == Some("HotReload") {
            features = Some(boolean(feature, "enabled", "the enabled of the feature HotReload")?);
        }
    }
    (configuration.metrics, configuration.tracing) = (metrics, tracing);
    configuration.hot_reload = features;
    Ok(configuration)
}

fn has_other_than(node: &Node<'_>, known: &[&str]) -> bool {
    matches!(&node.kind, Kind::Map(entries) if entries.iter().any(|(name, _)| !known.contains(&name.as_ref())))
}

/// The rules of one list, `version/name`: those of HTTP, and those of gRPC.
fn rules(api: &Node<'_>, key: &str, path: &Path, warnings: &mut Vec<String>) -> Result<[Vec<String>; 2], Mistake> {
    let what = format!("spec.api.{key}");
    let (mut http, mut grpc) = (Vec::new(), Vec::new());
    for rule in list(api, key, &what)? {
        let part = |part: &str| {
            let found = text(rule, part, &format!("the {part} of a rule of {what}"))?.filter(|text| !text.is_empty());
            found.ok_or_else(|| {
                rule.mistake(format!("a rule of {what} has no {part}; it needs name, version and protocol"))
            })
        };
        let (name, version, protocol) = (part("name")?, part("version")?, part("protocol")?);
        let named = format!("{version}/{name}");
        let (is_named, list): (fn(&str) -> bool, _) = match protocol.to_ascii_lowercase().as_str() {
            "http" => (route::is_named, &mut http),
            "grpc" => (grpc::is_named, &mut grpc),
            _ => return Err(rule.mistake(format!("the protocol of a rule of {what} must be http or grpc"))),
        };
        // Perhaps an API of Dapr's that is not here; perhaps a mistake, which keeps nobody out.
        if !is_named(&named) {
            let (file, line) = (path.display(), rule.line);
            warnings.push(format!(
                "{file}:{line}: this rule of {what} names nothing that is here, so that it {} nothing; there are bindings \
                 and metadata, of version v1",
                if key == "allowed" { "allows" } else { "denies" }
            ));
        }
        list.push(named);
    }
    Ok([http, grpc])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: &str) -> Result<Configuration, String> {
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: c, namespace: prod}}\n{spec}"
        );
        whole(&text)
    }

    fn whole(text: &str) -> Result<Configuration, String> {
        let context = Context { app_id: "shop", namespace: Some("prod"), env: &|_| None };
        read(text, Path::new("c.yaml"), &context)
            .map_err(|mistake| format!("{}:{}: {}", mistake.line, mistake.column, mistake.reason))
    }

    #[test]
    fn the_documented_lists() {
        let spec = "spec:\n  api:\n    allowed:\n    - {name: bindings, version: v1, protocol: HTTP}\n    - {name: invoke, version: v1.0, protocol: grpc}\n    denied:\n    - name: metadata\n      version: v1.0\n      protocol: http\n";
        let lists = Lists { allowed: vec!["v1/bindings".into()], denied: vec!["v1.0/metadata".into()] };
        let grpc_lists = Lists { allowed: vec!["v1.0/invoke".into()], denied: Vec::new() };
        let warnings = vec!["c.yaml:8: this rule of spec.api.allowed names nothing that is here, so that it allows nothing; there are bindings and metadata, of version v1".into()];
        assert_eq!(of(spec), Ok(Configuration { lists, grpc_lists, warnings, ..Configuration::default() }));
        for (rule, said) in [
            ("{name: bindings, version: v1}", "has no protocol"),
            ("{name: bindings, protocol: http}", "has no version"),
            ("{version: v1, protocol: http}", "has no name"),
            ("{name: a, version: v1, protocol: tcp}", "must be http or grpc"),
        ] {
            let error = of(&format!("spec:\n  api:\n    denied:\n    - {rule}\n")).unwrap_err();
            assert!(error.starts_with("7:7: ") && error.contains(said), "{error}");
        }
        let error = of("spec: {api: {denied: all}}").unwrap_err();
        assert!(error.contains("spec.api.denied must be a list"), "{error}");
    }

    #[test]
    fn a_rule_that_names_nothing_is_told_with_its_place() {
        for (rule, is_there) in [
            ("bindings, version: v1, protocol: http", true),
            ("bindings, version: v1.0, protocol: http", true),
            ("bindings/{name}, version: v1.0, protocol: http", true),
            ("metadata, version: v1, protocol: gRPC", true),
            ("binding, version: v1, protocol: http", false),
            ("Bindings, version: v1, protocol: http", false),
            ("bindings, version: 1, protocol: http", false),
            ("bindings, version: v1.0, protocol: grpc", false),
            ("state, version: v1, protocol: http", false),
        ] {
            let warnings =
                of(&format!("spec:\n  api:\n    denied:\n    - {{name: \"{}}}\n", rule.replacen(',', "\",", 1)))
                    .unwrap()
                    .warnings;
            let told = warnings.iter().any(|line| {
                line.starts_with("c.yaml:7: this rule of spec.api.denied names nothing")
                    && line.contains("denies nothing")
            });
            assert_eq!((warnings.len(), told), (usize::from(!is_there), !is_there), "{rule}: {warnings:?}");
        }
    }

    #[test]
    fn what_is_followed_and_what_is_not() {
        let quiet = "spec:\n  metrics: {enabled: false}\n  features: [{name: HotReload, enabled: false}, {name: Other, enabled: true}]\n  tracing: {samplingRate: \"0\"}\n  accessControl: {}\n";
        let tracing = Tracing { rate: Some("0".into()), ..Tracing::default() };
        let expected =
            Configuration { metrics: Some(false), hot_reload: Some(false), tracing, ..Configuration::default() };
        assert_eq!(of(quiet), Ok(expected));
        let loud = "spec:\n  metric:\n    enabled: true\n    rules: []\n  tracing:\n    zipkin: {endpointAddress: z}\n  httpPipeline:\n    handlers: []\n";
        let read = of(loud).unwrap();
        assert_eq!((read.metrics, read.hot_reload), (Some(true), None));
        let [metric, zipkin, pipeline] = &read.warnings[..] else { panic!("{:?}", read.warnings) };
        assert_eq!(
            metric,
            "c.yaml:6: spec.metric: only \"enabled\" is followed; buckets and labels are Dapr's defaults"
        );
        assert!(zipkin.starts_with("c.yaml:9: spec.tracing.zipkin: "), "{zipkin}");
        assert_eq!(pipeline, "c.yaml:11: spec.httpPipeline is not followed by this host");
        assert_eq!(of("spec:"), Ok(Configuration::default()));
    }

    #[test]
    fn the_wrong_file_is_named() {
        for text in ["", "kind: Configuration", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: c}"] {
            assert!(whole(text).unwrap_err().contains("there is no document with"), "{text}");
        }
        let one = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\n";
        assert_eq!(whole(one), Ok(Configuration::default()));
        assert!(whole(&format!("{one}---\n{one}")).unwrap_err().contains("two Configurations"));
        assert!(
            whole(&format!("{one}metadata: {{namespace: test}}")).unwrap_err().contains("of the namespace \"test\"")
        );
        assert!(whole("a: [").unwrap_err().contains("not valid YAML"));
    }
}
