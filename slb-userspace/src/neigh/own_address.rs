//! A local address with its on-link subnet.

use std::net::IpAddr;

/// A local address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnAddress {
    /// Index of the interface it is on.
    pub(super) interface: u32,
    pub(super) address: IpAddr,
    /// Length of the on-link prefix.
    pub(super) prefix: u8,
    /// Whether the address is neither tentative nor a duplicate (RFC 4862).
    pub(super) is_usable: bool,
    /// Whether it is a further IPv4 address of a subnet, which the kernel does not choose as a source by itself.
    pub(super) is_secondary: bool,
}

impl OwnAddress {
    /// Whether the kernel may choose it as the source of this host's connections.
    pub(super) fn is_source(&self) -> bool {
        !self.is_secondary && self.prefix < bits(self.address).1
    }

    /// Whether an address is in the on-link subnet of this one.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let ((own_bits, width), (bits, other)) = (bits(self.address), bits(address));
        width == other
            && self.prefix > 0
            && self.prefix < width
            && (own_bits ^ bits) >> (width - self.prefix) == 0
    }

    /// The first address of the subnet.
    pub(super) fn network(&self) -> IpAddr {
        let (bits, width) = bits(self.address);
        let shift = u32::from(width - self.prefix.min(width));
        let first = bits.checked_shr(shift).and_then(|bits| bits.checked_shl(shift)).unwrap_or(0);
        match self.address {
            IpAddr::V4(_) => IpAddr::V4((first as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(first.into()),
        }
    }
}

/// An address as a number, and its width in bits.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), 32),
        IpAddr::V6(address) => (address.into(), 128),
    }
}
