//! Signals that the daemon handles: SIGTERM, SIGINT, SIGHUP.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// What a signal requests.
pub(super) enum Signal {
    /// Stop. Holds the signal's name.
    Stop(&'static str),
    /// Reload the configuration.
    Reload,
}

/// Handlers of the signals.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn wait(&mut self) -> Signal {
        let Self { terminate, interrupt, hangup } = self;
        tokio::select! {
            name = stop(terminate, interrupt) => Signal::Stop(name),
            _ = hangup.recv() => Signal::Reload,
        }
    }

    /// Waits for SIGTERM or SIGINT, and returns its name. A SIGHUP meanwhile stays pending for [`Self::wait`].
    pub(super) async fn stopped(&mut self) -> &'static str {
        stop(&mut self.terminate, &mut self.interrupt).await
    }
}

async fn stop(
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
