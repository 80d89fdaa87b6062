//! Forged packets: they must not end a flow, move it, or draw its answers.

use slb_common::abi::{
    backend::Backend,
    service::{Service, mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{FIRST, Frame, NEXT, flag, tcp, tcp_at, udp},
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

/// Sequence numbers that a blind attacker guesses.
const GUESSES: [u32; 5] = [0, NEXT - (1 << 15), NEXT + (1 << 15), NEXT + (1 << 20), NEXT + (1 << 31)];
/// Acknowledgement number of the attacker's segments.
const GUESSED: u32 = 0x9000_0000;
/// A SYN-ACK after a flow has finished: the server endpoint talks to the client endpoint outside the VIP.
const PASSED: Expect = Expect::Pass(Reason::NotOurs);
const FORGER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, client, listener, server, other) in
        [("IPv4", CLIENT4, HTTP4, WEB4, OTHER4), ("IPv6", CLIENT6, HTTP6, WEB6, OTHER6)]
    {
        let victim = ForgedFlow { client, listener, server, other };
        let named =
            |scenario: Scenario| Scenario { name: format!("{family}: {}", scenario.name), ..scenario };
        let all = victim.ends().into_iter().chain(victim.moves()).chain(victim.fills());
        cases.extend(all.map(named));
    }
    cases.extend(past_slb());
    cases.push(upload());
    cases.extend(datagrams());
    cases
}

/// An established connection.
#[derive(Clone, Copy)]
struct ForgedFlow {
    client: std::net::SocketAddr,
    listener: PacketListener,
    server: PacketServer,
    other: PacketServer,
}

impl ForgedFlow {
    fn to(self, flow: FlowKind) -> Expect {
        Expect::ToServer(self.listener, self.server, flow)
    }

    fn back(self) -> Expect {
        Expect::ToClient(self.listener, self.server, CLIENT)
    }

    fn sent(self, flags: u8, sequence: u32, acknowledges: u32) -> Frame {
        tcp_at(self.client, self.listener.at, flags, sequence, acknowledges).build()
    }

    fn answer(self, flags: u8) -> Frame {
        tcp(self.server.at, self.client, flags).build()
    }

    fn data(self) -> Frame {
        self.sent(flag::ACK, NEXT, NEXT)
    }

    fn begun(self, name: &str) -> Scenario {
        Scenario::new(name)
            .frame(tcp(self.client, self.listener.at, flag::SYN).build(), self.to(FlowKind::New))
            .frame(self.answer(flag::SYN | flag::ACK), self.back())
    }

    fn established(self, name: &str) -> Scenario {
        self.begun(name).frame(self.data(), self.to(FlowKind::Old)).frame(self.answer(flag::ACK), self.back())
    }

    /// The table names the other server for new flows.
    fn moved(self) -> PacketWorld {
        PacketWorld::standard().table(self.listener.table.expect("a listener with servers"), &[self.other])
    }

    fn continued(self, scenario: Scenario) -> Scenario {
        scenario.frame(self.data(), self.to(FlowKind::Old)).frame(self.answer(flag::ACK), self.back())
    }

    fn ends(self) -> Vec<Scenario> {
        let Self { server, other, listener, client } = self;
        let syn = |sequence| self.sent(flag::SYN, sequence, 0);
        let mut cases = Vec::new();
        for flags in [flag::RST, flag::RST | flag::ACK, flag::FIN | flag::ACK] {
            let mut scenario =
                self.established(&format!("flags {flags:#x} with wrong sequence numbers end no flow"));
            for guess in GUESSES {
                scenario = scenario.frame(self.sent(flags, guess, GUESSED), self.to(FlowKind::Old));
            }
            // If the flow were finished, this SYN would begin another one.
            let scenario = scenario
                .frame(self.answer(flag::FIN | flag::ACK), self.back())
                .change(self.moved())
                .frame(syn(77), self.to(FlowKind::Old));
            cases.push(self.continued(scenario));
        }
        let scenario = self
            .established("a SYN does not move a connection whose server takes no new flows")
            .change(self.moved().flags(server, Backend::ALIVE));
        cases.push(self.continued(scenario.frame(syn(77), self.to(FlowKind::Old))));
        cases.extend([
            self.established("a reused client port is answered by the server of its old flow")
                .change(self.moved())
                .frame(syn(0x7000_0000), self.to(FlowKind::Old))
                .frame(
                    tcp_at(server.at, client, flag::SYN | flag::ACK, 0x5000_0000, 0x7000_0001).build(),
                    self.back(),
                )
                .frame(self.sent(flag::ACK, 0x7000_0001, 0x5000_0100), self.to(FlowKind::Old))
                .frame(self.sent(flag::RST, 0x7000_0100, 0), self.to(FlowKind::Old))
                .frame(self.answer(flag::SYN | flag::ACK), PASSED),
            self.established("a SYN on an established flow opens none at a server without new flows")
                .change(self.moved().flags(server, Backend::ALIVE))
                .frame(syn(0x7000_0000), self.to(FlowKind::Old))
                .frame(
                    tcp_at(server.at, client, flag::SYN | flag::ACK, 0x5000_0000, 0x7000_0001).build(),
                    Expect::End,
                )
                .frame(syn(0x7000_0000), Expect::ToServer(listener, other, FlowKind::New)),
            self.established("a retransmitted SYN-ACK restarts no flow")
                .frame(self.answer(flag::SYN | flag::ACK), self.back())
                .change(self.moved().flags(server, Backend::ALIVE))
                .frame(syn(FIRST), self.to(FlowKind::Old)),
            self.begun("a server's RST with wrong sequence numbers ends no flow")
                .frame(self.data(), self.to(FlowKind::Old))
                .frame(tcp_at(server.at, client, flag::RST, NEXT + (1 << 20), 0).build(), self.back())
                .change(self.moved())
                .frame(syn(77), self.to(FlowKind::Old)),
            self.established("expected sequence numbers follow a long transfer")
                .frame(self.sent(flag::ACK, NEXT + (1 << 14), NEXT), self.to(FlowKind::Old))
                .frame(
                    tcp_at(server.at, client, flag::ACK, NEXT + (1 << 14), NEXT + (2 << 14)).build(),
                    self.back(),
                )
                .frame(self.sent(flag::RST, NEXT, 0), self.to(FlowKind::Old))
                .frame(self.answer(flag::SYN | flag::ACK), self.back())
                .frame(self.sent(flag::RST, NEXT + (2 << 14), 0), self.to(FlowKind::Old))
                .frame(self.answer(flag::SYN | flag::ACK), PASSED),
        ]);
        cases
    }

    /// The path that answers take.
    fn moves(self) -> Vec<Scenario> {
        let Self { server, client, listener, .. } = self;
        let by_forger = |flags, sequence, acknowledges| {
            tcp_at(client, listener.at, flags, sequence, acknowledges).macs(FORGER_MAC, OWN_MAC).build()
        };
        vec![
            self.established("a segment with wrong sequence numbers diverts no answers")
                .host_only()
                .frame(by_forger(flag::ACK, NEXT + (1 << 21), NEXT), self.to(FlowKind::Old))
                .frame(by_forger(flag::ACK, NEXT, NEXT - (1 << 21)), self.to(FlowKind::Old))
                .frame(by_forger(flag::SYN, NEXT, NEXT), self.to(FlowKind::Old))
                .frame(self.answer(flag::ACK), self.back()),
            self.established(
                "a segment with wrong sequence numbers diverts no answers to an unresolved neighbour",
            )
            .host_only()
            .route(LO, [0; 6])
            .frame(by_forger(flag::ACK, NEXT + (1 << 21), NEXT), self.to(FlowKind::Old))
            .frame(by_forger(flag::SYN, NEXT, NEXT), self.to(FlowKind::Old))
            .frame(self.answer(flag::ACK), self.back()),
            // The kernel routes to the client by the client's interface.
            Scenario::new("a frame on the servers' interface diverts no answers of a client behind another")
                .host_only()
                .route(LO, CLIENT_MAC)
                .frame_through(FAR, by_forger(flag::SYN, FIRST, 0), self.to(FlowKind::New))
                .frame(self.answer(flag::SYN | flag::ACK), self.back()),
            self.established("answers follow the kernel's route once the client's MAC changes")
                .host_only()
                .route(LO, FORGER_MAC)
                .frame(self.answer(flag::ACK), self.back())
                .frame(self.data().patch(|frame| frame.bytes[11] ^= 1), self.to(FlowKind::Old))
                .frame(
                    self.answer(flag::ACK),
                    Expect::ToClient(listener, server, Hop { peer: FORGER_MAC, ..CLIENT }),
                ),
            Scenario::new("answers to a client behind an unresolved neighbour are dropped")
                .host_only()
                .route(FAR, [0; 6])
                .frame(self.sent(flag::SYN, FIRST, 0), self.to(FlowKind::New))
                .frame(self.answer(flag::SYN | flag::ACK), Expect::Drop(Reason::NoClientHop)),
            self.established("an answer on another interface than its server's is dropped")
                .host_only()
                .frame_through(FAR, self.answer(flag::ACK), Expect::Drop(Reason::WrongInterface))
                .frame(self.answer(flag::ACK), self.back()),
        ]
    }

    /// How long an entry that is not assured lives.
    fn fills(self) -> Vec<Scenario> {
        const UNASSURED: u32 = 60 * HZ;
        let syn = || self.sent(flag::SYN, 77, 0);
        let anew = Expect::ToServer(self.listener, self.other, FlowKind::New);
        let begun = |name: &str| self.begun(name).host_only().change(self.moved());
        vec![
            begun("a flow without a valid ACK of the client expires as unassured")
                .frame(self.sent(flag::ACK, NEXT, NEXT + (1 << 15)), self.to(FlowKind::Old))
                .frame(self.sent(flag::ACK, NEXT, FIRST - 1), self.to(FlowKind::Old))
                .frame(self.sent(flag::ACK, NEXT + (1 << 20), NEXT), self.to(FlowKind::Old))
                .clock(UNASSURED + 1)
                .frame(syn(), anew),
            begun("a flow with a valid ACK of the client is assured")
                .frame(self.data(), self.to(FlowKind::Old))
                .clock(UNASSURED + 1)
                .frame(syn(), self.to(FlowKind::Old))
                .clock(UNASSURED + 1 + IDLE)
                .frame(self.data(), self.to(FlowKind::Old)),
            Scenario::new("a stray ACK that the server resets leaves no flow")
                .host_only()
                .frame(self.data(), self.to(FlowKind::Old))
                .frame(self.answer(flag::RST), self.back())
                .change(self.moved())
                .frame(syn(), anew),
            Scenario::new("a mid-stream pickup is assured once its server answers")
                .host_only()
                .frame(self.data(), self.to(FlowKind::Old))
                .frame(self.answer(flag::ACK), self.back())
                .change(self.moved())
                .clock(UNASSURED + 1)
                .frame(syn(), self.to(FlowKind::Old)),
        ]
    }
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
        let sent_at =
            |flags, sequence, acknowledges| tcp_at(CLIENT4, HTTP4.at, flags, sequence, acknowledges).build();
        let sent = |flags, sequence| sent_at(flags, sequence, NEXT);
        let established = || {
            Scenario::new(format!("{name}: RST and FIN with wrong sequence numbers end no flow"))
                .in_world(world())
                .frame(sent(flag::SYN, FIRST), to(FlowKind::New))
                .frame(sent(flag::ACK, NEXT), to(FlowKind::Old))
        };
        let mut scenario = established();
        for guess in GUESSES {
            scenario = scenario
                .frame(sent_at(flag::RST, guess, GUESSED), to(FlowKind::Old))
                .frame(sent_at(flag::FIN | flag::ACK, guess, GUESSED), to(FlowKind::Old));
        }
        cases.push(scenario.change(moved()).frame(sent(flag::SYN, 77), to(FlowKind::Old)));
        let reused = Scenario::new(format!(
            "{name}: expected sequence numbers follow a second SYN before the handshake"
        ))
        .in_world(world())
        .frame(sent(flag::SYN, 0x7000_0000), to(FlowKind::New))
        .frame(sent(flag::SYN, FIRST), to(FlowKind::Old))
        .frame(sent(flag::ACK, NEXT), to(FlowKind::Old))
        .frame(sent(flag::FIN | flag::ACK, NEXT), to(FlowKind::Old));
        let ended = reused.change(moved().flags(WEB4, Backend::ALIVE));
        cases.push(ended.frame(sent(flag::SYN, 77), Expect::ToServer(HTTP4, OTHER4, FlowKind::New)));
        let moved_on = established().change(moved().flags(WEB4, Backend::ALIVE));
        cases.push(Scenario {
            name: format!("{name}: a SYN does not move a connection whose server takes no new flows"),
            ..moved_on
                .frame(sent(flag::SYN, 77), to(FlowKind::Old))
                .frame(sent(flag::ACK, NEXT), to(FlowKind::Old))
        });
    }
    cases
}

/// Mid-stream pickup of a long upload whose answers bypass SLB: it is assured after a second, and its FIN is
/// recognised.
fn upload() -> Scenario {
    let world = || {
        PacketWorld::standard().with(HTTP4, |service: &mut Service| {
            service.mode = mode::DSR;
            service.policy = policy::TRACK;
        })
    };
    let moved = world().table(HTTP4.table.expect("servers"), &[OTHER4]).flags(WEB4, Backend::ALIVE);
    let to = |server, flow| Expect::ToServer(HTTP4, server, flow);
    let sent = |flags, sequence| tcp_at(CLIENT4, HTTP4.at, flags, sequence, NEXT).build();
    let mut scenario =
        Scenario::new("dsr: expected sequence numbers follow a mid-stream pickup of an upload")
            .in_world(world())
            .host_only()
            .frame(sent(flag::ACK, NEXT), to(WEB4, FlowKind::Old));
    for sent_so_far in 1..=8 {
        scenario = scenario.frame(sent(flag::ACK, NEXT + (sent_so_far << 14)), to(WEB4, FlowKind::Old));
    }
    scenario
        .clock(2 * HZ)
        .frame(sent(flag::ACK, NEXT + (8 << 14)), to(WEB4, FlowKind::Old))
        .frame(sent(flag::FIN | flag::ACK, NEXT + (8 << 14) + 17), to(WEB4, FlowKind::Old))
        .change(moved)
        .frame(sent(flag::SYN, 77), to(OTHER4, FlowKind::New))
}

/// UDP flows become assured by two-way traffic over time.
fn datagrams() -> Vec<Scenario> {
    let ask = || udp(CLIENT4, DNS4.at, b"?").build();
    let reply = || udp(NAME4.at, CLIENT4, b"!").build();
    let to = |server, flow| Expect::ToServer(DNS4, server, flow);
    let back = Expect::ToClient(DNS4, NAME4, CLIENT);
    let moved = || PacketWorld::standard().table(3, &[NAME4B]);
    let begun = |name: &str| {
        let begun = Scenario::new(name).host_only().frame(ask(), to(NAME4, FlowKind::New));
        begun.frame(reply(), back).frame(ask(), to(NAME4, FlowKind::Old)).change(moved())
    };
    vec![
        begun("UDP: a flow of one request and answer expires as unassured")
            .clock(61 * HZ)
            .frame(ask(), to(NAME4B, FlowKind::New)),
        begun("UDP: a two-way stream is assured")
            .clock(2 * HZ)
            .frame(ask(), to(NAME4, FlowKind::Old))
            .clock(63 * HZ)
            .frame(ask(), to(NAME4, FlowKind::Old)),
    ]
}
