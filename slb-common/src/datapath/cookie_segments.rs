//! Segments of handshakes with SYN cookies, and the sequence numbers of the connections that began with one.
//!
//! Each handshake segment is made in the frame of another one, with a new TCP header. Segments with IP options or
//! extension headers are not rewritten. BPF subprograms, as the searches of [`super::flows`]: they take the frame and
//! numbers only.

use super::{
    parse::{Packet, TcpFlags},
    reset::{
        ACK, ACKNOWLEDGED, CHECK, FLAGS, HEADER4, HEADER6, HOP_LIMIT, PLAIN4, SEQUENCE, SOURCE4, SOURCE6,
        TCP, exchange_ends, put, word,
    },
};
use crate::net::{
    checksum::Delta,
    ethernet::remove_priority_tags,
    frame::{Frame, FrameBuffer},
    headers::{Ipv4Hdr, Ipv6Hdr, TcpHdr, protocol},
};

/// Length of the option of a maximum segment size, in bytes.
const MSS_OPTION: usize = 4;
/// Kind and length of that option (RFC 9293, 3.7.1).
const MSS: u32 = 0x0204;

/// Marks that programs leave in the flags of a packet, above those of the TCP header.
impl TcpFlags {
    /// The packet is a SYN that SLB has made of a client's segment with a cookie.
    pub(super) const OF_COOKIE: u32 = 1 << 8;
    /// The numbers of the packet are those of the server; those of its frame are translated when it is sent.
    pub(super) const TRANSLATED: u32 = 1 << 9;

    /// [`Self::TRANSLATED`], on the way to the server.
    pub(super) const TO_SERVER: u32 = Self::TRANSLATED | 1 << 10;
    /// [`Self::TRANSLATED`], and the frame already has another TCP header than the packet.
    pub(super) const REWRITTEN: u32 = Self::TRANSLATED | 1 << 11;

    /// [`Self::OF_COOKIE`].
    #[inline(always)]
    pub(super) const fn is_of_cookie(self) -> bool {
        self.0 & Self::OF_COOKIE != 0
    }

    /// [`Self::TRANSLATED`].
    #[inline(always)]
    pub(super) const fn is_translated(self) -> bool {
        self.0 & Self::TRANSLATED != 0
    }

    /// [`Self::REWRITTEN`].
    #[inline(always)]
    pub(super) const fn is_rewritten(self) -> bool {
        self.0 & Self::REWRITTEN == Self::REWRITTEN
    }

    /// Whether a flow that begins with the packet has the mark [`Source::COOKIE`](crate::abi::source::Source::COOKIE). A
    /// SYN that SLB has not made begins a connection without a cookie.
    #[inline(always)]
    pub(super) const fn marks_flow(self) -> bool {
        self.is_of_cookie() || (self.is_translated() && !self.syn())
    }

    /// Whether the program that translates numbers has seen the packet.
    #[inline(always)]
    pub(super) const fn is_marked(self) -> bool {
        self.0 & (Self::OF_COOKIE | Self::TRANSLATED) != 0
    }
}

/// Sequence number and acknowledgement number of a new TCP header: a number for a BPF subprogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderNumbers(pub u64);

impl HeaderNumbers {
    #[inline(always)]
    pub(super) const fn new(sequence: u32, acknowledged: u32) -> Self {
        Self(sequence as u64 | (acknowledged as u64) << 32)
    }

    #[inline(always)]
    const fn sequence(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn acknowledged(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The rest of a new TCP header: a number for a BPF subprogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentShape(pub u64);

impl SegmentShape {
    const BACK: u64 = 1 << 8;
    const OCTET: u64 = 1 << 9;
    const SYN: u64 = 2;
    const RST: u64 = 4;
    const ACK: u64 = 16;

    /// The RST that refuses a connection, back to the client that has acknowledged a cookie.
    #[inline(always)]
    pub(super) const fn rst() -> Self {
        Self(Self::RST | Self::BACK)
    }

    /// The answer to a client's SYN, from its receiver: a SYN-ACK with window 0. The client sends nothing before the
    /// server's window is known.
    #[inline(always)]
    pub(super) const fn syn_ack(mss: u32) -> Self {
        Self(Self::SYN | Self::ACK | Self::BACK | (mss as u64) << 32)
    }

    /// The SYN that opens the connection to the server, with the window of the segment that it replaces.
    #[inline(always)]
    pub(super) const fn syn(mss: u32) -> Self {
        Self(Self::SYN | (mss as u64) << 32)
    }

    /// A keep-alive with one octet that its receiver knows (RFC 1122, 4.2.3.6), with the window of the segment that it
    /// replaces. Its receiver takes the window and answers at once.
    #[inline(always)]
    pub(super) const fn keep_alive() -> Self {
        Self(Self::ACK | Self::OCTET)
    }

    #[inline(always)]
    const fn mss(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    const fn is_back(self) -> bool {
        self.0 & Self::BACK != 0
    }

    /// Length of options and payload.
    #[inline(always)]
    const fn options_and_payload(self) -> (usize, usize) {
        (if self.mss() != 0 { MSS_OPTION } else { 0 }, (self.0 & Self::OCTET != 0) as usize)
    }
}

/// Gives a segment another TCP header. `at` is the offset of its IP header in the frame without priority tags. After
/// `None` the frame must be dropped.
#[inline(always)]
pub fn rewrite<G: FrameBuffer>(
    head: &mut G,
    at: usize,
    numbers: HeaderNumbers,
    shape: SegmentShape,
) -> Option<()> {
    remove_priority_tags(head)?;
    let frame = head.frame();
    match frame.header::<[u8; 1]>(at)?[0] {
        PLAIN4 if frame.header::<Ipv4Hdr>(at)?.proto == protocol::TCP => {
            let len = segment::<G, HEADER4, SOURCE4>(head, at, numbers, shape)?;
            let frame = &mut head.frame();
            let ip = frame.header_mut::<Ipv4Hdr>(at)?;
            ip.tot_len = ((HEADER4 + len) as u16).to_be_bytes();
            if shape.is_back() {
                ip.ttl = HOP_LIMIT;
            }
            ip.check = [0; 2];
            let check = Delta::default().bytes(frame.header::<[u8; HEADER4]>(at)?).checksum();
            frame.header_mut::<Ipv4Hdr>(at)?.check = check;
            Some(())
        }
        first if first >> 4 == 6 && frame.header::<Ipv6Hdr>(at)?.next_hdr == protocol::TCP => {
            let len = segment::<G, HEADER6, SOURCE6>(head, at, numbers, shape)?;
            let mut frame = head.frame();
            let ip = frame.header_mut::<Ipv6Hdr>(at)?;
            ip.payload_len = (len as u16).to_be_bytes();
            if shape.is_back() {
                ip.hop_limit = HOP_LIMIT;
            }
            Some(())
        }
        _ => None,
    }
}

/// Writes the TCP segment and returns its length. If it goes back, exchanges hardware addresses, addresses and ports.
#[inline(always)]
fn segment<G: FrameBuffer, const HEADER: usize, const SOURCE: usize>(
    head: &mut G,
    at: usize,
    numbers: HeaderNumbers,
    shape: SegmentShape,
) -> Option<usize> {
    let tcp = at + HEADER;
    let (options, payload) = shape.options_and_payload();
    let len = TCP + options + payload;
    if !head.resize(tcp + len) {
        return None;
    }
    let frame = &mut head.frame();
    let mut window = u32::from_be(word(frame, tcp + FLAGS)?) & 0xffff;
    if shape.is_back() {
        window = 0;
        exchange_ends::<HEADER, SOURCE>(frame, at)?;
    }
    put(frame, tcp + SEQUENCE, numbers.sequence().to_be())?;
    put(frame, tcp + ACKNOWLEDGED, numbers.acknowledged().to_be())?;
    let words = ((TCP + options) / 4) as u32;
    let flags = (shape.0 & (SegmentShape::SYN | SegmentShape::RST | SegmentShape::ACK)) as u32;
    put(frame, tcp + FLAGS, (words << 28 | flags << 16 | window).to_be())?;
    put(frame, tcp + CHECK, 0)?;
    // With the pseudo-header: addresses, length, protocol (RFC 9293, 3.1; RFC 8200, 8.1).
    let mut sum = Delta::default().plus((len as u16).to_be()).plus(u16::from(protocol::TCP).to_be());
    if options != 0 {
        let option = (MSS << 16 | shape.mss() & 0xffff).to_be();
        put(frame, tcp + TCP, option)?;
        sum = sum.plus_all(Delta::of(option));
    }
    if payload != 0 {
        // Its value says nothing, and adds nothing to the checksum.
        *frame.header_mut::<[u8; 1]>(tcp + TCP + options)? = [0];
    }
    sum = if HEADER == HEADER4 {
        sum.bytes(frame.header::<[u8; 8]>(at + SOURCE4)?)
    } else {
        sum.bytes(frame.header::<[u8; 32]>(at + SOURCE6)?)
    };
    let check = sum.bytes(frame.header::<[u8; TCP]>(tcp)?).checksum();
    *frame.header_mut(tcp + CHECK)? = check;
    Some(len)
}

/// Translates the number of a segment that the server has chosen: the acknowledgement number on the way to the server,
/// the sequence number on the way to the client. `offset` is that of
/// [`SequenceOffset`](crate::abi::syn_cookie::SequenceOffset). `None` if the frame is truncated.
///
/// `transport` is the offset of the TCP header. Without the flag ACK the acknowledgement number is 0, and stays.
#[inline(always)]
pub fn translate(frame: &mut Frame<'_>, transport: usize, offset: u32, is_to_server: bool) -> Option<()> {
    let has_number = !is_to_server || u32::from_be(word(frame, transport + FLAGS)?) >> 16 & ACK != 0;
    if !has_number {
        return Some(());
    }
    let at = transport + if is_to_server { ACKNOWLEDGED } else { SEQUENCE };
    let before = word(frame, at)?;
    let change = if is_to_server { offset.wrapping_neg() } else { offset };
    let after = u32::from_be(before).wrapping_add(change).to_be();
    put(frame, at, after)?;
    let tcp = frame.header_mut::<TcpHdr>(transport)?;
    tcp.check = changed(before, after).apply(tcp.check);
    Some(())
}

/// The change of a number, both in network byte order.
#[inline(always)]
pub(super) const fn changed(before: u32, after: u32) -> Delta {
    Delta::of(!before).plus_all(Delta::of(after))
}

/// The maximum segment size in a client's SYN, if that is its first option; else 0.
#[inline(always)]
pub(super) fn segment_size(frame: &Frame<'_>, packet: &Packet) -> u32 {
    let option = packet.transport + TCP;
    let has_option = option + MSS_OPTION + packet.payload as usize <= packet.network + packet.len;
    match word(frame, option).map(u32::from_be).filter(|option| has_option && option >> 16 == MSS) {
        Some(option) => option & 0xffff,
        None => 0,
    }
}

#[cfg(test)]
mod tests;
