//! Facts about interfaces for the data path, as comparable values.

use std::collections::{BTreeMap, BTreeSet};

use slb_common::abi::{
    interface::{FURTHER, InterfaceFacts, NO_MAC, own_mac_key, slot},
    mac_word,
};

/// The interface table and the further hardware addresses of its interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// By [`slot`].
    entries: BTreeMap<u32, InterfaceFacts>,
    /// As [`own_mac_key`].
    own_macs: BTreeSet<u64>,
}

impl Interfaces {
    /// Adds an interface with the hardware addresses that it has besides the one in `facts`. The lowest ones go into
    /// the entry: addresses of VRRP (RFC 9568, 7.3) are small numbers.
    ///
    /// # Errors
    /// The table has another interface whose index has the same low 16 bits. Returns its index.
    pub fn insert(&mut self, mut facts: InterfaceFacts, own_macs: &BTreeSet<[u8; 6]>) -> Result<(), u32> {
        let slot = slot(facts.ifindex);
        if let Some(other) = self.entries.get(&slot).filter(|other| other.ifindex != facts.ifindex) {
            return Err(other.ifindex);
        }
        let mut further = own_macs.iter().filter(|mac| **mac != facts.mac);
        facts.further = [(); FURTHER].map(|()| further.next().copied().unwrap_or(NO_MAC));
        self.own_macs.extend(further.map(|mac| own_mac_key(facts.ifindex, mac_word(*mac))));
        self.entries.insert(slot, facts);
        Ok(())
    }

    /// The content of the maps.
    pub(super) fn held(entries: impl Iterator<Item = InterfaceFacts>, own_macs: BTreeSet<u64>) -> Self {
        Self { entries: entries.map(|facts| (slot(facts.ifindex), facts)).collect(), own_macs }
    }

    /// Removes a further address that the kernel has refused.
    pub(super) fn forget_own_mac(&mut self, key: u64) {
        self.own_macs.remove(&key);
    }

    /// The entries by [`slot`].
    pub fn entries(&self) -> &BTreeMap<u32, InterfaceFacts> {
        &self.entries
    }

    /// The further addresses, as [`own_mac_key`].
    pub fn own_macs(&self) -> &BTreeSet<u64> {
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

    fn facts(ifindex: u32) -> InterfaceFacts {
        InterfaceFacts { ifindex, group: ifindex, mac: A, ..InterfaceFacts::default() }
    }

    #[test]
    fn indexes_that_agree_in_16_bits_are_refused() {
        let mut interfaces = Interfaces::default();
        assert_eq!(interfaces.insert(facts(7), &BTreeSet::new()), Ok(()));
        assert_eq!(interfaces.insert(facts(0x1_0007), &BTreeSet::new()), Err(7));
        assert_eq!(interfaces.insert(facts(7), &BTreeSet::new()), Ok(()));
        assert_eq!(interfaces.insert(facts(0x1_0008), &BTreeSet::new()), Ok(()));
        assert_eq!(interfaces.entries().len(), 2);
    }

    #[test]
    fn further_addresses_are_in_the_entry_as_far_as_there_is_room() {
        let mut interfaces = Interfaces::default();
        interfaces.insert(facts(7), &BTreeSet::from([A, B])).unwrap();
        assert_eq!(interfaces.entries()[&7].further, [B, NO_MAC]);
        interfaces.insert(facts(8), &BTreeSet::from([A, B, C, D, VRRP])).unwrap();
        assert_eq!(interfaces.entries()[&8].further, [VRRP, B]);
        assert_eq!(*interfaces.own_macs(), BTreeSet::from([C, D].map(|mac| own_mac_key(8, mac_word(mac)))));
    }
}
