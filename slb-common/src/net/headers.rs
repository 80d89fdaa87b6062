//! Headers in a frame. Those of IP and above come from network-types. Its Ethernet header has alignment 2 and is not
//! used.

pub use network_types::{
    icmp::Icmpv4Hdr as IcmpHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use super::{frame::Header, vlan::Vlan};

/// The two addresses at the beginning of a frame (IEEE 802.3, 3.1.1).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EthernetAddresses {
    /// Destination address.
    pub destination: [u8; 6],
    /// Source address.
    pub source: [u8; 6],
}

/// The same two addresses, in two parts that each fit in a word.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MacPairBytes {
    /// Destination address, and the beginning of the source address.
    pub head: [u8; 8],
    /// The rest of the source address.
    pub tail: [u8; 4],
}

/// An Ethernet header without VLAN tag (IEEE 802.3, 3.1.1).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EthernetHdr {
    /// Destination and source address.
    pub macs: MacPairBytes,
    /// Type, such as those of [`ether_type`].
    pub ether_type: [u8; 2],
}

/// A VLAN tag without the type before it (IEEE 802.1Q, 9.6), and the type behind it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct VlanTag {
    /// Priority, drop eligibility, VLAN id.
    pub control: [u8; 2],
    /// Type of the next header.
    pub ether_type: [u8; 2],
}

impl VlanTag {
    const VLAN_ID: u16 = 0x0fff_u16.to_be();

    /// Whether it is a priority tag: VLAN 0 is no VLAN (IEEE 802.1Q, table 9-2).
    #[inline(always)]
    pub const fn is_priority(&self) -> bool {
        u16::from_ne_bytes(self.control) & Self::VLAN_ID == 0
    }

    /// Its VLAN. `kind` is the type before it, in network byte order.
    #[inline(always)]
    pub const fn vlan(&self, kind: u16) -> Vlan {
        Vlan::new(u16::from_be_bytes(self.control), kind == ether_type::SERVICE_VLAN)
    }
}

/// The fragment header of IPv6 (RFC 8200, 4.5).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FragmentHeader {
    /// Protocol of the header behind that of the first fragment.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of eight bytes in the upper 13 bits; more-fragments flag in the lowest bit.
    pub offset: [u8; 2],
    /// Identification, equal in all fragments of a packet.
    pub identification: [u8; 4],
}

/// The first bytes of an IPv6 extension header (RFC 8200, 4).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExtensionHeader {
    /// Protocol of the next header.
    pub next_header: u8,
    /// Length in units of eight bytes, without the first eight.
    pub length: u8,
    /// Routing type, in a routing header.
    pub kind: u8,
    /// Segments left, in a routing header (RFC 8200, 4.4).
    pub segments_left: u8,
}

/// Ports, at the same offset in TCP and UDP.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
}

/// A TCP header without options, with its flags in one byte (RFC 9293, 3.1).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TcpNumbers {
    /// Source and destination port.
    pub ports: Ports,
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledges: [u8; 4],
    /// Header length in words of 32 bits, in the upper half.
    pub offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window, checksum, urgent pointer.
    pub after: [u8; 6],
}

/// Ethernet types (RFC 7042, IEEE 802.1Q), in network byte order.
pub mod ether_type {
    /// ARP.
    pub const ARP: u16 = 0x0806_u16.to_be();
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
    /// No next header (RFC 8200, 4.7).
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
