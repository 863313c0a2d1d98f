//! What a request may cost, wherever it comes in.

use std::time::Duration;

/// The longest body of an operation, daprd's default.
pub const MAX_BODY: usize = 4 << 20;

/// A client that sends its body slower than this holds a connection for nothing.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// DingTalk sends at most 128 KiB at once; who takes longer holds a connection for nothing.
pub const CALLBACK_TIMEOUT: Duration = Duration::from_secs(10);

/// For one delivery to an application, its answer included.
pub const APP_TIMEOUT: Duration = Duration::from_secs(60);
