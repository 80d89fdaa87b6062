//! Mode `ipip`: puts the packet into an IP packet to the server (RFC 2003, RFC 2473, RFC 4213).

use super::parse::Packet;
use crate::{
    abi::{
        MacPair,
        backend::{Backend, NextHop},
        family::Family,
        mode::Mode,
        service::mode,
        stats::Reason,
        tunnel::Tunnel,
    },
    net::{
        checksum::Delta,
        frame::{Frame, FrameBuffer},
        headers::{Ipv4Hdr, Ipv6Hdr, MacPairBytes, ether_type, protocol},
    },
};

/// Bytes that encapsulation adds towards an IPv4 server.
pub const IPV4_BYTES: usize = Mode::Ipip.overhead(Family::V4);
/// Bytes that encapsulation adds towards an IPv6 server.
pub const IPV6_BYTES: usize = Mode::Ipip.overhead(Family::V6);

/// Default TTL of RFC 1700 and Linux.
const HOP_LIMIT: u8 = 64;
/// Do not fragment: packets that are too long have been refused before.
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const VERSION_4: u8 = 0x45;
/// Offset of the type of an untagged frame, behind its hardware addresses. VLAN tags are inserted here.
const MAC_PAIR_LEN: usize = 12;
const UNTAGGED: usize = 14;

/// Bytes that this mode adds to packets to a server.
#[inline(always)]
pub(super) const fn overhead(mode: u8, backend: &Backend) -> usize {
    if !mode::is_tunnel(mode) {
        return 0;
    }
    let family = if backend.address.is_v4() { Family::V4 } else { Family::V6 };
    if mode == mode::GUE { Mode::Gue.overhead(family) } else { Mode::Ipip.overhead(family) }
}

/// Sum of the words of an outer IPv4 header that are the same in every packet from `source` to `destination`: all but
/// length and class of service. Both addresses are IPv4. The value of [`Backend::outer_sum`].
pub fn outer_sum(source: &crate::abi::Address, destination: &crate::abi::Address) -> u32 {
    let (s, d) = (source.0[3], destination.0[3]);
    let ttl = u32::from(u16::from_ne_bytes([HOP_LIMIT, 0]));
    (s & 0xffff)
        + (s >> 16)
        + (d & 0xffff)
        + (d >> 16)
        + ttl
        + u32::from(u16::from_ne_bytes([VERSION_4, 0]))
        + u32::from(DONT_FRAGMENT)
}

/// Encapsulates the packet to the server. Decrements the inner TTL or hop limit, as a router does. `flow` computes a hash
/// of the flow.
#[inline(always)]
pub(super) fn encapsulate<G: FrameBuffer>(
    head: &mut G,
    packet: &Packet,
    backend: &Backend,
    hop: &NextHop,
    tunnel: &Tunnel,
    flow: impl Fn() -> u32,
) -> Result<(), Reason> {
    if !head.grow(overhead(mode::IPIP, backend)) {
        return Err(Reason::NoHeadroom);
    }
    let frame = &mut head.frame();
    let at = packet.network;
    if backend.address.is_v4() {
        let inner = inner(frame, at + IPV4_BYTES, packet).ok_or(Reason::Truncated)?;
        ethernet(frame, at, IPV4_BYTES, &hop.macs, ether_type::IPV4)
            .and_then(|()| ipv4(frame, at, &inner, backend, tunnel, flow))
    } else {
        let inner = inner(frame, at + IPV6_BYTES, packet).ok_or(Reason::Truncated)?;
        ethernet(frame, at, IPV6_BYTES, &hop.macs, ether_type::IPV6)
            .and_then(|()| ipv6(frame, at, &inner, backend, tunnel, flow()))
    }
    .ok_or(Reason::Truncated)
}

/// Fields of the outer header that depend on the inner packet.
pub(super) struct InnerHeader {
    /// Length of the outer header's payload in bytes. The sum with the outer header fits: longer packets have been
    /// refused.
    pub(super) len: u16,
    /// TOS or traffic class: DSCP and ECN are copied (RFC 2983, uniform model; RFC 6040, 4.1, normal mode).
    pub(super) class: u8,
    /// Protocol number of the outer header's payload.
    pub(super) protocol: u8,
}

/// Reads the header of the packet that is encapsulated, at `at`, and decrements its TTL or hop limit.
#[inline(always)]
pub(super) fn inner(frame: &mut Frame<'_>, at: usize, packet: &Packet) -> Option<InnerHeader> {
    if packet.destination.is_v4() {
        let ip = frame.header_mut::<Ipv4Hdr>(at)?;
        let before = u16::from_ne_bytes([ip.ttl, ip.proto]);
        ip.ttl -= 1;
        let after = u16::from_ne_bytes([ip.ttl, ip.proto]);
        ip.check = Delta::default().word(before, after).apply(ip.check);
        Some(InnerHeader { len: u16::from_be_bytes(ip.tot_len), class: ip.tos, protocol: protocol::IPV4 })
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(at)?;
        ip.hop_limit -= 1;
        Some(InnerHeader {
            len: u16::from_be_bytes(ip.payload_len) + IPV6_BYTES as u16,
            class: ip.vcf[0] << 4 | ip.vcf[1] >> 4,
            protocol: protocol::IPV6,
        })
    }
}

/// Writes the Ethernet header of the grown frame, with the VLAN tags of the old one.
#[inline(always)]
pub(super) fn ethernet(
    frame: &mut Frame<'_>,
    network: usize,
    overhead: usize,
    macs: &MacPair,
    kind: u16,
) -> Option<()> {
    for tag in 0..2 {
        let at = MAC_PAIR_LEN + 4 * tag;
        if network > UNTAGGED + 4 * tag {
            let bytes = *frame.header::<[u8; 4]>(overhead + at)?;
            *frame.header_mut::<[u8; 4]>(at)? = bytes;
        }
    }
    let bytes = frame.header_mut::<MacPairBytes>(0)?;
    bytes.head = macs.head.to_ne_bytes();
    bytes.tail = macs.tail.to_ne_bytes();
    *frame.header_mut::<[u8; 2]>(network.checked_sub(2)?)? = kind.to_ne_bytes();
    Some(())
}

/// Writes the outer IPv4 header. `flow` computes a hash of the flow: most tunnels have one source and do not need it.
#[inline(always)]
pub(super) fn ipv4(
    frame: &mut Frame<'_>,
    network: usize,
    inner: &InnerHeader,
    backend: &Backend,
    tunnel: &Tunnel,
    flow: impl Fn() -> u32,
) -> Option<()> {
    let by_flow = if tunnel.by_flow_v4 == 0 { 0 } else { flow() & tunnel.by_flow_v4 };
    let len = (inner.len + IPV4_BYTES as u16).to_be();
    let class = u16::from_ne_bytes([0, inner.class]);
    let protocol = u16::from_ne_bytes([0, inner.protocol]);
    let sum = Delta::of(backend.outer_sum).plus(len).plus(class).plus(protocol);
    let sum = sum.plus(by_flow as u16).plus((by_flow >> 16) as u16);
    let ip = frame.header_mut::<Ipv4Hdr>(network)?;
    // Field by field: a header built first would lie on the stack.
    ip.vihl = VERSION_4;
    ip.tos = inner.class;
    ip.tot_len = len.to_ne_bytes();
    ip.id = [0; 2];
    ip.frags = DONT_FRAGMENT.to_ne_bytes();
    ip.ttl = HOP_LIMIT;
    ip.proto = inner.protocol;
    ip.check = sum.checksum();
    ip.src_addr = tunnel.v4.with_last(by_flow).v4_bytes();
    ip.dst_addr = backend.address.v4_bytes();
    Some(())
}

/// Writes the outer IPv6 header. The flow label is a hash of the flow, so that routers spread flows, not packets (RFC
/// 6438).
#[inline(always)]
pub(super) fn ipv6(
    frame: &mut Frame<'_>,
    network: usize,
    inner: &InnerHeader,
    backend: &Backend,
    tunnel: &Tunnel,
    flow: u32,
) -> Option<()> {
    let label = flow & 0xf_ffff;
    let first = (6 << 28 | u32::from(inner.class) << 20 | label).to_be_bytes();
    let ip = frame.header_mut::<Ipv6Hdr>(network)?;
    ip.vcf = first;
    ip.payload_len = inner.len.to_be_bytes();
    ip.next_hdr = inner.protocol;
    ip.hop_limit = HOP_LIMIT;
    ip.src_addr = tunnel.v6.with_last(flow & tunnel.by_flow_v6).v6_bytes();
    ip.dst_addr = backend.address.v6_bytes();
    Some(())
}
