//! Sockets of probes.

use std::{io, net::IpAddr};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// The protocol of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::health) enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, or ICMPv6.
    Icmp,
}

/// Opens a non-blocking socket with `SO_MARK`.
pub(super) fn open(to: IpAddr, transport: Transport, mark: Option<u32>) -> io::Result<Socket> {
    let (kind, protocol) = match (transport, to) {
        (Transport::Tcp, _) => (Type::STREAM, Protocol::TCP),
        (Transport::Udp, _) => (Type::DGRAM, Protocol::UDP),
        (Transport::Icmp, IpAddr::V4(_)) => (Type::RAW, Protocol::ICMPV4),
        (Transport::Icmp, IpAddr::V6(_)) => (Type::RAW, Protocol::ICMPV6),
    };
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

/// Binds a socket to an address. The kernel chooses the port at connect, so one port can be used towards many servers.
pub(super) fn bind_address(socket: &Socket, source: IpAddr) -> io::Result<()> {
    if socket.r#type()? == Type::STREAM {
        setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    }
    socket.bind(&std::net::SocketAddr::new(source, 0).into())
}
