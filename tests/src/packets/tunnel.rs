//! Expected tunnel packets of the modes `ipip` and `gue`, built independently of the packet path.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket};
use slb_common::abi::{service::mode, tunnel::Tunnel};
use slb_control::dataplane::state::to_address;

use super::{
    check::{put, sum},
    frames::Frame,
    world::{GUE_PORT, Hop, TUNNEL4, TUNNEL6},
};

/// IP protocol numbers of IP in IP.
const IPV4: u8 = 4;
const IPV6: u8 = 41;

const UDP: u8 = 17;
/// First port of the range for source ports of tunnels (RFC 6335, 6).
const FIRST_EPHEMERAL: u16 = 49_152;

/// What SLB chooses for a flow's tunnel packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelFlow {
    /// Flow label of an outer IPv6 header; 0 over IPv4.
    pub label: u32,
    /// Outer UDP source port; 0 without UDP header.
    pub port: u16,
    /// The bits of the outer source address that vary by flow, in network byte order.
    pub source: u32,
}

impl TunnelFlow {
    /// Reads it from a frame whose outer IP header starts at offset `network`. A port out of its range is replaced.
    pub fn read(frame: &[u8], network: usize, mode: u8, tunnel: &Tunnel) -> Self {
        let (label, source, transport) = match frame.get(network..network + 4) {
            Some([first, rest @ ..]) if first >> 4 == 6 => {
                (u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) & 0xf_ffff, network + 20, network + 40)
            }
            _ => (0, network + 12, network + 20),
        };
        let by_flow = if transport == network + 40 { tunnel.by_flow_v6 } else { tunnel.by_flow_v4 };
        let source =
            frame.get(source..source + 4).map_or(0, |at| u32::from_ne_bytes([at[0], at[1], at[2], at[3]]));
        let port = match frame.get(transport..transport + 2) {
            Some([high, low]) if mode == mode::GUE => u16::from_be_bytes([*high, *low]).max(FIRST_EPHEMERAL),
            _ => 0,
        };
        Self { label, port, source: source & by_flow }
    }
}

/// The expected frame to a server.
pub fn wrapped(frame: &Frame, hop: &Hop, server: SocketAddr, mode: u8, flow: TunnelFlow) -> Vec<u8> {
    let mut packet = frame.bytes[frame.network..].to_vec();
    let v4 = packet[0] >> 4 == 4;
    let class = if v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    let is_gue = mode == mode::GUE;
    let protocol = if is_gue {
        UDP
    } else if v4 {
        IPV4
    } else {
        IPV6
    };
    let len = (frame.end - frame.network) as u16 + if is_gue { 8 } else { 0 };
    if v4 {
        packet[8] -= 1;
        put(&mut packet, 10, 0);
        let header = usize::from(packet[0] & 15) * 4;
        let check = !sum(&packet[..header]);
        put(&mut packet, 10, check);
    } else {
        packet[7] -= 1;
    }

    let mut out = Vec::new();
    out.extend(hop.peer);
    out.extend(hop.own);
    out.extend(&frame.bytes[12..frame.network - 2]);
    let [v4, v6] = [TUNNEL4, TUNNEL6].map(|from| to_address(from).with_last(flow.source));
    match server.ip() {
        IpAddr::V4(to) => {
            let mut header = vec![0x45, class];
            header.extend((len + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(v4.v4_bytes());
            header.extend(to.octets());
            let check = !sum(&header);
            put(&mut header, 10, check);
            out.extend([8, 0]);
            out.extend(header);
        }
        IpAddr::V6(to) => {
            out.extend([0x86, 0xdd]);
            out.extend((6 << 28 | u32::from(class) << 20 | flow.label).to_be_bytes());
            out.extend(len.to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(v6.v6_bytes());
            out.extend(to.octets());
        }
    }
    if is_gue {
        out.extend(udp_header(frame, &packet, server, flow, len));
    }
    out.extend(packet);
    out
}

/// Over IPv4 without a checksum. Over IPv6 with that of all bytes, if the inner packet has one over all of them.
fn udp_header(frame: &Frame, packet: &[u8], server: SocketAddr, flow: TunnelFlow, len: u16) -> Vec<u8> {
    let mut header = [flow.port, GUE_PORT, len, 0].map(u16::to_be_bytes).concat();
    let transport = frame.transport - frame.network;
    let is_whole = if packet[0] >> 4 == 4 {
        u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0
    } else {
        transport == 40
    };
    let packet = &packet[..usize::from(len) - 8];
    let is_unchecked = frame.protocol == UDP
        && (packet[transport + 6..transport + 8] == [0, 0]
            || packet[transport + 4..transport + 6] != ((packet.len() - transport) as u16).to_be_bytes());
    if let IpAddr::V6(to) = server.ip()
        && is_whole
        && !is_unchecked
    {
        let ends = [to_address(TUNNEL6).with_last(flow.source).v6_bytes(), to.octets()].concat();
        let check = !sum(&[&ends[..], &len.to_be_bytes(), &[0, UDP], &header, packet].concat());
        put(&mut header, 6, if check == 0 { 0xffff } else { check });
    }
    header
}

/// The inner packet of a tunnel packet, as a frame.
pub(super) fn inner(packet: &SlicedPacket<'_>) -> Option<Vec<u8>> {
    let (protocol, payload) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => (ip.header().protocol().0, ip.payload().payload),
        NetSlice::Ipv6(ip) => (ip.header().next_header().0, ip.payload().payload),
        _ => return None,
    };
    let kind: [u8; 2] = match protocol {
        IPV4 => [8, 0],
        IPV6 => [0x86, 0xdd],
        UDP if payload.get(2..4) == Some(&GUE_PORT.to_be_bytes()[..]) => {
            let inner = payload.get(8..)?;
            let kind: [u8; 2] = if inner.first()? >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            return Some([&[0; 12], &kind[..], inner].concat());
        }
        _ => return None,
    };
    Some([&[0; 12], &kind[..], payload].concat())
}
