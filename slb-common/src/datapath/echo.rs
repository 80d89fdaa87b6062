//! Answers echo requests to a VIP (RFC 792; RFC 4443, 4.2).

use super::parse::Packet;
use crate::net::{
    checksum::Delta,
    frame::Frame,
    headers::{EthernetAddresses, IcmpHdr, Ipv4Hdr, Ipv6Hdr, protocol},
};

const ICMP_ECHO_REPLY: u8 = 0;
const ICMPV6_ECHO_REPLY: u8 = 129;
/// Default TTL of RFC 1700 and Linux.
const HOP_LIMIT: u8 = 64;

/// Rewrites an echo request to its reply. `None` if the frame is truncated.
///
/// Source and destination are exchanged, which changes no checksum. The new type, and the new TTL of IPv4, do.
#[inline(always)]
pub(super) fn answer(frame: &mut Frame<'_>, packet: &Packet) -> Option<()> {
    let ethernet = frame.header_mut::<EthernetAddresses>(0)?;
    core::mem::swap(&mut ethernet.destination, &mut ethernet.source);
    let reply = if packet.protocol == protocol::ICMP {
        let ip = frame.header_mut::<Ipv4Hdr>(packet.network)?;
        ip.src_addr = packet.destination.v4_bytes();
        ip.dst_addr = packet.source.v4_bytes();
        let old = u16::from_ne_bytes([ip.ttl, ip.proto]);
        ip.ttl = HOP_LIMIT;
        ip.check = Delta::default().word(old, u16::from_ne_bytes([ip.ttl, ip.proto])).apply(ip.check);
        ICMP_ECHO_REPLY
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(packet.network)?;
        ip.src_addr = packet.destination.v6_bytes();
        ip.dst_addr = packet.source.v6_bytes();
        ip.hop_limit = HOP_LIMIT;
        ICMPV6_ECHO_REPLY
    };
    let icmp = frame.header_mut::<IcmpHdr>(packet.transport)?;
    let old = u16::from_ne_bytes([icmp.type_, icmp.code]);
    icmp.type_ = reply;
    let check = Delta::default().word(old, u16::from_ne_bytes([icmp.type_, icmp.code])).apply(icmp.check);
    // 0xffff stands for zero, too. Unlike 0 it is also right for a message of zeros alone (RFC 1624, 3).
    icmp.check = if u16::from_ne_bytes(check) == 0 { [0xff, 0xff] } else { check };
    Some(())
}
