//! The packet that an ICMP error embeds: the first bytes of the packet that the error is about (RFC 792; RFC 4443, 2.4).
//!
//! Eight bytes of its transport header suffice (RFC 792): they hold the ports.

use super::parse::{EMPTY_PACKET, Packet};
use crate::{
    abi::{family::Family, mode::Mode, stats::Reason, tunnel::Tunnel},
    net::{
        address::Address,
        ethernet::priority_tags_len,
        frame::Frame,
        headers::{FragmentHeader, IcmpHdr, Ipv4Hdr, Ipv6Hdr, Ports, UdpHdr, protocol},
    },
};

/// Length of type, code, checksum and the four bytes that depend on the type.
const ICMP_HEADER: usize = 8;
/// Length of the IPv6 header and the fragment header.
const HEADERS6: usize = size_of::<Ipv6Hdr>() + size_of::<FragmentHeader>();
/// Bytes of the transport header that an ICMP error holds at least.
const TRANSPORT: usize = 8;
/// Smallest MTU of a link that IPv6 allows (RFC 8200, 5).
const MIN_MTU6: u32 = 1280;
/// Size of a datagram that every host accepts (RFC 791, 3.1). A smaller path MTU is refused.
const MIN_MTU4: u32 = 576;

/// Smallest path MTU that is believed of an ICMP error to `destination`, in bytes, in the low 16 bits. Behind the smallest
/// one of a tunnel an IPv6 packet of the smallest MTU still fits. In the high 16 bits the UDP destination port `gue_port`, in
/// network byte order, of tunnel packets whose smallest path MTU is larger by their UDP header; 0 for none.
#[inline(always)]
pub(super) fn minimum_mtu(destination: &Address, tunnel: &Tunnel, gue_port: u16) -> u32 {
    let (smallest, family) =
        if destination.is_v4() { (MIN_MTU4, Family::V4) } else { (MIN_MTU6, Family::V6) };
    if tunnel.has(destination) {
        (u32::from(gue_port) << 16) | (MIN_MTU6 + Mode::Ipip.overhead(family) as u32)
    } else {
        smallest
    }
}

/// Reads the packet that an ICMP error embeds, with its ends exchanged: the sender of the embedded packet, which is to
/// receive the error, is the destination of `embedded`. `outer` is the ICMP error, as [`parse`](super::parse::parse) has
/// left it. `minimum` is that of [`minimum_mtu`]. Offsets are those in the frame without priority tags; `len` counts the
/// embedded bytes; VLAN and VLAN device are those of the error; `network` is 0 if the addresses have not been read.
///
/// # Errors
///
/// [`Reason::OtherProtocol`] for an ICMP message that is no error about a TCP segment or a UDP datagram,
/// [`Reason::Fragment`] for an error about a later fragment, [`Reason::ForgedIcmp`] for a smaller path MTU than
/// `minimum`, or why the message is refused.
#[inline(always)]
pub fn parse_embedded(
    frame: &Frame<'_>,
    outer: &Packet,
    minimum: u32,
    embedded: &mut Packet,
) -> Result<(), Reason> {
    *embedded = EMPTY_PACKET;
    embedded.vlan = outer.vlan;
    embedded.vlan_device = outer.vlan_device;
    let frame = &frame.behind(priority_tags_len(frame).ok_or(Reason::Truncated)?);
    let is_v4 = outer.protocol == protocol::ICMP;
    if is_v4 != outer.destination.is_v4() {
        return Err(Reason::OtherProtocol);
    }
    let icmp = frame.header::<[u8; ICMP_HEADER]>(outer.transport).ok_or(Reason::Truncated)?;
    let kind = icmp[0];
    let mtu = if is_v4 {
        // Unreachable, time exceeded, parameter problem (RFC 792).
        if !matches!(kind, 3 | 11 | 12) {
            return Err(Reason::OtherProtocol);
        }
        // RFC 1191, 4.
        let is_too_big = (kind, icmp[1]) == (3, 4);
        if is_too_big { u32::from(u16::from_be_bytes([icmp[6], icmp[7]])) } else { u32::MAX }
    } else {
        // Unreachable, too big, time exceeded, parameter problem (RFC 4443, 3).
        if !matches!(kind, 1..=4) {
            return Err(Reason::OtherProtocol);
        }
        if kind == 2 { u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]) } else { u32::MAX }
    };
    let (minimum, gue_port) = (minimum & 0xffff, (minimum >> 16) as u16);
    let is_forged = mtu < minimum;
    let (at, end) = (outer.transport + ICMP_HEADER, outer.network + outer.len);
    if end < at + if is_v4 { size_of::<Ipv4Hdr>() } else { size_of::<Ipv6Hdr>() } {
        return Err(Reason::Truncated);
    }
    let header_len = if is_v4 {
        let ip = frame.header::<Ipv4Hdr>(at).ok_or(Reason::Truncated)?;
        embedded.source = Address::v4(ip.dst_addr);
        embedded.destination = Address::v4(ip.src_addr);
        embedded.protocol = ip.proto;
        embedded.network = at;
        if ip.vihl >> 4 != 4 || ip.vihl & 0xf < 5 {
            return Err(Reason::BadHeader);
        }
        if u16::from_be_bytes(ip.frags) & 0x1fff != 0 {
            return Err(Reason::Fragment);
        }
        usize::from(ip.vihl & 0xf) * 4
    } else {
        let ip = frame.header::<Ipv6Hdr>(at).ok_or(Reason::Truncated)?;
        embedded.source = Address::v6(ip.dst_addr);
        embedded.destination = Address::v6(ip.src_addr);
        embedded.protocol = ip.next_hdr;
        embedded.network = at;
        if ip.vcf[0] >> 4 != 6 {
            return Err(Reason::BadHeader);
        }
        // They would look like IPv4 (RFC 4942, 2.2).
        if embedded.source.is_v4() | embedded.destination.is_v4() {
            return Err(Reason::BadHeader);
        }
        // Other extension headers are not read.
        if ip.next_hdr == protocol::FRAGMENT {
            let later = if is_forged { Reason::ForgedIcmp } else { Reason::Fragment };
            embedded.protocol = behind_fragment_header(frame, at, end, later)?;
            HEADERS6
        } else {
            size_of::<Ipv6Hdr>()
        }
    };
    if end < at + header_len {
        return Err(Reason::Truncated);
    }
    if !matches!(embedded.protocol, protocol::TCP | protocol::UDP) {
        return Err(if is_forged { Reason::ForgedIcmp } else { Reason::OtherProtocol });
    }
    embedded.transport = at + header_len;
    if end < embedded.transport + TRANSPORT {
        return Err(Reason::Truncated);
    }
    embedded.len = end - at;
    embedded.hop_limit = outer.hop_limit;
    let ports = frame.header::<Ports>(embedded.transport).ok_or(Reason::Truncated)?;
    embedded.source_port = u16::from_ne_bytes(ports.destination);
    embedded.destination_port = u16::from_ne_bytes(ports.source);
    // A tunnel packet of mode `gue`. The ends are exchanged.
    let is_gue = gue_port != 0 && embedded.protocol == protocol::UDP && embedded.source_port == gue_port;
    let is_forged = is_forged || (is_gue && mtu < minimum + size_of::<UdpHdr>() as u32);
    if is_forged { Err(Reason::ForgedIcmp) } else { Ok(()) }
}

/// The protocol of an embedded first fragment whose IPv6 header is at `at`. A later one is refused for the reason `later`.
#[inline(always)]
fn behind_fragment_header(frame: &Frame<'_>, at: usize, end: usize, later: Reason) -> Result<u8, Reason> {
    if end < at + HEADERS6 {
        return Err(Reason::Truncated);
    }
    let header = frame.header::<FragmentHeader>(at + size_of::<Ipv6Hdr>()).ok_or(Reason::Truncated)?;
    let is_first = u16::from_be_bytes(header.offset) >> 3 == 0;
    if is_first { Ok(header.next_header) } else { Err(later) }
}

const _: () = assert!(size_of::<IcmpHdr>() == ICMP_HEADER);
