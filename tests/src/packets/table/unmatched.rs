//! Unmatched packets: for a VIP, but for no running listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use slb_common::abi::{
    service::policy,
    stats::{Action, Reason},
};

use crate::packets::{
    frames::{Builder, Frame, echo, flag, number, other, tcp, udp},
    icmp::IcmpCause,
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const GRE: u8 = 47;
const NO_NEXT_HEADER: u8 = 59;
const DROPPED: Expect = Expect::Drop(Reason::Unmatched);

/// A port without a listener for TCP or UDP.
const PORT: u16 = 4443;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = vec![
        tcp_is_reset(),
        unreachable(),
        silent(),
        senders(),
        neighbours(),
        stopped(),
        dropped(),
        dropped_fragments(),
    ];
    cases.extend(the_hosts());
    cases.push(per_second());
    cases
}

fn both() -> [(SocketAddr, IpAddr); 2] {
    [(CLIENT4, VIP4), (CLIENT6, VIP6)]
}

fn segment(client: SocketAddr, vip: IpAddr, flags: u8) -> Builder {
    tcp(client, SocketAddr::new(vip, PORT), flags)
}

fn datagram(client: SocketAddr, vip: IpAddr) -> Builder {
    udp(client, SocketAddr::new(vip, PORT), b"abc")
}

fn message(client: SocketAddr, vip: IpAddr, kind: u8) -> Builder {
    let protocol = if vip.is_ipv4() { number::ICMP } else { number::ICMPV6 };
    other(client.ip(), vip, protocol, &[kind, 0, 0, 0, 0, 0, 0, 0])
}

fn all(policy: u32) -> PacketWorld {
    [ECHO4, ECHO6]
        .into_iter()
        .fold(PacketWorld::standard(), |world, echo| world.with(echo, |vip| vip.policy = policy))
}

fn tcp_is_reset() -> Scenario {
    let mut case = Scenario::new("unmatched: TCP is reset");
    for (client, vip) in both() {
        case = case
            .frame(segment(client, vip, flag::SYN).build(), Expect::Refuse)
            .frame(segment(client, vip, flag::ACK | flag::PSH).build(), Expect::Refuse)
            .frame(segment(client, vip, flag::FIN | flag::ACK).build(), Expect::Refuse)
            .frame(segment(client, vip, flag::SYN).tag(VLAN, 7).build(), Expect::Refuse)
            .frame(segment(client, vip, flag::SYN).hop_limit(1).build(), Expect::Refuse)
            // A RST is never answered (RFC 9293, 3.10.7.1).
            .frame(segment(client, vip, flag::RST).build(), DROPPED)
            .frame(segment(client, vip, flag::RST | flag::ACK).build(), DROPPED);
    }
    case.frame(segment(CLIENT4, VIP4, flag::SYN).options(3).build(), DROPPED)
        .frame(segment(CLIENT6, VIP6, flag::SYN).extension(number::HOP_BY_HOP, 1).build(), DROPPED)
        // A TCP port is not matched by a UDP listener, nor the reverse.
        .frame(tcp(CLIENT4, DNS4.at, flag::SYN).build(), Expect::Refuse)
}

fn unreachable() -> Scenario {
    let mut case = Scenario::new("unmatched: UDP and other protocols are unreachable");
    let (port, protocol) = (Expect::IcmpError(IcmpCause::NoPort), Expect::IcmpError(IcmpCause::NoProtocol));
    for (client, vip) in both() {
        case = case
            .frame(datagram(client, vip).build(), port)
            .frame(datagram(client, vip).tag(VLAN, 7).tag(VLAN, 8).build(), port)
            .frame(other(client.ip(), vip, GRE, &[0; 12]).build(), protocol)
            .frame(other(client.ip(), vip, GRE, &[0; 1400]).tag(VLAN, 7).build(), protocol);
    }
    case.frame(datagram(CLIENT4, VIP4).options(3).build(), DROPPED)
        .frame(datagram(CLIENT6, VIP6).extension(number::DESTINATION_OPTIONS, 1).build(), DROPPED)
        .frame(other(CLIENT4.ip(), VIP4, GRE, &[0; 12]).options(1).build(), DROPPED)
        .frame(udp(CLIENT4, SocketAddr::new(VIP4, 80), b"").build(), port)
}

fn silent() -> Scenario {
    let timestamp = 13;
    let (unreachable4, unreachable6) = (3, 1);
    Scenario::new("unmatched: ICMP is not answered")
        .frame(message(CLIENT4, VIP4, timestamp).build(), DROPPED)
        .frame(message(CLIENT4, VIP4, unreachable4).build(), DROPPED)
        .frame(message(CLIENT6, VIP6, unreachable6).tag(VLAN, 7).build(), DROPPED)
        // An ICMP message of the other family.
        .frame(other(CLIENT4.ip(), VIP4, number::ICMPV6, &[128, 0, 0, 0, 0, 0, 0, 0]).build(), DROPPED)
        .frame(other(CLIENT6.ip(), VIP6, NO_NEXT_HEADER, &[]).build(), DROPPED)
        .frame(fragment(segment(CLIENT4, VIP4, flag::ACK)), DROPPED)
        .frame(later(datagram(CLIENT4, VIP4)), Expect::Drop(Reason::Fragment))
        .frame(datagram(CLIENT6, VIP6).extension(number::FRAGMENT, 1).build(), DROPPED)
}

/// Source addresses that are not a single host's get no answer.
fn senders() -> Scenario {
    const MARTIAN: Expect = Expect::Drop(Reason::MartianSource);
    let v4 = |a, d| IpAddr::from(Ipv4Addr::new(a, 0, 0, d));
    let v6 = |first| IpAddr::from(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 1));
    let senders =
        [(v4(0, 0), VIP4), (v4(127, 1), VIP4), (v4(224, 1), VIP4), (v4(255, 255), VIP4), (VIP4, VIP4)];
    let senders6 = [(v6(0), VIP6), (v6(0xff02), VIP6), (VIP6, VIP6)];
    senders.into_iter().chain(senders6).fold(
        Scenario::new("unmatched: martian sources get no answer"),
        |case, (sender, vip)| {
            let from = SocketAddr::new(sender, 40_000);
            case.frame(segment(from, vip, flag::SYN).build(), MARTIAN)
                .frame(datagram(from, vip).build(), MARTIAN)
                .frame(other(sender, vip, GRE, &[0; 12]).build(), MARTIAN)
        },
    )
}

/// Neighbour discovery belongs to the kernel, which owns the address.
fn neighbours() -> Scenario {
    (133..=137).fold(Scenario::new("unmatched: neighbour discovery is the kernel's"), |case, kind| {
        case.frame(message(CLIENT6, VIP6, kind).hop_limit(255).build(), Expect::Pass(Reason::OtherProtocol))
            .frame(message(CLIENT6, VIP6, kind).hop_limit(254).build(), DROPPED)
            .frame(
                other(CLIENT4.ip(), VIP4, number::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0])
                    .hop_limit(255)
                    .build(),
                DROPPED,
            )
    })
}

/// A load balancer without running listeners.
fn stopped() -> Scenario {
    let world =
        all(policy::NO_ECHO | policy::REJECT_UNMATCHED).without_listener(HTTP4).without_listener(HTTP6);
    let mut case = Scenario::new("unmatched: a stopped load balancer").in_world(world);
    for ((client, vip), listener) in both().into_iter().zip([HTTP4, HTTP6]) {
        case = case
            .frame(tcp(client, listener.at, flag::SYN).build(), Expect::Refuse)
            .frame(echo(client.ip(), vip, b"abc").build(), DROPPED);
    }
    case
}

fn dropped() -> Scenario {
    let mut case = Scenario::new("unmatched: dropped").in_world(all(policy::DROP_UNMATCHED));
    for (client, vip) in both() {
        case = case
            .frame(segment(client, vip, flag::SYN).build(), DROPPED)
            .frame(segment(client, vip, flag::ACK).tag(VLAN, 7).build(), DROPPED)
            .frame(datagram(client, vip).build(), DROPPED)
            .frame(other(client.ip(), vip, GRE, &[0; 12]).build(), DROPPED)
            .frame(message(client, vip, 13).build(), DROPPED)
            .frame(segment(client, vip, flag::RST).build(), DROPPED)
            .frame(segment(client, vip, flag::FIN | flag::ACK).build(), DROPPED)
            .frame(segment(client, vip, flag::SYN).hop_limit(1).build(), DROPPED)
            .frame(datagram(client, vip).tag(VLAN, 7).hop_limit(1).build(), DROPPED)
            .frame(udp(client, SocketAddr::new(vip, PORT), &[0x5a; 1600]).build(), DROPPED)
            .frame(other(client.ip(), vip, NO_NEXT_HEADER, &[]).build(), DROPPED);
    }
    for (client, listener, dns) in [(CLIENT4, HTTP4, DNS4), (CLIENT6, HTTP6, DNS6)] {
        // A TCP port is not matched by a UDP listener, nor the reverse.
        case = case
            .frame(tcp(client, dns.at, flag::SYN).build(), DROPPED)
            .frame(udp(client, listener.at, b"abc").build(), DROPPED);
    }
    case.frame(segment(CLIENT4, VIP4, flag::SYN).options(3).build(), DROPPED)
        .frame(datagram(CLIENT6, VIP6).extension(number::HOP_BY_HOP, 1).build(), DROPPED)
        .frame(other(CLIENT4.ip(), VIP4, GRE, &[0; 12]).options(1).build(), DROPPED)
        .frame(message(CLIENT6, VIP6, 135).hop_limit(255).build(), Expect::Pass(Reason::OtherProtocol))
        .frame(echo(CLIENT4.ip(), VIP4, b"abc").build(), Expect::Answer(ECHO4))
        .frame(echo(CLIENT6.ip(), VIP6, b"abc").build(), Expect::Answer(ECHO6))
        .frame(tcp(CLIENT4, HTTP4.at, flag::SYN).build(), Expect::ToServer(HTTP4, WEB4, FlowKind::New))
        .frame(udp(CLIENT6, DNS6.at, b"abc").build(), Expect::ToServer(DNS6, NAME6, FlowKind::New))
        .frame(segment(CLIENT4, WEB4.at.ip(), flag::SYN).build(), Expect::Pass(Reason::NotOurs))
        .frame(datagram(CLIENT6, WEB6.at.ip()).build(), Expect::Pass(Reason::NotOurs))
}

/// Later fragments without a record have their own reason, and fragments of other protocols. First ones are as whole
/// packets.
fn dropped_fragments() -> Scenario {
    let dropped = Expect::Drop(Reason::Fragment);
    let first6 = |builder: Builder| {
        builder.extension(number::FRAGMENT, 1).build().patch(|f| f.bytes[f.transport - 5] = 1)
    };
    let later6 = |builder: Builder| {
        builder.extension(number::FRAGMENT, 1).build().patch(|f| f.bytes[f.transport - 5] = 0x10)
    };
    let mut case = Scenario::new("unmatched: dropped, fragments").in_world(all(policy::DROP_UNMATCHED));
    for of in [segment(CLIENT4, VIP4, flag::ACK), datagram(CLIENT4, VIP4)] {
        case = case.frame(fragment(of), DROPPED);
    }
    for of in [segment(CLIENT6, VIP6, flag::ACK), datagram(CLIENT6, VIP6)] {
        case = case.frame(first6(of.clone()), DROPPED).frame(later6(of), dropped);
    }
    for of in [other(CLIENT4.ip(), VIP4, GRE, &[0; 64]), echo(CLIENT4.ip(), VIP4, &[7; 64])] {
        case = case.frame(fragment(of), dropped);
    }
    for of in [other(CLIENT6.ip(), VIP6, GRE, &[0; 64]), echo(CLIENT6.ip(), VIP6, &[7; 64])] {
        case = case.frame(first6(of.clone()), dropped).frame(later6(of), dropped);
    }
    for offset in [[0x20, 185], [0, 185]] {
        for of in [
            segment(CLIENT4, VIP4, flag::ACK),
            datagram(CLIENT4, VIP4),
            other(CLIENT4.ip(), VIP4, GRE, &[0; 64]),
            echo(CLIENT4.ip(), VIP4, &[7; 64]),
            tcp(CLIENT4, HTTP4.at, flag::ACK),
        ] {
            case = case.frame(of.build().network(6, &offset), dropped);
        }
    }
    case.frame(later6(udp(CLIENT6, DNS6.at, b"abc")), dropped)
        .frame(first6(datagram(CLIENT6, WEB6.at.ip())), Expect::Pass(Reason::NotOurs))
        .frame(later6(datagram(CLIENT6, WEB6.at.ip())), Expect::Pass(Reason::Fragment))
}

/// A VIP that is an address of the host: unmatched packets are passed to the kernel, malformed or not.
fn the_hosts() -> [Scenario; 2] {
    let pass = Expect::Pass;
    let mut case = Scenario::new("unmatched: passed to the host").in_world(all(0));
    for (client, vip) in both() {
        case = case
            .frame(segment(client, vip, flag::SYN).build(), pass(Reason::NotOurs))
            .frame(segment(client, vip, flag::SYN).tag(VLAN, 7).build(), pass(Reason::NotOurs))
            .frame(datagram(client, vip).build(), pass(Reason::NotOurs))
            .frame(other(client.ip(), vip, GRE, &[0; 12]).build(), pass(Reason::OtherProtocol))
            .frame(message(client, vip, 13).build(), pass(Reason::OtherProtocol));
    }
    let broken = tcp(CLIENT4, HTTP4.at, flag::SYN).build().network(2, &[0, 39]);
    let case = case.frame(broken, pass(Reason::BadLength));
    let fragments = Scenario::new("unmatched: fragments for the host, and for a listener")
        .in_world(all(0))
        .frame(fragment(datagram(CLIENT4, VIP4)), pass(Reason::NotOurs))
        .frame(later(datagram(CLIENT4, VIP4)), pass(Reason::Fragment))
        .frame(fragment(echo(CLIENT4.ip(), VIP4, &[7; 64])), pass(Reason::Fragment))
        .frame(datagram(CLIENT6, VIP6).extension(number::FRAGMENT, 1).build(), pass(Reason::NotOurs))
        // The kernel would answer malformed fragments in place of the listener.
        .frame(tiny(tcp(CLIENT4, HTTP4.at, flag::ACK)), Expect::Drop(Reason::Fragment))
        .frame(tiny(tcp(CLIENT4, HTTP4.at, flag::ACK).options(2)), Expect::Drop(Reason::Fragment))
        .frame(tiny(segment(CLIENT4, VIP4, flag::ACK)), pass(Reason::Fragment))
        // Later fragments carry no ports. The kernel never gets the first one, so it cannot reassemble them.
        .frame(later(tcp(CLIENT4, HTTP4.at, flag::ACK)), pass(Reason::Fragment));
    [case, fragments]
}

/// The packet marked as first fragment.
fn fragment(of: Builder) -> Frame {
    of.build().network(6, &[0x20, 0]).sound()
}

/// The packet marked as last fragment.
fn later(of: Builder) -> Frame {
    of.build().network(6, &[0, 185])
}

/// As [`fragment`], with a TCP header that states more bytes than there are.
fn tiny(of: Builder) -> Frame {
    of.build().network(6, &[0x20, 0]).transport(12, &[0xf0])
}

/// RSTs and ICMP errors for unmatched packets share one rate limit.
fn per_second() -> Scenario {
    let limit = slb_common::abi::rate_limit::RateLimiter::PER_SECOND / 2;
    assert_eq!(Action::Answer as u8, 1, "answers are what is limited");
    let mut case = Scenario::new("unmatched: rate limit").host_only().clock(HZ);
    for _ in 0..limit {
        case = case
            .frame(segment(CLIENT4, VIP4, flag::SYN).build(), Expect::Refuse)
            .frame(datagram(CLIENT6, VIP6).build(), Expect::IcmpError(IcmpCause::NoPort));
    }
    case.frame(segment(CLIENT4, VIP4, flag::SYN).build(), DROPPED)
        .frame(datagram(CLIENT6, VIP6).build(), DROPPED)
        .clock(2 * HZ)
        .frame(segment(CLIENT4, VIP4, flag::SYN).build(), Expect::Refuse)
        .frame(datagram(CLIENT6, VIP6).build(), Expect::IcmpError(IcmpCause::NoPort))
}
