//! `slb-decap` on a backend's interface.

use std::{fs, net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use slb_userspace::cli::decap::status::{DecapInterface, DecapStatus};

use super::{Namespace, run};
use crate::{daemon::program, leftovers::BPF_FS};

/// A decapsulator. Dropping it removes its pins, which detaches it.
#[derive(Debug)]
pub(super) struct Decapsulator {
    namespace: Arc<Namespace>,
    /// Named after the namespace, so that the next run finds and removes what a crashed run left.
    pins: PathBuf,
}

impl Decapsulator {
    /// A decapsulator for `eth0`, which must have no other XDP program. [`Self::allow`] attaches it.
    pub(super) fn new(namespace: &Arc<Namespace>) -> Self {
        let pins = PathBuf::from(BPF_FS).join(namespace.name());
        Self { namespace: namespace.clone(), pins }
    }

    /// Attaches it to `eth0` for tunnel packets from these sources; if it is attached already, replaces its sources.
    pub(super) fn allow(&self, from: &[IpAddr]) -> Result<()> {
        self.allow_at("eth0", from)
    }

    /// As [`Self::allow`], on another interface.
    pub(super) fn allow_at(&self, interface: &str, from: &[IpAddr]) -> Result<()> {
        let addresses: Vec<_> = from.iter().map(ToString::to_string).collect();
        let from = addresses.join(",");
        let gue = ["--gue-port", "6080"];
        self.run(&[&["attach", "--interface", interface, "--from", &from, "--any-vip"][..], &gue].concat())
            .map(drop)
    }

    /// Status of the first interface that it is attached to.
    pub(super) fn status(&self) -> Result<DecapInterface> {
        let status: DecapStatus = serde_json::from_str(&self.run(&["status", "--output", "json"])?)?;
        status.interfaces.into_iter().next().context("no interface runs slb-decap")
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.namespace.command(program("slb-decap", "SLB_DECAP")?);
        run(command.args(arguments).arg("--pin-dir").arg(&self.pins), "")
    }
}

impl Drop for Decapsulator {
    fn drop(&mut self) {
        if self.pins.exists()
            && let Err(error) = fs::remove_dir_all(&self.pins)
        {
            eprintln!("cannot remove {}: {error}", self.pins.display());
        }
    }
}
