//! Logs: events with values as fields, on standard error.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging; `SLB_LOG` sets the level (`info` unless set), for instance `debug` or `slb_userspace::health=debug`.
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_env("SLB_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match format {
        Format::Text => builder.init(),
        Format::Json => builder.json().init(),
    }
}

/// What is logged on this thread by `act`.
#[cfg(test)]
pub fn logged(act: impl FnOnce()) -> String {
    use std::{
        fs::File,
        io::{Read as _, Seek as _},
        sync::Arc,
    };
    let file: Arc<File> = Arc::new(tempfile::tempfile().unwrap());
    let log = fmt().with_writer(Arc::clone(&file)).with_ansi(false).finish();
    tracing::subscriber::with_default(log, act);
    let mut text = String::new();
    (&*file).rewind().unwrap();
    (&*file).read_to_string(&mut text).unwrap();
    text
}
