//! Source addresses of probes.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrLike as _};

/// Whether an address is local, as far as can be known. A bind does not show it, because `ip_nonlocal_bind` allows any
/// address. The kernel uses an address as source towards itself only if it is local.
pub fn is_own_address(address: IpAddr) -> bool {
    match source_towards(address) {
        Ok(own) => own == address,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::AddrNotAvailable
        ),
    }
}

/// The source address that the kernel chooses towards a server. Sends nothing.
pub(super) fn source_towards(server: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The first address of a family on an interface that others can answer to: neither loopback nor IPv6 link-local.
pub(super) fn of_interface(name: &str, is_v4: bool) -> Option<IpAddr> {
    let addresses = getifaddrs().ok()?.filter(|interface| {
        interface.interface_name == name && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
    });
    addresses
        .filter_map(|interface| {
            let storage = interface.address?;
            debug_assert!(storage.len() > 0);
            match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
                (Some(v4), _) => Some(SocketAddr::V4((*v4).into()).ip()),
                (_, Some(v6)) => Some(SocketAddr::V6((*v6).into()).ip()),
                _ => None,
            }
        })
        .find(|address| match address {
            IpAddr::V4(_) => is_v4,
            IpAddr::V6(v6) => !is_v4 && !v6.is_unicast_link_local(),
        })
}
