//! Builds frames field by field. They are valid by default; a patch breaks them.

use std::net::{IpAddr, SocketAddr};

use slb_common::net::vlan::Vlan;

use super::{check, world};

/// The TCP flags.
pub mod flag {
    /// Finish.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// Acknowledge.
    pub const ACK: u8 = 16;
}

/// IP protocol numbers.
pub mod number {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// A frame with the offsets of its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Offset of the IP header.
    pub network: usize,
    /// Offset of the transport header.
    pub transport: usize,
    /// Offset of the first byte after the IP packet, where padding begins.
    pub end: usize,
    /// IP protocol number of the transport header.
    pub protocol: u8,
}

impl Frame {
    /// Changes bytes without updating checksums.
    #[must_use]
    pub fn patch(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Overwrites bytes of the IP header.
    #[must_use]
    pub fn network(self, offset: usize, bytes: &[u8]) -> Self {
        let at = self.network + offset;
        self.put(at, bytes)
    }

    /// Overwrites bytes of the transport header.
    #[must_use]
    pub fn transport(self, offset: usize, bytes: &[u8]) -> Self {
        let at = self.transport + offset;
        self.put(at, bytes)
    }

    /// Recomputes all checksums.
    #[must_use]
    pub fn sound(self) -> Self {
        self.patch(check::refresh)
    }

    /// Removes priority tags, which have VLAN id 0 (IEEE 802.1Q, table 9-2).
    #[must_use]
    pub fn untagged(&self) -> Self {
        let Some(tags) = self.bytes.get(12..self.network - 2) else { return self.clone() };
        let tags: Vec<u8> = tags.chunks(4).filter(|tag| !is_priority_tag(tag)).flatten().copied().collect();
        let removed = self.network - 14 - tags.len();
        Self {
            bytes: [&self.bytes[..12], &tags, &self.bytes[self.network - 2..]].concat(),
            network: self.network - removed,
            transport: self.transport - removed,
            end: self.end - removed,
            protocol: self.protocol,
        }
    }

    /// The frame in this VLAN; with its own tags for `None`.
    #[must_use]
    pub fn in_vlan(&self, vlan: Option<Vlan>) -> Self {
        let Some(vlan) = vlan else { return self.clone() };
        let kind: u16 = if vlan.is_service() { 0x88a8 } else { 0x8100 };
        let mut tag = [kind.to_be_bytes(), vlan.id().to_be_bytes()].concat();
        if vlan.is_none() {
            tag.clear();
        }
        let at = |offset: usize| offset + 14 + tag.len() - self.network;
        Self {
            bytes: [&self.bytes[..12], &tag, &self.bytes[self.network - 2..]].concat(),
            network: at(self.network),
            transport: at(self.transport),
            end: at(self.end),
            protocol: self.protocol,
        }
    }

    /// Truncates the frame to `len` bytes.
    #[must_use]
    pub fn cut(self, len: usize) -> Self {
        self.patch(|frame| frame.bytes.truncate(len))
    }

    fn put(self, at: usize, bytes: &[u8]) -> Self {
        self.patch(|frame| frame.bytes[at..at + bytes.len()].copy_from_slice(bytes))
    }
}

/// Whether a VLAN tag, given with its EtherType, has VLAN id 0.
pub fn is_priority_tag(tag: &[u8]) -> bool {
    tag[2] & 0x0f == 0 && tag[3] == 0
}

/// Fields of a frame to build.
#[derive(Debug, Clone)]
pub struct Builder {
    sender: [u8; 6],
    receiver: [u8; 6],
    tags: Vec<(u16, u16)>,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    options: Vec<u8>,
    extensions: Vec<(u8, usize)>,
    protocol: u8,
    transport: Vec<u8>,
    padding: usize,
}

/// Initial sequence number of both sides.
pub const FIRST: u32 = 0x0102_0304;
/// Sequence number of both sides after the handshake and some data.
pub const NEXT: u32 = FIRST + 100;

/// A TCP segment with options and a small payload. Flags decide its sequence numbers: all connections use the same
/// ones.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Builder {
    let sequence = match flags & (flag::SYN | flag::RST) {
        0 => NEXT,
        // Beyond what has been sent before.
        flag::RST => NEXT + 1000,
        _ => FIRST,
    };
    tcp_at(from, to, flags, sequence, NEXT)
}

/// As [`tcp`], with these sequence and acknowledgement numbers.
pub fn tcp_at(from: SocketAddr, to: SocketAddr, flags: u8, sequence: u32, acknowledges: u32) -> Builder {
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledges.to_be_bytes());
    segment.extend([7 << 4, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    // The MSS option, and eight bytes of no-operation options.
    segment.extend([2, 4, 5, 0xb4, 1, 1, 1, 1]);
    segment.extend(b"a little payload!");
    builder(from.ip(), to.ip(), number::TCP, segment)
}

/// Fields of a TCP segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Data after the header.
    pub payload: &'a [u8],
}

/// A TCP segment without options.
pub fn segment(from: SocketAddr, to: SocketAddr, segment: Segment<'_>) -> Builder {
    let mut bytes = Vec::new();
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(segment.sequence.to_be_bytes());
    bytes.extend(segment.acknowledgement.to_be_bytes());
    bytes.extend([5 << 4, segment.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    bytes.extend(segment.payload);
    builder(from.ip(), to.ip(), number::TCP, bytes)
}

/// A UDP datagram with this payload.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Builder {
    let mut datagram = Vec::new();
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    builder(from.ip(), to.ip(), number::UDP, datagram)
}

/// An echo request with this payload.
pub fn echo(from: IpAddr, to: IpAddr, payload: &[u8]) -> Builder {
    let (protocol, kind) = if to.is_ipv4() { (number::ICMP, 8) } else { (number::ICMPV6, 128) };
    let mut message = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    message.extend(payload);
    builder(from, to, protocol, message)
}

/// A packet of another protocol.
pub fn other(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Builder {
    builder(from, to, protocol, payload.to_vec())
}

/// A frame with this EtherType and without an IP packet.
pub fn not_ip(receiver: [u8; 6], ether_type: u16, content: &[u8]) -> Frame {
    let mut bytes = Vec::new();
    bytes.extend(receiver);
    bytes.extend(world::CLIENT_MAC);
    bytes.extend(ether_type.to_be_bytes());
    bytes.extend(content);
    let end = bytes.len();
    Frame { bytes, network: 14, transport: end, end, protocol: 0 }
}

fn builder(source: IpAddr, destination: IpAddr, protocol: u8, transport: Vec<u8>) -> Builder {
    Builder {
        sender: world::CLIENT_MAC,
        receiver: world::OWN_MAC,
        tags: Vec::new(),
        source,
        destination,
        hop_limit: 64,
        options: Vec::new(),
        extensions: Vec::new(),
        protocol,
        transport,
        padding: 0,
    }
}

impl Builder {
    /// Sets the hardware addresses.
    #[must_use]
    pub fn macs(self, sender: [u8; 6], receiver: [u8; 6]) -> Self {
        Self { sender, receiver, ..self }
    }

    /// Adds a VLAN tag after the existing ones.
    #[must_use]
    pub fn tag(mut self, ether_type: u16, control: u16) -> Self {
        self.tags.push((ether_type, control));
        self
    }

    /// Sets the TTL or hop limit.
    #[must_use]
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    /// Adds IPv4 options: `words` words of "no operation".
    #[must_use]
    pub fn options(self, words: usize) -> Self {
        Self { options: vec![1; words * 4], ..self }
    }

    /// Adds an IPv6 extension header of `units` times eight bytes.
    #[must_use]
    pub fn extension(mut self, kind: u8, units: usize) -> Self {
        self.extensions.push((kind, units));
        self
    }

    /// Appends padding after the IP packet.
    #[must_use]
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// Builds the frame with valid checksums.
    pub fn build(self) -> Frame {
        let mut bytes = Vec::new();
        bytes.extend(self.receiver);
        bytes.extend(self.sender);
        for (ether_type, control) in &self.tags {
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(control.to_be_bytes());
        }
        let network = bytes.len() + 2;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend(0x0800_u16.to_be_bytes());
                let words = 5 + self.options.len() / 4;
                let total = (words * 4 + self.transport.len()) as u16;
                bytes.extend([0x40 | words as u8, 0x2e]);
                bytes.extend(total.to_be_bytes());
                bytes.extend([0xab, 0xcd, 0x40, 0, self.hop_limit, self.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend(0x86dd_u16.to_be_bytes());
                let extensions: usize = self.extensions.iter().map(|(_, units)| units * 8).sum();
                bytes.extend([0x62, 0xe1, 0x23, 0x45]);
                bytes.extend(((extensions + self.transport.len()) as u16).to_be_bytes());
                let kinds: Vec<u8> =
                    self.extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]).collect();
                bytes.extend([kinds[0], self.hop_limit]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                for ((_, units), next) in self.extensions.iter().zip(&kinds[1..]) {
                    bytes.extend([*next, (units - 1) as u8]);
                    // Options: one PadN. Routing: no segments left. Fragment: offset 0, no more fragments.
                    bytes.extend(std::iter::repeat_n(0, units * 8 - 2));
                }
            }
            _ => panic!("{} and {} are of two families", self.source, self.destination),
        }
        let transport = bytes.len();
        bytes.extend(self.transport);
        let end = bytes.len();
        bytes.extend(std::iter::repeat_n(0xee, self.padding));
        Frame { bytes, network, transport, end, protocol: self.protocol }.sound()
    }
}
