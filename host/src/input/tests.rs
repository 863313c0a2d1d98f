//! For how long an input remembers.

use dingtalk_binding::secret::Secret;
use dingtalk_component::COMPONENT;

use super::ids::Ids;
use super::memory::UNLOADED;
use super::reach::Reach;
use super::repeats::Repeats;
use super::signatures::Signatures;
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

async fn add(input: &Input, binding: (&str, &str, &str)) {
    add_with(input, binding, &[]).await;
}

async fn add_with(input: &Input, (name, secret, skew): (&str, &str, &str), more: &[(&str, &str)]) {
    let properties = [("id", "x"), ("url", "http://127.0.0.1:9/"), ("secret", secret), ("callbackMaxSkew", skew)];
    let properties = properties.iter().chain(more);
    let resource = BindingResource {
        name: name.into(),
        component_type: "bindings.dingtalk.webhook".into(),
        version: "v1".into(),
        properties: properties.map(|(name, value)| ((*name).into(), Secret::new(*value))).collect(),
        ignore_errors: false,
        init_timeout: MINUTE,
        source: Source { file: "bindings.yaml".into(), line: 1 },
    };
    input.add(resource, &Proxies::none(), &Policy::default()).await.unwrap();
}

fn messages(input: &Input, name: &str) -> Arc<Messages> {
    input.0.messages(name).unwrap()
}

/// Those by each of the binding's keys, the present one first.
fn signatures(input: &Input, name: &str) -> Vec<Arc<Signatures>> {
    let binding = input.0.bindings.get(name).unwrap();
    binding.keys().map(|key| input.0.memories.signatures(key, &binding)).collect()
}

/// A callback may arrive with the last moment of its signature, and is then read, waits for its turn and is verified:
/// what it repeats must still be known.
#[tokio::test]
async fn a_message_is_known_for_longer_than_its_callback_can_be_repeated() {
    let input = input(&[("narrow", "S3CR3T", "1m"), ("wide", "S3CR3T", "20m"), ("other", "0TH3R", "2h")]).await;
    let limits = Limits::default();
    let late = Duration::from_secs(10) + limits.queue + limits.grace;
    // From a clock that is as far ahead as may be to one that is as far behind.
    let [narrow, wide] = ["narrow", "wide"].map(|name| messages(&input, name).reach.lifetime());
    assert!((2 * MINUTE + late..20 * MINUTE).contains(&narrow), "{narrow:?}");
    assert!(wide >= 40 * MINUTE + late, "{wide:?}");
    // Whoever has seen a callback of one can send it to the other, which takes it for longer.
    let [narrow, wide, other] = ["narrow", "wide", "other"].map(|name| signatures(&input, name).remove(0));
    assert!(Arc::ptr_eq(&narrow, &wide) && !Arc::ptr_eq(&narrow, &other));
    assert!((40 * MINUTE + late..60 * MINUTE).contains(&narrow.reach.lifetime()), "{:?}", narrow.reach.lifetime());
    assert!(other.reach.lifetime() >= 240 * MINUTE + late, "{:?}", other.reach.lifetime());
}

/// Loading a binding again, with the old secret, another one, or none at all in between, is no way to have a message
/// delivered twice.
#[tokio::test]
async fn what_was_received_is_known_after_the_binding_was_loaded_again() {
    let input = input(&[("team", "S3CR3T", "1m")]).await;
    let (first, [by_first]) = (messages(&input, "team"), <[_; 1]>::try_from(signatures(&input, "team")).ok().unwrap());
    add(&input, ("team", "S3CR3T", "1m")).await;
    assert!(Arc::ptr_eq(&first, &messages(&input, "team")) && Arc::ptr_eq(&by_first, &signatures(&input, "team")[0]));

    add(&input, ("team", "AN0TH3R", "1m")).await;
    assert!(Arc::ptr_eq(&first, &messages(&input, "team")));
    assert!(!Arc::ptr_eq(&by_first, &signatures(&input, "team")[0]));
    // What was seen under the old secret, which is named as the previous one.
    add_with(&input, ("team", "AN0TH3R", "1m"), &[("previousAppSecret", "S3CR3T")]).await;
    assert!(Arc::ptr_eq(&by_first, &signatures(&input, "team")[1]));
    add_with(&input, ("team", "AN0TH3R", "1m"), &[("previousAppSecret", "AN0TH3R")]).await;
    assert_eq!(signatures(&input, "team").len(), 1, "one key is one");

    input.remove("team");
    assert!(input.0.messages("team").is_none());
    add(&input, ("team", "S3CR3T", "1m")).await;
    assert!(Arc::ptr_eq(&first, &messages(&input, "team")) && Arc::ptr_eq(&by_first, &signatures(&input, "team")[0]));
}

/// A wider window is a reason to remember for longer, and not one to begin anew.
#[tokio::test]
async fn what_was_received_is_known_for_longer_when_the_window_becomes_wider() {
    let input = input(&[("team", "S3CR3T", "1m"), ("twin", "S3CR3T", "1m")]).await;
    let (first, by_key) = (messages(&input, "team"), signatures(&input, "team").remove(0));
    let now = Instant::now();
    assert!(by_key.allow("1", [1; 32], now) && first.ids.allow("m1", [1; 32]));
    let time = input.0.bindings.arrival().time;
    let old = time - 61_000;
    assert!(!first.reach.has_forgotten(old));
    add(&input, ("team", "S3CR3T", "10m")).await;
    assert!(Arc::ptr_eq(&first, &messages(&input, "team")));
    for name in ["team", "twin"] {
        assert!(Arc::ptr_eq(&by_key, &signatures(&input, name)[0]), "{name}");
    }
    assert!(!by_key.allow("1", [2; 32], now + MINUTE) && !first.ids.allow("m1", [2; 32]));
    for reach in [&first.reach, &by_key.reach] {
        assert!((20 * MINUTE..30 * MINUTE).contains(&reach.lifetime()), "{:?}", reach.lifetime());
        assert!(reach.has_forgotten(old) && !reach.has_forgotten(time - 50_000));
    }
    // The twin takes no more than before, and its messages are kept for no longer.
    assert!(
        messages(&input, "twin").reach.lifetime() < 5 * MINUTE && !messages(&input, "twin").reach.has_forgotten(old)
    );
    // Narrower, and as wide again: nothing was kept for less.
    add(&input, ("team", "S3CR3T", "10ms")).await;
    add(&input, ("team", "S3CR3T", "10m")).await;
    assert!(!first.reach.has_forgotten(time - 50_000));
}

#[tokio::test]
async fn bindings_that_are_gone_are_forgotten_when_they_are_many() {
    let input = input(&[("stays", "S3CR3T", "1m")]).await;
    let stays = messages(&input, "stays");
    for number in 0..3 * UNLOADED {
        let (name, secret) = (format!("b{number}"), format!("S3CR3T-{number}"));
        add(&input, (&name, &secret, "1m")).await;
        let _ = (messages(&input, &name), signatures(&input, &name));
        input.remove(&name);
        // One that comes and goes takes no more room than once.
        input.remove("stays");
        add(&input, ("stays", "S3CR3T", "1m")).await;
    }
    let [messages_kept, keys, by_key] = input.0.memories.count();
    assert!(messages_kept <= UNLOADED + 1 && keys <= UNLOADED + 1 && by_key <= UNLOADED, "{messages_kept}, {keys}");
    assert!(messages_kept >= UNLOADED / 2, "the newest stay: {messages_kept}");
    assert!(Arc::ptr_eq(&stays, &messages(&input, "stays")));
}

/// Each with another secret, and the old one named beside it.
#[tokio::test]
async fn a_file_that_is_rewritten_without_end_takes_no_more_memory_than_some_keys() {
    let input = input(&[]).await;
    for number in 0..1_000 {
        let [secret, previous] = [number + 1, number].map(|number: u32| format!("S3CR3T-{number}"));
        add_with(&input, ("team", &secret, "1m"), &[("previousAppSecret", &previous)]).await;
        let _ = (messages(&input, "team"), signatures(&input, "team"));
    }
    let [messages, keys, by_key] = input.0.memories.count();
    assert_eq!((messages, keys, by_key), (1, UNLOADED + 2, UNLOADED + 2));
    input.remove("team");
    // Who never had a message leaves nothing.
    for number in 0..100 {
        add(&input, (&format!("b{number}"), &format!("0TH3R-{number}"), "1m")).await;
        input.remove(&format!("b{number}"));
    }
    assert_eq!(input.0.memories.count(), [1, UNLOADED, UNLOADED]);
}

/// A call that began before its binding was taken away.
#[tokio::test]
async fn what_asks_after_its_binding_is_gone_leaves_no_more_than_others() {
    let input = input(&[]).await;
    for number in 0..2 * UNLOADED {
        let (name, secret) = (format!("b{number}"), format!("S3CR3T-{number}"));
        add(&input, (&name, &secret, "1m")).await;
        let binding = input.0.bindings.get(&name).unwrap();
        input.remove(&name);
        input.0.memories.messages(&binding, &input.0.bindings);
        input.0.memories.signatures(binding.keys().next().unwrap(), &binding);
    }
    assert_eq!(input.0.memories.count(), [UNLOADED; 3]);
}

/// Entries, and not only the rule for those that come.
#[tokio::test]
async fn what_came_before_a_window_became_wider_outlives_the_old_one() {
    const SHORT: Duration = Duration::from_millis(200);
    let (message, now) = ([1; 32], Instant::now());
    let answered = |reply: &'static str| async move { Ok::<_, Undelivered>(Some(Bytes::from(reply))) };
    let (signatures, ids, repeats) = loop {
        let start = Instant::now();
        let reach = Reach::late(SHORT, Duration::ZERO);
        let (signatures, ids, repeats) = (Signatures::within(reach.clone()), Ids::new(&reach), Repeats::new(&reach));
        assert!(signatures.allow("1", message, now) && ids.allow("m1", message));
        repeats.once(message, answered("first")).await.unwrap();
        signatures.widen(SHORT * 3_000, 0).await;
        ids.renew().await;
        repeats.renew().await;
        // Otherwise this machine has slept, and forgotten rightly.
        if start.elapsed() < SHORT {
            break (signatures, ids, repeats);
        }
    };
    tokio::time::sleep(SHORT * 2).await;
    assert!(!ids.allow("m1", [2; 32]) && !signatures.allow("1", [2; 32], now + MINUTE));
    assert_eq!(repeats.once(message, answered("second")).await, Ok(Some("first".into())));
}
