//! Why a body is not there as a whole, and how that is told.

/// What became of a body instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// There is more than was asked for.
    TooLong,
    /// It ended early.
    Incomplete,
    /// Its time was up.
    TooSlow,
}

/// It is longer than `limit`, in daprd's words; `advice` says where that comes from.
pub fn too_long(limit: usize, advice: &str) -> String {
    format!("stream too large (more than {limit} bytes, {advice})")
}

/// It ended early, in Go's words.
pub const INCOMPLETE: &str = "unexpected EOF";

/// It did not arrive in this many seconds.
pub fn too_slow(seconds: u64) -> String {
    format!("the body did not arrive within {seconds} s")
}
