//! A document's tree → a [`Component`], with Kubernetes' and Go's leniency: unknown keys are ignored, keys are
//! matched exactly first and without regard to case then (`secretStore` and `secretstore` both occur).

use dingtalk_binding::json;
use dingtalk_binding::secret::{Secret, credential};

use super::yaml::{Kind, Mistake, Node};

pub(super) const API_VERSION: &str = "dapr.io/v1alpha1";
const KIND: &str = "Component";

/// What is needed to decide whether a component is ours at all; the rest is read after that decision, so that
/// nothing we do not handle can be wrong.
pub(super) struct Head<'n, 'a> {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    /// As written.
    pub(super) component_type: String,
    pub(super) scopes: Vec<String>,
    /// Line of the document's first node.
    pub(super) line: u64,
    document: &'n Node<'a>,
    spec: &'n Node<'a>,
}

/// The rest of a component. `Debug` shows no value.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) version: String,
    /// As written; whether it is a duration is decided later.
    pub(super) init_timeout: Option<String>,
    pub(super) ignore_errors: bool,
    pub(super) secret_store: Option<String>,
    pub(super) items: Vec<Item>,
}

/// One entry of `spec.metadata`.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) line: u64,
    pub(super) value: Option<Secret>,
    pub(super) env_ref: Option<String>,
    /// Boxed: there are some items in each of ten thousand files, and this is in few of them.
    pub(super) secret_key_ref: Option<Box<SecretKeyRef>>,
}

/// Where a secret is.
#[derive(Debug)]
pub(super) struct SecretKeyRef {
    pub(super) name: Option<String>,
    pub(super) key: Option<String>,
}

impl<'n, 'a> Head<'n, 'a> {
    /// Reads the head; `None` if the document is of another kind.
    pub(super) fn read(document: &'n Node<'a>) -> Result<Option<Self>, Mistake> {
        if !matches!(document.kind, Kind::Map(_)) {
            return Err(document.mistake(
                "a document must be a mapping that begins with apiVersion and kind; remove it or put it into another directory",
            ));
        }
        // A list or mapping here is some other kind's business.
        let is = |key, expected| matches!(field(document, key).map(|node| &node.kind), Some(Kind::Scalar(text)) if text == expected);
        if !is("apiVersion", API_VERSION) || !is("kind", KIND) {
            return Ok(None);
        }
        let metadata = mapping(document, "metadata")?
            .ok_or_else(|| document.mistake("a Component needs a metadata mapping; add metadata.name"))?;
        let name = text(metadata, "name", "metadata.name")?.unwrap_or_default();
        if let Some(reason) = refuse_name(&name) {
            return Err(field(metadata, "name").unwrap_or(metadata).mistake(format!("metadata.name {reason}")));
        }
        let spec = mapping(document, "spec")?
            .ok_or_else(|| document.mistake(format!("component {name:?} needs a spec mapping; add spec.type")))?;
        let component_type =
            text(spec, "type", "spec.type")?.filter(|component_type| !component_type.is_empty()).ok_or_else(|| {
                spec.mistake(format!(
                    "component {name:?} has no spec.type; add for example \"type: bindings.dingtalk.webhook\""
                ))
            })?;
        let mut scopes = Vec::new();
        for scope in list(document, "scopes", "scopes")? {
            scopes.extend(scalar(scope, "an entry of scopes")?);
        }
        let namespace = text(metadata, "namespace", "metadata.namespace")?.filter(|namespace| !namespace.is_empty());
        Ok(Some(Self { name, namespace, component_type, scopes, line: document.line, document, spec }))
    }

    /// Reads the rest.
    pub(super) fn component(&self) -> Result<Component, Mistake> {
        let secret_store = match mapping(self.document, "auth")? {
            Some(auth) => text(auth, "secretStore", "auth.secretStore")?.filter(|store| !store.is_empty()),
            None => None,
        };
        let mut items = Vec::new();
        for entry in list(self.spec, "metadata", "spec.metadata")? {
            items.push(item(entry)?);
        }
        Ok(Component {
            version: text(self.spec, "version", "spec.version")?.unwrap_or_default(),
            init_timeout: text(self.spec, "initTimeout", "spec.initTimeout")?,
            ignore_errors: boolean(self.spec, "ignoreErrors", "spec.ignoreErrors")?,
            secret_store,
            items,
        })
    }
}

fn item(entry: &Node<'_>) -> Result<Item, Mistake> {
    if !matches!(entry.kind, Kind::Map(_)) {
        return Err(entry.mistake("an entry of spec.metadata must be a mapping, for example \"- name: url\""));
    }
    let name = text(entry, "name", "the name of an entry of spec.metadata")?
        .filter(|name| !name.is_empty())
        .ok_or_else(|| entry.mistake("an entry of spec.metadata has no name; add one, for example \"name: url\""))?;
    let value = match field(entry, "value") {
        Some(node) => match &node.kind {
            Kind::Null => None,
            Kind::Scalar(text) => Some(Secret::new(text.as_ref())),
            Kind::List(_) | Kind::Map(_) => {
                return Err(node.mistake(format!(
                    "the value of property {name:?} must be a text or a number; put templates such as \"{{uuid}}\" into quotes"
                )));
            }
        },
        None => None,
    };
    let env_ref = text(entry, "envRef", &format!("the envRef of property {name:?}"))?.filter(|env| !env.is_empty());
    let secret_key_ref = match field(entry, "secretKeyRef") {
        None => None,
        Some(Node { kind: Kind::Null, .. }) => None,
        Some(node @ Node { kind: Kind::Map(_), .. }) => {
            let read = |key| {
                let what = format!("secretKeyRef.{key} of property {name:?}");
                Ok(text(node, key, &what)?.filter(|text| !text.is_empty()))
            };
            Some(Box::new(SecretKeyRef { name: read("name")?, key: read("key")? }))
        }
        Some(node) => {
            let reason = format!("the secretKeyRef of property {name:?} must be a mapping with name and key");
            return Err(node.mistake(reason));
        }
    };
    Ok(Item { line: entry.line, name, value, env_ref, secret_key_ref })
}

/// Why a name cannot be one: it is a segment of the API's paths. The rules are those of Kubernetes.
pub(crate) fn refuse_name(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("is missing; give the component a name"),
        "." | ".." => Some("may not be \".\" or \"..\"; choose another name"),
        // They stand in log lines, answers and paths.
        _ if credential(name).is_some() => {
            Some("looks like a token or a secret, and a name is shown; choose another name")
        }
        _ if name.contains(['/', '%']) => Some("may not contain \"/\" or \"%\"; choose another name"),
        // Names stand in log lines.
        _ if name.contains(char::is_control) => Some("may not contain control characters; choose another name"),
        _ => None,
    }
}

/// The value of `key`: in this spelling, or else in the first one that Go would take for it.
pub(super) fn field<'n, 'a>(node: &'n Node<'a>, key: &str) -> Option<&'n Node<'a>> {
    let Kind::Map(entries) = &node.kind else { return None };
    let exact = entries.iter().find(|(name, _)| name == key);
    exact.or_else(|| entries.iter().find(|(name, _)| json::folds_to(name, key))).map(|(_, value)| value)
}

fn scalar(node: &Node<'_>, what: &str) -> Result<Option<String>, Mistake> {
    match &node.kind {
        Kind::Null => Ok(None),
        Kind::Scalar(text) => Ok(Some(text.to_string())),
        Kind::List(_) | Kind::Map(_) => Err(node.mistake(format!("{what} must be a text"))),
    }
}

pub(super) fn text(node: &Node<'_>, key: &str, what: &str) -> Result<Option<String>, Mistake> {
    field(node, key).map_or(Ok(None), |value| scalar(value, what))
}

pub(super) fn boolean(node: &Node<'_>, key: &str, what: &str) -> Result<bool, Mistake> {
    let Some(value) = field(node, key) else { return Ok(false) };
    match scalar(value, what)?.map(|text| text.to_ascii_lowercase()).as_deref() {
        None | Some("false" | "no" | "off" | "n") => Ok(false),
        Some("true" | "yes" | "on" | "y") => Ok(true),
        Some(_) => Err(value.mistake(format!("{what} must be true or false"))),
    }
}

pub(super) fn mapping<'n, 'a>(node: &'n Node<'a>, key: &str) -> Result<Option<&'n Node<'a>>, Mistake> {
    match field(node, key) {
        None => Ok(None),
        Some(Node { kind: Kind::Null, .. }) => Ok(None),
        Some(value @ Node { kind: Kind::Map(_), .. }) => Ok(Some(value)),
        Some(value) => Err(value.mistake(format!("{key} must be a mapping"))),
    }
}

pub(super) fn list<'n, 'a>(node: &'n Node<'a>, key: &str, what: &str) -> Result<&'n [Node<'a>], Mistake> {
    match field(node, key) {
        None => Ok(&[]),
        Some(Node { kind: Kind::Null, .. }) => Ok(&[]),
        Some(Node { kind: Kind::List(items), .. }) => Ok(items),
        Some(value) => Err(value.mistake(format!("{what} must be a list"))),
    }
}
