//! Modes `nat` and `full-nat`: rewrites the destination of packets to a server, and the source of its replies; where the
//! flow is source-translated, both ends.
//!
//! TTL or hop limit is decremented in both directions, as a router does. A later fragment has no ports and no checksum
//! behind its IP header; the first one's checksum covers the whole datagram.

use super::parse::{Fragmentation, Packet};
use crate::{
    abi::Address,
    net::{
        checksum::Delta,
        frame::Frame,
        headers::{Ipv4Hdr, Ipv6Hdr, Ports, TcpHdr, UdpHdr, protocol},
    },
};

/// Rewrites the destination of a client's packet to `address` and `port` (network byte order). `None` if the frame is
/// truncated.
#[inline(always)]
pub(super) fn to_server(frame: &mut Frame<'_>, packet: &Packet, address: &Address, port: u16) -> Option<()> {
    if packet.destination.is_v4() {
        let ip = frame.header_mut::<Ipv4Hdr>(packet.network)?;
        ip.dst_addr = address.v4_bytes();
        refresh_ipv4(ip, &packet.destination, address);
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(packet.network)?;
        ip.dst_addr = address.v6_bytes();
        ip.hop_limit -= 1;
    }
    if packet.fragmentation == Fragmentation::LATER {
        return Some(());
    }
    frame.header_mut::<Ports>(packet.transport)?.destination = port.to_ne_bytes();
    refresh_transport(
        frame,
        packet,
        Delta::default().address(&packet.destination, address).word(packet.destination_port, port),
    )
}

/// Rewrites the source of a server's packet to `address` and `port` (network byte order). `None` if the frame is
/// truncated.
#[inline(always)]
pub(super) fn to_client(frame: &mut Frame<'_>, packet: &Packet, address: &Address, port: u16) -> Option<()> {
    if packet.source.is_v4() {
        let ip = frame.header_mut::<Ipv4Hdr>(packet.network)?;
        ip.src_addr = address.v4_bytes();
        refresh_ipv4(ip, &packet.source, address);
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(packet.network)?;
        ip.src_addr = address.v6_bytes();
        ip.hop_limit -= 1;
    }
    if packet.fragmentation == Fragmentation::LATER {
        return Some(());
    }
    frame.header_mut::<Ports>(packet.transport)?.source = port.to_ne_bytes();
    refresh_transport(
        frame,
        packet,
        Delta::default().address(&packet.source, address).word(packet.source_port, port),
    )
}

/// Rewrites both ends of a packet, each an address and a port (network byte order). `None` if the frame is truncated.
#[inline(always)]
pub(super) fn both_ends(
    frame: &mut Frame<'_>,
    packet: &Packet,
    source: (&Address, u16),
    destination: (&Address, u16),
) -> Option<()> {
    let addresses = Delta::default()
        .address(&packet.source, source.0)
        .address(&packet.destination, destination.0)
        .settled();
    if packet.source.is_v4() {
        let ip = frame.header_mut::<Ipv4Hdr>(packet.network)?;
        ip.src_addr = source.0.v4_bytes();
        ip.dst_addr = destination.0.v4_bytes();
        let before = u16::from_ne_bytes([ip.ttl, ip.proto]);
        ip.ttl -= 1;
        ip.check = addresses.word(before, u16::from_ne_bytes([ip.ttl, ip.proto])).apply(ip.check);
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(packet.network)?;
        ip.src_addr = source.0.v6_bytes();
        ip.dst_addr = destination.0.v6_bytes();
        ip.hop_limit -= 1;
    }
    if packet.fragmentation == Fragmentation::LATER {
        return Some(());
    }
    let ports = frame.header_mut::<Ports>(packet.transport)?;
    ports.source = source.1.to_ne_bytes();
    ports.destination = destination.1.to_ne_bytes();
    let ports = addresses.word(packet.source_port, source.1).word(packet.destination_port, destination.1);
    refresh_transport(frame, packet, ports)
}

#[inline(always)]
fn refresh_ipv4(ip: &mut Ipv4Hdr, old: &Address, new: &Address) {
    let before = u16::from_ne_bytes([ip.ttl, ip.proto]);
    ip.ttl -= 1;
    let after = u16::from_ne_bytes([ip.ttl, ip.proto]);
    ip.check = Delta::default().address(old, new).word(before, after).apply(ip.check);
}

#[inline(always)]
fn refresh_transport(frame: &mut Frame<'_>, packet: &Packet, delta: Delta) -> Option<()> {
    if packet.protocol == protocol::TCP {
        let tcp = frame.header_mut::<TcpHdr>(packet.transport)?;
        tcp.check = delta.apply(tcp.check);
    } else {
        let udp = frame.header_mut::<UdpHdr>(packet.transport)?;
        udp.check = delta.apply_udp(udp.check);
    }
    Some(())
}
