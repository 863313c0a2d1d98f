//! The component instances that daprd has initialised, by the name that comes with every call: one binding each, for the
//! input and the output side together.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dingtalk_binding::secret::Secret;
use sha2::{Digest as _, Sha256};

use crate::bindings::Binding;
use crate::egress::{Policy, Proxies};
use crate::event::Digest;
use crate::input::Input;
use crate::resources::{BindingResource, DEFAULT_INIT_TIMEOUT, Source, refuse_name};
use crate::shown::shown;

/// Instances of all daprds. Nothing says when one is no longer used: daprd has no call for that.
const MAX_INSTANCES: usize = 1_024;

/// The longest name that a resource can have in Kubernetes.
const MAX_NAME: usize = 253;

/// Properties of an instance, and bytes of their names and values. A binding knows a handful, and a secret is short.
const MAX_PROPERTIES: usize = 256;
const MAX_BYTES: usize = 64 << 10;

/// Whoever names no instance means this one.
pub(super) const DEFAULT: &str = "default";

/// Why an instance cannot be initialised. The texts contain no value of a property.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// More than there may be.
    TooMuch(String),
    /// What was given cannot be used.
    Wrong(String),
}

/// What is known of the instances.
pub(super) struct Instances {
    input: Input,
    proxies: Proxies,
    policy: Policy,
    known: Mutex<HashMap<String, Known>>,
}

/// What an instance was initialised with. The lock is held meanwhile: both sides are initialised at once, with the same.
type Known = Arc<tokio::sync::Mutex<Option<Digest>>>;

impl Instances {
    /// None yet. They may connect to what `policy` allows.
    pub(super) fn new(input: Input, proxies: Proxies, policy: Policy) -> Self {
        Self { input, proxies, policy, known: Mutex::default() }
    }

    /// The binding of an instance that has been initialised.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Binding>> {
        self.input.bindings().get(name)
    }

    /// Initialises an instance of `component_type`, in place of the one of this name. With the properties that it has
    /// already, nothing is done; if it fails, the one before stays.
    pub(super) async fn init(
        &self,
        name: &str,
        component_type: &str,
        properties: BTreeMap<String, String>,
    ) -> Result<(), Refused> {
        check(name, &properties)?;
        let known = self.known(name)?;
        let mut current = known.lock().await;
        let digest = digest(component_type, &properties);
        if *current == Some(digest) {
            return Ok(());
        }
        let resource = BindingResource {
            name: name.to_owned(),
            component_type: component_type.to_owned(),
            version: String::new(),
            properties: properties.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            ignore_errors: false,
            init_timeout: DEFAULT_INIT_TIMEOUT,
            source: Source { file: PathBuf::from(component_type), line: 0 },
        };
        // Should this be broken off, nobody knows which of the two it has become.
        let before = current.take();
        if let Err(error) = self.input.add(resource, &self.proxies, &self.policy).await {
            *current = before;
            return Err(Refused::Wrong(shown(error.reason())));
        }
        *current = Some(digest);
        let is_new = before.is_none();
        tracing::info!(binding = name, "component instance {}", if is_new { "initialised" } else { "replaced" });
        Ok(())
    }

    /// What is known of an instance, which may be nothing.
    fn known(&self, name: &str) -> Result<Known, Refused> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(name) {
            return Ok(Arc::clone(found));
        }
        if known.len() >= MAX_INSTANCES {
            // Those that failed, and are not tried again at this moment.
            known.retain(|_, one| Arc::strong_count(one) > 1 || one.try_lock().is_ok_and(|digest| digest.is_some()));
        }
        if known.len() >= MAX_INSTANCES {
            return Err(Refused::TooMuch(format!(
                "there are {MAX_INSTANCES} component instances already; restart this program, so that those no longer \
                 used are forgotten"
            )));
        }
        let new = Known::default();
        known.insert(name.to_owned(), Arc::clone(&new));
        Ok(new)
    }
}

/// A name is a segment of a callback's path, and stands in log lines.
pub(super) fn check_name(name: &str) -> Result<(), Refused> {
    if name.len() > MAX_NAME {
        return Err(Refused::TooMuch(format!("the name of the component instance is longer than {MAX_NAME} bytes")));
    }
    match refuse_name(name) {
        Some(reason) => Err(Refused::Wrong(format!("the name of the component instance {reason}"))),
        None => Ok(()),
    }
}

fn check(name: &str, properties: &BTreeMap<String, String>) -> Result<(), Refused> {
    check_name(name)?;
    if properties.len() > MAX_PROPERTIES {
        return Err(Refused::TooMuch(format!("there are more than {MAX_PROPERTIES} properties")));
    }
    if properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_BYTES {
        return Err(Refused::TooMuch(format!("the properties have more than {} KiB together", MAX_BYTES >> 10)));
    }
    let mut names: Vec<String> = properties.keys().map(|name| name.to_lowercase()).collect();
    names.sort_unstable();
    match names.windows(2).find_map(|pair| if let [one, other] = pair { (one == other).then_some(one) } else { None }) {
        // Its own text for it.
        Some(twice) => Err(Refused::Wrong(format!("key {twice} is duplicate in the metadata"))),
        None => Ok(()),
    }
}

/// Of type and properties: what need not be kept to be compared.
fn digest(component_type: &str, properties: &BTreeMap<String, String>) -> Digest {
    let mut digest = Sha256::new();
    let items = properties.iter().flat_map(|(name, value)| [name.as_str(), value]);
    for text in std::iter::once(component_type).chain(items) {
        // With its length, so that no two lists read alike.
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(text);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{App, DaprApp};
    use crate::bindings::Bindings;
    use crate::clock;
    use crate::sandbox::{Limits, Sandbox};

    const TYPE: &str = "bindings.dingtalk.webhook";

    fn instances() -> Instances {
        let sandbox = Sandbox::new(dingtalk_component::COMPONENT, Limits::default(), clock::system()).unwrap();
        let (app, timeout) =
            (App::Dapr(DaprApp::new(std::time::Duration::from_secs(1))), std::time::Duration::from_secs(1));
        let input = Input::new(Bindings::new(sandbox), Some(app), None, timeout);
        Instances::new(input, Proxies::none(), Policy::default())
    }

    fn properties(items: &[(&str, &str)]) -> BTreeMap<String, String> {
        items.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const TEAM: [(&str, &str); 4] = [
        ("id", "team"),
        ("url", "http://127.0.0.1:9/robot/send?access_token=T0K3N"),
        ("direction", "input, output"),
        ("route", "/x"),
    ];

    #[tokio::test]
    async fn both_sides_are_one_binding_and_other_properties_another() {
        let instances = instances();
        let init = async |items: &[(&str, &str)]| instances.init("team", TYPE, properties(items)).await;
        init(&TEAM).await.unwrap();
        let first = instances.get("team").unwrap();
        init(&TEAM).await.unwrap();
        assert!(Arc::ptr_eq(&first, &instances.get("team").unwrap()), "nothing was to be done");
        init(&[&TEAM[..], &[("secret", "SECother")]].concat()).await.unwrap();
        let second = instances.get("team").unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        for wrong in [&[("id", "team")][..], &[("id", "team"), ("url", "http://a b/S3CR3T")], &[]] {
            let Err(Refused::Wrong(reason)) = init(wrong).await else { panic!("{wrong:?} was taken") };
            assert!(reason.contains("property \"") && !reason.contains("S3CR3T"), "{reason}");
            assert!(Arc::ptr_eq(&second, &instances.get("team").unwrap()), "the one before stays");
        }
        // And is still what its properties say.
        init(&[&TEAM[..], &[("secret", "SECother")]].concat()).await.unwrap();
        assert!(Arc::ptr_eq(&second, &instances.get("team").unwrap()));
        assert!(instances.get("other").is_none());
    }

    #[tokio::test]
    async fn sides_that_are_initialised_at_once_wait_for_each_other() {
        let instances = instances();
        let init = || instances.init("team", TYPE, properties(&TEAM));
        let (one, other, third) = tokio::join!(init(), init(), init());
        assert_eq!((one, other, third), (Ok(()), Ok(()), Ok(())));
    }

    #[test]
    fn names_and_properties_have_limits() {
        let wrong = |name: &str, items: BTreeMap<String, String>| check(name, &items).unwrap_err();
        for (name, said) in [("..", "may not be"), ("a/b", "may not contain"), ("a\n", "control characters")] {
            assert!(
                matches!(wrong(name, properties(&TEAM)), Refused::Wrong(reason) if reason.contains(said)),
                "{name}"
            );
        }
        assert_eq!(check(&"n".repeat(MAX_NAME), &properties(&TEAM)), Ok(()));
        assert!(matches!(wrong(&"n".repeat(MAX_NAME + 1), BTreeMap::new()), Refused::TooMuch(_)));
        let many = |count: usize| (0..count).map(|number| (number.to_string(), String::new())).collect();
        assert_eq!(check("a", &many(MAX_PROPERTIES)), Ok(()));
        assert!(matches!(wrong("a", many(MAX_PROPERTIES + 1)), Refused::TooMuch(_)));
        let long = |length: usize| properties(&[("a", &"x".repeat(length))]);
        assert_eq!(check("a", &long(MAX_BYTES - 1)), Ok(()));
        assert!(matches!(wrong("a", long(MAX_BYTES)), Refused::TooMuch(_)));
        let twice = wrong("a", properties(&[("URL", "S3CR3T"), ("url", "S3CR3T")]));
        assert_eq!(twice, Refused::Wrong("key url is duplicate in the metadata".into()));
    }

    #[tokio::test]
    async fn there_is_an_end_to_instances_and_those_that_failed_make_room() {
        let instances = instances();
        for number in 0..MAX_INSTANCES {
            instances.known(&number.to_string()).unwrap();
        }
        // Somebody is at it.
        let kept = instances.known("7").unwrap();
        for number in 0..MAX_INSTANCES - 1 {
            let known = instances.known(&format!("new {number}")).unwrap();
            *known.lock().await = Some([0; 32]);
        }
        let Err(Refused::TooMuch(reason)) = instances.known("one more") else { panic!("one more") };
        assert!(reason.starts_with("there are 1024 component instances already; restart"), "{reason}");
        assert!(Arc::ptr_eq(&kept, &instances.known("7").unwrap()));
    }

    #[test]
    fn no_two_lists_have_one_digest() {
        let digest = |items: &[(&str, &str)]| digest(TYPE, &properties(items));
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_ne!(digest(&[("a", ""), ("b", "c")]), digest(&[("a", "b"), ("c", "")]));
        assert_eq!(digest(&TEAM), digest(&TEAM));
    }
}
