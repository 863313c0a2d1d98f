//! DingTalk's signature: HMAC-SHA256 over time and secret, keyed with the secret.
//!
//! The same construction serves both directions: a sender puts it into the URL (percent-encoded, see
//! [`crate::endpoint`]), and DingTalk puts it into the `sign` header of a callback. It covers the time of
//! sending and nothing else, not the message.
//!
//! Source: DingTalk open platform, "customize robot security settings".

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::secret::Secret;

/// A secret, and what signing with it needs that is the same at any time: the secret as HMAC's key, which is four of the
/// seven blocks that SHA-256 has to do for a secret as DingTalk gives it. An instance that is used again does them once.
#[derive(Clone)]
pub struct Signer {
    secret: Secret,
    keyed: Box<Hmac<Sha256>>,
}

impl Signer {
    /// Signs with this secret.
    pub fn new(secret: impl Into<String>) -> Self {
        let secret = Secret::new(secret);
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length; the error exists for other MACs")]
        let keyed = Hmac::new_from_slice(secret.expose().as_bytes()).expect("a key of any length");
        Self { secret, keyed: Box::new(keyed) }
    }

    /// The secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Base64 (standard alphabet, padded, 44 characters) of the HMAC-SHA256 of `{timestamp}\n{secret}` under
    /// the secret. `timestamp` is milliseconds since the Unix epoch, in decimal.
    pub fn sign(&self, timestamp: u64) -> String {
        self.encoded(&timestamp.to_string())
    }

    /// Whether `signature` (as [`Self::sign`] writes it) belongs to `timestamp`, which is compared as it was received:
    /// "0123" and "123" are different texts to DingTalk. Takes the same time wherever the two differ.
    ///
    /// Compared as text: decoding would accept more than one spelling, and cost the component 3 KiB.
    pub fn verify(&self, timestamp: &str, signature: &[u8]) -> bool {
        same(self.encoded(timestamp).as_bytes(), signature)
    }

    fn encoded(&self, timestamp: &str) -> String {
        let mut mac = Hmac::clone(&self.keyed);
        mac.update(timestamp.as_bytes());
        mac.update(b"\n");
        mac.update(self.secret.expose().as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

impl PartialEq for Signer {
    fn eq(&self, other: &Self) -> bool {
        self.secret == other.secret
    }
}

impl Eq for Signer {}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.secret.fmt(f)
    }
}

/// [`Signer::sign`] once.
pub fn sign(secret: &str, timestamp: u64) -> String {
    Signer::new(secret).sign(timestamp)
}

/// [`Signer::verify`] once.
pub fn verify(secret: &str, timestamp: &str, signature: &[u8]) -> bool {
    Signer::new(secret).verify(timestamp, signature)
}

/// Whether two secrets are equal, in a time that tells only whether their lengths are.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Signatures published by others: an error in our reading of the documentation cannot hide in them.
    const VECTORS: &[(u64, &str, &str)] = &[
        // github.com/CatchZeng/dingtalk f4f1df9, internal/security/security_test.go
        (
            1_582_163_555_000,
            "SECb90923e19e58b466481e9e7b7a5b4f108a4531abde590ad3967fb29f0eae5c68",
            "BQKsG+QOCl+bYJOLc6pxDHxjVquzlZPWgvRzeN2J5zY=",
        ),
        // github.com/lvillis/dingtalk-sdk-rust 9904cdc, src/signature.rs
        (1_700_000_000_000, "secret", "OuzzJR5+xZ4/EYwqtNt6sMYZQMTa/HEGvc9miJe7XzY="),
        // github.com/eryajf/chatgpt-dingtalk 3766c24, public/tools_test.go (the callback direction)
        (1_684_493_546_276, "client-secret-for-test", "nwBJQmaBLv9+5/sSS/66jcFc1/kGY5wo38L88LOGfRU="),
    ];

    #[test]
    fn published_vectors() {
        for (timestamp, secret, signature) in VECTORS {
            assert_eq!(&sign(secret, *timestamp), signature);
            assert!(verify(secret, &timestamp.to_string(), signature.as_bytes()));
        }
    }

    #[test]
    fn the_published_counter_example() {
        let (timestamp, _, signature) = VECTORS[2];
        assert!(!verify("invalid-client-secret-for-test", &timestamp.to_string(), signature.as_bytes()));
    }

    #[test]
    fn malformed_signatures_are_refused() {
        let good = sign("secret", 1_700_000_000_000);
        for bad in ["", " ", "=", &good[1..], good.trim_end_matches('='), &format!("{good} "), &good.replace('+', " ")]
        {
            assert!(!verify("secret", "1700000000000", bad.as_bytes()), "{bad:?}");
        }
        assert!(!verify("secret", "01700000000000", good.as_bytes()));
    }

    proptest! {
        #[test]
        fn verifies_what_it_signs_and_nothing_else(secret in ".{0,100}", t: u64, other in ".{0,100}", u: u64) {
            let signature = sign(&secret, t);
            prop_assert_eq!(signature.len(), 44);
            prop_assert!(verify(&secret, &t.to_string(), signature.as_bytes()));
            prop_assert_eq!(verify(&other, &t.to_string(), signature.as_bytes()), other == secret);
            prop_assert_eq!(verify(&secret, &u.to_string(), signature.as_bytes()), u == t);
        }
    }
}
