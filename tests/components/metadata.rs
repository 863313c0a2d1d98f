//! What each published component says of itself, read as registries and scanners read it.

use std::collections::BTreeSet;

use dingtalk_components::{BINDING, COMPONENTS, GATEWAY, GATEWAY_P3, NO_HANDLER, OUTPUT, Origin, published};
use wasm_metadata::Payload;

/// Name and version of every package that it lists.
fn dependencies(component: &[u8]) -> Vec<(String, String)> {
    let payload = Payload::from_binary(component).unwrap();
    let packages = &payload.metadata().dependencies.as_ref().unwrap().version_info().packages;
    packages.iter().map(|package| (package.name.clone(), package.version.to_string())).collect()
}

#[test]
fn each_says_its_name_version_and_licence() {
    for (name, component) in COMPONENTS {
        // The same package, compiled for another store.
        let package = if *name == "dingtalk-remember-spin" { "dingtalk-remember" } else { name };
        let payload = Payload::from_binary(component).unwrap();
        let said = payload.metadata();
        assert_eq!(said.name.as_deref(), Some(package));
        assert_eq!(said.version.as_ref().unwrap().to_string(), env!("CARGO_PKG_VERSION"), "{name}");
        assert_eq!(said.licenses.as_ref().unwrap().to_string(), env!("CARGO_PKG_LICENSE"), "{name}");
        assert!(said.description.as_ref().unwrap().to_string().len() > 20, "{name}");
        // What is compiled does not depend on the commit.
        assert!(said.revision.is_none(), "{name}");
    }
}

#[test]
fn each_lists_what_it_was_compiled_from_and_nothing_else() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    let names = |component| dependencies(component).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    // The one that a component has of its own, by the imports of its sources.
    for (component, expected) in [
        (BINDING, ["dingtalk-binding", "hmac", "serde_json", "talc", "wasip2"].as_slice()),
        (NO_HANDLER, &["dingtalk-no-handler", "talc", "wit-bindgen"]),
        (OUTPUT, &["dingtalk-binding", "dingtalk-no-handler", "dingtalk-output", "hmac"]),
        (GATEWAY, &["dingtalk-binding", "dingtalk-front", "dingtalk-delivery", "dingtalk-api", "hmac", "http"]),
        (GATEWAY_P3, &["dingtalk-binding-p3", "dingtalk-front-p3", "dingtalk-delivery-p3", "dingtalk-gateway-core"]),
    ] {
        let listed = dependencies(component);
        for (name, version) in &listed {
            let locked = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            let is_composition = name == "dingtalk-output" || name.starts_with("dingtalk-gateway");
            assert!(lock.contains(&locked) || is_composition, "{name} {version} is not in Cargo.lock");
        }
        let listed: Vec<_> = listed.into_iter().map(|(name, _)| name).collect();
        for name in expected {
            assert!(listed.iter().any(|listed| listed == name), "{name} is missing in {listed:?}");
        }
        // Of the host, of tests, and of the compiler.
        for name in ["wasmtime", "tokio", "proptest", "syn", "wit-bindgen-rust-macro"] {
            assert!(!listed.iter().any(|listed| listed == name), "{name} is in {listed:?}");
        }
    }
    assert!(!names(NO_HANDLER).contains(&"hmac".to_owned()));
}

#[test]
fn every_published_file_is_documented_and_every_documented_one_is_published() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hosts.md")).unwrap();
    let table = document.split_once("\n| file | what |\n").unwrap().1.split_once("\n\n").unwrap().0;
    let first = table.lines().skip(1).map(|row| row.split('|').nth(1).unwrap());
    let documented: BTreeSet<_> = first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let published = published(&Origin::default()).unwrap();
    assert_eq!(documented, published.iter().map(|(name, _)| name.as_str()).collect());
}

#[test]
fn a_published_file_says_where_it_comes_from() {
    let (source, revision) = ("https://example.com/dingtalk", "0123456789abcdef0123456789abcdef01234567");
    let origin = Origin { source: Some(source.into()), revision: Some(revision.into()) };
    let (published, plain) = (published(&origin).unwrap(), published(&Origin::default()).unwrap());
    assert_eq!(published.len(), COMPONENTS.len() + 2);
    for ((name, published), (_, plain)) in published.iter().zip(&plain) {
        if name.ends_with(".wasm") {
            let payload = Payload::from_binary(published).unwrap();
            let said = payload.metadata();
            assert_eq!(said.source.as_ref().unwrap().to_string(), source, "{name}");
            assert_eq!(said.revision.as_ref().unwrap().to_string(), revision, "{name}");
            // The interfaces are compiled from nothing.
            if *name != "dingtalk-binding.wit.wasm" {
                assert_eq!(dependencies(published), dependencies(plain), "{name}");
            }
        }
    }
    let error = dingtalk_components::published(&Origin { source: Some("no url".into()), revision: None }).unwrap_err();
    assert!(error.contains("no url"), "{error}");
}
