//! Hardware addresses of frames that the kernel receives as `PACKET_HOST`, by receiving interface.

use std::collections::{BTreeMap, BTreeSet};

use crate::neigh::{Link, Mac};

/// Kinds of interfaces that receive frames from their lower interface by an address of their own.
const ABOVE: [&str; 2] = ["vlan", "macvlan"];
/// Kinds of interfaces that receive all frames of their ports.
const MASTERS: [&str; 4] = ["bridge", "bond", "team", "openvswitch"];

/// The relations between interfaces: upper and lower, master and port.
#[derive(Debug, Default)]
pub struct InterfaceStack<'links> {
    by_index: BTreeMap<u32, &'links Link>,
    above: BTreeMap<u32, Vec<&'links Link>>,
    ports: BTreeMap<u32, Vec<&'links Link>>,
}

impl<'links> InterfaceStack<'links> {
    /// Of these interfaces. Each may occur more than once, under several names.
    pub fn of(links: impl IntoIterator<Item = &'links Link>) -> Self {
        let mut stack = Self::default();
        for link in links {
            if stack.by_index.insert(link.index, link).is_some() {
                continue;
            }
            if let Some(below) =
                link.below.filter(|below| below.namespace.is_none() && has_kind(link, &ABOVE))
            {
                stack.above.entry(below.index).or_default().push(link);
            }
            if let Some(master) = link.master {
                stack.ports.entry(master).or_default().push(link);
            }
        }
        stack
    }

    /// The interface of this index.
    pub fn link(&self, index: u32) -> Option<&'links Link> {
        self.by_index.get(&index).copied()
    }

    /// The hardware addresses for which frames by `link` are this host's:
    ///
    /// - of the interface, and of the bridge or bond that it belongs to
    /// - of VLAN devices and macvlans above one of these that are up
    /// - of its ports or members, and of the lower interface of a VLAN device
    ///
    /// Interfaces in other network namespaces are other hosts.
    pub fn own_macs(&self, link: &Link) -> BTreeSet<Mac> {
        let mut reached = self.with_upper(link);
        self.add_lower(link, &mut reached);
        reached.iter().filter_map(|index| self.link(*index)?.mac).collect()
    }

    /// Indexes of the interfaces that receive frames by `link`: itself, the bridge or bond that it belongs to, and VLAN
    /// devices and macvlans above one of these that are up.
    pub fn with_upper(&self, link: &Link) -> BTreeSet<u32> {
        let mut reached = BTreeSet::new();
        let mut next = vec![link.index];
        while let Some(index) = next.pop() {
            let Some(link) = self.link(index).filter(|_| reached.insert(index)) else { continue };
            let above = self.above.get(&index).into_iter().flatten();
            next.extend(above.filter(|above| above.up).map(|above| above.index));
            next.extend(self.masters(link));
        }
        reached
    }

    /// The bridges or the bond that an interface belongs to. The master of an Open vSwitch port has no usable address;
    /// the switch's bridges are interfaces of the same kind.
    fn masters(&self, link: &Link) -> Vec<u32> {
        let master = link.master.and_then(|master| self.link(master));
        match master.filter(|master| has_kind(master, &MASTERS)) {
            Some(master) if has_kind(master, &["openvswitch"]) => {
                let all = self.by_index.values().filter(|link| has_kind(link, &["openvswitch"]));
                all.map(|link| link.index).collect()
            }
            Some(master) => vec![master.index],
            None => Vec::new(),
        }
    }

    /// Adds the interfaces that deliver frames to `link`. The kernel compares their own address first.
    fn add_lower(&self, link: &Link, reached: &mut BTreeSet<u32>) {
        let mut next = vec![link.index];
        let mut seen = BTreeSet::new();
        while let Some(link) = next.pop().and_then(|index| self.link(index)) {
            reached.insert(link.index);
            if !seen.insert(link.index) {
                continue;
            }
            if has_kind(link, &MASTERS) {
                next.extend(self.ports.get(&link.index).into_iter().flatten().map(|port| port.index));
            }
            if has_kind(link, &["vlan"]) {
                next.extend(link.below.filter(|below| below.namespace.is_none()).map(|below| below.index));
            }
        }
    }
}

fn has_kind(link: &Link, kinds: &[&str]) -> bool {
    link.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{devices::tests::link, neigh::Below};

    /// An interface whose hardware address ends in its index.
    fn at(index: u32, kind: &'static str) -> Link {
        let kind = Some(kind).filter(|kind| !kind.is_empty());
        Link { mac: Some(mac(index)), ..link(index, &format!("if{index}"), kind) }
    }

    fn mac(index: u32) -> Mac {
        [2, 0, 0, 0, 0, index as u8]
    }

    fn upon(index: u32, link: Link) -> Link {
        Link { below: Some(Below { index, namespace: None }), ..link }
    }

    fn of(master: u32, link: Link) -> Link {
        Link { master: Some(master), ..link }
    }

    /// Last bytes of an interface's own addresses.
    fn own(links: &[Link], index: u32) -> Vec<u8> {
        let stack = InterfaceStack::of(links.iter().chain(links));
        let macs = stack.own_macs(stack.link(index).unwrap());
        macs.into_iter().map(|mac| mac[5]).collect()
    }

    #[test]
    fn plain_interface_has_its_own_hardware_address() {
        let links = [at(1, ""), at(2, ""), Link { mac: None, ..at(3, "tun") }];
        assert_eq!(own(&links, 1), [1]);
        assert_eq!(own(&links, 3), [0_u8; 0]);
    }

    #[test]
    fn addresses_of_stacked_devices_are_own_while_they_are_up() {
        let elsewhere = Link { below: Some(Below { index: 1, namespace: Some(0) }), ..at(6, "macvlan") };
        let links = [
            at(1, ""),
            upon(1, at(2, "macvlan")),
            upon(1, at(3, "vlan")),
            upon(3, at(4, "macvlan")),
            Link { up: false, ..upon(1, at(5, "macvlan")) },
            elsewhere,
            upon(1, at(7, "macvtap")),
            upon(1, at(8, "veth")),
        ];
        assert_eq!(own(&links, 1), [1, 2, 3, 4]);
        // Tagged frames to the address of its lower interface are its own too.
        assert_eq!(own(&links, 3), [1, 3, 4]);
        // The driver delivers to a macvlan only frames to its own address.
        assert_eq!(own(&links, 2), [2]);
    }

    #[test]
    fn bond_and_its_members_accept_frames_for_each_other() {
        let links = [
            of(3, at(1, "")),
            of(3, at(2, "")),
            at(3, "bond"),
            upon(3, at(4, "macvlan")),
            upon(3, at(5, "vlan")),
        ];
        assert_eq!(own(&links, 1), [1, 3, 4, 5]);
        assert_eq!(own(&links, 3), [1, 2, 3, 4, 5]);
        assert_eq!(own(&links, 5), [1, 2, 3, 5]);
    }

    #[test]
    fn bridge_port_accepts_frames_for_the_bridge_and_not_for_other_ports() {
        let links = [of(3, at(1, "")), of(3, at(2, "veth")), at(3, "bridge"), upon(3, at(4, "macvlan"))];
        assert_eq!(own(&links, 1), [1, 3, 4]);
        assert_eq!(own(&links, 3), [1, 2, 3, 4]);
    }

    #[test]
    fn open_vswitch_port_accepts_frames_for_its_bridges() {
        let links = [of(2, at(1, "")), at(2, "openvswitch"), of(2, at(3, "openvswitch"))];
        assert_eq!(own(&links, 1), [1, 2, 3]);
    }

    #[test]
    fn vrf_has_no_hardware_address_for_frames() {
        assert_eq!(own(&[of(2, at(1, "")), at(2, "vrf")], 1), [1]);
    }
}
