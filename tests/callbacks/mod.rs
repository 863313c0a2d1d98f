//! What DingTalk sends reaches the application, verified and byte for byte, and the answer comes back. Signatures
//! come from another implementation than the one under test; the application is written by hand.

mod answers;
mod application;
mod forwarding;
mod limits;
mod verification;

use crate::support::SECRET;
use crate::support::receiving::signed;

/// The head of a genuine callback without the length of its body.
fn head(more: &str) -> String {
    let headers: String = signed(SECRET).iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST /v1.0/bindings/team/callback HTTP/1.1\r\nhost: h\r\n{headers}{more}\r\n")
}
