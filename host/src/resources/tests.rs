//! Whole files through [`load_dirs`] and [`load_file`].

use proptest::prelude::*;

use std::ffi::OsString;

use uuid::Uuid;

use super::*;

/// A directory of files, and what is loaded from it.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Self(dir)
    }

    fn load_as(&self, app_id: &str, namespace: Option<&str>, env: Environment<'_>) -> Result<Resources, LoadError> {
        load_dirs(&[self.0.path().to_owned()], &Context { app_id, namespace, env })
    }

    fn load(&self) -> Result<Resources, LoadError> {
        self.load_as("shop", None, &|name| match name {
            "SET" => Some("from-env".into()),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        })
    }

    /// `text` without the directory's random name.
    fn relative(&self, text: impl fmt::Display) -> String {
        text.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn error(&self) -> String {
        self.relative(self.load().unwrap_err())
    }
}

fn component(name: &str, rest: &str) -> String {
    format!("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {name}\n{rest}")
}

fn binding(name: &str, items: &str) -> String {
    component(name, &format!("spec:\n  type: bindings.dingtalk.webhook\n  version: v1\n  metadata:\n{items}"))
}

/// The binding `b` with these items and the store `mystore` named.
fn with_store(items: &str) -> String {
    format!("{}auth:\n  secretStore: mystore\n", binding("b", items))
}

const FILE_STORE: &str = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: mystore\nspec:\n  \
                          type: secretstores.local.file\n  metadata:\n  - name: secretsFile\n    value: secrets.json\n";

fn properties(binding: &BindingResource) -> Vec<(&str, &str)> {
    binding.properties.iter().map(|(name, value)| (name.as_str(), value.expose())).collect()
}

/// The single binding of one file with this text.
fn loaded(text: &str) -> BindingResource {
    let mut resources = Dir::new(&[("b.yaml", text)]).load().unwrap();
    assert!(resources.failures.is_empty(), "{:?}", resources.failures);
    assert_eq!(resources.bindings.len(), 1);
    resources.bindings.remove(0)
}

/// The single failure of one file with this text, beside a file store.
fn failed(text: &str) -> String {
    let dir = Dir::new(&[("b.yaml", text), ("s.yaml", FILE_STORE), ("secrets.json", r#"{"s": "x", "empty": ""}"#)]);
    let resources = dir.load().unwrap();
    assert!(resources.bindings.is_empty());
    assert_eq!(resources.failures.len(), 1);
    dir.relative(&resources.failures[0])
}

#[test]
fn the_specifications_own_file() {
    // As in the specification, with the names filled in.
    let text = r#"apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: mydingtalk
  namespace: default
spec:
  type: bindings.nacos
  version: v1
  metadata:
  - name: id
    value: "test_webhook_id"
  - name: url
    value: "dingtalk.aliyun.com:8080/post/message"
  - name: secret
    value: "LTAI4G8KxxxxxxxxxxxxxbwZLBr"
"#;
    let dir = Dir::new(&[("dingtalk.yaml", text)]);
    let resources = dir.load().unwrap();
    let [binding] = &resources.bindings[..] else { panic!("{resources:?}") };
    assert_eq!((binding.name.as_str(), binding.component_type.as_str()), ("mydingtalk", "bindings.nacos"));
    assert_eq!(binding.version, "v1");
    assert_eq!(
        properties(binding),
        [
            ("id", "test_webhook_id"),
            ("url", "dingtalk.aliyun.com:8080/post/message"),
            ("secret", "LTAI4G8KxxxxxxxxxxxxxbwZLBr")
        ]
    );
    assert_eq!((binding.ignore_errors, binding.init_timeout), (false, Duration::from_secs(5)));
    assert_eq!(dir.relative(&binding.source), "dingtalk.yaml:1");
    let [warning] = &resources.warnings[..] else { panic!("{resources:?}") };
    assert!(dir.relative(warning).starts_with("dingtalk.yaml:1: component \"mydingtalk\": the type bindings.nacos is"));
    assert!(warning.contains("write \"type: bindings.dingtalk.webhook\""));
    assert!(resources.failures.is_empty());
}

#[test]
fn types_in_any_case_and_versions() {
    for component_type in
        ["bindings.dingtalk.webhook", "bindings.alicloud.dingtalk.webhook", "Bindings.DingTalk.Webhook"]
    {
        for version in ["", "  version: \"\"\n", "  version: v0\n", "  version: V1\n"] {
            let found = loaded(&component("b", &format!("spec:\n  type: {component_type}\n{version}")));
            assert_eq!(found.component_type, component_type);
            assert!(found.properties.is_empty());
        }
    }
    let v2 = component("b", "spec:\n  type: bindings.dingtalk.webhook\n  version: v2\n  ignoreErrors: true\n");
    assert_eq!(
        failed(&v2),
        "b.yaml:1: component \"b\" (bindings.dingtalk.webhook): couldn't find binding b \
         (bindings.dingtalk.webhook/v2); write \"version: v1\""
    );
    let dir = Dir::new(&[("b.yaml", &v2)]);
    assert!(dir.load().unwrap().failures[0].ignore_errors);
}

#[test]
fn values_keep_their_text() {
    let text = binding(
        "b",
        "  - {name: a, value: 0012}\n  - {name: b, value: 1.0}\n  - {name: c, value: true}\n  - name: d\n    value: \
         12345678901234567890123\n  - {name: e, value: null}\n  - name: f\n  - {name: g, value: \"\"}\n  - {NAME: h, \
         Value: x}\n  - {name: i, value: y, type: ignored}\n",
    );
    assert_eq!(
        properties(&loaded(&text)),
        [
            ("a", "0012"),
            ("b", "1.0"),
            ("c", "true"),
            ("d", "12345678901234567890123"),
            ("e", ""),
            ("f", ""),
            ("g", ""),
            ("h", "x"),
            ("i", "y"),
        ]
    );
}

#[test]
fn precedence_of_value_env_ref_and_secret_key_ref() {
    let text = with_store(
        "  - {name: a, value: v, envRef: NOT_SET}\n  - {name: b, envRef: SET}\n  - {name: c, value: v, secretKeyRef: \
         {name: s}}\n  - {name: d, envRef: SET, secretKeyRef: {name: nothing}}\n  - {name: e, secretKeyRef: {name: s, \
         key: s}}\n  - {name: f, value: null, envRef: SET}\n",
    );
    let dir = Dir::new(&[("a.yaml", text.as_str()), ("s.yaml", FILE_STORE), ("secrets.json", r#"{"s": "from-file"}"#)]);
    let resources = dir.load().unwrap();
    assert_eq!(
        properties(&resources.bindings[0]),
        [("a", "v"), ("b", "from-env"), ("c", "from-file"), ("d", "from-env"), ("e", "from-file"), ("f", "from-env")]
    );
}

#[test]
fn what_yields_nothing_stops_the_binding() {
    for (item, error) in [
        ("envRef: UNSET", "the environment variable \"UNSET\" is not set; set it before the start"),
        ("envRef: EMPTY", "the environment variable \"EMPTY\" is empty; set it before the start"),
        (
            "envRef: DAPR_API_TOKEN",
            "the environment variable \"DAPR_API_TOKEN\" is one of Dapr's own or this host's (APP_API_TOKEN, DAPR_*, \
             DINGTALK_STORE), which components may not read; use another variable",
        ),
        (
            "secretKeyRef: {name: n, key: k}",
            "secret \"n\", key \"k\", of the secret store \"mystore\" does not exist in secrets.json; add it there",
        ),
        (
            "secretKeyRef: {name: empty}",
            "secret \"empty\", key \"empty\", of the secret store \"mystore\" is empty in secrets.json; fill it in",
        ),
        ("secretKeyRef: {key: k}", "its secretKeyRef has no name; add the name of the secret"),
    ] {
        assert_eq!(
            failed(&with_store(&format!("  - name: secret\n    {item}\n"))),
            format!("b.yaml:1: component \"b\" (bindings.dingtalk.webhook): property \"secret\" (line 9): {error}")
        );
    }
}

#[test]
fn stores_that_cannot_be_used() {
    let item = "  - name: secret\n    secretKeyRef: {name: s}\n";
    let prefix = "b.yaml:1: component \"b\" (bindings.dingtalk.webhook): property \"secret\" (line 9): ";
    assert_eq!(
        failed(&binding("b", item)),
        format!(
            "{prefix}it refers to the secret \"s\", but the component names no secret store; add \"auth: \
             {{secretStore: <name of a secret store component>}}\""
        )
    );
    assert_eq!(
        failed(&with_store(item).replace("mystore", "other")),
        format!(
            "{prefix}the secret store \"other\" (auth.secretStore) does not exist for this application; there are: \
             \"mystore\""
        )
    );
    for (store, secrets, error) in [
        (FILE_STORE.to_owned(), "{\"s\": S3CR3T", "the secrets file secrets.json is not valid JSON (line 1, column 7)"),
        (FILE_STORE.replace("secrets.json", "none.json"), "{}", "the secrets file none.json cannot be read: No such"),
        (FILE_STORE.replace("secretsFile", "file"), "{}", "the property \"secretsFile\" is missing"),
        (
            FILE_STORE.replace("value: secrets.json", "envRef: UNSET"),
            "{}",
            "property \"secretsFile\" (line 8): the env",
        ),
        (
            FILE_STORE.replace("value: secrets.json", "secretKeyRef: {name: s}"),
            "{}",
            "property \"secretsFile\" (line 8): a secret store's own metadata cannot use secretKeyRef",
        ),
        (FILE_STORE.replace("spec:", "spec:\n  version: v2"), "{}", "there is no secretstores.local.file/v2"),
    ] {
        let dir = Dir::new(&[("b.yaml", &with_store(item)), ("s.yaml", store.as_str()), ("secrets.json", secrets)]);
        let resources = dir.load().unwrap();
        let found = dir.relative(&resources.failures[0]);
        let expected = format!("{prefix}the secret store \"mystore\" cannot be used: {error}");
        assert!(found.starts_with(&expected), "{found}");
        let warned = resources.warnings.iter().any(|warning| {
            dir.relative(warning).starts_with(&format!("s.yaml:1: secret store \"mystore\" cannot be used: {error}"))
        });
        assert!(warned, "{:?}", resources.warnings);
    }
    let dir = Dir::new(&[
        ("b.yaml", &with_store(item)),
        ("s.yaml", &FILE_STORE.replace("secretstores.local.file", "secretstores.hashicorp.vault")),
    ]);
    assert_eq!(
        dir.relative(&dir.load().unwrap().failures[0]),
        format!(
            "{prefix}the secret store \"mystore\" has the type secretstores.hashicorp.vault, which is not handled by \
             this host; use secretstores.local.file or secretstores.local.env"
        )
    );
    assert!(
        Dir::new(&[("b.yaml", &with_store(item))]).load().unwrap().failures[0].to_string().ends_with("there is none")
    );
}

#[test]
fn the_environments_store_in_either_spelling() {
    for spelling in ["secretStore", "secretstore"] {
        let text = format!(
            "{}auth: {{{spelling}: e}}\n---\n{}",
            binding("b", "  - {name: secret, secretKeyRef: {name: T}}\n"),
            component("e", "spec:\n  type: secretstores.local.env\n  metadata:\n  - {name: prefix, value: SE}\n")
        );
        assert_eq!(properties(&loaded(&text)), [("secret", "from-env")]);
    }
}

#[test]
fn duplicate_properties() {
    assert_eq!(
        failed(&binding("b", "  - {name: url, value: S3CR3T}\n  - {name: URL, value: S3CR3T}\n")),
        "b.yaml:1: component \"b\" (bindings.dingtalk.webhook): key url is duplicate in the metadata (lines 9 and 10; \
         names are compared without regard to case); remove one"
    );
}

#[test]
fn templates_in_every_value() {
    let items = "  - {name: id, value: \"{appID}\"}\n  - {name: n, value: \"{namespace}\"}\n  - {name: u, value: \
                 \"{uuid}{uuid}\"}\n  - {name: s, envRef: TEMPLATE}\n";
    let dir = Dir::new(&[("b.yaml", &binding("b", items))]);
    let env = |name: &str| Some(OsString::from("{podName}")).filter(|_| name == "TEMPLATE");
    let failure = dir.load_as("shop", Some("prod"), &env).unwrap();
    assert_eq!(
        failure.failures[0].error.to_string(),
        "failed to parse metadata: property s refers to {podName} but podName is not set; set the environment \
         variable POD_NAME"
    );
    let env = |name: &str| env(name).or_else(|| Some(OsString::from("pod-1")).filter(|_| name == "POD_NAME"));
    let resources = dir.load_as("shop", Some("prod"), &env).unwrap();
    let found = properties(&resources.bindings[0]);
    assert_eq!((found[0].1, found[1].1, found[3].1), ("shop", "prod.shop", "pod-1"));
    let (first, second) = found[2].1.split_at(36);
    assert_ne!(Uuid::parse_str(first).unwrap(), Uuid::parse_str(second).unwrap());
}

#[test]
fn scopes_and_namespaces() {
    let names = |resources: Resources| resources.bindings.into_iter().map(|found| found.name).collect::<Vec<_>>();
    let spec = "spec: {type: bindings.dingtalk.webhook}\n";
    let text = [
        component("all", spec),
        component("none", &format!("{spec}scopes: []\n")),
        component("listed", &format!("{spec}scopes: [other, shop]\n")),
        component("other", &format!("{spec}scopes: [Shop, shop2]\n")),
        component("prod", &format!("  namespace: prod\n{spec}")),
        component("test", &format!("  namespace: test\n{spec}")),
    ]
    .join("---\n");
    let dir = Dir::new(&[("b.yml", text.as_str())]);
    let with = |namespace| names(dir.load_as("shop", namespace, &|_| None).unwrap());
    assert_eq!(with(None), ["all", "none", "listed", "prod", "test"]);
    assert_eq!(with(Some("")), ["all", "none", "listed", "prod", "test"]);
    assert_eq!(with(Some("prod")), ["all", "none", "listed", "prod"]);
}

#[test]
fn a_store_out_of_scope_does_not_exist() {
    let dir = Dir::new(&[
        ("b.yaml", &with_store("  - {name: secret, secretKeyRef: {name: s}}\n")),
        ("s.yaml", &format!("{FILE_STORE}scopes: [other]\n")),
    ]);
    assert!(
        dir.load().unwrap().failures[0].to_string().ends_with("does not exist for this application; there is none")
    );
}

#[test]
fn init_timeouts() {
    let with =
        |text: &str| component("b", &format!("spec:\n  type: bindings.dingtalk.webhook\n  initTimeout: {text}\n"));
    assert_eq!(loaded(&with("1m30s")).init_timeout, Duration::from_secs(90));
    assert_eq!(loaded(&with("\"\"")).init_timeout, Duration::from_secs(5));
    for text in ["soon", "0", "0s", "-3s", "5"] {
        let dir = Dir::new(&[("b.yaml", &with(text))]);
        let resources = dir.load().unwrap();
        assert_eq!(resources.bindings[0].init_timeout, Duration::from_secs(5));
        let warning = dir.relative(&resources.warnings[0]);
        let prefix = format!("b.yaml:1: component \"b\": spec.initTimeout: \"{text}\" is ");
        assert!(warning.starts_with(&prefix) && warning.ends_with("; 5s is used"), "{warning}");
    }
}

#[test]
fn ignore_errors() {
    let with =
        |text: &str| component("b", &format!("spec:\n  type: bindings.dingtalk.webhook\n  ignoreErrors: {text}\n"));
    for (text, expected) in [("true", true), ("True", true), ("yes", true), ("false", false), ("null", false)] {
        assert_eq!(loaded(&with(text)).ignore_errors, expected, "{text}");
    }
    let error = Dir::new(&[("b.yaml", &with("maybe"))]).error();
    assert_eq!(error, "b.yaml:7:17: spec.ignoreErrors must be true or false");
}

#[test]
fn duplicate_names_name_both_places() {
    let one = binding("same", "");
    let dir = Dir::new(&[("a.yaml", &one), ("b.yaml", &one)]);
    assert_eq!(
        dir.error(),
        "duplicate component name \"same\": defined at a.yaml:1 and at b.yaml:1; rename one, or give them different \
         scopes"
    );
    let dir = Dir::new(&[("a.yaml", &format!("{one}---\n{one}"))]);
    assert!(dir.error().contains("defined at a.yaml:1 and at a.yaml:10;"), "{}", dir.error());
    let dir = Dir::new(&[("a.yaml", &one), ("s.yaml", &FILE_STORE.replace("mystore", "same"))]);
    assert!(dir.error().contains("defined at a.yaml:1 and at s.yaml:1;"), "{}", dir.error());
    let elsewhere = format!("{one}scopes: [other]\n");
    assert_eq!(Dir::new(&[("a.yaml", &elsewhere), ("b.yaml", &one)]).load().unwrap().bindings.len(), 1);
    let twice = Dir::new(&[("a.yaml", &one)]);
    let path = twice.0.path().to_owned();
    let context = Context { app_id: "shop", namespace: None, env: &|_| None };
    assert!(matches!(load_dirs(&[path.clone(), path], &context), Err(LoadError::DuplicateName { .. })));
}

#[test]
fn what_is_left_out_silently() {
    let text = format!(
        "# nothing\n---\napiVersion: dapr.io/v1alpha1\nkind: Configuration\nspec: [any, {{thing: [at, all]}}]\n---\n\
         apiVersion: dapr.io/v2alpha1\nkind: Subscription\n---\nkind: Component\nmetadata: 5\n---\n{{}}\n---\n{}---\n",
        binding("b", "")
    );
    let dir = Dir::new(&[("b.yaml", text.as_str()), ("notes.txt", "no: [yaml"), ("secrets.json", "{")]);
    std::fs::create_dir(dir.0.path().join("sub.yaml")).unwrap();
    std::fs::write(dir.0.path().join("sub.yaml/c.yaml"), "no: [yaml").unwrap();
    let resources = dir.load().unwrap();
    assert_eq!(resources.bindings.len(), 1);
    assert_eq!(resources.bindings[0].source.line, 15);
    assert!(resources.warnings.is_empty(), "{:?}", resources.warnings);
}

#[test]
fn other_types_are_a_warning() {
    // What is wrong inside them is not our business.
    let dir = Dir::new(&[("r.yaml", &component("redis", "spec: {type: state.redis, metadata: [5]}\n"))]);
    let resources = dir.load().unwrap();
    let warnings: Vec<String> = resources.warnings.iter().map(|warning| dir.relative(warning)).collect();
    assert_eq!(warnings, ["r.yaml:1: component \"redis\" is left out: type state.redis is not handled by this host"]);
    assert!(resources.bindings.is_empty() && resources.failures.is_empty());
}

#[test]
fn documents_that_are_no_component() {
    for (text, error) in [
        ("a: 1\n---\n  b: [\n", "b.yaml:3:6: not valid YAML: unclosed bracket '['; correct it"),
        ("- a\n", "b.yaml:1:1: a document must be a mapping"),
        (&component("", "spec: {type: x}"), "b.yaml:4:7: metadata.name is missing; give the component a name"),
        (&component("a/b", "spec: {type: x}"), "b.yaml:4:9: metadata.name may not contain \"/\" or \"%\""),
        (&component("a%b", "spec: {type: x}"), "b.yaml:4:9: metadata.name may not contain \"/\" or \"%\""),
        (&component(".", "spec: {type: x}"), "b.yaml:4:9: metadata.name may not be \".\" or \"..\""),
        (&component("..", "spec: {type: x}"), "b.yaml:4:9: metadata.name may not be \".\" or \"..\""),
        (&component("\"a\\nb\"", "spec: {type: x}"), "b.yaml:4:9: metadata.name may not contain control characters"),
        (&component("[a]", "spec: {type: x}"), "b.yaml:4:9: metadata.name must be a text"),
        (&component("a", ""), "b.yaml:1:1: component \"a\" needs a spec mapping; add spec.type"),
        (&component("a", "spec: {version: v1}"), "b.yaml:5:7: component \"a\" has no spec.type; add for example"),
        (&component("a", "spec: {type: x}\nscopes: x\n"), "b.yaml:6:9: scopes must be a list"),
        (&binding("a", "  - S3CR3T\n"), "b.yaml:9:5: an entry of spec.metadata must be a mapping"),
        (&binding("a", "  - {value: S3CR3T}\n"), "b.yaml:9:5: an entry of spec.metadata has no name"),
        (
            &binding("a", "  - {name: secret, value: [S3CR3T]}\n"),
            "b.yaml:9:27: the value of property \"secret\" must be a text or a number",
        ),
        (
            &binding("a", "  - {name: secret, value: {S3CR3T}}\n"),
            "b.yaml:9:27: the value of property \"secret\" must be a text or a number; put templates such as \
             \"{uuid}\" into quotes",
        ),
        (
            &binding("a", "  - {name: secret, secretKeyRef: S3CR3T}\n"),
            "b.yaml:9:34: the secretKeyRef of property \"secret\" must be a mapping with name and key",
        ),
        (&binding("a", "  - {name: secret, envRef: [S3CR3T]}\n"), "b.yaml:9:28: the envRef of property \"secret\""),
    ] {
        let found = Dir::new(&[("b.yaml", text)]).error();
        assert!(found.starts_with(error), "{found}");
        assert!(!found.contains("S3CR3T"), "{found}");
    }
}

#[test]
fn directories_and_files_that_cannot_be_read() {
    let dir = Dir::new(&[("large.yaml", &" ".repeat((4 << 20) + 1))]);
    assert_eq!(dir.error(), "large.yaml is larger than 4 MiB; make it smaller or name the right file");
    let context = Context { app_id: "shop", namespace: None, env: &|_| None };
    let missing = dir.0.path().join("missing");
    assert_eq!(
        dir.relative(load_dirs(std::slice::from_ref(&missing), &context).unwrap_err()),
        "missing cannot be read as a directory: No such file or directory (os error 2); create it or name another one"
    );
    assert_eq!(
        dir.relative(load_file(&missing, &[], &context).unwrap_err()),
        "missing cannot be read: No such file or directory (os error 2)"
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&missing, dir.0.path().join("a-broken-link.yaml")).unwrap();
        assert!(dir.error().starts_with("a-broken-link.yaml cannot be read: No such file"), "{}", dir.error());
    }
}

#[test]
fn files_in_the_order_of_their_names() {
    let dir = Dir::new(&[
        ("c.YAML", &binding("one", "")),
        ("a.yml", &format!("{}---\n{}", binding("two", ""), binding("three", ""))),
        ("b.yaml", &binding("four", "")),
    ]);
    let names: Vec<String> = dir.load().unwrap().bindings.into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["two", "three", "four", "one"]);
    let context = Context { app_id: "shop", namespace: None, env: &|_| None };
    assert_eq!(load_file(&dir.0.path().join("a.yml"), &[], &context).unwrap().bindings.len(), 2);
}

/// Everything a load says, in one text.
fn all_texts(result: &Result<Resources, LoadError>) -> String {
    match result {
        Err(error) => format!("{error} {error:?}"),
        Ok(resources) => {
            let failures: Vec<String> = resources.failures.iter().map(ToString::to_string).collect();
            format!("{resources:?} {failures:?}")
        }
    }
}

const CANARY: &str = "C4N4RY";

#[test]
fn no_text_contains_a_secret() {
    let secrets = r#"{"s": "C4N4RY", "n": {"x": "C4N4RY"}, "l": ["C4N4RY"]}"#;
    let env = |name: &str| Some(OsString::from(CANARY)).filter(|_| name == "SET");
    for item in [
        "value: C4N4RY",
        "value: [C4N4RY]",
        "value: {C4N4RY: C4N4RY}",
        "value: {C4N4RY: C4N4RY",
        "value: \"C4N4RY",
        "value: 'C4N4RY' C4N4RY",
        "value: *C4N4RY",
        "value: !!int C4N4RY",
        "value: !!binary C4N4RY",
        "value: C4N4RY\n    value: C4N4RY",
        "value: C4N4RY: C4N4RY",
        "value: C4N4RY{podName}",
        "value: C4N4RY\n  - name: SECRET\n    value: C4N4RY",
        "value: C4N4RY\n\tx: C4N4RY",
        "envRef: SET",
        "secretKeyRef: {name: s}",
        "secretKeyRef: {name: s, key: k}",
        "secretKeyRef: {name: n}",
        "secretKeyRef: {name: \"n:x\"}",
        "secretKeyRef: {name: l}",
        "secretKeyRef: [C4N4RY]",
        "secretKeyRef: C4N4RY",
    ] {
        let text = with_store(&format!("  - name: secret\n    {item}\n"));
        for secrets in [secrets, &secrets[1..], &secrets[..20], "[\"C4N4RY\"]", "\"C4N4RY\"", "C4N4RY"] {
            let dir = Dir::new(&[("b.yaml", text.as_str()), ("s.yaml", FILE_STORE), ("secrets.json", secrets)]);
            let said = all_texts(&dir.load_as("shop", None, &env));
            assert!(!said.contains(CANARY), "{item}: {said}");
        }
    }
}

/// Whether the canary slipped from a value into a key or a name, which errors do repeat.
fn names_canary(node: &yaml::Node<'_>) -> bool {
    match &node.kind {
        yaml::Kind::Null | yaml::Kind::Scalar(_) => false,
        yaml::Kind::List(items) => items.iter().any(names_canary),
        yaml::Kind::Map(entries) => entries.iter().any(|(key, value)| {
            let is_value = key.eq_ignore_ascii_case("value");
            let named = matches!(&value.kind, yaml::Kind::Scalar(text) if !is_value && text.contains(CANARY));
            named || key.contains(CANARY) || names_canary(value)
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,60}|[-:&*!|>{}\\[\\]'\"#%@,?a1 \n\t]{0,80}") {
        let _ = Dir::new(&[("b.yaml", &text)]).load();
    }

    #[test]
    fn a_mangled_file_never_panics_and_keeps_its_secrets(
        at in 0usize..400, remove in 0usize..12, insert in "[-:&*!|>{}\\[\\]'\"#%@,?a1 \n\t]{0,6}",
    ) {
        let text = with_store("  - name: id\n    value: C4N4RY\n  - {name: url, value: \"C4N4RY\"}\n  - name: secret\n    \
                               secretKeyRef: {name: s, key: s}\n  - name: e\n    envRef: SET\n");
        let at = at.min(text.len());
        let end = (at + remove).min(text.len());
        let mangled = format!("{}{insert}{}", &text[..at], &text[end..]);
        let dir = Dir::new(&[("b.yaml", mangled.as_str()), ("s.yaml", FILE_STORE), ("secrets.json", r#"{"s": "C4N4RY"}"#)]);
        let said = all_texts(&dir.load_as("shop", None, &|name| Some(OsString::from(CANARY)).filter(|_| name == "SET")));
        let named = yaml::read(&mangled).is_ok_and(|documents| documents.iter().any(names_canary));
        prop_assert!(named || !said.contains(CANARY), "{said}");
    }

    #[test]
    fn texts_come_back(value in "[^\u{0}-\u{1f}\u{7f}-\u{9f}\u{feff}\u{fffe}\u{ffff}{]{0,40}") {
        let quoted = serde_json::to_string(&value).unwrap();
        let found = loaded(&binding("b", &format!("  - {{name: v, value: {quoted}}}\n")));
        prop_assert_eq!(properties(&found), [("v", value.as_str())]);
    }
}

/// What is loaded of these files by one that has loaded before.
fn again(loader: &mut Loader) -> (Vec<String>, Vec<String>) {
    let (resources, errors) = loader.reload(&Context { app_id: "shop", namespace: None, env: &|_| None });
    let names = resources.bindings.into_iter().map(|binding| binding.name).collect();
    (names, errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_file_that_cannot_be_read_again_hides_no_other() {
    let good = |name| binding(name, "  - name: id\n    value: x\n");
    let two = format!("{}---\n{}", good("b"), good("c"));
    let dir = Dir::new(&[("1.yaml", &good("a")), ("2.yaml", &two), ("3.yaml", &good("d"))]);
    let mut loader = Loader::new(vec![dir.0.path().to_owned(), dir.0.path().join("later")]);
    let (names, errors) = again(&mut loader);
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert!(errors.len() == 1 && errors[0].contains("later cannot be read as a directory"), "{errors:?}");
    std::fs::create_dir(dir.0.path().join("later")).unwrap();
    // Nothing of a file is taken that is not whole.
    std::fs::write(dir.0.path().join("2.yaml"), format!("{}---\nS3CR3T: [", good("b"))).unwrap();
    let (names, errors) = again(&mut loader);
    assert_eq!(names, ["a", "d"]);
    assert!(errors.len() == 1 && errors[0].contains("2.yaml:") && !errors[0].contains("S3CR3T"), "{errors:?}");
    // Which of two is meant, nobody knows.
    std::fs::write(dir.0.path().join("2.yaml"), good("a")).unwrap();
    let (names, errors) = again(&mut loader);
    assert_eq!(names, ["d"]);
    assert!(errors.len() == 1 && errors[0].starts_with("duplicate component name \"a\""), "{errors:?}");
}

#[test]
fn a_binding_is_the_same_until_what_it_is_made_of_changes() {
    let digest = |text: &str| loaded(text).digest();
    let items = "  - name: id\n    value: x\n  - name: url\n    value: y\n";
    let first = digest(&binding("b", items));
    let elsewhere =
        format!("# moved\n\n{}scopes: [shop]\n", binding("b", items).replace("spec:", "spec:\n  ignoreErrors: true"));
    assert_eq!(digest(&elsewhere), first);
    for (from, to) in [
        ("value: x", "value: xy"),
        ("value: x", "value: \"\""),
        ("name: url", "name: u"),
        ("version: v1", "version: v0"),
        ("bindings.d", "bindings.alicloud.d"),
    ] {
        assert_ne!(digest(&binding("b", items).replace(from, to)), first, "{to}");
    }
    // Where one text ends and the next begins matters.
    let [one, other] = ["ab,c", "a,bc"].map(|text| {
        let (name, value) = text.split_once(',').unwrap();
        digest(&binding("b", &format!("  - name: {name}\n    value: {value}\n")))
    });
    assert_ne!(one, other);
}

#[test]
fn a_template_stands_for_the_same_at_every_reading() {
    let dir = Dir::new(&[("b.yaml", &binding("b", "  - name: id\n    value: \"{uuid}-{uuid}\"\n"))]);
    let mut loader = Loader::new(vec![dir.0.path().to_owned()]);
    let mut id = || {
        let (resources, _) = loader.reload(&Context { app_id: "shop", namespace: None, env: &|_| None });
        resources.bindings[0].properties[0].1.expose().to_owned()
    };
    let first = id();
    assert_eq!(first.len(), 73);
    assert_ne!(first[..36], first[37..]);
    assert_eq!(id(), first);
    assert_ne!(dir.load().unwrap().bindings[0].properties[0].1.expose(), first, "a process of its own");
}
