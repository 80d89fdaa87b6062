//! Expected frames, computed from the frames that arrive. Checksums are computed from all bytes (RFC 1071), not
//! updated.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::{
    frames::{Frame, number},
    tunnel,
};

/// Which fields are rewritten; all other bytes stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// Destination address and port; decrements the TTL or hop limit.
    Destination(SocketAddr),
    /// Source address and port; decrements the TTL or hop limit.
    Source(SocketAddr),
    /// Source, then destination; decrements the TTL or hop limit.
    Both(SocketAddr, SocketAddr),
    /// Only the MACs.
    Nothing,
    /// An echo request becomes the reply, with a TTL or hop limit of 64.
    Reply,
}

/// One's-complement sum of 16-bit words.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// Recomputes all checksums of a frame; UDP (RFC 768) and ICMP send 0 as 0xffff.
pub fn refresh(frame: &mut Frame) {
    if frame.bytes[frame.network] >> 4 == 4 {
        let header = frame.network..frame.network + usize::from(frame.bytes[frame.network] & 15) * 4;
        put(&mut frame.bytes, frame.network + 10, 0);
        let check = !sum(&frame.bytes[header]);
        put(&mut frame.bytes, frame.network + 10, check);
    }
    let Some(at) = check_offset(frame) else { return };
    put(&mut frame.bytes, at, 0);
    let check = match (frame.protocol, !transport_sum(frame)) {
        // 0xffff is the other zero, which receivers accept; in UDP, 0 would mean that there is no checksum.
        (number::UDP | number::ICMP | number::ICMPV6, 0) => 0xffff,
        (_, check) => check,
    };
    put(&mut frame.bytes, at, check);
}

/// The expected frame. A UDP datagram over IPv4 without a checksum stays without.
pub fn rewritten(frame: &Frame, receiver: [u8; 6], sender: [u8; 6], rewrite: Rewrite) -> Vec<u8> {
    let mut out = frame.clone();
    let v4 = frame.bytes[frame.network] >> 4 == 4;
    let unchecked = frame.protocol == number::UDP && v4 && frame.bytes[frame.transport + 6..][..2] == [0, 0];
    out.bytes[..6].copy_from_slice(&receiver);
    out.bytes[6..12].copy_from_slice(&sender);
    let (hop_limit, source, destination, len) =
        if v4 { (frame.network + 8, 12, 16, 4) } else { (frame.network + 7, 8, 24, 16) };
    let (source, destination) = (frame.network + source, frame.network + destination);
    let write = |bytes: &mut [u8], at: usize, ip: IpAddr| match ip {
        IpAddr::V4(ip) => bytes[at..at + 4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes[at..at + 16].copy_from_slice(&ip.octets()),
    };
    match rewrite {
        Rewrite::Destination(to) => {
            write(&mut out.bytes, destination, to.ip());
            put(&mut out.bytes, frame.transport + 2, to.port());
            out.bytes[hop_limit] -= 1;
        }
        Rewrite::Source(from) => {
            write(&mut out.bytes, source, from.ip());
            put(&mut out.bytes, frame.transport, from.port());
            out.bytes[hop_limit] -= 1;
        }
        Rewrite::Both(from, to) => {
            write(&mut out.bytes, source, from.ip());
            write(&mut out.bytes, destination, to.ip());
            put(&mut out.bytes, frame.transport, from.port());
            put(&mut out.bytes, frame.transport + 2, to.port());
            out.bytes[hop_limit] -= 1;
        }
        Rewrite::Nothing => return out.bytes,
        Rewrite::Reply => {
            let addresses = frame.bytes[source..source + 2 * len].to_vec();
            out.bytes[source..source + len].copy_from_slice(&addresses[len..]);
            out.bytes[destination..destination + len].copy_from_slice(&addresses[..len]);
            out.bytes[hop_limit] = 64;
            out.bytes[frame.transport] = if v4 { 0 } else { 129 };
        }
    }
    refresh(&mut out);
    if unchecked {
        put(&mut out.bytes, frame.transport + 6, 0);
    }
    out.bytes
}

/// Whether an independent parser accepts the frame and all checksums are right, also those of a packet inside a tunnel
/// packet.
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| format!("not a packet: {error}"))?;
    let wrong = |what: &str, is: u16, should: u16| {
        // 0 and 0xffff are the two zeros of one's complement.
        if is == should || (is == 0xffff && should == 0) {
            Ok(())
        } else {
            Err(format!("{what} checksum {is:#06x} in place of {should:#06x}"))
        }
    };
    let is_fragment = packet.net.as_ref().is_some_and(|net| match net {
        NetSlice::Ipv4(ip) => ip.payload().fragmented,
        NetSlice::Ipv6(ip) => ip.payload().fragmented,
        NetSlice::Arp(_) => false,
    });
    let addresses = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            if sum(header.slice()) != 0xffff {
                return Err(format!("IPv4 checksum {:#06x}", header.header_checksum()));
            }
            Ok((header.source(), header.destination()))
        }
        Some(NetSlice::Ipv6(ip)) => Err((ip.header().source(), ip.header().destination())),
        _ => return Err("no IP header".to_owned()),
    };
    // Its transport checksum is that of the whole packet.
    if is_fragment {
        return Ok(());
    }
    if let Some(inner) = tunnel::inner(&packet) {
        verify(&inner)?;
        match &packet.transport {
            // RFC 6935: over IPv6, too, a tunnel packet may have no checksum.
            Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {}
            _ => return Ok(()),
        }
    }
    match (&packet.transport, addresses) {
        (Some(TransportSlice::Tcp(tcp)), Ok((source, destination))) => {
            let should = tcp.calc_checksum_ipv4(source, destination).map_err(|e| e.to_string())?;
            wrong("TCP", tcp.checksum(), should)
        }
        (Some(TransportSlice::Tcp(tcp)), Err((source, destination))) => {
            let should = tcp.calc_checksum_ipv6(source, destination).map_err(|e| e.to_string())?;
            wrong("TCP", tcp.checksum(), should)
        }
        (Some(TransportSlice::Udp(udp)), Ok(_)) if udp.checksum() == 0 => Ok(()),
        (Some(TransportSlice::Udp(udp)), Ok((source, destination))) => {
            let header = udp.to_header();
            let should = header
                .calc_checksum_ipv4_raw(source, destination, udp.payload())
                .map_err(|e| e.to_string())?;
            wrong("UDP", udp.checksum(), should)
        }
        (Some(TransportSlice::Udp(udp)), Err((source, destination))) => {
            let header = udp.to_header();
            let should = header
                .calc_checksum_ipv6_raw(source, destination, udp.payload())
                .map_err(|e| e.to_string())?;
            wrong("UDP", udp.checksum(), should)
        }
        // Verified as a receiver does: in a message of zeros, the sender's rule would give another result.
        (Some(TransportSlice::Icmpv4(icmp)), _) if sum(icmp.slice()) == 0xffff => Ok(()),
        (Some(TransportSlice::Icmpv6(icmp)), Err((source, destination)))
            if icmp.is_checksum_valid(source, destination) =>
        {
            Ok(())
        }
        (Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)), _) => Err("ICMP checksum".to_owned()),
        _ => Err("no transport header".to_owned()),
    }
}

/// Offset of the transport checksum.
fn check_offset(frame: &Frame) -> Option<usize> {
    let offset = match frame.protocol {
        number::TCP => 16,
        number::UDP => 6,
        number::ICMP | number::ICMPV6 => 2,
        _ => return None,
    };
    Some(frame.transport + offset)
}

/// One's-complement sum over the transport packet and, except for ICMP, its pseudo-header (RFC 793, 3.1; RFC 8200,
/// 8.1).
fn transport_sum(frame: &Frame) -> u16 {
    let v4 = frame.bytes[frame.network] >> 4 == 4;
    let mut end = frame.end;
    if frame.protocol == number::UDP {
        end = frame.transport
            + usize::from(frame.bytes[frame.transport + 4]) * 256
            + usize::from(frame.bytes[frame.transport + 5]);
    }
    let mut summed = Vec::new();
    if frame.protocol != number::ICMP {
        let (at, len) = if v4 { (frame.network + 12, 8) } else { (frame.network + 8, 32) };
        summed.extend(&frame.bytes[at..at + len]);
        summed.extend([0, frame.protocol]);
        summed.extend(((end - frame.transport) as u16).to_be_bytes());
    }
    summed.extend(&frame.bytes[frame.transport..end]);
    sum(&summed)
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
