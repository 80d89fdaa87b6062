//! Decapsulated frames, compared with frames and expectations built with etherparse.

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
};
use proptest::prelude::*;

use super::process;
use crate::{
    abi::{
        Address,
        decap::{DecapAction, DecapPolicy, DecapReason},
    },
    net::frame::Frame,
};

const ALLOWED4: [u8; 4] = [192, 0, 2, 1];
const ALLOWED6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SERVER4: [u8; 4] = [10, 0, 0, 10];
const SERVER6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const VIP4: [u8; 4] = [198, 51, 100, 10];
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];

/// A tunnel packet to build.
#[derive(Debug, Clone)]
struct Tunnel {
    outer_v4: bool,
    inner_v4: bool,
    tags: Vec<u16>,
    hop_limit: u8,
    outer_ecn: u8,
    inner_ecn: u8,
    dscp: u8,
    outer_dscp: u8,
    payload: Vec<u8>,
    padding: usize,
}

fn policy() -> DecapPolicy {
    let sources = [Address::v4([192, 0, 2, 7]), Address::v6(ALLOWED6), Address::v4(ALLOWED4)];
    DecapPolicy::new(&sources, &[]).unwrap()
}

/// The inner packet, with this TTL or hop limit and ECN field.
fn inner(tunnel: &Tunnel, hop_limit: u8, ecn: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = if tunnel.inner_v4 {
        let mut ip = Ipv4Header::new(0, hop_limit, IpNumber::UDP, [203, 0, 113, 5], VIP4).unwrap();
        ip.dscp = IpDscp::try_new(tunnel.dscp).unwrap();
        ip.ecn = IpEcn::try_new(ecn).unwrap();
        ip.identification = 0x1234;
        PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
    } else {
        let ip = Ipv6Header {
            traffic_class: tunnel.dscp << 2 | ecn,
            flow_label: Ipv6FlowLabel::try_new(0x9_abcd).unwrap(),
            payload_length: 0,
            next_header: IpNumber::UDP,
            hop_limit,
            source: [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
            destination: VIP6,
        };
        PacketBuilder::ip(etherparse::IpHeaders::Ipv6(ip, etherparse::Ipv6Extensions::default()))
    };
    builder.udp(4000, 53).write(&mut packet, &tunnel.payload).unwrap();
    packet
}

fn ethernet(tags: &[u16], ether_type: EtherType) -> Vec<u8> {
    let mut kinds = tags.iter().map(|_| EtherType(0x8100)).chain([ether_type]);
    let mut bytes = Vec::new();
    let header = Ethernet2Header {
        destination: [2, 0, 0, 0, 0, 2],
        source: [2, 0, 0, 0, 0, 1],
        ether_type: kinds.next().unwrap(),
    };
    header.write(&mut bytes).unwrap();
    for (tag, kind) in tags.iter().zip(kinds) {
        bytes.extend(tag.to_be_bytes());
        bytes.extend(kind.0.to_be_bytes());
    }
    bytes
}

fn encapsulated(tunnel: &Tunnel) -> Vec<u8> {
    let inner = inner(tunnel, tunnel.hop_limit, tunnel.inner_ecn);
    let carried = if tunnel.inner_v4 { IpNumber(4) } else { IpNumber(41) };
    let mut bytes = ethernet(&tunnel.tags, if tunnel.outer_v4 { EtherType::IPV4 } else { EtherType::IPV6 });
    if tunnel.outer_v4 {
        let mut ip = Ipv4Header::new(inner.len() as u16, 64, carried, ALLOWED4, SERVER4).unwrap();
        ip.dscp = IpDscp::try_new(tunnel.outer_dscp).unwrap();
        ip.ecn = IpEcn::try_new(tunnel.outer_ecn).unwrap();
        ip.write(&mut bytes).unwrap();
    } else {
        let ip = Ipv6Header {
            traffic_class: tunnel.outer_dscp << 2 | tunnel.outer_ecn,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: inner.len() as u16,
            next_header: carried,
            hop_limit: 64,
            source: ALLOWED6,
            destination: SERVER6,
        };
        ip.write(&mut bytes).unwrap();
    }
    bytes.extend(inner);
    bytes.extend(std::iter::repeat_n(0xee, tunnel.padding));
    bytes
}

/// The expected frame; `None` if congestion cannot be signalled (RFC 6040, 4.2).
fn expected(tunnel: &Tunnel) -> Option<Vec<u8>> {
    let ecn = match (tunnel.outer_ecn, tunnel.inner_ecn) {
        (3, 0) => return None,
        (3, _) => 3,
        (1, 2) => 1,
        (_, inner) => inner,
    };
    let mut bytes = ethernet(&tunnel.tags, if tunnel.inner_v4 { EtherType::IPV4 } else { EtherType::IPV6 });
    bytes.extend(inner(tunnel, tunnel.hop_limit - 1, ecn));
    bytes.extend(std::iter::repeat_n(0xee, tunnel.padding));
    Some(bytes)
}

/// Runs the decapsulator. Returns the reason and the frame that the kernel receives.
fn run(frame: &[u8], policy: &DecapPolicy) -> (DecapReason, Vec<u8>) {
    let mut bytes = frame.to_vec();
    let outcome = process(&mut Frame::from_slice(&mut bytes), policy);
    assert_eq!(outcome.cut != 0, outcome.reason.action() == DecapAction::Strip);
    if outcome.cut == 0 {
        assert_eq!(bytes, frame, "{:?} but changed", outcome.reason);
    }
    (outcome.reason, bytes.split_off(outcome.cut))
}

fn tunnels() -> impl Strategy<Value = Tunnel> {
    (
        any::<(bool, bool)>(),
        prop::collection::vec(0..4096_u16, 0..=2),
        2..=255_u8,
        (0..4_u8, 0..4_u8, 0..64_u8, 0..64_u8),
        prop::collection::vec(any::<u8>(), 0..100),
        0..20_usize,
    )
        .prop_map(
            |((outer_v4, inner_v4), tags, hop_limit, (oe, ie, dscp, outer_dscp), payload, padding)| Tunnel {
                outer_v4,
                inner_v4,
                tags,
                hop_limit,
                outer_ecn: oe,
                inner_ecn: ie,
                dscp,
                outer_dscp,
                payload,
                padding,
            },
        )
}

proptest! {
    #[test]
    fn inner_packet_leaves_with_its_hop_limit_decremented(tunnel in tunnels()) {
        let (reason, out) = run(&encapsulated(&tunnel), &policy());
        match expected(&tunnel) {
            None => prop_assert_eq!(reason, DecapReason::Congestion),
            Some(bytes) => {
                let strip = match (tunnel.outer_v4, tunnel.inner_v4) {
                    (true, true) => DecapReason::V4InV4,
                    (true, false) => DecapReason::V6InV4,
                    (false, true) => DecapReason::V4InV6,
                    (false, false) => DecapReason::V6InV6,
                };
                prop_assert_eq!(reason, strip);
                prop_assert_eq!(out, bytes);
            }
        }
    }

    #[test]
    fn truncated_frame_is_never_decapsulated(mut tunnel in tunnels(), cut in any::<prop::sample::Index>()) {
        tunnel.padding = 0;
        let frame = encapsulated(&tunnel);
        let (reason, _) = run(&frame[..cut.index(frame.len())], &policy());
        prop_assert_ne!(reason.action(), DecapAction::Strip);
    }

    #[test]
    fn packets_of_other_sources_are_not_decapsulated(tunnel in tunnels(), at in 0..16_usize, bit in 0..8_u32) {
        let mut frame = encapsulated(&tunnel);
        let network = 14 + 4 * tunnel.tags.len();
        let source = if tunnel.outer_v4 { network + 12 + at % 4 } else { network + 8 + at };
        frame[source] ^= 1_u8 << bit;
        prop_assert_eq!(run(&frame, &policy()).0, DecapReason::SourceNotAllowed);
    }

    #[test]
    fn corrupted_tunnel_packets_never_panic_the_decapsulator(
        tunnel in tunnels(),
        changes in prop::collection::vec((0..140_usize, any::<u8>()), 1..6),
    ) {
        let mut frame = encapsulated(&tunnel);
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        run(&frame, &policy());
    }

    #[test]
    fn random_bytes_never_panic_the_decapsulator(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        run(&bytes, &policy());
    }
}

/// A mapped IPv6 source is not the IPv4 source that it maps.
#[test]
fn ipv4_mapped_source_is_not_allowed() {
    let tunnel = Tunnel {
        outer_v4: false,
        inner_v4: true,
        tags: Vec::new(),
        hop_limit: 64,
        outer_ecn: 0,
        inner_ecn: 0,
        dscp: 0,
        outer_dscp: 0,
        payload: b"mapped".to_vec(),
        padding: 0,
    };
    let mut frame = encapsulated(&tunnel);
    assert_eq!(run(&frame, &policy()).0, DecapReason::V4InV6);
    frame[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    assert_eq!(run(&frame, &policy()).0, DecapReason::SourceNotAllowed);
}
