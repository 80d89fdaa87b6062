//! Tunnel packets, built with etherparse and sent over raw sockets as a load balancer sends them.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder,
    TcpHeaderSlice,
};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Namespace;

const HOP_LIMIT: u8 = 64;

/// A UDP datagram.
///
/// # Errors
/// The addresses have different families.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    PacketBuilder::ip(header(from.ip(), to.ip(), IpNumber::UDP, 0)?)
        .udp(from.port(), to.port())
        .write(&mut packet, payload)?;
    Ok(packet)
}

/// A SYN.
///
/// # Errors
/// The addresses have different families.
pub fn syn(from: SocketAddr, to: SocketAddr, sequence: u32) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    PacketBuilder::ip(header(from.ip(), to.ip(), IpNumber::TCP, 0)?)
        .tcp(from.port(), to.port(), sequence, 64_000)
        .syn()
        .write(&mut packet, &[])?;
    Ok(packet)
}

/// Encapsulates a packet (RFC 2003, RFC 2473, RFC 4213).
///
/// # Errors
/// The outer addresses have different families.
pub fn wrap(inner: &[u8], from: IpAddr, to: IpAddr) -> Result<Vec<u8>> {
    let protocol = if inner[0] >> 4 == 4 { IpNumber::IPV4 } else { IpNumber::IPV6 };
    let mut packet = Vec::new();
    match header(from, to, protocol, inner.len())? {
        IpHeaders::Ipv4(ip, _) => ip.write(&mut packet)?,
        IpHeaders::Ipv6(ip, _) => ip.write(&mut packet)?,
    }
    packet.extend_from_slice(inner);
    Ok(packet)
}

/// Sends a packet from a namespace, unchanged.
///
/// # Errors
/// The caller is not root, or there is no route.
pub fn send(namespace: &Namespace, packet: &[u8], to: IpAddr) -> Result<()> {
    namespace.on_thread(|| {
        let socket =
            Socket::new(Domain::for_address((to, 0).into()), Type::RAW, Some(libc::IPPROTO_RAW.into()))?;
        let sent = socket.send_to(packet, &SocketAddr::new(to, 0).into())?;
        if sent != packet.len() {
            bail!("{sent} bytes sent of {}", packet.len());
        }
        Ok(())
    })
}

/// Receives the TCP segments for an address, with or without a connection.
#[derive(Debug)]
pub struct RawListener {
    socket: Socket,
    v4: bool,
}

impl RawListener {
    /// Opens a raw socket at an address of the namespace.
    ///
    /// # Errors
    /// The caller is not root, or the namespace does not hold the address.
    pub fn new(namespace: &Namespace, address: IpAddr, patience: Duration) -> Result<Self> {
        namespace.on_thread(|| {
            let domain = Domain::for_address((address, 0).into());
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::new(address, 0).into())?;
            socket.set_read_timeout(Some(patience))?;
            Ok(Self { socket, v4: address.is_ipv4() })
        })
    }

    /// Acknowledgement number of the next SYN-ACK between these ports.
    ///
    /// # Errors
    /// None arrives in time.
    pub fn acknowledged(&mut self, from: u16, to: u16) -> Result<u32> {
        let mut bytes = [0; 2048];
        loop {
            let length = self.socket.read(&mut bytes).context("no answer to a SYN")?;
            // IPv4 raw sockets deliver the IP header too.
            let header = if self.v4 { usize::from(bytes[0] & 15) * 4 } else { 0 };
            let segment = TcpHeaderSlice::from_slice(&bytes[header..length])?;
            if (segment.source_port(), segment.destination_port()) == (from, to)
                && segment.syn()
                && segment.ack()
            {
                return Ok(segment.acknowledgment_number());
            }
        }
    }
}

fn header(from: IpAddr, to: IpAddr, protocol: IpNumber, payload: usize) -> Result<IpHeaders> {
    let length = u16::try_from(payload)?;
    Ok(match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ip = Ipv4Header::new(length, HOP_LIMIT, protocol, from.octets(), to.octets())?;
            IpHeaders::Ipv4(ip, Ipv4Extensions::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                payload_length: length,
                next_header: protocol,
                hop_limit: HOP_LIMIT,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(ip, Ipv6Extensions::default())
        }
        _ => bail!("{from} and {to} are of two families"),
    })
}
