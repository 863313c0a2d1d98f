//! The signals that ask a process to end, SIGINT and SIGTERM, one that must not end it, and one that asks for something
//! else.

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

/// What a shell makes of a process that a signal has ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;
#[cfg(unix)]
const TERMINATED: u8 = 143;

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

    /// The next signal, as the exit status of a process that it ends.
    #[cfg(unix)]
    pub(super) async fn wait(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    pub(super) async fn wait(&mut self) -> u8 {
        let _ = tokio::signal::ctrl_c().await;
        INTERRUPTED
    }
}

/// SIGHUP, listened for from its creation on: who operates a service asks it so to read its files again.
pub(super) struct Hangup {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangup {
    #[cfg(unix)]
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signal: signal(SignalKind::hangup())? })
    }

    #[cfg(unix)]
    pub(super) async fn wait(&mut self) {
        self.signal.recv().await;
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    pub(super) async fn wait(&mut self) {
        std::future::pending().await
    }
}
