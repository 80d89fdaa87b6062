//! The XDP ports as the event loop's [`Interfaces`].

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::Path,
};

use anyhow::Result;

use super::{PortState, Ports, renamed};
use crate::{
    daemon::environment::{Interfaces, Links},
    devices::{self, VlanExit},
    neigh::Link,
};
use slb_config::model::InterfaceRole;

impl Interfaces for Ports {
    fn known(&self, links: &Links) -> Links {
        renamed::under_old_names(&self.renamed, links)
    }

    fn attached_without(&self, names: &[String]) -> BTreeMap<u32, String> {
        let attached = |(name, port): (&String, &PortState)| match port {
            PortState::Attached(index) => Some((*index, name.clone())),
            _ => None,
        };
        self.ports.iter().filter(|(name, _)| !names.contains(name)).filter_map(attached).collect()
    }

    fn attached_names(&self) -> BTreeSet<String> {
        let attached = self.ports.iter().filter(|(_, port)| matches!(port, PortState::Attached(_)));
        attached.map(|(name, _)| name.clone()).collect()
    }

    fn exits(&self, without: &[String]) -> BTreeSet<u32> {
        self.with_members(&self.attached_without(without))
    }

    fn refused(&self) -> BTreeMap<u32, String> {
        let refused = |port: &PortState| match port {
            PortState::Refused { index, why } | PortState::Unfit { index, why } => {
                Some((*index, why.clone()))
            }
            _ => None,
        };
        self.ports.values().filter_map(refused).collect()
    }

    fn absent(&self) -> BTreeSet<String> {
        let absent = self.ports.iter().filter(|(_, port)| **port == PortState::Absent);
        absent.map(|(name, _)| name.clone()).collect()
    }

    fn advice(&self) -> BTreeMap<String, String> {
        self.stacked.advice.clone()
    }

    fn vlans(&self, without: &[String]) -> BTreeMap<u32, VlanExit> {
        let remains = |index: &u32| {
            let mut names = self.ports.iter().filter(|(_, port)| port.runs() == Some(*index));
            // An interface has several names if it has alternative ones.
            names.any(|(name, _)| !without.contains(name))
        };
        let running = self.held.keys().copied().filter(remains).collect();
        devices::vlan_devices(&running, self.seen.values())
    }

    fn has_refused(&self) -> bool {
        self.ports.values().any(|port| matches!(port, PortState::Refused { .. }))
    }

    fn pins_trouble(&self) -> Option<&str> {
        self.pins_trouble.as_deref()
    }

    fn add(&mut self, names: &[String], links: &Links) -> Result<()> {
        // By index: one interface may have several of these names.
        let present = names.iter().filter_map(|name| links.get(name)).map(|link| (link.index, link));
        let present: Vec<&Link> = present.collect::<BTreeMap<_, _>>().into_values().collect();
        self.note_interfaces(&present, links)?;
        self.attach_together(&present)?;
        for name in names {
            let port = links.get(name).map_or(PortState::Absent, |link| PortState::Attached(link.index));
            self.ports.insert(name.clone(), port);
        }
        self.update_members(links);
        self.update_states(true);
        self.disable_merging(links);
        self.publish();
        Ok(())
    }

    fn restore(&mut self, names: &[String], links: &Links) -> BTreeSet<u32> {
        self.ports.extend(names.iter().map(|name| (name.clone(), PortState::Absent)));
        self.follow(links).unwrap_or_default()
    }

    fn remove(&mut self, names: &[String]) {
        for name in names {
            if let Some(index) = self.ports.remove(name).as_ref().and_then(PortState::runs)
                && !self.ports.values().any(|port| port.runs() == Some(index))
            {
                self.unpin(name, index);
            }
        }
        // A VLAN device that ran the program is reached through the interface below now.
        self.update_members(&self.seen.clone());
        self.restore_merging();
        self.publish();
    }

    fn add_roles(&mut self, added: &[String], roles: &BTreeMap<String, InterfaceRole>) {
        for name in added {
            match roles.get(name) {
                Some(role) => drop(self.roles.insert(name.clone(), *role)),
                None => drop(self.roles.remove(name)),
            }
        }
    }

    fn set_roles(&mut self, roles: BTreeMap<String, InterfaceRole>) {
        self.roles = roles;
        self.note_addresses(&self.seen.clone());
    }

    fn note_addresses(&mut self, links: &Links) {
        // It can fail only for interfaces that are about to be attached, of which there are none.
        let _ = self.note_interfaces(&[], links);
    }

    fn follow(&mut self, links: &Links) -> Option<BTreeSet<u32>> {
        let links = &self.with_renamed(links);
        // First, because attaching programs may take long.
        self.note_addresses(links);
        let (mut changed, mut gone) = (false, BTreeSet::new());
        for (name, port) in mem::take(&mut self.ports) {
            let link = links.get(&name);
            let now = if self.is_unchanged(&port, link) {
                port.clone()
            } else {
                self.followed(&name, &port, link, links, &mut gone)
            };
            changed |= now != port;
            self.ports.insert(name, now);
        }
        gone.extend(self.removed_members(links));
        changed |= self.update_members(links);
        self.disable_merging(links);
        self.restore_merging();
        self.publish();
        (changed || !gone.is_empty()).then_some(gone)
    }

    fn persist_record_in(&self, directory: &Path) {
        self.record.persist_in(directory);
    }
}
