//! The table of decapsulator cases.

mod gue;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use slb_common::abi::decap::{DecapPolicy, DecapReason};
use slb_control::dataplane::state::to_address;

use super::DecapCase;
use crate::packets::{
    check,
    frames::{Builder, Frame, flag, not_ip, number, other, tcp, udp},
    world::{CLIENT4, CLIENT6, DNS4, DNS6, HTTP4, HTTP6, OWN_MAC, VIP4, VIP6},
};

/// IP protocol number of IPv4 in IP.
const IN4: u8 = 4;
/// IP protocol number of IPv6 in IP.
const IN6: u8 = 41;

const BALANCER4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const BALANCER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
const STRANGER4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const STRANGER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10));
const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10));

/// Policy of all cases: accepted outer sources and inner destinations.
pub fn policy() -> DecapPolicy {
    let addresses = |list: &[IpAddr]| list.iter().copied().map(to_address).collect::<Vec<_>>();
    let policy = DecapPolicy::new(&addresses(&[BALANCER4, BALANCER6]), &addresses(&[VIP4, VIP6]));
    policy.expect("few addresses").with_gue_port(gue::PORT)
}

/// Every case.
pub fn all() -> Vec<DecapCase> {
    [stripped(), passed(), dropped(), gue::cases()].into_iter().flatten().collect()
}

fn inner4() -> Frame {
    udp(CLIENT4, DNS4.at, b"a question").build()
}

fn inner6() -> Frame {
    udp(CLIENT6, DNS6.at, b"a question").build()
}

/// A tunnel packet from the load balancer.
fn tunnel(outer_v4: bool, protocol: u8, inner: &Frame) -> Builder {
    let (from, to) = if outer_v4 { (BALANCER4, SERVER4) } else { (BALANCER6, SERVER6) };
    other(from, to, protocol, &inner.bytes[inner.network..])
}

fn in4(inner: &Frame) -> Builder {
    tunnel(true, if is_v4(inner) { IN4 } else { IN6 }, inner)
}

fn in6(inner: &Frame) -> Builder {
    tunnel(false, if is_v4(inner) { IN4 } else { IN6 }, inner)
}

fn is_v4(frame: &Frame) -> bool {
    frame.bytes[frame.network] >> 4 == 4
}

fn case(name: &str, frame: Frame, reason: DecapReason) -> DecapCase {
    DecapCase { name: name.to_owned(), frame: frame.bytes, reason, out: Vec::new() }
}

/// A case in which `outer` is stripped. The result has its link layer and the packet of `inner`, with one hop less and
/// this ECN field.
fn strip(name: &str, outer: &Frame, inner: &Frame, ecn: u8) -> DecapCase {
    let (outer_v4, inner_v4) = (is_v4(outer), is_v4(inner));
    let reason = match (outer_v4, inner_v4) {
        (true, true) => DecapReason::V4InV4,
        (true, false) => DecapReason::V6InV4,
        (false, true) => DecapReason::V4InV6,
        (false, false) => DecapReason::V6InV6,
    };
    let mut older = inner.clone();
    if inner_v4 {
        older.bytes[inner.network + 8] -= 1;
        older.bytes[inner.network + 1] = older.bytes[inner.network + 1] & !3 | ecn;
        let header = inner.network..inner.network + usize::from(older.bytes[inner.network] & 15) * 4;
        older.bytes[inner.network + 10..][..2].fill(0);
        let sum = !check::sum(&older.bytes[header]);
        older.bytes[inner.network + 10..][..2].copy_from_slice(&sum.to_be_bytes());
    } else {
        older.bytes[inner.network + 7] -= 1;
        older.bytes[inner.network + 1] = older.bytes[inner.network + 1] & !0x30 | ecn << 4;
    }
    let mut out = outer.bytes[..outer.network - 2].to_vec();
    out.extend(if inner_v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    out.extend(&older.bytes[inner.network..]);
    out.extend(&outer.bytes[outer.end..]);
    DecapCase { name: name.to_owned(), frame: outer.bytes.clone(), reason, out }
}

/// ECN field of the built frames.
const ECT_0: u8 = 2;

fn stripped() -> Vec<DecapCase> {
    let mut cases = Vec::new();
    for inner in [inner4(), inner6()] {
        for tags in 0..=2 {
            for outer in [in4(&inner), in6(&inner)] {
                let outer = (0..tags).fold(outer, |outer, tag| outer.tag(0x8100, 100 + tag));
                cases.push(strip(&format!("{tags} tags"), &outer.build(), &inner, ECT_0));
            }
        }
        // The kernel treats a frame with a priority tag (VLAN 0) as untagged.
        for outer in [in4(&inner), in6(&inner)] {
            cases.push(strip("a priority tag", &outer.tag(0x8100, 5 << 13).build(), &inner, ECT_0));
        }
        for words in [1, 10] {
            cases.push(strip("outer options", &in4(&inner).options(words).build(), &inner, ECT_0));
        }
        for units in [1, 8] {
            let outer = in6(&inner).extension(number::DESTINATION_OPTIONS, units).build();
            cases.push(strip("destination options", &outer, &inner, ECT_0));
        }
        let twice = in6(&inner)
            .extension(number::DESTINATION_OPTIONS, 1)
            .extension(number::DESTINATION_OPTIONS, 2)
            .tag(0x88a8, 1)
            .tag(0x8100, 2);
        cases.push(strip("two headers of destination options", &twice.build(), &inner, ECT_0));
        for outer in [in4(&inner), in6(&inner)] {
            cases.push(strip("padding", &outer.padding(30).build(), &inner, ECT_0));
        }
        let dont_fragment = in4(&inner).build().network(6, &[0x40, 0]);
        cases.push(strip("don't fragment", &dont_fragment, &inner, ECT_0));
        // Outer ECN field: CE, ECT(1), Not-ECT.
        for (outer, ecn) in [(3, 3), (1, 1), (0, ECT_0)] {
            let four = in4(&inner).build().network(1, &[outer]).sound();
            cases.push(strip("ECN", &four, &inner, ecn));
            let six = in6(&inner).build().network(0, &[0x60, outer << 4]);
            cases.push(strip("ECN", &six, &inner, ecn));
        }
    }
    for inner in [
        tcp(CLIENT4, HTTP4.at, flag::SYN).options(3).build(),
        tcp(CLIENT4, HTTP4.at, flag::ACK).hop_limit(2).build(),
        tcp(CLIENT4, HTTP4.at, flag::ACK).hop_limit(255).build(),
        // The inner packet is a fragment; the tunnel packet is whole.
        inner4().network(6, &[0x20, 0]).sound(),
        tcp(CLIENT6, HTTP6.at, flag::SYN).extension(number::HOP_BY_HOP, 2).build(),
        tcp(CLIENT6, HTTP6.at, flag::ACK).hop_limit(2).build(),
        other(CLIENT6.ip(), VIP6, number::FRAGMENT, &[number::UDP, 0, 0, 1, 1, 2, 3, 4]).build(),
        other(CLIENT4.ip(), VIP4, 132, b"").build(),
        // The kernel processes a nested tunnel packet.
        other(BALANCER4, VIP4, IN4, &inner4().bytes[14..]).build(),
        other(BALANCER6, VIP6, IN6, &inner6().bytes[14..]).build(),
    ] {
        cases.push(strip("whatever is inside", &in4(&inner).build(), &inner, ECT_0));
        cases.push(strip("whatever is inside", &in6(&inner).build(), &inner, ECT_0));
    }
    cases
}

fn passed() -> Vec<DecapCase> {
    use DecapReason::{
        BadOuter, ExtensionHeaders, Fragment, LinkMulticast, NotIp, NotTunnel, SourceNotAllowed,
    };
    let mut cases = vec![
        case("no IP", not_ip(OWN_MAC, 0x0806, &[0; 28]), NotIp),
        case("three tags", in4(&inner4()).tag(0x8100, 1).tag(0x8100, 2).tag(0x8100, 3).build(), NotIp),
        case("tag without a packet", not_ip(OWN_MAC, 0x8100, &[0, 1, 8]), BadOuter),
    ];
    for (inner, protocol) in [(inner4(), IN4), (inner6(), IN6)] {
        let payload = &inner.bytes[inner.network..];
        cases.extend([
            case("no tunnel", inner.clone(), NotTunnel),
            case("broadcast", in4(&inner).macs([2; 6], [0xff; 6]).build(), LinkMulticast),
            case("stranger", other(STRANGER4, SERVER4, protocol, payload).build(), SourceNotAllowed),
            case("stranger", other(STRANGER6, SERVER6, protocol, payload).build(), SourceNotAllowed),
            case("first fragment", in4(&inner).build().network(6, &[0x20, 0]), Fragment),
            case("later fragment", in4(&inner).build().network(6, &[0, 7]), Fragment),
            case("fragment", in6(&inner).extension(number::FRAGMENT, 1).build(), Fragment),
            case(
                "fragment behind options",
                in6(&inner).extension(number::DESTINATION_OPTIONS, 1).extension(number::FRAGMENT, 1).build(),
                Fragment,
            ),
            case(
                "long options",
                in6(&inner).extension(number::DESTINATION_OPTIONS, 9).build(),
                ExtensionHeaders,
            ),
            case(
                "many options",
                in6(&inner)
                    .extension(number::DESTINATION_OPTIONS, 1)
                    .extension(number::DESTINATION_OPTIONS, 1)
                    .extension(number::DESTINATION_OPTIONS, 1)
                    .build(),
                ExtensionHeaders,
            ),
            case("hop by hop", in6(&inner).extension(number::HOP_BY_HOP, 1).build(), NotTunnel),
            case("version 6", in4(&inner).build().network(0, &[0x65]), BadOuter),
            case("version 4", in6(&inner).build().network(0, &[0x42]), BadOuter),
            case("short header", in4(&inner).build().network(0, &[0x44]), BadOuter),
            case("total below header", in4(&inner).build().network(2, &[0, 19]), BadOuter),
            case(
                "payload below options",
                {
                    let outer = in6(&inner).extension(number::DESTINATION_OPTIONS, 1).build();
                    outer.network(4, &[0, 7])
                },
                BadOuter,
            ),
        ]);
        // Bytes that the frame does not contain cannot be stripped, whatever its length fields say.
        for outer in [in4(&inner).build(), in6(&inner).build()] {
            let header = if is_v4(&outer) { 20 } else { 40 };
            for len in 14..outer.bytes.len() {
                // The protocol field lies within the IP header, so a frame cut before it has no complete header either.
                cases.push(case(&format!("{len} bytes, header {header}"), outer.clone().cut(len), BadOuter));
            }
        }
    }
    cases
}

fn dropped() -> Vec<DecapCase> {
    use DecapReason::{BadInner, Congestion, DestinationNotAccepted, InnerHopLimit, InnerVersion};
    let mut cases = Vec::new();
    for outer_v4 in [true, false] {
        let wrap = |protocol, inner: &Frame| tunnel(outer_v4, protocol, inner).build();
        cases.extend([
            case("IPv4 as IPv6", wrap(IN6, &inner4()), InnerVersion),
            case("IPv6 as IPv4", wrap(IN4, &inner6()), InnerVersion),
            case("short header", wrap(IN4, &inner4().network(0, &[0x44])), BadInner),
            case("total below header", wrap(IN4, &inner4().network(2, &[0, 19])), BadInner),
            case("total too long", wrap(IN4, &inner4().network(2, &[0, 39])), BadInner),
            case("payload too long", wrap(IN6, &inner6().network(4, &[0, 19])), BadInner),
        ]);
        for hop_limit in [0, 1] {
            let four = tcp(CLIENT4, HTTP4.at, flag::ACK).hop_limit(hop_limit).build();
            let six = tcp(CLIENT6, HTTP6.at, flag::ACK).hop_limit(hop_limit).build();
            cases.push(case("hop limit", wrap(IN4, &four), InnerHopLimit));
            cases.push(case("hop limit", wrap(IN6, &six), InnerHopLimit));
        }
        let elsewhere4 = udp(CLIENT4, "10.0.0.11:53".parse().expect("an address"), b"elsewhere").build();
        let elsewhere6 = udp(CLIENT6, "[fd00::11]:53".parse().expect("an address"), b"elsewhere").build();
        cases.push(case("elsewhere", wrap(IN4, &elsewhere4), DestinationNotAccepted));
        cases.push(case("elsewhere", wrap(IN6, &elsewhere6), DestinationNotAccepted));
        // The VIP as an IPv4-mapped IPv6 address.
        let IpAddr::V4(vip) = VIP4 else { unreachable!("an IPv4 address") };
        let mapped = inner6().network(24, &vip.to_ipv6_mapped().octets());
        cases.push(case("mapped", wrap(IN6, &mapped), DestinationNotAccepted));
        // Padding does not belong to the inner packet, even if it looks like the rest of it.
        for (protocol, inner) in [(IN4, inner4()), (IN6, inner6())] {
            let padded = |room: usize| {
                let outer = wrap(protocol, &inner);
                if outer_v4 {
                    let total = (20 + room) as u16;
                    outer.network(2, &total.to_be_bytes()).sound()
                } else {
                    outer.network(4, &(room as u16).to_be_bytes())
                }
            };
            for room in 0..inner.bytes.len() - inner.network {
                cases.push(case(&format!("{room} bytes inside"), padded(room), BadInner));
            }
            let nothing = Frame { bytes: inner.bytes[..inner.network].to_vec(), ..inner.clone() };
            cases.push(case("nothing inside", wrap(protocol, &nothing), BadInner));
        }
        let silent4 = inner4().network(1, &[0]).sound();
        let silent6 = inner6().network(0, &[0x60, 0]);
        for (protocol, inner) in [(IN4, silent4), (IN6, silent6)] {
            let outer = wrap(protocol, &inner);
            let congested =
                if outer_v4 { outer.network(1, &[3]).sound() } else { outer.network(0, &[0x60, 0x30]) };
            cases.push(case("congestion", congested, Congestion));
        }
    }
    cases
}
