//! `slbd run`.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{daemon, dataplane::bpf::lifetime::MachineMounts, privileges, sources, telemetry};
use slb_control::map_limits;

/// Runs the daemon in the foreground. An invalid configuration changes nothing.
pub fn run(path: &Path, log_format: telemetry::Format) -> Result<ExitCode> {
    let loaded = match sources::load(path) {
        Ok(loaded) => loaded,
        Err(rejected) => {
            telemetry::log_final(&rejected);
            return Ok(ExitCode::FAILURE);
        }
    };
    if let Err(large) = map_limits::check(&loaded.config) {
        eprintln!("error: {large}");
        return Ok(ExitCode::FAILURE);
    }
    privileges::expect("slbd run", &privileges::REQUIRED)?;
    // Needs a capability that is dropped next.
    let mounts = MachineMounts::read();
    privileges::drop_unused()?;
    telemetry::init(log_format);
    for warning in loaded.warnings.diagnostics() {
        tracing::warn!("configuration: {}", warning.message());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(daemon::run(path.to_owned(), loaded.config, &mounts))?;
    Ok(ExitCode::SUCCESS)
}
