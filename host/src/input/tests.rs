//! For how long an input remembers.

use dingtalk_binding::secret::Secret;
use dingtalk_component::COMPONENT;

use super::memory::UNLOADED;
use super::*;
use crate::clock;
use crate::egress::{Policy, Proxies};
use crate::resources::{BindingResource, Source};
use crate::sandbox::{Limits, Sandbox};

const MINUTE: Duration = Duration::from_secs(60);

async fn input(bindings: &[(&str, &str, &str)]) -> Input {
    let none = Bindings::new(Sandbox::new(COMPONENT, Limits::default(), clock::system()).unwrap());
    let input = Input::new(none, None, None, MINUTE);
    for &binding in bindings {
        add(&input, binding).await;
    }
    input
}

async fn add(input: &Input, (name, secret, skew): (&str, &str, &str)) {
    let properties = [("id", "x"), ("url", "http://127.0.0.1:9/"), ("secret", secret), ("callbackMaxSkew", skew)];
    let resource = BindingResource {
        name: name.into(),
        component_type: "bindings.dingtalk.webhook".into(),
        version: "v1".into(),
        properties: properties.map(|(name, value)| (name.into(), Secret::new(value))).into(),
        ignore_errors: false,
        init_timeout: MINUTE,
        source: Source { file: "bindings.yaml".into(), line: 1 },
    };
    input.add(resource, &Proxies::none(), &Policy::default()).await.unwrap();
}

/// A callback may arrive with the last moment of its signature, and is then read, waits for its turn and is verified:
/// what it repeats must still be known.
#[tokio::test]
async fn a_message_is_known_for_longer_than_its_callback_can_be_repeated() {
    let input = input(&[("narrow", "S3CR3T", "1m"), ("wide", "S3CR3T", "20m"), ("other", "0TH3R", "2h")]).await;
    let [narrow, wide, other] = ["narrow", "wide", "other"].map(|name| input.0.memory(name).unwrap());
    let limits = Limits::default();
    let late = Duration::from_secs(10) + limits.queue + limits.grace;
    // From a clock that is as far ahead as may be to one that is as far behind.
    assert!(narrow.messages.ids.lifetime() >= 2 * MINUTE + late, "{:?}", narrow.messages.ids.lifetime());
    assert!(wide.messages.ids.lifetime() >= 40 * MINUTE + late, "{:?}", wide.messages.ids.lifetime());
    // Whoever has seen a callback of one can send it to the other, which takes it for longer.
    let [narrow, wide, other] = [narrow, wide, other].map(|memory| memory.signatures.clone().unwrap());
    assert!(Arc::ptr_eq(&narrow, &wide) && !Arc::ptr_eq(&narrow, &other));
    assert!((40 * MINUTE + late..60 * MINUTE).contains(&narrow.lifetime()), "{:?}", narrow.lifetime());
    assert!(other.lifetime() >= 240 * MINUTE + late, "{:?}", other.lifetime());
}

/// Loading a binding again, with the old secret, another one, or none at all in between, is no way to have a message
/// delivered twice.
#[tokio::test]
async fn what_was_received_is_known_after_the_binding_was_loaded_again() {
    let input = input(&[("team", "S3CR3T", "1m")]).await;
    let first = input.0.memory("team").unwrap();
    add(&input, ("team", "S3CR3T", "1m")).await;
    let same = input.0.memory("team").unwrap();
    assert!(Arc::ptr_eq(&first, &same));

    add(&input, ("team", "AN0TH3R", "1m")).await;
    let another = input.0.memory("team").unwrap();
    assert!(Arc::ptr_eq(&first.messages, &another.messages));
    assert!(!Arc::ptr_eq(first.signatures.as_ref().unwrap(), another.signatures.as_ref().unwrap()));

    input.remove("team");
    assert!(input.0.memory("team").is_none());
    add(&input, ("team", "S3CR3T", "1m")).await;
    let back = input.0.memory("team").unwrap();
    assert!(Arc::ptr_eq(&first.messages, &back.messages));
    assert!(Arc::ptr_eq(first.signatures.as_ref().unwrap(), back.signatures.as_ref().unwrap()));

    // What is to be known for longer cannot be kept for as long as it was.
    add(&input, ("team", "S3CR3T", "10m")).await;
    let longer = input.0.memory("team").unwrap();
    assert!(longer.messages.ids.lifetime() >= 20 * MINUTE, "{:?}", longer.messages.ids.lifetime());
    assert!(longer.signatures.as_ref().unwrap().lifetime() >= 20 * MINUTE);
}

#[tokio::test]
async fn bindings_that_are_gone_are_forgotten_when_they_are_many() {
    let input = input(&[("stays", "S3CR3T", "1m")]).await;
    assert!(input.0.memory("stays").is_some());
    for number in 0..3 * UNLOADED {
        let (name, secret) = (format!("b{number}"), format!("S3CR3T-{number}"));
        add(&input, (&name, &secret, "1m")).await;
        assert!(input.0.memory(&name).is_some());
        input.remove(&name);
    }
    let (memories, signatures) =
        (input.0.memories.by_name.lock().unwrap().len(), input.0.memories.by_key.lock().unwrap().len());
    assert!(memories <= UNLOADED + 2 && signatures <= UNLOADED + 2, "{memories} and {signatures}");
    assert!(input.0.memories.by_name.lock().unwrap().contains_key("stays"));
}
