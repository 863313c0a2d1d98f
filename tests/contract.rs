//! The component is what wit/ says: its imports are the sandbox, and nothing was added to them.

use std::path::{Path, PathBuf};

use dingtalk_component::COMPONENT;
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldKey};

/// The audit in one list: whoever consumes messages, time, one way out, and what that needs of streams.
const IMPORTS: [&str; 7] = [
    "dingtalk:binding/handler@0.2.0",
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:http/outgoing-handler@0.2.12",
    "wasi:http/types@0.2.12",
    "wasi:io/error@0.2.12",
    "wasi:io/poll@0.2.12",
    "wasi:io/streams@0.2.12",
];

/// Interfaces that hold only types: nothing can be called through them.
const TYPES: [&str; 2] = ["dingtalk:binding/types@0.2.0", "wasi:clocks/monotonic-clock@0.2.12"];

const EXPORTS: [&str; 4] = [
    "dingtalk:binding/call@0.2.0",
    "dingtalk:binding/init@0.2.0",
    "dingtalk:binding/invoke@0.2.0",
    "dingtalk:binding/read@0.2.0",
];

/// The size in docs/performance.md's promise.
const LARGEST: usize = 160 * 1024;

fn decoded() -> (Resolve, wit_parser::WorldId) {
    match wit_component::decode(COMPONENT).unwrap() {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => panic!("not a component"),
    }
}

fn names<'a>(resolve: &Resolve, keys: impl Iterator<Item = &'a WorldKey>) -> Vec<String> {
    let mut names: Vec<String> = keys.map(|key| resolve.name_world_key(key)).collect();
    names.sort();
    names
}

#[test]
fn the_imports_are_the_sandbox_and_nothing_more() {
    let (resolve, world) = decoded();
    let world = &resolve.worlds[world];
    for name in names(&resolve, world.imports.keys()) {
        assert!(IMPORTS.contains(&name.as_str()) || TYPES.contains(&name.as_str()), "unexpected import {name}");
    }
    let imports = names(&resolve, world.imports.keys());
    for name in IMPORTS {
        assert!(imports.iter().any(|import| import == name), "{name} is not imported any more; shorten the list");
    }
    for (key, item) in &world.imports {
        let name = resolve.name_world_key(key);
        if TYPES.contains(&name.as_str())
            && let wit_parser::WorldItem::Interface { id, .. } = item
        {
            assert!(resolve.interfaces[*id].functions.is_empty(), "{name} has functions");
        }
    }
    assert_eq!(names(&resolve, world.exports.keys()), EXPORTS);
}

fn wit(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit").join(folder)
}

/// Who writes an application or a host needs no package of WASI for that: an engine that brings another version of it
/// would not compose.
#[test]
fn the_interfaces_depend_on_nothing() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit("")).unwrap();
    assert_eq!(resolve.packages.iter().map(|(id, _)| id).collect::<Vec<_>>(), [package]);
    for world in ["handler-app", "caller"] {
        resolve.select_world(&[package], Some(world)).unwrap();
    }
}

#[test]
fn the_component_fits_the_world_in_wit() {
    let mut resolve = Resolve::default();
    resolve.push_dir(wit("")).unwrap();
    let (package, _) = resolve.push_dir(wit("component")).unwrap();
    let world = resolve.select_world(&[package], Some("binding")).unwrap();
    wit_component::targets(&resolve, world, COMPONENT, false).unwrap();
}

#[test]
fn the_component_stays_small() {
    assert!(COMPONENT.len() <= LARGEST, "{} bytes, more than {LARGEST}", COMPONENT.len());
}

#[test]
fn the_component_names_no_path_of_the_machine_that_built_it() {
    let text = String::from_utf8_lossy(COMPONENT);
    for path in [env!("CARGO_MANIFEST_DIR"), "/registry/src/", "/home/", "/root/"] {
        assert!(!text.contains(path), "{path}");
    }
}
