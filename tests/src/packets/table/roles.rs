//! Interface roles: interfaces on which packets of clients, or answers of servers, may not arrive.

use std::net::SocketAddr;

use slb_common::abi::{
    interface::{CLIENT as CLIENTS, SERVER as SERVERS_ONLY},
    service::mode,
    stats::Reason,
};

use crate::packets::{
    frames::{echo, flag, number, other, tcp, udp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const VLAN: u16 = 0x8100;
const BOTH: u16 = CLIENTS | SERVERS_ONLY;
const WRONG: Expect = Expect::Drop(Reason::WrongInterface);
const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (client, listener, server) in [(CLIENT4, HTTP4, WEB4), (CLIENT6, HTTP6, WEB6)] {
        for (name, mode) in [("nat", mode::NAT), ("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)]
        {
            let world = PacketWorld::standard().with(listener, |service| service.mode = mode);
            let case = Scenario::new(format!("roles: {name} {}", listener.at.ip())).in_world(world);
            cases.push(clients(case, client, listener, server));
        }
        cases.push(answers(client, listener, server));
    }
    cases.push(the_hosts_own());
    cases
}

/// An interface with the role `server` takes no packets for a VIP, on the fast path or the slow path.
fn clients(case: Scenario, client: SocketAddr, listener: PacketListener, server: PacketServer) -> Scenario {
    let send = |flags| tcp(client, listener.at, flags);
    let vip = listener.at.ip();
    case.interfaces(interfaces_in_roles(SERVERS_ONLY, BOTH))
        .frame(send(flag::SYN).build(), WRONG)
        .frame(send(flag::ACK).build(), WRONG)
        .frame(send(flag::ACK).tag(VLAN, 7).build(), WRONG)
        .frame(send(flag::ACK).hop_limit(1).build(), WRONG)
        .frame(echo(client.ip(), vip, b"ping").build(), WRONG)
        .frame(tcp(client, (vip, 4443).into(), flag::SYN).build(), WRONG)
        .frame(udp(client, (vip, 4443).into(), b"abc").build(), WRONG)
        .frame(other(client.ip(), vip, 47, &[0; 12]).build(), WRONG)
        .interfaces(interfaces_in_roles(CLIENTS, BOTH))
        .frame(send(flag::SYN).build(), Expect::ToServer(listener, server, FlowKind::New))
}

/// On an interface with the role `client`, packets of a server are no answers.
fn answers(client: SocketAddr, listener: PacketListener, server: PacketServer) -> Scenario {
    let answer = |flags| tcp(server.at, client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC);
    let back = Expect::ToClient(listener, server, CLIENT);
    Scenario::new(format!("roles: answers to {}", client.ip()))
        .frame(tcp(client, listener.at, flag::SYN).build(), Expect::ToServer(listener, server, FlowKind::New))
        .interfaces(interfaces_in_roles(CLIENTS, BOTH))
        .frame(answer(flag::SYN | flag::ACK).build(), NOT_OURS)
        .frame(answer(flag::ACK).tag(VLAN, 7).build(), NOT_OURS)
        .frame(answer(flag::RST).build(), NOT_OURS)
        .interfaces(interfaces_in_roles(SERVERS_ONLY, BOTH))
        .frame(answer(flag::SYN | flag::ACK).build(), back)
        .interfaces(interfaces_in_roles(BOTH, BOTH))
        .frame(answer(flag::ACK).build(), back)
        .frame(tcp(client, listener.at, flag::ACK).build(), Expect::ToServer(listener, server, FlowKind::Old))
}

/// Packets that SLB passes to a host that owns the VIP are passed on any interface.
fn the_hosts_own() -> Scenario {
    let world = PacketWorld::standard().with(ECHO4, |vip| vip.policy = 0).with(ECHO6, |vip| vip.policy = 0);
    let solicitation = other(CLIENT6.ip(), VIP6, number::ICMPV6, &[135, 0, 0, 0, 0, 0, 0, 0]).hop_limit(255);
    Scenario::new("roles: packets for a VIP of the host pass on any interface")
        .in_world(world)
        .interfaces(interfaces_in_roles(SERVERS_ONLY, BOTH))
        .frame(tcp(CLIENT4, (VIP4, 4443).into(), flag::SYN).build(), NOT_OURS)
        .frame(tcp(CLIENT6, (VIP6, 4443).into(), flag::SYN).build(), NOT_OURS)
        .frame(solicitation.build(), Expect::Pass(Reason::OtherProtocol))
        .frame(tcp(CLIENT4, HTTP4.at, flag::SYN).build(), WRONG)
}
