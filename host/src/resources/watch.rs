//! When component files and secrets files are to be read again: once they have changed, and stay as they are.
//!
//! Their content is looked at, not notifications of the kernel: those do not come for what another machine writes to a
//! network file system, nor for the target of a link that is replaced (as Kubernetes replaces a ConfigMap's directory),
//! and what has been notified would have to be read all the same. Times of modification alone are not trusted either: a
//! file server's attributes are cached, and two writes may have one time. But a file with another time than before is one
//! that is being written, though it may be empty at both looks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{LoadError, yaml_files};
use crate::event::{Digest, digest};
use crate::files;

/// Files that are looked at, and bytes in them. A thousand bindings in files of their own take a third of the bytes.
const MAX_FILES: usize = 1_024;
const MAX_BYTES: usize = 8 << 20;

/// What was there at one look: each file, or why it or its directory cannot be read. Which files there are is part of it.
pub(crate) type Sight = BTreeMap<PathBuf, Result<Seen, String>>;

/// A file at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    content: Digest,
    modified: Option<SystemTime>,
}

/// Looks at every component file of `dirs`, and at `others`. The error says what is too much.
pub(crate) fn look(dirs: &[PathBuf], others: &[PathBuf]) -> Result<Sight, String> {
    let mut sight = Sight::new();
    let mut left = MAX_BYTES;
    let too_many = || format!("there are more than {MAX_FILES} component and secrets files");
    let mut see = |file: &Path, sight: &mut Sight| {
        if sight.len() >= MAX_FILES {
            return Err(too_many());
        }
        let seen = match files::read_bytes(file) {
            Ok((bytes, metadata)) => {
                let too_much = || format!("component and secrets files have more than {} MiB", MAX_BYTES >> 20);
                left = left.checked_sub(bytes.len()).ok_or_else(too_much)?;
                Ok(Seen { content: digest(&bytes), modified: metadata.modified().ok() })
            }
            Err(reason) => Err(reason),
        };
        sight.insert(file.to_owned(), seen);
        Ok(())
    };
    for dir in dirs {
        match yaml_files(dir) {
            // Before any of them is read.
            Ok(found) if found.len() > MAX_FILES => return Err(too_many()),
            Ok(found) => found.iter().try_for_each(|file| see(file, &mut sight))?,
            Err(LoadError::Unreadable { path, reason }) => {
                sight.insert(path, Err(reason));
            }
            // No file has been read.
            Err(LoadError::Document { .. } | LoadError::DuplicateName { .. }) => {}
        }
    }
    others.iter().try_for_each(|file| see(file, &mut sight))?;
    Ok(sight)
}

/// What to do after a look. A file that is being written is another one at the next look: it is read when two looks, one
/// after the other, have seen the same.
#[derive(Debug)]
pub(crate) struct Settling<S> {
    read: Option<S>,
    last: Option<S>,
}

impl<S> Default for Settling<S> {
    fn default() -> Self {
        Self { read: None, last: None }
    }
}

impl<S: PartialEq> Settling<S> {
    /// Whether what is there now is to be read.
    pub(crate) fn seen(&mut self, now: S) -> bool {
        let is_settled = self.last.as_ref() == Some(&now);
        let is_new = self.read.as_ref() != Some(&now);
        self.last = Some(now);
        is_settled && is_new
    }

    /// What is there is to be read once more, once it has settled.
    pub(crate) fn forget(&mut self) {
        self.read = None;
    }

    /// What was seen last has been read, and this is what there was afterwards. Whether that is the same: otherwise, what
    /// was read may be halves of two states, and is read again once it has settled.
    pub(crate) fn read(&mut self, afterwards: S) -> bool {
        if self.last.as_ref() != Some(&afterwards) {
            self.last = Some(afterwards);
            return false;
        }
        self.read = Some(afterwards);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn every_change_that_a_load_would_see_is_seen_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secrets) = (dir.path(), dir.path().join("secrets.json"));
        let dirs = [path.to_owned(), path.join("nowhere")];
        let mut last = look(&dirs, std::slice::from_ref(&secrets)).unwrap();
        let mut changed = |what: &str, expected: bool| {
            let now = look(&dirs, std::slice::from_ref(&secrets)).unwrap();
            assert_eq!(now != last, expected, "{what}");
            last = now;
        };
        changed("nothing", false);
        for (name, text, expected) in [
            ("a.yaml", "1", true),
            ("a.yaml", "2", true),
            ("a.yaml~", "1", false),
            (".a.swp", "1", false),
            ("b.YML", "", true),
            ("secrets.json", "{}", true),
        ] {
            write(path, name, text);
            changed(name, expected);
        }
        std::fs::remove_file(path.join("b.YML")).unwrap();
        changed("a file is gone", true);
        std::fs::rename(path.join("a.yaml"), path.join("c.yaml")).unwrap();
        changed("a file has another name", true);
        std::fs::create_dir(path.join("nowhere")).unwrap();
        changed("a directory can be read", true);
        symlink("nothing", path.join("d.yaml")).unwrap();
        changed("a link leads nowhere", true);
        write(path, "nothing", "1");
        changed("the link leads somewhere", true);
    }

    /// A writer empties the file first; two looks may both come just after that.
    #[test]
    fn a_file_that_is_written_again_and_again_is_not_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("a.yaml")).unwrap();
        let start = SystemTime::now();
        let sights = [0, 1, 1].map(|seconds| {
            file.set_modified(start + std::time::Duration::from_secs(seconds)).unwrap();
            look(&[dir.path().to_owned()], &[]).unwrap()
        });
        assert_ne!(sights[0], sights[1]);
        assert_eq!(sights[1], sights[2]);
    }

    /// As Kubernetes writes a ConfigMap: files are links into `..data`, which is a link that is replaced at once.
    #[test]
    fn a_config_map_that_is_replaced_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for (version, text) in [("..1", "old"), ("..2", "new")] {
            std::fs::create_dir(path.join(version)).unwrap();
            write(&path.join(version), "a.yaml", text);
        }
        symlink("..1", path.join("..data")).unwrap();
        symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
        let before = look(&[path.to_owned()], &[]).unwrap();
        assert_eq!(before.len(), 1);
        symlink("..2", path.join("..data_tmp")).unwrap();
        std::fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        assert_ne!(look(&[path.to_owned()], &[]).unwrap(), before);
    }

    #[test]
    fn what_would_be_too_much_to_look_at_every_second_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for name in ["a.yaml", "b.yaml"] {
            write(path, name, &"#".repeat(MAX_BYTES / 2));
        }
        assert!(look(&[path.to_owned()], &[]).is_ok());
        write(path, "c.yaml", "#");
        assert_eq!(look(&[path.to_owned()], &[]).unwrap_err(), "component and secrets files have more than 8 MiB");
        for name in ["a.yaml", "b.yaml"] {
            write(path, name, "");
        }
        for number in 0..MAX_FILES - 3 {
            write(path, &format!("{number}.yaml"), "");
        }
        assert_eq!(look(&[path.to_owned()], &[]).unwrap().len(), MAX_FILES);
        assert!(look(&[path.to_owned()], &["x".into()]).unwrap_err().starts_with("there are more than 1024"));
    }

    proptest! {
        /// Whatever happens, in whatever order: nothing is read that was seen once only, nothing is read twice, and what
        /// stays is read.
        #[test]
        fn what_stays_is_read_once(states in proptest::collection::vec((0..3_u8, 0..3_u8), 0..50), end in 0..3_u8) {
            let mut settling = Settling::default();
            let (mut last, mut read) = (None, None);
            for (now, afterwards) in states {
                if settling.seen(now) {
                    prop_assert_eq!(last, Some(now));
                    prop_assert_ne!(read, Some(now));
                    if settling.read(afterwards) {
                        prop_assert_eq!(afterwards, now);
                        read = Some(now);
                    }
                    last = Some(afterwards);
                } else {
                    last = Some(now);
                }
            }
            for _ in 0..2 {
                if settling.seen(end) && settling.read(end) {
                    read = Some(end);
                }
            }
            prop_assert_eq!(read, Some(end));
        }
    }
}
