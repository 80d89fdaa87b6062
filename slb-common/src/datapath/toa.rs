//! Option that carries the client endpoint in a segment to the server (TCP Option Address, TOA), for servers that see a
//! local address as the source.
//!
//! Kind 254 (RFC 4727), length, port, address: 8 bytes for IPv4, 20 for IPv6. It is the first option, so a reader that
//! takes the first one of this kind never takes one that the client has written.
//!
//! A BPF subprogram, as the searches of [`super::flows`]: takes the frame, the parsed packet and numbers.

use super::parse::{Fragmentation, Packet};
use crate::{
    abi::toa::{self, ClientOption},
    net::{
        checksum::Delta,
        frame::{Frame, FrameBuffer},
        headers::{Ipv4Hdr, Ipv6Hdr, TcpHdr, VlanTag, protocol},
    },
    opaque::forget_long,
};

/// Length of a TCP header without options.
const TCP: usize = size_of::<TcpHdr>();
/// Length of a VLAN tag.
const TAG: usize = size_of::<VlanTag>();
/// Offset of its header length and flags.
const OFFSET: usize = 12;
/// Most words of a TCP header.
const MAX_WORDS: usize = 15;
/// Most bytes of TCP options.
const MAX_OPTIONS: usize = 4 * MAX_WORDS - TCP;
/// End of the options (RFC 9293, 3.1).
const END_OF_OPTIONS: u8 = 0;
/// No operation: an option of one byte.
const NO_OPERATION: u8 = 1;
/// The first kind for experiments (RFC 4727, 4.2).
const OTHER_KIND: u8 = 253;

/// Inserts the client endpoint of `packet` into its frame, whose other headers are rewritten already. `room` is how much
/// longer the IP packet may become, in bytes. `packet` is whole or a first fragment: the parser guarantees the whole TCP
/// header.
///
/// Where the option does not fit, the segment stays without, and options of this kind that the client has written get
/// another one. `None` if the frame is truncated: it must be dropped.
#[inline(always)]
pub fn insert<G: FrameBuffer>(head: &mut G, packet: &Packet, room: usize) -> Option<()> {
    if packet.protocol != protocol::TCP {
        return Some(());
    }
    if packet.source.is_v4() {
        insert_option::<G, { toa::IPV4_LEN }, { size_of::<Ipv4Hdr>() }>(head, packet, room)
    } else {
        insert_option::<G, { toa::IPV6_LEN }, { size_of::<Ipv6Hdr>() }>(head, packet, room)
    }
}

/// [`insert`] of an option of `LEN` bytes behind an IP header of `HEADER` bytes.
#[inline(always)]
fn insert_option<G: FrameBuffer, const LEN: usize, const HEADER: usize>(
    head: &mut G,
    packet: &Packet,
    room: usize,
) -> Option<()> {
    let words = words_of(&head.frame(), packet.transport)?;
    let is_plain =
        packet.fragmentation == Fragmentation::WHOLE && packet.transport == packet.network + HEADER;
    let fits = is_plain && words + LEN / 4 <= MAX_WORDS && LEN <= room;
    // With room for a VLAN tag, which the frame may get afterwards.
    if !fits || !head.grow(LEN + TAG) || !head.shrink(TAG) {
        return rename(&mut head.frame(), packet, words);
    }
    let frame = &mut head.frame();
    move_headers::<LEN>(frame, packet.transport + TCP)?;
    let mut sum = lengthen_ip::<LEN>(frame, packet)?;
    let offset = packet.transport + OFFSET;
    let field = frame.header_mut::<[u8; 2]>(offset)?;
    let before = u16::from_ne_bytes(*field);
    field[0] += (LEN / 4) as u8 * 16;
    sum = sum.word(before, u16::from_ne_bytes(*field));
    let option = frame.header_mut::<[u8; LEN]>(packet.transport + TCP)?;
    ClientOption::new(packet.source, packet.source_port).write(option);
    sum = sum.bytes(option);
    let tcp = frame.header_mut::<TcpHdr>(packet.transport)?;
    tcp.check = sum.apply(tcp.check);
    Some(())
}

/// Length of a TCP header in words.
#[inline(always)]
fn words_of(frame: &Frame<'_>, transport: usize) -> Option<usize> {
    frame.header::<[u8; 2]>(transport + OFFSET).map(|field| usize::from(field[0] >> 4))
}

/// Moves the first `len` bytes of a frame that has grown by `LEN` to its new beginning. `len` is even and no multiple of
/// four: an Ethernet header, and headers of whole words.
#[inline(always)]
fn move_headers<const LEN: usize>(frame: &mut Frame<'_>, len: usize) -> Option<()> {
    let half = *frame.header::<[u8; 2]>(LEN)?;
    *frame.header_mut::<[u8; 2]>(0)? = half;
    let mut at = size_of_val(&half);
    while at < len {
        let word = *frame.header::<[u8; 4]>(at + LEN)?;
        *frame.header_mut::<[u8; 4]>(at)? = word;
        at += size_of_val(&word);
    }
    Some(())
}

/// Adds `LEN` to the length of an IP packet. Returns the change of its pseudo-header.
#[inline(always)]
fn lengthen_ip<const LEN: usize>(frame: &mut Frame<'_>, packet: &Packet) -> Option<Delta> {
    if packet.source.is_v4() {
        let ip = frame.header_mut::<Ipv4Hdr>(packet.network)?;
        let len = u16::from_be_bytes(ip.tot_len) + LEN as u16;
        ip.check = Delta::default().word(u16::from_ne_bytes(ip.tot_len), len.to_be()).apply(ip.check);
        ip.tot_len = len.to_be_bytes();
    } else {
        let ip = frame.header_mut::<Ipv6Hdr>(packet.network)?;
        let len = u16::from_be_bytes(ip.payload_len) + LEN as u16;
        ip.payload_len = len.to_be_bytes();
    }
    Some(Delta::default().plus((LEN as u16).to_be()))
}

/// Gives options of kind [`toa::KIND`] the other kind for experiments.
#[inline(always)]
fn rename(frame: &mut Frame<'_>, packet: &Packet, words: usize) -> Option<()> {
    let end = packet.transport + 4 * words;
    let mut at = packet.transport + TCP;
    for _ in 0..MAX_OPTIONS {
        at = forget_long(at as u64, packet.sequence.into()) as usize;
        if at >= end {
            break;
        }
        let kind = frame.header::<[u8; 1]>(at)?[0];
        if kind == END_OF_OPTIONS {
            break;
        }
        if kind == NO_OPERATION {
            at += 1;
            continue;
        }
        if kind == toa::KIND {
            *frame.header_mut::<[u8; 1]>(at)? = [OTHER_KIND];
            let is_second_of_word = (at - packet.transport) & 1;
            let (old, new) = (u16::from(toa::KIND), u16::from(OTHER_KIND));
            let shift = 8 * is_second_of_word as u32;
            let sum = Delta::default().word((old << shift).to_le(), (new << shift).to_le());
            let tcp = frame.header_mut::<TcpHdr>(packet.transport)?;
            tcp.check = sum.apply(tcp.check);
        }
        // A malformed header ends within the option. The next step ends the search then.
        let len = frame.header::<[u8; 2]>(at).map_or(0, |option| usize::from(option[1]));
        if len < 2 {
            break;
        }
        at += len;
    }
    Some(())
}

#[cfg(test)]
mod tests;
