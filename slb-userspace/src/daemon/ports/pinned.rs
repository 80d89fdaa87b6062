//! Restores missing pins. Without pins forwarding ends with the daemon, and the next one starts with empty maps.

use std::fs::File;

use anyhow::{Result, bail};
use nix::fcntl::Flock;

use super::Ports;
use crate::dataplane::bpf::{
    loader::{self, MapPin},
    upgrade,
};

/// The pin directory that this process has locked.
pub(super) struct Claim {
    identity: Option<(u64, u64)>,
    /// Lock of a directory that has replaced the first one.
    _lock: Option<Flock<File>>,
}

impl Claim {
    /// The existing directory, which the caller has locked.
    pub(super) fn of(identity: Option<(u64, u64)>) -> Self {
        Self { identity, _lock: None }
    }
}

impl Ports {
    /// Restores missing pins. Returns whether the reported problem has changed.
    pub(super) fn restore_pins(&mut self) -> bool {
        let maps = loader::unpinned(&mut self.program, &self.pins).unwrap_or_default();
        let links = self.held.values().filter(|held| !held.pinned.is_pinned()).count();
        if maps.is_empty() && links == 0 {
            return self.pins_trouble.take().is_some();
        }
        let trouble = match self.pin_again(&maps) {
            Ok(()) => {
                let root = self.pins.root().display();
                tracing::warn!(pins = %root, maps = maps.len(), links, "pins were gone: pinned again");
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
        let changed = trouble != self.pins_trouble;
        if let Some(why) = trouble.as_ref().filter(|_| changed) {
            tracing::error!(
                pins = %self.pins.root().display(),
                why,
                "pins are gone and cannot be made again: forwarding ends with the daemon"
            );
        }
        self.pins_trouble = trouble;
        changed
    }

    fn pin_again(&mut self, maps: &[MapPin]) -> Result<()> {
        self.pins.create(&upgrade::readable_versions())?;
        self.pins.create_version()?;
        if self.pins.identity() != self.claim.identity {
            let Some(lock) = self.pins.lock()? else {
                bail!("another slbd uses {}", self.pins.root().display());
            };
            tracing::warn!(pins = %self.pins.root().display(), "another directory is in place of the one with SLB's pins");
            self.claim = Claim { identity: self.pins.identity(), _lock: Some(lock) };
        }
        loader::pin_again(&self.program, maps)?;
        let links = self.held.values().filter(|held| !held.pinned.is_pinned());
        links.map(|held| &held.pinned).try_for_each(crate::dataplane::bpf::link::Link::pin_again)
    }
}
