//! Access lists: which clients reach a listener, in all modes, on the fast path and the slow path.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use slb_common::abi::{
    ids::AccessListId,
    interface::{CLIENT as CLIENTS, SERVER as SERVERS_ONLY},
    service::{mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Builder, echo, flag, tcp, udp},
    icmp::IcmpCause,
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const DENIED: Expect = Expect::Drop(Reason::AccessDenied);
const MARTIAN: Expect = Expect::Drop(Reason::MartianSource);
const WHITE: u32 = policy::ALLOW_LISTED;
const BLACK: u32 = policy::DENY_LISTED;
/// A list without networks is in no map.
const EMPTY: u32 = AccessListId::EMPTY.index();

/// A client, a listener and its server.
#[derive(Clone, Copy)]
struct Family {
    client: SocketAddr,
    /// A client in the same /24 or /64.
    neighbour: SocketAddr,
    listener: PacketListener,
    server: PacketServer,
    /// The client alone, its network, and all addresses.
    networks: [&'static str; 3],
    /// All addresses of the other family.
    others: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: CLIENT4,
        neighbour: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 6)), 40_000),
        listener: HTTP4,
        server: WEB4,
        networks: ["203.0.113.7/32", "203.0.113.0/24", "0.0.0.0/0"],
        others: "::/0",
    },
    Family {
        client: CLIENT6,
        neighbour: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 6)), 40_000),
        listener: HTTP6,
        server: WEB6,
        networks: ["2001:db8:c::7/128", "2001:db8:c::/64", "::/0"],
        others: "0.0.0.0/0",
    },
];

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (name, mode) in [("nat", mode::NAT), ("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)]
        {
            let named = |case: Scenario| {
                let name = format!("access: {name} {}: {}", family.listener.at.ip(), case.name);
                Scenario { name, ..case }
            };
            let mode_cases = ModeCases { family, mode };
            let both = mode_cases.lists().into_iter().chain(mode_cases.precedence());
            cases.extend(both.chain([mode_cases.tracked()]).map(named));
        }
        cases.push(answers(family));
    }
    cases.push(datagrams());
    cases.push(lists_of_listeners());
    cases
}

/// The listener gets a list with this id.
fn listed(
    mut world: PacketWorld,
    listener: PacketListener,
    kind: u32,
    id: u32,
    networks: &[&str],
) -> PacketWorld {
    let networks: BTreeSet<_> = networks.iter().map(|network| network.parse().expect("a network")).collect();
    if id != EMPTY {
        world.state.access_lists.insert(AccessListId::new(id), Arc::new(networks));
    }
    world.with(listener, |service| {
        service.policy |= kind;
        service.access_list = id;
    })
}

#[derive(Clone, Copy)]
struct ModeCases {
    family: Family,
    mode: u8,
}

impl ModeCases {
    fn world(self) -> PacketWorld {
        PacketWorld::standard().with(self.family.listener, |service| service.mode = self.mode)
    }

    fn with(self, kind: u32, id: u32, networks: &[&str]) -> PacketWorld {
        listed(self.world(), self.family.listener, kind, id, networks)
    }

    fn case(self, name: &str, kind: u32, id: u32, networks: &[&str]) -> Scenario {
        Scenario::new(name).in_world(self.with(kind, id, networks))
    }

    fn send(self, client: SocketAddr, flags: u8) -> Builder {
        tcp(client, self.family.listener.at, flags)
    }

    fn to(self, flow: FlowKind) -> Expect {
        Expect::ToServer(self.family.listener, self.family.server, flow)
    }

    /// A client begins a connection and continues it, with frames for both paths.
    fn admitted(self, case: Scenario, client: SocketAddr) -> Scenario {
        case.frame(self.send(client, flag::SYN).build(), self.to(FlowKind::New))
            .frame(self.send(client, flag::ACK).build(), self.to(FlowKind::Old))
            .frame(self.send(client, flag::ACK).tag(VLAN, 0).build(), self.to(FlowKind::Old))
    }

    /// Nothing of a client gets through, and it receives no answer.
    fn denied(self, case: Scenario, client: SocketAddr) -> Scenario {
        [flag::SYN, flag::ACK, flag::ACK | flag::FIN, flag::RST].into_iter().fold(case, |case, flags| {
            case.frame(self.send(client, flags).build(), DENIED)
                .frame(self.send(client, flags).tag(VLAN, 7).build(), DENIED)
                .frame(self.send(client, flags).hop_limit(1).build(), DENIED)
        })
    }

    fn lists(self) -> Vec<Scenario> {
        let Family { client, neighbour, networks: [single, network, all], others, .. } = self.family;
        let both_in = |case| self.admitted(self.admitted(case, client), neighbour);
        let both_out = |case| self.denied(self.denied(case, client), neighbour);
        let one_in = |case| self.denied(self.admitted(case, client), neighbour);
        let one_out = |case| self.admitted(self.denied(case, client), neighbour);
        vec![
            one_in(self.case("a white list lets in its client alone", WHITE, 1, &[single])),
            one_out(self.case("a black list denies its client alone", BLACK, 1, &[single])),
            both_in(self.case("a white list lets in a network", WHITE, 1, &[network, single])),
            both_out(self.case("a black list denies a network", BLACK, 1, &[network, single])),
            both_in(self.case("a white list of all addresses", WHITE, 1, &[all])),
            both_out(self.case("a black list of all addresses", BLACK, 1, &[all])),
            both_out(self.case("a white list of the other family", WHITE, 1, &[others])),
            both_in(self.case("a black list of the other family", BLACK, 1, &[others])),
            one_in(self.case("a list of both families", WHITE, 1, &[others, single])),
            both_out(self.case("an empty white list denies all", WHITE, EMPTY, &[])),
            both_in(self.case("an empty black list denies none", BLACK, EMPTY, &[])),
            one_in(self.case("another list changes nothing", WHITE, 2, &[single]).change(listed(
                self.with(WHITE, 2, &[single]),
                FOURTH4,
                WHITE,
                3,
                &[all],
            ))),
            one_out(both_out(self.case("a list that is replaced", BLACK, 1, &[all])).change(self.with(
                BLACK,
                2,
                &[single],
            ))),
        ]
    }

    /// What comes before the list, and what is not checked.
    fn precedence(self) -> Vec<Scenario> {
        let Family { client, listener, networks: [single, ..], .. } = self.family;
        let vip = listener.at.ip();
        let from_vip = |flags| self.send(SocketAddr::new(vip, 40_000), flags);
        let hop_limit = self.send(client, flag::SYN).hop_limit(1).build();
        let last = if self.mode == mode::DSR {
            self.to(FlowKind::New)
        } else {
            Expect::IcmpError(IcmpCause::HopLimit)
        };
        let echo_entry = if vip == VIP4 { ECHO4 } else { ECHO6 };
        let deny = |name| self.case(name, BLACK, 1, &[single]);
        vec![
            deny("the interface decides first")
                .interfaces(interfaces_in_roles(SERVERS_ONLY, CLIENTS | SERVERS_ONLY))
                .frame(self.send(client, flag::SYN).build(), Expect::Drop(Reason::WrongInterface))
                .frame(
                    self.send(client, flag::SYN).tag(VLAN, 7).build(),
                    Expect::Drop(Reason::WrongInterface),
                ),
            self.case("a martian source decides first", WHITE, 1, &[single])
                .frame(from_vip(flag::SYN).build(), MARTIAN)
                .frame(from_vip(flag::SYN).tag(VLAN, 7).build(), MARTIAN)
                .frame(from_vip(flag::SYN).hop_limit(1).build(), MARTIAN),
            self.case("a listed client gets an ICMP error", WHITE, 1, &[single]).frame(hop_limit, last),
            deny("echo requests are not checked")
                .frame(echo(client.ip(), vip, b"ping").build(), Expect::Answer(echo_entry)),
            deny("unmatched packets are not checked")
                .frame(tcp(client, (vip, 4443).into(), flag::SYN).build(), Expect::Refuse),
        ]
    }

    /// A list applies to established connections at once, and forgets none of them.
    fn tracked(self) -> Scenario {
        let Family { client, listener, networks: [single, ..], .. } = self.family;
        let track = |world: PacketWorld| world.with(listener, |service| service.policy |= policy::TRACK);
        let open = Scenario::new("a changed list applies to a tracked flow").in_world(track(self.world()));
        let begun = self.admitted(open, client);
        let denied = self.denied(begun.change(track(self.with(BLACK, 1, &[single]))), client);
        denied
            .change(track(self.world()))
            .frame(self.send(client, flag::ACK).build(), self.to(FlowKind::Old))
            .frame(self.send(client, flag::ACK).tag(VLAN, 0).build(), self.to(FlowKind::Old))
    }
}

/// Replies of servers are not checked.
fn answers(family: Family) -> Scenario {
    let Family { client, listener, server, networks: [single, ..], .. } = family;
    let answer = |flags| tcp(server.at, client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC);
    let back = Expect::ToClient(listener, server, CLIENT);
    let to = |flow| Expect::ToServer(listener, server, flow);
    Scenario::new(format!("access: answers to {}", client.ip()))
        .frame(tcp(client, listener.at, flag::SYN).build(), to(FlowKind::New))
        .frame(answer(flag::SYN | flag::ACK).build(), back)
        .change(listed(PacketWorld::standard(), listener, BLACK, 1, &[single]))
        .frame(tcp(client, listener.at, flag::ACK).build(), DENIED)
        .frame(answer(flag::ACK).build(), back)
        .frame(answer(flag::ACK).tag(VLAN, 0).build(), back)
}

fn datagrams() -> Scenario {
    let other = SocketAddr::new(FAMILIES[0].neighbour.ip(), CLIENT4.port());
    Scenario::new("access: datagrams")
        .in_world(listed(PacketWorld::standard(), DNS4, WHITE, 1, &["203.0.113.7/32"]))
        .frame(udp(CLIENT4, DNS4.at, b"in").build(), Expect::ToServer(DNS4, NAME4, FlowKind::New))
        .frame(udp(CLIENT4, DNS4.at, b"in").build(), Expect::ToServer(DNS4, NAME4, FlowKind::Old))
        .frame(udp(other, DNS4.at, b"out").build(), DENIED)
        .frame(udp(other, DNS4.at, b"out").tag(VLAN, 7).build(), DENIED)
}

/// Listeners of one VIP have lists of their own.
fn lists_of_listeners() -> Scenario {
    let world = listed(PacketWorld::standard(), HTTP4, WHITE, 1, &["203.0.113.7/32"]);
    let world = listed(world, SECOND4, WHITE, 2, &["203.0.113.6/32"]);
    let (first, second) = (CLIENT4, FAMILIES[0].neighbour);
    let to_web = Expect::ToServer(HTTP4, WEB4, FlowKind::New);
    let to_other = Expect::ToServer(SECOND4, OTHER4, FlowKind::New);
    Scenario::new("access: each listener has its own list")
        .in_world(world)
        .frame(tcp(first, HTTP4.at, flag::SYN).build(), to_web)
        .frame(tcp(second, HTTP4.at, flag::SYN).build(), DENIED)
        .frame(tcp(first, SECOND4.at, flag::SYN).build(), DENIED)
        .frame(tcp(second, SECOND4.at, flag::SYN).build(), to_other)
}
