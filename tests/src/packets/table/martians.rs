//! Martian sources: packets from addresses that no client has.

use std::net::{IpAddr, SocketAddr};

use slb_common::abi::{
    service::{Service, mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{echo, flag, tcp, udp},
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const MARTIAN: Expect = Expect::Drop(Reason::MartianSource);

/// A second VIP of each family, with listeners and without.
const OTHER_VIPS: [PacketListener; 2] = [
    PacketListener { id: 17, at: SocketAddr::new(v4(198, 51, 100, 11), 0), ..ECHO4 },
    PacketListener { id: 18, at: SocketAddr::new(v6(0x11), 0), ..ECHO6 },
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

const fn v6(host: u16) -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, host))
}

/// Source addresses, and whether a host may have them.
fn sources() -> Vec<(IpAddr, bool)> {
    let six = |text: &str| text.parse().expect("an address");
    vec![
        (v4(0, 0, 0, 0), false),
        (v4(0, 1, 2, 3), false),
        (v4(127, 0, 0, 1), false),
        (v4(127, 255, 255, 255), false),
        (v4(224, 0, 0, 1), false),
        (v4(239, 255, 255, 255), false),
        (v4(240, 0, 0, 1), false),
        (v4(255, 255, 255, 255), false),
        (VIP4, false),
        (OTHER_VIPS[0].at.ip(), false),
        (v4(1, 0, 0, 0), true),
        (v4(126, 0, 0, 1), true),
        (v4(128, 0, 0, 1), true),
        (v4(198, 51, 100, 12), true),
        (v4(223, 255, 255, 255), true),
        (six("::"), false),
        (six("::1"), false),
        (six("::192.0.2.1"), false),
        (six("::1:2:3:4"), false),
        (six("ff02::1"), false),
        (six("ff0e::1"), false),
        (VIP6, false),
        (OTHER_VIPS[1].at.ip(), false),
        (six("64:ff9b::192.0.2.1"), true),
        (six("2001:db8:10::12"), true),
        (six("fe80::1"), true),
    ]
}

/// A world with listeners of both families and protocols, all in one mode.
fn world(mode: u8, tracked: bool) -> PacketWorld {
    let set = move |service: &mut Service| {
        service.mode = mode;
        if tracked {
            service.policy |= policy::TRACK;
        }
    };
    let world = OTHER_VIPS.into_iter().fold(PacketWorld::standard(), PacketWorld::listener);
    [HTTP4, HTTP6, DNS4, DNS6].into_iter().fold(world, |world, listener| world.with(listener, set))
}

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, mode, tracked) in [
        ("nat", mode::NAT, true),
        ("dsr", mode::DSR, false),
        ("dsr, tracked", mode::DSR, true),
        ("ipip", mode::IPIP, false),
        ("gue", mode::GUE, false),
    ] {
        for (source, is_host) in sources() {
            let (http, web, dns, server) =
                if source.is_ipv4() { (HTTP4, WEB4, DNS4, NAME4) } else { (HTTP6, WEB6, DNS6, NAME6) };
            let to = |listener, server, flow| {
                if is_host { Expect::ToServer(listener, server, flow) } else { MARTIAN }
            };
            let echoed = if source.is_ipv4() { ECHO4 } else { ECHO6 };
            let begins = if mode == mode::NAT { FlowKind::New } else { FlowKind::Old };
            let at = SocketAddr::new(source, 4000);
            let send = |flags| tcp(at, http.at, flags).build();
            cases.push(
                Scenario::new(format!("{name}: from {source}"))
                    .in_world(world(mode, tracked))
                    .frame(send(flag::SYN), to(http, web, FlowKind::New))
                    .frame(send(flag::ACK), to(http, web, FlowKind::Old))
                    .frame(udp(at, dns.at, b"x").build(), to(dns, server, begins))
                    .frame(udp(at, dns.at, b"x").build(), to(dns, server, FlowKind::Old))
                    .frame(
                        tcp(at, SocketAddr::new(http.at.ip(), 9), flag::SYN).build(),
                        if is_host { Expect::Refuse } else { MARTIAN },
                    )
                    .frame(
                        echo(source, http.at.ip(), b"x").build(),
                        if is_host { Expect::Answer(echoed) } else { MARTIAN },
                    ),
            );
        }
    }
    let dsr = |service: &mut Service| service.mode = mode::DSR;
    cases.push(
        Scenario::new("from a VIP, for a listener whose server table does not exist yet")
            .in_world(PacketWorld::standard().with(UNFILLED4, dsr))
            .frame(tcp(SocketAddr::new(VIP4, 4000), UNFILLED4.at, flag::ACK).build(), MARTIAN)
            .frame(tcp(CLIENT4, UNFILLED4.at, flag::ACK).build(), Expect::Drop(Reason::NotReady)),
    );
    cases
}
