//! Secret stores: `secretstores.local.file` and `secretstores.local.env`, as in Dapr's components-contrib, but
//! without its silent endings: what cannot be read is an error that says where to look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dingtalk_binding::secret::Secret;
use serde_json::value::RawValue;

use super::environment::{self, Environment};
use crate::files;

/// Nesting of a secrets file; nobody nests secrets deeper, and each level is a level of the stack.
const MAX_DEPTH: usize = 32;
/// All flattened names together: a long name above many members would multiply.
const MAX_NAME_BYTES: usize = 4 * 1024 * 1024;

/// The kinds of store that exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreKind {
    File,
    Env,
}

impl StoreKind {
    /// The kind of a component type, which is compared without regard to case.
    pub(super) fn of(component_type: &str) -> Option<Self> {
        match component_type.to_ascii_lowercase().as_str() {
            "secretstores.local.file" => Some(Self::File),
            "secretstores.local.env" => Some(Self::Env),
            _ => None,
        }
    }
}

/// An open store. `Debug` shows names, never values.
#[derive(Debug)]
pub(super) enum Store {
    File { path: PathBuf, separator: String, secrets: BTreeMap<String, Entry> },
    Env { prefix: String },
}

/// What a name of a file store stands for.
#[derive(Debug)]
pub(super) enum Entry {
    One(Secret),
    /// Only with `multiValued`.
    Many(BTreeMap<String, Secret>),
}

impl Store {
    /// Opens a store from its resolved metadata. `beside` is the directory of the component file; `warnings`
    /// receives what is no error. The error is meant to follow the store's name.
    pub(super) fn open(
        kind: StoreKind,
        properties: &[(String, Secret)],
        beside: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<Self, String> {
        let property = |wanted| property(properties, wanted);
        if kind == StoreKind::Env {
            return Ok(Self::Env { prefix: property("prefix").unwrap_or_default().to_owned() });
        }
        let file = property("secretsFile")
            .ok_or("the property \"secretsFile\" is missing; set it to the path of a JSON file with secrets")?;
        let path = locate(Path::new(file), beside);
        let (text, metadata) = files::read(&path).map_err(|reason| {
            let tried = if path == Path::new(file) {
                String::new()
            } else {
                format!(" (nor is there a {file:?} in the working directory)")
            };
            format!("the secrets file {} {reason}{tried}", path.display())
        })?;
        if is_open_to_others(&metadata) {
            warnings
                .push(format!("the secrets file {} can be read by other users; run: chmod 600 {0}", path.display()));
        }
        let separator = property("nestedSeparator").unwrap_or(":").to_owned();
        let multi_valued = property("multiValued").is_some_and(is_truthy);
        let secrets = parse(&text, &separator, multi_valued)
            .map_err(|reason| format!("the secrets file {} {reason}", path.display()))?;
        Ok(Self::File { path, separator, secrets })
    }

    /// The value `key` (by default `name`) of the secret `name`. The error is meant to follow these names.
    pub(super) fn get(&self, name: &str, key: Option<&str>, environment: Environment<'_>) -> Result<Secret, String> {
        let key = key.unwrap_or(name);
        let only_one = || format!("has no key {key:?}: it is one value; leave out the key");
        match self {
            Self::Env { .. } if key != name => Err(only_one()),
            Self::Env { prefix } => {
                let variable = format!("{prefix}{name}");
                environment::read(&variable, environment)
                    .map_err(|reason| format!("cannot be read: the environment variable {variable:?} {reason}"))
            }
            Self::File { path, separator, secrets } => {
                let file = path.display();
                let value = match secrets.get(name) {
                    Some(Entry::One(value)) if key == name => value,
                    Some(Entry::One(_)) => return Err(only_one()),
                    Some(Entry::Many(values)) => {
                        values.get(key).ok_or_else(|| format!("has no key {key:?} in {file}; add it there"))?
                    }
                    None => {
                        let members = format!("{name}{separator}");
                        let nested =
                            secrets.range(members.clone()..).next().filter(|(found, _)| found.starts_with(&members));
                        return Err(match nested {
                            Some((found, _)) => format!(
                                "is not one value in {file}; name a member of it, for example {found:?}, or set multiValued in the store"
                            ),
                            None => format!("does not exist in {file}; add it there"),
                        });
                    }
                };
                if value.expose().is_empty() {
                    return Err(format!("is empty in {file}; fill it in"));
                }
                Ok(value.clone())
            }
        }
    }
}

/// Where the file of a store is, or would be if it were there: see [`locate`].
pub(super) fn files(kind: StoreKind, properties: &[(String, Secret)], beside: &Path) -> Vec<PathBuf> {
    let Some(file) = property(properties, "secretsFile").filter(|_| kind == StoreKind::File) else { return Vec::new() };
    // Joined to another path, an absolute one stays what it is.
    let mut files = vec![PathBuf::from(file), beside.join(file)];
    files.dedup();
    files
}

/// The value of a property that is not empty, its name in any case.
fn property<'a>(properties: &'a [(String, Secret)], wanted: &str) -> Option<&'a str> {
    let found = properties.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found.map(|(_, value)| value.expose()).filter(|value| !value.is_empty())
}

/// A relative path counts from the working directory, as in Dapr; where nothing is there, from the component
/// file's directory, so that a directory with both files works from everywhere.
fn locate(file: &Path, beside: &Path) -> PathBuf {
    if file.is_absolute() || file.exists() { file.to_owned() } else { beside.join(file) }
}

#[cfg(unix)]
fn is_open_to_others(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.is_file() && metadata.permissions().mode() & 0o044 != 0
}

#[cfg(not(unix))]
fn is_open_to_others(_: &std::fs::Metadata) -> bool {
    false
}

/// What Dapr takes for true in metadata.
fn is_truthy(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "y" | "yes" | "true" | "t" | "on" | "1")
}

/// Reads a secrets file. The error is meant to follow the file's name and repeats nothing of its content.
fn parse(text: &str, separator: &str, multi_valued: bool) -> Result<BTreeMap<String, Entry>, String> {
    let invalid = |error: serde_json::Error| {
        // serde_json's own text may repeat a value; its place does not.
        format!("is not valid JSON (line {}, column {}); correct it", error.line(), error.column())
    };
    // First as a whole, so that the place of a mistake is the place in the file.
    let whole: &RawValue = serde_json::from_str(text).map_err(invalid)?;
    if !whole.get().starts_with('{') {
        return Err("is not a JSON object; write {\"name\": \"secret\"}".into());
    }
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(whole.get()).map_err(invalid)?;
    let mut budget = MAX_NAME_BYTES;
    let mut secrets = BTreeMap::new();
    for (name, value) in members {
        // Each top-level object has names of its own in a multi-valued store, and shares them otherwise.
        let (prefix, many) =
            if multi_valued && value.get().starts_with('{') { ("", true) } else { (name.as_str(), false) };
        let mut flat = BTreeMap::new();
        flatten(value, prefix.to_owned(), separator, MAX_DEPTH, &mut budget, &mut flat)?;
        if many {
            secrets.insert(name, Entry::Many(flat));
            continue;
        }
        for (name, value) in flat {
            if secrets.contains_key(&name) {
                return Err(ambiguous(&name));
            }
            secrets.insert(name, Entry::One(value));
        }
    }
    Ok(secrets)
}

fn ambiguous(name: &str) -> String {
    format!("has two entries that are called {name:?} after flattening; rename one or set nestedSeparator")
}

fn flatten(
    value: &RawValue,
    name: String,
    separator: &str,
    depth: usize,
    budget: &mut usize,
    flat: &mut BTreeMap<String, Secret>,
) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or_else(|| format!("is nested deeper than {MAX_DEPTH} levels; flatten it"))?;
    let unreadable = |_| "contains a text with an invalid escape; correct it".to_owned();
    let below = |member: &str| {
        if name.is_empty() { member.to_owned() } else { format!("{name}{separator}{member}") }
    };
    let secret = match value.get().as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(value.get()).map_err(unreadable)?;
            for (member, value) in members {
                flatten(value, below(&member), separator, depth, budget, flat)?;
            }
            return Ok(());
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(value.get()).map_err(unreadable)?;
            for (index, value) in items.into_iter().enumerate() {
                flatten(value, below(&index.to_string()), separator, depth, budget, flat)?;
            }
            return Ok(());
        }
        Some(b'"') => Secret::new(serde_json::from_str::<String>(value.get()).map_err(unreadable)?),
        Some(b'n') => Secret::new(""),
        // Numbers and booleans: as written.
        _ => Secret::new(value.get()),
    };
    *budget = budget
        .checked_sub(name.len())
        .ok_or("has names that are too long after flattening; shorten or flatten them")?;
    if flat.contains_key(&name) {
        return Err(ambiguous(&name));
    }
    flat.insert(name, secret);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: Environment<'static> = &|_| None;

    fn file_store(json: &str, properties: &[(&str, &str)]) -> (tempfile::TempDir, Result<Store, String>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secrets.json"), json).unwrap();
        let mut all = vec![("SecretsFile".to_owned(), Secret::new("secrets.json"))];
        all.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))));
        let store = Store::open(StoreKind::File, &all, dir.path(), &mut Vec::new());
        (dir, store)
    }

    fn get(json: &str, properties: &[(&str, &str)], name: &str, key: Option<&str>) -> Result<String, String> {
        let (dir, store) = file_store(json, properties);
        let text = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
        store.unwrap().get(name, key, NONE).map(|value| value.expose().to_owned()).map_err(text)
    }

    const JSON: &str = r#"{"a": "1", "n": {"x": "2", "y": {"z": "3"}}, "l": ["4", {"m": "5"}], "num": 0.10,
        "big": 12345678901234567890123, "yes": true, "nil": null, "empty": "", "": "6", "esc": "a\/\ud83d\ude00"}"#;

    #[test]
    fn flattened_names() {
        for (name, value) in [
            ("a", "1"),
            ("n:x", "2"),
            ("n:y:z", "3"),
            ("l:0", "4"),
            ("l:1:m", "5"),
            ("num", "0.10"),
            ("big", "12345678901234567890123"),
            ("yes", "true"),
            ("", "6"),
            ("esc", "a/😀"),
        ] {
            assert_eq!(get(JSON, &[], name, None).as_deref(), Ok(value), "{name}");
            assert_eq!(get(JSON, &[], name, Some(name)).as_deref(), Ok(value), "{name}");
        }
        assert_eq!(get(JSON, &[("nestedseparator", "__")], "n__y__z", None).as_deref(), Ok("3"));
        assert_eq!(get(JSON, &[("nestedSeparator", "")], "n:x", None).as_deref(), Ok("2"));
    }

    #[test]
    fn values_that_cannot_be_had() {
        for (name, key, error) in [
            ("b", None, "does not exist in secrets.json; add it there"),
            ("empty", None, "is empty in secrets.json; fill it in"),
            ("nil", None, "is empty in secrets.json; fill it in"),
            ("a", Some("k"), "has no key \"k\": it is one value; leave out the key"),
            (
                "n",
                Some("x"),
                "is not one value in secrets.json; name a member of it, for example \"n:x\", or set multiValued in the store",
            ),
        ] {
            assert_eq!(get(JSON, &[], name, key).unwrap_err(), error);
        }
    }

    #[test]
    fn multi_valued() {
        for truthy in ["true", "TRUE", "yes", "1", "on"] {
            let multi = &[("multiValued", truthy)];
            assert_eq!(get(JSON, multi, "n", Some("x")).as_deref(), Ok("2"));
            assert_eq!(get(JSON, multi, "n", Some("y:z")).as_deref(), Ok("3"));
            assert_eq!(get(JSON, multi, "a", None).as_deref(), Ok("1"));
            assert_eq!(get(JSON, multi, "n", None).unwrap_err(), "has no key \"n\" in secrets.json; add it there");
        }
        assert!(get(JSON, &[("multiValued", "false")], "n", Some("x")).is_err());
    }

    #[test]
    fn files_that_are_no_store() {
        let deep = format!("{}\"S3CR3T\"{}", "{\"a\":".repeat(40), "}".repeat(40));
        let wide = format!("{{\"{}\": [{}1]}}", "k".repeat(10_000), "1,".repeat(1_000));
        for (json, reason) in [
            ("", "is not valid JSON (line 1, column 0); correct it"),
            ("{\"a\": \"S3CR3T\",\n \"b\": S3CR3T}", "is not valid JSON (line 2, column 7); correct it"),
            ("{\"a\": \"S3CR3T\"} S3CR3T", "is not valid JSON (line 1, column 17); correct it"),
            ("[\"S3CR3T\"]", "is not a JSON object; write {\"name\": \"secret\"}"),
            ("\"S3CR3T\"", "is not a JSON object; write {\"name\": \"secret\"}"),
            ("{\"a\": \"S3CR3T\\ud800\"}", "contains a text with an invalid escape; correct it"),
            (
                "{\"a\": {\"b\": \"S3CR3T\"}, \"a:b\": \"S3CR3T\"}",
                "has two entries that are called \"a:b\" after flattening; rename one or set nestedSeparator",
            ),
            (&deep, "is nested deeper than 32 levels; flatten it"),
            (&wide, "has names that are too long after flattening; shorten or flatten them"),
        ] {
            let (dir, store) = file_store(json, &[]);
            let error = store.unwrap_err();
            let prefix = format!("the secrets file {}/secrets.json ", dir.path().display());
            assert_eq!(error.strip_prefix(&prefix), Some(reason), "{error}");
        }
        assert!(parse(&"[".repeat(1_000_000), ":", false).is_err());
        assert!(parse(&format!("{{\"a\":{}", "[".repeat(1_000_000)), ":", false).is_err());
    }

    #[test]
    fn a_file_that_is_missing() {
        let open = |file: &str| {
            let properties = [("secretsFile".to_owned(), Secret::new(file))];
            Store::open(StoreKind::File, &properties, Path::new("/nowhere"), &mut Vec::new()).unwrap_err()
        };
        assert!(open("").starts_with("the property \"secretsFile\" is missing"));
        assert!(
            open("/nowhere/else.json").starts_with("the secrets file /nowhere/else.json cannot be read: No such file")
        );
        let error = open("none.json");
        assert!(error.starts_with("the secrets file /nowhere/none.json cannot be read: No such file"), "{error}");
        assert!(error.ends_with("(nor is there a \"none.json\" in the working directory)"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.json");
        std::fs::write(&path, "{}").unwrap();
        let properties = [("secretsFile".to_owned(), Secret::new(path.to_str().unwrap()))];
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let mut warnings = Vec::new();
            Store::open(StoreKind::File, &properties, dir.path(), &mut warnings).unwrap();
            assert_eq!(!warnings.is_empty(), warned, "{mode:o} {warnings:?}");
        }
    }

    #[test]
    fn the_environment() {
        let environment = |name: &str| {
            Some(name.to_lowercase().into()).filter(|_| name.starts_with("APP_") || name.starts_with("DAPR"))
        };
        let open = |prefix: &str| {
            let properties = [("prefix".to_owned(), Secret::new(prefix))];
            Store::open(StoreKind::Env, &properties, Path::new(""), &mut Vec::new()).unwrap()
        };
        assert_eq!(open("").get("APP_S", None, &environment).unwrap().expose(), "app_s");
        assert_eq!(open("APP_").get("S", Some("S"), &environment).unwrap().expose(), "app_s");
        assert_eq!(
            open("APP_").get("S", Some("T"), &environment).unwrap_err(),
            "has no key \"T\": it is one value; leave out the key"
        );
        assert_eq!(
            open("NO_").get("S", None, &environment).unwrap_err(),
            "cannot be read: the environment variable \"NO_S\" is not set; set it before the start"
        );
        for (prefix, name) in [("", "DAPR_API_TOKEN"), ("DAPR_", "API_TOKEN"), ("APP_", "API_TOKEN"), ("dapr", "_x")] {
            let error = open(prefix).get(name, None, &environment).unwrap_err();
            assert!(error.contains("is one of Dapr's own"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,60}|\\PC{0,40}", multi: bool) { let _ = parse(&text, ":", multi); }
    }
}
