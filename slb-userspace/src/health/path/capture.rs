//! Captures answers that servers send from VIPs.
//!
//! They are addressed to this host. Its IP stack drops them if the VIP is local, because their source is a local
//! address. Otherwise it refuses them, because their sockets are in another namespace. A packet socket receives them
//! first.

use std::{
    collections::BTreeSet,
    io,
    mem::MaybeUninit,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use slb_common::net::headers::ether_type;
use socket2::{Domain, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::filter;
use crate::packet_address::packet_address;

/// Receive buffer in bytes, for several times the probes that start at once.
const BUFFER: usize = 8 << 20;

/// Captures packets of one address family on all interfaces.
#[derive(Debug)]
pub(super) struct Capture {
    socket: AsyncFd<Socket>,
    is_v4: bool,
    known: Mutex<CaptureFilter>,
}

/// The addresses whose packets are captured.
#[derive(Debug, Default)]
struct CaptureFilter {
    vips: BTreeSet<IpAddr>,
    sources: BTreeSet<IpAddr>,
}

impl Capture {
    /// Opens a capture that receives nothing yet.
    pub(super) fn open(is_v4: bool) -> io::Result<Self> {
        // Protocol 0: it receives nothing before the filter is attached.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.attach_filter(&filter::nothing())?;
        // May exceed `net.core.rmem_max`, which requires `CAP_NET_ADMIN`.
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        socket.bind(&packet_address(libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::sa_family_t,
            // The constants are in network byte order. Outgoing packets do not match this type.
            sll_protocol: if is_v4 { ether_type::IPV4 } else { ether_type::IPV6 },
            sll_ifindex: 0,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        }))?;
        // SAFETY: a `Socket` owns its descriptor and returns the same one for as long as it lives.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket, is_v4, known: Mutex::default() })
    }

    /// Also captures what this VIP sends to this address.
    pub(super) fn allow(&self, vip: IpAddr, source: IpAddr) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.vips.insert(vip) | known.sources.insert(source) {
            let [from, to] = [&known.vips, &known.sources].map(|set| set.iter().copied().collect::<Vec<_>>());
            self.socket.get_ref().attach_filter(&filter::between(self.is_v4, &from, &to))?;
        }
        Ok(())
    }

    /// Receives the next packet.
    pub(super) async fn next<'a>(&self, buffer: &'a mut [MaybeUninit<u8>]) -> io::Result<&'a [u8]> {
        let length = self.socket.async_io(Interest::READABLE, |socket| socket.recv(buffer)).await?;
        // SAFETY: the kernel has written the first `length` bytes.
        Ok(unsafe { buffer[..length].assume_init_ref() })
    }
}
