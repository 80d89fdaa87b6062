//! Keeps the host's own stack from answering what comes to a probe's port.
//!
//! The probe's socket is in another namespace: to the host, an answer from the VIP belongs to no connection, and it would
//! be reset. So a socket of the host holds the port and drops everything.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::Socket;

use super::{
    filter,
    socket::{self, Transport},
};

/// Takes a port of the host's address that is free, and returns it with the socket that holds it.
pub(super) fn hold(source: IpAddr, transport: Transport) -> io::Result<(Socket, u16)> {
    let socket = socket::open(source, transport, None)?;
    socket.attach_filter(&filter::nothing())?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    if transport == Transport::Tcp {
        // A port that is only bound is as good as closed.
        socket.listen(1)?;
    }
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((socket, port))
}
