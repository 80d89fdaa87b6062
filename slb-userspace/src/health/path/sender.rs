//! Sends probe packets on the path of the traffic.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use nix::libc;
use slb_common::net::headers::{ether_type, protocol};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{ProbeSettings, filter, registry::ProbePath};
use crate::{neigh::Mac, packet_address::packet_address};

/// Sockets for unchanged packets and for tunnels.
#[derive(Debug)]
pub(super) struct ProbeSender {
    frames: Socket,
    tunnels: Vec<Tunnel>,
    /// Sockets of mode `gue`, by whether they send over IPv4.
    gue: Vec<(bool, Socket)>,
    gue_port: u16,
}

/// A socket that encapsulates packets of one address family in another or the same one.
#[derive(Debug)]
struct Tunnel {
    inner_v4: bool,
    outer_v4: bool,
    socket: Socket,
}

impl ProbeSender {
    /// Opens the sockets.
    pub(super) fn open(settings: &ProbeSettings) -> io::Result<Self> {
        let ProbeSettings { tunnel_addresses, gue_port, mark, .. } = settings;
        let (gue_port, mark) = (*gue_port, *mark);
        let (mut tunnels, mut gue) = (Vec::new(), Vec::new());
        for address in tunnel_addresses {
            for inner_v4 in [true, false] {
                let socket = tunnel(*address, inner_v4, mark)?;
                tunnels.push(Tunnel { inner_v4, outer_v4: address.is_ipv4(), socket });
            }
            gue.push((address.is_ipv4(), gue_tunnel(*address, mark)?));
        }
        // Protocol 0: it receives nothing.
        let frames = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        if let Some(mark) = mark {
            frames.set_mark(mark)?;
        }
        Ok(Self { frames, tunnels, gue, gue_port })
    }

    pub(super) fn send(&self, packet: &[u8], probe_path: ProbePath) -> io::Result<()> {
        let is_v4 = packet.first().is_some_and(|first| first >> 4 == 4);
        match probe_path {
            ProbePath::Dsr { interface, mac } => {
                self.frames.send_to(packet, &link_address(interface, mac, is_v4))?;
            }
            ProbePath::Ipip { server } => {
                let fits = |tunnel: &&Tunnel| tunnel.inner_v4 == is_v4 && tunnel.outer_v4 == server.is_ipv4();
                let tunnel = self.tunnels.iter().find(fits).ok_or(io::ErrorKind::AddrNotAvailable)?;
                // The kernel adds the outer header and looks up the route.
                tunnel.socket.send_to(packet, &SocketAddr::new(server, 0).into())?;
            }
            ProbePath::Gue { server } => {
                let mut sockets = self.gue.iter();
                let found = sockets.find(|(outer_v4, _)| *outer_v4 == server.is_ipv4());
                let (_, socket) = found.ok_or(io::ErrorKind::AddrNotAvailable)?;
                // The IP packet is the datagram's payload.
                socket.send_to(packet, &SocketAddr::new(server, self.gue_port).into())?;
            }
        }
        Ok(())
    }
}

/// A raw socket whose protocol number is that of the inner packet (RFC 2003, RFC 2473, RFC 4213).
fn tunnel(from: IpAddr, inner_v4: bool, mark: Option<u32>) -> io::Result<Socket> {
    let domain = if from.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let number = if inner_v4 { protocol::IPV4 } else { protocol::IPV6 };
    let protocol = Protocol::from(i32::from(number));
    bound(Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?, from, mark)
}

/// A UDP socket at a free port. Not connected: a closed port at one server must not become an error of the next probe.
fn gue_tunnel(from: IpAddr, mark: Option<u32>) -> io::Result<Socket> {
    let domain = if from.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    bound(Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?, from, mark)
}

fn bound(socket: Socket, from: IpAddr, mark: Option<u32>) -> io::Result<Socket> {
    // Answers are not encapsulated.
    socket.attach_filter(&filter::nothing())?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket)
}

/// The destination of a frame.
fn link_address(interface: u32, mac: Mac, is_v4: bool) -> SockAddr {
    let mut sll_addr = [0; 8];
    sll_addr[..mac.len()].copy_from_slice(&mac);
    packet_address(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        // The constants are in network byte order.
        sll_protocol: if is_v4 { ether_type::IPV4 } else { ether_type::IPV6 },
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: mac.len() as u8,
        sll_addr,
    })
}
