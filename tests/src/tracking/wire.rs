//! Frames to the listeners and from the servers, and where they went.

use std::net::SocketAddr;

use slb_common::datapath::Verdict;

use super::{
    control::{FAR, NEAR},
    plane::HostPlane,
    servers::{PORT, address, at_station},
};
use crate::packets::frames::{self, Builder, flag};

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A datagram.
    Udp,
}

/// Where a client's packet went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// To a server.
    To(usize),
    /// It became a RST, which tells one of the ends that the connection is over.
    Ended,
    /// It was dropped.
    Nowhere,
}

/// A client endpoint by its number.
pub fn client(number: u32) -> SocketAddr {
    // Sixteen of them have one address.
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

/// Sends a server's answer through SLB: whether the client gets it from the VIP.
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
