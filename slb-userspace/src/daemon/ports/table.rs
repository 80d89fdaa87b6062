//! Keeps the interface table up to date: hardware addresses and members of bonds.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use slb_common::abi::{
    interface::{CLIENT, InterfaceProperties, MAX_MTU, SERVER},
    mac_word,
};

use super::{Links, Ports};
use crate::{
    dataplane::interfaces::Interfaces,
    devices::{self, InterfaceStack, VlanExit},
    neigh::{Link, Mac},
};
use slb_config::model::InterfaceRole;
use slb_control::dataplane::state::mac;

/// Indexes of two interfaces that need the same slot of the table; the first one has it.
type Collision = (u32, u32);

impl Ports {
    /// Updates the interface table, including entries for interfaces that are about to be attached: they need an entry
    /// before their first frame.
    ///
    /// # Errors
    /// An interface of `coming` needs the slot of another one. The table is unchanged.
    pub(super) fn note_interfaces(&mut self, coming: &[&Link], links: &Links) -> Result<()> {
        let coming: BTreeSet<u32> = coming.iter().map(|link| link.index).collect();
        let running = self.held.keys().copied().chain(coming.iter().copied()).collect();
        let (interfaces, collisions) = interfaces(&running, &self.roles, links);
        if let Some(clash) = collisions.iter().find(|(a, b)| coming.contains(a) || coming.contains(b)) {
            bail!("[daemon] interfaces: {}", describe(*clash, links));
        }
        for clash in collisions.iter().filter(|clash| !self.collisions.contains(clash)) {
            tracing::error!("frames are not forwarded: {}", describe(*clash, links));
        }
        self.collisions = collisions;
        for (name, from, to) in changed_addresses(&self.held.keys().copied().collect(), &self.seen, links) {
            tracing::info!(
                interface = name,
                from,
                to,
                "hardware address changed; neighbours send to the old one until they resolve this host anew: arp_notify (IPv4) and \
                 ndisc_notify (IPv6) of the interface have the kernel announce the new one"
            );
        }
        self.seen.clone_from(links);
        if let Err(error) = self.table.put(&interfaces) {
            tracing::error!(
                error = format!("{error:#}"),
                "frames to some of this host's hardware addresses are not forwarded"
            );
        }
        Ok(())
    }
}

/// The content of the table if interfaces of these indexes run the program.
fn interfaces(
    running: &BTreeSet<u32>,
    roles: &BTreeMap<String, InterfaceRole>,
    links: &Links,
) -> (Interfaces, Vec<Collision>) {
    let stack = InterfaceStack::of(links.values());
    let own = running.iter().map(|index| (*index, *index));
    let (mut interfaces, mut collisions) = (Interfaces::default(), Vec::new());
    let members = devices::members(running, links);
    // Members last: a configured interface takes precedence.
    for (index, group) in own.chain(members.clone()) {
        let Some(link) = stack.link(index) else { continue };
        let properties = properties(link, group, flags(group, roles, links));
        if let Err(other) = interfaces.insert(properties, &stack.own_macs(link)) {
            collisions.push((other, index));
        }
    }
    for (index, VlanExit { below, vlan }) in devices::vlan_devices(running, links.values()) {
        let Some(link) = stack.link(index) else { continue };
        let of_device = properties(link, index, flags(below, roles, links));
        let of_device = InterfaceProperties { below, vlan, ..of_device };
        let bound = members.iter().filter(|(_, bond)| **bond == below).map(|(member, _)| *member);
        if let Err(other) = interfaces.insert_vlan_device(of_device, bound.chain([below])) {
            collisions.push((other, index));
        }
    }
    (interfaces, collisions)
}

/// The entry of an interface, without what only VLAN devices have.
fn properties(link: &Link, group: u32, flags: u16) -> InterfaceProperties {
    InterfaceProperties {
        ifindex: link.index,
        group,
        // An interface without a hardware address carries no Ethernet frames.
        mac: link.mac.unwrap_or_default(),
        flags,
        mtu: u16::try_from(link.mtu).ok().filter(|mtu| *mtu <= MAX_MTU).unwrap_or_default(),
        ..InterfaceProperties::default()
    }
}

/// Names of attached interfaces whose hardware address has changed, with the old and the new address.
fn changed_addresses<'links>(
    running: &BTreeSet<u32>,
    before: &Links,
    now: &'links Links,
) -> Vec<(&'links str, String, String)> {
    let old = |index| before.values().find(|link| link.index == index)?.mac;
    let now: BTreeMap<u32, &Link> = now.values().map(|link| (link.index, link)).collect();
    let changed = running.iter().filter_map(|index| {
        let link = now.get(index)?;
        let (from, to) = (old(*index)?, link.mac?);
        (from != to).then(|| (link.name.as_str(), mac_text(from), mac_text(to)))
    });
    changed.collect()
}

fn mac_text(address: Mac) -> String {
    mac(mac_word(address))
}

/// Role flags of an interface. An interface with several names has the flags that all their roles share.
fn flags(index: u32, roles: &BTreeMap<String, InterfaceRole>, links: &Links) -> u16 {
    let own = roles.iter().filter(|(name, _)| links.get(*name).is_some_and(|link| link.index == index));
    own.fold(CLIENT | SERVER, |flags, (_, role)| {
        flags
            & match role {
                InterfaceRole::Client => CLIENT,
                InterfaceRole::Server => SERVER,
                InterfaceRole::Both => CLIENT | SERVER,
            }
    })
}

fn describe((first, second): Collision, links: &Links) -> String {
    let name = |index| links.values().find(|link| link.index == index).map_or("", |link| link.name.as_str());
    format!(
        "the indexes of {} ({first}) and {} ({second}) agree in their low 16 bits, by which SLB tells interfaces apart: make one of them \
         anew, which gives it another index (`ip link add NAME index NUMBER ...`), or leave one out",
        name(first),
        name(second)
    )
}

#[cfg(test)]
mod tests {
    use slb_common::{abi::interface::own_mac_key, net::vlan::Vlan};

    use super::*;
    use crate::{devices::tests::link, neigh::Below};

    fn links(all: impl IntoIterator<Item = Link>) -> Links {
        all.into_iter().map(|link| (link.name.clone(), link)).collect()
    }

    #[test]
    fn bond_members_have_entries_with_its_group() {
        let links = links([
            Link { master: Some(4), mac: Some([2, 0, 0, 0, 0, 2]), ..link(2, "eth0", None) },
            Link { master: Some(4), ..link(3, "eth1", None) },
            Link { mac: Some([2, 0, 0, 0, 0, 4]), ..link(4, "bond0", Some("bond")) },
            link(5, "other", None),
        ]);
        let (table, collisions) = interfaces(&BTreeSet::from([4, 9]), &BTreeMap::new(), &links);
        let entries: Vec<_> =
            table.entries().values().map(|properties| (properties.ifindex, properties.group)).collect();
        assert_eq!((entries, collisions), (vec![(2, 4), (3, 4), (4, 4)], Vec::new()));
        assert_eq!(table.entries()[&2].mac, [2, 0, 0, 0, 0, 2]);
        assert_eq!(table.entries()[&2].flags, CLIENT | SERVER);
        // Either member has the bond's address as well, and the bond has those of both members.
        let extra_macs = |index| table.entries()[&index].extra_macs.map(|mac: [u8; 6]| mac[5]);
        assert_eq!([extra_macs(2), extra_macs(3), extra_macs(4)], [[4, 0xff], [4, 0xff], [2, 2]]);
    }

    #[test]
    fn vlan_devices_of_a_bond_have_entries_and_their_vlan_is_known_on_its_members() {
        let (vlan, below) = (Vlan::new(100, false), Some(Below { index: 4, namespace: None }));
        let links = links([
            Link { master: Some(4), ..link(2, "eth0", None) },
            link(4, "bond0", Some("bond")),
            Link { vlan: Some(vlan), below, mtu: 1400, ..link(7, "bond0.100", Some("vlan")) },
        ]);
        let roles = BTreeMap::from([("bond0".to_owned(), InterfaceRole::Server)]);
        let (table, collisions) = interfaces(&BTreeSet::from([4]), &roles, &links);
        assert_eq!(collisions, Vec::new());
        let entry = table.entries()[&7];
        assert_eq!((entry.group, entry.below, entry.vlan, entry.flags), (7, 4, vlan, SERVER));
        assert_eq!(entry.mtu, 1400);
        let known = [2, 4].map(|arrival| (own_mac_key(arrival, vlan.as_mac()), 7));
        assert_eq!(*table.own_macs(), BTreeMap::from(known));
    }

    #[test]
    fn changed_hardware_address_is_reported_with_the_old_one() {
        let at = |index, name: &str, mac| Link { mac: Some([2, 0, 0, 0, 0, mac]), ..link(index, name, None) };
        let tun = Link { mac: None, ..link(5, "tun", None) };
        let before = links([at(2, "front", 1), at(3, "back", 2), at(4, "other", 3), tun]);
        let after = links([
            at(2, "front", 1),
            at(3, "renamed", 7),
            at(4, "other", 8),
            at(5, "tun", 9),
            at(6, "back", 2),
        ]);
        let said = changed_addresses(&BTreeSet::from([2, 3, 5, 6]), &before, &after);
        assert_eq!(said, [("renamed", "02:00:00:00:00:02".to_owned(), "02:00:00:00:00:07".to_owned())]);
    }

    #[test]
    fn interface_indexes_equal_in_16_bits_clash() {
        let links = links([link(7, "front", None), link(0x1_0007, "back", None), link(8, "side", None)]);
        let (table, collisions) = interfaces(&BTreeSet::from([7, 8, 0x1_0007]), &BTreeMap::new(), &links);
        assert_eq!(collisions, [(7, 0x1_0007)]);
        assert_eq!(table.entries().len(), 2);
        let said = describe(collisions[0], &links);
        assert!(said.contains("front (7) and back (65543) agree"), "{said}");
    }

    #[test]
    fn bond_members_inherit_its_role_and_altnames_narrow_a_role() {
        let mut links = links([
            Link { master: Some(4), ..link(2, "eth0", None) },
            link(4, "bond0", Some("bond")),
            link(5, "front", None),
        ]);
        links.insert("uplink".to_owned(), link(5, "front", None));
        let role = |name: &str, role| (name.to_owned(), role);
        let roles = BTreeMap::from([
            role("bond0", InterfaceRole::Server),
            role("uplink", InterfaceRole::Client),
            role("absent", InterfaceRole::Server),
        ]);
        let (table, _) = interfaces(&BTreeSet::from([4, 5]), &roles, &links);
        let flags: Vec<_> =
            table.entries().values().map(|properties| (properties.ifindex, properties.flags)).collect();
        assert_eq!(flags, [(2, SERVER), (4, SERVER), (5, CLIENT)]);
    }
}
