//! The signals that ask a process to end, SIGINT and SIGTERM, and one that must not end it.

use std::io;

/// The signals, listened for from its creation on.
pub(super) struct Ended {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// Never waited for. Listening for it is what keeps a limit for the size of files (`ulimit -f`) from ending the
    /// process: the write fails instead, as on a full disk, and callbacks are refused until there is room.
    #[cfg(target_os = "linux")]
    _file_size: tokio::signal::unix::Signal,
}

/// SIGXFSZ on the architectures of Linux that Rust has, except MIPS.
#[cfg(target_os = "linux")]
const FILE_SIZE: std::ffi::c_int = 25;

impl Ended {
    #[cfg(unix)]
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            #[cfg(target_os = "linux")]
            _file_size: signal(SignalKind::from_raw(FILE_SIZE))?,
        })
    }

    #[cfg(unix)]
    pub(super) async fn wait(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    pub(super) async fn wait(self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
