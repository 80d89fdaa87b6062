//! `slb-decap` on a backend's interface.

use std::{fs, net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use slb_userspace::cli::decap::status::{Interface, Status};

use super::{Namespace, run};
use crate::{daemon::program, leftovers::BPF_FS};

/// A decapsulator; dropping it takes it off and removes its pins.
#[derive(Debug)]
pub(super) struct Decapsulator {
    namespace: Arc<Namespace>,
    /// Named after the namespace, so that what a dead run left is found.
    pins: PathBuf,
}

impl Decapsulator {
    /// A decapsulator for `eth0`, which no other program may be on; it is not there before [`Self::allow`].
    pub(super) fn new(namespace: &Arc<Namespace>) -> Self {
        let pins = PathBuf::from(BPF_FS).join(namespace.name());
        Self { namespace: namespace.clone(), pins }
    }

    /// Puts it on the interface, or new sources into it.
    pub(super) fn allow(&self, from: &[IpAddr]) -> Result<()> {
        self.allow_at("eth0", from)
    }

    /// The same on another interface.
    pub(super) fn allow_at(&self, interface: &str, from: &[IpAddr]) -> Result<()> {
        let addresses: Vec<_> = from.iter().map(ToString::to_string).collect();
        self.run(&["attach", "--interface", interface, "--from", &addresses.join(","), "--any-vip"]).map(drop)
    }

    /// What it says of itself.
    pub(super) fn status(&self) -> Result<Interface> {
        let status: Status = serde_json::from_str(&self.run(&["status", "--output", "json"])?)?;
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
