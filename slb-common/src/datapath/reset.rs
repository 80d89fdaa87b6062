//! Rewrites a TCP segment to a RST, without the connection's exact sequence numbers.
//!
//! A RST that continues to the segment's receiver keeps the segment's number, which the receiver expects next. A RST
//! back to the segment's sender takes the number that the sender expects (RFC 9293, 3.5.2 and 3.10.7.4; RFC 5961, 3.2).
//!
//! Segments with IP options or extension headers are not rewritten. A BPF subprogram, as the searches of
//! [`super::flows`]: takes the frame and numbers only.

use super::macs::{macs, readdress};
use crate::net::{
    checksum::Delta,
    ethernet::remove_priority_tags,
    frame::{Frame, FrameBuffer},
    headers::{Ipv4Hdr, Ipv6Hdr, protocol},
};

/// Default TTL of RFC 1700 and Linux.
pub(super) const HOP_LIMIT: u8 = 64;
/// Version 4, without options.
pub(super) const PLAIN4: u8 = 0x45;
pub(super) const HEADER4: usize = size_of::<Ipv4Hdr>();
pub(super) const HEADER6: usize = size_of::<Ipv6Hdr>();
/// Offsets of the source addresses; the destination follows.
pub(super) const SOURCE4: usize = 12;
pub(super) const SOURCE6: usize = 8;

/// Length of a TCP header without options.
pub(super) const TCP: usize = 20;
pub(super) const SEQUENCE: usize = 4;
pub(super) const ACKNOWLEDGED: usize = 8;
/// Offset of header length, flags and window.
pub(super) const FLAGS: usize = 12;
/// Offset of checksum and urgent pointer.
pub(super) const CHECK: usize = 16;
const FIN: u32 = 1;
const SYN: u32 = 2;
const RST: u32 = 4;
/// The flag ACK.
pub(super) const ACK: u32 = 16;

/// Rewrites a TCP segment to a RST. `at` is the offset of its IP header in the frame without priority tags. With `back`
/// the RST returns to the segment's sender, from its receiver's address; else it continues to the receiver. After
/// `None` the frame must be dropped.
#[inline(always)]
pub fn rewrite_to_rst<G: FrameBuffer>(head: &mut G, at: usize, back: bool) -> Option<()> {
    remove_priority_tags(head)?;
    let frame = head.frame();
    let first = frame.header::<[u8; 1]>(at)?[0];
    match first >> 4 {
        4 if first == PLAIN4 => {
            let ip = frame.header::<Ipv4Hdr>(at)?;
            let ip_payload_len = usize::from(u16::from_be_bytes(ip.tot_len)).checked_sub(HEADER4)?;
            if ip.proto != protocol::TCP {
                return None;
            }
            segment::<G, HEADER4, SOURCE4>(head, at, ip_payload_len, back)?;
            finish4(&mut head.frame(), at, back)
        }
        6 => {
            let ip = frame.header::<Ipv6Hdr>(at)?;
            let ip_payload_len = usize::from(u16::from_be_bytes(ip.payload_len));
            if ip.next_hdr != protocol::TCP {
                return None;
            }
            segment::<G, HEADER6, SOURCE6>(head, at, ip_payload_len, back)?;
            finish6(&mut head.frame(), at, back)
        }
        _ => None,
    }
}

/// Cuts the segment to its header and sets RST. With `back` it exchanges hardware addresses, addresses and ports.
/// Writes the TCP checksum, not the IP header's.
#[inline(always)]
fn segment<G: FrameBuffer, const HEADER: usize, const SOURCE: usize>(
    head: &mut G,
    at: usize,
    ip_payload_len: usize,
    back: bool,
) -> Option<()> {
    let tcp = at + HEADER;
    if !head.truncate(tcp + TCP) {
        return None;
    }
    let frame = &mut head.frame();
    let flags = u32::from_be(word(frame, tcp + FLAGS)?) >> 16;
    let acknowledges = flags & ACK;
    let mut turned = RST | acknowledges;
    if back {
        let (sequence, acknowledged) = if acknowledges != 0 {
            (word(frame, tcp + ACKNOWLEDGED)?, 0)
        } else {
            // The number after the segment, as its receiver would acknowledge it.
            let offset = (flags >> 12) as usize * 4;
            let len = (ip_payload_len.checked_sub(offset)? as u32)
                .wrapping_add(flags & FIN)
                .wrapping_add((flags & SYN) >> 1);
            let sequence = u32::from_be(word(frame, tcp + SEQUENCE)?);
            (0, sequence.wrapping_add(len).to_be())
        };
        turned = if acknowledges != 0 { RST } else { RST | ACK };
        put(frame, tcp + SEQUENCE, sequence)?;
        put(frame, tcp + ACKNOWLEDGED, acknowledged)?;
        exchange_ends::<HEADER, SOURCE>(frame, at)?;
    }
    // Header length of five words; window 0.
    put(frame, tcp + FLAGS, (5 << 28 | turned << 16).to_be())?;
    put(frame, tcp + CHECK, 0)?;
    // With the pseudo-header: addresses, length, protocol (RFC 9293, 3.1; RFC 8200, 8.1).
    let mut sum = Delta::default().plus((TCP as u16).to_be()).plus(u16::from(protocol::TCP).to_be());
    sum = if HEADER == HEADER4 {
        sum.bytes(frame.header::<[u8; 8]>(at + SOURCE4)?)
    } else {
        sum.bytes(frame.header::<[u8; 32]>(at + SOURCE6)?)
    };
    let check = sum.bytes(frame.header::<[u8; TCP]>(tcp)?).checksum();
    *frame.header_mut(tcp + CHECK)? = check;
    Some(())
}

/// Exchanges hardware addresses, addresses and ports of a segment, whose IP header is at `at`.
#[inline(always)]
pub(super) fn exchange_ends<const HEADER: usize, const SOURCE: usize>(
    frame: &mut Frame<'_>,
    at: usize,
) -> Option<()> {
    let half = (HEADER - SOURCE) / 2;
    let mut word_at = at + SOURCE;
    while word_at < at + SOURCE + half {
        let (source, destination) = (word(frame, word_at)?, word(frame, word_at + half)?);
        put(frame, word_at, destination)?;
        put(frame, word_at + half, source)?;
        word_at += 4;
    }
    let ports = word(frame, at + HEADER)?;
    put(frame, at + HEADER, ports.rotate_left(16))?;
    let macs = macs(frame)?;
    readdress(frame, &macs.reversed())
}

#[inline(always)]
fn finish4(frame: &mut Frame<'_>, at: usize, back: bool) -> Option<()> {
    let ip = frame.header_mut::<Ipv4Hdr>(at)?;
    ip.tot_len = ((HEADER4 + TCP) as u16).to_be_bytes();
    if back {
        ip.ttl = HOP_LIMIT;
    }
    ip.check = [0; 2];
    let check = Delta::default().bytes(frame.header::<[u8; HEADER4]>(at)?).checksum();
    frame.header_mut::<Ipv4Hdr>(at)?.check = check;
    Some(())
}

#[inline(always)]
fn finish6(frame: &mut Frame<'_>, at: usize, back: bool) -> Option<()> {
    let ip = frame.header_mut::<Ipv6Hdr>(at)?;
    ip.payload_len = (TCP as u16).to_be_bytes();
    if back {
        ip.hop_limit = HOP_LIMIT;
    }
    Some(())
}

/// Four bytes in network byte order.
#[inline(always)]
pub(super) fn word(frame: &Frame<'_>, at: usize) -> Option<u32> {
    frame.header::<[u8; 4]>(at).map(|bytes| u32::from_ne_bytes(*bytes))
}

#[inline(always)]
pub(super) fn put(frame: &mut Frame<'_>, at: usize, word: u32) -> Option<()> {
    *frame.header_mut::<[u8; 4]>(at)? = word.to_ne_bytes();
    Some(())
}
