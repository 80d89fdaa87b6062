//! VLAN devices upon interfaces that run the program. The program sends and receives their frames.

use std::collections::{BTreeMap, BTreeSet};

use slb_common::net::vlan::Vlan;

use crate::neigh::Link;

/// How the program reaches a VLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanExit {
    /// Index of the interface below, which runs the program.
    pub below: u32,
    /// The VLAN of its frames there.
    pub vlan: Vlan,
}

/// The VLAN devices upon the interfaces with these indexes, by index. Leaves out those that run the program themselves,
/// those of a VRF, bridge or bond, and those that are set down: the kernel takes no frames from them either.
pub fn vlan_devices<'links>(
    running: &BTreeSet<u32>,
    links: impl Iterator<Item = &'links Link>,
) -> BTreeMap<u32, VlanExit> {
    let exit = |link: &Link| {
        let below = link.below.filter(|below| below.namespace.is_none())?.index;
        let is_served = running.contains(&below) && !running.contains(&link.index) && link.master.is_none();
        (is_served && link.is_enabled).then_some((link.index, VlanExit { below, vlan: link.vlan? }))
    };
    links.filter_map(exit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{devices::tests::link, neigh::Below};

    #[test]
    fn only_vlan_devices_directly_upon_running_interfaces_are_served() {
        let upon = |below, namespace, index| Link {
            below: Some(Below { index: below, namespace }),
            vlan: Some(Vlan::new(100, false)),
            ..link(index, &format!("vlan{index}"), Some("vlan"))
        };
        let links = [
            link(2, "eth1", None),
            // Without carrier it returns as it was.
            Link { up: false, ..upon(2, None, 3) },
            upon(3, None, 4),
            upon(2, Some(1), 5),
            Link { master: Some(9), ..upon(2, None, 6) },
            Link { vlan: None, ..upon(2, None, 7) },
            upon(2, None, 8),
            Link { up: false, is_enabled: false, ..upon(2, None, 9) },
        ];
        let devices = vlan_devices(&BTreeSet::from([2, 8]), links.iter());
        let exit = VlanExit { below: 2, vlan: Vlan::new(100, false) };
        assert_eq!(devices, BTreeMap::from([(3, exit)]));
    }
}
