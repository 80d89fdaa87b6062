//! Migrating slots in modes without tracking in steady state: which server gets a packet, and which flows become
//! tracked.

use std::net::SocketAddr;

use slb_common::abi::{
    backend::Backend,
    service::{mode, policy},
    stats::Reason,
};

use crate::packets::{
    frames::{Frame, flag, tcp, udp},
    scenario::{Expect, FlowKind, Scenario},
    world::*,
};

const PREVIOUS: PacketServer = WEB4;
const CURRENT: PacketServer = OTHER4;

pub(super) fn cases() -> Vec<Scenario> {
    let mut cases = Vec::new();
    for (name, mode) in [("dsr", mode::DSR), ("ipip", mode::IPIP), ("gue", mode::GUE)] {
        let slots = SlotCase { mode };
        let named = |case: Scenario| Scenario { name: format!("{name}: {}", case.name), ..case };
        let all = slots.connections().into_iter().chain(slots.previous_backends()).chain(slots.datagrams());
        cases.extend(all.chain(slots.tracking()).chain(slots.full()).map(named));
    }
    cases.push(
        Scenario::new("nat: a mid-stream segment goes to the previous backend, a datagram begins a new flow")
            .in_world(
                PacketWorld::standard()
                    .table(1, &[CURRENT])
                    .with_previous_backend(1, PREVIOUS)
                    .table(3, &[NAME4B])
                    .with_previous_backend(3, NAME4),
            )
            .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
            .frame(send_from(1, flag::SYN), to(CURRENT, FlowKind::New))
            .frame(send_from(1, flag::ACK), to(CURRENT, FlowKind::Old))
            .frame(ask(0), Expect::ToServer(DNS4, NAME4B, FlowKind::New)),
    );
    cases
}

fn send(flags: u8) -> Frame {
    send_from(0, flags)
}

/// Each number is another flow.
fn send_from(number: u16, flags: u8) -> Frame {
    tcp(client(number), HTTP4.at, flags).build()
}

fn ask(number: u16) -> Frame {
    udp(client(number), DNS4.at, b"?").build()
}

fn client(number: u16) -> SocketAddr {
    SocketAddr::new(CLIENT4.ip(), CLIENT4.port() + number)
}

fn to(server: PacketServer, flow: FlowKind) -> Expect {
    Expect::ToServer(HTTP4, server, flow)
}

fn asked(server: PacketServer) -> Expect {
    // Untracked datagrams of old and new flows look alike, so none counts as new.
    Expect::ToServer(DNS4, server, FlowKind::Old)
}

#[derive(Clone, Copy)]
struct SlotCase {
    mode: u8,
}

impl SlotCase {
    /// No slot is migrating.
    fn quiet(self) -> PacketWorld {
        let change = |world: PacketWorld, listener| world.with(listener, |service| service.mode = self.mode);
        [HTTP4, DNS4].into_iter().fold(PacketWorld::standard(), change)
    }

    /// All slots are migrating.
    fn moved(self, previous_backend: PacketServer, current_backend: PacketServer) -> PacketWorld {
        self.quiet()
            .table(1, &[current_backend])
            .with_previous_backend(1, previous_backend)
            .table(3, &[NAME4B])
            .with_previous_backend(3, NAME4)
    }

    fn case(self, name: &str) -> Scenario {
        Scenario::new(name).in_world(self.moved(PREVIOUS, CURRENT))
    }

    fn connections(self) -> Vec<Scenario> {
        vec![
            self.case("a mid-stream segment goes to the previous backend and stays there")
                .frame(send(flag::ACK | flag::PSH), to(PREVIOUS, FlowKind::Old))
                .change(self.moved(FOURTH, CURRENT))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send_from(1, flag::ACK), to(FOURTH, FlowKind::Old)),
            self.case("a SYN goes to the current backend and its flow stays there")
                .frame(send(flag::SYN), to(CURRENT, FlowKind::New))
                .frame(send(flag::SYN), to(CURRENT, FlowKind::Old))
                .frame(send(flag::ACK | flag::PSH), to(CURRENT, FlowKind::Old))
                .change(self.moved(PREVIOUS, FOURTH))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send_from(2, flag::SYN), to(FOURTH, FlowKind::New)),
            self.case("a RST goes to the previous backend and is not tracked")
                .frame(send(flag::RST), to(PREVIOUS, FlowKind::Old))
                .change(self.moved(FOURTH, CURRENT))
                .frame(send(flag::ACK), to(FOURTH, FlowKind::Old)),
            self.case("a RST ends a tracked flow")
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send(flag::RST), to(PREVIOUS, FlowKind::Old))
                .frame(send(flag::SYN), to(CURRENT, FlowKind::New))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old)),
            self.case("a FIN is tracked")
                .frame(send(flag::ACK | flag::FIN), to(PREVIOUS, FlowKind::Old))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old)),
            self.case("flows are untracked if the previous backend is the current one")
                .change(self.moved(CURRENT, CURRENT))
                .frame(send(flag::SYN), to(CURRENT, FlowKind::New))
                .frame(send(flag::SYN), to(CURRENT, FlowKind::New))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old)),
            self.case("a flow begun before a slot migration stays with the previous backend")
                .in_world(self.quiet())
                .frame(send(flag::SYN), to(PREVIOUS, FlowKind::New))
                .change(self.moved(PREVIOUS, CURRENT))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old)),
        ]
    }

    fn previous_backends(self) -> Vec<Scenario> {
        let draining = || self.moved(PREVIOUS, CURRENT).flags(PREVIOUS, Backend::ALIVE);
        vec![
            self.case("a draining previous backend keeps its flows")
                .change(draining())
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send(flag::SYN), to(CURRENT, FlowKind::New))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old)),
            self.case("an unhealthy previous backend keeps its connections")
                .change(self.moved(PREVIOUS, CURRENT).flags(PREVIOUS, 0))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send_from(1, flag::SYN), to(CURRENT, FlowKind::New)),
            self.case("a removed previous backend loses its flows to the current one")
                .frame(send_from(1, flag::ACK), to(PREVIOUS, FlowKind::Old))
                .change(self.moved(PREVIOUS, CURRENT).without(PREVIOUS))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old))
                .frame(send_from(1, flag::ACK), to(CURRENT, FlowKind::Old)),
            self.case("an unhealthy current backend gets no flows, and those of the previous one go on")
                .change(self.moved(PREVIOUS, CURRENT).flags(CURRENT, 0))
                .frame(send(flag::SYN), Expect::Drop(Reason::NoServer))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old)),
        ]
    }

    fn datagrams(self) -> Vec<Scenario> {
        let follow = || self.moved(PREVIOUS, CURRENT).with(DNS4, |service| service.policy = policy::FOLLOW);
        let turned = || self.quiet().table(3, &[NAME4]).with_previous_backend(3, NAME4B);
        vec![
            self.case("untracked datagrams stay with the previous backend")
                .frame(ask(0), asked(NAME4))
                .change(turned())
                .frame(ask(0), asked(NAME4))
                .frame(ask(1), asked(NAME4B)),
            self.case("untracked datagrams follow the current backend")
                .change(follow())
                .frame(ask(0), asked(NAME4B))
                .change(turned().with(DNS4, |service| service.policy = policy::FOLLOW))
                .frame(ask(0), asked(NAME4B))
                .frame(ask(1), asked(NAME4)),
            self.case("datagrams leave an unhealthy previous backend")
                .frame(ask(0), asked(NAME4))
                .change(self.moved(PREVIOUS, CURRENT).flags(NAME4, 0))
                .frame(ask(0), asked(NAME4B))
                .frame(ask(1), asked(NAME4B))
                .change(self.moved(PREVIOUS, CURRENT))
                .frame(ask(0), asked(NAME4B)),
            self.case("datagrams leave a previous backend without a next hop, connections stay")
                .frame(ask(0), asked(NAME4))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
                .change(self.moved(PREVIOUS, CURRENT).without_next_hop(NAME4).without_next_hop(PREVIOUS))
                .frame(ask(0), asked(NAME4B))
                .frame(ask(1), asked(NAME4B))
                .frame(send(flag::ACK), Expect::Drop(Reason::NoNextHop))
                .change(self.moved(PREVIOUS, CURRENT))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old)),
            self.case("datagrams leave a removed previous backend")
                .change(self.moved(PREVIOUS, CURRENT).without(NAME4))
                .frame(ask(0), asked(NAME4B)),
        ]
    }

    fn tracking(self) -> Vec<Scenario> {
        let always = |world: PacketWorld| {
            [HTTP4, DNS4]
                .into_iter()
                .fold(world, |world, listener| world.with(listener, |service| service.policy = policy::TRACK))
        };
        let other = || always(self.quiet().table(1, &[CURRENT]).table(3, &[NAME4B]));
        vec![
            self.case("always tracked: flows stay although no slot migrates")
                .in_world(always(self.quiet()))
                .frame(send(flag::SYN), to(PREVIOUS, FlowKind::New))
                .frame(send(flag::SYN), to(PREVIOUS, FlowKind::Old))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(ask(0), asked(NAME4))
                .change(other())
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send_from(2, flag::ACK), to(CURRENT, FlowKind::Old))
                .frame(ask(0), asked(NAME4))
                .frame(ask(1), asked(NAME4B)),
            self.case("untracked: flows follow the server table")
                .in_world(self.quiet())
                .frame(send(flag::SYN), to(PREVIOUS, FlowKind::New))
                .change(self.quiet().table(1, &[CURRENT]))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old)),
            self.case("always tracked, with migrating slots")
                .change(always(self.moved(PREVIOUS, CURRENT)))
                .frame(send(flag::SYN), to(CURRENT, FlowKind::New))
                .frame(send_from(1, flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old)),
        ]
    }

    /// The flow table refuses new entries: a new flow must be found again without one.
    fn full(self) -> Vec<Scenario> {
        let draining = self.moved(PREVIOUS, CURRENT).flags(PREVIOUS, Backend::ALIVE);
        vec![
            self.case("full flow table: a SYN goes to the previous backend, as its later packets do")
                .host_only()
                .full()
                .frame(send(flag::SYN), to(PREVIOUS, FlowKind::New))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old))
                .frame(ask(0), asked(NAME4)),
            self.case("full flow table: a SYN is dropped if the previous backend takes no new flows")
                .host_only()
                .change(draining)
                .full()
                .frame(send(flag::SYN), Expect::Drop(Reason::FlowTableFull))
                .frame(send(flag::ACK), to(PREVIOUS, FlowKind::Old)),
            self.case("full flow table: a SYN is forwarded if the previous backend is the current one")
                .host_only()
                .change(self.moved(CURRENT, CURRENT).flags(CURRENT, Backend::ALIVE))
                .full()
                .frame(send(flag::SYN), to(CURRENT, FlowKind::New))
                .frame(send(flag::ACK), to(CURRENT, FlowKind::Old)),
        ]
    }
}
