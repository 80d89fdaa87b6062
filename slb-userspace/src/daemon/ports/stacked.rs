//! Interfaces above and below those that run the program: members of bonds, VLAN devices, VRFs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use slb_common::abi::MAX_INTERFACES;

use super::{Links, Ports};
use crate::daemon::environment::Interfaces;
use crate::{
    devices::{self, VlanExit},
    neigh::Link,
};

/// The interfaces above and below.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stacked {
    /// Bond of each member, by index. The bonds run the program.
    members: BTreeMap<u32, u32>,
    /// Names of members without a slot in the maps, by bond index. Answers to requests that arrive by them are dropped.
    unlisted_members: BTreeMap<u32, Vec<String>>,
    /// VLAN devices upon interfaces that run the program, by index.
    vlans: BTreeMap<u32, VlanExit>,
    /// What to do about servers behind interfaces without the program, by interface name.
    pub(super) advice: BTreeMap<String, String>,
}

impl Ports {
    /// Indexes of these interfaces and of members of bonds among them: an answer through a bond leaves by the member
    /// that its request arrived by.
    pub(super) fn with_members(&self, attached: &BTreeMap<u32, String>) -> BTreeSet<u32> {
        let members = self.stacked.members.iter().filter(|(_, bond)| attached.contains_key(bond));
        members.map(|(member, _)| *member).chain(attached.keys().copied()).collect()
    }

    /// Indexes of removed members of bonds that were exits.
    pub(super) fn removed_members(&self, links: &Links) -> BTreeSet<u32> {
        let there = |index: &u32| links.values().any(|link| link.index == *index);
        self.stacked.members.keys().copied().filter(|index| !there(index)).collect()
    }

    /// Reads the interfaces above and below. Returns whether they have changed.
    pub(super) fn update_members(&mut self, links: &Links) -> bool {
        for held in self.held.values_mut() {
            let link = links.values().find(|link| link.index == held.link.index);
            let start_refusal = link.and_then(|link| devices::unfit_reason(link, links));
            if let Some(why) = start_refusal.as_ref().filter(|_| start_refusal != held.start_refusal) {
                // The program stays attached, because established flows through the interface may still work.
                tracing::warn!(interface = held.link.name, why, "the next start refuses this interface");
            }
            held.start_refusal = start_refusal;
        }
        let running: BTreeSet<u32> = self.held.keys().copied().collect();
        Interfaces::note_addresses(self, links);
        let runs = |index| running.contains(&index);
        let advice = |name: &String| Some((name.clone(), devices::advice(name, links, runs)?));
        let (members, unlisted_members) =
            listed_members(devices::members(&running, links), running.len(), links);
        let vlans = devices::vlan_devices(&running, links.values());
        let advice = links.keys().filter_map(advice).collect();
        let stacked = Stacked { members, unlisted_members, vlans, advice };
        let changed = self.stacked != stacked;
        if self.stacked.unlisted_members != stacked.unlisted_members {
            for (bond, members) in &stacked.unlisted_members {
                let interface = self.held.get(bond).map(|held| held.link.name.as_str());
                tracing::error!(
                    interface,
                    note = unlisted_note(members),
                    "members of a bond without room in the maps"
                );
            }
        }
        self.stacked = stacked;
        changed
    }

    /// What to do about members of a bond without a slot in the maps.
    pub(super) fn note_on_members(&self, index: u32) -> Option<String> {
        self.stacked.unlisted_members.get(&index).map(|members| unlisted_note(members))
    }

    /// Fails if the program cannot work on an interface that has appeared.
    pub(super) fn expect_fit(&self, link: &Link, links: &Links) -> Result<()> {
        let held = self.held.values().map(|held| held.link.name.clone()).collect::<Vec<_>>();
        let why = devices::unfit_reason(link, links)
            .or_else(|| devices::shadow_reason(link, &held, links))
            .or_else(|| devices::crowding_reason(held.iter().chain([&link.name]), links));
        why.map_or(Ok(()), |why| Err(anyhow!(why)))
    }
}

/// Splits members of bonds into those with a slot in the maps beside this many interfaces, and the names of the others
/// by bond.
fn listed_members(
    members: BTreeMap<u32, u32>,
    interfaces: usize,
    links: &Links,
) -> (BTreeMap<u32, u32>, BTreeMap<u32, Vec<String>>) {
    let room = (MAX_INTERFACES as usize).saturating_sub(interfaces);
    let mut without: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (member, bond) in members.iter().skip(room) {
        let link = links.values().find(|link| link.index == *member);
        without.entry(*bond).or_default().extend(link.map(|link| link.name.clone()));
    }
    (members.into_iter().take(room).collect(), without)
}

fn unlisted_note(members: &[String]) -> String {
    let (count, first) = (members.len(), members.first().map_or("", String::as_str));
    format!(
        "{count} of its members have no room in the maps, which hold {MAX_INTERFACES} interfaces with members of bonds ({first} is the \
         first): answers in mode nat to what comes in by them are dropped; take them out of the bond (`ip link set dev {first} nomaster`)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices;

    #[test]
    fn bond_members_beyond_the_map_size_are_omitted_and_named() {
        let link = |index: u32| devices::tests::link(index, &format!("port{index}"), None);
        let links: Links = (10..300).map(link).map(|link| (link.name.clone(), link)).collect();
        let members = |count: u32| (10..10 + count).map(|index| (index, 5)).collect::<BTreeMap<_, _>>();
        assert_eq!(listed_members(members(254), 2, &links), (members(254), BTreeMap::new()));
        let (fit, without) = listed_members(members(256), 2, &links);
        assert_eq!(fit, members(254));
        assert_eq!(without, BTreeMap::from([(5, vec!["port264".to_owned(), "port265".to_owned()])]));
        assert!(unlisted_note(&without[&5]).contains("2 of its members"), "{}", unlisted_note(&without[&5]));
    }
}
