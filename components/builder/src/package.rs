//! The interfaces as a package that others take: one text, and one binary.

use std::path::Path;

use wit_component::WitPrinter;
use wit_parser::Resolve;

use crate::Result;
use crate::metadata::Metadata;

/// The package of wit/.
#[derive(Debug)]
pub struct Package {
    /// For people, and for tools that read one file.
    pub text: String,
    /// For registries.
    pub binary: Vec<u8>,
}

impl Package {
    /// Of the files in `folder`, which depend on no other package.
    pub(crate) fn of(folder: &Path, description: &str, manifest: Metadata) -> Result<Self> {
        let failed = |error| format!("{}: {error:#}", folder.display());
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(folder).map_err(failed)?;
        let mut printer = WitPrinter::default();
        printer.print(&resolve, package, &[]).map_err(failed)?;
        // Names with all of the version, as every tool reads them.
        let binary = wit_component::encode(&resolve, package, false).map_err(failed)?;
        let Some(found) = resolve.packages.get(package) else {
            return Err(format!("{}: no package", folder.display()));
        };
        let name = &found.name;
        let version = name.version.as_ref().ok_or_else(|| format!("{name} has no version"))?.to_string();
        let (name, description) = (format!("{}:{}", name.namespace, name.name), description.to_owned());
        let metadata = Metadata { name, version, description, ..manifest };
        Ok(Self { text: printer.output.to_string(), binary: metadata.added(&binary)? })
    }
}
