//! Whether a frame is a valid packet whose checksums are right, as `etherparse` computes them from all bytes.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, NetSlice, SlicedPacket, TransportSlice};

use crate::{
    checksum::sum,
    packet::number::{IPV4, IPV6},
    world::GUE_PORT,
};

/// Whether a receiver would accept the frame, and the packet inside a tunnel packet or an ICMP error.
pub fn is_sound(frame: &[u8]) -> bool {
    SlicedPacket::from_ethernet(frame).is_ok_and(|packet| is_sound_packet(&packet))
}

fn is_sound_packet(packet: &SlicedPacket<'_>) -> bool {
    let (source, destination, number, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            if sum(header.slice()) != 0xffff {
                return false;
            }
            let ends = [header.source_addr(), header.destination_addr()].map(IpAddr::V4);
            (ends[0], ends[1], header.protocol().0, ip.payload().payload)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ends = [ip.header().source_addr(), ip.header().destination_addr()].map(IpAddr::V6);
            (ends[0], ends[1], ip.payload().ip_number.0, ip.payload().payload)
        }
        _ => return false,
    };
    match number {
        IPV4 | IPV6 => return SlicedPacket::from_ip(payload).is_ok_and(|inner| is_sound_packet(&inner)),
        _ => {}
    }
    let right = match (&packet.transport, source, destination) {
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V4(from), IpAddr::V4(to)) => {
            tcp.calc_checksum_ipv4(from.octets(), to.octets()).ok().map(|right| (tcp.checksum(), right))
        }
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V6(from), IpAddr::V6(to)) => {
            tcp.calc_checksum_ipv6(from.octets(), to.octets()).ok().map(|right| (tcp.checksum(), right))
        }
        (Some(TransportSlice::Udp(udp)), ..)
            if udp.destination_port() == GUE_PORT
                && !SlicedPacket::from_ip(udp.payload()).is_ok_and(|inner| is_sound_packet(&inner)) =>
        {
            return false;
        }
        // RFC 6935: a tunnel packet over IPv6 may have no checksum.
        (Some(TransportSlice::Udp(udp)), ..) if udp.destination_port() == GUE_PORT && udp.checksum() == 0 => {
            return true;
        }
        (Some(TransportSlice::Udp(udp)), IpAddr::V4(from), IpAddr::V4(to)) => {
            let right = udp.to_header().calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload());
            // 0 says that the sender has computed none.
            let right = right.ok().map(|right| if udp.checksum() == 0 { 0 } else { right });
            right.map(|right| (udp.checksum(), right))
        }
        (Some(TransportSlice::Udp(udp)), IpAddr::V6(from), IpAddr::V6(to)) => {
            let right = udp.to_header().calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload());
            right.ok().map(|right| (udp.checksum(), right))
        }
        (Some(TransportSlice::Icmpv4(icmp)), ..) => {
            let is_error = matches!(icmp.type_u8(), 3 | 11 | 12);
            return sum(icmp.slice()) == 0xffff && (!is_error || embeds_sound(icmp.slice()));
        }
        (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(from), IpAddr::V6(to)) => {
            let is_error = matches!(icmp.type_u8(), 1..=4);
            return icmp.is_checksum_valid(from.octets(), to.octets())
                && (!is_error || embeds_sound(icmp.slice()));
        }
        _ => return true,
    };
    // 0 and 0xffff are the two zeros of one's complement.
    right.is_some_and(|(is, right)| is == right || (is == 0xffff && right == 0))
}

/// Whether the packet that an ICMP error embeds is as its sender has sent it. Of a part only the IP header shows it.
fn embeds_sound(message: &[u8]) -> bool {
    let embedded = &message[8..];
    match SlicedPacket::from_ip(embedded) {
        Ok(packet) => is_sound_packet(&packet),
        Err(_) => match Ipv4HeaderSlice::from_slice(embedded) {
            Ok(header) => sum(header.slice()) == 0xffff,
            Err(_) => true,
        },
    }
}
