//! The internet checksum (RFC 1071), updated from changes (RFC 1624).
//!
//! One's complement sums do not depend on byte order, so words are added as they stand in the packet.

use super::address::Address;
use crate::opaque::opaque;

/// A sum of changes to a checksum, or of the words that it covers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delta(u64);

impl Delta {
    /// A sum of words that was computed before.
    #[inline(always)]
    pub const fn of(sum: u32) -> Self {
        Self(sum as u64)
    }

    /// Adds a word.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Subtracts a word.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, word: u16) -> Self {
        Self(self.0 + (!word) as u64)
    }

    /// Adds an address. The common words of mapped addresses add nothing.
    #[inline(always)]
    #[must_use]
    pub const fn plus_address(self, address: &Address) -> Self {
        let [a, b, c, d] = address.0;
        Self(self.0 + a as u64 + b as u64 + c as u64 + d as u64)
    }

    /// Subtracts an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn minus_v4(self, address: &Address) -> Self {
        Self(self.0 + (!address.0[3]) as u64)
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn plus_all(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The same sum as one number. The compiler would otherwise keep its terms on the stack of BPF until they are used.
    #[inline(always)]
    #[must_use]
    pub fn settled(self) -> Self {
        Self(opaque(self.0))
    }

    /// Adds bytes; their number is a multiple of four. One word at a time: all of them together would fill the stack of
    /// BPF.
    #[inline(always)]
    #[must_use]
    pub fn bytes<const N: usize>(self, bytes: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4)) };
        let mut sum = self.0;
        let mut i = 0;
        while i < N {
            let word = u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
            sum = opaque(sum + u64::from(word));
            i += 4;
        }
        Self(sum)
    }

    /// The checksum over the words that were added (RFC 1071).
    #[inline(always)]
    pub const fn checksum(self) -> [u8; 2] {
        self.apply([0xff, 0xff])
    }

    /// Adds the change of the word `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Adds the change of `old` to `new`. Both are of the same family: the common words of mapped addresses cancel out.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, old: &Address, new: &Address) -> Self {
        let mut sum = self.0;
        let mut i = 0;
        while i < 4 {
            sum += (!old.0[i]) as u64 + new.0[i] as u64;
            i += 1;
        }
        Self(sum)
    }

    /// The checksum after the changes (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let mut sum = self.0 + (!u16::from_ne_bytes(checksum)) as u64;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }

    /// The checksum of a UDP datagram after the changes (RFC 768). 0 means no checksum and stays; a computed 0 becomes
    /// 0xffff.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if u16::from_ne_bytes(checksum) == 0 {
            return checksum;
        }
        let applied = self.apply(checksum);
        if u16::from_ne_bytes(applied) == 0 { [0xff, 0xff] } else { applied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Full computation, written from RFC 1071 alone: sums big-endian words one by one.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn incremental_checksum_equals_full_computation(
            mut data in prop::collection::vec(any::<u8>(), 20..80),
            address in any::<[u8; 4]>(),
            port in any::<[u8; 2]>(),
        ) {
            let before = full(&data);
            let old_address = Address::v4(data[4..8].try_into().unwrap());
            let old_port = u16::from_ne_bytes([data[10], data[11]]);
            let delta = Delta::default()
                .address(&old_address, &Address::v4(address))
                .word(old_port, u16::from_ne_bytes(port));
            data[4..8].copy_from_slice(&address);
            data[10..12].copy_from_slice(&port);
            let applied = u16::from_be_bytes(delta.apply(before.to_be_bytes()));
            let recomputed = full(&data);
            // Zero has two representations in one's complement. RFC 1624 avoids the wrong one, unless all data is zero.
            prop_assert!(applied == recomputed || data.iter().all(|b| *b == 0), "{applied:04x} {recomputed:04x}");
        }

        #[test]
        fn incremental_checksum_of_ipv6_address_equals_full_computation(old in any::<[u8; 16]>(), new in any::<[u8; 16]>()) {
            let mut data = [7u8; 24];
            data[8..].copy_from_slice(&old);
            let before = full(&data);
            data[8..].copy_from_slice(&new);
            let delta = Delta::default().address(&Address::v6(old), &Address::v6(new));
            prop_assert_eq!(u16::from_be_bytes(delta.apply(before.to_be_bytes())), full(&data));
        }

        #[test]
        fn udp_checksum_update_never_yields_zero(check in 1u16.., old in any::<u16>(), new in any::<u16>()) {
            let after = Delta::default().word(old, new).apply_udp(check.to_ne_bytes());
            prop_assert_ne!(after, [0, 0]);
        }
    }

    #[test]
    fn udp_without_checksum_stays_without_one() {
        assert_eq!(Delta::default().word(1, 2).apply_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn udp_checksum_of_zero_is_sent_as_all_ones() {
        // 0xfffe + 0x0001 = 0xffff, whose complement is 0.
        let check = full(&[0xff, 0xfe, 0, 0]).to_be_bytes();
        let delta = Delta::default().word(0, u16::from_ne_bytes([0, 1]));
        assert_eq!(delta.apply(check), [0, 0]);
        assert_eq!(delta.apply_udp(check), [0xff, 0xff]);
    }
}
