//! Flow-table entries: what they keep, and for how long.

use std::net::SocketAddr;

use slb_common::abi::{
    backend::Backend,
    service::{Service, mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Frame, flag, tcp, udp},
    scenario::{CLIENT, Expect, Flow, Scenario},
    world::*,
};

const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);

fn to(listener: Listener, server: Server, flow: Flow) -> Expect {
    Expect::ToServer(listener, server, flow)
}

fn back(listener: Listener, server: Server) -> Expect {
    Expect::ToClient(listener, server, CLIENT)
}

fn syn(listener: Listener) -> Frame {
    tcp(client_of(listener), listener.at, flag::SYN).build()
}

fn data(listener: Listener) -> Frame {
    tcp(client_of(listener), listener.at, flag::ACK | flag::PSH).build()
}

fn fin(listener: Listener) -> Frame {
    tcp(client_of(listener), listener.at, flag::ACK | flag::FIN).build()
}

fn rst(listener: Listener) -> Frame {
    tcp(client_of(listener), listener.at, flag::RST).build()
}

fn answer(server: Server, flags: u8) -> Frame {
    tcp(server.at, if server.at.is_ipv4() { CLIENT4 } else { CLIENT6 }, flags).build()
}

fn client_of(listener: Listener) -> SocketAddr {
    if listener.at.is_ipv4() { CLIENT4 } else { CLIENT6 }
}

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, listener, server, other) in [("IPv4", HTTP4, WEB4, OTHER4), ("IPv6", HTTP6, WEB6, OTHER6)] {
        let pair = Pair { listener, server, other };
        let named =
            |scenario: Scenario| Scenario { name: format!("{family}: {}", scenario.name), ..scenario };
        cases.extend(pair.stickiness().into_iter().chain(pair.ends()).chain(pair.clock()).map(named));
    }
    cases.extend(datagrams());
    cases.extend(several_services());
    cases.push(beside_dsr());
    cases
}

/// A listener, its server at first, and the server that its table names later.
#[derive(Clone, Copy)]
struct Pair {
    listener: Listener,
    server: Server,
    other: Server,
}

impl Pair {
    fn begun(self, name: &str) -> Scenario {
        Scenario::new(name).frame(syn(self.listener), self.first(Flow::New))
    }

    fn accepted(self, name: &str) -> Scenario {
        self.begun(name).frame(answer(self.server, flag::SYN | flag::ACK), back(self.listener, self.server))
    }

    fn first(self, flow: Flow) -> Expect {
        to(self.listener, self.server, flow)
    }

    fn second(self, flow: Flow) -> Expect {
        to(self.listener, self.other, flow)
    }

    /// The table names the other server.
    fn moved(self) -> World {
        World::standard().table(self.listener.table.expect("a listener with servers"), &[self.other])
    }

    fn stickiness(self) -> Vec<Scenario> {
        let Self { listener, server, other } = self;
        let dead = || self.moved().flags(server, 0);
        let draining = || self.moved().flags(server, Backend::ALIVE);
        let reused = Server { generation: 2, ..other };
        let reused = Server { id: server.id, ..reused };
        vec![
            self.begun("a flow stays with its server when the table changes")
                .change(self.moved())
                .frame(data(listener), self.first(Flow::Old))
                .frame(syn(listener), self.first(Flow::Old))
                .frame(answer(server, flag::ACK), back(listener, server)),
            self.begun("a connection stays with a server that fails its checks")
                .change(dead())
                .frame(data(listener), self.first(Flow::Old))
                .frame(answer(server, flag::ACK), back(listener, server))
                .change(World::standard())
                .frame(data(listener), self.first(Flow::Old)),
            self.begun("a SYN on a flow of a dead server begins a new one")
                .change(dead())
                .frame(syn(listener), self.second(Flow::New))
                .frame(answer(other, flag::SYN | flag::ACK), back(listener, other))
                .change(self.moved())
                .frame(data(listener), self.second(Flow::Old)),
            self.begun("a SYN on a flow of a dead server, and no other one")
                .change(World::standard().table(listener.table.unwrap_or(0), &[]).flags(server, 0))
                .frame(syn(listener), Expect::Drop(Reason::NoServer))
                .change(World::standard())
                .frame(data(listener), self.first(Flow::Old)),
            self.begun("a server of weight 0 keeps its flows, and gets no new one")
                .change(draining())
                .frame(data(listener), self.first(Flow::Old))
                .frame(answer(server, flag::ACK), back(listener, server))
                .frame(
                    tcp(client_of(listener), listener.at, flag::SYN | flag::ACK).build(),
                    self.first(Flow::Old),
                )
                .frame(fin(listener), self.first(Flow::Old)),
            self.begun("a SYN on a flow of a server of weight 0 begins a new one")
                .change(draining())
                .frame(syn(listener), self.second(Flow::New))
                .frame(data(listener), self.second(Flow::Old))
                .frame(answer(server, flag::ACK), NOT_OURS),
            self.begun("an index put to a new use does not inherit flows")
                .change(World::standard().without(server))
                .frame(answer(server, flag::ACK), NOT_OURS)
                .change(World::standard().server(reused))
                .frame(answer(reused, flag::ACK), NOT_OURS)
                .frame(data(listener), Expect::End)
                .frame(rst(listener), Expect::Drop(Reason::Reset))
                .frame(syn(listener), to(listener, reused, Flow::New))
                .frame(answer(reused, flag::ACK), back(listener, reused)),
            self.begun("the same server under a new generation is another one")
                .change(World::standard().server(Server { generation: 2, ..server }))
                .frame(answer(server, flag::ACK), NOT_OURS),
            Scenario::new("a flow that could not be sent is remembered nowhere else")
                .change(World::standard().server(Server { hop: UNRESOLVED, ..server }))
                .frame(syn(listener), Expect::Drop(Reason::NoNextHop))
                .change(World::standard())
                .frame(syn(listener), self.first(Flow::New))
                .frame(answer(server, flag::SYN | flag::ACK), back(listener, server)),
        ]
    }

    fn ends(self) -> Vec<Scenario> {
        let Self { listener, server, other } = self;
        vec![
            self.accepted("a SYN after both sides' FIN begins a new flow")
                .frame(fin(listener), self.first(Flow::Old))
                .frame(answer(server, flag::ACK | flag::FIN), back(listener, server))
                .frame(data(listener), self.first(Flow::Old))
                .change(self.moved())
                .frame(data(listener), self.first(Flow::Old))
                .frame(syn(listener), self.second(Flow::New))
                .frame(answer(other, flag::SYN | flag::ACK), back(listener, other)),
            self.accepted("a SYN after both sides' FIN begins a new flow with the same server")
                .frame(answer(server, flag::ACK | flag::FIN), back(listener, server))
                .frame(fin(listener), self.first(Flow::Old))
                .frame(syn(listener), self.first(Flow::New))
                .frame(answer(server, flag::SYN | flag::ACK), back(listener, server))
                .change(self.moved())
                .frame(syn(listener), self.first(Flow::Old)),
            self.begun("a SYN after the client's FIN alone stays")
                .frame(fin(listener), self.first(Flow::Old))
                .change(self.moved())
                .frame(syn(listener), self.first(Flow::Old)),
            self.accepted("a SYN after the server's FIN alone stays")
                .frame(answer(server, flag::ACK | flag::FIN), back(listener, server))
                .change(self.moved())
                .frame(syn(listener), self.first(Flow::Old)),
            self.begun("a SYN after the client's RST begins a new flow")
                .frame(rst(listener), self.first(Flow::Old))
                .change(self.moved())
                .frame(syn(listener), self.second(Flow::New)),
            self.begun("a SYN after the server's RST begins a new flow")
                .frame(answer(server, flag::RST), back(listener, server))
                .change(self.moved())
                .frame(syn(listener), self.second(Flow::New)),
            self.begun("a server that speaks to the client itself is let through once the flow has ended")
                .frame(rst(listener), self.first(Flow::Old))
                .frame(answer(server, flag::ACK), back(listener, server))
                .frame(answer(server, flag::SYN | flag::ACK), NOT_OURS)
                .frame(answer(server, flag::ACK), NOT_OURS)
                .frame(syn(listener), self.first(Flow::New))
                .frame(answer(server, flag::SYN | flag::ACK), back(listener, server)),
        ]
    }

    fn clock(self) -> Vec<Scenario> {
        let Self { listener, server, .. } = self;
        // The clock begins shortly before jiffies wrap around.
        let begun = |name: &str, at: u32| {
            let scenario = Scenario::new(name).host_only().clock(at);
            scenario.frame(syn(listener), self.first(Flow::New)).change(self.moved())
        };
        let mut cases = Vec::new();
        for at in [0, 7, u32::MAX - 10, u32::MAX - IDLE] {
            cases.extend([
                begun(&format!("silent for just as long as allowed, since {at}"), at)
                    .clock(at.wrapping_add(IDLE))
                    .frame(data(listener), self.first(Flow::Old)),
                begun(&format!("silent for too long, since {at}"), at)
                    .clock(at.wrapping_add(IDLE + 1))
                    .frame(data(listener), self.first(Flow::Old)),
                begun(&format!("silent for too long, and a SYN, since {at}"), at)
                    .clock(at.wrapping_add(IDLE + 1))
                    .frame(syn(listener), self.second(Flow::New)),
                begun(&format!("kept by the client's packets, since {at}"), at)
                    .clock(at.wrapping_add(IDLE))
                    .frame(data(listener), self.first(Flow::Old))
                    .clock(at.wrapping_add(IDLE).wrapping_add(IDLE))
                    .frame(data(listener), self.first(Flow::Old)),
                begun(&format!("kept by the server's packets, since {at}"), at)
                    .clock(at.wrapping_add(IDLE))
                    .frame(answer(server, flag::ACK), back(listener, server))
                    .clock(at.wrapping_add(IDLE).wrapping_add(IDLE))
                    .frame(data(listener), self.first(Flow::Old)),
            ]);
        }
        // The CPU of the other direction may already have stamped the entry with the next jiffy.
        cases.push(
            begun("seen in the future by another processor", 1000)
                .clock(999)
                .frame(data(listener), self.first(Flow::Old))
                .frame(syn(listener), self.first(Flow::Old)),
        );
        cases
    }
}

fn datagrams() -> Vec<Scenario> {
    let ask = |listener: Listener| udp(CLIENT4, listener.at, b"?").build();
    let reply = |server: Server| udp(server.at, CLIENT4, b"!").build();
    let moved = || World::standard().table(3, &[NAME4B]);
    vec![
        Scenario::new("UDP: a flow stays with its server when the table changes")
            .frame(ask(DNS4), to(DNS4, NAME4, Flow::New))
            .change(moved())
            .frame(ask(DNS4), to(DNS4, NAME4, Flow::Old))
            .frame(reply(NAME4), back(DNS4, NAME4)),
        Scenario::new("UDP: a flow of a dead server begins anew")
            .frame(ask(DNS4), to(DNS4, NAME4, Flow::New))
            .change(moved().flags(NAME4, 0))
            .frame(ask(DNS4), to(DNS4, NAME4B, Flow::New)),
        Scenario::new("UDP: a flow of a server without a next hop begins anew")
            .frame(ask(DNS4), to(DNS4, NAME4, Flow::New))
            .change(moved().unreached(NAME4))
            .frame(ask(DNS4), to(DNS4, NAME4B, Flow::New)),
        Scenario::new("UDP: a silent flow begins anew")
            .host_only()
            .frame(ask(DNS4), to(DNS4, NAME4, Flow::New))
            .change(moved())
            .clock(IDLE + 1)
            .frame(ask(DNS4), to(DNS4, NAME4B, Flow::New)),
        // As an NTP client that sends from port 123 to two servers, at intervals longer than the idle timeout.
        Scenario::new("UDP: two listeners in turn, the same server, long silences")
            .host_only()
            .frame(ask(DNS4), to(DNS4, NAME4, Flow::New))
            .frame(reply(NAME4), back(DNS4, NAME4))
            .clock(2 * IDLE)
            .frame(ask(DNS4_TWIN), to(DNS4_TWIN, NAME4, Flow::New))
            .frame(reply(NAME4), back(DNS4_TWIN, NAME4))
            .clock(4 * IDLE)
            .frame(ask(DNS4), to(DNS4, NAME4, Flow::New))
            .frame(reply(NAME4), back(DNS4, NAME4))
            .clock(6 * IDLE)
            .frame(ask(DNS4_TWIN), to(DNS4_TWIN, NAME4, Flow::New))
            .frame(reply(NAME4), back(DNS4_TWIN, NAME4)),
    ]
}

/// One client endpoint, several listeners. A flow whose answers bypass SLB causes no reverse-tuple conflict.
fn beside_dsr() -> Scenario {
    let tracked = |service: &mut Service| {
        service.mode = mode::DSR;
        service.policy = policy::TRACK;
    };
    Scenario::new("a flow whose answers go past SLB, and one of the same endpoints whose answers return")
        .in_world(World::standard().with(HTTP4, tracked))
        .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::New))
        .frame(data(HTTP4), to(HTTP4, WEB4, Flow::Old))
        .frame(syn(TWIN4), to(TWIN4, WEB4, Flow::New))
        .frame(answer(WEB4, flag::SYN | flag::ACK), back(TWIN4, WEB4))
        .frame(data(TWIN4), to(TWIN4, WEB4, Flow::Old))
        .frame(answer(WEB4, flag::ACK), back(TWIN4, WEB4))
        .frame(data(HTTP4), to(HTTP4, WEB4, Flow::Old))
}

fn several_services() -> Vec<Scenario> {
    let two = |name: &str| {
        Scenario::new(name)
            .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::New))
            .frame(syn(SECOND4), to(SECOND4, OTHER4, Flow::New))
    };
    let four = |name: &str| {
        two(name)
            .frame(syn(FOURTH4), to(FOURTH4, FOURTH, Flow::New))
            .frame(syn(STRAIGHT4), to(STRAIGHT4, STRAIGHT, Flow::New))
    };
    vec![
        two("two services of one client endpoint")
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(data(HTTP4), to(HTTP4, WEB4, Flow::Old))
            .frame(data(SECOND4), to(SECOND4, OTHER4, Flow::Old))
            .frame(answer(OTHER4, flag::RST), back(SECOND4, OTHER4))
            .frame(syn(SECOND4), to(SECOND4, OTHER4, Flow::New))
            .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::Old)),
        four("four services of one client endpoint")
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        four("a fifth service finds no place, and takes none from a live flow")
            .frame(syn(FIFTH4), Expect::Drop(Reason::ClientPortBusy))
            .frame(answer(FIFTH, flag::ACK), NOT_OURS)
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        four("a fifth service finds a place once one of them has ended")
            .frame(rst(FOURTH4), to(FOURTH4, FOURTH, Flow::Old))
            .frame(syn(FIFTH4), to(FIFTH4, FIFTH, Flow::New))
            .frame(answer(FIFTH, flag::ACK), back(FIFTH4, FIFTH))
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        four("a fifth service finds a place once one of them has been silent for too long")
            .host_only()
            .clock(100 * HZ)
            .frame(data(HTTP4), to(HTTP4, WEB4, Flow::Old))
            .frame(data(STRAIGHT4), to(STRAIGHT4, STRAIGHT, Flow::Old))
            .frame(data(FOURTH4), to(FOURTH4, FOURTH, Flow::Old))
            .clock(IDLE + HZ)
            .frame(syn(FIFTH4), to(FIFTH4, FIFTH, Flow::New))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        Scenario::new("two listeners, one server: answers could not be told apart")
            .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::New))
            .frame(syn(TWIN4), Expect::Drop(Reason::PortConflict))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(rst(HTTP4), to(HTTP4, WEB4, Flow::Old))
            .frame(syn(TWIN4), to(TWIN4, WEB4, Flow::New))
            .frame(answer(WEB4, flag::SYN | flag::ACK), back(TWIN4, WEB4))
            .frame(answer(WEB4, flag::ACK), back(TWIN4, WEB4))
            .frame(syn(HTTP4), Expect::Drop(Reason::PortConflict)),
        Scenario::new("two listeners, two servers: the other one takes the flow")
            .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::New))
            .change(World::standard().table(1, &[WEB4, OTHER4]))
            .frame(syn(TWIN4), to(TWIN4, OTHER4, Flow::New))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(TWIN4, OTHER4)),
        Scenario::new("two listeners, one server, in turn")
            .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::New))
            .frame(rst(HTTP4), to(HTTP4, WEB4, Flow::Old))
            .frame(syn(TWIN4), to(TWIN4, WEB4, Flow::New))
            .frame(rst(TWIN4), to(TWIN4, WEB4, Flow::Old))
            .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::New))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4)),
        Scenario::new("another client endpoint is no conflict")
            .frame(syn(HTTP4), to(HTTP4, WEB4, Flow::New))
            .frame(
                tcp(SocketAddr::new(CLIENT4.ip(), 40_001), TWIN4.at, flag::SYN).build(),
                to(TWIN4, WEB4, Flow::New),
            ),
    ]
}
