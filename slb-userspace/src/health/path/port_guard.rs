//! Keeps the host's IP stack from answering packets to a probe's port.
//!
//! The probe's socket is in another namespace, so the host has no connection for an answer from the VIP and would send
//! a RST. A host socket therefore holds the port and drops everything.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::Socket;

use super::{
    filter,
    socket::{self, Transport},
};

/// Binds a free port of the source address. Returns the socket and the port.
pub(super) fn reserve_port(source: IpAddr, transport: Transport) -> io::Result<(Socket, u16)> {
    let socket = socket::open(source, transport, None)?;
    socket.attach_filter(&filter::nothing())?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    if transport == Transport::Tcp {
        // TCP treats a bound port without a listener as closed.
        socket.listen(1)?;
    }
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((socket, port))
}
