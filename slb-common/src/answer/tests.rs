//! Requests as hosts send them, and their answers as another implementation reads them.

use etherparse::{Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;

const ASKING: Mac = [2, 0, 0, 0, 0, 7];
const OWN: Mac = [2, 0, 0, 0, 0, 1];
const HOST: [u8; 4] = [192, 0, 2, 7];
const VIP: [u8; 4] = [192, 0, 2, 10];

fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> ArpFrame {
    let ethernet = [[0xff; 6], ASKING].concat();
    let rest = [[0; 6].as_slice(), &target].concat();
    let all = [&ethernet[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &ASKING, &sender, &rest].concat();
    ArpFrame(all.try_into().unwrap())
}

#[test]
fn arp_request_is_answered_to_its_sender() {
    for sender in [HOST, [0; 4]] {
        let mut frame = arp(1, sender, VIP);
        assert_eq!(frame.requested(), Some(Address::v4(VIP)));
        frame.answer(&OWN);
        let expected =
            [&ASKING[..], &OWN, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &OWN, &VIP, &ASKING, &sender].concat();
        assert_eq!(frame.0.as_slice(), expected);
    }
}

#[test]
fn arp_announcements_and_replies_are_no_requests() {
    assert_eq!(arp(1, VIP, VIP).requested(), None, "a gratuitous request");
    assert_eq!(arp(2, HOST, VIP).requested(), None, "a reply");
    let mut group = arp(1, HOST, VIP);
    group.0[22] |= 1;
    group.0[6] |= 1;
    assert_eq!(group.requested(), None, "a sender that is a group");
    for byte in 22..28 {
        let mut other = arp(1, HOST, VIP);
        other.0[byte] ^= 4;
        assert_eq!(other.requested(), None, "byte {byte}: in the name of another host");
    }
    for byte in 14..20 {
        let mut other = arp(1, HOST, VIP);
        other.0[byte] ^= 0x10;
        assert_eq!(other.requested(), None, "byte {byte}: another kind of address");
    }
}

/// A solicitation as a host sends it, with `option` behind the target.
fn solicitation(source: [u8; 16], target: [u8; 16], option: &[u8]) -> Vec<u8> {
    let group: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]];
    let mac = [0x33, 0x33, group[12], group[13], group[14], group[15]];
    let builder = PacketBuilder::ethernet2(ASKING, mac).ipv6(source, group, 255);
    let mut frame = Vec::new();
    let body = [&target[..], option].concat();
    builder.icmpv6_raw(135, 0, [0; 4]).write(&mut frame, &body).unwrap();
    frame
}

/// A frame as the program reads it.
fn discovery(frame: &[u8]) -> DiscoveryFrame {
    let mut read = DiscoveryFrame([0; DISCOVERY_LENGTH]);
    read.0[..SOLICITATION_LENGTH].copy_from_slice(&frame[..SOLICITATION_LENGTH]);
    let end = SOLICITATION_LENGTH + OPTION_UNIT * read.option_units().unwrap_or(0);
    if let Some(options) = frame.get(SOLICITATION_LENGTH..end) {
        read.0[SOLICITATION_LENGTH..end].copy_from_slice(options);
    }
    read
}

fn host6(last: u8) -> [u8; 16] {
    let mut address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x99, 0x88, 0x77, 0];
    address[15] = last;
    address
}

#[test]
fn neighbour_solicitation_is_answered_with_a_valid_advertisement() {
    let (vip, host) = (host6(0x10), host6(7));
    let source_option = [&[1, 1], &ASKING[..]].concat();
    let unspecified = [0; 16];
    // RFC 3971, 5.3.2: Linux sends it with probes for duplicates (RFC 7527).
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let both = [&source_option[..], &nonce].concat();
    let longest = [both.repeat(3), source_option.repeat(2)].concat();
    for (source, option, flags, to, to_mac) in [
        (host, &source_option[..], SOLICITED | OVERRIDE, host, ASKING),
        (host, &both, SOLICITED | OVERRIDE, host, ASKING),
        (host, &longest, SOLICITED | OVERRIDE, host, ASKING),
        (host, &[], SOLICITED | OVERRIDE, host, ASKING),
        (unspecified, &nonce, OVERRIDE, ALL_NODES, ALL_NODES_MAC),
        (unspecified, &[], OVERRIDE, ALL_NODES, ALL_NODES_MAC),
    ] {
        let mut frame = discovery(&solicitation(source, vip, option));
        assert_eq!(frame.solicited(), Some(Address::v6(vip)));
        frame.advertise(&OWN);
        let sliced = SlicedPacket::from_ethernet(&frame.0[..ADVERTISEMENT_LENGTH]).unwrap();
        let link = sliced.link.as_ref().unwrap().to_header().unwrap().ethernet2().unwrap();
        assert_eq!((link.source, link.destination), (OWN, to_mac));
        let ip = sliced.net.as_ref().unwrap().ipv6_ref().unwrap().header().to_header();
        assert_eq!((ip.source, ip.destination, ip.hop_limit), (vip, to, 255));
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("{sliced:?}") };
        let Icmpv6Type::NeighborAdvertisement(header) = icmp.icmp_type() else { panic!("{icmp:?}") };
        assert_eq!(
            [header.router, header.solicited, header.r#override],
            [false, flags & SOLICITED != 0, true]
        );
        assert_eq!(icmp.payload(), [&vip[..], &[2, 1], &OWN].concat());
        assert!(icmp.is_checksum_valid(vip, to));
    }
}

#[test]
fn invalid_solicitations_are_not_answered() {
    let valid = solicitation(host6(7), host6(0x10), &[]);
    assert!(discovery(&valid).solicited().is_some());
    for (byte, value, what) in [
        (19, 23, "too short"),
        (20, 17, "UDP"),
        (21, 254, "forwarded by a router"),
        (6, 3, "from a group"),
        (22, 0xff, "from a multicast address"),
        (54, 136, "an advertisement"),
        (55, 1, "an unknown code"),
        (62, 0xff, "for a multicast address"),
    ] {
        let mut frame = valid.clone();
        frame[byte] = value;
        // With a valid checksum, so that this is what is refused.
        let frame = with_checksum(frame);
        assert_eq!(discovery(&frame).solicited(), None, "{what}");
    }
}

/// Sets the checksum of ICMPv6.
fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[56..58].fill(0);
    let pseudo = Delta::default()
        .plus(u16::from_ne_bytes([frame[18], frame[19]]))
        .plus(u16::from(protocol::ICMPV6).to_be());
    let sum = frame[22..]
        .chunks_exact(2)
        .fold(pseudo, |sum, word| sum.plus(u16::from_ne_bytes([word[0], word[1]])));
    frame[56..58].copy_from_slice(&sum.checksum());
    frame
}

#[test]
fn solicitations_with_a_wrong_checksum_or_options_are_not_answered() {
    let (host, vip, unspecified) = (host6(7), host6(0x10), [0; 16]);
    let source_option = [&[1, 1], &ASKING[..]].concat();
    let valid = solicitation(host, vip, &source_option);
    assert!(discovery(&valid).solicited().is_some());
    for byte in [22, 45, 56, 62, 84] {
        let mut frame = valid.clone();
        frame[byte] ^= 0x20;
        assert_eq!(discovery(&frame).solicited(), None, "byte {byte}: a wrong checksum");
    }
    for (option, what) in [
        (&[9, 0, 0, 0, 0, 0, 0, 0][..], "a length of 0"),
        (&[9, 2, 0, 0, 0, 0, 0, 0], "an option that ends behind the packet"),
        (&[9, 1, 0, 0], "half a unit"),
        (&source_option.repeat(9), "more options than are read"),
    ] {
        assert_eq!(discovery(&solicitation(host, vip, option)).solicited(), None, "{what}");
    }
    let named = solicitation(unspecified, vip, &source_option);
    assert_eq!(discovery(&named).solicited(), None, "a hardware address of a host without an address");
    let mut unicast = solicitation(unspecified, vip, &[]);
    assert!(discovery(&unicast).solicited().is_some());
    unicast[38..54].copy_from_slice(&vip);
    assert_eq!(discovery(&with_checksum(unicast)).solicited(), None, "from `::` to no solicited-node group");
}
