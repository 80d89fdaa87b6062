//! Headers that contradict themselves or the frame, and valid ones that look unusual.

use slb_common::abi::stats::Reason;

use crate::packets::{
    frames::{Builder, Frame, echo, flag, number, other, tcp, udp},
    icmp::IcmpCause,
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const TO4: Expect = Expect::ToServer(HTTP4, WEB4, FlowKind::New);
const TO6: Expect = Expect::ToServer(HTTP6, WEB6, FlowKind::New);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    cases.extend(ipv4());
    cases.extend(ipv6());
    cases.extend(transport());
    cases
}

/// A malformed packet is dropped if its destination is a VIP, and passed otherwise.
fn refused(name: &str, to_vip: Frame, to_server: Frame, reason: Reason) -> Scenario {
    Scenario::new(name).frame(to_vip, Expect::Drop(reason)).frame(to_server, Expect::Pass(reason))
}

fn ipv4() -> Vec<Scenario> {
    let ours = || tcp(CLIENT4, HTTP4.at, flag::SYN).build();
    let others = || tcp(CLIENT4, WEB4.at, flag::SYN).build();
    let both =
        |name, change: fn(Frame) -> Frame, reason| refused(name, change(ours()), change(others()), reason);
    let mut cases: Vec<_> = (1..=10)
        .map(|words| {
            Scenario::new(format!("IPv4 options of {words} words"))
                .frame(tcp(CLIENT4, HTTP4.at, flag::SYN).options(words).build(), TO4)
        })
        .collect();
    cases.extend([
        both("IPv4: version 5", |f| f.network(0, &[0x55]), Reason::BadHeader),
        both("IPv4: header of 4 words", |f| f.network(0, &[0x44]), Reason::BadHeader),
        both("IPv4: header of no words", |f| f.network(0, &[0x40]), Reason::BadHeader),
        both("IPv4: total length below the header", |f| f.network(2, &[0, 19]), Reason::BadLength),
        both("IPv4: total length of 0", |f| f.network(2, &[0, 0]), Reason::BadLength),
        both(
            "IPv4: total length beyond the frame",
            |f| f.patch(|f| f.bytes[f.network + 3] += 1),
            Reason::BadLength,
        ),
        both(
            "IPv4: header beyond the total length",
            |f| f.network(0, &[0x4f]).network(2, &[0, 59]),
            Reason::BadLength,
        ),
        both("IPv4: middle fragment", |f| f.network(6, &[0x20, 185]), Reason::Fragment),
        both("IPv4: last fragment", |f| f.network(6, &[0, 185]), Reason::Fragment),
        both("IPv4: highest offset", |f| f.network(6, &[0x1f, 0xff]), Reason::Fragment),
        Scenario::new("IPv4: neither fragment nor don't fragment")
            .frame(ours().network(6, &[0, 0]).sound(), TO4),
        Scenario::new("IPv4: the reserved flag").frame(ours().network(6, &[0x80, 0]).sound(), TO4),
        Scenario::new("IPv4: type of service, identification")
            .frame(ours().network(1, &[0xff]).network(4, &[0, 0]).sound(), TO4),
        Scenario::new("a fragment of a UDP datagram and of an echo request")
            .frame(
                udp(CLIENT4, DNS4.at, b"abc").build().network(6, &[0x20, 1]),
                Expect::Drop(Reason::Fragment),
            )
            .frame(
                echo(CLIENT4.ip(), VIP4, b"abc").build().network(6, &[0x20, 0]),
                Expect::Drop(Reason::Fragment),
            )
            .frame(
                echo(CLIENT4.ip(), VIP4, b"abc").build().network(6, &[0, 1]),
                Expect::Drop(Reason::Fragment),
            ),
        Scenario::new("trailing padding")
            .frame(tcp(CLIENT4, HTTP4.at, flag::SYN).padding(1).build(), TO4)
            .frame(
                tcp(CLIENT4, HTTP4.at, flag::SYN).padding(700).build(),
                Expect::ToServer(HTTP4, WEB4, FlowKind::Old),
            )
            .frame(
                udp(CLIENT4, DNS4.at, b"").padding(18).build(),
                Expect::ToServer(DNS4, NAME4, FlowKind::New),
            ),
        Scenario::new("IPv4 under the type of IPv6, and the reverse")
            .frame(
                ours().patch(|f| f.bytes[12..14].copy_from_slice(&[0x86, 0xdd])),
                Expect::Pass(Reason::BadHeader),
            )
            .frame(
                tcp(CLIENT6, HTTP6.at, flag::SYN).build().patch(|f| f.bytes[12..14].copy_from_slice(&[8, 0])),
                Expect::Pass(Reason::BadHeader),
            ),
    ]);
    cases
}

fn ipv6() -> Vec<Scenario> {
    let mut cases = ipv6_header();
    cases.extend(ipv6_extension_headers());
    cases.extend(ipv4_mapped());
    cases.push(mapped_answer());
    cases
}

/// A SYN of an IPv6 client to a VIP.
fn ours6() -> Builder {
    tcp(CLIENT6, HTTP6.at, flag::SYN)
}

/// A SYN of an IPv6 client to an address that is no VIP.
fn others6() -> Builder {
    tcp(CLIENT6, WEB6.at, flag::SYN)
}

fn ipv6_header() -> Vec<Scenario> {
    let both = |name, change: fn(Frame) -> Frame, reason| {
        refused(name, change(ours6().build()), change(others6().build()), reason)
    };
    vec![
        both("IPv6: version 4", |f| f.network(0, &[0x42]), Reason::BadHeader),
        both(
            "IPv6: payload beyond the frame",
            |f| f.patch(|f| f.bytes[f.network + 5] += 1),
            Reason::BadLength,
        ),
        Scenario::new("IPv6: traffic class and flow label")
            .frame(ours6().build().network(0, &[0x6f, 0xff, 0xff, 0xff]).sound(), TO6),
        Scenario::new("IPv6: trailing padding").frame(ours6().padding(33).build(), TO6),
    ]
}

fn ipv6_extension_headers() -> Vec<Scenario> {
    let (hop, destination, routing) = (number::HOP_BY_HOP, number::DESTINATION_OPTIONS, number::ROUTING);
    let six = || (0..6).fold(ours6(), |frame, _| frame.extension(destination, 1));
    vec![
        Scenario::new("IPv6: hop-by-hop options").frame(ours6().extension(hop, 1).build(), TO6),
        Scenario::new("IPv6: destination options").frame(ours6().extension(destination, 3).build(), TO6),
        Scenario::new("IPv6: a routing header without segments left")
            .frame(ours6().extension(routing, 3).build(), TO6),
        Scenario::new("IPv6: a routing header with segments left").frame(
            ours6().extension(routing, 3).build().network(43, &[1]),
            Expect::Drop(Reason::SourceRoute),
        ),
        Scenario::new("IPv6: several extension headers").frame(
            ours6()
                .extension(hop, 1)
                .extension(destination, 2)
                .extension(routing, 1)
                .extension(destination, 1)
                .build(),
            TO6,
        ),
        Scenario::new("IPv6: extension headers before UDP").frame(
            udp(CLIENT6, DNS6.at, b"abc").extension(hop, 1).extension(destination, 4).build(),
            Expect::ToServer(DNS6, NAME6, FlowKind::New),
        ),
        Scenario::new("IPv6: six extension headers").frame(six().build(), TO6),
        Scenario::new("IPv6: seven extension headers")
            .frame(six().extension(destination, 1).build(), Expect::Drop(Reason::ExtensionHeaders)),
        Scenario::new("IPv6: seven extension headers, not ours").frame(
            (0..7).fold(others6(), |frame, _| frame.extension(destination, 1)).build(),
            Expect::Pass(Reason::ExtensionHeaders),
        ),
        Scenario::new("IPv6: 256 bytes of extension headers")
            .frame(ours6().extension(destination, 32).build(), TO6),
        Scenario::new("IPv6: 264 bytes of extension headers")
            .frame(ours6().extension(destination, 33).build(), Expect::Drop(Reason::ExtensionHeaders)),
        Scenario::new("IPv6: the longest extension header")
            .frame(ours6().extension(destination, 256).build(), Expect::Drop(Reason::ExtensionHeaders)),
        Scenario::new("IPv6: an extension header longer than the packet")
            .frame(
                ours6()
                    .extension(destination, 1)
                    .build()
                    .patch(|f| f.bytes[f.network + 41] = 20)
                    .network(4, &[0, 52]),
                Expect::Drop(Reason::BadLength),
            )
            .frame(
                ours6()
                    .extension(destination, 1)
                    .padding(300)
                    .build()
                    .patch(|f| f.bytes[f.network + 41] = 20),
                Expect::Drop(Reason::BadLength),
            ),
        Scenario::new("IPv6: extension header beyond the payload length").frame(
            ours6().extension(destination, 1).build().network(4, &[0, 4]),
            Expect::Drop(Reason::BadLength),
        ),
        Scenario::new("IPv6: fragments")
            .frame(later(ours6().extension(number::FRAGMENT, 1)), Expect::Drop(Reason::Fragment))
            .frame(later(others6().extension(number::FRAGMENT, 1)), Expect::Pass(Reason::Fragment))
            .frame(
                later(ours6().extension(hop, 1).extension(number::FRAGMENT, 1)),
                Expect::Drop(Reason::Fragment),
            )
            .frame(later(six().extension(number::FRAGMENT, 1)), Expect::Drop(Reason::Fragment))
            .frame(
                ours6().extension(number::FRAGMENT, 1).extension(destination, 1).build(),
                Expect::Drop(Reason::Unmatched),
            )
            .frame(six().extension(number::FRAGMENT, 1).build(), TO6),
        Scenario::new("IPv6: extension headers that are not parsed").frame(
            other(CLIENT6.ip(), VIP6, 51, &[6, 4, 0, 0, 0, 0, 0, 0]).build(),
            Expect::IcmpError(IcmpCause::NoProtocol),
        ),
    ]
}

/// The packet behind the fragment header, as a later fragment.
fn later(of: Builder) -> Frame {
    of.build().patch(|f| f.bytes[f.transport - 5] = 0x10)
}

fn ipv4_mapped() -> Vec<Scenario> {
    let mapped = |source: bool, destination: bool| {
        let prefix = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let mut frame = ours6().build();
        if source {
            frame = frame.network(8, &prefix).network(20, &[203, 0, 113, 7]);
        }
        if destination {
            frame = frame.network(24, &prefix).network(36, &[198, 51, 100, 10]);
        }
        frame.sound()
    };
    // No packet carries such addresses (RFC 4942, 2.2). SLB keeps IPv4 addresses in this form.
    let refused = Scenario::new("IPv6: an IPv4-mapped VIP in packets that the parser refuses")
        .frame(mapped(false, true).network(0, &[0x42]), Expect::Pass(Reason::BadHeader))
        .frame(mapped(false, true).network(4, &[0xff, 0xff]), Expect::Pass(Reason::BadLength))
        .frame(mapped(false, true).network(6, &[number::FRAGMENT]), Expect::Pass(Reason::NotOurs))
        .frame(
            mapped(false, true).network(6, &[number::ROUTING]).transport(3, &[1]),
            Expect::Pass(Reason::SourceRoute),
        );
    [("source", true, false), ("destination", false, true), ("source and destination", true, true)]
        .into_iter()
        .map(|(name, source, destination)| {
            Scenario::new(format!("IPv6: an IPv4-mapped {name}"))
                .frame(mapped(source, destination), Expect::Pass(Reason::NotOurs))
                .frame(mapped(source, destination).transport(12, &[0]), Expect::Pass(Reason::NotOurs))
        })
        .chain([refused])
        .collect()
}

/// An IPv6 frame whose addresses are the two ends of an IPv4 flow, as IPv4-mapped addresses.
fn mapped_answer() -> Scenario {
    let prefix = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let mut frame = tcp(CLIENT6, HTTP6.at, flag::ACK).build();
    frame = frame.network(8, &prefix).network(20, &[10, 0, 0, 1]);
    frame = frame.network(24, &prefix).network(36, &[203, 0, 113, 7]);
    frame = frame.transport(0, &8080_u16.to_be_bytes()).transport(2, &CLIENT4.port().to_be_bytes()).sound();
    Scenario::new("IPv6: an answer between IPv4-mapped addresses")
        .frame(tcp(CLIENT4, HTTP4.at, flag::SYN).build(), TO4)
        .frame(frame, Expect::Pass(Reason::NotOurs))
}

fn transport() -> Vec<Scenario> {
    let ours = || tcp(CLIENT4, HTTP4.at, flag::SYN).build();
    let others = || tcp(CLIENT4, WEB4.at, flag::SYN).build();
    let both =
        |name, change: fn(Frame) -> Frame, reason| refused(name, change(ours()), change(others()), reason);
    let datagram = |to| udp(CLIENT4, to, b"12345678").build();
    let both_udp = |name, change: fn(Frame) -> Frame, reason| {
        refused(name, change(datagram(DNS4.at)), change(datagram(NAME4.at)), reason)
    };
    vec![
        both("TCP: data offset 0", |f| f.transport(12, &[0]), Reason::BadHeader),
        both("TCP: data offset 4", |f| f.transport(12, &[4 << 4]), Reason::BadHeader),
        both("TCP: data offset beyond the packet", |f| f.transport(12, &[15 << 4]), Reason::BadLength),
        both("TCP: no room for the header", |f| f.network(2, &[0, 39]), Reason::BadLength),
        both("TCP: no room for anything", |f| f.network(2, &[0, 20]), Reason::BadLength),
        both(
            "TCP: header that ends in the padding",
            |f| f.network(2, &[0, 32]).patch(|f| f.bytes.extend([0; 40])),
            Reason::BadLength,
        ),
        Scenario::new("TCP: data offset up to the end").frame(
            ours().cut(14 + 20 + 28).network(2, &[0, 48]).patch(|f| f.end = f.bytes.len()).sound(),
            TO4,
        ),
        Scenario::new("TCP: reserved bits, window, urgent pointer").frame(
            ours().transport(12, &[0x7e, 0xc2 | flag::PSH, 0, 0]).transport(18, &[0xff, 0xff]).sound(),
            TO4,
        ),
        both_udp("UDP: length 0", |f| f.transport(4, &[0, 0]), Reason::BadLength),
        both_udp("UDP: length 7", |f| f.transport(4, &[0, 7]), Reason::BadLength),
        both_udp("UDP: length beyond the packet", |f| f.transport(4, &[0, 17]), Reason::BadLength),
        both_udp(
            "UDP: length that ends in the padding",
            |f| f.transport(4, &[0, 17]).patch(|f| f.bytes.extend([0; 9])),
            Reason::BadLength,
        ),
        both_udp("UDP: no room for the header", |f| f.network(2, &[0, 27]), Reason::BadLength),
        refused(
            "echo: no room for the header",
            echo(CLIENT4.ip(), VIP4, b"abc").build().network(2, &[0, 27]),
            echo(CLIENT4.ip(), WEB4.at.ip(), b"abc").build().network(2, &[0, 27]),
            Reason::BadLength,
        ),
    ]
}
