//! For how long an input remembers.

use dingtalk_binding::secret::Secret;
use dingtalk_component::COMPONENT;

use super::*;
use crate::clock;
use crate::egress::{Policy, Proxies};
use crate::resources::{BindingResource, Source};
use crate::sandbox::{Limits, Sandbox};

const MINUTE: Duration = Duration::from_secs(60);

async fn input(bindings: &[(&str, &str, &str)]) -> Input {
    let mut loaded = Bindings::new(Sandbox::new(COMPONENT, Limits::default(), clock::system()).unwrap());
    for &(name, secret, skew) in bindings {
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
        loaded.add(resource, &Proxies::none(), &Policy::default()).await.unwrap();
    }
    Input::new(loaded, None, None, MINUTE)
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
    assert!(narrow.ids.lifetime() >= 2 * MINUTE + late, "{:?}", narrow.ids.lifetime());
    assert!(wide.ids.lifetime() >= 40 * MINUTE + late, "{:?}", wide.ids.lifetime());
    // Whoever has seen a callback of one can send it to the other, which takes it for longer.
    let [narrow, wide, other] = [narrow, wide, other].map(|memory| memory.signatures.clone().unwrap());
    assert!(Arc::ptr_eq(&narrow, &wide) && !Arc::ptr_eq(&narrow, &other));
    assert!((40 * MINUTE + late..60 * MINUTE).contains(&narrow.lifetime()), "{:?}", narrow.lifetime());
    assert!(other.lifetime() >= 240 * MINUTE + late, "{:?}", other.lifetime());
}
