//! Source-translated flows of servers in VLANs: mode `full-nat`, and mode `nat` where a client is on the server's link.

use std::net::SocketAddr;

use slb_common::{
    abi::{service::mode, stats::Reason},
    net::vlan::Vlan,
};

use super::{EIGHT_DEVICE, SERVICE_VLAN, SEVEN, SEVEN_DEVICE, VLAN, interfaces};
use crate::packets::{
    fragments::cut,
    frames::{Builder, flag, number, tcp, udp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    table::related::{ALL, Ends, SHORT, TCP4, TCP6, UDP4, UDP6, sent},
    world::*,
};

/// All ports.
const PORTS: (u16, u16) = (1024, u16::MAX);

pub(super) fn cases() -> Vec<Scenario> {
    let all = [("tcp4", TCP4), ("tcp6", TCP6), ("udp4", UDP4), ("udp6", UDP6)];
    let of_ends = |(name, ends)| {
        let of = |what: &str| format!("VLANs, {name}: {what}");
        [
            there_and_back(of("full-nat"), ends),
            fragments(of("fragments in mode full-nat"), ends),
            errors(of("ICMP errors in mode full-nat"), ends),
            on_link(of("a client on the link of a server in a VLAN"), ends),
            beside_link(of("a client in a VLAN of the server's interface"), ends),
        ]
    };
    all.into_iter().flat_map(of_ends).collect()
}

/// The standard world with the servers in VLAN 7, and one local address of each family.
fn world() -> PacketWorld {
    PacketWorld::standard().hop_in_vlan(LAN, SEVEN).locals(&[LOCAL4, LOCAL6], PORTS)
}

/// The source of the client's flow.
fn source(client: SocketAddr) -> SocketAddr {
    let local = if client.is_ipv4() { LOCAL4 } else { LOCAL6 };
    SocketAddr::new(local, client.port())
}

/// The server as it is reached in VLAN 7.
fn in_vlan(server: PacketServer) -> PacketServer {
    PacketServer { hop: Hop { vlan: Some(SEVEN), ..server.hop }, ..server }
}

fn begun(name: String, ends: Ends) -> Scenario {
    let first = Expect::ToServerFrom(ends.listener, in_vlan(ends.server), source(ends.client), FlowKind::New);
    Scenario::new(name)
        .interfaces(interfaces())
        .in_world(world().with(ends.listener, |service| service.mode = mode::FULL_NAT))
        .frame(ends.first(), first)
}

/// The server's answer to the flow's source.
fn answer(ends: Ends) -> Builder {
    let (from, to) = (ends.server.at, source(ends.client));
    match ends.listener.protocol {
        number::UDP => udp(from, to, b"a longer answer"),
        _ => tcp(from, to, flag::SYN | flag::ACK),
    }
    .macs(SERVER_MAC, SERVER_SIDE_MAC)
}

fn there_and_back(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let old = Expect::ToServerFrom(listener, in_vlan(server), source(client), FlowKind::Old);
    let wrong = Expect::Drop(Reason::WrongInterface);
    begun(name, ends)
        .frame(answer(ends).build(), wrong)
        .frame(answer(ends).tag(SERVICE_VLAN, 7).build(), wrong)
        .frame(answer(ends).tag(VLAN, 7).build(), Expect::ToClientOf(listener, in_vlan(server), client))
        .frame(ends.packet(client, listener.at).build(), old)
}

/// A packet in two fragments each way: the later one has no ports.
fn fragments(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, .. } = ends;
    let server = in_vlan(ends.server);
    let mut case = begun(name, ends);
    for fragment in cut(ends.packet(client, listener.at).build(), 7, 32) {
        let expect = Expect::FragmentToServerFrom(listener, server, source(client), fragment);
        case = case.frame(fragment.frame(), expect);
    }
    let answered = cut(answer(ends).tag(VLAN, 7).build(), 7, 16);
    for fragment in answered.into_iter().filter(|_| listener.protocol == number::UDP) {
        case = case.frame(fragment.frame(), Expect::FragmentToClientOf(listener, server, client, fragment));
    }
    case
}

/// Errors of both sides, with all of the embedded packet and with eight bytes behind its IP header.
fn errors(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let (router, source) = (ends.router(), source(client));
    let mut case = begun(name, ends);
    for bytes in [ALL, SHORT] {
        let of_client = ends.too_big(router, listener.at, client, bytes, 1400);
        let to_server = ends.too_big(source.ip(), server.at, source, bytes, 1400).tag(VLAN, 7);
        let of_server = ends.too_big(router, source, server.at, bytes, 1400).tag(VLAN, 7);
        let to_client = ends.too_big(listener.at.ip(), client, listener.at, bytes, 1400);
        case = case
            .frame(of_client.build(), Expect::ErrorToServer(listener, server, sent(to_server, server.hop)))
            .frame(of_server.build(), Expect::ErrorToClient(listener, server, sent(to_client, CLIENT)));
    }
    case
}

/// Mode `nat`: only a client in the server's own VLAN is on its link.
fn on_link(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, .. } = ends;
    let server = in_vlan(ends.server);
    let other = |port| Ends { client: SocketAddr::new(client.ip(), port), ..ends };
    let kept = Expect::ToServer(listener, server, FlowKind::New);
    let translated = Expect::ToServerFrom(listener, server, source(client), FlowKind::New);
    Scenario::new(name)
        .interfaces(interfaces())
        .in_world(world())
        .host_only()
        .link(LO)
        .frame(other(1).first(), kept)
        .link(EIGHT_DEVICE)
        .frame(other(2).first(), kept)
        .link(SEVEN_DEVICE)
        .frame(ends.first(), translated)
        .frame(answer(ends).tag(VLAN, 7).build(), Expect::ToClientOf(listener, server, client))
}

/// Mode `nat`: a client in a VLAN is not on the link of a server in none.
fn beside_link(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let other = Ends { client: SocketAddr::new(client.ip(), client.port() + 1), ..ends };
    let untagged = PacketServer { hop: Hop { vlan: Some(Vlan::NONE), ..server.hop }, ..server };
    Scenario::new(name)
        .interfaces(interfaces())
        .in_world(PacketWorld::standard().locals(&[LOCAL4, LOCAL6], PORTS))
        .host_only()
        .link(SEVEN_DEVICE)
        .frame(ends.first(), Expect::ToServer(listener, untagged, FlowKind::New))
        .link(LO)
        .frame(other.first(), Expect::ToServerFrom(listener, untagged, source(other.client), FlowKind::New))
}
