//! Reading a file whole, but never more of it than a configuration can need.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::Read;
use std::path::Path;

/// Far above any component or secrets file; keeps a wrong path (a disk image, /dev/zero) from filling memory.
pub(crate) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a text. The error is meant to follow the file's name and repeats nothing of its content.
pub(crate) fn read(path: &Path) -> Result<(String, Metadata), String> {
    let (bytes, metadata) = read_bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text; save it as UTF-8".to_owned())?;
    Ok((text, metadata))
}

/// The same of what need not be a text.
pub(crate) fn read_bytes(path: &Path) -> Result<(Vec<u8>, Metadata), String> {
    read_up_to(MAX_BYTES, path)
}

/// The same of what may be larger, or has to be smaller.
pub(crate) fn read_up_to(limit: u64, path: &Path) -> Result<(Vec<u8>, Metadata), String> {
    let too_large = || format!("is larger than {} MiB; make it smaller or name the right file", limit >> 20);
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let file = open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    regular(&metadata)?;
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // It can grow meanwhile.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(cannot)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > limit) {
        return Err(too_large());
    }
    Ok((bytes, metadata))
}

/// Whether somebody else may open and read it, without waiting for it or filling memory: a regular file of a usual
/// size, or one that is not there, about which they have words of their own.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            regular(&metadata).and(Err(format!("is larger than {} MiB; name the right file", MAX_BYTES >> 20)))
        }
        Ok(metadata) => regular(&metadata),
        Err(_) => Ok(()),
    }
}

fn regular(metadata: &Metadata) -> Result<(), String> {
    match other_kind(metadata.file_type()) {
        Some(kind) => Err(format!("is {kind}, not a regular file; name a file")),
        None => Ok(()),
    }
}

/// Opening a named pipe waits for whoever writes into it, unless it is opened so.
#[cfg(unix)]
fn open(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// What a file is that is not a regular one.
#[cfg(unix)]
fn other_kind(kind: FileType) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a directory"),
        _ if kind.is_fifo() => Some("a named pipe"),
        _ if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        _ => Some("something else"),
    }
}

#[cfg(not(unix))]
fn other_kind(kind: FileType) -> Option<&'static str> {
    (!kind.is_file()).then_some(if kind.is_dir() { "a directory" } else { "something else" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_encodings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let refused = || read(&path).map(|(text, _)| text).unwrap_err();
        assert!(refused().starts_with("cannot be read: No such file"), "{}", refused());
        std::fs::write(&path, vec![b' '; 4 << 20]).unwrap();
        assert_eq!(read(&path).unwrap().0.len(), 4 << 20);
        std::fs::write(&path, vec![b' '; (4 << 20) + 1]).unwrap();
        assert_eq!(refused(), "is larger than 4 MiB; make it smaller or name the right file");
        std::fs::write(&path, b"S3CR3T\xff").unwrap();
        assert_eq!(refused(), "is not UTF-8 text; save it as UTF-8");
        assert_eq!(read(dir.path()).unwrap_err(), "is a directory, not a regular file; name a file");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_longer_than_it_says_is_not_read_to_its_end() {
        let (path, has) = (Path::new("/proc/self/maps"), |error: String| error.starts_with("is larger than 0 MiB"));
        assert_eq!(fs::metadata(path).unwrap().len(), 0);
        assert!(read_up_to(100, path).is_err_and(has));
        assert!(read_up_to(1 << 20, path).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(read(&path).unwrap_err(), "is a named pipe, not a regular file; name a file");
        assert_eq!(read(Path::new("/dev/null")).unwrap_err(), "is a device, not a regular file; name a file");
    }
}
