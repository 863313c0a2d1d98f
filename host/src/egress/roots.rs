//! Which certificate authorities are trusted.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

use crate::files;

/// Where distributions keep the system's authorities as one file. `rustls-native-certs` looks at them only
/// while SSL_CERT_FILE is not set; here that file comes on top, so that a company's own authority can be
/// added without losing the others.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// The system's authorities, Mozilla's list (for a container image without any), and those of SSL_CERT_FILE
/// and SSL_CERT_DIR. Read once, and only when a binding uses https: that takes some milliseconds. The error names what
/// of the two variables cannot be read so.
pub(crate) fn trusted() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        check(env::var_os("SSL_CERT_FILE").as_deref(), env::var_os("SSL_CERT_DIR").as_deref())?;
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        // With neither variable set this is the system's store on every platform.
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::warn!(%error, "a trusted certificate cannot be read");
        }
        roots.add_parsable_certificates(loaded.certs);
        let replaced = env::var_os("SSL_CERT_FILE").or_else(|| env::var_os("SSL_CERT_DIR")).map(PathBuf::from);
        if replaced.is_some()
            && let Some(bundle) = SYSTEM_BUNDLES.iter().map(Path::new).find(|bundle| bundle.exists())
        {
            let system = rustls_native_certs::load_certs_from_paths(Some(bundle), None);
            roots.add_parsable_certificates(system.certs);
        }
        Ok(Arc::new(roots))
    });
    roots.clone()
}

/// Whether the files of the two variables can be read without waiting for whoever writes a pipe, or filling memory with
/// a device. A file that is not there, or has no certificates, is said where it is read.
fn check(file: Option<&OsStr>, dirs: Option<&OsStr>) -> Result<(), String> {
    let refused = |variable: &str, path: &Path, reason: &str| format!("{variable}: {} {reason}", path.display());
    if let Some(file) = file.map(Path::new) {
        files::check(file).map_err(|reason| refused("SSL_CERT_FILE", file, &reason))?;
    }
    for dir in dirs.map(env::split_paths).into_iter().flatten().filter(|dir| !dir.as_os_str().is_empty()) {
        if dir.exists() && !dir.is_dir() {
            return Err(refused("SSL_CERT_DIR", &dir, "is no directory; name directories"));
        }
        // One that cannot be read is said where it is.
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // Certificates are looked for in the directory itself alone.
            if !path.is_dir() {
                files::check(&path).map_err(|reason| refused("SSL_CERT_DIR", &path, &reason))?;
            }
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_waited_for_or_has_no_end_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::write(at("dir/a.pem"), "").unwrap();
        std::fs::create_dir(at("dir/more")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dir/dangling")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let dirs = env::join_paths([at("missing"), PathBuf::new(), at("dir")]).unwrap();
        assert_eq!(check(Some(at("missing").as_os_str()), Some(&dirs)), Ok(()));
        assert_eq!(check(Some(at("dir/a.pem").as_os_str()), None), Ok(()));
        let refused = |file: Option<&str>, dirs: Option<&OsStr>| check(file.map(OsStr::new), dirs).unwrap_err();
        let pipe = at("pipe");
        let expected = |name: &str, path: &Path, kind: &str| format!("{name}: {} is {kind}", path.display());
        let named = "a named pipe, not a regular file; name a file";
        assert_eq!(refused(pipe.to_str(), None), expected("SSL_CERT_FILE", &pipe, named));
        let device = Path::new("/dev/zero");
        assert_eq!(
            refused(device.to_str(), None),
            expected("SSL_CERT_FILE", device, "a device, not a regular file; name a file")
        );
        assert_eq!(
            refused(at("dir").to_str(), None),
            expected("SSL_CERT_FILE", &at("dir"), "a directory, not a regular file; name a file")
        );
        assert_eq!(
            refused(None, Some(pipe.as_os_str())),
            expected("SSL_CERT_DIR", &pipe, "no directory; name directories")
        );
        std::fs::rename(&pipe, at("dir/pipe")).unwrap();
        assert_eq!(refused(None, Some(&dirs)), expected("SSL_CERT_DIR", &at("dir/pipe"), named));
        let large = at("large");
        std::fs::File::create(&large).unwrap().set_len((4 << 20) + 1).unwrap();
        assert!(refused(large.to_str(), None).ends_with("large is larger than 4 MiB; name the right file"));
    }
}
