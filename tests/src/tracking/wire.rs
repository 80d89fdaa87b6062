//! Sends frames of clients and servers through the packet path, and reads where they go.

use std::net::SocketAddr;

use slb_common::datapath::Verdict;

use super::{
    control::{FAR, NEAR},
    plane::HostPlane,
    servers::{PORT, address, at_station},
};
use crate::packets::frames::{self, Builder, flag};

/// Kind of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A datagram.
    Udp,
}

/// Result of a client's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// Forwarded to this server.
    To(usize),
    /// Rewritten to a RST, in either direction.
    Ended,
    /// Dropped.
    Nowhere,
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

fn between(from: SocketAddr, to: SocketAddr, kind: Kind) -> Builder {
    match kind {
        Kind::Tcp(flags) => frames::tcp(from, to, flags),
        Kind::Udp => frames::udp(from, to, b"datagram"),
    }
}

/// Sends a client's packet.
pub fn to_server(plane: &HostPlane, number: u32, kind: Kind) -> Went {
    let mut bytes = between(client(number), vip(), kind).build().bytes;
    let len = bytes.len();
    match plane.host_mut().process(&mut bytes, NEAR) {
        Verdict::Drop => Went::Nowhere,
        // Nothing else makes packets shorter, or sends them back.
        Verdict::Redirect(FAR) if bytes.len() < len => Went::Ended,
        Verdict::Transmit if bytes.len() < len => Went::Ended,
        Verdict::Redirect(FAR) => {
            let receiver = bytes[..6].try_into().expect("six bytes");
            Went::To(at_station(receiver).unwrap_or_else(|| panic!("sent to {receiver:02x?}")))
        }
        other => panic!("a client's packet: {other:?}"),
    }
}

/// Sends a server's answer through SLB. Returns whether it reaches the client with the VIP as source.
pub fn to_client(plane: &HostPlane, server: usize, number: u32, kind: Kind) -> bool {
    let kind = match kind {
        Kind::Tcp(flags) => Kind::Tcp(flags | flag::ACK),
        Kind::Udp => Kind::Udp,
    };
    let frame = between(address(server), client(number), kind).build();
    let (mut bytes, source) = (frame.bytes, frame.network + 12);
    let verdict = plane.host_mut().process(&mut bytes, FAR);
    verdict == Verdict::Redirect(NEAR) && bytes[source..source + 4] == [198, 51, 100, 10]
}
