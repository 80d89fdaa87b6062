//! IP addresses of both families.

/// An IP address as four words in network byte order. IPv4 addresses are mapped: `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
///
/// Aligned to eight bytes, as everything on the packet path's stack. The BPF object is compiled for unaligned access,
/// which packets allow and the stack does not.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Address(pub [u32; 4]);

impl Address {
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// An IPv4 address, in network byte order.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self([0, 0, Self::MAPPED, u32::from_ne_bytes(bytes)])
    }

    /// An IPv6 address, in network byte order.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// Bytes of the IPv4 address; meaningful only if [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// Bytes of the IPv6 address; of an IPv4 address, those of the mapped one.
    #[inline(always)]
    pub const fn v6_bytes(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// This address with `bits` (network byte order) set in its last four bytes.
    #[inline(always)]
    #[must_use]
    pub const fn with_last(&self, bits: u32) -> Self {
        let [a, b, c, d] = self.0;
        Self([a, b, c, d | bits])
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        // Without branches: each one would double the paths the verifier follows.
        self.0[0] | self.0[1] | (self.0[2] ^ Self::MAPPED) == 0
    }

    /// This address, or the unspecified one in place of an IPv4 address. Without branches, as [`Self::is_v4`].
    #[inline(always)]
    #[must_use]
    pub const fn unless_v4(&self) -> Self {
        let mask = (self.is_v4() as u32).wrapping_sub(1);
        let [a, b, c, d] = self.0;
        Self([a & mask, b & mask, c & mask, d & mask])
    }

    /// The address as two numbers, for comparing and hashing.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    }

    /// Compares without branches. A derived comparison may become a call of `bcmp`, which BPF does not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        let ([a, b], [c, d]) = (self.halves(), other.halves());
        (a ^ c) | (b ^ d) == 0
    }

    /// Whether this may be a single host's, so that an answer can reach its sender. IPv4: not 0.0.0.0/8, 127.0.0.0/8,
    /// multicast and above (RFC 1122, 3.2.2). IPv6: not multicast, and nothing in ::/32, which has the unspecified
    /// address and loopback (RFC 4443, 2.4).
    #[inline(always)]
    pub const fn is_unicast_host(&self) -> bool {
        let first = self.0[0].to_ne_bytes()[0];
        if self.is_v4() {
            let first = self.v4_bytes()[0];
            first != 0 && first != 127 && first < 224
        } else {
            self.0[0] != 0 && first != 0xff
        }
    }
}
