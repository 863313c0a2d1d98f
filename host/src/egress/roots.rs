//! Which certificate authorities are trusted.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

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
/// and SSL_CERT_DIR. Read once, and only when a binding uses https: that takes some milliseconds.
pub(super) fn trusted() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
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
        Arc::new(roots)
    }))
}
