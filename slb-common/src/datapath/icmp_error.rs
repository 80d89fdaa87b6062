//! Answers a packet by an ICMP error (RFC 792, RFC 1191; RFC 4443, 3.1 to 3.4): it cannot be forwarded, or the VIP has no
//! such port or protocol. The source is the packet's destination: the VIP for a client, the client for a server, which
//! so receives it whatever its routes and filters are.
//!
//! The message quotes as much of the packet as makes it 576 bytes long (IPv6: 1,280 bytes). Of a shorter packet, for
//! which no link is too small, it quotes the IP header and eight bytes: enough for the client to find its connection.
//! Packets with IP options or extension headers are not answered, nor packets whose source is not a single host. A BPF
//! subprogram, as the searches of [`super::flows`]: takes the frame and numbers only.

use super::{ipip::ethernet, macs::macs};
use crate::{
    abi::{Address, stats::Reason},
    net::{
        checksum::Delta,
        ethernet::{priority_tags_len, remove_priority_tags},
        frame::{Frame, FrameBuffer},
        headers::{Ipv4Hdr, Ipv6Hdr, ether_type, protocol},
    },
};

/// Why a packet is refused, and the ICMP error for its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct IcmpError {
    pub(super) reason: Reason,
    /// The ICMP error that the sender receives.
    pub(super) message: IcmpMessage,
}

/// Content of an ICMP error. The upper half holds type and code, as in its first two bytes. The lower half holds that
/// of its second word: an MTU (no packet is larger), an offset in the packet, or 0.
///
/// A number and no enumeration, so that the verifier follows the building of a message once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpMessage(pub u32);

impl IcmpMessage {
    const TOO_BIG4: u32 = 3 << 8 | 4;
    const TOO_BIG6: u32 = 2 << 8;
    const PARAMETER6: u32 = 4 << 8 | 1;

    #[inline(always)]
    const fn new(kind: u32, value: u32) -> Self {
        Self(kind << 16 | value & 0xffff)
    }

    #[inline(always)]
    const fn kind(self) -> u32 {
        self.0 >> 16
    }

    /// The packet's TTL or hop limit is used up.
    #[inline(always)]
    pub(super) const fn hop_limit(is_v4: bool) -> Self {
        Self::new(if is_v4 { 11 << 8 } else { 3 << 8 }, 0)
    }

    /// The packet is larger than `mtu` bytes.
    #[inline(always)]
    pub(super) const fn too_big(is_v4: bool, mtu: u32) -> Self {
        Self::new(if is_v4 { Self::TOO_BIG4 } else { Self::TOO_BIG6 }, mtu)
    }

    /// The VIP has no listener on the port.
    #[inline(always)]
    pub(super) const fn no_port(is_v4: bool) -> Self {
        Self::new(if is_v4 { 3 << 8 | 3 } else { 1 << 8 | 4 }, 0)
    }

    /// The VIP has no such protocol. In IPv6 the error points to the next-header field, which the VIP does not
    /// recognise.
    #[inline(always)]
    pub(super) const fn no_protocol(is_v4: bool) -> Self {
        if is_v4 { Self::new(3 << 8 | 2, 0) } else { Self::new(Self::PARAMETER6, NEXT_HEADER6) }
    }
}

/// Default TTL of RFC 1700 and Linux.
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;
/// Version 4, without options.
const PLAIN4: u8 = 0x45;
const HEADER4: usize = size_of::<Ipv4Hdr>();
const HEADER6: usize = size_of::<Ipv6Hdr>();
/// Length of type, code, checksum and the four bytes that depend on the type.
const MESSAGE: usize = 8;
const CHECK: usize = 2;
/// Offset of the next-header field in the IPv6 header.
const NEXT_HEADER6: u32 = 6;
/// Bytes of the packet that a message quotes: of a long packet and of a short one.
const LONG4: usize = 576 - HEADER4 - MESSAGE;
const LONG6: usize = 1280 - HEADER6 - MESSAGE;
const SHORT4: usize = HEADER4 + 8;
const SHORT6: usize = HEADER6 + 8;

/// Whether an ICMP error may answer a packet whose IP header is at `at` in the frame without priority tags: its source is
/// one host, it has neither IP options nor extension headers, its sender can use the message, and the frame holds
/// enough of it.
#[inline(always)]
pub fn may_answer(frame: &Frame<'_>, at: usize, message: IcmpMessage) -> bool {
    let Some(tags) = priority_tags_len(frame) else { return false };
    may_answer_untagged(&frame.behind(tags), at, message).unwrap_or(false)
}

#[inline(always)]
fn may_answer_untagged(frame: &Frame<'_>, at: usize, message: IcmpMessage) -> Option<bool> {
    let len = packet_len(frame, at)?;
    let first = frame.header::<[u8; 1]>(at)?[0];
    if first == PLAIN4 {
        let ip = frame.header::<Ipv4Hdr>(at)?;
        let may_be_fragmented = message.kind() == IcmpMessage::TOO_BIG4 && ip.frags[0] & DONT_FRAGMENT == 0;
        return Some(len >= SHORT4 && Address::v4(ip.src_addr).is_unicast_host() && !may_be_fragmented);
    }
    if first >> 4 != 6 {
        return Some(false);
    }
    let ip = frame.header::<Ipv6Hdr>(at)?;
    // Behind extension headers the quoted bytes need not be a transport header.
    let is_plain = if message.kind() == IcmpMessage::PARAMETER6 {
        !matches!(
            ip.next_hdr,
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::FRAGMENT
        )
    } else {
        // The sender of a fragment learns the path MTU from its destination alone.
        matches!(ip.next_hdr, protocol::TCP | protocol::UDP)
            || (message.kind() == IcmpMessage::TOO_BIG6 && ip.next_hdr == protocol::FRAGMENT)
    };
    Some(len >= SHORT6 && is_plain && Address::v6(ip.src_addr).is_unicast_host())
}

/// Length of the packet as its header states it, but not more than the frame holds.
#[inline(always)]
fn packet_len(frame: &Frame<'_>, at: usize) -> Option<usize> {
    let stated = if frame.header::<[u8; 1]>(at)?[0] >> 4 == 4 {
        usize::from(u16::from_be_bytes(frame.header::<Ipv4Hdr>(at)?.tot_len))
    } else {
        HEADER6 + usize::from(u16::from_be_bytes(frame.header::<Ipv6Hdr>(at)?.payload_len))
    };
    Some(stated.min(frame.len().checked_sub(at)?))
}

/// Rewrites a packet to an ICMP error, if [`may_answer`] has allowed it. `at` is the offset of its IP header in the frame
/// without priority tags. Returns `None` if there is no room: the frame must be dropped then.
#[inline(always)]
pub fn answer<G: FrameBuffer>(head: &mut G, at: usize, message: IcmpMessage) -> Option<()> {
    remove_priority_tags(head)?;
    let frame = head.frame();
    let len = packet_len(&frame, at)?;
    match frame.header::<[u8; 1]>(at)?[0] >> 4 {
        4 if len >= LONG4 => answer4::<_, LONG4>(head, at, message),
        4 => answer4::<_, SHORT4>(head, at, message),
        6 if len >= LONG6 => answer6::<_, LONG6>(head, at, message),
        6 => answer6::<_, SHORT6>(head, at, message),
        _ => None,
    }
}

#[inline(always)]
fn answer4<G: FrameBuffer, const QUOTED: usize>(head: &mut G, at: usize, message: IcmpMessage) -> Option<()> {
    let len = (HEADER4 + MESSAGE + QUOTED) as u16;
    const ORIGINAL: usize = HEADER4 + MESSAGE;
    let frame = head.frame();
    let macs = macs(&frame)?;
    if !(head.truncate(at + QUOTED) && head.grow(ORIGINAL)) {
        return None;
    }
    let frame = &mut head.frame();
    ethernet(frame, at, ORIGINAL, &macs.reversed(), ether_type::IPV4)?;
    let quoted = frame.header::<Ipv4Hdr>(at + ORIGINAL)?;
    let (sender, receiver) = (quoted.src_addr, quoted.dst_addr);
    let ip = frame.header_mut::<Ipv4Hdr>(at)?;
    ip.vihl = PLAIN4;
    ip.tos = 0;
    ip.tot_len = len.to_be_bytes();
    ip.id = [0; 2];
    ip.frags = [DONT_FRAGMENT, 0];
    ip.ttl = HOP_LIMIT;
    ip.proto = protocol::ICMP;
    ip.check = [0; 2];
    ip.src_addr = receiver;
    ip.dst_addr = sender;
    let check = Delta::default().bytes(frame.header::<[u8; HEADER4]>(at)?).checksum();
    frame.header_mut::<Ipv4Hdr>(at)?.check = check;
    write(frame, at + HEADER4, message)?;
    let check = Delta::default()
        .bytes(frame.header::<[u8; MESSAGE]>(at + HEADER4)?)
        .bytes(frame.header::<[u8; QUOTED]>(at + ORIGINAL)?)
        .checksum();
    *frame.header_mut(at + HEADER4 + CHECK)? = check;
    Some(())
}

#[inline(always)]
fn answer6<G: FrameBuffer, const QUOTED: usize>(head: &mut G, at: usize, message: IcmpMessage) -> Option<()> {
    let len = (MESSAGE + QUOTED) as u16;
    const ORIGINAL: usize = HEADER6 + MESSAGE;
    const ADDRESSES: usize = HEADER6 - 32;
    let frame = head.frame();
    let macs = macs(&frame)?;
    if !(head.truncate(at + QUOTED) && head.grow(ORIGINAL)) {
        return None;
    }
    let frame = &mut head.frame();
    ethernet(frame, at, ORIGINAL, &macs.reversed(), ether_type::IPV6)?;
    let quoted = frame.header::<Ipv6Hdr>(at + ORIGINAL)?;
    let (sender, receiver) = (quoted.src_addr, quoted.dst_addr);
    let ip = frame.header_mut::<Ipv6Hdr>(at)?;
    ip.vcf = [0x60, 0, 0, 0];
    ip.payload_len = len.to_be_bytes();
    ip.next_hdr = protocol::ICMPV6;
    ip.hop_limit = HOP_LIMIT;
    ip.src_addr = receiver;
    ip.dst_addr = sender;
    write(frame, at + HEADER6, message)?;
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

/// Writes type and code, a checksum of 0, and the second word.
#[inline(always)]
fn write(frame: &mut Frame<'_>, at: usize, message: IcmpMessage) -> Option<()> {
    *frame.header_mut::<[u8; 4]>(at)? = (message.kind() << 16).to_be_bytes();
    *frame.header_mut::<[u8; 4]>(at + 4)? = (message.0 & 0xffff).to_be_bytes();
    Some(())
}
