//! `slbd run`: starts the daemon and runs its event loop.

mod environment;
mod event_loop;
mod gc_schedule;
mod gc_thread;
mod kernel;
mod losses;
mod missing_resources;
mod observations;
mod ports;
mod route_lookups;
mod seed;
mod service_manager;
mod signals;
mod start;
mod store;
mod update_rate;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};

use self::{
    ports::merging::log_restored,
    signals::Signals,
    start::{Started, start},
};
use crate::{
    dataplane::bpf::{
        lifetime::{MachineMounts, PinLifetime},
        pins::Pins,
        upgrade,
    },
    descriptors,
    devices::InterfaceRecord,
};
use slb_config::model::Config;

/// Runs until SIGTERM or SIGINT. Forwarding continues afterwards for as long as the pins exist. SIGHUP reloads `file`,
/// which `config` was read from.
///
/// # Errors
/// The daemon cannot start. A failed first start leaves nothing behind; otherwise the configuration of the earlier run
/// stays active.
pub async fn run(file: PathBuf, config: Config, mounts: &MachineMounts) -> Result<()> {
    let mut signals = Signals::new()?;
    descriptors::raise()?;
    let pins = Pins::new(&config.daemon.pin_dir);
    pins.create(&upgrade::readable_versions())?;
    let Some(_lock) = pins.lock()? else {
        bail!(
            "another slbd uses {}: stop it, or set [daemon] pin_dir to another directory",
            pins.root().display()
        );
    };
    let lifetime = mounts.lifetime(pins.root());
    announce(lifetime, pins.root());
    let fresh = !pins.exist()? && pins.other_versions().is_empty();
    let config = Arc::new(config);
    let record = InterfaceRecord::open(&config.daemon.state_dir, pins.root());
    let started = tokio::select! {
        started = start(file, config.clone(), &pins, lifetime, record.clone()) => started.map(Some),
        signal = signals.stopped() => {
            tracing::info!(signal, "stopped before the start was complete; what an earlier run left stays active");
            Ok(None)
        }
    };
    if fresh && !matches!(started, Ok(Some(_))) {
        pins.remove().context("cannot remove the pins of a start that was not completed")?;
        log_restored(record.restore_features());
        record.forget(&config.daemon.state_dir);
    }
    // Dropping `api` stops the API.
    let Some(Started { event_loop, api: _api }) = started? else { return Ok(()) };
    tracing::info!(
        socket = %config.daemon.socket.display(),
        load_balancers = config.load_balancers.len(),
        "running"
    );
    event_loop.run(&mut signals, lifetime).await
}

/// Logs how long forwarding lasts, unless it lasts as long as the machine runs.
fn announce(lifetime: PinLifetime, pins: &Path) {
    let pins = pins.display();
    match lifetime {
        PinLifetime::Machine => {}
        PinLifetime::MountNamespace => tracing::warn!(
            %pins,
            "the pins are in a mount namespace of their own: FORWARDING ENDS with its last process, usually this one. For forwarding \
             that outlives the daemon run it where /sys/fs/bpf is the machine's: `nsenter --net=/run/netns/NAME slbd run` in place \
             of `ip netns exec NAME slbd run`; in a container, bind-mount /sys/fs/bpf"
        ),
        PinLifetime::Unknown => tracing::info!(
            %pins,
            "forwarding outlives this daemon if the BPF file system of the pins is the machine's (in a container, bind-mount \
             /sys/fs/bpf)"
        ),
    }
}
