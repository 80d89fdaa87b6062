//! Shows frames to a reader.

use std::fmt::Write as _;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// A frame in one line: what `etherparse` reads in it, and its bytes.
pub fn decoded(frame: &[u8]) -> String {
    let mut line = format!("{} bytes", frame.len());
    match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => {
            if let Some(link) = packet.link.as_ref().and_then(|link| link.to_header()?.ethernet2()) {
                let _ = write!(line, ", {:02x?} to {:02x?}", link.source, link.destination);
            }
            for tag in packet.vlan_ids() {
                let _ = write!(line, ", VLAN {}", tag.value());
            }
            match &packet.net {
                Some(NetSlice::Ipv4(ip)) => {
                    let ip = ip.header();
                    let _ =
                        write!(line, ", {} to {}, TTL {}", ip.source_addr(), ip.destination_addr(), ip.ttl());
                }
                Some(NetSlice::Ipv6(ip)) => {
                    let ip = ip.header();
                    let (from, to) = (ip.source_addr(), ip.destination_addr());
                    let _ = write!(line, ", {from} to {to}, hop limit {}", ip.hop_limit());
                }
                _ => {}
            }
            transport(&mut line, packet.transport.as_ref());
        }
        Err(error) => {
            let _ = write!(line, ", not a packet ({error})");
        }
    }
    let _ = write!(line, "\n      {}", hex(frame));
    line
}

fn transport(line: &mut String, transport: Option<&TransportSlice<'_>>) {
    match transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let set = [(tcp.syn(), "SYN"), (tcp.ack(), "ACK"), (tcp.fin(), "FIN"), (tcp.rst(), "RST")];
            let flags: Vec<_> = set.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect();
            let _ = write!(
                line,
                ", TCP {} to {} {} seq {} ack {} payload {}",
                tcp.source_port(),
                tcp.destination_port(),
                flags.join("+"),
                tcp.sequence_number(),
                tcp.acknowledgment_number(),
                tcp.payload().len(),
            );
        }
        Some(TransportSlice::Udp(udp)) => {
            let _ = write!(line, ", UDP {} to {}", udp.source_port(), udp.destination_port());
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let _ = write!(line, ", ICMP {:?}", icmp.icmp_type());
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let _ = write!(line, ", ICMPv6 {:?}", icmp.icmp_type());
        }
        Some(TransportSlice::Igmp(_)) | None => {}
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
