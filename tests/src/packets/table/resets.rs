//! Terminated and idle connections: which packet delivers a RST to which end.

use std::net::SocketAddr;

use slb_common::abi::{backend::Backend, limit::Limit, service::mode, stats::Reason};

use crate::packets::{
    frames::{Builder, flag, number, tcp},
    scenario::{CLIENT, Expect, Flow, Scenario},
    world::*,
};

const DROPPED: Expect = Expect::Drop(Reason::Reset);
const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, listener, server, other) in
        [("IPv4", CLIENT4, HTTP4, WEB4, OTHER4), ("IPv6", CLIENT6, HTTP6, WEB6, OTHER6)]
    {
        let ends = Ends { client, listener, server, other };
        let named = |case: Scenario| Scenario { name: format!("{family}: {}", case.name), ..case };
        cases.extend(ends.cut().into_iter().chain(ends.gone()).chain(ends.silent()).map(named));
        for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP)] {
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
struct Ends {
    client: SocketAddr,
    listener: Listener,
    server: Server,
    other: Server,
}

impl Ends {
    fn send(self, flags: u8) -> Builder {
        tcp(self.client, self.listener.at, flags)
    }

    fn answer(self, flags: u8) -> Builder {
        tcp(self.server.at, self.client, flags).macs(SERVER_MAC, SERVER_SIDE_MAC)
    }

    fn to(self, flow: Flow) -> Expect {
        Expect::ToServer(self.listener, self.server, flow)
    }

    fn end_server(self) -> Expect {
        Expect::EndServer(self.listener, self.server, Flow::Old)
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
            .frame(self.send(flag::SYN).build(), self.to(Flow::New))
            .frame(self.answer(flag::SYN | flag::ACK).build(), self.back())
            .frame(self.send(flag::ACK).build(), self.to(Flow::Old))
    }

    /// The server is terminating: no new flows, and its connections are reset.
    fn cut_off(self) -> World {
        let table = self.listener.table.expect("a table");
        World::standard().table(table, &[self.other]).flags(self.server, Backend::TERMINATING)
    }

    fn cut(self) -> Vec<Scenario> {
        let case = |name: &str| self.begun(name).change(self.cut_off());
        let ack = || self.send(flag::ACK).build();
        let answer = || self.answer(flag::ACK).build();
        vec![
            case("cut: the client speaks, and the server is told, and then the client")
                .frame(ack(), self.end_server())
                .frame(ack(), Expect::End)
                .frame(answer(), Expect::End)
                .frame(ack(), Expect::End),
            case("cut: the server speaks, and the client is told, and then the server")
                .frame(answer(), self.end_client())
                .frame(answer(), Expect::End)
                .frame(ack(), Expect::End),
            case("cut: any segment will do")
                .frame(self.send(flag::FIN | flag::ACK).build(), self.end_server())
                .frame(self.send(flag::FIN | flag::ACK).build(), Expect::End)
                .frame(self.send(flag::SYN | flag::ACK).build(), Expect::End)
                .frame(self.send(flag::FIN).build(), Expect::End)
                .frame(self.send(0).build(), Expect::End)
                .frame(self.answer(flag::SYN).build(), NOT_OURS),
            case("cut: a segment without acknowledgement goes on without one")
                .frame(self.send(flag::PSH).build(), self.end_server()),
            case("cut: a RST is never answered")
                .frame(self.send(flag::RST).build(), self.to(Flow::Old))
                .frame(self.send(flag::RST | flag::ACK).build(), self.to(Flow::Old))
                .frame(self.answer(flag::RST).build(), self.back()),
            case("cut: a new connection goes elsewhere")
                .frame(self.send(flag::SYN).build(), Expect::ToServer(self.listener, self.other, Flow::New))
                .frame(ack(), Expect::ToServer(self.listener, self.other, Flow::Old)),
            case("cut: tags and padding")
                .frame(
                    self.send(flag::ACK).tag(0x88a8, 7).tag(0x8100, 8).padding(9).build(),
                    self.end_server(),
                )
                .frame(self.send(flag::ACK).tag(0x88a8, 7).tag(0x8100, 8).padding(9).build(), Expect::End)
                .frame(self.answer(flag::ACK).tag(0x8100, 8).build(), Expect::End),
            case("cut, and not cut any more").change(World::standard()).frame(ack(), self.to(Flow::Old)),
            Scenario::new("cut: who is not known is told")
                .in_world(
                    World::standard()
                        .kept_by(self.listener.table.expect("a table"), self.server)
                        .flags(self.server, Backend::TERMINATING),
                )
                .frame(ack(), self.end_server())
                .frame(ack(), Expect::End)
                .frame(answer(), Expect::End),
            case("cut: the way to the server is not known")
                .change(
                    self.cut_off()
                        .server(Server { hop: UNRESOLVED, ..self.server })
                        .flags(self.server, Backend::TERMINATING),
                )
                .frame(ack(), Expect::End)
                .frame(answer(), self.end_client()),
        ]
    }

    fn gone(self) -> Vec<Scenario> {
        let table = self.listener.table.expect("a table");
        vec![
            self.begun("gone: the client is told")
                .change(World::standard().table(table, &[self.other]).without(self.server))
                .frame(self.send(flag::ACK).build(), Expect::End)
                .frame(self.answer(flag::ACK).build(), NOT_OURS)
                .frame(self.send(flag::ACK).build(), Expect::End)
                .frame(self.send(flag::SYN).build(), Expect::ToServer(self.listener, self.other, Flow::New)),
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
            case("silent: the client goes on, and so does the connection")
                .frame(ack(), self.to(Flow::Old))
                .frame(answer(), self.back())
                .clock(2 * IDLE)
                .frame(push(), self.to(Flow::Old)),
            case("silent: the server goes on, and so does the connection")
                .frame(answer(), self.back())
                .frame(ack(), self.to(Flow::Old)),
            case("silent: the server is terminating")
                .change(self.cut_off())
                .frame(ack(), self.end_server())
                .frame(answer(), Expect::End),
            provoked("silent: the answers to a provocation are reset")
                .frame(ack(), Expect::End)
                .frame(answer(), Expect::End)
                .clock(IDLE + 5 * HZ)
                .frame(answer(), Expect::End),
            provoked("silent: a client that says more than an answer goes on")
                .frame(push(), self.to(Flow::Old))
                .frame(answer(), self.back())
                .frame(ack(), self.to(Flow::Old)),
            provoked("silent: a server that says more than an answer goes on")
                .frame(answer_push(), self.back())
                .frame(ack(), self.to(Flow::Old)),
            provoked("silent: who speaks some time after a provocation goes on")
                .clock(IDLE + 7 * HZ)
                .frame(ack(), self.to(Flow::Old))
                .frame(answer(), self.back()),
            // The time for answers counts from the provocation.
            case("silent: a late provocation")
                .clock(IDLE + 30 * HZ)
                .collect()
                .clock(IDLE + 33 * HZ)
                .frame(ack(), Expect::End)
                .clock(IDLE + 37 * HZ)
                .frame(answer(), self.back()),
            case("silent: the server speaks to a client that came to it directly")
                .frame(self.answer(flag::SYN | flag::ACK).build(), NOT_OURS)
                .frame(answer(), NOT_OURS),
            case("silent: a new connection")
                .frame(self.send(flag::SYN).build(), self.to(Flow::New))
                .frame(answer(), self.back()),
            provoked("silent: a RST goes on").frame(self.send(flag::RST).build(), self.to(Flow::Old)),
        ]
    }

    /// Flows are untracked until their slot migrates.
    fn stateless(self, mode: u8) -> Vec<Scenario> {
        let table = self.listener.table.expect("a table");
        let quiet = || World::standard().with(self.listener, |service| service.mode = mode);
        let moved = || quiet().table(table, &[self.other]).kept_by(table, self.server);
        let ack = || self.send(flag::ACK | flag::PSH).build();
        vec![
            Scenario::new("cut: the server is told, and then the client")
                .in_world(quiet())
                .frame(self.send(flag::SYN).build(), self.to(Flow::New))
                .change(moved().flags(self.server, Backend::TERMINATING))
                .frame(ack(), self.end_server())
                .frame(ack(), Expect::End)
                .frame(self.send(flag::RST).build(), self.to(Flow::Old))
                .frame(self.send(flag::SYN).build(), Expect::ToServer(self.listener, self.other, Flow::New)),
            Scenario::new("cut: nothing can be remembered, and the server is told")
                .host_only()
                .in_world(moved().flags(self.server, Backend::TERMINATING))
                .full()
                .frame(ack(), self.end_server())
                .frame(ack(), self.end_server()),
            Scenario::new("cut: the table still names it")
                .in_world(quiet().flags(self.server, Backend::TERMINATING))
                .frame(ack(), Expect::End)
                .frame(self.send(flag::RST).build(), self.to(Flow::Old))
                .frame(self.send(flag::SYN).build(), Expect::Drop(Reason::NoServer)),
        ]
    }
}

/// Only segments with plain headers are rewritten to RSTs.
fn options() -> Scenario {
    let four = Ends { client: CLIENT4, listener: HTTP4, server: WEB4, other: OTHER4 };
    let six = Ends { client: CLIENT6, listener: HTTP6, server: WEB6, other: OTHER6 };
    let world = World::standard().flags(WEB4, Backend::TERMINATING).flags(WEB6, Backend::TERMINATING);
    Scenario::new("options and extension headers are not turned")
        .frame(four.send(flag::SYN).build(), four.to(Flow::New))
        .frame(six.send(flag::SYN).build(), six.to(Flow::New))
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
    let four = Ends { client: CLIENT4, listener: HTTP4, server: WEB4, other: OTHER4 };
    let ack = || four.send(flag::ACK).build();
    let case = four.begun("resets: so many a second").host_only().change(four.cut_off()).clock(5 * HZ);
    let scan = || tcp(CLIENT4, SocketAddr::new(VIP4, 4443), flag::SYN).build();
    let case = (0..Limit::A_SECOND).fold(case, |case, _| case.frame(scan(), Expect::Refuse));
    let case = case.frame(scan(), Expect::Drop(Reason::Unmatched));
    let case = case.frame(ack(), four.end_server());
    let case = (1..Limit::A_SECOND).fold(case, |case, _| case.frame(ack(), Expect::End));
    case.frame(ack(), DROPPED).clock(6 * HZ).frame(ack(), Expect::End)
}
