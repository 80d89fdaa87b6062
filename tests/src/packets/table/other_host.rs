//! PACKET_OTHERHOST: frames to other MACs than the interface's own. SLB passes them unchanged, in every mode.

use std::net::IpAddr;

use slb_common::abi::{
    service::{mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Builder, echo, flag, not_ip, number, other, tcp, udp},
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const FOREIGN: Expect = Expect::Pass(Reason::OtherHost);

/// MAC of another host, and one that differs from SLB's in the last bit only.
const OTHER_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 0x00]];

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, mode) in [("nat", mode::NAT), ("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
        cases.extend(to_listeners(name, mode));
    }
    cases.extend([answers_of_servers(), what_is_answered(), not_for_a_vip(), own_addresses()]);
    cases
}

fn to(mac: [u8; 6], frame: Builder) -> Builder {
    frame.macs(CLIENT_MAC, mac)
}

/// Neither path takes them: not the fast one, nor the slow one (tags, options, SYN, no next hop, too big, no hops
/// left).
fn to_listeners(name: &str, mode: u8) -> Vec<Scenario> {
    let all = [(CLIENT4, HTTP4, WEB4), (CLIENT6, HTTP6, WEB6)];
    let world =
        || all.iter().fold(PacketWorld::standard(), |world, (_, l, _)| world.with(*l, |s| s.mode = mode));
    all.into_iter()
        .flat_map(|(client, listener, server)| {
            OTHER_MACS.map(|mac| {
                let send = |flags| to(mac, tcp(client, listener.at, flags));
                let large = to(mac, udp(client, listener.at, &[0; 1600]));
                let case = Scenario::new(format!("other host: {name} {}, {mac:02x?}", listener.at.ip()))
                    .in_world(world());
                [
                    send(flag::SYN),
                    send(flag::ACK),
                    send(flag::RST),
                    send(flag::FIN | flag::ACK),
                    send(flag::ACK).tag(VLAN, 7),
                    send(flag::SYN).tag(VLAN, 0),
                    send(flag::ACK).hop_limit(1),
                    large,
                ]
                .into_iter()
                .fold(case, |case, frame| case.frame(frame.build(), FOREIGN))
                // The frames above created no entry.
                .frame(
                    tcp(client, listener.at, flag::SYN).build(),
                    Expect::ToServer(listener, server, FlowKind::New),
                )
            })
        })
        .collect()
}

fn answers_of_servers() -> Scenario {
    let mut case = Scenario::new("other host: servers' answers pass to the kernel");
    for (client, listener, server) in [(CLIENT4, HTTP4, WEB4), (CLIENT6, HTTP6, WEB6)] {
        let answer = |flags| tcp(server.at, client, flags);
        case = case
            .frame(
                tcp(client, listener.at, flag::SYN).build(),
                Expect::ToServer(listener, server, FlowKind::New),
            )
            .frame(answer(flag::SYN | flag::ACK).macs(SERVER_MAC, OTHER_MACS[0]).build(), FOREIGN)
            .frame(answer(flag::RST).macs(SERVER_MAC, OTHER_MACS[0]).build(), FOREIGN)
            .frame(
                answer(flag::SYN | flag::ACK).macs(SERVER_MAC, SERVER_SIDE_MAC).build(),
                Expect::ToClient(listener, server, super::super::scenario::CLIENT),
            );
    }
    case
}

/// Echo requests, and packets that would be answered with a RST or an ICMP error.
fn what_is_answered() -> Scenario {
    let world = [ECHO4, ECHO6].into_iter().fold(PacketWorld::standard(), |world, echo| {
        world.with(echo, |vip| vip.policy = policy::REJECT_UNMATCHED)
    });
    let mut case = Scenario::new("other host: no echo reply, no RST, no ICMP error").in_world(world);
    for (client, vip) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
        let closed = (vip, 4443).into();
        for frame in [
            echo(client.ip(), vip, b"ping"),
            tcp(client, closed, flag::SYN),
            udp(client, closed, b"abc"),
            other(client.ip(), vip, 47, &[0; 12]),
        ] {
            case = case.frame(to(OTHER_MACS[0], frame).build(), FOREIGN);
        }
        let listener = if vip.is_ipv4() { ECHO4 } else { ECHO6 };
        case = case.frame(echo(client.ip(), vip, b"ping").build(), Expect::Answer(listener));
    }
    case
}

fn not_for_a_vip() -> Scenario {
    let elsewhere: IpAddr = [192, 0, 2, 9].into();
    Scenario::new("other host: packets for no VIP, and multicast frames")
        .frame(to(OTHER_MACS[0], tcp(CLIENT4, (elsewhere, 80).into(), flag::ACK)).build(), FOREIGN)
        .frame(not_ip(OTHER_MACS[0], 0x0806, &[0; 28]), FOREIGN)
        .frame(not_ip([0xff; 6], 0x0806, &[0; 28]), Expect::Pass(Reason::LinkMulticast))
        .frame(
            to([1, 0, 0x5e, 0, 0, 1], tcp(CLIENT4, HTTP4.at, flag::SYN)).build(),
            Expect::Pass(Reason::LinkMulticast),
        )
        // The frame is too short for a destination MAC.
        .frame_through(99, not_ip(OWN_MAC, 0x0806, &[0; 28]), FOREIGN)
        .host_only()
}

/// The interface's MAC, and its additional ones.
fn own_addresses() -> Scenario {
    let mut case = Scenario::new("other host: all own MACs are accepted");
    for (number, mac) in (0_u16..).zip(OWN_MACS) {
        let client = (CLIENT4.ip(), 41_000 + number).into();
        case = case
            .frame(
                to(mac, tcp(client, HTTP4.at, flag::SYN)).build(),
                Expect::ToServer(HTTP4, WEB4, FlowKind::New),
            )
            .frame(
                to(mac, udp(client, DNS4.at, b"abc")).tag(VLAN, 9).build(),
                Expect::ToServer(DNS4, NAME4, FlowKind::New),
            )
            .frame(
                to(mac, other(client.ip(), VIP4, number::ICMP, &[8, 0, 0, 0, 0, 0, 0, 0])).build(),
                Expect::Answer(ECHO4),
            );
    }
    // The MAC of one interface is foreign on another.
    case.frame(to(ROUTER.own, tcp(CLIENT4, HTTP4.at, flag::ACK)).build(), FOREIGN)
}
