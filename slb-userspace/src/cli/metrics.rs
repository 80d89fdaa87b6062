//! `slb metrics`.

use std::{
    io::{ErrorKind, Write as _, stdout},
    path::Path,
};

use anyhow::Result;
use clap::ValueEnum;
use slb_api::client;

/// A part of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// The daemon, the packet path, the flow table and health checks.
    Daemon,
    /// Listeners.
    Listener,
    /// Servers.
    Server,
}

/// Prints the metrics of the daemon on `socket`; all of them if no part is named.
///
/// # Errors
/// No daemon answers, or standard output cannot be written.
pub async fn metrics(socket: &Path, scopes: &[Scope]) -> Result<()> {
    let named =
        scopes.iter().filter_map(|scope| Some(format!("scope={}", scope.to_possible_value()?.get_name())));
    let query = named.collect::<Vec<_>>().join("&");
    let text = client::metrics(socket, &query).await?.ok_or_else(|| client::no_daemon(socket))?;
    match stdout().lock().write_all(&text) {
        // The reader has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
