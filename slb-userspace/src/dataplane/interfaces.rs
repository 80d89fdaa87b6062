//! Facts about interfaces for the data path, as comparable values.

use std::collections::{BTreeMap, BTreeSet};

use slb_common::abi::{
    interface::{EXTRA_MACS, InterfaceProperties, NO_MAC, own_mac_key, slot},
    mac_word,
};

/// The interface table and the further hardware addresses of its interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// By [`slot`].
    entries: BTreeMap<u32, InterfaceProperties>,
    /// By [`own_mac_key`]: 1 for a further hardware address, the index of the VLAN device for a VLAN.
    own_macs: BTreeMap<u64, u64>,
}

impl Interfaces {
    /// Adds an interface with the hardware addresses that it has besides the one in `properties`. The lowest ones go
    /// into the entry: addresses of VRRP (RFC 9568, 7.3) are small numbers.
    ///
    /// # Errors
    /// The table has another interface whose index has the same low 16 bits. Returns its index.
    pub fn insert(
        &mut self,
        mut properties: InterfaceProperties,
        own_macs: &BTreeSet<[u8; 6]>,
    ) -> Result<(), u32> {
        let slot = slot(properties.ifindex);
        if let Some(other) = self.entries.get(&slot).filter(|other| other.ifindex != properties.ifindex) {
            return Err(other.ifindex);
        }
        let mut extra_macs = own_macs.iter().filter(|mac| **mac != properties.mac);
        properties.extra_macs = [(); EXTRA_MACS].map(|()| extra_macs.next().copied().unwrap_or(NO_MAC));
        self.own_macs.extend(extra_macs.map(|mac| (own_mac_key(properties.ifindex, mac_word(*mac)), 1)));
        self.entries.insert(slot, properties);
        Ok(())
    }

    /// Adds a VLAN device, which has no further addresses. Frames of its VLAN arrive on the interfaces `arrivals`.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn insert_vlan_device(
        &mut self,
        properties: InterfaceProperties,
        arrivals: impl Iterator<Item = u32>,
    ) -> Result<(), u32> {
        self.insert(properties, &BTreeSet::new())?;
        let key = |ifindex| own_mac_key(ifindex, properties.vlan.as_mac());
        self.own_macs.extend(arrivals.map(|ifindex| (key(ifindex), properties.ifindex.into())));
        Ok(())
    }

    /// The content of the maps.
    pub(super) fn held(
        entries: impl Iterator<Item = InterfaceProperties>,
        own_macs: BTreeMap<u64, u64>,
    ) -> Self {
        Self { entries: entries.map(|properties| (slot(properties.ifindex), properties)).collect(), own_macs }
    }

    /// Removes a further address that the kernel has refused.
    pub(super) fn forget_own_mac(&mut self, key: u64) {
        self.own_macs.remove(&key);
    }

    /// The entries by [`slot`].
    pub fn entries(&self) -> &BTreeMap<u32, InterfaceProperties> {
        &self.entries
    }

    /// The further addresses and the VLANs, by [`own_mac_key`].
    pub fn own_macs(&self) -> &BTreeMap<u64, u64> {
        &self.own_macs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const C: [u8; 6] = [2, 0, 0, 0, 0, 3];
    const D: [u8; 6] = [2, 0, 0, 0, 0, 4];
    const VRRP: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];

    fn properties(ifindex: u32) -> InterfaceProperties {
        InterfaceProperties { ifindex, group: ifindex, mac: A, ..InterfaceProperties::default() }
    }

    #[test]
    fn interface_index_equal_in_16_bits_is_refused() {
        let mut interfaces = Interfaces::default();
        assert_eq!(interfaces.insert(properties(7), &BTreeSet::new()), Ok(()));
        assert_eq!(interfaces.insert(properties(0x1_0007), &BTreeSet::new()), Err(7));
        assert_eq!(interfaces.insert(properties(7), &BTreeSet::new()), Ok(()));
        assert_eq!(interfaces.insert(properties(0x1_0008), &BTreeSet::new()), Ok(()));
        assert_eq!(interfaces.entries().len(), 2);
    }

    #[test]
    fn further_addresses_beyond_the_entry_go_to_the_own_mac_map() {
        let mut interfaces = Interfaces::default();
        interfaces.insert(properties(7), &BTreeSet::from([A, B])).unwrap();
        assert_eq!(interfaces.entries()[&7].extra_macs, [B, NO_MAC]);
        interfaces.insert(properties(8), &BTreeSet::from([A, B, C, D, VRRP])).unwrap();
        assert_eq!(interfaces.entries()[&8].extra_macs, [VRRP, B]);
        assert_eq!(
            *interfaces.own_macs(),
            BTreeMap::from([C, D].map(|mac| (own_mac_key(8, mac_word(mac)), 1)))
        );
    }
}
