//! Rewrites a packet that is sent on.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use crate::{
    bytes::put,
    checksum::carry,
    packet::{Content, Packet},
    world::Mac,
};

/// The TTL or hop limit of packets that SLB builds: the default of RFC 1700 and Linux.
pub(crate) const HOP_LIMIT: u8 = 64;

/// One of the two ends in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

impl Packet {
    /// Where an IP header of the packet's family at the offset `network` has the address of one end.
    pub(crate) fn address_range(&self, network: usize, end: End) -> Range<usize> {
        let (first, len) = if self.is_v4() { (network + 12, 4) } else { (network + 8, 16) };
        match end {
            End::Source => first..first + len,
            End::Destination => first + len..first + 2 * len,
        }
    }

    fn source_range(&self) -> Range<usize> {
        self.address_range(self.network, End::Source)
    }

    fn destination_range(&self) -> Range<usize> {
        self.address_range(self.network, End::Destination)
    }

    pub(crate) fn hop_limit_at(&self) -> usize {
        self.network + if self.is_v4() { 8 } else { 7 }
    }

    /// The frame with other hardware addresses.
    pub(crate) fn readdressed(&self, receiver: Mac, sender: Mac) -> Vec<u8> {
        let mut out = self.frame.clone();
        out[..6].copy_from_slice(&receiver);
        out[6..12].copy_from_slice(&sender);
        out
    }

    /// The frame with another address and port at some ends, and one hop less.
    pub(crate) fn translated(
        &self,
        ends: impl IntoIterator<Item = (End, SocketAddr)>,
        receiver: Mac,
        sender: Mac,
    ) -> Vec<u8> {
        let mut out = self.readdressed(receiver, sender);
        for (end, to) in ends {
            let (address, port) = match end {
                End::Source => (self.source_range(), self.transport),
                End::Destination => (self.destination_range(), self.transport + 2),
            };
            write_address(&mut out, address, to.ip());
            if !self.is_later_fragment() {
                put(&mut out, port, to.port());
            }
        }
        out[self.hop_limit_at()] -= 1;
        if self.is_later_fragment() {
            self.refresh_header(&mut out, self.network);
        } else {
            self.refresh(&mut out);
        }
        out
    }

    /// The reply to this echo request.
    pub(crate) fn echo_reply(&self) -> Vec<u8> {
        let (receiver, sender) = self.macs();
        let mut out = self.readdressed(sender, receiver);
        write_address(&mut out, self.source_range(), self.destination.ip());
        write_address(&mut out, self.destination_range(), self.source.ip());
        out[self.hop_limit_at()] = HOP_LIMIT;
        out[self.transport] = if self.is_v4() { 0 } else { 129 };
        self.refresh(&mut out);
        out
    }

    /// Updates the checksum of the IPv4 header at the offset `network`. An IPv6 header has none.
    pub(crate) fn refresh_header(&self, out: &mut [u8], network: usize) {
        if self.is_v4() {
            let header = network..network + usize::from(self.frame[network] & 15) * 4;
            carry(&self.frame, out, network + 10, &[header]);
        }
    }

    /// Updates all checksums of `out`, which differs from this packet in header fields.
    fn refresh(&self, out: &mut [u8]) {
        self.refresh_header(out, self.network);
        let (at, header) = match self.content {
            Content::Tcp => (self.transport + 16, 20),
            Content::Udp => (self.transport + 6, 8),
            _ => (self.transport + 2, 8),
        };
        if self.content == Content::Udp && self.frame[at..at + 2] == [0, 0] {
            // RFC 768: the sender has computed none.
            return;
        }
        let covered =
            [self.transport..self.transport + header, self.source_range(), self.destination_range()];
        // ICMP has no pseudo-header. Source and destination exchanged, ICMPv6 has the same one.
        let ranges = if self.content == Content::EchoRequest { 1 } else { 3 };
        carry(&self.frame, out, at, &covered[..ranges]);
        if self.content != Content::Tcp && out[at..at + 2] == [0, 0] {
            out[at..at + 2].fill(0xff);
        }
    }
}

pub(crate) fn write_address(bytes: &mut [u8], at: Range<usize>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => bytes[at].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes[at].copy_from_slice(&ip.octets()),
    }
}
