//! Packet sockets: one sends announcements, two receive what other hosts claim.

use std::{io, mem::MaybeUninit, net::IpAddr};

use anyhow::{Context as _, Result};
use nix::libc::{self, BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
use slb_common::net::headers::{ether_type, protocol};
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::claims;
use crate::{neigh::Mac, packet_address::packet_address};

/// Bytes of a packet that are read: an ARP packet, or a neighbour advertisement up to its target.
const READ: usize = 64;

/// The sockets, in the network namespace in which they were opened.
pub(super) struct Sockets {
    frames: Socket,
    arp: AsyncFd<Socket>,
    discovery: AsyncFd<Socket>,
}

/// A host's statement that it has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// Index of the interface that it arrived at.
    pub(super) interface: u32,
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
}

impl Sockets {
    pub(super) fn open() -> Result<Self> {
        let open = |kind: Type| Socket::new(Domain::PACKET, kind.nonblocking().cloexec(), None);
        // Protocol 0: it receives nothing.
        let frames = open(Type::RAW).context("cannot open a packet socket")?;
        let receiver = |ether_type: u16, filter: &[SockFilter]| {
            let socket = open(Type::DGRAM)?;
            socket.attach_filter(filter)?;
            socket.bind(&link_address(ether_type, 0))?;
            // SAFETY: a `Socket` owns its descriptor and returns the same one for as long as it lives.
            io::Result::Ok(unsafe { AsyncFd::register(socket) }?)
        };
        let arp = receiver(ether_type::ARP, &[statement(BPF_RET | BPF_K, READ as u32)])?;
        let discovery = receiver(ether_type::IPV6, &advertisements())?;
        Ok(Self { frames, arp, discovery })
    }

    /// Sends an Ethernet frame by an interface.
    pub(super) fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        self.frames.send_to(frame, &link_address(0, interface)).map(drop)
    }

    /// The next claim of any host. Cancel-safe.
    pub(super) async fn next_claim(&self) -> io::Result<Claim> {
        loop {
            let claim = tokio::select! {
                received = receive(&self.arp) => {
                    let (packet, length, interface, _) = received?;
                    (claims::of_arp(&packet[..length]), interface)
                }
                received = receive(&self.discovery) => {
                    let (packet, length, interface, mac) = received?;
                    (claims::of_advertisement(&packet[..length], mac), interface)
                }
            };
            if let (Some((address, mac)), interface) = claim {
                return Ok(Claim { interface, address, mac });
            }
        }
    }
}

/// The next packet without its link header, its length, the interface that it arrived at, and its sender.
async fn receive(socket: &AsyncFd<Socket>) -> io::Result<([u8; READ], usize, u32, Mac)> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); READ];
    let (length, from) = socket.async_io(Interest::READABLE, |socket| socket.recv_from(&mut buffer)).await?;
    let mut packet = [0; READ];
    // SAFETY: the kernel has written the first `length` bytes.
    packet[..length].copy_from_slice(unsafe { buffer[..length].assume_init_ref() });
    let mut storage: SockAddrStorage = from.as_storage();
    // SAFETY: packet sockets have addresses of this kind.
    let from = *unsafe { storage.view_as::<libc::sockaddr_ll>() };
    let mut mac = Mac::default();
    mac.copy_from_slice(&from.sll_addr[..6]);
    Ok((packet, length, from.sll_ifindex.cast_unsigned(), mac))
}

fn link_address(ether_type: u16, interface: u32) -> SockAddr {
    packet_address(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        // The constants are in network byte order.
        sll_protocol: ether_type,
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    })
}

/// Passes neighbour advertisements. Packets start with the IP header.
fn advertisements() -> [SockFilter; 6] {
    const NEXT_HEADER: u32 = 6;
    const KIND: u32 = 40;
    const ADVERTISEMENT: u32 = 136;
    // Skips so many instructions where the byte differs.
    let unless = |value: u32, skipped| SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, skipped, value);
    [
        statement(BPF_LD | BPF_B | BPF_ABS, NEXT_HEADER),
        unless(protocol::ICMPV6.into(), 3),
        statement(BPF_LD | BPF_B | BPF_ABS, KIND),
        unless(ADVERTISEMENT, 1),
        statement(BPF_RET | BPF_K, READ as u32),
        statement(BPF_RET | BPF_K, 0),
    ]
}

fn statement(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}
