//! Flow-table entries: what they keep, and for how long.

use std::net::SocketAddr;

use slb_common::abi::{
    backend::Backend,
    service::{Service, mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Frame, Segment, flag, segment, tcp, udp},
    icmp::IcmpCause,
    scenario::{CLIENT, Expect, FlowKind, Scenario},
    world::*,
};

const NOT_OURS: Expect = Expect::Pass(Reason::NotOurs);

fn to(listener: PacketListener, server: PacketServer, flow: FlowKind) -> Expect {
    Expect::ToServer(listener, server, flow)
}

fn back(listener: PacketListener, server: PacketServer) -> Expect {
    Expect::ToClient(listener, server, CLIENT)
}

fn syn(listener: PacketListener) -> Frame {
    tcp(client_of(listener), listener.at, flag::SYN).build()
}

fn data(listener: PacketListener) -> Frame {
    tcp(client_of(listener), listener.at, flag::ACK | flag::PSH).build()
}

fn fin(listener: PacketListener) -> Frame {
    tcp(client_of(listener), listener.at, flag::ACK | flag::FIN).build()
}

fn rst(listener: PacketListener) -> Frame {
    tcp(client_of(listener), listener.at, flag::RST).build()
}

fn answer(server: PacketServer, flags: u8) -> Frame {
    tcp(server.at, if server.at.is_ipv4() { CLIENT4 } else { CLIENT6 }, flags).build()
}

fn client_of(listener: PacketListener) -> SocketAddr {
    if listener.at.is_ipv4() { CLIENT4 } else { CLIENT6 }
}

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (family, listener, server, other) in [("IPv4", HTTP4, WEB4, OTHER4), ("IPv6", HTTP6, WEB6, OTHER6)] {
        let pair = FlowCase { listener, server, other };
        let named =
            |scenario: Scenario| Scenario { name: format!("{family}: {}", scenario.name), ..scenario };
        cases.extend(pair.stickiness().into_iter().chain(pair.ends()).chain(pair.clock()).map(named));
    }
    cases.extend(datagrams());
    cases.extend(several_services());
    cases.push(ended_fifth());
    cases.push(too_big_segment());
    cases.push(beside_dsr());
    cases
}

/// A listener, its server at first, and the server that its table names later.
#[derive(Clone, Copy)]
struct FlowCase {
    listener: PacketListener,
    server: PacketServer,
    other: PacketServer,
}

impl FlowCase {
    fn begun(self, name: &str) -> Scenario {
        Scenario::new(name).frame(syn(self.listener), self.first(FlowKind::New))
    }

    fn accepted(self, name: &str) -> Scenario {
        self.begun(name).frame(answer(self.server, flag::SYN | flag::ACK), back(self.listener, self.server))
    }

    fn first(self, flow: FlowKind) -> Expect {
        to(self.listener, self.server, flow)
    }

    fn second(self, flow: FlowKind) -> Expect {
        to(self.listener, self.other, flow)
    }

    /// The table names the other server.
    fn moved(self) -> PacketWorld {
        PacketWorld::standard().table(self.listener.table.expect("a listener with servers"), &[self.other])
    }

    fn stickiness(self) -> Vec<Scenario> {
        let Self { listener, server, other } = self;
        let dead = || self.moved().flags(server, 0);
        let draining = || self.moved().flags(server, Backend::ALIVE);
        let reused = PacketServer { generation: 2, ..other };
        let reused = PacketServer { id: server.id, ..reused };
        vec![
            self.begun("a flow stays with its server when the table changes")
                .change(self.moved())
                .frame(data(listener), self.first(FlowKind::Old))
                .frame(syn(listener), self.first(FlowKind::Old))
                .frame(answer(server, flag::ACK), back(listener, server)),
            self.begun("a connection stays with a server that fails its checks")
                .change(dead())
                .frame(data(listener), self.first(FlowKind::Old))
                .frame(answer(server, flag::ACK), back(listener, server))
                .change(PacketWorld::standard())
                .frame(data(listener), self.first(FlowKind::Old)),
            self.begun("a SYN on a flow of an unhealthy server begins a new one")
                .change(dead())
                .frame(syn(listener), self.second(FlowKind::New))
                .frame(answer(other, flag::SYN | flag::ACK), back(listener, other))
                .change(self.moved())
                .frame(data(listener), self.second(FlowKind::Old)),
            self.begun("a SYN on a flow of an unhealthy server is dropped without another server")
                .change(PacketWorld::standard().table(listener.table.unwrap_or(0), &[]).flags(server, 0))
                .frame(syn(listener), Expect::Drop(Reason::NoServer))
                .change(PacketWorld::standard())
                .frame(data(listener), self.first(FlowKind::Old)),
            self.begun("a server of weight 0 keeps its flows and gets no new ones")
                .change(draining())
                .frame(data(listener), self.first(FlowKind::Old))
                .frame(answer(server, flag::ACK), back(listener, server))
                .frame(
                    tcp(client_of(listener), listener.at, flag::SYN | flag::ACK).build(),
                    self.first(FlowKind::Old),
                )
                .frame(fin(listener), self.first(FlowKind::Old)),
            self.begun("a SYN on a flow of a server of weight 0 begins a new one")
                .change(draining())
                .frame(syn(listener), self.second(FlowKind::New))
                .frame(data(listener), self.second(FlowKind::Old))
                .frame(answer(server, flag::ACK), NOT_OURS),
            self.begun("a reused server id does not inherit flows")
                .change(PacketWorld::standard().without(server))
                .frame(answer(server, flag::ACK), NOT_OURS)
                .change(PacketWorld::standard().server(reused))
                .frame(answer(reused, flag::ACK), NOT_OURS)
                .frame(data(listener), Expect::End)
                .frame(rst(listener), Expect::Drop(Reason::Reset))
                .frame(syn(listener), to(listener, reused, FlowKind::New))
                .frame(answer(reused, flag::ACK), back(listener, reused)),
            self.begun("a server with a new generation does not inherit flows")
                .change(PacketWorld::standard().server(PacketServer { generation: 2, ..server }))
                .frame(answer(server, flag::ACK), NOT_OURS),
            Scenario::new("a SYN dropped without a next hop leaves no flow")
                .change(PacketWorld::standard().server(PacketServer { hop: UNRESOLVED, ..server }))
                .frame(syn(listener), Expect::Drop(Reason::NoNextHop))
                .change(PacketWorld::standard())
                .frame(syn(listener), self.first(FlowKind::New))
                .frame(answer(server, flag::SYN | flag::ACK), back(listener, server)),
        ]
    }

    fn ends(self) -> Vec<Scenario> {
        let Self { listener, server, other } = self;
        vec![
            self.accepted("a SYN after both sides' FIN begins a new flow")
                .frame(fin(listener), self.first(FlowKind::Old))
                .frame(answer(server, flag::ACK | flag::FIN), back(listener, server))
                .frame(data(listener), self.first(FlowKind::Old))
                .change(self.moved())
                .frame(data(listener), self.first(FlowKind::Old))
                .frame(syn(listener), self.second(FlowKind::New))
                .frame(answer(other, flag::SYN | flag::ACK), back(listener, other)),
            self.accepted("a SYN after both sides' FIN begins a new flow with the same server")
                .frame(answer(server, flag::ACK | flag::FIN), back(listener, server))
                .frame(fin(listener), self.first(FlowKind::Old))
                .frame(syn(listener), self.first(FlowKind::New))
                .frame(answer(server, flag::SYN | flag::ACK), back(listener, server))
                .change(self.moved())
                .frame(syn(listener), self.first(FlowKind::Old)),
            self.begun("a SYN after the client's FIN alone stays with the server")
                .frame(fin(listener), self.first(FlowKind::Old))
                .change(self.moved())
                .frame(syn(listener), self.first(FlowKind::Old)),
            self.accepted("a SYN after the server's FIN alone stays with the server")
                .frame(answer(server, flag::ACK | flag::FIN), back(listener, server))
                .change(self.moved())
                .frame(syn(listener), self.first(FlowKind::Old)),
            self.begun("a SYN after the client's RST begins a new flow")
                .frame(rst(listener), self.first(FlowKind::Old))
                .change(self.moved())
                .frame(syn(listener), self.second(FlowKind::New)),
            self.begun("a SYN after the server's RST begins a new flow")
                .frame(answer(server, flag::RST), back(listener, server))
                .change(self.moved())
                .frame(syn(listener), self.second(FlowKind::New)),
            self.begun("a server's own connection to the client passes once the flow has ended")
                .frame(rst(listener), self.first(FlowKind::Old))
                .frame(answer(server, flag::ACK), back(listener, server))
                .frame(answer(server, flag::SYN | flag::ACK), NOT_OURS)
                .frame(answer(server, flag::ACK), NOT_OURS)
                .frame(syn(listener), self.first(FlowKind::New))
                .frame(answer(server, flag::SYN | flag::ACK), back(listener, server)),
        ]
    }

    fn clock(self) -> Vec<Scenario> {
        let Self { listener, server, .. } = self;
        // The clock begins shortly before jiffies wrap around.
        let begun = |name: &str, at: u32| {
            let scenario = Scenario::new(name).host_only().clock(at);
            scenario.frame(syn(listener), self.first(FlowKind::New)).change(self.moved())
        };
        let mut cases = Vec::new();
        for at in [0, 7, u32::MAX - 10, u32::MAX - IDLE] {
            cases.extend([
                begun(&format!("idle for exactly the timeout: the flow stays, from jiffy {at}"), at)
                    .clock(at.wrapping_add(IDLE))
                    .frame(data(listener), self.first(FlowKind::Old)),
                begun(&format!("idle beyond the timeout: data finds the flow, from jiffy {at}"), at)
                    .clock(at.wrapping_add(IDLE + 1))
                    .frame(data(listener), self.first(FlowKind::Old)),
                begun(&format!("idle beyond the timeout: a SYN begins a new flow, from jiffy {at}"), at)
                    .clock(at.wrapping_add(IDLE + 1))
                    .frame(syn(listener), self.second(FlowKind::New)),
                begun(&format!("the client's packets restart the idle timeout, from jiffy {at}"), at)
                    .clock(at.wrapping_add(IDLE))
                    .frame(data(listener), self.first(FlowKind::Old))
                    .clock(at.wrapping_add(IDLE).wrapping_add(IDLE))
                    .frame(data(listener), self.first(FlowKind::Old)),
                begun(&format!("the server's packets restart the idle timeout, from jiffy {at}"), at)
                    .clock(at.wrapping_add(IDLE))
                    .frame(answer(server, flag::ACK), back(listener, server))
                    .clock(at.wrapping_add(IDLE).wrapping_add(IDLE))
                    .frame(data(listener), self.first(FlowKind::Old)),
            ]);
        }
        // The CPU of the other direction may already have stamped the entry with the next jiffy.
        cases.push(
            begun("an entry with another CPU's later timestamp is live", 1000)
                .clock(999)
                .frame(data(listener), self.first(FlowKind::Old))
                .frame(syn(listener), self.first(FlowKind::Old)),
        );
        cases
    }
}

fn datagrams() -> Vec<Scenario> {
    let ask = |listener: PacketListener| udp(CLIENT4, listener.at, b"?").build();
    let reply = |server: PacketServer| udp(server.at, CLIENT4, b"!").build();
    let moved = || PacketWorld::standard().table(3, &[NAME4B]);
    vec![
        Scenario::new("UDP: a flow stays with its server when the table changes")
            .frame(ask(DNS4), to(DNS4, NAME4, FlowKind::New))
            .change(moved())
            .frame(ask(DNS4), to(DNS4, NAME4, FlowKind::Old))
            .frame(reply(NAME4), back(DNS4, NAME4)),
        Scenario::new("UDP: a flow of an unhealthy server begins anew")
            .frame(ask(DNS4), to(DNS4, NAME4, FlowKind::New))
            .change(moved().flags(NAME4, 0))
            .frame(ask(DNS4), to(DNS4, NAME4B, FlowKind::New)),
        Scenario::new("UDP: a flow of a server without a next hop begins anew")
            .frame(ask(DNS4), to(DNS4, NAME4, FlowKind::New))
            .change(moved().without_next_hop(NAME4))
            .frame(ask(DNS4), to(DNS4, NAME4B, FlowKind::New)),
        Scenario::new("UDP: an idle flow begins anew")
            .host_only()
            .frame(ask(DNS4), to(DNS4, NAME4, FlowKind::New))
            .change(moved())
            .clock(IDLE + 1)
            .frame(ask(DNS4), to(DNS4, NAME4B, FlowKind::New)),
        // As an NTP client that sends from port 123 to two servers, at intervals longer than the idle timeout.
        Scenario::new("UDP: two listeners alternate on one server beyond the idle timeout")
            .host_only()
            .frame(ask(DNS4), to(DNS4, NAME4, FlowKind::New))
            .frame(reply(NAME4), back(DNS4, NAME4))
            .clock(2 * IDLE)
            .frame(ask(DNS4_TWIN), to(DNS4_TWIN, NAME4, FlowKind::New))
            .frame(reply(NAME4), back(DNS4_TWIN, NAME4))
            .clock(4 * IDLE)
            .frame(ask(DNS4), to(DNS4, NAME4, FlowKind::New))
            .frame(reply(NAME4), back(DNS4, NAME4))
            .clock(6 * IDLE)
            .frame(ask(DNS4_TWIN), to(DNS4_TWIN, NAME4, FlowKind::New))
            .frame(reply(NAME4), back(DNS4_TWIN, NAME4)),
    ]
}

/// One client endpoint, several listeners. A flow whose answers bypass SLB causes no reverse-tuple conflict.
fn beside_dsr() -> Scenario {
    let tracked = |service: &mut Service| {
        service.mode = mode::DSR;
        service.policy = policy::TRACK;
    };
    Scenario::new("dsr and nat flows of the same endpoints do not conflict")
        .in_world(PacketWorld::standard().with(HTTP4, tracked))
        .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::New))
        .frame(data(HTTP4), to(HTTP4, WEB4, FlowKind::Old))
        .frame(syn(TWIN4), to(TWIN4, WEB4, FlowKind::New))
        .frame(answer(WEB4, flag::SYN | flag::ACK), back(TWIN4, WEB4))
        .frame(data(TWIN4), to(TWIN4, WEB4, FlowKind::Old))
        .frame(answer(WEB4, flag::ACK), back(TWIN4, WEB4))
        .frame(data(HTTP4), to(HTTP4, WEB4, FlowKind::Old))
}

/// A client endpoint has flows by two listeners.
fn two(name: &str) -> Scenario {
    Scenario::new(name)
        .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::New))
        .frame(syn(SECOND4), to(SECOND4, OTHER4, FlowKind::New))
}

/// A client endpoint has flows by four listeners.
fn four(name: &str) -> Scenario {
    two(name)
        .frame(syn(FOURTH4), to(FOURTH4, FOURTH, FlowKind::New))
        .frame(syn(STRAIGHT4), to(STRAIGHT4, STRAIGHT, FlowKind::New))
}

/// An ended entry of its own listener does not let a client endpoint have a fifth live flow.
fn ended_fifth() -> Scenario {
    four("a finished flow of a client endpoint with four live ones does not begin anew")
        .frame(answer(OTHER4, flag::RST), back(SECOND4, OTHER4))
        .frame(syn(FIFTH4), to(FIFTH4, FIFTH, FlowKind::New))
        .frame(syn(SECOND4), Expect::Drop(Reason::ClientPortBusy))
        .frame(data(FIFTH4), to(FIFTH4, FIFTH, FlowKind::Old))
}

/// The fast path declines it; the slow path must find the flow as it was.
fn too_big_segment() -> Scenario {
    let of = |from, to, flags, sequence, acknowledgement, payload| {
        segment(from, to, Segment { flags, sequence, acknowledgement, payload }).build()
    };
    let asks = |flags, sequence, payload| of(CLIENT4, HTTP4.at, flags, sequence, 5001, payload);
    let accepts = || of(WEB4.at, CLIENT4, flag::SYN | flag::ACK, 5000, 1001, &[]);
    let to_server = |flow| Expect::ToServer(HTTP4, WEB4, flow);
    Scenario::new("a segment that is too big changes its flow once")
        .frame(asks(flag::SYN, 1000, &[]), to_server(FlowKind::New))
        .frame(accepts(), back(HTTP4, WEB4))
        // Makes the flow assured. The next segment would advance its numbers.
        .frame(asks(flag::ACK, 1001 + 16_383, &[0; 1500]), Expect::IcmpError(IcmpCause::TooBig(1500)))
        .frame(asks(flag::RST, 1001, &[]), to_server(FlowKind::Old))
        .frame(accepts(), NOT_OURS)
}

fn several_services() -> Vec<Scenario> {
    vec![
        two("replies of two services to one client endpoint come from the VIP of each")
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(data(HTTP4), to(HTTP4, WEB4, FlowKind::Old))
            .frame(data(SECOND4), to(SECOND4, OTHER4, FlowKind::Old))
            .frame(answer(OTHER4, flag::RST), back(SECOND4, OTHER4))
            .frame(syn(SECOND4), to(SECOND4, OTHER4, FlowKind::New))
            .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::Old)),
        four("replies of four services to one client endpoint come from the VIP of each")
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        four("a fifth service of one client endpoint is dropped and evicts no live flow")
            .frame(syn(FIFTH4), Expect::Drop(Reason::ClientPortBusy))
            .frame(answer(FIFTH, flag::ACK), NOT_OURS)
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        four("a fifth service of one client endpoint replaces a finished flow")
            .frame(rst(FOURTH4), to(FOURTH4, FOURTH, FlowKind::Old))
            .frame(syn(FIFTH4), to(FIFTH4, FIFTH, FlowKind::New))
            .frame(answer(FIFTH, flag::ACK), back(FIFTH4, FIFTH))
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        four("a fifth service of one client endpoint replaces an idle flow")
            .host_only()
            .clock(100 * HZ)
            .frame(data(HTTP4), to(HTTP4, WEB4, FlowKind::Old))
            .frame(data(STRAIGHT4), to(STRAIGHT4, STRAIGHT, FlowKind::Old))
            .frame(data(FOURTH4), to(FOURTH4, FOURTH, FlowKind::Old))
            .clock(IDLE + HZ)
            .frame(syn(FIFTH4), to(FIFTH4, FIFTH, FlowKind::New))
            .frame(answer(OTHER4, flag::ACK), back(SECOND4, OTHER4))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(FOURTH, flag::ACK), back(FOURTH4, FOURTH))
            .frame(answer(STRAIGHT, flag::ACK), back(STRAIGHT4, STRAIGHT)),
        Scenario::new("two listeners, one server: a reverse-tuple conflict is dropped")
            .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::New))
            .frame(syn(TWIN4), Expect::Drop(Reason::PortConflict))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(rst(HTTP4), to(HTTP4, WEB4, FlowKind::Old))
            .frame(syn(TWIN4), to(TWIN4, WEB4, FlowKind::New))
            .frame(answer(WEB4, flag::SYN | flag::ACK), back(TWIN4, WEB4))
            .frame(answer(WEB4, flag::ACK), back(TWIN4, WEB4))
            .frame(syn(HTTP4), Expect::Drop(Reason::PortConflict)),
        Scenario::new("two listeners, two servers: a reverse-tuple conflict goes to the other server")
            .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::New))
            .change(PacketWorld::standard().table(1, &[WEB4, OTHER4]))
            .frame(syn(TWIN4), to(TWIN4, OTHER4, FlowKind::New))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4))
            .frame(answer(OTHER4, flag::ACK), back(TWIN4, OTHER4)),
        Scenario::new("two listeners, one server: a finished flow causes no conflict")
            .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::New))
            .frame(rst(HTTP4), to(HTTP4, WEB4, FlowKind::Old))
            .frame(syn(TWIN4), to(TWIN4, WEB4, FlowKind::New))
            .frame(rst(TWIN4), to(TWIN4, WEB4, FlowKind::Old))
            .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::New))
            .frame(answer(WEB4, flag::ACK), back(HTTP4, WEB4)),
        Scenario::new("another client endpoint causes no reverse-tuple conflict")
            .frame(syn(HTTP4), to(HTTP4, WEB4, FlowKind::New))
            .frame(
                tcp(SocketAddr::new(CLIENT4.ip(), 40_001), TWIN4.at, flag::SYN).build(),
                to(TWIN4, WEB4, FlowKind::New),
            ),
    ]
}
