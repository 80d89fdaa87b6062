//! From a frame to what the packet path needs of it. Reads only; every length is checked against every other.

use super::{
    frame::Frame,
    headers::{
        EthernetAddresses, ExtensionHeader, IcmpHdr, Ipv4Hdr, Ipv6Hdr, Ports, TcpHdr, UdpHdr, VlanTag,
        ether_type, protocol,
    },
};
use crate::abi::{Address, stats::Reason};

/// Offset of the IP header in a frame without VLAN tag.
const UNTAGGED: usize = ETHERNET_TYPE + 2;

/// A packet whose headers have been found sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Offset of the IP header.
    pub network: usize,
    /// Offset of the transport header.
    pub transport: usize,
    /// Sender.
    pub source: Address,
    /// Receiver.
    pub destination: Address,
    /// IP protocol number: TCP, UDP, or an ICMP protocol for an echo request.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Port of the sender, in network byte order; 0 in an echo request.
    pub source_port: u16,
    /// Port of the receiver, in network byte order; 0 in an echo request.
    pub destination_port: u16,
    /// Flags of TCP; none set in anything else.
    pub flags: TcpFlags,
}

impl Packet {
    /// Whether the frame has a VLAN tag.
    #[inline(always)]
    pub const fn is_tagged(&self) -> bool {
        self.network != UNTAGGED
    }
}

/// The TCP flags that begin and end connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// Synchronise.
    pub syn: bool,
    /// Acknowledge.
    pub ack: bool,
    /// Finish.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
}

/// Why a frame is not a [`Packet`], and where it was going, as far as that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong, or merely other.
    pub reason: Reason,
    /// The receiver, where the packet is broken but its receiver is known.
    pub destination: Option<Address>,
}

const ETHERNET_TYPE: usize = size_of::<EthernetAddresses>();
const MAX_VLAN_TAGS: usize = 2;
const MAX_EXTENSION_HEADERS: usize = 6;
/// RFC 8200 sets no bound; what is longer than this has no business here.
const MAX_EXTENSION_BYTES: usize = 256;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

const fn plain(reason: Reason) -> Refused {
    Refused { reason, destination: None }
}

/// Reads the headers of a frame. Offsets in the packet are at most [`Frame::MAX_OFFSET`].
#[inline(always)]
pub fn parse(frame: &Frame<'_>) -> Result<Packet, Refused> {
    let addresses = frame.header::<EthernetAddresses>(0).ok_or(plain(Reason::Truncated))?;
    if addresses.destination[0] & 1 != 0 {
        return Err(plain(Reason::LinkMulticast));
    }
    let mut kind =
        u16::from_ne_bytes(*frame.header::<[u8; 2]>(ETHERNET_TYPE).ok_or(plain(Reason::Truncated))?);
    let mut network = UNTAGGED;
    for _ in 0..MAX_VLAN_TAGS {
        if kind != ether_type::VLAN && kind != ether_type::SERVICE_VLAN {
            break;
        }
        let tag = frame.header::<VlanTag>(network).ok_or(plain(Reason::Truncated))?;
        kind = u16::from_ne_bytes(tag.ether_type);
        network += size_of::<VlanTag>();
    }
    match kind {
        ether_type::IPV4 => ipv4(frame, network),
        ether_type::IPV6 => ipv6(frame, network),
        _ => Err(plain(Reason::NotIp)),
    }
}

/// RFC 791, 3.1.
#[inline(always)]
fn ipv4(frame: &Frame<'_>, network: usize) -> Result<Packet, Refused> {
    let ip = frame.header::<Ipv4Hdr>(network).ok_or(plain(Reason::Truncated))?;
    let destination = Address::v4(ip.dst_addr);
    let refuse = |reason| Refused { reason, destination: Some(destination) };
    let header_len = usize::from(ip.vihl & 0xf) * 4;
    if ip.vihl >> 4 != 4 || header_len < size_of::<Ipv4Hdr>() {
        return Err(refuse(Reason::BadHeader));
    }
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    if total < header_len || frame.len() < network + total {
        return Err(refuse(Reason::BadLength));
    }
    // More fragments, or an offset.
    if u16::from_be_bytes(ip.frags) & 0x3fff != 0 {
        return Err(refuse(Reason::Fragment));
    }
    let packet = Packet {
        network,
        transport: network + header_len,
        source: Address::v4(ip.src_addr),
        destination,
        protocol: ip.proto,
        hop_limit: ip.ttl,
        source_port: 0,
        destination_port: 0,
        flags: TcpFlags::default(),
    };
    transport(frame, packet, total - header_len)
}

/// RFC 8200, 3 and 4.
#[inline(always)]
fn ipv6(frame: &Frame<'_>, network: usize) -> Result<Packet, Refused> {
    let ip = frame.header::<Ipv6Hdr>(network).ok_or(plain(Reason::Truncated))?;
    let (source, destination) = (Address::v6(ip.src_addr), Address::v6(ip.dst_addr));
    let refuse = |reason| Refused { reason, destination: Some(destination) };
    if ip.vcf[0] >> 4 != 6 {
        return Err(refuse(Reason::BadHeader));
    }
    let payload = usize::from(u16::from_be_bytes(ip.payload_len));
    if frame.len() < network + size_of::<Ipv6Hdr>() + payload {
        return Err(refuse(Reason::BadLength));
    }
    let hop_limit = ip.hop_limit;
    let mut next = ip.next_hdr;
    let mut extensions = 0;
    for _ in 0..MAX_EXTENSION_HEADERS {
        match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {}
            protocol::FRAGMENT => return Err(refuse(Reason::Fragment)),
            _ => break,
        }
        let extension = frame
            .header::<ExtensionHeader>(network + size_of::<Ipv6Hdr>() + extensions)
            .ok_or(refuse(Reason::Truncated))?;
        if next == protocol::ROUTING && extension.segments_left != 0 {
            return Err(refuse(Reason::SourceRoute));
        }
        next = extension.next_header;
        extensions += (usize::from(extension.length) + 1) * 8;
        if extensions > MAX_EXTENSION_BYTES {
            return Err(refuse(Reason::ExtensionHeaders));
        }
    }
    if matches!(next, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS) {
        return Err(refuse(Reason::ExtensionHeaders));
    }
    if next == protocol::FRAGMENT {
        return Err(refuse(Reason::Fragment));
    }
    // Mapped addresses never stand in a packet (RFC 4942, 2.2). From here on they would be taken for IPv4. Any earlier,
    // this costs the verifier four times the work.
    if source.is_v4() | destination.is_v4() {
        return Err(plain(Reason::NotOurs));
    }
    if payload < extensions {
        return Err(refuse(Reason::BadLength));
    }
    let packet = Packet {
        network,
        transport: network + size_of::<Ipv6Hdr>() + extensions,
        source,
        destination,
        protocol: next,
        hop_limit,
        source_port: 0,
        destination_port: 0,
        flags: TcpFlags::default(),
    };
    transport(frame, packet, payload - extensions)
}

/// Reads the transport header; `room` bytes of the packet follow the IP headers.
#[inline(always)]
fn transport(frame: &Frame<'_>, mut packet: Packet, room: usize) -> Result<Packet, Refused> {
    let at = packet.transport;
    let refuse = |reason| Refused { reason, destination: Some(packet.destination) };
    match packet.protocol {
        protocol::TCP => {
            let tcp = frame.header::<TcpHdr>(at).ok_or(refuse(Reason::Truncated))?;
            let header_len = usize::from(tcp.doff()) * 4;
            if header_len < size_of::<TcpHdr>() {
                return Err(refuse(Reason::BadHeader));
            }
            if header_len > room {
                return Err(refuse(Reason::BadLength));
            }
            packet.flags = TcpFlags {
                syn: tcp.syn() != 0,
                ack: tcp.ack() != 0,
                fin: tcp.fin() != 0,
                rst: tcp.rst() != 0,
            };
        }
        protocol::UDP => {
            let udp = frame.header::<UdpHdr>(at).ok_or(refuse(Reason::Truncated))?;
            let len = usize::from(u16::from_be_bytes(udp.len));
            if len < size_of::<UdpHdr>() || len > room {
                return Err(refuse(Reason::BadLength));
            }
            // RFC 8200, 8.1: over IPv6 the checksum is not optional.
            if !packet.destination.is_v4() && udp.check == [0, 0] {
                return Err(refuse(Reason::BadHeader));
            }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let request = if packet.destination.is_v4() {
                (protocol::ICMP, ICMP_ECHO_REQUEST)
            } else {
                (protocol::ICMPV6, ICMPV6_ECHO_REQUEST)
            };
            let icmp = frame.header::<IcmpHdr>(at).ok_or(refuse(Reason::Truncated))?;
            if room < size_of::<IcmpHdr>() {
                return Err(refuse(Reason::BadLength));
            }
            if (packet.protocol, icmp.type_) != request || icmp.code != 0 {
                return Err(plain(Reason::OtherProtocol));
            }
            return Ok(packet);
        }
        _ => return Err(plain(Reason::OtherProtocol)),
    }
    let ports = frame.header::<Ports>(at).ok_or(refuse(Reason::Truncated))?;
    packet.source_port = u16::from_ne_bytes(ports.source);
    packet.destination_port = u16::from_ne_bytes(ports.destination);
    Ok(packet)
}
