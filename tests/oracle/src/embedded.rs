//! ICMP errors and the packets that they embed (RFC 792; RFC 4443, 2.4 and 3), and their translation (RFC 5508, 4.2).

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

use crate::{
    bytes::{put, word},
    checksum::carry,
    packet::{Packet, number},
    rewrite::{End, write_address},
    world::{GUE_PORT, Mac, Protocol},
};

/// Bytes of the embedded transport header that every ICMP error holds (RFC 792). Its ports are among them.
const LEAST: usize = 8;

/// The packet that an ICMP error embeds. Offsets are those in [`Packet::frame`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Embedded {
    pub(crate) protocol: Protocol,
    /// It has sent the embedded packet, and is to receive the error.
    pub(crate) sender: SocketAddr,
    pub(crate) receiver: SocketAddr,
    network: usize,
    transport: usize,
    /// Where the message ends.
    end: usize,
}

/// Why nothing is read of an ICMP message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unread {
    /// It is no error, or not about a TCP segment or a UDP datagram whose ports it holds.
    NotRelated,
    /// It states a smaller path MTU than there may be. With the packet, if that is a TCP segment or a UDP datagram.
    TinyMtu(Option<Embedded>),
}

impl Packet {
    /// Who has sent the packet that an ICMP error is about; `None` if its addresses are not there.
    pub(crate) fn embedded_sender(&self) -> Option<IpAddr> {
        self.stated_mtu()?;
        let bytes = &self.frame[self.transport + 8..self.network + self.len];
        if self.is_v4() {
            let source: [u8; 4] = bytes.get(..20)?[12..16].try_into().ok()?;
            Some(source.into())
        } else {
            let source: [u8; 16] = bytes.get(..40)?[8..24].try_into().ok()?;
            Some(source.into())
        }
    }

    /// The path MTU that an ICMP error states, if it states one; `None` for other messages.
    fn stated_mtu(&self) -> Option<Option<u32>> {
        let (kind, code) = (self.frame[self.transport], self.frame[self.transport + 1]);
        let field = |at: usize| word(&self.frame, self.transport + at).map_or(0, u32::from);
        // RFC 1191, 4: the MTU has 16 bits. RFC 4443, 3.2: it has 32 bits.
        let (is_error, mtu) = match (self.is_v4(), self.number) {
            (true, number::ICMP) => (matches!(kind, 3 | 11 | 12), (kind == 3 && code == 4).then(|| field(6))),
            (false, number::ICMPV6) => {
                ((1..=4).contains(&kind), (kind == 2).then(|| field(4) << 16 | field(6)))
            }
            _ => (false, None),
        };
        is_error.then_some(mtu)
    }

    /// What an ICMP message says about another packet; `least` is the smallest path MTU that there may be. With `tunnel` that
    /// of a datagram to [`GUE_PORT`] is larger: its UDP header is that of a tunnel packet.
    pub(crate) fn embedded(&self, least: u32, tunnel: bool) -> Result<Embedded, Unread> {
        let end = self.network + self.len;
        let mtu = self.stated_mtu().ok_or(Unread::NotRelated)?;
        let embedded = self.embedded_in(self.transport + 8..end);
        let is_gue = matches!(embedded, Some(Some(Embedded { protocol: Protocol::Udp, receiver, .. }))
            if receiver.port() == GUE_PORT);
        let least = if tunnel && is_gue { least + 8 } else { least };
        let is_tiny = mtu.is_some_and(|mtu| mtu < least);
        match embedded.ok_or(Unread::NotRelated)? {
            embedded if is_tiny => Err(Unread::TinyMtu(embedded)),
            embedded => embedded.ok_or(Unread::NotRelated),
        }
    }

    /// The packet that an error embeds: `None` if its header is not there or broken, `Some(None)` if it is of another
    /// protocol.
    fn embedded_in(&self, at: Range<usize>) -> Option<Option<Embedded>> {
        let (network, end) = (at.start, at.end);
        let bytes = &self.frame[at];
        let (ends, protocol, header): ([IpAddr; 2], _, _) = if self.is_v4() {
            let ip = Ipv4HeaderSlice::from_slice(bytes).ok()?;
            // Only the first fragment has ports.
            if ip.fragments_offset().value() != 0 {
                return None;
            }
            let ends = [ip.source_addr().into(), ip.destination_addr().into()];
            (ends, ip.protocol().0, ip.slice().len())
        } else {
            let ip = Ipv6HeaderSlice::from_slice(bytes).ok()?;
            let ends = [ip.source_addr(), ip.destination_addr()];
            if ends.iter().any(|ip| ip.to_ipv4_mapped().is_some()) {
                return None;
            }
            match (ip.next_header().0, bytes.get(40..48)) {
                // The first fragment. Later ones have no ports.
                (number::FRAGMENT, Some([next, _, 0, low, ..])) if *low < 8 => {
                    (ends.map(IpAddr::V6), *next, 48)
                }
                (number::FRAGMENT, None) => return None,
                (next, _) => (ends.map(IpAddr::V6), next, 40),
            }
        };
        let protocol = match protocol {
            number::TCP => Protocol::Tcp,
            number::UDP => Protocol::Udp,
            _ => return Some(None),
        };
        let transport = bytes.get(header..).filter(|transport| transport.len() >= LEAST)?;
        Some(Some(Embedded {
            protocol,
            sender: SocketAddr::new(ends[0], word(transport, 0)?),
            receiver: SocketAddr::new(ends[1], word(transport, 2)?),
            network,
            transport: network + header,
            end,
        }))
    }

    /// The ICMP error with another address at some ends, and the same ends of the embedded packet with these addresses
    /// and ports: the embedded packet has gone the other way. One hop less.
    pub(crate) fn translated_error(
        &self,
        embedded: &Embedded,
        ends: impl IntoIterator<Item = (End, SocketAddr)>,
        receiver: Mac,
        sender: Mac,
    ) -> Vec<u8> {
        let Embedded { network, transport, .. } = *embedded;
        let (old, mut out) = (&self.frame, self.readdressed(receiver, sender));
        for (end, to) in ends {
            let other = if end == End::Source { End::Destination } else { End::Source };
            write_address(&mut out, self.address_range(self.network, end), to.ip());
            write_address(&mut out, self.address_range(network, other), to.ip());
            put(&mut out, if other == End::Source { transport } else { transport + 2 }, to.port());
        }
        out[self.hop_limit_at()] -= 1;
        self.refresh_header(&mut out, self.network);
        let ends = [End::Source, End::Destination];
        let [source, destination] = ends.map(|end| self.address_range(network, end));
        self.refresh_header(&mut out, network);
        let (check, is_udp) = match embedded.protocol {
            Protocol::Tcp => (transport + 16, false),
            Protocol::Udp => (transport + 6, true),
        };
        let is_there = check + 2 <= embedded.end;
        // RFC 768: the sender has computed none.
        if is_there && !(is_udp && old[check..check + 2] == [0, 0]) {
            carry(old, &mut out, check, &[transport..transport + 4, source, destination]);
            if is_udp && out[check..check + 2] == [0, 0] {
                out[check..check + 2].fill(0xff);
            }
        }
        let [source, destination] = ends.map(|end| self.address_range(self.network, end));
        let covered = [self.transport..embedded.end, source, destination];
        // ICMP has no pseudo-header (RFC 792); ICMPv6 has (RFC 4443, 2.3).
        carry(old, &mut out, self.transport + 2, &covered[..if self.is_v4() { 1 } else { 3 }]);
        out
    }
}
