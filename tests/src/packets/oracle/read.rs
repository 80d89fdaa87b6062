//! Parses a frame.

use std::net::{IpAddr, SocketAddr};

use crate::packets::{
    frames::{flag, is_priority_tag, number},
    world,
};

/// A parsed frame.
pub(super) struct ParsedFrame {
    pub(super) v4: bool,
    pub(super) tagged: bool,
    pub(super) network: usize,
    pub(super) transport: usize,
    pub(super) len: usize,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    pub(super) flags: u8,
    /// Sequence numbers; TCP only.
    pub(super) segment: ParsedSegment,
    /// Whether it is neither TCP nor UDP nor an echo request.
    pub(super) other: bool,
}

impl ParsedFrame {
    /// Whether it has no IPv4 options and no IPv6 extension headers.
    pub(super) fn is_plain(&self) -> bool {
        self.transport == self.network + if self.v4 { 20 } else { 40 }
    }

    /// Whether the source address can belong to a single host: no multicast, loopback or unspecified address.
    pub(super) fn is_from_one_host(&self) -> bool {
        match self.source.ip() {
            IpAddr::V4(ip) => !matches!(ip.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(ip) => !ip.is_multicast() && ip.segments()[..2] != [0, 0],
        }
    }
}

/// Sequence numbers of a TCP segment.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ParsedSegment {
    pub(super) sequence: u32,
    /// Sequence number after its last byte.
    pub(super) end: u32,
    pub(super) acknowledges: u32,
}

/// Why there is no parsed frame: passed to the kernel, or dropped.
pub(super) enum OracleAction {
    Pass,
    Drop,
}

/// The frame without priority tags among its first two tags, and the number of tags that may remain.
pub(super) fn without_priority_tags(frame: &[u8]) -> (Vec<u8>, usize) {
    let mut out = frame[..12].to_vec();
    let (mut rest, mut left) = (&frame[12..], 2);
    for _ in 0..2 {
        let Some(tag @ ([0x81, 0, ..] | [0x88, 0xa8, ..])) = rest.get(..4) else { break };
        if is_priority_tag(tag) {
            left -= 1;
        } else {
            out.extend(tag);
        }
        rest = &rest[4..];
    }
    out.extend(rest);
    (out, left)
}

/// Parses a frame with at most `most_tags` tags. Malformed frames are dropped if their destination is a VIP; frames of
/// other kinds are passed.
pub(super) fn read(frame: &[u8], most_tags: usize) -> Result<ParsedFrame, OracleAction> {
    let word = |at: usize| Some(usize::from(*frame.get(at)?) << 8 | usize::from(*frame.get(at + 1)?));
    if frame.len() < 14 || frame[0] & 1 == 1 {
        return Err(OracleAction::Pass);
    }
    let mut at = 12;
    let mut tags = 0;
    while tags < most_tags && matches!(word(at), Some(0x8100 | 0x88a8)) {
        at += 4;
        tags += 1;
    }
    let network = at + 2;
    match word(at) {
        Some(0x0800) if frame.len() >= network + 20 => read_v4(frame, network),
        Some(0x86dd) if frame.len() >= network + 40 => read_v6(frame, network),
        _ => Err(OracleAction::Pass),
    }
}

fn read_v4(frame: &[u8], network: usize) -> Result<ParsedFrame, OracleAction> {
    let ip = &frame[network..];
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).expect("four bytes"));
    let broken = || if address(16) == world::VIP4 { OracleAction::Drop } else { OracleAction::Pass };
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(ip[2]) << 8 | usize::from(ip[3]);
    let fragment = ip[6] & 0x3f != 0 || ip[7] != 0;
    if ip[0] >> 4 != 4 || header < 20 || total < header || total > ip.len() || fragment {
        return Err(broken());
    }
    let read = ParsedFrame {
        v4: true,
        tagged: network > 14,
        network,
        transport: network + header,
        len: total,
        source: SocketAddr::new(address(12), 0),
        destination: SocketAddr::new(address(16), 0),
        protocol: ip[9],
        hop_limit: ip[8],
        flags: 0,
        segment: ParsedSegment::default(),
        other: false,
    };
    read_transport(frame, read, total - header, broken)
}

fn read_v6(frame: &[u8], network: usize) -> Result<ParsedFrame, OracleAction> {
    let ip = &frame[network..];
    let address =
        |at: usize| std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("16 bytes"));
    let broken =
        || if IpAddr::V6(address(24)) == world::VIP6 { OracleAction::Drop } else { OracleAction::Pass };
    if address(8).to_ipv4_mapped().is_some() || address(24).to_ipv4_mapped().is_some() {
        return Err(OracleAction::Pass);
    }
    let payload = usize::from(ip[4]) << 8 | usize::from(ip[5]);
    if ip[0] >> 4 != 6 || 40 + payload > ip.len() {
        return Err(broken());
    }
    let (mut next, mut at, mut walked) = (ip[6], 40, 0);
    while matches!(next, number::HOP_BY_HOP | number::ROUTING | number::DESTINATION_OPTIONS) {
        // At most six extension headers of together at most 256 bytes, within the packet.
        let Some([following, units, _, segments]) = ip.get(at..at + 4) else { return Err(broken()) };
        if next == number::ROUTING && *segments != 0 {
            return Err(broken());
        }
        (next, at, walked) = (*following, at + 8 + usize::from(*units) * 8, walked + 1);
        if walked > 6 || at > 40 + 256 {
            return Err(broken());
        }
    }
    if next == number::FRAGMENT || at > 40 + payload {
        return Err(broken());
    }
    let read = ParsedFrame {
        v4: false,
        tagged: network > 14,
        network,
        transport: network + at,
        len: 40 + payload,
        source: SocketAddr::new(IpAddr::V6(address(8)), 0),
        destination: SocketAddr::new(IpAddr::V6(address(24)), 0),
        protocol: next,
        hop_limit: ip[7],
        flags: 0,
        segment: ParsedSegment::default(),
        other: false,
    };
    read_transport(frame, read, 40 + payload - at, broken)
}

fn read_transport(
    frame: &[u8],
    mut read: ParsedFrame,
    room: usize,
    broken: impl Fn() -> OracleAction,
) -> Result<ParsedFrame, OracleAction> {
    let needed = match read.protocol {
        number::TCP => 20,
        number::UDP | number::ICMP | number::ICMPV6 => 8,
        _ => {
            read.other = true;
            return Ok(read);
        }
    };
    // The checks above ensure that the packet ends within the frame.
    let header = &frame[read.transport..read.transport + room];
    if room < needed {
        return Err(broken());
    }
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    match read.protocol {
        number::TCP => {
            let len = usize::from(header[12] >> 4) * 4;
            if len < 20 || len > room {
                return Err(broken());
            }
            read.flags = header[13];
            let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
            let controls = u32::from(read.flags & flag::SYN != 0) + u32::from(read.flags & flag::FIN != 0);
            let end = long(4).wrapping_add((room - len) as u32).wrapping_add(controls);
            read.segment = ParsedSegment { sequence: long(4), end, acknowledges: long(8) };
        }
        number::UDP => {
            let len = usize::from(word(4));
            if len < 8 || len > room || (!read.v4 && word(6) == 0) {
                return Err(broken());
            }
        }
        protocol => {
            let request = if read.v4 { (number::ICMP, 8) } else { (number::ICMPV6, 128) };
            read.other = (protocol, header[0]) != request || header[1] != 0;
            let discovery = !read.v4 && protocol == number::ICMPV6 && (133..=137).contains(&header[0]);
            return if discovery && read.hop_limit == 255 { Err(OracleAction::Pass) } else { Ok(read) };
        }
    }
    read.source.set_port(word(0));
    read.destination.set_port(word(2));
    Ok(read)
}
