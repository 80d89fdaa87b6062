//! Port ranges: servers receive packets at the port that the client used, and answers return from it.

use std::net::SocketAddr;

use slb_common::abi::{
    Address,
    backend::Backend,
    mode::Mode,
    service::{ServiceIndex, policy},
    stats::Reason,
};

use super::{
    full_nat::{PORTS, answer, local},
    related::{ALL, Ends, SHORT, TCP4, TCP6, UDP4, UDP6, sent},
};
use crate::packets::{
    fragments::cut,
    frames::{flag, number, tcp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);
const UNMATCHED: Expect = Expect::Drop(Reason::Unmatched);
const FIRST: u16 = 8000;
const LAST: u16 = 8999;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, ends) in [("tcp4", TCP4), ("tcp6", TCP6), ("udp4", UDP4), ("udp6", UDP6)] {
        for mode in [Mode::Nat, Mode::FullNat, Mode::Dsr, Mode::Ipip, Mode::Gue] {
            cases.push(to_servers(name, ends, mode));
        }
        for mode in [Mode::Nat, Mode::FullNat] {
            cases.extend([both_directions(name, ends, mode), errors(name, ends, mode)]);
            cases.push(fragments(name, ends, mode));
        }
        cases.push(tracked(name, ends));
    }
    cases.extend([precedence(), conflicts(), one_endpoint_to_many_ports(), grown(), source_port_zero()]);
    for (name, ends) in [("tcp4", TCP4), ("udp6", UDP6)] {
        cases.push(equal_numbers(name, ends));
        cases.extend([Mode::Nat, Mode::FullNat].map(|mode| lost_port(name, ends, mode)));
    }
    cases
}

/// The standard world with the listener of `ends` on a range, and its server without a port.
fn world(ends: Ends, mode: Mode, (first, last): (u16, u16)) -> PacketWorld {
    let server = PacketServer { at: SocketAddr::new(ends.server.at.ip(), 0), ..ends.server };
    let world = PacketWorld::standard().server(server).with(ends.listener, |service| {
        (service.port, service.last_port) = (first.to_be(), last.to_be());
        service.mode = mode.number();
    });
    let world = world.table(ends.listener.table.expect("a listener with servers"), &[server]);
    if mode == Mode::FullNat { world.locals(&[LOCAL4, LOCAL6], PORTS) } else { world }
}

/// Client, listener and server of a packet to this port of the range.
fn at(ends: Ends, port: u16) -> Ends {
    let with_port = |at: SocketAddr| SocketAddr::new(at.ip(), port);
    Ends {
        listener: PacketListener { at: with_port(ends.listener.at), ..ends.listener },
        server: PacketServer { at: with_port(ends.server.at), ..ends.server },
        ..ends
    }
}

fn to_server(ends: Ends, mode: Mode, flow: FlowKind) -> Expect {
    let Ends { client, listener, server } = ends;
    match mode {
        Mode::FullNat => Expect::ToServerFrom(listener, server, local(ends, client.port()), flow),
        _ => Expect::ToServer(listener, server, flow),
    }
}

/// Where the server's answer goes: to the client, in mode `full-nat` to the flow's source.
fn answered(ends: Ends, mode: Mode) -> SocketAddr {
    if mode == Mode::FullNat { local(ends, ends.client.port()) } else { ends.client }
}

fn to_client(ends: Ends, mode: Mode) -> Expect {
    let Ends { client, listener, server } = ends;
    match mode {
        Mode::FullNat => Expect::ToClientOf(listener, server, client),
        _ => Expect::ToClient(listener, server, CLIENT),
    }
}

/// Both ends of the range, and the ports beside it.
fn to_servers(name: &str, ends: Ends, mode: Mode) -> Scenario {
    let is_untracked = !mode.sees_replies();
    let first =
        if is_untracked && ends.listener.protocol == number::UDP { FlowKind::Old } else { FlowKind::New };
    let mut case = Scenario::new(format!("range, {name}, {}: its ports", mode.name())).in_world(world(
        ends,
        mode,
        (FIRST, LAST),
    ));
    for port in [FIRST, 8080, LAST] {
        let ends = at(ends, port);
        case = case
            .frame(ends.first(), to_server(ends, mode, first))
            .frame(ends.packet(ends.client, ends.listener.at).build(), to_server(ends, mode, FlowKind::Old));
    }
    // A RST is not answered.
    for port in [FIRST - 1, LAST + 1].into_iter().filter(|_| ends.listener.protocol == number::TCP) {
        let ends = at(ends, port);
        case = case.frame(tcp(ends.client, ends.listener.at, flag::RST).build(), UNMATCHED);
    }
    case
}

/// Two flows of one client endpoint to two ports, both directions. Answers of other ports are no answers.
fn both_directions(name: &str, ends: Ends, mode: Mode) -> Scenario {
    let mut case = Scenario::new(format!("range, {name}, {}: two flows of one client endpoint", mode.name()))
        .in_world(world(ends, mode, (FIRST, LAST)));
    for port in [8080, 8081] {
        let ends = at(ends, port);
        case = case.frame(ends.first(), to_server(ends, mode, FlowKind::New));
    }
    for port in [8081, 8080] {
        let ends = at(ends, port);
        case = case
            .frame(answer(ends, answered(ends, mode)), to_client(ends, mode))
            .frame(ends.packet(ends.client, ends.listener.at).build(), to_server(ends, mode, FlowKind::Old))
            .frame(
                ends.packet(ends.server.at, answered(ends, mode)).macs(SERVER_MAC, SERVER_SIDE_MAC).build(),
                to_client(ends, mode),
            );
    }
    if mode == Mode::FullNat {
        // Past the source.
        case = case.frame(answer(at(ends, 8080), ends.client), NOT_OURS);
    }
    for port in [8082, LAST + 1, 80] {
        let ends = at(ends, port);
        case = case.frame(answer(ends, answered(ends, mode)), NOT_OURS);
    }
    case
}

/// ICMP errors of both sides about packets of two flows of one client endpoint.
fn errors(name: &str, ends: Ends, mode: Mode) -> Scenario {
    let mut case = Scenario::new(format!("range, {name}, {}: ICMP errors", mode.name())).in_world(world(
        ends,
        mode,
        (1, u16::MAX),
    ));
    for port in [1, u16::MAX] {
        let ends = at(ends, port);
        case = case.frame(ends.first(), to_server(ends, mode, FlowKind::New));
    }
    for (port, bytes) in [(u16::MAX, ALL), (1, ALL), (u16::MAX, SHORT), (1, SHORT)] {
        let ends = at(ends, port);
        let Ends { client, listener, server } = ends;
        let (router, there) = (ends.router(), answered(ends, mode));
        // In mode `full-nat` the error to the server goes to the address that it knows.
        let to = if mode == Mode::FullNat { there } else { client };
        let from = if mode == Mode::FullNat { there.ip() } else { router };
        let expected = sent(ends.too_big(from, server.at, to, bytes, 1400), server.hop);
        // The VIP hides the server's network.
        let back = sent(ends.too_big(listener.at.ip(), client, listener.at, bytes, 1400), CLIENT);
        case = case
            .frame(
                ends.too_big(router, listener.at, client, bytes, 1400).build(),
                Expect::ErrorToServer(listener, server, expected),
            )
            .frame(
                ends.too_big(router, there, server.at, bytes, 1400).build(),
                Expect::ErrorToClient(listener, server, back),
            );
    }
    case
}

/// A datagram or segment in fragments each way. Later ones have no ports.
fn fragments(name: &str, ends: Ends, mode: Mode) -> Scenario {
    let mut case = Scenario::new(format!("range, {name}, {}: fragments", mode.name())).in_world(world(
        ends,
        mode,
        (FIRST, LAST),
    ));
    let ends = at(ends, 8080);
    let Ends { client, listener, server } = ends;
    let source = local(ends, client.port());
    case = case.frame(ends.first(), to_server(ends, mode, FlowKind::New));
    for fragment in cut(ends.packet(client, listener.at).build(), 7, 32) {
        let expected = match mode {
            Mode::FullNat => Expect::FragmentToServerFrom(listener, server, source, fragment),
            _ => Expect::FragmentToServer(listener, server, FlowKind::Old, fragment),
        };
        case = case.frame(fragment.frame(), expected);
    }
    if listener.protocol == number::UDP {
        for fragment in cut(answer(ends, answered(ends, mode)), 9, 16) {
            let expected = match mode {
                Mode::FullNat => Expect::FragmentToClientOf(listener, server, client, fragment),
                _ => Expect::FragmentToClient(listener, server, fragment),
            };
            case = case.frame(fragment.frame(), expected);
        }
    }
    case
}

/// Tracked flows of mode `dsr`: two of one client endpoint, by round robin.
fn tracked(name: &str, ends: Ends) -> Scenario {
    let track = policy::TRACK | policy::ROUND_ROBIN;
    let world = world(ends, Mode::Dsr, (FIRST, LAST)).with(ends.listener, |service| service.policy = track);
    let (one, two) = if ends.client.is_ipv4() { (WEB4, OTHER4) } else { (WEB6, OTHER6) };
    let servers = [one, two].map(|server| PacketServer { at: SocketAddr::new(server.at.ip(), 0), ..server });
    let table = ends.listener.table.expect("a listener with servers");
    let world = servers.into_iter().fold(world, PacketWorld::server).round_robin(table, &servers);
    let first = if ends.listener.protocol == number::UDP { FlowKind::Old } else { FlowKind::New };
    let mut case =
        Scenario::new(format!("range, {name}, dsr: tracked flows keep their servers")).in_world(world);
    // The second slot is the next server's.
    let flows =
        [(8080, servers[0]), (8081, servers[1])].map(|(port, server)| at(Ends { server, ..ends }, port));
    for ends in flows {
        case = case.frame(ends.first(), to_server(ends, Mode::Dsr, first));
    }
    for ends in [flows[1], flows[0], flows[1]] {
        case = case.frame(
            ends.packet(ends.client, ends.listener.at).build(),
            to_server(ends, Mode::Dsr, FlowKind::Old),
        );
    }
    case
}

/// A single port before a range, a range before any port.
fn precedence() -> Scenario {
    let any = PacketServer { at: SocketAddr::new(OTHER4.at.ip(), 0), ..OTHER4 };
    let world = world(TCP4, Mode::Nat, (FIRST, LAST))
        .server(any)
        .table(5, &[any])
        .with(SECOND4, |service| (service.port, service.last_port) = (1_u16.to_be(), u16::MAX))
        .with(FAR4, |service| service.port = 8500_u16.to_be());
    let mut case = Scenario::new("range: the narrowest listener takes a packet").in_world(world);
    for (port, listener, server) in [
        (8500, FAR4, DISTANT4),
        (8499, HTTP4, WEB4),
        (8501, HTTP4, WEB4),
        (FIRST - 1, SECOND4, OTHER4),
        (LAST + 1, SECOND4, OTHER4),
        (1, SECOND4, OTHER4),
        (u16::MAX, SECOND4, OTHER4),
    ] {
        let listener = PacketListener { at: SocketAddr::new(VIP4, port), ..listener };
        let server = match server {
            DISTANT4 => server,
            _ => PacketServer { at: SocketAddr::new(server.at.ip(), port), ..server },
        };
        let syn = tcp(CLIENT4, listener.at, flag::SYN).build();
        case = case.frame(syn, Expect::ToServer(listener, server, FlowKind::New));
    }
    // Nothing listens on port 0.
    let nowhere = SocketAddr::new(VIP4, 0);
    case.frame(tcp(CLIENT4, nowhere, flag::RST).build(), UNMATCHED)
}

/// A flow through a range and one through another listener to the same server endpoint cannot be told apart.
fn conflicts() -> Scenario {
    let range = at(TCP4, 8080);
    let second = PacketServer { at: range.server.at, id: OTHER4.id, ..range.server };
    let world = world(TCP4, Mode::Nat, (FIRST, LAST)).server(second).table(5, &[second]);
    let syn = |listener: PacketListener| tcp(CLIENT4, listener.at, flag::SYN).build();
    Scenario::new("range: conflicts with the server endpoint of another listener")
        .in_world(world)
        .frame(syn(range.listener), Expect::ToServer(range.listener, range.server, FlowKind::New))
        .frame(syn(SECOND4), Expect::Drop(Reason::PortConflict))
        // Another port of the range is another server endpoint.
        .frame(
            syn(at(TCP4, 8081).listener),
            Expect::ToServer(at(TCP4, 8081).listener, at(TCP4, 8081).server, FlowKind::New),
        )
}

/// More flows than the four that would conflict: each has a server port of its own.
fn one_endpoint_to_many_ports() -> Scenario {
    let mut case = Scenario::new("range: one client endpoint to ten ports").in_world(world(
        UDP4,
        Mode::Nat,
        (FIRST, LAST),
    ));
    for port in 8000..8010 {
        let ends = at(UDP4, port);
        case = case.frame(ends.first(), to_server(ends, Mode::Nat, FlowKind::New));
    }
    for port in 8000..8010 {
        let ends = at(UDP4, port);
        case = case.frame(answer(ends, ends.client), to_client(ends, Mode::Nat));
    }
    case
}

/// A range that grows keeps its flows; those of ports that leave it end.
fn grown() -> Scenario {
    let (kept, left) = (at(TCP4, 8080), at(TCP4, 8900));
    let packet = |ends: Ends| ends.packet(ends.client, ends.listener.at).build();
    Scenario::new("range: flows of ports that stay")
        .in_world(world(TCP4, Mode::Nat, (FIRST, LAST)))
        .frame(kept.first(), to_server(kept, Mode::Nat, FlowKind::New))
        .frame(left.first(), to_server(left, Mode::Nat, FlowKind::New))
        .change(world(TCP4, Mode::Nat, (7000, 9999)))
        .frame(answer(kept, kept.client), to_client(kept, Mode::Nat))
        .frame(packet(kept), to_server(kept, Mode::Nat, FlowKind::Old))
        .change(world(TCP4, Mode::Nat, (FIRST, 8500)))
        .frame(packet(kept), to_server(kept, Mode::Nat, FlowKind::Old))
        .frame(tcp(left.client, left.listener.at, flag::RST).build(), UNMATCHED)
}

/// A server's packet from port 0 answers no flow, whatever the filter of servers says.
fn source_port_zero() -> Scenario {
    let ends = at(TCP4, 8080);
    let from_zero =
        Ends { server: PacketServer { at: SocketAddr::new(ends.server.at.ip(), 0), ..ends.server }, ..ends };
    Scenario::new("range: a packet from port 0 of a server")
        .in_world(world(TCP4, Mode::Nat, (FIRST, LAST)))
        .frame(ends.first(), to_server(ends, Mode::Nat, FlowKind::New))
        .frame(answer(from_zero, ends.client), NOT_OURS)
}

/// Two ports of the range at which a server has the same [`Backend::endpoint_of`].
fn ports_with_equal_number(ends: Ends) -> (u16, u16) {
    let address = match ends.server.at {
        SocketAddr::V4(at) => Address::v4(at.ip().octets()),
        SocketAddr::V6(at) => Address::v6(at.ip().octets()),
    };
    let number = |port: u16| Backend::endpoint_of(ServiceIndex::server_hash(&address, port.to_be()));
    let pair = (FIRST..=LAST).find_map(|port| {
        let same = (FIRST..port).find(|other| number(*other) == number(port))?;
        Some((same, port))
    });
    pair.expect("two of a thousand ports have the same of 32,768 numbers")
}

/// Flows of one client endpoint to two ports that have the same number of 15 bits: each has its answers.
fn equal_numbers(name: &str, ends: Ends) -> Scenario {
    let (one, two) = ports_with_equal_number(ends);
    let world = world(ends, Mode::Nat, (FIRST, LAST));
    let mut case = Scenario::new(format!("range, {name}: two ports with the same number")).in_world(world);
    for port in [one, two] {
        let ends = at(ends, port);
        case = case.frame(ends.first(), to_server(ends, Mode::Nat, FlowKind::New));
    }
    for port in [two, one] {
        let ends = at(ends, port);
        case = case
            .frame(answer(ends, ends.client), to_client(ends, Mode::Nat))
            .frame(
                ends.packet(ends.client, ends.listener.at).build(),
                to_server(ends, Mode::Nat, FlowKind::Old),
            )
            .frame(
                ends.packet(ends.server.at, ends.client).macs(SERVER_MAC, SERVER_SIDE_MAC).build(),
                to_client(ends, Mode::Nat),
            );
    }
    case
}

/// A server's packets of a flow whose port has left the range do not reach the client.
fn lost_port(name: &str, ends: Ends, mode: Mode) -> Scenario {
    let (kept, lost) = (at(ends, 8080), at(ends, 8900));
    let from_server = |ends: Ends| {
        ends.packet(ends.server.at, answered(ends, mode)).macs(SERVER_MAC, SERVER_SIDE_MAC).build()
    };
    let mut case = Scenario::new(format!("range, {name}, {}: answers of a lost port", mode.name()))
        .in_world(world(ends, mode, (FIRST, LAST)));
    for ends in [kept, lost] {
        case = case
            .frame(ends.first(), to_server(ends, mode, FlowKind::New))
            .frame(answer(ends, answered(ends, mode)), to_client(ends, mode));
    }
    case.change(world(ends, mode, (FIRST, 8500)))
        .frame(from_server(lost), NOT_OURS)
        .frame(from_server(kept), to_client(kept, mode))
        .change(world(ends, mode, (FIRST, LAST)))
        .frame(from_server(lost), to_client(lost, mode))
}
