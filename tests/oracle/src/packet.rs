//! Parses a frame with `etherparse`. Checks each length against the others.

mod fragment;

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
    err::{ipv4, tcp},
};

pub(crate) use self::fragment::Fragment;
use crate::{bytes::word, outcome::Reason, world::Protocol};

/// TCP flags.
pub mod flag {
    /// Finish.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledge.
    pub const ACK: u8 = 16;
    /// All that concern the connection.
    pub const CONTROL: u8 = 0x3f;
}

/// IP protocol numbers.
pub mod number {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// `ICMPv6`.
    pub const ICMPV6: u8 = 58;
    /// IPv6 without a payload.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// What a valid packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Tcp,
    Udp,
    EchoRequest,
    /// Another ICMP message, or another protocol.
    Other,
}

/// Numbers of a TCP segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    /// Sequence number after its last byte.
    pub(crate) end: u32,
    pub(crate) acknowledges: u32,
}

impl Segment {
    /// Reads a TCP header of a packet with `room` bytes behind its IP headers.
    pub(crate) fn of(tcp: &TcpHeaderSlice<'_>, room: usize) -> Self {
        let (len, sequence) = (tcp.slice().len(), tcp.sequence_number());
        let counted = u32::from(tcp.syn()) + u32::from(tcp.fin());
        Self {
            flags: tcp.slice()[13],
            sequence,
            end: sequence.wrapping_add((room - len) as u32).wrapping_add(counted),
            acknowledges: tcp.acknowledgment_number(),
        }
    }

    pub(crate) fn has(self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Whether it asks for a connection.
    pub(crate) fn is_syn(self) -> bool {
        self.flags & (flag::SYN | flag::ACK) == flag::SYN
    }
}

/// A parsed packet. Offsets are those in [`Self::frame`].
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    /// The frame without priority tags.
    pub(crate) frame: Vec<u8>,
    pub(crate) network: usize,
    pub(crate) transport: usize,
    /// Length of the IP packet.
    pub(crate) len: usize,
    /// With ports in TCP and UDP.
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) number: u8,
    pub(crate) hop_limit: u8,
    pub(crate) content: Content,
    pub(crate) segment: Segment,
    /// Which fragment it is; `None` for a whole packet.
    pub(crate) fragment: Option<Fragment>,
}

impl Packet {
    /// Whether it is a later fragment, which has no ports.
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.is_first())
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.destination.is_ipv4()
    }

    pub(crate) fn is_tagged(&self) -> bool {
        self.network > 14
    }

    /// Whether it has no IPv4 options and no IPv6 extension headers.
    pub(crate) fn is_plain(&self) -> bool {
        self.transport == self.network + if self.is_v4() { 20 } else { 40 }
    }

    pub(crate) fn protocol(&self) -> Option<Protocol> {
        match self.content {
            Content::Tcp => Some(Protocol::Tcp),
            Content::Udp => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// TCP, and no SYN without ACK.
    pub(crate) fn is_mid_stream(&self) -> bool {
        self.content == Content::Tcp && !self.segment.is_syn()
    }

    pub(crate) fn is_rst(&self) -> bool {
        self.segment.has(flag::RST)
    }

    pub(crate) fn macs(&self) -> (crate::world::Mac, crate::world::Mac) {
        let mac = |at: usize| self.frame[at..at + 6].try_into().expect("six bytes");
        (mac(0), mac(6))
    }
}

/// A packet that the parser refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// Its destination, if that is known.
    pub(crate) destination: Option<IpAddr>,
    /// The listener's endpoint that a first fragment names.
    pub(crate) fragment_of: Option<(SocketAddr, Protocol)>,
}

impl Refused {
    /// A malformed fragment, or one of another protocol. `of` is the endpoint that it names.
    pub(crate) fn fragment(destination: IpAddr, of: Option<(SocketAddr, Protocol)>) -> Self {
        Self { fragment_of: of, ..Self::to(destination, Reason::Fragment) }
    }

    const fn unread(reason: Reason) -> Self {
        Self { reason, destination: None, fragment_of: None }
    }

    const fn to(destination: IpAddr, reason: Reason) -> Self {
        Self { reason, destination: Some(destination), fragment_of: None }
    }
}

/// Parses a frame.
pub(crate) fn parse(frame: &[u8]) -> Result<Packet, Refused> {
    if frame.len() < 12 {
        return Err(Refused::unread(Reason::Truncated));
    }
    if frame[0] & 1 == 1 {
        return Err(Refused::unread(Reason::LinkMulticast));
    }
    let (frame, network) = untagged(frame).ok_or(Refused::unread(Reason::Truncated))?;
    match word(&frame, network - 2) {
        Some(0x0800) => ipv4(frame, network),
        Some(0x86dd) => ipv6(frame, network),
        _ => Err(Refused::unread(Reason::NotIp)),
    }
}

/// The frame without the priority tags among its first two tags, and the offset behind the tags that are read. `None`
/// if it ends within them.
fn untagged(frame: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut out, mut at) = (frame[..12].to_vec(), 12);
    for _ in 0..2 {
        if !matches!(word(frame, at)?, 0x8100 | 0x88a8) {
            break;
        }
        let tag = frame.get(at..at + 4)?;
        word(frame, at + 4)?;
        // VLAN id 0 (IEEE 802.1Q, table 9-2).
        if tag[2] & 0x0f != 0 || tag[3] != 0 {
            out.extend(tag);
        }
        at += 4;
    }
    word(frame, at)?;
    let network = out.len() + 2;
    out.extend(&frame[at..]);
    Some((out, network))
}

fn ipv4(frame: Vec<u8>, network: usize) -> Result<Packet, Refused> {
    let bytes = &frame[network..];
    if bytes.len() < 20 {
        return Err(Refused::unread(Reason::Truncated));
    }
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes"));
    let destination = address(16);
    let refused = |reason| Err(Refused::to(destination, reason));
    let ip = match Ipv4HeaderSlice::from_slice(bytes) {
        Ok(ip) => ip,
        Err(ipv4::HeaderSliceError::Content(_)) => return refused(Reason::BadHeader),
        Err(ipv4::HeaderSliceError::Len(_)) => return refused(Reason::BadLength),
    };
    let (header, total) = (ip.slice().len(), usize::from(ip.total_len()));
    if total < header || total > bytes.len() {
        return refused(Reason::BadLength);
    }
    let (number, hop_limit, source) = (ip.protocol().0, ip.ttl(), address(12));
    let part = ip
        .is_fragmenting_payload()
        .then(|| Fragment { id: ip.identification().into(), units: ip.fragments_offset().value() });
    let at = Offsets { network, transport: network + header, len: total };
    match part {
        Some(part) => fragment::read(frame, at, [source, destination], number, hop_limit, part),
        None => transport(frame, at, [source, destination], number, hop_limit),
    }
}

/// At most this many extension headers are read, of together at most [`EXTENSION_BYTES`].
const EXTENSIONS: usize = 6;
const EXTENSION_BYTES: usize = 256;

fn ipv6(frame: Vec<u8>, network: usize) -> Result<Packet, Refused> {
    let bytes = &frame[network..];
    if bytes.len() < 40 {
        return Err(Refused::unread(Reason::Truncated));
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).expect("16 bytes"));
    let (source, destination) = (address(8), address(24));
    let refused = |reason| Err(Refused::to(destination, reason));
    let Ok(ip) = Ipv6HeaderSlice::from_slice(bytes) else { return refused(Reason::BadHeader) };
    let (payload, hop_limit) = (usize::from(ip.payload_length()), ip.hop_limit());
    if 40 + payload > bytes.len() {
        return refused(Reason::BadLength);
    }
    let (mut next, mut extensions) = (ip.next_header().0, 0);
    let is_extension =
        |next| matches!(next, number::HOP_BY_HOP | number::ROUTING | number::DESTINATION_OPTIONS);
    for _ in 0..EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        let Some([following, units, _, left]) = bytes.get(40 + extensions..44 + extensions) else {
            return refused(Reason::Truncated);
        };
        if next == number::ROUTING && *left != 0 {
            return refused(Reason::SourceRoute);
        }
        (next, extensions) = (*following, extensions + 8 * (1 + usize::from(*units)));
        if extensions > EXTENSION_BYTES {
            return refused(Reason::ExtensionHeaders);
        }
    }
    if is_extension(next) {
        return refused(Reason::ExtensionHeaders);
    }
    let mut part = None;
    if next == number::FRAGMENT {
        let Some([following, _, high, low, a, b, c, d]) = bytes.get(40 + extensions..48 + extensions) else {
            return refused(Reason::Truncated);
        };
        (next, extensions) = (*following, extensions + 8);
        let (word, id) = (u16::from_be_bytes([*high, *low]), u32::from_be_bytes([*a, *b, *c, *d]));
        let (units, more) = (word >> 3, word & 1 != 0);
        // A whole packet with this header is handled as without it (RFC 6946).
        part = (units > 0 || more).then_some(Fragment { id, units });
    }
    // IPv4-mapped addresses occur in no packet (RFC 4942, 2.2).
    if [source, destination].iter().any(|ip| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())) {
        return Err(Refused::unread(Reason::NotOurs));
    }
    if payload < extensions {
        return refused(Reason::BadLength);
    }
    let at = Offsets { network, transport: network + 40 + extensions, len: 40 + payload };
    match part {
        Some(part) => fragment::read(frame, at, [source, destination], next, hop_limit, part),
        None => transport(frame, at, [source, destination], next, hop_limit),
    }
}

/// Offsets of the headers in a frame, and the length of the IP packet.
#[derive(Clone, Copy)]
pub(crate) struct Offsets {
    pub(crate) network: usize,
    pub(crate) transport: usize,
    pub(crate) len: usize,
}

fn transport(
    frame: Vec<u8>,
    at: Offsets,
    [source, destination]: [IpAddr; 2],
    number: u8,
    hop_limit: u8,
) -> Result<Packet, Refused> {
    let refused = |reason| Err(Refused::to(destination, reason));
    let room = at.network + at.len - at.transport;
    let header = &frame[at.transport..];
    let (mut ports, mut segment) = ([0; 2], Segment::default());
    let content = match number {
        number::TCP => {
            if header.len() < 20 {
                return refused(Reason::Truncated);
            }
            let tcp = match TcpHeaderSlice::from_slice(header) {
                Ok(tcp) => tcp,
                Err(tcp::HeaderSliceError::Content(_)) => return refused(Reason::BadHeader),
                Err(tcp::HeaderSliceError::Len(_)) => return refused(Reason::BadLength),
            };
            let len = tcp.slice().len();
            if len > room {
                return refused(Reason::BadLength);
            }
            ports = [tcp.source_port(), tcp.destination_port()];
            segment = Segment::of(&tcp, room);
            Content::Tcp
        }
        number::UDP => {
            let Ok(udp) = UdpHeaderSlice::from_slice(header) else { return refused(Reason::Truncated) };
            let len = usize::from(udp.length());
            if len < 8 || len > room {
                return refused(Reason::BadLength);
            }
            if destination.is_ipv6() && udp.checksum() == 0 {
                return refused(Reason::BadHeader);
            }
            ports = [udp.source_port(), udp.destination_port()];
            Content::Udp
        }
        number::ICMP | number::ICMPV6 => {
            if header.len() < 8 {
                return refused(Reason::Truncated);
            }
            if room < 8 {
                return refused(Reason::BadLength);
            }
            let request = if destination.is_ipv4() { [number::ICMP, 8, 0] } else { [number::ICMPV6, 128, 0] };
            let is_discovery =
                destination.is_ipv6() && number == number::ICMPV6 && (133..=137).contains(&header[0]);
            if [number, header[0], header[1]] == request {
                Content::EchoRequest
            } else if is_discovery && hop_limit == 255 {
                // The kernel handles neighbour discovery for every address (RFC 4861).
                return Err(Refused::unread(Reason::OtherProtocol));
            } else {
                Content::Other
            }
        }
        _ => Content::Other,
    };
    Ok(Packet {
        network: at.network,
        transport: at.transport,
        len: at.len,
        source: SocketAddr::new(source, ports[0]),
        destination: SocketAddr::new(destination, ports[1]),
        number,
        hop_limit,
        content,
        segment,
        fragment: None,
        frame,
    })
}
