//! Packets that SLB builds: ICMP errors (RFC 792, RFC 4443) and RSTs (RFC 9293, 3.5.2 and 3.10.7.4).

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader};

use crate::{
    bytes::put,
    checksum::sum,
    packet::{Content, Packet, flag, number},
    rewrite::HOP_LIMIT,
};

/// Why a packet cannot be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    HopLimit,
    TooBig(u32),
    NoPort,
    NoProtocol,
}

/// Whether packets from this address come from a single host, which an answer can reach: RFC 1122, 3.2.2; RFC 4443,
/// 2.4.
pub(crate) fn is_one_host(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(ip) => !matches!(ip.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(ip) => !ip.is_multicast() && ip.segments()[..2] != [0, 0],
    }
}

impl Packet {
    /// The ICMP error for the sender. `None` if it may not have one: the packet has options or extension headers, is
    /// too short to quote, comes from no single host, or may be fragmented on its way.
    pub(crate) fn icmp_error(&self, cause: Cause) -> Option<Vec<u8>> {
        let header = if self.is_v4() { 20 } else { 40 };
        // The sender of IPv6 fragments learns the path MTU by it.
        let is_fragment6 = !self.is_v4() && self.frame[self.network + 6] == number::FRAGMENT;
        let may_fragment = self.is_v4() && self.frame[self.network + 6] & 0x40 == 0;
        if self.len < header + 8
            || !(self.is_plain() || (is_fragment6 && matches!(cause, Cause::TooBig(_))))
            || !is_one_host(self.source.ip())
            || (may_fragment && matches!(cause, Cause::TooBig(_)))
        {
            return None;
        }
        // RFC 1812, 4.3.2.3: 576 bytes; RFC 4443, 2.4: 1,280 bytes. Of a packet too short for that, the first eight
        // bytes of its content.
        let most = if self.is_v4() { 576 } else { 1280 } - header - 8;
        let quoted = if self.len >= most { most } else { header + 8 };
        let mut message = match (self.is_v4(), cause) {
            (true, Cause::HopLimit) => vec![11, 0, 0, 0, 0, 0, 0, 0],
            (true, Cause::TooBig(mtu)) => vec![3, 4, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8],
            (true, Cause::NoPort) => vec![3, 3, 0, 0, 0, 0, 0, 0],
            (true, Cause::NoProtocol) => vec![3, 2, 0, 0, 0, 0, 0, 0],
            (false, Cause::HopLimit) => vec![3, 0, 0, 0, 0, 0, 0, 0],
            (false, Cause::TooBig(mtu)) => vec![2, 0, 0, 0, 0, 0, (mtu >> 8) as u8, mtu as u8],
            (false, Cause::NoPort) => vec![1, 4, 0, 0, 0, 0, 0, 0],
            // Parameter problem: the next-header field, at offset 6.
            (false, Cause::NoProtocol) => vec![4, 1, 0, 0, 0, 0, 0, 6],
        };
        message.extend(&self.frame[self.network..self.network + quoted]);
        let ip = match (self.destination.ip(), self.source.ip()) {
            (IpAddr::V4(vip), IpAddr::V4(client)) => {
                let check = !sum(&message);
                put(&mut message, 2, check);
                let len = message.len() as u16;
                let mut header =
                    Ipv4Header::new(len, HOP_LIMIT, IpNumber::ICMP, vip.octets(), client.octets()).ok()?;
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(vip), IpAddr::V6(client)) => {
                let header = Ipv6Header {
                    payload_length: message.len() as u16,
                    next_header: IpNumber::IPV6_ICMP,
                    hop_limit: HOP_LIMIT,
                    source: vip.octets(),
                    destination: client.octets(),
                    ..Ipv6Header::default()
                };
                let len = (message.len() as u32).to_be_bytes();
                let pseudo =
                    [&header.source[..], &header.destination, &len, &[0, 0, 0, number::ICMPV6], &message];
                let check = !sum(&pseudo.concat());
                put(&mut message, 2, check);
                header.to_bytes().to_vec()
            }
            _ => return None,
        };
        let (receiver, sender) = self.macs();
        Some([&sender[..], &receiver, &self.frame[12..self.network], &ip, &message].concat())
    }

    /// The RST that replaces this segment in the same direction. `None` with options or extension headers.
    pub(crate) fn forward_reset(&self) -> Option<Self> {
        let acknowledges = self.segment.flags & flag::ACK;
        let mut tcp = TcpHeader::new(self.source.port(), self.destination.port(), self.segment.sequence, 0);
        tcp.acknowledgment_number = self.segment.acknowledges;
        tcp.ack = acknowledges != 0;
        self.reset(tcp, self.network, false)
    }

    /// The RST that answers the sender of this segment. `None` as in [`Self::forward_reset`].
    pub(crate) fn reset_back(&self) -> Option<Vec<u8>> {
        let mut tcp = TcpHeader::new(self.destination.port(), self.source.port(), 0, 0);
        if self.segment.has(flag::ACK) {
            tcp.sequence_number = self.segment.acknowledges;
        } else {
            tcp.acknowledgment_number = self.segment.end;
            tcp.ack = true;
        }
        Some(self.reset(tcp, self.network, true)?.frame)
    }

    fn reset(&self, mut tcp: TcpHeader, network: usize, back: bool) -> Option<Self> {
        if self.content != Content::Tcp || !self.is_plain() || self.fragment.is_some() {
            return None;
        }
        tcp.rst = true;
        let mut out = self.clone();
        if back {
            std::mem::swap(&mut out.source, &mut out.destination);
            let (receiver, sender) = self.macs();
            out.frame = self.readdressed(sender, receiver);
        }
        out.frame.truncate(self.transport);
        let ip = &mut out.frame[network..];
        match (out.source.ip(), out.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                tcp.checksum = tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]).ok()?;
                put(ip, 2, 40);
                if back {
                    ip[8] = HOP_LIMIT;
                    ip[12..16].copy_from_slice(&from.octets());
                    ip[16..20].copy_from_slice(&to.octets());
                }
                put(ip, 10, 0);
                let check = !sum(&ip[..20]);
                put(ip, 10, check);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                tcp.checksum = tcp.calc_checksum_ipv6_raw(from.octets(), to.octets(), &[]).ok()?;
                put(ip, 4, 20);
                if back {
                    ip[7] = HOP_LIMIT;
                    ip[8..24].copy_from_slice(&from.octets());
                    ip[24..40].copy_from_slice(&to.octets());
                }
            }
            _ => return None,
        }
        out.frame.extend(tcp.to_bytes());
        out.len = out.frame.len() - network;
        Some(out)
    }
}
