//! Follows what lies below and above the interfaces that run the program: members of bonds, VLAN devices, VRFs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};

use super::{Links, Ports};
use crate::{devices, neigh::Link};

/// What has been found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stacked {
    /// Indexes of the members of bonds that run the program, and of the bond of each.
    members: BTreeMap<u32, u32>,
    /// What to do about servers that are reached through interfaces of these names.
    advice: BTreeMap<String, String>,
}

impl Ports {
    /// Indexes of the interfaces that packets leave through, without those of these names: answers through a bond leave by the
    /// member that the request came in by.
    pub(in crate::daemon) fn exits(&self, without: &[String]) -> BTreeSet<u32> {
        let attached: BTreeSet<u32> = self.attached_without(without).into_keys().collect();
        let members = self.stacked.members.iter().filter(|(_, bond)| attached.contains(bond));
        members.map(|(member, _)| *member).chain(attached.iter().copied()).collect()
    }

    /// Indexes of members of bonds that have gone, with their entries among the exits.
    pub(super) fn gone_members(&self, links: &Links) -> BTreeSet<u32> {
        let there = |index: &u32| links.values().any(|link| link.index == *index);
        self.stacked.members.keys().copied().filter(|index| !there(index)).collect()
    }

    /// What to do about servers that are reached through interfaces of these names, which do not run the program.
    pub(in crate::daemon) fn advice(&self) -> BTreeMap<String, String> {
        self.stacked.advice.clone()
    }

    /// Finds out what lies below and above the interfaces that run the program. Returns whether that has changed.
    pub(super) fn survey(&mut self, links: &Links) -> bool {
        for held in self.held.values_mut() {
            let link = links.values().find(|link| link.index == held.link.index);
            let misfit = link.and_then(|link| devices::unfit(link, links));
            if let Some(why) = misfit.as_ref().filter(|_| misfit != held.misfit) {
                // What is established through it may go on: the program stays where it is.
                tracing::warn!(interface = held.link.name, why, "the next start refuses this interface");
            }
            held.misfit = misfit;
        }
        let running: BTreeSet<u32> = self.held.keys().copied().collect();
        let runs = |index| running.contains(&index);
        let advice = |name: &String| Some((name.clone(), devices::advice(name, links, runs)?));
        let stacked = Stacked {
            members: devices::members(&running, links),
            advice: links.keys().filter_map(advice).collect(),
        };
        let changed = self.stacked != stacked;
        self.stacked = stacked;
        changed
    }

    /// Fails if the program is of no use on an interface that has come.
    pub(super) fn expect_fit(&self, link: &Link, links: &Links) -> Result<()> {
        let held = self.held.values().map(|held| held.link.name.clone()).collect::<Vec<_>>();
        let why = devices::unfit(link, links).or_else(|| devices::shadowed(link, &held, links));
        why.map_or(Ok(()), |why| Err(anyhow!(why)))
    }
}
