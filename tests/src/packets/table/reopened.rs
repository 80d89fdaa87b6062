//! SYNs for a connection that has had a RST or FIN, and SYN-ACKs. The connection's own server decides, and its answer
//! counts only if the client has sent a SYN.

use slb_common::abi::{
    backend::Backend,
    service::{Service, mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{FIRST, Frame, NEXT, flag, tcp_at},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

/// Initial sequence numbers of a second connection from the same port, and of its server.
const AGAIN: u32 = 0x7000_0000;
const ANSWER: u32 = 0x5000_0000;
/// Within the window of the entry's next sequence number, but not equal to it.
const NEAR: u32 = NEXT + 9000;
const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, listener, server, other) in
        [("IPv4", CLIENT4, HTTP4, WEB4, OTHER4), ("IPv6", CLIENT6, HTTP6, WEB6, OTHER6)]
    {
        let ends = ReopenedFlow { client, listener, server, other };
        let named =
            |scenario: Scenario| Scenario { name: format!("{family}: {}", scenario.name), ..scenario };
        let all = ends.resets().into_iter().chain(ends.reuses()).chain(ends.accepts()).chain(ends.jumps());
        cases.extend(all.map(named));
    }
    cases.push(twin());
    cases.extend(past_slb());
    cases.extend(migrating());
    cases
}

#[derive(Clone, Copy)]
struct ReopenedFlow {
    client: std::net::SocketAddr,
    listener: PacketListener,
    server: PacketServer,
    other: PacketServer,
}

impl ReopenedFlow {
    fn to(self, flow: FlowKind) -> Expect {
        Expect::ToServer(self.listener, self.server, flow)
    }

    fn elsewhere(self) -> Expect {
        Expect::ToServer(self.listener, self.other, FlowKind::New)
    }

    fn back(self) -> Expect {
        Expect::ToClient(self.listener, self.server, CLIENT)
    }

    fn sent(self, flags: u8, sequence: u32, acknowledges: u32) -> Frame {
        tcp_at(self.client, self.listener.at, flags, sequence, acknowledges).build()
    }

    fn answer(self, flags: u8, sequence: u32, acknowledges: u32) -> Frame {
        tcp_at(self.server.at, self.client, flags, sequence, acknowledges).build()
    }

    fn data(self) -> Frame {
        self.sent(flag::ACK, NEXT, NEXT)
    }

    fn syn(self) -> Frame {
        self.sent(flag::SYN, AGAIN, 0)
    }

    /// The server accepts the connection of [`Self::syn`].
    fn accept(self) -> Frame {
        self.answer(flag::SYN | flag::ACK, ANSWER, AGAIN + 1)
    }

    /// The table names the other server for new flows.
    fn moved(self) -> PacketWorld {
        PacketWorld::standard().table(self.listener.table.expect("a listener with servers"), &[self.other])
    }

    fn begun(self, name: &str) -> Scenario {
        Scenario::new(name)
            .frame(self.sent(flag::SYN, FIRST, 0), self.to(FlowKind::New))
            .frame(self.answer(flag::SYN | flag::ACK, FIRST, FIRST + 1), self.back())
    }

    fn established(self, name: &str) -> Scenario {
        self.begun(name)
            .frame(self.data(), self.to(FlowKind::Old))
            .frame(self.answer(flag::ACK, NEXT, NEXT), self.back())
            .change(self.moved())
    }

    fn continued(self, scenario: Scenario) -> Scenario {
        scenario
            .frame(self.data(), self.to(FlowKind::Old))
            .frame(self.answer(flag::ACK, NEXT, NEXT), self.back())
    }

    fn resets(self) -> Vec<Scenario> {
        let Self { server, .. } = self;
        let rst = || self.sent(flag::RST, NEAR, 0);
        let held = |name: &str| self.established(name).frame(rst(), self.to(FlowKind::Old));
        vec![
            self.continued(
                held("an in-window RST and a SYN move no connection")
                    .frame(self.syn(), self.to(FlowKind::Old)),
            ),
            self.continued(
                held("an in-window RST and a SYN move no connection of a server without new flows")
                    .change(self.moved().flags(server, Backend::ALIVE))
                    .frame(self.syn(), self.to(FlowKind::Old)),
            ),
            self.continued(
                self.established("a server's in-window RST and a SYN move no connection")
                    .frame(self.answer(flag::RST, NEAR, 0), self.back())
                    .frame(self.syn(), self.to(FlowKind::Old)),
            ),
            self.continued(
                held("an in-window RST, a SYN and a SYN-ACK on the wrong interface move no connection")
                    .host_only()
                    .frame(self.syn(), self.to(FlowKind::Old))
                    .frame_through(FAR, self.accept(), Expect::Drop(Reason::WrongInterface)),
            ),
            self.continued(
                held("a SYN-ACK on the wrong interface releases no flow").host_only().frame_through(
                    FAR,
                    self.accept(),
                    Expect::Drop(Reason::WrongInterface),
                ),
            ),
            // If the flow were finished, SLB would pass a SYN-ACK to the kernel.
            held("a client's segment a second after a RST revokes the RST")
                .host_only()
                .clock(HZ)
                .frame(self.data(), self.to(FlowKind::Old))
                .frame(self.accept(), self.back()),
            held("a server's segment a second after a client's RST revokes the RST")
                .host_only()
                .clock(HZ)
                .frame(self.answer(flag::ACK, NEXT, NEXT), self.back())
                .frame(self.accept(), self.back()),
            held("segments within a second after a RST do not revoke it")
                .host_only()
                .clock(HZ - 1)
                .frame(self.data(), self.to(FlowKind::Old))
                .frame(self.answer(flag::ACK, NEXT, NEXT), self.back())
                .frame(self.accept(), NOT_OURS),
            held("segments with wrong sequence numbers do not revoke a RST")
                .host_only()
                .clock(HZ)
                .frame(self.sent(flag::ACK, NEXT + (1 << 21), NEXT), self.to(FlowKind::Old))
                .frame(self.accept(), NOT_OURS),
        ]
    }

    /// Clients that reuse their ports.
    fn reuses(self) -> Vec<Scenario> {
        let Self { server, .. } = self;
        let over = |name: &str| {
            self.established(name).frame(self.sent(flag::RST, NEXT + 17, 0), self.to(FlowKind::Old))
        };
        let refusal = || self.answer(flag::RST | flag::ACK, 0, AGAIN + 1);
        vec![
            over(
                "port reuse after a RST: its server accepts, and expected numbers follow the new connection",
            )
            .frame(self.syn(), self.to(FlowKind::Old))
            .frame(self.accept(), self.back())
            .frame(self.sent(flag::ACK, AGAIN + 1, ANSWER + 18), self.to(FlowKind::Old))
            .frame(self.answer(flag::ACK | flag::FIN, ANSWER + 18, AGAIN + 18), self.back())
            .frame(self.sent(flag::ACK | flag::FIN, AGAIN + 18, ANSWER + 36), self.to(FlowKind::Old))
            .frame(self.syn(), self.elsewhere()),
            over("port reuse after a RST: its server refuses, and the next SYN goes to another server")
                .frame(self.syn(), self.to(FlowKind::Old))
                .frame(refusal(), self.back())
                .frame(self.syn(), self.elsewhere()),
            over("port reuse after a RST: its server takes no new flows, and the next SYN goes to another")
                .change(self.moved().flags(server, Backend::ALIVE))
                .frame(self.syn(), self.to(FlowKind::Old))
                .frame(self.accept(), Expect::End)
                .frame(self.syn(), self.elsewhere()),
            self.established("a server without new flows refuses a SYN, and the client receives the RST")
                .change(self.moved().flags(server, Backend::ALIVE))
                .frame(self.syn(), self.to(FlowKind::Old))
                .frame(refusal(), self.back()),
            self.begun("a client's RST after the SYN-ACK does not assure the flow")
                .frame(self.answer(flag::SYN | flag::ACK, FIRST, NEXT), self.back())
                .frame(self.sent(flag::RST, NEXT, 0), self.to(FlowKind::Old))
                .change(self.moved())
                .frame(self.syn(), self.elsewhere()),
            Scenario::new("a client's RST after its server's RST does not assure the flow")
                .in_world(PacketWorld::standard())
                .frame(self.sent(flag::ACK, NEXT, NEXT), self.to(FlowKind::Old))
                .frame(self.answer(flag::RST, NEXT, 0), self.back())
                .frame(self.sent(flag::RST, NEXT, 0), self.to(FlowKind::Old))
                .change(self.moved())
                .frame(self.syn(), self.elsewhere()),
            over("port reuse after a RST: its server is unhealthy")
                .change(self.moved().flags(server, 0))
                .frame(self.syn(), self.elsewhere()),
            over("port reuse after a RST: its server is terminating")
                .change(self.moved().flags(server, Backend::TERMINATING))
                .frame(self.syn(), self.elsewhere()),
            over("port reuse after a RST: its server is removed")
                .change(self.moved().without(server))
                .frame(self.syn(), self.elsewhere()),
            over("a server's own connection to the client passes after a RST")
                .frame(self.accept(), NOT_OURS)
                .frame(self.answer(flag::ACK, ANSWER + 1, AGAIN + 1), NOT_OURS),
            // The client has lost the connection silently, and answers the server's challenge ACK with a RST.
            self.established("port reuse by a client that lost the connection without a RST")
                .frame(self.syn(), self.to(FlowKind::Old))
                .frame(self.answer(flag::ACK, NEXT, NEXT), self.back())
                .frame(self.sent(flag::RST, NEXT + 17, 0), self.to(FlowKind::Old))
                .frame(self.syn(), self.to(FlowKind::Old))
                .frame(self.accept(), self.back())
                .frame(self.sent(flag::ACK, AGAIN + 1, ANSWER + 18), self.to(FlowKind::Old)),
        ]
    }

    /// SYN-ACKs that answer no SYN of the client.
    fn accepts(self) -> Vec<Scenario> {
        const UNASSURED: u32 = 60 * HZ;
        let Self { server, .. } = self;
        let forged = || self.answer(flag::SYN | flag::ACK, ANSWER, 0x1234_5678);
        vec![
            // A restarted flow would never become assured again, and would soon expire.
            self.continued(
                self.established("an unsolicited SYN-ACK restarts no flow")
                    .host_only()
                    .frame(forged(), self.back())
                    .frame(self.data(), self.to(FlowKind::Old))
                    .clock(UNASSURED + 1)
                    .frame(self.syn(), self.to(FlowKind::Old)),
            ),
            self.continued(
                self.established("an unsolicited SYN-ACK ends no connection of a server without new flows")
                    .change(self.moved().flags(server, Backend::ALIVE))
                    .frame(forged(), self.back())
                    .frame(self.syn(), self.to(FlowKind::Old)),
            ),
            self.continued(
                self.established("a client's data after a SYN on its flow voids the SYN")
                    .host_only()
                    .frame(self.syn(), self.to(FlowKind::Old))
                    .frame(self.data(), self.to(FlowKind::Old))
                    .frame(forged(), self.back())
                    .clock(UNASSURED + 1)
                    .frame(self.syn(), self.to(FlowKind::Old)),
            ),
            self.begun("a SYN-ACK that acknowledges another SYN does not accept the connection")
                .host_only()
                .frame(forged(), self.back())
                .frame(self.data(), self.to(FlowKind::Old))
                .change(self.moved())
                .clock(UNASSURED + 1)
                .frame(self.syn(), self.to(FlowKind::Old)),
            Scenario::new("expected numbers follow a second SYN before the handshake")
                .host_only()
                .frame(self.sent(flag::SYN, FIRST, 0), self.to(FlowKind::New))
                .frame(self.syn(), self.to(FlowKind::Old))
                .frame(self.accept(), self.back())
                .frame(self.sent(flag::ACK, AGAIN + 1, ANSWER + 18), self.to(FlowKind::Old))
                .change(self.moved())
                .clock(UNASSURED + 1)
                .frame(self.syn(), self.to(FlowKind::Old)),
        ]
    }

    /// Transfers of which SLB has missed a part.
    fn jumps(self) -> Vec<Scenario> {
        const FAR_ON: u32 = NEXT + (300 << 20);
        let over = |scenario: Scenario| scenario.frame(self.accept(), NOT_OURS);
        vec![
            over(
                self.established(
                    "300 MiB of a download missed: expected numbers follow the server's segments",
                )
                .frame(self.answer(flag::ACK, FAR_ON, NEXT), self.back())
                .frame(self.answer(flag::RST, FAR_ON + 17, 0), self.back()),
            ),
            over(
                self.established("300 MiB of an upload missed: expected numbers follow the server's ACKs")
                    .frame(self.answer(flag::ACK, NEXT, FAR_ON), self.back())
                    .frame(self.sent(flag::RST, FAR_ON, 0), self.to(FlowKind::Old)),
            ),
        ]
    }
}

/// Two listeners with the same server: a client endpoint can use only one of them at a time.
fn twin() -> Scenario {
    let ends = ReopenedFlow { client: CLIENT4, listener: HTTP4, server: WEB4, other: OTHER4 };
    let there = tcp_at(CLIENT4, TWIN4.at, flag::SYN, AGAIN, 0).build();
    let scenario = ends
        .established("an in-window RST and a SYN to another listener release no flow")
        .change(PacketWorld::standard())
        .frame(ends.sent(flag::RST, NEAR, 0), ends.to(FlowKind::Old))
        .frame(there, Expect::Drop(Reason::PortConflict));
    ends.continued(scenario)
}

/// Modes whose answers bypass SLB, with tracked flows.
fn past_slb() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
        let world = move || {
            PacketWorld::standard().with(HTTP4, |service: &mut Service| {
                service.mode = mode;
                service.policy = policy::TRACK;
            })
        };
        let moved = move || world().table(HTTP4.table.expect("servers"), &[OTHER4]);
        let to = |flow| Expect::ToServer(HTTP4, WEB4, flow);
        let elsewhere = Expect::ToServer(HTTP4, OTHER4, FlowKind::New);
        let sent = |flags, sequence| tcp_at(CLIENT4, HTTP4.at, flags, sequence, NEXT).build();
        let established = |what: &str| {
            Scenario::new(format!("{name}: {what}"))
                .in_world(world())
                .frame(sent(flag::SYN, FIRST), to(FlowKind::New))
                .frame(sent(flag::ACK, NEXT), to(FlowKind::Old))
                .change(moved())
        };
        for (flags, what) in [(flag::RST, "RST"), (flag::FIN | flag::ACK, "FIN")] {
            cases.push(
                established(&format!("an in-window {what} and a SYN move no connection"))
                    .frame(sent(flags, NEAR), to(FlowKind::Old))
                    .frame(sent(flag::SYN, AGAIN), to(FlowKind::Old))
                    .frame(sent(flag::ACK, NEXT), to(FlowKind::Old))
                    .frame(sent(flag::SYN, AGAIN), to(FlowKind::Old)),
            );
            let reused = |what: &str| {
                established(what)
                    .frame(sent(flags, NEXT + 17), to(FlowKind::Old))
                    .frame(sent(flag::SYN, AGAIN), to(FlowKind::Old))
                    .frame(sent(flag::ACK, AGAIN + 1), to(FlowKind::Old))
            };
            let leaving = || moved().flags(WEB4, Backend::ALIVE);
            cases.extend([
                established(&format!("port reuse a minute after a {what} is scheduled anew"))
                    .host_only()
                    .frame(sent(flags, NEXT + 17), to(FlowKind::Old))
                    .clock(60 * HZ)
                    .frame(sent(flag::SYN, AGAIN), elsewhere),
                reused(&format!("port reuse after a {what}: the new connection is live"))
                    .change(leaving())
                    .frame(sent(flag::SYN, 77), to(FlowKind::Old)),
                reused(&format!("port reuse after a {what}: expected numbers follow the new connection"))
                    .frame(sent(flags, AGAIN + 18), to(FlowKind::Old))
                    .change(leaving())
                    .frame(sent(flag::SYN, 77), elsewhere),
                established(&format!("port reuse after a {what}: the server takes no new flows"))
                    .frame(sent(flags, NEXT + 17), to(FlowKind::Old))
                    .change(leaving())
                    .frame(sent(flag::SYN, AGAIN), elsewhere),
            ]);
        }
    }
    cases
}

/// Untracked connections on migrating slots: they stay with the previous backend, and a SYN goes to the current one.
fn migrating() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
        let world = move || {
            let quiet = PacketWorld::standard().with(HTTP4, |service: &mut Service| service.mode = mode);
            quiet.table(1, &[OTHER4]).with_previous_backend(1, WEB4)
        };
        let to = |server, flow| Expect::ToServer(HTTP4, server, flow);
        let sent = |flags, sequence| tcp_at(CLIENT4, HTTP4.at, flags, sequence, NEXT).build();
        let (old, new) = (|| sent(flag::ACK, NEXT), || sent(flag::ACK, AGAIN + 1));
        let begun = |what: &str| {
            let begun = Scenario::new(format!("{name}: {what}")).in_world(world());
            begun.frame(sent(flag::SYN, AGAIN), to(OTHER4, FlowKind::New))
        };
        cases.extend([
            begun(
                "migrating slot: a SYN and an untracked connection of its endpoint do not affect each other",
            )
            .frame(old(), to(WEB4, FlowKind::Old))
            .frame(sent(flag::RST, NEXT), to(WEB4, FlowKind::Old))
            .frame(old(), to(WEB4, FlowKind::Old))
            .frame(new(), to(OTHER4, FlowKind::Old))
            .frame(new(), to(OTHER4, FlowKind::Old)),
            begun("migrating slot: an untracked connection is tracked a second after a SYN of its endpoint")
                .host_only()
                .clock(HZ)
                .frame(old(), to(WEB4, FlowKind::Old))
                .change(
                    PacketWorld::standard()
                        .with(HTTP4, |service| service.mode = mode)
                        .table(1, &[OTHER4])
                        .with_previous_backend(1, OTHER4),
                )
                .frame(old(), to(WEB4, FlowKind::Old)),
            Scenario::new(format!(
                "{name}: migrating slot: a SYN moves no untracked connection of an unhealthy server"
            ))
            .in_world(world())
            .frame(old(), to(WEB4, FlowKind::Old))
            .change(world().flags(WEB4, 0))
            .frame(sent(flag::SYN, AGAIN), to(OTHER4, FlowKind::New))
            .frame(old(), to(WEB4, FlowKind::Old)),
            begun("migrating slot: expected numbers follow a second SYN with another number")
                .frame(sent(flag::SYN, FIRST), to(OTHER4, FlowKind::Old))
                .frame(old(), to(OTHER4, FlowKind::Old))
                .frame(sent(flag::ACK, NEXT + (1 << 20)), to(OTHER4, FlowKind::Old)),
        ]);
    }
    cases
}
