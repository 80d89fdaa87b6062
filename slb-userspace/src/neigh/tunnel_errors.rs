//! Makes the kernel learn path MTUs from ICMP errors about tunnel packets (RFC 2003, 5.1; RFC 2473, 6.7).
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
    cmsg_space,
    libc::{BPF_K, BPF_RET, EMSGSIZE, sock_extended_err, sockaddr_in6},
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::yield_now,
};
use tracing::warn;

/// Errors read at once; further ones follow.
const BATCH: usize = 64;

/// Sockets that receive ICMP errors about tunnel packets, and no packets.
#[derive(Default)]
pub(super) struct TunnelErrors(Vec<AsyncFd<Socket>>);

impl TunnelErrors {
    /// Opens sockets for packets with these sources and IP protocols; none for none.
    ///
    /// # Errors
    /// A raw socket cannot be opened; it requires `CAP_NET_RAW`.
    pub(super) fn open(tunnels: &BTreeSet<(IpAddr, u8)>) -> io::Result<Self> {
        tunnels.iter().map(|(from, protocol)| open(*from, *protocol)).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for errors that state a path MTU: the kernel has learned from them. Discards all errors.
    pub(super) async fn arrive(&self) {
        if self.0.is_empty() {
            return pending().await;
        }
        loop {
            let waiting = self.0.iter().map(|socket| Box::pin(socket.ready(Interest::ERROR)));
            let Ok(mut ready) = select_all(waiting).await.0 else {
                // The runtime ends.
                return pending().await;
            };
            let read = discard(ready.get_inner());
            if read.is_empty {
                ready.clear_ready();
            }
            if read.has_mtu {
                return;
            }
            // A flood of other errors must not keep the task.
            yield_now().await;
        }
    }
}

fn open(from: IpAddr, protocol: u8) -> io::Result<AsyncFd<Socket>> {
    let outer_v4 = from.is_ipv4();
    let domain = if outer_v4 { Domain::IPV4 } else { Domain::IPV6 };
    let raw = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(domain, raw, Some(Protocol::from(i32::from(protocol))))?;
    socket.attach_filter(&[SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0)])?;
    // The kernel copies the packets to the address for the socket, before the filter. An address that this host does not
    // have yet stays unbound: errors are more important than copies.
    if let Err(error) = socket.bind(&SocketAddr::new(from, 0).into()) {
        warn!(address = %from, protocol, %error, "the kernel copies packets to all addresses for ICMP errors of tunnels");
    }
    // Without it the kernel ignores IPv6 errors for a socket that is not connected.
    if outer_v4 { setsockopt(&socket, Ipv4RecvErr, &true) } else { setsockopt(&socket, Ipv6RecvErr, &true) }?;
    // SAFETY: a `Socket` owns its descriptor and returns the same one for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::ERROR) }?)
}

/// What an error queue held.
#[derive(Default)]
struct Discarded {
    /// Whether it is empty now.
    is_empty: bool,
    /// Whether an error stated a path MTU.
    has_mtu: bool,
}

/// Empties the error queue, but for what exceeds [`BATCH`].
fn discard(socket: &Socket) -> Discarded {
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let mut control = cmsg_space!(sock_extended_err, sockaddr_in6);
    let mut read = Discarded::default();
    for _ in 0..BATCH {
        let error = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut control), flags);
        let Ok(error) = error else {
            read.is_empty = true;
            break;
        };
        read.has_mtu |= error.cmsgs().is_ok_and(|mut messages| messages.any(|message| is_too_big(&message)));
    }
    // Errors count as pending beside the queue, too, also those that it had no room for.
    let pending = socket.take_error().ok().flatten().and_then(|error| error.raw_os_error());
    read.has_mtu |= pending == Some(EMSGSIZE);
    read
}

/// "Fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443, 3.2), which are `EMSGSIZE` in Linux.
fn is_too_big(message: &ControlMessageOwned) -> bool {
    let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) = message
    else {
        return false;
    };
    error.ee_errno == EMSGSIZE as u32
}
