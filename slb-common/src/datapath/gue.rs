//! Mode `gue`: puts the packet into a UDP datagram to the server (Generic UDP Encapsulation, draft-ietf-intarea-gue,
//! variant 1). The IP packet follows the UDP header; the first half of its first byte says which version it has.
//!
//! Source port: a hash of the flow in the ephemeral range (RFC 6335, 6; RFC 8085, 5.1.1). ICMP errors about a flow and
//! later fragments have that of the flow.
//!
//! UDP checksum:
//!
//! - Over IPv4 0, none (RFC 768): the inner packet has checksums of its own, and so has the outer header.
//! - Over IPv6 computed without its payload (local checksum offload): a packet with right checksums has a known sum.
//!   [`sum_of_inner`] says of which packets that holds. For others it is 0, which RFC 6935 allows to tunnels: see
//!   RFC 6936, 4. If the inner checksum is wrong, so is the outer one.

use super::{
    ipip::{self, InnerHeader},
    parse::{Fragmentation, Packet},
};
use crate::{
    abi::{
        backend::{Backend, NextHop},
        service::{ServiceIndex, mode},
        stats::Reason,
    },
    net::{
        checksum::Delta,
        frame::{Frame, FrameBuffer},
        headers::{Ipv4Hdr, Ipv6Hdr, UdpHdr, ether_type, protocol},
    },
};

const UDP_BYTES: usize = size_of::<UdpHdr>();
/// First port of the ephemeral range (RFC 6335, 6). A source port is one of the 16,384 from here.
const EPHEMERAL: u16 = 0xc000;
const NO_CHECKSUM: [u8; 2] = [0; 2];

/// Encapsulates the packet to the server, as [`ipip::encapsulate`]. `flow` is a hash of the flow.
#[inline(always)]
pub(super) fn encapsulate<G: FrameBuffer>(
    head: &mut G,
    packet: &Packet,
    backend: &Backend,
    hop: &NextHop,
    index: &ServiceIndex,
    flow: u32,
) -> Result<(), Reason> {
    let overhead = ipip::overhead(mode::GUE, backend);
    if !head.grow(overhead) {
        return Err(Reason::NoHeadroom);
    }
    let frame = &mut head.frame();
    if backend.address.is_v4() {
        over_ipv4(frame, packet, backend, hop, index, flow)
    } else {
        over_ipv6(frame, packet, backend, hop, index, flow)
    }
    .ok_or(Reason::Truncated)
}

#[inline(always)]
fn over_ipv4(
    frame: &mut Frame<'_>,
    packet: &Packet,
    backend: &Backend,
    hop: &NextHop,
    index: &ServiceIndex,
    flow: u32,
) -> Option<()> {
    const OUTER: usize = ipip::IPV4_BYTES + UDP_BYTES;
    let at = packet.network;
    let outer = in_udp(&ipip::inner(frame, at + OUTER, packet)?);
    ipip::ethernet(frame, at, OUTER, &hop.macs, ether_type::IPV4)?;
    ipip::ipv4(frame, at, &outer, backend, &index.tunnel, || flow)?;
    *frame.header_mut::<UdpHdr>(at + size_of::<Ipv4Hdr>())? = header(&outer, index.gue_port, flow);
    Some(())
}

#[inline(always)]
fn over_ipv6(
    frame: &mut Frame<'_>,
    packet: &Packet,
    backend: &Backend,
    hop: &NextHop,
    index: &ServiceIndex,
    flow: u32,
) -> Option<()> {
    const OUTER: usize = ipip::IPV6_BYTES + UDP_BYTES;
    let at = packet.network;
    let inner = ipip::inner(frame, at + OUTER, packet)?;
    let sum = sum_of_inner(frame, at + OUTER, inner.len, packet);
    let outer = in_udp(&inner);
    ipip::ethernet(frame, at, OUTER, &hop.macs, ether_type::IPV6)?;
    ipip::ipv6(frame, at, &outer, backend, &index.tunnel, flow)?;
    let mut udp = header(&outer, index.gue_port, flow);
    if let Some(sum) = sum {
        let len = outer.len.to_be();
        // The pseudo-header (RFC 8200, 8.1) and the UDP header.
        let sum = sum
            .plus_address(&index.tunnel.v6.with_last(flow & index.tunnel.by_flow_v6))
            .plus_address(&backend.address)
            .plus(len)
            .plus(u16::from(protocol::UDP).to_be())
            .plus(u16::from_ne_bytes(udp.src))
            .plus(index.gue_port)
            .plus(len);
        udp.check = sum.apply_udp([0xff; 2]);
    }
    *frame.header_mut::<UdpHdr>(at + size_of::<Ipv6Hdr>())? = udp;
    Some(())
}

/// The outer header's fields, with the UDP header in its payload.
#[inline(always)]
const fn in_udp(inner: &InnerHeader) -> InnerHeader {
    InnerHeader { len: inner.len + UDP_BYTES as u16, class: inner.class, protocol: protocol::UDP }
}

#[inline(always)]
const fn header(outer: &InnerHeader, port: u16, flow: u32) -> UdpHdr {
    UdpHdr {
        src: (EPHEMERAL | flow as u16).to_be_bytes(),
        dst: port.to_ne_bytes(),
        len: outer.len.to_be_bytes(),
        check: NO_CHECKSUM,
    }
}

/// Sum of the words of the inner packet at `at`, `len` bytes long, if its own checksums say it: they make the sum of what
/// they cover known. `None` of a fragment, of a packet with extension headers, and of a datagram without checksum or
/// shorter than its packet.
#[inline(always)]
fn sum_of_inner(frame: &Frame<'_>, at: usize, len: u16, packet: &Packet) -> Option<Delta> {
    if packet.fragmentation != Fragmentation::WHOLE {
        return None;
    }
    let headers = packet.transport.wrapping_sub(packet.network) as u16;
    let covered = len.wrapping_sub(headers);
    if packet.protocol == protocol::UDP {
        let udp = frame.header::<UdpHdr>(at + usize::from(headers))?;
        if udp.check == NO_CHECKSUM || u16::from_be_bytes(udp.len) != covered {
            return None;
        }
    }
    if packet.destination.is_v4() {
        // The header sums to zero. ICMP has no pseudo-header.
        if packet.protocol == protocol::ICMP {
            return Some(Delta::default());
        }
        let pseudo_header = Delta::default()
            .minus_v4(&packet.source)
            .minus_v4(&packet.destination)
            .minus(covered.to_be())
            .minus(u16::from(packet.protocol).to_be());
        return Some(pseudo_header);
    }
    if usize::from(headers) != size_of::<Ipv6Hdr>() {
        return None;
    }
    // Addresses and length are in the header and in the pseudo-header, and cancel out.
    let ip = frame.header::<Ipv6Hdr>(at)?;
    let [a, b, c, d] = ip.vcf;
    let sum = Delta::default()
        .plus(u16::from_ne_bytes([a, b]))
        .plus(u16::from_ne_bytes([c, d]))
        .plus(u16::from_ne_bytes([ip.next_hdr, ip.hop_limit]))
        .minus(u16::from_ne_bytes([0, ip.next_hdr]));
    Some(sum)
}
