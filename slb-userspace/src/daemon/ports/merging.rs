//! Switches off frame merging (GRO, LRO) below interfaces with generic XDP.

use std::collections::BTreeSet;

use super::{Links, ManagedInterface, Ports};
use crate::{
    devices::{self, Hook, InterfaceRecord, RestoreOutcome, RestoreResult, SwitchResult},
    neigh::Link,
};

/// Kinds of interfaces whose frames come from containers or virtual machines, which leave checksums and segmentation to
/// a NIC.
const GUESTS: [&str; 2] = ["veth", "tun"];

impl Ports {
    /// Switches off frame merging below interfaces with generic XDP: a merged frame exceeds any MTU.
    pub(super) fn disable_merging(&mut self, links: &Links) {
        for held in self.held.values_mut().filter(|held| held.hook == Hook::Generic) {
            let Some(link) = links.values().find(|link| link.index == held.link.index) else { continue };
            held.link = link.clone();
            held.disable_merging(links, &self.record);
        }
    }

    /// Restores frame merging below interfaces that do not run the program any more.
    pub(super) fn restore_merging(&self) {
        let needed: BTreeSet<u32> = self.held.values().flat_map(|held| &held.below).copied().collect();
        log_restored(self.record.restore_unneeded(&needed));
    }
}

/// Logs the restoration of features that SLB had switched off.
pub(in crate::daemon) fn log_restored(results: Vec<RestoreResult>) {
    for RestoreResult { outcome, said } in results {
        match outcome {
            RestoreOutcome::Restored => tracing::info!("{said}"),
            // Frequent: happens whenever a container below a bridge ends.
            RestoreOutcome::Gone => tracing::debug!("{said}"),
            RestoreOutcome::Failed => tracing::warn!("{said}"),
        }
    }
}

impl ManagedInterface {
    /// Switches off frame merging in its lower interfaces.
    fn disable_merging(&mut self, links: &Links, record: &InterfaceRecord) {
        let below = devices::below(&self.link, links);
        self.below = below.iter().map(|lower| lower.index).collect();
        let mut notes = Vec::new();
        for lower in &below {
            let switched = self.switch_off(lower, record);
            let features = record.switched_off(lower).join(", ");
            let note = || format!("merging switched off: {} ({features})", lower.name);
            notes.extend((!features.is_empty()).then(note));
            if let Err(error) = switched {
                let note = format!("{error:#}: large transfers fail; switch it off with `ethtool -K`");
                self.warn_once(&note);
                notes.push(note);
            }
        }
        let of_guests = |kind: Option<&str>| kind.is_some_and(|kind| GUESTS.contains(&kind));
        if below.iter().any(|lower| of_guests(lower.kind.as_deref())) {
            let note = "containers and virtual machines behind it need `ethtool -K NAME tx off` on their own end, or their TCP stalls";
            self.warn_once(note);
            notes.push(note.to_owned());
        }
        self.notes = notes;
    }

    fn switch_off(&self, lower: &Link, record: &InterfaceRecord) -> anyhow::Result<()> {
        let merging = devices::merging(lower)?;
        if merging.is_empty() {
            return Ok(());
        }
        let SwitchResult { off, on, is_persisted } = record.switch_off(lower, &merging)?;
        if !off.is_empty() {
            self.log_switched_off(&lower.name, &off, is_persisted);
        }
        anyhow::ensure!(on.is_empty(), "{} goes on merging frames ({})", lower.name, on.join(", "));
        Ok(())
    }

    fn log_switched_off(&self, below: &str, off: &[String], is_persisted: bool) {
        let (interface, features) = (&self.link.name, off.join(", "));
        if is_persisted {
            tracing::warn!(
                interface,
                below,
                features,
                "merged frames cannot be forwarded: merging is switched off (`slbd detach` switches it on again)"
            );
        } else {
            tracing::warn!(
                interface,
                below,
                features,
                "merged frames cannot be forwarded: merging is switched off. [daemon] state_dir cannot keep that: after `slbd detach` \
                 switch it on with `{}`",
                devices::restore_command(below, off)
            );
        }
    }

    /// Logs a note unless it is already present.
    fn warn_once(&self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            tracing::warn!(interface = self.link.name, "{note}");
        }
    }
}
