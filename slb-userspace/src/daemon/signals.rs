//! The signals of the daemon.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// What a signal asks for.
pub(super) enum Signal {
    /// To end; the signal's name.
    Stop(&'static str),
    /// To read the configuration again.
    Reload,
}

/// The signals that the daemon heeds.
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

    /// Waits for a signal to end, whose name it returns. A reload that is asked for meanwhile waits for [`Self::wait`].
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
