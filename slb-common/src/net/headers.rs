//! Headers that may stand in a frame. Those of IP and above are network-types'; its Ethernet header has alignment 2
//! and is not used.

pub use network_types::{
    icmp::Icmpv4Hdr as IcmpHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use super::frame::Header;

/// The two addresses a frame begins with (IEEE 802.3, 3.1.1).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EthernetAddresses {
    /// Receiver.
    pub destination: [u8; 6],
    /// Sender.
    pub source: [u8; 6],
}

/// The same two addresses, in two parts that a word holds each.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MacPairBytes {
    /// Receiver, and the beginning of the sender.
    pub head: [u8; 8],
    /// The rest of the sender.
    pub tail: [u8; 4],
}

/// An Ethernet header without VLAN tag (IEEE 802.3, 3.1.1).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EthernetHdr {
    /// Receiver and sender.
    pub macs: MacPairBytes,
    /// Type: one of [`ether_type`], or another one.
    pub ether_type: [u8; 2],
}

/// One VLAN tag without the type before it (IEEE 802.1Q, 9.6), and the type behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct VlanTag {
    /// Priority, drop eligibility, VLAN.
    pub control: [u8; 2],
    /// Type of what follows.
    pub ether_type: [u8; 2],
}

impl VlanTag {
    const VLAN_ID: u16 = 0x0fff_u16.to_be();

    /// Whether it is a priority tag: VLAN 0 is none (IEEE 802.1Q, table 9-2).
    #[inline(always)]
    pub const fn is_priority(&self) -> bool {
        u16::from_ne_bytes(self.control) & Self::VLAN_ID == 0
    }
}

/// The fragment header of IPv6 (RFC 8200, 4.5).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FragmentHeader {
    /// Type of what follows the header of the first fragment.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of eight bytes, in the upper 13 bits, and whether more fragments follow, in the lowest one.
    pub offset: [u8; 2],
    /// Common to all fragments of a packet.
    pub identification: [u8; 4],
}

/// The first bytes of an IPv6 extension header (RFC 8200, 4).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExtensionHeader {
    /// Type of what follows.
    pub next_header: u8,
    /// Length in units of eight bytes, the first eight not counted.
    pub length: u8,
    /// In a routing header, its kind.
    pub kind: u8,
    /// In a routing header, stations still to be visited (RFC 8200, 4.4).
    pub segments_left: u8,
}

/// Ports, at the same place in TCP and UDP.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Port of the sender.
    pub source: [u8; 2],
    /// Port of the receiver.
    pub destination: [u8; 2],
}

/// A TCP header with its flags in one byte (RFC 9293, 3.1).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TcpNumbers {
    /// Ports of sender and receiver.
    pub ports: Ports,
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledges: [u8; 4],
    /// Length of the header in words of 32 bits, in the upper half.
    pub offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window, checksum, urgent pointer.
    pub after: [u8; 6],
}

/// Numbers of RFC 7042 and IEEE 802.1Q, as they stand in a frame.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800_u16.to_be();
    /// IPv6.
    pub const IPV6: u16 = 0x86dd_u16.to_be();
    /// Customer VLAN tag.
    pub const VLAN: u16 = 0x8100_u16.to_be();
    /// Service VLAN tag.
    pub const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();
}

/// IP protocol numbers.
pub mod protocol {
    use network_types::ip::IpProto;

    /// ICMP.
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// TCP.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// UDP.
    pub const UDP: u8 = IpProto::Udp as u8;
    /// IPv4 in a tunnel (RFC 2003).
    pub const IPV4: u8 = IpProto::Ipv4 as u8;
    /// IPv6 in a tunnel (RFC 4213, RFC 2473).
    pub const IPV6: u8 = IpProto::Ipv6 as u8;
    /// ICMPv6.
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
    /// IPv6 routing header.
    pub const ROUTING: u8 = IpProto::Ipv6Route as u8;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
    /// Nothing follows (RFC 8200, 4.7).
    pub const NO_NEXT_HEADER: u8 = IpProto::Ipv6NoNxt as u8;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = IpProto::Ipv6Opts as u8;
}

// SAFETY: `repr(C)` of bytes and arrays of bytes.
unsafe impl Header for EthernetAddresses {}
// SAFETY: as above.
unsafe impl Header for MacPairBytes {}
// SAFETY: as above.
unsafe impl Header for EthernetHdr {}
// SAFETY: as above.
unsafe impl Header for TcpNumbers {}
// SAFETY: as above.
unsafe impl Header for VlanTag {}
// SAFETY: as above.
unsafe impl Header for ExtensionHeader {}
// SAFETY: as above.
unsafe impl Header for FragmentHeader {}
// SAFETY: as above.
unsafe impl Header for Ports {}
// SAFETY: as above.
unsafe impl Header for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Header for Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Header for TcpHdr {}
// SAFETY: as above.
unsafe impl Header for UdpHdr {}
// SAFETY: as above.
unsafe impl Header for IcmpHdr {}
