//! Renamed interfaces. The kernel keeps index, program and addresses of a renamed interface, and SLB keeps forwarding
//! through it.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Links, Ports};
use crate::{dataplane::bpf::pins::Pins, devices::InterfaceRecord};

/// Interfaces renamed since an earlier run: current name by configured name. A pinned BPF link identifies them.
///
/// # Errors
/// A pin cannot be read.
pub(super) fn read_renamed(
    record: &InterfaceRecord,
    pins: &Pins,
    names: &[String],
    links: &Links,
) -> Result<BTreeMap<String, String>> {
    let bound = pins.bound()?;
    let is_bound = |index: u32| bound.iter().any(|(_, bound)| bound.interface == Some(index));
    let mut renamed = BTreeMap::new();
    for name in names.iter().filter(|name| !links.contains_key(*name)) {
        let Some(index) = record.index_of(name).filter(|index| is_bound(*index)) else { continue };
        let Some(link) = links.values().find(|link| link.index == index) else { continue };
        log_renamed(name, &link.name);
        renamed.insert(name.clone(), link.name.clone());
    }
    Ok(renamed)
}

/// The interfaces, with renamed ones also under their old names.
pub(super) fn under_old_names(renamed: &BTreeMap<String, String>, links: &Links) -> Links {
    let mut all = links.clone();
    for (name, now) in renamed.iter().filter(|(name, _)| !links.contains_key(*name)) {
        all.extend(links.get(now).map(|link| (name.clone(), link.clone())));
    }
    all
}

/// What to do about a configured name that the interface no longer has.
pub(super) fn advice(name: &str, now: &str) -> String {
    format!(
        "{name} is called {now} now: write {now} in [daemon] interfaces, or keep the name: `ip link property add dev {now} \
         altname {name}`"
    )
}

fn log_renamed(name: &str, now: &str) {
    tracing::warn!(interface = name, now, "interface renamed, forwarding goes on: {}", advice(name, now));
}

impl Ports {
    /// Detects renamed interfaces. Returns the interfaces as [`Self::known`].
    pub(super) fn with_renamed(&mut self, links: &Links) -> Links {
        let running = self.ports.iter().filter_map(|(name, port)| Some((name, port.runs()?)));
        for (name, index) in running {
            if links.contains_key(name) {
                self.renamed.remove(name);
            } else if let Some(link) = links.values().find(|link| link.index == index)
                && self.renamed.insert(name.clone(), link.name.clone()).as_ref() != Some(&link.name)
            {
                log_renamed(name, &link.name);
            }
        }
        // Another interface may have the old name by now, and an unconfigured interface needs no entry.
        let ports = &self.ports;
        self.renamed.retain(|name, now| {
            let index = ports.get(name).and_then(super::PortState::runs);
            links.get(now).is_some_and(|link| Some(link.index) == index)
        });
        under_old_names(&self.renamed, links)
    }
}
