//! Layouts of the maps that the daemon fills and the XDP program reads.
//!
//! Invariants: every type is `repr(C)` without implicit padding; addresses, ports and hardware addresses stand as
//! they do in a packet; what the daemon changes while packets flow is one aligned word, or is replaced as a whole.
//! Any change of a layout or of a meaning raises [`ABI_VERSION`], which is part of the path of the pins.

pub mod backend;
pub mod control;
pub mod decap;
pub mod flow;
pub mod ring;
pub mod service;
pub mod stats;
#[cfg(feature = "user")]
mod user;

/// Version of everything in this module.
pub const ABI_VERSION: u32 = 1;

/// Services (one per VIP, port and protocol, and one per VIP for echo) the maps hold.
pub const MAX_SERVICES: u32 = 4096;
/// Servers the maps hold; a server that stands in two differently checked groups counts twice.
pub const MAX_BACKENDS: u32 = 16_384;
/// Next hops the maps hold: one for each server before and after all of them change, and 0, which stands for none.
pub const MAX_NEXT_HOPS: u32 = 2 * MAX_BACKENDS + 1;
/// Server tables the maps hold.
pub const MAX_RINGS: u32 = 4096;
/// Interfaces packets may leave through.
pub const MAX_INTERFACES: u32 = 256;
/// Bytes of a name, padded with zeros.
pub const NAME_LEN: usize = 64;

/// An IP address as four words in network byte order; IPv4 stands as the mapped `::ffff:a.b.c.d` of RFC 4291, 2.5.5.2.
///
/// Aligned to eight bytes, as is everything that lies on the packet path's stack: the BPF object is compiled for
/// unaligned access, which packets allow and the stack does not.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// An IPv4 address, as its bytes stand in a packet.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self([0, 0, Self::MAPPED, u32::from_ne_bytes(bytes)])
    }

    /// An IPv6 address, as its bytes stand in a packet.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// Bytes of the IPv4 address; meaningful only where [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// Bytes of the IPv6 address.
    #[inline(always)]
    pub const fn v6_bytes(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        // Without branches: each one would double the paths the verifier follows.
        self.0[0] | self.0[1] | (self.0[2] ^ Self::MAPPED) == 0
    }

    /// Compares word by word: a derived comparison may become a call of `bcmp`, which BPF does not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        (self.0[0] ^ other.0[0])
            | (self.0[1] ^ other.0[1])
            | (self.0[2] ^ other.0[2])
            | (self.0[3] ^ other.0[3])
            == 0
    }
}

/// Names one use of an id: ids are used again; the pair of id and generation is not, until 65,535 more have been given
/// out.
///
/// Zero names nothing.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(pub u32);

impl Reference {
    /// The use number `generation` (not 0) of `id`.
    #[inline(always)]
    pub const fn new(id: u16, generation: u16) -> Self {
        Self((generation as u32) << 16 | id as u32)
    }

    /// The index into the map.
    #[inline(always)]
    pub const fn id(self) -> u32 {
        self.0 & 0xffff
    }
}

/// A hardware address, in two words for the sake of the stack, where arrays of bytes would be written unaligned.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac {
    head: u32,
    tail: u16,
    reserved: u16,
}

impl Mac {
    /// The address with these bytes.
    #[inline(always)]
    pub const fn new(b: [u8; 6]) -> Self {
        Self {
            head: u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            tail: u16::from_ne_bytes([b[4], b[5]]),
            reserved: 0,
        }
    }

    /// 0 if the two are the same.
    #[inline(always)]
    const fn difference(self, other: Self) -> u64 {
        (self.head ^ other.head) as u64 | (self.tail ^ other.tail) as u64
    }

    /// The bytes, as they stand in a frame.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 6] {
        let (h, t) = (self.head.to_ne_bytes(), self.tail.to_ne_bytes());
        [h[0], h[1], h[2], h[3], t[0], t[1]]
    }
}

/// Stores `name` padded with zeros; what does not fit is cut off.
pub fn pad_name(name: &str) -> [u8; NAME_LEN] {
    let mut padded = [0; NAME_LEN];
    for (to, from) in padded.iter_mut().zip(name.as_bytes()) {
        *to = *from;
    }
    padded
}

/// Reads a name stored by [`pad_name`]; `None` where it is not UTF-8.
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
    fn names_survive_padding() {
        assert_eq!(unpad_name(&pad_name("web")), Some("web"));
        assert_eq!(unpad_name(&pad_name("")), Some(""));
    }

    #[test]
    fn references_tell_uses_of_an_id_apart() {
        let (first, second) = (Reference::new(7, 1), Reference::new(7, 2));
        assert_eq!((first.id(), second.id()), (7, 7));
        assert_ne!(first, second);
    }
}
