//! Tells a client that its packet cannot go on, in the name of the VIP (RFC 792, RFC 1191; RFC 4443, 3.2 and 3.3).
//!
//! The message holds as much of the packet as makes it 576 bytes long, or 1,280 in IPv6; of a shorter packet, which is not
//! too big for anything, the IP header and the eight bytes by which a client finds the connection. Packets with IP options or extension headers are not answered, nor those whose sender is not one host.
//! Compiled apart, as the searches of [`super::flows`]: takes nothing but the frame and numbers.

use super::{ipip::ethernet, stations};
use crate::{
    abi::stats::Reason,
    net::{
        checksum::Delta,
        frame::{Frame, Growing},
        headers::{Ipv4Hdr, Ipv6Hdr, ether_type, protocol},
    },
};

/// Why a packet cannot go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct IcmpError {
    pub(super) reason: Reason,
    /// Bytes the largest packet may have; 0 where its TTL or hop limit is the reason.
    pub(super) mtu: u32,
}

/// RFC 1700 and what Linux sends.
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;
/// Version 4, and no options.
const PLAIN4: u8 = 0x45;
const HEADER4: usize = size_of::<Ipv4Hdr>();
const HEADER6: usize = size_of::<Ipv6Hdr>();
/// Type, code, checksum and four bytes that depend on the type.
const MESSAGE: usize = 8;
const CHECK: usize = 2;
/// Bytes of the packet that are sent back: of a long one, and of a short one.
const LONG4: usize = 576 - HEADER4 - MESSAGE;
const LONG6: usize = 1280 - HEADER6 - MESSAGE;
const SHORT4: usize = HEADER4 + 8;
const SHORT6: usize = HEADER6 + 8;

/// Turns a packet, whose IP header lies at `at`, into the message that it is larger than `mtu`, or that its TTL or hop limit
/// is used up, where `mtu` is 0. `None` if there is nobody to be told, or no room: the frame is of no use then.
#[inline(always)]
pub fn answer<G: Growing>(head: &mut G, at: usize, mtu: u32) -> Option<()> {
    let frame = head.frame();
    let first = frame.header::<[u8; 1]>(at)?[0];
    let holds = frame.len().checked_sub(at)?;
    match first >> 4 {
        4 if first == PLAIN4 => {
            let len = usize::from(u16::from_be_bytes(frame.header::<Ipv4Hdr>(at)?.tot_len)).min(holds);
            if len >= LONG4 {
                answer4::<_, LONG4>(head, at, mtu)
            } else {
                answer4::<_, SHORT4>(head, at, mtu)
            }
        }
        6 => {
            let payload = u16::from_be_bytes(frame.header::<Ipv6Hdr>(at)?.payload_len);
            let len = (HEADER6 + usize::from(payload)).min(holds);
            if len >= LONG6 {
                answer6::<_, LONG6>(head, at, mtu)
            } else {
                answer6::<_, SHORT6>(head, at, mtu)
            }
        }
        _ => None,
    }
}

#[inline(always)]
fn answer4<G: Growing, const QUOTED: usize>(head: &mut G, at: usize, mtu: u32) -> Option<()> {
    let len = (HEADER4 + MESSAGE + QUOTED) as u16;
    const ORIGINAL: usize = HEADER4 + MESSAGE;
    // Time exceeded in transit; or destination unreachable, fragmentation needed.
    let kind: u16 = if mtu == 0 { 11 << 8 } else { 3 << 8 | 4 };
    let frame = head.frame();
    let stations = stations(&frame)?;
    let ip = frame.header::<Ipv4Hdr>(at)?;
    // 0.0.0.0/8, 127.0.0.0/8, multicast and what lies behind it (RFC 1122, 3.2.2).
    if matches!(ip.src_addr[0], 0 | 127 | 224..) || (mtu != 0 && ip.frags[0] & DONT_FRAGMENT == 0) {
        return None;
    }
    if !(head.cut(at + QUOTED) && head.grow(ORIGINAL)) {
        return None;
    }
    let frame = &mut head.frame();
    ethernet(frame, at, ORIGINAL, &stations.answer(), ether_type::IPV4)?;
    let quoted = frame.header::<Ipv4Hdr>(at + ORIGINAL)?;
    let (client, vip) = (quoted.src_addr, quoted.dst_addr);
    let ip = frame.header_mut::<Ipv4Hdr>(at)?;
    ip.vihl = PLAIN4;
    ip.tos = 0;
    ip.tot_len = len.to_be_bytes();
    ip.id = [0; 2];
    ip.frags = [DONT_FRAGMENT, 0];
    ip.ttl = HOP_LIMIT;
    ip.proto = protocol::ICMP;
    ip.check = [0; 2];
    ip.src_addr = vip;
    ip.dst_addr = client;
    let check = Delta::default().bytes(frame.header::<[u8; HEADER4]>(at)?).checksum();
    frame.header_mut::<Ipv4Hdr>(at)?.check = check;
    message(frame, at + HEADER4, kind, mtu)?;
    let check = Delta::default()
        .bytes(frame.header::<[u8; MESSAGE]>(at + HEADER4)?)
        .bytes(frame.header::<[u8; QUOTED]>(at + ORIGINAL)?)
        .checksum();
    *frame.header_mut(at + HEADER4 + CHECK)? = check;
    Some(())
}

#[inline(always)]
fn answer6<G: Growing, const QUOTED: usize>(head: &mut G, at: usize, mtu: u32) -> Option<()> {
    let len = (MESSAGE + QUOTED) as u16;
    const ORIGINAL: usize = HEADER6 + MESSAGE;
    const ADDRESSES: usize = HEADER6 - 32;
    // Hop limit exceeded in transit; or packet too big.
    let kind: u16 = if mtu == 0 { 3 << 8 } else { 2 << 8 };
    let frame = head.frame();
    let stations = stations(&frame)?;
    let ip = frame.header::<Ipv6Hdr>(at)?;
    // The unspecified address and loopback, with all that begins as they do, and multicast (RFC 4443, 2.4).
    let nowhere = ip.src_addr[..4].iter().all(|byte| *byte == 0);
    if nowhere || ip.src_addr[0] == 0xff || !matches!(ip.next_hdr, protocol::TCP | protocol::UDP) {
        return None;
    }
    if !(head.cut(at + QUOTED) && head.grow(ORIGINAL)) {
        return None;
    }
    let frame = &mut head.frame();
    ethernet(frame, at, ORIGINAL, &stations.answer(), ether_type::IPV6)?;
    let quoted = frame.header::<Ipv6Hdr>(at + ORIGINAL)?;
    let (client, vip) = (quoted.src_addr, quoted.dst_addr);
    let ip = frame.header_mut::<Ipv6Hdr>(at)?;
    ip.vcf = [0x60, 0, 0, 0];
    ip.payload_len = len.to_be_bytes();
    ip.next_hdr = protocol::ICMPV6;
    ip.hop_limit = HOP_LIMIT;
    ip.src_addr = vip;
    ip.dst_addr = client;
    message(frame, at + HEADER6, kind, mtu)?;
    // With the pseudo-header: addresses, length, protocol (RFC 8200, 8.1).
    let check = Delta::default()
        .bytes(frame.header::<[u8; 32]>(at + ADDRESSES)?)
        .plus(len.to_be())
        .plus(u16::from(protocol::ICMPV6).to_be())
        .bytes(frame.header::<[u8; MESSAGE]>(at + HEADER6)?)
        .bytes(frame.header::<[u8; QUOTED]>(at + ORIGINAL)?)
        .checksum();
    *frame.header_mut(at + HEADER6 + CHECK)? = check;
    Some(())
}

/// Writes type and code, no checksum, and an MTU, which in IPv4 has two bytes: no other has more.
#[inline(always)]
fn message(frame: &mut Frame<'_>, at: usize, kind: u16, mtu: u32) -> Option<()> {
    *frame.header_mut::<[u8; 4]>(at)? = (u32::from(kind) << 16).to_be_bytes();
    *frame.header_mut::<[u8; 4]>(at + 4)? = mtu.to_be_bytes();
    Some(())
}
