//! The packages that a component was compiled from, as cargo-auditable writes them into programs: the section `.dep-v0`,
//! which scanners for known weaknesses read.

use std::collections::{BTreeMap, BTreeSet};

use auditable_serde::{DependencyKind, Package, Source, VersionInfo};

use crate::{Result, TARGET, toolchain};

/// Name, version and where the sources are.
type Id = (String, semver::Version, Source);

/// Packages, each with those that it depends on. Sorted, so that equal trees give equal bytes.
#[derive(Debug, Clone)]
pub(crate) struct Dependencies {
    root: Id,
    packages: BTreeMap<Id, BTreeSet<Id>>,
}

impl Dependencies {
    /// Those that are compiled into `package` with these features. Cargo's tree is exact: it resolves features for this
    /// package and target alone, and leaves out what runs in the compiler.
    pub(crate) fn of(root: &std::path::Path, package: &str, features: &[&str]) -> Result<Self> {
        let mut cargo = toolchain::inner_cargo()?;
        cargo.current_dir(root).args(["tree", "--locked", "--package", package, "--target", TARGET]);
        cargo.arg("--features").arg(features.join(","));
        cargo.args(["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "{p}"]);
        Self::parse(&toolchain::output(&mut cargo)?)
    }

    /// Those of a composition called `name`.
    pub(crate) fn composed(name: &str, version: &str, parts: &[&Self]) -> Result<Self> {
        let version = version.parse().map_err(|error| format!("{name}: version {version}: {error}"))?;
        let root = (name.to_owned(), version, Source::Local);
        let mut packages: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
        for part in parts {
            packages.entry(root.clone()).or_default().insert(part.root.clone());
            for (package, dependencies) in &part.packages {
                packages.entry(package.clone()).or_default().extend(dependencies.iter().cloned());
            }
        }
        Ok(Self { root, packages })
    }

    /// Reads lines of depth, name, `v` and version, and in brackets where the sources are if not in the registry. A
    /// package that was listed before, `(*)`, has its dependencies there.
    fn parse(tree: &str) -> Result<Self> {
        let mut packages: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
        let mut above: Vec<Id> = Vec::new();
        for line in tree.lines() {
            let (depth, id) = node(line).ok_or_else(|| format!("cargo tree: this line is not understood: {line}"))?;
            above.truncate(depth);
            if let Some(parent) = above.last() {
                packages.entry(parent.clone()).or_default().insert(id.clone());
            }
            packages.entry(id.clone()).or_default();
            above.push(id);
        }
        let root = above.into_iter().next().ok_or("cargo tree printed nothing")?;
        Ok(Self { root, packages })
    }

    /// The content of the section, before it is compressed.
    pub(crate) fn version_info(&self) -> VersionInfo {
        let position: BTreeMap<&Id, usize> = self.packages.keys().enumerate().map(|(at, id)| (id, at)).collect();
        let packages = self.packages.iter().map(|(id, dependencies)| Package {
            name: id.0.clone(),
            version: id.1.clone(),
            source: id.2.clone(),
            kind: DependencyKind::Runtime,
            dependencies: dependencies.iter().filter_map(|id| position.get(id).copied()).collect(),
            root: *id == self.root,
        });
        // 1: what runs in the compiler is no dependency of what runs.
        VersionInfo { packages: packages.collect(), format: 1 }
    }
}

fn node(line: &str) -> Option<(usize, Id)> {
    let digits = line.find(|c: char| !c.is_ascii_digit())?;
    let (depth, rest) = line.split_at_checked(digits)?;
    let mut words = rest.split(' ');
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?.parse().ok()?;
    let source = match words.next() {
        None | Some("(*)") => Source::CratesIo,
        Some(place) if place.starts_with("(/") || place.get(2..4) == Some(":\\") => Source::Local,
        Some(place) if place.starts_with("(registry") => Source::Registry,
        Some(_) => Source::Git,
    };
    Some((depth.parse().ok()?, (name.to_owned(), version, source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_cargo_becomes_the_list_of_cargo_auditable() {
        let tree = "0guest v0.1.0 (/somewhere/guest)\n\
                    1a v1.2.3\n\
                    2b v2.0.0+extra\n\
                    3c v0.1.0\n\
                    1b v2.0.0+extra (*)\n\
                    1d v3.0.0 (https://example.com/d?rev=1#12345678)\n";
        let info = Dependencies::parse(tree).unwrap().version_info();
        let expected = r#"{"packages":[{"name":"a","version":"1.2.3","source":"crates.io","dependencies":[1]},{"name":"b","version":"2.0.0+extra","source":"crates.io","dependencies":[2]},{"name":"c","version":"0.1.0","source":"crates.io"},{"name":"d","version":"3.0.0","source":"git"},{"name":"guest","version":"0.1.0","source":"local","dependencies":[0,1,3],"root":true}],"format":1}"#;
        assert_eq!(serde_json::to_string(&info).unwrap(), expected);
    }

    #[test]
    fn a_composition_has_one_root_above_the_parts() {
        let part = |tree| Dependencies::parse(tree).unwrap();
        let (a, b) = (part("0a v1.0.0 (/a)\n1shared v1.0.0\n"), part("0b v1.0.0 (/b)\n1shared v1.0.0\n"));
        let info = Dependencies::composed("both", "0.1.0", &[&a, &b]).unwrap().version_info();
        let names: Vec<_> = info.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "both", "shared"]);
        let roots: Vec<_> = info.packages.iter().filter(|package| package.root).collect();
        assert!(roots.len() == 1 && roots[0].name == "both" && roots[0].dependencies == [0, 1], "{roots:?}");
    }

    #[test]
    fn a_line_that_is_not_understood_is_shown() {
        for tree in ["", "guest v0.1.0", "0guest 0.1.0", "0guest vX"] {
            let error = Dependencies::parse(tree).unwrap_err();
            assert!(error.contains("cargo tree") && error.contains(tree), "{error}");
        }
    }
}
