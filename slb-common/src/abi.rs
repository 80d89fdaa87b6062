//! Layouts of the maps that the daemon writes and the XDP program reads.
//!
//! Invariants:
//!
//! - Every type is `repr(C)` without implicit padding.
//! - Addresses, ports and hardware addresses have the byte order of a packet.
//! - The daemon changes single aligned words while packets flow, or replaces a whole entry.
//! - Any change of a layout or its meaning raises [`ABI_VERSION`], which is part of the pins' path.

pub mod access_list;
pub mod address_list;
pub mod announce;
pub mod backend;
pub mod control;
pub mod decap;
pub mod family;
pub mod flow;
pub mod fragment;
pub mod health;
pub mod ids;
pub mod interface;
pub mod local_address;
pub mod lookup_table;
pub mod losses;
pub mod mode;
mod named_enum;
pub mod policy_set;
pub mod ports;
pub mod programs;
pub mod protocol;
pub mod quic;
pub mod rate_limit;
pub mod service;
pub mod shared_word;
pub mod source;
pub mod stats;
pub mod syn_cookie;
pub mod time;
pub mod toa;
pub mod token_bucket;
pub mod tunnel;
#[cfg(feature = "user")]
pub(crate) mod user;

pub use crate::net::address::Address;
use crate::net::{headers::MacPairBytes, vlan::Vlan};

/// Version of all layouts in this module.
pub const ABI_VERSION: u32 = 11;

/// Most services in the maps: one per VIP, port and protocol, and one per VIP for ICMP.
pub const MAX_SERVICES: u32 = 4096;
/// Servers in the maps by default. A server counts once for each server table that it is in.
pub const DEFAULT_BACKENDS: u32 = 16_384;
/// Most servers in the maps: those that a slot of a server table can name.
pub const MAX_BACKENDS: u32 = 1 << 20;
/// Most server tables in the maps: 4,096 of services, and for each two of previous backends, one active and one to
/// replace it.
pub const MAX_LOOKUP_TABLES: u32 = 3 * 4096;
/// Most interfaces that packets may leave through.
pub const MAX_INTERFACES: u32 = 256;
/// Length of a name in bytes, padded with zeros.
pub const NAME_LEN: usize = 64;

/// Handle: id and generation, which name one use of an id. Ids are reused, handles are not. 0 names nothing.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

impl Handle {
    /// Greatest generation. Greater ones would use bits of the word in which a flow-table entry holds a port.
    pub const MAX_GENERATION: u32 = 0x00ff_ffff;
    /// The bits that ids and generations use.
    const BITS: u64 = (Self::MAX_GENERATION as u64) << 32 | 0x00ff_ffff;

    /// The handle of `id` in this generation, which is not 0.
    #[inline(always)]
    pub const fn new(id: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | id as u64)
    }

    /// The index into the map.
    #[inline(always)]
    pub const fn id(self) -> u32 {
        self.0 as u32
    }

    /// The handle in a word that also has other bits.
    #[inline(always)]
    pub(crate) const fn from_bits(word: u64) -> Self {
        Self(word & Self::BITS)
    }

    /// Id and generation in 32 bits, for ids below 65,536. The same tag returns after 65,535 other generations.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        ((self.0 >> 32) as u32 % GENERATIONS) << 16 | self.id() & 0xffff
    }
}

const _: () = assert!(MAX_BACKENDS < Handle::MAX_GENERATION && MAX_SERVICES < Handle::MAX_GENERATION);

/// Generations that a [`Handle::tag`] tells apart.
const GENERATIONS: u32 = 1 << 16;

/// The two hardware addresses at the beginning of a frame, as words: byte arrays on the stack would be written
/// unaligned.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacPair {
    /// The first eight bytes: the destination, and the beginning of the source.
    pub head: u64,
    /// The last four bytes of the source.
    pub tail: u32,
    /// The VLAN of a frame to a next hop. Of a frame that has been read it is not known.
    pub vlan: Vlan,
}

impl MacPair {
    /// The addresses of a frame from `sender` to `receiver`.
    pub const fn new(receiver: [u8; 6], sender: [u8; 6]) -> Self {
        Self::from_words(mac_word(receiver), mac_word(sender))
    }

    /// The same addresses in a frame of this VLAN.
    #[must_use]
    pub const fn in_vlan(self, vlan: Vlan) -> Self {
        Self { vlan, ..self }
    }

    /// The destination address, in the lower 48 bits.
    #[inline(always)]
    pub const fn receiver(&self) -> u64 {
        self.head & 0xffff_ffff_ffff
    }

    /// The source address, in the lower 48 bits.
    #[inline(always)]
    pub const fn sender(&self) -> u64 {
        self.head >> 48 | (self.tail as u64) << 16
    }

    /// The addresses of a frame in the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self::from_words(self.sender(), self.receiver())
    }

    /// The addresses of a frame from `sender` to `receiver`, each in the lower 48 bits.
    pub const fn of(receiver: u64, sender: u64) -> Self {
        Self::from_words(receiver, sender)
    }

    #[inline(always)]
    const fn from_words(receiver: u64, sender: u64) -> Self {
        Self { head: receiver | sender << 48, tail: (sender >> 16) as u32, vlan: Vlan::NONE }
    }
}

impl From<MacPairBytes> for MacPair {
    #[inline(always)]
    fn from(bytes: MacPairBytes) -> Self {
        Self { head: u64::from_ne_bytes(bytes.head), tail: u32::from_ne_bytes(bytes.tail), vlan: Vlan::NONE }
    }
}

/// A hardware address in the lower 48 bits, in the byte order of a frame.
pub const fn mac_word(b: [u8; 6]) -> u64 {
    u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0])
}

/// Pads `name` with zeros. Bytes that do not fit are cut off.
pub fn pad_name(name: &str) -> [u8; NAME_LEN] {
    let mut padded = [0; NAME_LEN];
    for (to, from) in padded.iter_mut().zip(name.as_bytes()) {
        *to = *from;
    }
    padded
}

/// Reads a name stored by [`pad_name`]; `None` if it is not UTF-8.
pub fn unpad_name(padded: &[u8; NAME_LEN]) -> Option<&str> {
    let len = padded.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
    core::str::from_utf8(&padded[..len]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_bytes_and_family() {
        let four = Address::v4([192, 0, 2, 1]);
        assert!(four.is_v4());
        assert_eq!(four.v4_bytes(), [192, 0, 2, 1]);
        let bytes = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let six = Address::v6(bytes);
        assert!(!six.is_v4());
        assert_eq!(six.v6_bytes(), bytes);
        assert!(!six.same(&four));
        assert!(six.same(&Address::v6(bytes)));
    }

    #[test]
    fn mac_pair_has_frame_layout_and_answer_swaps_its_addresses() {
        let (a, b) = ([1, 2, 3, 4, 5, 6], [11, 12, 13, 14, 15, 16]);
        let macs = MacPair::new(a, b);
        assert_eq!(macs.head.to_ne_bytes(), [1, 2, 3, 4, 5, 6, 11, 12]);
        assert_eq!(macs.tail.to_ne_bytes(), [13, 14, 15, 16]);
        assert_eq!(macs.reversed(), MacPair::new(b, a));
    }

    #[test]
    fn names_survive_padding() {
        assert_eq!(unpad_name(&pad_name("web")), Some("web"));
        assert_eq!(unpad_name(&pad_name("")), Some(""));
    }

    #[test]
    fn handles_of_a_reused_id_differ_by_generation() {
        let (first, second) = (Handle::new(7, 1), Handle::new(7, 2));
        assert_eq!((first.id(), second.id()), (7, 7));
        assert_ne!(first, second);
        assert_ne!(first.tag(), second.tag());
        assert_eq!(first.tag(), Handle::new(7, 65_537).tag());
    }
}
