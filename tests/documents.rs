//! The documents say what the code has: every flag, variable, property and dependency, and none that it has not.
//! The code is asked: clap for the flags, the sources and the manifests for everything else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

type Names = BTreeSet<String>;

/// Said once, above the tables of flags.
const EVERYWHERE: [&str; 2] = ["log-level", "log-as-json"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
    names.into_iter().map(str::to_owned).collect()
}

/// Fails with the difference, so that the mend is clear.
fn same(document: &str, what: &str, documented: &Names, code: &Names) {
    assert!(!code.is_empty(), "no {what} found in the code");
    let missing: Vec<_> = code.difference(documented).collect();
    let unknown: Vec<_> = documented.difference(code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "{document}, {what}: missing {missing:?}, not in the code {unknown:?}"
    );
}

/// The part of `text` from `start` up to `end`, or to its own end.
fn section<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start:?} is missing"));
    rest.split_once(end).map_or(rest, |(section, _)| section)
}

/// The code spans of `text`.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The code spans in the first cells of the tables' rows.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    cells.flat_map(code_spans)
}

/// The long flag that a code span begins with, or names after a short one.
fn flag(span: &str) -> Option<String> {
    let name = span.strip_prefix("--")?;
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(name.len());
    Some(name[..end].to_owned()).filter(|name| !name.is_empty())
}

fn flags<'a>(spans: impl Iterator<Item = &'a str>) -> Names {
    spans.filter_map(flag).collect()
}

/// The subcommand behind these names.
fn subcommand(path: &[&str]) -> clap::Command {
    path.iter().fold(dingtalk_host::cli::command(), |command, name| command.find_subcommand(name).unwrap().clone())
}

fn long_flags(command: &clap::Command) -> Names {
    command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
}

/// Without those that are documented for all at once.
fn own_flags(path: &[&str]) -> Names {
    let mut flags = long_flags(&subcommand(path));
    flags.retain(|flag| !EVERYWHERE.contains(&flag.as_str()));
    flags
}

/// Every command that can be run, by the names that lead to it.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        for sub in command.get_subcommands() {
            let path = [path, &[sub.get_name().to_owned()]].concat();
            if sub.has_subcommands() {
                below(sub, &path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(&dingtalk_host::cli::command(), &[], &mut found);
    found
}

#[test]
fn every_flag_is_documented_and_every_documented_one_exists() {
    let document = read("docs/commands.md");
    for path in commands() {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let command = path.join(" ");
        let (file, documented) = if command == "simulate" {
            let simulator = read("docs/simulator.md");
            let mut documented = flags(rows(section(&simulator, "\n## Flags\n", "\n## ")));
            documented.retain(|flag| !EVERYWHERE.contains(&flag.as_str()));
            ("docs/simulator.md", documented)
        } else {
            let start = format!("\n**`dingtalk-host {command}`**");
            let section = section(&document, &start, "\n**`dingtalk-host ").split("\n## ").next().unwrap();
            // With few flags a sentence is enough.
            let has_table = section.contains("\n| flag |");
            ("docs/commands.md", if has_table { flags(rows(section)) } else { flags(code_spans(section)) })
        };
        same(file, &format!("flags of {command}"), &documented, &own_flags(&path));
    }
}

#[test]
fn the_flags_that_are_documented_for_all_commands_exist_where_the_document_says() {
    let document = read("docs/commands.md");
    let introduction = document.split("\n**`").next().unwrap();
    let exceptions = section(introduction, "exist for all but ", ".");
    let exceptions: Names = code_spans(exceptions).map(str::to_owned).collect();
    for path in commands() {
        let flags = long_flags(&subcommand(&path.iter().map(String::as_str).collect::<Vec<_>>()));
        for flag in EVERYWHERE {
            assert!(introduction.contains(&format!("`--{flag}`")), "--{flag}");
            assert_eq!(flags.contains(flag), !exceptions.contains(&path[0]), "{path:?} --{flag}");
        }
    }
}

#[test]
fn a_flag_that_a_document_mentions_exists() {
    let mut known = names(["help", "version"]);
    for path in commands() {
        known.extend(long_flags(&subcommand(&path.iter().map(String::as_str).collect::<Vec<_>>())));
    }
    for file in [
        "commands",
        "dapr",
        "errors",
        "hosts",
        "pluggable",
        "outbox",
        "properties",
        "receiving",
        "security",
        "simulator",
    ] {
        let file = format!("docs/{file}.md");
        for line in read(&file).lines() {
            // daprd's own flags stand in the left column of the table of differences.
            let text = if file == "docs/dapr.md" { line.split('|').nth(2).unwrap_or_default() } else { line };
            for flag in flags(code_spans(text)) {
                assert!(known.contains(&flag), "{file}: --{flag} does not exist: {line}");
            }
        }
    }
}

/// Every Rust file below `folder`.
fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let (mut folders, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

/// The sources of the host without their tests.
fn sources() -> Vec<String> {
    let is_test = |path: &Path| {
        let of_tests = |part: &str| part.contains("tests") || part == "simulation";
        path.components().any(|part| of_tests(&part.as_os_str().to_string_lossy()))
    };
    let files = rust_files("host/src").into_iter().filter(|(path, _)| !is_test(path));
    files.map(|(_, text)| text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()).collect()
}

/// What `text` has between `"` and `"`.
fn strings(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| line.split('"').skip(1).step_by(2))
}

/// The names in the sources that look like a variable's. Those that are something else are named here.
fn variables() -> Names {
    const OTHER: [&str; 6] = [
        "INPUT_BINDING",
        "OUTPUT_BINDING",
        // Its name and version, when it is built.
        "CARGO_PKG_NAME",
        "CARGO_PKG_VERSION",
        // Libraries read these; an operator here has no use for them.
        "REQUEST_METHOD",
        "TOKIO_WORKER_THREADS",
    ];
    // hyper-util reads these; in small letters too.
    let mut found = names(["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"]);
    // The library that reads the system's authorities has this one too.
    found.insert("SSL_CERT_DIR".to_owned());
    for text in sources() {
        found.extend(
            // NAMESPACE is the only one of a single word.
            strings(&text)
                .filter(|name| *name == "NAMESPACE" || name.contains('_'))
                .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'))
                .filter(|name| {
                    name.starts_with(|c: char| c.is_ascii_uppercase())
                        && !name.starts_with("ERR_")
                        && !name.ends_with('_')
                })
                .filter(|name| !OTHER.contains(name))
                .map(str::to_owned),
        );
    }
    found
}

#[test]
fn every_variable_is_documented_and_every_documented_one_is_read() {
    let document = read("docs/commands.md");
    let documented = names(rows(section(&document, "\n## Environment variables\n", "\n## ")));
    let (mut of_spans, others): (Names, Names) = variables().into_iter().partition(|name| name.starts_with("OTEL_"));
    same("docs/commands.md", "variables", &documented, &others);
    let tracing = read("docs/tracing.md");
    let names_of_spans = code_spans(&tracing).filter(|name| name.starts_with("OTEL_"));
    // The SDK reads it.
    of_spans.insert("OTEL_BSP_SCHEDULE_DELAY".to_owned());
    same("docs/tracing.md", "variables", &names(names_of_spans), &of_spans);
    let of_flags = commands().into_iter().flat_map(|path| {
        let command = subcommand(&path.iter().map(String::as_str).collect::<Vec<_>>());
        command.get_arguments().filter_map(|a| Some(a.get_env()?.to_str()?.to_owned())).collect::<Vec<_>>()
    });
    let missing: Vec<_> = of_flags.filter(|variable| !documented.contains(variable)).collect();
    assert!(missing.is_empty(), "docs/commands.md does not name {missing:?}");
}

#[test]
fn every_variable_of_the_gateway_is_documented_and_every_documented_one_is_read() {
    let documented = names(rows(section(&read("docs/gateway.md"), "\n## Settings\n", "\n## ")));
    let mut code = Names::new();
    for file in
        ["components/core/src/settings.rs", "api/src/delivery/application.rs", "components/remember/src/component.rs"]
    {
        let text = read(file);
        let sources = text.split("#[cfg(test)]").next().unwrap();
        let is_variable = |text: &&str| {
            let is_name = text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            is_name && text.contains('_') && !["DINGTALK_", "__", "_"].contains(text)
        };
        code.extend(strings(sources).filter(is_variable).map(str::to_owned));
    }
    code.insert("DINGTALK_<NAME>__<PROPERTY>".into());
    same("docs/gateway.md", "variables", &documented, &code);
    // An example names them too: Spin has no list of variables to ask for.
    let example = read("examples/spin/variables/variables.js");
    let example = section(&example, "const COMMON = [", "];");
    let mut example: Names = example.split('\'').skip(1).step_by(2).map(str::to_ascii_uppercase).collect();
    example.insert("DINGTALK_<NAME>__<PROPERTY>".into());
    same("examples/spin/variables/variables.js", "variables", &example, &documented);
}

#[test]
fn every_property_is_documented_and_every_documented_one_is_read() {
    let component = read("src/settings.rs");
    let mut code = names(strings(section(&component, "const PROPERTIES", "];")));
    assert!(code.contains("url"), "{code:?}");
    // The host reads more of the same list.
    let host = read("host/src/bindings/mod.rs");
    code.extend(host.split("property(\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    let document = read("docs/properties.md");
    let documented = names(rows(section(&document, "\n## Properties\n", "\n## ")));
    same("docs/properties.md", "properties", &documented, &code);
    let contract = read("wit/init.wit");
    let missing: Vec<_> =
        strings(section(&component, "const PROPERTIES", "];")).filter(|p| !contract.contains(p)).collect();
    assert!(missing.is_empty(), "wit/init.wit does not name {missing:?}");
    // An example names them too: Spin has no list of variables to ask for.
    let example = read("examples/spin/variables/variables.js");
    let example = section(&example, "const PROPERTIES = [", "];");
    let example = names(example.split('\'').skip(1).step_by(2));
    let of_the_component = strings(section(&component, "const PROPERTIES", "];")).filter(|name| *name != "id");
    same("examples/spin/variables/variables.js", "properties", &example, &of_the_component.map(snake).collect());
}

/// `appSecret` as `app_secret`.
fn snake(name: &str) -> String {
    name.chars()
        .flat_map(|c| c.is_ascii_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()]))
        .collect()
}

/// The crates that a manifest names, but for those of this repository.
fn crates(manifest: &str) -> Names {
    let mut found = Names::new();
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
        } else if in_dependencies
            && line.starts_with(|c: char| c.is_ascii_alphanumeric())
            && let Some((name, value)) = line.split_once('=')
            && !value.contains("path = ")
        {
            let name = name.trim().trim_end_matches(".workspace");
            let renamed = value.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            found.insert(renamed.unwrap_or(name).to_owned());
        }
    }
    found
}

#[test]
fn every_dependency_is_documented_and_every_documented_one_is_needed() {
    let workspace = read("Cargo.toml");
    let members = strings(section(&workspace, "\nmembers = [", "]")).map(|member| format!("{member}/Cargo.toml"));
    let manifests: Vec<String> = members.chain(["fuzz/Cargo.toml".to_owned()]).collect();
    let code: Names = manifests.iter().flat_map(|manifest| crates(&read(manifest))).collect();
    assert!(code.contains("wasmtime") && code.contains("wasip2") && code.contains("http"), "{code:?}");
    let document = read("docs/dependencies.md");
    let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let crates = cells.filter(|cell| !cell.starts_with("**") && *cell != "crate").flat_map(|cell| cell.split(", "));
    same("docs/dependencies.md", "dependencies", &names(crates), &code);
}

/// Programs of others and their exact versions, where `make interop` takes them from.
fn pins() -> Names {
    let mut found = Names::new();
    for file in ["examples/python/requirements.txt", "tests/interop/requirements.txt"] {
        let text = read(file);
        found.extend(
            text.lines().filter_map(|line| line.split_once("==")).map(|(name, version)| format!("{name} {version}")),
        );
    }
    let package: serde_json::Value = serde_json::from_str(&read("examples/node/package.json")).unwrap();
    for kind in ["dependencies", "devDependencies"] {
        let programs = package[kind].as_object().unwrap();
        found.extend(programs.iter().map(|(name, version)| format!("{name} {}", version.as_str().unwrap())));
    }
    let run = read("tests/interop/run");
    found.insert(format!("wac-cli {}", section(&run, "\nwac_version=", "\n")));
    found
}

#[test]
fn the_programs_of_make_interop_are_documented_at_their_versions() {
    let document = read("tests/interop/README.md");
    let cells = document.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let rows = cells.filter(|(program, _)| *program != "program").map(|(program, rest)| {
        let version = rest.split(" |").next().unwrap();
        format!("{} {version}", program.split(',').next().unwrap())
    });
    let mut documented: Names = rows.collect();
    documented.insert(format!("PyYAML {}", section(&document, "(PyYAML\n", " ")));
    same("tests/interop/README.md", "programs", &documented, &pins());
}

/// The names of the rows of docs/dapr.md that `make dapr-differences` refers to.
fn differences() -> Names {
    let document = read("docs/dapr.md");
    names(document.lines().filter_map(|line| line.strip_prefix("| **")?.split_once(".** ")).map(|(name, _)| name))
}

// That each difference is there, and no other, is for `make dapr-differences` to say, which needs Go.
#[test]
fn every_difference_from_dapr_that_is_named_has_a_row_and_every_named_row_is_referred_to() {
    let folder = root().join("tests/dapr/differences");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let code: String = files.collect();
    let named = differences();
    assert!(named.len() > 40, "{named:?}");
    for name in &named {
        assert!(code.contains(&format!("\"{name}\"")), "no case of tests/dapr/differences shows {name:?}");
    }
    let referred: Names = names(code.split(".differs(\"").skip(1).filter_map(|rest| rest.split('"').next()));
    assert!(referred.len() > 30, "{referred:?}");
    assert!(referred.is_subset(&named), "not in docs/dapr.md: {:?}", referred.difference(&named));
}

#[test]
fn the_dapr_that_is_compared_with_is_the_one_that_the_documents_name() {
    let pins = read("tests/dapr/go.mod");
    for document in ["docs/dapr.md", "tests/dapr/README.md"] {
        let text = read(document).replace('\n', " ");
        let version = |program: &str| {
            let found = text.split(program).nth(1).unwrap_or_else(|| panic!("{document} names no {program}"));
            found.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap().trim_end_matches('.').to_owned()
        };
        for (program, module) in [("daprd ", "dapr/dapr"), ("components-contrib ", "dapr/components-contrib")] {
            let pin = format!("github.com/{module} v{}\n", version(program));
            assert!(pins.contains(&pin), "{document} names {pin:?}, which tests/dapr/go.mod has not");
        }
    }
    // Both benchmarks compare with one and the same binding.
    let contrib = section(&pins, "github.com/dapr/components-contrib ", "\n");
    let pin = format!("github.com/dapr/components-contrib {contrib}\n");
    assert!(read("host/benches/dapr/go.mod").contains(&pin), "host/benches/dapr/go.mod has not {pin:?}");
    let named = format!("components-contrib {}", contrib.trim_start_matches('v'));
    assert!(
        read("docs/performance.md").replace('\n', " ").contains(&named),
        "docs/performance.md does not name {named}"
    );
}

#[test]
fn the_alertmanager_that_is_run_is_the_one_that_the_documents_name() {
    let pins = read("tests/alertmanager/go.mod");
    let version = section(&pins, "github.com/prometheus/alertmanager v", "\n");
    let (minor, _) = version.rsplit_once('.').unwrap();
    let named = format!("Alertmanager {version}");
    assert!(read("tests/alertmanager/README.md").contains(&named), "tests/alertmanager/README.md names no {named}");
    for document in ["examples/alertmanager/README.md", "examples/alertmanager/alertmanager.yml"] {
        let named = format!("Alertmanager {minor} ");
        assert!(read(document).contains(&named), "{document} names no {named}");
    }
}

#[test]
fn the_readme_can_be_read_in_one_go() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "README.md has {lines} lines, more than 200: move a table to docs/");
}

/// The documents, from the top of the repository.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    const EXAMPLES: [&str; 9] = [
        "examples/alertmanager",
        "examples/bots",
        "examples/dapr",
        "examples/grafana",
        "examples/node",
        "examples/python",
        "examples/spin",
        "examples/wasmcloud",
        "examples/wasmtime-serve",
    ];
    const TESTS: [&str; 4] = ["tests/alertmanager", "tests/dapr", "tests/interop", "tests/peers"];
    for folder in ["", "docs", "fuzz"].into_iter().chain(TESTS).chain(EXAMPLES) {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                found.push(Path::new(folder).join(name).to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// The lines that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// The anchors of the headings, as the forges make them: letters, digits, `-` and `_` in lower case, `-` for blanks.
fn anchors(text: &str) -> Names {
    let mut found = Names::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|anchor| !found.contains(anchor));
        found.extend(free);
    }
    found
}

#[test]
fn every_link_to_a_file_or_a_heading_leads_there() {
    let documents = documents();
    for expected in ["README.md", "CONTRIBUTING.md", "docs/simulator.md", "fuzz/README.md"] {
        assert!(documents.iter().any(|document| document == expected), "{expected} is not among {documents:?}");
    }
    let mut links = 0;
    for document in documents {
        let text = read(&document);
        for line in prose(&text) {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if target.contains(':') {
                    continue;
                }
                links += 1;
                let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file =
                    if path.is_empty() { PathBuf::from(&document) } else { Path::new(&document).with_file_name(path) };
                assert!(root().join(&file).exists(), "{document}: {target} does not exist");
                if !anchor.is_empty() {
                    let anchors = anchors(&read(file.to_str().unwrap()));
                    assert!(anchors.contains(anchor), "{document}: {target} names no heading; there are {anchors:?}");
                }
            }
        }
    }
    assert!(links > 50, "{links} links found");
}

#[test]
fn a_test_that_contributors_are_sent_to_exists() {
    let sources: Vec<_> = ["src", "host/src", "tests"].into_iter().flat_map(rust_files).collect();
    let contributing = read("CONTRIBUTING.md");
    let is_test = |span: &&str| {
        span.matches('_').count() > 1 && span.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    for name in code_spans(&contributing).filter(is_test) {
        let test = format!("fn {name}(");
        assert!(
            sources.iter().any(|(_, source)| source.contains(&test)),
            "CONTRIBUTING.md names {name}, which is gone"
        );
    }
}

/// What a row of docs/security.md says, and the line of the code from which it follows.
const LIMITS: [(&str, &str, &str, &str); 66] = [
    ("memory", "32 MiB", "sandbox/mod.rs", "memory: 32 << 20,"),
    ("memory", "8 times", "sandbox/mod.rs", "size.saturating_mul(8)"),
    ("instructions", "2,000,000,000", "sandbox/mod.rs", "fuel: 2_000_000_000,"),
    ("stack", "64 KiB of compiled frames", "sandbox/engine.rs", "const WASM_STACK: usize = 64 << 10;"),
    ("stack", "16 KiB in its memory", "../../components/builder/src/lib.rs", "stack_bytes: Some(16 * 1024),"),
    ("handles to host resources", "64", "sandbox/mod.rs", "handles: 64,"),
    ("bytes handed to the host", "2 MiB", "sandbox/mod.rs", "hostcall_bytes: 2 << 20,"),
    ("bodies of its requests", "16 MiB", "egress/mod.rs", "const MAX_REQUEST_BODY: usize = 16 * 1024 * 1024;"),
    ("time", "5 s more", "sandbox/mod.rs", "grace: Duration::from_secs(5),"),
    ("time", "at most 5 s for a slot", "sandbox/mod.rs", "queue: Duration::from_secs(5),"),
    ("calls at once", "256 operations", "sandbox/mod.rs", "instances: 256,"),
    ("calls at once", "64 of each", "sandbox/mod.rs", "instances_per_binding: 64,"),
    ("calls that wait for a robot", "64 of one robot", "gate/mod.rs", "WAITING_EACH: usize = 64;"),
    ("calls that wait for a robot", "256,", "gate/mod.rs", "WAITING: usize = 256;"),
    ("calls that wait", "4,096 operations", "sandbox/slots.rs", "all: 4_096, each: 1_024"),
    ("calls that wait", "1,024 of each", "sandbox/slots.rs", "all: 4_096, each: 1_024"),
    ("calls that pause", "128, of which 16", "input/outbound.rs", "Rule { all: 128, each: 16 }"),
    ("requests | 16", "16, one after", "egress/departure.rs", "const REQUESTS: u32 = 16;"),
    ("answers that are being sent on", "64, of which 16", "input/mod.rs", "Rule { all: 64, each: 16 }"),
    ("answers that are being sent on", "16 names", "input/answer.rs", "const MAX_NAMES: usize = 16;"),
    ("answer that is read", "64 KiB", "../../src/answer.rs", "const MAX_BODY: usize = 64 * 1024;"),
    ("handler: memory", "128 MiB", "cli/app.rs", "default_value = \"128Mi\""),
    ("handler: instructions", "10,000,000,000", "app/component/store.rs", "const FUEL: u64 = 10_000_000_000;"),
    ("handler: stack", "1 MiB", "app/component/store.rs", "const WASM_STACK: usize = 1 << 20;"),
    ("handler: handles", "256", "app/component/store.rs", "const HANDLES: usize = 256;"),
    ("handler: bytes", "2 MiB", "app/component/store.rs", "const HOSTCALL_BYTES: usize = 2 << 20;"),
    ("handler: bytes", "64 KiB", "app/component/store.rs", "const RANDOM_BYTES: u64 = 64 << 10;"),
    ("handler: answer", "1 MiB", "../../api/src/delivery/mod.rs", "const MAX_ANSWER: usize = 1 << 20;"),
    ("handler: time", "60s", "cli/app.rs", "default_value = \"60s\""),
    ("handler: messages", "64, of which 16", "app/component/mod.rs", "Rule { all: 64, each: 16 }"),
    ("handler: output", "8 KiB", "app/component/output.rs", "const MAX_OUTPUT: usize = 8 << 10;"),
    ("handler: requests", "16, each", "app/component/store.rs", "const REQUESTS: u32 = 16;"),
    ("handler: requests", "1 MiB", "egress/mod.rs", "const MAX_HOST_BODY: usize = 1 << 20;"),
    ("handler: requests", "5 s", "egress/mod.rs", "const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);"),
    ("handler: file", "256 MiB", "app/component/load.rs", "const MAX_FILE: u64 = 256 << 20;"),
    ("connections", "512", "api/server.rs", "connections: connections(512),"),
    ("connections", "1,024", "api/server.rs", "connections: connections(1_024),"),
    ("silence", "120 s", "api/server.rs", "patience: Duration::from_secs(120),"),
    ("silence", "30 s", "api/server.rs", "patience: Duration::from_secs(30),"),
    ("requests at once", "1,024", "api/server.rs", "requests: 1_024,"),
    ("requests at once", "64 on one HTTP/2 connection", "api/server.rs", "const MAX_STREAMS: u32 = 64;"),
    ("head of a request", "16 KiB", "api/server.rs", "const MAX_HEAD: u32 = 16 << 10;"),
    ("body", "60 s", "../../api/src/limits.rs", "const BODY_TIMEOUT: Duration = Duration::from_secs(60);"),
    ("body", "128 KiB", "../../src/callback.rs", "pub const MAX_BODY: usize = 128 * 1024;"),
    ("body", "10 s", "../../api/src/limits.rs", "const CALLBACK_TIMEOUT: Duration = Duration::from_secs(10);"),
    ("bodies above 8 KiB", "24 MiB", "api/server.rs", "bytes: 24 << 20,"),
    ("bodies above 8 KiB", "8 MiB", "api/server.rs", "bytes: 8 << 20,"),
    ("sockets: connections", "512", "pluggable/server.rs", "unwrap_or(512).clamp(1, 512)"),
    ("sockets: connections", "a quarter", "pluggable/server.rs", "const DESCRIPTORS_EACH: u64 = 4;"),
    ("sockets: calls at once", "1,024", "pluggable/server.rs", "requests: 1_024,"),
    ("sockets: calls at once", "256 on one connection", "pluggable/server.rs", "const MAX_STREAMS: u32 = 256;"),
    ("sockets: message |", "and 64 KiB", "pluggable/server.rs", "const REST: usize = 64 << 10;"),
    ("sockets: message |", "128 KiB", "pluggable/server.rs", "const MAX_INIT: usize = 128 << 10;"),
    (
        "sockets: message |",
        "60 s",
        "../../api/src/limits.rs",
        "const BODY_TIMEOUT: Duration = Duration::from_secs(60);",
    ),
    ("sockets: messages above", "24 MiB", "pluggable/server.rs", "bytes: 24 << 20,"),
    ("sockets: items", "1,000", "../../api/src/request.rs", "const MAX_METADATA: usize = 1_000;"),
    ("sockets: instances", "1,024", "pluggable/instances.rs", "const MAX_INSTANCES: usize = 1_024;"),
    ("sockets: instances", "253 bytes", "pluggable/instances.rs", "const MAX_NAME: usize = 253;"),
    ("sockets: instances", "256 properties", "pluggable/instances.rs", "const MAX_PROPERTIES: usize = 256;"),
    ("sockets: instances", "64 KiB", "pluggable/instances.rs", "const MAX_BYTES: usize = 64 << 10;"),
    ("sockets: streams", "8", "app/dapr.rs", "const MAX_STREAMS: usize = 8;"),
    ("sockets: answer", "1 MiB", "../../api/src/delivery/mod.rs", "const MAX_ANSWER: usize = 1 << 20;"),
    ("sockets: reflection", "64", "pluggable/server.rs", "const MAX_REFLECTIONS: usize = 64;"),
    ("sockets: reflection", "4 KiB", "pluggable/server.rs", "const MAX_QUESTION: usize = 4 << 10;"),
    ("fields of a gRPC message", "64 beside", "fields.rs", "const MAX_FIELDS: usize = 64;"),
    ("items of `metadata`", "1,000", "../../api/src/request.rs", "const MAX_METADATA: usize = 1_000;"),
];

#[test]
fn every_limit_is_documented_as_it_is() {
    let security = read("docs/security.md");
    let tables =
        ["limit of one call", "limit of one message to a component", "limit of a port", "limit of the sockets"];
    let mut left: BTreeSet<&str> = tables
        .into_iter()
        .flat_map(|table| section(&security, &format!("| {table} |"), "\n\n").lines().skip(2))
        .collect();
    for (row, value, file, code) in LIMITS {
        let documented = security.lines().find(|line| line.starts_with(&format!("| {row}")));
        let documented = documented.unwrap_or_else(|| panic!("docs/security.md has no row {row:?}"));
        assert!(documented.contains(value), "docs/security.md: {value:?} is not in: {documented}");
        assert!(read(&format!("host/src/{file}")).contains(code), "{file} has no {code:?}: mend docs/security.md too");
        left.remove(documented);
    }
    assert_eq!(left, BTreeSet::from(["| protocols | HTTP/1.1, HTTP/2; gRPC | HTTP/1.1 |"]), "rows that nothing checks");
}
