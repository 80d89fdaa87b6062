//! Expected tunnel packets of mode `ipip`, built independently of the packet path.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket};

use super::{
    check::{put, sum},
    frames::Frame,
    world::{Hop, TUNNEL4, TUNNEL6},
};

/// IP protocol numbers of IP in IP.
const IPV4: u8 = 4;
const IPV6: u8 = 41;

/// The expected frame to a server. `label` is the IPv6 flow label, which SLB chooses.
pub fn wrapped(frame: &Frame, hop: &Hop, server: SocketAddr, label: u32) -> Vec<u8> {
    let mut packet = frame.bytes[frame.network..].to_vec();
    let v4 = packet[0] >> 4 == 4;
    let class = if v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    let protocol = if v4 { IPV4 } else { IPV6 };
    let len = (frame.end - frame.network) as u16;
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
    match (server.ip(), TUNNEL4, TUNNEL6) {
        (IpAddr::V4(to), IpAddr::V4(from), _) => {
            let mut header = vec![0x45, class];
            header.extend((len + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let check = !sum(&header);
            put(&mut header, 10, check);
            out.extend([8, 0]);
            out.extend(header);
        }
        (IpAddr::V6(to), _, IpAddr::V6(from)) => {
            out.extend([0x86, 0xdd]);
            out.extend((6 << 28 | u32::from(class) << 20 | label).to_be_bytes());
            out.extend(len.to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(from.octets());
            out.extend(to.octets());
        }
        _ => panic!("tunnels have no such source"),
    }
    out.extend(packet);
    out
}

/// The flow label of a frame whose IPv6 header starts at offset `network`; 0 in any other frame.
pub fn label(frame: &[u8], network: usize) -> u32 {
    match frame.get(network..network + 4) {
        Some([first, rest @ ..]) if first >> 4 == 6 => {
            u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) & 0xf_ffff
        }
        _ => 0,
    }
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
        _ => return None,
    };
    Some([&[0; 12], &kind[..], payload].concat())
}
