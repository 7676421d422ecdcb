//! How a person or a supervisor ends a command that has no end of its own.

use std::io;

/// Ctrl-C and SIGTERM from now on: what comes while nobody waits for it is kept for who waits next, and one of each
/// counts as two.
#[derive(Debug)]
pub(crate) struct Interrupts {
    #[cfg(unix)]
    ctrl_c: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { ctrl_c: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Resolves at the next of them.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        #[cfg(unix)]
        {
            tokio::select! {
                _ = self.ctrl_c.recv() => Ok(()),
                _ = self.terminate.recv() => Ok(()),
            }
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await
    }
}

/// Resolves at Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() -> io::Result<()> {
    Interrupts::new()?.next().await
}
