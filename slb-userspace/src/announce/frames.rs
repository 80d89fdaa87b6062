//! Gratuitous ARP (RFC 5227, 3), unsolicited neighbour advertisements (RFC 4861, 7.2.6), and probes for other hosts with
//! the same address (RFC 5227, 2.1.1; RFC 4861, 7.2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use slb_common::net::{
    checksum::Delta,
    headers::{ether_type, protocol},
};

use crate::neigh::Mac;

const BROADCAST: Mac = [0xff; 6];
const UNKNOWN: Mac = [0; 6];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Receivers replace what they knew.
const OVERRIDE: u8 = 0x20;
/// Options of the source's and of the target's hardware address, of one unit of eight bytes.
const SOURCE_OPTION: [u8; 2] = [1, 1];
const TARGET_OPTION: [u8; 2] = [2, 1];
/// Hop limit of packets that no router has forwarded.
const ON_LINK: u8 = 255;

/// Frames that tell all hosts of the link that a VIP is at `mac`. IPv4: a request and a reply, because some hosts heed one
/// of them only.
pub(super) fn announcement(vip: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
    match vip {
        IpAddr::V4(vip) => {
            vec![arp(ARP_REQUEST, (mac, vip), (UNKNOWN, vip)), arp(ARP_REPLY, (mac, vip), (mac, vip))]
        }
        IpAddr::V6(vip) => {
            let body = [&[OVERRIDE, 0, 0, 0], &vip.octets()[..], &TARGET_OPTION, &mac].concat();
            vec![discovery(mac, vip, ALL_NODES, ADVERTISEMENT, &body)]
        }
    }
}

/// A frame that another host with this VIP answers, to this host alone: it changes no entry for the VIP. `link_local` is
/// the interface's own link-local address. `None` for an IPv6 VIP without one: a solicitation from `::` is answered to all
/// nodes (RFC 4861, 7.2.4), and with the override flag would move all clients to the other host.
pub(super) fn probe(vip: IpAddr, mac: Mac, link_local: Option<Ipv6Addr>) -> Option<Vec<u8>> {
    match vip {
        IpAddr::V4(vip) => Some(arp(ARP_REQUEST, (mac, Ipv4Addr::UNSPECIFIED), (UNKNOWN, vip))),
        IpAddr::V6(vip) => {
            let [.., a, b, c] = vip.octets();
            let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
            let body = [&[0; 4], &vip.octets()[..], &SOURCE_OPTION, &mac].concat();
            link_local.map(|source| discovery(mac, source, group, SOLICITATION, &body))
        }
    }
}

fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let ethernet = [&BROADCAST[..], &sender.0, &ether_type::ARP.to_ne_bytes()].concat();
    let ends = [&sender.0[..], &sender.1.octets(), &target.0, &target.1.octets()].concat();
    [&ethernet[..], &[0, 1, 8, 0, 6, 4, 0, operation], &ends].concat()
}

/// A frame of neighbour discovery to a group. `body` follows the checksum; its length is a multiple of four.
fn discovery(mac: Mac, from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let [.., a, b, c, d] = to.octets();
    let length = 4 + body.len() as u8;
    let words = |sum: Delta, bytes: &[u8]| {
        bytes.chunks_exact(2).fold(sum, |sum, word| sum.plus(u16::from_ne_bytes([word[0], word[1]])))
    };
    let pseudo = Delta::default()
        .plus(u16::from(length).to_be())
        .plus(u16::from(protocol::ICMPV6).to_be())
        .plus(u16::from_ne_bytes([kind, 0]));
    let sum = [&from.octets()[..], &to.octets(), body].into_iter().fold(pseudo, words);
    let ethernet = [&[0x33, 0x33, a, b, c, d], &mac[..], &ether_type::IPV6.to_ne_bytes()].concat();
    let ip =
        [&[0x60, 0, 0, 0, 0, length, protocol::ICMPV6, ON_LINK], &from.octets()[..], &to.octets()].concat();
    [&ethernet[..], &ip, &[kind, 0], &sum.checksum(), body].concat()
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpOperation, Icmpv6Type, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Operation, sender and target of a broadcast ARP frame.
    fn read_arp(frame: &[u8]) -> (ArpOperation, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>) {
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &MAC[..]));
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let net = sliced.net.unwrap();
        let arp = net.arp_ref().unwrap();
        let parts = [
            arp.sender_hw_addr(),
            arp.sender_protocol_addr(),
            arp.target_hw_addr(),
            arp.target_protocol_addr(),
        ];
        let [a, b, c, d] = parts.map(<[u8]>::to_vec);
        (arp.operation(), a, b, c, d)
    }

    #[test]
    fn ipv4_vip_is_announced_by_a_request_and_a_reply() {
        let frames = announcement(ip("192.0.2.10"), MAC);
        let (vip, mac) = (vec![192, 0, 2, 10], MAC.to_vec());
        let request = (ArpOperation::REQUEST, mac.clone(), vip.clone(), vec![0; 6], vip.clone());
        assert_eq!(read_arp(&frames[0]), request);
        assert_eq!(
            read_arp(&frames[1]),
            (ArpOperation::REPLY, mac.clone(), vip.clone(), mac.clone(), vip.clone())
        );
        let probed = (ArpOperation::REQUEST, mac, vec![0; 4], vec![0; 6], vip);
        assert_eq!(read_arp(&probe(ip("192.0.2.10"), MAC, None).unwrap()), probed);
    }

    /// Hardware destination, addresses, type and payload of a valid frame of neighbour discovery.
    fn read_discovery(frame: &[u8]) -> (Vec<u8>, [Ipv6Addr; 2], Icmpv6Type, Vec<u8>) {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let ip = sliced.net.as_ref().unwrap().ipv6_ref().unwrap().header().to_header();
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("{sliced:?}") };
        assert!(icmp.is_checksum_valid(ip.source, ip.destination));
        assert_eq!((ip.hop_limit, &frame[6..12]), (255, &MAC[..]));
        let ends = [ip.source, ip.destination].map(Ipv6Addr::from);
        (frame[..6].to_vec(), ends, icmp.icmp_type(), icmp.payload().to_vec())
    }

    #[test]
    fn ipv6_vip_is_announced_by_an_overriding_advertisement_to_all_nodes() {
        let vip: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let frames = announcement(vip.into(), MAC);
        assert_eq!(frames.len(), 1);
        let (to, ends, kind, payload) = read_discovery(&frames[0]);
        assert_eq!((to, ends), (vec![0x33, 0x33, 0, 0, 0, 1], [vip, ALL_NODES]));
        let Icmpv6Type::NeighborAdvertisement(flags) = kind else { panic!("{kind:?}") };
        assert_eq!([flags.router, flags.solicited, flags.r#override], [false, false, true]);
        assert_eq!(payload, [&vip.octets()[..], &[2, 1], &MAC].concat());
    }

    #[test]
    fn ipv6_probe_is_answered_to_this_host_alone() {
        let vip: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let own: Ipv6Addr = "fe80::1".parse().unwrap();
        let (to, ends, kind, payload) = read_discovery(&probe(vip.into(), MAC, Some(own)).unwrap());
        assert_eq!(to, [0x33, 0x33, 0xff, 0, 0, 0x10]);
        assert_eq!(ends, [own, "ff02::1:ff00:10".parse().unwrap()]);
        assert!(matches!(kind, Icmpv6Type::NeighborSolicitation), "{kind:?}");
        assert_eq!(payload, [&vip.octets()[..], &[1, 1], &MAC].concat());
        assert_eq!(probe(vip.into(), MAC, None), None, "an answer to `::` would go to all nodes");
    }
}
