//! Terminated and idle connections: which packet delivers a RST to which end.

use std::net::SocketAddr;

use slb_common::abi::{backend::Backend, rate_limit::RateLimiter, service::mode, stats::Reason};

use crate::packets::{
    frames::{Builder, NEXT, Segment, flag, number, segment, tcp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const DROPPED: Expect = Expect::Drop(Reason::Reset);
const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, listener, server, other) in
        [("IPv4", CLIENT4, HTTP4, WEB4, OTHER4), ("IPv6", CLIENT6, HTTP6, WEB6, OTHER6)]
    {
        let ends = ResetFlow { client, listener, server, other };
        let named = |case: Scenario| Scenario { name: format!("{family}: {}", case.name), ..case };
        cases.extend(ends.cut().into_iter().chain(ends.gone()).chain(ends.silent()).map(named));
        for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
            let named =
                |case: Scenario| Scenario { name: format!("{family}, {name}: {}", case.name), ..case };
            cases.extend(ends.stateless(mode).into_iter().map(named));
        }
    }
    cases.push(options());
    cases.push(per_second());
    cases
}

#[derive(Clone, Copy)]
struct ResetFlow {
    client: SocketAddr,
    listener: PacketListener,
    server: PacketServer,
    other: PacketServer,
}

impl ResetFlow {
    fn send(self, flags: u8) -> Builder {
        tcp(self.client, self.listener.at, flags)
    }

    fn answer(self, flags: u8) -> Builder {
        tcp(self.server.at, self.client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC)
    }

    fn large(self, from: SocketAddr, to: SocketAddr) -> Builder {
        let payload = &[0x5a; MTU as usize];
        let fields = Segment { flags: flag::ACK, sequence: NEXT, acknowledgement: NEXT, payload };
        segment(from, to, fields)
    }

    fn to(self, flow: FlowKind) -> Expect {
        Expect::ToServer(self.listener, self.server, flow)
    }

    fn end_server(self) -> Expect {
        Expect::EndServer(self.listener, self.server, FlowKind::Old)
    }

    fn end_client(self) -> Expect {
        Expect::EndClient(self.listener, self.server, CLIENT)
    }

    fn back(self) -> Expect {
        Expect::ToClient(self.listener, self.server, CLIENT)
    }

    /// A connection with a handshake that the server has answered.
    fn begun(self, name: &str) -> Scenario {
        Scenario::new(name)
            .frame(self.send(flag::SYN).build(), self.to(FlowKind::New))
            .frame(self.answer(flag::SYN | flag::ACK).build(), self.back())
            .frame(self.send(flag::ACK).build(), self.to(FlowKind::Old))
    }

    /// The server is terminating: no new flows, and its connections are reset.
    fn terminated(self) -> PacketWorld {
        let table = self.listener.table.expect("a table");
        PacketWorld::standard().table(table, &[self.other]).flags(self.server, Backend::TERMINATING)
    }

    fn cut(self) -> Vec<Scenario> {
        let case = |name: &str| self.begun(name).change(self.terminated());
        let ack = || self.send(flag::ACK).build();
        let answer = || self.answer(flag::ACK).build();
        vec![
            case("terminating: a client's segment resets the server, the next one the client")
                .frame(ack(), self.end_server())
                .frame(ack(), Expect::End)
                .frame(answer(), Expect::End)
                .frame(ack(), Expect::End),
            case("terminating: a server's segment resets the client, the next one the server")
                .frame(answer(), self.end_client())
                .frame(answer(), Expect::End)
                .frame(ack(), Expect::End),
            case("terminating: any segment but RST and SYN becomes a RST")
                .frame(self.send(flag::FIN | flag::ACK).build(), self.end_server())
                .frame(self.send(flag::FIN | flag::ACK).build(), Expect::End)
                .frame(self.send(flag::SYN | flag::ACK).build(), Expect::End)
                .frame(self.send(flag::FIN).build(), Expect::End)
                .frame(self.send(0).build(), Expect::End)
                .frame(self.answer(flag::SYN).build(), NOT_OURS),
            case("terminating: a client's segment above the MTU resets the server")
                .frame(self.large(self.client, self.listener.at).build(), self.end_server()),
            case("terminating: a server's segment above the MTU resets the client").frame(
                self.large(self.server.at, self.client).macs(SERVER_MAC, SERVER_SIDE_MAC).build(),
                self.end_client(),
            ),
            case("terminating: a segment without ACK becomes a RST without ACK")
                .frame(self.send(flag::PSH).build(), self.end_server()),
            case("terminating: a RST is forwarded")
                .frame(self.send(flag::RST).build(), self.to(FlowKind::Old))
                .frame(self.send(flag::RST | flag::ACK).build(), self.to(FlowKind::Old))
                .frame(self.answer(flag::RST).build(), self.back()),
            case("terminating: a new connection goes to another server")
                .frame(
                    self.send(flag::SYN).build(),
                    Expect::ToServer(self.listener, self.other, FlowKind::New),
                )
                .frame(ack(), Expect::ToServer(self.listener, self.other, FlowKind::Old)),
            case("terminating: tags and padding")
                .frame(
                    self.send(flag::ACK).tag(0x88a8, 7).tag(0x8100, 8).padding(9).build(),
                    self.end_server(),
                )
                .frame(self.send(flag::ACK).tag(0x88a8, 7).tag(0x8100, 8).padding(9).build(), Expect::End)
                .frame(self.answer(flag::ACK).tag(0x8100, 8).build(), Expect::End),
            case("terminating, and then enabled again: the flow goes on")
                .change(PacketWorld::standard())
                .frame(ack(), self.to(FlowKind::Old)),
            Scenario::new("terminating: an untracked connection is reset")
                .in_world(
                    PacketWorld::standard()
                        .with_previous_backend(self.listener.table.expect("a table"), self.server)
                        .flags(self.server, Backend::TERMINATING),
                )
                .frame(ack(), self.end_server())
                .frame(ack(), Expect::End)
                .frame(answer(), Expect::End),
            case("terminating, without a next hop: the client is reset")
                .change(
                    self.terminated()
                        .server(PacketServer { hop: UNRESOLVED, ..self.server })
                        .flags(self.server, Backend::TERMINATING),
                )
                .frame(ack(), Expect::End)
                .frame(answer(), self.end_client()),
        ]
    }

    fn gone(self) -> Vec<Scenario> {
        let table = self.listener.table.expect("a table");
        vec![
            self.begun("removed: the client is reset")
                .change(PacketWorld::standard().table(table, &[self.other]).without(self.server))
                .frame(self.send(flag::ACK).build(), Expect::End)
                .frame(self.answer(flag::ACK).build(), NOT_OURS)
                .frame(self.send(flag::ACK).build(), Expect::End)
                .frame(
                    self.send(flag::SYN).build(),
                    Expect::ToServer(self.listener, self.other, FlowKind::New),
                ),
        ]
    }

    fn silent(self) -> Vec<Scenario> {
        let case = |name: &str| self.begun(name).host_only().clock(IDLE + 1);
        let provoked = |name: &str| case(name).collect();
        let ack = || self.send(flag::ACK).build();
        let push = || self.send(flag::ACK | flag::PSH).build();
        let answer = || self.answer(flag::ACK).build();
        let answer_push = || self.answer(flag::ACK | flag::PSH).build();
        vec![
            // Its packets may have gone through another node in between.
            case("idle: the client's segment keeps the connection")
                .frame(ack(), self.to(FlowKind::Old))
                .frame(answer(), self.back())
                .clock(2 * IDLE)
                .frame(push(), self.to(FlowKind::Old)),
            case("idle: the server's segment keeps the connection")
                .frame(answer(), self.back())
                .frame(ack(), self.to(FlowKind::Old)),
            case("idle: the server is terminating")
                .change(self.terminated())
                .frame(ack(), self.end_server())
                .frame(answer(), Expect::End),
            provoked("provoked: challenge ACKs are reset")
                .frame(ack(), Expect::End)
                .frame(answer(), Expect::End)
                .clock(IDLE + 5 * HZ)
                .frame(answer(), Expect::End),
            provoked("provoked: the client's data keeps the connection")
                .frame(push(), self.to(FlowKind::Old))
                .frame(answer(), self.back())
                .frame(ack(), self.to(FlowKind::Old)),
            provoked("provoked: the server's data keeps the connection")
                .frame(answer_push(), self.back())
                .frame(ack(), self.to(FlowKind::Old)),
            provoked("provoked: an ACK some seconds later keeps the connection")
                .clock(IDLE + 7 * HZ)
                .frame(ack(), self.to(FlowKind::Old))
                .frame(answer(), self.back()),
            // The time for answers counts from the provocation.
            case("provoked late: the time for challenge ACKs counts from the provocation")
                .clock(IDLE + 30 * HZ)
                .collect()
                .clock(IDLE + 33 * HZ)
                .frame(ack(), Expect::End)
                .clock(IDLE + 37 * HZ)
                .frame(answer(), self.back()),
            case("idle: a server's own connection to the client passes")
                .frame(self.answer(flag::SYN | flag::ACK).build(), NOT_OURS)
                .frame(answer(), NOT_OURS),
            case("idle: a SYN begins a new flow")
                .frame(self.send(flag::SYN).build(), self.to(FlowKind::New))
                .frame(answer(), self.back()),
            provoked("provoked: a RST is forwarded")
                .frame(self.send(flag::RST).build(), self.to(FlowKind::Old)),
        ]
    }

    /// Flows are untracked until their slot migrates.
    fn stateless(self, mode: u8) -> Vec<Scenario> {
        let table = self.listener.table.expect("a table");
        let quiet = || PacketWorld::standard().with(self.listener, |service| service.mode = mode);
        let moved = || quiet().table(table, &[self.other]).with_previous_backend(table, self.server);
        let ack = || self.send(flag::ACK | flag::PSH).build();
        vec![
            Scenario::new("terminating: the server is reset, and then the client")
                .in_world(quiet())
                .frame(self.send(flag::SYN).build(), self.to(FlowKind::New))
                .change(moved().flags(self.server, Backend::TERMINATING))
                .frame(ack(), self.end_server())
                .frame(ack(), Expect::End)
                .frame(self.send(flag::RST).build(), self.to(FlowKind::Old))
                .frame(
                    self.send(flag::SYN).build(),
                    Expect::ToServer(self.listener, self.other, FlowKind::New),
                ),
            Scenario::new("terminating, with a full flow table: the server is reset")
                .host_only()
                .in_world(moved().flags(self.server, Backend::TERMINATING))
                .full()
                .frame(ack(), self.end_server())
                .frame(ack(), self.end_server()),
            Scenario::new("terminating, and still in the server table: the client is reset")
                .in_world(quiet().flags(self.server, Backend::TERMINATING))
                .frame(ack(), Expect::End)
                .frame(self.send(flag::RST).build(), self.to(FlowKind::Old))
                .frame(self.send(flag::SYN).build(), Expect::Drop(Reason::NoServer)),
        ]
    }
}

/// Only segments with plain headers are rewritten to RSTs.
fn options() -> Scenario {
    let four = ResetFlow { client: CLIENT4, listener: HTTP4, server: WEB4, other: OTHER4 };
    let six = ResetFlow { client: CLIENT6, listener: HTTP6, server: WEB6, other: OTHER6 };
    let world = PacketWorld::standard().flags(WEB4, Backend::TERMINATING).flags(WEB6, Backend::TERMINATING);
    Scenario::new("segments with options or extension headers are not rewritten to RSTs")
        .frame(four.send(flag::SYN).build(), four.to(FlowKind::New))
        .frame(six.send(flag::SYN).build(), six.to(FlowKind::New))
        .change(world)
        .frame(four.send(flag::ACK).options(1).build(), DROPPED)
        .frame(four.send(flag::ACK).options(1).build(), DROPPED)
        .frame(six.send(flag::ACK).extension(number::DESTINATION_OPTIONS, 1).build(), DROPPED)
        .frame(six.answer(flag::ACK).extension(number::HOP_BY_HOP, 1).build(), DROPPED)
        .frame(four.send(flag::ACK).build(), Expect::End)
        .frame(six.answer(flag::ACK).build(), Expect::End)
}

/// RSTs for unmatched packets have a rate limit of their own.
fn per_second() -> Scenario {
    let four = ResetFlow { client: CLIENT4, listener: HTTP4, server: WEB4, other: OTHER4 };
    let ack = || four.send(flag::ACK).build();
    let case = four.begun("resets: rate limit").host_only().change(four.terminated()).clock(5 * HZ);
    let scan = || tcp(CLIENT4, SocketAddr::new(VIP4, 4443), flag::SYN).build();
    let case = (0..RateLimiter::PER_SECOND).fold(case, |case, _| case.frame(scan(), Expect::Refuse));
    let case = case.frame(scan(), Expect::Drop(Reason::Unmatched));
    let case = case.frame(ack(), four.end_server());
    let case = (1..RateLimiter::PER_SECOND).fold(case, |case, _| case.frame(ack(), Expect::End));
    case.frame(ack(), DROPPED).clock(6 * HZ).frame(ack(), Expect::End)
}
