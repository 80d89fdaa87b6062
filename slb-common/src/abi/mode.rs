//! Modes: how packets reach the server.

use super::{family::Family, named_enum::named_enum};
use crate::net::headers::{Ipv4Hdr, Ipv6Hdr, UdpHdr};

named_enum! {
    /// How packets reach the server.
    enum Mode:
    /// Destination address and port are rewritten. Replies return through SLB.
    Nat = "nat",
    /// Hardware addresses are rewritten: the server is on the same link and holds the VIP. Replies go directly to the
    /// client.
    Dsr = "dsr",
    /// The packet is encapsulated in an IP packet to the server, which holds the VIP. Replies go directly to the
    /// client.
    Ipip = "ipip",
    /// As `ipip`, with a UDP header between both IP headers (Generic UDP Encapsulation, variant 1). Its source port is a
    /// hash of the flow, by which routers and NICs spread flows.
    Gue = "gue",
    /// As `nat`, and source address and port become a local address of SLB and a port of it. So replies return through
    /// SLB whatever the servers' routes are.
    FullNat = "full-nat",
}

impl Mode {
    /// The mode with this number in the maps; `None` for a number that no mode has.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Nat),
            1 => Some(Self::Dsr),
            2 => Some(Self::Ipip),
            4 => Some(Self::FullNat),
            6 => Some(Self::Gue),
            _ => None,
        }
    }

    /// The number in the maps.
    pub const fn number(self) -> u8 {
        match self {
            Self::Nat => 0,
            Self::Dsr => 1,
            Self::Ipip => 2,
            // Differs from `nat` in one bit, so that one comparison finds both.
            Self::FullNat => 4,
            // Differs from `ipip` in the same bit. Modes with that bit have a fast path of their own.
            Self::Gue => 6,
        }
    }

    /// Whether replies return through SLB. It then tracks every flow, and sees how connections begin and end.
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Whether packets reach the server at its own address and port. Otherwise they keep the listener's.
    pub const fn rewrites_port(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Bytes by which a packet grows towards a server of this family.
    #[inline(always)]
    pub const fn overhead(self, server: Family) -> usize {
        match (self, server) {
            (Self::Nat | Self::FullNat | Self::Dsr, _) => 0,
            (Self::Ipip, Family::V4) => size_of::<Ipv4Hdr>(),
            (Self::Ipip, Family::V6) => size_of::<Ipv6Hdr>(),
            (Self::Gue, _) => Self::Ipip.overhead(server) + size_of::<UdpHdr>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_keep_their_numbers_and_only_tunnels_grow_packets() {
        for (mode, number, growth) in [
            (Mode::Nat, 0, [0, 0]),
            (Mode::Dsr, 1, [0, 0]),
            (Mode::Ipip, 2, [20, 40]),
            (Mode::FullNat, 4, [0, 0]),
            (Mode::Gue, 6, [28, 48]),
        ] {
            assert_eq!((mode.number(), Mode::from_number(number)), (number, Some(mode)));
            assert_eq!([Family::V4, Family::V6].map(|family| mode.overhead(family)), growth);
        }
        assert_eq!(Mode::from_number(3), None);
    }
}
