//! Which VIP is announced at which interface. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    dataplane::bpf::answers::VipAt,
    devices::InterfaceStack,
    neigh::{Mac, host_interfaces::HostInterfaces},
};

/// What is to be announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The VIPs.
    pub vips: BTreeSet<IpAddr>,
    /// Indexes of the interfaces by which packets of clients arrive.
    pub interfaces: BTreeSet<u32>,
}

/// An interface at which a VIP is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its name.
    pub(super) interface: String,
    /// Its hardware address.
    pub(super) mac: Mac,
    /// Whether it is up and has carrier.
    pub(super) up: bool,
}

/// VIPs with the interfaces at which they are announced.
pub(super) type Plan = BTreeMap<VipAt, Place>;

/// A VIP is announced at interfaces with an address of its subnet that packets of clients arrive by: those themselves,
/// and bridges, bonds and VLAN devices upon them.
pub(super) fn plan(wanted: &Wanted, host: &HostInterfaces) -> Plan {
    let stack = InterfaceStack::of(&host.links);
    let clients = wanted.interfaces.iter().filter_map(|index| stack.link(*index));
    let receiving: BTreeSet<u32> = clients.flat_map(|link| stack.with_upper(link)).collect();
    let place = |index: u32| {
        let link = stack.link(index).filter(|_| receiving.contains(&index))?;
        Some(Place { interface: link.name.clone(), mac: link.mac?, up: link.up })
    };
    let places = wanted.vips.iter().flat_map(|vip| {
        host.on_link_with(*vip).filter_map(move |index| Some(((index, *vip), place(index)?)))
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neigh::{Below, Link};

    fn link(index: u32) -> Link {
        Link { mac: Some([2, 0, 0, 0, 0, index as u8]), ..Link::sample(index, &format!("if{index}")) }
    }

    /// Interfaces and VIPs of the plan for the client interface 1.
    fn places(links: Vec<Link>, addresses: &[(u32, &str, u8)], vips: &[&str]) -> Vec<(u32, String)> {
        let host = HostInterfaces::sample(links, addresses);
        let vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        let planned = plan(&Wanted { vips, interfaces: [1].into() }, &host);
        planned.into_keys().map(|(index, vip)| (index, vip.to_string())).collect()
    }

    #[test]
    fn vip_is_announced_only_at_client_interfaces_with_its_subnet() {
        let addresses =
            [(1, "192.0.2.1", 24), (1, "192.0.2.2", 24), (2, "192.0.2.3", 24), (1, "2001:db8::1", 64)];
        let vips = ["192.0.2.10", "192.0.3.10", "2001:db8::10", "2001:db8:1::10"];
        assert_eq!(
            places(vec![link(1), link(2)], &addresses, &vips),
            [(1, "192.0.2.10".to_owned()), (1, "2001:db8::10".to_owned())]
        );
    }

    #[test]
    fn addresses_without_a_subnet_hold_no_vip() {
        let addresses = [(1, "192.0.2.10", 32), (1, "2001:db8::10", 128), (1, "198.51.100.0", 0)];
        assert_eq!(places(vec![link(1)], &addresses, &["192.0.2.10", "2001:db8::10"]), []);
    }

    #[test]
    fn vip_in_the_subnet_of_a_stacked_device_is_announced_there() {
        let bridge = Link { kind: Some("bridge".to_owned()), ..link(2) };
        let below = Some(Below { index: 2, namespace: None });
        let vlan = Link { kind: Some("vlan".to_owned()), below, ..link(3) };
        let links = vec![Link { master: Some(2), ..link(1) }, bridge, vlan, link(4)];
        let addresses = [(2, "192.0.2.1", 24), (3, "198.51.100.1", 24), (4, "203.0.113.1", 24)];
        assert_eq!(
            places(links, &addresses, &["192.0.2.10", "198.51.100.10", "203.0.113.10"]),
            [(2, "192.0.2.10".to_owned()), (3, "198.51.100.10".to_owned())]
        );
    }

    #[test]
    fn interface_without_a_hardware_address_announces_nothing() {
        let tun = Link { mac: None, ..link(1) };
        assert_eq!(places(vec![tun], &[(1, "192.0.2.1", 24)], &["192.0.2.10"]), []);
    }
}
