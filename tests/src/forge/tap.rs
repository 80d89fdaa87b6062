//! Captures all frames that arrive at an interface, whatever their destination MAC.

use std::{
    io::ErrorKind,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::{libc, net::if_::if_nametoindex};
use socket2::{Domain, Socket, Type};

use super::{address, set_option};
use crate::{net::Namespace, wait::wait_for};

/// Receive buffer in bytes.
const ROOM: i32 = 64 << 20;

/// Captures frames that arrive at one interface after it was opened.
#[derive(Debug)]
pub struct Tap(Socket);

/// A captured IP packet.
#[derive(Debug, Clone)]
pub struct CapturedFrame {
    /// Destination MAC.
    pub receiver: [u8; 6],
    /// Source; port 0 if the packet has no ports.
    pub from: SocketAddr,
    /// Destination; port 0 if the packet has no ports.
    pub to: SocketAddr,
    /// TCP: flags, sequence and acknowledgement number.
    pub tcp: Option<(u8, u32, u32)>,
    /// Type of the ICMP or ICMPv6 message.
    pub icmp: Option<u8>,
    /// Payload of the transport header.
    pub payload: Vec<u8>,
}

impl Tap {
    /// Opens a packet socket for all protocols on an interface of this namespace.
    ///
    /// # Errors
    /// The interface does not exist, or the caller is not root.
    pub fn at(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.on_thread(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
            set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM)?;
            socket.bind(&address(if_nametoindex(interface)?, (libc::ETH_P_ALL as u16).to_be()))?;
            Ok(Self(socket))
        })
    }

    /// Packets that have arrived since the last call.
    ///
    /// # Errors
    /// The interface no longer exists.
    pub fn seen(&self) -> Result<Vec<CapturedFrame>> {
        let mut all = Vec::new();
        while let Some(seen) = self.next()? {
            all.extend(seen);
        }
        Ok(all)
    }

    /// Waits for a packet that `is_it` accepts, and discards those before it.
    ///
    /// # Errors
    /// No such packet arrives within `limit`.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut is_it: impl FnMut(&CapturedFrame) -> bool,
    ) -> Result<CapturedFrame> {
        wait_for(what, limit, || {
            while let Some(seen) = self.next()? {
                if let Some(seen) = seen.filter(&mut is_it) {
                    return Ok(Some(seen));
                }
            }
            Ok(None)
        })
    }

    /// The next frame: `None` if none waits, `Some(None)` for outgoing frames and frames that cannot be parsed.
    fn next(&self) -> Result<Option<Option<CapturedFrame>>> {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        match self.0.recv_from(&mut buffer) {
            Ok((length, from)) => {
                // SAFETY: the kernel has written this many bytes.
                let bytes = unsafe { buffer[..length.min(buffer.len())].assume_init_ref() };
                // SAFETY: addresses of packet sockets are `sockaddr_ll`.
                let link = unsafe { &*from.as_ptr().cast::<libc::sockaddr_ll>() };
                let arrives = link.sll_pkttype != libc::PACKET_OUTGOING;
                Ok(Some(arrives.then(|| CapturedFrame::parse(bytes)).flatten()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl CapturedFrame {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(bytes).ok()?;
        let (from, to): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return None,
        };
        let receiver = bytes[..6].try_into().ok()?;
        let mut seen = Self {
            receiver,
            from: (from, 0).into(),
            to: (to, 0).into(),
            tcp: None,
            icmp: None,
            payload: Vec::new(),
        };
        match packet.transport? {
            TransportSlice::Tcp(tcp) => {
                seen.from.set_port(tcp.source_port());
                seen.to.set_port(tcp.destination_port());
                let flags = tcp.slice()[13];
                seen.tcp = Some((flags, tcp.sequence_number(), tcp.acknowledgment_number()));
                seen.payload = tcp.payload().to_vec();
            }
            TransportSlice::Udp(udp) => {
                seen.from.set_port(udp.source_port());
                seen.to.set_port(udp.destination_port());
                seen.payload = udp.payload().to_vec();
            }
            TransportSlice::Icmpv4(icmp) => {
                seen.icmp = Some(icmp.slice()[0]);
                seen.payload = icmp.payload().to_vec();
            }
            TransportSlice::Icmpv6(icmp) => {
                seen.icmp = Some(icmp.slice()[0]);
                seen.payload = icmp.payload().to_vec();
            }
            TransportSlice::Igmp(_) => return None,
        }
        Some(seen)
    }
}
