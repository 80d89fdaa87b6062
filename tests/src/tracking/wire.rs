//! Sends frames of clients and servers through the packet path, and reads where they go.

use std::net::SocketAddr;

use slb_common::datapath::Verdict;

use super::{
    control::{FAR, NEAR},
    plane::HostPlane,
    servers::{PORT, address, server_of_mac},
};
use crate::packets::frames::{self, Builder, flag};

/// Kind of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A datagram.
    Udp,
}

/// Result of a client's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Forwarded to this server.
    Forwarded(usize),
    /// Rewritten to a RST, in either direction.
    Reset,
    /// Dropped.
    Dropped,
}

/// Client endpoint with this number.
pub fn client(number: u32) -> SocketAddr {
    // Sixteen client endpoints share an address.
    let [b, c, d] = [20, 12, 4].map(|shift| (number >> shift) as u8);
    let rest = (number & 15 | number >> 28 << 4) as u16;
    SocketAddr::from(([203, b, c, d], 20_000 + rest))
}

fn vip() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 10], PORT))
}

fn between(from: SocketAddr, to: SocketAddr, kind: PacketKind) -> Builder {
    match kind {
        PacketKind::Tcp(flags) => frames::tcp(from, to, flags),
        PacketKind::Udp => frames::udp(from, to, b"datagram"),
    }
}

/// Sends a client's packet.
pub fn to_server(plane: &HostPlane, number: u32, kind: PacketKind) -> Outcome {
    let mut bytes = between(client(number), vip(), kind).build().bytes;
    let len = bytes.len();
    match plane.host_mut().process(&mut bytes, NEAR) {
        Verdict::Drop => Outcome::Dropped,
        // Nothing else makes packets shorter, or sends them back.
        Verdict::Redirect(FAR) if bytes.len() < len => Outcome::Reset,
        Verdict::Transmit if bytes.len() < len => Outcome::Reset,
        Verdict::Redirect(FAR) => {
            let receiver = bytes[..6].try_into().expect("six bytes");
            Outcome::Forwarded(server_of_mac(receiver).unwrap_or_else(|| panic!("sent to {receiver:02x?}")))
        }
        other => panic!("a client's packet: {other:?}"),
    }
}

/// Sends a server's answer through SLB. Returns whether it reaches the client with the VIP as source.
pub fn to_client(plane: &HostPlane, server: usize, number: u32, kind: PacketKind) -> bool {
    let kind = match kind {
        PacketKind::Tcp(flags) => PacketKind::Tcp(flags | flag::ACK),
        PacketKind::Udp => PacketKind::Udp,
    };
    let frame = between(address(server), client(number), kind).build();
    let (mut bytes, source) = (frame.bytes, frame.network + 12);
    let verdict = plane.host_mut().process(&mut bytes, FAR);
    verdict == Verdict::Redirect(NEAR) && bytes[source..source + 4] == [198, 51, 100, 10]
}
