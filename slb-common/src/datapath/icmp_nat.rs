//! Modes `nat` and `full-nat`: translates an ICMP error on its way to the end that has sent the embedded packet (RFC 5508, 4.2).
//!
//! Each call translates one end; where both change, a second call follows. The outer header and the embedded packet change together, each with its checksums. A BPF subprogram.

use super::{cookie_segments::changed, parse::Packet};
use crate::{
    abi::Address,
    net::{
        checksum::Delta,
        frame::Frame,
        headers::{Ipv4Hdr, Ipv6Hdr, protocol},
    },
};

/// Offset of the checksum in an ICMP header.
const ICMP_CHECK: usize = 2;
/// Offset of the checksum in a UDP header.
const UDP_CHECK: usize = 6;
/// Offset of the checksum in a TCP header. An ICMP error with eight bytes of it does not hold the checksum.
const TCP_CHECK: usize = 16;
/// Offset of the sequence number in a TCP header.
const SEQUENCE: usize = 4;
/// Offsets of the addresses in an IPv6 header.
const SOURCE6: usize = 8;
const DESTINATION6: usize = 24;

/// The end whose address and port are replaced, and by which: a number for a BPF subprogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation(pub u64);

impl Translation {
    const TO_SERVER: u64 = 1 << 16;
    const SECOND: u64 = 1 << 17;

    /// The error goes to a server: VIP and port of the listener, which has seemed to send the embedded packet, become
    /// the server's. `port` is the server's, in network byte order.
    pub(super) const fn to_server(port: u16) -> Self {
        Self(Self::TO_SERVER | port as u64)
    }

    /// The error goes to a client: address and port of the server become VIP and port of the listener.
    pub(super) const fn to_client(port: u16) -> Self {
        Self(port as u64)
    }

    /// The second translation of an ICMP error, of the other end: it leaves the TTL alone.
    #[must_use]
    pub(super) const fn second(self) -> Self {
        Self(self.0 | Self::SECOND)
    }

    const fn hops(self) -> u8 {
        (self.0 & Self::SECOND == 0) as u8
    }

    const fn is_to_server(self) -> bool {
        self.0 & Self::TO_SERVER != 0
    }
}

/// Translates an ICMP error without priority tags. `embedded` is what [`super::embedded`] has read, `address` the one
/// that replaces another of its family. Decrements the outer TTL or hop limit, which is at least 1. `None` if the frame
/// is truncated: it must be dropped then.
#[inline(always)]
pub fn translate(
    frame: &mut Frame<'_>,
    outer: &Packet,
    embedded: &Packet,
    address: &Address,
    translation: Translation,
) -> Option<()> {
    let is_to_server = translation.is_to_server();
    let port = translation.0 as u16;
    // The embedded packet has its ends exchanged. Its sender is who receives the error.
    let (old, old_port, port_at) = if is_to_server {
        (&embedded.destination, embedded.destination_port, embedded.transport)
    } else {
        (&embedded.source, embedded.source_port, embedded.transport + 2)
    };
    let changes = Delta::default().address(old, address).word(old_port, port).settled();
    *frame.header_mut::<[u8; 2]>(port_at)? = port.to_ne_bytes();
    let change = transport_checksum(frame, embedded, changes)?;
    let change = if outer.destination.is_v4() {
        outer4(frame, outer.network, address, is_to_server, translation.hops())?;
        change.plus_all(embedded4(frame, embedded.network, address, is_to_server)?)
    } else {
        embedded6(frame, embedded.network, address, is_to_server)?;
        // The checksum of ICMPv6 covers the outer addresses (RFC 4443, 2.3).
        change.plus_all(outer6(frame, outer.network, address, is_to_server, translation.hops())?)
    };
    let check = frame.header_mut::<[u8; 2]>(outer.transport + ICMP_CHECK)?;
    *check = changes.plus_all(change).apply(*check);
    Some(())
}

/// Translates the sequence number of an embedded segment that the server has sent to the client, back to the server's:
/// subtracts `offset`. `embedded` is what [`super::embedded`] has read. `None` if the frame is truncated.
#[inline(always)]
pub fn translate_sequence(
    frame: &mut Frame<'_>,
    outer: &Packet,
    embedded: &Packet,
    offset: u32,
) -> Option<()> {
    let number = frame.header_mut::<[u8; 4]>(embedded.transport + SEQUENCE)?;
    let before = u32::from_ne_bytes(*number);
    let after = u32::from_be(before).wrapping_sub(offset).to_be();
    *number = after.to_ne_bytes();
    let changes = changed(before, after).settled();
    let change = transport_checksum(frame, embedded, changes)?;
    let check = frame.header_mut::<[u8; 2]>(outer.transport + ICMP_CHECK)?;
    *check = changes.plus_all(change).apply(*check);
    Some(())
}

/// Updates the checksum of the embedded transport header, if the message holds it. Returns the change of that word.
#[inline(always)]
fn transport_checksum(frame: &mut Frame<'_>, embedded: &Packet, changes: Delta) -> Option<Delta> {
    let is_udp = embedded.protocol == protocol::UDP;
    let at = embedded.transport + if is_udp { UDP_CHECK } else { TCP_CHECK };
    if at + 2 > embedded.network + embedded.len {
        return Some(Delta::default());
    }
    let check = frame.header_mut::<[u8; 2]>(at)?;
    let before = *check;
    *check = if is_udp { changes.apply_udp(before) } else { changes.apply(before) };
    Some(word_change(before, *check))
}

/// Writes source or destination of the outer header, and its TTL.
#[inline(always)]
fn outer4(frame: &mut Frame<'_>, at: usize, address: &Address, is_to_server: bool, hops: u8) -> Option<()> {
    let ip = frame.header_mut::<Ipv4Hdr>(at)?;
    let before = u16::from_ne_bytes([ip.ttl, ip.proto]);
    ip.ttl -= hops;
    let change = Delta::default().word(before, u16::from_ne_bytes([ip.ttl, ip.proto]));
    let field = if is_to_server { &mut ip.dst_addr } else { &mut ip.src_addr };
    let change = change.plus_all(replace4(field, address));
    ip.check = change.apply(ip.check);
    Some(())
}

/// Writes source or destination of the embedded header. Returns the change of its checksum.
#[inline(always)]
fn embedded4(frame: &mut Frame<'_>, at: usize, address: &Address, is_to_server: bool) -> Option<Delta> {
    let ip = frame.header_mut::<Ipv4Hdr>(at)?;
    let change = replace4(if is_to_server { &mut ip.src_addr } else { &mut ip.dst_addr }, address);
    let before = ip.check;
    ip.check = change.apply(before);
    Some(word_change(before, ip.check))
}

#[inline(always)]
fn replace4(field: &mut [u8; 4], address: &Address) -> Delta {
    let old = Address::v4(*field);
    *field = address.v4_bytes();
    Delta::default().address(&old, address).settled()
}

/// Writes source or destination of the outer header, and its hop limit. Returns the change of the address.
#[inline(always)]
fn outer6(
    frame: &mut Frame<'_>,
    at: usize,
    address: &Address,
    is_to_server: bool,
    hops: u8,
) -> Option<Delta> {
    frame.header_mut::<Ipv6Hdr>(at)?.hop_limit -= hops;
    let field = frame.header_mut::<[u8; 16]>(at + if is_to_server { DESTINATION6 } else { SOURCE6 })?;
    let old = Address::v6(*field);
    *field = address.v6_bytes();
    Some(Delta::default().address(&old, address).settled())
}

/// Writes source or destination of the embedded header.
#[inline(always)]
fn embedded6(frame: &mut Frame<'_>, at: usize, address: &Address, is_to_server: bool) -> Option<()> {
    *frame.header_mut::<[u8; 16]>(at + if is_to_server { SOURCE6 } else { DESTINATION6 })? =
        address.v6_bytes();
    Some(())
}

#[inline(always)]
const fn word_change(before: [u8; 2], after: [u8; 2]) -> Delta {
    Delta::of(0).word(u16::from_ne_bytes(before), u16::from_ne_bytes(after))
}
