//! Mode `full-nat`, and flows of mode `nat` whose server would answer past SLB: their source becomes a local address.

use std::net::{IpAddr, SocketAddr};

use slb_common::abi::{service::mode, stats::Reason};

use super::{
    related::{ALL, Ends, SHORT, TCP4, TCP6, UDP4, UDP6, sent},
    replies::other_port,
};
use crate::packets::{
    fragments::cut,
    frames::{Frame, flag, number, tcp, tcp_at, udp},
    icmp::IcmpCause,
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);
const NO_SOURCE: Expect = Expect::Drop(Reason::NoSourcePort);
/// All ports.
pub(in crate::packets) const PORTS: (u16, u16) = (1024, u16::MAX);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, ends) in [("tcp4", TCP4), ("tcp6", TCP6), ("udp4", UDP4), ("udp6", UDP6)] {
        let of = |what: &str| format!("full-nat, {name}: {what}");
        cases.extend([there_and_back(of("both directions"), ends), errors(of("ICMP errors"), ends)]);
        cases.extend([
            fragments(of("fragments"), ends),
            ports(of("two clients with one port"), ends),
            hairpin(format!("nat, {name}: hairpin"), ends),
            on_link(format!("nat, {name}: a client on the server's link"), ends),
        ]);
    }
    cases.extend([
        ends_of_connections(),
        removed_address(),
        sizes_and_hops(),
        tags(),
        resizing(),
        without_address(),
    ]);
    cases.extend([
        martians(),
        finished_connection_keeps_its_source_for_a_minute(),
        unassured_flows_give_way(),
    ]);
    cases
}

/// The standard world with a listener in mode `full-nat`, and one local address of each family.
pub(in crate::packets) fn world(ends: Ends, ports: (u16, u16)) -> PacketWorld {
    PacketWorld::standard()
        .with(ends.listener, |service| service.mode = mode::FULL_NAT)
        .locals(&[LOCAL4, LOCAL6], ports)
}

/// The local address of the client's family, with a port.
pub(in crate::packets) fn local(ends: Ends, port: u16) -> SocketAddr {
    SocketAddr::new(if ends.client.is_ipv4() { LOCAL4 } else { LOCAL6 }, port)
}

fn begun(name: impl Into<String>, ends: Ends) -> Scenario {
    let source = local(ends, ends.client.port());
    Scenario::new(name)
        .in_world(world(ends, PORTS))
        .frame(ends.first(), Expect::ToServerFrom(ends.listener, ends.server, source, FlowKind::New))
}

pub(super) fn answer(ends: Ends, to: SocketAddr) -> Frame {
    match ends.listener.protocol {
        number::UDP => udp(ends.server.at, to, b"a longer answer"),
        _ => tcp(ends.server.at, to, flag::SYN | flag::ACK),
    }
    .macs(SERVER_MAC, SERVER_SIDE_MAC)
    .build()
}

fn there_and_back(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let source = local(ends, client.port());
    begun(name, ends)
        .frame(answer(ends, source), Expect::ToClientOf(listener, server, client))
        .frame(
            ends.packet(client, listener.at).build(),
            Expect::ToServerFrom(listener, server, source, FlowKind::Old),
        )
        // To the client itself, to another port, and of another server.
        .frame(answer(ends, client), NOT_OURS)
        .frame(answer(ends, other_port(source)), NOT_OURS)
        .frame(
            answer(Ends { server: PacketServer { at: other_port(server.at), ..server }, ..ends }, source),
            NOT_OURS,
        )
}

/// A packet in two fragments each way: the later one has no ports.
fn fragments(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let source = local(ends, client.port());
    let mut case = begun(name, ends);
    for fragment in cut(ends.packet(client, listener.at).build(), 7, 32) {
        case = case.frame(fragment.frame(), Expect::FragmentToServerFrom(listener, server, source, fragment));
    }
    for fragment in cut(answer(ends, source), 7, 16).into_iter().filter(|_| listener.protocol == number::UDP)
    {
        case = case.frame(fragment.frame(), Expect::FragmentToClientOf(listener, server, client, fragment));
    }
    case
}

/// Errors of both sides, with all of the embedded packet and with eight bytes behind its IP header.
fn errors(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let (router, source) = (ends.router(), local(ends, client.port()));
    let mut case = begun(name, ends);
    for bytes in [ALL, SHORT] {
        let expected = sent(ends.too_big(source.ip(), server.at, source, bytes, 1400), server.hop);
        let to_client = sent(ends.too_big(listener.at.ip(), client, listener.at, bytes, 1400), CLIENT);
        case = case
            .frame(
                ends.too_big(router, listener.at, client, bytes, 1400).build(),
                Expect::ErrorToServer(listener, server, expected),
            )
            .frame(
                ends.too_big(router, source, server.at, bytes, 1400).build(),
                Expect::ErrorToClient(listener, server, to_client),
            )
            .frame(
                ends.too_big(router, other_port(source), server.at, bytes, 1400).build(),
                Expect::Pass(Reason::OtherProtocol),
            );
    }
    case
}

/// The second client gets the other of two ports, the third one none.
fn ports(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let (own, other) = (client.port(), client.port() + 1);
    let host = |n: u8| match client.ip() {
        IpAddr::V4(_) => SocketAddr::from(([203, 0, 113, n], own)),
        IpAddr::V6(_) => SocketAddr::from(([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n.into()], own)),
    };
    let (second, third) = (Ends { client: host(8), ..ends }, Ends { client: host(9), ..ends });
    let to_server = |port| Expect::ToServerFrom(listener, server, local(ends, port), FlowKind::New);
    Scenario::new(name)
        .in_world(world(ends, (own, other)))
        .frame(ends.first(), to_server(own))
        .frame(second.first(), to_server(other))
        .frame(third.first(), NO_SOURCE)
        .frame(answer(ends, local(ends, own)), Expect::ToClientOf(listener, server, client))
        .frame(answer(ends, local(ends, other)), Expect::ToClientOf(listener, server, second.client))
}

/// The server asks its own VIP: its packets return to it from SLB.
fn hairpin(name: String, ends: Ends) -> Scenario {
    let Ends { listener, server, .. } = ends;
    let asking = Ends { client: SocketAddr::new(server.at.ip(), 40_000), ..ends };
    let source = local(ends, 40_000);
    Scenario::new(name)
        .in_world(PacketWorld::standard().locals(&[LOCAL4, LOCAL6], PORTS))
        .frame(asking.first(), Expect::ToServerFrom(listener, server, source, FlowKind::New))
        .frame(answer(ends, source), Expect::ToClientOf(listener, server, asking.client))
        .frame(
            ends.packet(asking.client, listener.at).build(),
            Expect::ToServerFrom(listener, server, source, FlowKind::Old),
        )
        // Other clients keep their addresses.
        .frame(ends.first(), Expect::ToServer(listener, server, FlowKind::New))
}

/// Mode `nat`: a client on the server's link, which the server would answer past SLB.
fn on_link(name: String, ends: Ends) -> Scenario {
    let Ends { client, listener, server } = ends;
    let source = local(ends, client.port());
    let kept = |flow| Expect::ToServer(listener, server, flow);
    let other = |port| Ends { client: SocketAddr::new(client.ip(), port), ..ends };
    let family: &[IpAddr] = if client.is_ipv4() { &[LOCAL6] } else { &[LOCAL4] };
    let begun = Scenario::new(name).in_world(PacketWorld::standard().locals(&[LOCAL4, LOCAL6], PORTS));
    begun
        .host_only()
        .frame(other(1).first(), kept(FlowKind::New))
        .link(FAR)
        .frame(other(2).first(), kept(FlowKind::New))
        .link(LO)
        .frame(ends.first(), Expect::ToServerFrom(listener, server, source, FlowKind::New))
        .frame(answer(ends, source), Expect::ToClientOf(listener, server, client))
        // A flow that its server has answered keeps the client endpoint.
        .link(0)
        .frame(other(3).first(), kept(FlowKind::New))
        .frame(answer(ends, other(3).client), Expect::ToClient(listener, server, CLIENT))
        .link(LO)
        .frame(other(3).first(), kept(FlowKind::Old))
        .change(PacketWorld::standard().locals(family, PORTS))
        .frame(other(4).first(), kept(FlowKind::New))
}

/// Sources of clients are no local addresses: an answer would reach the flow that has the source.
fn martians() -> Scenario {
    let from = |ends: Ends, port| Ends { client: local(ends, port), ..ends }.first();
    let martian = Expect::Drop(Reason::MartianSource);
    Scenario::new("packets from local addresses")
        .in_world(PacketWorld::standard().locals(&[LOCAL4, LOCAL6], PORTS))
        .frame(from(TCP4, 40_000), martian)
        .frame(from(UDP6, 40_000), martian)
}

/// A RST without a flow has no source to go to the server from.
fn ends_of_connections() -> Scenario {
    let Ends { client, listener, server } = TCP4;
    let source = local(TCP4, client.port());
    Scenario::new("full-nat: RSTs, and a connection picked up mid-stream")
        .in_world(world(TCP4, PORTS))
        .frame(tcp(client, listener.at, flag::RST).build(), Expect::Drop(Reason::Reset))
        .frame(
            tcp(client, listener.at, flag::ACK).build(),
            Expect::ToServerFrom(listener, server, source, FlowKind::Old),
        )
        .frame(tcp(server.at, source, flag::ACK).build(), Expect::ToClientOf(listener, server, client))
        .frame(
            tcp(client, listener.at, flag::RST).build(),
            Expect::ToServerFrom(listener, server, source, FlowKind::Old),
        )
}

/// Flows keep a local address that is no candidates any longer.
fn removed_address() -> Scenario {
    let Ends { client, listener, server } = TCP4;
    let source = local(TCP4, client.port());
    let mut removed = world(TCP4, PORTS);
    removed.state.index.locals.candidates.clear();
    let stranger = Ends { client: other_port(client), ..TCP4 };
    begun("full-nat: the local address is removed", TCP4)
        .change(removed)
        .frame(answer(TCP4, source), Expect::ToClientOf(listener, server, client))
        .frame(
            tcp(client, listener.at, flag::ACK).build(),
            Expect::ToServerFrom(listener, server, source, FlowKind::Old),
        )
        .frame(stranger.first(), NO_SOURCE)
}

fn sizes_and_hops() -> Scenario {
    let Ends { client, listener, server } = UDP4;
    let source = local(UDP4, client.port());
    let large = vec![7; MTU as usize - 27];
    begun("full-nat: packets without hops, and larger than the MTU", UDP4)
        .frame(udp(client, listener.at, b"x").hop_limit(1).build(), Expect::IcmpError(IcmpCause::HopLimit))
        .frame(udp(client, listener.at, &large).build(), Expect::IcmpError(IcmpCause::TooBig(MTU as u16)))
        .frame(udp(server.at, source, b"x").hop_limit(1).build(), Expect::IcmpError(IcmpCause::HopLimit))
        .frame(udp(server.at, source, &large).build(), Expect::IcmpError(IcmpCause::TooBig(MTU as u16)))
        .frame(answer(UDP4, source), Expect::ToClientOf(listener, server, client))
}

fn tags() -> Scenario {
    let Ends { client, listener, server } = TCP6;
    let source = local(TCP6, client.port());
    Scenario::new("full-nat: tags and extension headers")
        .in_world(world(TCP6, PORTS))
        .frame(
            tcp(client, listener.at, flag::SYN).tag(0x8100, 9).build(),
            Expect::ToServerFrom(listener, server, source, FlowKind::New),
        )
        .frame(
            tcp(client, listener.at, flag::ACK).extension(number::DESTINATION_OPTIONS, 1).build(),
            Expect::ToServerFrom(listener, server, source, FlowKind::Old),
        )
        .frame(
            tcp(server.at, source, flag::SYN | flag::ACK).tag(0x8100, 0).build(),
            Expect::ToClientOf(listener, server, client),
        )
}

/// While flows may have their entries in the table that is replaced, no new one gets what may be their source.
fn resizing() -> Scenario {
    let Ends { client, listener, server } = UDP6;
    let source = local(UDP6, client.port());
    Scenario::new("full-nat: no flow gets a source during a resize of the flow table")
        .in_world(world(UDP6, PORTS))
        .resizing(true)
        .frame(UDP6.first(), Expect::Drop(Reason::NotReady))
        .frame(answer(UDP6, source), Expect::Drop(Reason::NotReady))
        .resizing(false)
        .frame(UDP6.first(), Expect::ToServerFrom(listener, server, source, FlowKind::Old))
        .frame(answer(UDP6, source), Expect::ToClientOf(listener, server, client))
}

fn without_address() -> Scenario {
    let Ends { client, listener, .. } = TCP4;
    let world = PacketWorld::standard()
        .with(listener, |service| service.mode = mode::FULL_NAT)
        .locals(&[LOCAL6], PORTS);
    Scenario::new("full-nat without a local address of the family")
        .in_world(world)
        .frame(TCP4.first(), NO_SOURCE)
        .frame(answer(TCP4, client), NOT_OURS)
}

/// Two clients with one port, of which only one can have the source.
fn one_source() -> (Ends, Ends, Scenario) {
    let (first, second) =
        (TCP4, Ends { client: SocketAddr::from(([203, 0, 113, 8], TCP4.client.port())), ..TCP4 });
    let port = first.client.port();
    (first, second, Scenario::new("").in_world(world(TCP4, (port, port))).host_only().clock(1000 * HZ))
}

fn finished_connection_keeps_its_source_for_a_minute() -> Scenario {
    let (first, second, case) = one_source();
    let Ends { client, listener, server } = first;
    let source = local(first, client.port());
    let to_server = |flow| Expect::ToServerFrom(listener, server, source, flow);
    let to_client = Expect::ToClientOf(listener, server, client);
    Scenario { name: "full-nat: a finished connection keeps its source for a minute".to_owned(), ..case }
        .frame(tcp_at(client, listener.at, flag::SYN, 100, 0).build(), to_server(FlowKind::New))
        .frame(tcp_at(server.at, source, flag::SYN | flag::ACK, 500, 118).build(), to_client)
        .frame(tcp_at(client, listener.at, flag::ACK, 118, 518).build(), to_server(FlowKind::Old))
        .clock(1059 * HZ)
        .frame(second.first(), NO_SOURCE)
        .frame(tcp_at(server.at, source, flag::RST | flag::ACK, 518, 118).build(), to_client)
        .clock(1118 * HZ)
        .frame(second.first(), NO_SOURCE)
        .clock(1119 * HZ)
        .frame(second.first(), to_server(FlowKind::Old))
        .frame(answer(second, source), Expect::ToClientOf(listener, server, second.client))
        // The first one begins anew, and gets none.
        .frame(first.first(), NO_SOURCE)
}

fn unassured_flows_give_way() -> Scenario {
    let (first, second, case) = one_source();
    let Ends { listener, server, .. } = first;
    let source = local(first, first.client.port());
    let to_server = |flow| Expect::ToServerFrom(listener, server, source, flow);
    Scenario { name: "full-nat: a SYN without an answer gives its source away".to_owned(), ..case }
        .frame(first.first(), to_server(FlowKind::New))
        .frame(second.first(), NO_SOURCE)
        .clock(1001 * HZ)
        .frame(second.first(), to_server(FlowKind::Old))
        .frame(answer(second, source), Expect::ToClientOf(listener, server, second.client))
}
