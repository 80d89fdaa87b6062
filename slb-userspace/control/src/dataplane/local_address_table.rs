//! The table of local addresses in the service index, as a value.

use std::collections::{BTreeMap, BTreeSet};

use slb_common::abi::{
    Address,
    local_address::{Candidates, LocalAddress, LocalAddresses},
};

/// Used and freed slots of the table. Empty slots are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalAddressTable {
    /// The addresses by slot, which is their id.
    pub slots: BTreeMap<u8, LocalAddress>,
    /// Slots that new flows choose from.
    pub candidates: BTreeSet<u8>,
}

impl LocalAddressTable {
    /// Reads the table of an index.
    pub fn read(table: &LocalAddresses) -> Self {
        let used = |local: &LocalAddress| local.address != Address::default();
        let slots = (0..=u8::MAX).zip(&table.slots).filter(|(_, local)| used(local));
        let of = |candidates: &Candidates| candidates.slots[..candidates.count as usize].to_vec();
        Self {
            slots: slots.map(|(slot, local)| (slot, *local)).collect(),
            candidates: [&table.v4, &table.v6].into_iter().flat_map(of).collect(),
        }
    }

    /// Writes the table into an empty one of an index. At most [`MAX_CANDIDATES`] slots of a family are candidates.
    ///
    /// [`MAX_CANDIDATES`]: slb_common::abi::local_address::MAX_CANDIDATES
    pub fn write(&self, table: &mut LocalAddresses) {
        for (slot, local) in &self.slots {
            table.slots[usize::from(*slot)] = *local;
        }
        table.used = self.addresses().count() as u32;
        for (_, local) in self.addresses() {
            let (word, bit) = LocalAddresses::filter_bit(&local.address);
            table.filter[word] |= bit;
        }
        for slot in &self.candidates {
            let is_v4 = self.slots.get(slot).is_some_and(|local| local.address.is_v4());
            let candidates = if is_v4 { &mut table.v4 } else { &mut table.v6 };
            if let Some(place) = candidates.slots.get_mut(candidates.count as usize) {
                *place = *slot;
                candidates.count += 1;
            }
        }
    }

    /// The addresses by slot, also those that are no candidates any longer.
    pub fn addresses(&self) -> impl Iterator<Item = (u8, &LocalAddress)> {
        let used = self.slots.iter().filter(|(_, local)| local.address != LocalAddress::FREED);
        used.map(|(slot, local)| (*slot, local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_read_as_it_was_written() {
        let local = |address| LocalAddress { address, first_port: 1024, last_port: 9999, reserved: 0 };
        let table = LocalAddressTable {
            slots: BTreeMap::from([
                (3, local(Address::v4([192, 0, 2, 1]))),
                (4, local(Address::v6([7; 16]))),
                (5, LocalAddress { address: LocalAddress::FREED, ..LocalAddress::default() }),
                (255, local(Address::v4([192, 0, 2, 2]))),
            ]),
            candidates: BTreeSet::from([3, 4]),
        };
        let mut written = LocalAddresses::EMPTY;
        table.write(&mut written);
        assert_eq!((written.used, written.v4.count, written.v4.slots[0]), (3, 1, 3));
        assert_eq!((written.v6.count, written.v6.slots[0]), (1, 4));
        assert!(table.addresses().all(|(_, local)| written.may_be_local(&local.address)));
        assert_eq!(LocalAddressTable::read(&written), table);
        assert_eq!(LocalAddressTable::read(&LocalAddresses::EMPTY), LocalAddressTable::default());
    }
}
