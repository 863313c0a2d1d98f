//! Flags for a database that several hosts share, instead of directories.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{StringValueParser, TypedValueParser};
use dingtalk_binding::secret::Secret;

use crate::clock;
use crate::files;
use crate::queue::postgres::{Address, Database};

/// Where everything is that waits.
#[derive(Debug, Clone, Args)]
pub(super) struct StoreArgs {
    /// PostgreSQL in which inbox and outbox are, for any number of hosts: postgres://user@host:port/database?sslmode=require.
    /// Instead of --inbox and --outbox. Everybody on the machine can read a password in the command line; the environment
    /// variable is better, and so is --store-password-file.
    // No value parser that could fail: its error would repeat the value.
    #[arg(
        long, value_name = "URL", env = "DINGTALK_STORE", hide_env_values = true, groups = ["inbox_kept", "outbox_kept"],
        value_parser = StringValueParser::new().map(Secret::new)
    )]
    store: Option<Secret>,
    /// File with the password for --store, read at the start.
    #[arg(long, value_name = "FILE", requires = "store")]
    store_password_file: Option<PathBuf>,
}

impl StoreArgs {
    /// The database, if there is to be one.
    pub(super) async fn open(&self) -> Result<Option<Database>, String> {
        let Some(address) = self.address()? else { return Ok(None) };
        let opened = Database::open(&address, clock::system()).await;
        opened.map(Some).map_err(|error| format!("--store: {error}"))
    }

    /// Where it is.
    pub(super) fn address(&self) -> Result<Option<Address>, String> {
        let Some(url) = &self.store else { return Ok(None) };
        let address = Address::new(url.expose()).map_err(|reason| format!("--store: the value {reason}"))?;
        let Some(file) = &self.store_password_file else { return Ok(Some(address)) };
        let wrong = |reason| format!("--store-password-file: {} {reason}", file.display());
        let (text, _) = files::read(file).map_err(wrong)?;
        // An editor leaves a line break at the end, which is no part of it.
        let password = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        if password.is_empty() || password.contains(['\n', '\0']) {
            return Err(wrong("has no password in it; write it there, and nothing else".into()));
        }
        Ok(Some(address.with_password(Secret::new(password))))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn address(flags: &[&str]) -> Result<Option<Address>, String> {
        let words = std::iter::once("serve").chain(flags.iter().copied());
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        assert!(!format!("{command:?}").contains("S3CR3T"));
        command.store.address()
    }

    #[test]
    fn a_password_is_in_the_url_or_in_a_file_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let url = "postgres://u@h/d";
        let wanted = Address::new(url).unwrap().with_password(Secret::new("S3CR3T"));
        for text in ["S3CR3T", "S3CR3T\n", "S3CR3T\r\n"] {
            std::fs::write(path, text).unwrap();
            assert!(address(&["--store", url, "--store-password-file", path]) == Ok(Some(wanted.clone())), "{text:?}");
        }
        for text in ["", "\n", "S3CR3T\nmore"] {
            std::fs::write(path, text).unwrap();
            let error = address(&["--store", url, "--store-password-file", path]).unwrap_err();
            assert!(error.contains("has no password in it") && !error.contains("S3CR3T"), "{error}");
        }
        let error = address(&["--store", url, "--store-password-file", "no/such"]).unwrap_err();
        assert!(error.starts_with("--store-password-file: no/such cannot be read"), "{error}");
        assert!(address(&["--store-password-file", path]).unwrap_err().contains("--store <URL>"));
        let error = address(&["--store", "postgres://u:S3CR3T@h:port/d"]).unwrap_err();
        assert!(error.starts_with("--store: the value cannot be read") && !error.contains("S3CR3T"), "{error}");
        assert!(address(&[]) == Ok(None));
    }
}
