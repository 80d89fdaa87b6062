//! ICMP errors: packets that cannot be forwarded, and which of their senders receive one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use slb_common::abi::{rate_limit::RateLimiter, stats::Reason};

use crate::packets::{
    frames::{Builder, echo, flag, number, tcp, udp},
    icmp::IcmpCause,
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

const LAST_HOP: Expect = Expect::IcmpError(IcmpCause::HopLimit);
const DROPPED: Expect = Expect::Drop(Reason::HopLimit);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = vec![
        limits(),
        options(),
        too_big(),
        per_second(),
        Scenario::new("ICMP error with VLAN tags")
            .frame(syn(CLIENT4, HTTP4).tag(SERVICE_VLAN, 7).tag(VLAN, 8).hop_limit(1).build(), LAST_HOP),
    ];
    cases.extend(senders());
    cases
}

fn syn(client: SocketAddr, listener: PacketListener) -> Builder {
    tcp(client, listener.at, flag::SYN)
}

fn limits() -> Scenario {
    let mut case = Scenario::new("hop limits 0 and 1 draw an ICMP error");
    for (limit, expect) in [(0, Some(LAST_HOP)), (1, Some(LAST_HOP)), (2, None), (255, None)] {
        for (client, listener, server) in [(CLIENT4, HTTP4, WEB4), (CLIENT6, HTTP6, WEB6)] {
            let client = SocketAddr::new(client.ip(), 30_000 + u16::from(limit));
            let to = Expect::ToServer(listener, server, FlowKind::New);
            case = case.frame(syn(client, listener).hop_limit(limit).build(), expect.unwrap_or(to));
        }
    }
    case
}

/// Packets with options or extension headers are not quoted in ICMP errors.
fn options() -> Scenario {
    Scenario::new("packets with options or extension headers draw no ICMP error")
        .frame(syn(CLIENT4, HTTP4).hop_limit(1).options(1).build(), DROPPED)
        .frame(syn(CLIENT6, HTTP6).hop_limit(1).extension(number::DESTINATION_OPTIONS, 1).build(), DROPPED)
}

fn senders() -> Vec<Scenario> {
    let four = |ip: [u8; 4]| (IpAddr::V4(Ipv4Addr::from(ip)), HTTP4);
    let six = |first, last| (IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last)), HTTP6);
    let mut cases = Vec::new();
    for (ip, listener) in [
        four([0, 1, 2, 3]),
        four([127, 0, 0, 1]),
        four([224, 0, 0, 1]),
        four([255; 4]),
        six(0, 1),
        six(0xff02, 1),
    ] {
        let frame = syn(SocketAddr::new(ip, 4000), listener).hop_limit(1).build();
        let martian = Expect::Drop(Reason::MartianSource);
        cases.push(Scenario::new(format!("martian source {ip} draws no ICMP error")).frame(frame, martian));
    }
    for (ip, listener) in [four([1, 0, 0, 0]), four([223, 255, 255, 255]), six(1, 0), six(0xfeff, 1)] {
        let frame = syn(SocketAddr::new(ip, 4000), listener).hop_limit(1).build();
        cases.push(Scenario::new(format!("source {ip} draws an ICMP error")).frame(frame, LAST_HOP));
    }
    cases
}

/// In mode `nat` packets do not grow, but the link to the server may have a smaller MTU than the client's.
fn too_big() -> Scenario {
    const HEADERS4: usize = 28;
    const HEADERS6: usize = 48;
    let icmp_error = Expect::IcmpError(IcmpCause::TooBig(MTU as u16));
    let four = |len: usize| udp(CLIENT4, DNS4.at, &vec![0x5a; len - HEADERS4]).build();
    let six = |len: usize| udp(CLIENT6, DNS6.at, &vec![0x5a; len - HEADERS6]).build();
    let mtu = MTU as usize;
    Scenario::new("nat: a packet above the MTU draws an ICMP error")
        .frame(four(mtu), Expect::ToServer(DNS4, NAME4, FlowKind::New))
        .frame(six(mtu), Expect::ToServer(DNS6, NAME6, FlowKind::New))
        .frame(four(mtu + 1), icmp_error)
        .frame(six(mtu + 1), icmp_error)
        .frame(four(mtu + 1).network(6, &[0, 0]).sound(), Expect::Drop(Reason::TooBig))
}

fn per_second() -> Scenario {
    let last = || syn(CLIENT4, HTTP4).hop_limit(1).build();
    let icmp_error =
        |case: Scenario| (0..RateLimiter::PER_SECOND).fold(case, |case, _| case.frame(last(), LAST_HOP));
    let case =
        icmp_error(Scenario::new("ICMP errors: rate limit").host_only().clock(5 * HZ)).frame(last(), DROPPED);
    let case = case.clock(6 * HZ - 1).frame(last(), DROPPED);
    // Packets that may not be answered use up no limit.
    let silent = || syn(CLIENT4, HTTP4).hop_limit(1).options(1).build();
    let case = (0..RateLimiter::PER_SECOND).fold(case.clock(6 * HZ), |case, _| case.frame(silent(), DROPPED));
    let case = (0..RateLimiter::PER_SECOND)
        .fold(case, |case, _| case.frame(last(), LAST_HOP))
        .frame(last(), DROPPED);
    // Path-MTU discovery, servers' packets and echo have rate limits of their own.
    let unfragmented = || udp(CLIENT4, DNS4.at, &vec![0x5a; MTU as usize + 1 - 28]).build();
    let may_be_fragmented = || unfragmented().network(6, &[0, 0]).sound();
    let case = (0..RateLimiter::PER_SECOND)
        .fold(case, |case, _| case.frame(may_be_fragmented(), Expect::Drop(Reason::TooBig)));
    // The datagrams above have begun the flow.
    let case = case.frame(udp(CLIENT4, DNS4.at, b"?").build(), Expect::ToServer(DNS4, NAME4, FlowKind::Old));
    let expired = || udp(NAME4.at, CLIENT4, b"!").hop_limit(1).build();
    let case = (0..RateLimiter::PER_SECOND).fold(case, |case, _| case.frame(expired(), LAST_HOP));
    let case = case.frame(expired(), DROPPED);
    let large = || udp(CLIENT4, DNS4.at, &vec![0x5a; MTU as usize + 1 - 28]).build();
    let with_mtu = Expect::IcmpError(IcmpCause::TooBig(MTU as u16));
    let case = (0..RateLimiter::PER_SECOND).fold(case, |case, _| case.frame(large(), with_mtu));
    let case = case.frame(large(), Expect::Drop(Reason::TooBig));
    let ping = || echo(CLIENT4.ip(), VIP4, b"x").build();
    let case = (0..RateLimiter::PER_SECOND).fold(case, |case, _| case.frame(ping(), Expect::Answer(ECHO4)));
    let case = case.frame(ping(), Expect::Drop(Reason::Echo));
    case.clock(7 * HZ).frame(ping(), Expect::Answer(ECHO4)).frame(large(), with_mtu)
}
