//! Provokes idle peers of ended connections. Each peer receives a segment in the other one's name that is outside its
//! window. A live connection answers with an ACK that has its own numbers (RFC 9293, section 3.10.7.4; challenge ACK in
//! RFC 5961). The data path rewrites that ACK to a RST with valid numbers.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use slb_common::net::{checksum::Delta, headers::protocol};

use slb_control::finished_flows::TerminatedConnection;

/// Sends segments with any source address, over raw sockets.
#[derive(Debug)]
pub struct Provoker {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Provoker {
    /// Opens the sockets.
    ///
    /// # Errors
    /// A raw socket cannot be opened; it requires `CAP_NET_RAW`.
    pub fn new() -> Result<Self> {
        let open = |family| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            // The sender writes the IP header, for IPv6 too: raw(7).
            socket(family, SockType::Raw, flags, SockProtocol::Raw).context("cannot open a raw socket")
        };
        Ok(Self { v4: open(AddressFamily::Inet)?, v6: open(AddressFamily::Inet6)? })
    }

    /// Provokes both ends of a connection. Lost segments are not repeated: a peer receives its RST when it next sends a
    /// packet.
    pub fn provoke(&self, ended: &TerminatedConnection) {
        let TerminatedConnection { client, source, vip, server } = *ended;
        for (from, to) in [(vip, client), (source, server)] {
            if let Err(error) = self.send(from, to) {
                tracing::debug!(%from, %to, error = format!("{error:#}"), "cannot provoke an idle peer");
            }
        }
    }

    fn send(&self, from: SocketAddr, to: SocketAddr) -> Result<()> {
        let packet = segment(from, to, fastrand::u32(..), fastrand::u32(..)).context("two families")?;
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        // For raw sockets the port would be a protocol.
        let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
        sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
        Ok(())
    }
}

const HEADER: usize = 20;
const HOP_LIMIT: u8 = 64;

/// An IP packet with a TCP ACK without data; `None` if the addresses differ in family.
fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> Option<Vec<u8>> {
    let mut tcp = [0; HEADER];
    tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    // Data offset of five words; flag ACK.
    tcp[12..14].copy_from_slice(&[5 << 4, 16]);
    let sum =
        Delta::default().plus((HEADER as u16).to_be()).plus(u16::from(protocol::TCP).to_be()).bytes(&tcp);
    let (mut packet, check) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel fills in id and checksum.
            let mut ip = vec![0x45, 0, 0, 2 * HEADER as u8, 0, 0, 0x40, 0, HOP_LIMIT, protocol::TCP, 0, 0];
            ip.extend([from.octets(), to.octets()].concat());
            (ip, sum.bytes(&from.octets()).bytes(&to.octets()).checksum())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, HEADER as u8, protocol::TCP, HOP_LIMIT];
            ip.extend([from.octets(), to.octets()].concat());
            (ip, sum.bytes(&from.octets()).bytes(&to.octets()).checksum())
        }
        _ => return None,
    };
    tcp[16..18].copy_from_slice(&check);
    packet.extend(tcp);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpSlice, SlicedPacket, TransportSlice};

    #[test]
    fn provoking_segment_is_valid_in_both_families() {
        for (from, to) in
            [("192.0.2.10:80", "203.0.113.7:40000"), ("[2001:db8::10]:80", "[2001:db8::7]:40000")]
        {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = segment(from, to, 0x0102_0304, 0x0506_0708).unwrap();
            let ip = IpSlice::from_slice(&packet).unwrap();
            assert_eq!((ip.source_addr(), ip.destination_addr()), (from.ip(), to.ip()));
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("{sliced:?}") };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (from.port(), to.port()));
            assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (0x0102_0304, 0x0506_0708));
            assert!(tcp.ack() && !tcp.syn() && !tcp.rst() && !tcp.fin() && tcp.payload().is_empty());
            let check = match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => tcp.calc_checksum_ipv4(from.octets(), to.octets()),
                (IpAddr::V6(from), IpAddr::V6(to)) => tcp.calc_checksum_ipv6(from.octets(), to.octets()),
                _ => unreachable!(),
            };
            assert_eq!(check.unwrap(), tcp.checksum());
        }
    }

    #[test]
    fn provoking_segment_between_address_families_is_refused() {
        let (four, six) = ("192.0.2.10:80".parse().unwrap(), "[2001:db8::7]:80".parse().unwrap());
        assert_eq!(segment(four, six, 0, 0), None);
    }
}
