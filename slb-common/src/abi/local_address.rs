//! Local addresses: the source addresses of packets whose source is translated (mode `full-nat`).

use super::{Address, family::Family};
use crate::hash::address_hash;

/// Slots of the table, which hold all local addresses. The slot of an address is its id.
pub const SLOTS: usize = 256;
/// Most local addresses of one family that new flows choose from.
pub const MAX_CANDIDATES: usize = 32;
/// Words of the filter.
pub const FILTER_WORDS: usize = 16;
/// Slots from the hash of an address on in which it may lie.
pub const PROBES: usize = 8;

/// A local address.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address; unspecified in a slot that has never been used, [`LocalAddress::FREED`] in one that was freed.
    pub address: Address,
    /// First port that flows may have, in host byte order.
    pub first_port: u16,
    /// Last port that flows may have, in host byte order.
    pub last_port: u16,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

impl LocalAddress {
    /// In a slot that was freed: searches go on behind it.
    pub const FREED: Address = Address([u32::MAX; 4]);
}

/// The local addresses of one family that new flows choose from.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidates {
    /// Their number.
    pub count: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
    /// Their slots in the table.
    pub slots: [u8; MAX_CANDIDATES],
}

/// The table of local addresses: open addressing by [`LocalAddresses::home`]. An address keeps its slot for as long as
/// flows have it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddresses {
    /// Used slots, among them addresses that new flows no longer choose.
    pub used: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
    /// Filter of the addresses in used slots, one bit per hash.
    pub filter: [u64; FILTER_WORDS],
    /// Candidates of IPv4 flows.
    pub v4: Candidates,
    /// Candidates of IPv6 flows.
    pub v6: Candidates,
    /// The addresses, also those that new flows no longer choose. Each lies in one of [`PROBES`] slots from its
    /// [`Self::home`] on.
    pub slots: [LocalAddress; SLOTS],
}

impl LocalAddresses {
    /// A table without addresses.
    pub const EMPTY: Self = {
        let candidates = Candidates { count: 0, reserved: 0, slots: [0; MAX_CANDIDATES] };
        let free = LocalAddress { address: Address([0; 4]), first_port: 0, last_port: 0, reserved: 0 };
        Self {
            used: 0,
            reserved: 0,
            filter: [0; FILTER_WORDS],
            v4: candidates,
            v6: candidates,
            slots: [free; SLOTS],
        }
    };

    /// First slot in which an address may lie.
    #[inline(always)]
    pub const fn home(address: &Address) -> u8 {
        (address_hash(address) >> 56) as u8
    }

    /// Word and bit of an address in the filter.
    #[inline(always)]
    pub const fn filter_bit(address: &Address) -> (usize, u64) {
        let bit_index = address_hash(address) >> 54;
        ((bit_index >> 6) as usize, 1 << (bit_index & 63))
    }

    /// Whether an address may be a local address. May be wrong for other addresses, never for a local one.
    #[inline(always)]
    pub fn may_be_local(&self, address: &Address) -> bool {
        let (word, bit) = Self::filter_bit(address);
        self.filter[word & (FILTER_WORDS - 1)] & bit != 0
    }

    /// The candidates of a family.
    #[inline(always)]
    pub const fn candidates(&self, family: Family) -> &Candidates {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The slot of an address; `None` if it is no local address.
    #[inline(always)]
    pub fn find(&self, address: &Address) -> Option<u8> {
        let home = Self::home(address);
        for probe in 0..PROBES as u8 {
            let slot = home.wrapping_add(probe);
            let [high, low] = self.slots[slot as usize].address.halves();
            if high | low == 0 {
                return None;
            }
            if self.slots[slot as usize].address.same(address) {
                return Some(slot);
            }
        }
        None
    }
}

const _: () = assert!(size_of::<LocalAddress>() == 24 && size_of::<Candidates>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_finds_its_addresses_and_no_other() {
        let mut table = LocalAddresses::EMPTY;
        assert_eq!(table.find(&Address::v4([192, 0, 2, 1])), None);
        for n in 0..32 {
            for address in [Address::v4([192, 0, 2, n]), Address::v6([n + 1; 16])] {
                let home = LocalAddresses::home(&address);
                let free = (0..PROBES as u8)
                    .map(|probe| home.wrapping_add(probe))
                    .find(|slot| table.slots[usize::from(*slot)] == LocalAddress::default());
                let slot = free.expect("a free slot");
                table.slots[usize::from(slot)].address = address;
                let (word, bit) = LocalAddresses::filter_bit(&address);
                table.filter[word] |= bit;
                assert!(table.may_be_local(&address));
                assert_eq!(table.find(&address), Some(slot));
            }
        }
        assert_eq!(table.find(&Address::v4([192, 0, 2, 32])), None);
    }
}
