//! Access lists: networks of clients. A service allows only the clients on its list, or denies them.
//!
//! All lists are in one trie, whose longest-prefix match begins with the list. The content of a list never changes
//! under its id: a service gets another list by another index.

use super::Address;

/// Most networks of a list.
pub const MAX_NETWORKS: usize = 300;
/// Most lists in the maps, counting those that are to be replaced. Their ids begin with 1: list 0 is the empty one.
pub const MAX_LISTS: u32 = 2048;
/// Entries of the trie. The kernel allocates those in use.
pub const MAX_ENTRIES: u32 = MAX_LISTS * MAX_NETWORKS as u32;

/// What the trie holds for a network on a list.
pub const LISTED: u32 = 1;

/// Key of the trie: a list, a family and an address, after the length of the prefix. In the layout of
/// `struct bpf_lpm_trie_key`, and of aya's keys.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessKey {
    /// Bits of the key that count, from the most significant one of `list` on.
    pub prefix: u32,
    /// The list and the family, in network byte order: twice the list's id, plus 1 for IPv6.
    ///
    /// The family keeps an IPv6 network such as `::/0` apart from mapped IPv4 addresses.
    pub list: u32,
    /// The address, IPv4 mapped.
    pub address: [u32; 4],
}

impl AccessKey {
    /// Bits before the address.
    const LIST_BITS: u32 = u32::BITS;
    /// Bits before an IPv4 address in a mapped one.
    const MAPPED_BITS: u32 = 96;

    /// The key of a network: the upper `length` bits of an address, at most 32 or 128.
    pub const fn network(list: u32, address: &Address, length: u8) -> Self {
        let mapped = if address.is_v4() { Self::MAPPED_BITS } else { 0 };
        Self { prefix: Self::LIST_BITS + mapped + length as u32, ..Self::client(list, address) }
    }

    /// The key by which a client is looked up.
    #[inline(always)]
    pub const fn client(list: u32, address: &Address) -> Self {
        let family = !address.is_v4() as u32;
        Self { prefix: Self::LIST_BITS + u128::BITS, list: (list << 1 | family).to_be(), address: address.0 }
    }

    /// List, address and length of a network's key. `None` for a key that [`Self::network`] does not make.
    pub const fn parts(&self) -> Option<(u32, Address, u8)> {
        let (list, address) = (u32::from_be(self.list), Address(self.address));
        let is_v4 = list & 1 == 0;
        let before = Self::LIST_BITS + if is_v4 { Self::MAPPED_BITS } else { 0 };
        if is_v4 != address.is_v4() || self.prefix < before || self.prefix > Self::LIST_BITS + u128::BITS {
            return None;
        }
        Some((list >> 1, address, (self.prefix - before) as u8))
    }
}

const _: () = assert!(size_of::<AccessKey>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_a_network_has_its_parts() {
        let four = Address::v4([192, 0, 2, 0]);
        let six = Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (address, length) in [(four, 0), (four, 24), (four, 32), (six, 0), (six, 32), (six, 128)] {
            let key = AccessKey::network(7, &address, length);
            assert_eq!(key.parts(), Some((7, address, length)));
        }
        assert_eq!(AccessKey::network(7, &four, 32), AccessKey::client(7, &four));
        assert_eq!(AccessKey::network(7, &six, 128), AccessKey::client(7, &six));
    }

    #[test]
    fn ipv6_network_that_covers_mapped_addresses_holds_no_ipv4_client() {
        let (all, four) = (AccessKey::network(7, &Address::v6([0; 16]), 0), Address::v4([192, 0, 2, 1]));
        let bits_of_list = all.prefix;
        assert_eq!(bits_of_list, u32::BITS, "only the list and the family count");
        assert_ne!(all.list, AccessKey::client(7, &four).list);
    }

    #[test]
    fn key_of_another_program_has_no_parts() {
        let key = AccessKey::network(7, &Address::v4([192, 0, 2, 0]), 24);
        assert_eq!(AccessKey { prefix: 100, ..key }.parts(), None);
        assert_eq!(AccessKey { prefix: 161, ..key }.parts(), None);
        assert_eq!(AccessKey { list: (7_u32 << 1 | 1).to_be(), ..key }.parts(), None);
    }
}
