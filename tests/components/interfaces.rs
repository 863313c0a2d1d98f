//! The interfaces as a package: dingtalk-binding.wit and dingtalk-binding.wit.wasm, and what was published before.

use std::path::{Path, PathBuf};

use dingtalk_components::{INTERFACES, INTERFACES_TEXT, Origin};
use wasmtime::component::{Component, Linker, Val};
use wasmtime::{Engine, Store};
use wit_component::{DecodedWasm, StringEncoding, WitPrinter};
use wit_parser::{ManglingAndAbi, PackageId, Resolve};

use crate::output::functions;
use crate::support::bot;
use crate::support::plain::pairs;

fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")
}

fn parsed(text: &str) -> (Resolve, PackageId) {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("dingtalk-binding.wit", text).unwrap();
    (resolve, package)
}

fn printed(resolve: &Resolve, package: PackageId, with_docs: bool) -> String {
    let mut printer = WitPrinter::default();
    printer.emit_docs(with_docs);
    printer.print(resolve, package, &[]).unwrap();
    printer.output.to_string()
}

#[test]
fn text_and_binary_are_the_package_in_wit() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit()).unwrap();
    let expected = printed(&resolve, package, true);
    for described in ["one function", "blanked out", "Never contains the value of a secret"] {
        assert!(expected.contains(described), "the description {described:?} is gone");
    }
    let (resolve, package) = parsed(INTERFACES_TEXT);
    assert_eq!(printed(&resolve, package, true), expected);
    let DecodedWasm::WitPackage(resolve, package) = wit_component::decode(INTERFACES).unwrap() else {
        panic!("not a package")
    };
    assert_eq!(printed(&resolve, package, true), expected);
    assert_eq!(resolve.packages[package].name.to_string(), "dingtalk:binding@0.2.0");
}

#[test]
fn an_application_can_be_made_from_the_text_alone() {
    let (resolve, package) = parsed(INTERFACES_TEXT);
    let world = resolve.select_world(&[package], Some("handler-app")).unwrap();
    let mut module = wit_component::dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    let application =
        wit_component::ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap();
    // And it fits where the repository's own files are read.
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit()).unwrap();
    let world = resolve.select_world(&[package], Some("handler-app")).unwrap();
    wit_component::targets(&resolve, world, &application, false).unwrap();
}

/// A folder with the bot of examples/bots/rust, and in the place of the repository's wit/ the one file that is published.
fn consumer() -> PathBuf {
    let example = wit().join("../examples/bots/rust");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("consumer");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("src")).unwrap();
    let altered = |file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(example.join(file)).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {file}");
        std::fs::write(folder.join(file), text.replace(from, to)).unwrap();
    };
    for file in ["Cargo.toml", "Cargo.lock"] {
        altered(file, "name = \"bot\"", "name = \"consumer\"");
    }
    altered("src/lib.rs", "path: \"../../../wit\"", "path: \"dingtalk-binding.wit\"");
    let published = dingtalk_components::published(&Origin::default()).unwrap();
    let (name, text) = published.iter().find(|(name, _)| name.ends_with(".wit")).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    folder
}

#[test]
fn a_bot_in_rust_needs_the_published_text_and_no_package_of_wasi() {
    let folder = consumer();
    let component = bot::built(&folder, "consumer");
    let DecodedWasm::Component(resolve, world) = wit_component::decode(&component).unwrap() else {
        panic!("not a component")
    };
    let packages: Vec<_> = resolve.packages.iter().map(|(_, package)| package.name.to_string()).collect();
    assert!(packages.iter().all(|package| !package.starts_with("wasi:")), "{packages:?}");
    let [imports, exports] = functions(&component);
    assert_eq!((imports, exports), (vec![], vec!["dingtalk:binding/handler@0.2.0".to_owned()]), "{world:?}");
    // A runtime that offers nothing at all can run it.
    let engine = Engine::default();
    let component = Component::from_binary(&engine, &component).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
    let handler = instance.get_export_index(&mut store, None, "dingtalk:binding/handler@0.2.0").unwrap();
    let handle = instance.get_export_index(&mut store, Some(&handler), "handle").unwrap();
    let handle = instance.get_func(&mut store, handle).unwrap();
    let event = Val::Record(vec![
        ("id".into(), Val::String("team".into())),
        ("data".into(), Val::List(vec![])),
        ("metadata".into(), pairs(&[("text", "ping")])),
    ]);
    let mut results = [Val::Bool(false)];
    handle.call(&mut store, &[event], &mut results).unwrap();
    let [Val::Result(Ok(Some(answer)))] = &results else { panic!("{results:?}") };
    let Val::Option(Some(answer)) = &**answer else { panic!("{answer:?}") };
    let Val::List(answer) = &**answer else { panic!("{answer:?}") };
    let answer: Vec<u8> = answer.iter().map(|byte| if let Val::U8(byte) = byte { *byte } else { 0 }).collect();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer, serde_json::json!({"msgtype": "text", "text": {"content": "pong"}}));
}

#[test]
fn the_package_says_in_wkg_toml_what_it_says_of_itself() {
    let payload = wasm_metadata::Payload::from_binary(INTERFACES).unwrap();
    let said = payload.metadata();
    assert_eq!(said.name.as_deref(), Some("dingtalk:binding"));
    assert_eq!(said.version.as_ref().unwrap().to_string(), "0.2.0");
    let manifest = std::fs::read_to_string(wit().join("wkg.toml")).unwrap();
    for (key, value) in [
        ("description", said.description.as_ref().unwrap().to_string()),
        ("licenses", said.licenses.as_ref().unwrap().to_string()),
    ] {
        assert!(manifest.contains(&format!("\n{key} = \"{value}\"\n")), "wit/wkg.toml has no {key} = {value:?}");
    }
}

/// Versions of the package that somebody may depend on, and their texts.
fn published() -> Vec<(semver::Version, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(wit().join("published")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (resolve, package) = parsed(&text);
        let version = resolve.packages[package].name.version.clone().unwrap();
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("dingtalk-binding-{version}.wit"));
        found.push((version, text));
    }
    found.sort();
    found
}

/// What of `old` would no longer work with `new`, a later text of the same package.
fn broken(old: &str, new: &str) -> Vec<String> {
    let mut resolve = Resolve::default();
    let (parsed_old, package) = parsed(old);
    let version = parsed_old.packages[package].name.version.clone().unwrap().to_string();
    // Two packages in one place need two versions; the check looks at the shapes alone.
    let old = resolve.push_str("old.wit", &old.replace(&version, "0.0.0")).unwrap();
    let new = resolve.push_str("new.wit", new).unwrap();
    let worlds: Vec<_> = resolve.packages[old].worlds.iter().map(|(name, id)| (name.clone(), *id)).collect();
    assert_eq!(worlds.len(), 2);
    let check = |(name, old): (String, wit_parser::WorldId)| match resolve.select_world(&[new], Some(&name)) {
        Ok(new) => {
            wit_component::semver_check(resolve.clone(), old, new).err().map(|error| format!("{name}: {error:#}"))
        }
        Err(error) => Some(format!("{name}: {error:#}")),
    };
    worlds.into_iter().filter_map(check).collect()
}

#[test]
fn nothing_that_is_published_breaks() {
    let (resolve, package) = parsed(INTERFACES_TEXT);
    let present = resolve.packages[package].name.version.clone().unwrap();
    let (version, last) = published().pop().unwrap();
    assert!(version <= present, "{version} is published, wit/ is {present}");
    let (last_resolve, last_package) = parsed(&last);
    if version == present {
        // Descriptions may be mended.
        let (last, present) = (printed(&last_resolve, last_package, false), printed(&resolve, package, false));
        assert!(
            last == present,
            "wit/ is not what wit/published/dingtalk-binding-{version}.wit says. If {version} is published, raise the \
             version in wit/; if not, run `make component` and copy target/component/dingtalk-binding.wit there"
        );
    }
    let compatible = semver::VersionReq::parse(&format!("^{version}")).unwrap();
    if compatible.matches(&present) {
        assert_eq!(broken(&last, INTERFACES_TEXT), [""; 0], "raise the version of wit/ to the next incompatible one");
    }
}

#[test]
fn a_change_that_breaks_somebody_is_seen() {
    let (_, last) = published().pop().unwrap();
    assert_eq!(broken(&last, &last), [""; 0]);
    let altered = |from: &str, to: &str| {
        assert!(last.contains(from), "{from:?} is not in the published text");
        last.replace(from, to)
    };
    let incompatible = [
        (
            "a function with another parameter",
            altered("init: func(properties: metadata)", "init: func(properties: string)"),
        ),
        ("a function that is gone", altered("close: func();", "shut: func();")),
        ("a case more", altered("    not-sent,", "    not-sent,\n    perhaps,")),
        ("a member more", altered("    errcode: s64,", "    errcode: s64,\n    trace: string,")),
        ("an interface that is gone", altered("  import read;\n", "")),
        ("a world that is gone", altered("world handler-app", "world app")),
        (
            "one more that applications must export",
            altered("  export handler;\n", "  export handler;\n  export init;\n"),
        ),
    ];
    for (what, text) in incompatible {
        assert!(!broken(&last, &text).is_empty(), "{what} was not seen");
    }
    let compatible = altered("  import read;\n", "  import read;\n  import handler;\n");
    assert_eq!(broken(&last, &compatible), [""; 0]);
}
