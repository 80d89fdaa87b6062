//! Which address of this host a probe comes from.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrLike as _};

/// Whether this host has an address, as far as can be known. Not whether a socket may be bound to it: with `ip_nonlocal_bind`
/// that is any. Only to an address of its own it speaks from the same.
pub fn is_here(address: IpAddr) -> bool {
    match towards(address) {
        Ok(own) => own == address,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::AddrNotAvailable
        ),
    }
}

/// The address this host uses towards a server; nothing is sent.
pub(super) fn towards(server: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The first address of a family of an interface that others can answer to.
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
