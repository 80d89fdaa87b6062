//! The parser: reads the headers of a frame. Checks every length against every other, and changes nothing.

mod fragment;

pub use fragment::Fragmentation;

use crate::{
    abi::stats::Reason,
    net::{
        address::Address,
        ethernet::{ETHERNET_TYPE, MAX_VLAN_TAGS, UNTAGGED},
        frame::Frame,
        headers::{
            EthernetAddresses, ExtensionHeader, FragmentHeader, IcmpHdr, Ipv4Hdr, Ipv6Hdr, Ports, TcpHdr,
            TcpNumbers, UdpHdr, VlanTag, ether_type, protocol,
        },
        vlan::Vlan,
    },
};

/// A packet whose headers are valid. Offsets are those in the frame without priority tags.
///
/// The order of the small fields matters: the compiler writes neighbours together, and BPF's stack allows that only
/// where they are aligned.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Offset of the IP header.
    pub network: usize,
    /// Offset of the transport header.
    pub transport: usize,
    /// Length of the IP packet in bytes.
    pub len: usize,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, in network byte order; 0 in an echo request.
    pub source_port: u16,
    /// Destination port, in network byte order; 0 in an echo request.
    pub destination_port: u16,
    /// IP protocol number: TCP, UDP, or an ICMP protocol for an echo request.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The VLAN of the frame.
    pub vlan: Vlan,
    /// Index of the host's VLAN device for that VLAN, by which the frame arrives; 0 without one, and until the slow path
    /// has looked it up.
    pub vlan_device: u32,
    /// TCP flags; none set in other protocols.
    pub flags: TcpFlags,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledges: u32,
    /// TCP payload in bytes.
    pub payload: u32,
    /// Whether the packet is a fragment.
    pub fragmentation: Fragmentation,
    /// Identification of a fragment, in network byte order; says nothing in a whole packet.
    pub fragment_id: u32,
}

impl Packet {
    /// Whether the frame has a VLAN tag that is no priority tag.
    #[inline(always)]
    pub const fn is_tagged(&self) -> bool {
        self.network != UNTAGGED
    }

    /// The same packet with its TCP numbers, which [`plain_ipv4`] and [`plain_ipv6`] do not read. `None` if the frame
    /// is truncated.
    #[inline(always)]
    #[must_use]
    pub fn numbered(&self, frame: &Frame<'_>) -> Option<Self> {
        let mut packet = *self;
        if packet.protocol == protocol::TCP {
            TcpFields::read(frame, self.transport)?
                .write_to(self.network + self.len - self.transport, &mut packet);
        }
        Some(packet)
    }

    #[inline(always)]
    const fn set_ports(&mut self, ports: &Ports) {
        self.source_port = u16::from_ne_bytes(ports.source);
        self.destination_port = u16::from_ne_bytes(ports.destination);
    }
}

/// The flags of a TCP header: its fourteenth byte (RFC 9293, 3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u32);

impl TcpFlags {
    const FIN: u32 = 1;
    const SYN: u32 = 2;
    const RST: u32 = 4;
    const ACK: u32 = 16;
    /// Without CWR and ECE of RFC 3168, which say nothing about the connection.
    const CONTROL: u32 = 0x3f;

    /// FIN.
    #[inline(always)]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// SYN.
    #[inline(always)]
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// Whether ACK is the only flag, as in a challenge ACK (RFC 5961). Data without PSH looks the same.
    #[inline(always)]
    pub const fn is_pure_ack(self) -> bool {
        self.0 & Self::CONTROL == Self::ACK
    }

    /// ACK: the acknowledgement number is valid.
    #[inline(always)]
    pub const fn acknowledges(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// RST.
    #[inline(always)]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether it ends the connection or one side of it: FIN or RST.
    #[inline(always)]
    pub const fn has_fin_or_rst(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Whether it asks for a connection: SYN without ACK.
    #[inline(always)]
    pub const fn is_syn(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }
}

const MAX_EXTENSION_HEADERS: usize = 6;
/// RFC 8200 sets no bound. Longer headers are refused.
const MAX_EXTENSION_BYTES: usize = 256;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
/// Router solicitation, the first message type of neighbour discovery (RFC 4861, 4).
const ICMPV6_ND_FIRST: u8 = 133;
/// Redirect, the last message type.
const ICMPV6_ND_LAST: u8 = 137;

/// A packet of which nothing has been read.
pub const EMPTY_PACKET: Packet = Packet {
    network: 0,
    transport: 0,
    len: 0,
    source: Address([0; 4]),
    destination: Address([0; 4]),
    source_port: 0,
    destination_port: 0,
    protocol: 0,
    hop_limit: 0,
    vlan: Vlan::NONE,
    vlan_device: 0,
    flags: TcpFlags(0),
    sequence: 0,
    acknowledges: 0,
    payload: 0,
    fragmentation: Fragmentation::WHOLE,
    fragment_id: 0,
};

/// Reads the headers of a frame. Offsets in `packet` are at most [`Frame::MAX_OFFSET`].
///
/// `packet` is an argument and no result: copies in each refusal would cost the verifier much.
///
/// # Errors
///
/// The reason for which the frame is refused. `packet` then holds what has been read; all other fields are zero. A
/// first fragment has ports.
#[inline(always)]
pub fn parse(frame: &Frame<'_>, packet: &mut Packet) -> Result<(), Reason> {
    *packet = EMPTY_PACKET;
    let addresses = frame.header::<EthernetAddresses>(0).ok_or(Reason::Truncated)?;
    if addresses.destination[0] & 1 != 0 {
        return Err(Reason::LinkMulticast);
    }
    let mut kind = u16::from_ne_bytes(*frame.header::<[u8; 2]>(ETHERNET_TYPE).ok_or(Reason::Truncated)?);
    let (mut network, mut priority_tags, mut vlan) = (UNTAGGED, 0, Vlan::NONE);
    for _ in 0..MAX_VLAN_TAGS {
        if kind != ether_type::VLAN && kind != ether_type::SERVICE_VLAN {
            break;
        }
        let tag = frame.header::<VlanTag>(network + priority_tags).ok_or(Reason::Truncated)?;
        let outer = kind;
        kind = u16::from_ne_bytes(tag.ether_type);
        if tag.is_priority() {
            priority_tags += size_of::<VlanTag>();
        } else {
            network += size_of::<VlanTag>();
            vlan = if vlan.is_none() { tag.vlan(outer) } else { Vlan::STACKED };
        }
    }
    packet.vlan = vlan;
    let frame = &frame.behind(priority_tags);
    match kind {
        ether_type::IPV4 => ipv4(frame, network, packet),
        ether_type::IPV6 => ipv6(frame, network, packet),
        _ => Err(Reason::NotIp),
    }
}

/// Reads an untagged IPv4 packet of TCP or UDP without IP options: nearly all are such. All offsets are constants.
/// `None` for any other packet, valid or not. Leaves out the TCP numbers.
#[inline(always)]
pub fn plain_ipv4(frame: &Frame<'_>) -> Option<Packet> {
    const TRANSPORT: usize = UNTAGGED + size_of::<Ipv4Hdr>();
    let ip = frame.header::<Ipv4Hdr>(UNTAGGED)?;
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    let fragment = u16::from_ne_bytes(ip.frags) & 0x3fff_u16.to_be();
    if ip.vihl != 0x45 || fragment != 0 || total < size_of::<Ipv4Hdr>() || frame.len() < UNTAGGED + total {
        return None;
    }
    let packet = Packet {
        network: UNTAGGED,
        transport: TRANSPORT,
        len: total,
        source: Address::v4(ip.src_addr),
        destination: Address::v4(ip.dst_addr),
        protocol: ip.proto,
        hop_limit: ip.ttl,
        ..EMPTY_PACKET
    };
    plain_transport(frame, packet, total - size_of::<Ipv4Hdr>())
}

/// The same for IPv6 without extension headers.
#[inline(always)]
pub fn plain_ipv6(frame: &Frame<'_>) -> Option<Packet> {
    const TRANSPORT: usize = UNTAGGED + size_of::<Ipv6Hdr>();
    let ip = frame.header::<Ipv6Hdr>(UNTAGGED)?;
    let payload = usize::from(u16::from_be_bytes(ip.payload_len));
    if ip.vcf[0] >> 4 != 6 || frame.len() < TRANSPORT + payload {
        return None;
    }
    let packet = Packet {
        network: UNTAGGED,
        transport: TRANSPORT,
        len: payload + size_of::<Ipv6Hdr>(),
        source: Address::v6(ip.src_addr),
        destination: Address::v6(ip.dst_addr),
        protocol: ip.next_hdr,
        hop_limit: ip.hop_limit,
        ..EMPTY_PACKET
    };
    if packet.source.is_v4() | packet.destination.is_v4() {
        return None;
    }
    plain_transport(frame, packet, payload)
}

#[inline(always)]
fn plain_transport(frame: &Frame<'_>, mut packet: Packet, ip_payload_len: usize) -> Option<Packet> {
    let at = packet.transport;
    if packet.protocol == protocol::TCP {
        let tcp = TcpFields::read(frame, at)?;
        // Segments that end a connection are rare. The slow path handles them.
        if tcp.header_len < size_of::<TcpHdr>()
            || tcp.header_len > ip_payload_len
            || tcp.flags.has_fin_or_rst()
        {
            return None;
        }
        packet.set_ports(&tcp.ports);
        packet.flags = tcp.flags;
    } else if packet.protocol == protocol::UDP {
        let udp = frame.header::<UdpHdr>(at)?;
        let len = usize::from(u16::from_be_bytes(udp.len));
        if len < size_of::<UdpHdr>()
            || len > ip_payload_len
            || (!packet.destination.is_v4() && udp.check == [0, 0])
        {
            return None;
        }
        packet.set_ports(&Ports { source: udp.src, destination: udp.dst });
    } else {
        return None;
    }
    Some(packet)
}

/// Fields of a TCP header.
struct TcpFields {
    /// Length that the header states, in bytes.
    header_len: usize,
    ports: Ports,
    flags: TcpFlags,
    sequence: u32,
    acknowledges: u32,
}

impl TcpFields {
    #[inline(always)]
    fn read(frame: &Frame<'_>, at: usize) -> Option<Self> {
        let tcp = frame.header::<TcpNumbers>(at)?;
        Some(Self {
            header_len: usize::from(tcp.offset >> 4) * 4,
            ports: tcp.ports,
            flags: TcpFlags(tcp.flags.into()),
            sequence: u32::from_be_bytes(tcp.sequence),
            acknowledges: u32::from_be_bytes(tcp.acknowledges),
        })
    }

    /// Writes the fields to `packet`. `ip_payload_len` is the length of the packet behind its IP headers in bytes, at
    /// least the TCP header's.
    #[inline(always)]
    fn write_to(self, ip_payload_len: usize, packet: &mut Packet) {
        packet.flags = self.flags;
        packet.sequence = self.sequence;
        packet.acknowledges = self.acknowledges;
        packet.payload = (ip_payload_len - self.header_len) as u32;
    }
}

/// RFC 791, 3.1.
#[inline(always)]
fn ipv4(frame: &Frame<'_>, network: usize, packet: &mut Packet) -> Result<(), Reason> {
    let ip = frame.header::<Ipv4Hdr>(network).ok_or(Reason::Truncated)?;
    let header_len = usize::from(ip.vihl & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    packet.network = network;
    packet.transport = network + header_len;
    packet.len = total;
    packet.source = Address::v4(ip.src_addr);
    packet.destination = Address::v4(ip.dst_addr);
    packet.protocol = ip.proto;
    packet.hop_limit = ip.ttl;
    if ip.vihl >> 4 != 4 || header_len < size_of::<Ipv4Hdr>() {
        return Err(Reason::BadHeader);
    }
    if total < header_len || frame.len() < network + total {
        return Err(Reason::BadLength);
    }
    // More-fragments flag or an offset.
    let fragment = u16::from_be_bytes(ip.frags) & 0x3fff;
    if fragment != 0 {
        packet.fragment_id = u16::from_ne_bytes(ip.id).into();
        return fragment::parse(frame, network + header_len, total - header_len, fragment & 0x1fff, packet);
    }
    transport(frame, network + header_len, total - header_len, packet)
}

/// RFC 8200, 3 and 4.
#[inline(always)]
fn ipv6(frame: &Frame<'_>, network: usize, packet: &mut Packet) -> Result<(), Reason> {
    let ip = frame.header::<Ipv6Hdr>(network).ok_or(Reason::Truncated)?;
    let (source, destination) = (Address::v6(ip.src_addr), Address::v6(ip.dst_addr));
    let payload = usize::from(u16::from_be_bytes(ip.payload_len));
    packet.network = network;
    packet.len = payload + size_of::<Ipv6Hdr>();
    packet.source = source;
    packet.destination = destination.unless_v4();
    packet.hop_limit = ip.hop_limit;
    if ip.vcf[0] >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    if frame.len() < network + size_of::<Ipv6Hdr>() + payload {
        return Err(Reason::BadLength);
    }
    let mut next = ip.next_hdr;
    let mut extensions = 0;
    for _ in 0..MAX_EXTENSION_HEADERS {
        match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {}
            _ => break,
        }
        let extension = frame
            .header::<ExtensionHeader>(network + size_of::<Ipv6Hdr>() + extensions)
            .ok_or(Reason::Truncated)?;
        if next == protocol::ROUTING && extension.segments_left != 0 {
            return Err(Reason::SourceRoute);
        }
        next = extension.next_header;
        extensions += (usize::from(extension.length) + 1) * 8;
        if extensions > MAX_EXTENSION_BYTES {
            return Err(Reason::ExtensionHeaders);
        }
    }
    if matches!(next, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS) {
        return Err(Reason::ExtensionHeaders);
    }
    // Offset in units of eight bytes, and the more-fragments flag. A lone fragment with neither is whole (RFC 6946).
    let mut fragment = 0;
    if next == protocol::FRAGMENT {
        let at = network + size_of::<Ipv6Hdr>() + extensions;
        let header = frame.header::<FragmentHeader>(at).ok_or(Reason::Truncated)?;
        next = header.next_header;
        packet.fragment_id = u32::from_ne_bytes(header.identification);
        fragment = u16::from_be_bytes(header.offset) & !0b110;
        extensions += size_of::<FragmentHeader>();
    }
    // Mapped addresses occur in no valid packet (RFC 4942, 2.2). From here on they would look like IPv4. An earlier
    // check costs the verifier four times the work.
    if source.is_v4() | destination.is_v4() {
        *packet = EMPTY_PACKET;
        return Err(Reason::NotOurs);
    }
    if payload < extensions {
        return Err(Reason::BadLength);
    }
    let at = network + size_of::<Ipv6Hdr>() + extensions;
    packet.transport = at;
    packet.protocol = next;
    if fragment == 0 {
        transport(frame, at, payload - extensions, packet)
    } else {
        fragment::parse(frame, at, payload - extensions, fragment >> 3, packet)
    }
}

/// Reads the transport header at the offset `at`. `ip_payload_len` is the length of the packet behind its IP headers in
/// bytes.
#[inline(always)]
fn transport(frame: &Frame<'_>, at: usize, ip_payload_len: usize, packet: &mut Packet) -> Result<(), Reason> {
    match packet.protocol {
        protocol::TCP => {
            let tcp = TcpFields::read(frame, at).ok_or(Reason::Truncated)?;
            if tcp.header_len < size_of::<TcpHdr>() {
                return Err(Reason::BadHeader);
            }
            if tcp.header_len > ip_payload_len {
                return Err(Reason::BadLength);
            }
            tcp.write_to(ip_payload_len, packet);
        }
        protocol::UDP => {
            let udp = frame.header::<UdpHdr>(at).ok_or(Reason::Truncated)?;
            let len = usize::from(u16::from_be_bytes(udp.len));
            if len < size_of::<UdpHdr>() || len > ip_payload_len {
                return Err(Reason::BadLength);
            }
            // RFC 8200, 8.1: over IPv6 the checksum is not optional.
            if !packet.destination.is_v4() && udp.check == [0, 0] {
                return Err(Reason::BadHeader);
            }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let request = if packet.destination.is_v4() {
                (protocol::ICMP, ICMP_ECHO_REQUEST)
            } else {
                (protocol::ICMPV6, ICMPV6_ECHO_REQUEST)
            };
            let icmp = frame.header::<IcmpHdr>(at).ok_or(Reason::Truncated)?;
            if ip_payload_len < size_of::<IcmpHdr>() {
                return Err(Reason::BadLength);
            }
            if (packet.protocol, icmp.type_) == request && icmp.code == 0 {
                return Ok(());
            }
            // The kernel handles neighbour discovery for every address: neighbours verify SLB's host by it. Hop limit
            // 255 shows that no router has forwarded it (RFC 4861).
            if packet.protocol == protocol::ICMPV6
                && !packet.destination.is_v4()
                && matches!(icmp.type_, ICMPV6_ND_FIRST..=ICMPV6_ND_LAST)
                && packet.hop_limit == 255
            {
                *packet = EMPTY_PACKET;
            }
            return Err(Reason::OtherProtocol);
        }
        _ => return Err(Reason::OtherProtocol),
    }
    let ports = frame.header::<Ports>(at).ok_or(Reason::Truncated)?;
    packet.set_ports(ports);
    Ok(())
}
