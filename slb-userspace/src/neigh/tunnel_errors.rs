//! Makes the kernel learn path MTUs from ICMP errors about tunnel packets (RFC 2003, 5.1; RFC 2473, 6.7).
//! The protocol of a tunnel packet is that of the inner packet in mode `ipip`, and UDP in mode `gue`.
//!
//! A router that drops a tunnel packet sends its ICMP error to the tunnel packet's source, this host. The kernel takes
//! the path MTU from it only if a socket of that protocol exists.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use futures_util::future::{pending, select_all};
use nix::{
    libc::{BPF_K, BPF_RET},
    sys::socket::{
        MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use slb_common::net::headers::protocol;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// Protocols of tunnel packets.
const PROTOCOLS: [u8; 3] = [protocol::IPV4, protocol::IPV6, protocol::UDP];
/// Errors read at once; further ones follow.
const BATCH: usize = 64;

/// Sockets that receive ICMP errors about tunnel packets, and no packets.
#[derive(Default)]
pub(super) struct TunnelErrors(Vec<AsyncFd<Socket>>);

impl TunnelErrors {
    /// Opens sockets for these tunnel addresses; none for none.
    ///
    /// # Errors
    /// A raw socket cannot be opened; it requires `CAP_NET_RAW`.
    pub(super) fn open(tunnel_addresses: &BTreeSet<IpAddr>) -> io::Result<Self> {
        let each = tunnel_addresses.iter().flat_map(|from| PROTOCOLS.map(|protocol| (*from, protocol)));
        each.map(|(from, protocol)| open(from, protocol)).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for errors, and discards them: the kernel has learned from them.
    pub(super) async fn arrive(&self) {
        if self.0.is_empty() {
            return pending().await;
        }
        let waiting = self.0.iter().map(|socket| Box::pin(socket.ready(Interest::ERROR)));
        match select_all(waiting).await.0 {
            Ok(mut ready) if discard(ready.get_inner()) => ready.clear_ready(),
            Ok(_) => {}
            // The runtime ends.
            Err(_) => pending().await,
        }
    }
}

fn open(from: IpAddr, protocol: u8) -> io::Result<AsyncFd<Socket>> {
    let outer_v4 = from.is_ipv4();
    let domain = if outer_v4 { Domain::IPV4 } else { Domain::IPV6 };
    let protocol = Protocol::from(i32::from(protocol));
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    socket.attach_filter(&[SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0)])?;
    // The kernel copies the packets to the address for the socket, before the filter. An address that this host does not
    // have yet stays unbound: errors are more important than copies.
    let _ = socket.bind(&SocketAddr::new(from, 0).into());
    // Without it the kernel ignores IPv6 errors for a socket that is not connected.
    if outer_v4 { setsockopt(&socket, Ipv4RecvErr, &true) } else { setsockopt(&socket, Ipv6RecvErr, &true) }?;
    // SAFETY: a `Socket` owns its descriptor and returns the same one for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::ERROR) }?)
}

/// Empties the error queue, but for what exceeds [`BATCH`]. Whether it is empty.
fn discard(socket: &Socket) -> bool {
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let is_empty =
        (0..BATCH).any(|_| recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], None, flags).is_err());
    // Errors count as pending beside the queue, too.
    let _ = socket.take_error();
    is_empty
}
