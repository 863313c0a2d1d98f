//! Reading a file whole, but never more of it than a configuration can need.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

/// Far above any component or secrets file; keeps a wrong path (a disk image, /dev/zero) from filling memory.
pub(super) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Reads `path`. The error is meant to follow the file's name and repeats nothing of its content.
pub(super) fn read(path: &Path) -> Result<(String, Metadata), String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if metadata.is_dir() {
        return Err("is a directory; name a file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > MAX_BYTES) {
        return Err(format!("is larger than {} MiB; split it or name the right file", MAX_BYTES >> 20));
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text; save it as UTF-8".to_owned())?;
    Ok((text, metadata))
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
        assert_eq!(refused(), "is larger than 4 MiB; split it or name the right file");
        std::fs::write(&path, b"S3CR3T\xff").unwrap();
        assert_eq!(refused(), "is not UTF-8 text; save it as UTF-8");
        assert_eq!(read(dir.path()).unwrap_err(), "is a directory; name a file");
    }
}
